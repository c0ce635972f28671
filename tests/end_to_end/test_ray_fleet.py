"""`forerun fleet ray` on a Ray cluster of three machines, one of which is lost under load: every text stays the same.

The machines are Ray's own processes on this one (ray.cluster_utils); `make test-ray` installs Ray and runs this.
"""

import asyncio
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import pytest
import yaml

from forerun.client import AsyncClient, Generation, RouterClient, WorkerHealth
from forerun.workload import Task, tasks
from tests.end_to_end.processes import Process, RedisServer, eventually, free_address, redis_server
from zoo.catalog import model_folder

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed: make test-ray"),
]

FORERUN = (sys.executable, "-P", "-m", "forerun")
ENVIRONMENT = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
"""By the second one Ray takes the loopback for the address of this machine, whatever the machine."""

TARGET = {"worker": f"verify --model {model_folder('target')}", "cpus": 0, "resources": {"large": 1}}
CODE = {"worker": "draft --model zoo:code"}
TOKENS = 48


@dataclass(frozen=True)
class Cluster:
    """Three machines."""

    address: str
    head: str
    orders: IO[str]
    said: IO[str]

    def remove(self, node: str) -> None:
        """Take a machine away, as if its power had failed."""
        self.orders.write(f"{node}\n")
        self.orders.flush()
        assert json.loads(self.said.readline()) == {"removed": node}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    said = tmp_path_factory.mktemp("ray") / "stderr"
    with said.open("w") as stderr:
        process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("ray_cluster.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            env=ENVIRONMENT,
        )
    assert process.stdin is not None
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, said.read_text()
    yield Cluster(**json.loads(line), orders=process.stdin, said=process.stdout)
    process.stdin.close()
    process.wait(120)
    process.stdout.close()


