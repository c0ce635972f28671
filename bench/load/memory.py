"""Does a fleet's memory stay flat over thousands of requests?

After a warm-up, in which every process meets what it keeps for good, the memory of each is looked at every few seconds
while requests are served. What counts is how it grows with the requests of the second half.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import psutil

from bench.figures import Figure, count, figure
from bench.fleet import Bench
from bench.load.asking import PLANNER, Ask, Asked, asking, fate_figures
from bench.processes import learners_of
from bench.spread import Spread, slope
from controller.settings import RouterSettings
from forerun.local_fleet import CONTROLLER, EMBEDDED_REDIS, LocalFleet
from forerun.progress import steps
from forerun.workload import Task
from speculation.errors import ForerunError

STREAMS = 4
WARM_UP_SHARE = 0.05
LOOK_EVERY_S = 2.0
MOST_GROWTH_MIB = 2.0
"""Per 1,000 requests, of any process."""

SERVING = RouterSettings(policy=PLANNER)
"""As in service: idle drafters score a share of the answers."""

LOGGED_BRIEFLY = EMBEDDED_REDIS.model_copy(update={"log_entries": 1_000})
"""Redis grows until the log is as long as it may be; here that is soon."""

REDIS, LEARNER = "redis", "learner"
BYTES_PER_MIB = 2**20

Resident = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Look:
    """Resident memory of every process, in MiB, when so many requests had been answered."""

    requests: int
    resident_mib: Resident


@dataclass(slots=True)
class _Run:
    """What has happened so far."""

    asked: list[Asked] = field(default_factory=list)
    looks: list[Look] = field(default_factory=list)


class ProcessLostError(ForerunError):
    """A process of the fleet died: its memory cannot be followed."""

    reason = "PROCESS_LOST"


async def measure_memory(
    bench: Bench, tasks: Sequence[Task], *, max_new_tokens: int, seed: int, requests: int
) -> tuple[Figure, ...]:
    """How memory grows over so many short answers.

    Args:
        bench: The fleet, whose processes must be known.
        tasks: Asked in turn; no two requests are alike, see `varied`.
        max_new_tokens: Of an answer.
        seed: Of sampled answers and of the resampling.
        requests: How many, after the warm-up.
    """
    if (fleet := bench.fleet) is None:
        raise ValueError("only a fleet whose processes are known can be measured")
    warm_up = int(WARM_UP_SHARE * requests)
    different = varied(tasks, warm_up + requests)
    ask = asking(bench.client, different, max_new_tokens=max_new_tokens, seed=seed, policy=PLANNER)
    with steps("warming up", warm_up) as step:
        await _serve(ask, warm_up, fleet, step)
    with steps("requests", requests) as step:
        return _figures(await _serve(lambda number: ask(warm_up + number), requests, fleet, step), seed)


def varied(tasks: Sequence[Task], how_many: int) -> tuple[Task, ...]:
    """The tasks again and again, each time without one more character at the beginning: whatever is kept by prompt
    meets new ones all the time."""
    return tuple(
        replace(task, prompt=task.prompt[min(turn // len(tasks), len(task.prompt) - 1) :])
        for turn, task in ((turn, tasks[turn % len(tasks)]) for turn in range(how_many))
    )


async def _serve(ask: Ask, requests: int, fleet: LocalFleet, step: Callable[[], None]) -> _Run:
    """Serve so many requests, and look at the memory meanwhile."""
    run, waiting = _Run(), iter(range(requests))

    async def stream() -> None:
        for number in waiting:
            run.asked.append(await ask(number))
            step()

    async with asyncio.TaskGroup() as group:
        streams = [group.create_task(stream()) for _ in range(STREAMS)]
        while not all(task.done() for task in streams):
            run.looks.append(Look(len(run.asked), resident_mib(fleet)))
            await asyncio.wait(streams, timeout=LOOK_EVERY_S)
    run.looks.append(Look(len(run.asked), resident_mib(fleet)))
    return run


def resident_mib(fleet: LocalFleet) -> Resident:
    """Resident memory of each process by its name, the controller's learner and Redis among them.

    Raises:
        ProcessLostError: One of them has died, or was started again.
    """
    resident: dict[str, float] = {}
    for process in fleet.processes:
        if process.pid is None or process.restarts:
            raise ProcessLostError(f"{process.name} died; its log is {process.log}")
        kept = psutil.Process(process.pid)
        resident[process.name] = _mib(kept)
        if process.name == CONTROLLER:
            learners = learners_of(kept)
            resident[LEARNER] = sum(map(_mib, learners))
            resident[REDIS] = sum(_mib(child) for child in kept.children() if child not in learners)
    return resident


def _mib(process: psutil.Process) -> float:
    return float(process.memory_info().rss) / BYTES_PER_MIB


def growth_mib(looks: Sequence[Look], name: str, *, seed: int) -> Spread:
    """MiB that a process grows by 1,000 requests, over the second half of them."""
    half = looks[-1].requests / 2
    late = [look for look in looks if look.requests >= half]
    return slope([look.requests / 1000 for look in late], [look.resident_mib[name] for look in late], seed=seed)


def _figures(run: _Run, seed: int) -> tuple[Figure, ...]:
    growth = {name: growth_mib(run.looks, name, seed=seed) for name in run.looks[-1].resident_mib}
    worst = max(growth.values(), key=lambda spread: spread.value)
    unit = "MiB per 1,000 requests"
    return (
        figure("load.memory_growth_mib", worst, unit, goal=MOST_GROWTH_MIB, at_most=True),
        *(figure(f"load.memory_growth_mib.{name}", spread, unit) for name, spread in growth.items()),
        *(count(f"load.memory_mib.{name}", round(mib), "MiB") for name, mib in run.looks[-1].resident_mib.items()),
        *fate_figures(run.asked),
    )
