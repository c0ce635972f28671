"""What the page offers: its files, and the calls that they make."""

from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.responses import Response
from starlette.staticfiles import StaticFiles

from gateway.door import Door
from gateway.errors import add_error_handlers
from page.calls import Calls
from page.guard import API, Guard
from page.settings import PageSettings

STATIC = Path(__file__).with_name("static")


def application(calls: Calls, settings: PageSettings) -> Door:
    """An ASGI application in front of a controller.

    Args:
        calls: Asks the controller.
        settings: Names and limits.
    """
    app = FastAPI(title="Forerun", openapi_url=None, telemetry={"tracing": False, "metrics": False, "logs": False})
    add_error_handlers(app)

    @app.post(f"{API}{{service}}/{{method}}")
    async def call(service: str, method: str, request: Request) -> Response:
        """One call of an operator."""
        authorization = request.headers.get("authorization")
        answer = await calls.call(f"{service}/{method}", await request.body(), authorization=authorization)
        return Response(answer, media_type="application/json")

    app.mount("/", StaticFiles(directory=STATIC, html=True))
    # A page asks once a second; what operators do is in the controller's log.
    return Door(Guard(app, _hosts(settings)), settings, quiet=True)


def _hosts(settings: PageSettings) -> set[str]:
    """Names by which browsers may call the page."""
    listening = settings.listen.rpartition(":")[0].strip("[]").lower()
    return {"localhost", "127.0.0.1", "::1", listening, settings.host.lower()} - {"", "0.0.0.0", "::"}
