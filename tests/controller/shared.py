"""Controllers that share what they learn, without their requests: rounds are written straight into the log."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from redis.asyncio import Redis

from controller.embedded_redis import embedded_redis
from controller.event_log import EventLog
from controller.generation import DraftExchange, Round
from controller.learner import Learner
from controller.model_store import ModelStore
from controller.records import Author, round_record, score_record
from controller.shared_learning import SharedLearning
from router_models.plan import Combination, Plan
from router_models.policy import RoundContext, RoundOutcome, RoundTimings, Silence, TextScores
from speculation.calibration import Calibration
from speculation.tree import TreeShape, chain
from speculation.verdict import Verdict, WorkerTimings
from tests.learners import CountingPolicy

NAMESPACE = "ns"
ROUNDS = f"forerun:{NAMESPACE}:rounds"
SCORES = f"forerun:{NAMESPACE}:scores"
STEPS = 400

DRAFTERS = ("code", "docs", "math")

FULL = Round(
    context=RoundContext(
        request_id="r",
        round=3,
        drafters=DRAFTERS,
        pinned_shape=TreeShape(depth=2, branching=3, budget=5, least_confidence=0.1),
        task="code",
        tenant="acme",
        prompt_tokens=5,
        emitted_tokens=6,
        remaining_tokens=7,
        temperature=0.7,
        prompt_surprisal={"code": 0.1, "math": 2.3},
        requests_in_flight=4,
    ),
    plan=Plan(
        drafters=DRAFTERS,
        shape=TreeShape(depth=3, branching=2, budget=4, least_confidence=0.3),
        combination=Combination.SIDE_BY_SIDE,
        verify_budget=9,
        propensity=0.1,
        explanation="",
        calibrations={"code": Calibration(offset=1.0, slope=0.5)},
        run=2,
    ),
    missing=("docs",),
    outcome=RoundOutcome(
        drafts={"code": chain((1, 2), (0.5, 0.25)), "math": chain((3,), (0.75,))},
        tree=chain((1, 2), (0.5, 0.25)),
        verdict=Verdict(
            accepted=(0,),
            token_ids=(1, 9, 4),
            logprobs=(-0.5, -0.25, -1.5),
            node_probs=(0.5, 0.125),
            near_ties=1,
            run_ns=2,
            timings=WorkerTimings(
                queue_ns=1,
                compute_ns=2,
                total_ns=3,
                batch_size=4,
                batch_positions=9,
                forwards=5,
                nodes_beside=3,
                trees_beside=2,
            ),
        ),
        timings=RoundTimings(draft_ns=6, verify_ns=7, round_ns=8, draft_worker_ns=9, verify_worker_ns=3),
        foreseen=("math",),
        silences=(Silence(drafter="suffix", least_confidence=0.3, took_ns=10),),
    ),
    emitted=(1, 9, 4),
    exchanges={
        "code": DraftExchange(
            address="here:1",
            elapsed_ns=6,
            timings=WorkerTimings(queue_ns=1, compute_ns=2, total_ns=5, batch_size=2, batch_positions=7, forwards=3),
        )
    },
    verify_address="there:2",
    failovers=1,
    retold_tokens=12,
)
"""A round with nothing left at its default."""


@dataclass(slots=True)
class Commons:
    """A Redis, and a log into which rounds are written."""

    url: str
    redis: Redis
    log: EventLog

    async def write(self, request: str, rounds: Iterable[int]) -> None:
        """Log rounds of a request, and wait until Redis has them."""
        expected = self.log.written
        for number in rounds:
            self.log.append("rounds", record(request, number))
            expected += 1
        while self.log.written < expected:  # noqa: ASYNC110 - the log tells nobody
            await asyncio.sleep(0.005)

    @asynccontextmanager
    async def controller(self, *, lease_s: float = 30.0) -> AsyncIterator[SharedLearning]:
        """One that acts only when told to `step`; at its end it gives its lease back."""
        learning = sharing(self.url, lease_s=lease_s)
        try:
            yield learning
        finally:
            await learning.close()

    def store(self) -> ModelStore:
        """The versions of what is learnt here."""
        return ModelStore(self.redis, namespace=NAMESPACE, make_policy=CountingPolicy)


def sharing(url: str, *, interval_s: float = 30.0, lease_s: float = 30.0) -> SharedLearning:
    """A controller's part, with a policy that counts."""
    policy = CountingPolicy()
    return SharedLearning(
        url,
        namespace=NAMESPACE,
        to_share=lambda: policy,
        learner_of=lambda redis, keys: Learner(redis, keys, CountingPolicy, lease_s=lease_s),
        interval_s=interval_s,
    )


def record(request: str, number: int) -> bytes:
    """A round of a request, as the log has it."""
    done = replace(FULL, context=replace(FULL.context, request_id=request, round=number))
    return round_record(done, decision_event_id="d").SerializeToString()


def score(request: str, drafter: str) -> bytes:
    """A drafter's scores of a request's answer, as the log has them."""
    context = replace(FULL.context, request_id=request)
    scores = TextScores(ranks=(1, 2, 3, 1, 1, 9), confidences=(0.5, 0.25, 0.125, 0.5, 1.0, 0.0))
    author = Author(controller_id="c", code_version="0")
    return score_record(author, context, drafter=drafter, model_revision="r1", scores=scores).SerializeToString()


def times(*rounds: tuple[str, Iterable[int]]) -> dict[str, int]:
    """What a policy has counted that was taught these rounds once each."""
    return {f"{request}/{number}": 1 for request, numbers in rounds for number in numbers}


def counted(learning: SharedLearning) -> dict[str, int]:
    """What the serving policy has counted."""
    assert isinstance(learning.policy, CountingPolicy)
    return dict(learning.policy.times)


async def stepped(learning: SharedLearning, until: Callable[[], bool]) -> None:
    """Let a controller act until something is so."""
    for _ in range(STEPS):
        await learning.step()
        if until():
            return
        await asyncio.sleep(0.02)
    raise AssertionError(f"not so after {STEPS} steps; {learning.problem}")


@asynccontextmanager
async def commons(folder: Path, *, most_entries: int = 100_000) -> AsyncIterator[Commons]:
    """A Redis of its own, and a log that writes to it."""
    async with embedded_redis(f"embedded://{folder}/r") as url, Redis.from_url(url) as redis:
        log = EventLog(url, namespace=NAMESPACE, most_entries=most_entries)
        writing = asyncio.create_task(log.run())
        try:
            yield Commons(url, redis, log)
        finally:
            writing.cancel()
            await asyncio.gather(writing, return_exceptions=True)
