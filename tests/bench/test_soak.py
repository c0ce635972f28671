"""How a life of a process is judged."""

import pytest

from bench.soak import LEAST_LOOKS, Life, Look


def life(memory_mib: list[float], *, every_s: float = 2.0) -> Life:
    return Life("code", [Look(every_s * number, mib, 40, 9) for number, mib in enumerate(memory_mib)])


def test_what_grows_in_the_warm_up_does_not_count() -> None:
    assert life([10.0 * number for number in range(20)] + [200.0] * 80).growth == 0.0


def test_what_grows_afterwards_does() -> None:
    grown = life([200.0] * 60 + [200.0 + number for number in range(40)])

    assert grown.counts
    assert grown.growth == pytest.approx(0.14, abs=0.03)


def test_one_look_that_differs_does_not() -> None:
    assert life([200.0] * 50 + [900.0] + [200.0] * 50).growth == 0.0


def test_a_short_life_does_not_count() -> None:
    assert not life([200.0] * (15 + LEAST_LOOKS - 1)).counts
    assert life([200.0] * (15 + LEAST_LOOKS)).counts


def test_what_is_counted_is_told_by_how_many_there_are_more() -> None:
    looks = [Look(2.0 * number, 200.0, 40 + number // 50, 9) for number in range(100)]

    assert Life("code", looks).more(lambda look: look.descriptors) == 1
    assert Life("code", looks).more(lambda look: look.threads) == 0
