"""From a drafter's own confidence to the chance that the target agrees."""

import math
from dataclasses import dataclass

LIMIT = 12.0
"""Log-odds beyond which confidences are not told apart: 6 in a million."""

LARGEST_OFFSET = 20.0
LARGEST_SLOPE = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Log-odds as a straight line of the drafter's: Platt's scaling (Platt, 1999).

    Attributes:
        offset: Added; above 0 if the drafter is right more often than it believes.
        slope: Times the drafter's own log-odds; above 0, so that candidates keep their order.
    """

    offset: float = 0.0
    slope: float = 1.0

    def __call__(self, confidence: float) -> float:
        """The chance, of the drafter's own confidence."""
        return chance_of(self.offset + self.slope * log_odds(confidence))

    def undone(self, chance: float) -> float:
        """The drafter's own confidence, of the chance; as far as LIMIT lets it be known."""
        return chance_of((log_odds(chance) - self.offset) / self.slope)


UNCALIBRATED = Calibration()
"""The drafter's own word."""


def log_odds(chance: float) -> float:
    """Between -LIMIT and LIMIT."""
    if chance <= 0.0 or chance >= 1.0:
        return -LIMIT if chance <= 0.0 else LIMIT
    return min(max(math.log(chance) - math.log1p(-chance), -LIMIT), LIMIT)


def chance_of(odds: float) -> float:
    """The inverse of log_odds, for any number."""
    odds = min(max(odds, -LIMIT), LIMIT)
    return 1.0 / (1.0 + math.exp(-odds))
