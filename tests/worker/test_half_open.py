"""A peer that vanished without a word: TCP tells nobody, so gRPC has to ask."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from bench.faults.lines import WorkerProxy
from controller.serve import SERVER_OPTIONS as CONTROLLER_OPTIONS
from controller.worker_client import CHANNEL_OPTIONS
from speculation.v1 import verify_pb2, verify_pb2_grpc
from worker.serve import SERVER_OPTIONS as WORKER_OPTIONS

FASTER = 20
WAITS = ("grpc.keepalive_time_ms", "grpc.keepalive_timeout_ms", "grpc.http2.ping_timeout_ms")


class Listening(verify_pb2_grpc.VerifyServiceServicer):
    """Waits for messages that never come."""

    def __init__(self) -> None:
        self.ended = asyncio.Event()

    async def Verify(self, requests: AsyncIterator[verify_pb2.VerifyRequest], context: Any) -> None:  # noqa: N802
        try:
            async for _ in requests:
                await context.write(verify_pb2.VerifyResponse())
        finally:
            self.ended.set()


@pytest.mark.parametrize("options", [WORKER_OPTIONS, CONTROLLER_OPTIONS], ids=["worker", "controller"])
def test_a_server_ends_the_calls_of_a_client_that_is_not_heard_any_more(options: tuple[tuple[str, int], ...]) -> None:
    """As configured within half a minute; here everything waits a twentieth as long."""
    faster = [(name, value // FASTER if name in WAITS else value) for name, value in options]

    async def scenario() -> None:
        service, server = Listening(), grpc.aio.server(options=faster)
        verify_pb2_grpc.add_VerifyServiceServicer_to_server(service, server)
        proxy = WorkerProxy("w", f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}", "verify")
        await server.start()
        await proxy.start()
        async with grpc.aio.insecure_channel(proxy.address) as channel:
            call = verify_pb2_grpc.VerifyServiceStub(channel).Verify()
            await call.write(verify_pb2.VerifyRequest(open=verify_pb2.OpenVerify()))
            await call.read()

            proxy.swallow()

            async with asyncio.timeout(20):
                await service.ended.wait()
        await proxy.close()
        await server.stop(None)

    asyncio.run(scenario())


@pytest.mark.parametrize("options", [WORKER_OPTIONS, CONTROLLER_OPTIONS, CHANNEL_OPTIONS])
def test_no_ping_is_waited_for_longer_than_is_said(options: tuple[tuple[str, int], ...]) -> None:
    told = dict(options)

    assert told["grpc.http2.ping_timeout_ms"] == told["grpc.keepalive_timeout_ms"]
