"""The steps of a round, as they are seen on the wire, and the faults that may come at any of them."""

from enum import Enum
from typing import TypeVar

from google.protobuf.message import DecodeError

from speculation.v1 import draft_pb2, verify_pb2


class Step(Enum):
    """Where a request is."""

    OPEN = "open"
    """A session is about to be opened on the target, and the prompt to be read."""
    DRAFT_SENT = "draft sent"
    DRAFT_ANSWERED = "draft answered"
    """The tree is on its way to the controller."""
    VERIFY_SENT = "verify sent"
    VERIFY_ANSWERED = "verify answered"
    """The verdict is on its way."""
    COMMIT = "commit"
    """The verdict has arrived: tokens go to the caller, and the next round begins."""
    FINISH = "finish"
    """The answer is complete, and the controller ends its session on the target."""
    LOG = "log write"
    """Records are on their way to Redis."""

    @property
    def drafts(self) -> bool:
        """Whether it comes only where something is drafted."""
        return self in (Step.DRAFT_SENT, Step.DRAFT_ANSWERED)


class Kind(Enum):
    """What goes wrong."""

    KILL = "kill"
    FREEZE = "freeze"
    SLOW = "slow"
    CUT = "cut"
    HALF_OPEN = "half-open"
    CORRUPT = "corrupt reply"
    STALE = "stale cache"
    DISK_FULL = "full disk"
    REDIS_DOWN = "redis down"
    REDIS_SLOW = "redis slow"
    CLOCK = "clock jump"
    MEMORY = "out of memory"

    @property
    def key(self) -> str:
        """In names of figures."""
        return self.value.replace(" ", "_").replace("-", "_")


Message = draft_pb2.DraftRequest | draft_pb2.DraftResponse | verify_pb2.VerifyRequest | verify_pb2.VerifyResponse


def request_of(role: str, data: bytes) -> draft_pb2.DraftRequest | verify_pb2.VerifyRequest | None:
    """What a controller says to a worker of that role on a session; None if it is no such message."""
    return _parsed(draft_pb2.DraftRequest() if role == "draft" else verify_pb2.VerifyRequest(), data)


def reply_of(role: str, data: bytes) -> draft_pb2.DraftResponse | verify_pb2.VerifyResponse | None:
    """What the worker answers."""
    return _parsed(draft_pb2.DraftResponse() if role == "draft" else verify_pb2.VerifyResponse(), data)


SomeMessage = TypeVar("SomeMessage", bound=Message)


def _parsed(empty: SomeMessage, data: bytes) -> SomeMessage | None:
    try:
        empty.ParseFromString(data)
    except DecodeError:
        return None
    return empty


_STEPS = {
    (verify_pb2.VerifyRequest, "open"): Step.OPEN,
    (draft_pb2.DraftRequest, "propose"): Step.DRAFT_SENT,
    (draft_pb2.DraftResponse, "proposal"): Step.DRAFT_ANSWERED,
    (verify_pb2.VerifyRequest, "verify"): Step.VERIFY_SENT,
    (verify_pb2.VerifyResponse, "verdict"): Step.VERIFY_ANSWERED,
}


def step_of(message: Message | None) -> Step | None:
    """What a message is about; None if it is no step."""
    return None if message is None else _STEPS.get((type(message), message.WhichOneof("message") or ""))
