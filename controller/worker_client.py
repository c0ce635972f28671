"""Typed calls to workers: what a session says on its stream, and how the answers are read.

One stream is one session. Everything here raises the deliberate errors alone: WorkerUnavailableError when the worker is
lost, CapacityError when it is busy, DrainingError when it shuts down. TimeoutError when the request's deadline passes.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from math import inf, isnan
from typing import Any, Generic, NoReturn, Protocol, TypeVar

import grpc
from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2, health_pb2_grpc

from controller.sequence import Sequence
from router_models.policy import TextScores
from speculation import tracing
from speculation.calibration import UNCALIBRATED, Calibration
from speculation.errors import (
    CapacityError,
    DrainingError,
    IncompatibleWorkerError,
    InvalidRequestError,
    InvalidTreeError,
    WorkerUnavailableError,
)
from speculation.prefix import Context, extend_hash
from speculation.profile import ForwardProfile
from speculation.rpc import END_OF_STREAM, error_of, status_to_errors
from speculation.sampling import SamplingParameters
from speculation.tls import Certificates, Pem, channel_credentials
from speculation.tree import ROOT, TokenTree, TreeShape
from speculation.v1 import common_pb2, draft_pb2, draft_pb2_grpc, verify_pb2, verify_pb2_grpc
from speculation.verdict import MAX_STOP_TOKENS, Verdict, WorkerTimings
from speculation.wire import (
    calibration_to_proto,
    context_to_proto,
    profile_from_proto,
    profile_to_proto,
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

ROUNDING = 1e-3
"""By which a probability may be above 1, and the logarithm of one above 0."""

_LOSSES = (grpc.aio.AioRpcError, asyncio.InvalidStateError, asyncio.CancelledError, TimeoutError)

CHANNEL_OPTIONS = (
    ("grpc.max_receive_message_length", 16 << 20),
    ("grpc.max_send_message_length", 16 << 20),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    # Without it gRPC waits a minute for the answer to a ping, whatever the line above says.
    ("grpc.http2.ping_timeout_ms", 10_000),
    # A restarted worker is found within a second; the default would wait up to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    # A connection made anew is another one than that which does not answer.
    ("grpc.use_local_subchannel_pool", 1),
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
        most_outcomes: Outcomes of a verification that it can be asked to foresee; 0: none.
        profile: What its forwards took when it started, if it said so.
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
    most_outcomes: int = 0
    profile: ForwardProfile | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """What a worker is told about a request when its session opens. Sessions of one cache_salt share what workers have
    computed for the beginnings of their prompts."""

    session_id: str
    sampling: SamplingParameters
    prompt_length: int
    stop_token_ids: frozenset[int] = frozenset()
    top_logprobs: int = 0
    uncoupled: bool = False
    background: bool = False
    cache_salt: str = ""


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Foresight:
    """What a drafter drafted ahead.

    Attributes:
        length: Tokens of the sequence then.
        shape: Of its trees.
        calibration: What made chances of their confidences.
        vocab_size: All their tokens are below it.
        outcomes: What it foresaw, as it came: at most one of them is ever looked into.
    """

    length: int
    shape: TreeShape
    calibration: Calibration
    vocab_size: int
    outcomes: Iterable[draft_pb2.Foreseen]

    def tree_for(self, sequence: Sequence, shape: TreeShape, calibration: Calibration) -> TokenTree | None:
        """The tree that a drafter so asked would propose after the sequence, if it was foreseen.

        Raises:
            InvalidTreeError: What was foreseen is no tree, or larger than asked for.
        """
        if (shape, calibration) != (self.shape, self.calibration):
            return None
        emitted = sequence.token_ids[self.length :]
        foreseen = next((outcome.tree for outcome in self.outcomes if outcome.token_ids == emitted), None)
        return None if foreseen is None else _tree_within(foreseen, shape, vocab_size=self.vocab_size)


def _tree_within(message: common_pb2.TokenTree, shape: TreeShape, *, vocab_size: int) -> TokenTree:
    """A drafter's tree; raises InvalidTreeError if it is none, or larger than asked for."""
    tree = tree_from_proto(message, vocab_size=vocab_size)
    if len(tree) > shape.budget:
        raise InvalidTreeError(f"{len(tree)} nodes where {shape.budget} were asked for")
    return tree


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerTls:
    """How the controller and its workers know each other.

    Attributes:
        certificates: What the controller shows, and who must have signed what workers show.
        server_name: The name in the workers' certificates; None: the host that is called.
    """

    certificates: Certificates
    server_name: str | None = None


