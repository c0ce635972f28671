"""Overload: what is made of traffic that cannot all be served."""

import asyncio
from collections import Counter
from dataclasses import replace

import pytest

from bench.load.arrivals import Traffic
from bench.load.asking import Arrival, Asked, Fate, ask_once
from bench.load.overload import (
    FILLING_S,
    HIGHEST,
    LOWEST,
    SHARES,
    Window,
    Wish,
    asking_as,
    overload_figures,
    wishes,
)
from forerun.workload import Task
from speculation.errors import CapacityError
from tests.bench.scripted_stream import FOUR_TOKENS, ScriptedClient, ScriptedStream, answer_of

END_S = 100.0


def refusal(cause: str, retry_after_s: float | None = 1.0) -> CapacityError:
    error = CapacityError("no", {"cause": cause})
    error.retry_after_s = retry_after_s
    return error


def answered(*, waited_s: float = 0.5, tokens: int = 10) -> Asked:
    came = (Arrival(at_s=FILLING_S + waited_s, tokens=tokens),)
    return Asked(fate=Fate.ANSWERED, asked_s=FILLING_S, arrivals=came, ended_s=FILLING_S + waited_s)


def refused(cause: str, *, after_s: float = 0.001, retry_after_s: float | None = 1.0) -> Asked:
    error = refusal(cause, retry_after_s)
    return Asked(fate=Fate.REFUSED, asked_s=1.0, arrivals=(), ended_s=1.0 + after_s, problem="no", refusal=error)


def window(*requests: tuple[str, Asked]) -> Window:
    flow = Traffic(began_s=0.0, last_came_s=END_S + FILLING_S, requests=tuple(asked for _, asked in requests))
    return Window(flow=flow, who=tuple(Wish(name, "t") for name, _ in requests))


def values(windows: dict[int, list[Window]], sustained: float) -> dict[str, float]:
    return {one.name: one.value for one in overload_figures(windows, sustained, seed=1)}


def test_requests_come_in_the_shares_of_their_classes_and_of_all_tenants() -> None:
    drawn = wishes(10_000, seed=3)
    classes = Counter(wish.latency_class for wish in drawn)

    assert {name: classes[name] / 10_000 for name in SHARES} == pytest.approx(SHARES, abs=0.02)
    assert len({wish.tenant for wish in drawn}) == 4
    assert wishes(10_000, seed=3) == drawn
    assert 4 * SHARES[HIGHEST] < 1


def test_goodput_is_compared_with_the_best_of_all_loads() -> None:
    once = [window((HIGHEST, answered(tokens=900)))]
    four_times = [window((HIGHEST, answered(tokens=810)), (LOWEST, refused("hopeless")))]

    assert values({1: once, 4: four_times}, 5.0)["overload.goodput"] == pytest.approx(0.9)
    assert values({1: once, 4: four_times}, 16.2)["overload.goodput"] == pytest.approx(0.5)


def test_what_did_not_come_whole_is_no_goodput() -> None:
    broken_off = replace(answered(tokens=500), fate=Fate.DROPPED)

    assert window((HIGHEST, answered(tokens=100)), (HIGHEST, broken_off)).goodput == pytest.approx(1.0)


def test_of_refusals_it_counts_how_fast_they_came_and_whether_they_said_when_to_come_back() -> None:
    row = [
        window(
            (HIGHEST, answered(waited_s=0.2)),
            (LOWEST, refused("hopeless", after_s=0.002)),
            (LOWEST, refused("full", after_s=0.004)),
            (LOWEST, refused("waited", after_s=6.0)),
            (LOWEST, refused("hopeless", after_s=0.002, retry_after_s=None)),
        )
    ]

    found = values({1: row, 4: row}, 1.0)

    assert found["overload.refused_on_arrival"] == 0.75
    assert found["overload.refused_ms_p50"] == pytest.approx(2.0)
    assert found["overload.refused_without_a_time"] == 2
    assert found["overload.refused"] == 8
    assert found["overload.answered_4x.interactive"] == 1.0
    assert found["overload.answered_4x.batch"] == 0.0
    assert found["overload.highest_class_first_token_ms_p99_4x"] == pytest.approx(200.0)


def test_every_request_says_who_it_is_and_a_refusal_is_kept() -> None:
    async def scenario() -> None:
        client = ScriptedClient(FOUR_TOKENS)
        ask = asking_as(client, [Task("code", 0, "p")], [Wish("batch", "t1")], max_new_tokens=4, seed=1)  # type: ignore[arg-type]
        assert (await ask(0)).fate is Fate.ANSWERED
        assert (client.asked[0]["latency_class"], client.asked[0]["tenant"]) == ("batch", "t1")

        full = ScriptedClient(ScriptedStream((), answer_of(4), refusal("full", 2.0)))
        asked = await ask_once(full, "p", max_new_tokens=4)  # type: ignore[arg-type]
        assert asked.refusal is not None
        assert asked.refusal.retry_after_s == 2.0

    asyncio.run(scenario())
