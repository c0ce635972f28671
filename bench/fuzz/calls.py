"""Hostile gRPC calls to whatever services an address offers, as it describes them itself."""

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import grpc
from google.protobuf import json_format
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from hypothesis import strategies as st

from bench.fuzz.judging import HangError, LeakError, Secret, StatusError, paths
from bench.fuzz.messages import GIANTS, JUNK, written
from bench.fuzz.values import among
from speculation.prefix import EMPTY_PREFIX

WITHIN_S = 20.0
"""Nothing that is asked here takes nearly as long; a call that does hangs."""

MOST_MESSAGES = 6

PROPER = frozenset(
    {
        grpc.StatusCode.OK,
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.OUT_OF_RANGE,
        grpc.StatusCode.UNIMPLEMENTED,
    }
)
"""Of a fleet that is well. UNAVAILABLE would be a connection or a worker that was lost."""

HEALTH = "grpc.health.v1.Health"
OPERATORS = "speculation.v1.RouterService"
GENERATE_RESPONSE = "speculation.v1.GenerateResponse"

Metadata = tuple[tuple[str, str | bytes], ...]

VALID: Mapping[str, Sequence[Mapping[str, Any]]] = {
    "speculation.v1.GenerateRequest": (
        {"text": "def f(", "maxNewTokens": 4},
        {"text": "def f(", "maxNewTokens": 6, "ignoreEos": True, "sampling": {"temperature": 0.8, "seed": "7"}},
        {
            **{"text": "The secret word of acme is ", "maxNewTokens": 8, "explain": True, "ignoreEos": True},
            "speculation": {"drafters": ["suffix"], "shape": {"depth": 4, "branching": 2, "budget": 8}},
        },
        {
            **{"chat": {"messages": [{"role": "user", "content": "2 + 2?"}]}, "maxNewTokens": 4, "logprobs": 3},
            "sampling": {"topP": 0.9, "topK": 40, "minP": 0.1, "repetitionPenalty": 1.1, "temperature": 1.0},
        },
        {"tokens": {"ids": [5, 6, 7]}, "maxNewTokens": 3, "stop": ["\n"], "speculation": {"policy": "merged"}},
    ),
    "speculation.v1.DraftRequest": (
        {"open": {"sessionId": "s", "promptLength": 3, "sampling": {"temperature": 0.5, "seed": "7"}}},
        {"open": {"sessionId": "s", "promptLength": 3, "background": True, "cacheSalt": "mallory"}},
        {"extend": {"context": {"tokenIds": [5, 6, 7], "prefixHash": "EMPTY"}}},
        {
            "propose": {
                "context": {"tokenIds": [5, 6, 7], "prefixHash": "EMPTY"},
                "shape": {"depth": 3, "branching": 2, "budget": 6},
                "calibration": {"slope": 1.0},
            }
        },
        {
            "foresee": {
                "context": {"tokenIds": [5, 6, 7], "prefixHash": "EMPTY"},
                "tree": {"tokenIds": [8, 9], "parents": [0, 1]},
                "shape": {"depth": 3, "branching": 2, "budget": 6},
                "outcomes": 2,
            }
        },
        {"score": {"context": {"tokenIds": [5, 6, 7], "prefixHash": "EMPTY"}, "tokenIds": [8, 9]}},
    ),
    "speculation.v1.VerifyRequest": (
        {"open": {"sessionId": "s", "promptLength": 3, "topLogprobs": 2, "sampling": {"seed": "7"}}},
        {"open": {"sessionId": "s", "promptLength": 3, "sampling": {"temperature": 1.0, "topP": 0.9, "topK": 9}}},
        {"extend": {"context": {"tokenIds": [5, 6, 7], "prefixHash": "EMPTY"}}},
        {
            "verify": {
                "context": {"tokenIds": [5, 6, 7], "prefixHash": "EMPTY"},
                "tree": {"tokenIds": [8, 9, 9], "parents": [0, 0, 1], "confidences": [0.5, 0.5, 0.5]},
            }
        },
    ),
    "speculation.v1.ExplainRequest": ({"requestId": "normal"},),
    "speculation.v1.SetPolicyRequest": ({"policy": "static"}, {"policy": "planner"}),
    "speculation.v1.SetKillSwitchRequest": ({"engaged": True}, {"engaged": False}),
    "grpc.health.v1.HealthCheckRequest": ({}, {"service": "speculation.v1.GenerationService"}),
    "grpc.reflection.v1alpha.ServerReflectionRequest": (
        {"listServices": ""},
        {"fileContainingSymbol": OPERATORS},
        {"fileByFilename": "speculation/v1/common.proto"},
        {"fileContainingExtension": {"containingType": OPERATORS, "extensionNumber": 1}},
        {"allExtensionNumbersOfType": "speculation.v1.TokenTree"},
    ),
}
"""Requests that are answered, as JSON, by message; hostile ones are made of them. Others begin with nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Somebody who calls.

    Attributes:
        metadata: How he shows who he is.
        calls: Whether he may ask for answers.
        operates: Whether he may ask for everything.
    """

    metadata: Metadata
    calls: bool
    operates: bool = False

    def may(self, service: str) -> bool:
        """Whether he may call a service."""
        return service == HEALTH or self.operates or (self.calls and service != OPERATORS)


