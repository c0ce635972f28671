"""Normal numbers, drawn in blocks: a draw of a few costs as much as a draw of thousands."""

from math import prod

import numpy as np
from numpy.typing import NDArray

BLOCK = 1 << 16


class Normals:
    """Independent standard normal numbers; the same seed gives the same ones."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        self._block = self._rng.standard_normal(BLOCK)
        self._used = 0

    def draw(self, *shape: int) -> NDArray[np.float64]:
        """As many as the shape holds, at most BLOCK."""
        count = prod(shape)
        if self._used + count > BLOCK:
            self._block, self._used = self._rng.standard_normal(BLOCK), 0
        drawn = self._block[self._used : self._used + count].reshape(shape)
        self._used += count
        return drawn
