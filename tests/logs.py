"""Logs of a controller whose fleet is a simulated world: real records, without workers."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
from redis.asyncio import Redis

from controller.account import Account
from controller.chronicle import Chronicle, RequestChronicle
from controller.embedded_redis import embedded_redis
from controller.event_log import redis_client
from controller.experience import round_lesson
from controller.generation import FleetSession, Round
from controller.log_export import export_log
from controller.log_folder import Manifest
from controller.records import Author, Outcome, score_record
from controller.request import GenerationRequest, Pins
from controller.sequence import Sequence
from controller.snapshot import Keys, written_key
from controller.steering import Steering
from router_models.menu import SHAPES
from router_models.plan import Plan
from router_models.planner import PlannerPolicy
from router_models.policy import Policy, RoundContext, RoundOutcome
from speculation.v1 import log_pb2
from tests.router_models.world import World
from tests.scored_world import ScoredWorld

NAMESPACE = "ns"
BEGAN_MS = 1_700_000_000_000
STEP_MS = 50
REQUESTS, LENGTH = 80, 40
AUTHOR = Author(controller_id="one", code_version="1")

Records = Mapping[str, list[bytes]]
"""By stream, in the order of the log."""

MESSAGES: Mapping[str, Any] = {
    "decisions": log_pb2.DecisionRecord,
    "rounds": log_pb2.RoundRecord,
    "outcomes": log_pb2.OutcomeRecord,
    "scores": log_pb2.ScoreRecord,
}


HAZARDS: Mapping[str, Any] = {
    name: np.array(rates)
    for name, rates in {
        "good": [0.9, 0.4, 0.3, 0.3],
        "fair": [0.6, 0.3, 0.3, 0.3],
        "bad": [0.15, 0.1, 0.1, 0.1],
    }.items()
}
"""Two drafters that are worth their time, one far more, and one that is not; nobody can tell from the prompt."""

CHAINS = tuple(shape for shape in SHAPES if shape.branching == 1)


def world(seed: int = 0) -> World:
    """Of these drafters."""
    return World(HAZARDS, seed=seed)


def scored_world(seed: int = 0) -> ScoredWorld:
    """Of the same ones, which can be asked afterwards."""
    return ScoredWorld(HAZARDS, length=LENGTH, seed=seed)


@dataclass
class Written:
    """A log that keeps what is appended."""

    records: dict[str, list[bytes]] = field(default_factory=lambda: {stream: [] for stream in MESSAGES})

    def append(self, stream: str, record: bytes) -> None:
        self.records[stream].append(record)


class Scribe(Policy):
    """Serves by a policy and writes every round into the chronicle, as a controller does."""

    name = "planner"

    def __init__(self, policy: Policy, log: Written, *, revisions: Mapping[str, str]) -> None:
        self._policy = policy
        self._log = log
        self._steering = Steering({"planner": policy}, "planner")
        self._chronicle = Chronicle(AUTHOR, log)
        self._session = cast(
            FleetSession, SimpleNamespace(model_revisions=dict(revisions), ineligible_drafters=(), failovers=0)
        )
        self._open: tuple[str, RequestChronicle, Account] | None = None

    def plan(self, context: RoundContext) -> Plan:
        return self._policy.plan(context)

    def learn(self, context: RoundContext, plan: Plan, outcome: RoundOutcome) -> None:
        self._policy.learn(context, plan, outcome)
        if self._open is None or self._open[0] != context.request_id:
            self.end()
            self._open = context.request_id, self._chronicle_of(context), Account()
        tokens = outcome.verdict.token_ids[: context.remaining_tokens]
        done = Round(context=context, plan=plan, missing=(), outcome=outcome, emitted=tokens)
        self._open[1].add(done)
        self._open[2].add(done)

    def _chronicle_of(self, context: RoundContext) -> RequestChronicle:
        steered = self._steering.for_request(Pins())
        return self._chronicle.open(_request(context.request_id), steered, self._session)

    def end(self) -> None:
        """The request under way has ended."""
        if self._open is not None:
            request_id, chronicle, account = self._open
            chronicle.end(Outcome.OK, account, Sequence(_request(request_id).prompt, max_new_tokens=LENGTH))


def _request(request_id: str) -> GenerationRequest:
    return GenerationRequest(request_id=request_id, prompt=(1, 2, 3), max_new_tokens=LENGTH)


@cache
def cold_run(requests: int = REQUESTS, seed: int = 0, revision: str = "1") -> Records:
    """What a planner that knows nothing writes while it serves requests, one after another."""
    return _served(world(seed), PlannerPolicy(seed=seed), requests, revision)


@cache
def scored_run(requests: int = REQUESTS, seed: int = 0) -> Records:
    """The same where every drafter scores every answer afterwards."""
    there = scored_world(seed)
    records = _served(there, PlannerPolicy(shapes=CHAINS, seed=seed), requests, "1")
    return dated({**records, "scores": [score for data in _last_rounds(records) for score in _scores(there, data)]})


def _served(there: World, policy: Policy, requests: int, revision: str) -> Records:
    log = Written()
    scribe = Scribe(policy, log, revisions={name: revision for name in (*HAZARDS, "target")})
    there.serve(scribe, requests=requests, length=LENGTH)
    scribe.end()
    return dated(log.records)


def _last_rounds(records: Records) -> Iterable[bytes]:
    return {log_pb2.RoundRecord.FromString(data).request_id: data for data in records["rounds"]}.values()


def _scores(there: ScoredWorld, last_round: bytes) -> Iterable[bytes]:
    """What the drafters say of an answer, as the scorer writes it down; `frozen` are those that drafted in the end."""
    lesson = round_lesson(last_round)
    end = replace(lesson.context, round=lesson.context.round + 1, emitted_tokens=LENGTH, remaining_tokens=0)
    for name in there.hazards:
        scores = there.scores_of(end.request_id, name)
        frozen = name in lesson.plan.drafters
        record = score_record(AUTHOR, end, drafter=name, model_revision="1", scores=scores, frozen=frozen)
        yield record.SerializeToString()


def dated(records: Records, began_ms: int = BEGAN_MS) -> Records:
    """The same records, STEP_MS between two rounds."""
    moment_of: dict[tuple[str, int], int] = {}
    rounds = []
    for place, data in enumerate(records["rounds"]):
        record = log_pb2.RoundRecord.FromString(data)
        record.ts_ms = moment_of[record.request_id, record.round] = began_ms + STEP_MS * place
        rounds.append(record.SerializeToString())
    last_ms = max(moment_of.values())
    decisions = [changed("decisions", data, ts_ms=moment_of[_request_and_round(data)]) for data in records["decisions"]]
    outcomes = [changed("outcomes", data, ts_ms=last_ms) for data in records["outcomes"]]
    ended = {request_id: moment for (request_id, _), moment in moment_of.items()}  # the last round of each stays
    scores = [
        changed("scores", data, ts_ms=ended[log_pb2.ScoreRecord.FromString(data).request_id] + 1)
        for data in records.get("scores", ())
    ]
    return {"decisions": decisions, "rounds": rounds, "outcomes": outcomes, "scores": scores}


def _request_and_round(data: bytes) -> tuple[str, int]:
    record = log_pb2.DecisionRecord.FromString(data)
    return record.request_id, record.round


def changed(stream: str, data: bytes, change: Callable[[Any], None] = lambda record: None, **values: Any) -> bytes:
    """A record with other values."""
    record = MESSAGES[stream].FromString(data)
    for name, value in values.items():
        setattr(record, name, value)
    change(record)
    return bytes(record.SerializeToString())


def having(records: Records, stream: str, row: int, change: Callable[[Any], None]) -> Records:
    """The records, one of them changed; rows are counted from 1."""
    kept = list(records[stream])
    kept[row - 1] = changed(stream, kept[row - 1], change)
    return {**records, stream: kept}


async def write(redis: Redis, records: Records) -> None:
    """Put records into the streams, as the controllers' logs do."""
    async with redis.pipeline(transaction=False) as pipeline:
        for stream, listed in records.items():
            for record in listed:
                pipeline.xadd(Keys(NAMESPACE, "").stream(stream), {"record": record})
            pipeline.hincrby(written_key(NAMESPACE), stream, len(listed))
        await pipeline.execute()


async def exported(redis: Redis, folder: Path) -> Manifest:
    """The streams, written to a folder."""
    return await export_log(redis, NAMESPACE, folder)


async def in_redis(folder: Path, records: Iterable[Records], target: Path) -> Manifest:
    """Records through a real Redis into a folder."""
    async with embedded_redis(f"embedded://{folder}") as url, redis_client(url) as redis:
        for part in records:
            await write(redis, part)
        return await exported(redis, target)


def renamed(records: Records, suffix: str, began_ms: int) -> Records:
    """Another run's records: later, with names of their own."""

    def rename(record: Any) -> None:
        record.request_id += suffix
        record.event_id += suffix
        if hasattr(record, "decision_event_id"):
            record.decision_event_id += suffix

    return dated(
        {stream: [changed(stream, data, rename) for data in listed] for stream, listed in records.items()}, began_ms
    )
