"""Traces: from the caller through every round into the workers, and nothing where nobody asked for them."""

import asyncio
import json
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from opentelemetry.context import Context
from redis.asyncio import Redis

from controller.serve import running
from controller.settings import (
    MetricsSettings,
    RedisSettings,
    RouterSettings,
    Settings,
    TimeoutSettings,
    TracingSettings,
    WorkerEntry,
)
from speculation import span_delivery, trace_export
from speculation.errors import ConfigurationError
from speculation.trace_export import TracingOrders, tracing_by
from speculation.tracing import NO_TRACING, context_of, headers, place, span, trace_id_in
from speculation.v1 import generation_pb2, generation_pb2_grpc, log_pb2
from tests.collector import CollectedSpan, Collector, collector
from tests.controller.house import DRAFT, VERIFY, House, eventually, house, read, request, run
from tests.controller.test_access import everything_logged
from tests.controller.test_veil import logged
from tests.scraping import scrape
from tests.test_house import ROOT_FOLDER
from tests.worker.grpc_session import save_tiny_model, worker_and_channel
from tests.worker.tiny_worker import PROMPT as TINY_PROMPT

TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED = (("traceparent", f"00-{TRACE}-{CALLER}-01"), ("tracestate", "vendor=1"))
UNSAMPLED = (("traceparent", f"00-{TRACE}-{CALLER}-00"),)
NOBODY = "http://127.0.0.1:1"


@pytest.fixture
def collecting(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    """A collector, which is sent what there is without delay."""
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
    with collector() as started:
        yield started


def to(endpoint: str, **more: Any) -> dict[str, Any]:
    """Settings of a controller that traces."""
    return {"tracing": TracingSettings(endpoint=endpoint, **more)}


async def ask(home: House, metadata: Any = SAMPLED, **fields: Any) -> Any:
    return await read(home.generation.Generate(request(**fields), timeout=20, metadata=metadata))


@asynccontextmanager
async def real_fleet(folder: Path, endpoint: str) -> AsyncIterator[Any]:
    """A stub of a controller over a real target and a real drafter, all of which trace."""
    model = save_tiny_model(folder / "model")
    async with AsyncExitStack() as stack:
        ready = [
            (await stack.enter_async_context(worker_and_channel(role, model, otlp_endpoint=endpoint)))[0]
            for role in ("verify", "draft")
        ]
        settings = Settings(
            listen="127.0.0.1:0",
            tokenizer=str(model),
            workers=tuple(WorkerEntry(role=one.role, address=one.address) for one in ready),
            router=RouterSettings(policy="static", scoring_share=0.0),
            timeouts=TimeoutSettings(draft_timeout_s=5.0),
            **to(endpoint),
        )
        controller = await stack.enter_async_context(running(settings))
        while not all(worker.serving for worker in controller.fleet.workers):
            await controller.fleet.changed.wait()
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(controller.address))
        yield generation_pb2_grpc.GenerationServiceStub(channel)


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Collector:
    """What a collector has of one request to a real fleet, and of none other."""

    async def scenario(endpoint: str) -> None:
        async with real_fleet(tmp_path_factory.mktemp("fleet"), endpoint) as stub:
            message = request(
                tokens=generation_pb2.TokenIds(ids=TINY_PROMPT), max_new_tokens=12, request_id="r1", task="code"
            )
            await read(stub.Generate(message, timeout=30, metadata=SAMPLED))

    with collector() as started:
        run(scenario(started.endpoint), within_s=60)
    return started


def request_span(seen: Collector) -> CollectedSpan:
    (first,) = (one for one in seen.spans if one.parent == CALLER)
    return first


def test_a_request_is_one_tree_below_the_callers_span(traced: Collector) -> None:
    first, ids = request_span(traced), {one.id for one in traced.spans}

    assert {one.trace for one in traced.spans} == {TRACE}
    assert all(one.parent in ids for one in traced.spans if one is not first)
    assert len(ids) == len(traced.spans)
    assert all(one.began_ns <= one.ended_ns for one in traced.spans)
    assert not any(one.failed for one in traced.spans)


