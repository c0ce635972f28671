"""How calls are looked after from outside without being held up.

grpc.aio hands an interceptor the handler of a call. What is put around it here awaits the handler in the call's own
task, so deadlines and cancellations reach it as if nothing stood between.
"""

import inspect
from collections.abc import Awaitable, Callable
from typing import Any

import grpc

OWN = "/speculation."
"""Health and reflection are left alone: a wrapped health Watch is one that nobody awaits."""

Behaviour = Callable[[Any, Any], Awaitable[Any]]
Handler = Any
"""grpc.RpcMethodHandler with its fields, which the type stubs do not list."""


def around(handler: Handler, method: str, put_around: Callable[[Behaviour, str], Behaviour]) -> Handler:
    """The handler of a method with something around it, if it is one of ours that answers one request."""
    if handler is None or not method.startswith(OWN):
        return handler
    codec = {
        "request_deserializer": handler.request_deserializer,
        "response_serializer": handler.response_serializer,
    }
    if inspect.iscoroutinefunction(handler.unary_unary):
        return grpc.unary_unary_rpc_method_handler(put_around(handler.unary_unary, method), **codec)
    if inspect.iscoroutinefunction(handler.unary_stream):
        return grpc.unary_stream_rpc_method_handler(put_around(handler.unary_stream, method), **codec)
    return handler
