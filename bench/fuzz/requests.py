"""Hostile HTTP requests, byte by byte."""

import contextlib
import json
import random
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from typing import Any

from hypothesis import strategies as st

from bench.fuzz.calls import NOBODY, Caller
from bench.fuzz.judging import HangError, LeakError, Secret, StatusError
from bench.fuzz.values import FLOATS, LONE_SURROGATES, TEXTS, among, integers

WITHIN_S = 20.0
"""In which an answer must be complete, and a connection without one closed."""

PROPER = frozenset({200, 400, 401, 403, 404, 405, 408, 409, 411, 413, 414, 415, 417, 426, 429, 431, 501, 505})
"""Of a fleet that is well: of what went wrong on our side, nothing."""

MODEL = "target"
COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"

VALID: Mapping[str, Sequence[Mapping[str, Any]]] = {
    COMPLETIONS: (
        {"model": MODEL, "prompt": "def f(", "max_tokens": 4},
        {"model": MODEL, "prompt": [5, 6, 7], "max_tokens": 4, "stream": True, "seed": 7},
        {
            **{"model": MODEL, "prompt": "The secret word of acme is ", "max_tokens": 4, "temperature": 0.8},
            **{"logprobs": 3, "stop": ["\n"], "logit_bias": {"5": -100}, "top_k": 9, "min_p": 0.1, "ignore_eos": True},
            "speculation": {"drafters": ["suffix"], "shape": {"depth": 4, "branching": 2, "budget": 8}, "task": "code"},
        },
    ),
    CHAT: (
        {"model": MODEL, "messages": [{"role": "user", "content": "2 + 2?"}], "max_tokens": 4},
        {
            "model": MODEL,
            "messages": [
                {"role": "system", "content": "short"},
                {"role": "user", "content": [{"type": "text", "text": "a"}]},
            ],
            **{"max_completion_tokens": 3, "stream": True, "stream_options": {"include_usage": True}},
            **{"logprobs": True, "top_logprobs": 2, "top_p": 0.9, "response_format": {"type": "text"}},
        },
    ),
}
"""Bodies that are answered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is sent over one connection.

    Attributes:
        head: Request line and headers, with the empty line if they have one.
        body: After it.
        caller: By whom.
        pauses_s: Before each eighth of it; 0: it comes at once.
        leaves: Whether the caller goes without reading.
        whole: Whether anybody would take this for a request that has come to its end.
    """

    head: bytes
    body: bytes
    caller: Caller
    pauses_s: float = 0.0
    leaves: bool = False
    whole: bool = True

    @property
    def method(self) -> str:
        """As an HTTP client must know it to read the answer."""
        return "HEAD" if self.head.startswith(b"HEAD ") else "GET"


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back: status 0 if the connection was closed without a word."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    took_s: float


def requests(callers: Sequence[Caller]) -> st.SearchStrategy[Request]:
    """Hostile requests to a gateway."""
    bodies = st.one_of(*(_body(path, valid) for path, some in VALID.items() for valid in some))
    wrong_bodies = st.one_of(*(_body(path, valid, junk=True) for path, some in VALID.items() for valid in some))
    return st.one_of(
        bodies.flatmap(lambda body: _sent(callers, *body)),
        bodies.flatmap(lambda body: _sent(callers, *body)),
        wrong_bodies.flatmap(lambda body: _sent(callers, *body)),
        _heads(callers),
        _BYTES,
    )


def good(body: Mapping[str, Any], caller: Caller) -> Request:
    """A completion as it should be asked for."""
    return _framed(COMPLETIONS, json.dumps(body).encode(), caller, "length", "application/json", b"", 0.0, False)


def _sent(callers: Sequence[Caller], path: str, body: bytes) -> st.SearchStrategy[Request]:
    """A body under proper and under improper headers."""
    return st.builds(
        _framed,
        st.just(path),
        st.just(body),
        among(callers),
        among(["length"] * 12 + ["chunks", "chunks", "wrong chunks", "long", "short", "negative", "both", "none"]),
        among(["application/json"] * 12 + _KINDS),
        _EXTRA,
        among([0.0] * 60 + [0.03, 0.2]),
        st.integers(0, 19).map(lambda chance: chance == 0),
    )


