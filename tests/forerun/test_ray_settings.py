"""The file of `forerun fleet ray`: what is wrong in it is told with its line, before anything is started."""

from pathlib import Path

import pytest

from forerun.ray_fleet.settings import RayFleetSettings
from speculation.errors import ConfigurationError

FLEET = """
redis: redis://10.0.0.9:6379
workers:
  target: {worker: verify --model /models/target --device cuda:0 --tls-cert a --tls-key b --tls-client-ca c, gpus: 1}
  code: {worker: draft --model zoo:code, replicas: 2, resources: {small: 0.5}}
"""


def load(folder: Path, text: str) -> RayFleetSettings:
    """The settings of a file that says this."""
    file = folder / "fleet.yaml"
    file.write_text(text)
    return RayFleetSettings.load(file)


def test_a_worker_needs_a_processor_unless_it_is_said_what_it_needs(tmp_path: Path) -> None:
    workers = load(tmp_path, FLEET).workers

    assert workers["target"].needs == {"CPU": 1, "GPU": 1}
    assert workers["code"].needs == {"CPU": 1, "small": 0.5}


@pytest.mark.parametrize(
    ("line", "told"),
    [
        pytest.param("code: {worker: draft}", "--model", id="no model"),
        pytest.param("code: {worker: draft --model m --slotz 3}", "unrecognized arguments", id="unknown option"),
        pytest.param("code: {worker: draft --model m --slots 0}", "slots: 0 is not positive", id="wrong value"),
        pytest.param("code: {worker: guess --model m}", "invalid choice: 'guess'", id="no such role"),
        pytest.param("code: {worker: draft --model 'm}", "is no command line", id="open quote"),
        pytest.param("code: {worker: draft --model m --name x}", "name is not to be said here", id="name"),
        pytest.param("code: {worker: draft --model m --redis unix:///r}", "redis_url is not", id="redis"),
        pytest.param("code: {worker: draft --model m --listen 127.0.0.1:1}", "listen is not", id="listen"),
        pytest.param("code: {worker: draft --model m, cpus: -1}", "greater than or equal to 0", id="cpus"),
        pytest.param("code: {worker: draft --model m, gpu: 1}", "there is no such field", id="unknown field"),
        pytest.param("a b: {worker: draft --model m}", "must be 1 to 64 letters", id="name of a worker"),
    ],
)
def test_a_wrong_worker_is_told_with_its_line(tmp_path: Path, line: str, told: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        load(tmp_path, f"redis: unix:///run/redis.sock\nworkers:\n  {line}\n")

    assert told in str(refused.value)
    assert "fleet.yaml:3" in str(refused.value)


@pytest.mark.parametrize(
    "text", ["workers: {}\nredis: redis://a", "redis: embedded://x\nworkers: {a: {worker: draft --model m}}"]
)
def test_a_fleet_needs_workers_and_a_redis_that_others_reach(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigurationError):
        load(tmp_path, text)
