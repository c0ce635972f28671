"""GenerationService: a request checked and read, the loop run, the answer written as it grows."""

import asyncio
import logging
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import grpc

from controller.access import Access
from controller.account import Account
from controller.chronicle import Chronicle, RequestChronicle
from controller.generation import Fleet, FleetSession, Round, generate
from controller.meter import Meter, RequestMeter
from controller.quotas import Quotas, Visit
from controller.reception import Reception, Ticket
from controller.records import Outcome, summary, uuid7
from controller.request import GenerationRequest, Pins
from controller.scorer import Answer, Scorer
from controller.sequence import Sequence as TokenSequence
from controller.span_attributes import tell_answer, tell_request, tell_round
from controller.steering import SteeredPolicy, Steering
from controller.text import AnswerText, Tokenizer
from speculation.correlation import correlation
from speculation.errors import InvalidRequestError, PromptTooLongError, UnknownNameError
from speculation.rpc import errors_to_status
from speculation.sampling import MAX_TOP_LOGPROBS
from speculation.tracing import span, spent
from speculation.v1 import generation_pb2, generation_pb2_grpc
from speculation.wire import check_token_ids, sampling_from_proto, shape_from_proto

logger = logging.getLogger(__name__)

SERVICE_NAME = generation_pb2.DESCRIPTOR.services_by_name["GenerationService"].full_name

GENERATE = f"/{SERVICE_NAME}/Generate"

MOST_STOPS, LONGEST_STOP = 16, 1_024
LONGEST_REQUEST_ID = 128
LONGEST_LABEL = 64

FOREVER_S = 1e8
"""gRPC reports a call without a deadline as one that ends in centuries."""

_CALLER_LEFT = (TimeoutError, asyncio.CancelledError, grpc.aio.InternalError)
"""The last one is what writing to a call that is over comes to, where its cancellation is not here yet."""

