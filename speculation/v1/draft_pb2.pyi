from speculation.v1 import common_pb2 as _common_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class DraftRequest(_message.Message):
    __slots__ = ("open", "extend", "propose", "score", "foresee", "trace")
    OPEN_FIELD_NUMBER: _ClassVar[int]
    EXTEND_FIELD_NUMBER: _ClassVar[int]
    PROPOSE_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    FORESEE_FIELD_NUMBER: _ClassVar[int]
    TRACE_FIELD_NUMBER: _ClassVar[int]
    open: OpenDraft
    extend: ExtendDraft
    propose: Propose
    score: Score
    foresee: Foresee
    trace: _common_pb2.TraceContext
    def __init__(self, open: _Optional[_Union[OpenDraft, _Mapping]] = ..., extend: _Optional[_Union[ExtendDraft, _Mapping]] = ..., propose: _Optional[_Union[Propose, _Mapping]] = ..., score: _Optional[_Union[Score, _Mapping]] = ..., foresee: _Optional[_Union[Foresee, _Mapping]] = ..., trace: _Optional[_Union[_common_pb2.TraceContext, _Mapping]] = ...) -> None: ...

class OpenDraft(_message.Message):
    __slots__ = ("session_id", "sampling", "prompt_length", "uncoupled", "background", "cache_salt")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    PROMPT_LENGTH_FIELD_NUMBER: _ClassVar[int]
    UNCOUPLED_FIELD_NUMBER: _ClassVar[int]
    BACKGROUND_FIELD_NUMBER: _ClassVar[int]
    CACHE_SALT_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    sampling: _common_pb2.SamplingParameters
    prompt_length: int
    uncoupled: bool
    background: bool
    cache_salt: str
    def __init__(self, session_id: _Optional[str] = ..., sampling: _Optional[_Union[_common_pb2.SamplingParameters, _Mapping]] = ..., prompt_length: _Optional[int] = ..., uncoupled: _Optional[bool] = ..., background: _Optional[bool] = ..., cache_salt: _Optional[str] = ...) -> None: ...

class ExtendDraft(_message.Message):
    __slots__ = ("context",)
    CONTEXT_FIELD_NUMBER: _ClassVar[int]
    context: _common_pb2.Context
    def __init__(self, context: _Optional[_Union[_common_pb2.Context, _Mapping]] = ...) -> None: ...

class Propose(_message.Message):
    __slots__ = ("round", "context", "shape", "calibration")
    ROUND_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    CALIBRATION_FIELD_NUMBER: _ClassVar[int]
    round: int
    context: _common_pb2.Context
    shape: _common_pb2.TreeShape
    calibration: _common_pb2.Calibration
    def __init__(self, round: _Optional[int] = ..., context: _Optional[_Union[_common_pb2.Context, _Mapping]] = ..., shape: _Optional[_Union[_common_pb2.TreeShape, _Mapping]] = ..., calibration: _Optional[_Union[_common_pb2.Calibration, _Mapping]] = ...) -> None: ...

class Foresee(_message.Message):
    __slots__ = ("round", "context", "tree", "shape", "calibration", "outcomes")
    ROUND_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_FIELD_NUMBER: _ClassVar[int]
    TREE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    CALIBRATION_FIELD_NUMBER: _ClassVar[int]
    OUTCOMES_FIELD_NUMBER: _ClassVar[int]
    round: int
    context: _common_pb2.Context
    tree: _common_pb2.TokenTree
    shape: _common_pb2.TreeShape
    calibration: _common_pb2.Calibration
    outcomes: int
    def __init__(self, round: _Optional[int] = ..., context: _Optional[_Union[_common_pb2.Context, _Mapping]] = ..., tree: _Optional[_Union[_common_pb2.TokenTree, _Mapping]] = ..., shape: _Optional[_Union[_common_pb2.TreeShape, _Mapping]] = ..., calibration: _Optional[_Union[_common_pb2.Calibration, _Mapping]] = ..., outcomes: _Optional[int] = ...) -> None: ...

class Score(_message.Message):
    __slots__ = ("context", "token_ids")
    CONTEXT_FIELD_NUMBER: _ClassVar[int]
    TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    context: _common_pb2.Context
    token_ids: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, context: _Optional[_Union[_common_pb2.Context, _Mapping]] = ..., token_ids: _Optional[_Iterable[int]] = ...) -> None: ...

