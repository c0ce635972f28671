"""A session on a worker: whoever waits in it is told when it is given up, at whatever step."""

import asyncio
from collections.abc import AsyncIterator

import grpc
import pytest
from typing_extensions import override

from controller.sequence import Sequence
from controller.worker_client import Opening, Role, WorkerClient
from speculation.errors import WorkerUnavailableError
from speculation.sampling import SamplingParameters
from speculation.v1 import draft_pb2, draft_pb2_grpc
from tests.controller.house import run

PATIENCE_S = 5.0
GIVE_UPS_A_STEP = 8


class SilentDrafter(draft_pb2_grpc.DraftServiceServicer):
    """Reads all and answers nothing."""

    @override
    async def Draft(
        self, requests: AsyncIterator[draft_pb2.DraftRequest], context: object
    ) -> AsyncIterator[draft_pb2.DraftResponse]:
        async for _ in requests:
            pass
        return
        yield


@pytest.mark.parametrize("turns", [*range(12), 1000])
def test_who_waits_for_a_worker_is_told_that_it_was_given_up(turns: int) -> None:
    """After so many turns of the event loop: opening, writing, reading. gRPC by itself lets half of them wait."""

    async def told() -> None:
        server = grpc.aio.server()
        draft_pb2_grpc.add_DraftServiceServicer_to_server(SilentDrafter(), server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        client = WorkerClient(f"127.0.0.1:{port}", Role.DRAFT)
        opening = Opening(session_id="r", sampling=SamplingParameters(seed=0), prompt_length=3)
        for _ in range(GIVE_UPS_A_STEP):
            stream = client.open_draft(opening, timeout_s=60.0)
            reading = asyncio.ensure_future(stream.read(Sequence((1, 2, 3), max_new_tokens=1), 3))
            for _ in range(turns):
                await asyncio.sleep(0)
            stream.give_up("its machine is gone")
            with pytest.raises(WorkerUnavailableError, match="its machine is gone"):
                await asyncio.wait_for(reading, PATIENCE_S)
        await client.close()
        await server.stop(None)

    run(told())
