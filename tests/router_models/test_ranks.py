"""Ranks: what a round says about a drafter, and what follows from it for shapes."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router_models.formulas import CLASS_ENDS, rank_probabilities
from router_models.ranks import (
    NOMINAL_HAZARDS,
    TreeMenu,
    accepted_of,
    count_ranks,
    first_candidates,
    judged,
    likeliest_nodes,
    no_counts,
)
from speculation.tree import ROOT, TokenTree, TreeShape, chain
from tests.router_models.world import World

shapes = st.builds(TreeShape, depth=st.integers(1, 8), branching=st.integers(1, 8), budget=st.integers(1, 40))
hazards = st.lists(st.floats(0, 1), min_size=len(CLASS_ENDS), max_size=len(CLASS_ENDS)).map(np.array)


def fan(*tokens: int) -> TokenTree:
    """Siblings under the root, the likeliest first."""
    confidences = tuple(0.5**place for place in range(1, len(tokens) + 1))
    return TokenTree(token_ids=tokens, parents=(ROOT,) * len(tokens), confidences=confidences)


@pytest.mark.parametrize(
    ("tree", "emitted", "hits", "trials"),
    [
        pytest.param(chain([5, 6, 7]), (5, 6, 9), [2, 0, 0, 0], [3, 0, 0, 0], id="a chain shows first candidates only"),
        pytest.param(chain([5]), (5, 6), [1, 0, 0, 0], [1, 0, 0, 0], id="below a leaf nothing is shown"),
        pytest.param(fan(5, 6), (6, 1), [0, 1, 0, 0], [1, 1, 0, 0], id="the second candidate"),
        pytest.param(fan(5, 6, 7, 8), (8, 1), [0, 0, 1, 0], [1, 1, 1, 0], id="the fourth is in the third class"),
        pytest.param(fan(5, 6, 7), (9,), [0, 0, 0, 0], [1, 1, 0, 0], id="half a class shown and missed says nothing"),
        pytest.param(fan(5, 6, 7), (7,), [0, 0, 0, 0], [1, 1, 0, 0], id="half a class shown and hit says nothing"),
        pytest.param(chain([]), (5,), [0, 0, 0, 0], [0, 0, 0, 0], id="no tree"),
    ],
)
def test_a_round_says_which_classes_were_searched(
    tree: TokenTree, emitted: tuple[int, ...], hits: list[int], trials: list[int]
) -> None:
    assert count_ranks(tree, emitted).tolist() == [hits, trials]


CHAIN = TreeShape(depth=4, branching=1, budget=4)
BUSH = TreeShape(depth=4, branching=2, budget=8)


@pytest.mark.parametrize(
    ("shape", "tree", "emitted", "hits", "trials"),
    [
        pytest.param(CHAIN, chain([]), (5,), 0.0, 1.0, id="nothing to say"),
        pytest.param(CHAIN, chain([5, 6]), (5, 6, 7), 2.0, 3.0, id="no more to say"),
        pytest.param(CHAIN, chain([5, 6, 7, 8]), (5, 6, 7, 8, 9), 4.0, 4.0, id="as long as it may be"),
        pytest.param(replace(CHAIN, least_confidence=0.4), chain([]), (5,), 0.2, 1.0, id="not sure enough to begin"),
        pytest.param(BUSH, chain([]), (5,), 0.0, 1.0, id="a tree without a beginning"),
        pytest.param(BUSH, chain([5]), (5, 6), 1.0, 1.0, id="below a leaf of a tree nobody looked"),
    ],
)
def test_a_drafter_without_a_candidate_was_asked_all_the_same(
    shape: TreeShape, tree: TokenTree, emitted: tuple[int, ...], hits: float, trials: float
) -> None:
    """Else one that is mostly silent is believed for what it said long ago."""
    assert count_ranks(tree, emitted, shape)[:, 0].tolist() == [hits, trials]


def test_the_order_of_candidates_is_their_confidence_not_their_place() -> None:
    tree = TokenTree(token_ids=(5, 6), parents=(ROOT, ROOT), confidences=(0.2, 0.7))

    assert count_ranks(tree, (6,))[0].tolist() == [1, 0, 0, 0]


def test_only_nodes_whose_parent_was_emitted_are_judged() -> None:
    """Tokens 1 and 2 at the root, 3 below 1, 4 below 2; the target says 2 and then 9."""
    tree = TokenTree(token_ids=(1, 2, 3, 4), parents=(ROOT, ROOT, 0, 1), confidences=(0.5, 0.4, 0.9, 0.8))

    assert judged(tree, (2, 9)) == [(0.5, False), (0.4, True), (0.8, False)]
    assert accepted_of(tree, (2, 9)) == 1
    assert first_candidates(tree) == [0, 2]


@given(hazards)
def test_rank_probabilities_are_probabilities(hazards: np.ndarray) -> None:
    per_rank = rank_probabilities(hazards)

    assert per_rank.shape == (CLASS_ENDS[-1],)
    assert (per_rank >= 0).all()
    assert per_rank.sum() == pytest.approx(1 - np.prod(1 - hazards))


@given(shapes)
def test_a_shape_has_no_node_without_its_parent_nor_before_its_elder_sibling(shape: TreeShape) -> None:
    nodes = likeliest_nodes(shape)

    assert 1 <= len(nodes) <= shape.budget
    for node in nodes:
        assert len(node) <= shape.depth
        assert node[-1] < shape.branching
        assert len(node) == 1 or node[:-1] in nodes
        assert node[-1] == 0 or (*node[:-1], node[-1] - 1) in nodes


@given(st.floats(0, 1), st.integers(1, 10))
def test_a_chain_is_worth_the_sum_of_the_powers_of_its_rate(rate: float, depth: int) -> None:
    menu = TreeMenu([TreeShape(depth=depth, branching=1, budget=depth)])

    expected = menu.expected_accepted(rank_probabilities(np.array([rate, 0.0, 0.0, 0.0])))

    assert expected == pytest.approx([sum(rate**level for level in range(1, depth + 1))])


@given(st.lists(shapes, min_size=1, max_size=4), hazards)
def test_a_menu_values_each_shape_as_if_it_were_alone(shapes: list[TreeShape], hazards: np.ndarray) -> None:
    per_rank = rank_probabilities(hazards)

    together = TreeMenu(shapes).expected_accepted(per_rank)

    by_hand = [sum(np.prod([per_rank[rank] for rank in node]) for node in likeliest_nodes(shape)) for shape in shapes]
    assert together == pytest.approx(by_hand)


def test_counts_of_many_rounds_give_the_hazards_back() -> None:
    """Whatever shape was drafted: censoring does not bias."""
    true = np.array([0.55, 0.4, 0.3, 0.2])
    world = World({"code": true}, seed=3)
    counts = no_counts()

    for shape in (TreeShape(depth=4, branching=1, budget=4), TreeShape(depth=3, branching=8, budget=40)):
        for _ in range(4000):
            counts += count_ranks(*world.answer("code", shape))

    assert counts[0] / counts[1] == pytest.approx(true, abs=0.03)


def test_nominal_hazards_cover_every_class() -> None:
    assert len(NOMINAL_HAZARDS) == len(CLASS_ENDS)
