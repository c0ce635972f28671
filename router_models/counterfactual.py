"""What a drafter would have brought on a text that is known now: accepted lengths from teacher-forced ranks.

The text of a request does not depend on what is speculated, and a drafter's candidates depend only on the tokens before
them (and, with shared noise, on the seed). So one teacher-forced pass over a finished text tells at which candidate of
the drafter each of its tokens was found, and from that follows what any draft of any shape would have held: an exact
replay, without importance weights (HedgeSpec, arXiv:2510.20064, scores drafters on the verified text likewise).

**What is exact, and what is not.** The nodes on the text's own path are all that such a pass sees. Of a chain there are
no others, so a chain is exact, with any `least_confidence`, any budget and any calibration. In a tree other nodes
compete with those on the path: beyond the second level for being looked at (`branching` nodes a level are), and
everywhere for the budget. How likely they are the pass does not tell; that would take their own forwards. What is known
of them is that all paths of a level together have a chance of at most 1, that siblings of a better rank are likelier,
and how many nodes there can be. So a tree's accepted lengths come as bounds, which meet where the shape leaves nothing
to compete for (one level; two levels with room for all their nodes) and wherever the drafter was sure enough.

Not looked at, because they concern the last tokens before a limit: a drafter or target whose longest sequence ends the
tree early.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import floor

from router_models.policy import TextScores
from speculation.calibration import UNCALIBRATED, Calibration
from speculation.tree import MAX_NODES, TreeShape

ROUNDING = 1e-5
"""Relative error of a sum of a drafter's confidences, which are computed in single precision."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AcceptedLengths:
    """Tokens that a draft at each position of a text would have held: (positions,) each, equal where it is certain.

    Attributes:
        least: No fewer.
        most: No more.
    """

    least: tuple[int, ...]
    most: tuple[int, ...]

    @property
    def exact(self) -> bool:
        """Whether all are certain."""
        return self.least == self.most


def accepted_lengths(
    scores: TextScores, shape: TreeShape, *, remaining: int = 0, calibration: Calibration = UNCALIBRATED
) -> AcceptedLengths:
    """How many tokens of a text a drafter's tree would have held, had it been drafted before each of them in turn.

    Args:
        scores: Of the drafter on the text.
        shape: Of the tree, as `Plan` has it: `Plan.within` shortens it where the request ends.
        remaining: Tokens that could have followed the text: 0 if it ended because no more were asked for.
        calibration: What would have made chances of the drafter's confidences.
    """
    bounds = [
        accepted_length(scores, start, shape, remaining=remaining, calibration=calibration)
        for start in range(len(scores.ranks))
    ]
    return AcceptedLengths(least=tuple(least for least, _ in bounds), most=tuple(most for _, most in bounds))


def accepted_length(
    scores: TextScores, start: int, shape: TreeShape, *, remaining: int = 0, calibration: Calibration = UNCALIBRATED
) -> tuple[int, int]:
    """Least and most of the tokens from `start` on that a tree drafted there would have held; else as above."""
    length = len(scores.ranks)
    levels = min(shape.depth, length + remaining - start - 1)
    end = min(start + levels, length)
    chances = [told_chance(confidence, calibration) for confidence in scores.confidences[start:end]]
    return _Path(scores.ranks[start:end], chances, calibration == UNCALIBRATED).held(shape, levels)


def rounds_of(accepted: Sequence[int]) -> tuple[int, ...]:
    """The accepted lengths of the rounds that would have made a text, of those at all its positions.

    A round emits what it accepts and one token more.
    """
    start, rounds = 0, []
    while start < len(accepted):
        rounds.append(accepted[start])
        start += accepted[start] + 1
    return tuple(rounds)


def told_chance(confidence: float, calibration: Calibration) -> float:
    """As the drafter would have told it; 0 stays 0: such a token was forbidden, and no calibration drafts it."""
    return confidence if calibration == UNCALIBRATED or not confidence else calibration(confidence)


class _Path:
    """The nodes of a tree that lie on the text, should they be drafted: level i of it is at place i - 1 here.

    Args:
        ranks: Of each among its siblings.
        confidences: Of each.
        sums_to_one: Whether the confidences of all siblings do; calibrated ones need not.
    """

    def __init__(self, ranks: Sequence[int], confidences: Sequence[float], sums_to_one: bool) -> None:
        self._ranks, self._confidences, self._sums_to_one = ranks, confidences, sums_to_one
        self._chances = [1.0]
        for confidence in confidences:
            self._chances.append(self._chances[-1] * confidence)

    def held(self, shape: TreeShape, levels: int) -> tuple[int, int]:
        """Least and most nodes of the path that a tree of so many levels holds."""
        least = most = 0
        certain = True
        for level in range(1, len(self._ranks) + 1):
            if not self._drafted(shape, level) or sum(self._ranks[:level]) > shape.budget:
                break
            most = level
            certain = certain and self._kept(shape, level, levels)
            least = level if certain else least
            certain = certain and self._expanded(shape, level)
        return least, most

    def _drafted(self, shape: TreeShape, level: int) -> bool:
        """Whether the node is among the candidates after its parent, if that is looked beyond."""
        rank, confidence = self._ranks[level - 1], self._confidences[level - 1]
        return rank <= shape.branching and confidence > 0.0 and self._chances[level] >= shape.least_confidence

    def _expanded(self, shape: TreeShape, level: int) -> bool:
        """Whether the drafter is certain to look beyond the node, unless no child of it would be kept anyway."""
        room = min(shape.branching, MAX_NODES - shape.branching * (level - 1))
        return self._most_likelier(shape, level, of_level=level) < room

    def _kept(self, shape: TreeShape, level: int, levels: int) -> bool:
        """Whether the budget is certain to hold the node, if it is drafted."""
        likelier = sum(self._most_likelier(shape, level, of_level=other) for other in range(1, levels + 1))
        return level - 1 + likelier < shape.budget

    def _most_likelier(self, shape: TreeShape, level: int, *, of_level: int) -> int:
        """Most nodes beside the path, in another level, that can be likelier than the path's node in this one.

        They descend from siblings of the path's nodes. Those after one parent share what chance the path's node leaves.
        """
        most = shape.branching if of_level == 1 else shape.branching**2
        most -= of_level <= level  # the path's own node
        groups: Iterable[int] = range(1, min(level, of_level) + 1)
        return min(sum(self._of_group(shape, group, level, of_level) for group in groups), most)

    def _of_group(self, shape: TreeShape, group: int, level: int, of_level: int) -> int:
        """Those that descend from siblings of the path's node in level `group`; of its own, from the better ones."""
        siblings = self._ranks[group - 1] - 1 if group == level else shape.branching - 1
        most: int = siblings * shape.branching ** (of_level - group)
        left = (self._chances[group - 1] - self._chances[group]) + ROUNDING * self._chances[group - 1]
        if self._sums_to_one and left < most * self._chances[level]:
            return floor(left / self._chances[level])
        return most
