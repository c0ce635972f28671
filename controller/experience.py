"""From the decision log back to what a policy can learn, so that any process can learn from every process's requests.

A record holds all that a policy is taught, so that a learner need remember nothing of the log but the place where it
stopped.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Protocol

from google.protobuf.message import DecodeError

from controller.records import COMBINATIONS
from router_models.plan import Plan, is_propensity
from router_models.policy import Policy, RoundContext, RoundOutcome, RoundTimings, Silence, TextScores
from speculation.errors import InvalidRequestError
from speculation.tree import TokenTree
from speculation.v1 import log_pb2
from speculation.verdict import Verdict, WorkerTimings
from speculation.wire import calibration_from_proto, shape_from_proto, tree_from_proto

_COMBINATION_OF = {number: combination for combination, number in COMBINATIONS.items()}


class Lesson(Protocol):
    """What one record of the log teaches."""

    @property
    def event_id(self) -> str:
        """The record's own: a record that was written twice has it twice."""

    def teach(self, policy: Policy) -> None:
        """Let a policy learn it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundLesson:
    """A round, as the policy of its request was taught it.

    The plan lacks explanation and model version, the verdict the alternatives that a caller asked for: from these
    nobody learns.
    """

    event_id: str
    context: RoundContext
    plan: Plan
    outcome: RoundOutcome
    frozen: bool = False

    def teach(self, policy: Policy) -> None:
        """Let a policy learn it, unless the router was frozen."""
        if not self.frozen:
            policy.learn(self.context, self.plan, self.outcome)


def round_lesson(data: bytes) -> RoundLesson:
    """The lesson of a serialised RoundRecord.

    Raises:
        InvalidRequestError: It is none, contradicts itself, or was written by a release that did not log contexts.
    """
    try:
        record = log_pb2.RoundRecord.FromString(data)
    except DecodeError as error:
        raise InvalidRequestError("record", f"is no record of a round: {error}") from error
    if not record.HasField("context"):
        raise InvalidRequestError("record.context", "is missing")
    return RoundLesson(
        event_id=record.event_id,
        context=_context(record.context, request_id=record.request_id, round_number=record.round),
        plan=_plan(record),
        outcome=_outcome(record),
        frozen=record.frozen,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreLesson:
    """How a drafter would have drafted an answer, as the policy of its request was taught it."""

    event_id: str
    context: RoundContext
    drafter: str
    scores: TextScores
    frozen: bool = False

    def teach(self, policy: Policy) -> None:
        """Let a policy learn it, if anybody may."""
        if not self.frozen:
            policy.learn_scores(self.context, {self.drafter: self.scores})


def score_lesson(data: bytes) -> ScoreLesson:
    """The lesson of a serialised ScoreRecord.

    Raises:
        InvalidRequestError: It is none, or contradicts itself.
    """
    try:
        record = log_pb2.ScoreRecord.FromString(data)
    except DecodeError as error:
        raise InvalidRequestError("record", f"is no record of scores: {error}") from error
    scores = TextScores(ranks=tuple(record.ranks), confidences=tuple(record.confidences))
    if not record.HasField("context"):
        raise InvalidRequestError("record.context", "is missing")
    if not record.drafter:
        raise InvalidRequestError("record.drafter", "names nobody")
    tokens = record.context.emitted_tokens
    if not scores.fit(tokens):
        field = "confidences" if len(scores.ranks) == tokens and all(scores.ranks) else "ranks"
        raise InvalidRequestError(f"record.{field}", f"are none of an answer of {tokens} tokens")
    return ScoreLesson(
        event_id=record.event_id,
        context=_context(record.context, request_id=record.request_id, round_number=record.rounds),
        drafter=record.drafter,
        scores=scores,
        frozen=record.frozen,
    )


LESSON_OF: Mapping[str, Callable[[bytes], Lesson]] = {"rounds": round_lesson, "scores": score_lesson}
"""Reader of the records of each stream that teaches something."""


def _context(context: log_pb2.RoundContext, *, request_id: str, round_number: int) -> RoundContext:
    if not isfinite(context.temperature) or not all(map(isfinite, context.prompt_surprisal.values())):
        raise InvalidRequestError("record.context", "holds numbers that are not finite")
    return RoundContext(
        request_id=request_id,
        round=round_number,
        drafters=tuple(context.drafters),
        pinned_shape=shape_from_proto(context.pinned_shape) if context.HasField("pinned_shape") else None,
        task=context.task,
        tenant=context.tenant,
        prompt_tokens=context.prompt_tokens,
        emitted_tokens=context.emitted_tokens,
        remaining_tokens=context.remaining_tokens,
        temperature=context.temperature,
        prompt_surprisal=dict(context.prompt_surprisal),
        requests_in_flight=context.requests_in_flight,
    )


def _plan(record: log_pb2.RoundRecord) -> Plan:
    if record.combination not in _COMBINATION_OF:
        raise InvalidRequestError("record.combination", f"{record.combination} is unknown to this release")
    if not is_propensity(record.propensity, speculates=bool(record.drafters)):
        raise InvalidRequestError("record.propensity", f"{record.propensity} is not in (0, 1]")
    return Plan(
        drafters=tuple(record.drafters),
        shape=shape_from_proto(record.shape),
        combination=_COMBINATION_OF[record.combination],
        verify_budget=record.verify_budget,
        propensity=record.propensity,
        explanation="",
        calibrations={name: calibration_from_proto(value) for name, value in record.calibrations.items()},
        run=record.run,
    )


def _outcome(record: log_pb2.RoundRecord) -> RoundOutcome:
    tree = tree_from_proto(record.tree)
    timings = record.timings
    return RoundOutcome(
        drafts=_drafts(record, tree),
        tree=tree,
        verdict=_verdict(record, tree),
        timings=RoundTimings(
            draft_ns=timings.draft_ns,
            verify_ns=timings.verify_ns,
            round_ns=timings.round_ns,
            draft_worker_ns=timings.draft_worker_ns,
            verify_worker_ns=timings.verify_worker_ns,
        ),
        foreseen=tuple(record.foreseen_drafters),
        silences=tuple(map(_silence, record.silences)),
    )


def _silence(message: log_pb2.Silence) -> Silence:
    if not 0.0 <= message.least_confidence <= 1.0:
        raise InvalidRequestError("record.silences", f"confidence {message.least_confidence} is not between 0 and 1")
    return Silence(drafter=message.drafter, least_confidence=message.least_confidence, took_ns=message.took_ns)


def _drafts(record: log_pb2.RoundRecord, tree: TokenTree) -> dict[str, TokenTree]:
    if record.drafts:
        return {entry.drafter: tree_from_proto(entry.tree) for entry in record.drafts}
    answered = [drafter for drafter in record.drafters if drafter not in record.missing_drafters]
    if len(answered) > 1:
        raise InvalidRequestError("record.drafts", f"{len(answered)} drafters answered, but no tree is there")
    return dict.fromkeys(answered, tree)


def _verdict(record: log_pb2.RoundRecord, tree: TokenTree) -> Verdict:
    accepted = tuple(record.accepted)
    if not 0 <= len(record.token_ids) - len(accepted) - 1 <= record.run or any(node >= len(tree) for node in accepted):
        raise InvalidRequestError("record.accepted", "does not fit the tree, the tokens and the run")
    if len(record.node_probs) not in (0, len(tree)) or not all(map(isfinite, record.node_probs)):
        raise InvalidRequestError("record.node_probs", "does not fit the tree")
    return Verdict(
        accepted=accepted,
        token_ids=tuple(record.token_ids),
        logprobs=tuple(record.logprobs),
        node_probs=tuple(record.node_probs),
        near_ties=record.near_ties,
        run_ns=record.run_ns,
        timings=WorkerTimings(
            queue_ns=record.verify_queue_ns,
            compute_ns=record.verify_compute_ns,
            total_ns=record.timings.verify_worker_ns,
            batch_size=record.verify_batch_size,
            batch_positions=record.verify_batch_positions,
            forwards=record.verify_forwards,
            nodes_beside=record.verify_nodes_beside,
            trees_beside=record.verify_trees_beside,
        ),
    )
