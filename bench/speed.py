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


async def measure_speed(
    bench: Bench,
    tasks: Sequence[Task],
    *,
    max_new_tokens: int,
    seed: int,
    lessons: Sequence[Task] = (),
    planner_goal: float | None = None,
) -> tuple[Figure, ...]:
    """Goodput of the planner and of `static` against plain decoding, and what coupling brings at T = 1.

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
    planned = await _against_none(bench, tasks, _planner, max_new_tokens)
    static = await _against_none(bench, plain, _static, max_new_tokens)
    with steps("coupled against uncoupled", len(plain)) as step:
        lengths = [await _lengths(bench, task, seed + turn, max_new_tokens, step) for turn, task in enumerate(plain)]
    return (
        *_gains("planner", planned, planner_goal, seed),
        *_gains("static", static, STATIC_GOAL, seed),
        count("speed.static_chain_length", STATIC_SHAPE.depth, "tokens"),
        *_medians("speed.none_tokens_per_s", _by_set([*planned, *static], lambda pair: pair.first), "tokens/s", seed),
        *_coupling_figures(lengths, seed),
    )


async def measure_chains(bench: Bench, tasks: Sequence[Task], *, max_new_tokens: int, seed: int) -> tuple[Figure, ...]:
    """Goodput of chains of several lengths against plain decoding: how STATIC_SHAPE was chosen."""
    await _warm_up(bench, tasks)
    pairs: dict[int, list[Pair]] = {length: [] for length in CHAIN_LENGTHS}
    with steps("chains", len(tasks)) as step:
        for turn, task in enumerate(tasks):
            variants = {0: _none()} | {length: _static(task, chain_of(length)) for length in CHAIN_LENGTHS}
            goodput = await _goodput_of_each(bench, task, variants, turn, max_new_tokens)
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
            for options in (_none(), _static(task)):
                await bench.client.generate(task.prompt, max_new_tokens=WARM_UP_TOKENS, **options)
            step()


def _none() -> dict[str, Any]:
    return {"policy": "none"}


def _static(task: Task, shape: TreeShape = STATIC_SHAPE) -> dict[str, Any]:
    return {"policy": "static", "drafters": [task.drafter], "shape": shape}


def _planner(task: Task) -> dict[str, Any]:
    return {"policy": "planner"}


async def _against_none(
    bench: Bench, tasks: Sequence[Task], options: Callable[[Task], dict[str, Any]], max_new_tokens: int
) -> list[Pair]:
    """Tokens a second of plain decoding and of what the options ask for, prompt by prompt."""
    pairs = []
    with steps(f"{options(tasks[0])['policy']} against none", len(tasks)) as step:
        for turn, task in enumerate(tasks):
            variants = {"none": _none(), "other": options(task)}
            goodput = await _goodput_of_each(bench, task, variants, turn, max_new_tokens)
            pairs.append(Pair(prompt_set=task.prompt_set, first=goodput["none"], second=goodput["other"]))
            step()
    return pairs


async def _goodput_of_each(
    bench: Bench, task: Task, variants: Mapping[Key, Mapping[str, Any]], turn: int, max_new_tokens: int
) -> Mapping[Key, float]:
    """Tokens a second as the caller sees them; which variant comes first changes from turn to turn."""
    order = list(variants)
    order = order[turn % len(order) :] + order[: turn % len(order)]
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


def _gains(name: str, pairs: Sequence[Pair], goal: float | None, seed: int) -> tuple[Figure, ...]:
    """Over plain decoding, in all and by prompt set, and the tokens a second themselves."""
    ratios = _by_set(pairs, lambda pair: pair.ratio)
    overall = mean_over_groups(list(ratios.values()), np.median, seed=seed)
    return (
        figure(f"speed.{name}_over_none", overall, "x", goal=goal),
        *(figure(f"speed.{name}_over_none.{key}", median(values, seed=seed), "x") for key, values in ratios.items()),
        *_medians(f"speed.{name}_tokens_per_s", _by_set(pairs, lambda pair: pair.second), "tokens/s", seed),
    )


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


def _by_set(pairs: Sequence[Pair], value: Callable[[Pair], float]) -> Samples:
    present = dict.fromkeys(pair.prompt_set for pair in pairs)
    return {name: [value(pair) for pair in pairs if pair.prompt_set == name] for name in present}
