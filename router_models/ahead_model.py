"""How often a round finds its tree there already, drafted while the target judged the round before: it costs no time.

Drafters draft ahead what the round before asked for (docs/decisions/0011-drafting-ahead.md), so only a plan that says
the same again can gain by it; how often it does depends on the drafter, on the shape (a chain is soon grown for all
that the target may say, a tree is not), and on processors to spare.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from router_models.contexts import Key, kind_of
from router_models.plan import Plan
from router_models.policy import RoundContext, RoundOutcome
from router_models.reading import MOST_REQUESTS
from router_models.recent import Recent
from speculation.calibration import UNCALIBRATED, Calibration
from speculation.tree import TreeShape

MEMORY = 0.98
"""Weight of a round against the next."""

PRIOR_ROUNDS = 5.0
"""Rounds without luck that there were before anything was seen of a drafter, and rounds like those of all its shapes
before anything was seen of one."""

MOST_SHAPES = 512
"""Shapes of drafters that are told apart at once: a caller may pin any."""


@dataclass(frozen=True, slots=True)
class Draft:
    """What a drafter was asked for, and drafts ahead."""

    drafter: str
    shape: TreeShape
    calibration: Calibration


class AheadModel:
    """Shares of foreseen rounds by drafter and shape, apart for sampled and greedy requests, and what was last asked
    for."""

    def __init__(self) -> None:
        self._counts: Recent[Key, NDArray[np.float64]] = Recent(MOST_SHAPES)
        self._last: Recent[str, Draft] = Recent(MOST_REQUESTS)

    def share(self, kind: Key, shape: TreeShape) -> float:
        """Of the rounds that ask a drafter for this shape again."""
        share = 0.0
        for key in _keys(kind, shape):
            foreseen, rounds = self._counts.get(key, (0.0, 0.0))
            share = float((foreseen + PRIOR_ROUNDS * share) / (rounds + PRIOR_ROUNDS))
        return share

    def last(self, context: RoundContext) -> Draft | None:
        """What the round before asked one drafter for."""
        return self._last.get(context.request_id) if context.round else None

    def learn(self, context: RoundContext, plan: Plan, outcome: RoundOutcome) -> None:
        """Take in a round."""
        before = self.last(context)
        self.follow(context, plan)
        if before is not None and before == self._last.get(context.request_id):
            for key in _keys(kind_of(context, before.drafter), before.shape):
                counts = self._counts.use(key, lambda: np.zeros(2))
                counts *= MEMORY
                counts += before.drafter in outcome.foreseen, 1.0

    def follow(self, context: RoundContext, plan: Plan) -> None:
        """Remember what a round asked for."""
        if len(plan.drafters) == 1:
            (name,) = plan.drafters
            self._last.put(context.request_id, Draft(name, plan.shape, plan.calibrations.get(name, UNCALIBRATED)))
        else:
            self._last.pop(context.request_id, None)

    def keep_requests_of(self, other: "AheadModel") -> None:
        """Take over what another one remembers of requests under way."""
        self._last = other._last

    def state(self) -> Mapping[Key, NDArray[Any]]:
        """(2,) foreseen rounds and rounds, by drafter and way of sampling, and by these and shape."""
        return dict(self._counts)

    def restore(self, counts: Mapping[Key, NDArray[Any]]) -> None:
        """Go on from a state."""
        for key, value in counts.items():
            self._counts.put(key, np.array(value, dtype=np.float64))


def _keys(kind: Key, shape: TreeShape) -> tuple[Key, Key]:
    """From the coarser to the finer."""
    return kind, (*kind, shape.depth, shape.branching, shape.budget, shape.least_confidence)
