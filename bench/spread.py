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


def quantile(values: Sequence[float], share: float, *, seed: int) -> Spread:
    """The value below which that share of the values lies, its interval by drawing them again."""

    def at_share(samples: NDArray[np.float64], /, *, axis: int) -> Any:
        return np.quantile(samples, share, axis=axis)

    return mean_over_groups([values], at_share, seed=seed)


def slope(x: Sequence[float], y: Sequence[float], *, seed: int) -> Spread:
    """How steep the line of least squares through points is, its interval found by drawing the points again.

    Neighbours that are alike make the interval too narrow: a resample takes them for independent.

    Raises:
        ValueError: All points lie at the same x.
    """
    points = np.stack([np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)])
    if np.ptp(points[0]) == 0:
        raise ValueError("a slope needs points at two places")
    rng = np.random.default_rng(seed)
    drawn = points[:, rng.integers(points.shape[1], size=(RESAMPLES, points.shape[1]))]
    slopes = _slopes(drawn[0], drawn[1])
    low, high = np.nanquantile(slopes, [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2])
    return Spread(float(_slopes(points[:1], points[1:])[0]), float(low), float(high))


def _slopes(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """One for each row; none (nan) where a resample drew one point only."""
    spread = np.where(np.ptp(x, axis=1) > 0, 1.0, np.nan)
    x = x - x.mean(axis=1, keepdims=True)
    slopes: NDArray[np.float64] = spread * (x * y).sum(axis=1) / (x**2).sum(axis=1)
    return slopes
