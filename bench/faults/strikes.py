"""What each kind of fault does to the fleet."""

import asyncio
import signal
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from random import Random

from bench.faults.ground import CONTROLLER, DRAFTERS, REDIS, TARGETS, Ground
from bench.faults.lines import Connection, Proxy
from bench.faults.steps import Kind, Step

SLOW_S = (0.02, 0.3)
"""Each way, for each piece that goes through."""

REDIS_SLOW_S = (0.3, 2.5)
"""Around what the controller waits for Redis."""

CONTROLLER_FROZEN_S = 1.5
MOST_BYTES = 16_384
"""Of a tensor, for a worker that runs out of memory; the logits of two nodes are as large."""

JUMPS_S = (-86_400.0, -3_600.0, -20.0, 20.0, 3_600.0, 86_400.0)


@dataclass(frozen=True, slots=True)
class Blow:
    """One fault about to happen.

    Attributes:
        ground: Where.
        step: When.
        proxy: Before the server that the step goes to.
        connection: Which the step goes over.
        rng: Decides what is left open.
    """

    ground: Ground
    step: Step
    proxy: Proxy
    connection: Connection
    rng: Random

    @property
    def worker(self) -> str:
        """Whom it strikes: the worker at which the request is, or where that is Redis, any."""
        return self.proxy.name if self.proxy.name in self.ground.workers else self.rng.choice([*TARGETS, *DRAFTERS])


async def _kill(blow: Blow) -> None:
    blow.ground.signal(_server(blow), signal.SIGKILL)


async def _freeze(blow: Blow) -> None:
    """A controller is thawed again soon: until then nobody can be answered."""
    name = blow.rng.choice([_server(blow), _server(blow), CONTROLLER])
    blow.ground.signal(name, signal.SIGSTOP)
    if name == CONTROLLER:
        loop = asyncio.get_running_loop()
        loop.call_later(CONTROLLER_FROZEN_S, blow.ground.signal, CONTROLLER, signal.SIGCONT)


async def _slow(blow: Blow) -> None:
    blow.ground.proxies[blow.worker].delay_s = blow.rng.uniform(*SLOW_S)


async def _cut(blow: Blow) -> None:
    blow.proxy.cut()


async def _half_open(blow: Blow) -> None:
    blow.proxy.swallow()


async def _corrupt(blow: Blow) -> None:
    blow.connection.corrupts += 1


async def _stale(blow: Blow) -> None:
    """The worker is told another text, or its answer is an earlier one."""
    proxy = blow.ground.proxies[blow.worker]
    for connection in proxy.connections if proxy is not blow.proxy else (blow.connection,):
        if blow.rng.random() < 0.5:
            connection.mistells += 1
        else:
            connection.repeats += 1


async def _disk_full(blow: Blow) -> None:
    """No file of any process grows any more."""
    for name in (*blow.ground.processes, REDIS):
        blow.ground.limit_files(name, 0)


async def _redis_down(blow: Blow) -> None:
    await asyncio.to_thread(blow.ground.redis.kill)


async def _redis_slow(blow: Blow) -> None:
    blow.ground.proxies[REDIS].delay_s = blow.rng.uniform(*REDIS_SLOW_S)


async def _clock(blow: Blow) -> None:
    names = [CONTROLLER, REDIS, blow.worker]
    jump_s = blow.rng.choice(JUMPS_S)
    for name in blow.rng.choice([[name] for name in names] + [[*blow.ground.surroundings]]):
        blow.ground.surroundings[name].set_clock_ahead(jump_s)


async def _memory(blow: Blow) -> None:
    """The worker gets no more memory for its larger tensors."""
    blow.ground.surroundings[blow.worker].limit_memory(MOST_BYTES)


def _server(blow: Blow) -> str:
    """The process that the step goes to; killed or frozen, Redis is as good as a worker."""
    return blow.proxy.name


STRIKES: Mapping[Kind, Callable[[Blow], Awaitable[None]]] = {
    Kind.KILL: _kill,
    Kind.FREEZE: _freeze,
    Kind.SLOW: _slow,
    Kind.CUT: _cut,
    Kind.HALF_OPEN: _half_open,
    Kind.CORRUPT: _corrupt,
    Kind.STALE: _stale,
    Kind.DISK_FULL: _disk_full,
    Kind.REDIS_DOWN: _redis_down,
    Kind.REDIS_SLOW: _redis_slow,
    Kind.CLOCK: _clock,
    Kind.MEMORY: _memory,
}
