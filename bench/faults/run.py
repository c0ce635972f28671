"""Two hundred faults, one after another: each of twelve kinds at each step of a round, and what callers notice.

A trial asks for answers, lets a fault happen exactly when one of the requests comes to a step for the n-th time, asks
for another answer while it lasts, undoes it, and waits until the fleet is whole again. What remains open (which round,
which worker, which of its variants, how the requests speculate) is drawn from the trial's own seed.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from random import Random
from typing import Any

from rich.text import Text

from bench.faults.ground import WHOLE_WITHIN_S, Ground, NotWholeError, broken_ground
from bench.faults.lines import Connection, Proxy, meet_nothing
from bench.faults.records import Kept, kept
from bench.faults.steps import Kind, Step
from bench.faults.strikes import STRIKES, Blow
from bench.figures import Figure, count, figure
from bench.preload import library
from bench.spread import median
from forerun.client import AsyncClient, Generation
from forerun.console import PEOPLE
from forerun.demo import first_difference
from forerun.progress import steps
from forerun.workload import Task
from speculation.errors import ForerunError

AT_ONCE = 2
"""Requests beside each other when the fault happens; as many workers' slots."""

LATEST_ROUND = 4
STRIKES_WITHIN_S = 5.0
"""The last steps of a request may come after its answer."""

DROPPING_ROUNDS = 40
"""Requests of a Redis that is down go on until so many records cannot be kept."""

DRAFTING: Mapping[str, Any] = {"policy": "merged"}
"""All drafters, in every round."""

RUNNING: Mapping[str, Any] = {"policy": "runs"}
"""Nobody drafts, and the target decodes several tokens a round."""

SAMPLINGS: tuple[Mapping[str, Any], ...] = (
    {"temperature": 0.0},
    {"temperature": 1.0},
    {"temperature": 0.7, "top_p": 0.9, "repetition_penalty": 1.1},
)


@dataclass(frozen=True, slots=True)
class Question:
    """One request, and the tokens that plain decoding gives."""

    task: Task
    sampling: Mapping[str, Any]
    expected: tuple[int, ...] = ()

    def __str__(self) -> str:
        return f"{self.task.prompt_set} {self.task.number}, T {self.sampling['temperature']:g}"


@dataclass(frozen=True, slots=True)
class Trial:
    """One fault to come."""

    number: int
    kind: Kind
    step: Step
    seed: int

    def __str__(self) -> str:
        return f"trial {self.number}: {self.kind.value} at {self.step.value} (seed {self.seed})"


@dataclass(slots=True)
class Script:
    """Lets the fault happen when the step has come for the n-th time.

    Attributes:
        struck_s: When it did, by time.perf_counter; None before.
        happened: Set then.
    """

    trial: Trial
    ground: Ground
    rng: Random
    turn: int
    struck_s: float | None = None
    happened: asyncio.Event = field(default_factory=asyncio.Event)

    async def meet(self, step: Step, proxy: Proxy, connection: Connection) -> None:
        """Be told of a step."""
        if step is not self.trial.step or self.struck_s is not None:
            return
        self.turn -= 1
        if self.turn > 0:
            return
        self.struck_s = time.perf_counter()
        await STRIKES[self.trial.kind](Blow(self.ground, step, proxy, connection, self.rng))
        self.happened.set()


@dataclass(slots=True)
class Waits:
    """How long callers wait for tokens once the fault has happened.

    Attributes:
        script: Says when it did.
        seconds: From the fault, or from the token before if that came later, to each token.
    """

    script: Script
    seconds: list[float] = field(default_factory=list)

    def add(self, last_s: float) -> float:
        """Note that a token comes now, after another one, or after the request; returns when."""
        now_s = time.perf_counter()
        if self.script.struck_s is not None:
            self.seconds.append(now_s - max(last_s, self.script.struck_s))
        return now_s


@dataclass(slots=True)
class Tally:
    """What came of all trials.

    Attributes:
        differences: Answers that are not those of plain decoding, in words.
        failures: Requests without an answer, in words.
        leaks: What was held for nobody, in words.
        unstruck: Trials whose step did not come.
        unwhole: Trials after which the fleet did not recover, in words.
        stalls_s: By kind, of each fault the longest that a caller then waited for the next token.
        whole_s: By kind, from when each fault was undone until all was as before.
        trials: By kind.
        deaths: Processes that had ended when a fault was undone.
        failed_forwards: Of workers, for want of memory.
        requests: Asked, those for the expected answers among them.
        rounds: Of answers.
        tokens: Of answers.
    """

    differences: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    leaks: list[str] = field(default_factory=list)
    unstruck: list[str] = field(default_factory=list)
    unwhole: list[str] = field(default_factory=list)
    stalls_s: dict[Kind, list[float]] = field(default_factory=dict)
    whole_s: dict[Kind, list[float]] = field(default_factory=dict)
    trials: Counter[Kind] = field(default_factory=Counter)
    deaths: int = 0
    failed_forwards: int = 0
    requests: int = 0
    rounds: int = 0
    tokens: int = 0

    def add(self, answer: Generation) -> None:
        """Count an answer."""
        self.rounds += len(answer.acceptance.per_step_accepted)
        self.tokens += len(answer.token_ids)


