"""A forward that several calls shared is a span of each that is traced, with links to the others."""

import asyncio
import threading

import pytest
from opentelemetry.context import Context

from speculation.trace_export import TracingOrders, tracing_by
from tests.collector import Collector, collector
from tests.worker.test_batching import reading
from tests.worker.tiny_worker import run, tiny_engine
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
