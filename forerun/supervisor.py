"""Starts processes on this machine, keeps them running, and leaves none behind."""

import asyncio
import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import IO, Self

from speculation import tether
from speculation.errors import ForerunError

LISTEN = "{listen}"
"""Stands in a command for the address to listen on: a free port at first, and the same one again after a restart."""

LOOK_AT_LOGS_S = 10.0


class ProcessStartError(ForerunError):
    """A process did not become ready; the message ends with what it said last, and where its log is."""

    reason = "PROCESS_START"

    def __init__(self, name: str, problem: str, log: Path) -> None:
        last_words = _last_line(log)
        said = f" ({last_words})" if last_words else ""
        super().__init__(f"{name} {problem}{said}; its log is {log}", {"process": name, "log": str(log)})


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessSpec:
    """A process to be kept running.

    Once it can be called it prints one line of JSON: {"event": "ready", "address": "host:port"}.

    Attributes:
        name: For people, and for the name of its log.
        command: Program and arguments; LISTEN in any of them becomes the address to listen on.
        listen: That address at the first start.
        environment: Added to our own.
        ready_within_s: How long it may take to become ready; a process that ends before is noticed at once.
    """

    name: str
    command: tuple[str, ...]
    listen: str = "127.0.0.1:0"
    environment: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    ready_within_s: float = 300.0

    @property
    def arguments(self) -> tuple[str, ...]:
        """The command with the address in its place."""
        return tuple(part.replace(LISTEN, self.listen) for part in self.command)


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """Pauses before restarts: longer and longer while a process keeps dying, short again once it has run a while.

    Attributes:
        first_s: After the first death.
        factor: By which every further pause is longer.
        most_s: No pause is longer, chance apart.
        jitter: Share by which chance makes pauses longer or shorter: what died together is not started together.
        steady_after_s: A process that ran so long begins anew when it dies.
        give_up_after: Deaths in a row after which a process is not started again.
    """

    first_s: float = 0.2
    factor: float = 2.0
    most_s: float = 15.0
    jitter: float = 0.2
    steady_after_s: float = 30.0
    give_up_after: int = 10

    def pause_s(self, deaths_in_a_row: int, *, chance: float = 0.5) -> float:
        """Before the restart that follows that many deaths; `chance` is from 0 to 1."""
        pause_s = min(self.most_s, self.first_s * self.factor ** (deaths_in_a_row - 1))
        return pause_s * (1 + self.jitter * (2 * chance - 1))


class ProcessState(Enum):
    """What a kept process is doing."""

    STARTING = "starting"
    RUNNING = "running"
    RESTARTING = "restarting"
    GIVEN_UP = "given up"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessStatus:
    """A kept process at one moment; `address` is empty before it was ever ready, `pid` None while there is none."""

    name: str
    state: ProcessState
    address: str
    pid: int | None
    restarts: int
    log: Path


Listener = Callable[[ProcessStatus], None]


class _Kept:
    """One process through all its lives."""

    def __init__(self, spec: ProcessSpec, log: Path, tell: Listener) -> None:
        self.spec = spec
        self.log = log
        self.process: asyncio.subprocess.Process | None = None
        self.address = ""
        self.restarts = 0
        self._state = ProcessState.STARTING
        self._tell = tell

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.returncode is None

    @property
    def status(self) -> ProcessStatus:
        return ProcessStatus(
            name=self.spec.name,
            state=self._state,
            address=self.address,
            pid=self.process.pid if self.process is not None and self.alive else None,
            restarts=self.restarts,
            log=self.log,
        )

    def enter(self, state: ProcessState) -> None:
        self._state = state
        self._tell(self.status)

    async def launch(self) -> asyncio.subprocess.Process:
        """Start it and wait until it is ready.

        Raises:
            ProcessStartError: It ended, or was not ready in time; then it has been killed.
        """
        with self.log.open("ab") as log:
            self.process = process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-S", tether.__file__, str(os.getpid()), *self.spec.arguments),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                env={**os.environ, **self.spec.environment},
                # Ctrl-C in the terminal is for us alone; we then stop the processes in order.
                process_group=0,
            )
            try:
                async with asyncio.timeout(self.spec.ready_within_s):
                    self.address = await self._ready_address(process, log)
            except TimeoutError as error:
                await self.kill()
                problem = f"was not ready within {self.spec.ready_within_s:g} s"
                raise ProcessStartError(self.spec.name, problem, self.log) from error
        self.spec = replace(self.spec, listen=self.address)
        self.enter(ProcessState.RUNNING)
        return process

    async def _ready_address(self, process: asyncio.subprocess.Process, log: IO[bytes]) -> str:
        assert process.stdout is not None
        async for line in process.stdout:
            if (address := _address_in(line)) is not None:
                return address
            _write(log, line)
        status = await process.wait()
        raise ProcessStartError(self.spec.name, f"ended with status {status} before it was ready", self.log)

    def shorten_log(self, most_bytes: int) -> None:
        """Keep what a long log says in a file beside it, in place of what was kept before, and begin it anew."""
        with suppress(OSError):  # a disk that is full is no reason to stop a fleet
            if self.log.stat().st_size > most_bytes:
                # Copied and cut, not renamed: the process goes on writing to the file that it has open, at its end.
                shutil.copyfile(self.log, self.log.with_name(f"{self.log.name}.1"))
                os.truncate(self.log, 0)

    async def drain_output(self, process: asyncio.subprocess.Process) -> None:
        """Move what it prints later into its log, so that it never blocks on a full pipe."""
        assert process.stdout is not None
        with self.log.open("ab") as log:
            while piece := await process.stdout.read(4096):
                _write(log, piece)

    def ask_to_stop(self) -> None:
        if self.process is not None and self.alive:
            self.process.terminate()

    async def kill(self) -> None:
        """Kill it with all it started."""
        if self.process is not None and self.alive:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            await self.process.wait()