def _framed(
    path: str, body: bytes, caller: Caller, framing: str, kind: str, extra: bytes, pauses_s: float, leaves: bool
) -> Request:
    length = b"Content-Length: %d\r\n"
    sizes = {"length": len(body), "long": len(body) + 5, "short": max(0, len(body) - 5), "both": len(body)}
    fields = length % sizes[framing] if framing in sizes else b""
    if framing == "negative":
        fields = length % -5
    if framing in ("chunks", "both", "wrong chunks"):
        fields += b"Transfer-Encoding: chunked\r\n"
        half = len(body) // 2
        claimed = half + 3 if framing == "wrong chunks" else half
        rest = body[half:]
        body = (
            b"%x;a=b\r\n%s\r\n%x\r\n%s\r\n0\r\n\r\n" % (claimed, body[:half], len(rest), rest) if half else b"0\r\n\r\n"
        )
    head = b"POST %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: %s\r\n%s%s%s\r\n" % (
        path.encode(),
        kind.encode(),
        _shown(caller),
        fields,
        extra,
    )
    whole = framing in ("length", "chunks")
    return Request(head=head, body=body, caller=caller, pauses_s=pauses_s, leaves=leaves, whole=whole and not extra)


def _heads(callers: Sequence[Caller]) -> st.SearchStrategy[Request]:
    """Requests without a body, of every path and of none."""

    def made(method: str, path: str, version: str, caller: Caller, extra: bytes) -> Request:
        line = f"{method} {path} {version}\r\n".encode("latin-1", "replace")
        head = line + b"Host: x\r\nConnection: close\r\n" + _shown(caller) + extra + b"\r\n"
        return Request(head=head, body=b"", caller=caller, whole=False)

    return st.builds(
        made,
        among(["GET"] * 6 + ["POST", "PUT", "DELETE", "HEAD", "OPTIONS", "TRACE", "CONNECT", "get", "X" * 300]),
        st.one_of(among(_PATHS), st.text(max_size=30).map("/".__add__)),
        among(["HTTP/1.1"] * 9 + ["HTTP/1.0", "HTTP/0.9", "HTTP/2.0", "HTTP/9999999.1", "ICY"]),
        among(callers),
        _EXTRA,
    )


_BYTES = st.one_of(
    st.binary(min_size=1, max_size=200),
    among(
        [
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00",
            b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03" + b"\x5a" * 150,  # TLS
            b"*1\r\n$4\r\nPING\r\n",  # Redis
            b"GET /health\r\n\r\n",
            b"\r\n" * 300,
            b"GET /health HTTP/1.1\nHost: x\n\n",
            b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n" * 40,
            b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 100_000 + b"\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: x\r\n" + b"".join(b"A%d: b\r\n" % name for name in range(9_000)) + b"\r\n",
            b"GET / HTTP/1.1\r\nHost: x\r\n b\r\n\r\n",
            b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
            b"GET /health HTTP/1.1\r\n\r\n",
            b"GET /health HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
            b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\nContent-Length: 10\r\n\r\n{}",
            b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n{}",
            b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\n{}",
            b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n",
            b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n",
            b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
            b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\r\n",
        ]
    ),
).map(lambda sent: Request(head=sent, body=b"", caller=NOBODY, whole=False))
"""What is no HTTP, or another one."""


_KINDS = [
    "",
    "text/plain",
    "application/json; charset=utf-16",
    "application/x-www-form-urlencoded",
    "multipart/form-data",
]
_PATHS = [
    *(
        "/",
        "/health",
        "/v1/models",
        "/v1/models/target",
        "/v1/models/%00",
        "/v1/models/" + "a" * 5_000,
        "/openapi.json",
    ),
    *("/v1/completions", "/v1/completions/", "/v1//models", "/docs", "/metrics", "/..%2f..%2fetc/passwd", "*", ""),
    *("http://elsewhere/health", "/health?" + "a=b&" * 500, "/v1/models/\xe9", "//elsewhere/v1/models/"),
]
_EXTRA = st.one_of(
    *[st.just(b"")] * 4,
    among(
        [
            b"X-Request-Id: \r\n",
            b"X-Request-Id: a b\r\n",
            b"X-Request-Id: " + b"r" * 129 + b"\r\n",
            b"X-Request-Id: normal\r\n",
            b"Authorization: Basic YTpi\r\n",
            b"Authorization: Bearer \xff\xfe\r\n",
            b"Authorization: Bearer " + b"t" * 20_000 + b"\r\n",
            b"Traceparent: 00-" + b"0" * 32 + b"-" + b"0" * 16 + b"-01\r\n",
            b"Tracestate: \x80\x81\r\n",
            b"Content-Encoding: gzip\r\n",
            b"Content-Type: text/html\r\n",
            b"Expect: 100-continue\r\n",
            b"Expect: something else\r\n",
            b"X-Forwarded-For: 127.0.0.1\r\nX-Forwarded-Host: elsewhere\r\n",
            b"Cookie: " + b"c=1; " * 900 + b"\r\n",
            b"Origin: http://elsewhere\r\nAccess-Control-Request-Method: POST\r\n",
            b"Transfer-Encoding: chunked\r\n",
            b"Content-Length: 3\r\n",
            b"Upgrade: websocket\r\nConnection: Upgrade\r\n",
            b"".join(b"H%d: v\r\n" % name for name in range(200)),
        ]
    ),
)


