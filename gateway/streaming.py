"""An answer as server-sent events, each of them one JSON object, and `[DONE]` at the end."""

from collections.abc import AsyncIterator

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from forerun.client import AsyncStream, Delta
from gateway.answers import Form, written
from gateway.errors import problem_of
from speculation.errors import ForerunError

DONE = "[DONE]"


class EventStream(Response):
    """Writes deltas as they come; however it ends, the call to the controller ends with it.

    What fails after the first event can no longer change the HTTP status: it is told by an event `{"error": ...}`, and
    `[DONE]` does not follow.

    Args:
        deltas: The call.
        first: Its first delta, already read, so that what fails before it has a status of its own; None: there is none.
        form: How events are written.
        include_usage: Whether one tells the usage.
    """

    media_type = "text/event-stream"

    def __init__(self, deltas: AsyncStream, first: Delta | None, form: Form, *, include_usage: bool) -> None:
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._deltas = deltas
        self._first = first
        self._form = form
        self._include_usage = include_usage

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Be an ASGI application."""
        async with self._deltas:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            async for event in self._events():
                await send({"type": "http.response.body", "body": f"data: {event}\n\n".encode(), "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _events(self) -> AsyncIterator[str]:
        for chunk in self._form.opening():
            yield written(chunk)
        if self._first is not None:
            yield written(self._form.delta(self._first))
        try:
            async for delta in self._deltas:
                yield written(self._form.delta(delta))
        except ForerunError as error:
            yield problem_of(error).body.model_dump_json()
            return
        yield written(self._form.closing(self._deltas.generation))
        if self._include_usage:
            yield written(self._form.usage(self._deltas.generation))
        yield DONE
