"""A fleet without models: real gRPC workers, in a process of their own, that answer at once.

What the target says is drawn, by position, from the first tokens of the prompt; a drafter knows a share of it. So trees
are accepted in part, rounds are foreseen in part, and a call that is repeated is answered alike, as with models. But a
round costs these workers next to nothing: what is measured with them is the controller.
"""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import grpc
import uvloop
from grpc_health.v1 import health, health_pb2_grpc
from grpc_health.v1.health_pb2 import HealthCheckResponse

from speculation.acceptance import walk
from speculation.calibration import UNCALIBRATED, Calibration
from speculation.foresight import MOST_OUTCOMES, Foreseen
from speculation.prefix import EMPTY_PREFIX, Context, extend_hash
from speculation.tree import ROOT, TokenTree, TreeShape
from speculation.verdict import Verdict, WorkerTimings
from worker.batching import Result, Steps
from worker.drafter import Drafter
from worker.host import Done, Host, NeedContext, Outcome, Stream
from worker.scoring import Scores
from worker.service import Description, DraftService, SessionService, VerifyService, describe
from worker.sessions import ContextNotHeldError, Session
from worker.settings import Role
from worker.slots import NoModel

TARGET = "target"

SAID_TOKENS = 8
"""Tokens at the beginning of a prompt of which its answer is made; a prompt must have as many."""

FIRST, SECOND = 0.7, 0.85
"""How often the target's token is a drafter's first candidate, and one of its first two: of four nodes in a chain 1.8
are accepted, and half of the rounds are foreseen, about as on the zoo's models."""

MAX_LENGTH = 1024
SLOTS = 64


def said_at(position: int, tokens: Sequence[int]) -> int:
    """The target's token at a position of a text."""
    return tokens[extend_hash(EMPTY_PREFIX, (position,)) % SAID_TOKENS]


class SimulatedDrafter(Drafter):
    """Drafts what the target will say, as far as it knows.

    Args:
        name: Drafters of different names know different tokens.
        vocab_size: Of the tokens.
    """

    most_outcomes = MOST_OUTCOMES

    def __init__(self, name: str, *, vocab_size: int) -> None:
        self._salt = extend_hash(EMPTY_PREFIX, name.encode())
        self._vocab_size = vocab_size

    def read(self, session: Session) -> Steps[int]:
        """There is nothing to be prepared."""
        yield from ()
        return len(session.token_ids)

    def draft(
        self, session: Session, shape: TreeShape, *, max_length: int, calibration: Calibration = UNCALIBRATED
    ) -> Steps[TokenTree]:
        """Its candidates, those of each level below the first of the level above."""
        yield from ()
        return self._tree(session.token_ids, len(session.token_ids), shape)

    def foresee(
        self,
        session: Session,
        tree: TokenTree,
        shape: TreeShape,
        *,
        count: int,
        max_length: int,
        calibration: Calibration = UNCALIBRATED,
    ) -> Steps[tuple[Foreseen, ...]]:
        """Outcomes in which its first candidates are accepted up to some level, the last one first."""
        yield from ()
        tokens, length = session.token_ids, len(session.token_ids)
        chain = tuple(self._candidate(0, length + level, tokens) for level in range(tree.depth))
        outcomes = []
        for accepted in range(tree.depth, -1, -1)[:count]:
            extra = self._candidate(int(accepted < tree.depth), length + accepted, tokens)
            emitted = (*chain[:accepted], extra)
            outcomes.append(Foreseen(token_ids=emitted, tree=self._tree(tokens, length + len(emitted), shape)))
        return tuple(outcomes)

    def score(self, session: Session, token_ids: Sequence[int]) -> Steps[Scores]:
        """Nobody is asked to score here."""
        raise NotImplementedError("simulated drafters do not score")

    def _tree(self, tokens: Sequence[int], position: int, shape: TreeShape) -> TokenTree:
        """What may follow at a position: as many levels as the shape's bounds leave."""
        token_ids: list[int] = []
        parents: list[int] = []
        parent, chance = ROOT, FIRST
        for level in range(shape.depth):
            if chance < shape.least_confidence:
                break
            token_ids += [self._candidate(rank, position + level, tokens) for rank in range(shape.branching)]
            parents += [parent] * shape.branching
            parent, chance = len(token_ids) - shape.branching, chance * FIRST
        confidences = [FIRST if place % shape.branching == 0 else SECOND - FIRST for place in range(len(token_ids))]
        return TokenTree(
            token_ids=tuple(token_ids[: shape.budget]),
            parents=tuple(parents[: shape.budget]),
            confidences=tuple(confidences[: shape.budget]),
        )

    def _candidate(self, rank: int, position: int, tokens: Sequence[int]) -> int:
        """Its candidate of that rank, from 0 on."""
        drawn = extend_hash(self._salt, (position,)) / 2**64
        rank_of_truth = 0 if drawn < FIRST else 1 if drawn < SECOND else None
        said = said_at(position, tokens)
        return said if rank == rank_of_truth else (said + 1 + rank) % self._vocab_size


