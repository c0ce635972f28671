"""Bandits without context: BanditSpec's setting (Hou et al. 2025, arXiv:2505.15141), with UCB1 and EXP3.

As in the paper an arm is chosen for each round while the text is generated. What differs: the paper starts anew with
each prompt and has a handful of arms; here there are tens, more than a request has rounds, so what was learnt is kept
from request to request. The paper rewards accepted tokens; here it is the gain over plain decoding, and plain decoding
is an arm. Neither forgets: EXP3 is made for rewards that change, UCB1 for rewards that do not.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from router_models.baselines.arms import Arm, arm_of, arms_of, draw, nothing_on_offer, plan_of, was_a_choice
from router_models.baselines.reward import MOST_GAIN, Baseline
from router_models.menu import SHAPES
from router_models.plan import Plan
from router_models.policy import Policy, RoundContext, RoundOutcome
from router_models.recent import Recent
from speculation.tree import TreeShape

MOST_ARMS = 1024
"""Arms remembered; callers may pin any shape."""

Arms = Sequence[Arm | None]
Probabilities = NDArray[np.float64]


@dataclass(slots=True)
class _Record:
    """What is known of an arm: how often it was played, and a sum over those plays."""

    plays: int = 0
    total: float = 0.0


class ContextFreeBandit(Policy, ABC):
    """A bandit that learns a number for each arm.

    Args:
        shapes: What it chooses from; a shape pinned by the request stands in for all of them.
        seed: Of all chance, together with request and round.
    """

    def __init__(self, *, shapes: Sequence[TreeShape] = SHAPES, seed: int = 0) -> None:
        self._shapes, self._seed = tuple(shapes), seed
        self._records: Recent[Arm | None, _Record] = Recent(MOST_ARMS)
        self._baseline = Baseline()

    @abstractmethod
    def _probabilities(self, arms: Arms) -> Probabilities:
        """(arms,) of those on offer."""

    @abstractmethod
    def _learn(self, record: _Record, gain: float, propensity: float) -> None:
        """Take in a play of an arm."""

    def plan(self, context: RoundContext) -> Plan:
        """An arm on offer, drawn with the stated propensity."""
        if not context.drafters:
            return nothing_on_offer()
        if self._baseline.due(context):
            return plan_of(None, propensity=1.0, explanation="its pace is measured from time to time")
        arms = arms_of(context, self._shapes)
        probabilities = self._probabilities(arms)
        chosen = draw(probabilities, self._seed, context)
        propensity = float(probabilities[chosen])
        plays = self._records.use(arms[chosen], _Record).plays
        return plan_of(
            arms[chosen],
            propensity=propensity,
            explanation=f"drawn as one in {1 / propensity:.1f}, played {plays} times before",
        )

    def follow(self, context: RoundContext, plan: Plan, outcome: RoundOutcome) -> None:
        """The pace of plain decoding."""
        self._baseline.gain(context, plan, outcome)

    def learn(self, context: RoundContext, plan: Plan, outcome: RoundOutcome) -> None:
        """The gain of the arm that was played.

        A plan cut short at the end of an answer is none of the arms on offer, and teaches nothing; nor does a round in
        which there was nothing to choose.
        """
        gain, arm = self._baseline.gain(context, plan, outcome), arm_of(plan)
        if gain is not None and arm in arms_of(context, self._shapes) and was_a_choice(context, plan):
            self._learn(self._records.use(arm, _Record), gain, plan.propensity)


class UcbPolicy(ContextFreeBandit):
    """The arm of highest upper confidence bound; each once at first. The choice is certain, so its propensity is 1.

    Source: UCB1 (Auer et al. 2002, Figure 1), which UCBSpec builds on; its bonus is in units of the gain's spread.
    """

    name = "ucb"

    SPREAD = 0.5
    """Of a round's gain: the factor of a bonus made for rewards in [0, 1]."""

    def _probabilities(self, arms: Arms) -> Probabilities:
        records = [self._records.use(arm, _Record) for arm in arms]
        plays = np.array([record.plays for record in records], dtype=np.float64)
        totals = np.array([record.total for record in records])
        probabilities = np.zeros(len(arms))
        if not plays.all():
            probabilities[plays.argmin()] = 1.0
            return probabilities
        bounds = totals / plays + self.SPREAD * np.sqrt(2 * np.log(plays.sum()) / plays)
        probabilities[bounds.argmax()] = 1.0
        return probabilities

    def _learn(self, record: _Record, gain: float, propensity: float) -> None:
        record.plays += 1
        record.total += gain


class Exp3Policy(ContextFreeBandit):
    """Exponential weights over losses weighted by importance.

    Source: Bubeck and Cesa-Bianchi 2012, arXiv:1204.5721, Figure 3.1, with the rate of its Theorem 3.1 for an unknown
    horizon, which EXP3Spec uses, too. Arms that are not on offer are left out and the others' chances scaled up; a new
    arm starts with the mean weight of those on offer.
    """

    name = "exp3"

    _rounds = 0

    def _probabilities(self, arms: Arms) -> Probabilities:
        rate = np.sqrt(np.log(len(arms)) / (len(arms) * (self._rounds + 1)))
        records = [self._records.get(arm) for arm in arms]
        neutral = _mean_weight_loss(np.array([record.total for record in records if record]), rate)
        losses = np.array([record.total if record else neutral for record in records])
        for arm, loss in zip(arms, losses, strict=True):
            self._records.use(arm, partial(_Record, total=float(loss)))
        weights = np.exp(-rate * (losses - losses.min()))
        probabilities: Probabilities = weights / weights.sum()
        return probabilities

    def _learn(self, record: _Record, gain: float, propensity: float) -> None:
        if propensity == 1.0:
            return  # a round that measured the pace of plain decoding: no other arm had a chance
        record.plays += 1
        record.total += (MOST_GAIN - gain) / (MOST_GAIN + 1.0) / propensity
        self._rounds += 1


def _mean_weight_loss(losses: NDArray[np.float64], rate: float) -> float:
    """The loss whose weight is the mean of the weights of these losses; 0 if there are none."""
    if not len(losses):
        return 0.0
    least = losses.min()
    return float(least - np.log(np.mean(np.exp(-rate * (losses - least)))) / rate)
