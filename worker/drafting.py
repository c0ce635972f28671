"""Drafting with a language model: the tree grows level by level where the target is likeliest to go.

Best first as in EAGLE-2 (Li et al. 2024, arXiv:2406.16858), with one change: a drafter that knows the request's noise
looks at log q + G, as the target will at log pi + G.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

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


Begun = dict[tuple[int, TreeShape, Calibration], "Growth"]
"""Trees under way, by the hash of the tokens that they follow and by what was asked for."""


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
    begun: Begun | None = None,
) -> Steps[TokenTree]:
    """The tree most worth verifying after the context.

    Args:
        engine: The drafter.
        session: Its context taken, its slot held.
        shape: How deep and wide to look, and how many nodes to return.
        max_length: Tokens a session may hold; the tree ends there.
        calibration: What makes chances of confidences; the tree grows by those, and tells them.
        begun: Trees begun ahead. If this is one of them it grows on: what was looked at is read again, in one forward.
            One in which nothing was likely enough is begun anew: an answer that is empty and took no forward is the
            silence of a drafter without a model, which the router learns of in another way.
    """
    room = max_length - len(session.token_ids)
    if room < 1:
        return EMPTY_TREE
    found = (begun or {}).get((session.prefix_hash, shape, calibration))
    growth = found if found and not found.is_bare else Growth(within(shape, room), calibration)
    if growth.waiting:
        tail = yield from read_to_tail(engine, session)
        root = len(tail) - 1
        grown = growth.replant(root)
        token_ids = [*tail, *(token for token, _ in grown)]
        logits = yield Chunk(
            slot=session.slot,
            token_ids=token_ids,
            parents=[*range(ROOT, root), *(parent for _, parent in grown)],
            wanted=range(len(token_ids) - len(growth.waiting), len(token_ids)),
        )
        yield from grow(session, [growth], logits, num_in_scratch=len(token_ids))
    return growth.best()


def within(shape: TreeShape, room: int) -> TreeShape:
    """The shape without levels for which a session has no room; at least one level must fit."""
    return shape if shape.depth <= room else replace(shape, depth=room)


def grow(session: Session, growths: "Sequence[Growth]", logits: Tensor, *, num_in_scratch: int) -> Steps[None]:
    """Grow trees to their full size, all a level a forward.

    Args:
        session: Whose trees they are; its slot is held.
        growths: At least one, each with its root in the slot's scratch.
        logits: (waiting nodes, vocab), what the drafter says after each node that waits, tree after tree.
        num_in_scratch: Tokens there so far.
    """
    while True:
        _add_children(session, growths, logits)
        token_ids: list[int] = []
        parents: list[int] = []
        for growth in growths:
            for token, parent in growth.expand(growth.frontier(), first_place=num_in_scratch + len(token_ids)):
                token_ids.append(token)
                parents.append(parent)
        if not token_ids:
            return
        num_in_scratch += len(token_ids)
        logits = yield Chunk(slot=session.slot, token_ids=token_ids, parents=parents)


def _add_children(session: Session, growths: "Sequence[Growth]", logits: Tensor) -> None:
    """Add the best children of every node that waits for them, given the logits (nodes, vocab), tree after tree."""
    branching = max(growth.shape.branching for growth in growths)
    nodes = [(growth, node) for growth in growths for node in growth.waiting]
    ranked = log_confidences(session.sampler, logits, session.token_ids, [growth.path(node) for growth, node in nodes])
    best = ranked.topk(min(branching, ranked.shape[-1]))
    for growth in growths:
        growth.begin_level()
    for (growth, node), tokens, chances in zip(nodes, best.indices.tolist(), best.values.tolist(), strict=True):
        for token, log_chance in zip(tokens, chances, strict=True):
            if log_chance > -math.inf:
                growth.add(node, token, math.exp(log_chance))


class Growth:
    """A tree under way.

    Args:
        shape: Of the tree.
        calibration: What makes chances of confidences.
        root: Place of the tree's root in the slot's scratch.
        before: Tokens between the session's context and the tree: the root is the last of them, if there are any.

    Attributes:
        waiting: Nodes whose children come next, the last to have been expanded; none when the tree is grown.
    """

    def __init__(
        self, shape: TreeShape, calibration: Calibration, *, root: int = 0, before: tuple[int, ...] = ()
    ) -> None:
        self.shape = shape
        self._calibration = calibration
        self._before = before
        self._place_in_scratch = {ROOT: root}
        self.waiting: Sequence[int] = (ROOT,)
        self._token_ids: list[int] = []
        self._parents: list[int] = []
        self._confidences: list[float] = []
        self._chances: list[float] = []
        self._paths: list[tuple[int, ...]] = []
        self._num_levels = 0
        self._first_of_level = 0

    @property
    def is_bare(self) -> bool:
        """Whether it has no node."""
        return not self._token_ids

    def path(self, node: int) -> tuple[int, ...]:
        """Tokens from the first one after the session's context down to the node."""
        return self._before if node == ROOT else self._paths[node]

    def replant(self, root: int) -> list[tuple[int, int]]:
        """Be told that the session's context now ends at the root, which alone is in its scratch, at this place.

        Returns:
            (token, parent in the scratch) of what was expanded so far; it goes to the places after the root's.
        """
        self._paths = [path[len(self._before) :] for path in self._paths]
        self._before = ()
        expanded, waiting = list(self._place_in_scratch)[1:], self.waiting
        self._place_in_scratch = {ROOT: root}
        grown = self.expand(expanded, first_place=root + 1)
        self.waiting = waiting
        return grown

    def begin_level(self) -> None:
        """What is added from now on lies a level deeper."""
        self._num_levels += 1
        self._first_of_level = len(self._token_ids)

    def add(self, parent: int, token: int, own_confidence: float) -> None:
        """A candidate, unless its path is less likely than the shape wants."""
        confidence = own_confidence
        if self._calibration != UNCALIBRATED:
            confidence = self._calibration(own_confidence)
        chance = confidence * (1.0 if parent == ROOT else self._chances[parent])
        if chance < self.shape.least_confidence:
            return
        self._token_ids.append(token)
        self._parents.append(parent)
        self._confidences.append(confidence)
        self._chances.append(chance)
        self._paths.append((*self.path(parent), token))

    def frontier(self) -> list[int]:
        """The nodes of the last level to look beyond, likeliest first; none if nothing below them could be kept."""
        budget = self.shape.budget
        level = range(self._first_of_level, len(self._token_ids)) if self._num_levels < self.shape.depth else ()
        best = sorted(level, key=lambda node: -self._chances[node])[: self.shape.branching]
        room = MAX_NODES + 1 - len(self._place_in_scratch)
        if len(self._chances) >= budget and best:
            least_kept = sorted(self._chances, reverse=True)[budget - 1]
            best = [node for node in best if self._chances[node] > least_kept]
        return best[:room]

    def expand(self, frontier: Sequence[int], *, first_place: int) -> list[tuple[int, int]]:
        """(token, parent in the scratch) of these nodes, which go to the scratch's places from first_place on."""
        self._place_in_scratch.update((node, first_place + index) for index, node in enumerate(frontier))
        self.waiting = frontier
        return [(self._token_ids[node], self._place_in_scratch[self._parents[node]]) for node in frontier]

    def best(self) -> TokenTree:
        """The likeliest nodes within the budget; a node is never likelier than its parent, so they hang together."""
        by_chance = sorted(range(len(self._chances)), key=lambda node: (-self._chances[node], node))
        kept = sorted(by_chance[: self.shape.budget])
        place = {ROOT: ROOT} | {node: index for index, node in enumerate(kept)}
        return TokenTree(
            token_ids=tuple(self._token_ids[node] for node in kept),
            parents=tuple(place[self._parents[node]] for node in kept),
            confidences=tuple(self._confidences[node] for node in kept),
        )
