"""Ranks on this machine start together, and end together. Here they are programs that do nothing else."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from worker.launcher import LOCAL_RANK, MEETING_FILE, RANK, SIZE, is_rank

NOTES = "import os, sys, time; open(sys.argv[1] + os.environ['RANK'], 'w').write(str(os.getpid()))\n"
"""Each rank tells the test its process."""

LAUNCH = """
import runpy, sys
from worker import launcher
sys.exit(launcher.launch(2, sys.argv[1:]))
"""


def launched(folder: Path, program: str) -> "subprocess.Popen[str]":
    """A launcher of two ranks, each of which runs this program in the place of a worker."""
    stand_in = folder / "worker"
    stand_in.mkdir()
    (stand_in / "__init__.py").touch()
    (stand_in / "__main__.py").write_text(NOTES + program)
    launcher = Path(__file__).parents[2] / "worker/launcher.py"
    (stand_in / "launcher.py").write_text(launcher.read_text())
    return subprocess.Popen(
        [sys.executable, "-c", LAUNCH, str(folder / "rank")],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": f"{folder}:{launcher.parents[1]}"},
        stderr=subprocess.PIPE,
        text=True,
    )


def rank_processes(folder: Path) -> list[psutil.Process]:
    """Both ranks, once they run."""
    notes = [folder / f"rank{rank}" for rank in range(2)]
    while not all(note.is_file() and note.read_text() for note in notes):
        time.sleep(0.02)
    return [psutil.Process(int(note.read_text())) for note in notes]


def test_a_rank_that_dies_ends_the_others_and_says_which_it_was(tmp_path: Path) -> None:
    launcher = launched(tmp_path, "time.sleep(600)")
    first, second = rank_processes(tmp_path)

    second.kill()
    _, said = launcher.communicate(timeout=60)

    assert launcher.returncode == 1
    assert said == "worker: rank 1 of 2 was ended by SIGKILL; the others end with it\n"
    assert not first.is_running()


def test_a_rank_that_cannot_start_ends_the_others_without_a_word_more_than_its_own(tmp_path: Path) -> None:
    launcher = launched(tmp_path, "sys.exit('worker: no such model') if os.environ['RANK'] == '0' else time.sleep(600)")
    _, said = launcher.communicate(timeout=60)

    assert launcher.returncode == 1
    assert said == "worker: no such model\n"


def test_sigterm_is_for_rank_0_which_ends_the_others(tmp_path: Path) -> None:
    end = tmp_path / "end"
    launcher = launched(
        tmp_path,
        "import signal\n"
        f"signal.signal(signal.SIGTERM, lambda *_: open({str(end)!r}, 'w').close() or sys.exit(0))\n"
        f"while not (os.path.exists({str(end)!r}) and os.environ['RANK'] == '1'): time.sleep(0.02)\n",
    )
    rank_processes(tmp_path)

    time.sleep(0.2)
    launcher.send_signal(signal.SIGTERM)
    _, said = launcher.communicate(timeout=60)

    assert (launcher.returncode, said) == (0, "")


def test_ranks_die_with_a_launcher_that_is_killed(tmp_path: Path) -> None:
    launcher = launched(tmp_path, "time.sleep(600)")
    ranks = rank_processes(tmp_path)

    launcher.kill()
    launcher.communicate(timeout=60)

    psutil.wait_procs(ranks, timeout=60)
    assert not any(rank.is_running() for rank in ranks)


@pytest.mark.parametrize(("environment", "is_one"), [({RANK: "1", SIZE: "2"}, True), ({LOCAL_RANK: "1"}, False)])
def test_a_process_is_a_rank_if_somebody_says_so(environment: dict[str, str], is_one: bool) -> None:
    assert is_rank(environment) is is_one


def test_ranks_meet_by_a_file_of_their_own_and_talk_over_the_loopback(tmp_path: Path) -> None:
    told = tmp_path / "told"
    launcher = launched(
        tmp_path, f"import json; json.dump(dict(os.environ), open({str(told)!r} + os.environ['RANK'], 'w'))"
    )

    launcher.communicate(timeout=60)

    first, second = (json.loads((tmp_path / f"told{rank}").read_text()) for rank in range(2))
    assert launcher.returncode == 0
    assert first[MEETING_FILE] == second[MEETING_FILE]
    assert first["GLOO_SOCKET_IFNAME"] == second["NCCL_SOCKET_IFNAME"] == "lo"
    assert not Path(first[MEETING_FILE]).parent.exists(), "the folder goes with the launcher"
