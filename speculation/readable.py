"""Calls without a message, and bytes that are none, are the caller's mistake, and have a status that says so.

gRPC's asyncio server answers bytes that it cannot parse with UNKNOWN, in the parser's words, and writes down a
traceback for each; a call that ends its side without its one message it never answers at all. And it keeps what was
sent, megabytes for every call that is refused: see `_let_go`, and messages are read one by one because its iterator
over them is never freed if it is left before its end.
"""

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

import grpc

from speculation.errors import InvalidRequestError
from speculation.rpc import END_OF_STREAM, errors_to_status

Handler = Any
"""grpc.RpcMethodHandler with its fields, which the type stubs do not list."""
CallContext = grpc.aio.ServicerContext[Any, Any]
Behaviour = Callable[[Any, CallContext], Any]
Deserializer = Callable[[bytes], Any]

ENDINGS = (grpc.aio.AbortError, asyncio.CancelledError)
"""How a call ends that is not answered to its end, by us or by its caller. Nobody reads their tracebacks."""

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


def _reading(behaviour: Behaviour, asked: Callable[[CallContext], Awaitable[Any]]) -> Behaviour:
    """The same behaviour, which gets what `asked` makes of the messages."""
    if inspect.isasyncgenfunction(behaviour):

        async def answer_each(requests: AsyncIterator[Any], context: CallContext) -> AsyncIterator[Any]:
            try:
                async with aclosing(behaviour(await asked(context), context)) as responses:
                    async for response in responses:
                        yield response
            except ENDINGS as ending:
                del requests, context
                raise _let_go(ending) from None

        return answer_each

    async def answer(requests: AsyncIterator[Any], context: CallContext) -> Any:
        try:
            return await behaviour(await asked(context), context)
        except ENDINGS as ending:
            del requests, context
            raise _let_go(ending) from None

    return answer


def _let_go(ending: BaseException) -> BaseException:
    """The same without the frames that it came through. gRPC keeps it with the call, which these frames know: a circle
    with the messages in it, and the collector of garbage, which sees few objects, would not look for long."""
    ending.__traceback__ = ending.__context__ = None
    return ending


async def _message(context: CallContext) -> Any:
    """The only one of a call."""
    async with errors_to_status(context):
        message = await context.read()
        if message is END_OF_STREAM:
            raise InvalidRequestError("message", "is missing")
        return _readable(message)


async def _messages(context: CallContext) -> AsyncIterator[Any]:
    """Those of a stream."""
    return _Messages(context)


class _Messages(AsyncIterator[Any]):
    """Those of a stream, until there is one that is none."""

    def __init__(self, context: CallContext) -> None:
        self._context = context

    async def __anext__(self) -> Any:
        message = await self._context.read()
        if message is END_OF_STREAM:
            raise StopAsyncIteration
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
