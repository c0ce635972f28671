from speculation.v1 import generation_pb2 as _generation_pb2
from speculation.v1 import common_pb2 as _common_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class DecisionMode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DECISION_MODE_UNSPECIFIED: _ClassVar[DecisionMode]
    DECISION_MODE_ONLINE: _ClassVar[DecisionMode]
    DECISION_MODE_FORCED: _ClassVar[DecisionMode]
    DECISION_MODE_FALLBACK: _ClassVar[DecisionMode]
    DECISION_MODE_KILLED: _ClassVar[DecisionMode]
    DECISION_MODE_OBSERVED: _ClassVar[DecisionMode]

class Combination(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    COMBINATION_UNSPECIFIED: _ClassVar[Combination]
    COMBINATION_MOST_CONFIDENT: _ClassVar[Combination]
    COMBINATION_SIDE_BY_SIDE: _ClassVar[Combination]
    COMBINATION_MERGED: _ClassVar[Combination]

class OutcomeStatus(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    OUTCOME_STATUS_UNSPECIFIED: _ClassVar[OutcomeStatus]
    OUTCOME_STATUS_OK: _ClassVar[OutcomeStatus]
    OUTCOME_STATUS_CANCELLED: _ClassVar[OutcomeStatus]
    OUTCOME_STATUS_DEADLINE: _ClassVar[OutcomeStatus]
    OUTCOME_STATUS_WORKER_ERROR: _ClassVar[OutcomeStatus]
DECISION_MODE_UNSPECIFIED: DecisionMode
DECISION_MODE_ONLINE: DecisionMode
DECISION_MODE_FORCED: DecisionMode
DECISION_MODE_FALLBACK: DecisionMode
DECISION_MODE_KILLED: DecisionMode
DECISION_MODE_OBSERVED: DecisionMode
COMBINATION_UNSPECIFIED: Combination
COMBINATION_MOST_CONFIDENT: Combination
COMBINATION_SIDE_BY_SIDE: Combination
COMBINATION_MERGED: Combination
OUTCOME_STATUS_UNSPECIFIED: OutcomeStatus
OUTCOME_STATUS_OK: OutcomeStatus
OUTCOME_STATUS_CANCELLED: OutcomeStatus
OUTCOME_STATUS_DEADLINE: OutcomeStatus
OUTCOME_STATUS_WORKER_ERROR: OutcomeStatus

class DecisionRecord(_message.Message):
    __slots__ = ("schema_version", "event_id", "request_id", "round", "ts_ms", "controller_id", "tenant", "task", "config_hash", "code_version", "mode", "decision", "eligible_drafters", "ineligible_drafters", "prompt_tokens", "emitted_tokens", "temperature", "requests_in_flight", "prompt_surprisal", "model_revisions", "proposed", "trace_id")
    class PromptSurprisalEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    class ModelRevisionsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    SCHEMA_VERSION_FIELD_NUMBER: _ClassVar[int]
    EVENT_ID_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    TS_MS_FIELD_NUMBER: _ClassVar[int]
    CONTROLLER_ID_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    CONFIG_HASH_FIELD_NUMBER: _ClassVar[int]
    CODE_VERSION_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    DECISION_FIELD_NUMBER: _ClassVar[int]
    ELIGIBLE_DRAFTERS_FIELD_NUMBER: _ClassVar[int]
    INELIGIBLE_DRAFTERS_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    EMITTED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    REQUESTS_IN_FLIGHT_FIELD_NUMBER: _ClassVar[int]
    PROMPT_SURPRISAL_FIELD_NUMBER: _ClassVar[int]
    MODEL_REVISIONS_FIELD_NUMBER: _ClassVar[int]
    PROPOSED_FIELD_NUMBER: _ClassVar[int]
    TRACE_ID_FIELD_NUMBER: _ClassVar[int]
    schema_version: int
    event_id: str
    request_id: str
    round: int
    ts_ms: int
    controller_id: str
    tenant: str
    task: str
    config_hash: str
    code_version: str
    mode: DecisionMode
    decision: _generation_pb2.Decision
    eligible_drafters: _containers.RepeatedScalarFieldContainer[str]
    ineligible_drafters: _containers.RepeatedScalarFieldContainer[str]
    prompt_tokens: int
    emitted_tokens: int
    temperature: float
    requests_in_flight: int
    prompt_surprisal: _containers.ScalarMap[str, float]
    model_revisions: _containers.ScalarMap[str, str]
    proposed: _generation_pb2.Decision
    trace_id: str
    def __init__(self, schema_version: _Optional[int] = ..., event_id: _Optional[str] = ..., request_id: _Optional[str] = ..., round: _Optional[int] = ..., ts_ms: _Optional[int] = ..., controller_id: _Optional[str] = ..., tenant: _Optional[str] = ..., task: _Optional[str] = ..., config_hash: _Optional[str] = ..., code_version: _Optional[str] = ..., mode: _Optional[_Union[DecisionMode, str]] = ..., decision: _Optional[_Union[_generation_pb2.Decision, _Mapping]] = ..., eligible_drafters: _Optional[_Iterable[str]] = ..., ineligible_drafters: _Optional[_Iterable[str]] = ..., prompt_tokens: _Optional[int] = ..., emitted_tokens: _Optional[int] = ..., temperature: _Optional[float] = ..., requests_in_flight: _Optional[int] = ..., prompt_surprisal: _Optional[_Mapping[str, float]] = ..., model_revisions: _Optional[_Mapping[str, str]] = ..., proposed: _Optional[_Union[_generation_pb2.Decision, _Mapping]] = ..., trace_id: _Optional[str] = ...) -> None: ...

class RoundRecord(_message.Message):
    __slots__ = ("schema_version", "event_id", "request_id", "round", "ts_ms", "decision_event_id", "drafters", "missing_drafters", "num_draft_tokens", "tree_depth", "num_accepted_draft_tokens", "tokens_emitted", "timings", "verify_batch_size", "tree", "node_probs", "accepted", "token_ids", "context", "shape", "combination", "verify_budget", "propensity", "drafts", "logprobs", "near_ties", "verify_queue_ns", "verify_compute_ns", "verify_forwards", "calibrations", "frozen", "foreseen_drafters", "verify_batch_positions", "silences", "veiled", "run", "run_ns", "verify_nodes_beside", "verify_trees_beside", "exchanges", "verify_address", "failovers", "retold_tokens")
    class CalibrationsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: _common_pb2.Calibration
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[_common_pb2.Calibration, _Mapping]] = ...) -> None: ...
    SCHEMA_VERSION_FIELD_NUMBER: _ClassVar[int]
    EVENT_ID_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    TS_MS_FIELD_NUMBER: _ClassVar[int]
    DECISION_EVENT_ID_FIELD_NUMBER: _ClassVar[int]
    DRAFTERS_FIELD_NUMBER: _ClassVar[int]
    MISSING_DRAFTERS_FIELD_NUMBER: _ClassVar[int]
    NUM_DRAFT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    TREE_DEPTH_FIELD_NUMBER: _ClassVar[int]
    NUM_ACCEPTED_DRAFT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    TOKENS_EMITTED_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    VERIFY_BATCH_SIZE_FIELD_NUMBER: _ClassVar[int]
    TREE_FIELD_NUMBER: _ClassVar[int]
    NODE_PROBS_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    COMBINATION_FIELD_NUMBER: _ClassVar[int]
    VERIFY_BUDGET_FIELD_NUMBER: _ClassVar[int]
    PROPENSITY_FIELD_NUMBER: _ClassVar[int]
    DRAFTS_FIELD_NUMBER: _ClassVar[int]
    LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    NEAR_TIES_FIELD_NUMBER: _ClassVar[int]
    VERIFY_QUEUE_NS_FIELD_NUMBER: _ClassVar[int]
    VERIFY_COMPUTE_NS_FIELD_NUMBER: _ClassVar[int]
    VERIFY_FORWARDS_FIELD_NUMBER: _ClassVar[int]
    CALIBRATIONS_FIELD_NUMBER: _ClassVar[int]
    FROZEN_FIELD_NUMBER: _ClassVar[int]
    FORESEEN_DRAFTERS_FIELD_NUMBER: _ClassVar[int]
    VERIFY_BATCH_POSITIONS_FIELD_NUMBER: _ClassVar[int]
    SILENCES_FIELD_NUMBER: _ClassVar[int]
    VEILED_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    RUN_NS_FIELD_NUMBER: _ClassVar[int]
    VERIFY_NODES_BESIDE_FIELD_NUMBER: _ClassVar[int]
    VERIFY_TREES_BESIDE_FIELD_NUMBER: _ClassVar[int]
    EXCHANGES_FIELD_NUMBER: _ClassVar[int]
    VERIFY_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    FAILOVERS_FIELD_NUMBER: _ClassVar[int]
    RETOLD_TOKENS_FIELD_NUMBER: _ClassVar[int]
    schema_version: int
    event_id: str
    request_id: str
    round: int
    ts_ms: int
    decision_event_id: str
    drafters: _containers.RepeatedScalarFieldContainer[str]
    missing_drafters: _containers.RepeatedScalarFieldContainer[str]
    num_draft_tokens: int
    tree_depth: int
    num_accepted_draft_tokens: int
    tokens_emitted: int
    timings: _generation_pb2.RoundTimings
    verify_batch_size: int
    tree: _common_pb2.TokenTree
    node_probs: _containers.RepeatedScalarFieldContainer[float]
    accepted: _containers.RepeatedScalarFieldContainer[int]
    token_ids: _containers.RepeatedScalarFieldContainer[int]
    context: RoundContext
    shape: _common_pb2.TreeShape
    combination: Combination
    verify_budget: int
    propensity: float
    drafts: _containers.RepeatedCompositeFieldContainer[DraftedTree]
    logprobs: _containers.RepeatedScalarFieldContainer[float]
    near_ties: int
    verify_queue_ns: int
    verify_compute_ns: int
    verify_forwards: int
    calibrations: _containers.MessageMap[str, _common_pb2.Calibration]
    frozen: bool
    foreseen_drafters: _containers.RepeatedScalarFieldContainer[str]
    verify_batch_positions: int
    silences: _containers.RepeatedCompositeFieldContainer[Silence]
    veiled: bool
    run: int
    run_ns: int
    verify_nodes_beside: int
    verify_trees_beside: int
    exchanges: _containers.RepeatedCompositeFieldContainer[DraftExchange]
    verify_address: str
    failovers: int
    retold_tokens: int
    def __init__(self, schema_version: _Optional[int] = ..., event_id: _Optional[str] = ..., request_id: _Optional[str] = ..., round: _Optional[int] = ..., ts_ms: _Optional[int] = ..., decision_event_id: _Optional[str] = ..., drafters: _Optional[_Iterable[str]] = ..., missing_drafters: _Optional[_Iterable[str]] = ..., num_draft_tokens: _Optional[int] = ..., tree_depth: _Optional[int] = ..., num_accepted_draft_tokens: _Optional[int] = ..., tokens_emitted: _Optional[int] = ..., timings: _Optional[_Union[_generation_pb2.RoundTimings, _Mapping]] = ..., verify_batch_size: _Optional[int] = ..., tree: _Optional[_Union[_common_pb2.TokenTree, _Mapping]] = ..., node_probs: _Optional[_Iterable[float]] = ..., accepted: _Optional[_Iterable[int]] = ..., token_ids: _Optional[_Iterable[int]] = ..., context: _Optional[_Union[RoundContext, _Mapping]] = ..., shape: _Optional[_Union[_common_pb2.TreeShape, _Mapping]] = ..., combination: _Optional[_Union[Combination, str]] = ..., verify_budget: _Optional[int] = ..., propensity: _Optional[float] = ..., drafts: _Optional[_Iterable[_Union[DraftedTree, _Mapping]]] = ..., logprobs: _Optional[_Iterable[float]] = ..., near_ties: _Optional[int] = ..., verify_queue_ns: _Optional[int] = ..., verify_compute_ns: _Optional[int] = ..., verify_forwards: _Optional[int] = ..., calibrations: _Optional[_Mapping[str, _common_pb2.Calibration]] = ..., frozen: _Optional[bool] = ..., foreseen_drafters: _Optional[_Iterable[str]] = ..., verify_batch_positions: _Optional[int] = ..., silences: _Optional[_Iterable[_Union[Silence, _Mapping]]] = ..., veiled: _Optional[bool] = ..., run: _Optional[int] = ..., run_ns: _Optional[int] = ..., verify_nodes_beside: _Optional[int] = ..., verify_trees_beside: _Optional[int] = ..., exchanges: _Optional[_Iterable[_Union[DraftExchange, _Mapping]]] = ..., verify_address: _Optional[str] = ..., failovers: _Optional[int] = ..., retold_tokens: _Optional[int] = ...) -> None: ...

