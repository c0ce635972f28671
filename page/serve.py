"""The page, put together: its way to the controller, its socket and its end."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from forerun.connection import Connection
from gateway.serve import serving, until_stopped
from page.app import application
from page.calls import Calls
from page.settings import PageSettings
from speculation.errors import ConfigurationError
from speculation.exposure import is_loopback


async def serve(settings: PageSettings) -> None:
    """Be a page until SIGTERM or SIGINT comes.

    Raises:
        ConfigurationError: It cannot listen where it should, or cannot reach the controller safely.
    """
    await until_stopped(running(settings))


@asynccontextmanager
async def running(settings: PageSettings) -> AsyncIterator[str]:
    """The address of a page that can be called while the body runs."""
    if settings.ca is None and not (settings.insecure or is_loopback(settings.controller)):
        raise ConfigurationError(
            "ca", f"tokens would travel in plain text to {settings.controller}: name the ca of its certificate"
        )
    connection = Connection.to(
        settings.controller, ca=settings.ca, cert=settings.cert, server_name=settings.server_name
    )
    calls = Calls(connection, timeout_s=settings.longest_request_s)
    try:
        async with serving(application(calls, settings), settings) as address:
            yield address
    finally:
        await calls.close()
