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

from router_models.formulas import CLASS_ENDS, rank_probabilities, trees_accepted
from speculation.tree import ROOT, TokenTree, TreeShape

NUM_CLASSES = len(CLASS_ENDS)

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
    hits, trials = [0.0] * NUM_CLASSES, [0.0] * NUM_CLASSES
    for level, step in enumerate(steps_of(tree, token_ids)):
        if step.siblings:
            rank = step.siblings.index(step.taken) if step.taken is not None else None
            _count_one(hits, trials, shown=len(step.siblings), rank=rank)
        elif shape is not None and _was_asked(shape, tree, level):
            hits[0] += _unsure_hits(shape, tree, step.node)
            trials[0] += 1.0
    return np.array((hits, trials))


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


def _count_one(hits: list[float], trials: list[float], *, shown: int, rank: int | None) -> None:
    for number, end in enumerate(CLASS_ENDS):
        if shown < end:
            return
        trials[number] += 1.0
        if rank is not None and rank < end:
            hits[number] += 1.0
            return


def _was_asked(shape: TreeShape, tree: TokenTree, level: int) -> bool:
    """Whether the drafter was to have a candidate at a level where it has none."""
    return level < min(shape.depth, shape.budget) and (shape.branching == 1 or not len(tree))


def _unsure_hits(shape: TreeShape, tree: TokenTree, node: int) -> float:
    """What counts as a hit where a drafter that may be silent has nothing to say after a node."""
    if not shape.least_confidence:
        return 0.0
    believed = 1.0 if node == ROOT else max(tree.path_confidences[node], shape.least_confidence)
    return 0.5 * min(shape.least_confidence / believed, 1.0)


class TreeMenu:
    """Shapes of trees, and which nodes each most likely has: together they are one trie.

    Attributes:
        parents: (nodes,) place of each node's parent, parents first; -1 is the root.
        ranks: (nodes,) of each among its siblings, 0 the likeliest.
        members: (nodes, shapes) 1 where a node is in a shape.
    """

    def __init__(self, shapes: Sequence[TreeShape]) -> None:
        members = [likeliest_nodes(shape) for shape in shapes]
        nodes = sorted(set().union(*members))
        places = {node: place for place, node in enumerate(nodes)}
        self.parents = np.array([places.get(node[:-1], ROOT) for node in nodes], dtype=np.int64)
        self.ranks = np.array([node[-1] for node in nodes], dtype=np.int64)
        in_shapes = [[float(node in nodes_of) for nodes_of in members] for node in nodes]
        self.members = np.array(in_shapes).reshape(len(nodes), len(shapes))

    def expected_accepted(self, per_rank: NDArray[np.float64]) -> NDArray[np.float64]:
        """(ranks,) probabilities to (shapes,) expected accepted tokens."""
        return trees_accepted(per_rank, self.parents, self.ranks, self.members)


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
