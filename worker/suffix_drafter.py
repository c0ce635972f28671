"""Drafting without a model: from what a text has said before, and if so wished from earlier texts of its tenant.

Near-free, and right where texts copy themselves or each other.
"""

from collections.abc import Sequence

from speculation.calibration import UNCALIBRATED, Calibration
from speculation.tree import EMPTY_TREE, ROOT, TokenTree, TreeShape
from worker.batching import Steps
from worker.drafter import Drafter
from worker.drafting import Growth, within
from worker.scoring import Scores
from worker.sessions import Session
from worker.suffix_index import Match, SuffixIndex, candidates, that_go_on
from worker.tenant_memory import TenantMemory

REVISION = "suffix-1"
"""Changes whenever other trees would be drafted."""

REVISION_WITH_MEMORY = "suffix-1+memory-1"
"""The same of one that remembers; how much makes no other drafter of it."""


class SuffixDrafter(Drafter):
    """A drafter by `SuffixIndex`. Its jobs want no forward; what it drafts at once it need not draft ahead.

    Args:
        vocab_size: Of the tokens.
        memory: What tenants have said before.
    """

    def __init__(self, vocab_size: int, memory: TenantMemory) -> None:
        self._vocab_size, self._memory = vocab_size, memory
        self._indexes: dict[int, SuffixIndex] = {}

    def read(self, session: Session) -> Steps[int]:
        """Index the session's tokens."""
        yield from ()
        self._index_of(session)
        return len(session.token_ids)

    def draft(
        self, session: Session, shape: TreeShape, *, max_length: int, calibration: Calibration = UNCALIBRATED
    ) -> Steps[TokenTree]:
        """The likeliest continuations that the text or its tenant's memory has seen, as one tree; empty if none has."""
        yield from ()
        room = max_length - len(session.token_ids)
        if room < 1:
            return EMPTY_TREE
        own = self._index_of(session).matches()
        places: dict[tuple[int, ...], list[Match]] = {(): own + self._memory.matches(session.salt, session.token_ids)}
        growth = Growth(within(shape, room), calibration, root=0)
        frontier = [ROOT]
        while frontier:
            growth.begin_level()
            for node in frontier:
                path = growth.path(node)
                if path:
                    places[path] = that_go_on(places[path[:-1]], path)
                for token, chance in candidates(places[path], path)[: shape.branching]:
                    growth.add(node, token, chance)
            frontier = growth.frontier()
        return growth.best()

    def score(self, session: Session, token_ids: Sequence[int]) -> Steps[Scores]:
        """Rank the tokens that follow the context; one that was never seen in its place ranks last.

        By the text alone: its tenant's memory may hold these very tokens, and does afterwards.
        """
        yield from ()
        index = self._index_of(session)
        ranks: list[int] = []
        confidences: list[float] = []
        for token in token_ids:
            chances = dict(candidates(index.matches()))
            ranks.append(1 + list(chances).index(token) if token in chances else self._vocab_size)
            confidences.append(chances.get(token, 0.0))
            index.append([token])
        self._memory.remember(session.salt, index.token_ids)
        return Scores(ranks=tuple(ranks), confidences=tuple(confidences))

    def _index_of(self, session: Session) -> SuffixIndex:
        """Of the session's text. Slots keep them, so that there are no more than slots."""
        index = self._indexes.setdefault(session.slot, SuffixIndex())
        index.follow(session.token_ids)
        return index
