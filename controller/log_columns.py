"""The log as tables: what is written beside each record, so that it can be read without us.

Every value is the record's own; the column `record` holds the record itself, from which nothing is missing.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from operator import attrgetter
from typing import Any

from google.protobuf.message import DecodeError

from controller.records import COMBINATIONS
from speculation.errors import InvalidRequestError
from speculation.v1 import generation_pb2, log_pb2

Row = Mapping[str, Any]
Get = Callable[[Any], Any]
"""What a record has for a column."""


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


_PLAIN: Mapping[Kind, Callable[[Any], Any]] = {
    **dict.fromkeys((Kind.TEXTS, Kind.COUNTS, Kind.NUMBERS), list),
    **dict.fromkeys((Kind.TEXT_BY_NAME, Kind.NUMBER_BY_NAME), dict),
}
"""Of a kind for which protobuf has a container of its own: what makes a plain one of it."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column, in words what is in it, and where a record has it: under the column's name unless said otherwise."""

    name: str
    kind: Kind
    about: str
    of: str | Get = ""

    def value(self, record: Any) -> Any:
        """Of a record; None for nothing."""
        get = self.of if callable(self.of) else attrgetter(self.of or self.name)
        value = get(record)
        return _PLAIN[self.kind](value) if self.kind in _PLAIN and value is not None else value


@dataclass(frozen=True, slots=True)
class Table:
    """How records of one stream become rows.

    Attributes:
        message: The protobuf class of its records.
        columns: All but `entry_id` and `record`, which every table has.
    """

    message: Any
    columns: Sequence[Column]

    def row(self, data: bytes) -> Row:
        """The values of the columns in a record; raises InvalidRequestError if it is none of this stream."""
        name = self.message.DESCRIPTOR.name
        try:
            record = self.message.FromString(data)
        except DecodeError as error:
            raise InvalidRequestError("record", f"is no {name}: {error}") from error
        if not record.event_id:  # what comes out of a stream's wrong bytes must at least have one
            raise InvalidRequestError("record", f"is no {name}: it has no event id")
        return {column.name: column.value(record) for column in self.columns}


ONLINE = "online"
"""The mode of decisions whose propensity can be used to weigh."""

_COMBINATION_NAMES = {number: combination.value for combination, number in COMBINATIONS.items()}


def _word(enumeration: Any, field: str) -> Get:
    """Last words of an enum value's name; the number itself if it is of another release."""
    prefix = "".join(f"_{letter}" if letter.isupper() else letter for letter in enumeration.DESCRIPTOR.name)

    def get(record: Any) -> str:
        number = getattr(record, field)
        try:
            name: str = enumeration.Name(number)
        except ValueError:
            return str(number)
        return name.removeprefix(prefix.strip("_").upper() + "_").lower()

    return get


def _proposed(record: Any) -> Any:
    return record.proposed.drafters if record.HasField("proposed") else None


def _combination(record: Any) -> str:
    return _COMBINATION_NAMES.get(record.combination, str(record.combination))


def _under(path: str, *columns: Column) -> Sequence[Column]:
    """Columns of a message within the record."""
    return tuple(replace(column, of=f"{path}.{column.of or column.name}") for column in columns)


def _plan(path: str = "") -> Sequence[Column]:
    """Columns of what was chosen."""

    def drafted(field: str) -> Get:
        drafters, value = attrgetter(f"{path}drafters"), attrgetter(f"{path}shape.{field}")
        return lambda record: value(record) if drafters(record) else None

    depth = "most levels that were asked for; empty for plain decoding, like the next three"
    chance = "chance in (0, 1] of this choice of the policy; 0 for plain decoding by order"
    least = "path confidence below which nothing is drafted"
    return (
        Column("drafters", Kind.TEXTS, "who drafted; none for plain decoding", f"{path}drafters"),
        Column("depth", Kind.COUNT, depth, drafted("depth")),
        Column("branching", Kind.COUNT, "nodes expanded a level, and children of each", drafted("branching")),
        Column("budget", Kind.COUNT, "most nodes drafted", drafted("budget")),
        Column("least_confidence", Kind.NUMBER, least, drafted("least_confidence")),
        Column("verify_budget", Kind.COUNT, "most nodes verified", f"{path}verify_budget"),
        Column("propensity", Kind.NUMBER, chance, f"{path}propensity"),
    )


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
    Column("emitted_tokens", Kind.COUNT, "tokens of the answer until then"),
    Column("temperature", Kind.NUMBER, "0 for greedy decoding"),
    Column("requests_in_flight", Kind.COUNT, "that the controller served then, this one included"),
    Column("prompt_surprisal", Kind.NUMBER_BY_NAME, "nats per token of the end of the prompt, by drafter that read it"),
)
_OFFER = (
    *_CONTEXT,
    Column("remaining_tokens", Kind.COUNT, "that could still be emitted then"),
    Column("on_offer", Kind.TEXTS, "drafters that could be chosen", "drafters"),
)
_TIMES = (
    Column("draft_ns", Kind.COUNT, "nanoseconds from the first draft call to the last reply"),
    Column("verify_ns", Kind.COUNT, "nanoseconds from the verify call to its reply"),
    Column("round_ns", Kind.COUNT, "nanoseconds of the whole round; of an outcome: sums, like the others"),
    Column("draft_worker_ns", Kind.COUNT, "of draft_ns, the slowest drafter's own time"),
    Column("verify_worker_ns", Kind.COUNT, "of verify_ns, the target worker's own time"),
)

