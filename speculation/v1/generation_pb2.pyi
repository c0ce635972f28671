from speculation.v1 import common_pb2 as _common_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class FinishReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FINISH_REASON_UNSPECIFIED: _ClassVar[FinishReason]
    FINISH_REASON_STOP: _ClassVar[FinishReason]
    FINISH_REASON_LENGTH: _ClassVar[FinishReason]
FINISH_REASON_UNSPECIFIED: FinishReason
FINISH_REASON_STOP: FinishReason
FINISH_REASON_LENGTH: FinishReason

class ListModelsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListModelsResponse(_message.Message):
    __slots__ = ("models",)
    MODELS_FIELD_NUMBER: _ClassVar[int]
    models: _containers.RepeatedCompositeFieldContainer[ServedModel]
    def __init__(self, models: _Optional[_Iterable[_Union[ServedModel, _Mapping]]] = ...) -> None: ...

class ServedModel(_message.Message):
    __slots__ = ("name", "revision", "max_length")
    NAME_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    MAX_LENGTH_FIELD_NUMBER: _ClassVar[int]
    name: str
    revision: str
    max_length: int
    def __init__(self, name: _Optional[str] = ..., revision: _Optional[str] = ..., max_length: _Optional[int] = ...) -> None: ...

class GenerateRequest(_message.Message):
    __slots__ = ("request_id", "text", "chat", "tokens", "max_new_tokens", "stop", "stop_token_ids", "ignore_eos", "sampling", "logprobs", "task", "tenant", "speculation", "explain", "latency_class")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    CHAT_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    MAX_NEW_TOKENS_FIELD_NUMBER: _ClassVar[int]
    STOP_FIELD_NUMBER: _ClassVar[int]
    STOP_TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    IGNORE_EOS_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    SPECULATION_FIELD_NUMBER: _ClassVar[int]
    EXPLAIN_FIELD_NUMBER: _ClassVar[int]
    LATENCY_CLASS_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    text: str
    chat: ChatMessages
    tokens: TokenIds
    max_new_tokens: int
    stop: _containers.RepeatedScalarFieldContainer[str]
    stop_token_ids: _containers.RepeatedScalarFieldContainer[int]
    ignore_eos: bool
    sampling: _common_pb2.SamplingParameters
    logprobs: int
    task: str
    tenant: str
    speculation: Speculation
    explain: bool
    latency_class: str
    def __init__(self, request_id: _Optional[str] = ..., text: _Optional[str] = ..., chat: _Optional[_Union[ChatMessages, _Mapping]] = ..., tokens: _Optional[_Union[TokenIds, _Mapping]] = ..., max_new_tokens: _Optional[int] = ..., stop: _Optional[_Iterable[str]] = ..., stop_token_ids: _Optional[_Iterable[int]] = ..., ignore_eos: _Optional[bool] = ..., sampling: _Optional[_Union[_common_pb2.SamplingParameters, _Mapping]] = ..., logprobs: _Optional[int] = ..., task: _Optional[str] = ..., tenant: _Optional[str] = ..., speculation: _Optional[_Union[Speculation, _Mapping]] = ..., explain: _Optional[bool] = ..., latency_class: _Optional[str] = ...) -> None: ...

class ChatMessages(_message.Message):
    __slots__ = ("messages",)
    MESSAGES_FIELD_NUMBER: _ClassVar[int]
    messages: _containers.RepeatedCompositeFieldContainer[ChatMessage]
    def __init__(self, messages: _Optional[_Iterable[_Union[ChatMessage, _Mapping]]] = ...) -> None: ...

class ChatMessage(_message.Message):
    __slots__ = ("role", "content")
    ROLE_FIELD_NUMBER: _ClassVar[int]
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    role: str
    content: str
    def __init__(self, role: _Optional[str] = ..., content: _Optional[str] = ...) -> None: ...

