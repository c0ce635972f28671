"""Compiled formulas: the same numbers as the textbook's, and code that is never older than its formula."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numba.core.registry import CPUDispatcher

from router_models import formulas
from speculation.compiled import compiled

DRAFTERS, SHAPES, DRAWS = 3, 5, 8

seeds = st.integers(0, 2**32 - 1).map(np.random.default_rng)


def compiled_formulas() -> dict[str, CPUDispatcher]:
    return {name: value for name, value in vars(formulas).items() if isinstance(value, CPUDispatcher)}


@given(seeds)
def test_expected_hazards_are_shrunk_level_by_level(rng: np.random.Generator) -> None:
    """All levels at once: every level's hits count for as much as the levels below it leave to it."""
    hits = rng.uniform(0, 50, (6, 4))
    counts = np.stack((hits, hits + rng.uniform(0, 50, (6, 4))), axis=1)
    rows, strengths, prior = rng.integers(0, 6, (DRAFTERS, 4)), np.array([60.0, 60.0, 60.0, 25.0]), np.full(4, 0.3)

    expected, better = formulas.expected_hazards(counts, rows, strengths, prior)

    totals = counts[rows, 1] + strengths[:, None]
    left = np.flip(np.cumprod(np.flip(strengths[:, None] / totals, axis=1), axis=1), axis=1)
    shares = counts[rows, 0] / totals
    shares[:, :-1] *= left[:, 1:]
    np.testing.assert_allclose(expected, shares.sum(axis=1) + left[:, 0] * prior)
    deviation = np.sqrt(expected[:, 0] * (1 - expected[:, 0]) / (totals[:, -1, 0] + 1))
    np.testing.assert_allclose(better[:, 0], expected[:, 0] + deviation)
    np.testing.assert_array_equal(better[:, 1:], expected[:, 1:])


@given(seeds, st.sampled_from([0.0, 0.5, 1.0]))
def test_the_fastest_choice_of_each_draw_is_found(rng: np.random.Generator, exploration: float) -> None:
    gains, accepted, shared, own, costs_ms = rng.uniform(0.1, 9.0, (5, DRAFTERS, SHAPES))
    drawn = rng.standard_normal((DRAWS, DRAFTERS, 1 + SHAPES))

    places, speeds = formulas.fastest(gains, accepted, shared, own, costs_ms, drawn, exploration)

    doubted = exploration * accepted * (shared * drawn[..., :1] + own * drawn[..., 1:])
    by_hand = ((gains + doubted) / costs_ms).reshape(DRAWS, -1)
    np.testing.assert_allclose(speeds, by_hand.max(axis=-1))
    np.testing.assert_allclose(by_hand[np.arange(DRAWS), places], by_hand.max(axis=-1))


def test_of_equals_the_first_is_the_fastest() -> None:
    same = np.ones((DRAFTERS, SHAPES))

    places, _ = formulas.fastest(same, same, same, same, same, np.zeros((DRAWS, DRAFTERS, 1 + SHAPES)), 1.0)

    assert not places.any()


@given(seeds)
def test_doubts_of_rates_and_of_corrections_are_independent(rng: np.random.Generator) -> None:
    accepted = np.sort(rng.uniform(0.1, 9.0, (2, DRAFTERS, SHAPES)), axis=0)
    corrections = rng.uniform(0.0, 1.0, (DRAFTERS, SHAPES, 4))

    shared, own = formulas.doubts(accepted, corrections, 9.0, 0.8, 0.6)

    by_rate, by_shape = (accepted[1] / accepted[0] - 1.0) / 3.0, corrections[..., 3]
    np.testing.assert_allclose(shared**2 + own**2, by_rate**2 + by_shape**2)
    np.testing.assert_allclose(own, 0.6 * by_shape)


@given(seeds)
def test_a_draft_costs_the_sum_of_its_parts_and_never_nothing(rng: np.random.Generator) -> None:
    weights, unread = rng.uniform(0.0, 1.0, (DRAFTERS, 4)), rng.uniform(0.0, 9.0, DRAFTERS)
    levels, nodes = rng.uniform(0.0, 9.0, (2, DRAFTERS, SHAPES))

    cost_ms = formulas.draft_ms(weights, unread, levels, nodes)

    parts = np.stack((np.ones_like(levels), levels, nodes, np.broadcast_to(unread[:, None], levels.shape)), axis=-1)
    np.testing.assert_allclose(cost_ms, np.einsum("dsf,df->ds", parts, weights))
    assert (formulas.draft_ms(np.zeros_like(weights), unread, levels, nodes) == formulas.LEAST_MS).all()


@pytest.mark.parametrize("name", compiled_formulas())
def test_a_formula_is_compiled_before_it_is_called_and_never_again(name: str) -> None:
    formula = compiled_formulas()[name]

    assert len(formula.signatures) == 1
    with pytest.raises(TypeError, match="No matching definition"):
        formula(*[None] * formula.py_func.__code__.co_argcount)


def test_a_formula_is_compiled_where_it_cannot_be_kept() -> None:
    """One that stands in no file has no place beside it, nor in the user's cache."""
    scope = {"compiled": compiled}
    exec("@compiled('f8(f8)')\ndef twice(number): return 2.0 * number", scope)
    twice: Any = scope["twice"]

    assert twice(1.5) == 3.0
    assert isinstance(twice, CPUDispatcher)
    assert not twice.stats.cache_path
