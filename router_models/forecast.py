"""What each shape of a menu will bring and cost in nodes and levels, given a drafter's hazards.

A forecast follows from the hazards as if every token were as predictable as the last. Text is not like that: it has
easy stretches and hard ones, which is what `least_confidence` lives on. So forecasts are corrected by what came of
them.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from router_models import formulas
from router_models.ranks import TreeMenu, accepted_of, first_candidates
from speculation.tree import TokenTree, TreeShape

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Forecast:
    """(..., shapes) each: accepted tokens, levels that the drafter forwards, nodes that the target verifies."""

    accepted: Array
    levels: Array
    nodes: Array

    def times(self, ratios: Array) -> "Forecast":
        """Corrected by (..., shapes, 3) ratios."""
        return Forecast(
            self.accepted * ratios[..., 0],
            self.levels * ratios[..., 1],
            self.nodes * ratios[..., 2],
        )

    def stacked(self) -> Array:
        """(..., shapes, 3)."""
        return np.stack((self.accepted, self.levels, self.nodes), axis=-1)


class Forecaster:
    """Forecasts for a menu of shapes: chains by formula, trees node by node.

    Attributes:
        shapes: As given.
        places: Of each in the menu.
    """

    def __init__(self, shapes: Sequence[TreeShape]) -> None:
        self.shapes = tuple(shapes)
        self.places = {shape: place for place, shape in enumerate(self.shapes)}
        self._depth = np.array([float(min(shape.depth, _nodes_a_level_reach(shape))) for shape in shapes])
        with np.errstate(divide="ignore"):
            self._log_least = np.log([shape.least_confidence for shape in shapes])
        self._budget = np.array([float(shape.budget) for shape in shapes])
        self._trees = np.array([place for place, shape in enumerate(shapes) if shape.branching > 1], dtype=np.int64)
        self._menu = TreeMenu([self.shapes[place] for place in self._trees])

    def forecast(self, hazards: Array) -> Forecast:
        """(..., classes) hazards to (..., shapes)."""
        return self.forecast_if(hazards[None])[0]

    def forecast_if(self, truths: Array) -> tuple[Forecast, Array]:
        """What is drafted by those who believe in some hazards, and what is accepted of it if others are true.

        Args:
            truths: (truths, ..., classes) hazards; the first are believed.

        Returns:
            The forecast, and (truths, ..., shapes) accepted tokens.
        """
        menu, (*outer, classes) = self._menu, truths.shape
        accepted, levels, nodes = formulas.forecast(
            np.ascontiguousarray(truths).reshape(outer[0], -1, classes),
            *(self._depth, self._log_least, self._budget, self._trees),
            *(menu.parents, menu.ranks, menu.members),
        )
        accepted = accepted.reshape(*outer, -1)
        return Forecast(accepted[0], levels.reshape(accepted.shape[1:]), nodes.reshape(accepted.shape[1:])), accepted


def _nodes_a_level_reach(shape: TreeShape) -> int:
    """Levels that the budget can fill: a chain of ten nodes' budget has ten."""
    return shape.budget


