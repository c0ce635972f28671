"""A collector of traces: a real gRPC server that speaks OTLP, and what it was sent, as values."""

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.common.v1 import common_pb2


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectedSpan:
    """One span; identifiers in hexadecimal digits, `parent` empty where there is none.

    Attributes:
        service: Of the process that sent it.
        links: Spans that it names.
    """

    name: str
    id: str
    parent: str
    trace: str
    service: str
    began_ns: int
    ended_ns: int
    failed: bool
    attributes: Mapping[str, Any]
    links: tuple[str, ...]


@dataclass(slots=True)
class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Where spans go.

    Attributes:
        endpoint: Its URL.
        spans: All that came.
        headers: Metadata of the last call.
    """

    endpoint: str = ""
    spans: list[CollectedSpan] = field(default_factory=list)
    headers: Mapping[str, str] = field(default_factory=dict)

    def Export(self, request: Any, context: Any) -> trace_service_pb2.ExportTraceServiceResponse:  # noqa: N802
        """Take spans."""
        self.headers = dict(context.invocation_metadata())
        for resource in request.resource_spans:
            service = _attributes(resource.resource.attributes)["service.name"]
            for scope in resource.scope_spans:
                self.spans.extend(_collected(span, service) for span in scope.spans)
        return trace_service_pb2.ExportTraceServiceResponse()

    def named(self, name: str) -> list[CollectedSpan]:
        """All of that name."""
        return [span for span in self.spans if span.name == name]

    def one(self, name: str) -> CollectedSpan:
        """The only one of that name."""
        (span,) = self.named(name)
        return span

    def below(self, parent: CollectedSpan) -> list[str]:
        """Names of the spans right below one, in the order of their beginnings."""
        children = [span for span in self.spans if span.parent == parent.id]
        return [span.name for span in sorted(children, key=lambda span: span.began_ns)]

    def path(self, span: CollectedSpan) -> list[str]:
        """Names from the first span of the trace that came down to this one."""
        parents = {one.id: one for one in self.spans}
        path = [span.name]
        while (parent := parents.get(span.parent)) is not None:
            span = parent
            path.insert(0, span.name)
        return path


def _collected(span: Any, service: str) -> CollectedSpan:
    return CollectedSpan(
        name=span.name,
        id=span.span_id.hex(),
        parent=span.parent_span_id.hex(),
        trace=span.trace_id.hex(),
        service=service,
        began_ns=span.start_time_unix_nano,
        ended_ns=span.end_time_unix_nano,
        failed=span.status.code == 2,
        attributes=_attributes(span.attributes),
        links=tuple(link.span_id.hex() for link in span.links),
    )


def _attributes(pairs: Any) -> dict[str, Any]:
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: common_pb2.AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(one) for one in value.array_value.values]
    return None if kind is None else getattr(value, kind)


@contextmanager
def collector() -> Iterator[Collector]:
    """One that listens while the body runs."""
    server = grpc.server(ThreadPoolExecutor(2))
    collecting = Collector()
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(collecting, server)
    collecting.endpoint = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield collecting
    finally:
        server.stop(None).wait()
