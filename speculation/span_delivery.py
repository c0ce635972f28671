"""A bounded way for spans, and a count of what did not get through. Imported only where requests are traced."""

import logging
from collections.abc import Sequence

from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ParentBased, Sampler, TraceIdRatioBased

from speculation.tracing import SpanCounts

logger = logging.getLogger(__name__)

MOST_WAITING = 2048
"""Spans on their way: some dozens of requests, or a megabyte or two."""

LIBRARY_LOG = "opentelemetry.exporter.otlp.proto.grpc.exporter"
"""Tells of every attempt that fails, several a minute for as long as a collector is away; we tell it once."""


def sampler_of(ratio: float | None, *, parent_based: bool) -> Sampler | None:
    """Who decides whether a request is traced; None: OTEL_TRACES_SAMPLER, or else the caller, and all without one."""
    if ratio is None and parent_based:
        return None
    share = TraceIdRatioBased(1.0 if ratio is None else ratio)
    return ParentBased(share) if parent_based else share


class SpanQueue(SpanProcessor):
    """Takes ended spans while there is room. The SDK's own queue makes room by dropping others, and tells nobody."""

    def __init__(self, exporter: SpanExporter, counts: SpanCounts) -> None:
        self._counts = counts
        self._batches = BatchSpanProcessor(exporter, max_queue_size=MOST_WAITING)

    def on_end(self, span: ReadableSpan) -> None:
        """Take a span, or count it as refused; never waits."""
        if span.context is None or not span.context.trace_flags.sampled:
            return
        if self._counts.waiting >= MOST_WAITING:
            self._counts.refused += 1
            return
        self._counts.queued += 1
        self._batches.on_end(span)

    def shutdown(self) -> None:
        """Deliver what is waiting."""
        self._batches.shutdown()  # type: ignore[no-untyped-call]


class CountedExporter(SpanExporter):
    """Delivers batches, counts what became of them, and tells the log when the collector goes and comes."""

    def __init__(self, endpoint: str, counts: SpanCounts) -> None:
        logging.getLogger(LIBRARY_LOG).setLevel(logging.CRITICAL)
        self._endpoint, self._counts = endpoint, counts
        self._otlp = OTLPSpanExporter(endpoint=endpoint)
        self._reached = True

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Deliver a batch; on the queue's thread."""
        result = SpanExportResult.FAILURE
        try:
            result = self._otlp.export(spans)
        finally:
            if result is SpanExportResult.SUCCESS:
                self._counts.delivered += len(spans)
            else:
                self._counts.lost += len(spans)
            self._tell(reached=result is SpanExportResult.SUCCESS)
        return result

    def _tell(self, *, reached: bool) -> None:
        if reached is not self._reached:
            self._reached = reached
            told = {"collector": self._endpoint, "dropped": self._counts.dropped}
            if reached:
                logger.info("spans arrive again", extra=told)
            else:
                logger.warning("spans do not arrive and are dropped", extra=told)

    def give_up(self) -> None:
        """End an attempt that is under way; what is still waiting is lost."""
        self._otlp.shutdown()

    def shutdown(self) -> None:
        """Close the connection."""
        self._otlp.shutdown()
