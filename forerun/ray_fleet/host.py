"""What Ray places on a machine: an actor that keeps one worker process there.

The worker is a process of its own, as everywhere else: it drains on SIGTERM, its crash is not the actor's, and nothing
of it is pickled. What dies on a machine that lives is started again there; Ray is for machines that die.
"""

import asyncio
import os
import shlex
import sys
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

from forerun.supervisor import LISTEN, Backoff, ProcessSpec, ProcessStartError, ProcessStatus, Supervisor


@dataclass(frozen=True, slots=True, kw_only=True)
class Hosted:
    """One worker of the fleet, as it was asked for.

    Attributes:
        name: As requests use it.
        words: What it is told, after `forerun worker`.
        needs: What its machine must have, by Ray's names.
        redis: Where it registers.
        namespace: Which fleet it belongs to.
        log_folder: Of its log, on whichever machine it is.
    """

    name: str
    words: str
    needs: Mapping[str, float]
    redis: str
    namespace: str
    log_folder: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Hosting:
    """A worker that runs, or did a moment ago.

    Attributes:
        hosted: What was asked for.
        address: host:port where controllers call it.
        node: Ray's id of its machine.
        restarts: How often it was started again on that machine.
    """

    hosted: Hosted
    address: str
    node: str
    restarts: int


class WorkerHost:
    """The actor. It is there once its worker can be called.

    Args:
        hosted: Which worker.

    Raises:
        RuntimeError: The worker cannot start; it says why. After the loss of a machine it is tried until it can.
    """

    def __init__(self, hosted: Hosted) -> None:
        import ray

        context = ray.get_runtime_context()
        self._hosted, self._node = hosted, context.get_node_id()
        # Workers of one name may share a machine, and its log folder.
        log_folder = Path(hosted.log_folder).expanduser() / f"{hosted.name}-{context.get_actor_id()[:8]}"
        self._keeper = _Keeper(_spec(hosted, ray.util.get_node_ip_address()), log_folder)
        self._keeper.start(patient=context.was_current_actor_reconstructed)

    def hosting(self) -> Hosting:
        """How it is."""
        process = self._keeper.process
        return Hosting(hosted=self._hosted, address=process.address, node=self._node, restarts=process.restarts)

    def stop(self) -> None:
        """Let the worker drain; it is not started again."""
        self._keeper.stop()


def _spec(hosted: Hosted, host: str) -> ProcessSpec:
    place = ("--listen", LISTEN, "--redis", hosted.redis, "--namespace", hosted.namespace)
    words: Sequence[str] = (*shlex.split(hosted.words), "--name", hosted.name, *place)
    return ProcessSpec(
        name=hosted.name, command=(sys.executable, "-P", "-m", "forerun", "worker", *words), listen=f"{host}:0"
    )


class _Keeper:
    """A supervisor on a thread of its own, as an actor's methods are called on another one."""

    def __init__(self, spec: ProcessSpec, log_folder: Path) -> None:
        self._spec, self._log_folder = spec, log_folder
        self._ready: Future[Supervisor] = Future()
        # Ray has its actors use uvloop, which can give a process no group of its own.
        asyncio.set_event_loop_policy(asyncio.DefaultEventLoopPolicy())
        self._loop, self._stop = asyncio.new_event_loop(), asyncio.Event()

    @property
    def process(self) -> ProcessStatus:
        """How the worker is."""
        (process,) = self._ready.result().processes
        return process

    def start(self, *, patient: bool) -> None:
        """Start the worker and wait until it is ready."""
        self._thread = threading.Thread(target=self._run, args=(patient,), daemon=True)
        self._thread.start()
        self._ready.result()

    def stop(self) -> None:
        """Let it drain, and wait for that."""
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def _run(self, patient: bool) -> None:
        try:
            self._loop.run_until_complete(self._keep(patient))
        except BaseException as error:
            if self._ready.done():
                os._exit(1)  # an actor that keeps nothing is of no use: Ray makes a new one
            self._ready.set_exception(RuntimeError(str(error)))

    async def _keep(self, patient: bool) -> None:
        backoff, failures = Backoff(), 0
        while not self._stop.is_set():
            try:
                async with Supervisor(self._log_folder, backoff=backoff) as supervisor:
                    await supervisor.start([self._spec])
                    self._ready.set_result(supervisor)
                    await self._stop.wait()
            except ProcessStartError as error:
                if not patient:
                    # Its own kind does not survive the way to whoever asked: Ray makes errors anew from their text.
                    self._ready.set_exception(RuntimeError(str(error)))
                    return
                failures += 1
                await asyncio.sleep(backoff.pause_s(failures))
