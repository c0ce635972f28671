"""A worker's metrics: what is scraped is what it was asked for."""

import asyncio
from pathlib import Path

import psutil
import pytest

from speculation.errors import ConfigurationError
from tests.scraping import scrape
from tests.worker.grpc_session import (
    DraftTalk,
    VerifyTalk,
    open_draft,
    open_verify,
    propose,
    save_tiny_model,
    verify,
    worker_and_channel,
)
from tests.worker.tiny_worker import PROMPT, run
from worker.metrics import METRICS
from worker.settings import WorkerSettings

SERVED = {"metrics_listen": "127.0.0.1:0"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model"))


def test_forwards_and_calls_are_told_as_they_were(folder: Path) -> None:
    async def scenario() -> None:
        async with worker_and_channel("draft", folder, **SERVED) as (ready, channel):
            talk = DraftTalk(channel)
            await talk.ask(open_draft())
            first = await talk.ask(propose(PROMPT))
            lost = await talk.ask(propose((*PROMPT, 5, 6), base_length=len(PROMPT) + 1))
            seen = await asyncio.to_thread(scrape, ready.metrics_address)

            assert lost.held_length == len(PROMPT)
            forwards = first.timings.forwards
            assert seen.value("forerun_engine_forward_seconds_count") == forwards > 0
            assert seen.value("forerun_engine_batch_sessions_sum") == forwards, "it was alone"
            assert seen.value("forerun_engine_queue_seconds_count") == 1
            # The last of the four drafted tokens is never run: nobody needs what follows it.
            assert seen.value("forerun_engine_forward_tokens_sum") == len(PROMPT) + 3
            assert seen.value("forerun_engine_calls_total", outcome="done") == 1
            assert seen.value("forerun_engine_calls_total", outcome="need_context") == 1
            assert seen.value("forerun_engine_sessions") == seen.value("forerun_engine_sessions_opened_total") == 1
            assert seen.value("forerun_engine_slots_reserved") == 1
            assert seen.value("forerun_engine_slots") == 4
            assert seen.value("forerun_cache_bytes") == ready.host.cache_use.bytes > 0
            assert seen.value("forerun_engine_info", worker="tiny", role="draft", dtype="float32", device="cpu") == 1

    run(scenario())


def test_a_prompt_that_was_read_before_is_told_as_reused(folder: Path) -> None:
    prompt = tuple(range(1, 151))

    async def scenario() -> None:
        async with worker_and_channel("verify", folder, **SERVED) as (ready, channel):
            for _ in range(2):
                talk = VerifyTalk(channel)
                await talk.ask(open_verify(prompt_length=len(prompt)))
                await talk.ask(verify(prompt))
                await talk.call.done_writing()
                await talk.call.read()
            seen = await asyncio.to_thread(scrape, ready.metrics_address)

            use = ready.host.cache_use
            assert seen.value("forerun_cache_reused_tokens_total") == use.reused_tokens > 0
            assert seen.value("forerun_cache_looked_up_tokens_total") == use.looked_up_tokens == 2 * len(prompt)
            assert seen.value("forerun_engine_info", role="verify") == 1

    run(scenario())


def test_refusals_are_told(folder: Path) -> None:
    async def scenario() -> None:
        async with worker_and_channel("draft", folder, max_sessions=1, **SERVED) as (ready, channel):
            talk = DraftTalk(channel)
            await talk.ask(open_draft())
            other = DraftTalk(channel)
            with pytest.raises(Exception, match="sessions are open"):
                await other.ask(open_draft())
            seen = await asyncio.to_thread(scrape, ready.metrics_address)

            assert seen.value("forerun_engine_sessions_refused_total") == 1
            assert seen.value("forerun_engine_sessions_opened_total") == 2

    run(scenario())


def test_nothing_listens_unless_it_is_asked_for(folder: Path) -> None:
    async def scenario() -> None:
        async with worker_and_channel("draft", folder) as (ready, _):
            listening = {
                connection.laddr.port
                for connection in psutil.Process().net_connections(kind="inet")
                if connection.status == psutil.CONN_LISTEN
            }

            assert ready.metrics_address == ""
            assert listening <= {int(ready.address.rpartition(":")[2])}

    run(scenario())


@pytest.mark.parametrize("address", ["nonsense", "127.0.0.1", "127.0.0.1:x"])
def test_an_address_that_is_none_is_told_by_its_setting(address: str) -> None:
    with pytest.raises(ConfigurationError, match="metrics_listen"):
        WorkerSettings(role="draft", model="m", name="n", metrics_listen=address)


def test_every_metric_is_named_as_prometheus_wants_it() -> None:
    for metric in METRICS:
        assert metric.name.endswith("_total") is (metric.kind.value == "counter"), metric.name
        assert metric.help.endswith("."), metric.name