class Corrections:
    """Observed over forecast, by shape, for one drafter, on all subjects or on one: ratios that forget.

    A drafted chain shows what every shorter one and every one that stops sooner would have brought, exactly; so do a
    tree's first candidates.

    Args:
        shapes: How many.
        above: Of all subjects, for those of one: their ratios as they were when it was last drafted for stand for what
            is not known, and their doubts are shared.

    Attributes:
        sums: (2, shapes, 3) observed and forecast, of accepted tokens, levels and nodes.
    """

    MEMORY = 0.998
    """Weight of a round against the next."""

    PRIOR_TOKENS = 50.0
    """Accepted tokens (levels, nodes) that the forecast's own word is worth."""

    TOKENS_ABOVE = 100.0
    """What the ratios of all subjects are worth to those of one."""

    DOUBT = 0.05
    """Standard deviation of a ratio of which nothing is known."""

    sums: Array
    _judged: Array | None

    def __init__(self, shapes: int, above: "Corrections | None" = None) -> None:
        self._above = above
        self.restore(np.zeros((2, shapes, 3)))

    def learn(self, known: NDArray[np.bool_], observed: Array, forecast: Array) -> None:
        """(shapes,) which shapes a round says something about; (shapes, 3) what it says, and what was forecast.

        All are forgotten alike: a shape that nobody drafts any more is doubted again.
        """
        self.sums *= self.MEMORY
        self.sums += np.where(known[:, None], (observed, forecast), 0.0)
        self._changed()

    def restore(self, sums: Array) -> None:
        """Go on from (2, shapes, 3) sums."""
        self.sums = np.array(sums, dtype=np.float64)
        self._changed()

    @property
    def ratios(self) -> Array:
        """(shapes, 3) of observed to forecast."""
        return self.judged[:, :3]

    @property
    def doubts(self) -> Array:
        """(shapes,) standard deviation of the ratio of accepted tokens."""
        return self.judged[:, 3]

    @property
    def judged(self) -> Array:
        """(shapes, 4) both, side by side. Worked out when asked for: a learner for others never asks."""
        if self._judged is None:
            self._judged = self._judge()
        return self._judged

    def _changed(self) -> None:
        self._judged = None
        self._sums_above = None if self._above is None else self._above.sums.copy()

    def _judge(self) -> Array:
        if self._sums_above is None:
            return self._judged_alone(self.sums)
        above = self._judged_alone(self._sums_above)
        ratios = (self.sums[0] + self.TOKENS_ABOVE * above[:, :3]) / (self.sums[1] + self.TOKENS_ABOVE)
        return np.hstack((ratios, above[:, 3:]))

    def _judged_alone(self, sums: Array) -> Array:
        weights = sums[1] + self.PRIOR_TOKENS
        doubts = self.DOUBT * np.sqrt(self.PRIOR_TOKENS / weights[:, :1])
        return np.hstack(((sums[0] + self.PRIOR_TOKENS) / weights, doubts))


def observe(
    shapes: Sequence[TreeShape], drafted: TreeShape, tree: TokenTree, token_ids: Sequence[int]
) -> tuple[NDArray[np.bool_], Array]:
    """What a drafter's tree says about every chain of a menu, and about its own shape.

    Args:
        shapes: The menu.
        drafted: The shape that was asked for.
        tree: What came.
        token_ids: What the target emitted.

    Returns:
        (shapes,) whether anything is known; (shapes, 3) accepted tokens, levels and nodes, 0 where it is not.
    """
    known = np.zeros(len(shapes), dtype=np.bool_)
    observed = np.zeros((len(shapes), 3))
    trunk = first_candidates(tree)
    doubts = [-tree.path_confidences[node] for node in trunk]  # a path is never likelier than its beginning
    right = _common(tree, trunk, token_ids)
    for place, shape in enumerate(shapes):
        if shape == drafted and shape.branching > 1:
            known[place] = True
            observed[place] = accepted_of(tree, token_ids), min(tree.depth + 1, shape.depth), len(tree)
        elif shape.branching == 1 and _shows(drafted, len(trunk), shape):
            length = min(bisect_right(doubts, -shape.least_confidence), shape.depth)
            known[place] = True
            observed[place] = min(right, length), min(length + 1, shape.depth), length
    return known, observed


def _shows(drafted: TreeShape, length: int, chain: TreeShape) -> bool:
    """Whether the first candidates of a drafted tree, so many of them, are all that a chain would have had."""
    if drafted.branching == 1:
        return chain.depth <= drafted.depth and chain.least_confidence >= drafted.least_confidence
    return chain.depth <= length


def _common(tree: TokenTree, trunk: Sequence[int], token_ids: Sequence[int]) -> int:
    """How many of the emitted tokens are the trunk's."""
    for place, node in enumerate(trunk):
        if place >= len(token_ids) or tree.token_ids[node] != token_ids[place]:
            return place
    return len(trunk)