class TokenIds(_message.Message):
    __slots__ = ("ids",)
    IDS_FIELD_NUMBER: _ClassVar[int]
    ids: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, ids: _Optional[_Iterable[int]] = ...) -> None: ...

class Speculation(_message.Message):
    __slots__ = ("off", "policy", "drafters", "shape", "uncoupled", "in_turn")
    OFF_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    DRAFTERS_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    UNCOUPLED_FIELD_NUMBER: _ClassVar[int]
    IN_TURN_FIELD_NUMBER: _ClassVar[int]
    off: bool
    policy: str
    drafters: _containers.RepeatedScalarFieldContainer[str]
    shape: _common_pb2.TreeShape
    uncoupled: bool
    in_turn: bool
    def __init__(self, off: _Optional[bool] = ..., policy: _Optional[str] = ..., drafters: _Optional[_Iterable[str]] = ..., shape: _Optional[_Union[_common_pb2.TreeShape, _Mapping]] = ..., uncoupled: _Optional[bool] = ..., in_turn: _Optional[bool] = ...) -> None: ...

class GenerateResponse(_message.Message):
    __slots__ = ("delta", "round", "summary")
    DELTA_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    SUMMARY_FIELD_NUMBER: _ClassVar[int]
    delta: Delta
    round: RoundReport
    summary: Summary
    def __init__(self, delta: _Optional[_Union[Delta, _Mapping]] = ..., round: _Optional[_Union[RoundReport, _Mapping]] = ..., summary: _Optional[_Union[Summary, _Mapping]] = ...) -> None: ...

class Delta(_message.Message):
    __slots__ = ("text", "token_ids", "logprobs")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    text: str
    token_ids: _containers.RepeatedScalarFieldContainer[int]
    logprobs: _containers.RepeatedCompositeFieldContainer[TokenLogprobs]
    def __init__(self, text: _Optional[str] = ..., token_ids: _Optional[_Iterable[int]] = ..., logprobs: _Optional[_Iterable[_Union[TokenLogprobs, _Mapping]]] = ...) -> None: ...

class TokenLogprobs(_message.Message):
    __slots__ = ("logprob", "top", "text")
    LOGPROB_FIELD_NUMBER: _ClassVar[int]
    TOP_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    logprob: float
    top: _containers.RepeatedCompositeFieldContainer[TokenLogprob]
    text: str
    def __init__(self, logprob: _Optional[float] = ..., top: _Optional[_Iterable[_Union[TokenLogprob, _Mapping]]] = ..., text: _Optional[str] = ...) -> None: ...

class TokenLogprob(_message.Message):
    __slots__ = ("token_id", "logprob", "text")
    TOKEN_ID_FIELD_NUMBER: _ClassVar[int]
    LOGPROB_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    token_id: int
    logprob: float
    text: str
    def __init__(self, token_id: _Optional[int] = ..., logprob: _Optional[float] = ..., text: _Optional[str] = ...) -> None: ...

