"""Does a fleet stay as it is over a long time of mixed requests, of which some are left, while workers die and return?

Every few seconds memory, descriptors and threads of each process are looked at. A process that was started again is
another one: what counts is how each life changes between its warm-up and its end. One request in so many is asked once
more with plain decoding.
"""

import asyncio
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from random import Random
from types import MappingProxyType
from typing import Any

import numpy as np
import psutil
from rich.text import Text

from bench.figures import Figure, count, figure
from bench.fleet import Bench
from bench.load.asking import PLANNER
from bench.load.memory import LEARNER, REDIS
from bench.processes import learners_of
from bench.spread import slope
from forerun.client import AsyncClient
from forerun.console import PEOPLE
from forerun.demo import first_difference
from forerun.local_fleet import CONTROLLER, GATEWAY, LocalFleet
from forerun.progress import steps
from forerun.supervisor import ProcessState
from forerun.workload import Task
from speculation.errors import ForerunError

STREAMS = 4
LOOK_EVERY_S = 2.0
RESTART_EVERY_S = (30.0, 90.0)
LEAVING_SHARE = 0.1
"""Of requests whose callers leave after the first tokens."""

WARM_UP_SHARE, LEAST_WARM_UP_S = 0.2, 30.0
"""Of a life: what is kept for good is met by then."""

LEAST_LOOKS = 20
"""At a life after its warm-up, so that it counts."""

SMALL_CACHE: Mapping[str, int] = MappingProxyType({"slots": 4, "max_length": 512})
"""Of each worker. Keys and values have their memory set aside, and the system gives each page when it is first used: a
large cache would look like a leak until it has been full once."""

MOST_GROWTH = 0.05
MOST_MORE = 2
"""Descriptors and threads: one more connection while a worker is lost, one more thread of a pool."""
SAMPLED_ONE_IN, LEAST_SAMPLED = 100, 50
BYTES_PER_MIB = 2**20


@dataclass(frozen=True, slots=True)
class Look:
    """A process at one moment.

    Attributes:
        at_s: By time.monotonic.
        memory_mib: Resident.
        descriptors: Files, sockets and pipes that it has open.
        threads: That it has.
    """

    at_s: float
    memory_mib: float
    descriptors: int
    threads: int


@dataclass(slots=True)
class Life:
    """A process from one start to the next.

    Attributes:
        name: Of what it is.
        looks: At it.
    """

    name: str
    looks: list[Look] = field(default_factory=list)

    @property
    def warm(self) -> list[Look]:
        """Those after its warm-up."""
        first_s, last_s = self.looks[0].at_s, self.looks[-1].at_s
        warm_s = first_s + max(LEAST_WARM_UP_S, WARM_UP_SHARE * (last_s - first_s))
        return [look for look in self.looks if look.at_s >= warm_s]

    @property
    def counts(self) -> bool:
        """Whether it was long enough."""
        return len(self.warm) >= LEAST_LOOKS

    def ends(self, of: Callable[[Look], float]) -> tuple[float, float]:
        """Medians of its first and of its last quarter."""
        values = [of(look) for look in self.warm]
        quarter = len(values) // 4
        return float(np.median(values[:quarter])), float(np.median(values[-quarter:]))

    @property
    def growth(self) -> float:
        """By which share its memory grew."""
        before, after = self.ends(lambda look: look.memory_mib)
        return after / before - 1.0

    def more(self, of: Callable[[Look], float]) -> float:
        """How many it had more at the end."""
        before, after = self.ends(of)
        return after - before


@dataclass(slots=True)
class Tally:
    """What came of the requests."""

    requests: int = 0
    left: int = 0
    restarts: int = 0
    compared: int = 0
    failures: list[str] = field(default_factory=list)
    differences: list[str] = field(default_factory=list)


async def measure_soak(
    bench: Bench, tasks: Sequence[Task], *, max_new_tokens: int, seed: int, minutes: float
) -> tuple[Figure, ...]:
    """How a fleet changes over so many minutes.

    Args:
        bench: The fleet, whose processes must be known; two targets, or requests wait while one is started again.
        tasks: Asked at random.
        max_new_tokens: Of the longest answers.
        seed: Of everything that is drawn.
        minutes: How long.
    """
    if (fleet := bench.fleet) is None:
        raise ValueError("only a fleet whose processes are known can be measured")
    ends_s = time.monotonic() + 60 * minutes
    tally, lives = Tally(), dict[int, Life]()
    async with asyncio.TaskGroup() as group:
        for stream in range(STREAMS):
            asking = Asking(bench.client, tasks, max_new_tokens, Random(seed + stream), tally)
            group.create_task(_until(ends_s, asking.once))
        group.create_task(_restart(fleet, Random(seed - 1), tally, ends_s))
        with steps("seconds", round(60 * minutes)) as step:
            await _watch(fleet, lives, ends_s, step)
    for problem in (*tally.differences, *tally.failures):
        PEOPLE.print(Text(problem, style="red"))
    return (*_request_figures(tally), *_life_figures([life for life in lives.values() if life.counts], seed))


async def _until(ends_s: float, act: "Callable[[], Any]") -> None:
    while time.monotonic() < ends_s:
        await act()


