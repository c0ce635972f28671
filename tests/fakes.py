"""Workers that behave, without a model: their language is arithmetic, their wire is real gRPC.

The next token is a function of the last tokens, the position and the seed. A drafter knows it for some positions and
guesses wrongly at the others, so trees are partly accepted, as with real models.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from speculation.acceptance import walk
from speculation.errors import InvalidRequestError
from speculation.foresight import MOST_OUTCOMES
from speculation.prefix import EMPTY_PREFIX, extend_hash
from speculation.rpc import errors_to_status
from speculation.tls import Certificates, add_port
from speculation.tree import EMPTY_TREE, ROOT, TokenTree, TreeShape
from speculation.v1 import common_pb2, draft_pb2, draft_pb2_grpc, verify_pb2, verify_pb2_grpc
from speculation.wire import shape_from_proto, tree_from_proto, tree_to_proto

VOCAB_SIZE = 97
FINGERPRINT = "f" * 64


@dataclass(frozen=True, slots=True)
class Language:
    """A text that never ends and never depends on chance."""

    vocab_size: int = VOCAB_SIZE

    def next_token(self, tokens: Sequence[int], seed: int = 0) -> int:
        """What the target says after these tokens."""
        state = extend_hash(EMPTY_PREFIX ^ seed, (*tokens[-3:], len(tokens)))
        return state % self.vocab_size

    def continuation(self, prompt: Sequence[int], length: int, seed: int = 0) -> list[int]:
        """What plain decoding emits."""
        tokens = list(prompt)
        for _ in range(length):
            tokens.append(self.next_token(tokens, seed))
        return tokens[len(prompt) :]

    def draft(self, tokens: Sequence[int], shape: TreeShape, *, seed: int, skill: float, salt: int) -> TokenTree:
        """A tree that holds the truth at about `skill` of its levels, among wrong siblings."""
        ids: list[int] = []
        parents: list[int] = []
        path, parent = list(tokens), ROOT
        for _ in range(shape.depth):
            truth = self.next_token(path, seed)
            knows = extend_hash(EMPTY_PREFIX, (salt, len(path))) % 1000 < 1000 * skill
            candidates = [truth if knows else (truth + 1) % self.vocab_size]
            candidates += [(truth + 2 + n) % self.vocab_size for n in range(shape.branching - 1)]
            first = len(ids)
            ids += candidates
            parents += [parent] * len(candidates)
            path.append(candidates[0])
            parent = first
        return TokenTree(
            token_ids=tuple(ids[: shape.budget]),
            parents=tuple(parents[: shape.budget]),
            confidences=(0.5 + skill / 4,) * len(ids[: shape.budget]),
        )


@dataclass(slots=True)
class Faults:
    """What goes wrong next. Each status in `statuses` answers one message in place of the worker.

    Attributes:
        statuses: Answers given instead of doing what was asked, first one first.
        forget: How many exchanges begin by forgetting the whole session.
        rest: Rounds in which not to ask again for what is drafted ahead.
        die_after: Exchanges after which every call is broken off.
        delay_s: Before each answer.
        delays_s: Before the next answers, first one first.
        frozen: Set while nothing at all is answered.
        garbage: Trees that are none.
        garbage_ahead: Foreseen trees that are none.
        confused_ahead: What is foreseen is said to be of another round.
    """

    statuses: list[int] = field(default_factory=list)
    forget: int = 0
    rest: int = 0
    die_after: int | None = None
    delay_s: float = 0.0
    delays_s: list[float] = field(default_factory=list)
    frozen: bool = False
    garbage: bool = False
    garbage_ahead: bool = False
    confused_ahead: bool = False


@dataclass(slots=True)
class FakeSession:
    """What a worker holds of one session."""

    seed: int = 0
    background: bool = False
    tokens: list[int] = field(default_factory=list)


class ContextMissingError(Exception):
    """The worker does not hold the prefix."""


class FakeWorker:
    """State and faults of one worker, whichever service it offers.

    Attributes:
        sessions: Open now.
        exchanges: Answered so far.
        opened: Sessions opened so far.
        cache_salts: What each of them was opened with.
        remaining_s: What each of them was given, in seconds.
        traces: Of each message that belongs to a traced request, the traceparent.
        rounds: Numbers of the rounds served.
        foresights: Numbers of the rounds in which it drafted ahead.
        shapes: Of the trees asked for.
        message_sizes: Tokens in each context received.
        scored: What stood before each text that was to be scored, and the text.
    """

    def __init__(self, description: common_pb2.DescribeResponse, *, skill: float = 0.7) -> None:
        self.description = description
        self.language = Language(VOCAB_SIZE)
        self.skill = skill
        self.salt = sum(description.name.encode())
        self.faults = Faults()
        self.sessions: list[FakeSession] = []
        self.exchanges = 0
        self.opened = 0
        self.cache_salts: list[str] = []
        self.remaining_s: list[float | None] = []
        self.traces: list[str] = []
        self.rounds: list[int] = []
        self.foresights: list[int] = []
        self.shapes: list[TreeShape] = []
        self.message_sizes: list[int] = []
        self.scored: list[tuple[tuple[int, ...], tuple[int, ...]]] = []

    async def before_answer(self, session: FakeSession, context: Any) -> int | None:
        """The worker's troubles; a status if it will not do what it was asked."""
        await self.thaw()
        await asyncio.sleep(self.faults.delays_s.pop(0) if self.faults.delays_s else self.faults.delay_s)
        if self.faults.die_after is not None:
            if self.faults.die_after == 0:
                await context.abort(grpc.StatusCode.UNAVAILABLE, "died")
            self.faults.die_after -= 1
        if self.faults.forget:
            self.faults.forget -= 1
            session.tokens.clear()
        self.exchanges += 1
        return self.faults.statuses.pop(0) if self.faults.statuses else None

    async def thaw(self) -> None:
        """A frozen process answers nothing, not even health checks."""
        while self.faults.frozen:  # noqa: ASYNC110 - tests set the flag from anywhere
            await asyncio.sleep(0.01)

    def take(self, session: FakeSession, context: common_pb2.Context) -> None:
        """Bring a session up to a context."""
        base = context.base_length
        if base > len(session.tokens):
            raise ContextMissingError
        if extend_hash(EMPTY_PREFIX, session.tokens[:base]) != context.prefix_hash:
            session.tokens.clear()
            raise ContextMissingError
        session.tokens[base:] = context.token_ids
        self.message_sizes.append(len(context.token_ids))


