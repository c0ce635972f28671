"""What a round costs: drafting by drafter and shape, verifying by nodes, and the rest; learnt from logged timings."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from router_models.plan import Plan
from router_models.policy import RoundOutcome
from speculation.tree import TreeShape

NS_PER_MS = 1e6

FORGETTING = 0.99
"""Weight of a round against the next: a hundred rounds are remembered."""

PRIOR_WEIGHT = 0.5
"""Rounds that a guess is worth before anything was measured."""

PRIOR_DRAFT_MS = (2.0, 2.0, 0.1, 0.02)
PRIOR_VERIFY_MS = (25.0, 0.5)
PRIOR_REST_MS = (0.5,)


class LinearCost:
    """Milliseconds as a linear function of features: least squares that forget.

    The normal equations A w = b of exponentially weighted measurements, plus a prior that is not forgotten, so that A
    never becomes singular.
    """

    def __init__(self, prior_ms: Sequence[float]) -> None:
        """
        Args:
            prior_ms: A first guess of each feature's coefficient.
        """
        self._prior = np.array(prior_ms, dtype=np.float64)
        self._ridge = PRIOR_WEIGHT * np.eye(len(self._prior))
        self._normal = np.zeros_like(self._ridge)
        self._moments = np.zeros_like(self._prior)
        self._weights = self._prior

    def learn(self, features: Sequence[float], cost_ms: float) -> None:
        """One measurement."""
        x = np.array(features, dtype=np.float64)
        self._normal = FORGETTING * self._normal + np.outer(x, x)
        self._moments = FORGETTING * self._moments + x * (cost_ms - x @ self._prior)
        self._weights = self._prior + np.linalg.solve(self._normal + self._ridge, self._moments)

    def predict(self, features: NDArray[np.float64]) -> NDArray[np.float64]:
        """(..., features) to (...) milliseconds, never less than a microsecond."""
        cost: NDArray[np.float64] = np.maximum(features @ self._weights, 1e-3)
        return cost


class CostModel:
    """All costs of a round, as the controller sees them: the wire is in them."""

    def __init__(self) -> None:
        self._draft: dict[str, LinearCost] = {}
        self._verify = LinearCost(PRIOR_VERIFY_MS)
        self._rest = LinearCost(PRIOR_REST_MS)

    def learn(self, plan: Plan, outcome: RoundOutcome, unread: int) -> None:
        """Take in a round; `unread` are the tokens that its drafter had to read first.

        Of several drafters only the slowest is timed, so such rounds say nothing about any one.
        """
        timings = outcome.timings
        if len(plan.drafters) == 1 and outcome.drafts:
            features = draft_features(plan.shape, unread)
            self._draft_of(plan.drafters[0]).learn(features, timings.draft_ns / NS_PER_MS)
        self._verify.learn((1.0, len(outcome.tree)), timings.verify_ns / NS_PER_MS)
        rest_ns = max(timings.round_ns - timings.draft_ns - timings.verify_ns, 0)
        self._rest.learn((1.0,), rest_ns / NS_PER_MS)

    def draft_ms(self, drafter: str, features: NDArray[np.float64]) -> NDArray[np.float64]:
        """(shapes, features of draft_features) to (shapes,)."""
        return self._draft_of(drafter).predict(features)

    def verify_ms(self, nodes: NDArray[np.float64]) -> NDArray[np.float64]:
        """(shapes,) nodes to (shapes,): the target's part of a round and all that is neither draft nor verification."""
        rest = float(self._rest.predict(np.ones((1, 1)))[0])
        return self._verify.predict(np.stack((np.ones_like(nodes), nodes), axis=-1)) + rest

    def _draft_of(self, drafter: str) -> LinearCost:
        if drafter not in self._draft:
            self._draft[drafter] = LinearCost(PRIOR_DRAFT_MS)
        return self._draft[drafter]


def draft_features(shape: TreeShape, unread: float) -> tuple[float, float, float, float]:
    """What drafting depends on: one, levels, nodes, and tokens to be read first."""
    return (1.0, float(shape.depth), float(shape.budget), unread)