def trials(seeds: int, *, seed: int, kinds: Sequence[Kind], at: Sequence[Step] = tuple(Step)) -> tuple[Trial, ...]:
    """So many, of every kind at every step in turn as far as they go; those of a kind stand together."""
    drawn = [
        Trial(
            number,
            kinds[number % len(kinds)],
            # One step further from kind to kind, too: a few trials see all steps.
            at[(number % len(kinds) + number // len(kinds)) % len(at)],
            seed + number,
        )
        for number in range(seeds)
    ]
    return tuple(sorted(drawn, key=lambda trial: list(Kind).index(trial.kind)))


def possible_kinds() -> tuple[Kind, ...]:
    """All of them, where there is a compiler for `preload.c`."""
    if library() is None:
        PEOPLE.print("[yellow]no C compiler was found: clocks do not jump, and memory does not end[/yellow]")
        return tuple(kind for kind in Kind if kind not in (Kind.CLOCK, Kind.MEMORY))
    return tuple(Kind)


async def measure_faults(
    tasks: Sequence[Task], plan: Sequence[Trial], *, max_new_tokens: int, seed: int, patient: bool = True
) -> tuple[Figure, ...]:
    """What callers and operators notice of faults.

    Args:
        tasks: Asked in turn.
        plan: The faults.
        max_new_tokens: Of an answer.
        seed: Of sampled answers and of the resampling.
        patient: Whether workers are to find out for themselves, within half a minute, that a connection is dead.
    """
    async with broken_ground() as (ground, client):
        suite = Suite(ground, client, max_new_tokens)
        await suite.expect(tasks, seed)
        with steps("faults", len(plan)) as step:
            for number, trial in enumerate(plan):
                await suite.attempt(trial)
                step()
                if number + 1 == len(plan) or plan[number + 1].kind is not trial.kind:
                    await suite.look_for_leaks(trial.kind, patient=patient)
        records, waiting = await suite.log()
        told = int(ground.controller_metric("forerun_log_dropped_total"))
    tally = suite.tally
    for problem in (*tally.differences, *tally.failures, *tally.leaks, *tally.unwhole, *tally.unstruck):
        PEOPLE.print(Text(problem, style="red"))
    return _figures(tally, records, waiting + abs(told - records.num_dropped), seed)


class Suite:
    """Goes through trials.

    Attributes:
        tally: What came of them.
    """

    def __init__(self, ground: Ground, client: AsyncClient, max_new_tokens: int) -> None:
        self.tally = Tally()
        self._ground, self._client = ground, client
        self._max_new_tokens = max_new_tokens
        self._questions: list[Question] = []

    async def expect(self, tasks: Sequence[Task], seed: int) -> None:
        """Have plain decoding answer all questions, before anything goes wrong."""
        for number, task in enumerate(tasks):
            question = Question(task, {**SAMPLINGS[number % len(SAMPLINGS)], "seed": seed + number})
            answer = await self._ask(question, {"policy": "none"})
            self._questions.append(Question(task, question.sampling, answer.token_ids))

    async def attempt(self, trial: Trial) -> None:
        """One trial."""
        rng = Random(trial.seed)
        once = trial.step in (Step.OPEN, Step.FINISH, Step.LOG)
        script = Script(trial, self._ground, rng, turn=rng.randint(1, AT_ONCE if once else LATEST_ROUND))
        self.tally.trials[trial.kind] += 1
        for proxy in self._ground.proxies.values():
            proxy.meet, proxy.rng = script.meet, rng
        waits = Waits(script)
        options = {**DRAFTING, "in_turn": rng.random() < 0.5}
        beside = options if trial.step.drafts or rng.random() < 0.5 else RUNNING
        first, second, later = rng.sample(self._questions, AT_ONCE + 1)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._try(trial, first, options, waits))
            group.create_task(self._try(trial, second, beside, waits))
            group.create_task(self._follow(trial, script, later, beside, waits))
        for proxy in self._ground.proxies.values():
            proxy.meet = meet_nothing
        await self._recover(trial, waits)

    async def _follow(
        self, trial: Trial, script: Script, question: Question, options: Mapping[str, Any], waits: Waits
    ) -> None:
        """Ask once more while the fault lasts; of a Redis that is down, until more waits than can."""
        try:
            async with asyncio.timeout(STRIKES_WITHIN_S):
                await script.happened.wait()
        except TimeoutError:
            return
        before = self.tally.rounds
        await self._try(trial, question, options, waits)
        while trial.kind is Kind.REDIS_DOWN and self.tally.rounds < before + DROPPING_ROUNDS:
            failures = len(self.tally.failures)
            await self._try(trial, question, options, waits)
            if len(self.tally.failures) > failures:
                break

    async def _recover(self, trial: Trial, waits: Waits) -> None:
        if waits.script.struck_s is None:
            self.tally.unstruck.append(f"{trial}: the step did not come")
        elif waits.seconds:
            self.tally.stalls_s.setdefault(trial.kind, []).append(max(waits.seconds))
        self.tally.deaths += sum(not alive for alive in self._ground.alive())
        await self._ground.heal()
        try:
            took_s = await self._ground.until_whole()
        except ForerunError as error:
            self.tally.unwhole.append(f"{trial}: {error}")
            await self._ground.end_connections()
            return
        self.tally.whole_s.setdefault(trial.kind, []).append(took_s)

    async def _try(self, trial: Trial, question: Question, options: Mapping[str, Any], waits: Waits) -> None:
        """Ask, note when tokens come, and hold the answer against what it must be."""
        try:
            answer = await self._ask(question, options, waits)
        except ForerunError as error:
            self.tally.failures.append(f"{trial}: {question}: {error.reason}: {error}")
            return
        if answer.token_ids != question.expected:
            place = first_difference(answer.token_ids, question.expected)
            self.tally.differences.append(
                f"{trial}: {question}: token {place} is {answer.token_ids[place : place + 1]}, "
                f"not {question.expected[place : place + 1]} (request {answer.request_id})"
            )

    async def _ask(self, question: Question, options: Mapping[str, Any], waits: Waits | None = None) -> Generation:
        self.tally.requests += 1
        last_s = time.perf_counter()
        async with self._client.stream(
            question.task.prompt, max_new_tokens=self._max_new_tokens, **question.sampling, **options
        ) as deltas:
            async for delta in deltas:
                if waits is not None and delta.token_ids:
                    last_s = waits.add(last_s)
        self.tally.add(deltas.generation)
        return deltas.generation

    async def look_for_leaks(self, kind: Kind, *, patient: bool) -> None:
        """Look whether anybody holds anything for nobody."""
        if not patient:
            await self._ground.end_connections()
        held = await self._ground.until_free()
        if kind is Kind.MEMORY:
            self.tally.failed_forwards += await asyncio.to_thread(self._ground.failed_forwards)
        self.tally.leaks += [f"after {kind.value}: {what} is {value:g}" for what, value in held.items()]
        await self._ground.end_connections()
        with suppress(NotWholeError):  # that was told above
            await self._ground.until_whole()

    async def log(self) -> tuple[Kept, int]:
        """What the log holds once everything is written, and how many records wait for ever."""

        def waiting() -> int:
            return int(self._ground.controller_metric("forerun_log_waiting"))

        with suppress(NotWholeError):
            await self._ground.until(lambda: not waiting(), lambda: "records still wait", within_s=WHOLE_WITHIN_S)
        with self._ground.redis.client() as redis:
            return await asyncio.to_thread(kept, redis), await asyncio.to_thread(waiting)


def _figures(tally: Tally, records: Kept, unclear: int, seed: int) -> tuple[Figure, ...]:
    uncounted = records.uncounted(tally.rounds, tally.requests) + unclear
    counts = {
        "faults.differences": (len(tally.differences), "answers"),
        "faults.leaks": (len(tally.leaks), "things held for nobody"),
        "faults.uncounted": (uncounted, "records"),
        "faults.failures": (len(tally.failures), "requests"),
        "faults.unrecovered": (len(tally.unwhole), "trials"),
        "faults.unstruck": (len(tally.unstruck), "trials"),
    }
    informing = {
        "faults.trials": (sum(tally.trials.values()), "trials"),
        "faults.deaths": (tally.deaths, "processes"),
        "faults.failed_forwards": (tally.failed_forwards, "forwards"),
        "faults.requests": (tally.requests, "requests"),
        "faults.tokens": (tally.tokens, "tokens"),
        "faults.records_dropped": (records.num_dropped, "records"),
        "faults.records_kept": (len(records.rounds) + len(records.outcomes) + len(records.decisions), "records"),
        "faults.records_twice": (records.doubles, "records"),
    }
    return (
        *(count(name, value, unit, goal=0, at_most=True) for name, (value, unit) in counts.items()),
        *(count(name, value, unit) for name, (value, unit) in informing.items()),
        *_times("faults.stall_s", tally.stalls_s, seed),
        *_times("faults.whole_s", tally.whole_s, seed),
    )


def _times(name: str, by_kind: Mapping[Kind, Sequence[float]], seed: int) -> Iterable[Figure]:
    for kind, seconds in by_kind.items():
        yield figure(f"{name}.{kind.key}", median(seconds, seed=seed), "s", digits=3)
        yield Figure(name=f"{name}.{kind.key}.most", value=round(max(seconds), 3), unit="s")
