"""What went wrong, in OpenAI's words: an HTTP status and `{"error": {"message", "type", "param", "code"}}`."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import grpc
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from forerun.client import DeadlineExceededError
from speculation.errors import ForerunError, PromptTooLongError, UnknownNameError, WorkerUnavailableError
from speculation.rpc import STATUS_OF

HTTP_STATUS_OF: Mapping[grpc.StatusCode, int] = {
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.FAILED_PRECONDITION: 400,
    grpc.StatusCode.OUT_OF_RANGE: 400,
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.ABORTED: 409,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.UNIMPLEMENTED: 501,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
}
"""Any other status is 500."""

RETRY_AFTER_S = 1
"""When to come back, where the controller does not say."""

LONGEST_PARAM = 128

_TYPE_OF = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
_PARAM_OF = {
    "text": "prompt",
    "tokens": "prompt",
    "token_ids": "prompt",
    "chat": "messages",
    "max_new_tokens": "max_tokens",
    "task": "speculation.task",
    "tenant": "speculation.tenant",
    "latency_class": "service_tier",
    "policy": "speculation.policy",
    "drafter": "speculation.drafters",
    "drafters": "speculation.drafters",
}
"""Fields of a GenerateRequest that have another name or place here."""


class Problem(BaseModel):
    """What went wrong.

    Attributes:
        message: In words.
        type: What kind of error it is.
        param: The field that is wrong, if one is.
        code: For programs.
    """

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    """An error, as OpenAI's clients read it."""

    error: Problem


class HTTPProblem(Exception):  # noqa: N818 - raised to be answered, like starlette's HTTPException
    """Ends a request with an error of the gateway's own."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.retry_after_s = status, RETRY_AFTER_S if retry_after_s is None else retry_after_s
        self.body = _body(status, message, param=param, code=code)


def _body(status: int, message: str, *, param: str | None = None, code: str | None = None) -> ErrorBody:
    kind = _TYPE_OF.get(status, "server_error" if status >= 500 else "invalid_request_error")
    return ErrorBody(error=Problem(message=message, type=kind, param=param, code=code))


def problem_of(error: ForerunError) -> HTTPProblem:
    """What a caller is told of an error of the controller."""
    status = HTTP_STATUS_OF.get(_grpc_status(error), 500)
    return HTTPProblem(
        status,
        _message(error, status),
        param=_param(error),
        code=_code(error),
        retry_after_s=error.retry_after_s,
    )


def _code(error: ForerunError) -> str:
    if isinstance(error, PromptTooLongError):
        return "context_length_exceeded"
    return (error.metadata["code"] if _from_afar(error) else error.reason).lower()


def _message(error: ForerunError, status: int) -> str:
    """What the controller said; where it said nothing, our words: where it runs is not the caller's business."""
    if isinstance(error, DeadlineExceededError):
        return "the answer was not complete in time"
    if not _from_afar(error):
        return str(error)
    if status == 503:
        return "no controller answers; come back after a pause"
    peer, code = error.metadata["peer"], error.metadata["code"]
    return "the controller failed" if status >= 500 else str(error).removeprefix(f"{peer}: {code}: ")


def _from_afar(error: ForerunError) -> bool:
    """Whether it was raised on this side, for a status that came without an error of ours."""
    return isinstance(error, WorkerUnavailableError) and "code" in error.metadata


def _grpc_status(error: ForerunError) -> grpc.StatusCode:
    if isinstance(error, DeadlineExceededError):
        return grpc.StatusCode.DEADLINE_EXCEEDED
    if _from_afar(error):
        return grpc.StatusCode[error.metadata["code"]]
    return STATUS_OF.get(type(error), grpc.StatusCode.INTERNAL)


def _param(error: ForerunError) -> str | None:
    field = error.metadata.get("kind" if isinstance(error, UnknownNameError) else "field")
    if field is not None and field.startswith("shape"):
        return f"speculation.{field}"
    return _PARAM_OF.get(field, field) if field is not None else None


def response_of(problem: HTTPProblem, headers: Mapping[str, str] | None = None) -> Response:
    """The whole answer to a request that failed."""
    told = dict(headers or {})
    if problem.status in (429, 503):
        told["Retry-After"] = str(math.ceil(problem.retry_after_s))
    if problem.status == 401:
        told["WWW-Authenticate"] = "Bearer"
    # In ASCII: a name of the caller's that is repeated may hold half a character, which no other encoding takes.
    body = json.dumps(problem.body.model_dump())
    return Response(body, status_code=problem.status, headers=told, media_type="application/json")


def add_error_handlers(app: FastAPI) -> None:
    """Answer every error in OpenAI's form."""

    async def ours(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPProblem)
        return response_of(error)

    async def the_controllers(request: Request, error: Exception) -> Response:
        assert isinstance(error, ForerunError)
        return response_of(problem_of(error))

    async def a_wrong_body(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return response_of(_invalid(error.errors()))

    async def a_wrong_call(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return response_of(HTTPProblem(error.status_code, str(error.detail)), error.headers)

    async def unexpected(request: Request, error: Exception) -> Response:
        return response_of(HTTPProblem(500, "the gateway failed; its log says why", code="internal"))

    app.add_exception_handler(HTTPProblem, ours)
    app.add_exception_handler(ForerunError, the_controllers)
    app.add_exception_handler(RequestValidationError, a_wrong_body)
    app.add_exception_handler(HTTPException, a_wrong_call)
    app.add_exception_handler(Exception, unexpected)


def _invalid(problems: Sequence[Mapping[str, Any]]) -> HTTPProblem:
    """The first thing that is wrong with a body; what the caller wrote is not repeated."""
    first = problems[0]
    kind, place = first["type"], first["loc"]
    if kind == "json_invalid":
        return HTTPProblem(400, "the body is no JSON", code="invalid_json")
    param = _place(place[1:])
    if param is None:
        return HTTPProblem(400, "the body must be a JSON object, sent as application/json", code="invalid_json")
    if kind == "extra_forbidden":
        return HTTPProblem(400, f"unrecognized request argument: {param}", param=param, code="unknown_parameter")
    if kind == "missing":
        return HTTPProblem(400, f"{param} is missing", param=param, code="missing_required_parameter")
    if kind == "none_required":
        return HTTPProblem(400, f"{param} is not offered here; leave it out", param=param, code="unsupported_parameter")
    if kind == "literal_error":
        message = f"{param}: only {first['ctx']['expected']} is offered here"
        return HTTPProblem(400, message, param=param, code="unsupported_value")
    return HTTPProblem(400, f"{param}: {first['msg'].removeprefix('Value error, ')}", param=param, code="invalid_value")


def _place(parts: Sequence[int | str]) -> str | None:
    """A field's place in the body; between its names, pydantic also tells which alternative of a type it tried."""
    names = [
        str(part)
        for level, part in enumerate(parts)
        if level == 0 or not (part in _ALTERNATIVES or str(part).startswith("list["))
    ]
    return ".".join(names)[:LONGEST_PARAM] or None


_ALTERNATIVES = frozenset({"str", "int", "none"})