class _Connection:
    """A channel and what is called over it.

    Attributes:
        pem: What it was made with; None: plain text.
        calls: Sessions that run over it.
    """

    def __init__(self, address: str, pem: Pem | None, server_name: str | None) -> None:
        self.pem = pem
        self.calls = 0
        if pem is None:
            self.channel = grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS)
        else:
            named = (("grpc.ssl_target_name_override", server_name),) if server_name else ()
            credentials = channel_credentials(pem)
            self.channel = grpc.aio.secure_channel(address, credentials, options=(*CHANNEL_OPTIONS, *named))
        self.health = health_pb2_grpc.HealthStub(self.channel)
        self.drafts: Any = draft_pb2_grpc.DraftServiceStub(self.channel)  # type: ignore[no-untyped-call]
        self.verdicts: Any = verify_pb2_grpc.VerifyServiceStub(self.channel)  # type: ignore[no-untyped-call]

    def carries(self, call: Any) -> Any:
        """Count a session until it has ended."""
        self.calls += 1
        call.add_done_callback(self._ended)
        return call

    def _ended(self, _: Any) -> None:
        self.calls -= 1


class WorkerClient:
    """The way to one worker. It follows the controller's certificates: new sessions are opened by those in force when
    `check` was last called, and those that run end on the connection they began on. A connection on which a `check` was
    not answered is followed by another one."""

    def __init__(self, address: str, role: Role, tls: WorkerTls | None = None) -> None:
        self.address = address
        self.role = role
        self._tls = tls
        self._now = self._connect()
        self._former: list[_Connection] = []
        self._silent = False

    @property
    def channel(self) -> grpc.aio.Channel:
        """That of sessions to come."""
        return self._now.channel

    def _connect(self) -> _Connection:
        if self._tls is None:
            return _Connection(self.address, None, None)
        return _Connection(self.address, self._tls.certificates.current(), self._tls.server_name)

    async def describe(self, timeout_s: float) -> WorkerDescription:
        """What the worker is.

        Raises:
            WorkerUnavailableError: No answer within the timeout.
            IncompatibleWorkerError: It has no role that this code knows.
        """
        stub = self._now.drafts if self.role is Role.DRAFT else self._now.verdicts
        with status_to_errors(self.address):
            reply = await stub.Describe(common_pb2.DescribeRequest(), timeout=timeout_s)
        return description_from_proto(self._readable(reply))

    async def check(self, timeout_s: float) -> None:
        """Raise unless the worker says within the timeout that it is serving.

        Raises:
            DrainingError: It says that it is not.
            WorkerUnavailableError: It says nothing.
        """
        await self._renew()
        with status_to_errors(self.address):
            try:
                reply = await self._now.health.Check(health_pb2.HealthCheckRequest(), timeout=timeout_s)
            except grpc.aio.AioRpcError as error:
                self._silent = error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
                raise
        if self._readable(reply).status != health_pb2.HealthCheckResponse.SERVING:
            raise DrainingError(f"{self.address} says that it is not serving")

    def _readable(self, reply: Any) -> Any:
        """A reply, unless it was damaged on its way: gRPC logs that, and hands out None."""
        if reply is None:
            raise WorkerUnavailableError(f"{self.address} answered with bytes that are no message")
        return reply

    async def _renew(self) -> None:
        """Connect anew where certificates have changed, or where nothing is heard: the other end may not know of this
        connection any more, and TCP would tell neither of us."""
        changed = self._tls is not None and self._tls.certificates.current() is not self._now.pem
        if changed or self._silent:
            self._former.append(self._now)
            self._now, self._silent = self._connect(), False
        unused = [connection for connection in self._former if not connection.calls]
        self._former = [connection for connection in self._former if connection.calls]
        for connection in unused:
            await connection.channel.close(None)

    def open_draft(self, opening: Opening, *, timeout_s: float) -> "DraftStream":
        """A session on a draft worker."""
        call = self._now.carries(self._now.drafts.Draft(timeout=timeout_s))
        return DraftStream(call, self.address, opening)

    def open_verify(self, opening: Opening, *, timeout_s: float) -> "VerifyStream":
        """A session on a verify worker."""
        call = self._now.carries(self._now.verdicts.Verify(timeout=timeout_s))
        return VerifyStream(call, self.address, opening)

    async def close(self) -> None:
        """Drop the connection and every stream on it."""
        for connection in (self._now, *self._former):
            await connection.channel.close(None)


