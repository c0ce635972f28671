"""Bytes that are no message, towards every form of call, and what must stay as it was for those that are."""

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, ClassVar

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from speculation.errors import UnauthenticatedError
from speculation.readable import Readable
from speculation.rpc import error_info, errors_to_status

HEALTH = "/grpc.health.v1.Health"
REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
NO_MESSAGE = b"\x0a\xff\xff\xff\xff\x0f"
ECHO = "/test.Echo"


async def echo(request: bytes, context: Any) -> bytes:
    return request


async def echo_joined(requests: AsyncIterator[bytes], context: Any) -> bytes:
    return b"".join([request async for request in requests])


class Known:
    """A message of which it can be seen whether it is still there."""

    some: ClassVar["weakref.WeakSet[Known]"] = weakref.WeakSet()

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.some.add(self)


async def refuse(request: Known, context: Any) -> bytes:
    try:
        raise ValueError(request.content)
    except ValueError:
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "refused")
        raise


REFUSAL = UnauthenticatedError("who calls?")


async def refuse_deliberately(request: Known, context: Any) -> bytes:
    async with errors_to_status(context):
        raise REFUSAL
    return request.content


async def refuse_all(requests: AsyncIterator[Known], context: Any) -> AsyncIterator[bytes]:
    async for request in requests:
        yield await refuse(request, context)


async def wait(request: Known, context: Any) -> bytes:
    await asyncio.Event().wait()
    return request.content


async def until(holds: Callable[[], bool]) -> None:
    while not holds():  # noqa: ASYNC110 - nobody tells when a message is gone
        await asyncio.sleep(0.01)


@contextmanager
def nobody_collecting() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def read(content: bytes) -> bytes:
    if content.startswith(b"bad"):
        raise ValueError(content)
    return content


@asynccontextmanager
async def served() -> AsyncIterator[tuple[grpc.aio.Channel, Any]]:
    """Health, reflection, and two calls that we have not: every form of call there is."""
    server = grpc.aio.server(interceptors=(Readable(),))
    state = health.aio.HealthServicer()  # type: ignore[attr-defined]
    health_pb2_grpc.add_HealthServicer_to_server(state, server)
    reflection.enable_server_reflection([health.SERVICE_NAME], server)
    methods = {
        "Unary": grpc.unary_unary_rpc_method_handler(echo, read),
        "Raw": grpc.unary_unary_rpc_method_handler(echo),
        "Joined": grpc.stream_unary_rpc_method_handler(echo_joined, read),
        "Refuse": grpc.unary_unary_rpc_method_handler(refuse, Known),
        "RefuseDeliberately": grpc.unary_unary_rpc_method_handler(refuse_deliberately, Known),
        "RefuseAll": grpc.stream_stream_rpc_method_handler(refuse_all, Known),
        "Wait": grpc.unary_unary_rpc_method_handler(wait, Known),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Echo", methods),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield channel, state
    finally:
        await server.stop(None)


async def asked(channel: grpc.aio.Channel, method: str, *messages: bytes) -> list[bytes]:
    """All answers, over a call of no form at all."""
    call: Any = channel.stream_stream(method)(iter(messages), timeout=10)
    return [answer async for answer in call]


def run(work: Any) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(30):
            await work

    asyncio.run(bounded())


@pytest.mark.parametrize(
    ("method", "messages"),
    [
        pytest.param(f"{HEALTH}/Check", [NO_MESSAGE], id="unary"),
        pytest.param(f"{HEALTH}/Watch", [NO_MESSAGE], id="answers that stream"),
        pytest.param(f"{ECHO}/Joined", [b"good", b"bad"], id="requests that stream"),
        pytest.param(REFLECTION, [NO_MESSAGE], id="both"),
        pytest.param(f"{ECHO}/Unary", [b"bad"], id="another kind of error"),
    ],
)
def test_what_is_no_message_is_the_callers_mistake(method: str, messages: list[bytes]) -> None:
    async def scenario() -> None:
        async with served() as (channel, _):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await asked(channel, method, *messages)

            info = error_info(caught.value)
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert info is not None
            assert info.metadata["field"] == "message"

    run(scenario())


@pytest.mark.parametrize("method", [f"{HEALTH}/Check", f"{HEALTH}/Watch", f"{ECHO}/Unary"])
def test_a_call_without_its_message_is_the_callers_mistake_and_ends(method: str) -> None:
    async def scenario() -> None:
        async with served() as (channel, _):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await asked(channel, method)

            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert caught.value.details() == "message: is missing"

    run(scenario())


def test_what_came_before_is_answered() -> None:
    async def scenario() -> None:
        async with served() as (channel, _):
            call: Any = channel.stream_stream(REFLECTION)(timeout=10)
            await call.write(b"\x3a\x00")  # list_services: ""
            assert await call.read()
            await call.write(NO_MESSAGE)

            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call.read()
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT

    run(scenario())


def test_good_calls_are_what_they_were() -> None:
    """Health can be watched for as long as one likes: a trap of interceptors."""

    async def scenario() -> None:
        async with served() as (channel, state):
            assert await asked(channel, f"{ECHO}/Unary", b"a") == [b"a"]
            assert await asked(channel, f"{ECHO}/Raw", b"a") == [b"a"]
            assert await asked(channel, f"{ECHO}/Joined", b"a", b"b") == [b"ab"]
            watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=10)
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
            await state.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
            watch.cancel()

    run(scenario())


@pytest.mark.parametrize("method", ["Refuse", "RefuseDeliberately", "RefuseAll", "Wait"])
def test_of_a_call_that_was_not_answered_nothing_stays(method: str) -> None:
    """Not even until garbage is collected: a message can be of 16 MiB, and few objects come with it."""

    async def scenario() -> None:
        async with served() as (channel, _):
            call: Any = channel.stream_stream(f"{ECHO}/{method}")(iter([b"a", b"b"]), timeout=10)
            if method == "Wait":
                await until(lambda: len(Known.some) == 1)
                call.cancel()
            assert await call.code() is not grpc.StatusCode.OK
            await until(lambda: not Known.some)

    with nobody_collecting():
        run(scenario())
