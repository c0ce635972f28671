"""A middle value and how far to trust it, without assuming any distribution."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2000
COVERAGE = 0.95
UNSTABLE_ABOVE = 0.1


class Statistic(Protocol):
    """One number for each row of samples."""

    def __call__(self, samples: NDArray[np.float64], /, *, axis: int) -> Any: ...


@dataclass(frozen=True, slots=True)
class Spread:
    """A value between the ends of its 95% bootstrap interval."""

    value: float
    low: float
    high: float

    @property
    def unstable(self) -> bool:
        """Whether either end lies more than a tenth from the value."""
        return max(self.high - self.value, self.value - self.low) > UNSTABLE_ABOVE * abs(self.value)


def median(values: Sequence[float], *, seed: int) -> Spread:
    """The median, its interval found by drawing the values again with replacement."""
    return mean_over_groups([values], np.median, seed=seed)


def mean_over_groups(groups: Sequence[Sequence[float]], statistic: Statistic, *, seed: int) -> Spread:
    """The mean over groups of a statistic of each; every resample draws anew within each group.

    Groups count alike however many values each has: four domains are four domains.

    Args:
        groups: At least one, none empty.
        statistic: np.median, np.mean or the like: called with samples along axis 1.
        seed: Of the resampling.
    """
    if not groups or not all(groups):
        raise ValueError("every group needs a value")
    rng = np.random.default_rng(seed)
    rows = [np.asarray(group, dtype=np.float64)[np.newaxis] for group in groups]
    value = np.mean([statistic(row, axis=1) for row in rows])
    draws = [statistic(rng.choice(row[0], size=(RESAMPLES, row.size)), axis=1) for row in rows]
    low, high = np.quantile(np.mean(draws, axis=0), [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2])
    return Spread(float(value), float(low), float(high))
