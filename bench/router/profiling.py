"""Measuring what rounds take on a real fleet, for the clock of a replay.

Every drafter drafts every shape, one request at a time, in an order that mixes them; plain decoding and all drafters at
once stand between. Times are fitted by least squares, twice: what lies far from the first fit (a machine that was
elsewhere) is left out of the second.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.fleet import Bench
from bench.machine import these_versions, this_machine
from bench.router.costs import CostProfile, DraftCosts, draft_features
from forerun.client import Generation
from forerun.progress import steps
from forerun.workload import Task
from router_models.plan import CHAIN_OF_4
from router_models.policy import RoundTimings
from speculation.tree import TokenTree, TreeShape

NS_PER_MS = 1e6
OUTLYING = 3.0
"""Deviations, in robust standard ones, beyond which a time is left out."""

MAD_TO_DEVIATION = 1.4826


@dataclass(frozen=True, slots=True, kw_only=True)
class Timed:
    """One round on the real fleet.

    Attributes:
        drafters: Who drafted.
        shape: What was asked for.
        tree: What was verified.
        unread: Tokens that its drafter had to read first.
        first: Whether it was the request's first round.
        timings: What it took.
    """

    drafters: tuple[str, ...]
    shape: TreeShape
    tree: TokenTree
    unread: int
    first: bool
    timings: RoundTimings

    @property
    def draft_ms(self) -> float:
        return self.timings.draft_ns / NS_PER_MS

    @property
    def verify_ms(self) -> float:
        return self.timings.verify_ns / NS_PER_MS

    @property
    def rest_ms(self) -> float:
        return (self.timings.round_ns - self.timings.draft_ns - self.timings.verify_ns) / NS_PER_MS


async def measure_costs(
    bench: Bench, tasks: Sequence[Task], *, shapes: Sequence[TreeShape], max_new_tokens: int, seed: int
) -> CostProfile:
    """Serve every task in every way, and fit. A draft that was foreseen would tell nothing of what drafting takes."""
    ways: list[dict[str, Any]] = [
        {"policy": "none"},
        {"policy": "merged-trie", "shape": CHAIN_OF_4},
        *({"policy": "static", "drafters": [name], "shape": shape} for name, shape in product(bench.drafters, shapes)),
    ]
    orders = np.random.default_rng(seed)
    rounds: list[Timed] = []
    await bench.client.generate(tasks[0].prompt, max_new_tokens=max_new_tokens, policy="merged-trie")
    with steps("measuring costs", len(tasks) * len(ways)) as step:
        for task in tasks:
            for place in orders.permutation(len(ways)):
                answer = await bench.client.generate(
                    task.prompt, max_new_tokens=max_new_tokens, explain=True, in_turn=True, **ways[place]
                )
                rounds += timed_rounds(answer)
                step()
    return fit(rounds, bench.drafters)


def timed_rounds(answer: Generation) -> list[Timed]:
    """The rounds of an explained answer."""
    rounds: list[Timed] = []
    unread = answer.usage.prompt_tokens
    for report in answer.rounds:
        rounds.append(
            Timed(
                drafters=report.decision.drafters,
                shape=report.decision.shape or CHAIN_OF_4,
                tree=report.tree,
                unread=unread,
                first=report.round == 0,
                timings=report.timings,
            )
        )
        unread = len(report.accepted) + 1
    return rounds


def fit(rounds: Sequence[Timed], drafters: Sequence[str]) -> CostProfile:
    """The profile that explains these rounds best.

    Args:
        rounds: Of plain decoding, of each drafter alone, and of all together.
        drafters: Their names.
    """
    later = [entry for entry in rounds if not entry.first]
    verify, verify_errors = _fitted([(1.0, len(entry.tree)) for entry in later], [entry.verify_ms for entry in later])
    draft_costs: dict[str, DraftCosts] = {}
    errors = [verify_errors]
    for name in drafters:
        own = [entry for entry in rounds if entry.drafters == (name,)]
        features = [draft_features(entry.shape, entry.tree, entry.unread, first=entry.first) for entry in own]
        weights, own_errors = _fitted(features, [entry.draft_ms for entry in own])
        draft_costs[name] = DraftCosts(*weights.tolist())
        errors.append(own_errors)
    plain = [entry for entry in rounds if entry.first and not entry.drafters]
    rest_ms = float(np.median([entry.rest_ms for entry in later]))
    reading, _ = _fitted([(1.0, entry.unread) for entry in plain], [entry.rest_ms - rest_ms for entry in plain])
    profile = CostProfile(
        drafters=draft_costs,
        verify_call_ms=float(verify[0]),
        verify_node_ms=float(verify[1]),
        target_open_ms=float(reading[0]),
        target_token_ms=float(reading[1]),
        rest_ms=rest_ms,
        crowding=0.0,
        spread=_deviation(np.concatenate(errors)),
        machine={"machine": str(this_machine()), **these_versions()},
    )
    together = [entry for entry in later if len(entry.drafters) > 1]
    return _with_crowding(profile, together)


def _with_crowding(profile: CostProfile, together: Sequence[Timed]) -> CostProfile:
    if not together:
        return profile
    slowings = [
        (
            entry.draft_ms
            / max(profile.draft_ms(name, entry.shape, entry.tree, entry.unread, first=False) for name in entry.drafters)
            - 1.0
        )
        / (len(entry.drafters) - 1)
        for entry in together
    ]
    return replace(profile, crowding=max(float(np.median(slowings)), 0.0))


def _fitted(
    features: Sequence[Sequence[float]], times_ms: Sequence[float]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Coefficients, none below 0, and the logarithms of the measured over the predicted."""
    x, y = np.array(features, dtype=np.float64), np.array(times_ms, dtype=np.float64)
    weights = _least_squares(x, y)
    errors = y - x @ weights
    near = np.abs(errors - np.median(errors)) <= OUTLYING * max(_deviation(errors), 1e-9)
    weights = _least_squares(x[near], y[near])
    return weights, np.log(np.maximum(y, 1e-3) / np.maximum(x @ weights, 1e-3))


def _least_squares(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """A coefficient that would be negative is left out: no part of a round gives time back."""
    kept = list(range(x.shape[1]))
    while True:
        solved = np.linalg.lstsq(x[:, kept], y, rcond=None)[0]
        if not len(kept) or solved.min() >= 0.0:
            weights = np.zeros(x.shape[1])
            weights[kept] = solved
            return weights
        del kept[int(solved.argmin())]


def _deviation(errors: NDArray[np.float64]) -> float:
    """A standard deviation that single large errors do not move."""
    return float(MAD_TO_DEVIATION * np.median(np.abs(errors - np.median(errors))))
