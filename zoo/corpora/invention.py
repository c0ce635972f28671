"""Chance as people use it who make something up: what comes to mind first comes up most."""

import random
from collections.abc import Sequence
from typing import TypeVar

_FAVOUR = 2.5
"""How strongly the front is favoured: of forty names the first then has 23%, the second 7%, the last 1%."""

Item = TypeVar("Item")


class Inventor(random.Random):
    """A source of chance that favours the front of every list and the low end of every range."""

    def choice(self, seq: Sequence[Item]) -> Item:  # type: ignore[override]
        return seq[self._towards_the_front(len(seq))]

    def randint(self, a: int, b: int) -> int:
        return a + self._towards_the_front(b - a + 1)

    def _towards_the_front(self, size: int) -> int:
        return int(size * self.random() ** _FAVOUR)
