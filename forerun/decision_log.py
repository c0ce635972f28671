"""The decision log read back: the latest rounds of a fleet, as a diagnosis looks at them."""

from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from google.protobuf.message import DecodeError
from redis.asyncio import Redis
from redis.exceptions import RedisError

from controller.event_log import DroppedCount, redis_client
from controller.experience import RoundLesson, round_lesson
from forerun.diagnosis.evidence import mean
from forerun.diagnosis.rows import Answer, Row
from router_models.ranks import count_ranks
from speculation.errors import ConfigurationError, InvalidRequestError, WorkerUnavailableError
from speculation.v1 import log_pb2
from speculation.verdict import Verdict

NS_PER_MS = 1e6

MOST_ROUNDS = 20_000
"""Rounds that are read at most, the latest ones: a few seconds' work, and enough for any judgement."""

ENTRIES_PER_TRIP = 500

DECIDED_BEFORE_MS = 600_000
"""A round may carry out a decision that is this old: no request lasts longer by default."""

NOT_AS_CHOSEN = {
    log_pb2.DECISION_MODE_KILLED: "killed",
    log_pb2.DECISION_MODE_OBSERVED: "observed",
}
"""Decisions whose rounds say nothing about what the router would do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """The log of some time.

    Attributes:
        rows: Rounds that were served as they were chosen, by request and in order.
        cut: Whether there were more than could be read; then the latest are there.
        set_aside: Rounds that were not served as chosen, by why: "killed", "observed".
        unreadable: Records that this release cannot read.
        dropped: Records that their controllers had to drop before they reached the log.
        failed_requests: Requests that a worker's failure or their deadline ended.
        requests: Requests that ended.
        waited_ms: Their mean time before they had a place.
        lasted_ms: Their mean time in all.
    """

    rows: tuple[Row, ...]
    cut: bool = False
    set_aside: Mapping[str, int]
    unreadable: int = 0
    dropped: int = 0
    failed_requests: int = 0
    requests: int = 0
    waited_ms: float = 0.0
    lasted_ms: float = 0.0


async def read_window(url: str, *, namespace: str, since_ms: int, most_rounds: int = MOST_ROUNDS) -> Window:
    """The latest rounds since a time (Unix, milliseconds).

    Raises:
        ConfigurationError: The URL is not one of Redis.
        WorkerUnavailableError: Redis does not answer.
    """
    try:
        redis = redis_client(url)
    except ValueError as error:
        raise ConfigurationError("--redis", str(error)) from error
    try:
        return await _window(redis, f"forerun:{namespace}:", since_ms, most_rounds)
    except (RedisError, OSError, TimeoutError) as error:
        raise WorkerUnavailableError(f"the decision log at {url} cannot be read: {error}") from error
    finally:
        await redis.aclose()


async def _window(redis: Redis, streams: str, since_ms: int, most_rounds: int) -> Window:
    entries: list[Mapping[bytes, bytes]] = []
    async for fields in _latest(redis, f"{streams}rounds", since_ms):
        entries.append(fields)
        if len(entries) > most_rounds:
            break
    cut, entries = len(entries) > most_rounds, entries[:most_rounds][::-1]
    records, unreadable = _records(entries)
    wanted = {record.decision_event_id for record, _ in records}
    decisions = await _decisions(redis, f"{streams}decisions", since_ms - DECIDED_BEFORE_MS, wanted)
    set_aside = Counter(
        NOT_AS_CHOSEN[decisions[record.decision_event_id].mode]
        for record, _ in records
        if not _as_chosen(record, decisions)
    )
    chosen = [(record, lesson) for record, lesson in records if _as_chosen(record, decisions)]
    outcomes = await _outcomes(redis, f"{streams}outcomes", since_ms, most_rounds)
    statuses = Counter(outcome.status for outcome in outcomes)
    return Window(
        rows=tuple(_rows(chosen, decisions)),
        cut=cut,
        set_aside=dict(set_aside),
        unreadable=unreadable,
        dropped=_dropped(entries),
        failed_requests=statuses[log_pb2.OUTCOME_STATUS_WORKER_ERROR] + statuses[log_pb2.OUTCOME_STATUS_DEADLINE],
        requests=len(outcomes),
        waited_ms=mean(outcome.waited_ms for outcome in outcomes),
        lasted_ms=mean(outcome.lasted_ms for outcome in outcomes),
    )


async def _latest(redis: Redis, stream: str, since_ms: int) -> AsyncIterator[Mapping[bytes, bytes]]:
    """Entries of a stream, the newest first, back to a time."""
    newest = "+"
    while True:
        page: Any = await redis.xrevrange(stream, max=newest, min=str(max(since_ms, 0)), count=ENTRIES_PER_TRIP)
        for _, fields in page:
            yield fields
        if len(page) < ENTRIES_PER_TRIP:
            return
        newest = f"({page[-1][0].decode()}"


def _records(entries: Iterable[Mapping[bytes, bytes]]) -> tuple[list[tuple[log_pb2.RoundRecord, RoundLesson]], int]:
    """What can be read, once each, and how much cannot: an entry may have been written twice."""
    records: dict[str, tuple[log_pb2.RoundRecord, RoundLesson]] = {}
    unreadable = 0
    for fields in entries:
        data = fields.get(b"record", b"")
        try:
            lesson = round_lesson(data)
        except InvalidRequestError:
            unreadable += 1
        else:
            records[lesson.event_id] = log_pb2.RoundRecord.FromString(data), lesson
    return list(records.values()), unreadable


async def _decisions(
    redis: Redis, stream: str, since_ms: int, wanted: set[str]
) -> Mapping[str, log_pb2.DecisionRecord]:
    """The decisions of these ids, as far as they are still there."""
    missing, found = set(wanted), {}
    async for fields in _latest(redis, stream, since_ms):
        if not missing:
            break
        try:
            decision = log_pb2.DecisionRecord.FromString(fields.get(b"record", b""))
        except DecodeError:
            continue
        if decision.event_id in missing:
            missing.discard(decision.event_id)
            found[decision.event_id] = decision
    return found


class _Outcome(NamedTuple):
    status: int
    waited_ms: float
    lasted_ms: float


async def _outcomes(redis: Redis, stream: str, since_ms: int, most: int) -> Sequence[_Outcome]:
    """How requests ended, the latest ones; not with their texts, which records hold, too."""
    outcomes: list[_Outcome] = []
    async for fields in _latest(redis, stream, since_ms):
        try:
            record = log_pb2.OutcomeRecord.FromString(fields.get(b"record", b""))
        except DecodeError:
            continue
        timings = record.timings
        outcomes.append(_Outcome(record.status, timings.queue_ns / NS_PER_MS, timings.total_ns / NS_PER_MS))
        if len(outcomes) >= most:
            break
    return outcomes


def _as_chosen(record: log_pb2.RoundRecord, decisions: Mapping[str, log_pb2.DecisionRecord]) -> bool:
    decision = decisions.get(record.decision_event_id)
    return decision is None or decision.mode not in NOT_AS_CHOSEN


def _rows(
    records: Sequence[tuple[log_pb2.RoundRecord, RoundLesson]], decisions: Mapping[str, log_pb2.DecisionRecord]
) -> Iterable[Row]:
    """Rounds; counts that the log sums up by request become each round's own."""
    before: dict[str, tuple[int, int]] = {}
    for record, lesson in records:
        retold, moves = before.get(
            record.request_id, (record.retold_tokens, record.failovers) if record.round else (0, 0)
        )
        before[record.request_id] = record.retold_tokens, record.failovers
        row = _row(record, lesson, decisions.get(record.decision_event_id))
        yield replace(row, retold=max(record.retold_tokens - retold, 0), moves=max(record.failovers - moves, 0))


