"""Asks a controller or worker how it is, by gRPC's own health protocol: what probes of containers and operators need.

It loads no more than gRPC: a probe runs every few seconds, beside the process that it is about.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType

import grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from forerun.connection import Connection
from speculation.errors import InvalidRequestError

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


def health_of(way: Connection, *, timeout_s: float) -> Health:
    """How the process at the end of a way is; within this time, whatever it does.

    Raises:
        InvalidRequestError: The address is none.
    """
    address = way.address
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise InvalidRequestError("address", f"{address!r} is not host:port")
    until = time.monotonic() + timeout_s
    with way.channel() as channel:
        stub = HealthStub(channel)
        try:
            for service, kind in KINDS.items():
                if (state := _state_of(stub, service, until)) is not None:
                    return Health(address=address, kind=kind, state=state)
        except grpc.RpcError as error:
            code, details = error.code(), error.details()
            return Health(address=address, kind="", state=State.SILENT, problem=f"{code.name}: {details}")
    return Health(address=address, kind="", state=State.SILENT, problem="it answers, but is no process of Forerun")


def _state_of(stub: HealthStub, service: str, until: float) -> State | None:
    """Of one service; None if the process does not know it."""
    try:
        answer = stub.Check(HealthCheckRequest(service=service), timeout=max(0.0, until - time.monotonic()))
    except grpc.RpcError as error:
        if error.code() is grpc.StatusCode.NOT_FOUND:
            return None
        raise
    return State.SERVING if answer.status == HealthCheckResponse.SERVING else State.NOT_SERVING