class _Reply(Protocol):
    """What the replies of both services have in common."""

    @property
    def status(self) -> common_pb2.SessionStatus: ...

    @property
    def held_length(self) -> int: ...


RequestT = TypeVar("RequestT", draft_pb2.DraftRequest, verify_pb2.VerifyRequest)
ReplyT = TypeVar("ReplyT", bound=_Reply)
StepT = TypeVar("StepT")


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
        self._waits: set[asyncio.Timeout] = set()
        self._held_length = 0
        self._last_base = 0
        # gRPC allows one write and one read at a time; waiting for its turn keeps each reply with its message.
        self._writing = asyncio.Lock()
        self._reading = asyncio.Lock()

    def give_up(self, reason: str) -> None:
        """End the session because its worker is lost; whoever waits for it gets WorkerUnavailableError."""
        self._given_up = reason
        self._call.cancel()
        for wait in self._waits:
            wait.reschedule(0.0)  # who waits in a call that is cancelled is not always told by gRPC (docs/traps.md)

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

    async def _ask(self, sequence: Sequence, end: int, message_of: Callable[[Context], RequestT]) -> ReplyT:
        """Send a message that carries the sequence up to `end`; send again what the worker turns out to miss."""
        for _ in range(MOST_REPEATS):
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
        await self._write(message)
        self._unanswered += 1

    async def _write(self, message: RequestT) -> None:
        if (place := tracing.headers()) is not None:
            message.trace.traceparent, message.trace.tracestate = place.traceparent, place.tracestate
        async with self._writing:
            try:
                await self._unless_given_up(self._call.write(message))
            except _LOSSES as error:
                self._lose(error)

    async def _read(self) -> ReplyT:
        try:
            reply: ReplyT = await self._unless_given_up(self._call.read())
        except _LOSSES as error:
            self._lose(error)
        if reply is END_OF_STREAM:
            raise WorkerUnavailableError(f"{self.address} ended the session")
        if reply is None:  # so gRPC hands on what it cannot read
            raise WorkerUnavailableError(f"{self.address} answered with bytes that are no message of ours")
        return reply

    async def _unless_given_up(self, step: Awaitable[StepT]) -> StepT:
        """Wait for a step of the call, no longer than until the session is given up."""
        async with asyncio.timeout(None) as wait:
            self._waits.add(wait)
            try:
                return await step
            finally:
                self._waits.discard(wait)

    async def _last_reply(self) -> ReplyT:
        async with self._reading:
            return await self._last_reply_alone()

    async def _last_reply_alone(self) -> ReplyT:
        """Read the replies to everything sent; the last one says what the worker holds.

        Raises:
            CapacityError: The worker is busy.
            DrainingError: The worker shuts down.
            WorkerUnavailableError: The stream is lost.
        """
        refusal: CapacityError | DrainingError | None = None
        while True:
            reply = await self._read()
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

    def _lose(self, error: BaseException) -> NoReturn:
        """Raise the deliberate error behind any way in which a stream can be lost.

        gRPC raises CancelledError both when our task is cancelled, which must pass, and when `give_up` cancelled the
        call, which must not be mistaken for it.
        """
        try:
            if isinstance(error, grpc.aio.AioRpcError):
                if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                    raise TimeoutError("the request's deadline has passed") from error
                raise error_of(error, self.address) from error
            task = asyncio.current_task()
            if isinstance(error, asyncio.CancelledError) and (not self._given_up or (task and task.cancelling())):
                raise error
            raise WorkerUnavailableError(f"{self.address}: {self._given_up or 'the session was lost'}") from error
        finally:
            del error  # it will know this frame, and must not be known by it: a circle


def _refusal(reply: _Reply, address: str) -> CapacityError | DrainingError | None:
    if reply.status == common_pb2.SESSION_STATUS_BUSY:
        return CapacityError(f"{address} is busy")
    if reply.status == common_pb2.SESSION_STATUS_DRAINING:
        return DrainingError(f"{address} shuts down")
    return None