def test_the_tree_tells_what_the_controller_did(traced: Collector) -> None:
    first = request_span(traced)
    rounds = traced.named("round")

    assert traced.below(first)[:2] == ["admission", "tokenize"]
    assert set(traced.below(first)) == {"admission", "tokenize", "read target", "round"}
    assert len(rounds) == first.attributes["forerun.rounds"] > 1
    assert sorted(one.attributes["forerun.round"] for one in rounds) == list(range(len(rounds)))
    for one in rounds:
        parts = [name for name in traced.below(one) if "foresee" not in name]
        drafts = [] if one.attributes["forerun.foreseen_drafters"] else ["draft tiny"]
        assert parts == ["plan", *drafts, "verify", "commit", "log"]
    assert traced.named("draft tiny")


def test_the_workers_spans_are_below_those_of_the_round_that_asked(traced: Collector) -> None:
    top = request_span(traced).name

    assert {one.service for one in traced.spans} == {"forerun-controller", "forerun-worker"}
    judged = [one for one in traced.named("verify") if one.service == "forerun-worker"]
    assert len(judged) == len(traced.named("round"))
    assert all(traced.path(one) == [top, "round", "verify", "verify"] for one in judged)
    assert all(traced.path(one) == [top, "round", "draft tiny", "propose"] for one in traced.named("propose"))
    assert {tuple(traced.path(one)) for one in traced.named("forward")} >= {
        (top, "read target", "extend", "forward"),
        (top, "round", "verify", "verify", "forward"),
        (top, "round", "draft tiny", "propose", "forward"),
    }
    for one in judged:
        below = [forward for forward in traced.named("forward") if forward.parent == one.id]
        assert len(below) == one.attributes["forerun.forwards"]
        assert all(one.began_ns <= forward.began_ns <= forward.ended_ns <= one.ended_ns for forward in below)


def test_attributes_have_the_names_of_the_conventions(traced: Collector) -> None:
    first = request_span(traced)

    assert first.name == f"text_completion {first.attributes['gen_ai.request.model']}"
    expected = {
        "gen_ai.operation.name": "text_completion",
        "gen_ai.provider.name": "forerun",
        "gen_ai.request.max_tokens": 12,
        "gen_ai.request.seed": 7,
        "gen_ai.usage.input_tokens": len(TINY_PROMPT),
        "gen_ai.usage.output_tokens": 12,
        "gen_ai.response.finish_reasons": ["length"],
        "rpc.method": "Generate",
        "forerun.request_id": "r1",
        "forerun.task": "code",
        "forerun.policy": "static",
        "forerun.outcome": "ok",
    }
    assert first.attributes.items() >= expected.items()
    rounds = traced.named("round")
    assert sum(one.attributes["forerun.emitted_tokens"] for one in rounds) == 12
    assert (
        sum(one.attributes["forerun.accepted_tokens"] for one in rounds) == first.attributes["forerun.accepted_tokens"]
    )
    assert {one.attributes["forerun.request_id"] for one in traced.named("propose")} == {"r1"}


def test_spans_hold_no_text_and_no_token_ids(traced: Collector) -> None:
    """Lists are of names, and no text of any length is there that a model or a caller has written."""
    for one in traced.spans:
        for name, value in one.attributes.items():
            assert not isinstance(value, list) or all(isinstance(part, str) for part in value), name
    named = {name for one in traced.spans for name in one.attributes}
    page = (ROOT_FOLDER / "docs" / "tracing.md").read_text()
    assert named <= {name for name in named if f"`{name}`" in page}, "every attribute is listed for those who must know"


def test_a_caller_who_does_not_trace_is_not_traced(collecting: Collector) -> None:
    async def scenario() -> None:
        async with house(more=to(collecting.endpoint)) as home:
            await ask(home, UNSAMPLED)

            assert not any(worker.worker.traces for worker in home.workers)

    run(scenario())
    assert not collecting.spans


