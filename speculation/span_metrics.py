"""What becomes of spans, as every process that traces tells Prometheus."""

from collections.abc import Callable

from speculation.metrics import Facts, Kind, Metric
from speculation.tracing import SpanCounts


def span_metrics(counts: Callable[[Facts], SpanCounts]) -> tuple[Metric[Facts], ...]:
    """The metrics of a process, by where its facts have the counts; all 0 where nothing is traced."""
    return (
        Metric(
            Kind.COUNTER,
            "forerun_trace_spans_delivered_total",
            "Spans that a collector took.",
            lambda facts: counts(facts).delivered,
        ),
        Metric(
            Kind.COUNTER,
            "forerun_trace_spans_dropped_total",
            "Spans that nobody will see: the collector was away, or too many were waiting for it.",
            lambda facts: counts(facts).dropped,
        ),
        Metric(
            Kind.GAUGE,
            "forerun_trace_spans_waiting",
            "Spans on their way to the collector.",
            lambda facts: counts(facts).waiting,
        ),
    )
