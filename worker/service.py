"""DraftService and VerifyService: protobuf in, a call for the host, protobuf out."""

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterable, AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import Any

import grpc
from opentelemetry.context import Context as TracePlace

from speculation import wire
from speculation.calibration import UNCALIBRATED, Calibration
from speculation.correlation import Correlation, correlate, correlation
from speculation.errors import InvalidRequestError
from speculation.prefix import Context
from speculation.rpc import errors_to_status, status_of
from speculation.sampling import MAX_TOP_LOGPROBS
from speculation.tracing import NO_TRACING, Attributes, context_of, trace_id_in
from speculation.tree import TokenTree
from speculation.v1 import common_pb2, draft_pb2, draft_pb2_grpc, verify_pb2, verify_pb2_grpc
from speculation.verdict import MAX_RUN, MAX_STOP_TOKENS, Verdict
from worker.batching import Steps
from worker.drafter import Drafter
from worker.engine import Engine
from worker.host import Busy, Done, Draining, GaveWay, Host, NeedContext, Outcome, Stream
from worker.sessions import Session, read_all
from worker.settings import Role
from worker.verification import verify

ROLES = {"draft": common_pb2.WORKER_ROLE_DRAFT, "verify": common_pb2.WORKER_ROLE_VERIFY}

SERVICE_NAMES: dict[Role, str] = {
    "draft": draft_pb2.DESCRIPTOR.services_by_name["DraftService"].full_name,
    "verify": verify_pb2.DESCRIPTOR.services_by_name["VerifyService"].full_name,
}

LONGEST_SALT = 256
"""Characters of a session's cache salt."""

Description = common_pb2.DescribeResponse
"""What a worker is."""

CallContext = grpc.aio.ServicerContext[Any, Any]


def describe(*, role: Role, **fields: Any) -> Description:
    """The description with these fields; see the protocol for what they mean."""
    return common_pb2.DescribeResponse(role=ROLES[role], **fields)


class SessionService(ABC):
    """What the two services share: one stream is one session, opened by its first message.

    Attributes:
        description: What the worker is.
        tracing: Whether what it does for traced requests is traced; not, unless somebody sets it.
    """

    def __init__(self, host: Host, description: Description) -> None:
        self.description = description
        self.tracing = NO_TRACING
        self._host = host

    @abstractmethod
    def join(self, server: grpc.aio.Server) -> None:
        """Be offered by a server."""

    async def Describe(self, request: common_pb2.DescribeRequest, context: CallContext) -> Description:  # noqa: N802
        """What this worker is, and how its cache is used."""
        description = common_pb2.DescribeResponse(cache_use=common_pb2.CacheUse(**asdict(self._host.cache_use)))
        description.MergeFrom(self.description)
        return description

    async def _converse(self, requests: AsyncIterable[Any], context: CallContext) -> None:
        """One session. Replies are written, not yielded, so that a lost stream always ends this coroutine at once."""
        async with errors_to_status(context), self._host.stream() as stream, _task_group() as group:
            under_way: asyncio.Task[None] | None = None
            async for request in requests:
                read_ns = time.perf_counter_ns()
                await _require_open(stream, request.HasField("open") or self._host.draining, context)
                if not self._is_for_idle_time(request):
                    await _write(context, self._answer(stream, request, read_ns), after=under_way)
                    under_way = None
                    continue
                if under_way is not None:
                    self._host.end_idle_work()
                    await under_way
                under_way = group.create_task(_write(context, self._answer(stream, request, read_ns)))
                await asyncio.sleep(0)  # it is in the engine's queue before the next message can be

    def _is_for_idle_time(self, request: Any) -> bool:
        """Whether the next message is read before this one is answered, and ends it."""
        return False

    async def _answer(self, stream: Stream, request: Any, read_ns: int) -> Any:
        """The reply to a message, in a span of its own if its request is traced."""
        if request.HasField("open"):
            correlate(Correlation(request_id=request.open.session_id, trace_id=trace_id_in(_caller(request))))
        elif self.tracing.tracer is not None and request.HasField("trace"):
            return await self._traced_reply(stream, request, read_ns)
        return await self._reply(stream, request, read_ns)

    async def _traced_reply(self, stream: Stream, request: Any, read_ns: int) -> Any:
        kind = request.WhichOneof("message") or "message"
        about = {"forerun.worker": self.description.name, "forerun.request_id": correlation().request_id}
        with self.tracing.within(kind, _caller(request), about, began_ns=read_ns) as span:
            reply = await self._reply(stream, request, read_ns)
            if span is not None:
                span.set_attributes(_about(reply))
            return reply

    async def _reply(self, stream: Stream, request: Any, read_ns: int) -> Any:
        """The reply to a message; its total is taken last, so that it holds all that the worker did for it."""
        reply = self._new_reply()
        if self._host.draining:
            _report(reply, Draining())
        elif request.HasField("open"):
            self._open(stream, request.open)
            reply.status = common_pb2.SESSION_STATUS_OK
            reply.opened.name = self.description.name
            reply.opened.model_revision = self.description.model_revision
        elif request.HasField("extend"):
            await self._extend(stream.session, request.extend, reply)
        else:
            await self._call(stream, request, reply)
        if reply.HasField("timings"):
            reply.timings.total_ns = time.perf_counter_ns() - read_ns
        return reply

    async def _extend(self, session: Session, message: Any, reply: Any) -> None:
        """Read a context ahead of time."""
        outcome = await self._host.call(session, _context(message, self._host), self._read(session))
        _report(reply, outcome)
        if isinstance(outcome, Done):
            reply.extended.held_length = outcome.result
            _tell_surprisal(session, reply.extended)

    @abstractmethod
    def _read(self, session: Session) -> Steps[int]:
        """Read all that is there of the session; returns how many tokens are held."""

    @abstractmethod
    def _new_reply(self) -> Any:
        """An empty reply of this service."""

    @abstractmethod
    def _open(self, stream: Stream, message: Any) -> None:
        """Begin the session."""

    @abstractmethod
    async def _call(self, stream: Stream, request: Any, reply: Any) -> None:
        """Do what a message other than `open` and `extend` asks for, and write the outcome into the reply."""


