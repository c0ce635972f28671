"""Off-policy estimates on a world whose chances are all known."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router_models.offline.estimators import (
    Terms,
    bootstrap,
    direct,
    doubly_robust,
    effective_sample_size,
    importance_weights,
    ips,
    observed,
    resampled_counts,
    snips,
)

ARMS = 3
PARTS = 2

chances = st.lists(st.floats(0.05, 1.0), min_size=ARMS, max_size=ARMS).map(lambda raw: np.array(raw) / sum(raw))
tables = st.lists(st.floats(-5.0, 5.0), min_size=ARMS * PARTS, max_size=ARMS * PARTS).map(
    lambda raw: np.array(raw).reshape(ARMS, PARTS)
)


@given(logging=chances, judged=chances, means=tables)
def test_inverse_propensities_are_right_in_the_mean(logging: np.ndarray, judged: np.ndarray, means: np.ndarray) -> None:
    """Exactly: the mean over all that the logging policy could have done, each with its chance."""
    weights = importance_weights(judged, logging)

    expected = sum(logging[arm] * ips(weights[[arm]], means[[arm]]).estimate for arm in range(ARMS))

    np.testing.assert_allclose(expected, judged @ means, atol=1e-9)


@given(logging=chances, judged=chances, means=tables, guesses=tables)
def test_a_doubly_robust_estimate_is_right_in_the_mean_whatever_the_model_says(
    logging: np.ndarray, judged: np.ndarray, means: np.ndarray, guesses: np.ndarray
) -> None:
    weights = importance_weights(judged, logging)
    of_policy = (judged @ guesses)[None]

    expected = sum(
        logging[arm] * doubly_robust(weights[[arm]], means[[arm]], of_policy, guesses[[arm]]).estimate
        for arm in range(ARMS)
    )

    np.testing.assert_allclose(expected, judged @ means, atol=1e-9)


@given(judged=chances, means=tables, drawn=st.lists(st.integers(0, ARMS - 1), min_size=1, max_size=20))
def test_a_doubly_robust_estimate_is_exact_if_the_model_is_right_whatever_the_propensities(
    judged: np.ndarray, means: np.ndarray, drawn: list[int]
) -> None:
    wrong = np.full(len(drawn), 0.5)
    weights = importance_weights(judged[drawn], wrong)
    of_policy = np.tile(judged @ means, (len(drawn), 1))

    estimate = doubly_robust(weights, means[drawn], of_policy, means[drawn]).estimate

    np.testing.assert_allclose(estimate, judged @ means, atol=1e-9)
    np.testing.assert_allclose(direct(of_policy).estimate, judged @ means, atol=1e-9)


def test_the_estimates_come_to_the_truth_with_more_rounds() -> None:
    logging, judged = np.array([0.7, 0.2, 0.1]), np.array([0.1, 0.1, 0.8])
    means = np.array([[1.0, 25.0], [2.0, 30.0], [4.0, 40.0]])
    rng = np.random.default_rng(0)
    arms = rng.choice(ARMS, size=200_000, p=logging)
    rewards = means[arms] + rng.normal(0.0, 1.0, (len(arms), PARTS))
    weights = importance_weights(judged[arms], logging[arms])
    guesses = np.tile(means.mean(axis=0), (len(arms), 1))

    truth = judged @ means

    for terms in (ips(weights, rewards), snips(weights, rewards), doubly_robust(weights, rewards, guesses, guesses)):
        np.testing.assert_allclose(terms.estimate, truth, rtol=0.02)
    np.testing.assert_allclose(observed(rewards).estimate, logging @ means, rtol=0.02)


@given(
    weights=st.lists(st.just(0.0) | st.floats(1e-3, 10.0), min_size=1, max_size=20).map(np.array),
    shift=st.floats(-100.0, 100.0),
    seed=st.integers(0, 99),
)
def test_a_self_normalised_estimate_moves_with_its_rewards_and_never_leaves_their_range(
    weights: np.ndarray, shift: float, seed: int
) -> None:
    """What sets it apart from plain inverse propensities (Swaminathan and Joachims, 2015)."""
    rewards = np.random.default_rng(seed).normal(size=(len(weights), 1))
    if not weights.any():
        assert snips(weights, rewards).estimate == 0.0
        return

    estimate = snips(weights, rewards).estimate

    np.testing.assert_allclose(snips(weights, rewards + shift).estimate, estimate + shift, atol=1e-6)
    assert rewards.min() - 1e-9 <= estimate[0] <= rewards.max() + 1e-9


@given(st.lists(st.just(0.0) | st.floats(1e-3, 10.0), min_size=1, max_size=20).map(np.array), st.floats(0.1, 10.0))
def test_the_effective_rounds_are_between_one_and_all_whatever_the_unit(weights: np.ndarray, unit: float) -> None:
    effective = effective_sample_size(weights)

    assert (1.0 - 1e-9 <= effective <= len(weights) + 1e-9) if weights.any() else effective == 0.0
    assert effective_sample_size(unit * weights) == pytest.approx(effective)
    assert effective_sample_size(np.ones(7)) == pytest.approx(7)


@pytest.mark.parametrize("propensity", [0.0, -0.1, 1.1, float("nan")])
def test_what_is_no_propensity_is_refused(propensity: float) -> None:
    with pytest.raises(ValueError, match="propensities"):
        importance_weights(np.ones(2), np.array([0.5, propensity]))


def test_requests_are_resampled_whole() -> None:
    """Ten copies of a round within its request say no more than one: the interval does not shrink."""
    rng = np.random.default_rng(0)
    rewards = rng.normal(5.0, 1.0, (40, 1))
    counts = resampled_counts(40, np.random.default_rng(1))

    once = bootstrap(observed(rewards), np.arange(40), counts)
    copied = bootstrap(observed(np.repeat(rewards, 10, axis=0)), np.repeat(np.arange(40), 10), counts)

    np.testing.assert_allclose(copied, once)
    assert once.std() == pytest.approx(1.0 / 40**0.5, rel=0.3)


def test_nothing_estimates_to_nothing() -> None:
    empty = Terms(np.zeros((0, PARTS)), np.zeros(0))

    assert empty.estimate.tolist() == [0.0, 0.0]
    assert bootstrap(empty, np.zeros(0, dtype=np.int64), resampled_counts(0, np.random.default_rng(0))).shape[1] == 2
