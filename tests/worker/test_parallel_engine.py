"""A target on two ranks says what it says on one, whatever is speculated. Real processes over gloo, on the loopback."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from forerun.connection import Connection
from forerun.health import State, health_of
from tests.architectures import plain_logits, plain_model, served_model
from tests.worker.grpc_session import save_tiny_model
from tests.worker.tiny_worker import PROMPT, SAMPLINGS
from tests.worker.two_ranks import SIZES, played
from worker.engine import Engine
from worker.launcher import LOCAL_RANK, MEETING_FILE, RANK, SIZE
from worker.probe import TOLERANCES, relative_error

ROOT = Path(__file__).parents[2]

WHOLE_ATTENTION = {"gpt_oss"}
"""transformers' plan parts nothing but their experts."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def said_by_two_ranks(architecture: str, folder: Path) -> dict[str, Any]:
    """What rank 0 notes down."""
    plain_model(architecture).save_pretrained(folder / "model")
    ranks = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.worker.two_ranks", str(folder / "model"), str(folder / "said.json")],
            cwd=ROOT,
            env={
                **os.environ,
                "GLOO_SOCKET_IFNAME": "lo",
                MEETING_FILE: str(folder / "meeting"),
                **{RANK: str(rank), LOCAL_RANK: str(rank), SIZE: "2"},
            },
        )
        for rank in range(2)
    ]
    assert [rank.wait(300) for rank in ranks] == [0, 0]
    said: dict[str, Any] = json.loads((folder / "said.json").read_text())
    return said


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "mistral", "gemma2", "mixtral", "gpt_oss"])
def test_two_ranks_say_what_one_says_whatever_is_speculated(architecture: str, tmp_path: Path) -> None:
    engine = Engine(served_model(architecture), **SIZES)

    said = said_by_two_ranks(architecture, tmp_path)

    assert relative_error(torch.tensor(said["logits"]), plain_logits(architecture, PROMPT)) <= TOLERANCES[torch.float32]
    for name in SAMPLINGS:
        assert {tuple(text) for text in said["with_trees"][name].values()} == {tuple(said["plain"][name])}, name
    one = played(engine)
    assert said["plain"] == one["plain"]
    if architecture not in WHOLE_ATTENTION:
        assert said["cache_bytes"] == one["cache_bytes"] // 2, "each rank holds its heads alone"
    assert said["num_free"] == one["num_free"]


def test_torchrun_starts_the_ranks_as_well_and_rank_0_serves(tmp_path: Path) -> None:
    """As over several machines, where the ranks meet at a port of the first one."""
    model = save_tiny_model(tmp_path)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes=1", "--nproc-per-node=2"]
    worker = ["--role=verify", "--name=tiny", f"--model={model}", "--tensor-parallel=2", "--grace=0.2", "--slots=2"]
    with socket.create_server(("127.0.0.1", 0)) as free:
        meeting = ["--master-addr=127.0.0.1", f"--master-port={free.getsockname()[1]}"]
    process = subprocess.Popen(
        [*torchrun, *meeting, "--module", "worker", *worker],
        cwd=ROOT,
        env={**os.environ, "GLOO_SOCKET_IFNAME": "lo"},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    with process.stdout:
        address = json.loads(process.stdout.readline())["address"]
        ranks = psutil.Process(process.pid).children()

        try:
            assert health_of(Connection.to(address), timeout_s=30).state is State.SERVING
        finally:
            process.terminate()
            process.wait(60)

    assert len(ranks) == 2
    assert not any(rank.is_running() for rank in ranks)
