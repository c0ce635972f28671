"""Typed calls to workers: what a session says on its stream, and how the answers are read.

One stream is one session. Everything here raises the deliberate errors alone: WorkerUnavailableError when the worker is
lost, CapacityError when it is busy, DrainingError when it shuts down. TimeoutError when the request's deadline passes.
"""

import asyncio
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from typing import Any, Generic, Protocol, TypeVar

import grpc
from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2, health_pb2_grpc

from controller.sequence import Sequence
from speculation.calibration import UNCALIBRATED, Calibration
from speculation.errors import (
    CapacityError,
    DrainingError,
    IncompatibleWorkerError,
    InvalidTreeError,
    WorkerUnavailableError,
)
from speculation.prefix import Context
from speculation.rpc import error_of, status_to_errors
from speculation.sampling import SamplingParameters
from speculation.tree import TokenTree, TreeShape
from speculation.v1 import common_pb2, draft_pb2, draft_pb2_grpc, verify_pb2, verify_pb2_grpc
from speculation.verdict import Verdict, WorkerTimings
from speculation.wire import (
    calibration_to_proto,
    context_to_proto,
    sampling_to_proto,
    shape_to_proto,
    timings_from_proto,
    tree_from_proto,
    tree_to_proto,
    verdict_from_proto,
)

TOKENS_PER_MESSAGE = 16_384
"""A longer context is sent in pieces: at most 5 bytes a token, so 80 KiB, far below any message limit."""

MOST_REPEATS = 4
"""A worker that asks for context this often within one exchange cannot hold it."""

END_OF_STREAM: Any = vars(grpc.aio)["EOF"]  # the type stubs do not list it

CHANNEL_OPTIONS = (
    ("grpc.max_receive_message_length", 16 << 20),
    ("grpc.max_send_message_length", 16 << 20),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    # A restarted worker is found within a second; the default would wait up to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    # Workers are neighbours: a proxy configured for the internet must not come between.
    ("grpc.enable_http_proxy", 0),
)


class Role(Enum):
    """What a worker does."""

    DRAFT = "draft"
    VERIFY = "verify"


_ROLES = {common_pb2.WORKER_ROLE_DRAFT: Role.DRAFT, common_pb2.WORKER_ROLE_VERIFY: Role.VERIFY}


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerDescription:
    """What a worker says it is.

    Attributes:
        role: What it does.
        name: Name of the drafter or target.
        model: Folder name or hub id.
        model_revision: Hash of weights and configuration.
        tokenizer_fingerprint: See speculation/fingerprint.py.
        vocab_size: Tokens of the model.
        max_length: Longest sequence of a session in tokens, tree included.
        slots: Sessions whose caches fit at once.
        dtype: Such as "float32".
        device: Such as "cpu".
        version: Of the worker's code.
        instance_id: Changes with every start of the process.
    """

    role: Role
    name: str
    model: str = ""
    model_revision: str = ""
    tokenizer_fingerprint: str
    vocab_size: int
    max_length: int
    slots: int = 1
    dtype: str = ""
    device: str = ""
    version: str = ""
    instance_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """What a worker is told about a request when its session opens."""

    session_id: str
    sampling: SamplingParameters
    prompt_length: int
    top_logprobs: int = 0
    uncoupled: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """A drafter's answer.

    Attributes:
        tree: What it thinks comes next.
        prompt_surprisal: Nats per token of the end of the prompt, if it said so.
        timings: What it cost the worker.
    """

    tree: TokenTree
    prompt_surprisal: float | None
    timings: WorkerTimings


