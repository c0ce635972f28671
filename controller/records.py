"""What happened, as protobuf: for the caller, for operators and for the decision log."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from random import Random
from time import time_ns
from typing import NamedTuple

from controller.account import Account
from controller.generation import FleetSession, Round
from controller.request import GenerationRequest
from controller.sequence import FinishReason
from controller.sequence import Sequence as TokenSequence
from controller.steering import DecisionMode, SteeredPolicy
from controller.terms import Mode
from controller.veil import Veil
from router_models.plan import Combination, Plan
from router_models.policy import RoundContext, RoundOutcome, RoundTimings, TextScores
from speculation.v1 import generation_pb2, log_pb2
from speculation.wire import calibration_to_proto, sampling_to_proto, shape_to_proto, timings_to_proto, tree_to_proto

SCHEMA_VERSION = 1


RoundReport = generation_pb2.RoundReport

_CHANCE = Random()
"""Of identifiers, which are told apart by it and no secret: a number from the kernel for each would cost more."""


class Outcome(Enum):
    """How a request ended."""

    OK = log_pb2.OUTCOME_STATUS_OK
    CANCELLED = log_pb2.OUTCOME_STATUS_CANCELLED
    DEADLINE = log_pb2.OUTCOME_STATUS_DEADLINE
    WORKER_ERROR = log_pb2.OUTCOME_STATUS_WORKER_ERROR


_MODES = {
    DecisionMode.ONLINE: log_pb2.DECISION_MODE_ONLINE,
    DecisionMode.FORCED: log_pb2.DECISION_MODE_FORCED,
    DecisionMode.FALLBACK: log_pb2.DECISION_MODE_FALLBACK,
    DecisionMode.KILLED: log_pb2.DECISION_MODE_KILLED,
    DecisionMode.OBSERVED: log_pb2.DECISION_MODE_OBSERVED,
}

COMBINATIONS = {
    Combination.MOST_CONFIDENT: log_pb2.COMBINATION_MOST_CONFIDENT,
    Combination.SIDE_BY_SIDE: log_pb2.COMBINATION_SIDE_BY_SIDE,
    Combination.MERGED: log_pb2.COMBINATION_MERGED,
}

_FINISH = {
    FinishReason.STOP: generation_pb2.FINISH_REASON_STOP,
    FinishReason.LENGTH: generation_pb2.FINISH_REASON_LENGTH,
    None: generation_pb2.FINISH_REASON_UNSPECIFIED,
}


def uuid7(*, now_ms: int | None = None) -> str:
    """A UUID that sorts by time (RFC 9562, version 7): 48 bits of Unix milliseconds, then chance."""
    milliseconds = _now_ms() if now_ms is None else now_ms
    value = milliseconds << 80 | 0x7 << 76 | _CHANCE.getrandbits(12) << 64 | 0b10 << 62 | _CHANCE.getrandbits(62)
    digits = f"{value:032x}"
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


def decision(policy: str, plan: Plan) -> generation_pb2.Decision:
    """What was chosen, and why."""
    return generation_pb2.Decision(
        policy=policy,
        model_version=plan.model_version,
        drafters=plan.drafters,
        shape=shape_to_proto(plan.shape) if plan.speculates else None,
        verify_budget=plan.verify_budget if plan.speculates else 0,
        propensity=plan.propensity,
        explanation=plan.explanation,
        calibrations={name: calibration_to_proto(value) for name, value in plan.calibrations.items()},
        run=plan.run,
    )


def round_timings(timings: RoundTimings) -> generation_pb2.RoundTimings:
    """The message of a round's timings."""
    return generation_pb2.RoundTimings(
        draft_ns=timings.draft_ns,
        verify_ns=timings.verify_ns,
        round_ns=timings.round_ns,
        draft_worker_ns=timings.draft_worker_ns,
        verify_worker_ns=timings.verify_worker_ns,
    )


def acceptance(account: Account) -> generation_pb2.AcceptanceRecord:
    """How much of what was drafted was kept."""
    return generation_pb2.AcceptanceRecord(
        num_spec_steps=len(account.per_step_drafted),
        num_draft_tokens=sum(account.per_step_drafted),
        num_accepted_draft_tokens=sum(account.per_step_accepted),
        per_step_drafted=account.per_step_drafted,
        per_step_accepted=account.per_step_accepted,
    )


def usage(request: GenerationRequest, account: Account) -> generation_pb2.Usage:
    """Tokens counted."""
    return generation_pb2.Usage(prompt_tokens=len(request.prompt), completion_tokens=account.completion_tokens)


def request_timings(account: Account) -> generation_pb2.RequestTimings:
    """Where the request spent its time."""
    return generation_pb2.RequestTimings(
        time_to_first_token_ns=account.time_to_first_token_ns,
        total_ns=account.total_ns,
        queue_ns=account.queue_ns,
        rounds=round_timings(account.timings),
    )


