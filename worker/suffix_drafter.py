"""Drafting without a model: from what the text has said before. Near-free, and right where a text copies itself."""

from collections.abc import Sequence

from speculation.calibration import UNCALIBRATED, Calibration
from speculation.tree import EMPTY_TREE, ROOT, TokenTree, TreeShape
from worker.batching import Steps
from worker.drafter import Drafter
from worker.drafting import Growth, within
from worker.scoring import Scores
from worker.sessions import Session
from worker.suffix_index import Match, SuffixIndex, candidates, that_go_on

REVISION = "suffix-1"
"""Changes whenever other trees would be drafted."""


class SuffixDrafter(Drafter):
    """A drafter by `SuffixIndex`. Its jobs want no forward; what it drafts at once it need not draft ahead.

    Args:
        vocab_size: Of the tokens.
    """

    def __init__(self, vocab_size: int) -> None:
        self._vocab_size = vocab_size
        self._indexes: dict[int, SuffixIndex] = {}

    def read(self, session: Session) -> Steps[int]:
        """Index the session's tokens."""
        yield from ()
        self._index_of(session)
        return len(session.token_ids)

    def draft(
        self, session: Session, shape: TreeShape, *, max_length: int, calibration: Calibration = UNCALIBRATED
    ) -> Steps[TokenTree]:
        """The likeliest continuations that the text has seen, as one tree; empty if its last token is a new one."""
        yield from ()
        room = max_length - len(session.token_ids)
        if room < 1:
            return EMPTY_TREE
        index = self._index_of(session)
        places: dict[tuple[int, ...], list[Match]] = {(): index.matches()}
        growth = Growth(within(shape, room), calibration, root=0)
        frontier = [ROOT]
        while frontier:
            growth.begin_level()
            for node in frontier:
                path = growth.path(node)
                if path:
                    places[path] = that_go_on(index, places[path[:-1]], path)
                for token, chance in candidates(index, places[path], path)[: shape.branching]:
                    growth.add(node, token, chance)
            frontier = growth.frontier()
        return growth.best()

    def score(self, session: Session, token_ids: Sequence[int]) -> Steps[Scores]:
        """Rank the tokens that follow the context; one that was never seen in its place ranks last."""
        yield from ()
        index = self._index_of(session)
        ranks: list[int] = []
        confidences: list[float] = []
        for token in token_ids:
            chances = dict(candidates(index, index.matches()))
            ranks.append(1 + list(chances).index(token) if token in chances else self._vocab_size)
            confidences.append(chances.get(token, 0.0))
            index.append([token])
        return Scores(ranks=tuple(ranks), confidences=tuple(confidences))

    def _index_of(self, session: Session) -> SuffixIndex:
        """Of the session's text. Slots keep them, so that there are no more than slots."""
        index = self._indexes.setdefault(session.slot, SuffixIndex())
        index.follow(session.token_ids)
        return index
