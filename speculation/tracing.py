"""Spans: where in a trace the work under way belongs, and how that is told to other processes.

A request is traced or it is not; where it is not, a span costs one look at a context variable. Contexts are taken up
and handed on by hand: what OpenTelemetry offers for grpc.aio leaves health's Watch unanswered and keeps cancellations
from workers (docs/traps.md). A span holds numbers, names and times, and never what a caller or a model has said.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar, Token
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import grpc
from opentelemetry.context import Context
from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode, Tracer, format_trace_id, set_span_in_context
from opentelemetry.trace import get_current_span as span_in
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from speculation.errors import ForerunError

Attributes = Mapping[str, Any]
"""Of a span: strings, numbers below 2**63, flags, or lists of one of them."""

LONGEST_STATE = 512
"""Characters of a tracestate that are handed on, as W3C asks for at the least: it travels with every message."""

CANCELLED = "cancelled"

_W3C = TraceContextTextMapPropagator()


@dataclass(frozen=True, slots=True)
class Place:
    """Where work belongs.

    Attributes:
        tracer: Makes the spans below.
        span: That of the work.
        began_ns: When it began, in Unix time.
    """

    tracer: Tracer
    span: Span
    began_ns: int = field(default_factory=time.time_ns)

    def below(self, name: str, attributes: Attributes | None = None, **more: Any) -> Span:
        """A span of a part of the work, begun; whoever asks for it ends it."""
        return self.tracer.start_span(
            name, context=set_span_in_context(self.span, Context()), attributes=attributes, **more
        )


_PLACE: ContextVar[Place | None] = ContextVar("place", default=None)
_UNTRACED: AbstractContextManager[None] = nullcontext()


def place() -> Place | None:
    """Of the work under way; None: it is not traced."""
    return _PLACE.get()


class _Within:
    """The body is the work of a span, which ends with it."""

    __slots__ = ("_place", "_token")

    def __init__(self, where: Place) -> None:
        self._place = where
        self._token: Token[Place | None] | None = None

    def __enter__(self) -> Span:
        self._token = _PLACE.set(self._place)
        return self._place.span

    def __exit__(self, _: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        assert self._token is not None
        _PLACE.reset(self._token)
        if error is not None and not isinstance(error, GeneratorExit):
            self._place.span.set_attribute("error.type", kind := error_type(error))
            if kind != CANCELLED:  # which is how all work ends that nobody needs any more
                self._place.span.set_status(Status(StatusCode.ERROR))
        self._place.span.end()


def error_type(error: BaseException) -> str:
    """What kind of error it is; its message is left out, as it may repeat what a caller wrote.

    A deliberate error by its reason, also where it was made a status of.
    """
    before: BaseException | None = error
    while before is not None:
        if isinstance(before, ForerunError):
            return before.reason
        if isinstance(before, TimeoutError):
            return "timeout"
        before = before.__context__
    # gRPC's internal error is what telling a caller who has left comes to, where his cancellation is not here yet.
    return CANCELLED if isinstance(error, asyncio.CancelledError | grpc.aio.InternalError) else type(error).__name__


def span(name: str, attributes: Attributes | None = None) -> AbstractContextManager[Span | None]:
    """The body in a span of its own, if the work around it is traced."""
    around = _PLACE.get()
    return _UNTRACED if around is None else _Within(Place(around.tracer, around.below(name, attributes)))


def spent(name: str) -> None:
    """Say what the work under way was until now."""
    around = _PLACE.get()
    if around is not None:
        around.below(name, start_time=around.began_ns).end()


def record(
    around: Place, name: str, *, began_ns: int, ended_ns: int, attributes: Attributes, links: Sequence[Link] = ()
) -> None:
    """A span of something that is over; times are those of `time.perf_counter_ns`."""
    to_unix_ns = time.time_ns() - time.perf_counter_ns()
    below = around.below(name, attributes, links=links, start_time=began_ns + to_unix_ns)
    below.end(ended_ns + to_unix_ns)


@dataclass(frozen=True, slots=True)
class TraceHeaders:
    """A place in a trace, as W3C Trace Context writes it."""

    traceparent: str
    tracestate: str = ""


def headers() -> TraceHeaders | None:
    """What other processes are told, so that their spans belong below that of the work under way."""
    around = _PLACE.get()
    if around is None:
        return None
    carrier: dict[str, str] = {}
    _W3C.inject(carrier, set_span_in_context(around.span, Context()))
    return TraceHeaders(**carrier)


def context_of(traceparent: str | None, tracestate: str | None = None) -> Context:
    """Where the caller's work belongs; an empty context if that cannot be read, as W3C has it."""
    if not traceparent:
        return Context()
    carrier = {"traceparent": traceparent}
    if tracestate and len(tracestate) <= LONGEST_STATE:
        carrier["tracestate"] = tracestate
    return _W3C.extract(carrier, Context())


def trace_id() -> str:
    """Of the work under way; empty if it is not traced."""
    around = _PLACE.get()
    return "" if around is None else _written(around.span)


def trace_id_in(context: Context) -> str:
    """Of the caller's trace; empty if there is none."""
    return _written(span_in(context))


def _written(one: Span) -> str:
    known = one.get_span_context()
    return format_trace_id(known.trace_id) if known.is_valid else ""


@dataclass(slots=True)
class SpanCounts:
    """What became of the spans of a process. Each number has one writer.

    Attributes:
        queued: Taken, to be delivered.
        refused: Not taken, because too many were waiting.
        delivered: Of those taken, taken by the collector, too.
        lost: Of those taken, given up.
    """

    queued: int = 0
    refused: int = 0
    delivered: int = 0
    lost: int = 0

    @property
    def waiting(self) -> int:
        """On their way."""
        return self.queued - self.delivered - self.lost

    @property
    def dropped(self) -> int:
        """That nobody will see."""
        return self.refused + self.lost


@dataclass(frozen=True, slots=True)
class Tracing:
    """Whether a process traces.

    Attributes:
        tracer: Makes its spans; None: it does not.
        counts: What became of them.
    """

    tracer: Tracer | None = None
    counts: SpanCounts = field(default_factory=SpanCounts)

    def within(
        self, name: str, caller: Context, attributes: Attributes, *, began_ns: int | None = None
    ) -> AbstractContextManager[Span | None]:
        """The body in the first span that this process has of a trace, if it traces it.

        Args:
            name: Of the span.
            caller: Where the caller's work belongs.
            attributes: Of the span.
            began_ns: When the work began, by `time.perf_counter_ns`; None: now.
        """
        if self.tracer is None:
            return _UNTRACED
        start_ns = time.time_ns() - (0 if began_ns is None else time.perf_counter_ns() - began_ns)
        first = self.tracer.start_span(name, caller, SpanKind.SERVER, attributes, start_time=start_ns)
        return _Within(Place(self.tracer, first, start_ns)) if first.is_recording() else _UNTRACED


NO_TRACING = Tracing()
