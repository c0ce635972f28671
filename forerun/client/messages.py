"""Requests to protobuf and responses from it: the one place where the client sees the wire."""

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from forerun.client.generation import (
    AcceptanceRecord,
    Decision,
    Delta,
    FinishReason,
    Generation,
    RequestTimings,
    RoundReport,
    ServedModel,
    TokenLogprob,
    TokenLogprobs,
    Usage,
)
from router_models.policy import RoundTimings
from speculation.errors import InvalidRequestError
from speculation.sampling import SamplingParameters
from speculation.tree import TreeShape
from speculation.v1 import generation_pb2
from speculation.wire import sampling_to_proto, shape_from_proto, shape_to_proto, tree_from_proto

_FINISH_REASONS = {
    generation_pb2.FINISH_REASON_STOP: FinishReason.STOP,
    generation_pb2.FINISH_REASON_LENGTH: FinishReason.LENGTH,
}

_SAMPLING = frozenset(SamplingParameters.__dataclass_fields__)
_SPECULATION = frozenset({"policy", "drafters", "shape", "uncoupled", "in_turn"})
_AS_THEY_ARE = frozenset(
    {
        "request_id",
        "max_new_tokens",
        "stop",
        "stop_token_ids",
        "ignore_eos",
        "logprobs",
        "task",
        "tenant",
        "latency_class",
        "explain",
    }
)


class GenerateOptions(TypedDict, total=False):
    """What a request may say besides its prompt; what is left out is left to the service.

    One of `messages` (mappings with "role" and "content") and `token_ids` may stand in for the prompt.

    `temperature`, `top_k`, `top_p`, `min_p`, `repetition_penalty`, `presence_penalty`, `frequency_penalty`,
    `logit_bias` and `seed` shape the answer. `speculation=False` forbids speculating; `policy`, `drafters`, `shape`,
    `uncoupled` and `in_turn` say how to. None of these six changes the text. `logprobs=n` reports the n likeliest
    alternatives of each token, `explain=True` every round. `latency_class` says how long it may
    wait when there are too many requests. `timeout_s` is the deadline of the whole call. `metadata`
    travels beside the request, for example the caller's authorization.
    """

    messages: Sequence[Mapping[str, str]]
    token_ids: Sequence[int]
    max_new_tokens: int
    stop: Sequence[str]
    stop_token_ids: Sequence[int]
    ignore_eos: bool
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    logit_bias: Mapping[int, float]
    seed: int
    logprobs: int
    task: str
    tenant: str
    latency_class: str
    request_id: str
    speculation: bool
    policy: str
    drafters: Sequence[str]
    shape: TreeShape
    uncoupled: bool
    in_turn: bool
    explain: bool
    timeout_s: float
    metadata: Mapping[str, str]


def request_of(prompt: str | None, options: GenerateOptions) -> generation_pb2.GenerateRequest:
    """The message of a request.

    Raises:
        InvalidRequestError: There is not exactly one prompt, or a value is out of its range.
    """
    given: dict[str, Any] = dict(options)
    fields = _prompt_fields(prompt, given.pop("messages", None), given.pop("token_ids", None))
    fields |= {name: given[name] for name in _AS_THEY_ARE & given.keys()}
    if sampling := {name: given[name] for name in _SAMPLING & given.keys()}:
        fields["sampling"] = _sampling(sampling)
    request = generation_pb2.GenerateRequest()
    for name, value in fields.items():
        request.MergeFrom(_checked(name, value))
    if given.get("speculation") is False:
        request.speculation.off = True
    for name in sorted(_SPECULATION & given.keys()):
        request.MergeFrom(_checked("speculation", _speculation(name, given[name])))
    return request


def _prompt_fields(
    prompt: str | None, messages: Sequence[Mapping[str, str]] | None, token_ids: Sequence[int] | None
) -> dict[str, Any]:
    if sum(form is not None for form in (prompt, messages, token_ids)) != 1:
        raise InvalidRequestError("prompt", "give exactly one of prompt, messages and token_ids")
    if messages is not None:
        turns = [_checked_turn(turn) for turn in messages]
        return {"chat": generation_pb2.ChatMessages(messages=turns)}
    if token_ids is not None:
        if outside := [token for token in token_ids if not 0 <= token < 2**32]:
            raise InvalidRequestError("token_ids", f"{outside[0]} is no token id")
        return {"tokens": generation_pb2.TokenIds(ids=token_ids)}
    return {"text": prompt}


def _checked_turn(turn: Mapping[str, str]) -> generation_pb2.ChatMessage:
    try:
        return generation_pb2.ChatMessage(role=turn["role"], content=turn["content"])
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidRequestError("messages", 'each needs a "role" and a "content", both text') from error


def _sampling(given: Mapping[str, Any]) -> Any:
    """Checked here as well as in the service, so that a typing error costs no round trip; an absent seed stays so."""
    if outside := [token for token in given.get("logit_bias", ()) if not 0 <= token < 2**32]:
        raise InvalidRequestError("logit_bias", f"{outside[0]} is no token id")
    message = sampling_to_proto(SamplingParameters(**given))
    if "seed" not in given:
        message.ClearField("seed")
    return message


