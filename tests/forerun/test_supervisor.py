"""The supervisor, on real processes that do little."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from forerun import supervisor as supervisor_module
from forerun.supervisor import LISTEN, Backoff, ProcessSpec, ProcessStartError, ProcessState, ProcessStatus, Supervisor

QUICK = Backoff(first_s=0.01, most_s=0.05)
READY = 'import json, os, sys, time; print(json.dumps({"event": "ready", "address": ADDRESS}), flush=True)'


def dummy(name: str, then: str = "time.sleep(600)", *, address: str = "sys.argv[1]", before: str = "") -> ProcessSpec:
    """A process that does `before`, says that it is ready, and does `then`."""
    code = "\n".join([before, READY.replace("ADDRESS", address), then])
    return ProcessSpec(name=name, command=(sys.executable, "-c", code, LISTEN), ready_within_s=20)


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not holds():  # noqa: ASYNC110 - another process cannot set an event
            await asyncio.sleep(0.01)


def test_processes_are_ready_when_start_returns(tmp_path: Path) -> None:
    async def main() -> None:
        async with Supervisor(tmp_path) as supervisor:
            one, two = await supervisor.start([dummy("one"), dummy("two")])

            assert (one.name, two.name) == ("one", "two")
            assert {one.state, two.state} == {ProcessState.RUNNING}
            assert one.pid is not None
            assert psutil.pid_exists(one.pid)
        assert not psutil.pid_exists(one.pid)

    asyncio.run(main())


def test_a_killed_process_is_restarted_at_its_address(tmp_path: Path) -> None:
    free_port = '"127.0.0.1:4321" if sys.argv[1].endswith(":0") else sys.argv[1]'

    async def main() -> None:
        async with Supervisor(tmp_path, backoff=QUICK) as supervisor:
            (first,) = await supervisor.start([dummy("one", address=free_port)])
            assert first.pid is not None
            os.kill(first.pid, signal.SIGKILL)
            await until(lambda: supervisor.processes[0].restarts == 1)
            await until(lambda: supervisor.processes[0].state is ProcessState.RUNNING)

            second = supervisor.processes[0]
            assert second.pid not in (None, first.pid)
            assert second.address == first.address == "127.0.0.1:4321"

    asyncio.run(main())


def test_a_process_that_keeps_dying_is_tried_again_and_again_ever_more_slowly(tmp_path: Path) -> None:
    states: list[ProcessState] = []

    async def main() -> None:
        listener = lambda status: states.append(status.state)  # noqa: E731
        async with Supervisor(tmp_path, backoff=QUICK, listener=listener) as supervisor:
            await supervisor.start([dummy("one", then="sys.exit(3)")])
            await until(lambda: supervisor.processes[0].restarts >= 3)

    asyncio.run(main())
    assert states[:4] == [ProcessState.RUNNING, ProcessState.RESTARTING] * 2
    pauses = [Backoff().pause_s(deaths) for deaths in range(1, 12)]
    assert pauses == sorted(pauses)
    assert pauses[-1] == Backoff().most_s


def test_a_process_that_dies_too_often_is_given_up_and_the_others_go_on(tmp_path: Path) -> None:
    states: list[tuple[str, ProcessState]] = []
    impatient = replace(QUICK, give_up_after=3)

    async def main() -> None:
        listener = lambda status: states.append((status.name, status.state))  # noqa: E731
        async with Supervisor(tmp_path, backoff=impatient, listener=listener) as supervisor:
            await supervisor.start([dummy("good"), dummy("bad", then="sys.exit(3)")])
            await until(lambda: supervisor.processes[1].state is ProcessState.GIVEN_UP)

            assert supervisor.processes[1].restarts == 2
            assert supervisor.processes[1].pid is None
            assert supervisor.processes[0].state is ProcessState.RUNNING
            # It is still kept, though its neighbour is not.
            os.kill(supervisor.processes[0].pid or 0, signal.SIGKILL)
            await until(lambda: supervisor.processes[0].restarts == 1)
            await until(lambda: supervisor.processes[0].state is ProcessState.RUNNING)

    asyncio.run(main())
    assert states.count(("bad", ProcessState.GIVEN_UP)) == 1
    assert none_left()


def test_what_died_together_is_not_started_together() -> None:
    backoff = Backoff(first_s=1.0, jitter=0.2)

    assert backoff.pause_s(3, chance=0.0) == pytest.approx(3.2)
    assert backoff.pause_s(3) == pytest.approx(4.0)
    assert backoff.pause_s(3, chance=1.0) == pytest.approx(4.8)


def test_a_log_does_not_grow_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor_module, "LOOK_AT_LOGS_S", 0.02)
    log, older = tmp_path / "chatty.log", tmp_path / "chatty.log.1"
    chatty = "import sys\nwhile True: print('x' * 999, file=sys.stderr, flush=True); time.sleep(0.001)"

    async def main() -> None:
        async with Supervisor(tmp_path, most_log_bytes=50_000) as supervisor:
            await supervisor.start([dummy("chatty", then=chatty)])
            await until(older.exists)
            first = older.stat().st_mtime_ns
            await until(lambda: older.stat().st_mtime_ns > first)

            assert log.stat().st_size < 1_000_000
            assert set(older.read_text()) == {"x", "\n"}

    asyncio.run(main())


def test_a_process_that_cannot_start_is_reported_with_its_last_words_and_its_log(tmp_path: Path) -> None:
    spec = dummy("broken", before='import sys; sys.exit("no model at that place")')

    async def main() -> None:
        async with Supervisor(tmp_path) as supervisor:
            await supervisor.start([dummy("fine"), spec])

    with pytest.raises(ProcessStartError, match="no model at that place") as caught:
        asyncio.run(main())
    assert str(tmp_path / "broken.log") in str(caught.value)
    assert "status 1" in str(caught.value)


def test_a_process_that_is_never_ready_is_given_up(tmp_path: Path) -> None:
    spec = ProcessSpec(name="mute", command=(sys.executable, "-c", "import time; time.sleep(600)"), ready_within_s=0.2)

    async def main() -> None:
        async with Supervisor(tmp_path) as supervisor:
            await supervisor.start([spec])

    with pytest.raises(ProcessStartError, match=r"not ready within 0\.2 s"):
        asyncio.run(main())
    assert none_left()


def test_a_program_that_does_not_exist_is_reported(tmp_path: Path) -> None:
    async def main() -> None:
        async with Supervisor(tmp_path) as supervisor:
            await supervisor.start([ProcessSpec(name="absent", command=("/no/such/program",))])

    with pytest.raises(ProcessStartError, match="/no/such/program"):
        asyncio.run(main())


def test_the_stage_started_last_is_drained_first(tmp_path: Path) -> None:
    farewell = (
        "import signal\n"
        "def leave(*_): time.sleep(0.1); print(time.monotonic(), flush=True); sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, leave)\n"
    )
    stopped: list[str] = []

    def listener(status: ProcessStatus) -> None:
        if status.state is ProcessState.STOPPED:
            stopped.append(status.name)

    async def main() -> None:
        async with Supervisor(tmp_path, listener=listener) as supervisor:
            await supervisor.start([dummy("worker", before=farewell.replace("import", "import time, sys; import", 1))])
            await supervisor.start(
                [dummy("controller", before=farewell.replace("import", "import time, sys; import", 1))]
            )

    asyncio.run(main())
    assert stopped == ["controller", "worker"]


def test_a_process_deaf_to_sigterm_is_killed_after_the_drain(tmp_path: Path) -> None:
    deaf = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)"

    async def main() -> None:
        async with Supervisor(tmp_path, drain_s=0.2) as supervisor:
            await supervisor.start([dummy("deaf", before=deaf)])

    asyncio.run(asyncio.wait_for(main(), timeout=60))
    assert none_left()


def test_what_a_process_prints_never_blocks_it(tmp_path: Path) -> None:
    async def main() -> None:
        async with Supervisor(tmp_path) as supervisor:
            chatty = 'print("x" * 1_000_000, flush=True); print("done", flush=True); time.sleep(600)'
            await supervisor.start([dummy("chatty", then=chatty)])
            await until(lambda: (tmp_path / "chatty.log").read_text().endswith("done\n"))

    asyncio.run(main())


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_no_process_outlives_its_supervisor(tmp_path: Path, how: signal.Signals) -> None:
    """Even when the supervisor is killed and can do nothing any more."""
    code = (
        "import asyncio, sys, pathlib\n"
        "from forerun.supervisor import Supervisor, ProcessSpec\n"
        "from tests.forerun.test_supervisor import dummy\n"
        "async def main():\n"
        "    async with Supervisor(pathlib.Path(sys.argv[1])) as supervisor:\n"
        "        for status in await supervisor.start([dummy('one'), dummy('two')]):\n"
        "            print(status.pid, flush=True)\n"
        "        print('up', flush=True)\n"
        "        await asyncio.sleep(600)\n"
        "asyncio.run(main())\n"
    )
    root = Path(__file__).parents[2]
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, cwd=root) as parent:
        assert parent.stdout is not None
        children = [int(parent.stdout.readline()) for _ in range(2)]
        assert parent.stdout.readline() == b"up\n"
        assert all(psutil.pid_exists(child) for child in children)
        parent.send_signal(how)
        parent.wait(timeout=10)

    deadline = time.monotonic() + 5
    while any(running(child) for child in children) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not any(running(child) for child in children)


def running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def none_left() -> bool:
    """Whether no supervised process is left; each leads a group of its own, unlike other children of the suite."""
    children = [child.pid for child in psutil.Process().children() if running(child.pid)]
    return not [pid for pid in children if os.getpgid(pid) == pid]
