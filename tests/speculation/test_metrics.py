"""Counting, and the server that tells it."""

import asyncio
import socket
import urllib.error
from urllib.request import urlopen

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speculation import metrics_http
from speculation.metrics import NONE, OTHER, Histogram, Kind, Metric, Names
from speculation.metrics_http import serving_metrics
from tests.scraping import scrape

ANSWER: Metric[float] = Metric(Kind.GAUGE, "answer", "To everything.", lambda number: number)


@given(st.lists(st.floats(-10, 10)))
def test_a_bucket_holds_what_is_at_most_its_end(values: list[float]) -> None:
    histogram = Histogram((0.0, 1.0, 2.5))

    for value in values:
        histogram.observe(value)

    told: Metric[None] = Metric(Kind.HISTOGRAM, "x", "X.", lambda _: histogram)
    buckets = {s.labels["le"]: s.value for s in told.family(histogram).samples if s.name == "x_bucket"}
    ends = {"0.0": 0.0, "1.0": 1.0, "2.5": 2.5, "+Inf": 11.0}
    assert buckets == {name: sum(value <= end for value in values) for name, end in ends.items()}
    assert histogram.sum == pytest.approx(sum(values))


def test_names_beyond_the_limit_are_counted_together() -> None:
    names = Names(2)

    assert [names.of(name) for name in ("a", "", "b", "c", "a", "b")] == ["a", NONE, "b", OTHER, "a", "b"]


async def forty_two() -> float:
    return 42.0


def test_a_value_is_found_at_the_address_while_the_body_runs() -> None:
    async def scenario() -> str:
        async with serving_metrics("127.0.0.1:0", (ANSWER,), forty_two, field="f") as address:
            seen = await asyncio.to_thread(scrape, address)
            assert seen.value("answer") == 42
            assert seen.value("process_open_fds") > 0
        return address

    address = asyncio.run(scenario())
    with pytest.raises(urllib.error.URLError):
        scrape(address)


def test_a_loop_that_does_not_answer_is_no_empty_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_http, "GATHER_TIMEOUT_S", 0.05)
    cancelled = asyncio.Event()

    async def never() -> float:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        return 0.0

    async def scenario() -> None:
        async with serving_metrics("127.0.0.1:0", (ANSWER,), never, field="f") as address:
            with pytest.raises(urllib.error.HTTPError) as told:
                await asyncio.to_thread(urlopen, f"http://{address}/metrics", timeout=10)
            told.value.close()
            assert told.value.code == 503
            await cancelled.wait()

    asyncio.run(scenario())


def test_a_caller_that_says_nothing_is_waited_for_no_longer_than_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_http._Handler, "timeout", 0.05)

    async def scenario() -> None:
        async with serving_metrics("127.0.0.1:0", (ANSWER,), forty_two, field="f") as address:
            host, _, port = address.rpartition(":")
            with socket.create_connection((host, int(port))):
                assert (await asyncio.to_thread(scrape, address)).value("answer") == 42

    asyncio.run(scenario())
