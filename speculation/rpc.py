"""Deliberate errors to gRPC statuses and back, by one table."""

import math
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeVar

import grpc
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from speculation import errors
from speculation.errors import ForerunError

ERROR_DOMAIN = "forerun"

LONGEST_MESSAGE, LONGEST_VALUE = 1_000, 200
"""Bytes of an error's message, and of each value beside it. They travel twice, once with every byte spelled in three;
beyond 8 KiB in all, receivers throw a status away and tell their callers something else."""
CUT = "..."

END_OF_STREAM: Any = vars(grpc.aio)["EOF"]  # the type stubs do not list it
"""Read where the other end has said all."""

Detail = TypeVar("Detail", error_details_pb2.ErrorInfo, error_details_pb2.RetryInfo)

STATUS_OF: dict[type[ForerunError], grpc.StatusCode] = {
    errors.InvalidRequestError: grpc.StatusCode.INVALID_ARGUMENT,
    errors.InvalidTreeError: grpc.StatusCode.INVALID_ARGUMENT,
    errors.PromptTooLongError: grpc.StatusCode.INVALID_ARGUMENT,
    errors.NotAllowedError: grpc.StatusCode.PERMISSION_DENIED,
    errors.UnauthenticatedError: grpc.StatusCode.UNAUTHENTICATED,
    errors.AccessDeniedError: grpc.StatusCode.PERMISSION_DENIED,
    errors.UnknownNameError: grpc.StatusCode.NOT_FOUND,
    errors.ConfigurationError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.ModelError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.ModelNotFoundError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.CorruptModelError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.UnservableModelError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.InvalidLogError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.InvalidModelStateError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.ConflictError: grpc.StatusCode.ABORTED,
    errors.IncompatibleWorkerError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.CapacityError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.QuotaError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.WorkerUnavailableError: grpc.StatusCode.UNAVAILABLE,
    errors.DrainingError: grpc.StatusCode.UNAVAILABLE,
    errors.FeatureUnavailableError: grpc.StatusCode.UNIMPLEMENTED,
}

_ERROR_OF_REASON: dict[str, type[ForerunError]] = {kind.reason: kind for kind in STATUS_OF}


def status_of(error: ForerunError) -> status_pb2.Status:
    """The rich status of an error: code, message, ErrorInfo, and RetryInfo if it is known when to call again."""
    code = STATUS_OF.get(type(error), grpc.StatusCode.INTERNAL)
    status = status_pb2.Status(code=code.value[0], message=_cut(str(error), LONGEST_MESSAGE))
    metadata = {name: _cut(value, LONGEST_VALUE) for name, value in error.metadata.items()}
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason=error.reason, domain=ERROR_DOMAIN, metadata=metadata))
    if error.retry_after_s is not None:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromMilliseconds(math.ceil(1000 * error.retry_after_s))
        status.details.add().Pack(retry)
    return status


def _cut(text: str, longest: int) -> str:
    """A text of at most so many bytes: what callers wrote is quoted, and may be of any length."""
    content = text.encode("utf-8", "replace")
    if len(content) <= longest:
        return content.decode()
    return content[: longest - len(CUT.encode())].decode("utf-8", "ignore") + CUT


@asynccontextmanager
async def errors_to_status(context: "grpc.aio.ServicerContext[Any, Any]") -> AsyncIterator[None]:
    """End the call with the matching status when the body raises a deliberate error."""
    try:
        yield
    except ForerunError as error:
        # The public aio context has no abort_with_status; setting the trailing metadata is what that call does.
        status = rpc_status.to_status(status_of(error))
        error.__traceback__ = None  # a frame in it may hold the error, and what the caller sent: a circle
        told = context.trailing_metadata() or ()  # which it would replace
        await context.abort(status.code, status.details, (*told, *status.trailing_metadata))


@contextmanager
def status_to_errors(peer: str) -> Iterator[None]:
    """Raise the deliberate error behind a failed call to `peer`; a lost peer becomes WorkerUnavailableError."""
    try:
        yield
    except grpc.RpcError as error:
        raise error_of(error, peer) from error


def error_of(call: grpc.RpcError, peer: str) -> ForerunError:
    """The deliberate error behind a failed call."""
    info = error_info(call)
    code = call.code() if hasattr(call, "code") else grpc.StatusCode.UNKNOWN
    details = call.details() if hasattr(call, "details") else str(call)
    if info is not None and info.domain == ERROR_DOMAIN and info.reason in _ERROR_OF_REASON:
        kind = _ERROR_OF_REASON[info.reason]
        return _restored(kind, str(details), dict(info.metadata), retry_after_s=retry_after_s(call))
    return errors.WorkerUnavailableError(f"{peer}: {code.name}: {details}", {"peer": peer, "code": code.name})


def _restored(
    kind: type[ForerunError], message: str, metadata: dict[str, str], *, retry_after_s: float | None
) -> ForerunError:
    """An error as the other process raised it: its message is complete, so its own constructor is not asked again."""
    error = kind.__new__(kind)
    ForerunError.__init__(error, message, metadata)
    error.retry_after_s = retry_after_s
    return error


def error_info(call: Any) -> error_details_pb2.ErrorInfo | None:
    """The ErrorInfo that a failed call carries, if it does."""
    return _detail(call, error_details_pb2.ErrorInfo())


def retry_after_s(call: Any) -> float | None:
    """After how many seconds a failed call asks to be repeated, if it does."""
    retry = _detail(call, error_details_pb2.RetryInfo())
    return None if retry is None else retry.retry_delay.ToMilliseconds() / 1000


def _detail(call: Any, empty: Detail) -> Detail | None:
    """The first detail of that kind in the rich status of a failed call."""
    metadata = call.trailing_metadata() if hasattr(call, "trailing_metadata") else None
    for key, value in metadata or ():
        if key == "grpc-status-details-bin":
            status = status_pb2.Status.FromString(value)
            if any(detail.Unpack(empty) for detail in status.details):
                return empty
    return None