class RoundReport(_message.Message):
    __slots__ = ("round", "decision", "tree", "accepted", "node_texts", "extra_text", "timings", "missing_drafters", "foreseen_drafters", "silent_drafters", "run_text", "tokens_emitted")
    ROUND_FIELD_NUMBER: _ClassVar[int]
    DECISION_FIELD_NUMBER: _ClassVar[int]
    TREE_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    NODE_TEXTS_FIELD_NUMBER: _ClassVar[int]
    EXTRA_TEXT_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    MISSING_DRAFTERS_FIELD_NUMBER: _ClassVar[int]
    FORESEEN_DRAFTERS_FIELD_NUMBER: _ClassVar[int]
    SILENT_DRAFTERS_FIELD_NUMBER: _ClassVar[int]
    RUN_TEXT_FIELD_NUMBER: _ClassVar[int]
    TOKENS_EMITTED_FIELD_NUMBER: _ClassVar[int]
    round: int
    decision: Decision
    tree: _common_pb2.TokenTree
    accepted: _containers.RepeatedScalarFieldContainer[int]
    node_texts: _containers.RepeatedScalarFieldContainer[str]
    extra_text: str
    timings: RoundTimings
    missing_drafters: _containers.RepeatedScalarFieldContainer[str]
    foreseen_drafters: _containers.RepeatedScalarFieldContainer[str]
    silent_drafters: _containers.RepeatedScalarFieldContainer[str]
    run_text: str
    tokens_emitted: int
    def __init__(self, round: _Optional[int] = ..., decision: _Optional[_Union[Decision, _Mapping]] = ..., tree: _Optional[_Union[_common_pb2.TokenTree, _Mapping]] = ..., accepted: _Optional[_Iterable[int]] = ..., node_texts: _Optional[_Iterable[str]] = ..., extra_text: _Optional[str] = ..., timings: _Optional[_Union[RoundTimings, _Mapping]] = ..., missing_drafters: _Optional[_Iterable[str]] = ..., foreseen_drafters: _Optional[_Iterable[str]] = ..., silent_drafters: _Optional[_Iterable[str]] = ..., run_text: _Optional[str] = ..., tokens_emitted: _Optional[int] = ...) -> None: ...

class Decision(_message.Message):
    __slots__ = ("policy", "model_version", "drafters", "shape", "verify_budget", "propensity", "explanation", "calibrations", "run")
    class CalibrationsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: _common_pb2.Calibration
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[_common_pb2.Calibration, _Mapping]] = ...) -> None: ...
    POLICY_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    DRAFTERS_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    VERIFY_BUDGET_FIELD_NUMBER: _ClassVar[int]
    PROPENSITY_FIELD_NUMBER: _ClassVar[int]
    EXPLANATION_FIELD_NUMBER: _ClassVar[int]
    CALIBRATIONS_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    policy: str
    model_version: str
    drafters: _containers.RepeatedScalarFieldContainer[str]
    shape: _common_pb2.TreeShape
    verify_budget: int
    propensity: float
    explanation: str
    calibrations: _containers.MessageMap[str, _common_pb2.Calibration]
    run: int
    def __init__(self, policy: _Optional[str] = ..., model_version: _Optional[str] = ..., drafters: _Optional[_Iterable[str]] = ..., shape: _Optional[_Union[_common_pb2.TreeShape, _Mapping]] = ..., verify_budget: _Optional[int] = ..., propensity: _Optional[float] = ..., explanation: _Optional[str] = ..., calibrations: _Optional[_Mapping[str, _common_pb2.Calibration]] = ..., run: _Optional[int] = ...) -> None: ...

class RoundTimings(_message.Message):
    __slots__ = ("draft_ns", "verify_ns", "round_ns", "draft_worker_ns", "verify_worker_ns")
    DRAFT_NS_FIELD_NUMBER: _ClassVar[int]
    VERIFY_NS_FIELD_NUMBER: _ClassVar[int]
    ROUND_NS_FIELD_NUMBER: _ClassVar[int]
    DRAFT_WORKER_NS_FIELD_NUMBER: _ClassVar[int]
    VERIFY_WORKER_NS_FIELD_NUMBER: _ClassVar[int]
    draft_ns: int
    verify_ns: int
    round_ns: int
    draft_worker_ns: int
    verify_worker_ns: int
    def __init__(self, draft_ns: _Optional[int] = ..., verify_ns: _Optional[int] = ..., round_ns: _Optional[int] = ..., draft_worker_ns: _Optional[int] = ..., verify_worker_ns: _Optional[int] = ...) -> None: ...

