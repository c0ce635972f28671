"""Load: streams that ask in a closed loop, requests that come by themselves, and what is made of the times."""

import asyncio
import time
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from bench.fleet import Bench
from bench.load.arrivals import Traffic, poisson_arrivals, traffic
from bench.load.asking import Arrival, Asked, Fate, ask_once
from bench.load.memory import Look, growth_mib, varied
from bench.load.run import QUICK, measure_load
from bench.load.streams import Burst, burst
from forerun.client import Delta, FinishReason
from forerun.workload import Task
from speculation.errors import CapacityError, WorkerUnavailableError
from tests.bench.scripted_stream import FOUR_TOKENS, ScriptedClient, ScriptedStream, answer_of

TASKS = [Task("code", number, f"code {number}") for number in range(3)]


def fate_of(stream: ScriptedStream) -> Asked:
    return asyncio.run(ask_once(ScriptedClient(stream), "p", max_new_tokens=4))  # type: ignore[arg-type]


def test_a_request_is_timed_by_the_deltas_that_bring_tokens() -> None:
    asked = fate_of(FOUR_TOKENS)

    assert asked.fate is Fate.ANSWERED
    assert [arrival.tokens for arrival in asked.arrivals] == [1, 3]
    assert asked.tokens == 4
    assert asked.first_token_s > 0
    assert len(asked.gaps_s) == 1


@pytest.mark.parametrize(
    ("stream", "fate"),
    [
        pytest.param(replace(FOUR_TOKENS, deltas=FOUR_TOKENS.deltas[:1]), Fate.DROPPED, id="a delta is missing"),
        pytest.param(ScriptedStream((Delta("a", (0,)),), answer_of(1)), Fate.DROPPED, id="it ended too soon"),
        pytest.param(
            ScriptedStream((Delta("a", (0,)),), replace(answer_of(1), finish_reason=FinishReason.STOP)),
            Fate.ANSWERED,
            id="it came to its end",
        ),
        pytest.param(ScriptedStream((), answer_of(4), CapacityError("full")), Fate.REFUSED, id="refused"),
        pytest.param(replace(FOUR_TOKENS, error=CapacityError("full")), Fate.DROPPED, id="refused amid its answer"),
        pytest.param(ScriptedStream((), answer_of(4), WorkerUnavailableError("gone")), Fate.DROPPED, id="lost"),
        pytest.param(ScriptedStream((), answer_of(0)), Fate.DROPPED, id="nothing came"),
    ],
)
def test_only_a_whole_answer_is_an_answer(stream: ScriptedStream, fate: Fate) -> None:
    asked = fate_of(stream)

    assert asked.fate is fate
    assert bool(asked.problem) is (fate is not Fate.ANSWERED)


def asked_of(*arrivals: tuple[float, int], asked_s: float = 0.0) -> Asked:
    came = tuple(Arrival(at_s=at_s, tokens=tokens) for at_s, tokens in arrivals)
    return Asked(fate=Fate.ANSWERED, asked_s=asked_s, arrivals=came, ended_s=came[-1].at_s)


def test_tokens_count_while_all_streams_ask() -> None:
    requests = (asked_of((1.0, 3), (2.0, 3)), asked_of((1.5, 2), (9.0, 100)))

    assert Burst(began_s=0.0, full_until_s=2.0, requests=requests).tokens_per_s == pytest.approx(4.0)


def test_traffic_that_is_answered_in_time_is_served_as_offered() -> None:
    requests = (asked_of((1.0, 5)), asked_of((3.0, 5)), asked_of((6.0, 10), asked_s=4.0))
    served = Traffic(began_s=0.0, last_came_s=4.0, requests=requests)

    assert served.tokens_per_s == pytest.approx(2.5)
    assert served.share_of_offered == pytest.approx(0.5)


