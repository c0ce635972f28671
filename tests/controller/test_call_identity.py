"""Every call has a name, which its caller is told however it ends."""

from typing import Any

import grpc
import pytest

from speculation.v1 import router_pb2
from tests.controller.house import QUICK, House, house, read, request, run

MINE = (("x-request-id", "mine"),)


async def named(home: House, *metadata: tuple[str, str], **fields: Any) -> tuple[str, str | None]:
    """A request's name, as its summary has it, and as the trailing metadata do."""
    call = home.generation.Generate(request(**fields), timeout=20, metadata=metadata)
    answer = await read(call)
    return answer.summary.request_id, dict(await call.trailing_metadata()).get("x-request-id")


def test_a_request_is_named_by_its_field_its_metadata_or_the_controller() -> None:
    async def scenario() -> None:
        async with house() as home:
            assert await named(home, ("x-request-id", "header"), request_id="field") == ("field", "field")
            assert await named(home, ("x-request-id", "header")) == ("header", "header")
            ours, told = await named(home)
            assert ours == told
            assert len(ours) == 36

    run(scenario())


@pytest.mark.parametrize("name", ["ümlaut", "two\nlines", " blank"])
def test_a_name_that_cannot_travel_as_metadata_is_in_the_summary_alone(name: str) -> None:
    async def scenario() -> None:
        async with house() as home:
            assert await named(home, request_id=name) == (name, None)

    run(scenario())


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        pytest.param({"text": ""}, grpc.StatusCode.INVALID_ARGUMENT, id="refused with an ErrorInfo"),
        pytest.param({"max_new_tokens": 4000}, grpc.StatusCode.DEADLINE_EXCEEDED, id="out of the controller's time"),
    ],
)
def test_a_call_that_fails_is_named_too(fields: dict[str, Any], code: grpc.StatusCode) -> None:
    async def scenario() -> None:
        async with house(timeouts=QUICK.model_copy(update={"longest_request_s": 0.3})) as home:
            home.workers[0].worker.faults.delay_s = 0.05
            call = home.generation.Generate(request(**fields), metadata=MINE)  # no deadline: the controller's holds
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await read(call)

            assert caught.value.code() is code
            told = dict(caught.value.trailing_metadata())
            assert told["x-request-id"] == "mine"
            assert ("grpc-status-details-bin" in told) is (code is grpc.StatusCode.INVALID_ARGUMENT)

    run(scenario())


def test_a_name_by_metadata_is_as_long_as_one_by_field_may_be() -> None:
    async def scenario() -> None:
        async with house() as home:
            with pytest.raises(grpc.aio.AioRpcError, match="request_id"):
                await named(home, ("x-request-id", "x" * 129))

    run(scenario())


def test_an_operators_call_is_named_and_what_it_asks_about_is_left_alone() -> None:
    async def scenario() -> None:
        async with house() as home:
            await named(home, request_id="asked about")
            call = home.router.Explain(router_pb2.ExplainRequest(request_id="asked about"), timeout=10, metadata=MINE)
            assert (await call).rounds
            assert dict(await call.trailing_metadata())["x-request-id"] == "mine"

    run(scenario())