class WorkerClient:
    """The channel to one worker."""

    def __init__(self, address: str, role: Role) -> None:
        self.address = address
        self.role = role
        self._channel = grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS)
        self._health = health_pb2_grpc.HealthStub(self._channel)
        self._drafts: Any = draft_pb2_grpc.DraftServiceStub(self._channel)  # type: ignore[no-untyped-call]
        self._verdicts: Any = verify_pb2_grpc.VerifyServiceStub(self._channel)  # type: ignore[no-untyped-call]

    async def describe(self, timeout_s: float) -> WorkerDescription:
        """What the worker is.

        Raises:
            WorkerUnavailableError: No answer within the timeout.
            IncompatibleWorkerError: It has no role that this code knows.
        """
        stub = self._drafts if self.role is Role.DRAFT else self._verdicts
        with status_to_errors(self.address):
            reply = await stub.Describe(common_pb2.DescribeRequest(), timeout=timeout_s)
        return description_from_proto(reply)

    async def check(self, timeout_s: float) -> None:
        """Raise unless the worker says within the timeout that it is serving.

        Raises:
            DrainingError: It says that it is not.
            WorkerUnavailableError: It says nothing.
        """
        with status_to_errors(self.address):
            reply = await self._health.Check(health_pb2.HealthCheckRequest(), timeout=timeout_s)
        if reply.status != health_pb2.HealthCheckResponse.SERVING:
            raise DrainingError(f"{self.address} says that it is not serving")

    def open_draft(self, opening: Opening, *, timeout_s: float) -> "DraftStream":
        """A session on a draft worker."""
        return DraftStream(self._drafts.Draft(timeout=timeout_s), self.address, opening)

    def open_verify(self, opening: Opening, *, timeout_s: float) -> "VerifyStream":
        """A session on a verify worker."""
        return VerifyStream(self._verdicts.Verify(timeout=timeout_s), self.address, opening)

    async def close(self) -> None:
        """Drop the connection and every stream on it."""
        await self._channel.close(None)


class _Reply(Protocol):
    """What the replies of both services have in common."""

    @property
    def status(self) -> common_pb2.SessionStatus: ...

    @property
    def held_length(self) -> int: ...


RequestT = TypeVar("RequestT", draft_pb2.DraftRequest, verify_pb2.VerifyRequest)
ReplyT = TypeVar("ReplyT", bound=_Reply)


class WorkerStream(Generic[RequestT, ReplyT]):
    """Messages out, replies in, in order, and the tokens that the worker holds by our reckoning.

    Attributes:
        retold_tokens: Tokens that the worker asked for although it had been told them.
    """

    def __init__(self, call: Any, address: str, opening: RequestT) -> None:
        self.address = address
        self.retold_tokens = 0
        self._call = call
        self._opening: RequestT | None = opening
        self._unanswered = 0
        self._given_up = ""
        self._held_length = 0
        self._last_base = 0

    def give_up(self, reason: str) -> None:
        """End the session because its worker is lost; whoever waits for it gets WorkerUnavailableError."""
        self._given_up = reason
        self._call.cancel()

    def close(self) -> None:
        """End the session; the worker frees its cache."""
        self._call.cancel()

    async def tell(self, sequence: Sequence, end: int) -> ReplyT | None:
        """Send the tokens up to `end` ahead of time, and wait until the worker has read them.

        Returns:
            Its last reply; None if it had been told everything before.
        """
        for _ in range(MOST_REPEATS):
            await self._send_pieces(sequence, end, keep=0)
            if self._unanswered == 0:
                return None
            reply = await self._last_reply()
            if reply.status == common_pb2.SESSION_STATUS_OK:
                return reply
        raise WorkerUnavailableError(f"{self.address} keeps asking for context")

    async def _ask(self, sequence: Sequence, message_of: Callable[[Context], RequestT]) -> ReplyT:
        """Send a message that carries the rest of the sequence; send again what the worker turns out to miss."""
        for _ in range(MOST_REPEATS):
            end = len(sequence)
            await self._send_pieces(sequence, end, keep=TOKENS_PER_MESSAGE)
            await self._send(message_of(self._next_context(sequence, end)))
            reply = await self._last_reply()
            if reply.status == common_pb2.SESSION_STATUS_OK:
                self._held_length = end
                return reply
        raise WorkerUnavailableError(f"{self.address} keeps asking for context")

    async def _send_pieces(self, sequence: Sequence, end: int, *, keep: int) -> None:
        """Send all but the last `keep` of the tokens that the worker misses, without waiting for answers."""
        while end - self._held_length > keep:
            piece_end = min(self._held_length + TOKENS_PER_MESSAGE, end)
            await self._send(self._extension(self._next_context(sequence, piece_end)))
            self._held_length = piece_end

    def _next_context(self, sequence: Sequence, end: int) -> Context:
        self._last_base = min(self._held_length, end)
        return sequence.context(self._last_base, end)

    def _extension(self, context: Context) -> RequestT:
        raise NotImplementedError

    async def _send(self, message: RequestT) -> None:
        if self._opening is not None:
            opening, self._opening = self._opening, None
            await self._send(opening)
        with self._losses():
            await self._call.write(message)
        self._unanswered += 1

    async def _last_reply(self) -> ReplyT:
        """Read the replies to everything sent; the last one says what the worker holds.

        Raises:
            CapacityError: The worker is busy.
            DrainingError: The worker shuts down.
            WorkerUnavailableError: The stream is lost.
        """
        refusal: CapacityError | DrainingError | None = None
        while True:
            with self._losses():
                reply: ReplyT = await self._call.read()
            if reply is END_OF_STREAM:
                raise WorkerUnavailableError(f"{self.address} ended the session")
            self._unanswered -= 1
            refusal = refusal or _refusal(reply, self.address)
            if self._unanswered == 0:
                break
        if refusal is not None:
            raise refusal
        if reply.status == common_pb2.SESSION_STATUS_NEED_CONTEXT:
            # A worker that holds as much as we thought, and yet misses something, holds something else.
            held_length = reply.held_length if reply.held_length < self._last_base else 0
            self.retold_tokens += self._held_length - held_length
            self._held_length = held_length
        elif reply.status != common_pb2.SESSION_STATUS_OK:
            raise WorkerUnavailableError(f"{self.address} answered with the unknown status {reply.status}")
        return reply

    @contextmanager
    def _losses(self) -> Iterator[None]:
        """Every way in which a stream can be lost, as the deliberate error.

        gRPC raises CancelledError both when our task is cancelled, which must pass, and when `give_up` cancelled the
        call, which must not be mistaken for it.
        """
        try:
            yield
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                raise TimeoutError("the request's deadline has passed") from error
            raise error_of(error, self.address) from error
        except asyncio.InvalidStateError as error:
            raise WorkerUnavailableError(f"{self.address}: {self._given_up or 'the session was lost'}") from error
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if not self._given_up or (task is not None and task.cancelling()):
                raise
            raise WorkerUnavailableError(f"{self.address}: {self._given_up}") from None


