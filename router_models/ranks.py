"""At which of a drafter's candidates the target's next token was found: what rounds teach, and what shapes are worth.

Ranks are gathered in classes. For each class there is a hazard: the chance that the token is in it, given that it is in
none before. Hazards can be learnt from any tree, because a tree that shows only the first candidates is silent about
the others and not against them; and from the hazards follow the expected accepted tokens of every shape.
"""

import heapq
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from speculation.tree import ROOT, TokenTree, TreeShape

CLASS_ENDS = (1, 2, 4, 8)
"""Last rank of each class: the 1st candidate, the 2nd, the 3rd and 4th, the 5th to 8th."""

NUM_CLASSES = len(CLASS_ENDS)

_CLASS_SIZES = np.diff((0, *CLASS_ENDS))
_CLASS_OF_RANK = np.repeat(np.arange(NUM_CLASSES), _CLASS_SIZES)

_IMPOSSIBLE = 1e-300
"""Stands for a probability of 0, which has no logarithm."""

NOMINAL_HAZARDS = (0.6, 0.3, 0.3, 0.3)
"""Of a middling drafter: which nodes a shape would have, before anything is known."""

Counts = NDArray[np.float64]
"""(2, classes): how often the token was in a class, and how often it was looked for there."""


def no_counts() -> Counts:
    """Nothing seen yet."""
    return np.zeros((2, NUM_CLASSES))


def count_ranks(tree: TokenTree, token_ids: Sequence[int], shape: TreeShape | None = None) -> Counts:
    """What a drafter's tree and the emitted tokens say about its ranks.

    A class is searched where the tree shows all its ranks. One that is shown in part says nothing, not even when the
    token is found in it: to count hits there and no misses would flatter the drafter.

    Args:
        tree: What was drafted.
        token_ids: What the target emitted.
        shape: What was asked for. A chain that ends early ends where its drafter was unsure, and a tree that is empty
            has no beginning for the same reason: to pass over that place would flatter it, too, so the chance that it
            gave its candidate at most, halved, counts as a hit. One that was asked to draft however unsure it is had no
            candidate at all.
    """
    counts = no_counts()
    for level, step in enumerate(steps_of(tree, token_ids)):
        if not step.siblings:
            _count_unsure(counts, tree, step.node, level, shape)
        rank = step.siblings.index(step.taken) if step.taken is not None else None
        _count_one(counts, shown=len(step.siblings), rank=rank)
    return counts


class Step(NamedTuple):
    """One emitted token, seen from a drafter's tree.

    Attributes:
        node: What it comes after.
        siblings: The node's children, the likeliest first: the drafter's candidates.
        taken: The one of them that is the token; None if it is none of them.
    """

    node: int
    siblings: Sequence[int]
    taken: int | None


def steps_of(tree: TokenTree, token_ids: Sequence[int]) -> Iterator[Step]:
    """The emitted tokens as far as the tree foresaw them, and the first that it did not."""
    node = ROOT
    for token in token_ids:
        siblings = tree.children.get(node, ())
        taken = next((child for child in siblings if tree.token_ids[child] == token), None)
        yield Step(node, siblings, taken)
        if taken is None:
            return
        node = taken


def accepted_of(tree: TokenTree, token_ids: Sequence[int]) -> int:
    """How many of the emitted tokens a drafter's own tree foresaw."""
    return sum(step.taken is not None for step in steps_of(tree, token_ids))


def judged(tree: TokenTree, token_ids: Sequence[int]) -> list[tuple[float, bool]]:
    """Confidence of each node whose parent was emitted, and whether it was, too; of all others nobody knows."""
    return [
        (tree.confidences[child], child == step.taken) for step in steps_of(tree, token_ids) for child in step.siblings
    ]


def first_candidates(tree: TokenTree) -> list[int]:
    """The nodes of the chain that a tree contains: each the likeliest child of the one before."""
    trunk = [ROOT]
    while siblings := tree.children.get(trunk[-1]):
        trunk.append(siblings[0])
    return trunk[1:]


def _count_one(counts: Counts, *, shown: int, rank: int | None) -> None:
    for number, end in enumerate(CLASS_ENDS):
        if shown < end:
            return
        counts[1, number] += 1
        if rank is not None and rank < end:
            counts[0, number] += 1
            return


def _count_unsure(counts: Counts, tree: TokenTree, node: int, level: int, shape: TreeShape | None) -> None:
    if shape is None or level >= min(shape.depth, shape.budget) or (shape.branching > 1 and len(tree)):
        return
    counts[1, 0] += 1.0
    if shape.least_confidence:
        believed = 1.0 if node == ROOT else max(tree.path_confidences[node], shape.least_confidence)
        counts[0, 0] += 0.5 * min(shape.least_confidence / believed, 1.0)


def rank_probabilities(hazards: NDArray[np.float64]) -> NDArray[np.float64]:
    """(..., classes) hazards to (..., ranks) probabilities; within a class all ranks are taken to be alike."""
    in_class = hazards / _CLASS_SIZES
    in_class[..., 1:] *= np.multiply.accumulate(1.0 - hazards[..., :-1], axis=-1)
    per_rank: NDArray[np.float64] = in_class[..., _CLASS_OF_RANK]
    return per_rank


class ShapeMenu:
    """Shapes, and which nodes each most likely has: together they are one trie.

    Attributes:
        shapes: As given.
    """

    def __init__(self, shapes: Sequence[TreeShape]) -> None:
        self.shapes = tuple(shapes)
        members = [likeliest_nodes(shape) for shape in self.shapes]
        nodes = sorted(set().union(*members))
        ranks = range(CLASS_ENDS[-1])
        self._paths = np.array([[node.count(rank) for node in nodes] for rank in ranks], dtype=np.float64)
        self._membership = np.array([[node in nodes_of for nodes_of in members] for node in nodes], dtype=np.float64)

    def expected_accepted(self, per_rank: NDArray[np.float64]) -> NDArray[np.float64]:
        """(..., ranks) probabilities to (..., shapes) expected accepted tokens: each node counts if it is reached, and
        it is reached if every rank on its path is taken."""
        reached = np.exp(np.log(np.maximum(per_rank, _IMPOSSIBLE)) @ self._paths)
        expected: NDArray[np.float64] = reached @ self._membership
        return expected


def likeliest_nodes(shape: TreeShape) -> set[tuple[int, ...]]:
    """The nodes of a shape at the nominal hazards, each as the ranks on its path. No rank counts beyond the eighth."""
    per_rank = rank_probabilities(np.array(NOMINAL_HAZARDS))[: shape.branching].tolist()
    nodes: set[tuple[int, ...]] = set()
    frontier: list[tuple[float, tuple[int, ...]]] = [(-per_rank[0], (0,))]
    while frontier and len(nodes) < shape.budget:
        chance, node = heapq.heappop(frontier)
        nodes.add(node)
        sibling = node[-1] + 1
        if sibling < len(per_rank):
            heapq.heappush(frontier, (chance / per_rank[sibling - 1] * per_rank[sibling], (*node[:-1], sibling)))
        if len(node) < shape.depth:
            heapq.heappush(frontier, (chance * per_rank[0], (*node, 0)))
    return nodes
