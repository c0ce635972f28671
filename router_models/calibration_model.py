"""How often each drafter is right when it is so-and-so sure: learnt from verified nodes.

A node's own confidence goes to one of a few bins of log-odds; each bin remembers how often the target agreed. From the
bins follows a straight line of log-odds (speculation/calibration.py), fitted anew now and then.
"""

from collections.abc import Hashable
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from router_models.ranks import judged
from speculation.calibration import LIMIT, UNCALIBRATED, Calibration, log_odds
from speculation.tree import TokenTree

BINS = 24
"""Bins of one nat each."""

MEMORY = 3000.0
"""Nodes after which an old one counts 1/e."""

REFIT_AFTER = 24
"""Nodes of a drafter between two fits."""

PRIOR_WEIGHT = 8.0
"""Nodes that the drafter's own word is worth."""

STEPS = 8
"""Of Newton's method; the problem is convex and its start is near."""

REMEMBERED_FITS = 256
"""A controller takes up a snapshot twice a second, between the rounds of its requests, and most bins are as they were:
fitting them anew was four fifths of its work."""

OFFSET_GRID, SLOPE_GRID = 0.25, 0.125
"""Calibrations are rounded to these, so that a plan does not change with every round."""

LARGEST_OFFSET, SMALLEST_SLOPE, LARGEST_SLOPE = 6.0, 0.25, 4.0


class CalibrationModel:
    """Bins and fits by drafter, apart for sampled and greedy requests."""

    def __init__(self) -> None:
        self._bins: dict[Hashable, NDArray[np.float64]] = {}
        self._fits: dict[Hashable, Calibration] = {}
        self._to_fit: dict[Hashable, NDArray[np.float64]] = {}
        self._unfitted: dict[Hashable, int] = {}

    def of(self, key: Hashable) -> Calibration:
        """What makes chances of a drafter's confidences. Fitted when asked for: a learner for others never asks."""
        if key in self._to_fit:
            self._fits[key] = fit(self._to_fit.pop(key))
        return self._fits.get(key, UNCALIBRATED)

    def learn(self, key: Hashable, tree: TokenTree, token_ids: tuple[int, ...], used: Calibration) -> None:
        """Take in a drafter's tree, whose confidences are chances under `used`, and what the target emitted."""
        bins = self._bins.setdefault(key, np.zeros((3, BINS)))
        seen = judged(tree, token_ids)
        bins *= np.exp(-len(seen) / MEMORY)
        for chance, agreed in seen:
            odds = log_odds(used.undone(chance))
            place = min(int(odds + LIMIT), BINS - 1)
            bins[0, place] += 1.0
            bins[1, place] += agreed
            bins[2, place] += odds
        self._unfitted[key] = self._unfitted.get(key, 0) + len(seen)
        if self._unfitted[key] >= REFIT_AFTER:
            self._unfitted[key] = 0
            self._to_fit[key] = bins.copy()

    def state(self) -> dict[Hashable, NDArray[Any]]:
        """(3, bins) nodes, agreements and summed log-odds, by key."""
        return dict(self._bins)

    def restore(self, bins: dict[Hashable, NDArray[Any]]) -> None:
        """Go on from a state."""
        self._bins = {key: np.array(value, dtype=np.float64) for key, value in bins.items()}
        self._fits = {}
        self._to_fit = {key: value.copy() for key, value in self._bins.items()}
        self._unfitted = {}


def fit(bins: NDArray[np.float64]) -> Calibration:
    """The line of log-odds that explains the bins best, held to the drafter's own word by PRIOR_WEIGHT nodes."""
    return _fit(bins.tobytes())


@lru_cache(maxsize=REMEMBERED_FITS)
def _fit(bins: bytes) -> Calibration:
    nodes, agreed, total = np.frombuffer(bins).reshape(3, BINS)
    filled = nodes > 1e-9
    n, hits, sure = nodes[filled], agreed[filled], total[filled] / nodes[filled]
    offset, slope, held = 0.0, 1.0, PRIOR_WEIGHT * 0.25
    for _ in range(STEPS):
        chances = 1.0 / (1.0 + np.exp(-np.clip(offset + slope * sure, -LIMIT, LIMIT)))
        missed, weights = hits - n * chances, n * chances * (1.0 - chances)
        gradient = missed.sum() - held * offset, missed @ sure - held * (slope - 1.0)
        # The curvature is ((a, b), (b, d)).
        a, b, d = weights.sum() + held, weights @ sure, weights @ (sure * sure) + held
        determinant = a * d - b * b
        offset += _short((d * gradient[0] - b * gradient[1]) / determinant)
        slope += _short((a * gradient[1] - b * gradient[0]) / determinant)
    offset, slope = (grid * round(value / grid) for value, grid in ((offset, OFFSET_GRID), (slope, SLOPE_GRID)))
    return Calibration(
        offset=min(max(offset, -LARGEST_OFFSET), LARGEST_OFFSET),
        slope=min(max(slope, SMALLEST_SLOPE), LARGEST_SLOPE),
    )


def _short(step: float) -> float:
    """Of Newton's method, no longer than one."""
    return min(max(float(step), -1.0), 1.0)
