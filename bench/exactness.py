"""Is every answer, whatever was speculated, the one that transformers or plain decoding gives?

Greedy answers in float32 are held against transformers' `generate`. Sampled ones have no such judge, because
transformers draws by other means: they are held against plain decoding with the same seed, whose distribution the suite
tests. In bfloat16 greedy ones are, too: transformers computes in another order there, and where two tokens are nearly
even it may say the other.

All that is asked eight at a time is asked once more while an operator promotes models, takes them back and changes the
configuration (bench/changes.py): of each policy that learns while it is in charge, and of the others.
"""

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

from rich.text import Text

from bench.changes import LEARNERS, operator_of
from bench.figures import Figure, count
from bench.fleet import Bench
from forerun.client import Generation
from forerun.console import PEOPLE
from forerun.demo import first_difference
from forerun.progress import steps
from forerun.reference import Reference
from forerun.workload import Task
from speculation.tree import TreeShape

CHAIN = TreeShape(depth=4, branching=1, budget=4)
TREE = TreeShape(depth=5, branching=3, budget=16)
BUSH = TreeShape(depth=2, branching=4, budget=12)
CONCURRENCIES = (1, 8)

Options = Mapping[str, Any]
Judge = Callable[[Bench, Sequence[Task], int], Awaitable[Mapping[Task, tuple[int, ...]]]]
"""Tokens that greedy answers to tasks must have."""


class Choice(Enum):
    """Which drafters a variant asks for."""

    ANY = "all of the fleet"
    RIGHT = "the one made for the prompt's set"
    WRONG = "one made for another set"
    TWO = "two of the fleet"

    def of(self, drafters: Sequence[str], task: Task) -> Sequence[str]:
        """The chosen ones among a fleet's; none means any."""
        others = [name for name in drafters if name != task.drafter]
        return {
            Choice.ANY: (),
            Choice.RIGHT: [task.drafter],
            Choice.WRONG: others[:1],
            Choice.TWO: drafters[-2:],
        }[self]


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to speculate."""

    name: str
    options: Options
    choice: Choice = Choice.ANY

    def options_for(self, task: Task, drafters: Sequence[str]) -> dict[str, Any]:
        """What the request says about speculation."""
        return {**self.options, "drafters": self.choice.of(drafters, task)}


PLAIN = Variant("none", {"policy": "none"})
VARIANTS = (
    PLAIN,
    Variant("runs", {"policy": "runs"}),
    Variant("static chain", {"policy": "static", "shape": CHAIN}, Choice.RIGHT),
    Variant("static tree", {"policy": "static", "shape": TREE}, Choice.RIGHT),
    Variant("confidence", {"policy": "confidence"}),
    Variant("merged", {"policy": "merged"}),
    Variant("merged-trie", {"policy": "merged-trie", "shape": TREE}),
    Variant("planner", {"policy": "planner"}),
    *(
        Variant(name, {"policy": name})
        for name in ("ucb", "exp3", "linucb", "ensemble-thompson", "squarecb", "specdec++", "task-classifier")
    ),
)
SAMPLED_VARIANTS = (
    *VARIANTS[1:],
    Variant("static bush", {"policy": "static", "shape": BUSH}, Choice.RIGHT),
    Variant("the wrong drafter", {"policy": "static", "shape": TREE}, Choice.WRONG),
    Variant("two drafters", {"policy": "merged", "shape": BUSH}, Choice.TWO),
    Variant("uncoupled", {"policy": "static", "shape": TREE, "uncoupled": True}, Choice.RIGHT),
)
SAMPLINGS: Mapping[str, Options] = MappingProxyType(
    {
        "T 0.7": {"temperature": 0.7},
        "T 1": {"temperature": 1.0},
        "T 1, top-p 0.9": {"temperature": 1.0, "top_p": 0.9},
        "T 0.7, top-k 40": {"temperature": 0.7, "top_k": 40},
        "T 1, min-p 0.05": {"temperature": 1.0, "min_p": 0.05},
        "T 0.7, penalties": {
            "temperature": 0.7,
            "repetition_penalty": 1.2,
            "presence_penalty": 0.3,
            "frequency_penalty": 0.2,
        },
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One request, and the tokens it must give."""

    task: Task
    variant: Variant
    sampling_name: str
    sampling: Options
    concurrency: int
    expected: tuple[int, ...]

    def __str__(self) -> str:
        return (
            f"{self.task.prompt_set} {self.task.number}, {self.variant.name}, {self.sampling_name}, "
            f"{self.concurrency} at once"
        )