def test_without_a_caller_who_says_so_a_share_of_requests_is_traced(collecting: Collector) -> None:
    async def scenario(ratio: float, metadata: Any, **more: Any) -> None:
        async with house(more=to(collecting.endpoint, sample_ratio=ratio, **more)) as home:
            await ask(home, metadata)

    run(scenario(0.0, ()))
    run(scenario(0.0, SAMPLED, parent_based=False))
    assert not collecting.spans

    run(scenario(0.0, SAMPLED))
    assert {one.trace for one in collecting.spans} == {TRACE}

    run(scenario(1.0, ()))
    (other,) = {one.trace for one in collecting.spans} - {TRACE}
    (first,) = (one for one in collecting.spans if one.trace == other and not one.parent)
    assert first.attributes["gen_ai.provider.name"] == "forerun"


@pytest.mark.parametrize("written", ["nonsense", f"00-{'0' * 32}-{CALLER}-01", f"ff-{TRACE}-{CALLER}-01", "00-\x7f"])
def test_a_traceparent_that_cannot_be_read_is_as_none(written: str) -> None:
    assert trace_id_in(context_of(written)) == ""
    assert context_of(written) == Context()


def test_nothing_is_traced_unless_somebody_wants_it(tmp_path: Path) -> None:
    """The caller's trace is told to the logs all the same, so that lines can be found by it."""

    async def scenario() -> None:
        settings = RedisSettings(url=f"embedded://{tmp_path}/r", namespace="ns")
        async with (
            house(VERIFY, DRAFT, redis=settings) as home,
            Redis(unix_socket_path=str(tmp_path / "r" / "redis.sock")) as redis,
        ):
            with everything_logged() as written:
                answer = await ask(home, (*SAMPLED, ("x-request-id", "mine")))
            await logged(redis, answer)
            ((_, fields),) = await redis.xrange("forerun:ns:decisions", count=1)
            decision = log_pb2.DecisionRecord.FromString(fields[b"record"])

            lines = [json.loads(line) for line in written.getvalue().splitlines()]
            (ended,) = (line for line in lines if line["message"] == "request ended")
            assert (ended["request_id"], ended["trace_id"]) == ("mine", TRACE)
            assert (decision.request_id, decision.trace_id) == ("mine", TRACE)
            assert not any(worker.worker.traces for worker in home.workers)

    run(scenario(), within_s=60)


def test_refused_requests_are_spans_that_say_why(collecting: Collector) -> None:
    async def scenario() -> None:
        async with house(more=to(collecting.endpoint)) as home:
            with pytest.raises(grpc.aio.AioRpcError):
                await ask(home, request_id="x" * 999)
            with pytest.raises(grpc.aio.AioRpcError):
                await read(home.generation.Generate(request(text=""), timeout=5, metadata=SAMPLED))

    run(scenario())
    assert [one.attributes["error.type"] for one in collecting.spans if one.parent == CALLER] == ["INVALID_REQUEST"] * 2
    assert all(one.failed for one in collecting.spans if one.parent == CALLER)


def test_health_watch_goes_on_under_tracing(collecting: Collector) -> None:
    """OpenTelemetry's own interceptor makes of it a call that nobody awaits (docs/traps.md)."""

    async def scenario() -> None:
        async with house(more=to(collecting.endpoint)) as home:
            watch = health_pb2_grpc.HealthStub(home.channel).Watch(health_pb2.HealthCheckRequest(), timeout=20)
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
            await home.workers[0].kill()
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
            watch.cancel()

    run(scenario())
    assert not collecting.spans


