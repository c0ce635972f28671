"""Whose kind of text a prompt is: of the drafters that it surprises least, the one that is surprised most by others.

A drafter of many kinds of text is nearly as much at home in each as the one that is made for it, and now and then by a
hair more so. Of drafters that are about equally surprised, the one that seldom is so little surprised says most.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from router_models.reading import MOST_REQUESTS
from router_models.recent import Recent

TIE = 0.05
"""Nats per token by which drafters are about equally surprised. On our zoo's prompts a specialist was at most 0.024
behind the drafter of all kinds on text of its own, and at least 0.15 on any other."""

FORGETTING = 0.995
"""Weight of a request against the next: two hundred are remembered."""


class HomeModel:
    """How surprised each drafter usually is.

    Attributes:
        sums: By drafter, (2,) of requests and nats per token.
    """

    def __init__(self) -> None:
        self.sums: dict[str, NDArray[np.float64]] = {}
        self._found: Recent[str, tuple[Mapping[str, float], str]] = Recent(MOST_REQUESTS)

    def learn(self, surprisal: Mapping[str, float]) -> None:
        """Take in how much a prompt surprised those that have read it."""
        for drafter, nats in surprisal.items():
            known = self.sums.get(drafter)
            seen = np.array((1.0, nats))
            self.sums[drafter] = seen if known is None else FORGETTING * known + seen

    def home(self, request_id: str, surprisal: Mapping[str, float]) -> str:
        """The drafter whose kind of text the prompt is; empty if nobody has read it.

        It stays the same for a request for as long as no other drafter has read its prompt.
        """
        found = self._found.get(request_id)
        if found is None or found[0] != surprisal:
            found = self._found.put(request_id, (surprisal, self._home(surprisal)))
        return found[1]

    def keep_requests_of(self, other: "HomeModel") -> None:
        """Take over where the requests of another one are at home."""
        self._found = other._found

    def _home(self, surprisal: Mapping[str, float]) -> str:
        least = min(surprisal.values(), default=0.0)
        near = [drafter for drafter, nats in surprisal.items() if nats <= least + TIE]
        return min(near, key=lambda drafter: (-self._usual(drafter), surprisal[drafter], drafter), default="")

    def _usual(self, drafter: str) -> float:
        requests, nats = self.sums.get(drafter, (1.0, 0.0))
        return float(nats / requests)
