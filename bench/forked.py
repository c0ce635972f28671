"""Real processes of ours that begin as copies of one that has loaded torch and transformers: a worker is ready within a
second, where `python -m worker` first computes for ten. Whoever kills many of them has no time for that."""

import ctypes
import json
import multiprocessing
import os
import runpy
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from bench.preload import in_environment

START_S = 240.0
STDOUT, STDERR = 1, 2
_PR_SET_PDEATHSIG = 1

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["controller.serve", "worker.serve"])


@dataclass
class Process:
    """A process of ours and where it listens.

    Attributes:
        name: For people.
        command: A module, and its arguments.
        environment: Added to our own.
        log: Where it writes what it has to say; None: nowhere.
        address: host:port, once it is ready.
        metrics_address: Of its metrics; empty if they are not served.
    """

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    log: Path | None = None
    address: str = ""
    metrics_address: str = ""

    def __post_init__(self) -> None:
        self.start()

    def start(self) -> None:
        """Start it."""
        self._process, self._said = begin(self.command, STDOUT, environment=self.environment, log=self.log)

    def await_ready(self) -> None:
        """Read the line that a process prints once it can be called."""
        assert self._said.poll(START_S), f"{self.name} did not start in time"
        line = os.read(self._said.fileno(), 10_000)
        assert line, f"{self.name} did not start"
        ready = json.loads(line)
        self.address, self.metrics_address = ready["address"], ready.get("metrics", "")

    @property
    def pid(self) -> int:
        """Of the process; it must have been started."""
        assert self._process.pid is not None
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it has not ended, frozen or not."""
        return self._process.is_alive()

    def begin_to_mend(self) -> bool:
        """Thaw it if it is frozen, start it again if it has ended; whether it is to be waited for."""
        if self.alive:
            self.signal(signal.SIGCONT)
            return False
        self.end()
        self.start()
        return True

    def signal(self, number: int) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)

    def kill(self) -> None:
        """End it without a chance to do anything more."""
        self._process.kill()
        self.wait(10)

    def wait(self, within_s: float) -> int:
        """Its exit status, once it has ended."""
        self._process.join(within_s)
        assert self._process.exitcode is not None, f"{self.name} did not end in time"
        return self._process.exitcode

    def end(self) -> None:
        """End it for good, frozen or not."""
        self.kill()
        self._said.close()


def begin(
    command: Sequence[str],
    stream: int,
    *,
    environment: Mapping[str, str] | None = None,
    log: Path | None = None,
) -> tuple[ForkServerProcess, Connection]:
    """A process that does what `python -m COMMAND` does, and where to read what it writes to that stream."""
    with in_environment():
        forkserver.ensure_running()
    said, written = FORKS.Pipe(duplex=False)
    process = FORKS.Process(target=_become, args=(command, stream, written, dict(environment or {}), log), daemon=True)
    process.start()
    written.close()
    return process, said


def _become(
    command: Sequence[str],
    stream: int,
    written: Connection,
    environment: Mapping[str, str],
    log: Path | None,
) -> None:
    if sys.platform == "linux":  # end with the process that all of these are copies of, and it with ours
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    with ExitStack() as stack:
        elsewhere = stack.enter_context(open(log or os.devnull, "ab"))
        for descriptor in (STDOUT, STDERR):
            os.dup2(written.fileno() if descriptor == stream else elsewhere.fileno(), descriptor)
    written.close()
    os.environ.update(environment)
    sys.argv = list(command)
    runpy.run_module(command[0], run_name="__main__", alter_sys=True)


def free_address() -> str:
    """An address nobody listens on, so that a process started again is found where it was."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return f"127.0.0.1:{free.getsockname()[1]}"
