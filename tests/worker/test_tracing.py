"""Traces in a worker: a forward is a span of each traced call that it served, and log lines know their request."""

import asyncio
import json
import threading
from pathlib import Path

import grpc
import pytest
from opentelemetry.context import Context

from speculation.trace_export import TracingOrders, tracing_by
from tests.collector import Collector, collector
from tests.controller.test_access import everything_logged
from tests.worker.grpc_session import VerifyTalk, open_verify, save_tiny_model, verify, worker_and_channel
from tests.worker.test_batching import reading
from tests.worker.tiny_worker import PROMPT, run, tiny_engine
from worker.batching import EngineThread


@pytest.fixture(scope="module")
def seen() -> Collector:
    """Three calls shared two forwards, and one of them was not traced."""
    engine = tiny_engine(slots=8)
    thread, queued = EngineThread(engine), threading.Event()

    async def scenario(endpoint: str) -> None:
        async with tracing_by(TracingOrders(endpoint=endpoint), service="worker") as tracing:

            async def call(name: str) -> None:
                with tracing.within(name, Context(), {}):
                    await thread.run(reading(engine, [1, 2, 3], 2))

            thread.post(lambda: queued.wait(10) and None)
            calls = [asyncio.create_task(call(name)) for name in ("one", "other")]
            calls.append(asyncio.create_task(thread.run(reading(engine, [1, 2, 3], 2))))  # type: ignore[arg-type]
            await asyncio.sleep(0)
            queued.set()
            await asyncio.gather(*calls)

    with collector() as started:
        run(scenario(started.endpoint))
    thread.close()
    return started


def test_each_traced_call_has_every_forward_that_served_it(seen: Collector) -> None:
    for name in ("one", "other"):
        call = seen.one(name)
        assert seen.below(call) == ["forward", "forward"]
        assert all(one.trace == call.trace for one in seen.named("forward") if one.parent == call.id)


def test_a_forward_tells_of_all_who_shared_it_and_links_to_those_who_are_traced(seen: Collector) -> None:
    one, other = seen.one("one"), seen.one("other")

    for forward in seen.named("forward"):
        assert forward.attributes["forerun.batch_size"] == 3
        assert forward.attributes["forerun.batch_positions"] == 3
        assert forward.links == ((other if forward.parent == one.id else one).id,)


def test_what_goes_wrong_in_a_session_is_logged_with_its_request_and_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where nothing is traced; and the text of the log is JSON all the same."""
    trace = "0af7651916cd43dd8448eb211c80319c"

    async def scenario() -> None:
        async with worker_and_channel("verify", save_tiny_model(tmp_path)) as (ready, channel):
            talk, opening = VerifyTalk(channel), open_verify(session_id="r1")
            opening.trace.traceparent = f"00-{trace}-b7ad6b7169203331-01"
            await talk.ask(opening)
            monkeypatch.setattr(ready.host, "call", None)
            await talk.call.write(verify(PROMPT))
            assert await talk.call.code() is grpc.StatusCode.UNKNOWN

    with everything_logged() as written:
        run(scenario())

    failures = [line for line in map(json.loads, written.getvalue().splitlines()) if "exception" in line]
    assert failures
    assert {(line["request_id"], line["trace_id"]) for line in failures} == {("r1", trace)}