@pytest.mark.parametrize("end", ["cancel", "deadline"])
def test_a_call_that_ends_early_ends_at_the_workers_too(end: str, collecting: Collector) -> None:
    async def scenario() -> None:
        async with house(more=to(collecting.endpoint)) as home:
            home.workers[0].worker.faults.delay_s = 0.05
            timeout_s = 20 if end == "cancel" else 0.5
            call = home.generation.Generate(request(max_new_tokens=2000), timeout=timeout_s, metadata=SAMPLED)
            await call.read()
            assert home.sessions() > 0

            if end == "cancel":
                call.cancel()

            await eventually(lambda: home.sessions() == 0)
            await eventually(lambda: home.controller.generation.reception.inside == 0)

    run(scenario())
    first = request_span(collecting)
    assert first.attributes["error.type"] in ({"cancelled"} if end == "cancel" else {"cancelled", "timeout"}), first
    assert first.attributes["forerun.outcome"] in {"cancelled", "deadline"}
    assert {one.parent for one in collecting.spans} <= {one.id for one in collecting.spans} | {CALLER}


def test_without_a_collector_requests_are_answered_and_what_is_lost_is_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "0.2")
    monkeypatch.setattr(trace_export, "CLOSE_S", 0.1)

    async def scenario() -> None:
        with everything_logged() as written:
            async with house(more=to(NOBODY), metrics=MetricsSettings(listen="127.0.0.1:0")) as home:
                assert len((await ask(home)).token_ids) == 40
                address, lost = home.controller.metrics_address, 0.0
                while not lost:
                    await asyncio.sleep(0.01)
                    lost = (await asyncio.to_thread(scrape, address)).value("forerun_trace_spans_dropped_total")
                assert (await asyncio.to_thread(scrape, address)).value("forerun_trace_spans_delivered_total") == 0
        told = [json.loads(line) for line in written.getvalue().splitlines()]
        (lost,) = (line for line in told if line["message"] == "spans do not arrive and are dropped")
        assert lost["collector"] == NOBODY

    run(scenario())


def test_spans_that_wait_take_only_so_much_memory(collecting: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    """A queue that nobody empties is full after so many; each that does not fit is counted."""
    monkeypatch.setattr(span_delivery, "MOST_WAITING", 50)
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100000")
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "50")

    stuck = threading.Event()

    class Stuck(span_delivery.CountedExporter):
        def export(self, spans: Any) -> Any:
            stuck.wait(20)
            return super().export(spans)

    monkeypatch.setattr(span_delivery, "CountedExporter", Stuck)

    async def scenario() -> None:
        async with tracing_by(TracingOrders(endpoint=collecting.endpoint), service="test") as tracing:
            for _ in range(500):
                with tracing.within("request", Context(), {}):
                    pass
            counts = tracing.counts
            assert (counts.queued, counts.refused, counts.waiting) == (50, 450, 50)
            stuck.set()
        assert (counts.delivered, counts.dropped, counts.waiting) == (50, 450, 0)

    run(scenario())
    assert len(collecting.spans) == 50


def test_the_standard_variables_turn_it_on_and_off(collecting: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> bool:
        async with tracing_by(TracingOrders(), service="forerun-test") as tracing:
            with tracing.within("request", context_of(dict(SAMPLED)["traceparent"]), {}):
                assert (headers() is None) is (tracing is NO_TRACING)
            return tracing is not NO_TRACING

    assert not run(scenario())
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collecting.endpoint)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-tenant=acme")
    assert run(scenario())
    assert (collecting.one("request").service, collecting.headers["x-tenant"]) == ("forerun-test", "acme")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "mine")
    assert run(scenario())
    assert [one.service for one in collecting.spans] == ["forerun-test", "mine"]
    for name, value in (("OTEL_SDK_DISABLED", "true"), ("OTEL_TRACES_EXPORTER", "none")):
        with monkeypatch.context() as also:
            also.setenv(name, value)
            assert not run(scenario())
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
    with pytest.raises(ConfigurationError, match="http/protobuf"):
        run(scenario())


def test_without_the_sdk_one_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "speculation.span_delivery", raising=False)
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.resources", None)

    async def scenario() -> None:
        async with tracing_by(TracingOrders(endpoint=NOBODY), service="test"):
            pass

    with pytest.raises(ConfigurationError, match=r"forerun\[tracing\]"):
        run(scenario())


def test_where_nobody_traces_a_span_is_nothing() -> None:
    with span("work") as made:
        assert made is None
        assert place() is None
        assert headers() is None
