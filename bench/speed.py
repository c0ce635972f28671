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

    domain: str
    first: float
    second: float

    @property
    def ratio(self) -> float:
        """The second over the first."""
        return self.second / self.first


async def measure_speed(bench: Bench, tasks: Sequence[Task], *, max_new_tokens: int, seed: int) -> tuple[Figure, ...]:
    """Goodput of `static` with the right drafter against plain decoding, and what coupling brings at T = 1."""
    await _warm_up(bench, tasks)
    with steps("static against none", len(tasks)) as step:
        goodputs = [await _goodputs(bench, task, turn, max_new_tokens, step) for turn, task in enumerate(tasks)]
    with steps("coupled against uncoupled", len(tasks)) as step:
        lengths = [await _lengths(bench, task, seed + turn, max_new_tokens, step) for turn, task in enumerate(tasks)]
    return (*_speed_figures(goodputs, seed), *_coupling_figures(lengths, seed))


async def measure_chains(bench: Bench, tasks: Sequence[Task], *, max_new_tokens: int, seed: int) -> tuple[Figure, ...]:
    """Goodput of chains of several lengths against plain decoding: how STATIC_SHAPE was chosen."""
    await _warm_up(bench, tasks)
    pairs: dict[int, list[Pair]] = {length: [] for length in CHAIN_LENGTHS}
    with steps("chains", len(tasks)) as step:
        for turn, task in enumerate(tasks):
            variants = {0: _none()} | {length: _static(task, chain_of(length)) for length in CHAIN_LENGTHS}
            goodput = await _goodput_of_each(bench, task, variants, turn, max_new_tokens)
            for length in CHAIN_LENGTHS:
                pairs[length].append(Pair(domain=task.prompt_set, first=goodput[0], second=goodput[length]))
            step()
    ratios = {length: list(_by_domain(pairs[length], lambda pair: pair.ratio).values()) for length in CHAIN_LENGTHS}
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


async def _goodputs(bench: Bench, task: Task, turn: int, max_new_tokens: int, step: Callable[[], None]) -> Pair:
    """Tokens a second of plain decoding and of `static`."""
    goodput = await _goodput_of_each(bench, task, {"none": _none(), "static": _static(task)}, turn, max_new_tokens)
    step()
    return Pair(domain=task.prompt_set, first=goodput["none"], second=goodput["static"])


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
    return Pair(domain=task.prompt_set, first=first, second=second)


async def tokens_a_round_t1(bench: Bench, task: Task, seed: int, max_new_tokens: int, *, uncoupled: bool) -> float:
    """Of an answer at T = 1 with trees of COUPLED_SHAPE by the right drafter."""
    answer = await bench.client.generate(
        task.prompt,
        max_new_tokens=max_new_tokens,
        temperature=1.0,
        seed=seed,
        policy="static",
        drafters=[task.drafter],
        shape=COUPLED_SHAPE,
        uncoupled=uncoupled,
    )
    return answer.tokens_per_round


def _speed_figures(pairs: Sequence[Pair], seed: int) -> tuple[Figure, ...]:
    ratios = _by_domain(pairs, lambda pair: pair.ratio)
    overall = mean_over_groups(list(ratios.values()), np.median, seed=seed)
    return (
        figure("speed.static_over_none", overall, "x", goal=1.7),
        count("speed.static_chain_length", STATIC_SHAPE.depth, "tokens"),
        *(figure(f"speed.static_over_none.{name}", median(ratios[name], seed=seed), "x") for name in ratios),
        *_medians("speed.none_tokens_per_s", _by_domain(pairs, lambda pair: pair.first), "tokens/s", seed),
        *_medians("speed.static_tokens_per_s", _by_domain(pairs, lambda pair: pair.second), "tokens/s", seed),
    )


def _coupling_figures(pairs: Sequence[Pair], seed: int) -> tuple[Figure, ...]:
    ratios = _by_domain(pairs, lambda pair: pair.ratio)
    overall = mean_over_groups(list(ratios.values()), np.mean, seed=seed)
    return (
        figure("speed.coupled_over_uncoupled_t1", overall, "x", goal=1.5),
        *_medians("speed.uncoupled_tokens_per_round_t1", _by_domain(pairs, lambda pair: pair.first), "tokens", seed),
        *_medians("speed.coupled_tokens_per_round_t1", _by_domain(pairs, lambda pair: pair.second), "tokens", seed),
    )


def _medians(name: str, samples: Samples, unit: str, seed: int) -> tuple[Figure, ...]:
    return tuple(
        figure(f"{name}.{domain}", median(values, seed=seed), unit, digits=2) for domain, values in samples.items()
    )


def _by_domain(pairs: Sequence[Pair], value: Callable[[Pair], float]) -> Samples:
    present = [domain for domain in PLAIN_DOMAINS if any(pair.domain == domain for pair in pairs)]
    return {domain: [value(pair) for pair in pairs if pair.domain == domain] for domain in present}