class FakeService(ABC):
    """What both services share: sessions, the worker's troubles, and keeping up with a context."""

    reply_type: type[draft_pb2.DraftResponse] | type[verify_pb2.VerifyResponse]

    def __init__(self, worker: FakeWorker) -> None:
        self.worker = worker

    async def Describe(self, request: Any, context: Any) -> common_pb2.DescribeResponse:  # noqa: N802
        await self.worker.thaw()
        return self.worker.description

    async def converse(self, requests: Any, context: Any) -> None:
        session = FakeSession()
        self.worker.sessions.append(session)
        self.worker.remaining_s.append(context.time_remaining())
        try:
            async with errors_to_status(context):
                async for request in requests:
                    reply = self.reply_type(status=common_pb2.SESSION_STATUS_OK)
                    if request.HasField("trace"):
                        self.worker.traces.append(request.trace.traceparent)
                    if request.WhichOneof("message") == "foresee":
                        await self.worker.thaw()  # it is no exchange: nobody waits for it
                        self.answer(session, request, reply)
                    elif status := await self.worker.before_answer(session, context):
                        reply = self.reply_type(status=status, held_length=len(session.tokens))
                    else:
                        self.answer(session, request, reply)
                    await context.write(reply)
        finally:
            self.worker.sessions.remove(session)

    def answer(self, session: FakeSession, request: Any, reply: Any) -> None:
        kind = request.WhichOneof("message")
        if kind == "open":
            self.worker.opened += 1
            session.seed = request.open.sampling.seed
            session.background = getattr(request.open, "background", False)  # drafters alone have it
            self.worker.cache_salts.append(request.open.cache_salt)
            reply.opened.name = self.worker.description.name
            return
        body = getattr(request, str(kind))
        try:
            self.worker.take(session, body.context)
        except ContextMissingError:
            reply.status = common_pb2.SESSION_STATUS_NEED_CONTEXT
            reply.held_length = len(session.tokens)
            return
        if kind == "extend":
            reply.extended.held_length = len(session.tokens)
            if isinstance(reply, draft_pb2.DraftResponse):
                reply.extended.prompt_surprisal = 2.0 - self.worker.skill
            return
        if kind == "score":
            self.score(session, body, reply)
            return
        if kind == "foresee":
            self.worker.foresights.append(body.round)
            self.foresee(session, body, reply)
            return
        self.worker.rounds.append(body.round)
        self.work(session, body, reply)

    def score(self, session: FakeSession, body: draft_pb2.Score, reply: Any) -> None:
        """A skilled drafter has the truth as its first candidate, another as its third."""
        self.worker.scored.append((tuple(session.tokens), tuple(body.token_ids)))
        rank = 1 if self.worker.skill > 0.5 else 3
        reply.scores.ranks.extend([rank] * (len(body.token_ids) - self.worker.faults.garbage))
        reply.scores.confidences.extend([0.5 / rank] * len(body.token_ids))

    def foresee(self, session: FakeSession, body: Any, reply: Any) -> None:
        """Draft ahead, and write what came of it into the reply."""
        raise NotImplementedError

    @abstractmethod
    def work(self, session: FakeSession, body: Any, reply: Any) -> None:
        """Draft or judge, and write what came of it into the reply."""