class Supervisor:
    """Keeps processes running until it is left, and then drains them: the stage started last goes first.

    A process that keeps dying is given up in the end, which its listener is told; the others go on.

    Example:
        >>> async def main(workers: Sequence[ProcessSpec], controller: ProcessSpec) -> None:
        ...     async with Supervisor(Path("logs")) as supervisor:
        ...         await supervisor.start(workers)
        ...         await supervisor.start([controller])
        ...         await asyncio.Event().wait()

    Args:
        log_folder: Where each process gets a log file; made if missing.
        backoff: Pauses before restarts.
        drain_s: How long processes may take to end on SIGTERM before they are killed.
        most_log_bytes: Of each process's log; what is older is kept in one more file of that size, and then lost.
        listener: Told about every change of state.
    """

    def __init__(
        self,
        log_folder: Path,
        *,
        backoff: Backoff = Backoff(),
        drain_s: float = 15.0,
        most_log_bytes: int = 64 << 20,
        listener: Listener = lambda status: None,
    ) -> None:
        self._log_folder = log_folder
        self._backoff = backoff
        self._drain_s = drain_s
        self._most_log_bytes = most_log_bytes
        self._listener = listener
        self._stages: list[list[_Kept]] = []
        self._keepers: list[asyncio.Task[None]] = []
        self._tasks = asyncio.TaskGroup()

    async def __aenter__(self) -> Self:
        self._log_folder.mkdir(parents=True, exist_ok=True)
        await self._tasks.__aenter__()
        self._keepers.append(self._tasks.create_task(self._watch_logs()))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stop()
        # The error that ends the body is not ours to wrap in a group.
        await self._tasks.__aexit__(None, None, None)

    @property
    def processes(self) -> tuple[ProcessStatus, ...]:
        """Every process, in the order of starting."""
        return tuple(kept.status for stage in self._stages for kept in stage)

    async def start(self, specs: Sequence[ProcessSpec]) -> tuple[ProcessStatus, ...]:
        """Start a stage of processes side by side and wait until all are ready.

        Raises:
            ProcessStartError: One could not start.
        """
        stage = [_Kept(spec, self._log_folder / f"{spec.name}.log", self._listener) for spec in specs]
        self._stages.append(stage)
        failures: list[ProcessStartError] = []
        try:
            async with asyncio.TaskGroup() as group:
                for kept in stage:
                    group.create_task(kept.launch())
        except* ProcessStartError as errors:
            failures += [error for error in errors.exceptions if isinstance(error, ProcessStartError)]
        if failures:
            raise failures[0]
        self._keepers += [self._tasks.create_task(self._keep(kept)) for kept in stage]
        return tuple(kept.status for kept in stage)

    async def _watch_logs(self) -> None:
        while True:
            await asyncio.sleep(LOOK_AT_LOGS_S)
            for stage in self._stages:
                for kept in stage:
                    await asyncio.to_thread(kept.shorten_log, self._most_log_bytes)

    async def _keep(self, kept: _Kept) -> None:
        """Restart the process whenever it dies, until it is given up."""
        deaths_in_a_row = 0
        while kept.status.state is not ProcessState.GIVEN_UP:
            assert kept.process is not None
            started = time.monotonic()
            async with asyncio.TaskGroup() as group:
                output = group.create_task(kept.drain_output(kept.process))
                await kept.process.wait()
                output.cancel()
            if time.monotonic() - started > self._backoff.steady_after_s:
                deaths_in_a_row = 0
            deaths_in_a_row = await self._restart(kept, deaths_in_a_row)

    async def _restart(self, kept: _Kept, deaths_in_a_row: int) -> int:
        """Try until it runs again, or is given up; the number of deaths in a row by then."""
        while True:
            deaths_in_a_row += 1
            if deaths_in_a_row >= self._backoff.give_up_after:
                kept.enter(ProcessState.GIVEN_UP)
                return deaths_in_a_row
            kept.enter(ProcessState.RESTARTING)
            await asyncio.sleep(self._backoff.pause_s(deaths_in_a_row, chance=random.random()))
            kept.restarts += 1
            try:
                await kept.launch()
                return deaths_in_a_row
            except ProcessStartError:
                # Its log says why; a port still in use or a full disk may pass.
                continue

    async def _stop(self) -> None:
        """End every process, stage by stage; none is restarted any more."""
        for keeper in self._keepers:
            keeper.cancel()
        try:
            for stage in reversed(self._stages):
                await self._drain(stage)
        finally:
            # Also reached when somebody is too impatient to wait for the drain.
            for stage in self._stages:
                for kept in stage:
                    await kept.kill()

    async def _drain(self, stage: Sequence[_Kept]) -> None:
        for kept in stage:
            kept.ask_to_stop()
        with suppress(TimeoutError):
            async with asyncio.timeout(self._drain_s):
                await asyncio.gather(*(kept.process.wait() for kept in stage if kept.process is not None))
        for kept in stage:
            await kept.kill()
            kept.enter(ProcessState.STOPPED)


def _address_in(line: bytes) -> str | None:
    """The address of a ready line; None for any other line."""
    try:
        event = json.loads(line)
    except ValueError:
        return None
    if isinstance(event, dict) and event.get("event") == "ready" and isinstance(event.get("address"), str):
        return str(event["address"])
    return None


def _write(log: IO[bytes], output: bytes) -> None:
    log.write(output)
    log.flush()


def _last_line(log: Path) -> str:
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    except OSError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
