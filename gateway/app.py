"""The calls that are offered, and what each of them asks the controller."""

import time
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import Response

from forerun.client import AsyncClient, GenerateOptions
from gateway.answers import Form, Head, written
from gateway.chat import ChatCompletion, ChatForm, ChatRequest
from gateway.completions import Completion, CompletionForm, CompletionRequest
from gateway.door import Door
from gateway.errors import ErrorBody, HTTPProblem, add_error_handlers
from gateway.models import Model, ModelList, Models
from gateway.settings import GatewaySettings
from gateway.streaming import EventStream

PASSED_ON = ("authorization", "traceparent", "tracestate")
"""Headers that the controller gets as they came, as gRPC metadata."""

ERRORS: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": ErrorBody, "description": "The request is wrong, or is not allowed"},
    "5XX": {"model": ErrorBody, "description": "It cannot be answered now"},
}


def application(client: AsyncClient, settings: GatewaySettings) -> Door:
    """An ASGI application in front of a controller.

    Args:
        client: Calls the controller.
        settings: Names and limits.
    """
    app = FastAPI(
        title="Forerun",
        description="OpenAI-compatible HTTP in front of a Forerun controller; see docs/openai.md.",
        version="1",
        # Their pages load scripts from elsewhere.
        docs_url=None,
        redoc_url=None,
        # A path that is nearly one is none: a redirect would be made of the Host that the caller names.
        redirect_slashes=False,
        # It would hand on what callers wrote, where validation fails. Traces go on to the controller by their headers.
        telemetry={"tracing": False, "metrics": False, "logs": False},
    )
    add_error_handlers(app)
    models = Models(client, settings.model_name)
    _add_answers(app, client, models)
    _add_models(app, models)
    _add_health(app, client)
    return Door(app, settings)


def _add_answers(app: FastAPI, client: AsyncClient, models: Models) -> None:
    @app.post("/v1/completions", response_model=Completion, responses={200: _STREAMED, **ERRORS})
    async def completions(body: CompletionRequest, request: Request) -> Response:
        """Continue a text."""
        options = await _options(body, request, models)
        head = _head("cmpl", request, body, options)
        return await _answered(client, body, options, CompletionForm(head, body))

    @app.post("/v1/chat/completions", response_model=ChatCompletion, responses={200: _STREAMED, **ERRORS})
    async def chat_completions(body: ChatRequest, request: Request) -> Response:
        """Answer a conversation."""
        options = await _options(body, request, models)
        head = _head("chatcmpl", request, body, options)
        return await _answered(client, body, options, ChatForm(head, body))


def _add_models(app: FastAPI, models: Models) -> None:
    @app.get("/v1/models", responses=ERRORS)
    async def list_models(request: Request) -> ModelList:
        """What can be asked."""
        return ModelList(data=await models.listed(_passed_on(request)))

    @app.get("/v1/models/{name:path}", responses=ERRORS)
    async def retrieve_model(name: str, request: Request) -> Model:
        """One of them."""
        return await models.named(name, _passed_on(request))


def _add_health(app: FastAPI, client: AsyncClient) -> None:
    @app.get("/health", responses=ERRORS)
    async def health() -> dict[str, str]:
        """Whether the controller says that it can answer requests."""
        if not await client.serves():
            raise HTTPProblem(503, "the controller does not serve: it has no target, or it ends", code="not_serving")
        return {"status": "serving"}


_STREAMED: dict[str, Any] = {
    "description": "The answer; with `stream`, server-sent events of its chunks",
    # Without a schema: readers of the document take one as that of each event, in an object of theirs.
    "content": {"text/event-stream": {}},
}

AnyRequest = CompletionRequest | ChatRequest


async def _options(body: AnyRequest, request: Request, models: Models) -> GenerateOptions:
    """What the controller is asked for; raises where the body contradicts itself or asks for an unknown model."""
    options = body.options()
    options["request_id"] = request.state.request_id
    options["metadata"] = _passed_on(request)
    await models.check(body.model, options["metadata"])
    return options


def _head(kind: str, request: Request, body: AnyRequest, options: GenerateOptions) -> Head:
    return Head(
        id=f"{kind}-{request.state.request_id}", created=int(time.time()), model=body.model, seed=options["seed"]
    )


async def _answered(client: AsyncClient, body: AnyRequest, options: GenerateOptions, form: Form) -> Response:
    deltas = client.stream(body.text, **options)
    if body.stream:
        first = await anext(deltas, None)
        return EventStream(deltas, first, form, include_usage=body.include_usage)
    async with deltas:
        async for _ in deltas:
            pass
    return Response(written(form.whole(deltas.generation)), media_type="application/json")


def _passed_on(request: Request) -> Mapping[str, str]:
    passed = {name: value for name in PASSED_ON if (value := request.headers.get(name)) is not None}
    for name, value in passed.items():
        if not (value.isascii() and value.isprintable()):
            raise HTTPProblem(400, f"{name}: must be printable ASCII", param=name, code="invalid_value")
    return passed
