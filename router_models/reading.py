"""How much of each request every drafter has read: text it has not read makes its next round slower."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from router_models.policy import RoundContext
from router_models.recent import Recent

MOST_REQUESTS = 4096
"""Requests remembered; nobody says when one has ended."""


class Reading:
    """Tokens read, by request and drafter. A request begins anew with round 0, whoever had its name before."""

    def __init__(self) -> None:
        self._read: Recent[str, dict[str, int]] = Recent(MOST_REQUESTS)

    def learn(self, context: RoundContext, answered: Iterable[str]) -> None:
        """Drafters that answered have read all there was."""
        read = self._read.use(context.request_id, dict)
        if context.round == 0:
            read.clear()
        read.update(dict.fromkeys(answered, _length(context)))

    def unread(self, context: RoundContext, drafters: Sequence[str]) -> NDArray[np.float64]:
        """(drafters,) tokens. Who has told its surprisal at the prompt has read that."""
        read: Mapping[str, int] = self._read.get(context.request_id, {}) if context.round else {}
        heard, length = context.prompt_surprisal, _length(context)
        told = context.prompt_tokens
        return np.array(
            [float(length - max(read.get(name, 0), told if name in heard else 0)) for name in drafters],
            dtype=np.float64,
        )


def _length(context: RoundContext) -> int:
    return context.prompt_tokens + context.emitted_tokens