ENTRY_ID = Column(
    "entry_id", Kind.TEXT, "id of the entry in its Redis stream: milliseconds of its writing, and a number"
)
RECORD = Column("record", Kind.BYTES, "the record as logged: protobuf, protos/speculation/v1/log.proto")

DECISIONS = Table(
    log_pb2.DecisionRecord,
    (
        *_EVENT,
        Column("round", Kind.COUNT, "from which on this was chosen, until the request's next decision"),
        Column("controller_id", Kind.TEXT, "of the process that decided"),
        Column("trace_id", Kind.TEXT, "of the request's trace; empty where there is none"),
        Column("config_hash", Kind.TEXT, "of the configuration that it obeyed"),
        Column("code_version", Kind.TEXT, "of the release that decided"),
        Column(
            "mode",
            Kind.TEXT,
            "online: the policy chose freely; forced, fallback, killed or observed: it did not",
            _word(log_pb2.DecisionMode, "mode"),
        ),
        Column("policy", Kind.TEXT, "who decided", "decision.policy"),
        Column(
            "model_version",
            Kind.TEXT,
            "the promoted version that its learning went on from; empty for none",
            "decision.model_version",
        ),
        *_plan("decision."),
        Column("explanation", Kind.TEXT, "why, in words", "decision.explanation"),
        Column("eligible_drafters", Kind.TEXTS, "who could have been chosen"),
        Column("ineligible_drafters", Kind.TEXTS, "who could not, and why"),
        *_CONTEXT,
        Column("model_revisions", Kind.TEXT_BY_NAME, "hash of each worker's model, by name; the target's, too"),
        Column("proposed_drafters", Kind.TEXTS, "mode observed: whom the policy would have chosen", _proposed),
    ),
)

ROUNDS = Table(
    log_pb2.RoundRecord,
    (
        *_EVENT,
        Column("round", Kind.COUNT, "of the request, from 0"),
        Column("decision_event_id", Kind.TEXT, "the decision that it carried out: event_id in decisions"),
        *_under("context", *_OFFER),
        *_plan(),
        Column("combination", Kind.TEXT, "how the trees of several drafters became one", _combination),
        Column("missing_drafters", Kind.TEXTS, "who was asked and did not answer in time"),
        Column("foreseen_drafters", Kind.TEXTS, "whose tree was there before it was asked for: not in the times"),
        Column(
            "silent_drafters",
            Kind.TEXTS,
            "who was asked first and had nothing to say: the round was planned again without them",
            lambda record: [silence.drafter for silence in record.silences],
        ),
        Column("frozen", Kind.FLAG, "nobody learns from this round"),
        Column("drafted_nodes", Kind.COUNT, "nodes verified", "num_draft_tokens"),
        Column("drafted_levels", Kind.COUNT, "levels of the verified tree", "tree_depth"),
        Column("accepted_tokens", Kind.COUNT, "drafted and kept", "num_accepted_draft_tokens"),
        Column("tokens_emitted", Kind.COUNT, "what the answer gained; divide by round_ns for the speed of a round"),
        *_under("timings", *_TIMES),
        Column("verify_queue_ns", Kind.COUNT, "of verify_worker_ns, waiting for the engine"),
        Column("verify_compute_ns", Kind.COUNT, "of verify_worker_ns, in model forwards"),
        Column("verify_forwards", Kind.COUNT, "model forwards of the verification"),
        Column("verify_batch_size", Kind.COUNT, "sessions that shared the forward"),
        Column("verify_batch_positions", Kind.COUNT, "positions it judged, all sessions together: ends and nodes"),
        Column("verify_nodes_beside", Kind.COUNT, "nodes of other sessions in its forwards, those of the run too"),
        Column("verify_trees_beside", Kind.COUNT, "trees of which these are"),
        Column("near_ties", Kind.COUNT, "emitted tokens that rounding could have swapped"),
        Column("veiled", Kind.FLAG, "tokens are numbers that mean something within this round alone"),
        Column("tree_token_ids", Kind.COUNTS, "the verified tree: token of each node, parents first", "tree.token_ids"),
        Column(
            "tree_parents",
            Kind.COUNTS,
            "0: the node follows the last emitted token; else 1 + its parent's place",
            "tree.parents",
        ),
        Column(
            "tree_confidences",
            Kind.NUMBERS,
            "the drafter's chance that the target emits the node after its parent",
            "tree.confidences",
        ),
        Column("node_probs", Kind.NUMBERS, "the target's chance of each node, if it told"),
        Column("accepted", Kind.COUNTS, "places of the accepted nodes, first level first"),
        Column("token_ids", Kind.COUNTS, "what the target emitted: the accepted nodes' tokens and one more"),
        Column("logprobs", Kind.NUMBERS, "of each of these, before any sampling transform"),
    ),
)

