"""The policy that serves each request with whatever is fastest for it: expected tokens a second, by what was accepted.

Every round it draws acceptance rates from their posteriors (Thompson, 1933), works out what each drafter and shape
would bring and cost, and takes the best; plain decoding is one of the choices. Where it knows, all draws agree; where
it does not, they differ, and that is all the exploration there is.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from router_models.contexts import kind_of, path_of
from router_models.forecast import Forecast, Forecaster, chain_accepted
from router_models.knowledge import Knowledge
from router_models.limits import offered
from router_models.menu import SHAPES
from router_models.model_state import ModelState
from router_models.plan import Plan, no_speculation
from router_models.policy import Policy, RoundContext, RoundOutcome, TextScores
from router_models.reading import MOST_REQUESTS, Reading
from router_models.recent import Recent
from speculation.calibration import Calibration
from speculation.errors import InvalidModelStateError
from speculation.tree import TreeShape

DRAWS = 8
"""Posterior draws a round; a propensity is a number of eighths."""

TOKENS_A_ROUND = 2.0
"""What a round may be counted on to bring, when the reading of a prompt is spread over the rounds to come."""

MOST_READERS_BESIDE = 4
"""With more requests beside this one, drafters have better things to do than to read what they may not serve."""

SHARPNESS = 4.0
"""Posteriors are drawn from as if they had seen this many times what they have: most of what Thompson's draws explore
in a request is found out anyway, by the rounds of others (docs/log.md: 0.95 to 0.98 of the oracle)."""

LEAST_EXPLORATION = 1e-3
"""Draws as good as certain, without a division by zero."""

ALIKE = 0.9
"""Correlation of the corrections of one drafter's shapes: most are learnt from the same rounds."""

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Foresight:
    """What the planner expects of a round.

    Attributes:
        hazards: (classes,) of the drafter's candidates.
        accepted: Tokens drafted and kept.
        ms: What the round takes.
        calibration: What makes chances of the drafter's confidences.
    """

    hazards: Array
    accepted: float
    ms: float
    calibration: Calibration