class DraftResponse(_message.Message):
    __slots__ = ("status", "held_length", "opened", "extended", "proposal", "scores", "ahead", "timings")
    STATUS_FIELD_NUMBER: _ClassVar[int]
    HELD_LENGTH_FIELD_NUMBER: _ClassVar[int]
    OPENED_FIELD_NUMBER: _ClassVar[int]
    EXTENDED_FIELD_NUMBER: _ClassVar[int]
    PROPOSAL_FIELD_NUMBER: _ClassVar[int]
    SCORES_FIELD_NUMBER: _ClassVar[int]
    AHEAD_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    status: _common_pb2.SessionStatus
    held_length: int
    opened: DraftOpened
    extended: DraftExtended
    proposal: Proposal
    scores: Scores
    ahead: Ahead
    timings: _common_pb2.WorkerTimings
    def __init__(self, status: _Optional[_Union[_common_pb2.SessionStatus, str]] = ..., held_length: _Optional[int] = ..., opened: _Optional[_Union[DraftOpened, _Mapping]] = ..., extended: _Optional[_Union[DraftExtended, _Mapping]] = ..., proposal: _Optional[_Union[Proposal, _Mapping]] = ..., scores: _Optional[_Union[Scores, _Mapping]] = ..., ahead: _Optional[_Union[Ahead, _Mapping]] = ..., timings: _Optional[_Union[_common_pb2.WorkerTimings, _Mapping]] = ...) -> None: ...

class DraftOpened(_message.Message):
    __slots__ = ("name", "model_revision")
    NAME_FIELD_NUMBER: _ClassVar[int]
    MODEL_REVISION_FIELD_NUMBER: _ClassVar[int]
    name: str
    model_revision: str
    def __init__(self, name: _Optional[str] = ..., model_revision: _Optional[str] = ...) -> None: ...

class DraftExtended(_message.Message):
    __slots__ = ("held_length", "prompt_surprisal")
    HELD_LENGTH_FIELD_NUMBER: _ClassVar[int]
    PROMPT_SURPRISAL_FIELD_NUMBER: _ClassVar[int]
    held_length: int
    prompt_surprisal: float
    def __init__(self, held_length: _Optional[int] = ..., prompt_surprisal: _Optional[float] = ...) -> None: ...

class Proposal(_message.Message):
    __slots__ = ("round", "tree", "prompt_surprisal")
    ROUND_FIELD_NUMBER: _ClassVar[int]
    TREE_FIELD_NUMBER: _ClassVar[int]
    PROMPT_SURPRISAL_FIELD_NUMBER: _ClassVar[int]
    round: int
    tree: _common_pb2.TokenTree
    prompt_surprisal: float
    def __init__(self, round: _Optional[int] = ..., tree: _Optional[_Union[_common_pb2.TokenTree, _Mapping]] = ..., prompt_surprisal: _Optional[float] = ...) -> None: ...

class Ahead(_message.Message):
    __slots__ = ("round", "outcomes", "rest")
    ROUND_FIELD_NUMBER: _ClassVar[int]
    OUTCOMES_FIELD_NUMBER: _ClassVar[int]
    REST_FIELD_NUMBER: _ClassVar[int]
    round: int
    outcomes: _containers.RepeatedCompositeFieldContainer[Foreseen]
    rest: int
    def __init__(self, round: _Optional[int] = ..., outcomes: _Optional[_Iterable[_Union[Foreseen, _Mapping]]] = ..., rest: _Optional[int] = ...) -> None: ...

class Foreseen(_message.Message):
    __slots__ = ("token_ids", "tree")
    TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    TREE_FIELD_NUMBER: _ClassVar[int]
    token_ids: _containers.RepeatedScalarFieldContainer[int]
    tree: _common_pb2.TokenTree
    def __init__(self, token_ids: _Optional[_Iterable[int]] = ..., tree: _Optional[_Union[_common_pb2.TokenTree, _Mapping]] = ...) -> None: ...

class Scores(_message.Message):
    __slots__ = ("ranks", "confidences")
    RANKS_FIELD_NUMBER: _ClassVar[int]
    CONFIDENCES_FIELD_NUMBER: _ClassVar[int]
    ranks: _containers.RepeatedScalarFieldContainer[int]
    confidences: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, ranks: _Optional[_Iterable[int]] = ..., confidences: _Optional[_Iterable[float]] = ...) -> None: ...