class Silence(_message.Message):
    __slots__ = ("drafter", "least_confidence", "took_ns")
    DRAFTER_FIELD_NUMBER: _ClassVar[int]
    LEAST_CONFIDENCE_FIELD_NUMBER: _ClassVar[int]
    TOOK_NS_FIELD_NUMBER: _ClassVar[int]
    drafter: str
    least_confidence: float
    took_ns: int
    def __init__(self, drafter: _Optional[str] = ..., least_confidence: _Optional[float] = ..., took_ns: _Optional[int] = ...) -> None: ...

class DraftExchange(_message.Message):
    __slots__ = ("drafter", "address", "elapsed_ns", "timings")
    DRAFTER_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    ELAPSED_NS_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    drafter: str
    address: str
    elapsed_ns: int
    timings: _common_pb2.WorkerTimings
    def __init__(self, drafter: _Optional[str] = ..., address: _Optional[str] = ..., elapsed_ns: _Optional[int] = ..., timings: _Optional[_Union[_common_pb2.WorkerTimings, _Mapping]] = ...) -> None: ...

class RoundContext(_message.Message):
    __slots__ = ("drafters", "pinned_shape", "task", "tenant", "prompt_tokens", "emitted_tokens", "remaining_tokens", "temperature", "prompt_surprisal", "requests_in_flight")
    class PromptSurprisalEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    DRAFTERS_FIELD_NUMBER: _ClassVar[int]
    PINNED_SHAPE_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    EMITTED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    REMAINING_TOKENS_FIELD_NUMBER: _ClassVar[int]
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    PROMPT_SURPRISAL_FIELD_NUMBER: _ClassVar[int]
    REQUESTS_IN_FLIGHT_FIELD_NUMBER: _ClassVar[int]
    drafters: _containers.RepeatedScalarFieldContainer[str]
    pinned_shape: _common_pb2.TreeShape
    task: str
    tenant: str
    prompt_tokens: int
    emitted_tokens: int
    remaining_tokens: int
    temperature: float
    prompt_surprisal: _containers.ScalarMap[str, float]
    requests_in_flight: int
    def __init__(self, drafters: _Optional[_Iterable[str]] = ..., pinned_shape: _Optional[_Union[_common_pb2.TreeShape, _Mapping]] = ..., task: _Optional[str] = ..., tenant: _Optional[str] = ..., prompt_tokens: _Optional[int] = ..., emitted_tokens: _Optional[int] = ..., remaining_tokens: _Optional[int] = ..., temperature: _Optional[float] = ..., prompt_surprisal: _Optional[_Mapping[str, float]] = ..., requests_in_flight: _Optional[int] = ...) -> None: ...

