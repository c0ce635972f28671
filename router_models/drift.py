"""Noticing that a drafter is no longer what it was: a new model under an old name, or traffic it was not made for.

Residuals of what it was believed to do are summed, the older ones fading; their sum has a known spread as long as the
belief is right (an exponentially weighted CUSUM; Page, 1954). Far from that, what was believed is forgotten.
"""

from dataclasses import dataclass

from router_models.contexts import Key

FADING = 0.98
"""Weight of a round against the next."""

ALARM = 4.0
"""Standard deviations from the expected: by chance once in ten thousand rounds or more."""

FEWEST = 8.0
"""Misses or hits more than expected that there must be at least."""

MUCH = 0.25
"""Of the hits, or of the misses, that were expected: so many fewer there must be. A belief that is a little wrong is
told so by the counts themselves, and better than by forgetting them."""

EARLIER = 0.3
"""Share of the evidence that must be older than the request under way: requests differ, and one of them is no drift."""


@dataclass(slots=True)
class Drift:
    """Of one drafter.

    Attributes:
        residual: Hits less expected hits.
        variance: What the residual's would be if the belief were right.
        expected: Hits.
        trials: In which.
        requests: The one that was seen before the last, and the last.
        earlier: What of the residual was there before the last.
    """

    residual: float = 0.0
    variance: float = 0.0
    expected: float = 0.0
    trials: float = 0.0
    requests: tuple[Key | None, Key | None] = (None, None)
    earlier: float = 0.0

    def noticed(self, hits: float, trials: float, believed: float, *, request: Key) -> bool:
        """Take in a round of `trials` first candidates, each believed to be right with that chance; then, whether the
        drafter has become much worse or better than believed. Noticing begins anew with `forget`."""
        if request != self.requests[1]:
            self.requests, self.earlier = (self.requests[1], request), self.residual
        self.residual = FADING * self.residual + hits - trials * believed
        self.variance = FADING**2 * self.variance + trials * believed * (1.0 - believed)
        self.expected = FADING * self.expected + trials * believed
        self.trials = FADING * self.trials + trials
        self.earlier *= FADING
        fewer_of = self.expected if self.residual < 0 else self.trials - self.expected
        far = abs(self.residual) >= max(ALARM * self.variance**0.5, FEWEST, MUCH * fewer_of)
        return far and self.earlier / self.residual >= EARLIER

    def forget(self) -> None:
        """Begin anew."""
        self.residual = self.variance = self.expected = self.trials = self.earlier = 0.0