class DraftService(SessionService, draft_pb2_grpc.DraftServiceServicer):
    """Proposes trees and scores finished text."""

    def __init__(self, host: Host, description: Description, drafter: Drafter) -> None:
        super().__init__(host, description)
        self._drafter = drafter

    def join(self, server: grpc.aio.Server) -> None:
        """Be offered by a server."""
        draft_pb2_grpc.add_DraftServiceServicer_to_server(self, server)  # type: ignore[no-untyped-call]

    async def Draft(  # noqa: N802
        self, request_iterator: AsyncIterable[draft_pb2.DraftRequest], context: CallContext
    ) -> None:
        """One session."""
        await self._converse(request_iterator, context)

    def _read(self, session: Session) -> Steps[int]:
        return self._drafter.read(session)

    def _new_reply(self) -> draft_pb2.DraftResponse:
        return draft_pb2.DraftResponse()

    def _open(self, stream: Stream, message: draft_pb2.OpenDraft) -> None:
        session = self._host.new_session(
            wire.sampling_from_proto(message.sampling),
            prompt_length=message.prompt_length,
            coupled=not message.uncoupled,
            surprised=True,
            background=message.background,
            salt=_salt(message),
        )
        stream.open(session)

    async def _call(self, stream: Stream, request: draft_pb2.DraftRequest, reply: draft_pb2.DraftResponse) -> None:
        match request.WhichOneof("message"):
            case "propose":
                await self._propose(stream.session, request.propose, reply)
            case "score":
                await self._score(stream.session, request.score, reply)
            case "foresee":
                await self._foresee(stream.session, request.foresee, reply)
            case _:
                raise InvalidRequestError("message", "is neither open nor extend, propose, foresee or score")

    def _is_for_idle_time(self, request: draft_pb2.DraftRequest) -> bool:
        return request.HasField("foresee")

    async def _propose(self, session: Session, message: draft_pb2.Propose, reply: draft_pb2.DraftResponse) -> None:
        host = self._host
        steps = self._drafter.draft(
            session,
            wire.shape_from_proto(message.shape),
            max_length=host.max_length,
            calibration=_calibration(message),
        )
        outcome = await host.call(session, _context(message, host), steps)
        _report(reply, outcome)
        if isinstance(outcome, Done):
            reply.proposal.round = message.round
            reply.proposal.tree.CopyFrom(wire.tree_to_proto(outcome.result))
            _tell_surprisal(session, reply.proposal)

    async def _foresee(self, session: Session, message: draft_pb2.Foresee, reply: draft_pb2.DraftResponse) -> None:
        host, context = self._host, _context(message, self._host)
        most = self._drafter.most_outcomes
        if not 1 <= message.outcomes <= most:
            raise InvalidRequestError("outcomes", f"{message.outcomes}; this drafter foresees 1 to {most}")
        steps = self._drafter.foresee(
            session,
            wire.tree_from_proto(message.tree, vocab_size=host.engine.vocab_size),
            wire.shape_from_proto(message.shape),
            count=message.outcomes,
            max_length=host.max_length,
            calibration=_calibration(message),
        )
        outcome = await host.call(session, context, steps, gives_way=True)
        _report(reply, outcome)
        if isinstance(outcome, Done | GaveWay):
            reply.ahead.round = message.round
            reply.ahead.rest = host.rest
        if isinstance(outcome, Done):
            reply.ahead.outcomes.extend(map(wire.foreseen_to_proto, outcome.result))

    async def _score(self, session: Session, message: draft_pb2.Score, reply: draft_pb2.DraftResponse) -> None:
        host, context = self._host, _context(message, self._host)
        if not message.token_ids:
            raise InvalidRequestError("token_ids", "there is nothing to score")
        wire.check_token_ids("token_ids", message.token_ids, host.engine.vocab_size)
        _require_room("token_ids", context, len(message.token_ids), host)
        outcome = await host.call(session, context, self._drafter.score(session, tuple(message.token_ids)))
        _report(reply, outcome)
        if isinstance(outcome, Done):
            reply.scores.ranks.extend(outcome.result.ranks)
            reply.scores.confidences.extend(outcome.result.confidences)