def summary(
    request: GenerationRequest,
    account: Account,
    *,
    policy: str,
    finish_reason: FinishReason | None,
    matched_stop: str,
    session: FleetSession,
) -> generation_pb2.Summary:
    """The last response of a request."""
    return generation_pb2.Summary(
        request_id=request.request_id,
        finish_reason=_FINISH[finish_reason],
        matched_stop=matched_stop,
        usage=usage(request, account),
        seed=request.sampling.seed,
        acceptance=acceptance(account),
        decision=decision(policy, account.first_plan) if account.first_plan is not None else None,
        timings=request_timings(account),
        model_revisions=dict(session.model_revisions),
        near_ties=account.near_ties,
        failovers=session.failovers,
        prompt_surprisal=dict(session.prompt_surprisal),
        latency_class=request.latency_class,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Author:
    """The controller that writes a record, and the release it runs."""

    controller_id: str
    code_version: str


class Moment(NamedTuple):
    """What else there was to know when a round was over: it is written down later.

    Attributes:
        at_ms: Unix time.
        policy: Name of the policy.
        mode: How its plan came about.
        proposal: What it would have done, where it was only asked.
        config_hash: Of the configuration that the round obeyed.
        frozen: Whether nobody may learn from it.
        ineligible_drafters: As FleetSession tells them, like the next.
        model_revisions: By name of each worker that took part.
    """

    at_ms: int
    policy: str
    mode: DecisionMode
    proposal: Plan | None
    config_hash: str
    frozen: bool
    ineligible_drafters: tuple[str, ...]
    model_revisions: Mapping[str, str]

    @classmethod
    def now(cls, policy: SteeredPolicy, session: FleetSession) -> "Moment":
        """This one."""
        return cls(
            _now_ms(),
            policy.name,
            policy.mode,
            policy.proposal,
            policy.config_hash,
            policy.terms.mode is Mode.FROZEN,
            session.ineligible_drafters,
            dict(session.model_revisions),
        )


def decision_record(author: Author, done: Round, moment: Moment, *, trace_id: str = "") -> log_pb2.DecisionRecord:
    """What was chosen, out of what, knowing what."""
    context, proposal = done.context, moment.proposal
    return log_pb2.DecisionRecord(
        schema_version=SCHEMA_VERSION,
        event_id=uuid7(now_ms=moment.at_ms),
        request_id=context.request_id,
        trace_id=trace_id,
        round=context.round,
        ts_ms=moment.at_ms,
        controller_id=author.controller_id,
        tenant=context.tenant,
        task=context.task,
        config_hash=moment.config_hash,
        code_version=author.code_version,
        mode=_MODES[DecisionMode.FALLBACK if done.missing else moment.mode],
        decision=decision(moment.policy, done.plan),
        proposed=decision(moment.policy, proposal) if proposal is not None else None,
        eligible_drafters=context.drafters,
        ineligible_drafters=moment.ineligible_drafters,
        prompt_tokens=context.prompt_tokens,
        emitted_tokens=context.emitted_tokens,
        temperature=context.temperature,
        requests_in_flight=context.requests_in_flight,
        prompt_surprisal=dict(context.prompt_surprisal),
        model_revisions=moment.model_revisions,
    )


def round_record(
    done: Round, *, decision_event_id: str, frozen: bool = False, at_ms: int | None = None
) -> log_pb2.RoundRecord:
    """What one round cost and brought; at that Unix time, or now."""
    verdict, tree, ts_ms = done.outcome.verdict, done.outcome.tree, _now_ms() if at_ms is None else at_ms
    return log_pb2.RoundRecord(
        schema_version=SCHEMA_VERSION,
        event_id=uuid7(now_ms=ts_ms),
        request_id=done.context.request_id,
        round=done.context.round,
        ts_ms=ts_ms,
        decision_event_id=decision_event_id,
        drafters=done.plan.drafters,
        missing_drafters=done.missing,
        foreseen_drafters=done.outcome.foreseen,
        silences=[
            log_pb2.Silence(drafter=one.drafter, least_confidence=one.least_confidence, took_ns=one.took_ns)
            for one in done.outcome.silences
        ],
        num_draft_tokens=len(tree),
        tree_depth=tree.depth,
        num_accepted_draft_tokens=verdict.num_accepted,
        tokens_emitted=len(done.emitted),
        timings=round_timings(done.outcome.timings),
        verify_batch_size=verdict.timings.batch_size,
        verify_batch_positions=verdict.timings.batch_positions,
        tree=tree_to_proto(tree),
        node_probs=verdict.node_probs,
        accepted=verdict.accepted,
        token_ids=verdict.token_ids,
        context=_context(done.context),
        shape=shape_to_proto(done.plan.shape),
        combination=COMBINATIONS[done.plan.combination],
        verify_budget=done.plan.verify_budget,
        propensity=done.plan.propensity,
        drafts=_drafts(done.outcome),
        logprobs=verdict.logprobs,
        near_ties=verdict.near_ties,
        verify_queue_ns=verdict.timings.queue_ns,
        verify_compute_ns=verdict.timings.compute_ns,
        verify_forwards=verdict.timings.forwards,
        verify_nodes_beside=verdict.timings.nodes_beside,
        verify_trees_beside=verdict.timings.trees_beside,
        run=done.plan.run,
        run_ns=verdict.run_ns,
        calibrations={name: calibration_to_proto(value) for name, value in done.plan.calibrations.items()},
        frozen=frozen,
        exchanges=[
            log_pb2.DraftExchange(
                drafter=name,
                address=exchange.address,
                elapsed_ns=exchange.elapsed_ns,
                timings=timings_to_proto(exchange.timings),
            )
            for name, exchange in done.exchanges.items()
        ],
        verify_address=done.verify_address,
        failovers=done.failovers,
        retold_tokens=done.retold_tokens,
    )


def _context(context: RoundContext) -> log_pb2.RoundContext:
    return log_pb2.RoundContext(
        drafters=context.drafters,
        pinned_shape=shape_to_proto(context.pinned_shape) if context.pinned_shape is not None else None,
        task=context.task,
        tenant=context.tenant,
        prompt_tokens=context.prompt_tokens,
        emitted_tokens=context.emitted_tokens,
        remaining_tokens=context.remaining_tokens,
        temperature=context.temperature,
        prompt_surprisal=dict(context.prompt_surprisal),
        requests_in_flight=context.requests_in_flight,
    )


def _drafts(outcome: RoundOutcome) -> list[log_pb2.DraftedTree]:
    """What was drafted, unless the verified tree says it already: that of the only drafter, uncut."""
    if list(outcome.drafts.values()) == [outcome.tree]:
        return []
    return [log_pb2.DraftedTree(drafter=name, tree=tree_to_proto(tree)) for name, tree in outcome.drafts.items()]


def outcome_record(
    request: GenerationRequest,
    account: Account,
    outcome: Outcome,
    *,
    session: FleetSession,
    sequence: TokenSequence,
) -> log_pb2.OutcomeRecord:
    """How a request ended."""
    return log_pb2.OutcomeRecord(
        schema_version=SCHEMA_VERSION,
        event_id=uuid7(),
        request_id=request.request_id,
        ts_ms=_now_ms(),
        status=outcome.value,
        finish_reason=_FINISH[sequence.finish_reason],
        usage=usage(request, account),
        acceptance=acceptance(account),
        timings=request_timings(account),
        failovers=session.failovers,
        near_ties=account.near_ties,
        seed=request.sampling.seed,
        sampling=sampling_to_proto(request.sampling),
        prompt_token_ids=request.prompt,
        token_ids=sequence.token_ids[sequence.prompt_length :],
        latency_class=request.latency_class,
    )


def score_record(
    author: Author,
    context: RoundContext,
    *,
    drafter: str,
    model_revision: str,
    scores: TextScores,
    frozen: bool = False,
) -> log_pb2.ScoreRecord:
    """How a drafter would have drafted a whole answer; `context` is of its end. `frozen`: nobody may learn from it."""
    return log_pb2.ScoreRecord(
        schema_version=SCHEMA_VERSION,
        event_id=uuid7(),
        request_id=context.request_id,
        ts_ms=_now_ms(),
        controller_id=author.controller_id,
        drafter=drafter,
        model_revision=model_revision,
        context=_context(context),
        ranks=scores.ranks,
        confidences=scores.confidences,
        frozen=frozen,
        rounds=context.round,
    )


def round_report(
    record_bytes: bytes, choice: bytes, text_of: Callable[[Sequence[int]], str], *, veil: Veil | None = None
) -> RoundReport:
    """What one round did, from its serialised record and decision, with the text of every node, for people to read.
    With a veil there are no texts, and no tokens."""
    record = log_pb2.RoundRecord.FromString(record_bytes)
    if veil is not None:
        veil.over_round(record)
    extra = len(record.accepted)
    return generation_pb2.RoundReport(
        round=record.round,
        decision=generation_pb2.Decision.FromString(choice),
        tree=record.tree,
        accepted=record.accepted,
        node_texts=[text_of((token,)) for token in record.tree.token_ids] if veil is None else (),
        extra_text=text_of(record.token_ids[extra : extra + 1]) if veil is None else "",
        run_text=text_of(record.token_ids[extra + 1 :]) if veil is None else "",
        tokens_emitted=record.tokens_emitted,
        timings=record.timings,
        missing_drafters=record.missing_drafters,
        foreseen_drafters=record.foreseen_drafters,
        silent_drafters=[silence.drafter for silence in record.silences],
    )


def _now_ms() -> int:
    return time_ns() // 1_000_000