class FakeDraft(FakeService, draft_pb2_grpc.DraftServiceServicer):
    reply_type = draft_pb2.DraftResponse

    async def Draft(self, requests: Any, context: Any) -> None:  # noqa: N802
        await self.converse(requests, context)

    def work(self, session: FakeSession, body: draft_pb2.Propose, reply: draft_pb2.DraftResponse) -> None:
        shape = shape_from_proto(body.shape)
        self.worker.shapes.append(shape)
        tree = self.worker.language.draft(
            session.tokens, shape, seed=session.seed, skill=self.worker.skill, salt=self.worker.salt
        )
        reply.proposal.round = body.round
        reply.proposal.prompt_surprisal = 2.0 - self.worker.skill
        reply.proposal.tree.CopyFrom(tree_to_proto(tree))
        if self.worker.faults.garbage:
            reply.proposal.tree.parents[0] = 40
        reply.timings.total_ns = 1000

    def foresee(self, session: FakeSession, body: draft_pb2.Foresee, reply: draft_pb2.DraftResponse) -> None:
        """The truth, which it happens to know, and something else."""
        reply.ahead.round = body.round
        reply.ahead.rest = self.worker.faults.rest
        truth = verdict_of(session, tree_from_proto(body.tree, vocab_size=VOCAB_SIZE))[1]
        for emitted in ((*truth[:-1], (truth[-1] + 1) % VOCAB_SIZE), truth):
            tree = self.worker.language.draft(
                [*session.tokens, *emitted],
                shape_from_proto(body.shape),
                seed=session.seed,
                skill=self.worker.skill,
                salt=self.worker.salt,
            )
            reply.ahead.outcomes.add(token_ids=emitted, tree=tree_to_proto(tree))
        if self.worker.faults.garbage_ahead:
            for outcome in reply.ahead.outcomes:
                outcome.tree.parents[0] = 40
        reply.ahead.round += self.worker.faults.confused_ahead


