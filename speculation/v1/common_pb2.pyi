from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class SessionStatus(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SESSION_STATUS_UNSPECIFIED: _ClassVar[SessionStatus]
    SESSION_STATUS_OK: _ClassVar[SessionStatus]
    SESSION_STATUS_NEED_CONTEXT: _ClassVar[SessionStatus]
    SESSION_STATUS_BUSY: _ClassVar[SessionStatus]
    SESSION_STATUS_DRAINING: _ClassVar[SessionStatus]

class WorkerRole(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    WORKER_ROLE_UNSPECIFIED: _ClassVar[WorkerRole]
    WORKER_ROLE_DRAFT: _ClassVar[WorkerRole]
    WORKER_ROLE_VERIFY: _ClassVar[WorkerRole]
SESSION_STATUS_UNSPECIFIED: SessionStatus
SESSION_STATUS_OK: SessionStatus
SESSION_STATUS_NEED_CONTEXT: SessionStatus
SESSION_STATUS_BUSY: SessionStatus
SESSION_STATUS_DRAINING: SessionStatus
WORKER_ROLE_UNSPECIFIED: WorkerRole
WORKER_ROLE_DRAFT: WorkerRole
WORKER_ROLE_VERIFY: WorkerRole

class TokenTree(_message.Message):
    __slots__ = ("token_ids", "parents", "confidences")
    TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    PARENTS_FIELD_NUMBER: _ClassVar[int]
    CONFIDENCES_FIELD_NUMBER: _ClassVar[int]
    token_ids: _containers.RepeatedScalarFieldContainer[int]
    parents: _containers.RepeatedScalarFieldContainer[int]
    confidences: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, token_ids: _Optional[_Iterable[int]] = ..., parents: _Optional[_Iterable[int]] = ..., confidences: _Optional[_Iterable[float]] = ...) -> None: ...

class SamplingParameters(_message.Message):
    __slots__ = ("repetition_penalty", "presence_penalty", "frequency_penalty", "logit_bias", "temperature", "top_k", "top_p", "min_p", "seed")
    class LogitBiasEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: int
        value: float
        def __init__(self, key: _Optional[int] = ..., value: _Optional[float] = ...) -> None: ...
    REPETITION_PENALTY_FIELD_NUMBER: _ClassVar[int]
    PRESENCE_PENALTY_FIELD_NUMBER: _ClassVar[int]
    FREQUENCY_PENALTY_FIELD_NUMBER: _ClassVar[int]
    LOGIT_BIAS_FIELD_NUMBER: _ClassVar[int]
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    TOP_P_FIELD_NUMBER: _ClassVar[int]
    MIN_P_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    logit_bias: _containers.ScalarMap[int, float]
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    seed: int
    def __init__(self, repetition_penalty: _Optional[float] = ..., presence_penalty: _Optional[float] = ..., frequency_penalty: _Optional[float] = ..., logit_bias: _Optional[_Mapping[int, float]] = ..., temperature: _Optional[float] = ..., top_k: _Optional[int] = ..., top_p: _Optional[float] = ..., min_p: _Optional[float] = ..., seed: _Optional[int] = ...) -> None: ...

class Calibration(_message.Message):
    __slots__ = ("offset", "slope")
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    SLOPE_FIELD_NUMBER: _ClassVar[int]
    offset: float
    slope: float
    def __init__(self, offset: _Optional[float] = ..., slope: _Optional[float] = ...) -> None: ...

class TreeShape(_message.Message):
    __slots__ = ("depth", "branching", "budget", "least_confidence")
    DEPTH_FIELD_NUMBER: _ClassVar[int]
    BRANCHING_FIELD_NUMBER: _ClassVar[int]
    BUDGET_FIELD_NUMBER: _ClassVar[int]
    LEAST_CONFIDENCE_FIELD_NUMBER: _ClassVar[int]
    depth: int
    branching: int
    budget: int
    least_confidence: float
    def __init__(self, depth: _Optional[int] = ..., branching: _Optional[int] = ..., budget: _Optional[int] = ..., least_confidence: _Optional[float] = ...) -> None: ...

class Context(_message.Message):
    __slots__ = ("base_length", "prefix_hash", "token_ids")
    BASE_LENGTH_FIELD_NUMBER: _ClassVar[int]
    PREFIX_HASH_FIELD_NUMBER: _ClassVar[int]
    TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    base_length: int
    prefix_hash: int
    token_ids: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, base_length: _Optional[int] = ..., prefix_hash: _Optional[int] = ..., token_ids: _Optional[_Iterable[int]] = ...) -> None: ...

class WorkerTimings(_message.Message):
    __slots__ = ("queue_ns", "compute_ns", "total_ns", "batch_size", "forwards", "batch_positions", "nodes_beside", "trees_beside")
    QUEUE_NS_FIELD_NUMBER: _ClassVar[int]
    COMPUTE_NS_FIELD_NUMBER: _ClassVar[int]
    TOTAL_NS_FIELD_NUMBER: _ClassVar[int]
    BATCH_SIZE_FIELD_NUMBER: _ClassVar[int]
    FORWARDS_FIELD_NUMBER: _ClassVar[int]
    BATCH_POSITIONS_FIELD_NUMBER: _ClassVar[int]
    NODES_BESIDE_FIELD_NUMBER: _ClassVar[int]
    TREES_BESIDE_FIELD_NUMBER: _ClassVar[int]
    queue_ns: int
    compute_ns: int
    total_ns: int
    batch_size: int
    forwards: int
    batch_positions: int
    nodes_beside: int
    trees_beside: int
    def __init__(self, queue_ns: _Optional[int] = ..., compute_ns: _Optional[int] = ..., total_ns: _Optional[int] = ..., batch_size: _Optional[int] = ..., forwards: _Optional[int] = ..., batch_positions: _Optional[int] = ..., nodes_beside: _Optional[int] = ..., trees_beside: _Optional[int] = ...) -> None: ...

