"""Contextual bandits over one regression: LinUCB, ensemble Thompson sampling and SquareCB.

They share arms, features, regression and reward, and differ in how estimates become probabilities. Each round is a
trial of its own, as in the papers, which ask only that a trial's context be known when it is chosen and its reward
afterwards; that another drafter has not read the text yet is part of the context.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from router_models.baselines.arms import (
    MOST_DRAFTERS,
    PLAIN,
    Arm,
    arm_of,
    arms_of,
    draw,
    nothing_on_offer,
    offered_shapes,
    plan_of,
    was_a_choice,
)
from router_models.baselines.features import Features, features
from router_models.baselines.regression import MEMORY, Posterior, Regression
from router_models.baselines.reward import Baseline
from router_models.menu import SHAPES
from router_models.model_state import ModelState
from router_models.plan import Plan
from router_models.policy import LearningPolicy, RoundContext, RoundOutcome
from router_models.reading import Reading
from speculation.errors import InvalidModelStateError
from speculation.tree import TreeShape

Probabilities = NDArray[np.float64]


class ContextualBandit(LearningPolicy, ABC):
    """A bandit that estimates each arm's gain over plain decoding from a linear model.

    Args:
        shapes: What it chooses from; a shape pinned by the request stands in for all of them.
        seed: Of all chance, together with request and round.
        memory: Rounds after which an old one counts 1/e.
    """

    def __init__(self, *, shapes: Sequence[TreeShape] = SHAPES, seed: int = 0, memory: float = MEMORY) -> None:
        self.learns_across_requests = True
        self._shapes, self._seed = tuple(shapes), seed
        self._regression = Regression(memory)
        self._baseline = Baseline()
        self._reading = Reading()

    @abstractmethod
    def _probabilities(self, posterior: Posterior, x: Features, places: list[int]) -> Probabilities:
        """(1 + drafters * shapes,): the chance of plain decoding, whose gain is 0, and of each arm.

        Args:
            posterior: What is believed about the weights.
            x: (drafters, shapes, NUM_FEATURES).
            places: (drafters,), where the posterior has each drafter's weights.
        """

    def plan(self, context: RoundContext) -> Plan:
        """An arm, drawn with the stated propensity."""
        if not context.drafters:
            return nothing_on_offer()
        if self._baseline.due(context):
            return plan_of(PLAIN, propensity=1.0, explanation="its pace is measured from time to time")
        arms = arms_of(context, self._shapes)
        drafters = context.drafters[:MOST_DRAFTERS]
        shapes = offered_shapes(context, self._shapes)
        x = features(context, drafters, shapes, self._reading.unread(context, drafters))
        places, posterior = self._regression.places(drafters), self._regression.posterior()
        probabilities = self._probabilities(posterior, x, places)
        chosen = draw(probabilities, self._seed, context)
        gains = _with_plain(_means(posterior, x, places))
        explanation = f"{gains[chosen]:+.0%} expected over plain decoding; the most expected of any arm is "
        return plan_of(
            arms[chosen], propensity=float(probabilities[chosen]), explanation=f"{explanation}{gains.max():+.0%}"
        )

    def learn(self, context: RoundContext, plan: Plan, outcome: RoundOutcome) -> None:
        """The gain of what was played; several drafters at once are no arm, and what had to be done is no trial."""
        gain = self._baseline.gain(context, plan, outcome)
        if self.learns_across_requests and len(plan.drafters) <= 1 and was_a_choice(context, plan):
            self._learn_gain(context, arm_of(plan), gain)
        self._reading.learn(context, outcome.drafts)

    def follow(self, context: RoundContext, plan: Plan, outcome: RoundOutcome) -> None:
        """The pace of plain decoding, and who has read what."""
        self._baseline.gain(context, plan, outcome)
        self._reading.learn(context, outcome.drafts)

    def _learn_gain(self, context: RoundContext, arm: Arm | None, gain: float | None) -> None:
        if gain is None or arm is None or arm is PLAIN:
            self._regression.pass_round()
            return
        unread = self._reading.unread(context, (arm.drafter,))
        self._regression.learn(arm.drafter, features(context, (arm.drafter,), (arm.shape,), unread)[0, 0], gain)

    def readers(self, context: RoundContext) -> tuple[str, ...]:
        """All on offer: without their surprisal there is little context to speak of."""
        return context.drafters

    def state(self) -> ModelState:
        """The regression; the pace of plain decoding belongs to this machine and is measured anew."""
        return self._regression.state(self.name)

    def restore(self, state: ModelState) -> None:
        """Go on from a state."""
        if state.policy != self.name:
            raise InvalidModelStateError(f"is of policy {state.policy!r}, not {self.name!r}")
        self._regression.restore(state)


def _means(posterior: Posterior, x: Features, places: list[int]) -> NDArray[np.float64]:
    """(drafters, shapes) expected gains."""
    means: NDArray[np.float64] = (x @ posterior.weights[places][..., None])[..., 0]
    return means


def _with_plain(gains: NDArray[np.float64]) -> NDArray[np.float64]:
    """(1 + drafters * shapes,): plain decoding gains nothing, by definition."""
    return np.concatenate(((0.0,), gains.ravel()))


class LinUcbPolicy(ContextualBandit):
    """The arm of highest upper confidence bound; the choice is certain, so its propensity is 1.

    Source: Li et al. 2010, arXiv:1003.0146, Algorithm 2 (hybrid model), with the discount of D-LinUCB,
    arXiv:1909.09146, whose second matrix of squared discounts is left out: the bound is a little wider for it.
    """

    name = "linucb"

    DEVIATIONS = 1.0
    """Standard deviations added to an estimate (the paper's alpha)."""

    def _probabilities(self, posterior: Posterior, x: Features, places: list[int]) -> Probabilities:
        variances = ((x @ posterior.covariances[places]) * x).sum(axis=-1)
        bounds = _with_plain(_means(posterior, x, places) + self.DEVIATIONS * np.sqrt(variances))
        probabilities = np.zeros(len(bounds))
        probabilities[bounds.argmax()] = 1.0
        return probabilities


class EnsembleThompsonPolicy(ContextualBandit):
    """Posterior members vote for their best arms, and the votes are the probabilities, but for an even floor.

    Thompson sampling from a finite ensemble (Lu and Van Roy, arXiv:1705.07347): unlike a fresh draw each round, its
    propensities are known exactly.
    """

    name = "ensemble-thompson"

    MEMBERS = 64
    FLOOR = 0.02
    """Share of the rounds spread evenly over all arms, so that no propensity in a log is zero."""

    _members: tuple[int, NDArray[np.float64]] | None = None

    def _probabilities(self, posterior: Posterior, x: Features, places: list[int]) -> Probabilities:
        members = self._members_of(posterior)
        gains = (x @ members[places]).reshape(-1, self.MEMBERS)
        best = np.vstack((np.zeros((1, self.MEMBERS)), gains)).argmax(axis=0)
        votes = np.bincount(best, minlength=1 + len(gains)) / self.MEMBERS
        probabilities: Probabilities = (1 - self.FLOOR) * votes + self.FLOOR / len(votes)
        return probabilities

    def _members_of(self, posterior: Posterior) -> NDArray[np.float64]:
        """Drawn once for each solution of the regression."""
        if self._members is None or self._members[0] != posterior.version:
            rng = np.random.default_rng((self._seed, posterior.version))
            self._members = posterior.version, posterior.members(self.MEMBERS, rng)
        return self._members[1]


class SquareCbPolicy(ContextualBandit):
    """The more an arm's estimate falls short of the best, the rarer it is played: inverse gap weighting.

    Source: Foster and Rakhlin 2020, arXiv:2002.04926, Algorithm 1: an arm that falls short by `gap` has the chance
    1 / (arms + gamma * gap), the best one the rest. Gamma grows with the square root of arms times rounds, as
    in its Theorem 1; here of those rounds that are remembered.
    """

    name = "squarecb"

    SCALE = 5.0

    def _probabilities(self, posterior: Posterior, x: Features, places: list[int]) -> Probabilities:
        gains = _with_plain(_means(posterior, x, places))
        gamma = self.SCALE * np.sqrt(len(gains) * self._regression.rounds)
        probabilities: Probabilities = 1.0 / (len(gains) + gamma * (gains.max() - gains))
        best = gains.argmax()
        probabilities[best] = 0.0
        probabilities[best] = 1.0 - probabilities.sum()
        return probabilities
