"""`forerun fleet ray` on a Ray cluster of three machines, one of which is lost under load: every text stays the same.

The machines are Ray's own processes on this one (ray.cluster_utils); `make test-ray` installs Ray and runs this.
"""

import asyncio
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pytest
import yaml

from forerun.client import AsyncClient, Generation, RouterClient, WorkerHealth
from forerun.workload import Task, tasks
from tests.end_to_end.processes import Process, eventually, free_address, redis_server
from zoo.catalog import model_folder

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed: make test-ray"),
]

FORERUN = (sys.executable, "-P", "-m", "forerun")
ENVIRONMENT = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
"""By the second one Ray takes the loopback for the address of this machine, whatever the machine."""

NAMES = ("target", "target", "code", "mixed")
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


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with (tmp_path / "ray.err").open("w") as stderr:
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
    assert line, (tmp_path / "ray.err").read_text()
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


def fleet_file(folder: Path, **settings: Any) -> Path:
    """A fleet's file."""
    file = folder / "fleet.yaml"
    file.write_text(yaml.safe_dump({"log_folder": str(folder / "logs"), **settings}))
    return file


async def generate(client: AsyncClient, task: Task, policy: str) -> Generation:
    options: Any = {"temperature": 0.8, "seed": task.number, "policy": policy}
    return await client.generate(task.prompt, max_new_tokens=TOKENS, **options)


async def under_load(address: str, work: list[Task], lose: Any) -> list[tuple[Task, Generation]]:
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


def test_a_machine_is_lost_under_load_and_no_text_differs(cluster: Cluster, tmp_path: Path) -> None:
    with redis_server(tmp_path) as redis:
        large = {"cpus": 0, "resources": {"large": 1}}
        workers = {
            "target": {"worker": f"verify --model {model_folder('target')}", "replicas": 2, **large},
            **{name: {"worker": f"draft --model zoo:{name}"} for name in ("code", "mixed")},
        }
        file = fleet_file(tmp_path, address=cluster.address, redis=redis.url, workers=workers)
        started = fleet_command(file)["workers"]
        assert sorted(worker["name"] for worker in started) == sorted(NAMES)
        first, second = (worker for worker in started if worker["name"] == "target")
        assert first["node"] != second["node"], "each machine has room for one target"
        assert fleet_command(file)["workers"] == started, "what runs is left alone"

        config = tmp_path / "controller.yaml"
        config.write_text(
            yaml.safe_dump(
                {
                    "listen": free_address(),
                    "tokenizer": str(model_folder("target")),
                    "redis": {"url": redis.url},
                    "router": {"policy": "planner"},
                }
            )
        )
        controller = Process("controller", ("controller", "--config", str(config)))
        try:
            controller.await_ready()
            addresses = {worker["address"] for worker in started}
            eventually(lambda: serving(controller.address) == addresses, within_s=60)
            work = [*tasks(("code", "hybrid"), 4)]

            async def plain() -> dict[Task, Generation]:
                async with AsyncClient(controller.address, timeout_s=300) as client:
                    return {task: await generate(client, task, "none") for task in work}

            expected = asyncio.run(plain())
            lost = first if first["node"] != cluster.head else second

            def lose() -> None:
                cluster.remove(lost["node"])
                eventually(lambda: len(serving(controller.address) - {lost["address"]}) == len(NAMES), within_s=300)

            answers = asyncio.run(under_load(controller.address, work, lose))
            now = fleet_command(file)["workers"]
        finally:
            controller.end()

        assert len(answers) >= 16
        assert [task.number for task, answer in answers if answer.token_ids != expected[task].token_ids] == []
        assert lost["node"] not in {worker["node"] for worker in now}
        assert sorted(worker["name"] for worker in now) == sorted(NAMES)

        changed = workers | {"code": workers["code"] | {"worker": "draft --model zoo:code --slots 4"}}
        del changed["mixed"]
        after = fleet_command(fleet_file(tmp_path, address=cluster.address, redis=redis.url, workers=changed))[
            "workers"
        ]
        kept = {worker["address"] for worker in now if worker["name"] == "target"}
        assert {worker["address"] for worker in after if worker["name"] == "target"} == kept
        assert len(after) == 3
        assert not {worker["address"] for worker in after if worker["name"] == "code"} & {w["address"] for w in now}

        wrong = fleet_file(
            tmp_path,
            address=cluster.address,
            redis=redis.url,
            namespace="other",
            workers={"target": {"worker": "verify --model /no/such/folder", "cpus": 0}},
        )
        assert "there is no such folder" in refusal(wrong)
        nobody = fleet_file(tmp_path, address=free_address(), redis=redis.url, workers=changed)
        assert "no head of a Ray cluster answers" in refusal(nobody, status=2)
        impossible = {"target": {"worker": "verify --model zoo:target", "gpus": 8}}
        too_large = fleet_file(
            tmp_path, address=cluster.address, redis=redis.url, namespace="other", workers=impossible
        )
        assert "no machine of the cluster has 1 CPU, 8 GPU" in refusal(too_large)

        last = fleet_file(tmp_path, address=cluster.address, redis=redis.url, workers=changed)
        assert fleet_command(last, "--stop") == {"stopped": ["code-0", "target-0", "target-1"]}
        assert fleet_command(last, "--stop") == {"stopped": []}
