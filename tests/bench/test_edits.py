"""With and without a drafter without a model: the same requests but for that, in turn, and the warm-up left out."""

import asyncio
from collections import Counter
from typing import Any

import pytest

from bench.edits import FIGURE, TEMPERATURES, Comparison, _figures, measure_edits
from bench.fleet import Bench
from forerun.workload import Task
from tests.bench.test_benches import ScriptedClient, by_name

TASKS = [Task("edit", number, f"edit {number}") for number in range(6)]
DRAFTERS = ("code", "mixed", "suffix")


def compared(temperature: float, gain: float, share: float) -> Comparison:
    return Comparison(temperature=temperature, gain=gain, tokens_a_round=(4.0, 6.0), share=share)


def test_the_gain_is_the_mean_over_temperatures_of_the_median() -> None:
    entries = [compared(0.0, gain, 0.9) for gain in (1.0, 1.6, 9.0)] + [compared(1.0, 1.2, 0.1)]

    figures = by_name(_figures(entries, seed=1))

    assert figures[FIGURE] == pytest.approx((1.6 + 1.2) / 2)
    assert figures[f"{FIGURE}.t0"] == pytest.approx(1.6)
    assert figures[f"{FIGURE}.t0.tokens_a_round"] == pytest.approx(6.0)
    assert figures[f"{FIGURE}.t0.tokens_a_round_without"] == pytest.approx(4.0)
    assert figures[f"{FIGURE}.t1.share"] == pytest.approx(0.1)


def test_each_prompt_is_asked_both_ways_at_every_temperature_and_no_way_is_always_first() -> None:
    client = ScriptedClient()
    bench = Bench(client, "", DRAFTERS)  # type: ignore[arg-type]

    asyncio.run(measure_edits(bench, TASKS[4:], max_new_tokens=8, seed=1, warm_up=TASKS[:4]))

    def way(options: dict[str, Any]) -> tuple[str, ...]:
        return tuple(options["drafters"])

    pairs = list(zip(client.asked[::2], client.asked[1::2], strict=True))
    assert len(pairs) == len(TASKS) * len(TEMPERATURES)
    for first, second in pairs:
        assert {way(first), way(second)} == {DRAFTERS, DRAFTERS[:-1]}
        assert {**first, "drafters": None} == {**second, "drafters": None}
    assert Counter(way(first) for first, _ in pairs) == {DRAFTERS: len(pairs) // 2, DRAFTERS[:-1]: len(pairs) // 2}
