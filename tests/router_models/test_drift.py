"""Drift: a drafter that is no longer what it was is noticed soon, and one that is, hardly ever."""

import numpy as np

from router_models.drift import Drift

ROUNDS_A_REQUEST = 8


def rounds_until_noticed(rate: float, believed: float, *, seed: int, most: int = 4000, requests: int = 1000) -> int:
    """Rounds of three first candidates each; the last request goes on."""
    rng, drift = np.random.default_rng(seed), Drift()
    for number in range(most):
        request = (min(number // ROUNDS_A_REQUEST, requests - 1),)
        if drift.noticed(float(rng.binomial(3, rate)), 3.0, believed, request=request):
            return number
    return most


def test_a_belief_that_is_right_is_nearly_always_left_alone() -> None:
    noticed = [rounds_until_noticed(rate, rate, seed=seed) < 4000 for rate in (0.1, 0.5, 0.9) for seed in range(10)]

    assert sum(noticed) <= 5, "alarms in 120,000 rounds"


def test_a_drafter_that_turned_good_is_noticed_within_the_second_request() -> None:
    assert all(rounds_until_noticed(0.9, 0.2, seed=seed) < 2 * ROUNDS_A_REQUEST for seed in range(10))


def test_a_drafter_that_turned_bad_is_noticed_within_the_second_request() -> None:
    assert all(rounds_until_noticed(0.1, 0.85, seed=seed) < 2 * ROUNDS_A_REQUEST for seed in range(10))
    assert all(rounds_until_noticed(0.5, 0.75, seed=seed) < 80 for seed in range(10))


def test_a_belief_that_is_a_little_wrong_is_no_drift() -> None:
    noticed = [rounds_until_noticed(0.75, 0.84, seed=seed, most=400) < 400 for seed in range(10)]

    assert sum(noticed) <= 3


def test_one_request_that_is_unlike_the_others_is_no_drift() -> None:
    assert rounds_until_noticed(0.1, 0.85, seed=1, most=400, requests=1) == 400


def test_after_an_alarm_noticing_begins_anew() -> None:
    drift = Drift()
    while not drift.noticed(0.0, 3.0, 0.9, request=(round(drift.variance),)):
        pass
    drift.forget()

    assert not drift.noticed(0.0, 3.0, 0.9, request=drift.requests[1] or ())
