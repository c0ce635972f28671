"""The token tree: candidate continuations of one sequence, and what can be done to them."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from speculation.errors import InvalidRequestError, InvalidTreeError

ROOT = -1
"""Parent of the first level: the last token already emitted."""

MAX_NODES = 256
MAX_DEPTH = 64
MAX_BRANCHING = 64


@dataclass(frozen=True, kw_only=True)
class TokenTree:
    """Candidate continuations of one sequence, listed parents first.

    Siblings may carry the same token (two drafters' trees laid side by side do); `merge` removes such doubles.

    Attributes:
        token_ids: Vocabulary id of each node.
        parents: Index of each node's parent, or ROOT.
        confidences: Estimated chance in [0, 1] that the target emits this node, given that it emitted its parent.

    Raises:
        InvalidTreeError: A node comes before its parent, lengths differ, a value is out of range, or the tree
            exceeds MAX_NODES or MAX_DEPTH.
    """

    token_ids: tuple[int, ...]
    parents: tuple[int, ...]
    confidences: tuple[float, ...]

    def __post_init__(self) -> None:
        if not len(self.token_ids) == len(self.parents) == len(self.confidences):
            raise InvalidTreeError(
                f"{len(self.token_ids)} tokens, {len(self.parents)} parents and {len(self.confidences)} confidences"
            )
        if len(self) > MAX_NODES:
            raise InvalidTreeError(f"{len(self)} nodes; at most {MAX_NODES} are allowed")
        for node, (token, parent, confidence) in enumerate(
            zip(self.token_ids, self.parents, self.confidences, strict=True)
        ):
            if not ROOT <= parent < node:
                raise InvalidTreeError(f"node {node} names parent {parent}; parents must come first")
            if token < 0:
                raise InvalidTreeError(f"node {node} has the negative token id {token}")
            if not 0.0 <= confidence <= 1.0:
                raise InvalidTreeError(f"node {node} has confidence {confidence}; it must lie in [0, 1]")
        if self.depth > MAX_DEPTH:
            raise InvalidTreeError(f"depth {self.depth}; at most {MAX_DEPTH} is allowed")

    def __len__(self) -> int:
        return len(self.token_ids)

    @cached_property
    def depths(self) -> tuple[int, ...]:
        """Level of each node; children of the root are at level 1."""
        depths: list[int] = []
        for parent in self.parents:
            depths.append(1 if parent == ROOT else depths[parent] + 1)
        return tuple(depths)

    @property
    def depth(self) -> int:
        """Number of levels below the root."""
        return max(self.depths, default=0)

    @cached_property
    def path_confidences(self) -> tuple[float, ...]:
        """Estimated chance that the target emits the whole path down to each node."""
        chances: list[float] = []
        for parent, confidence in zip(self.parents, self.confidences, strict=True):
            chances.append(confidence if parent == ROOT else chances[parent] * confidence)
        return tuple(chances)

    @cached_property
    def children(self) -> Mapping[int, Sequence[int]]:
        """The children of each node that has some, the likeliest first."""
        children: dict[int, list[int]] = {}
        for node in sorted(range(len(self)), key=self.confidences.__getitem__, reverse=True):
            children.setdefault(self.parents[node], []).append(node)
        return children

    @property
    def mean_path_confidence(self) -> float:
        """The score by which TAPS picks between trees (arXiv:2603.27027, confidence routing); 0 for an empty tree."""
        return sum(self.path_confidences) / len(self) if len(self) else 0.0

    def path(self, node: int) -> tuple[int, ...]:
        """Nodes from the first level down to `node`; empty for ROOT."""
        backwards = []
        while node != ROOT:
            backwards.append(node)
            node = self.parents[node]
        return tuple(reversed(backwards))

    def tokens_on_path(self, node: int) -> tuple[int, ...]:
        """Token ids from the first level down to `node`."""
        return tuple(self.token_ids[step] for step in self.path(node))

    def ancestor_mask(self) -> NDArray[np.bool_]:
        """(nodes, nodes); entry [i, j] is true where j is i or one of i's ancestors: what i may attend to."""
        mask = np.eye(len(self), dtype=np.bool_)
        for node, parent in enumerate(self.parents):
            if parent != ROOT:
                mask[node] |= mask[parent]
        return mask

    def subtree(self, nodes: Iterable[int]) -> "TokenTree":
        """The tree of these nodes alone; every node's parent must be among them."""
        kept = sorted(set(nodes))
        place = {ROOT: ROOT} | {node: index for index, node in enumerate(kept)}
        if orphans := [node for node in kept if self.parents[node] not in place]:
            raise InvalidTreeError(f"node {orphans[0]} would lose its parent")
        return TokenTree(
            token_ids=tuple(self.token_ids[node] for node in kept),
            parents=tuple(place[self.parents[node]] for node in kept),
            confidences=tuple(self.confidences[node] for node in kept),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeShape:
    """The form of a tree to be drafted.

    Attributes:
        depth: Levels, 1 to MAX_DEPTH.
        branching: Nodes expanded a level and children of each, 1 to MAX_BRANCHING; 1 gives a chain.
        budget: Most nodes, 1 to MAX_NODES.
        least_confidence: Nodes whose path confidence is lower are not drafted, 0 to 1: the tree ends where the drafter
            no longer believes in it (SpecDec++, arXiv:2405.19715, stops a chain by the same rule).

    Raises:
        InvalidRequestError: A value is out of its range.
    """

    depth: int
    branching: int
    budget: int
    least_confidence: float = 0.0

    def __post_init__(self) -> None:
        for name, value, most in (
            ("shape.depth", self.depth, MAX_DEPTH),
            ("shape.branching", self.branching, MAX_BRANCHING),
            ("shape.budget", self.budget, MAX_NODES),
        ):
            if not 1 <= value <= most:
                raise InvalidRequestError(name, f"{value} is not between 1 and {most}")
        if not 0.0 <= self.least_confidence <= 1.0:
            raise InvalidRequestError("shape.least_confidence", f"{self.least_confidence} is not between 0 and 1")


EMPTY_TREE = TokenTree(token_ids=(), parents=(), confidences=())


def chain(token_ids: Sequence[int], confidences: Sequence[float] | None = None) -> TokenTree:
    """A tree without branches."""
    return TokenTree(
        token_ids=tuple(token_ids),
        parents=tuple(range(ROOT, len(token_ids) - 1)),
        confidences=tuple(confidences) if confidences is not None else (1.0,) * len(token_ids),
    )


def prune(tree: TokenTree, budget: int) -> TokenTree:
    """The `budget` nodes of highest path confidence; of equals, the earlier one.

    A path is never likelier than its beginning, so what is kept always hangs together.
    """
    if budget < 0:
        raise InvalidTreeError(f"a budget of {budget} nodes; it cannot be negative")
    by_confidence = sorted(range(len(tree)), key=lambda node: (-tree.path_confidences[node], node))
    return tree.subtree(by_confidence[:budget])


def merge(trees: Iterable[TokenTree], budget: int = MAX_NODES) -> TokenTree:
    """One trie of all trees (same parent, same token: one node, the best confidence kept), pruned to `budget`."""
    trees = tuple(trees)
    if len(trees) == 1 and len(trees[0]) <= budget and not _has_doubles(trees[0]):
        return trees[0]
    merged: list[tuple[int, int, float]] = []
    place_of: dict[tuple[int, int], int] = {}
    for tree in trees:
        places: list[int] = []
        for token, parent, confidence in _nodes(tree):
            key = (ROOT if parent == ROOT else places[parent], token)
            place = place_of.setdefault(key, len(merged))
            if place == len(merged):
                merged.append((token, key[0], confidence))
            elif confidence > merged[place][2]:
                merged[place] = (token, key[0], confidence)
            places.append(place)
    return _best_first(merged, budget)


def side_by_side(trees: Iterable[TokenTree]) -> TokenTree:
    """All trees under one root, doubles and all: the merged tree as TAPS defines it (arXiv:2603.27027)."""
    token_ids: list[int] = []
    parents: list[int] = []
    confidences: list[float] = []
    for tree in trees:
        offset = len(token_ids)
        token_ids += tree.token_ids
        parents += [ROOT if parent == ROOT else parent + offset for parent in tree.parents]
        confidences += tree.confidences
    return TokenTree(token_ids=tuple(token_ids), parents=tuple(parents), confidences=tuple(confidences))


def most_confident(trees: Iterable[TokenTree]) -> TokenTree:
    """The tree of highest mean path confidence, the first of equals; the empty tree if there is none."""
    return max(trees, key=lambda tree: tree.mean_path_confidence, default=EMPTY_TREE)


def _has_doubles(tree: TokenTree) -> bool:
    return len(set(zip(tree.parents, tree.token_ids, strict=True))) < len(tree)


def _nodes(tree: TokenTree) -> Iterator[tuple[int, int, float]]:
    return zip(tree.token_ids, tree.parents, tree.confidences, strict=True)


def _best_first(nodes: Sequence[tuple[int, int, float]], budget: int) -> TokenTree:
    """Prune before the tree is built: a union of large trees may exceed MAX_NODES before its budget is applied."""
    chances: list[float] = []
    for _, parent, confidence in nodes:
        chances.append(confidence if parent == ROOT else chances[parent] * confidence)
    kept = sorted(sorted(range(len(nodes)), key=lambda node: (-chances[node], node))[:budget])
    place = {ROOT: ROOT} | {node: index for index, node in enumerate(kept)}
    return TokenTree(
        token_ids=tuple(nodes[node][0] for node in kept),
        parents=tuple(place[nodes[node][1]] for node in kept),
        confidences=tuple(nodes[node][2] for node in kept),
    )
