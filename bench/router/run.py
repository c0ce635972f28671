"""The bench of routing policies, put together: record, measure costs, replay, and look at the real fleet."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.figures import Curves, Figure
from bench.fleet import bench_fleet
from bench.load_of_none import measure_load
from bench.router.costs import CostProfile
from bench.router.measure import compare, comparison_figures, scenario_figures
from bench.router.profiling import measure_costs
from bench.router.recorder import record, require_same_models, revisions_of
from bench.router.recording import Recording, depths_of
from bench.router.report import learning_curves, show, write
from bench.router.scenarios import Stage
from bench.router.traffic import FixedChoices
from forerun.commands.profile import Profile
from forerun.local_fleet import ZOO_DRAFTERS
from forerun.progress import steps
from forerun.workload import PROMPT_SETS, tasks
from router_models.menu import SHAPES, chain_of

TARGET = "zoo:target"
"""What is recorded; its cost-padded copies say the same."""

TEMPERATURES = (0.0, 1.0)
LONGEST_CHAIN = chain_of(20)
"""The longest that any policy asks for: SpecDec++."""

LONGER = {"hybrid": 160}
"""Most tokens of an answer of these sets in a full run: the second domain of a hybrid answer begins after 40 to 60."""

LIVE_PROMPTS = 2
"""Of each set, asked at each number of streams by each policy in turn: five bursts take about a quarter of an hour."""

LIVE_TOKENS = 24
"""Most tokens of an answer on the real fleet: rounds cost alike, and there are many to see."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Extent:
    """How much to do.

    Attributes:
        prompts: Of each set, recorded.
        tokens: Most tokens of an answer.
        longer: The same for some prompt sets.
        seeds: Orders of the requests that are replayed.
        warm_up: Requests before anything is measured.
        measured: Requests measured then.
        cost_prompts: Prompts of the cost profile, every one with every drafter and shape.
        bursts: At each number of streams on the real fleet; none leaves that figure out.
    """

    prompts: int
    tokens: int
    longer: Mapping[str, int]
    seeds: int
    warm_up: int
    measured: int
    cost_prompts: int
    bursts: int


FULL = Extent(prompts=10, tokens=64, longer=LONGER, seeds=5, warm_up=200, measured=120, cost_prompts=3, bursts=5)
QUICK = Extent(prompts=1, tokens=16, longer={}, seeds=2, warm_up=24, measured=24, cost_prompts=1, bursts=1)


def measure_router(
    extent: Extent,
    *,
    profile: Profile,
    seed: int,
    skip: int,
    recording_file: Path | None,
    costs_file: Path | None,
    report_folder: Path | None,
) -> tuple[tuple[Figure, ...], Curves]:
    """All figures of the router, and how the policies learnt.

    Args:
        extent: How much to do.
        profile: What the target costs.
        seed: Of recorded answers, orders and noise.
        skip: Prompts of each set that are left to those who tune.
        recording_file: Where the recording is, or is to be kept.
        costs_file: Where the cost profile is, or is to be kept.
        report_folder: Where tables and curves go.
    """
    recording = _recording(recording_file, extent, seed=seed, skip=skip)
    costs, load = asyncio.run(_on_a_fleet(extent, costs_file, profile=profile, seed=seed, skip=skip))
    with steps("fixed choices", 1 + len(SHAPES) * len(recording.drafters)) as step:
        choices = FixedChoices.replayed(recording, costs, SHAPES, step)
    stage = Stage(recording=recording, costs=costs, choices=choices, warm_up=extent.warm_up, measured=extent.measured)
    seeds = [seed + number for number in range(extent.seeds)]
    comparison = compare(stage, seeds)
    show(comparison)
    if report_folder is not None:
        write(comparison, report_folder)
    figures = (*comparison_figures(comparison, seed), *scenario_figures(stage, seeds, seed), *load)
    return figures, learning_curves(comparison)


def _recording(file: Path | None, extent: Extent, *, seed: int, skip: int) -> Recording:
    """What a file holds, if it is there and of these models; else what they say now."""
    if file is not None and file.exists():
        recording = Recording.load(file)
        require_same_models(recording, revisions_of(TARGET, ZOO_DRAFTERS))
        return recording
    recording = record(
        tasks(PROMPT_SETS, extent.prompts, skip=skip),
        target=TARGET,
        drafters=ZOO_DRAFTERS,
        temperatures=TEMPERATURES,
        depths=depths_of((*SHAPES, LONGEST_CHAIN)),
        max_new_tokens=extent.tokens,
        seed=seed,
        longer=extent.longer,
    )
    if file is not None:
        recording.save(file)
    return recording


def _kept_costs(file: Path | None) -> CostProfile | None:
    return CostProfile.load(file) if file is not None and file.exists() else None


async def _on_a_fleet(
    extent: Extent, costs_file: Path | None, *, profile: Profile, seed: int, skip: int
) -> tuple[CostProfile, Sequence[Figure]]:
    """The cost profile, unless its file is there, and the figures of the live fleet."""
    known = _kept_costs(costs_file)
    if known is not None and not extent.bursts:
        return known, ()
    tokens = min(extent.tokens, LIVE_TOKENS)
    async with bench_fleet(profile) as bench:
        asked = tasks(PROMPT_SETS, extent.cost_prompts, skip=skip)[: extent.cost_prompts]
        costs = known or await measure_costs(bench, asked, shapes=SHAPES, max_new_tokens=tokens, seed=seed)
        if known is None and costs_file is not None:
            costs.save(costs_file)
        if not extent.bursts:
            return costs, ()
        some = tasks(PROMPT_SETS, min(extent.prompts, LIVE_PROMPTS), skip=skip)
        load = await measure_load(bench, some, max_new_tokens=tokens, seed=seed, repeats=extent.bursts)
    return costs, load
