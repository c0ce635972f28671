"""Drift: a drafter that is no longer what it was is noticed soon, and one that is, hardly ever."""

import numpy as np

from router_models.drift import Drift


def rounds_until_noticed(rate: float, believed: float, *, seed: int, most: int = 4000) -> int:
    """Rounds of three first candidates each."""
    rng, drift = np.random.default_rng(seed), Drift()
    for number in range(most):
        if drift.noticed(float(rng.binomial(3, rate)), 3.0, believed):
            return number
    return most


def test_a_belief_that_is_right_is_nearly_always_left_alone() -> None:
    noticed = [rounds_until_noticed(rate, rate, seed=seed) < 4000 for rate in (0.1, 0.5, 0.9) for seed in range(10)]

    assert sum(noticed) <= 10, "alarms in 120,000 rounds"


def test_a_drafter_that_turned_good_is_noticed_within_a_request() -> None:
    assert all(rounds_until_noticed(0.9, 0.2, seed=seed) < 8 for seed in range(10))


def test_a_drafter_that_turned_bad_is_noticed_within_a_request() -> None:
    assert all(rounds_until_noticed(0.1, 0.85, seed=seed) < 8 for seed in range(10))
    assert all(rounds_until_noticed(0.5, 0.75, seed=seed) < 80 for seed in range(10))


def test_after_an_alarm_noticing_begins_anew() -> None:
    drift = Drift()
    while not drift.noticed(0.0, 3.0, 0.9):
        pass

    assert drift == Drift()
