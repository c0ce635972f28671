"""Figures of routing policies, by replay."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from bench.figures import Figure, figure
from bench.router.processes import processes_with, stage_here
from bench.router.replay import Served
from bench.router.scenarios import (
    DECISION_ARMS,
    DECISION_DRAFTERS,
    Stage,
    cold_start,
    decision_us,
    drift,
    floor_of_none,
    hybrid_gain,
    retrain_speedup,
    zero_shot,
)
from bench.router.traffic import Cell, Oracle, cell_of, own_voices
from bench.spread import Spread, median
from forerun.progress import steps
from router_models.catalogue import all_policies
from router_models.menu import SHAPES
from router_models.planner import PlannerPolicy
from router_models.policy import LearningPolicy

PLANNER = "planner"
GENERALIST = "mixed"
"""The drafter that was trained on hybrids."""
OTHER_SEEDS = 1000
"""Added to a seed for traffic that a prior is learnt from."""

Runs = Mapping[str, Sequence[Sequence[Served]]]
"""What each policy served, seed by seed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """All policies from cold on the same requests.

    Attributes:
        stage: On which.
        oracle: What they are held against.
        runs: What each served.
        seeds: Of the runs, in their order.
    """

    stage: Stage
    oracle: Oracle
    runs: Runs
    seeds: Sequence[int]

    def measured(self, name: str) -> list[Sequence[Served]]:
        """What a policy served after the warm-up, seed by seed."""
        return [run[self.stage.warm_up :] for run in self.runs[name]]

    def of_oracle(self, name: str, cell: Cell | None = None) -> list[float]:
        """Tokens a second after the warm-up over the oracle's, seed by seed; of one cell or of all."""
        return [
            self.oracle.share([entry for entry in served if cell is None or cell_of(entry.request) == cell])
            for served in self.measured(name)
        ]


def compare(stage: Stage, seeds: Sequence[int]) -> Comparison:
    """Let every policy of the catalogue serve the same requests from cold."""
    names = list(all_policies())
    runs: dict[str, list[Sequence[Served]]] = {name: [] for name in names}
    jobs = [(name, seed) for seed in seeds for name in names]
    with steps("policies from cold", len(jobs)) as step, processes_with(stage) as pool:
        for (name, _), served in zip(jobs, pool.map(_cold_run, jobs), strict=True):
            runs[name].append(served)
            step()
    return Comparison(
        stage=stage, oracle=stage.choices.oracle(own_voices(stage.recording).values()), runs=runs, seeds=seeds
    )


def _cold_run(job: tuple[str, int]) -> Sequence[Served]:
    """What one policy served in one order; in a process of `processes_with`."""
    name, seed = job
    return cold_start(stage_here(), all_policies()[name], seed=seed)


def comparison_figures(comparison: Comparison, seed: int) -> tuple[Figure, ...]:
    """How the planner stands against oracle, best fixed choice and every other policy."""
    choices, stage = comparison.stage.choices, comparison.stage
    best_fixed = choices.best(stage.recording.drafters)
    took = {
        name: [sum(entry.ms for entry in served) for served in comparison.measured(name)] for name in comparison.runs
    }
    fixed_ms = [
        sum(choices.of(best_fixed, entry.request) for entry in served) for served in comparison.measured(PLANNER)
    ]
    cells = sorted(comparison.oracle.arms)
    return (
        figure("router.of_oracle", median(comparison.of_oracle(PLANNER), seed=seed), "x", goal=0.95),
        figure("router.over_best_fixed", _ratio(fixed_ms, took[PLANNER], seed), "x", goal=1.10),
        *(
            figure(f"router.over_{name}", _ratio(took[name], took[PLANNER], seed), "x", goal=1.0)
            for name in comparison.runs
            if name != PLANNER
        ),
        *(
            figure(
                f"router.of_oracle.{name}_t{heat:g}",
                median(comparison.of_oracle(PLANNER, (name, heat)), seed=seed),
                "x",
            )
            for name, heat in cells
            if all(any(cell_of(entry.request) == (name, heat) for entry in run) for run in comparison.measured(PLANNER))
        ),
    )