class DraftStream(WorkerStream[draft_pb2.DraftRequest, draft_pb2.DraftResponse]):
    """A session on a draft worker.

    Attributes:
        foresight: What it drafted ahead, once it has answered the last `foresee`.
        rest: Rounds in which it had better not be asked to.
    """

    def __init__(self, call: Any, address: str, opening: Opening) -> None:
        message = draft_pb2.OpenDraft(
            session_id=opening.session_id,
            sampling=sampling_to_proto(opening.sampling),
            prompt_length=opening.prompt_length,
            uncoupled=opening.uncoupled,
            background=opening.background,
            cache_salt=opening.cache_salt,
        )
        super().__init__(call, address, draft_pb2.DraftRequest(open=message))
        self.foresight: Foresight | None = None
        self.rest = 0

    async def read(self, sequence: Sequence, end: int) -> float | None:
        """Let it read the sequence up to `end`; its surprisal at the prompt, in nats per token, if it can tell."""
        reply = await self.tell(sequence, end)
        return None if reply is None else self._surprisal_of(reply.extended)

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
        reply = await self._ask(
            sequence,
            len(sequence),
            lambda context: draft_pb2.DraftRequest(
                propose=draft_pb2.Propose(
                    round=round_number,
                    context=context_to_proto(context),
                    shape=shape_to_proto(shape),
                    calibration=_calibration(calibration),
                )
            ),
        )
        proposal = reply.proposal
        return Proposal(
            tree=_tree_within(proposal.tree, shape, vocab_size=vocab_size),
            prompt_surprisal=self._surprisal_of(proposal),
            timings=timings_from_proto(reply.timings),
        )

    async def score(self, sequence: Sequence, start: int) -> TextScores:
        """How the drafter would have ranked the tokens from `start` on, each given all before it.

        Raises:
            WorkerUnavailableError: The answer is not about these tokens.
        """
        scored = sequence.token_ids[start:]
        reply = await self._ask(
            sequence,
            start,
            lambda context: draft_pb2.DraftRequest(
                score=draft_pb2.Score(context=context_to_proto(context), token_ids=scored)
            ),
        )
        scores = TextScores(ranks=tuple(reply.scores.ranks), confidences=tuple(reply.scores.confidences))
        if not scores.fit(len(scored)):
            raise WorkerUnavailableError(f"{self.address} scored something else than {len(scored)} tokens")
        return scores

    async def foresee(
        self,
        sequence: Sequence,
        tree: TokenTree,
        shape: TreeShape,
        *,
        calibration: Calibration,
        round_number: int,
        outcomes: int,
        vocab_size: int,
    ) -> None:
        """Let it draft on from what the target may say of the tree; `foresight` is what came of it.

        It is begun between exchanges, but the next one need not wait for it: the worker then answers at once.

        Raises:
            InvalidTreeError: The answer is not what was asked for.
        """
        self.foresight = None
        if self.rest:
            self.rest -= 1
            return
        length = len(sequence)
        if length - self._held_length > TOKENS_PER_MESSAGE:
            return
        message = draft_pb2.Foresee(
            round=round_number,
            context=context_to_proto(self._next_context(sequence, length)),
            tree=tree_to_proto(tree),
            shape=shape_to_proto(shape),
            outcomes=outcomes,
            calibration=_calibration(calibration),
        )
        self._held_length = length
        reply = await self._ask_beside(draft_pb2.DraftRequest(foresee=message))
        self.rest = reply.ahead.rest
        if reply.status == common_pb2.SESSION_STATUS_NEED_CONTEXT:
            self._held_length = min(self._held_length, reply.held_length)
        if reply.status != common_pb2.SESSION_STATUS_OK:
            return
        if reply.ahead.round != round_number or len(reply.ahead.outcomes) > outcomes:
            raise InvalidTreeError(f"{self.address} foresaw what it was not asked for")
        self.foresight = Foresight(
            length=length, shape=shape, calibration=calibration, vocab_size=vocab_size, outcomes=reply.ahead.outcomes
        )

    async def _ask_beside(self, message: draft_pb2.DraftRequest) -> draft_pb2.DraftResponse:
        """The reply to a message that the next exchange does not wait for, save for its turn to read."""
        await self._write(message)
        async with self._reading:
            return await self._read()

    def _surprisal_of(self, answer: draft_pb2.Proposal | draft_pb2.DraftExtended) -> float | None:
        if not answer.HasField("prompt_surprisal"):
            return None
        if not 0.0 <= answer.prompt_surprisal < inf:
            raise WorkerUnavailableError(
                f"{self.address} is surprised by {answer.prompt_surprisal} nats, which is none"
            )
        return answer.prompt_surprisal

    def _extension(self, context: Context) -> draft_pb2.DraftRequest:
        return draft_pb2.DraftRequest(extend=draft_pb2.ExtendDraft(context=context_to_proto(context)))


def _calibration(calibration: Calibration) -> common_pb2.Calibration | None:
    """To be told to a drafter; nothing where its own word stands."""
    return None if calibration == UNCALIBRATED else calibration_to_proto(calibration)