def verdict_of(session: FakeSession, tree: TokenTree) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Accepted nodes and emitted tokens."""
    say = Language().next_token
    at = [say([*session.tokens, *tree.tokens_on_path(node)], session.seed) for node in range(len(tree))]
    steps = walk(tree, say(session.tokens, session.seed), at)
    return steps.accepted, (*(tree.token_ids[node] for node in steps.accepted), steps.extra_token)


class FakeVerify(FakeService, verify_pb2_grpc.VerifyServiceServicer):
    reply_type = verify_pb2.VerifyResponse

    async def Verify(self, requests: Any, context: Any) -> None:  # noqa: N802
        await self.converse(requests, context)

    def work(self, session: FakeSession, body: verify_pb2.VerifyTree, reply: verify_pb2.VerifyResponse) -> None:
        tree = tree_from_proto(body.tree, vocab_size=VOCAB_SIZE)
        if len(session.tokens) + len(tree) > self.worker.description.max_length:
            raise InvalidRequestError("tree", "does not fit")
        accepted, emitted = verdict_of(session, tree)
        session.tokens += emitted
        for _ in range(body.run):
            _, (token,) = verdict_of(session, EMPTY_TREE)
            emitted = (*emitted, token)
            session.tokens.append(token)
        reply.verdict.round = body.round
        reply.verdict.accepted.extend(accepted)
        reply.verdict.token_ids.extend(emitted)
        reply.verdict.logprobs.extend([-0.5] * len(emitted))
        for token in emitted:
            reply.verdict.top_logprobs.add(token_ids=[token], logprobs=[-0.5])
        reply.verdict.node_probs.extend([0.25] * len(tree))
        reply.verdict.prefix_hash = extend_hash(EMPTY_PREFIX, session.tokens)
        reply.timings.total_ns = 2000
        reply.timings.batch_size = 1


class FrozenHealth(health_pb2_grpc.HealthServicer):
    """Health that hangs when its worker does."""

    def __init__(self, worker: FakeWorker) -> None:
        self.worker = worker
        self.serving = True

    async def Check(self, request: Any, context: Any) -> health_pb2.HealthCheckResponse:  # noqa: N802
        await self.worker.thaw()
        status = health_pb2.HealthCheckResponse
        return status(status=status.SERVING if self.serving else status.NOT_SERVING)


@dataclass(slots=True)
class RunningWorker:
    """A fake worker that listens.

    Attributes:
        address: host:port.
        worker: Its state and faults.
        health: What it says of itself.
    """

    address: str
    worker: FakeWorker
    health: FrozenHealth
    _server: grpc.aio.Server

    async def kill(self) -> None:
        """Break everything off."""
        await self._server.stop(None)


def description(
    role: str = "verify",
    name: str = "target",
    *,
    revision: str = "r1",
    fingerprint: str = FINGERPRINT,
    vocab_size: int = VOCAB_SIZE,
    max_length: int = 4096,
    model: str = "acme/letters",
    profile: common_pb2.ForwardProfile | None = None,
    slots: int = 8,
) -> common_pb2.DescribeResponse:
    """What a fake worker says it is."""
    roles = {"draft": common_pb2.WORKER_ROLE_DRAFT, "verify": common_pb2.WORKER_ROLE_VERIFY}
    return common_pb2.DescribeResponse(
        role=roles[role],
        name=name,
        model=model,
        model_revision=revision,
        tokenizer_fingerprint=fingerprint,
        vocab_size=vocab_size,
        max_length=max_length,
        slots=slots,
        most_outcomes=MOST_OUTCOMES if role == "draft" else 0,
        forward_profile=profile,
    )


async def start_worker(
    what: common_pb2.DescribeResponse | None = None,
    *,
    port: int = 0,
    skill: float = 0.7,
    certificates: Certificates | None = None,
) -> RunningWorker:
    """Start a fake worker on a free port, or on one that an earlier worker had."""
    worker = FakeWorker(what or description(), skill=skill)
    server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
    state = FrozenHealth(worker)
    health_pb2_grpc.add_HealthServicer_to_server(state, server)
    if worker.description.role == common_pb2.WORKER_ROLE_DRAFT:
        draft_pb2_grpc.add_DraftServiceServicer_to_server(FakeDraft(worker), server)
    else:
        verify_pb2_grpc.add_VerifyServiceServicer_to_server(FakeVerify(worker), server)
    bound = add_port(server, f"127.0.0.1:{port}", certificates)
    await server.start()
    return RunningWorker(f"127.0.0.1:{bound}", worker, state, server)


@asynccontextmanager
async def workers(
    *descriptions: common_pb2.DescribeResponse, skill: float = 0.7, certificates: Certificates | None = None
) -> AsyncIterator[list[RunningWorker]]:
    """Fake workers that run while the body does."""
    async with AsyncExitStack() as stack:
        running = []
        for what in descriptions:
            worker = await start_worker(what, skill=skill, certificates=certificates)
            stack.push_async_callback(worker.kill)
            running.append(worker)
        yield running
