"""How likely each drafter's candidates are to be taken, by context: counts that forget, finer ones shrunk to coarser.

Each hazard of router_models/ranks.py is a Beta variable. A context is a path of keys from the coarsest to the finest;
every level's prior is the mean of the level above, worth STRENGTH observations, so that a new task starts with what
its drafter does elsewhere. The request itself is the finest level.
"""

from collections import OrderedDict
from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

from router_models.ranks import NOMINAL_HAZARDS, NUM_CLASSES, Counts, no_counts

STRENGTH = 12.0
"""Observations that the level above is worth."""

MEMORY = 600.0
"""Observations after which an old one counts 1/e: long against a request, short against a change of traffic."""

MOST_CONTEXTS = 4096
"""Contexts held at once; beyond that the one used longest ago is forgotten."""

Path = Sequence[Hashable]
"""Keys from the coarsest level to the finest."""

Posteriors = NDArray[np.float64]


class AcceptanceModel:
    """Beta posteriors of all drafters' hazards."""

    def __init__(
        self, *, memory: float = MEMORY, strength: float = STRENGTH, most_contexts: int = MOST_CONTEXTS
    ) -> None:
        self._memory, self._strength, self._most_contexts = memory, strength, most_contexts
        self._counts: OrderedDict[tuple[Hashable, ...], Counts] = OrderedDict()

    def learn(self, path: Path, counts: Counts) -> None:
        """Take counts in at every level of a context."""
        kept = np.exp(-counts[1] / self._memory)
        for key in _levels(path):
            self._counts[key] = self._counts.get(key, no_counts()) * kept + counts
            self._counts.move_to_end(key)
        while len(self._counts) > self._most_contexts:
            self._counts.popitem(last=False)

    def posteriors(self, paths: Sequence[Path]) -> Posteriors:
        """(2, paths, classes): alpha and beta of every hazard, in contexts whose paths are equally long."""
        mean = np.broadcast_to(_PRIOR_MEAN, (len(paths), NUM_CLASSES))
        for keys in zip(*map(_levels, paths), strict=True):
            hits, trials = np.moveaxis(np.array([self._counts.get(key, _NOTHING) for key in keys]), 1, 0)
            parameters = self._pulled_to(mean)
            parameters[0] += hits
            parameters[1] += trials - hits
            mean = parameters[0] / (parameters[0] + parameters[1])
        return parameters

    def _pulled_to(self, mean: NDArray[np.float64]) -> Posteriors:
        """The prior that a level gets from the one above."""
        parameters = np.empty((2, *mean.shape))
        np.multiply(mean, self._strength, out=parameters[0])
        np.subtract(self._strength, parameters[0], out=parameters[1])
        return parameters


_NOTHING = no_counts()
_PRIOR_MEAN = np.array(NOMINAL_HAZARDS)


def _levels(path: Path) -> list[tuple[Hashable, ...]]:
    return [tuple(path[: length + 1]) for length in range(len(path))]