class VerifyStream(WorkerStream[verify_pb2.VerifyRequest, verify_pb2.VerifyResponse]):
    """A session on a verify worker."""

    def __init__(self, call: Any, address: str, opening: Opening) -> None:
        message = verify_pb2.OpenVerify(
            session_id=opening.session_id,
            sampling=sampling_to_proto(opening.sampling),
            prompt_length=opening.prompt_length,
            top_logprobs=opening.top_logprobs,
            cache_salt=opening.cache_salt,
            stop_token_ids=sorted(opening.stop_token_ids)[:MAX_STOP_TOKENS],
        )
        super().__init__(call, address, verify_pb2.VerifyRequest(open=message))

    async def verify(self, sequence: Sequence, tree: TokenTree, *, run: int = 0, round_number: int) -> Verdict:
        """What the target emits after the sequence."""
        drafted = tree_to_proto(tree)
        reply = await self._ask(
            sequence,
            len(sequence),
            lambda context: verify_pb2.VerifyRequest(
                verify=verify_pb2.VerifyTree(
                    round=round_number, context=context_to_proto(context), tree=drafted, run=run
                )
            ),
        )
        if any(len(top.token_ids) != len(top.logprobs) for top in reply.verdict.top_logprobs):
            raise self._nonsense("has not one log-probability for each alternative")
        verdict = verdict_from_proto(reply.verdict, timings_from_proto(reply.timings))
        if problem := _problem_of(verdict, reply.verdict.prefix_hash, sequence, tree, run):
            raise self._nonsense(problem)
        self._held_length += len(verdict.token_ids)
        return verdict

    def _nonsense(self, problem: str) -> WorkerUnavailableError:
        return WorkerUnavailableError(f"{self.address} answered with a verdict that {problem}")

    def _extension(self, context: Context) -> verify_pb2.VerifyRequest:
        return verify_pb2.VerifyRequest(extend=verify_pb2.ExtendVerify(context=context_to_proto(context)))


def _problem_of(verdict: Verdict, prefix_hash: int, sequence: Sequence, tree: TokenTree, run: int) -> str:
    """Why a verdict cannot be one on that tree after that sequence, with at most that run, in words; empty if it can.

    What a worker holds may be another text, and gRPC carries no checksum of its own: a token that is not the target's
    must not reach a caller, nor a number that is none what policies learn from.
    """
    token_ids = verdict.token_ids
    if not token_ids:
        return "has no token"
    if prefix_hash != extend_hash(sequence.prefix_hash, token_ids):
        return "is about another text, or was damaged on its way"
    if not _spells(tree, verdict.accepted, token_ids[: verdict.num_accepted]):
        return "accepts other nodes than those it emits"
    if not 0 <= verdict.num_run <= run:
        return f"goes on for {verdict.num_run} tokens where {run} were asked for"
    if len(verdict.logprobs) != len(token_ids) or not _all_within(verdict.logprobs, -inf, ROUNDING):
        return "has not one log-probability for each token"
    if len(verdict.top_logprobs) not in (0, len(token_ids)):
        return "has not alternatives for each token"
    if len(verdict.node_probs) not in (0, len(tree)) or not _all_within(verdict.node_probs, 0.0, 1.0 + ROUNDING):
        return "has not one probability for each node"
    return ""


def _all_within(numbers: tuple[float, ...], least: float, most: float) -> bool:
    """Whether these are numbers, none of them less or more."""
    # NaN makes a sum NaN, wherever it stands; whether it is the smallest or the largest depends on where.
    return not numbers or (least <= min(numbers) and max(numbers) <= most and not isnan(sum(numbers)))


def _spells(tree: TokenTree, path: tuple[int, ...], token_ids: tuple[int, ...]) -> bool:
    """Whether these nodes lead down the tree from its root, and are these tokens."""
    parent = ROOT
    for node in path:
        if node >= len(tree) or tree.parents[node] != parent:
            return False
        parent = node
    return tuple(tree.token_ids[node] for node in path) == token_ids


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
        most_outcomes=message.most_outcomes,
        profile=_profile(message),
    )


def _profile(message: common_pb2.DescribeResponse) -> ForwardProfile | None:
    if not message.HasField("forward_profile"):
        return None
    try:
        return profile_from_proto(message.forward_profile)
    except InvalidRequestError as error:
        raise IncompatibleWorkerError(str(error)) from error


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
        most_outcomes=description.most_outcomes,
        forward_profile=None if description.profile is None else profile_to_proto(description.profile),
    )
