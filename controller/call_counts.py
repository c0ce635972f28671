"""Counts gRPC calls by their method and how they ended."""

import asyncio
import inspect
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import grpc

from speculation.metrics import Labels

OWN = "/speculation."
"""Health and reflection are left alone: a wrapped health Watch is one that nobody awaits."""

Behaviour = Callable[[Any, Any], Awaitable[Any]]


class CallCounts(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]  # generic in the stubs alone
    """An interceptor that changes nothing.

    Attributes:
        counts: By service, method and code.
    """

    def __init__(self) -> None:
        self.counts: Counter[Labels] = Counter()

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], details: Any) -> Any:
        """The handler of a call, counted if it is one of ours."""
        handler = await continuation(details)
        if handler is None or not details.method.startswith(OWN):
            return handler
        codec = {
            "request_deserializer": handler.request_deserializer,
            "response_serializer": handler.response_serializer,
        }
        _, service, method = details.method.split("/")
        if inspect.iscoroutinefunction(handler.unary_unary):
            return grpc.unary_unary_rpc_method_handler(self._counted(handler.unary_unary, service, method), **codec)
        if inspect.iscoroutinefunction(handler.unary_stream):
            return grpc.unary_stream_rpc_method_handler(self._counted(handler.unary_stream, service, method), **codec)
        return handler

    def _counted(self, behaviour: Behaviour, service: str, method: str) -> Behaviour:
        async def counted(request: Any, context: Any) -> Any:
            code = grpc.StatusCode.OK
            try:
                return await behaviour(request, context)
            except asyncio.CancelledError:
                code = grpc.StatusCode.CANCELLED
                raise
            except BaseException:
                code = _aborted_with(context)
                raise
            finally:
                self.counts[service, method, code.name] += 1

        return counted


def _aborted_with(context: Any) -> grpc.StatusCode:
    """The code that a call was aborted with; an error that nobody made a status of is UNKNOWN to the caller."""
    code = context.code()  # 0 where none was set
    return code if isinstance(code, grpc.StatusCode) else grpc.StatusCode.UNKNOWN
