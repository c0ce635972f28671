"""SpecDec++: draft until it is likely that something was drafted in vain."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from router_models.baselines.arms import MOST_DRAFTERS, nothing_on_offer
from router_models.plan import Plan
from router_models.policy import Policy, RoundContext, RoundOutcome
from router_models.ranks import judged
from router_models.recent import Recent
from speculation.tree import TreeShape

POWERS = np.geomspace(0.1, 10.0, 41)
"""Candidates for a drafter's calibration."""

PRIOR_SPREAD = 0.5
"""Standard deviation of the logarithm of a power before anything is known; its mean is 0: as calibrated as can be."""

FORGETTING = 0.998
"""Weight of a node against the next: five hundred are remembered."""

LEAST_CHANCE = 1e-3
"""Confidences are taken to lie so far from 0 and 1 that no single node can be a proof."""


@dataclass(frozen=True, kw_only=True)
class SpecDecPolicy(Policy):
    """A long chain of one drafter, which stops where a rejection has become too likely.

    Source: SpecDec++, Huang et al. 2025, arXiv:2405.19715: stop as soon as the predicted probability that at least
    one drafted token is rejected exceeds a threshold. What differs:

    - The paper trains a head on the drafter's hidden states to predict acceptance. Here the prediction is the drafter's
      confidence to a power learnt online for each drafter, from verified nodes whose parent was accepted. A power
      passes through products, so the rule becomes a least path confidence, and the drafter stops by itself.
    - The node that crosses the threshold is dropped, and a round may draft nothing; the authors draft two tokens
      at least.

    No reward is learnt from: drafter and threshold stay as configured, and it decodes plainly only where it does not
    believe in a first token.

    Attributes:
        drafter: The drafter to use; None, or one that is not on offer, means the first that is.
        threshold: The probability of a rejection at which drafting stops, 0 to 1; the authors' example run has 0.3.
        most_tokens: The longest chain; the paper has 20.
    """

    name: str = "specdec++"
    drafter: str | None = None
    threshold: float = 0.3
    most_tokens: int = 20
    _powers: Recent[str, "Power"] = field(default_factory=lambda: Recent(MOST_DRAFTERS), repr=False)

    def plan(self, context: RoundContext) -> Plan:
        """A chain as long as the drafter believes in it; a pinned shape is left as it is."""
        if not context.drafters:
            return nothing_on_offer()
        drafter = self.drafter if self.drafter in context.drafters else context.drafters[0]
        if context.pinned_shape is not None:
            return Plan(drafters=(drafter,), shape=context.pinned_shape, explanation="the shape is pinned")
        # In hundredths: a shape for every round would be an arm for every round.
        least = round((1.0 - self.threshold) ** (1.0 / self._power_of(drafter).mean), 2)
        length = self.most_tokens
        return Plan(
            drafters=(drafter,),
            shape=TreeShape(depth=length, branching=1, budget=length, least_confidence=least),
            explanation=f"drafts while a rejection is less likely than {self.threshold:.0%}: "
            f"path confidence at least {least:.2f}",
        )

    def learn(self, context: RoundContext, plan: Plan, outcome: RoundOutcome) -> None:
        """Calibrate every drafter that drafted."""
        for drafter, tree in outcome.drafts.items():
            self._power_of(drafter).learn(judged(tree, outcome.verdict.token_ids))

    def _power_of(self, drafter: str) -> "Power":
        return self._powers.use(drafter, Power)


class Power:
    """A drafter's nodes are accepted with the chance confidence ** power: the belief about the power, on a grid."""

    def __init__(self) -> None:
        self._prior = -0.5 * (np.log(POWERS) / PRIOR_SPREAD) ** 2
        self._evidence = np.zeros_like(POWERS)

    @property
    def mean(self) -> float:
        """The mean of its logarithm, made a power again."""
        belief = self._prior + self._evidence
        weights = np.exp(belief - belief.max())
        return float(np.exp(weights @ np.log(POWERS) / weights.sum()))

    def learn(self, nodes: Sequence[tuple[float, bool]]) -> None:
        """Take in what was believed of each node, and what was so."""
        believed, accepted = np.array(nodes, dtype=np.float64).reshape(-1, 2).T
        chances = np.clip(believed, LEAST_CHANCE, 1.0 - LEAST_CHANCE)[:, None] ** POWERS
        self._evidence *= FORGETTING ** len(chances)
        self._evidence += np.where(accepted[:, None] > 0, np.log(chances), np.log1p(-chances)).sum(axis=0)