class DraftedTree(_message.Message):
    __slots__ = ("drafter", "tree")
    DRAFTER_FIELD_NUMBER: _ClassVar[int]
    TREE_FIELD_NUMBER: _ClassVar[int]
    drafter: str
    tree: _common_pb2.TokenTree
    def __init__(self, drafter: _Optional[str] = ..., tree: _Optional[_Union[_common_pb2.TokenTree, _Mapping]] = ...) -> None: ...

class OutcomeRecord(_message.Message):
    __slots__ = ("schema_version", "event_id", "request_id", "ts_ms", "status", "finish_reason", "usage", "acceptance", "timings", "failovers", "near_ties", "seed", "sampling", "prompt_token_ids", "token_ids", "veiled", "latency_class")
    SCHEMA_VERSION_FIELD_NUMBER: _ClassVar[int]
    EVENT_ID_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    TS_MS_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    FINISH_REASON_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    ACCEPTANCE_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    FAILOVERS_FIELD_NUMBER: _ClassVar[int]
    NEAR_TIES_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    VEILED_FIELD_NUMBER: _ClassVar[int]
    LATENCY_CLASS_FIELD_NUMBER: _ClassVar[int]
    schema_version: int
    event_id: str
    request_id: str
    ts_ms: int
    status: OutcomeStatus
    finish_reason: _generation_pb2.FinishReason
    usage: _generation_pb2.Usage
    acceptance: _generation_pb2.AcceptanceRecord
    timings: _generation_pb2.RequestTimings
    failovers: int
    near_ties: int
    seed: int
    sampling: _common_pb2.SamplingParameters
    prompt_token_ids: _containers.RepeatedScalarFieldContainer[int]
    token_ids: _containers.RepeatedScalarFieldContainer[int]
    veiled: bool
    latency_class: str
    def __init__(self, schema_version: _Optional[int] = ..., event_id: _Optional[str] = ..., request_id: _Optional[str] = ..., ts_ms: _Optional[int] = ..., status: _Optional[_Union[OutcomeStatus, str]] = ..., finish_reason: _Optional[_Union[_generation_pb2.FinishReason, str]] = ..., usage: _Optional[_Union[_generation_pb2.Usage, _Mapping]] = ..., acceptance: _Optional[_Union[_generation_pb2.AcceptanceRecord, _Mapping]] = ..., timings: _Optional[_Union[_generation_pb2.RequestTimings, _Mapping]] = ..., failovers: _Optional[int] = ..., near_ties: _Optional[int] = ..., seed: _Optional[int] = ..., sampling: _Optional[_Union[_common_pb2.SamplingParameters, _Mapping]] = ..., prompt_token_ids: _Optional[_Iterable[int]] = ..., token_ids: _Optional[_Iterable[int]] = ..., veiled: _Optional[bool] = ..., latency_class: _Optional[str] = ...) -> None: ...