class SimulatedTarget(VerifyService):
    """Says what `said_at` says."""

    def __init__(self, host: Host, description: Description) -> None:
        SessionService.__init__(self, host, description)  # there is no engine

    def _read(self, session: Session) -> Steps[int]:
        yield from ()
        return len(session.token_ids)

    def _judge(self, stream: Stream, tree: TokenTree, run: int) -> Steps[Verdict]:
        yield from ()
        session = stream.session
        tokens, length = session.token_ids, len(session.token_ids)
        at_nodes = [said_at(length + depth, tokens) for depth in tree.depths]
        walked = walk(tree, said_at(length, tokens), at_nodes)
        emitted = (*(tree.token_ids[node] for node in walked.accepted), walked.extra_token)
        session.append(emitted)
        for _ in range(run):
            going_on = said_at(len(session.token_ids), session.token_ids)
            session.append((going_on,))
            emitted = (*emitted, going_on)
        return Verdict(
            accepted=walked.accepted,
            token_ids=emitted,
            logprobs=(-0.5,) * len(emitted),
            node_probs=tree.confidences,
        )


class InstantHost(Host):
    """Sessions without an engine: what is asked for is done on the spot."""

    async def call(
        self, session: Session, context: Context, steps: Steps[Result], *, gives_way: bool = False
    ) -> Outcome[Result]:
        """Run steps that want no forward."""
        try:
            session.take(context)
        except ContextNotHeldError as missing:
            return NeedContext(missing.held_length)
        try:
            next(steps)
        except StopIteration as finished:
            return Done(finished.value, WorkerTimings(batch_size=1, batch_positions=1, forwards=1))
        raise RuntimeError("simulated workers want no forward")


@asynccontextmanager
async def simulated_workers(fingerprint: str, vocab_size: int, drafters: Sequence[str]) -> AsyncIterator[list[str]]:
    """Addresses, the target's first, of workers that serve while the body runs.

    Args:
        fingerprint: Of the tokenizer that they claim to have.
        vocab_size: Of it.
        drafters: Names.
    """

    def about(role: Role, name: str, most_outcomes: int) -> Description:
        return describe(
            role=role,
            name=name,
            model_revision="simulated",
            tokenizer_fingerprint=fingerprint,
            vocab_size=vocab_size,
            max_length=MAX_LENGTH,
            slots=SLOTS,
            most_outcomes=most_outcomes,
        )

    async with AsyncExitStack() as stack:

        def host() -> Host:
            instant = InstantHost(NoModel(slots=SLOTS, vocab_size=vocab_size), max_length=MAX_LENGTH)
            stack.callback(instant.close)
            return instant

        services: list[SessionService] = [SimulatedTarget(host(), about("verify", TARGET, 0))]
        for name in drafters:
            drafter = SimulatedDrafter(name, vocab_size=vocab_size)
            services.append(DraftService(host(), about("draft", name, MOST_OUTCOMES), drafter))
        yield [await _offered(service, stack) for service in services]


async def _serve(fingerprint: str, vocab_size: int, drafters: Sequence[str]) -> None:
    """Be a fleet until killed; the addresses are one line of JSON on stdout."""
    async with simulated_workers(fingerprint, vocab_size, drafters) as addresses:
        print(json.dumps(addresses), flush=True)
        await asyncio.Event().wait()


async def _offered(service: SessionService, stack: AsyncExitStack) -> str:
    """The address at which it can be called until the stack ends."""
    server = grpc.aio.server()
    service.join(server)
    state = health.aio.HealthServicer()  # type: ignore[attr-defined]
    health_pb2_grpc.add_HealthServicer_to_server(state, server)
    await state.set("", HealthCheckResponse.SERVING)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    stack.push_async_callback(server.stop, None)
    return f"127.0.0.1:{port}"


if __name__ == "__main__":
    uvloop.run(_serve(sys.argv[1], int(sys.argv[2]), sys.argv[3:]))
