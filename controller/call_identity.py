"""Gives every call its name, and a request its place in a trace, before anybody looks at it."""

import re
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import grpc
from opentelemetry.context import Context
from opentelemetry.trace import Span

from controller.interception import Behaviour, around
from controller.records import uuid7
from controller.service import GENERATE
from controller.span_attributes import called, operation
from speculation.correlation import Correlation, correlated
from speculation.tracing import Tracing, context_of, trace_id, trace_id_in

REQUEST_ID = "x-request-id"

_SENDABLE = re.compile(r"[\x21-\x7e]([\x20-\x7e]{,126}[\x21-\x7e])?")
"""What a metadata value can hold without being changed on its way, as long as a name may be."""


class CallIdentity(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]  # generic in the stubs alone
    """Calls have an id, the caller's or one of ours. The log is told, and the caller by the trailing metadata.

    A request without an id of its own gets that of its call. Whoever traces is believed what `traceparent` says.
    """

    def __init__(self, tracing: Tracing, *, model: Callable[[], str]) -> None:
        """
        Args:
            tracing: Whether requests are traced.
            model: What is served; empty while nothing is.
        """
        self._tracing = tracing
        self._model = model

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], details: Any) -> Any:
        """The handler of a call, which knows who it is."""
        return around(await continuation(details), details.method, self._identified)

    def _identified(self, behaviour: Behaviour, method: str) -> Behaviour:
        async def identified(request: Any, context: Any) -> Any:
            metadata = dict(context.invocation_metadata() or ())
            caller = context_of(metadata.get("traceparent"), metadata.get("tracestate"))
            request_id = metadata.get(REQUEST_ID) or uuid7()
            if method == GENERATE:
                request_id = request.request_id = request.request_id or request_id
            if _SENDABLE.fullmatch(request_id):
                context.set_trailing_metadata(((REQUEST_ID, request_id),))
            with self._span(method, request, caller):
                known = Correlation(request_id=request_id, trace_id=trace_id() or trace_id_in(caller))
                with correlated(known):
                    return await behaviour(request, context)

        return identified

    def _span(self, method: str, request: Any, caller: Context) -> AbstractContextManager[Span | None]:
        """Of requests alone: what operators ask is no work of the fleet."""
        if method != GENERATE or self._tracing.tracer is None:
            return nullcontext()
        model = self._model()
        return self._tracing.within(f"{operation(request)} {model}".strip(), caller, called(request, method, model))