class ScoreRecord(_message.Message):
    __slots__ = ("schema_version", "event_id", "request_id", "ts_ms", "controller_id", "drafter", "model_revision", "context", "ranks", "confidences", "frozen", "rounds")
    SCHEMA_VERSION_FIELD_NUMBER: _ClassVar[int]
    EVENT_ID_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    TS_MS_FIELD_NUMBER: _ClassVar[int]
    CONTROLLER_ID_FIELD_NUMBER: _ClassVar[int]
    DRAFTER_FIELD_NUMBER: _ClassVar[int]
    MODEL_REVISION_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_FIELD_NUMBER: _ClassVar[int]
    RANKS_FIELD_NUMBER: _ClassVar[int]
    CONFIDENCES_FIELD_NUMBER: _ClassVar[int]
    FROZEN_FIELD_NUMBER: _ClassVar[int]
    ROUNDS_FIELD_NUMBER: _ClassVar[int]
    schema_version: int
    event_id: str
    request_id: str
    ts_ms: int
    controller_id: str
    drafter: str
    model_revision: str
    context: RoundContext
    ranks: _containers.RepeatedScalarFieldContainer[int]
    confidences: _containers.RepeatedScalarFieldContainer[float]
    frozen: bool
    rounds: int
    def __init__(self, schema_version: _Optional[int] = ..., event_id: _Optional[str] = ..., request_id: _Optional[str] = ..., ts_ms: _Optional[int] = ..., controller_id: _Optional[str] = ..., drafter: _Optional[str] = ..., model_revision: _Optional[str] = ..., context: _Optional[_Union[RoundContext, _Mapping]] = ..., ranks: _Optional[_Iterable[int]] = ..., confidences: _Optional[_Iterable[float]] = ..., frozen: _Optional[bool] = ..., rounds: _Optional[int] = ...) -> None: ...