@dataclass(frozen=True, slots=True)
class Asking:
    """One caller after another: of all kinds of text, short and long answers, likeliest tokens and drawn ones."""

    client: AsyncClient
    tasks: Sequence[Task]
    max_new_tokens: int
    rng: Random
    tally: Tally

    async def once(self) -> None:
        """One request."""
        task = self.rng.choice(self.tasks)
        options: dict[str, Any] = {
            "task": task.prompt_set,
            "temperature": self.rng.choice((0.0, 1.0)),
            "seed": self.rng.getrandbits(32),
            "max_new_tokens": self.rng.randint(2, self.max_new_tokens),
        }
        number, self.tally.requests = self.tally.requests, self.tally.requests + 1
        try:
            if self.rng.random() < LEAVING_SHARE:
                await self._leave(task, options)
            else:
                await self._stay(task, options, compare=_sampled(number))
        except ForerunError as error:
            self.tally.failures.append(f"request {number}: {error.reason}: {error}")

    async def _leave(self, task: Task, options: Mapping[str, Any]) -> None:
        self.tally.left += 1
        async with self.client.stream(task.prompt, policy=PLANNER, **options) as deltas:
            await anext(deltas)

    async def _stay(self, task: Task, options: Mapping[str, Any], *, compare: bool) -> None:
        answer = await self.client.generate(task.prompt, policy=PLANNER, **options)
        if not compare:
            return
        plain = await self.client.generate(task.prompt, policy="none", **options)
        self.tally.compared += 1
        if answer.token_ids != plain.token_ids:
            place = first_difference(answer.token_ids, plain.token_ids)
            self.tally.differences.append(f"{task.prompt_set} {task.number}, {options}: token {place} differs")


def _sampled(number: int) -> bool:
    """One in a hundred, and more at the beginning: a short run is to have some tens, too."""
    return number % SAMPLED_ONE_IN == 0 or (number < 10 * LEAST_SAMPLED and number % 10 == 0)


async def _restart(fleet: LocalFleet, rng: Random, tally: Tally, ends_s: float) -> None:
    """Kill a worker now and then, or ask it to end; its supervisor starts it again."""
    while (pause_s := rng.uniform(*RESTART_EVERY_S)) < ends_s - time.monotonic():
        await asyncio.sleep(pause_s)
        workers = [process for process in fleet.processes if process.name not in (CONTROLLER, GATEWAY)]
        if (pid := rng.choice(workers).pid) is not None:
            os.kill(pid, rng.choice((signal.SIGKILL, signal.SIGTERM)))
            tally.restarts += 1


async def _watch(fleet: LocalFleet, lives: dict[int, Life], ends_s: float, step: Callable[[], None]) -> None:
    began_s, told = time.monotonic(), 0
    while (now_s := time.monotonic()) < ends_s:
        for name, process in _processes(fleet):
            with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                if (look := _look(process, now_s)).memory_mib:  # one that has just died has none
                    lives.setdefault(process.pid, Life(name)).looks.append(look)
        while told < now_s - began_s:
            step()
            told += 1
        await asyncio.sleep(LOOK_EVERY_S)


def _processes(fleet: LocalFleet) -> Iterator[tuple[str, psutil.Process]]:
    """All that serve, those that the controller has started among them. How long a start takes is the machine's."""
    for status in fleet.processes:
        with suppress(psutil.NoSuchProcess):
            if status.pid is None or status.state is not ProcessState.RUNNING:
                continue
            process = psutil.Process(status.pid)
            yield status.name, process
            if status.name == CONTROLLER:
                learners = learners_of(process)
                yield from ((LEARNER, learner) for learner in learners)
                yield from ((REDIS, child) for child in process.children() if child not in learners)


def _look(process: psutil.Process, at_s: float) -> Look:
    with process.oneshot():
        memory_mib = process.memory_info().rss / BYTES_PER_MIB
        return Look(at_s, memory_mib, process.num_fds(), process.num_threads())


def _request_figures(tally: Tally) -> tuple[Figure, ...]:
    return (
        count("soak.differences", len(tally.differences), "answers", goal=0, at_most=True),
        count("soak.failures", len(tally.failures), "requests", goal=0, at_most=True),
        count("soak.compared", tally.compared, "answers"),
        count("soak.requests", tally.requests, "requests"),
        count("soak.left", tally.left, "requests"),
        count("soak.restarts", tally.restarts, "workers"),
    )


def _life_figures(lives: Sequence[Life], seed: int) -> Iterator[Figure]:
    """The worst of all, then the memory of each process, in the life in which it grew most."""
    if not lives:
        return
    worst = max(life.growth for life in lives)
    yield Figure(name="soak.growth.memory", value=round(worst, 4), unit="of it", goal=MOST_GROWTH, at_most=True)
    counted: Mapping[str, Callable[[Look], float]] = {
        "descriptors": lambda look: look.descriptors,
        "threads": lambda look: look.threads,
    }
    for what, value in counted.items():
        most = max(life.more(value) for life in lives)
        yield Figure(name=f"soak.growth.{what}", value=most, unit=what, goal=MOST_MORE, at_most=True)
    for name in dict.fromkeys(life.name for life in lives):
        life = max((life for life in lives if life.name == name), key=lambda life: life.growth)
        minutes, memory_mib = zip(*((look.at_s / 60, look.memory_mib) for look in life.warm), strict=True)
        yield count(f"soak.memory_mib.{name}", round(memory_mib[-1]), "MiB")
        yield figure(f"soak.memory_slope.{name}", slope(minutes, memory_mib, seed=seed), "MiB per minute")
        yield Figure(name=f"soak.growth.memory.{name}", value=round(life.growth, 4), unit="of it")