OUTCOMES = Table(
    log_pb2.OutcomeRecord,
    (
        *_EVENT,
        Column("status", Kind.TEXT, "ok, cancelled, deadline or worker_error", _word(log_pb2.OutcomeStatus, "status")),
        Column(
            "finish_reason",
            Kind.TEXT,
            "stop, length, or unspecified if it did not finish",
            _word(generation_pb2.FinishReason, "finish_reason"),
        ),
        Column("prompt_tokens", Kind.COUNT, "length of the prompt", "usage.prompt_tokens"),
        Column("completion_tokens", Kind.COUNT, "length of the answer", "usage.completion_tokens"),
        Column("rounds", Kind.COUNT, "that it took", "acceptance.num_spec_steps"),
        Column("drafted_nodes", Kind.COUNT, "nodes verified", "acceptance.num_draft_tokens"),
        Column("accepted_tokens", Kind.COUNT, "drafted and kept", "acceptance.num_accepted_draft_tokens"),
        Column(
            "time_to_first_token_ns",
            Kind.COUNT,
            "nanoseconds from the call to the first round's end",
            "timings.time_to_first_token_ns",
        ),
        Column("total_ns", Kind.COUNT, "nanoseconds from the call to the end", "timings.total_ns"),
        Column("queue_ns", Kind.COUNT, "of these, before it had a place", "timings.queue_ns"),
        Column("latency_class", Kind.TEXT, "how long it could be kept waiting"),
        *_under("timings.rounds", *_TIMES),
        Column("failovers", Kind.COUNT, "workers that were lost on the way"),
        Column("near_ties", Kind.COUNT, "emitted tokens that rounding could have swapped"),
        Column("seed", Kind.TEXT, "of the noise, in decimal: 64 bits", lambda record: str(record.seed)),
        Column("temperature", Kind.NUMBER, "0 for greedy decoding", "sampling.temperature"),
        Column("veiled", Kind.FLAG, "the tokens of prompt and answer were left out"),
        Column("prompt_token_ids", Kind.COUNTS, "the prompt, unless veiled: treat it as the text that it is"),
        Column("token_ids", Kind.COUNTS, "the answer, unless veiled: treat it as the text that it is"),
    ),
)

SCORES = Table(
    log_pb2.ScoreRecord,
    (
        *_EVENT,
        Column("controller_id", Kind.TEXT, "of the process that had the answer scored"),
        Column("drafter", Kind.TEXT, "who scored it"),
        Column("model_revision", Kind.TEXT, "hash of the drafter's model"),
        *_under("context", *_OFFER),
        Column("rounds", Kind.COUNT, "that the answer took"),
        Column("ranks", Kind.COUNTS, "place of each token of the answer among the drafter's candidates, from 1"),
        Column("confidences", Kind.NUMBERS, "the drafter's own confidence in each token, not calibrated"),
        Column("frozen", Kind.FLAG, "nobody learns from this: the router was frozen, or the drafter's rounds teach it"),
    ),
)

TABLES: Mapping[str, Table] = {"decisions": DECISIONS, "rounds": ROUNDS, "outcomes": OUTCOMES, "scores": SCORES}
"""Of each stream of the log."""
