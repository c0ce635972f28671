"""How likely each drafter's candidates are to be taken, by context: counts that forget, finer ones shrunk to coarser.

Each hazard of router_models/ranks.py is a Beta variable. A context is a path of keys from the coarsest to the finest;
every level's prior is the mean of the level above, worth STRENGTH observations, so that a new task starts with what
its drafter does elsewhere. The request itself is the finest level.
"""

from collections.abc import Callable, Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from router_models.contexts import LEVELS, Key, Path, Paths, is_of_a_request
from router_models.formulas import expected_hazards, remember
from router_models.ranks import NOMINAL_HAZARDS, Counts, no_counts
from router_models.recent import Recent

STRENGTH = 60.0
"""Observations that the level above is worth: an answer of a hundred tokens outweighs it."""

MEMORY = 600.0
"""Observations after which an old one counts 1/e: long against a request, short against a change of traffic."""

STRENGTH_IN_REQUEST, MEMORY_IN_REQUEST = 25.0, 60.0
"""The same for the finest level: an answer may change its subject in the middle."""

MOST_CONTEXTS = 4096
"""Contexts held at once; beyond that the one used longest ago is forgotten."""


class AcceptanceModel:
    """Beta posteriors of all drafters' hazards."""

    def __init__(
        self, *, memory: float = MEMORY, strength: float = STRENGTH, most_contexts: int = MOST_CONTEXTS
    ) -> None:
        self._most_contexts = most_contexts
        self._rows: Recent[Key, int] = Recent(most_contexts)
        self._rows_given = 0
        self._found: Recent[Key, tuple[Paths, int, NDArray[np.int64]]] = Recent(most_contexts)
        self._counts = np.zeros((1 + most_contexts, *no_counts().shape))  # row 0 is of contexts that were never seen
        self._strength = strength
        by_level = [*[strength] * (LEVELS - 1), STRENGTH_IN_REQUEST]
        self._strengths = {levels: np.array(by_level[:levels]) for levels in range(1, LEVELS + 1)}
        self._memories = memory, MEMORY_IN_REQUEST

    def learn(self, path: Iterable[Key], counts: Counts) -> None:
        """Take counts in at every level of a context."""
        for key in path:
            remember(self._counts, self._row_of(key), counts, self._memories[is_of_a_request(key)])

    def hazards(self, paths: Paths) -> NDArray[np.float64]:
        """(2, paths, classes) hazards in contexts: as expected, and with first candidates that are likelier by a
        standard deviation. The paths are equally long, and begin at the coarsest level."""
        return self._hazards_of(self._rows_of(paths))

    def mean(self, path: Path) -> NDArray[np.float64]:
        """(classes,) expected hazards in one context."""
        mean: NDArray[np.float64] = self._hazards_of(self._look_up((path,)))[0, 0]
        return mean

    def first_mean(self, path: Path) -> float:
        """The expected hazard of first candidates in one context, `mean(path)[0]` for a tenth of the time."""
        strengths = self._strengths[len(path)].tolist()
        mean = NOMINAL_HAZARDS[0]
        for key, strength in zip(path, strengths, strict=True):
            hits, trials = self._counts[self._rows.get(key, _NEVER_SEEN), :, 0].tolist()
            mean = (hits + strength * mean) / (trials + strength)
        return mean

    def start_again(self, concerns: Callable[[Key], bool], *, requests: Iterable[Key | None]) -> None:
        """Put what was seen in some requests in the place of what was seen in some contexts.

        However little that is, it counts as much as the level above: else a bad drafter would be believed for the
        company it keeps, and tried again in every request (docs/log.md, "A drafter that turns bad").
        """
        latest = np.sum([self._counts[self._rows.get(key, _NEVER_SEEN)] for key in requests if key], axis=0)
        rows = [row for key, row in self._rows.items() if concerns(key) and not is_of_a_request(key)]
        self._counts[rows] = latest * max(self._strength / max(latest[1, 0], 1.0), 1.0)

    def state(self) -> Mapping[Key, Counts]:
        """All counts, the context used longest ago first."""
        return {key: self._counts[row].copy() for key, row in self._rows.items()}

    def restore(self, counts: Mapping[Key, Counts]) -> None:
        """Go on from these counts."""
        self._rows = Recent(self._most_contexts)
        self._rows_given += 1
        self._counts[:] = 0.0
        for key, value in counts.items():
            self._counts[self._row_of(key)] = value

    def _hazards_of(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        return expected_hazards(self._counts, rows, self._strengths[rows.shape[1]], _PRIOR_MEAN)

    def _rows_of(self, paths: Paths) -> NDArray[np.int64]:
        """(paths, levels), looked up again only where another context got a row since the request's last round."""
        request = paths[0][-1]
        found = self._found.get(request)
        if found is None or found[0] is not paths or found[1] != self._rows_given:
            found = self._found.put(request, (paths, self._rows_given, self._look_up(paths)))
        return found[2]

    def _look_up(self, paths: Paths) -> NDArray[np.int64]:
        return np.array([[self._rows.get(key, _NEVER_SEEN) for key in path] for path in paths], dtype=np.int64)

    def _row_of(self, key: Key) -> int:
        """Of a context, which is now the one used last; a new one takes the row of the one used longest ago."""
        row = self._rows.get(key)
        self._rows_given += row is None
        if row is None and len(self._rows) < self._most_contexts:
            row = 1 + len(self._rows)
        elif row is None:
            row = self._rows.popitem(last=False)[1]
            self._counts[row] = 0.0
        return self._rows.put(key, row)


_NEVER_SEEN = 0
_PRIOR_MEAN = np.array(NOMINAL_HAZARDS)