def _refusal(reply: _Reply, address: str) -> CapacityError | DrainingError | None:
    if reply.status == common_pb2.SESSION_STATUS_BUSY:
        return CapacityError(f"{address} is busy")
    if reply.status == common_pb2.SESSION_STATUS_DRAINING:
        return DrainingError(f"{address} shuts down")
    return None


class DraftStream(WorkerStream[draft_pb2.DraftRequest, draft_pb2.DraftResponse]):
    """A session on a draft worker."""

    def __init__(self, call: Any, address: str, opening: Opening) -> None:
        message = draft_pb2.OpenDraft(
            session_id=opening.session_id,
            sampling=sampling_to_proto(opening.sampling),
            prompt_length=opening.prompt_length,
            uncoupled=opening.uncoupled,
        )
        super().__init__(call, address, draft_pb2.DraftRequest(open=message))

    async def read(self, sequence: Sequence) -> float | None:
        """Let it read the sequence; its surprisal at the prompt, in nats per token, if it can tell."""
        reply = await self.tell(sequence, len(sequence))
        if reply is None or not reply.extended.HasField("prompt_surprisal"):
            return None
        return reply.extended.prompt_surprisal

    async def propose(
        self,
        sequence: Sequence,
        shape: TreeShape,
        *,
        calibration: Calibration = UNCALIBRATED,
        round_number: int,
        vocab_size: int,
    ) -> Proposal:
        """The drafter's tree after the sequence.

        Raises:
            InvalidTreeError: The answer is no tree, or larger than asked for.
        """
        wanted = draft_pb2.Propose(round=round_number, shape=shape_to_proto(shape))
        if calibration != UNCALIBRATED:
            wanted.calibration.CopyFrom(calibration_to_proto(calibration))

        def message(context: Context) -> draft_pb2.DraftRequest:
            wanted.context.CopyFrom(context_to_proto(context))
            return draft_pb2.DraftRequest(propose=wanted)

        reply = await self._ask(sequence, message)
        proposal = reply.proposal
        tree = tree_from_proto(proposal.tree, vocab_size=vocab_size)
        if len(tree) > shape.budget:
            raise InvalidTreeError(f"{len(tree)} nodes where {shape.budget} were asked for")
        return Proposal(
            tree=tree,
            prompt_surprisal=proposal.prompt_surprisal if proposal.HasField("prompt_surprisal") else None,
            timings=timings_from_proto(reply.timings),
        )

    def _extension(self, context: Context) -> draft_pb2.DraftRequest:
        return draft_pb2.DraftRequest(extend=draft_pb2.ExtendDraft(context=context_to_proto(context)))


