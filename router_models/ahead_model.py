"""How often a round finds its tree there already, drafted while the target judged the round before: it costs no time.

Drafters draft ahead what the round before asked for (docs/decisions/0011-drafting-ahead.md), so only a plan that says
the same again can gain by it; how often it does depends on the drafter, and on processors to spare.
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
"""Rounds without luck that there were before anything was seen."""


@dataclass(frozen=True, slots=True)
class Draft:
    """What a drafter was asked for, and drafts ahead."""

    drafter: str
    shape: TreeShape
    calibration: Calibration


class AheadModel:
    """Shares of foreseen rounds by drafter, apart for sampled and greedy requests, and what was last asked for."""

    def __init__(self) -> None:
        self._counts: dict[Key, NDArray[np.float64]] = {}
        self._last: Recent[str, Draft] = Recent(MOST_REQUESTS)

    def share(self, kind: Key) -> float:
        """Of the rounds that ask for the same again."""
        foreseen, rounds = self._counts.get(kind, (0.0, 0.0))
        return float(foreseen / (rounds + PRIOR_ROUNDS))

    def last(self, context: RoundContext) -> Draft | None:
        """What the round before asked one drafter for."""
        return self._last.get(context.request_id) if context.round else None

    def learn(self, context: RoundContext, plan: Plan, outcome: RoundOutcome) -> None:
        """Take in a round."""
        before = self.last(context)
        self.follow(context, plan)
        if before is not None and before == self._last.get(context.request_id):
            kind = kind_of(context, before.drafter)
            counts = self._counts.setdefault(kind, np.zeros(2))
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
        """(2,) foreseen rounds and rounds, by drafter and way of sampling."""
        return dict(self._counts)

    def restore(self, counts: Mapping[Key, NDArray[Any]]) -> None:
        """Go on from a state."""
        self._counts = {key: np.array(value, dtype=np.float64) for key, value in counts.items()}