@dataclass(slots=True)
class Tally:
    """What was asked, what came, and what should not have."""

    requests: int = 0
    tokens: int = 0
    near_ties: int = 0
    decided_by: set[str] = field(default_factory=set)
    differences: list[str] = field(default_factory=list)

    def add(self, case: Case, answer: Generation) -> None:
        """Hold an answer against what it must be."""
        self.requests += 1
        self.tokens += len(answer.token_ids)
        self.near_ties += answer.near_ties
        if answer.decision is not None and answer.decision.model_version:
            self.decided_by.add(answer.decision.model_version)
        if answer.token_ids != case.expected:
            place = first_difference(answer.token_ids, case.expected)
            self.differences.append(
                f"{case}: token {place} is {answer.token_ids[place : place + 1]}, "
                f"not {case.expected[place : place + 1]} (request {answer.request_id}, seed {answer.seed})"
            )

    def figures(self) -> tuple[Figure, ...]:
        """The counts."""
        return (
            count("exactness.differences", len(self.differences), "answers", goal=0, at_most=True),
            count("exactness.requests", self.requests, "requests"),
            count("exactness.tokens", self.tokens, "tokens"),
            count("exactness.near_ties", self.near_ties, "tokens"),
            count("exactness.versions_served", len(self.decided_by), "versions"),
        )


async def by_transformers(bench: Bench, tasks: Sequence[Task], max_new_tokens: int) -> Mapping[Task, tuple[int, ...]]:
    """Greedy answers of transformers' `generate`, in float32 on the processor."""
    reference = await asyncio.to_thread(Reference.load, bench.target_folder)
    expected = {}
    with steps("transformers", len(tasks)) as step:
        for task in tasks:
            expected[task] = await asyncio.to_thread(reference.greedy, reference.encode(task.prompt), max_new_tokens)
            step()
    return expected


async def by_plain_decoding(bench: Bench, tasks: Sequence[Task], max_new_tokens: int) -> Mapping[Task, tuple[int, ...]]:
    """Greedy answers of the fleet itself without speculation: in other formats transformers rounds in its own way."""
    expected = {}
    with steps("plain decoding", len(tasks)) as step:
        for task in tasks:
            answer = await bench.client.generate(task.prompt, max_new_tokens=max_new_tokens, **PLAIN.options)
            expected[task] = answer.token_ids
            step()
    return expected


async def measure_exactness(
    bench: Bench, tasks: Sequence[Task], *, max_new_tokens: int, seed: int, judge: Judge = by_transformers
) -> tuple[Figure, ...]:
    """Ask every task in every variant, greedily and sampled, one at a time and eight at once.

    Args:
        bench: The fleet.
        tasks: Prompts.
        max_new_tokens: Of an answer.
        seed: Of sampled answers.
        judge: What greedy answers are held against.
    """
    tally = Tally()
    expected = await judge(bench, tasks, max_new_tokens)
    for concurrency in CONCURRENCIES:
        greedy = [
            _case(task, variant, concurrency=concurrency, expected=expected[task], name="greedy")
            for variant in VARIANTS
            for task in tasks
        ]
        await _ask(bench, greedy, tally, max_new_tokens, f"greedy, {concurrency} at once")
    sampled = await _sampled(bench, tasks, max_new_tokens, seed)
    await _ask(bench, sampled, tally, max_new_tokens, "sampled, 8 at once")
    changes: tuple[Figure, ...] = ()
    if bench.file is not None:
        changes = await _while_changing(bench, [*greedy, *sampled], tally, max_new_tokens, bench.file)
    for difference in tally.differences:
        PEOPLE.print(Text(difference, style="red"))
    return (*tally.figures(), *changes)