class Summary(_message.Message):
    __slots__ = ("request_id", "finish_reason", "matched_stop", "usage", "seed", "acceptance", "decision", "timings", "model_revisions", "near_ties", "failovers", "prompt_surprisal", "latency_class")
    class ModelRevisionsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    class PromptSurprisalEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    FINISH_REASON_FIELD_NUMBER: _ClassVar[int]
    MATCHED_STOP_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    ACCEPTANCE_FIELD_NUMBER: _ClassVar[int]
    DECISION_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    MODEL_REVISIONS_FIELD_NUMBER: _ClassVar[int]
    NEAR_TIES_FIELD_NUMBER: _ClassVar[int]
    FAILOVERS_FIELD_NUMBER: _ClassVar[int]
    PROMPT_SURPRISAL_FIELD_NUMBER: _ClassVar[int]
    LATENCY_CLASS_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    finish_reason: FinishReason
    matched_stop: str
    usage: Usage
    seed: int
    acceptance: AcceptanceRecord
    decision: Decision
    timings: RequestTimings
    model_revisions: _containers.ScalarMap[str, str]
    near_ties: int
    failovers: int
    prompt_surprisal: _containers.ScalarMap[str, float]
    latency_class: str
    def __init__(self, request_id: _Optional[str] = ..., finish_reason: _Optional[_Union[FinishReason, str]] = ..., matched_stop: _Optional[str] = ..., usage: _Optional[_Union[Usage, _Mapping]] = ..., seed: _Optional[int] = ..., acceptance: _Optional[_Union[AcceptanceRecord, _Mapping]] = ..., decision: _Optional[_Union[Decision, _Mapping]] = ..., timings: _Optional[_Union[RequestTimings, _Mapping]] = ..., model_revisions: _Optional[_Mapping[str, str]] = ..., near_ties: _Optional[int] = ..., failovers: _Optional[int] = ..., prompt_surprisal: _Optional[_Mapping[str, float]] = ..., latency_class: _Optional[str] = ...) -> None: ...

class Usage(_message.Message):
    __slots__ = ("prompt_tokens", "completion_tokens")
    PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    COMPLETION_TOKENS_FIELD_NUMBER: _ClassVar[int]
    prompt_tokens: int
    completion_tokens: int
    def __init__(self, prompt_tokens: _Optional[int] = ..., completion_tokens: _Optional[int] = ...) -> None: ...

class AcceptanceRecord(_message.Message):
    __slots__ = ("num_spec_steps", "num_draft_tokens", "num_accepted_draft_tokens", "per_step_drafted", "per_step_accepted")
    NUM_SPEC_STEPS_FIELD_NUMBER: _ClassVar[int]
    NUM_DRAFT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    NUM_ACCEPTED_DRAFT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    PER_STEP_DRAFTED_FIELD_NUMBER: _ClassVar[int]
    PER_STEP_ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    num_spec_steps: int
    num_draft_tokens: int
    num_accepted_draft_tokens: int
    per_step_drafted: _containers.RepeatedScalarFieldContainer[int]
    per_step_accepted: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, num_spec_steps: _Optional[int] = ..., num_draft_tokens: _Optional[int] = ..., num_accepted_draft_tokens: _Optional[int] = ..., per_step_drafted: _Optional[_Iterable[int]] = ..., per_step_accepted: _Optional[_Iterable[int]] = ...) -> None: ...

class RequestTimings(_message.Message):
    __slots__ = ("time_to_first_token_ns", "total_ns", "rounds", "queue_ns")
    TIME_TO_FIRST_TOKEN_NS_FIELD_NUMBER: _ClassVar[int]
    TOTAL_NS_FIELD_NUMBER: _ClassVar[int]
    ROUNDS_FIELD_NUMBER: _ClassVar[int]
    QUEUE_NS_FIELD_NUMBER: _ClassVar[int]
    time_to_first_token_ns: int
    total_ns: int
    rounds: RoundTimings
    queue_ns: int
    def __init__(self, time_to_first_token_ns: _Optional[int] = ..., total_ns: _Optional[int] = ..., rounds: _Optional[_Union[RoundTimings, _Mapping]] = ..., queue_ns: _Optional[int] = ...) -> None: ...
