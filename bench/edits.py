"""What does a drafter without a model bring where answers copy their prompts? The planner with and without it in the
fleet, prompt by prompt in turn, after it has met both."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.figures import Figure, figure
from bench.fleet import Bench
from bench.spread import mean_over_groups, median
from forerun.client import Generation
from forerun.local_fleet import SUFFIX_OF_TARGET
from forerun.progress import steps
from forerun.workload import Task

FIGURE = "speed.edit_model_free"
TEMPERATURES = (0.0, 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One prompt at one temperature, answered with and without the drafter.

    Attributes:
        temperature: Of the target.
        gain: Time without over time with.
        tokens_a_round: Without, and with.
        share: Of the rounds with it, those in which it drafted.
    """

    temperature: float
    gain: float
    tokens_a_round: tuple[float, float]
    share: float


async def measure_edits(
    bench: Bench, tasks: Sequence[Task], *, max_new_tokens: int, seed: int, warm_up: Sequence[Task]
) -> tuple[Figure, ...]:
    """Gain of the planner, which has answered the prompts of the warm-up both ways before anything counts."""
    compared = []
    everything = (*warm_up, *tasks)
    with steps("edits", len(TEMPERATURES) * len(everything)) as step:
        for turn, task in enumerate(everything):
            for temperature in TEMPERATURES:
                options = {"max_new_tokens": max_new_tokens, "temperature": temperature, "seed": seed + turn}
                compared.append(await _compare(bench, task, options, with_it_first=turn % 2 == 0))
                step()
    return _figures(compared[len(TEMPERATURES) * len(warm_up) :], seed)


async def _compare(bench: Bench, task: Task, options: dict[str, Any], *, with_it_first: bool) -> Comparison:
    others = [name for name in bench.drafters if name != SUFFIX_OF_TARGET]
    answers: dict[bool, Generation] = {}
    took_s: dict[bool, float] = {}
    for with_it in (with_it_first, not with_it_first):
        drafters = list(bench.drafters) if with_it else others
        began = time.perf_counter()
        answers[with_it] = await bench.client.generate(
            task.prompt, policy="planner", drafters=drafters, explain=True, **options
        )
        took_s[with_it] = time.perf_counter() - began
    rounds = answers[True].rounds
    return Comparison(
        temperature=options["temperature"],
        gain=took_s[False] / took_s[True],
        tokens_a_round=(answers[False].tokens_per_round, answers[True].tokens_per_round),
        share=sum(SUFFIX_OF_TARGET in report.decision.drafters for report in rounds) / max(len(rounds), 1),
    )


def _figures(compared: Sequence[Comparison], seed: int) -> tuple[Figure, ...]:
    groups = [[entry for entry in compared if entry.temperature == heat] for heat in TEMPERATURES]
    gains = [[entry.gain for entry in group] for group in groups]
    figures = [figure(FIGURE, mean_over_groups(gains, np.median, seed=seed), "x", goal=1.3)]
    for heat, group in zip(TEMPERATURES, groups, strict=True):
        parts = {
            "": [entry.gain for entry in group],
            ".tokens_a_round": [entry.tokens_a_round[1] for entry in group],
            ".tokens_a_round_without": [entry.tokens_a_round[0] for entry in group],
            ".share": [entry.share for entry in group],
        }
        units = {"": "x", ".share": "of rounds"}
        figures += [
            figure(f"{FIGURE}.t{heat:g}{part}", median(values, seed=seed), units.get(part, "tokens"))
            for part, values in parts.items()
        ]
    return tuple(figures)
