"""Spread: medians, their intervals, and when they are not to be relied on."""

import numpy as np
import pytest

from bench.spread import Spread, mean_over_groups, median, quantile, slope


def test_the_median_lies_in_its_interval() -> None:
    values = np.random.default_rng(3).lognormal(size=101).tolist()

    spread = median(values, seed=1)

    assert spread.value == pytest.approx(float(np.median(values)))
    assert min(values) <= spread.low <= spread.value <= spread.high <= max(values)


def test_the_interval_covers_the_true_median_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(5)
    covered = 0
    for trial in range(200):
        spread = median(rng.normal(loc=2.0, size=25).tolist(), seed=trial)
        covered += spread.low <= 2.0 <= spread.high

    assert 178 <= covered <= 200


def test_more_values_give_a_narrower_interval() -> None:
    rng = np.random.default_rng(7)
    few, many = rng.normal(10.0, 1.0, 10).tolist(), rng.normal(10.0, 1.0, 1000).tolist()

    assert median(many, seed=0).high - median(many, seed=0).low < median(few, seed=0).high - median(few, seed=0).low


def test_groups_count_alike_however_many_values_they_have() -> None:
    spread = mean_over_groups([[1.0] * 100, [3.0]], np.median, seed=0)

    assert spread == Spread(2.0, 2.0, 2.0)


def test_the_same_seed_gives_the_same_interval() -> None:
    values = np.random.default_rng(9).normal(size=30).tolist()

    assert median(values, seed=4) == median(values, seed=4)


@pytest.mark.parametrize("groups", [pytest.param([], id="none"), pytest.param([[1.0], []], id="an empty one")])
def test_groups_without_values_are_refused(groups: list[list[float]]) -> None:
    with pytest.raises(ValueError, match="every group needs a value"):
        mean_over_groups(groups, np.median, seed=0)


def test_a_wide_interval_is_called_unstable() -> None:
    assert Spread(1.0, 0.8, 1.05).unstable
    assert not Spread(1.0, 0.95, 1.05).unstable


def test_a_quantile_is_that_of_the_values() -> None:
    values = [float(value) for value in range(101)]

    assert quantile(values, 0.99, seed=1).value == 99.0
    assert quantile(values, 0.5, seed=1) == median(values, seed=1)


def test_a_line_has_its_own_slope_and_no_doubt() -> None:
    spread = slope([0.0, 1.0, 2.0, 5.0], [3.0, 5.0, 7.0, 13.0], seed=1)

    assert (spread.value, spread.low, spread.high) == pytest.approx((2.0, 2.0, 2.0))


def test_the_interval_of_a_slope_holds_the_slope_beneath_the_noise() -> None:
    x = np.linspace(0, 10, 200)
    y = 100 - 0.5 * x + np.random.default_rng(2).normal(size=200)

    spread = slope(x.tolist(), y.tolist(), seed=1)

    assert spread.low < -0.5 < spread.high < 0


def test_points_above_one_another_have_no_slope() -> None:
    with pytest.raises(ValueError, match="two places"):
        slope([0.1, 0.1, 0.1], [1.0, 2.0, 3.0], seed=1)
