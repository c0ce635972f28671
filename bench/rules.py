"""Which rule of acceptance brings most tokens a round when sampling, at the same number of nodes?

Shared noise (ours) and the same drafters without it (top-k trees, as others build them), both with trees of one shape;
shared noise and rejection sampling, both with the best of their trees on each prompt set, chosen after the fact.
"""

import asyncio
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np

from bench.figures import Figure, figure
from bench.fleet import Bench
from bench.rejection import RejectionPeer
from bench.speed import COUPLED_SHAPE, tokens_a_round_t1
from bench.spread import mean_over_groups, median
from forerun.models import model_folder
from forerun.progress import steps
from forerun.workload import Task
from speculation.tree import TreeShape

NODES = COUPLED_SHAPE.budget

OUR_TREES: Mapping[str, TreeShape] = MappingProxyType(
    {
        f"{depth} deep, {branching} wide": TreeShape(depth=depth, branching=branching, budget=NODES)
        for depth, branching in ((16, 1), (16, 2), (16, 4), (10, 2), (8, 4), (5, 4))
    }
)

REJECTION_TREES: Mapping[str, tuple[int, ...]] = MappingProxyType(
    {
        "a chain of 16": (1,) * 16,
        "a chain of 8": (1,) * 8,
        "2 chains of 8": (2, *(1,) * 7),
        "3 chains of 5": (3, *(1,) * 4),
        "4 chains of 4": (4, *(1,) * 3),
        "2, then 4 chains of 3": (2, 2, 1, 1),
    }
)
"""Candidates by level: up to NODES nodes each."""

OURS, UNCOUPLED, REJECTION = "coupled", "uncoupled", "rejection"

Lengths = Mapping[str, Mapping[Task, float]]
"""Tokens a round, by rule and prompt."""


async def measure_rules(bench: Bench, tasks: Sequence[Task], *, max_new_tokens: int, seed: int) -> tuple[Figure, ...]:
    """Tokens a round at T = 1, the right drafter of each set."""
    peers = {
        name: await asyncio.to_thread(RejectionPeer, bench.target_folder, model_folder(f"zoo:{name}"))
        for name in dict.fromkeys(task.drafter for task in tasks)
    }
    found: dict[str, dict[Task, float]] = {}
    with steps("rules", len(tasks)) as step:
        for turn, task in enumerate(tasks):
            for rule in (OURS, UNCOUPLED):
                found.setdefault(rule, {})[task] = await tokens_a_round_t1(
                    bench, task, seed + turn, max_new_tokens, uncoupled=rule == UNCOUPLED
                )
            for name, shape in OUR_TREES.items():
                found.setdefault(f"{OURS}, {name}", {})[task] = await tokens_a_round_t1(
                    bench, task, seed + turn, max_new_tokens, uncoupled=False, shape=shape
                )
            for name, levels in REJECTION_TREES.items():
                found.setdefault(f"{REJECTION}, {name}", {})[task] = await asyncio.to_thread(
                    peers[task.drafter].tokens_a_round,
                    task.prompt,
                    levels,
                    max_new_tokens=max_new_tokens,
                    seed=seed + turn,
                )
            step()
    return rule_figures(found, seed)


def rule_figures(lengths: Lengths, seed: int) -> tuple[Figure, ...]:
    """Ratios of the means of each prompt set, and those means. Answers of two rules are of different texts."""
    names = _sets(lengths)
    best = {name: {rule: _best(lengths, name, rule) for rule in (OURS, REJECTION)} for name in names}
    over_uncoupled = [_ratios(lengths, name, OURS, UNCOUPLED) for name in names]
    over_rejection = [_ratios(lengths, name, best[name][OURS], best[name][REJECTION]) for name in names]
    return (
        figure("rules.coupled_over_uncoupled", mean_over_groups(over_uncoupled, np.mean, seed=seed), "x", goal=1.5),
        figure("rules.coupled_over_rejection", mean_over_groups(over_rejection, np.mean, seed=seed), "x", goal=1.0),
        *(
            figure(f"rules.{rule}.{name}", median(_of_set(lengths, rule, name), seed=seed), "tokens")
            for name in names
            for rule in (OURS, UNCOUPLED)
        ),
        *(
            figure(f"rules.{rule}_at_best.{name}", median(_of_set(lengths, tree, name), seed=seed), f"tokens, {tree}")
            for name in names
            for rule, tree in best[name].items()
        ),
    )


def _ratios(lengths: Lengths, prompt_set: str, ours: str, other: str) -> Sequence[float]:
    """Ours over the mean of another rule."""
    mean = float(np.mean(_of_set(lengths, other, prompt_set)))
    return [length / mean for length in _of_set(lengths, ours, prompt_set)]


def _best(lengths: Lengths, prompt_set: str, rule: str) -> str:
    """The tree of a rule that brought most tokens a round."""
    trees = [name for name in lengths if name.startswith(f"{rule}, ")]
    return max(trees, key=lambda tree: float(np.mean(_of_set(lengths, tree, prompt_set))))


def _of_set(lengths: Lengths, rule: str, prompt_set: str) -> list[float]:
    return [length for task, length in lengths[rule].items() if task.prompt_set == prompt_set]


def _sets(lengths: Lengths) -> Sequence[str]:
    return list(dict.fromkeys(task.prompt_set for task in lengths[OURS]))
