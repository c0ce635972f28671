"""What follows from ranks and confidences alone, before any model is asked (tests/worker/test_scores_are_exact.py)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router_models.counterfactual import accepted_lengths, rounds_of
from router_models.menu import SHAPES, chain_of
from router_models.policy import TextScores
from speculation.calibration import Calibration
from speculation.tree import TreeShape


@st.composite
def texts(draw: st.DrawFn) -> TextScores:
    """Any scores that a drafter may give: of two candidates the likelier has the better rank."""
    ranks = tuple(draw(st.lists(st.sampled_from([1, 1, 1, 2, 3, 9]), max_size=12)))
    return TextScores(ranks=ranks, confidences=tuple(draw(st.floats(0.0, 1.0)) / rank for rank in ranks))


shapes = st.builds(
    TreeShape,
    depth=st.integers(1, 8),
    branching=st.integers(1, 8),
    budget=st.integers(1, 32),
    least_confidence=st.sampled_from([0.0, 0.1, 0.5]),
)


def scores(*ranks: int, confidence: float = 0.5) -> TextScores:
    return TextScores(ranks=ranks, confidences=(confidence,) * len(ranks))


def test_a_chain_holds_the_text_for_as_long_as_it_is_the_drafters_first_choice() -> None:
    predicted = accepted_lengths(scores(1, 1, 2, 1, 1, 1, 1, 1), chain_of(3), remaining=9)

    assert predicted.exact
    assert predicted.most == (2, 1, 0, 3, 3, 3, 2, 1)


def test_the_last_token_of_a_request_needs_no_draft() -> None:
    assert accepted_lengths(scores(1, 1, 1, 1), chain_of(4)).most == (3, 2, 1, 0)


def test_a_chain_ends_where_its_drafter_is_unsure_of_the_path() -> None:
    text = scores(1, 1, 1, 1, 1, 1, confidence=0.5)

    assert accepted_lengths(text, chain_of(4, 0.2)).most == (2, 2, 2, 2, 1, 0)
    assert accepted_lengths(text, chain_of(4, 0.2), calibration=Calibration(offset=2.0)).most == (4, 4, 3, 2, 1, 0)


def test_what_was_forbidden_was_not_drafted_however_few_candidates_there_were() -> None:
    assert accepted_lengths(scores(2, 1, confidence=0.0), TreeShape(depth=1, branching=4, budget=4)).most == (0, 0)


def test_two_levels_with_room_for_all_leave_nothing_to_compete_for() -> None:
    """However unsure the drafter is."""
    text = scores(3, 3, 1, 4, confidence=0.01)

    assert accepted_lengths(text, TreeShape(depth=2, branching=3, budget=12), remaining=9).most == (2, 2, 1, 0)
    assert accepted_lengths(text, TreeShape(depth=2, branching=3, budget=12), remaining=9).exact


def test_a_token_next_to_impossible_is_no_trouble() -> None:
    text = TextScores(ranks=(1, 1, 1), confidences=(1e-160, 1e-160, 1.0))

    assert accepted_lengths(text, TreeShape(depth=3, branching=4, budget=6)).most == (2, 1, 0)


def test_a_budget_is_doubtful_where_the_drafter_was_unsure_and_certain_where_it_was_sure() -> None:
    shape = TreeShape(depth=3, branching=4, budget=6)

    unsure = accepted_lengths(scores(1, 1, 1, 1, confidence=0.1), shape, remaining=9)
    sure = accepted_lengths(scores(1, 1, 1, 1, confidence=0.9), shape, remaining=9)

    assert (unsure.least[0], unsure.most[0]) == (1, 3)
    assert sure.exact


def test_beyond_two_levels_only_the_likeliest_of_a_level_are_looked_beyond() -> None:
    """However large the budget: a node's cousins may be likelier, unless the drafter was sure of it."""
    shape = TreeShape(depth=3, branching=2, budget=64)

    unsure = accepted_lengths(scores(2, 2, 1, confidence=0.3), shape, remaining=9)
    sure = accepted_lengths(scores(1, 1, 1, confidence=0.6), shape, remaining=9)

    assert (unsure.least[0], unsure.most[0]) == (2, 3)
    assert sure.exact


def test_better_siblings_use_up_the_budget() -> None:
    shape = TreeShape(depth=3, branching=4, budget=6)

    assert accepted_lengths(scores(4, 3, 1, confidence=0.2), shape, remaining=9).most == (1, 2, 1)


def test_a_round_emits_what_it_accepts_and_one_more() -> None:
    assert rounds_of((2, 0, 0, 3, 1, 1, 0)) == (2, 3)
    assert rounds_of(()) == ()


@given(texts(), shapes)
def test_bounds_are_bounds_and_no_deeper_than_the_tree(text: TextScores, shape: TreeShape) -> None:
    predicted = accepted_lengths(text, shape)

    for start, (least, most) in enumerate(zip(predicted.least, predicted.most, strict=True)):
        assert 0 <= least <= most <= min(shape.depth, shape.budget, max(len(text.ranks) - start - 1, 0))


@given(texts(), st.sampled_from([shape for shape in SHAPES if shape.branching == 1]))
def test_every_chain_of_the_menu_is_exact(text: TextScores, chain: TreeShape) -> None:
    assert accepted_lengths(text, chain).exact


@given(texts(), shapes)
def test_a_larger_budget_never_holds_less(text: TextScores, shape: TreeShape) -> None:
    roomier = TreeShape(
        depth=shape.depth,
        branching=shape.branching,
        budget=2 * shape.budget,
        least_confidence=shape.least_confidence,
    )

    ours, theirs = accepted_lengths(text, shape), accepted_lengths(text, roomier)

    assert all(one <= other for one, other in zip(ours.least, theirs.least, strict=True))
    assert all(one <= other for one, other in zip(ours.most, theirs.most, strict=True))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_text_of_no_tokens_has_no_lengths(shape: TreeShape) -> None:
    assert accepted_lengths(scores(), shape).most == ()
