"""Drafting with a language model: the tree grows level by level where the target is likeliest to go.

Best first as in EAGLE-2 (Li et al. 2024, arXiv:2406.16858), with one change: a drafter that knows the request's noise
looks at log q + G, as the target will at log pi + G.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from speculation.calibration import UNCALIBRATED, Calibration
from speculation.tree import EMPTY_TREE, MAX_NODES, ROOT, TokenTree, TreeShape
from worker.batching import Steps
from worker.engine import Chunk, Engine
from worker.sampling import Sampler
from worker.sessions import Session, read_to_tail

NOISE_TAU = 0.6
"""tau of softmax((log q + G) / tau), the chances of a token if the target is as unsure as the drafter."""

CERTAIN_SHARE = 0.15
"""How often the target is certain where the drafter is not: noise then decides nothing, and q itself is the chance.
With 0.15 and tau 0.6 four drafters' confidences predicted the target best (docs/log.md, "Confidence is a mixture")."""


def log_confidences(sampler: Sampler, logits: Tensor, context: Sequence[int], paths: Sequence[Sequence[int]]) -> Tensor:
    """What candidates are ranked by: the estimated chance of each token to be the target's.

    Args:
        sampler: Of the session.
        logits: (n, vocab), what the drafter says after each of n nodes.
        context: Prompt and answer so far.
        paths: For each node the tokens from the first one after the context down to it.

    Returns:
        (n, vocab) logarithms of chances; -inf for what must not be chosen.
    """
    log_probs = sampler.log_probs(logits, context, paths)
    ignoring_noise = log_probs.log_softmax(dim=-1)
    if not sampler.noisy:
        return ignoring_noise
    scores = sampler.noised(log_probs, context, paths).to(log_probs.dtype)
    heeding_noise = (scores / NOISE_TAU).log_softmax(dim=-1)
    return torch.logaddexp(heeding_noise + math.log1p(-CERTAIN_SHARE), ignoring_noise + math.log(CERTAIN_SHARE))


def draft(
    engine: Engine,
    session: Session,
    shape: TreeShape,
    *,
    max_length: int,
    calibration: Calibration = UNCALIBRATED,
) -> Steps[TokenTree]:
    """The tree most worth verifying after the context.

    Args:
        engine: The drafter.
        session: Its context taken, its slot held.
        shape: How deep and wide to look, and how many nodes to return.
        max_length: Tokens a session may hold; the tree ends there.
        calibration: What makes chances of confidences; the tree grows by those, and tells them.
    """
    levels = min(shape.depth, max_length - len(session.token_ids))
    if levels < 1:
        return EMPTY_TREE
    tail = yield from read_to_tail(engine, session)
    growth = _Growth(session, shape, calibration, first_in_scratch=len(tail))
    logits = yield Chunk(slot=session.slot, token_ids=tail, wanted=[len(tail) - 1])
    growth.grow([ROOT], logits)
    for _ in range(levels - 1):
        if not (frontier := growth.frontier()):
            break
        logits = yield growth.chunk(frontier)
        growth.grow(frontier, logits)
    session.scratch = [*zip(tail, range(ROOT, len(tail)), strict=False), *growth.expanded]
    return growth.best()


class _Growth:
    """A tree under way.

    Attributes:
        expanded: (token, parent) of the nodes that were forwarded, parents counted as the slot's scratch does.
    """

    def __init__(self, session: Session, shape: TreeShape, calibration: Calibration, *, first_in_scratch: int) -> None:
        self.expanded: list[tuple[int, int]] = []
        self._session, self._shape, self._calibration = session, shape, calibration
        self._first_in_scratch = first_in_scratch
        self._place_in_scratch = {ROOT: first_in_scratch - 1}
        self._token_ids: list[int] = []
        self._parents: list[int] = []
        self._confidences: list[float] = []
        self._chances: list[float] = []
        self._paths: list[tuple[int, ...]] = []
        self._level: range = range(0)

    def frontier(self) -> list[int]:
        """The nodes of the last level to look beyond, likeliest first; none if nothing below them could be kept."""
        budget = self._shape.budget
        best = sorted(self._level, key=lambda node: -self._chances[node])[: self._shape.branching]
        room = MAX_NODES - len(self.expanded)
        if len(self._chances) >= budget and best:
            least_kept = sorted(self._chances, reverse=True)[budget - 1]
            best = [node for node in best if self._chances[node] > least_kept]
        return best[:room]

    def chunk(self, frontier: Sequence[int]) -> Chunk:
        """What to forward for the logits after these nodes."""
        parents = [self._place_in_scratch[self._parents[node]] for node in frontier]
        token_ids = [self._token_ids[node] for node in frontier]
        for node, spelt in zip(frontier, zip(token_ids, parents, strict=True), strict=True):
            self._place_in_scratch[node] = self._first_in_scratch + len(self.expanded)
            self.expanded.append(spelt)
        return Chunk(slot=self._session.slot, token_ids=token_ids, parents=parents)

    def grow(self, parents: Sequence[int], logits: Tensor) -> None:
        """Add the best children of each parent, given the logits (parents, vocab) after them."""
        session, first = self._session, len(self._token_ids)
        paths = [() if parent == ROOT else self._paths[parent] for parent in parents]
        ranked = log_confidences(session.sampler, logits, session.token_ids, paths)
        best = ranked.topk(min(self._shape.branching, ranked.shape[-1]))
        chances = best.values.exp()
        possible = best.values > -torch.inf
        for row, parent in enumerate(parents):
            children = zip(best.indices[row].tolist(), chances[row].tolist(), possible[row].tolist(), strict=True)
            for token, chance, may_be in children:
                if may_be:
                    self._add(parent, token, chance)
        self._level = range(first, len(self._token_ids))

    def _add(self, parent: int, token: int, own_confidence: float) -> None:
        confidence = own_confidence
        if self._calibration != UNCALIBRATED:
            confidence = self._calibration(own_confidence)
        chance = confidence * (1.0 if parent == ROOT else self._chances[parent])
        if chance < self._shape.least_confidence:
            return
        self._token_ids.append(token)
        self._parents.append(parent)
        self._confidences.append(confidence)
        self._chances.append(chance)
        self._paths.append((*(() if parent == ROOT else self._paths[parent]), token))

    def best(self) -> TokenTree:
        """The likeliest nodes within the budget; a node is never likelier than its parent, so they hang together."""
        by_chance = sorted(range(len(self._chances)), key=lambda node: (-self._chances[node], node))
        kept = sorted(by_chance[: self._shape.budget])
        place = {ROOT: ROOT} | {node: index for index, node in enumerate(kept)}
        return TokenTree(
            token_ids=tuple(self._token_ids[node] for node in kept),
            parents=tuple(place[self._parents[node]] for node in kept),
            confidences=tuple(self._confidences[node] for node in kept),
        )
