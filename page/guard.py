"""What keeps other web sites out of the page: a browser visits them, too, and reaches this machine from them."""

from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.errors import HTTPProblem, response_of

API = "/api/"

# 'self' and nothing else: no script, style, plot or word comes from elsewhere, and nothing that the page shows can
# become a script.
CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)

HEADERS = {
    "content-security-policy": CONTENT_SECURITY_POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}


class Guard:
    """Lets in what the page's own scripts ask for. An ASGI application around another one.

    No cookie is ever set, so another site has nothing to misuse but the browser's place on the network: where a
    controller asks for no token, that would be enough. So a call needs a body of JSON, which no other site can send
    without asking first (CORS), and must not say that it comes from elsewhere; and the page answers to its own names
    only, so that no other name can be bent to its address (DNS rebinding).

    Args:
        app: What is guarded.
        hosts: Names by which it may be called.
    """

    def __init__(self, app: ASGIApp, hosts: Collection[str]) -> None:
        self._app = app
        self._hosts = frozenset(hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Be an ASGI application."""

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                # Figures are of the moment, and nobody else's; files change with the release.
                headers["cache-control"] = "no-store" if scope["path"].startswith(API) else "no-cache"
            await send(message)

        problem = self._problem(scope["path"], Headers(scope=scope))
        await (self._app if problem is None else response_of(problem))(scope, receive, with_headers)

    def _problem(self, path: str, headers: Headers) -> HTTPProblem | None:
        host = headers.get("host", "")
        if _name(host) not in self._hosts:
            known = ", ".join(sorted(self._hosts))
            return HTTPProblem(
                421, f"the page is not called that; it is called {known}, or as --host says", code="host"
            )
        if path.startswith(API):
            if headers.get("content-type", "").partition(";")[0].strip() != "application/json":
                return HTTPProblem(415, "a call must be application/json", code="content_type")
            origin = headers.get("origin")
            elsewhere = origin is not None and urlsplit(origin).netloc != host
            if elsewhere or headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
                return HTTPProblem(403, "calls come from the page itself, and from no other site", code="origin")
        return None


def _name(host: str) -> str:
    """Without the port."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""