def test_streams_ask_each_number_once_and_all_at_the_same_time() -> None:
    numbers: list[int] = []
    at_once = [0, 0]

    async def ask(number: int) -> Asked:
        numbers.append(number)
        at_once[0] += 1
        at_once[1] = max(at_once)
        await asyncio.sleep(0)
        at_once[0] -= 1
        return asked_of((time.perf_counter(), 1))

    measured = asyncio.run(burst(ask, streams=5, requests=12))

    assert sorted(numbers) == list(range(12))
    assert at_once[1] == 5
    assert len(measured.requests) == 12


def test_arrivals_come_at_their_rate_and_know_nothing_of_each_other() -> None:
    arrivals_s = poisson_arrivals(4.0, 20_000, seed=3)
    gaps_s = np.diff(arrivals_s)

    assert gaps_s.min() >= 0
    assert gaps_s.mean() == pytest.approx(0.25, rel=0.03)
    assert gaps_s.std() == pytest.approx(0.25, rel=0.03)
    assert np.corrcoef(gaps_s[:-1], gaps_s[1:])[0, 1] == pytest.approx(0.0, abs=0.03)
    assert poisson_arrivals(4.0, 20_000, seed=3) == arrivals_s


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan")])
def test_no_rate_has_no_arrivals(rate: float) -> None:
    with pytest.raises(ValueError, match="never come"):
        poisson_arrivals(rate, 3, seed=1)


def test_traffic_does_not_wait_for_answers() -> None:
    began: list[int] = []

    async def flow() -> Traffic:
        all_came = asyncio.Event()

        async def ask(number: int) -> Asked:
            began.append(number)
            if len(began) == 3:
                all_came.set()
            await all_came.wait()
            return asked_of((time.perf_counter(), 1))

        return await asyncio.wait_for(traffic(ask, (0.0, 0.001, 0.002)), 10)

    assert len(asyncio.run(flow()).requests) == 3
    assert began == [0, 1, 2]


def test_every_figure_of_streams_and_traffic_is_there() -> None:
    client = ScriptedClient(FOUR_TOKENS)
    bench = Bench(client, "", ("code",))  # type: ignore[arg-type]
    extent = replace(QUICK, bursts=2)

    figures = {
        figure.name: figure
        for figure in asyncio.run(measure_load(bench, TASKS, max_new_tokens=4, seed=1, extent=extent))
    }

    assert {"load.scaling_4", "load.none_scaling_4", "load.over_none_1", "load.over_none_4"} <= figures.keys()
    assert {"load.ttft_ms_p99_4", "load.gap_ms_p99_4", "load.open_80.ttft_ms_p99"} <= figures.keys()
    assert figures["load.dropped"].value == 0
    assert figures["load.dropped"].reached
    assert client.most_at_once >= 4


def test_a_lost_answer_misses_the_goal() -> None:
    client = ScriptedClient(replace(FOUR_TOKENS, error=WorkerUnavailableError("gone")))
    bench = Bench(client, "", ("code",))  # type: ignore[arg-type]

    figures = asyncio.run(measure_load(bench, TASKS, max_new_tokens=4, seed=1, extent=QUICK))

    (dropped,) = (figure for figure in figures if figure.name == "load.dropped")
    assert dropped.value > 0
    assert not dropped.reached


def looks(resident_mib: Iterator[float]) -> list[Look]:
    return [Look(100 * number, {"target": mib}) for number, mib in enumerate(resident_mib)]


def test_growth_is_that_of_the_second_half() -> None:
    filling = looks(iter([min(500.0, 300.0 + 40 * number) for number in range(21)]))
    leaking = looks(iter([300.0 + 0.5 * number for number in range(21)]))

    assert growth_mib(filling, "target", seed=1).value == pytest.approx(0.0)
    assert growth_mib(leaking, "target", seed=1).value == pytest.approx(5.0)


def test_no_two_requests_of_a_long_run_are_alike() -> None:
    prompts = [task.prompt for task in varied([replace(task, prompt=task.prompt * 9) for task in TASKS], 60)]

    assert len(set(prompts)) == 60
    assert all(prompts)