class TraceContext(_message.Message):
    __slots__ = ("traceparent", "tracestate")
    TRACEPARENT_FIELD_NUMBER: _ClassVar[int]
    TRACESTATE_FIELD_NUMBER: _ClassVar[int]
    traceparent: str
    tracestate: str
    def __init__(self, traceparent: _Optional[str] = ..., tracestate: _Optional[str] = ...) -> None: ...

class DescribeRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class DescribeResponse(_message.Message):
    __slots__ = ("role", "name", "model", "model_revision", "tokenizer_fingerprint", "vocab_size", "max_length", "slots", "dtype", "device", "version", "instance_id", "most_outcomes", "forward_profile", "cache_use")
    ROLE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    MODEL_REVISION_FIELD_NUMBER: _ClassVar[int]
    TOKENIZER_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    VOCAB_SIZE_FIELD_NUMBER: _ClassVar[int]
    MAX_LENGTH_FIELD_NUMBER: _ClassVar[int]
    SLOTS_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_ID_FIELD_NUMBER: _ClassVar[int]
    MOST_OUTCOMES_FIELD_NUMBER: _ClassVar[int]
    FORWARD_PROFILE_FIELD_NUMBER: _ClassVar[int]
    CACHE_USE_FIELD_NUMBER: _ClassVar[int]
    role: WorkerRole
    name: str
    model: str
    model_revision: str
    tokenizer_fingerprint: str
    vocab_size: int
    max_length: int
    slots: int
    dtype: str
    device: str
    version: str
    instance_id: str
    most_outcomes: int
    forward_profile: ForwardProfile
    cache_use: CacheUse
    def __init__(self, role: _Optional[_Union[WorkerRole, str]] = ..., name: _Optional[str] = ..., model: _Optional[str] = ..., model_revision: _Optional[str] = ..., tokenizer_fingerprint: _Optional[str] = ..., vocab_size: _Optional[int] = ..., max_length: _Optional[int] = ..., slots: _Optional[int] = ..., dtype: _Optional[str] = ..., device: _Optional[str] = ..., version: _Optional[str] = ..., instance_id: _Optional[str] = ..., most_outcomes: _Optional[int] = ..., forward_profile: _Optional[_Union[ForwardProfile, _Mapping]] = ..., cache_use: _Optional[_Union[CacheUse, _Mapping]] = ...) -> None: ...

class CacheUse(_message.Message):
    __slots__ = ("bytes", "capacity_tokens", "session_tokens", "retained_tokens", "looked_up_tokens", "reused_tokens", "evicted_sessions", "remembered_tokens")
    BYTES_FIELD_NUMBER: _ClassVar[int]
    CAPACITY_TOKENS_FIELD_NUMBER: _ClassVar[int]
    SESSION_TOKENS_FIELD_NUMBER: _ClassVar[int]
    RETAINED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    LOOKED_UP_TOKENS_FIELD_NUMBER: _ClassVar[int]
    REUSED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    EVICTED_SESSIONS_FIELD_NUMBER: _ClassVar[int]
    REMEMBERED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    bytes: int
    capacity_tokens: int
    session_tokens: int
    retained_tokens: int
    looked_up_tokens: int
    reused_tokens: int
    evicted_sessions: int
    remembered_tokens: int
    def __init__(self, bytes: _Optional[int] = ..., capacity_tokens: _Optional[int] = ..., session_tokens: _Optional[int] = ..., retained_tokens: _Optional[int] = ..., looked_up_tokens: _Optional[int] = ..., reused_tokens: _Optional[int] = ..., evicted_sessions: _Optional[int] = ..., remembered_tokens: _Optional[int] = ...) -> None: ...

class ForwardProfile(_message.Message):
    __slots__ = ("forward_ms", "node_ms", "prompt_token_ms")
    FORWARD_MS_FIELD_NUMBER: _ClassVar[int]
    NODE_MS_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKEN_MS_FIELD_NUMBER: _ClassVar[int]
    forward_ms: float
    node_ms: float
    prompt_token_ms: float
    def __init__(self, forward_ms: _Optional[float] = ..., node_ms: _Optional[float] = ..., prompt_token_ms: _Optional[float] = ...) -> None: ...

class WorkerRegistration(_message.Message):
    __slots__ = ("address", "worker", "heartbeat_ms", "ttl_ms")
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    WORKER_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_MS_FIELD_NUMBER: _ClassVar[int]
    TTL_MS_FIELD_NUMBER: _ClassVar[int]
    address: str
    worker: DescribeResponse
    heartbeat_ms: int
    ttl_ms: int
    def __init__(self, address: _Optional[str] = ..., worker: _Optional[_Union[DescribeResponse, _Mapping]] = ..., heartbeat_ms: _Optional[int] = ..., ttl_ms: _Optional[int] = ...) -> None: ...
