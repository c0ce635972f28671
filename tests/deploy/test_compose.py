"""deploy/compose.yaml keeps to the specification and to our own rules. No daemon has run it: see docs/deployment.md."""

import json
import re
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from controller.settings import Settings
from tests.deploy.deployed import DEPLOY, ENTRIES_A_GIB, documents, gib, redis_gib, worker_settings

(COMPOSE,) = documents(DEPLOY / "compose.yaml")
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
WORKERS = [name for name, service in SERVICES.items() if service["image"] == "forerun-worker"]
CONTROLLER = Settings.load(DEPLOY / "compose/controller.yaml")


def seconds(text: str) -> float:
    """A duration such as 45s."""
    return float(text.removesuffix("s"))


def test_it_is_what_the_specification_allows() -> None:
    schemas = resources.files("check_jsonschema") / "builtin_schemas/vendor"
    schema = json.loads((schemas / "compose-spec.json").read_text())

    jsonschema.Draft7Validator(schema).validate(COMPOSE)


def test_nothing_is_published_beyond_the_loopback() -> None:
    published = [port for service in SERVICES.values() for port in service.get("ports", ())]

    assert published, "callers need a way in"
    assert all(re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port) for port in published)


def test_workers_and_redis_are_where_nobody_gets_in_or_out() -> None:
    assert COMPOSE["networks"]["fleet"]["internal"]

    for name in (*WORKERS, "redis"):
        assert SERVICES[name]["networks"] == ["fleet"], name


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_can_do_little_and_take_only_so_much(name: str) -> None:
    service = SERVICES[name]

    assert service["read_only"]
    assert service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]
    assert "mem_limit" in service
    assert service["restart"] == "unless-stopped"
    assert not service.get("privileged", False)


def test_the_controllers_file_is_in_order_and_listens_where_it_is_published() -> None:
    (port,) = SERVICES["controller"]["ports"]

    assert CONTROLLER.listen == f"0.0.0.0:{port.rpartition(':')[2]}"
    assert CONTROLLER.redis is not None
    assert CONTROLLER.redis.url == "redis://redis:6379"


@pytest.mark.parametrize("name", WORKERS)
def test_a_worker_announces_itself_by_its_own_name_where_its_probe_asks(name: str) -> None:
    settings = worker_settings(SERVICES[name]["command"])

    assert settings.advertise == f"{name}:50061"
    assert settings.listen == "0.0.0.0:50061"
    assert CONTROLLER.redis is not None
    assert (settings.redis_url, settings.namespace) == (CONTROLLER.redis.url, CONTROLLER.redis.namespace)


def test_there_is_a_target_and_two_drafters_of_different_names() -> None:
    settings = [worker_settings(SERVICES[name]["command"]) for name in WORKERS]

    assert sorted(one.role for one in settings) == ["draft", "draft", "verify"]
    assert len({one.name for one in settings}) == 3


def test_the_log_fits_into_redis_and_redis_into_its_limit() -> None:
    """A full Redis refuses the announcements of workers, too."""
    assert CONTROLLER.redis is not None
    room = redis_gib(SERVICES["redis"]["command"])

    assert CONTROLLER.redis.kept_entries <= room * ENTRIES_A_GIB
    assert room * 1.25 < gib(SERVICES["redis"]["mem_limit"])


def test_prometheus_asks_every_process_of_ours() -> None:
    (prometheus,) = documents(DEPLOY / "compose/prometheus.yaml")
    jobs = {job["job_name"]: job["static_configs"][0]["targets"] for job in prometheus["scrape_configs"]}

    assert {job: [target.partition(":")[0] for target in targets] for job, targets in jobs.items()} == {
        "forerun-controller": ["controller"],
        "forerun-worker": WORKERS,
    }


def test_nobody_is_killed_who_would_end_by_himself() -> None:
    assert seconds(SERVICES["controller"]["stop_grace_period"]) > CONTROLLER.timeouts.drain_grace_s + 5
    for name in WORKERS:
        assert seconds(SERVICES[name]["stop_grace_period"]) > worker_settings(SERVICES[name]["command"]).grace_s + 5


def test_models_and_settings_that_it_mounts_are_there() -> None:
    folder = Path(__file__).parents[2] / "zoo/models"
    named = [worker_settings(SERVICES[name]["command"]).model for name in WORKERS] + [CONTROLLER.tokenizer]

    assert all((folder / Path(model).name / "config.json").is_file() for model in named)
    assert all(Path(model).parent == Path("/models") for model in named)
