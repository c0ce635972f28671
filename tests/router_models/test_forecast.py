"""Forecasts: what a shape will bring if text were even, and what rounds correct about that."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router_models.forecast import Corrections, Forecaster, observe
from router_models.menu import SHAPES, chain_of
from speculation.tree import ROOT, TokenTree, TreeShape, chain

FOUR_WIDE = TreeShape(depth=4, branching=4, budget=12)

hazards = st.lists(st.floats(0, 1), min_size=4, max_size=4).map(np.array)


@given(st.floats(0.01, 0.99), st.integers(1, 20))
def test_a_chain_is_worth_the_sum_of_the_powers_of_its_rate(rate: float, length: int) -> None:
    forecast = Forecaster([chain_of(length)]).forecast(np.array([rate, 0.0, 0.0, 0.0]))

    assert forecast.accepted == pytest.approx([sum(rate**level for level in range(1, length + 1))], rel=1e-6)
    assert (forecast.levels, forecast.nodes) == ([length], [length])


def test_a_chain_that_may_stop_does_so_where_its_path_is_no_longer_believed() -> None:
    forecast = Forecaster([chain_of(12, 0.25), chain_of(3, 0.25)]).forecast(np.array([0.5, 0.0, 0.0, 0.0]))

    assert forecast.nodes == pytest.approx([2.0, 2.0])
    assert forecast.levels == pytest.approx([3.0, 3.0])
    assert forecast.accepted == pytest.approx([0.75, 0.75])


@given(hazards)
def test_no_forecast_accepts_more_than_it_verifies(hazards: np.ndarray) -> None:
    forecast = Forecaster(SHAPES).forecast(hazards)

    assert (forecast.accepted <= forecast.nodes + 1e-9).all()
    assert (forecast.levels <= [shape.depth for shape in SHAPES]).all()


def test_draws_and_drafters_are_forecast_all_at_once() -> None:
    many = np.random.default_rng(1).uniform(size=(5, 3, 4))
    forecaster = Forecaster(SHAPES)

    assert forecaster.forecast(many).accepted[4, 2] == pytest.approx(forecaster.forecast(many[4, 2]).accepted)


def shown(shape: TreeShape, drafted: TreeShape, tree: TokenTree, *emitted: int) -> list[float] | None:
    """Accepted tokens, levels and nodes of a shape, as far as a draft shows them."""
    known, observed = observe([shape], drafted, tree, emitted)
    return observed[0].tolist() if known[0] else None


def test_a_chain_shows_what_every_shorter_or_stricter_one_would_have_brought() -> None:
    drafted, tree = chain_of(4), chain([5, 6, 7, 8], [0.9, 0.5, 0.9, 0.5])

    assert shown(chain_of(2), drafted, tree, 5, 6, 7, 1) == [2, 2, 2]
    assert shown(chain_of(4), drafted, tree, 5, 1) == [1, 4, 4]
    assert shown(chain_of(4, 0.6), drafted, tree, 5, 6, 7, 1) == [1, 2, 1]
    assert shown(chain_of(4, 0.95), drafted, tree, 5, 6, 7, 1) == [0, 1, 0]


def test_a_chain_says_nothing_about_longer_or_bolder_ones() -> None:
    drafted, tree = chain_of(4, 0.3), chain([5, 6], [0.9, 0.5])

    assert shown(chain_of(5, 0.3), drafted, tree, 5, 6, 1) is None
    assert shown(chain_of(2), drafted, tree, 5, 6, 1) is None
    assert shown(chain_of(4, 0.4), drafted, tree, 5, 6, 1) == [2, 3, 2]


def test_a_tree_shows_itself_and_the_chains_of_its_first_candidates() -> None:
    tree = TokenTree(token_ids=(5, 6, 7), parents=(ROOT, ROOT, 1), confidences=(0.2, 0.7, 0.6))

    assert shown(FOUR_WIDE, FOUR_WIDE, tree, 5, 9) == [1, 3, 3]
    assert shown(chain_of(2), FOUR_WIDE, tree, 5, 9) == [0, 2, 2]
    assert shown(chain_of(2), FOUR_WIDE, tree, 6, 7, 9) == [2, 2, 2]
    assert shown(chain_of(3), FOUR_WIDE, tree, 6, 7, 9) is None
    assert shown(TreeShape(depth=6, branching=4, budget=16), FOUR_WIDE, tree, 5, 9) is None


def test_corrections_find_the_ratio_and_lose_their_doubt() -> None:
    corrections, known = Corrections(2), np.array([True, False])
    before = corrections.doubts.copy()
    for _ in range(400):
        corrections.learn(known, np.full((2, 3), 3.0), np.full((2, 3), 2.0))

    assert corrections.ratios[0] == pytest.approx([1.5] * 3, rel=0.05)
    assert corrections.ratios[1] == pytest.approx([1.0] * 3)
    assert corrections.doubts[0] < 0.3 * before[0]
    assert corrections.doubts[1] == before[1]


def test_what_is_known_of_one_subject_begins_with_what_is_known_of_all() -> None:
    everything = np.array([True, True])
    of_all = Corrections(2)
    for _ in range(400):
        of_all.learn(everything, np.full((2, 3), 3.0), np.full((2, 3), 2.0))
    of_one = Corrections(2, of_all)

    assert of_one.ratios == pytest.approx(of_all.ratios)
    for _ in range(400):
        of_one.learn(everything, np.full((2, 3), 1.0), np.full((2, 3), 2.0))
    assert of_one.ratios == pytest.approx(np.full((2, 3), 0.6), abs=0.1)
    assert of_one.doubts == pytest.approx(of_all.doubts)


def test_a_truth_that_nobody_believes_in_makes_no_chain_longer() -> None:
    """Drafters stop by what they believe: else a chain that stops by itself would gain from luck at no cost."""
    forecaster = Forecaster([chain_of(12, 0.4), FOUR_WIDE])
    believed, better = np.array([0.8, 0.3, 0.2, 0.1]), np.array([0.9, 0.3, 0.2, 0.1])

    forecast, accepted = forecaster.forecast_if(np.array([believed, better]))

    assert accepted[0] == pytest.approx(forecast.accepted)
    assert (accepted[1] > accepted[0]).all()
    length = np.log(0.4) / np.log(0.8)
    assert accepted[1][0] == pytest.approx(0.9 * (1 - 0.9**length) / (1 - 0.9))
    assert forecast.nodes == pytest.approx(forecaster.forecast(believed).nodes)


def test_what_is_no_longer_drafted_is_doubted_again() -> None:
    corrections = Corrections(2)
    for turn in range(2000):
        known = np.array([turn < 500, True])
        corrections.learn(known, np.full((2, 3), 1.0), np.full((2, 3), 2.0))

    assert corrections.ratios[0, 0] > 0.75
    assert corrections.ratios[1, 0] < 0.6
    assert corrections.doubts[0] > 2 * corrections.doubts[1]