CallContext = grpc.aio.ServicerContext[Any, Any]
Write = Callable[[generation_pb2.GenerateResponse], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one controller takes on of each request.

    Attributes:
        default_max_new_tokens: Tokens of an answer where the request names no number.
        longest_request_s: Deadline of a request that brings none.
        slow_reader_s: Longest that a caller may leave unread what is written to it: it has a place meanwhile.
    """

    default_max_new_tokens: int = 256
    longest_request_s: float = 600.0
    slow_reader_s: float = 30.0


class RequestReader:
    """Checks every field of a request and fills in the defaults.

    Attributes:
        limits: Of requests to come.
    """

    def __init__(self, tokenizer: Tokenizer, fleet: Fleet, limits: Limits) -> None:
        self._tokenizer = tokenizer
        self._fleet = fleet
        self.limits = limits

    async def read(
        self, message: generation_pb2.GenerateRequest, *, tenant: str, latency_class: str
    ) -> GenerationRequest:
        """The request of a message, on behalf of a tenant and in that class.

        Raises:
            InvalidRequestError: A field is wrong; the message names it.
            UnknownNameError: There is no such drafter.
            WorkerUnavailableError: No target worker is there to say how long a prompt may be.
        """
        sampling = sampling_from_proto(message.sampling, default_seed=secrets.randbits(64))
        sampling.check_vocabulary(self._tokenizer.vocab_size)
        check_token_ids("stop_token_ids", message.stop_token_ids, self._tokenizer.vocab_size)
        pins = self._pins(message.speculation)
        with span("tokenize"):
            prompt = await self._prompt(message)
        end_tokens = frozenset() if message.ignore_eos else self._tokenizer.end_token_ids
        return GenerationRequest(
            request_id=message.request_id or uuid7(),
            prompt=prompt,
            max_new_tokens=self._max_new_tokens(len(prompt), message.max_new_tokens, await self._fleet.max_length()),
            stop=tuple(message.stop),
            stop_token_ids=end_tokens | frozenset(message.stop_token_ids),
            sampling=sampling,
            logprobs=message.logprobs if message.HasField("logprobs") else None,
            task=message.task,
            tenant=tenant,
            latency_class=latency_class,
            pins=pins,
            explain=message.explain,
            trace_id=correlation().trace_id,
        )

    async def _prompt(self, message: generation_pb2.GenerateRequest) -> tuple[int, ...]:
        kind = message.WhichOneof("prompt")
        if kind == "tokens":
            await self._require_room_for(len(message.tokens.ids))
            prompt = tuple(message.tokens.ids)
            check_token_ids("tokens", prompt, self._tokenizer.vocab_size)
        elif kind == "chat":
            turns = _turns(message.chat)
            await self._require_room(sum(len(turn.content) for turn in turns))
            prompt = await self._tokenizer.encode_chat([(turn.role, turn.content) for turn in turns])
        elif kind == "text":
            await self._require_room(len(message.text))
            # Asked before tokens are counted: many tokenizers begin even an empty text with a token of their own.
            prompt = await self._tokenizer.encode(message.text) if message.text else ()
        else:
            raise InvalidRequestError("prompt", "is missing; send text, chat or tokens")
        if not prompt:
            raise InvalidRequestError(kind, "the prompt has no token")
        return prompt

    async def _require_room(self, characters: int) -> None:
        """Refuse what cannot fit before it is read: millions of characters take a tokenizer many seconds, in which it
        reads nobody else's, and gigabytes."""
        await self._require_room_for(characters // self._tokenizer.longest_token, at_least=True)

    async def _require_room_for(self, tokens: int, *, at_least: bool = False) -> None:
        if tokens > (max_length := await self._fleet.max_length()):
            raise PromptTooLongError(tokens, 1, max_length, at_least=at_least)

    def _pins(self, message: generation_pb2.Speculation) -> Pins:
        known = self._fleet.drafter_names
        for name in message.drafters:
            if name not in known:
                raise UnknownNameError("drafter", name, known)
        return Pins(
            off=message.off,
            policy=message.policy,
            drafters=tuple(message.drafters),
            shape=shape_from_proto(message.shape) if message.HasField("shape") else None,
            uncoupled=message.uncoupled,
            in_turn=message.in_turn,
        )

    def _max_new_tokens(self, prompt_tokens: int, asked: int, max_length: int) -> int:
        room = max_length - prompt_tokens
        wanted = asked or min(self.limits.default_max_new_tokens, max(room, 1))
        if wanted > room:
            raise PromptTooLongError(prompt_tokens, wanted, max_length)
        return wanted


def _check_lengths(message: generation_pb2.GenerateRequest) -> None:
    labels = (("task", LONGEST_LABEL), ("tenant", LONGEST_LABEL), ("latency_class", LONGEST_LABEL))
    for field, longest in (("request_id", LONGEST_REQUEST_ID), *labels):
        if len(getattr(message, field)) > longest:
            raise InvalidRequestError(field, f"has more than {longest} characters")
    if len(message.stop) > MOST_STOPS:
        raise InvalidRequestError("stop", f"{len(message.stop)} strings; at most {MOST_STOPS} are allowed")
    for stop in message.stop:
        if not stop:
            raise InvalidRequestError("stop", "an empty string would stop every answer at once")
        if len(stop) > LONGEST_STOP:
            raise InvalidRequestError("stop", f"a string has more than {LONGEST_STOP} characters")
    if message.logprobs > MAX_TOP_LOGPROBS:
        raise InvalidRequestError("logprobs", f"{message.logprobs} is more than {MAX_TOP_LOGPROBS}")


def _turns(chat: generation_pb2.ChatMessages) -> Sequence[generation_pb2.ChatMessage]:
    if not chat.messages:
        raise InvalidRequestError("chat", "there is no message")
    for place, turn in enumerate(chat.messages):
        if not turn.role:
            raise InvalidRequestError("chat", f"message {place} has no role")
    return chat.messages


class GenerationService(generation_pb2_grpc.GenerationServiceServicer):
    """What backend services call.

    Attributes:
        reception: Who is inside.
        meter: What their requests come to.
    """

    def __init__(
        self,
        *,
        tokenizer: Tokenizer,
        fleet: Fleet,
        steering: Steering,
        chronicle: Chronicle,
        limits: Limits,
        reception: Reception,
        scorer: Scorer,
        access: Access,
        quotas: Quotas,
        meter: Meter,
    ) -> None:
        self.reception = reception
        self.meter = meter
        self._tokenizer = tokenizer
        self._fleet = fleet
        self._steering = steering
        self._chronicle = chronicle
        self._scorer = scorer
        self._access = access
        self._quotas = quotas
        self._reader = RequestReader(tokenizer, fleet, limits)

    def add_to(self, server: grpc.aio.Server) -> None:
        """Offer the service."""
        generation_pb2_grpc.add_GenerationServiceServicer_to_server(self, server)  # type: ignore[no-untyped-call]

    def obey(self, limits: Limits) -> None:
        """Other limits, for requests to come."""
        self._reader.limits = limits

    async def Generate(  # noqa: N802
        self, request: generation_pb2.GenerateRequest, context: CallContext
    ) -> None:
        """One answer. It is written, not yielded: a generator that nobody reads is not closed at once."""
        account, limits = Account(), self._reader.limits
        async with (
            errors_to_status(context),
            _deadline(context, limits.longest_request_s) as deadline,
            _unread_to_status(context, limits.slow_reader_s),
        ):
            with self.meter.admitting() as admission, self._received(context, request, deadline) as inside:
                asked = await self._reader.read(request, tenant=inside.tenant, latency_class=inside.latency_class)
                policy = self._steering.for_request(asked.pins, task=asked.task, tenant=asked.tenant)
                tell_request(asked, policy)
                with inside.spending(asked, account):
                    await inside.ticket.turn(tokens=len(asked.prompt) + asked.max_new_tokens)
                    account.begin()
                    admission.granted = True
                    spent("admission")
                    write = _impatient(context.write, limits.slow_reader_s)
                    await self._answer(asked, policy, account, inside.ticket, deadline=deadline, write=write)

    @contextmanager
    def _received(
        self, context: CallContext, request: generation_pb2.GenerateRequest, deadline: float
    ) -> Iterator["_Inside"]:
        """Let a call in, and say on whose behalf it is. It has no place yet."""
        _check_lengths(request)
        with self._access.refusals.noted(GENERATE, context.peer()):
            tenant = self._access.tenant(context, request.tenant)
            latency_class = self.reception.precedence.of(request.latency_class, tenant)
            with (
                self.reception.ticket(latency_class, tenant, deadline=deadline) as ticket,
                self._quotas.visit(tenant) as visit,
            ):
                yield _Inside(tenant, ticket, visit)

    async def ListModels(  # noqa: N802
        self, request: generation_pb2.ListModelsRequest, context: CallContext
    ) -> generation_pb2.ListModelsResponse:
        """What is served."""
        model = self._fleet.model
        served = [] if model is None else [generation_pb2.ServedModel(**asdict(model))]
        return generation_pb2.ListModelsResponse(models=served)

    async def _answer(
        self,
        request: GenerationRequest,
        policy: SteeredPolicy,
        account: Account,
        ticket: Ticket,
        *,
        deadline: float,
        write: Write,
    ) -> None:
        text = AnswerText(self._tokenizer, prompt=request.prompt, stops=request.stop)
        sequence = TokenSequence(
            request.prompt,
            max_new_tokens=request.max_new_tokens,
            stop_token_ids=request.stop_token_ids,
            ends_answer=text.push,
        )
        async with self._fleet.session(request, sequence, deadline=deadline) as session:
            chronicle, meter = self._chronicle.open(request, policy, session), self.meter.open(request, policy)
            with _ending(request, session, chronicle, meter, account, sequence, deadline):
                async with aclosing(self._rounds(request, sequence, session, policy)) as rounds:
                    async for done in rounds:
                        tell_round(done)
                        with span("log"):
                            account.add(done)
                            chronicle.add(done)
                            meter.add(done)
                        ticket.note(done)
                        await write(self._delta(request, done, text.take(finished=sequence.finished)))
                        if request.explain:
                            await write(generation_pb2.GenerateResponse(round=chronicle.report(self._tokenizer.decode)))
                await write(_last(request, account, policy, sequence, text, session))
        self._offer_for_scoring(request, policy, account, sequence, session)

    def _delta(self, request: GenerationRequest, done: Round, text: str) -> generation_pb2.GenerateResponse:
        """What a round added to the answer."""
        delta = generation_pb2.Delta(text=text, token_ids=done.emitted)
        if request.logprobs is not None:
            verdict, spell = done.outcome.verdict, self._tokenizer.spell
            for place, token in enumerate(done.emitted):
                entry = delta.logprobs.add(logprob=verdict.logprobs[place], text=spell(token))
                for top in verdict.top_logprobs[place] if request.logprobs else ():
                    entry.top.add(token_id=top.token_id, logprob=top.logprob, text=spell(top.token_id))
        return generation_pb2.GenerateResponse(delta=delta)

    def _offer_for_scoring(
        self,
        request: GenerationRequest,
        policy: SteeredPolicy,
        account: Account,
        sequence: TokenSequence,
        session: FleetSession,
    ) -> None:
        """Let drafters that did not draft the answer tell how they would have, some time."""
        if account.last_context is not None:
            context = replace(account.last_context, prompt_surprisal=dict(session.prompt_surprisal))
            drafted_by = frozenset(account.drafted_by)
            self._scorer.offer(
                Answer(request=request, sequence=sequence, context=context, policy=policy, drafted_by=drafted_by)
            )

    def _rounds(
        self, request: GenerationRequest, sequence: TokenSequence, session: FleetSession, policy: SteeredPolicy
    ) -> AsyncGenerator[Round]:
        return generate(
            request,
            sequence,
            session=session,
            policy=policy,
            allow=policy.allow,
            requests_in_flight=lambda: self.reception.inside,
        )


@dataclass(frozen=True, slots=True)
class _Inside:
    """A call that was let in: on whose behalf, and what it has of places and quotas."""

    tenant: str
    ticket: Ticket
    visit: Visit

    @property
    def latency_class(self) -> str:
        """Name of its class."""
        return self.ticket.latency_class.name

    @contextmanager
    def spending(self, request: GenerationRequest, account: Account) -> Iterator[None]:
        """Set aside the tokens that a request can use at most; what it has not used comes back."""
        self.visit.reserve(len(request.prompt) + request.max_new_tokens)
        try:
            yield
        finally:
            used = len(request.prompt) + account.completion_tokens if account.begun else 0
            self.visit.used(used)
            self.ticket.used(used)


@asynccontextmanager
async def _deadline(context: CallContext, longest_s: float) -> AsyncIterator[float]:
    """The caller's deadline, or ours if there is none, in seconds of the event loop's clock."""
    remaining_s = context.time_remaining()
    allowed_s = longest_s if remaining_s is None or remaining_s > FOREVER_S else remaining_s
    try:
        async with asyncio.timeout(allowed_s):
            yield asyncio.get_running_loop().time() + allowed_s
    except TimeoutError:
        await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "the deadline passed; what was sent before is valid")


class _UnreadError(Exception):
    """A caller does not read its answer.

    Attributes:
        writing: The message that it left; nothing can be sent behind it, no status either.
    """

    def __init__(self, writing: "asyncio.Future[None]") -> None:
        super().__init__()
        self.writing = writing


def _impatient(write: Write, within_s: float) -> Write:
    """The same, for callers that read. What one does not read fills the connection's window, and no memory here."""

    async def written(message: generation_pb2.GenerateResponse) -> None:
        writing = asyncio.ensure_future(write(message))
        try:
            await asyncio.wait((writing,), timeout=within_s)
        except asyncio.CancelledError:
            writing.cancel()
            raise
        if not writing.done():
            raise _UnreadError(writing)
        writing.result()

    return written


@asynccontextmanager
async def _unread_to_status(context: CallContext, within_s: float) -> AsyncIterator[None]:
    """Cut a caller off that does not read. Its place is somebody else's by now; it is told once it reads again."""
    try:
        yield
    except _UnreadError as unread:
        logger.warning("caller cut off: it does not read its answer", extra={"peer": context.peer()})
        await unread.writing
        problem = f"the answer was not read for {within_s:g} s; what was sent before is valid"
        await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, problem)


