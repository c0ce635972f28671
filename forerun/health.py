"""Asks a controller or worker how it is, by gRPC's own health protocol: what probes of containers and operators need.

It loads no more than gRPC: a probe runs every few seconds, beside the process that it is about.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from types import MappingProxyType

import grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from speculation.errors import ConfigurationError, InvalidRequestError
from speculation.tls import PemFile

KINDS: Mapping[str, str] = MappingProxyType(
    {
        "speculation.v1.GenerationService": "controller",
        "speculation.v1.VerifyService": "verify worker",
        "speculation.v1.DraftService": "draft worker",
    }
)
"""What a process is, by the service that only its kind knows."""


class State(Enum):
    """Whether a process can be asked for what it is there for."""

    SERVING = "serving"
    NOT_SERVING = "not serving"
    SILENT = "no answer"


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """How a process is.

    Attributes:
        address: host:port that was asked.
        kind: Controller, verify worker or draft worker; empty where nobody says.
        state: A controller without a target, and whoever drains, is alive and does not serve.
        problem: Why there is no answer; empty where there is one.
    """

    address: str
    kind: str
    state: State
    problem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """How a process with TLS is asked.

    Attributes:
        ca: PEM file of those who sign its certificate.
        certificate: PEM file of what it is shown, if it wants to know who asks; None: nothing.
        key: PEM file of the key of that.
        server_name: The name in its certificate; None: the host of its address.

    Raises:
        ConfigurationError: One of certificate and key is missing.
    """

    ca: Path
    certificate: Path | None = None
    key: Path | None = None
    server_name: str | None = None

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.key is None):
            raise ConfigurationError("key" if self.key is None else "cert", "is missing: the two go together")

    def channel(self, address: str) -> grpc.Channel:
        """A channel to that address.

        Raises:
            ConfigurationError: A file cannot be read.
        """
        key, certificate = _content("key", self.key), _content("cert", self.certificate)
        credentials = grpc.ssl_channel_credentials(_content("ca", self.ca), key, certificate)
        named = [("grpc.ssl_target_name_override", self.server_name)] if self.server_name else []
        return grpc.secure_channel(address, credentials, options=named)


def health_of(address: str, *, timeout_s: float, tls: Tls | None = None) -> Health:
    """How the process at host:port is; within this time, whatever it does.

    Args:
        address: host:port.
        timeout_s: The time, in seconds.
        tls: None: plain text.

    Raises:
        InvalidRequestError: The address is none.
        ConfigurationError: A file of TLS cannot be read.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise InvalidRequestError("address", f"{address!r} is not host:port")
    until = time.monotonic() + timeout_s
    with tls.channel(address) if tls else grpc.insecure_channel(address) as channel:
        stub = HealthStub(channel)
        try:
            for service, kind in KINDS.items():
                if (state := _state_of(stub, service, until)) is not None:
                    return Health(address=address, kind=kind, state=state)
        except grpc.RpcError as error:
            code, details = error.code(), error.details()
            return Health(address=address, kind="", state=State.SILENT, problem=f"{code.name}: {details}")
    return Health(address=address, kind="", state=State.SILENT, problem="it answers, but is no process of Forerun")


def _content(field: str, file: Path | None) -> bytes | None:
    return None if file is None else PemFile(field, file).read()


def _state_of(stub: HealthStub, service: str, until: float) -> State | None:
    """Of one service; None if the process does not know it."""
    try:
        answer = stub.Check(HealthCheckRequest(service=service), timeout=max(0.0, until - time.monotonic()))
    except grpc.RpcError as error:
        if error.code() is grpc.StatusCode.NOT_FOUND:
            return None
        raise
    return State.SERVING if answer.status == HealthCheckResponse.SERVING else State.NOT_SERVING
