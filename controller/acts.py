"""What operators do to a running controller: told to the log, and remembered for those who look."""

import logging
from collections import deque
from dataclasses import dataclass
from time import time_ns
from typing import Any

import grpc

from controller.tokens import fingerprint_of

logger = logging.getLogger(__name__)

REMEMBERED_ACTS = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Act:
    """What an operator did.

    Attributes:
        ts_ms: When, Unix time.
        act: What.
        detail: What it was about.
        token: By which token; empty if it came without one.
        peer: From where, as gRPC has it.
    """

    ts_ms: int
    act: str
    detail: str
    token: str
    peer: str


class Acts:
    """Everything that was done, as far as it is remembered, the oldest first."""

    def __init__(self) -> None:
        self.done: deque[Act] = deque(maxlen=REMEMBERED_ACTS)

    def note(self, context: "grpc.aio.ServicerContext[Any, Any]", act: str, detail: str = "") -> None:
        """Note an act that has succeeded; the guard has let the caller in."""
        token = fingerprint_of(context.invocation_metadata() or ())
        done = Act(ts_ms=time_ns() // 1_000_000, act=act, detail=detail, token=token, peer=context.peer())
        self.done.append(done)
        logger.info("operator act", extra={"act": act, "detail": detail, "token": token, "peer": done.peer})
