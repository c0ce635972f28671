"""Calls without a message, and bytes that are none, are the caller's mistake, and have a status that says so.

gRPC's asyncio server answers bytes that it cannot parse with UNKNOWN, in the parser's words, and writes down a
traceback for each; a call that ends its side without its one message it never answers at all.
"""

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

import grpc

from speculation.errors import InvalidRequestError
from speculation.rpc import errors_to_status

Handler = Any
"""grpc.RpcMethodHandler with its fields, which the type stubs do not list."""
CallContext = grpc.aio.ServicerContext[Any, Any]
Behaviour = Callable[[Any, CallContext], Any]
Deserializer = Callable[[bytes], Any]

UNREADABLE = object()
"""Stands in for a message that could not be read."""


class Readable(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]  # generic in the stubs alone
    """Lets handlers see nothing but messages. It comes before all other interceptors: it changes the form of handlers.

    On the wire a call of one message is a stream of one, so it is served as such: that is how its absence is seen.
    Coroutines stay coroutines and generators generators; nothing is awaited but the call itself.
    """

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler:
        """The handler of a call, behind a reader that does not fail."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        behaviour = handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
        make = (
            grpc.stream_stream_rpc_method_handler
            if handler.response_streaming
            else grpc.stream_unary_rpc_method_handler
        )
        return make(
            _reading(behaviour, _messages if handler.request_streaming else _message),
            request_deserializer=_forgiving(handler.request_deserializer),
            response_serializer=handler.response_serializer,
        )


def _reading(behaviour: Behaviour, asked: Callable[[AsyncIterator[Any], CallContext], Awaitable[Any]]) -> Behaviour:
    """The same behaviour, which gets what `asked` makes of the messages."""
    if inspect.isasyncgenfunction(behaviour):

        async def answer_each(requests: AsyncIterator[Any], context: CallContext) -> AsyncIterator[Any]:
            async with aclosing(behaviour(await asked(requests, context), context)) as responses:
                async for response in responses:
                    yield response

        return answer_each

    async def answer(requests: AsyncIterator[Any], context: CallContext) -> Any:
        return await behaviour(await asked(requests, context), context)

    return answer


async def _message(requests: AsyncIterator[Any], context: CallContext) -> Any:
    """The only one of a call."""
    async with errors_to_status(context):
        async for message in requests:
            return _readable(message)
        raise InvalidRequestError("message", "is missing")


async def _messages(requests: AsyncIterator[Any], context: CallContext) -> AsyncIterator[Any]:
    """Those of a stream."""
    return _Messages(requests, context)


class _Messages(AsyncIterator[Any]):
    """Those of a stream, until there is one that is none."""

    def __init__(self, requests: AsyncIterator[Any], context: CallContext) -> None:
        self._requests, self._context = requests, context

    async def __anext__(self) -> Any:
        message = await anext(self._requests)
        if message is UNREADABLE:
            async with errors_to_status(self._context):
                _readable(message)
        return message


def _readable(message: Any) -> Any:
    if message is UNREADABLE:
        raise InvalidRequestError("message", "its bytes are no message of this call")
    return message


def _forgiving(deserialize: Deserializer | None) -> Deserializer | None:
    if deserialize is None:
        return None

    def deserialized(content: bytes) -> Any:
        try:
            return deserialize(content)
        except Exception:  # protobuf's implementations raise what they like
            return UNREADABLE

    return deserialized
