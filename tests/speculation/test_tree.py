"""Laws of the token tree."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from speculation.errors import InvalidRequestError, InvalidTreeError
from speculation.tree import (
    EMPTY_TREE,
    MAX_DEPTH,
    MAX_NODES,
    ROOT,
    TokenTree,
    TreeShape,
    chain,
    merge,
    most_confident,
    prune,
    side_by_side,
)
from tests.strategies import trees


def paths(tree: TokenTree) -> set[tuple[int, ...]]:
    """Every token path from the root."""
    return {tree.tokens_on_path(node) for node in range(len(tree))}


def best_chance(tree: TokenTree, path: tuple[int, ...]) -> float:
    """The highest path confidence of the nodes with this path."""
    return max(tree.path_confidences[node] for node in range(len(tree)) if tree.tokens_on_path(node) == path)


@given(trees())
def test_a_node_attends_to_exactly_the_nodes_on_its_path(tree: TokenTree) -> None:
    mask = tree.ancestor_mask()

    for node in range(len(tree)):
        assert set(np.flatnonzero(mask[node])) == set(tree.path(node))


def test_siblings_do_not_see_each_other() -> None:
    tree = TokenTree(token_ids=(5, 6), parents=(ROOT, ROOT), confidences=(0.5, 0.5))

    assert not tree.ancestor_mask()[0, 1]
    assert not tree.ancestor_mask()[1, 0]


@given(trees())
def test_depth_is_the_length_of_the_path(tree: TokenTree) -> None:
    assert all(tree.depths[node] == len(tree.path(node)) for node in range(len(tree)))


@given(trees(), st.integers(0, 12))
def test_pruning_keeps_the_likeliest_nodes_and_their_ancestors(tree: TokenTree, budget: int) -> None:
    pruned = prune(tree, budget)

    assert len(pruned) == min(budget, len(tree))
    assert sorted(pruned.path_confidences) == sorted(sorted(tree.path_confidences, reverse=True)[:budget])
    assert paths(pruned) <= paths(tree)


@given(trees(), st.integers(0, 12))
def test_pruning_twice_is_pruning_once(tree: TokenTree, budget: int) -> None:
    assert prune(prune(tree, budget), budget) == prune(tree, budget)


@given(st.lists(trees(), max_size=3))
def test_a_merged_tree_holds_every_path_once(drafts: list[TokenTree]) -> None:
    merged = merge(drafts)

    listed = [merged.tokens_on_path(node) for node in range(len(merged))]
    assert len(set(listed)) == len(listed)
    assert set(listed) == set().union(*map(paths, drafts))


@given(trees(), trees())
def test_a_merged_node_is_at_least_as_confident_as_in_either_tree(one: TokenTree, other: TokenTree) -> None:
    merged = merge([one, other])

    for tree in (one, other):
        for path in paths(tree):
            assert best_chance(merged, path) >= best_chance(tree, path)


@given(trees())
def test_merging_a_trie_with_itself_changes_nothing(tree: TokenTree) -> None:
    trie = merge([tree])

    assert merge([trie, trie]) == trie


@given(trees(), trees(), st.integers(0, 8))
def test_a_merged_tree_stays_within_its_budget(one: TokenTree, other: TokenTree, budget: int) -> None:
    assert merge([one, other], budget) == prune(merge([one, other]), budget)


def test_a_union_larger_than_any_tree_may_be_is_cut_to_its_budget() -> None:
    broad = [
        TokenTree(
            token_ids=tuple(range(first, first + MAX_NODES)),
            parents=(ROOT,) * MAX_NODES,
            confidences=(0.5,) * MAX_NODES,
        )
        for first in (0, MAX_NODES)
    ]

    assert len(merge(broad)) == MAX_NODES


@given(trees(), trees())
def test_side_by_side_keeps_every_node_doubles_and_all(one: TokenTree, other: TokenTree) -> None:
    both = side_by_side([one, other])

    assert len(both) == len(one) + len(other)
    assert both.path_confidences == one.path_confidences + other.path_confidences
    assert [both.tokens_on_path(node) for node in range(len(both))] == [
        tree.tokens_on_path(node) for tree in (one, other) for node in range(len(tree))
    ]


@given(st.lists(trees(), max_size=4))
def test_the_most_confident_tree_has_the_highest_mean_path_confidence(drafts: list[TokenTree]) -> None:
    chosen = most_confident(drafts)

    assert chosen.mean_path_confidence == max((tree.mean_path_confidence for tree in drafts), default=0.0)


def test_of_no_trees_none_is_most_confident() -> None:
    assert most_confident([]) is EMPTY_TREE


def test_a_subtree_must_keep_the_parents() -> None:
    with pytest.raises(InvalidTreeError, match="lose its parent"):
        chain([1, 2, 3]).subtree([0, 2])


@pytest.mark.parametrize(
    ("token_ids", "parents", "confidences"),
    [
        pytest.param((1,), (0,), (0.5,), id="its own parent"),
        pytest.param((1, 2), (1, ROOT), (0.5, 0.5), id="child before parent"),
        pytest.param((1,), (-2,), (0.5,), id="parent below the root"),
        pytest.param((1, 2), (ROOT,), (0.5, 0.5), id="a parent missing"),
        pytest.param((1,), (ROOT,), (), id="a confidence missing"),
        pytest.param((-1,), (ROOT,), (0.5,), id="negative token"),
        pytest.param((1,), (ROOT,), (1.5,), id="confidence above one"),
        pytest.param((1,), (ROOT,), (float("nan"),), id="confidence not a number"),
        pytest.param((1,) * (MAX_NODES + 1), (ROOT,) * (MAX_NODES + 1), (0.5,) * (MAX_NODES + 1), id="too many nodes"),
        pytest.param(
            (1,) * (MAX_DEPTH + 1), tuple(range(ROOT, MAX_DEPTH)), (0.5,) * (MAX_DEPTH + 1), id="too many levels"
        ),
    ],
)
def test_what_is_no_tree_is_refused(
    token_ids: tuple[int, ...], parents: tuple[int, ...], confidences: tuple[float, ...]
) -> None:
    with pytest.raises(InvalidTreeError):
        TokenTree(token_ids=token_ids, parents=parents, confidences=confidences)


@pytest.mark.parametrize("field", ["depth", "branching", "budget"])
@pytest.mark.parametrize("value", [0, -1, 257])
def test_a_shape_out_of_range_names_its_field(field: str, value: int) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        TreeShape(**{"depth": 4, "branching": 2, "budget": 8, field: value})

    assert caught.value.field == f"shape.{field}"


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan")])
def test_a_least_confidence_that_is_no_chance_is_refused(value: float) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        TreeShape(depth=4, branching=2, budget=8, least_confidence=value)

    assert caught.value.field == "shape.least_confidence"