NOBODY = Caller(metadata=(), calls=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call.

    Attributes:
        method: /package.Service/Method.
        messages: What is sent, one after the other.
        caller: By whom.
        extra: Metadata that nobody asked for.
        leaves_after_s: When the caller goes without waiting for the end; None: he waits.
        packed: Whether messages are compressed.
    """

    method: str
    messages: tuple[bytes, ...]
    caller: Caller
    extra: Metadata = ()
    leaves_after_s: float | None = None
    packed: bool = False

    @property
    def service(self) -> str:
        """Of the method."""
        return self.method.split("/")[1]


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back of a call."""

    code: grpc.StatusCode
    details: str
    messages: tuple[bytes, ...]
    metadata: tuple[tuple[str, str | bytes], ...]
    took_s: float


class Door:
    """A gRPC address, and hostile calls to it.

    Args:
        address: host:port.
        callers: Who calls.
        operator: Asks what services there are.
    """

    def __init__(self, address: str, *, callers: Sequence[Caller], operator: Caller) -> None:
        self._channel = grpc.insecure_channel(address, _OPTIONS)
        self._described = grpc.intercept_channel(self._channel, _Bearing(operator.metadata))
        self._callers = callers

    def close(self) -> None:
        """Hang up."""
        self._channel.close()

    @cached_property
    def _services(self) -> ProtoReflectionDescriptorDatabase:
        return ProtoReflectionDescriptorDatabase(self._described)

    @cached_property
    def _pool(self) -> DescriptorPool:
        return DescriptorPool(self._services)

    @cached_property
    def methods(self) -> Mapping[str, MethodDescriptor]:
        """All that are offered, by path."""
        return {
            f"/{name}/{method.name}": method
            for name in sorted(self._services.get_services())
            for method in self._pool.FindServiceByName(name).methods
        }

    def calls(self) -> st.SearchStrategy[Call]:
        """Hostile calls of every method, more of those that take many kinds of requests, and of some there are not."""
        offered = [self._calls_of(path, method) for path, method in self.methods.items() for _ in self._valid(method)]
        return st.one_of(*offered, self._calls_of_none)

    def _calls_of(self, path: str, method: MethodDescriptor) -> st.SearchStrategy[Call]:
        messages = st.one_of(*map(written, self._valid(method)))
        count = MOST_MESSAGES if method.client_streaming else 1
        sent = st.one_of(
            st.lists(messages, min_size=1, max_size=count).map(tuple), st.lists(messages, max_size=2).map(tuple)
        )
        leaves = st.sampled_from([None] * 8 + [0.0, 0.01, 0.1])
        if path == f"/{HEALTH}/Watch":  # it never ends by itself
            leaves = st.sampled_from([0.0, 0.05])
        return st.builds(
            Call,
            method=st.just(path),
            messages=st.integers(0, 59).flatmap(lambda chance: sent if chance else GIANTS.map(lambda one: (one,))),
            caller=among(self._callers),
            extra=_EXTRA,
            leaves_after_s=leaves,
            packed=st.booleans(),
        )

    @property
    def _calls_of_none(self) -> st.SearchStrategy[Call]:
        paths = among(["/", "//", "/a/b/c", "/speculation.v1.GenerationService/", "/x/" + "y" * 3_000])
        return st.builds(
            Call,
            method=st.one_of(paths, st.text("abcXYZ./_$%\\", max_size=30).map("/".__add__)),
            messages=st.lists(JUNK, max_size=2).map(tuple),
            caller=among(self._callers),
        )

    def _valid(self, method: MethodDescriptor) -> list[Message]:
        make = GetMessageClass(method.input_type)
        return [
            json_format.ParseDict(_filled(content), make()) for content in VALID.get(method.input_type.full_name, ({},))
        ]

    def held_tokens(self) -> int:
        """Tokens that a worker holds for sessions that are open."""
        path, method = next((path, method) for path, method in self.methods.items() if method.name == "Describe")
        describe = self._channel.unary_unary(path, request_serializer=None, response_deserializer=None)
        told: Any = GetMessageClass(method.output_type).FromString(describe(b"", timeout=WITHIN_S))
        return int(told.cache_use.session_tokens)

    def ask(self, call: Call) -> Answer:
        """Carry it out."""
        began = time.monotonic()
        stream = self._channel.stream_stream(call.method, request_serializer=None, response_deserializer=None)
        rpc: Any = stream(
            iter(call.messages),
            timeout=WITHIN_S,
            metadata=call.caller.metadata + call.extra,
            compression=grpc.Compression.Gzip if call.packed else grpc.Compression.NoCompression,
        )
        leaving = None
        if call.leaves_after_s is not None:
            leaving = threading.Timer(call.leaves_after_s, rpc.cancel)
            leaving.start()
        messages: list[bytes] = []
        try:
            messages.extend(rpc)
        except grpc.RpcError:
            pass  # how it ended is asked below
        finally:
            if leaving is not None:
                leaving.cancel()
        metadata = (*rpc.initial_metadata(), *rpc.trailing_metadata())
        return Answer(rpc.code(), rpc.details() or "", tuple(messages), metadata, time.monotonic() - began)

    def judge(self, secret: Secret, call: Call, answer: Answer) -> None:
        """Raise FuzzError if an answer is one that never may be."""
        if not call.caller.operates:  # to whom all is told
            self._require_silent(answer, secret)
        if answer.code is grpc.StatusCode.DEADLINE_EXCEEDED:
            raise HangError(f"{call.method} did not end within {WITHIN_S:g} s")
        left = call.leaves_after_s is not None and answer.code is grpc.StatusCode.CANCELLED
        if answer.code not in PROPER and not left:
            raise StatusError(f"{call.method}: {answer.code.name}: {answer.details[:300]}")
        if (answer.messages or answer.code is grpc.StatusCode.OK) and not call.caller.may(call.service):
            raise LeakError(f"{call.method} was answered for somebody who may not call it")

    def _require_silent(self, answer: Answer, secret: Secret) -> None:
        secret.require_absent((answer.details, *answer.messages))
        secret.require_absent(value for _, value in answer.metadata)
        for content in answer.messages:
            for text in self._drafted(content):
                secret.require_absent((text,))

    def _drafted(self, content: bytes) -> Sequence[str]:
        """What drafters proposed in a round that is reported: it stands there in pieces."""
        if self._response is None:
            return ()
        try:
            report = self._response.FromString(content).round
        except DecodeError:
            return ()
        return tuple(paths(report.tree.parents, report.node_texts))

    @cached_property
    def _response(self) -> Any:
        """What tells of rounds; None where nobody does."""
        try:
            return GetMessageClass(self._pool.FindMessageTypeByName(GENERATE_RESPONSE))
        except KeyError:
            return None


_OPTIONS = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.enable_retries", 0),
)

