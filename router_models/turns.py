"""Noticing that an answer has turned to something else, of which its prompt said nothing."""

from dataclasses import dataclass
from math import log

FALLEN = 0.4
"""Of the rate that a drafter had: what it has left where the answer is no longer about its subject."""

ALARM = 9.0
"""Logarithm of how much likelier the fallen rate must have made what was seen: four misses in a row of a drafter that
is nearly always right."""

HIGHEST = 0.97
"""A drafter is never believed to be surer than this: one miss of it is chance."""


@dataclass(frozen=True, slots=True)
class Turn:
    """Where an answer stands.

    Attributes:
        number: How often it has turned.
        after: The drafter that was right until then; empty before.
        evidence: For another turn (Page's CUSUM, 1954, of log-likelihood ratios).
    """

    number: int = 0
    after: str = ""
    evidence: float = 0.0

    def seen(self, drafter: str, hits: float, trials: float, believed: float) -> "Turn":
        """After a round in which so many of a drafter's first candidates were right, each with the chance believed."""
        rate = min(believed, HIGHEST)
        missed, hit = log((1.0 - FALLEN * rate) / (1.0 - rate)), log(FALLEN)
        evidence = max(self.evidence + hits * hit + (trials - hits) * missed, 0.0)
        if evidence < ALARM:
            return Turn(self.number, self.after, evidence)
        return Turn(self.number + 1, drafter)


STRAIGHT = Turn()
"""An answer that has not turned."""
