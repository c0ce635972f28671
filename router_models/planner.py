"""The policy that serves each request with whatever is fastest for it: expected tokens a second, by what was accepted.

Every round it draws acceptance rates from their posteriors (Thompson, 1933), works out what each drafter and shape
would bring and cost, and takes the best; plain decoding is one of the choices. Where it knows, all draws agree; where
it does not, they differ, and that is all the exploration there is.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from router_models import formulas
from router_models.ahead_model import Draft
from router_models.contexts import kind_of
from router_models.forecast import Forecast, Forecaster
from router_models.knowledge import Knowledge
from router_models.limits import longest_run, offered, run_now
from router_models.menu import SHAPES
from router_models.model_state import ModelState
from router_models.normals import Normals
from router_models.plan import Plan, no_speculation
from router_models.policy import Policy, RoundContext, RoundOutcome, TextScores
from router_models.reading import MOST_REQUESTS, Reading
from router_models.recent import Recent
from router_models.reticence import Prospect
from speculation.calibration import Calibration
from speculation.errors import InvalidModelStateError
from speculation.tree import TreeShape

DRAWS = 8
"""Posterior draws a round; a propensity is a number of eighths."""

TOKENS_A_ROUND = 2.0
"""What a round may be counted on to bring, when the reading of a prompt is spread over the rounds to come."""

MOST_READERS_BESIDE = 1
"""With more requests beside this one nobody but the target reads a prompt: drafters would take the processors of those
who decode, for what they may never draft after. With 4 of them four streams made 0.7 of the tokens (docs/log.md)."""

SHARPNESS = 9.0
"""Posteriors are drawn from as if they had seen this many times what they have: most of what Thompson's draws explore
in a request is found out anyway, by the rounds of others (docs/log.md, "Two requests make a drift")."""

ALIKE, UNALIKE = 0.9, 0.436
"""What of the doubts of a shape's correction is shared by all of its drafter's shapes, as most are learnt from the same
rounds, and what is its own; their squares add up to one."""

Array = NDArray[np.float64]
Doubts = tuple[Array, Array]
"""Two independent standard deviations of accepted tokens over their mean, (drafters, shapes) each: what all shapes of a
drafter share, and what is each one's own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
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
        self._normals = Normals(seed)
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
        if context.round == 0:
            self._knowledge.costs.expect(context.drafter_profiles, context.target_profile)
            if not context.prompt_surprisal and not self.readers(context):
                return no_speculation("nobody has read the prompt but the target")
        if self._adapts:
            return self._fastest(context)
        if context.round == 0:
            self._first_plans.pop(context.request_id, None)
        first = self._first_plans.use(context.request_id, lambda: self._fastest(context))
        return first if set(first.drafters) <= set(context.drafters) else self._fastest(context)

    def _fastest(self, context: RoundContext) -> Plan:
        shapes = offered(self._forecaster.shapes, context)
        forecaster = self._forecaster if shapes == self._forecaster.shapes else _forecaster_of(shapes)
        prospects = self._knowledge.prospects(context) if forecaster is self._forecaster else {}
        forecast, doubts = self._forecast(context, forecaster, prospects)
        costs_ms, plain = self._costs_ms(context, forecast, forecaster)
        price = self._others_tokens(context, forecast)
        gains = 1.0 + forecast.accepted - price
        if prospects:
            self._count_silences(context, prospects, gains, forecast.accepted, costs_ms, plain)
        chosen = self._draw(gains, forecast.accepted, doubts, costs_ms, plain, exploration=context.exploration)
        propensity = chosen.count(chosen[0]) / DRAWS  # the draws are alike in law: the first is as good as a random one
        if chosen[0] is None:
            return Plan(
                drafters=(),
                run=run_now(context),
                explanation=f"plain decoding: {plain.ms_a_token:.1f} ms a token",
                propensity=propensity,
            )
        drafter, number = chosen[0]
        lost = price if isinstance(price, float) else float(price[drafter, number])
        tokens, cost_ms = float(gains[drafter, number]) + lost, float(costs_ms[drafter, number])
        others = f", {lost:.1f} tokens less for others" if lost > 0.0 else ""
        name = context.drafters[drafter]
        return Plan(
            drafters=(name,),
            shape=shapes[number],
            propensity=propensity,
            explanation=f"{tokens:.1f} tokens in {cost_ms:.1f} ms expected{others}; "
            f"plain decoding {plain.ms_a_token:.1f} ms a token",
            calibrations={name: self._knowledge.calibrations.of(kind_of(context, name))},
        )

    def _draw(
        self, gains: Array, accepted: Array, doubts: Doubts, costs_ms: Array, plain: "_Plain", *, exploration: float
    ) -> list[tuple[int, int] | None]:
        """The fastest choice under every posterior draw: a drafter and the number of a shape; None is plain decoding.

        Args:
            gains: (drafters, shapes) expected tokens, less those that others lose.
            accepted: (drafters, shapes) expected of the drafter's.
            doubts: Of them.
            costs_ms: (drafters, shapes).
            plain: What plain decoding brings.
            exploration: The share of the doubts that is drawn from.
        """
        drafters, shapes = accepted.shape
        drawn = self._normals.draw(DRAWS, drafters, 1 + shapes)
        places, speeds = formulas.fastest(gains, accepted, *doubts, costs_ms, drawn, exploration)
        ahead = costs_ms.flat[places] * (speeds - 1.0 / plain.ms_a_token)
        return [
            divmod(place, shapes) if tokens > -plain.short else None
            for place, tokens in zip(places.tolist(), ahead.tolist(), strict=True)
        ]

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
        self._knowledge.ahead.follow(context, plan)
        self._reading.learn(context, outcome.drafts)

    def learn_scores(self, context: RoundContext, scores: Mapping[str, TextScores]) -> None:
        """How drafters that did not draft would have done."""
        if self.learns_across_requests:
            self._knowledge.learn_scores(context, scores)

    def state(self) -> ModelState:
        """What it has learnt, across requests."""
        return self._knowledge.state(self.name)

    def restore(self, state: ModelState) -> None:
        """Go on from a state; what is known of running requests, and of what workers measured, stays."""
        if state.policy != self.name:
            raise InvalidModelStateError(f"was learnt by the policy {state.policy}, not by {self.name}")
        restored = Knowledge.of(state, self._forecaster)
        restored.keep_what_is_at_hand(self._knowledge)
        self._knowledge = restored

    def expectation(self, context: RoundContext, drafter: str, plan: Plan) -> Expectation:
        """What it expects of a round in which one drafter drafts alone, for those who hold it against what came."""
        known = plan.shape in self._forecaster.places
        forecaster = self._forecaster if known else _forecaster_of((plan.shape,))
        alone = replace(context, drafters=(drafter,))
        forecast, _ = self._forecast(alone, forecaster, self._knowledge.prospects(alone) if known else {})
        number, beside = forecaster.places[plan.shape], context.requests_in_flight - 1
        unread, costs = self._reading.unread(context, (drafter,)), self._knowledge.costs
        costs_ms = costs.draft_ms((drafter,), forecast.levels, forecast.nodes, unread, beside)
        costs_ms = costs_ms + costs.verify_ms(forecast.nodes, beside)
        return Expectation(
            hazards=self._knowledge.acceptance.mean(self._knowledge.path(context, drafter)),
            accepted=float(forecast.accepted[0, number]),
            ms=float(costs_ms[0, number]),
            calibration=self._knowledge.calibrations.of(kind_of(context, drafter)),
        )

    def _forecast(
        self, context: RoundContext, forecaster: Forecaster, prospects: Mapping[int, Prospect]
    ) -> tuple[Forecast, Doubts]:
        """(drafters, shapes) forecasts and doubts of them; corrected if the menu is ours, those of `prospects` by
        what their answers brought."""
        paths = self._knowledge.paths(context)
        likely, accepted = forecaster.forecast_if(self._knowledge.acceptance.hazards(paths))
        if forecaster is not self._forecaster:
            uncorrected = np.zeros((*likely.accepted.shape, 4))
            return likely, formulas.doubts(accepted, uncorrected, SHARPNESS, ALIKE, UNALIKE)
        corrected = np.array([corrections.judged for corrections in self._knowledge.corrections_on(paths)])
        likely, doubts = likely.times(corrected), formulas.doubts(accepted, corrected, SHARPNESS, ALIKE, UNALIKE)
        for row, prospect in prospects.items():
            brought = prospect.brought(likely.stacked()[row])
            likely.accepted[row], likely.levels[row], likely.nodes[row] = brought.T
            doubts[1][row] = prospect.doubts / SHARPNESS**0.5
        return likely, doubts

    def _count_silences(
        self,
        context: RoundContext,
        prospects: Mapping[int, Prospect],
        gains: Array,
        accepted: Array,
        costs_ms: Array,
        plain: "_Plain",
    ) -> None:
        """Make of what answers bring and cost what asking does: a silence costs its message, and then the round is the
        best that the others have."""
        others = [row for row in range(len(gains)) if row not in prospects]
        tokens, took_ms = _best(gains[others], costs_ms[others], plain)
        heard_ms = self._knowledge.costs.silence_ms(context.drafters, context.requests_in_flight - 1)
        for row, (speaks, _) in prospects.items():
            gains[row] = speaks * gains[row] + (1.0 - speaks) * tokens
            costs_ms[row] = speaks * costs_ms[row] + (1.0 - speaks) * (heard_ms[row] + took_ms)
            accepted[row] *= speaks

    def _costs_ms(self, context: RoundContext, forecast: Forecast, forecaster: Forecaster) -> tuple[Array, "_Plain"]:
        """(drafters, shapes), and plain decoding. Text that a drafter has not read is charged to the tokens still to
        come; what may have been drafted ahead costs as much less as it is likely to be there."""
        rounds_left = max(context.remaining_tokens / TOKENS_A_ROUND, 1.0)
        unread = self._reading.unread(context, context.drafters) / rounds_left
        beside = context.requests_in_flight - 1
        costs = self._knowledge.costs
        drafting = costs.draft_ms(context.drafters, forecast.levels, forecast.nodes, unread, beside)
        ready = self._knowledge.ahead.last(context)
        if ready is not None and self._is_on_offer(ready, context, forecaster):
            place = context.drafters.index(ready.drafter), forecaster.places[ready.shape]
            drafting[place] *= 1.0 - self._knowledge.ahead.share(kind_of(context, ready.drafter), ready.shape)
        run, now = longest_run(context), run_now(context)
        plain = _Plain(1 + run, costs.plain_ms(run, beside))
        if now < run:
            plain = plain._replace(short=costs.plain_ms(now, beside) / plain.ms_a_token - (1 + now))
        return drafting + costs.verify_ms(forecast.nodes, beside), plain

    def _others_tokens(self, context: RoundContext, forecast: Forecast) -> Array | float:
        """(drafters, shapes) tokens that those served beside this request lose by its nodes.

        With these taken off what a round brings, nodes are verified where they gain most a millisecond, whoever's they
        are: the greedy packing of Speculative Verification (arXiv:2509.24328) by a price in place of a queue. A request
        that is late takes nothing off.
        """
        if context.late:
            return 0.0
        return self._knowledge.costs.others_tokens(forecast.nodes, context.requests_in_flight - 1)

    def _is_on_offer(self, ready: Draft, context: RoundContext, forecaster: Forecaster) -> bool:
        """Whether what may be there already is among the choices."""
        return (
            ready.drafter in context.drafters
            and ready.shape in forecaster.places
            and ready.calibration == self._knowledge.calibrations.of(kind_of(context, ready.drafter))
        )


class _Plain(NamedTuple):
    """A round without drafts: a token, and the run after it.

    Attributes:
        tokens: Emitted.
        ms: It takes.
        short: Tokens that this round would emit less than it does elsewhere in the same time: the first has no run.
    """

    tokens: int
    ms: float
    short: float = 0.0

    @property
    def ms_a_token(self) -> float:
        """What a token of it takes."""
        return self.ms / self.tokens


def _best(gains: Array, costs_ms: Array, plain: _Plain) -> tuple[float, float]:
    """Tokens and milliseconds of the fastest of (drafters, shapes), or of plain decoding."""
    speeds = gains / costs_ms
    if speeds.max(initial=0.0) * plain.ms_a_token <= 1.0:
        return float(plain.tokens), plain.ms
    best = speeds.argmax()
    return float(gains.flat[best]), float(costs_ms.flat[best])


@lru_cache(maxsize=256)
def _forecaster_of(shapes: tuple[TreeShape, ...]) -> Forecaster:
    return Forecaster(shapes)
