"""Drafters that say nothing where they are unsure, at no more cost than a message: those without a model.

A silence is no failure, because the round is planned again without them. So what they are worth is what comes of the
rounds in which they speak, shape by shape: one that must be surer speaks less, and is right more.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from router_models.contexts import KIND, Key
from router_models.recent import Recent
from speculation.tree import ROOT, TokenTree, TreeShape

Array = NDArray[np.float64]
Known = NDArray[np.bool_]

MEMORY = 0.99
"""Weight of one time that it was asked against the next."""

PRIOR = 4.0
"""Answers that a forecast is worth, or what is known of all subjects to one of them."""


class Prospect(NamedTuple):
    """What to expect of a drafter that is asked.

    Attributes:
        speaks: (shapes,) chance that it says anything.
        answers: (shapes, 4) how many are known, and what they brought in accepted tokens, levels and nodes.
    """

    speaks: Array
    answers: Array

    @property
    def doubts(self) -> Array:
        """(shapes,) standard deviation of the accepted tokens over their mean."""
        doubts: Array = 1.0 / np.sqrt(self.answers[:, 0] + PRIOR)
        return doubts

    def brought(self, forecast: Array) -> Array:
        """(shapes, 3) accepted tokens, levels and nodes of an answer, as forecast and as answers have shown since."""
        brought: Array = (self.answers[:, 1:] + PRIOR * forecast) / (self.answers[:, :1] + PRIOR)
        return brought


class ReticenceModel:
    """What reticent drafters bring, by field: drafter, way of sampling, subject.

    Args:
        shapes: The menu.
        most: Fields that are told apart at once.

    Attributes:
        drafters: Who was ever silent: all others draft something, however unsure.
        sums: By field, and by drafter and way of sampling, (shapes, 6): times asked, times that it spoke, answers
            that are known to the end, and what these brought in accepted tokens, levels and nodes.
    """

    def __init__(self, shapes: Sequence[TreeShape], *, most: int) -> None:
        self._least = np.array([shape.least_confidence for shape in shapes])
        self.drafters: set[str] = set()
        self.sums: Recent[Key, Array] = Recent(most)

    def silent(self, field: Key, least_confidence: float) -> None:
        """It had nothing that it believed in so much: to a shape that asks for less it may have had."""
        self.drafters.add(str(field[0]))
        asked = self._least >= least_confidence
        self._learn(field, asked, np.zeros((len(asked), 5)))

    def spoke(self, field: Key, tree: TokenTree, known: Known, brought: Array) -> Known:
        """Take in an answer.

        Args:
            field: Whose, and on what.
            tree: The answer; not empty.
            known: (shapes,) whether `brought` says anything.
            brought: (shapes, 3) accepted tokens, levels and nodes.

        Returns:
            (shapes,) whether it would have answered those who ask for that shape.
        """
        answered = self._least <= max(tree.confidences[child] for child in tree.children[ROOT])
        shown = (known & answered)[:, None]
        self._learn(field, np.ones_like(answered), np.hstack((answered[:, None], shown, shown * brought)))
        return answered

    def prospect(self, field: Key) -> Prospect:
        """What to expect of it."""
        speaks, answers = np.full(len(self._least), 0.5), np.zeros((len(self._least), 4))
        for key in (field[:KIND], field):
            sums = self.sums.get(key)
            if sums is not None:
                speaks = (sums[:, 1] + PRIOR * speaks) / (sums[:, 0] + PRIOR)
                answers = sums[:, 2:] + answers * (PRIOR / np.maximum(answers[:, :1], PRIOR))
        return Prospect(speaks, answers)

    def restore(self, sums: Mapping[Key, Array]) -> None:
        """Go on from a state."""
        for key, seen in sums.items():
            self.drafters.add(str(key[0]))
            self.sums.put(key, seen)

    def _learn(self, field: Key, asked: Known, seen: Array) -> None:
        for key in (field[:KIND], field):
            sums = self.sums.use(key, lambda: np.zeros((len(asked), 6)))
            sums[asked] *= MEMORY
            sums[asked, 0] += 1.0
            sums[asked, 1:] += seen[asked]