def _row(record: log_pb2.RoundRecord, lesson: RoundLesson, decision: log_pb2.DecisionRecord | None) -> Row:
    context, plan, outcome = lesson.context, lesson.plan, lesson.outcome
    timings, verdict = outcome.timings, outcome.verdict
    return Row(
        request_id=context.request_id,
        number=context.round,
        task=context.task,
        sampled=context.temperature > 0,
        policy=decision.decision.policy if decision is not None else "",
        forced=decision is not None and decision.mode == log_pb2.DECISION_MODE_FORCED,
        offered=context.drafters,
        drafters=plan.drafters,
        missing=tuple(record.missing_drafters),
        ending=context.remaining_tokens - 1 <= (plan.shape.depth if plan.drafters else 0),
        surprisal=context.prompt_surprisal,
        shape=plan.shape if plan.drafters else None,
        tree=outcome.tree,
        accepted=verdict.accepted,
        tokens=float(max(record.tokens_emitted, 1)),
        answers=_answers(record, lesson),
        draft_ms=timings.draft_ns / NS_PER_MS,
        verify_ms=timings.verify_ns / NS_PER_MS,
        other_ms=max(timings.round_ns - timings.draft_ns - timings.verify_ns, 0) / NS_PER_MS,
        target=record.verify_address,
        verify_worker_ms=verdict.timings.total_ns / NS_PER_MS,
        verify_queue_ms=verdict.timings.queue_ns / NS_PER_MS,
        verify_compute_ms=_judging_share(verdict) * verdict.timings.compute_ns / NS_PER_MS,
        batch=max(verdict.timings.batch_size, 1),
    )


def _dropped(entries: Iterable[Mapping[bytes, bytes]]) -> int:
    dropped = DroppedCount()
    for fields in entries:
        dropped.add(fields)
    return dropped.total


def _judging_share(verdict: Verdict) -> float:
    """Of the forwards: those before its run."""
    return 1.0 - verdict.num_run / max(verdict.timings.forwards, verdict.num_run, 1)


def _answers(record: log_pb2.RoundRecord, lesson: RoundLesson) -> tuple[Answer, ...]:
    exchanges = {exchange.drafter: exchange for exchange in record.exchanges}
    answers = []
    for name, tree in lesson.outcome.drafts.items():
        exchange = exchanges.get(name, log_pb2.DraftExchange())
        found, looked = count_ranks(tree, lesson.outcome.verdict.token_ids, lesson.plan.shape)[:, 0]
        answers.append(
            Answer(
                drafter=name,
                address=exchange.address,
                elapsed_ms=exchange.elapsed_ns / NS_PER_MS,
                worker_ms=exchange.timings.total_ns / NS_PER_MS,
                queue_ms=exchange.timings.queue_ns / NS_PER_MS,
                compute_ms=exchange.timings.compute_ns / NS_PER_MS,
                forwards=exchange.timings.forwards,
                found=float(found),
                looked=float(looked),
            )
        )
    return tuple(answers)