async def _sampled(bench: Bench, tasks: Sequence[Task], max_new_tokens: int, seed: int) -> list[Case]:
    """Each task with one of the samplings in turn, so that all sets and all samplings meet all variants."""
    cases: list[Case] = []
    samplings = list(SAMPLINGS.items())
    with steps("plain decoding of samples", len(tasks)) as step:
        for turn, task in enumerate(tasks):
            # Shifted in every round through the sets: else a set would meet the same sampling again and again.
            name, sampling = samplings[(turn + turn // len(samplings)) % len(samplings)]
            sampling = {**sampling, "seed": seed + turn}
            plain = await bench.client.generate(
                task.prompt, max_new_tokens=max_new_tokens, **sampling, **PLAIN.options_for(task, bench.drafters)
            )
            cases += [
                _case(task, variant, concurrency=8, expected=plain.token_ids, name=name, sampling=sampling)
                for variant in SAMPLED_VARIANTS
            ]
            step()
    return cases


def _case(
    task: Task,
    variant: Variant,
    *,
    concurrency: int,
    expected: tuple[int, ...],
    name: str,
    sampling: Options = MappingProxyType({}),
) -> Case:
    return Case(
        task=task,
        variant=variant,
        sampling_name=name,
        sampling=sampling,
        concurrency=concurrency,
        expected=expected,
    )


async def _ask(bench: Bench, cases: Sequence[Case], tally: Tally, max_new_tokens: int, what: str) -> None:
    """Every case, as many at once as they say; all of them say the same."""
    places = asyncio.Semaphore(cases[0].concurrency)
    with steps(what, len(cases)) as step:
        async with asyncio.TaskGroup() as group:
            for case in cases:
                group.create_task(_ask_one(bench, case, tally, max_new_tokens, places, step))


async def _ask_one(
    bench: Bench,
    case: Case,
    tally: Tally,
    max_new_tokens: int,
    places: asyncio.Semaphore,
    step: Callable[[], None],
) -> None:
    async with places:
        options = {**case.sampling, **case.variant.options_for(case.task, bench.drafters)}
        tally.add(case, await bench.client.generate(case.task.prompt, max_new_tokens=max_new_tokens, **options))
    step()


async def _while_changing(
    bench: Bench, cases: Sequence[Case], tally: Tally, max_new_tokens: int, file: Path
) -> tuple[Figure, ...]:
    """Every case at least once more, while an operator changes whatever he can."""
    before = tally.requests
    async with operator_of(file, tally.decided_by) as operator:
        await operator.retrain()
        for learner in LEARNERS:
            await operator.put_in_charge(learner)
            of_it = [case for case in cases if case.variant.options["policy"] == learner]
            work = partial(operator.work, learner, decides=True)
            await _ask_beside(bench, of_it, tally, max_new_tokens, f"{learner}, while it changes", work)
        others = [case for case in cases if case.variant.options["policy"] not in LEARNERS]
        work = partial(operator.work, LEARNERS[-1], decides=False)
        await _ask_beside(bench, others, tally, max_new_tokens, "the others, while things change", work)
    asked = count("exactness.requests_while_changing", tally.requests - before, "requests")
    return asked, *operator.deeds.figures()


class Work(Protocol):
    """What goes on beside requests."""

    def __call__(self, *, until: asyncio.Event) -> Coroutine[Any, Any, None]:
        """Go on until the event, at least."""


async def _ask_beside(
    bench: Bench, cases: Sequence[Case], tally: Tally, max_new_tokens: int, what: str, work: Work
) -> None:
    """The cases again and again, until the work beside them is done; it goes on until each was asked."""
    all_asked, places = asyncio.Event(), asyncio.Semaphore(cases[0].concurrency)
    endless = enumerate(itertools.cycle(cases))
    with steps(what, len(cases)) as step:
        async with asyncio.TaskGroup() as group:
            working = group.create_task(work(until=all_asked))

            async def ask() -> None:
                for number, case in endless:
                    if number >= len(cases):
                        all_asked.set()
                        if working.done():
                            return
                    await _ask_one(bench, case, tally, max_new_tokens, places, step)

            for _ in range(cases[0].concurrency):
                group.create_task(ask())