def scenario_figures(stage: Stage, seeds: Sequence[int], seed: int) -> tuple[Figure, ...]:
    """What drift, hybrid prompts, a prior and a hurry do to the planner."""
    jobs = [(number, of_seed) for number in range(len(SCENARIOS)) for of_seed in seeds]
    found: dict[str, list[float]] = {}
    with steps("scenarios", len(jobs)) as step, processes_with(stage) as pool:
        for values in pool.map(_play, jobs):
            for name, value in values.items():
                found.setdefault(name, []).append(value)
            step()
    spreads = {name: median(values, seed=seed) for name, values in found.items()}
    changes = [spread for name, spread in spreads.items() if name.startswith(DRIFT)]
    worst = max(changes, key=lambda spread: spread.value)
    return (
        *(figure(f"router.{name}", spread, _unit(name), goal=GOALS.get(name)) for name, spread in spreads.items()),
        figure(f"router.{DRIFT}", worst, "requests", goal=100, at_most=True),
        _decision(stage, seeds, seed),
    )


def _play(job: tuple[int, int]) -> Mapping[str, float]:
    """One scenario in one order; in a process of `processes_with`."""
    number, seed = job
    return SCENARIOS[number](stage_here(), seed)


def _hybrid(stage: Stage, seed: int) -> Mapping[str, float]:
    """Where every drafter is of one domain, and where one has read hybrids and serves both halves."""
    everybody = own_voices(stage.recording)
    specialists = {name: voice for name, voice in everybody.items() if name != GENERALIST}

    def gain(voices: Mapping[str, str]) -> float:
        return hybrid_gain(stage, PlannerPolicy(), PlannerPolicy(adapt_within_request=False), seed=seed, voices=voices)

    return {"hybrid_gain": gain(specialists), f"hybrid_gain.beside_{GENERALIST}": gain(everybody)}


def _drift(stage: Stage, seed: int) -> Mapping[str, float]:
    return {f"{DRIFT}.{change}": until for change, until in drift(stage, PlannerPolicy, seed=seed).items()}


def _floor(stage: Stage, seed: int) -> Mapping[str, float]:
    return {"floor_of_none": floor_of_none(stage, PlannerPolicy(), seed=seed)}


def _zero_shot(stage: Stage, seed: int) -> Mapping[str, float]:
    def planner(number: int) -> LearningPolicy:
        return PlannerPolicy(seed=number)

    return {"zero_shot": zero_shot(stage, PlannerPolicy(), planner, seed=seed + OTHER_SEEDS)}


def _retrain(stage: Stage, seed: int) -> Mapping[str, float]:
    """Held against the oracle where it is a bound; and on all requests, of which the hybrid ones are above it from the
    first on, however little is known."""
    speedup = retrain_speedup(stage, PlannerPolicy, seed=seed, log_seed=seed + OTHER_SEEDS)
    return {"retrain_speedup": speedup["bounded"], "retrain_speedup.all": speedup["all"]}


SCENARIOS: Sequence[Callable[[Stage, int], Mapping[str, float]]] = (_hybrid, _drift, _floor, _zero_shot, _retrain)
"""Each gives figures of one seed."""

DRIFT = "drift_requests"

GOALS = {"hybrid_gain": 1.05, "floor_of_none": 0.97, "zero_shot": 0.95, "retrain_speedup": 3.0}


def _unit(name: str) -> str:
    if name == "zero_shot":
        return "of plain prompts"
    return "requests" if name.startswith(DRIFT) else "x"


def _decision(stage: Stage, seeds: Sequence[int], seed: int) -> Figure:
    """One after another and with nothing beside them: the median of every order's median."""
    shapes = SHAPES[: -(-DECISION_ARMS // DECISION_DRAFTERS)]
    took_us = []
    with steps("decisions", len(seeds)) as step:
        for of_seed in seeds:
            took_us.append(float(np.median(decision_us(stage, PlannerPolicy(shapes=shapes), seed=of_seed))))
            step()
    return figure("router.decision_us", median(took_us, seed=seed), "us", goal=200, at_most=True, digits=1)


def _ratio(other_ms: Sequence[float], own_ms: Sequence[float], seed: int) -> Spread:
    """Tokens a second over another's, on the same requests, seed by seed."""
    return median((np.array(other_ms) / np.array(own_ms)).tolist(), seed=seed)
