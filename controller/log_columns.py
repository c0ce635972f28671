"""The log as tables: what is written beside each record, so that it can be read without us.

Every value is the record's own; the column `record` holds the record itself, from which nothing is missing.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from google.protobuf.message import DecodeError

from controller.records import COMBINATIONS
from speculation.errors import InvalidRequestError
from speculation.v1 import common_pb2, generation_pb2, log_pb2

Row = Mapping[str, Any]


class Kind(StrEnum):
    """What a column holds."""

    TEXT = "text"
    COUNT = "count"
    NUMBER = "number"
    FLAG = "flag"
    TEXTS = "texts"
    COUNTS = "counts"
    NUMBERS = "numbers"
    TEXT_BY_NAME = "text by name"
    NUMBER_BY_NAME = "number by name"
    BYTES = "bytes"


@dataclass(frozen=True, slots=True)
class Column:
    """One column, and in words what is in it."""

    name: str
    kind: Kind
    about: str


@dataclass(frozen=True, slots=True)
class Table:
    """How records of one stream become rows.

    Attributes:
        columns: All but `entry_id` and `record`, which every table has.
        row: The values of these columns in a record; raises InvalidRequestError if it is none of this stream.
    """

    columns: Sequence[Column]
    row: Callable[[bytes], Row]


ENTRY_ID = Column(
    "entry_id", Kind.TEXT, "id of the entry in its Redis stream: milliseconds of its writing, and a number"
)
RECORD = Column("record", Kind.BYTES, "the record as logged: protobuf, protos/speculation/v1/log.proto")

_EVENT = (
    Column("event_id", Kind.TEXT, "of the record, UUIDv7"),
    Column("request_id", Kind.TEXT, "of the request; joins all tables"),
    Column("ts_ms", Kind.COUNT, "when it was logged, Unix time in milliseconds"),
    Column("schema_version", Kind.COUNT, "of the record"),
)
_CONTEXT = (
    Column("task", Kind.TEXT, "the caller's label, or empty"),
    Column("tenant", Kind.TEXT, "the caller's label, or empty"),
    Column("prompt_tokens", Kind.COUNT, "length of the prompt"),
    Column("emitted_tokens", Kind.COUNT, "tokens of the answer before this round"),
    Column("temperature", Kind.NUMBER, "0 for greedy decoding"),
    Column("requests_in_flight", Kind.COUNT, "that the controller served then, this one included"),
    Column("prompt_surprisal", Kind.NUMBER_BY_NAME, "nats per token of the end of the prompt, by drafter that read it"),
)
_PLAN = (
    Column("drafters", Kind.TEXTS, "who drafted; none for plain decoding"),
    Column("depth", Kind.COUNT, "most levels that were asked for; empty for plain decoding, like the next three"),
    Column("branching", Kind.COUNT, "nodes expanded a level, and children of each"),
    Column("budget", Kind.COUNT, "most nodes drafted"),
    Column("least_confidence", Kind.NUMBER, "path confidence below which nothing is drafted"),
    Column("verify_budget", Kind.COUNT, "most nodes verified"),
    Column(
        "propensity",
        Kind.NUMBER,
        "chance in (0, 1] of this choice of the policy; 0 for plain decoding by order",
    ),
)
_TIMES = (
    Column("draft_ns", Kind.COUNT, "nanoseconds from the first draft call to the last reply"),
    Column("verify_ns", Kind.COUNT, "nanoseconds from the verify call to its reply"),
    Column("round_ns", Kind.COUNT, "nanoseconds of the whole round; of an outcome: sums, like the others"),
    Column("draft_worker_ns", Kind.COUNT, "of draft_ns, the slowest drafter's own time"),
    Column("verify_worker_ns", Kind.COUNT, "of verify_ns, the target worker's own time"),
)


def _parsed(message: Any, data: bytes) -> Any:
    """The record; what comes out of a stream's wrong bytes must at least have an id."""
    try:
        record = message.FromString(data)
    except DecodeError as error:
        raise InvalidRequestError("record", f"is no {message.DESCRIPTOR.name}: {error}") from error
    if not record.event_id:
        raise InvalidRequestError("record", f"is no {message.DESCRIPTOR.name}: it has no event id")
    return record


def _event(record: Any) -> Row:
    return {column.name: getattr(record, column.name) for column in _EVENT}


def _shape(shape: common_pb2.TreeShape, *, drafted: bool) -> Row:
    names = ("depth", "branching", "budget", "least_confidence")
    return {name: getattr(shape, name) if drafted else None for name in names}


def _times(timings: generation_pb2.RoundTimings) -> Row:
    return {column.name: getattr(timings, column.name) for column in _TIMES}


