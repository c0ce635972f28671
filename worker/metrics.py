"""Every number that a worker tells Prometheus (docs/metrics.md is made from this list), and where it is."""

from collections.abc import Callable
from dataclasses import dataclass

from speculation.metrics import Kind, Metric, Values
from speculation.span_metrics import span_metrics
from speculation.tracing import SpanCounts
from worker.host import Host
from worker.prefix_cache import CacheUse

COUNTER, GAUGE, HISTOGRAM = Kind.COUNTER, Kind.GAUGE, Kind.HISTOGRAM


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerFacts:
    """Where everything is that can be told of a worker.

    Attributes:
        host: Its sessions and its engine.
        spans: What became of those of traced requests.
        info: What it is, in the order of the labels of `forerun_engine_info`.
    """

    host: Host
    spans: SpanCounts
    info: tuple[str, ...]

    async def now(self) -> "WorkerFacts":
        """There is nothing that has to be asked for."""
        return self


def _of_cache(number: Callable[[CacheUse], float]) -> Callable[[WorkerFacts], Values]:
    return lambda facts: number(facts.host.cache_use)


METRICS: tuple[Metric[WorkerFacts], ...] = (
    Metric(
        GAUGE,
        "forerun_engine_info",
        "1; what this worker is.",
        lambda facts: {facts.info: 1.0},
        ("worker", "role", "model_revision", "dtype", "device", "version"),
    ),
    Metric(
        HISTOGRAM, "forerun_engine_forward_seconds", "Of forwards.", lambda facts: facts.host.engine_meter.forward_time
    ),
    Metric(
        HISTOGRAM,
        "forerun_engine_batch_sessions",
        "Sessions that shared a forward.",
        lambda facts: facts.host.engine_meter.batch_sizes,
    ),
    Metric(
        HISTOGRAM,
        "forerun_engine_forward_tokens",
        "Tokens run in a forward; their sum is all tokens ever run.",
        lambda facts: facts.host.engine_meter.tokens,
    ),
    Metric(
        HISTOGRAM,
        "forerun_engine_queue_seconds",
        "From a call to its first forward.",
        lambda facts: facts.host.engine_meter.queue_time,
    ),
    Metric(
        COUNTER,
        "forerun_engine_failed_forwards_total",
        "Forwards that raised; each is repeated session by session.",
        lambda facts: facts.host.engine_meter.failed_forwards,
    ),
    Metric(
        COUNTER,
        "forerun_engine_calls_total",
        "Calls by how they ended: done, need_context, busy, draining, gave_way (idle work ended by other work), "
        "cancelled, error.",
        lambda facts: {(outcome,): calls for outcome, calls in facts.host.ended_calls.items()},
        ("outcome",),
    ),
    Metric(GAUGE, "forerun_engine_calls_waiting", "Calls waiting or running.", lambda facts: facts.host.calls),
    Metric(GAUGE, "forerun_engine_sessions", "Sessions open.", lambda facts: facts.host.streams),
    Metric(COUNTER, "forerun_engine_sessions_opened_total", "Sessions asked for.", lambda facts: facts.host.opened),
    Metric(
        COUNTER,
        "forerun_engine_sessions_refused_total",
        "Of these, refused for want of a place.",
        lambda facts: facts.host.refused,
    ),
    Metric(GAUGE, "forerun_engine_slots", "Sessions whose caches fit at once.", lambda facts: facts.host.engine.slots),
    Metric(
        GAUGE,
        "forerun_engine_slots_reserved",
        "Slots with a session or a retained prompt.",
        lambda facts: facts.host.engine.slots - facts.host.engine.num_free,
    ),
    Metric(GAUGE, "forerun_engine_draining", "1 while it shuts down.", lambda facts: float(facts.host.draining)),
    Metric(GAUGE, "forerun_cache_bytes", "Memory of keys and values.", _of_cache(lambda use: use.bytes)),
    Metric(GAUGE, "forerun_cache_capacity_tokens", "Tokens that fit in.", _of_cache(lambda use: use.capacity_tokens)),
    Metric(GAUGE, "forerun_cache_session_tokens", "Tokens of sessions.", _of_cache(lambda use: use.session_tokens)),
    Metric(
        GAUGE,
        "forerun_cache_retained_tokens",
        "Tokens of ended sessions, kept for those that begin alike.",
        _of_cache(lambda use: use.retained_tokens),
    ),
    Metric(
        COUNTER,
        "forerun_cache_looked_up_tokens_total",
        "Tokens that sessions came with when they got a slot.",
        _of_cache(lambda use: use.looked_up_tokens),
    ),
    Metric(
        COUNTER,
        "forerun_cache_reused_tokens_total",
        "Of these, taken over instead of computed.",
        _of_cache(lambda use: use.reused_tokens),
    ),
    Metric(
        COUNTER,
        "forerun_cache_evicted_sessions_total",
        "Sessions that lost their slot to another one.",
        _of_cache(lambda use: use.evicted_sessions),
    ),
    *span_metrics(lambda facts: facts.spans),
)
