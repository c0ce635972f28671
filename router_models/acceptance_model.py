"""How likely each drafter's candidates are to be taken, by context: counts that forget, finer ones shrunk to coarser.

Each hazard of router_models/ranks.py is a Beta variable. A context is a path of keys from the coarsest to the finest;
every level's prior is the mean of the level above, worth STRENGTH observations, so that a new task starts with what
its drafter does elsewhere. The request itself is the finest level.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from router_models.contexts import Key, Path, is_of_a_request
from router_models.ranks import NOMINAL_HAZARDS, NUM_CLASSES, Counts, no_counts
from router_models.recent import Recent

STRENGTH = 60.0
"""Observations that the level above is worth: an answer of a hundred tokens outweighs it."""

MEMORY = 600.0
"""Observations after which an old one counts 1/e: long against a request, short against a change of traffic."""

STRENGTH_IN_REQUEST, MEMORY_IN_REQUEST = 25.0, 60.0
"""The same for the finest level: an answer may change its subject in the middle."""

MOST_CONTEXTS = 4096
"""Contexts held at once; beyond that the one used longest ago is forgotten."""

Posteriors = NDArray[np.float64]


class AcceptanceModel:
    """Beta posteriors of all drafters' hazards."""

    def __init__(
        self, *, memory: float = MEMORY, strength: float = STRENGTH, most_contexts: int = MOST_CONTEXTS
    ) -> None:
        self._memory, self._strength, self._most_contexts = memory, strength, most_contexts
        self._counts: Recent[Key, Counts] = Recent(most_contexts)

    def learn(self, path: Iterable[Key], counts: Counts) -> None:
        """Take counts in at every level of a context."""
        kept, kept_in_request = np.exp(-counts[1] / self._memory), np.exp(-counts[1] / MEMORY_IN_REQUEST)
        for key in path:
            kept = kept_in_request if is_of_a_request(key) else kept
            self._counts.put(key, self._counts.get(key, _NOTHING) * kept + counts)

    def posteriors(self, paths: Sequence[Path]) -> Posteriors:
        """(2, paths, classes): alpha and beta of every hazard, in contexts whose paths are equally long."""
        known = np.array([[self._counts.get(key, _NOTHING) for key in path] for path in paths])
        mean = np.broadcast_to(_PRIOR_MEAN, (len(paths), NUM_CLASSES))
        for keys, (hits, trials) in zip(zip(*paths, strict=True), np.moveaxis(known, (1, 2), (0, 1)), strict=True):
            strength = STRENGTH_IN_REQUEST if is_of_a_request(keys[0]) else self._strength
            alpha, total = strength * mean + hits, strength + trials
            mean = alpha / total
        return np.stack((alpha, total - alpha))

    def mean(self, path: Path) -> NDArray[np.float64]:
        """(classes,) expected hazards in one context."""
        alpha, beta = self.posteriors([path])[:, 0]
        mean: NDArray[np.float64] = alpha / (alpha + beta)
        return mean

    def start_again(self, concerns: Callable[[Key], bool], *, kept: float, request: Key) -> None:
        """Let what was seen in some contexts count for less, beside what was seen in one request."""
        latest = self._counts.get(request, _NOTHING)
        for key in self._counts:
            if concerns(key) and not is_of_a_request(key):
                self._counts[key] = self._counts[key] * kept + latest

    def state(self) -> Mapping[Key, Counts]:
        """All counts, the context used longest ago first."""
        return dict(self._counts)

    def restore(self, counts: Mapping[Key, Counts]) -> None:
        """Go on from these counts."""
        self._counts = Recent(self._most_contexts)
        for key, value in counts.items():
            self._counts.put(key, np.array(value, dtype=np.float64))


_NOTHING = no_counts()
_PRIOR_MEAN = np.array(NOMINAL_HAZARDS)
