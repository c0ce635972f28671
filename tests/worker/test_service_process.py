"""The worker as a process: one line when it is ready, one line when it cannot start, and an orderly end."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import grpc
import pytest

from tests.worker.grpc_session import DraftTalk, open_draft, propose, save_tiny_model
from tests.worker.tiny_worker import PROMPT, run
from worker.__main__ import main
from worker.settings import WorkerSettings


def test_a_process_says_when_it_is_ready_serves_and_ends_on_sigterm(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "worker",
        "--role",
        "draft",
        "--model",
        str(save_tiny_model(tmp_path)),
        "--name",
        "t",
    ]
    process = subprocess.Popen(
        [*command, "--grace", "0.2"], stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert process.stdout is not None
    with process.stdout:
        ready = json.loads(process.stdout.readline())

        async def converse() -> int:
            async with grpc.aio.insecure_channel(ready["address"]) as channel:
                talk = DraftTalk(channel)
                await talk.ask(open_draft())
                return len((await talk.ask(propose(PROMPT))).proposal.tree.token_ids)

        assert {key: ready[key] for key in ("event", "name", "role")} == {
            "event": "ready",
            "name": "t",
            "role": "draft",
        }
        assert run(converse()) == 4
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        assert process.stdout.read() == ""


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        pytest.param(["--model", "no/such/folder/at/all"], "no/such/folder/at/all", id="no model"),
        pytest.param(["--slots", "0"], "slots", id="no slots"),
        pytest.param(["--cache-gib", "-1"], "cache_gib", id="no memory"),
        pytest.param(["--least-idle", "-1"], "least_idle_s", id="no time"),
        pytest.param(["--remember", "100"], "without a model", id="no such memory"),
        pytest.param(["--tensor-parallel", "2"], "is for targets", id="ranks of a drafter"),
        pytest.param(["--tensor-parallel", "0"], "tensor_parallel", id="no ranks"),
        pytest.param(["--listen", "nonsense"], "listen", id="no address"),
        pytest.param(
            ["--listen", "0.0.0.0:0", "--redis", "redis://127.0.0.1"], "advertise", id="no address for others"
        ),
    ],
)
def test_a_worker_that_cannot_start_says_why_in_one_line(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status = main(["--role", "draft", "--name", "tiny", "--model", "unused", *arguments])

    out, err = capsys.readouterr()
    assert (status, out) == (1, "")
    assert told in err
    assert err.count("\n") == 1
    assert "Traceback" not in err


def test_a_worker_listens_on_loopback_unless_told_otherwise() -> None:
    assert WorkerSettings(role="draft", model="m", name="n").listen.startswith("127.0.0.1:")


def test_ranks_that_others_than_were_asked_for_started_do_not_begin(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "3")

    status = main(["--role", "verify", "--name", "tiny", "--model", "unused", "--tensor-parallel", "2"])

    assert (status, capsys.readouterr().err) == (
        1,
        "worker: tensor_parallel: 2 ranks were asked for, and 3 started\n",
    )