class VerifyStream(WorkerStream[verify_pb2.VerifyRequest, verify_pb2.VerifyResponse]):
    """A session on a verify worker."""

    def __init__(self, call: Any, address: str, opening: Opening) -> None:
        message = verify_pb2.OpenVerify(
            session_id=opening.session_id,
            sampling=sampling_to_proto(opening.sampling),
            prompt_length=opening.prompt_length,
            top_logprobs=opening.top_logprobs,
        )
        super().__init__(call, address, verify_pb2.VerifyRequest(open=message))

    async def verify(self, sequence: Sequence, tree: TokenTree, *, round_number: int) -> Verdict:
        """What the target emits after the sequence."""
        drafted = tree_to_proto(tree)
        reply = await self._ask(
            sequence,
            lambda context: verify_pb2.VerifyRequest(
                verify=verify_pb2.VerifyTree(round=round_number, context=context_to_proto(context), tree=drafted)
            ),
        )
        verdict = verdict_from_proto(reply.verdict, timings_from_proto(reply.timings))
        if not verdict.token_ids:
            raise WorkerUnavailableError(f"{self.address} answered without a token")
        self._held_length += len(verdict.token_ids)
        return verdict

    def _extension(self, context: Context) -> verify_pb2.VerifyRequest:
        return verify_pb2.VerifyRequest(extend=verify_pb2.ExtendVerify(context=context_to_proto(context)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Announcement:
    """A worker's own entry in the registry.

    Attributes:
        address: host:port where it listens.
        role: What it does.
        heartbeat_ms: Unix time of its last sign of life.
        ttl_ms: How long that counts.
    """

    address: str
    role: Role
    heartbeat_ms: int
    ttl_ms: int


def announcements_from_hash(fields: Mapping[Any, Any]) -> list[Announcement]:
    """The registry's entries, in the order of their addresses; what cannot be read is left out."""
    announcements = []
    for value in fields.values():
        try:
            entry = common_pb2.WorkerRegistration.FromString(value)
            role = _ROLES[entry.worker.role]
        except (DecodeError, KeyError):
            continue
        announcements.append(
            Announcement(address=entry.address, role=role, heartbeat_ms=entry.heartbeat_ms, ttl_ms=entry.ttl_ms)
        )
    return sorted(announcements, key=lambda entry: entry.address)


def description_from_proto(message: common_pb2.DescribeResponse) -> WorkerDescription:
    """The description of a message.

    Raises:
        IncompatibleWorkerError: It has no role that this code knows.
    """
    if message.role not in _ROLES:
        raise IncompatibleWorkerError(f"the worker has the unknown role {message.role}")
    return WorkerDescription(
        role=_ROLES[message.role],
        name=message.name,
        model=message.model,
        model_revision=message.model_revision,
        tokenizer_fingerprint=message.tokenizer_fingerprint,
        vocab_size=message.vocab_size,
        max_length=message.max_length,
        slots=max(message.slots, 1),
        dtype=message.dtype,
        device=message.device,
        version=message.version,
        instance_id=message.instance_id,
    )


def description_to_proto(description: WorkerDescription) -> common_pb2.DescribeResponse:
    """The message of a description."""
    numbers = {role: number for number, role in _ROLES.items()}
    return common_pb2.DescribeResponse(
        role=numbers[description.role],
        name=description.name,
        model=description.model,
        model_revision=description.model_revision,
        tokenizer_fingerprint=description.tokenizer_fingerprint,
        vocab_size=description.vocab_size,
        max_length=description.max_length,
        slots=description.slots,
        dtype=description.dtype,
        device=description.device,
        version=description.version,
        instance_id=description.instance_id,
    )