def fleet_command(file: Path, *options: str) -> dict[str, Any]:
    """What `forerun fleet ray FILE --json` says."""
    done = subprocess.run(
        [*FORERUN, "fleet", "ray", str(file), "--json", *options],
        capture_output=True,
        text=True,
        check=False,
        env=ENVIRONMENT,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    said: dict[str, Any] = json.loads(done.stdout)
    return said


def refusal(file: Path, *, status: int = 1) -> str:
    """What it says on stderr where it cannot; the exit status is 2 where the file is to blame."""
    done = subprocess.run(
        [*FORERUN, "fleet", "ray", str(file)], capture_output=True, text=True, check=False, env=ENVIRONMENT, timeout=300
    )
    assert (done.returncode, len(done.stderr.splitlines())) == (status, 1), done.stderr
    return done.stderr


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    with redis_server(tmp_path) as server:
        yield server


def file_of(folder: Path, cluster: Cluster, redis: RedisServer, workers: Mapping[str, Any]) -> Path:
    """A fleet's file."""
    told = {"address": cluster.address, "redis": redis.url, "log_folder": str(folder / "logs"), "workers": workers}
    file = folder / "fleet.yaml"
    file.write_text(yaml.safe_dump(told))
    return file


@contextmanager
def controller(folder: Path, redis: RedisServer) -> Iterator[str]:
    """The address of one that looks for its workers there."""
    settings = {"listen": free_address(), "tokenizer": str(model_folder("target")), "redis": {"url": redis.url}}
    config = folder / "controller.yaml"
    config.write_text(yaml.safe_dump(settings))
    process = Process("controller", ("controller", "--config", str(config)))
    try:
        process.await_ready()
        yield process.address
    finally:
        process.end()


async def generate(client: AsyncClient, task: Task, policy: str) -> Generation:
    options: Any = {"temperature": 0.8, "seed": task.number, "policy": policy}
    return await client.generate(task.prompt, max_new_tokens=TOKENS, **options)


async def under_load(address: str, work: Sequence[Task], lose: Callable[[], None]) -> list[tuple[Task, Generation]]:
    """Every answer of eight callers, one of whose machines is lost meanwhile; they go on until it is back."""
    async with AsyncClient(address, timeout_s=300) as client:
        done: list[tuple[Task, Generation]] = []
        begun, back = asyncio.Event(), asyncio.Event()

        async def call(turn: int) -> None:
            while not back.is_set():
                task = work[turn % len(work)]
                done.append((task, await generate(client, task, "planner")))
                begun.set()
                turn += 1

        async def break_and_wait() -> None:
            await begun.wait()
            try:
                await asyncio.to_thread(lose)
            finally:
                back.set()

        async with asyncio.TaskGroup() as group:
            for turn in range(8):
                group.create_task(call(turn))
            group.create_task(break_and_wait())
        return done


def serving(address: str) -> set[str]:
    """Addresses of the workers that the controller finds well."""
    with RouterClient(address) as router:
        return {worker.address for worker in router.show().workers if worker.health is WorkerHealth.SERVING}


async def plain_answers(address: str, work: Sequence[Task]) -> dict[Task, Generation]:
    async with AsyncClient(address, timeout_s=300) as client:
        return {task: await generate(client, task, "none") for task in work}


def test_a_machine_is_lost_under_load_and_no_text_differs(cluster: Cluster, redis: RedisServer, tmp_path: Path) -> None:
    workers = {"target": TARGET | {"replicas": 2}, "code": CODE, "mixed": {"worker": "draft --model zoo:mixed"}}
    file = file_of(tmp_path, cluster, redis, workers)
    names = ["code", "mixed", "target", "target"]
    work = tasks(("code", "hybrid"), 4)

    started = fleet_command(file)["workers"]
    first, second = (worker for worker in started if worker["name"] == "target")
    lost = first if first["node"] != cluster.head else second
    with controller(tmp_path, redis) as address:
        eventually(lambda: serving(address) == {worker["address"] for worker in started}, within_s=60)
        expected = asyncio.run(plain_answers(address, work))

        def lose() -> None:
            cluster.remove(lost["node"])
            eventually(lambda: len(serving(address) - {lost["address"]}) == len(names), within_s=300)

        answers = asyncio.run(under_load(address, work, lose))
    now = fleet_command(file)["workers"]

    assert first["node"] != second["node"], "each machine has room for one target"
    assert len(answers) >= 16
    assert [task.number for task, answer in answers if answer.token_ids != expected[task].token_ids] == []
    assert lost["node"] not in {worker["node"] for worker in now}
    assert sorted(worker["name"] for worker in now) == names
    assert fleet_command(file, "--stop") == {"stopped": ["code-0", "mixed-0", "target-0", "target-1"]}


def test_the_fleet_becomes_what_the_file_says(cluster: Cluster, redis: RedisServer, tmp_path: Path) -> None:
    first = fleet_command(file_of(tmp_path, cluster, redis, {"target": TARGET, "code": CODE}))["workers"]
    again = fleet_command(tmp_path / "fleet.yaml")["workers"]
    changed = {"worker": f"{CODE['worker']} --slots 4"}
    second = fleet_command(file_of(tmp_path, cluster, redis, {"target": TARGET, "code": changed}))["workers"]
    third = fleet_command(file_of(tmp_path, cluster, redis, {"code": changed}))["workers"]

    assert again == first, "what is right is left alone"
    assert [worker for worker in second if worker["name"] == "target"] == [
        worker for worker in first if worker["name"] == "target"
    ]
    assert [worker["name"] for worker in second] == ["code", "target"]
    assert second[0]["address"] != first[0]["address"]
    assert third == second[:1]
    assert fleet_command(tmp_path / "fleet.yaml", "--stop") == {"stopped": ["code-0"]}
    assert fleet_command(tmp_path / "fleet.yaml", "--stop") == {"stopped": []}


def test_what_cannot_be_is_said_in_one_line(cluster: Cluster, redis: RedisServer, tmp_path: Path) -> None:
    def said(workers: Mapping[str, Any]) -> str:
        return refusal(file_of(tmp_path, cluster, redis, workers))

    assert "there is no such folder" in said({"target": {"worker": "verify --model /no/such/folder"}})
    assert "no machine of the cluster has 1 CPU, 8 GPU" in said({"target": TARGET | {"cpus": 1, "gpus": 8}})
    elsewhere = replace(cluster, address=free_address())
    assert "no head of a Ray cluster answers" in refusal(
        file_of(tmp_path, elsewhere, redis, {"target": TARGET}), status=2
    )