_KEYS = st.text("abcxyz0189-_.", min_size=1, max_size=12).filter(lambda key: not key.startswith("grpc-"))
_EXTRA: st.SearchStrategy[Metadata] = st.one_of(
    st.just(()),
    st.just(()),
    st.just(()),
    st.lists(
        st.one_of(
            st.tuples(
                st.sampled_from(["x-request-id", "traceparent", "tracestate", "baggage", "authorization"]),
                st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=60),
            ),
            st.tuples(_KEYS.map("x-".__add__).filter(lambda key: not key.endswith("-bin")), st.just("v" * 900)),
            st.tuples(_KEYS.map(lambda key: f"x{key}-bin"), st.binary(max_size=60)),
        ),
        max_size=12,
    ).map(tuple),
)


def _filled(content: Any) -> Any:
    """The hash of no tokens, where a valid request tells it."""
    if isinstance(content, Mapping):
        return {name: _filled(part) for name, part in content.items()}
    if isinstance(content, list):
        return [_filled(part) for part in content]
    return str(EMPTY_PREFIX) if content == "EMPTY" else content


class _Bearing(grpc.StreamStreamClientInterceptor):  # type: ignore[type-arg]
    """Shows who calls."""

    def __init__(self, metadata: Metadata) -> None:
        self._metadata = metadata

    def intercept_stream_stream(self, continuation: Any, details: Any, requests: Any) -> Any:
        """The call, with a token."""
        return continuation(details._replace(metadata=(*(details.metadata or ()), *self._metadata)), requests)