def _speculation(name: str, value: Any) -> Any:
    if name == "shape":
        value = shape_to_proto(value)
    try:
        return generation_pb2.Speculation(**{name: value})
    except (TypeError, ValueError) as error:
        raise InvalidRequestError(f"speculation.{name}", str(error)) from error


def _checked(name: str, value: Any) -> generation_pb2.GenerateRequest:
    """A request with one field; protobuf's complaint about the value becomes ours and names the field."""
    try:
        return generation_pb2.GenerateRequest(**{name: value})
    except (TypeError, ValueError) as error:
        raise InvalidRequestError(name, str(error)) from error


class Answer:
    """The responses so far, folded into one value."""

    def __init__(self) -> None:
        self.deltas: list[Delta] = []
        self.rounds: list[RoundReport] = []
        self.generation: Generation | None = None

    @property
    def text(self) -> str:
        """The answer as far as it has come."""
        return "".join(delta.text for delta in self.deltas)

    def fold(self, response: generation_pb2.GenerateResponse) -> Delta | None:
        """Take in one response; a delta is also returned."""
        kind = response.WhichOneof("message")
        if kind == "delta":
            self.deltas.append(_delta(response.delta))
            return self.deltas[-1]
        if kind == "round":
            self.rounds.append(round_report_of(response.round))
        elif kind == "summary":
            self.generation = self._generation(response.summary)
        return None

    def _generation(self, summary: generation_pb2.Summary) -> Generation:
        return Generation(
            request_id=summary.request_id,
            text=self.text,
            token_ids=tuple(token for delta in self.deltas for token in delta.token_ids),
            finish_reason=_FINISH_REASONS.get(summary.finish_reason, FinishReason.UNKNOWN),
            matched_stop=summary.matched_stop,
            usage=Usage(prompt_tokens=summary.usage.prompt_tokens, completion_tokens=summary.usage.completion_tokens),
            seed=summary.seed,
            acceptance=_acceptance(summary.acceptance),
            decision=_decision(summary.decision),
            timings=RequestTimings(
                time_to_first_token_ns=summary.timings.time_to_first_token_ns,
                total_ns=summary.timings.total_ns,
                queue_ns=summary.timings.queue_ns,
                rounds=_round_timings(summary.timings.rounds),
            ),
            logprobs=tuple(entry for delta in self.deltas for entry in delta.logprobs),
            rounds=tuple(self.rounds),
            model_revisions=dict(summary.model_revisions),
            near_ties=summary.near_ties,
            failovers=summary.failovers,
            prompt_surprisal=dict(summary.prompt_surprisal),
            latency_class=summary.latency_class,
        )


def _delta(message: generation_pb2.Delta) -> Delta:
    return Delta(
        text=message.text,
        token_ids=tuple(message.token_ids),
        logprobs=tuple(
            TokenLogprobs(
                entry.logprob,
                tuple(TokenLogprob(top.token_id, top.logprob, top.text) for top in entry.top),
                entry.text,
            )
            for entry in message.logprobs
        ),
    )


def models_of(message: generation_pb2.ListModelsResponse) -> tuple[ServedModel, ...]:
    """What is served, from its message."""
    return tuple(
        ServedModel(name=model.name, revision=model.revision, max_length=model.max_length) for model in message.models
    )


def round_report_of(message: generation_pb2.RoundReport) -> RoundReport:
    """What one round did, from its message."""
    return RoundReport(
        round=message.round,
        decision=_decision(message.decision),
        tree=tree_from_proto(message.tree),
        accepted=tuple(message.accepted),
        node_texts=tuple(message.node_texts),
        extra_text=message.extra_text,
        timings=_round_timings(message.timings),
        missing_drafters=tuple(message.missing_drafters),
        foreseen_drafters=tuple(message.foreseen_drafters),
        silent_drafters=tuple(message.silent_drafters),
        run_text=message.run_text,
        tokens_emitted=message.tokens_emitted,
    )


def _decision(message: generation_pb2.Decision) -> Decision:
    return Decision(
        policy=message.policy,
        drafters=tuple(message.drafters),
        shape=shape_from_proto(message.shape) if message.HasField("shape") else None,
        verify_budget=message.verify_budget,
        propensity=message.propensity,
        explanation=message.explanation,
        model_version=message.model_version,
        run=message.run,
    )


def _acceptance(message: generation_pb2.AcceptanceRecord) -> AcceptanceRecord:
    return AcceptanceRecord(
        num_spec_steps=message.num_spec_steps,
        num_draft_tokens=message.num_draft_tokens,
        num_accepted_draft_tokens=message.num_accepted_draft_tokens,
        per_step_drafted=tuple(message.per_step_drafted),
        per_step_accepted=tuple(message.per_step_accepted),
    )


def _round_timings(message: generation_pb2.RoundTimings) -> RoundTimings:
    return RoundTimings(
        draft_ns=message.draft_ns,
        verify_ns=message.verify_ns,
        round_ns=message.round_ns,
        draft_worker_ns=message.draft_worker_ns,
        verify_worker_ns=message.verify_worker_ns,
    )
