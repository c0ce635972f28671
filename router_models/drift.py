"""Noticing that a drafter is no longer what it was: a new model under an old name, or traffic it was not made for.

Residuals of what it was believed to do are summed, the older ones fading; their sum has a known spread as long as the
belief is right (an exponentially weighted CUSUM; Page, 1954). Far from that, what was believed is forgotten.
"""

from dataclasses import dataclass

FADING = 0.98
"""Weight of a round against the next."""

ALARM = 4.0
"""Standard deviations from the expected: by chance once in ten thousand rounds or more."""

FEWEST = 3.0
"""Misses or hits more than expected that there must be at least."""


@dataclass(slots=True)
class Drift:
    """Of one drafter.

    Attributes:
        residual: Hits less expected hits.
        variance: What the residual's would be if the belief were right.
    """

    residual: float = 0.0
    variance: float = 0.0

    def noticed(self, hits: float, trials: float, believed: float) -> bool:
        """Take in a round of `trials` first candidates, each believed to be right with that chance; then, whether the
        drafter has become much worse or better than believed. Noticing begins anew after an alarm."""
        self.residual = FADING * self.residual + hits - trials * believed
        self.variance = FADING**2 * self.variance + trials * believed * (1.0 - believed)
        if abs(self.residual) < max(ALARM * self.variance**0.5, FEWEST):
            return False
        self.residual = self.variance = 0.0
        return True