def _decision(data: bytes) -> Row:
    record: log_pb2.DecisionRecord = _parsed(log_pb2.DecisionRecord, data)
    chosen = record.decision
    return {
        **_event(record),
        **{column.name: getattr(record, column.name) for column in _CONTEXT if column.name != "prompt_surprisal"},
        "prompt_surprisal": dict(record.prompt_surprisal),
        "round": record.round,
        "controller_id": record.controller_id,
        "config_hash": record.config_hash,
        "code_version": record.code_version,
        "mode": _word(log_pb2.DecisionMode, record.mode),
        "policy": chosen.policy,
        "model_version": chosen.model_version,
        "drafters": list(chosen.drafters),
        **_shape(chosen.shape, drafted=bool(chosen.drafters)),
        "verify_budget": chosen.verify_budget,
        "propensity": chosen.propensity,
        "explanation": chosen.explanation,
        "eligible_drafters": list(record.eligible_drafters),
        "ineligible_drafters": list(record.ineligible_drafters),
        "model_revisions": dict(record.model_revisions),
        "proposed_drafters": list(record.proposed.drafters) if record.HasField("proposed") else None,
    }


DECISIONS = Table(
    columns=(
        *_EVENT,
        Column("round", Kind.COUNT, "from which on this was chosen, until the request's next decision"),
        Column("controller_id", Kind.TEXT, "of the process that decided"),
        Column("config_hash", Kind.TEXT, "of the configuration that it obeyed"),
        Column("code_version", Kind.TEXT, "of the release that decided"),
        Column("mode", Kind.TEXT, "online: the policy chose freely; forced, fallback, killed or observed: it did not"),
        Column("policy", Kind.TEXT, "who decided"),
        Column("model_version", Kind.TEXT, "the promoted version that its learning went on from; empty for none"),
        *_PLAN,
        Column("explanation", Kind.TEXT, "why, in words"),
        Column("eligible_drafters", Kind.TEXTS, "who could have been chosen"),
        Column("ineligible_drafters", Kind.TEXTS, "who could not, and why"),
        *_CONTEXT,
        Column("model_revisions", Kind.TEXT_BY_NAME, "hash of each worker's model, by name; the target's, too"),
        Column("proposed_drafters", Kind.TEXTS, "mode observed: whom the policy would have chosen"),
    ),
    row=_decision,
)


def _round(data: bytes) -> Row:
    record: log_pb2.RoundRecord = _parsed(log_pb2.RoundRecord, data)
    context = record.context
    return {
        **_event(record),
        **{column.name: getattr(context, column.name) for column in _CONTEXT if column.name != "prompt_surprisal"},
        "prompt_surprisal": dict(context.prompt_surprisal),
        "round": record.round,
        "decision_event_id": record.decision_event_id,
        "remaining_tokens": context.remaining_tokens,
        "on_offer": list(context.drafters),
        "drafters": list(record.drafters),
        "missing_drafters": list(record.missing_drafters),
        "foreseen_drafters": list(record.foreseen_drafters),
        **_shape(record.shape, drafted=bool(record.drafters)),
        "combination": _COMBINATION_NAMES.get(record.combination, str(record.combination)),
        "verify_budget": record.verify_budget,
        "propensity": record.propensity,
        "frozen": record.frozen,
        "drafted_nodes": record.num_draft_tokens,
        "drafted_levels": record.tree_depth,
        "accepted_tokens": record.num_accepted_draft_tokens,
        "tokens_emitted": record.tokens_emitted,
        **_times(record.timings),
        "verify_queue_ns": record.verify_queue_ns,
        "verify_compute_ns": record.verify_compute_ns,
        "verify_forwards": record.verify_forwards,
        "verify_batch_size": record.verify_batch_size,
        "near_ties": record.near_ties,
        "tree_token_ids": list(record.tree.token_ids),
        "tree_parents": list(record.tree.parents),
        "tree_confidences": list(record.tree.confidences),
        "node_probs": list(record.node_probs),
        "accepted": list(record.accepted),
        "token_ids": list(record.token_ids),
        "logprobs": list(record.logprobs),
    }