def _shown(caller: Caller) -> bytes:
    return b"".join(
        b"%s: %s\r\n" % (name.encode(), value.encode("latin-1") if isinstance(value, str) else value)
        for name, value in caller.metadata
    )


@st.composite
def _body(draw: st.DrawFn, path: str, valid: Mapping[str, Any], *, junk: bool = False) -> tuple[str, bytes]:
    if junk:
        return path, draw(st.one_of(st.binary(max_size=80), among(_NO_JSON), _mangled(valid)))
    body = json.loads(json.dumps(valid))
    for _ in range(draw(st.integers(0, 3))):
        _change(draw, body)
    return path, json.dumps(body, ensure_ascii=draw(st.booleans())).encode("utf-8", "surrogatepass")


def _change(draw: st.DrawFn, part: Any) -> None:
    """Change one value, somewhere within an object or a list."""
    if isinstance(part, dict):
        name = draw(st.one_of(among([*part, *_FIELDS]), among([*part, *_FIELDS]), TEXTS))
        if draw(st.integers(0, 9)) == 0:
            part.pop(name, None)
        elif isinstance(part.get(name), dict | list) and part[name] and draw(st.booleans()):
            _change(draw, part[name])
        else:
            part[name] = draw(_JSON)
    elif isinstance(part, list):
        place = draw(st.integers(0, len(part) - 1))
        if isinstance(part[place], dict | list) and part[place]:
            _change(draw, part[place])
        else:
            part[place] = draw(_JSON)


LONGEST_LIST = 30_000
"""Characters of a list of many values: a body of a gigabyte would be refused before it is read, whatever it says."""