class PlannerPolicy(Policy):
    """Chooses drafter and shape by expected tokens a second.

    Attributes:
        learns_across_requests: Whether rounds teach what other requests will use; else only their own request.

    Args:
        shapes: What it chooses from; a shape pinned by the request stands in for all of them.
        adapt_within_request: False keeps the first plan of a request to its end: the control of that adaptation.
        seed: Of the posterior draws: the same history gives the same plans.
    """

    def __init__(
        self, *, shapes: Sequence[TreeShape] = SHAPES, adapt_within_request: bool = True, seed: int = 0
    ) -> None:
        self.learns_across_requests = True
        self._forecaster = Forecaster(shapes)
        self._adapts = adapt_within_request
        self._rng = np.random.default_rng(seed)
        self._knowledge = Knowledge(self._forecaster)
        self._reading = Reading()
        self._first_plans: Recent[str, Plan] = Recent(MOST_REQUESTS)

    @property
    def name(self) -> str:
        """The name by which requests and operators call it."""
        return "planner"

    def readers(self, context: RoundContext) -> tuple[str, ...]:
        """Everybody, while there is time for it."""
        return context.drafters if context.requests_in_flight <= 1 + MOST_READERS_BESIDE else ()

    def plan(self, context: RoundContext) -> Plan:
        """The fastest choice under one of several posterior draws."""
        if not context.drafters:
            return no_speculation("no drafter is on offer")
        if self._adapts:
            return self._fastest(context)
        if context.round == 0:
            self._first_plans.pop(context.request_id, None)
        first = self._first_plans.use(context.request_id, lambda: self._fastest(context))
        return first if set(first.drafters) <= set(context.drafters) else self._fastest(context)

    def _fastest(self, context: RoundContext) -> Plan:
        shapes = offered(self._forecaster.shapes, context)
        forecaster = self._forecaster if shapes == self._forecaster.shapes else _forecaster_of(shapes)
        alpha, beta = self._knowledge.acceptance.posteriors([path_of(context, name) for name in context.drafters])
        forecast, doubts = self._forecast(context, forecaster, alpha / (alpha + beta))
        costs_ms = self._costs_ms(context, forecast)
        plain_ms = float(self._knowledge.costs.verify_ms(np.zeros(1), _beside(context))[0])
        sharpness = SHARPNESS / max(context.exploration, LEAST_EXPLORATION) ** 2
        sharp_alpha, sharp_beta = sharpness * alpha[:, 0], sharpness * beta[:, 0]
        doubts = doubts * context.exploration
        numbers, speeds = self._draw(forecast, doubts, costs_ms, sharp_alpha, sharp_beta)
        drafters = np.where(speeds.max(axis=1) > 1.0 / plain_ms, speeds.argmax(axis=1), -1)
        chosen = int(drafters[0])  # the draws are alike in law, so the first is as good as a random one
        if chosen < 0:
            propensity = float(np.mean(drafters < 0))
            return Plan(drafters=(), explanation=f"plain decoding: {plain_ms:.1f} ms a token", propensity=propensity)
        number = int(numbers[0, chosen])
        tokens, cost_ms = 1.0 + float(forecast.accepted[chosen, number]), float(costs_ms[chosen, number])
        name = context.drafters[chosen]
        return Plan(
            drafters=(name,),
            shape=forecaster.shapes[number],
            propensity=float(np.mean((drafters == chosen) & (numbers[:, chosen] == number))),
            explanation=f"{tokens:.1f} tokens in {cost_ms:.1f} ms expected; plain decoding {plain_ms:.1f} ms a token",
            calibrations={name: self._knowledge.calibrations.of(kind_of(context, name))},
        )

    def _draw(
        self, forecast: Forecast, doubts: Array, costs_ms: Array, alpha: Array, beta: Array
    ) -> tuple[NDArray[np.int64], Array]:
        """Each drafter's best shape, and its speed with that, under every draw.

        Which shape suits a drafter is hardly learnt by trying: any shape teaches it. So the acceptance rates are drawn
        only to choose among drafters, and shapes by the mean; what is doubted of shapes themselves is drawn for both.

        Args:
            forecast: (drafters, shapes).
            doubts: (drafters, shapes) standard deviation of accepted tokens, over their mean.
            costs_ms: (drafters, shapes).
            alpha: (drafters,) of the Beta posterior of the first candidate's rate.
            beta: The same.

        Returns:
            (draws, drafters) numbers of shapes, and tokens per millisecond.
        """
        drafters = np.arange(len(alpha))
        accepted = forecast.accepted * np.maximum(1.0 + doubts * self._alike(doubts.shape), 0.0)
        shapes = ((1.0 + accepted) / costs_ms).argmax(axis=-1)
        lengths = np.maximum(forecast.nodes[drafters, shapes], 1.0)
        drawn = self._rng.beta(alpha, beta, size=(DRAWS, len(alpha)))
        mean = alpha / (alpha + beta)
        better = chain_accepted(drawn, lengths) / chain_accepted(mean, lengths)
        accepted = np.take_along_axis(accepted, shapes[..., None], axis=-1)[..., 0] * better
        return shapes, (1.0 + np.minimum(accepted, lengths)) / costs_ms[drafters, shapes]

    def learn(self, context: RoundContext, plan: Plan, outcome: RoundOutcome) -> None:
        """Ranks and confidences from every tree that was drafted, costs from the timings."""
        if not self.learns_across_requests:
            self.follow(context, plan, outcome)
            return
        unread = int(self._reading.unread(context, plan.drafters).max(initial=0.0))
        self._knowledge.learn(context, plan, outcome, unread=unread)
        self._reading.learn(context, outcome.drafts)

    def follow(self, context: RoundContext, plan: Plan, outcome: RoundOutcome) -> None:
        """What a round says about its own request."""
        self._knowledge.learn_within_request(context, plan, outcome)
        self._reading.learn(context, outcome.drafts)

    def learn_scores(self, context: RoundContext, scores: Mapping[str, TextScores]) -> None:
        """How drafters that did not draft would have done."""
        if self.learns_across_requests:
            self._knowledge.learn_scores(context, scores)

    def state(self) -> ModelState:
        """What it has learnt, across requests."""
        return self._knowledge.state(self.name)

    def restore(self, state: ModelState) -> None:
        """Go on from a state; what is known of running requests stays."""
        if state.policy != self.name:
            raise InvalidModelStateError(f"was learnt by the policy {state.policy}, not by {self.name}")
        restored = Knowledge.of(state, self._forecaster)
        restored.keep_requests_of(self._knowledge)
        self._knowledge = restored

    def foresight(self, context: RoundContext, drafter: str, plan: Plan) -> Foresight:
        """What it expects of a round in which one drafter drafts alone, for those who hold it against what came."""
        hazards = self._knowledge.acceptance.mean(path_of(context, drafter))
        known = plan.shape in self._forecaster.shapes
        forecaster = self._forecaster if known else _forecaster_of((plan.shape,))
        forecast, _ = self._forecast(replace(context, drafters=(drafter,)), forecaster, hazards[None])
        number = forecaster.shapes.index(plan.shape)
        costs_ms = self._knowledge.costs.draft_ms(
            (drafter,), forecast.levels, forecast.nodes, self._reading.unread(context, (drafter,)), _beside(context)
        ) + self._knowledge.costs.verify_ms(forecast.nodes, _beside(context))
        return Foresight(
            hazards=hazards,
            accepted=float(forecast.accepted[0, number]),
            ms=float(costs_ms[0, number]),
            calibration=self._knowledge.calibrations.of(kind_of(context, drafter)),
        )

    def _forecast(self, context: RoundContext, forecaster: Forecaster, hazards: Array) -> tuple[Forecast, Array]:
        """(drafters, classes) hazards to (drafters, shapes) forecasts and doubts; corrected if the menu is ours."""
        forecast = forecaster.forecast(hazards)
        if forecaster is not self._forecaster:
            return forecast, np.zeros_like(forecast.accepted)
        corrections = [self._knowledge.corrections(kind_of(context, drafter)) for drafter in context.drafters]
        corrected = forecast.times(np.array([correction.ratios for correction in corrections]))
        return corrected, np.array([correction.doubts for correction in corrections])

    def _alike(self, shape: tuple[int, int]) -> Array:
        """(draws, drafters, shapes) standard normal, mostly shared by the shapes of a drafter: they err together."""
        common = self._rng.standard_normal((DRAWS, shape[0], 1))
        alike: Array = ALIKE * common + (1.0 - ALIKE**2) ** 0.5 * self._rng.standard_normal((DRAWS, *shape))
        return alike

    def _costs_ms(self, context: RoundContext, forecast: Forecast) -> Array:
        """(drafters, shapes). Text that a drafter has not read is charged to the tokens still to come."""
        rounds_left = max(context.remaining_tokens / TOKENS_A_ROUND, 1.0)
        unread = self._reading.unread(context, context.drafters) / rounds_left
        beside = _beside(context)
        drafting = self._knowledge.costs.draft_ms(context.drafters, forecast.levels, forecast.nodes, unread, beside)
        return drafting + self._knowledge.costs.verify_ms(forecast.nodes, beside)


@lru_cache(maxsize=256)
def _forecaster_of(shapes: tuple[TreeShape, ...]) -> Forecaster:
    return Forecaster(shapes)


def _beside(context: RoundContext) -> int:
    """Requests served at the same time as this one."""
    return context.requests_in_flight - 1