class VerifyService(SessionService, verify_pb2_grpc.VerifyServiceServicer):
    """Emits the target's tokens."""

    def __init__(self, host: Host, description: Description, engine: Engine) -> None:
        super().__init__(host, description)
        self._engine = engine

    def join(self, server: grpc.aio.Server) -> None:
        """Be offered by a server."""
        verify_pb2_grpc.add_VerifyServiceServicer_to_server(self, server)  # type: ignore[no-untyped-call]

    async def Verify(  # noqa: N802
        self, request_iterator: AsyncIterable[verify_pb2.VerifyRequest], context: CallContext
    ) -> None:
        """One session."""
        await self._converse(request_iterator, context)

    def _read(self, session: Session) -> Steps[int]:
        return read_all(self._engine, session)

    def _new_reply(self) -> verify_pb2.VerifyResponse:
        return verify_pb2.VerifyResponse()

    def _open(self, stream: Stream, message: verify_pb2.OpenVerify) -> None:
        if message.top_logprobs > MAX_TOP_LOGPROBS:
            raise InvalidRequestError("top_logprobs", f"{message.top_logprobs} is more than {MAX_TOP_LOGPROBS}")
        if len(message.stop_token_ids) > MAX_STOP_TOKENS:
            raise InvalidRequestError(
                "stop_token_ids", f"{len(message.stop_token_ids)} are more than {MAX_STOP_TOKENS}"
            )
        sampling = wire.sampling_from_proto(message.sampling)
        stream.open(
            self._host.new_session(sampling, prompt_length=message.prompt_length, salt=_salt(message)),
        )
        stream.top_logprobs = message.top_logprobs
        stream.stop_token_ids = frozenset(message.stop_token_ids)

    async def _call(self, stream: Stream, request: verify_pb2.VerifyRequest, reply: verify_pb2.VerifyResponse) -> None:
        match request.WhichOneof("message"):
            case "verify":
                await self._verify(stream, request.verify, reply)
            case _:
                raise InvalidRequestError("message", "is neither open nor extend or verify")

    async def _verify(self, stream: Stream, message: verify_pb2.VerifyTree, reply: verify_pb2.VerifyResponse) -> None:
        host, session, context = self._host, stream.session, _context(message, self._host)
        tree = wire.tree_from_proto(message.tree, vocab_size=host.engine.vocab_size)
        if message.run > MAX_RUN:
            raise InvalidRequestError("run", f"{message.run} is more than {MAX_RUN}")
        _require_room("run" if message.run else "tree", context, tree.depth + message.run, host)
        outcome = await host.call(session, context, self._judged(stream, tree, message.run))
        _report(reply, outcome)
        if isinstance(outcome, Done):
            verdict, prefix_hash = outcome.result
            reply.verdict.CopyFrom(wire.verdict_to_proto(verdict, message.round))
            reply.verdict.prefix_hash = prefix_hash

    def _judge(self, stream: Stream, tree: TokenTree, run: int) -> Steps[Verdict]:
        """What the target says of a tree, and goes on to say."""
        return verify(
            self._engine,
            stream.session,
            tree,
            run=run,
            stop_token_ids=stream.stop_token_ids,
            top_logprobs=stream.top_logprobs,
        )

    def _judged(self, stream: Stream, tree: TokenTree, run: int) -> Steps[tuple[Verdict, int]]:
        """The same, and the hash of what the session then holds: once this has ended, another may have its slot."""
        verdict = yield from self._judge(stream, tree, run)
        return verdict, stream.session.prefix_hash


