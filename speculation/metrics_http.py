"""Metrics over HTTP, in a thread of its own: GET /metrics, one caller at a time, nothing else.

What is told belongs to the event loop, so it is gathered there, in one piece; a loop that is stuck answers no scrape,
and that is how it is noticed. Only the text is made in the thread.
"""

import asyncio
import logging
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from socketserver import TCPServer
from threading import Thread
from typing import Any, Generic
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import CollectorRegistry, ProcessCollector, make_wsgi_app
from prometheus_client.core import Metric as Family
from prometheus_client.registry import Collector

from speculation.errors import ConfigurationError
from speculation.metrics import Facts, Kind, Metric

logger = logging.getLogger(__name__)

PATH = "/metrics"

GATHER_TIMEOUT_S = 5.0
CALLER_TIMEOUT_S = 5.0

LOOP_WAIT: Metric[float] = Metric(
    Kind.GAUGE,
    "forerun_event_loop_wait_seconds",
    "How long this very scrape waited for the process's event loop, seconds.",
    lambda waited_s: waited_s,
)
"""The one metric that every process of ours has."""


class FactsCollector(Collector, Generic[Facts]):
    """Tells the metrics of a process whose facts belong to an event loop.

    Args:
        metrics: Which.
        look: Gathers the facts, on the loop.
        loop: Whose they are.
    """

    def __init__(
        self,
        metrics: Sequence[Metric[Facts]],
        look: Callable[[], Awaitable[Facts]],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._metrics, self._look, self._loop = metrics, look, loop

    def describe(self) -> Iterable[Family]:
        """Every metric there may be, without values."""
        return [LOOP_WAIT.family(), *(metric.family() for metric in self._metrics)]

    def collect(self) -> Iterable[Family]:
        """Every metric with its values.

        Raises:
            TimeoutError: The loop did not answer.
        """
        gathering = asyncio.run_coroutine_threadsafe(self._gathered(time.perf_counter()), self._loop)
        try:
            return gathering.result(GATHER_TIMEOUT_S)
        finally:
            gathering.cancel()

    async def _gathered(self, asked_at: float) -> list[Family]:
        waited_s = time.perf_counter() - asked_at
        facts = await self._look()
        told = ((metric, metric.read(facts)) for metric in self._metrics)
        return [LOOP_WAIT.family(waited_s), *(metric.family(values) for metric, values in told if values is not None)]


@asynccontextmanager
async def serving_metrics(
    listen: str, metrics: Sequence[Metric[Facts]], look: Callable[[], Awaitable[Facts]], *, field: str
) -> AsyncIterator[str]:
    """Serve metrics while the body runs.

    Args:
        listen: host:port; port 0 takes a free one.
        metrics: Which, besides those of the process itself (processor, memory, files).
        look: Gathers their facts, on this event loop.
        field: The setting that says where to listen, for the error.

    Yields:
        The address.

    Raises:
        ConfigurationError: There is nothing to listen on.
    """
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    registry.register(FactsCollector(metrics, look, asyncio.get_running_loop()))
    server = _bound(listen, field)
    server.set_app(_only_metrics(make_wsgi_app(registry)))
    Thread(target=server.serve_forever, name="metrics", daemon=True).start()
    address = f"{listen.rpartition(':')[0]}:{server.server_port}"
    logger.info("metrics are served", extra={"url": f"http://{address}{PATH}"})
    try:
        yield address
    finally:
        await asyncio.to_thread(server.shutdown)  # a scrape under way waits for this loop
        server.server_close()


class _Server(WSGIServer):
    """One caller at a time: scrapes are rare, and a second one would find the same numbers."""

    def __init__(self, family: socket.AddressFamily, address: Any) -> None:
        self.address_family = family
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        """Without asking the name service who we are, as the library does."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])
        self.setup_environ()

    def handle_error(self, request: object, client_address: object) -> None:
        """A caller that went away or said nothing is none of our trouble."""
        logger.debug("a scrape ended early", exc_info=True)


class _Handler(WSGIRequestHandler):
    timeout = CALLER_TIMEOUT_S

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: scrapes come every few seconds, for years."""


def _bound(listen: str, field: str) -> _Server:
    host, _, port = listen.rpartition(":")
    try:
        found = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, *_, address = found[0]
        return _Server(family, (address[0], int(port), *address[2:]))
    except (OSError, OverflowError, ValueError) as error:
        raise ConfigurationError(field, f"{listen}: {error}") from error


def _only_metrics(metrics: Callable[..., Iterable[bytes]]) -> Callable[..., Iterable[bytes]]:
    """The library's application, at its path alone; who comes while the event loop is stuck is told so."""

    def answer(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if environ["PATH_INFO"] != PATH:
            return _refusal(start_response, "404 Not Found", f"metrics are at {PATH}")
        try:
            return metrics(environ, start_response)
        except TimeoutError:
            return _refusal(start_response, "503 Service Unavailable", "the event loop does not answer")

    return answer


def _refusal(start_response: Callable[..., Any], status: str, why: str) -> Iterable[bytes]:
    start_response(status, [("Content-Type", "text/plain; charset=utf-8")])
    return [f"{why}\n".encode()]
