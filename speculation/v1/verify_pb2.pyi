from speculation.v1 import common_pb2 as _common_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class VerifyRequest(_message.Message):
    __slots__ = ("open", "extend", "verify", "trace")
    OPEN_FIELD_NUMBER: _ClassVar[int]
    EXTEND_FIELD_NUMBER: _ClassVar[int]
    VERIFY_FIELD_NUMBER: _ClassVar[int]
    TRACE_FIELD_NUMBER: _ClassVar[int]
    open: OpenVerify
    extend: ExtendVerify
    verify: VerifyTree
    trace: _common_pb2.TraceContext
    def __init__(self, open: _Optional[_Union[OpenVerify, _Mapping]] = ..., extend: _Optional[_Union[ExtendVerify, _Mapping]] = ..., verify: _Optional[_Union[VerifyTree, _Mapping]] = ..., trace: _Optional[_Union[_common_pb2.TraceContext, _Mapping]] = ...) -> None: ...

class OpenVerify(_message.Message):
    __slots__ = ("session_id", "sampling", "prompt_length", "top_logprobs", "cache_salt", "stop_token_ids")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    PROMPT_LENGTH_FIELD_NUMBER: _ClassVar[int]
    TOP_LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    CACHE_SALT_FIELD_NUMBER: _ClassVar[int]
    STOP_TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    sampling: _common_pb2.SamplingParameters
    prompt_length: int
    top_logprobs: int
    cache_salt: str
    stop_token_ids: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, session_id: _Optional[str] = ..., sampling: _Optional[_Union[_common_pb2.SamplingParameters, _Mapping]] = ..., prompt_length: _Optional[int] = ..., top_logprobs: _Optional[int] = ..., cache_salt: _Optional[str] = ..., stop_token_ids: _Optional[_Iterable[int]] = ...) -> None: ...

class ExtendVerify(_message.Message):
    __slots__ = ("context",)
    CONTEXT_FIELD_NUMBER: _ClassVar[int]
    context: _common_pb2.Context
    def __init__(self, context: _Optional[_Union[_common_pb2.Context, _Mapping]] = ...) -> None: ...

class VerifyTree(_message.Message):
    __slots__ = ("round", "context", "tree", "run")
    ROUND_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_FIELD_NUMBER: _ClassVar[int]
    TREE_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    round: int
    context: _common_pb2.Context
    tree: _common_pb2.TokenTree
    run: int
    def __init__(self, round: _Optional[int] = ..., context: _Optional[_Union[_common_pb2.Context, _Mapping]] = ..., tree: _Optional[_Union[_common_pb2.TokenTree, _Mapping]] = ..., run: _Optional[int] = ...) -> None: ...

class VerifyResponse(_message.Message):
    __slots__ = ("status", "held_length", "opened", "extended", "verdict", "timings")
    STATUS_FIELD_NUMBER: _ClassVar[int]
    HELD_LENGTH_FIELD_NUMBER: _ClassVar[int]
    OPENED_FIELD_NUMBER: _ClassVar[int]
    EXTENDED_FIELD_NUMBER: _ClassVar[int]
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    status: _common_pb2.SessionStatus
    held_length: int
    opened: VerifyOpened
    extended: VerifyExtended
    verdict: Verdict
    timings: _common_pb2.WorkerTimings
    def __init__(self, status: _Optional[_Union[_common_pb2.SessionStatus, str]] = ..., held_length: _Optional[int] = ..., opened: _Optional[_Union[VerifyOpened, _Mapping]] = ..., extended: _Optional[_Union[VerifyExtended, _Mapping]] = ..., verdict: _Optional[_Union[Verdict, _Mapping]] = ..., timings: _Optional[_Union[_common_pb2.WorkerTimings, _Mapping]] = ...) -> None: ...

class VerifyOpened(_message.Message):
    __slots__ = ("name", "model_revision")
    NAME_FIELD_NUMBER: _ClassVar[int]
    MODEL_REVISION_FIELD_NUMBER: _ClassVar[int]
    name: str
    model_revision: str
    def __init__(self, name: _Optional[str] = ..., model_revision: _Optional[str] = ...) -> None: ...

class VerifyExtended(_message.Message):
    __slots__ = ("held_length",)
    HELD_LENGTH_FIELD_NUMBER: _ClassVar[int]
    held_length: int
    def __init__(self, held_length: _Optional[int] = ...) -> None: ...

class Verdict(_message.Message):
    __slots__ = ("round", "accepted", "token_ids", "logprobs", "top_logprobs", "node_probs", "near_ties", "prefix_hash", "run_ns")
    ROUND_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    TOP_LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    NODE_PROBS_FIELD_NUMBER: _ClassVar[int]
    NEAR_TIES_FIELD_NUMBER: _ClassVar[int]
    PREFIX_HASH_FIELD_NUMBER: _ClassVar[int]
    RUN_NS_FIELD_NUMBER: _ClassVar[int]
    round: int
    accepted: _containers.RepeatedScalarFieldContainer[int]
    token_ids: _containers.RepeatedScalarFieldContainer[int]
    logprobs: _containers.RepeatedScalarFieldContainer[float]
    top_logprobs: _containers.RepeatedCompositeFieldContainer[TopLogprobs]
    node_probs: _containers.RepeatedScalarFieldContainer[float]
    near_ties: int
    prefix_hash: int
    run_ns: int
    def __init__(self, round: _Optional[int] = ..., accepted: _Optional[_Iterable[int]] = ..., token_ids: _Optional[_Iterable[int]] = ..., logprobs: _Optional[_Iterable[float]] = ..., top_logprobs: _Optional[_Iterable[_Union[TopLogprobs, _Mapping]]] = ..., node_probs: _Optional[_Iterable[float]] = ..., near_ties: _Optional[int] = ..., prefix_hash: _Optional[int] = ..., run_ns: _Optional[int] = ...) -> None: ...

class TopLogprobs(_message.Message):
    __slots__ = ("token_ids", "logprobs")
    TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    token_ids: _containers.RepeatedScalarFieldContainer[int]
    logprobs: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, token_ids: _Optional[_Iterable[int]] = ..., logprobs: _Optional[_Iterable[float]] = ...) -> None: ...
