"""How a life of a process is judged."""

import pytest

from bench.soak import LEAST_LOOKS, Life, Look


def life(memory_mib: list[float], *, every_s: float = 2.0) -> Life:
    return Life("code", [Look(every_s * number, mib, 40, 9) for number, mib in enumerate(memory_mib)])


def memory(look: Look) -> float:
    return look.memory_mib


def test_what_grows_in_the_warm_up_does_not_count() -> None:
    assert life([10.0 * number for number in range(20)] + [200.0] * 80).growth(memory) == 0.0


def test_what_grows_afterwards_does() -> None:
    grown = life([200.0] * 60 + [200.0 + number for number in range(40)])

    assert grown.counts
    assert grown.growth(memory) == pytest.approx(0.14, abs=0.03)


def test_one_look_that_differs_does_not() -> None:
    assert life([200.0] * 50 + [900.0] + [200.0] * 50).growth(memory) == 0.0


def test_a_short_life_does_not_count() -> None:
    assert not life([200.0] * (15 + LEAST_LOOKS - 1)).counts
    assert life([200.0] * (15 + LEAST_LOOKS)).counts
