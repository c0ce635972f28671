"""A fleet whose target is parted among two ranks: the same answers as transformers', and back after a rank's death."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from bench.exactness import measure_exactness
from bench.fleet import Bench
from forerun.client import AsyncClient, Client, RouterClient, WorkerHealth
from forerun.local_fleet import CONTROLLER_FILE
from forerun.workload import tasks
from tests.end_to_end.processes import eventually
from worker.launcher import RANK

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

DRAFTERS = ("code", "mixed", "suffix")
ASKED = {"max_new_tokens": 32, "temperature": 0.8, "seed": 11}


@dataclass(frozen=True)
class Up:
    """A fleet that runs, and its folder."""

    pid: int
    ready: dict[str, Any]
    folder: Path

    @property
    def address(self) -> str:
        return str(self.ready["address"])

    def ranks(self) -> list[psutil.Process]:
        """The ranks of the target, the first one first; none while they are started anew."""
        ranks = [
            process for process in psutil.Process(self.pid).children(recursive=True) if rank_of(process) is not None
        ]
        return sorted(ranks, key=lambda process: rank_of(process) or 0)


def rank_of(process: psutil.Process) -> int | None:
    """Its rank; None for a process that is none, or gone."""
    try:
        rank = process.environ().get(RANK)
    except psutil.Error:
        return None
    return None if rank is None else int(rank)


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    folder = tmp_path_factory.mktemp("state")
    options = ["--profile", "plain", "--drafters", ",".join(DRAFTERS), "--tensor-parallel", "2", "--json"]
    with (folder / "stderr").open("w") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "forerun", "up", *options, "--listen", "127.0.0.1:0", "--state-folder", str(folder)],
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            env={**os.environ, "COLUMNS": "200"},
        )
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, (folder / "stderr").read_text()
    yield Up(process.pid, json.loads(line), folder)
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 0
    process.stdout.close()
    assert not [child for child in children if child.is_running()]


def test_no_answer_differs_from_transformers(up: Up) -> None:
    async def measure() -> dict[str, float]:
        async with AsyncClient(up.address, timeout_s=300) as client:
            bench = Bench(client, up.ready["target"], DRAFTERS, up.folder / CONTROLLER_FILE)
            figures = await measure_exactness(bench, tasks(("code", "hybrid"), 1), max_new_tokens=8, seed=3)
        return {figure.name: figure.value for figure in figures}

    counted = asyncio.run(measure())

    assert counted["exactness.differences"] == 0
    assert counted["exactness.requests"] > 100


def test_ranks_talk_on_the_loopback_alone(up: Up) -> None:
    listening = [
        connection.laddr.ip.removeprefix("::ffff:")
        for process in up.ranks()
        for connection in process.net_connections(kind="inet")
        if connection.status == psutil.CONN_LISTEN
    ]

    assert set(listening) == {"127.0.0.1"}


@pytest.mark.parametrize("rank", [0, 1])
def test_the_death_of_a_rank_is_told_and_the_target_comes_back(up: Up, rank: int) -> None:
    def serves() -> bool:
        with RouterClient(up.address) as router:
            return all(worker.health is WorkerHealth.SERVING for worker in router.show().workers)

    with Client(up.address, timeout_s=300) as client:
        before = client.generate("def area(radius):", **ASKED).token_ids
        ranks = up.ranks()
        ranks[rank].kill()
        psutil.wait_procs(ranks, timeout=60)
        eventually(lambda: len(up.ranks()) == 2 and serves(), within_s=120)
        after = client.generate("def area(radius):", **ASKED).token_ids

    assert not any(process.is_running() for process in ranks), "none goes on alone"
    assert after == before
    if rank:
        assert f"rank {rank} of 2" in (up.folder / "logs/target.log").read_text()