_FIELDS = [
    *(
        "model",
        "prompt",
        "messages",
        "max_tokens",
        "max_completion_tokens",
        "temperature",
        "top_p",
        "seed",
        "stop",
        "n",
    ),
    *("stream", "stream_options", "logprobs", "top_logprobs", "logit_bias", "presence_penalty", "frequency_penalty"),
    *("top_k", "min_p", "repetition_penalty", "ignore_eos", "stop_token_ids", "speculation", "user", "tools", "echo"),
    *("role", "content", "policy", "drafters", "shape", "depth", "budget", "tenant", "task", "metadata", "best_of"),
]
_SCALARS = st.one_of(st.none(), st.booleans(), integers(-(2**63), 2**64), st.integers(), FLOATS, TEXTS, LONE_SURROGATES)
_JSON = st.one_of(
    _SCALARS,
    _SCALARS,
    st.recursive(
        _SCALARS,
        lambda inner: st.one_of(
            st.lists(inner, max_size=4), st.dictionaries(st.one_of(TEXTS, LONE_SURROGATES), inner, max_size=3)
        ),
        max_leaves=8,
    ),
    st.lists(_SCALARS, min_size=1, max_size=2).map(lambda some: some * (1 + LONGEST_LIST // len(repr(some)))),
)
_NO_JSON = [
    *(b"", b"null", b"[]", b'""', b"{", b"{}", b"NaN", b"\xef\xbb\xbf{}", b"\xff\xfe{\x00}\x00", b"{'a': 1}", b"{}{}"),
    *(b"[" * 50_000, b'{"a":' * 50_000, b'{"model":"target","prompt":' + b"[" * 3_000 + b"]" * 3_000 + b"}"),
    *(b'{"seed": ' + b"9" * 50_000 + b"}", b'{"temperature": 1e' + b"9" * 5_000 + b"}", b"-" * 9_000),
    b'{"model":"target","model":"x","prompt":"a","prompt":[1],"max_tokens":1,"max_tokens":2}',
    b'{"model":"target","max_tokens":1,"prompt":"\\ud800\\u0000\\uffff"}',
    b'{"model":"target","max_tokens":1,"prompt":"' + b"a" * 2_000_000 + b'"}',
    b'{"model":"target","max_tokens":1,"prompt":[' + b"1," * 500_000 + b"1]}",
    b'{"model":"target","max_tokens":1,"prompt":"a",' + b",".join(b'"k%d":1' % key for key in range(20_000)) + b"}",
    b" " * 5_000_000,
]


@st.composite
def _mangled(draw: st.DrawFn, valid: Mapping[str, Any]) -> bytes:
    content = bytearray(json.dumps(valid).encode())
    place = draw(st.integers(0, len(content)))
    match draw(st.integers(0, 2)):
        case 0:
            del content[place:]
        case 1:
            content[place : place + 1] = draw(st.binary(min_size=1, max_size=3))
        case _:
            random.Random(place).shuffle(content)
    return bytes(content)


def ask(address: str, request: Request) -> Answer:
    """Send it over a connection of its own, and read one answer."""
    host, _, port = address.rpartition(":")
    began = time.monotonic()
    with socket.create_connection((host, int(port)), timeout=WITHIN_S) as connection:
        with contextlib.suppress(OSError):  # it has been answered already, or closed
            _send(connection, request)
        if request.leaves:
            return Answer(0, {}, b"", time.monotonic() - began)
        return _read(connection, request.method, began)


def _send(connection: socket.socket, request: Request) -> None:
    content = request.head + request.body
    step = len(content) // 8 + 1 if request.pauses_s else len(content)
    for start in range(0, len(content), step):
        time.sleep(request.pauses_s)
        connection.sendall(content[start : start + step])


def _read(connection: socket.socket, method: str, began: float) -> Answer:
    response = HTTPResponse(connection, method=method)
    try:
        response.begin()
        body = response.read()
    except TimeoutError:
        raise HangError(f"no answer, and the connection is not closed, after {WITHIN_S:g} s") from None
    except (HTTPException, OSError):  # closed without an answer, or in the middle of one
        return Answer(0, {}, b"", time.monotonic() - began)
    finally:
        response.close()
    headers = {name.lower(): value for name, value in response.getheaders()}
    return Answer(response.status, headers, body, time.monotonic() - began)


def judge(secret: Secret, request: Request, answer: Answer) -> None:
    """Raise FuzzError if an answer of the gateway is one that never may be."""
    secret.require_absent((*answer.headers.values(), answer.body))
    if answer.status == 0:
        if request.whole and not request.leaves and not request.pauses_s:
            raise StatusError("a whole request was not answered")
        return
    if answer.status not in PROPER:
        raise StatusError(f"{answer.status}: {answer.body[:300]!r}")
    if request.method != "HEAD":
        _require_json(answer)
    if answer.status >= 400 and request.method != "HEAD":
        _require_form(answer)
    path = request.head.split(b" ")[1:2]
    if answer.status == 200 and not request.caller.calls and path in ([COMPLETIONS.encode()], [CHAT.encode()]):
        raise LeakError(f"answered for somebody who may not call: {answer.body[:200]!r}")


def judge_plain(secret: Secret, request: Request, answer: Answer) -> None:
    """The same of a server that speaks plain text: metrics."""
    secret.require_absent((*answer.headers.values(), answer.body))
    if answer.status not in PROPER | {0}:
        raise StatusError(f"{answer.status}: {answer.body[:300]!r}")


def _require_json(answer: Answer) -> None:
    """What is said to be JSON is JSON: Python would also read NaN, and many others would not."""

    def refuse(constant: str) -> None:
        raise StatusError(f"{answer.status} with {constant} in its JSON: {answer.body[:200]!r}")

    if answer.headers.get("content-type") == "application/json":
        try:
            json.loads(answer.body, parse_constant=refuse)
        except ValueError:
            raise StatusError(f"{answer.status} with a body that is no JSON: {answer.body[:200]!r}") from None


def _require_form(answer: Answer) -> None:
    """Errors are told as OpenAI's clients read them."""
    try:
        body = json.loads(answer.body)
        good = body.keys() == {"error"} and body["error"].keys() == {"message", "type", "param", "code"}
    except (ValueError, AttributeError):
        good = False
    if not good:
        raise StatusError(f"{answer.status} in another form than all other errors: {answer.body[:200]!r}")
