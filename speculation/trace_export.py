"""Takes the spans of a process to a collector: OTLP over gRPC, from a thread that no request waits for.

What does not fit into its queue, or cannot be delivered in time, is dropped and counted.
"""

import asyncio
import importlib.metadata
import logging
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from speculation.errors import ConfigurationError
from speculation.tracing import NO_TRACING, SpanCounts, Tracing

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

logger = logging.getLogger(__name__)

CLOSE_S = 2.0
"""What is still waiting when the process ends gets this long."""

ENDPOINT_VARIABLES = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
PROTOCOL_VARIABLES = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")


@dataclass(frozen=True, slots=True, kw_only=True)
class TracingOrders:
    """What an operator wants traced.

    Attributes:
        endpoint: URL of a collector; None: what OTEL_EXPORTER_OTLP_ENDPOINT says, or nothing is traced.
        sample_ratio: Share of requests that are traced; None: what OTEL_TRACES_SAMPLER says, or all.
        parent_based: Whether a caller who traces, or says that he does not, has the word.
    """

    endpoint: str | None = None
    sample_ratio: float | None = None
    parent_based: bool = True


@asynccontextmanager
async def tracing_by(orders: TracingOrders, *, service: str) -> AsyncIterator[Tracing]:
    """Trace while the body runs, if anybody wants it; afterwards what is waiting is delivered, or given up soon.

    Args:
        orders: Of the operator; standard OTEL_* variables fill in what they leave open.
        service: The process's name in traces, unless OTEL_SERVICE_NAME or OTEL_RESOURCE_ATTRIBUTES has another.

    Raises:
        ConfigurationError: The SDK is not installed, or the variables ask for something that is not offered.
    """
    endpoint = _endpoint(orders, os.environ)
    if endpoint is None:
        yield NO_TRACING
        return
    counts = SpanCounts()
    provider, exporter = _provider(orders, endpoint, service, counts)
    logger.info("requests are traced", extra={"collector": endpoint})
    try:
        yield Tracing(provider.get_tracer("forerun", _version()), counts)
    finally:
        ending = asyncio.ensure_future(asyncio.to_thread(provider.shutdown))
        if (await asyncio.wait((ending,), timeout=CLOSE_S))[1]:
            exporter.give_up()
        await ending
        logger.info("traced until now", extra={"delivered": counts.delivered, "dropped": counts.dropped})


def _endpoint(orders: TracingOrders, environment: Mapping[str, str]) -> str | None:
    """Where spans go; None: nowhere."""
    if environment.get("OTEL_SDK_DISABLED", "").lower() == "true" or environment.get("OTEL_TRACES_EXPORTER") == "none":
        return None
    told = filter(None, map(environment.get, ENDPOINT_VARIABLES))
    endpoint = orders.endpoint or next(told, None)
    if endpoint is not None and orders.endpoint is None:
        for variable in PROTOCOL_VARIABLES:
            if environment.get(variable, "grpc") != "grpc":
                problem = f"{environment[variable]!r} is not offered; name a collector that takes grpc"
                raise ConfigurationError(variable, problem)
    return endpoint


def _provider(orders: TracingOrders, endpoint: str, service: str, counts: SpanCounts) -> "tuple[TracerProvider, Any]":
    try:
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider

        from speculation.span_delivery import CountedExporter, SpanQueue, sampler_of
    except ModuleNotFoundError as missing:
        if not (missing.name or "").startswith("opentelemetry"):
            raise
        raise ConfigurationError("tracing", "needs OpenTelemetry's SDK: pip install 'forerun[tracing]'") from missing
    exporter = CountedExporter(endpoint, counts)
    sampler = sampler_of(orders.sample_ratio, parent_based=orders.parent_based)
    # Ours to end, in time; and nobody else's: libraries that trace themselves would hand on what callers wrote.
    provider = TracerProvider(sampler, Resource.create(_resource(service, os.environ)), shutdown_on_exit=False)
    provider.add_span_processor(SpanQueue(exporter, counts))
    return provider, exporter


def _resource(service: str, environment: Mapping[str, str]) -> Mapping[str, str]:
    """What the process is, where the variables do not say it."""
    ours = {"service.name": service, "service.version": _version(), "service.instance.id": uuid4().hex}
    told = environment.get("OTEL_RESOURCE_ATTRIBUTES", "")
    if "OTEL_SERVICE_NAME" in environment:
        told += ",service.name="
    names = {entry.partition("=")[0].strip() for entry in told.split(",")}
    return {name: value for name, value in ours.items() if name not in names}


def _version() -> str:
    try:
        return importlib.metadata.version("forerun")
    except importlib.metadata.PackageNotFoundError:  # run from a bare checkout
        return "unknown"