ROUNDS = Table(
    columns=(
        *_EVENT,
        Column("round", Kind.COUNT, "of the request, from 0"),
        Column("decision_event_id", Kind.TEXT, "the decision that it carried out: event_id in decisions"),
        *_CONTEXT,
        Column("remaining_tokens", Kind.COUNT, "that could still be emitted before this round"),
        Column("on_offer", Kind.TEXTS, "drafters that could be chosen"),
        *_PLAN,
        Column("combination", Kind.TEXT, "how the trees of several drafters became one"),
        Column("missing_drafters", Kind.TEXTS, "who was asked and did not answer in time"),
        Column("foreseen_drafters", Kind.TEXTS, "whose tree was there before it was asked for: not in the times"),
        Column("frozen", Kind.FLAG, "nobody learns from this round"),
        Column("drafted_nodes", Kind.COUNT, "nodes verified"),
        Column("drafted_levels", Kind.COUNT, "levels of the verified tree"),
        Column("accepted_tokens", Kind.COUNT, "drafted and kept"),
        Column("tokens_emitted", Kind.COUNT, "what the answer gained; divide by round_ns for the speed of a round"),
        *_TIMES,
        Column("verify_queue_ns", Kind.COUNT, "of verify_worker_ns, waiting for the engine"),
        Column("verify_compute_ns", Kind.COUNT, "of verify_worker_ns, in model forwards"),
        Column("verify_forwards", Kind.COUNT, "model forwards of the verification"),
        Column("verify_batch_size", Kind.COUNT, "sessions that shared the forward"),
        Column("near_ties", Kind.COUNT, "emitted tokens that rounding could have swapped"),
        Column("tree_token_ids", Kind.COUNTS, "the verified tree: token of each node, parents first"),
        Column("tree_parents", Kind.COUNTS, "0: the node follows the last emitted token; else 1 + its parent's place"),
        Column(
            "tree_confidences", Kind.NUMBERS, "the drafter's chance that the target emits the node after its parent"
        ),
        Column("node_probs", Kind.NUMBERS, "the target's chance of each node, if it told"),
        Column("accepted", Kind.COUNTS, "places of the accepted nodes, first level first"),
        Column("token_ids", Kind.COUNTS, "what the target emitted: the accepted nodes' tokens and one more"),
        Column("logprobs", Kind.NUMBERS, "of each of these, before any sampling transform"),
    ),
    row=_round,
)


def _outcome(data: bytes) -> Row:
    record: log_pb2.OutcomeRecord = _parsed(log_pb2.OutcomeRecord, data)
    return {
        **_event(record),
        "status": _word(log_pb2.OutcomeStatus, record.status),
        "finish_reason": _word(generation_pb2.FinishReason, record.finish_reason),
        "prompt_tokens": record.usage.prompt_tokens,
        "completion_tokens": record.usage.completion_tokens,
        "rounds": record.acceptance.num_spec_steps,
        "drafted_nodes": record.acceptance.num_draft_tokens,
        "accepted_tokens": record.acceptance.num_accepted_draft_tokens,
        "time_to_first_token_ns": record.timings.time_to_first_token_ns,
        "total_ns": record.timings.total_ns,
        **_times(record.timings.rounds),
        "failovers": record.failovers,
        "near_ties": record.near_ties,
        "seed": str(record.seed),
        "temperature": record.sampling.temperature,
        "prompt_token_ids": list(record.prompt_token_ids),
        "token_ids": list(record.token_ids),
    }


OUTCOMES = Table(
    columns=(
        *_EVENT,
        Column("status", Kind.TEXT, "ok, cancelled, deadline or worker_error"),
        Column("finish_reason", Kind.TEXT, "stop, length, or unspecified if it did not finish"),
        Column("prompt_tokens", Kind.COUNT, "length of the prompt"),
        Column("completion_tokens", Kind.COUNT, "length of the answer"),
        Column("rounds", Kind.COUNT, "that it took"),
        Column("drafted_nodes", Kind.COUNT, "nodes verified"),
        Column("accepted_tokens", Kind.COUNT, "drafted and kept"),
        Column("time_to_first_token_ns", Kind.COUNT, "nanoseconds from the call to the first round's end"),
        Column("total_ns", Kind.COUNT, "nanoseconds from the call to the end"),
        *_TIMES,
        Column("failovers", Kind.COUNT, "workers that were lost on the way"),
        Column("near_ties", Kind.COUNT, "emitted tokens that rounding could have swapped"),
        Column("seed", Kind.TEXT, "of the noise, in decimal: 64 bits"),
        Column("temperature", Kind.NUMBER, "0 for greedy decoding"),
        Column("prompt_token_ids", Kind.COUNTS, "the prompt: treat it as the text that it is"),
        Column("token_ids", Kind.COUNTS, "the answer: treat it as the text that it is"),
    ),
    row=_outcome,
)

TABLES: Mapping[str, Table] = {"decisions": DECISIONS, "rounds": ROUNDS, "outcomes": OUTCOMES}
"""Of each stream of the log."""

BARE = Table(columns=(), row=lambda data: {})
"""Of a stream whose records this release has no columns for: they are kept whole all the same."""

_COMBINATION_NAMES = {number: combination.value for combination, number in COMBINATIONS.items()}

ONLINE = "online"
"""The mode of decisions whose propensity can be used to weigh."""


def _word(enumeration: Any, number: int) -> str:
    """Last words of an enum value's name; the number itself if it is of another release."""
    try:
        name: str = enumeration.Name(number)
    except ValueError:
        return str(number)
    prefix = "".join(f"_{letter}" if letter.isupper() else letter for letter in enumeration.DESCRIPTOR.name)
    return name.removeprefix(prefix.strip("_").upper() + "_").lower()