async def _write(
    context: CallContext, answer: Coroutine[Any, Any, Any], *, after: "asyncio.Task[None] | None" = None
) -> None:
    """Work out an answer, beside the one before it, and write it after that."""
    reply = await answer
    if after is not None:
        await after
    await context.write(reply)


@asynccontextmanager
async def _task_group() -> AsyncIterator[asyncio.TaskGroup]:
    """Tasks that end with the body, and the body with them if one fails; its error passes unwrapped."""
    try:
        async with asyncio.TaskGroup() as group:
            yield group
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from errors


def _caller(request: Any) -> TracePlace:
    """Where the work for a message belongs."""
    return context_of(request.trace.traceparent, request.trace.tracestate)


def _about(reply: Any) -> Attributes:
    """What a span says of a reply: how it ended, and what it took."""
    took = reply.timings
    return {
        "forerun.status": common_pb2.SessionStatus.Name(reply.status).removeprefix("SESSION_STATUS_").lower(),
        "forerun.queue_ms": took.queue_ns / 1e6,
        "forerun.compute_ms": took.compute_ns / 1e6,
        "forerun.forwards": took.forwards,
        "forerun.batch_size": took.batch_size,
    }


def _context(message: Any, host: Host) -> Context:
    """The context of a message that must have one."""
    if not message.HasField("context"):
        raise InvalidRequestError("context", "is missing")
    return wire.context_from_proto(message.context, vocab_size=host.engine.vocab_size)


def _salt(message: draft_pb2.OpenDraft | verify_pb2.OpenVerify) -> str:
    if len(message.cache_salt) > LONGEST_SALT:
        raise InvalidRequestError("cache_salt", f"has {len(message.cache_salt)} characters; at most {LONGEST_SALT}")
    return message.cache_salt


def _calibration(message: draft_pb2.Propose | draft_pb2.Foresee) -> Calibration:
    return wire.calibration_from_proto(message.calibration) if message.HasField("calibration") else UNCALIBRATED


def _require_room(field: str, context: Context, count: int, host: Host) -> None:
    """Refuse what would reach beyond the longest sequence a session may hold."""
    length = context.base_length + len(context.token_ids)
    if length + count > host.max_length:
        raise InvalidRequestError(field, f"{length} + {count} tokens; {host.max_length} can be held")


def _tell_surprisal(session: Session, answer: Any) -> None:
    """Write the prompt's surprisal into the answer of a drafter that has read enough; a target gathers none."""
    if session.surprisal is not None and session.surprisal.value is not None:
        answer.prompt_surprisal = session.surprisal.value


def _report(reply: draft_pb2.DraftResponse | verify_pb2.VerifyResponse, outcome: Outcome[Any]) -> None:
    """Write how a call ended, and what it cost, into its reply."""
    match outcome:
        case Done(timings=timings):
            reply.status = common_pb2.SESSION_STATUS_OK
            reply.timings.CopyFrom(wire.timings_to_proto(timings))
        case NeedContext(held_length=held_length):
            reply.status = common_pb2.SESSION_STATUS_NEED_CONTEXT
            reply.held_length = held_length
        case Busy():
            reply.status = common_pb2.SESSION_STATUS_BUSY
        case Draining():
            reply.status = common_pb2.SESSION_STATUS_DRAINING
        case GaveWay():
            reply.status = common_pb2.SESSION_STATUS_OK


async def _require_open(stream: Stream, excused: bool, context: CallContext) -> None:
    """End the stream with FAILED_PRECONDITION if it speaks before it is open."""
    if not (stream.is_open or excused):
        status = status_of(InvalidRequestError("message", "the first message of a stream must be open"))
        details = (("grpc-status-details-bin", status.SerializeToString()),)
        await context.abort(grpc.StatusCode.FAILED_PRECONDITION, status.message, details)
