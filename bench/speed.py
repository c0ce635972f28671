"""How much faster is speculation, through the whole service, on one stream?

Variants alternate prompt by prompt, so that a machine that slows down slows both. A ratio is taken prompt by prompt:
both answers have the same tokens.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from bench.figures import Figure, count, figure
from bench.fleet import Bench
from bench.spread import mean_over_groups, median
from forerun.progress import steps
from forerun.workload import PLAIN_DOMAINS, Task
from speculation.tree import TreeShape


def chain_of(length: int) -> TreeShape:
    """A tree without branches."""
    return TreeShape(depth=length, branching=1, budget=length)


STATIC_SHAPE = chain_of(4)
"""What `static` drafts here; `forerun bench chains` shows how other lengths do."""

STATIC_GOAL = 1.7
PLANNER_GOALS = {"deep": 2.2, "wide": 2.8}
"""By what the target costs."""

CHAIN_LENGTHS = (3, 4, 5, 6, 8)

COUPLED_SHAPE = TreeShape(depth=16, branching=4, budget=16)
"""Sixteen nodes, as in the coupling study, placed as each drafter likes: a bound on depth would be what is compared
wherever both reach it (docs/log.md)."""

WARM_UP_TOKENS = 16

NONE, RUNS, STATIC, PLANNER = "none", "runs", "static", "planner"
"""The policies that are compared; the first two are plain decoding."""

Samples = Mapping[str, Sequence[float]]
Key = TypeVar("Key", str, int)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """One prompt, answered in two ways."""

    prompt_set: str
    first: float
    second: float

    @property
    def ratio(self) -> float:
        """The second over the first."""
        return self.second / self.first


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """One prompt, answered by several policies.

    Attributes:
        prompt_set: Its set.
        goodput: Tokens a second by policy.
    """

    prompt_set: str
    goodput: Mapping[str, float]


Entry = TypeVar("Entry", Pair, Served)


async def measure_speed(
    bench: Bench,
    tasks: Sequence[Task],
    *,
    max_new_tokens: int,
    seed: int,
    lessons: Sequence[Task] = (),
    planner_goal: float | None = None,
) -> tuple[Figure, ...]:
    """Goodput of the planner and of `static` against plain decoding, a token a round and in runs; coupling's at T = 1.

    Args:
        bench: The fleet.
        tasks: Prompts that count; `static` and coupling take those that have a specialist.
        max_new_tokens: Of an answer.
        seed: Of sampled answers and of the resampling.
        lessons: Prompts by which the planner learns first: it is told neither set nor drafter.
        planner_goal: What the planner should reach at what this target costs.
    """
    plain = [task for task in tasks if task.prompt_set in PLAIN_DOMAINS]
    await _warm_up(bench, plain)
    with steps("the planner learns", len(lessons)) as step:
        for task in lessons:
            await bench.client.generate(task.prompt, max_new_tokens=max_new_tokens, **_planner(task))
            step()
    planned = await _side_by_side(bench, tasks, {NONE: _none, RUNS: _runs, PLANNER: _planner}, max_new_tokens)
    static = await _side_by_side(bench, plain, {NONE: _none, STATIC: _static}, max_new_tokens)
    with steps("coupled against uncoupled", len(plain)) as step:
        lengths = [await _lengths(bench, task, seed + turn, max_new_tokens, step) for turn, task in enumerate(plain)]
    return (
        *_gains(PLANNER, NONE, planned, seed, planner_goal),
        *_gains(PLANNER, RUNS, planned, seed),
        *_gains(STATIC, NONE, static, seed, STATIC_GOAL),
        count("speed.static_chain_length", STATIC_SHAPE.depth, "tokens"),
        *_rates(PLANNER, planned, seed),
        *_rates(RUNS, planned, seed),
        *_rates(STATIC, static, seed),
        *_rates(NONE, [*planned, *static], seed),
        *_coupling_figures(lengths, seed),
    )


async def measure_chains(bench: Bench, tasks: Sequence[Task], *, max_new_tokens: int, seed: int) -> tuple[Figure, ...]:
    """Goodput of chains of several lengths against plain decoding: how STATIC_SHAPE was chosen."""
    await _warm_up(bench, tasks)
    pairs: dict[int, list[Pair]] = {length: [] for length in CHAIN_LENGTHS}
    with steps("chains", len(tasks)) as step:
        for task in tasks:
            variants = {0: _none(task)} | {length: _static(task, chain_of(length)) for length in CHAIN_LENGTHS}
            goodput = await _goodput_of_each(bench, task, variants, max_new_tokens)
            for length in CHAIN_LENGTHS:
                pairs[length].append(Pair(prompt_set=task.prompt_set, first=goodput[0], second=goodput[length]))
            step()
    ratios = {length: list(_by_set(pairs[length], lambda pair: pair.ratio).values()) for length in CHAIN_LENGTHS}
    return tuple(
        figure(f"chains.{length}_over_none", mean_over_groups(ratios[length], np.median, seed=seed), "x")
        for length in CHAIN_LENGTHS
    )


async def _warm_up(bench: Bench, tasks: Sequence[Task]) -> None:
    """Both variants of every domain once, so that no measured answer pays for a first touch."""
    firsts = {task.prompt_set: task for task in reversed(tasks)}
    with steps("warming up", len(firsts)) as step:
        for task in firsts.values():
            for options in (_none(task), _static(task)):
                await bench.client.generate(task.prompt, max_new_tokens=WARM_UP_TOKENS, **options)
            step()


def _none(_: Task) -> dict[str, Any]:
    return {"policy": NONE}


def _runs(_: Task) -> dict[str, Any]:
    return {"policy": RUNS}


def _static(task: Task, shape: TreeShape = STATIC_SHAPE) -> dict[str, Any]:
    return {"policy": STATIC, "drafters": [task.drafter], "shape": shape}


def _planner(_: Task) -> dict[str, Any]:
    return {"policy": PLANNER}


async def _side_by_side(
    bench: Bench, tasks: Sequence[Task], variants: Mapping[str, Callable[[Task], dict[str, Any]]], max_new_tokens: int
) -> list[Served]:
    """Tokens a second of every variant, prompt by prompt."""
    served = []
    with steps(" against ".join(reversed(list(variants))), len(tasks)) as step:
        for task in tasks:
            options = {name: asked(task) for name, asked in variants.items()}
            goodput = await _goodput_of_each(bench, task, options, max_new_tokens)
            served.append(Served(prompt_set=task.prompt_set, goodput=goodput))
            step()
    return served


async def _goodput_of_each(
    bench: Bench, task: Task, variants: Mapping[Key, Mapping[str, Any]], max_new_tokens: int
) -> Mapping[Key, float]:
    """Tokens a second as the caller sees them; which variant comes first changes from prompt to prompt of a set."""
    order = list(variants)
    first = task.number % len(order)
    order = order[first:] + order[:first]
    goodput: dict[Key, float] = {}
    for name in order:
        began = time.perf_counter()
        answer = await bench.client.generate(task.prompt, max_new_tokens=max_new_tokens, **variants[name])
        goodput[name] = answer.usage.completion_tokens / (time.perf_counter() - began)
    return goodput


async def _lengths(bench: Bench, task: Task, seed: int, max_new_tokens: int, step: Callable[[], None]) -> Pair:
    """Tokens a round without and with shared noise; the text is the same."""
    first = await tokens_a_round_t1(bench, task, seed, max_new_tokens, uncoupled=True)
    second = await tokens_a_round_t1(bench, task, seed, max_new_tokens, uncoupled=False)
    step()
    return Pair(prompt_set=task.prompt_set, first=first, second=second)


async def tokens_a_round_t1(
    bench: Bench, task: Task, seed: int, max_new_tokens: int, *, uncoupled: bool, shape: TreeShape = COUPLED_SHAPE
) -> float:
    """Of an answer at T = 1 with trees of a shape by the right drafter."""
    answer = await bench.client.generate(
        task.prompt,
        max_new_tokens=max_new_tokens,
        temperature=1.0,
        seed=seed,
        policy="static",
        drafters=[task.drafter],
        shape=shape,
        uncoupled=uncoupled,
    )
    return answer.tokens_per_round


def _gains(name: str, over: str, served: Sequence[Served], seed: int, goal: float | None = None) -> tuple[Figure, ...]:
    """Of one variant over another one, in all and by prompt set."""
    ratios = _by_set(served, lambda one: one.goodput[name] / one.goodput[over])
    overall = mean_over_groups(list(ratios.values()), np.median, seed=seed)
    figures = {key: median(values, seed=seed) for key, values in ratios.items()}
    return (
        figure(f"speed.{name}_over_{over}", overall, "x", goal=goal),
        *(figure(f"speed.{name}_over_{over}.{key}", spread, "x") for key, spread in figures.items()),
    )


def _rates(name: str, served: Sequence[Served], seed: int) -> tuple[Figure, ...]:
    """Tokens a second of a variant."""
    return _medians(f"speed.{name}_tokens_per_s", _by_set(served, lambda one: one.goodput[name]), "tokens/s", seed)


def _coupling_figures(pairs: Sequence[Pair], seed: int) -> tuple[Figure, ...]:
    ratios = _by_set(pairs, lambda pair: pair.ratio)
    overall = mean_over_groups(list(ratios.values()), np.mean, seed=seed)
    return (
        figure("speed.coupled_over_uncoupled_t1", overall, "x", goal=1.5),
        *_medians("speed.uncoupled_tokens_per_round_t1", _by_set(pairs, lambda pair: pair.first), "tokens", seed),
        *_medians("speed.coupled_tokens_per_round_t1", _by_set(pairs, lambda pair: pair.second), "tokens", seed),
    )


def _medians(name: str, samples: Samples, unit: str, seed: int) -> tuple[Figure, ...]:
    return tuple(
        figure(f"{name}.{domain}", median(values, seed=seed), unit, digits=2) for domain, values in samples.items()
    )


def _by_set(entries: Sequence[Entry], value: Callable[[Entry], float]) -> Samples:
    present = dict.fromkeys(entry.prompt_set for entry in entries)
    return {name: [value(entry) for entry in entries if entry.prompt_set == name] for name in present}
