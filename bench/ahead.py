"""What does drafting ahead bring, while the target judges? The same plan with it and without, prompt by prompt in turn.

A round whose outcome was foreseen waits for no draft. What can be gained is the share of a round that drafting takes,
and what is gained of it is the share of rounds that were foreseen.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from bench.figures import Figure, figure
from bench.fleet import Bench
from bench.speed import STATIC_SHAPE, WARM_UP_TOKENS, chain_of
from bench.spread import mean_over_groups, median
from forerun.client import Generation
from forerun.progress import steps
from forerun.workload import Task
from speculation.tree import TreeShape

SHAPES: Mapping[str, TreeShape] = {
    "speed.prespeculation": chain_of(8),
    "speed.prespeculation.chain_4": STATIC_SHAPE,
    "speed.prespeculation.tree": TreeShape(depth=6, branching=4, budget=16),
}
"""By the name of their figure. On the `deep` profile the first takes about 0.4 of a round to draft, the second 0.25."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One prompt, answered with and without drafting ahead.

    Attributes:
        domain: Prompt set.
        gain: Time without over time with.
        draft_share: Of the rounds' time without it, the part that waited for drafts.
        foreseen: Share of rounds with it that waited for none.
    """

    domain: str
    gain: float
    draft_share: float
    foreseen: float


async def measure_ahead(bench: Bench, tasks: Sequence[Task], *, max_new_tokens: int, seed: int) -> tuple[Figure, ...]:
    """Gain of `static` with the right drafter, for each of SHAPES."""
    found: list[Figure] = []
    for name, shape in SHAPES.items():
        await _answer(bench, tasks[0], shape, WARM_UP_TOKENS, in_turn=False)
        with steps(name, len(tasks)) as step:
            compared = []
            for turn, task in enumerate(tasks):
                compared.append(await _compare(bench, task, shape, max_new_tokens, in_turn_first=turn % 2 == 0))
                step()
        found += _figures(name, compared, seed)
    return tuple(found)


async def _compare(
    bench: Bench, task: Task, shape: TreeShape, max_new_tokens: int, *, in_turn_first: bool
) -> Comparison:
    answers: dict[bool, Generation] = {}
    took_s: dict[bool, float] = {}
    for in_turn in (in_turn_first, not in_turn_first):
        began = time.perf_counter()
        answers[in_turn] = await _answer(bench, task, shape, max_new_tokens, in_turn=in_turn)
        took_s[in_turn] = time.perf_counter() - began
    waited = answers[True].timings.rounds
    rounds = answers[False].rounds
    return Comparison(
        domain=task.prompt_set,
        gain=took_s[True] / took_s[False],
        draft_share=waited.draft_ns / max(waited.round_ns, 1),
        foreseen=sum(bool(report.foreseen_drafters) for report in rounds) / max(len(rounds), 1),
    )


async def _answer(bench: Bench, task: Task, shape: TreeShape, max_new_tokens: int, *, in_turn: bool) -> Generation:
    return await bench.client.generate(
        task.prompt,
        max_new_tokens=max_new_tokens,
        policy="static",
        drafters=[task.drafter],
        shape=shape,
        in_turn=in_turn,
        explain=True,
    )


def _figures(name: str, compared: Sequence[Comparison], seed: int) -> tuple[Figure, ...]:
    domains = list(dict.fromkeys(entry.domain for entry in compared))
    gains = [[entry.gain for entry in compared if entry.domain == domain] for domain in domains]
    share = median([entry.draft_share for entry in compared], seed=seed)
    return (
        figure(name, mean_over_groups(gains, np.median, seed=seed), "x", goal=1.25 if share.value >= 0.3 else 0.98),
        figure(f"{name}.draft_share", share, "of a round"),
        figure(f"{name}.foreseen", median([entry.foreseen for entry in compared], seed=seed), "of rounds"),
    )
