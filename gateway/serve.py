"""The gateway, put together: its socket, its limits on connections, and its end."""

import asyncio
import json
import signal
import socket
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager

import h11
import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from forerun.client import AsyncClient, Retry
from gateway.app import application
from gateway.errors import HTTPProblem, response_of
from gateway.settings import GatewaySettings, HTTPSettings
from speculation.errors import ConfigurationError
from speculation.exposure import require_protection


async def serve(settings: GatewaySettings) -> None:
    """Be a gateway until SIGTERM or SIGINT comes; then let running requests finish, and end.

    Raises:
        ConfigurationError: It cannot listen where it should, or a file of certificates is wrong.
    """
    await until_stopped(running(settings))


async def until_stopped(running: AbstractAsyncContextManager[str]) -> None:
    """Tell the address of what runs, and let it run until SIGTERM or SIGINT comes."""
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with running as address:
        print(json.dumps({"event": "ready", "address": address}), flush=True)
        await stop.wait()


@asynccontextmanager
async def running(settings: GatewaySettings) -> AsyncIterator[str]:
    """The address of a gateway that can be called while the body runs, and drains after it."""
    # Who is refused is told at once when to come back: its own client waits, and no connection is held meanwhile.
    client = AsyncClient(
        settings.controller,
        timeout_s=settings.longest_request_s,
        retry=Retry(refusals=False),
        ca=settings.ca,
        cert=settings.cert,
        server_name=settings.server_name,
    )
    async with client, serving(application(client, settings), settings) as address:
        yield address


@asynccontextmanager
async def serving(app: ASGIApp, settings: HTTPSettings) -> AsyncIterator[str]:
    """The address of an application that can be called while the body runs, and drains after it.

    Raises:
        ConfigurationError: It cannot listen where it should.
    """
    require_protection(
        settings.listen,
        protected=False,
        insecure=settings.insecure,
        remedy="put a proxy that speaks TLS before it, or say --insecure true",
    )
    listening = _listening(settings.listen)
    address = f"{settings.listen.rpartition(':')[0]}:{listening.getsockname()[1]}"
    server = _Server(_config(app, settings))
    answering = asyncio.create_task(server.serve(sockets=[listening]))
    try:
        yield address
    finally:
        server.should_exit = True
        await answering


class _Server(uvicorn.Server):
    """uvicorn's, but the process's signals are ours: it would raise them again after its end."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _config(app: ASGIApp, settings: HTTPSettings) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=_protocol(settings.headers_within_s, settings.most_connections),
        ws="none",
        lifespan="off",
        # Paths and addresses of callers; what happens to a request is in the controller's log.
        access_log=False,
        log_config=None,
        log_level="warning",
        server_header=False,
        proxy_headers=False,
        h11_max_incomplete_event_size=settings.most_header_bytes,
        timeout_keep_alive=settings.idle_s,
        timeout_graceful_shutdown=settings.drain_grace_s,
    )


def _listening(listen: str) -> socket.socket:
    """Bound here and not by uvicorn, which ends the process where it cannot."""
    host, _, port = listen.rpartition(":")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, protocol)
        with _closed_on_error(listening):
            # Should it die, it comes back at once where its callers look for it.
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            # getaddrinfo has cut a port above 65535 down to 16 bits; bind refuses it.
            listening.bind((address[0], int(port)))
            listening.listen()
    except (OSError, OverflowError) as error:
        raise ConfigurationError("listen", f"{listen}: {error}") from error
    return listening


@contextmanager
def _closed_on_error(opened: socket.socket) -> Iterator[None]:
    try:
        yield
    except BaseException:
        opened.close()
        raise


def _protocol(within_s: float, most_connections: int) -> type[asyncio.Protocol]:
    """uvicorn's HTTP, which waits for the headers of a request for ever, with a limit on that and on connections; and
    where it speaks for itself, in the gateway's words.
    """

    class HurriedProtocol(H11Protocol):
        """Closes a connection whose caller does not come to the point, or goes on sending after the answer."""

        _impatience: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            if len(self.connections) > most_connections:
                self.app = _crowded
            self._watch()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._watch()

        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            self._calm()

        def send_400_response(self, msg: str) -> None:
            if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
                for event in _events(_NO_HTTP):
                    self.transport.write(self.conn.send(event) or b"")
            self.transport.close()

        def _watch(self) -> None:
            # Between two requests, uvicorn's own limit on idle connections holds until data come.
            if self.cycle is not None and not self.cycle.response_complete:
                self._calm()
            elif self._impatience is None:
                self._impatience = self.loop.call_later(within_s, self.transport.close)

        def _calm(self) -> None:
            if self._impatience is not None:
                self._impatience.cancel()
                self._impatience = None

    return HurriedProtocol


_CLOSED = {"Connection": "close"}
_NO_HTTP = HTTPProblem(400, "this is no HTTP/1.1 request, or its headers are too large", code="invalid_http")


async def _crowded(scope: Scope, receive: Receive, send: Send) -> None:
    """An ASGI application for those for whom there is no room."""
    problem = HTTPProblem(503, "too many connections at once; come back after a pause", code="too_many_connections")
    await response_of(problem, _CLOSED)(scope, receive, send)


def _events(problem: HTTPProblem) -> Iterable[h11.Event]:
    response = response_of(problem, _CLOSED)
    yield h11.Response(status_code=response.status_code, headers=response.raw_headers)
    yield h11.Data(data=bytes(response.body))
    yield h11.EndOfMessage()