@contextmanager
def _ending(
    request: GenerationRequest,
    session: FleetSession,
    chronicle: RequestChronicle,
    meter: RequestMeter,
    account: Account,
    sequence: TokenSequence,
    deadline: float,
) -> Iterator[None]:
    """Write down how the request ended, however it ends."""
    outcome = Outcome.WORKER_ERROR
    try:
        yield
        outcome = Outcome.OK
    except (*_CALLER_LEFT, _UnreadError):
        late = asyncio.get_running_loop().time() >= deadline
        outcome = Outcome.DEADLINE if late else Outcome.CANCELLED
        raise
    finally:
        chronicle.end(outcome, account, sequence)
        meter.end(outcome, account, session, prompt_tokens=sequence.prompt_length)
        tell_answer(outcome, account, session, sequence)
        logger.info(
            "request ended",
            extra={
                "request_id": request.request_id,
                "outcome": outcome.name.lower(),
                "prompt_tokens": sequence.prompt_length,
                "completion_tokens": sequence.num_emitted,
                "rounds": len(account.per_step_drafted),
                "total_ms": account.total_ns // 1_000_000,
            },
        )


def _last(
    request: GenerationRequest,
    account: Account,
    policy: SteeredPolicy,
    sequence: TokenSequence,
    text: AnswerText,
    session: FleetSession,
) -> generation_pb2.GenerateResponse:
    """The summary."""
    message = summary(
        request,
        account,
        policy=policy.name,
        finish_reason=sequence.finish_reason,
        matched_stop=text.matched_stop,
        session=session,
    )
    return generation_pb2.GenerateResponse(summary=message)
