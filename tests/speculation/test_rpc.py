"""Every deliberate error crosses a real gRPC call as itself."""

import asyncio
import inspect
from collections.abc import Iterator

import grpc
import pytest

from speculation import errors, rpc
from speculation.errors import ForerunError
from speculation.v1 import common_pb2, draft_pb2_grpc

EXAMPLES: tuple[ForerunError, ...] = (
    errors.InvalidRequestError("top_p", "must lie in (0, 1]"),
    errors.InvalidTreeError("no tree"),
    errors.PromptTooLongError(900, 200, 1024),
    errors.NotAllowedError("speculation.drafters", "'json' is not allowed", "router.rules.0"),
    errors.UnauthenticatedError("no token"),
    errors.AccessDeniedError("the token is for calls"),
    errors.UnknownNameError("drafter", "cobol", ["code", "docs"]),
    errors.ConfigurationError("fleet.yaml:3", "unknown field"),
    errors.ModelNotFoundError("nowhere", "no such folder"),
    errors.CorruptModelError("here", "model.safetensors is cut short"),
    errors.UnservableModelError("bloom", "it does not use the attention interface"),
    errors.InvalidModelStateError("is cut short"),
    errors.InvalidLogError("rounds.parquet, row 3, column propensity", "2.0 is not in (0, 1]"),
    errors.ConflictError("version 3 is active by now"),
    errors.IncompatibleWorkerError("another tokenizer"),
    errors.CapacityError("64 requests are running"),
    errors.QuotaError("acme", "requests_per_minute", 60, 1.25),
    errors.WorkerUnavailableError("no target worker"),
    errors.DrainingError("shutting down"),
    errors.FeatureUnavailableError("not here"),
    errors.ModelError("any", "problem"),
)


class Raising(draft_pb2_grpc.DraftServiceServicer):
    """A service whose every call fails with the error it was given."""

    def __init__(self, error: ForerunError) -> None:
        self.error = error

    async def Describe(self, request, context):  # noqa: N802
        async with rpc.errors_to_status(context):
            raise self.error


async def across_a_call(error: ForerunError) -> tuple[grpc.StatusCode, ForerunError]:
    """The status and the error that a caller sees when the server raises `error`."""
    server = grpc.aio.server()
    draft_pb2_grpc.add_DraftServiceServicer_to_server(Raising(error), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            with pytest.raises(ForerunError) as caught, rpc.status_to_errors("worker"):
                await draft_pb2_grpc.DraftServiceStub(channel).Describe(common_pb2.DescribeRequest(), timeout=5)
    finally:
        await server.stop(None)
    assert isinstance(caught.value.__cause__, grpc.aio.AioRpcError)
    return caught.value.__cause__.code(), caught.value


def kinds() -> Iterator[type[ForerunError]]:
    """Every error class of the tree but its root."""
    for _, kind in inspect.getmembers(errors, inspect.isclass):
        if issubclass(kind, ForerunError) and kind is not ForerunError:
            yield kind


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_an_error_arrives_as_it_was_raised(error: ForerunError) -> None:
    status, received = asyncio.run(across_a_call(error))

    assert status is rpc.STATUS_OF[type(error)]
    assert type(received) is type(error)
    assert str(received) == str(error)
    assert received.metadata == error.metadata
    assert received.retry_after_s == error.retry_after_s


def test_every_error_has_a_status_a_reason_of_its_own_and_an_example() -> None:
    assert set(kinds()) == set(rpc.STATUS_OF) == {type(error) for error in EXAMPLES}
    assert len({kind.reason for kind in kinds()}) == len(set(kinds()))


def test_the_tree_at_the_top_of_the_module_names_every_error() -> None:
    assert all(kind.__name__ in (errors.__doc__ or "") for kind in kinds())


def test_a_lost_peer_is_an_unavailable_worker() -> None:
    async def call_nobody() -> None:
        async with grpc.aio.insecure_channel("127.0.0.1:1") as channel:
            with rpc.status_to_errors("worker code"):
                await draft_pb2_grpc.DraftServiceStub(channel).Describe(common_pb2.DescribeRequest(), timeout=2)

    with pytest.raises(errors.WorkerUnavailableError, match="worker code"):
        asyncio.run(call_nobody())


@pytest.mark.parametrize("name", ["a" * 100_000, "\N{FAMILY}" * 30_000, "\ud800" * 50_000])
def test_an_error_that_quotes_what_is_long_still_arrives(name: str) -> None:
    """A status beyond what a header may hold would become another one."""
    status, received = asyncio.run(across_a_call(errors.UnknownNameError("policy", name, ["planner"])))

    assert status is grpc.StatusCode.NOT_FOUND
    assert type(received) is errors.UnknownNameError
    assert str(received).startswith("no policy is called '")
    assert str(received).endswith("...")
    assert len(str(received).encode()) <= rpc.LONGEST_MESSAGE
