"""What the bandits maximise: how much faster a round was than plain decoding. The one place that defines better.

Tokens per millisecond, never acceptance length, which does not rank speed: LTD (arXiv:2603.01639) reports 3.59x when
rewarded for length and 4.13x when rewarded for throughput, and on the data of SpecKV (arXiv:2605.02888) the length
reward ends at the longest draft although shorter ones are faster.
"""

from dataclasses import dataclass

from router_models.plan import Plan
from router_models.policy import RoundContext, RoundOutcome
from router_models.recent import Recent

NS_PER_MS = 1e6

MOST_GAIN = 5.0
"""Larger gains are taken for this one, so that rewards are bounded as bandits need; plain decoding gains 0, the least
is -1."""

MEASURE_EVERY = 100
"""Rounds after which the pace of plain decoding is measured again."""

FIRST_MEASUREMENTS = 3
"""Plain rounds before the pace counts as known: one alone may have been disturbed."""

MEMORY = 8
"""Plain rounds that the pace remembers."""

MOST_LOADS = 16


@dataclass(slots=True)
class _Pace:
    ms_a_token: float = 0.0
    measured: int = 0
    rounds_since: int = 0


class Baseline:
    """The running pace of plain decoding, by load, and each round's gain over it.

    Plain decoding gains 0 by definition, so a policy need not learn its value; but its pace must be known. Where it is
    not, or has not been measured for MEASURE_EVERY rounds, `due` asks for one plain round: at most a hundredth of all.
    """

    def __init__(self) -> None:
        self._paces: Recent[int, _Pace] = Recent(MOST_LOADS)

    def due(self, context: RoundContext) -> bool:
        """Whether this round should decode plainly, to be measured."""
        pace = self._pace_at(context)
        unknown = pace.measured < FIRST_MEASUREMENTS or pace.rounds_since >= MEASURE_EVERY
        return unknown and context.round > 0

    def gain(self, context: RoundContext, plan: Plan, outcome: RoundOutcome) -> float | None:
        """Tokens per millisecond relative to plain decoding, minus one, in [-1, MOST_GAIN]; None if unknown.

        The ratio and not its logarithm: the mean of a round's log-ratio undervalues an arm that wins much at times,
        and so ranks arms otherwise than their speed does.
        """
        round_ms = outcome.timings.round_ns / NS_PER_MS
        # The first round reads the prompt: it says little about the rounds that follow.
        if context.round == 0 or round_ms <= 0:
            return None
        pace = self._pace_at(context)
        if not plan.speculates:
            _measure(pace, round_ms)
            return 0.0
        pace.rounds_since += 1
        if not pace.measured:
            return None
        return min(len(outcome.verdict.token_ids) * pace.ms_a_token / round_ms - 1.0, MOST_GAIN)

    def _pace_at(self, context: RoundContext) -> _Pace:
        return self._paces.use(context.requests_in_flight.bit_length(), _Pace)


def _measure(pace: _Pace, round_ms: float) -> None:
    """The mean of the first rounds, then one that forgets."""
    pace.measured = min(pace.measured + 1, MEMORY)
    pace.ms_a_token += (round_ms - pace.ms_a_token) / pace.measured
    pace.rounds_since = 0
