"""What every request passes before it is read: its name, its size, its time, and whether its caller is still there."""

import asyncio
import logging
import re
import time
import uuid
from collections.abc import Awaitable

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.errors import HTTPProblem, response_of
from gateway.settings import HTTPSettings
from speculation.correlation import Correlation, correlated
from speculation.tracing import context_of, trace_id_in

logger = logging.getLogger(__name__)

REQUEST_ID = "x-request-id"
_GOOD_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")

LONGEST_PATH = 128
"""Characters of a path that are logged."""

CLOSING_S = 10.0
"""After an answer had to be complete: for callers that read slowly."""


class CallerLeft(Exception):  # noqa: N818 - nobody is there to be told of an error
    """The connection was closed before the request had come."""


class Door:
    """Lets requests in one way, and out when their caller leaves: then all that was begun for them is cancelled.

    An ASGI application around another one.

    Args:
        app: What answers.
        settings: Limits.
        quiet: Whether only requests are logged that were not answered well.
    """

    def __init__(self, app: ASGIApp, settings: HTTPSettings, *, quiet: bool = False) -> None:
        self._app = app
        self._settings = settings
        self._quiet = quiet

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Be an ASGI application."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        visit = _Visit(send)
        try:
            scope.setdefault("state", {})["request_id"] = visit.name(Headers(scope=scope))
            with correlated(visit.correlation):
                body = await self._body(Headers(scope=scope), receive)
                await self._serve(scope, body, receive, visit.send)
        except HTTPProblem as problem:
            # What is still to come of the body is thrown away for a while (HurriedProtocol): a connection that is
            # closed at once would be reset before its caller has read why.
            await response_of(problem)(scope, receive, visit.send)
        except CallerLeft:
            return
        finally:
            if not (self._quiet and visit.well):
                visit.log(scope)

    async def _body(self, headers: Headers, receive: Receive) -> bytes:
        most = self._settings.longest_body_bytes
        told = headers.get("content-length", "0")
        if told.isdigit() and int(told) > most:
            raise _too_large(most)
        body = bytearray()
        try:
            async with asyncio.timeout(self._settings.body_within_s):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise CallerLeft
                    body += message.get("body", b"")
                    if len(body) > most:
                        raise _too_large(most)
                    if not message.get("more_body", False):
                        return bytes(body)
        except TimeoutError:
            within_s = self._settings.body_within_s
            raise HTTPProblem(408, f"the body did not come within {within_s:g} s", code="timeout") from None

    async def _serve(self, scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
        """Run the application until it has answered, its caller has left, or the time is up."""
        serving = asyncio.ensure_future(_awaited(self._app(scope, _repeating(body), send)))
        leaving = asyncio.ensure_future(_left(receive))
        longest_s = self._settings.longest_request_s + CLOSING_S
        try:
            await asyncio.wait({serving, leaving}, timeout=longest_s, return_when=asyncio.FIRST_COMPLETED)
            if serving.done():
                serving.result()
        finally:
            serving.cancel()
            leaving.cancel()
            await asyncio.gather(serving, leaving, return_exceptions=True)


async def _awaited(call: Awaitable[None]) -> None:
    await call


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _repeating(body: bytes) -> Receive:
    """Gives the body that has been read, and then nothing: that the caller leaves is the door's to notice."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Message:
        if messages:
            return messages.pop()
        await asyncio.Event().wait()
        raise AssertionError

    return receive


class _Visit:
    """One request at the door: its name, told with the answer, and what is logged of it."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._request_id = uuid.uuid4().hex
        self._trace_id = ""
        self._began = time.monotonic()
        self._status: int | None = None
        self._complete = False

    def name(self, headers: Headers) -> str:
        """The caller's name for it, or else ours."""
        self._trace_id = trace_id_in(context_of(headers.get("traceparent")))
        given = headers.get(REQUEST_ID, self._request_id)
        if _GOOD_REQUEST_ID.fullmatch(given) is None:
            problem = "must be 1 to 128 printable ASCII characters without a space"
            raise HTTPProblem(400, f"{REQUEST_ID}: {problem}", param=REQUEST_ID, code="invalid_value")
        self._request_id = given
        return given

    @property
    def correlation(self) -> Correlation:
        """What lines about it have in common, once it has been named."""
        return Correlation(request_id=self._request_id, trace_id=self._trace_id)

    async def send(self, message: Message) -> None:
        """Send on a part of the answer."""
        if message["type"] == "http.response.start":
            self._status = message["status"]
            MutableHeaders(scope=message)[REQUEST_ID] = self._request_id
        self._complete = message["type"] == "http.response.body" and not message.get("more_body", False)
        await self._send(message)

    @property
    def well(self) -> bool:
        """Whether it was answered, and well."""
        return self._complete and self._status is not None and self._status < 400

    def log(self, scope: Scope) -> None:
        """Say how it ended; nothing of what it said."""
        logger.info(
            "request ended",
            extra={
                "request_id": self._request_id,
                "trace_id": self._trace_id,
                "method": scope["method"],
                "path": scope["path"][:LONGEST_PATH],
                "status": self._status,
                "complete": self._complete,
                "total_ms": int(1000 * (time.monotonic() - self._began)),
            },
        )


def _too_large(most: int) -> HTTPProblem:
    return HTTPProblem(413, f"the body has more than {most} bytes", code="body_too_large")
