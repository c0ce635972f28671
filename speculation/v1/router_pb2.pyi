from speculation.v1 import common_pb2 as _common_pb2
from speculation.v1 import generation_pb2 as _generation_pb2
from speculation.v1 import log_pb2 as _log_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class RouterMode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ROUTER_MODE_UNSPECIFIED: _ClassVar[RouterMode]
    ROUTER_MODE_OFF: _ClassVar[RouterMode]
    ROUTER_MODE_OBSERVE: _ClassVar[RouterMode]
    ROUTER_MODE_APPLY: _ClassVar[RouterMode]
    ROUTER_MODE_FROZEN: _ClassVar[RouterMode]

class WorkerHealth(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    WORKER_HEALTH_UNSPECIFIED: _ClassVar[WorkerHealth]
    WORKER_HEALTH_SERVING: _ClassVar[WorkerHealth]
    WORKER_HEALTH_NOT_SERVING: _ClassVar[WorkerHealth]
    WORKER_HEALTH_REFUSED: _ClassVar[WorkerHealth]
ROUTER_MODE_UNSPECIFIED: RouterMode
ROUTER_MODE_OFF: RouterMode
ROUTER_MODE_OBSERVE: RouterMode
ROUTER_MODE_APPLY: RouterMode
ROUTER_MODE_FROZEN: RouterMode
WORKER_HEALTH_UNSPECIFIED: WorkerHealth
WORKER_HEALTH_SERVING: WorkerHealth
WORKER_HEALTH_NOT_SERVING: WorkerHealth
WORKER_HEALTH_REFUSED: WorkerHealth

class ShowRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ShowResponse(_message.Message):
    __slots__ = ("policy", "known_policies", "kill_switch", "workers", "arms", "log", "config", "mode", "kill_switch_in_config", "learning", "scoring")
    POLICY_FIELD_NUMBER: _ClassVar[int]
    KNOWN_POLICIES_FIELD_NUMBER: _ClassVar[int]
    KILL_SWITCH_FIELD_NUMBER: _ClassVar[int]
    WORKERS_FIELD_NUMBER: _ClassVar[int]
    ARMS_FIELD_NUMBER: _ClassVar[int]
    LOG_FIELD_NUMBER: _ClassVar[int]
    CONFIG_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    KILL_SWITCH_IN_CONFIG_FIELD_NUMBER: _ClassVar[int]
    LEARNING_FIELD_NUMBER: _ClassVar[int]
    SCORING_FIELD_NUMBER: _ClassVar[int]
    policy: str
    known_policies: _containers.RepeatedScalarFieldContainer[str]
    kill_switch: bool
    workers: _containers.RepeatedCompositeFieldContainer[WorkerState]
    arms: _containers.RepeatedCompositeFieldContainer[ArmCount]
    log: LogState
    config: ConfigState
    mode: RouterMode
    kill_switch_in_config: bool
    learning: LearningState
    scoring: ScoringState
    def __init__(self, policy: _Optional[str] = ..., known_policies: _Optional[_Iterable[str]] = ..., kill_switch: _Optional[bool] = ..., workers: _Optional[_Iterable[_Union[WorkerState, _Mapping]]] = ..., arms: _Optional[_Iterable[_Union[ArmCount, _Mapping]]] = ..., log: _Optional[_Union[LogState, _Mapping]] = ..., config: _Optional[_Union[ConfigState, _Mapping]] = ..., mode: _Optional[_Union[RouterMode, str]] = ..., kill_switch_in_config: _Optional[bool] = ..., learning: _Optional[_Union[LearningState, _Mapping]] = ..., scoring: _Optional[_Union[ScoringState, _Mapping]] = ...) -> None: ...

class ConfigState(_message.Message):
    __slots__ = ("file", "hash", "problem", "waiting_for_restart", "reloads")
    FILE_FIELD_NUMBER: _ClassVar[int]
    HASH_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    WAITING_FOR_RESTART_FIELD_NUMBER: _ClassVar[int]
    RELOADS_FIELD_NUMBER: _ClassVar[int]
    file: str
    hash: str
    problem: str
    waiting_for_restart: _containers.RepeatedScalarFieldContainer[str]
    reloads: int
    def __init__(self, file: _Optional[str] = ..., hash: _Optional[str] = ..., problem: _Optional[str] = ..., waiting_for_restart: _Optional[_Iterable[str]] = ..., reloads: _Optional[int] = ...) -> None: ...

class WorkerState(_message.Message):
    __slots__ = ("address", "worker", "health", "problem", "open_sessions")
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    WORKER_FIELD_NUMBER: _ClassVar[int]
    HEALTH_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    OPEN_SESSIONS_FIELD_NUMBER: _ClassVar[int]
    address: str
    worker: _common_pb2.DescribeResponse
    health: WorkerHealth
    problem: str
    open_sessions: int
    def __init__(self, address: _Optional[str] = ..., worker: _Optional[_Union[_common_pb2.DescribeResponse, _Mapping]] = ..., health: _Optional[_Union[WorkerHealth, str]] = ..., problem: _Optional[str] = ..., open_sessions: _Optional[int] = ...) -> None: ...

class ArmCount(_message.Message):
    __slots__ = ("drafters", "shape", "rounds", "drafted_tokens", "accepted_tokens")
    DRAFTERS_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    ROUNDS_FIELD_NUMBER: _ClassVar[int]
    DRAFTED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    drafters: _containers.RepeatedScalarFieldContainer[str]
    shape: _common_pb2.TreeShape
    rounds: int
    drafted_tokens: int
    accepted_tokens: int
    def __init__(self, drafters: _Optional[_Iterable[str]] = ..., shape: _Optional[_Union[_common_pb2.TreeShape, _Mapping]] = ..., rounds: _Optional[int] = ..., drafted_tokens: _Optional[int] = ..., accepted_tokens: _Optional[int] = ...) -> None: ...

class LogState(_message.Message):
    __slots__ = ("url", "connected", "written", "dropped", "namespace")
    URL_FIELD_NUMBER: _ClassVar[int]
    CONNECTED_FIELD_NUMBER: _ClassVar[int]
    WRITTEN_FIELD_NUMBER: _ClassVar[int]
    DROPPED_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    url: str
    connected: bool
    written: int
    dropped: int
    namespace: str
    def __init__(self, url: _Optional[str] = ..., connected: _Optional[bool] = ..., written: _Optional[int] = ..., dropped: _Optional[int] = ..., namespace: _Optional[str] = ...) -> None: ...

class ScoringState(_message.Message):
    __slots__ = ("share", "scored", "waiting", "dropped")
    SHARE_FIELD_NUMBER: _ClassVar[int]
    SCORED_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    DROPPED_FIELD_NUMBER: _ClassVar[int]
    share: float
    scored: int
    waiting: int
    dropped: int
    def __init__(self, share: _Optional[float] = ..., scored: _Optional[int] = ..., waiting: _Optional[int] = ..., dropped: _Optional[int] = ...) -> None: ...

class LearningState(_message.Message):
    __slots__ = ("policy", "leads", "follows", "problem", "base_version", "folded", "missed", "unreadable", "written_ms")
    POLICY_FIELD_NUMBER: _ClassVar[int]
    LEADS_FIELD_NUMBER: _ClassVar[int]
    FOLLOWS_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    BASE_VERSION_FIELD_NUMBER: _ClassVar[int]
    FOLDED_FIELD_NUMBER: _ClassVar[int]
    MISSED_FIELD_NUMBER: _ClassVar[int]
    UNREADABLE_FIELD_NUMBER: _ClassVar[int]
    WRITTEN_MS_FIELD_NUMBER: _ClassVar[int]
    policy: str
    leads: bool
    follows: bool
    problem: str
    base_version: int
    folded: int
    missed: int
    unreadable: int
    written_ms: int
    def __init__(self, policy: _Optional[str] = ..., leads: _Optional[bool] = ..., follows: _Optional[bool] = ..., problem: _Optional[str] = ..., base_version: _Optional[int] = ..., folded: _Optional[int] = ..., missed: _Optional[int] = ..., unreadable: _Optional[int] = ..., written_ms: _Optional[int] = ...) -> None: ...

class ExplainRequest(_message.Message):
    __slots__ = ("request_id", "respect_privacy")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    RESPECT_PRIVACY_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    respect_privacy: bool
    def __init__(self, request_id: _Optional[str] = ..., respect_privacy: _Optional[bool] = ...) -> None: ...

class ExplainResponse(_message.Message):
    __slots__ = ("rounds", "texts_withheld", "request")
    ROUNDS_FIELD_NUMBER: _ClassVar[int]
    TEXTS_WITHHELD_FIELD_NUMBER: _ClassVar[int]
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    rounds: _containers.RepeatedCompositeFieldContainer[_generation_pb2.RoundReport]
    texts_withheld: bool
    request: RecentRequest
    def __init__(self, rounds: _Optional[_Iterable[_Union[_generation_pb2.RoundReport, _Mapping]]] = ..., texts_withheld: _Optional[bool] = ..., request: _Optional[_Union[RecentRequest, _Mapping]] = ...) -> None: ...

class SetPolicyRequest(_message.Message):
    __slots__ = ("policy",)
    POLICY_FIELD_NUMBER: _ClassVar[int]
    policy: str
    def __init__(self, policy: _Optional[str] = ...) -> None: ...

class SetPolicyResponse(_message.Message):
    __slots__ = ("previous_policy",)
    PREVIOUS_POLICY_FIELD_NUMBER: _ClassVar[int]
    previous_policy: str
    def __init__(self, previous_policy: _Optional[str] = ...) -> None: ...

class SetKillSwitchRequest(_message.Message):
    __slots__ = ("engaged",)
    ENGAGED_FIELD_NUMBER: _ClassVar[int]
    engaged: bool
    def __init__(self, engaged: _Optional[bool] = ...) -> None: ...

class SetKillSwitchResponse(_message.Message):
    __slots__ = ("was_engaged", "engaged")
    WAS_ENGAGED_FIELD_NUMBER: _ClassVar[int]
    ENGAGED_FIELD_NUMBER: _ClassVar[int]
    was_engaged: bool
    engaged: bool
    def __init__(self, was_engaged: _Optional[bool] = ..., engaged: _Optional[bool] = ...) -> None: ...

class ReloadConfigRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ReloadConfigResponse(_message.Message):
    __slots__ = ("config", "changed")
    CONFIG_FIELD_NUMBER: _ClassVar[int]
    CHANGED_FIELD_NUMBER: _ClassVar[int]
    config: ConfigState
    changed: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, config: _Optional[_Union[ConfigState, _Mapping]] = ..., changed: _Optional[_Iterable[str]] = ...) -> None: ...

class ListRequestsRequest(_message.Message):
    __slots__ = ("limit",)
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    limit: int
    def __init__(self, limit: _Optional[int] = ...) -> None: ...

class ListRequestsResponse(_message.Message):
    __slots__ = ("requests",)
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    requests: _containers.RepeatedCompositeFieldContainer[RecentRequest]
    def __init__(self, requests: _Optional[_Iterable[_Union[RecentRequest, _Mapping]]] = ...) -> None: ...

class RecentRequest(_message.Message):
    __slots__ = ("request_id", "started_ms", "task", "tenant", "policy", "outcome", "prompt_tokens", "completion_tokens", "rounds", "num_draft_tokens", "num_accepted_draft_tokens", "rounds_ns", "drafters")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    STARTED_MS_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    COMPLETION_TOKENS_FIELD_NUMBER: _ClassVar[int]
    ROUNDS_FIELD_NUMBER: _ClassVar[int]
    NUM_DRAFT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    NUM_ACCEPTED_DRAFT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    ROUNDS_NS_FIELD_NUMBER: _ClassVar[int]
    DRAFTERS_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    started_ms: int
    task: str
    tenant: str
    policy: str
    outcome: _log_pb2.OutcomeStatus
    prompt_tokens: int
    completion_tokens: int
    rounds: int
    num_draft_tokens: int
    num_accepted_draft_tokens: int
    rounds_ns: int
    drafters: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, request_id: _Optional[str] = ..., started_ms: _Optional[int] = ..., task: _Optional[str] = ..., tenant: _Optional[str] = ..., policy: _Optional[str] = ..., outcome: _Optional[_Union[_log_pb2.OutcomeStatus, str]] = ..., prompt_tokens: _Optional[int] = ..., completion_tokens: _Optional[int] = ..., rounds: _Optional[int] = ..., num_draft_tokens: _Optional[int] = ..., num_accepted_draft_tokens: _Optional[int] = ..., rounds_ns: _Optional[int] = ..., drafters: _Optional[_Iterable[str]] = ...) -> None: ...

class ShowTrafficRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ShowTrafficResponse(_message.Message):
    __slots__ = ("now_ms", "since_ms", "arms", "ended", "refused", "in_flight", "waiting", "capacity", "first_rounds", "first_rounds_s")
    NOW_MS_FIELD_NUMBER: _ClassVar[int]
    SINCE_MS_FIELD_NUMBER: _ClassVar[int]
    ARMS_FIELD_NUMBER: _ClassVar[int]
    ENDED_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    IN_FLIGHT_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    CAPACITY_FIELD_NUMBER: _ClassVar[int]
    FIRST_ROUNDS_FIELD_NUMBER: _ClassVar[int]
    FIRST_ROUNDS_S_FIELD_NUMBER: _ClassVar[int]
    now_ms: int
    since_ms: int
    arms: _containers.RepeatedCompositeFieldContainer[ArmTraffic]
    ended: _containers.RepeatedCompositeFieldContainer[EndedRequests]
    refused: int
    in_flight: int
    waiting: int
    capacity: int
    first_rounds: int
    first_rounds_s: float
    def __init__(self, now_ms: _Optional[int] = ..., since_ms: _Optional[int] = ..., arms: _Optional[_Iterable[_Union[ArmTraffic, _Mapping]]] = ..., ended: _Optional[_Iterable[_Union[EndedRequests, _Mapping]]] = ..., refused: _Optional[int] = ..., in_flight: _Optional[int] = ..., waiting: _Optional[int] = ..., capacity: _Optional[int] = ..., first_rounds: _Optional[int] = ..., first_rounds_s: _Optional[float] = ...) -> None: ...

class ArmTraffic(_message.Message):
    __slots__ = ("drafters", "shape", "task", "policy", "rounds", "drafted_tokens", "accepted_tokens", "emitted_tokens", "rounds_s")
    DRAFTERS_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    ROUNDS_FIELD_NUMBER: _ClassVar[int]
    DRAFTED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    EMITTED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    ROUNDS_S_FIELD_NUMBER: _ClassVar[int]
    drafters: str
    shape: str
    task: str
    policy: str
    rounds: int
    drafted_tokens: int
    accepted_tokens: int
    emitted_tokens: int
    rounds_s: float
    def __init__(self, drafters: _Optional[str] = ..., shape: _Optional[str] = ..., task: _Optional[str] = ..., policy: _Optional[str] = ..., rounds: _Optional[int] = ..., drafted_tokens: _Optional[int] = ..., accepted_tokens: _Optional[int] = ..., emitted_tokens: _Optional[int] = ..., rounds_s: _Optional[float] = ...) -> None: ...

class EndedRequests(_message.Message):
    __slots__ = ("outcome", "task", "policy", "requests")
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    outcome: str
    task: str
    policy: str
    requests: int
    def __init__(self, outcome: _Optional[str] = ..., task: _Optional[str] = ..., policy: _Optional[str] = ..., requests: _Optional[int] = ...) -> None: ...

class ShowLearningCurveRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ShowLearningCurveResponse(_message.Message):
    __slots__ = ("points",)
    POINTS_FIELD_NUMBER: _ClassVar[int]
    points: _containers.RepeatedCompositeFieldContainer[CurvePoint]
    def __init__(self, points: _Optional[_Iterable[_Union[CurvePoint, _Mapping]]] = ...) -> None: ...

class CurvePoint(_message.Message):
    __slots__ = ("requests", "until_ms", "drafting", "plain", "learnt_records", "base_version")
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    UNTIL_MS_FIELD_NUMBER: _ClassVar[int]
    DRAFTING_FIELD_NUMBER: _ClassVar[int]
    PLAIN_FIELD_NUMBER: _ClassVar[int]
    LEARNT_RECORDS_FIELD_NUMBER: _ClassVar[int]
    BASE_VERSION_FIELD_NUMBER: _ClassVar[int]
    requests: int
    until_ms: int
    drafting: RoundsSum
    plain: RoundsSum
    learnt_records: int
    base_version: int
    def __init__(self, requests: _Optional[int] = ..., until_ms: _Optional[int] = ..., drafting: _Optional[_Union[RoundsSum, _Mapping]] = ..., plain: _Optional[_Union[RoundsSum, _Mapping]] = ..., learnt_records: _Optional[int] = ..., base_version: _Optional[int] = ...) -> None: ...

class RoundsSum(_message.Message):
    __slots__ = ("rounds", "emitted_tokens", "rounds_s")
    ROUNDS_FIELD_NUMBER: _ClassVar[int]
    EMITTED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    ROUNDS_S_FIELD_NUMBER: _ClassVar[int]
    rounds: int
    emitted_tokens: int
    rounds_s: float
    def __init__(self, rounds: _Optional[int] = ..., emitted_tokens: _Optional[int] = ..., rounds_s: _Optional[float] = ...) -> None: ...

class ShowConfigRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ShowConfigResponse(_message.Message):
    __slots__ = ("config", "in_force", "waiting", "history")
    CONFIG_FIELD_NUMBER: _ClassVar[int]
    IN_FORCE_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    HISTORY_FIELD_NUMBER: _ClassVar[int]
    config: ConfigState
    in_force: str
    waiting: _containers.RepeatedCompositeFieldContainer[ConfigChange]
    history: _containers.RepeatedCompositeFieldContainer[ConfigReplacement]
    def __init__(self, config: _Optional[_Union[ConfigState, _Mapping]] = ..., in_force: _Optional[str] = ..., waiting: _Optional[_Iterable[_Union[ConfigChange, _Mapping]]] = ..., history: _Optional[_Iterable[_Union[ConfigReplacement, _Mapping]]] = ...) -> None: ...

class ConfigReplacement(_message.Message):
    __slots__ = ("ts_ms", "old_hash", "new_hash", "changes")
    TS_MS_FIELD_NUMBER: _ClassVar[int]
    OLD_HASH_FIELD_NUMBER: _ClassVar[int]
    NEW_HASH_FIELD_NUMBER: _ClassVar[int]
    CHANGES_FIELD_NUMBER: _ClassVar[int]
    ts_ms: int
    old_hash: str
    new_hash: str
    changes: _containers.RepeatedCompositeFieldContainer[ConfigChange]
    def __init__(self, ts_ms: _Optional[int] = ..., old_hash: _Optional[str] = ..., new_hash: _Optional[str] = ..., changes: _Optional[_Iterable[_Union[ConfigChange, _Mapping]]] = ...) -> None: ...

class ConfigChange(_message.Message):
    __slots__ = ("field", "old_value", "new_value")
    FIELD_FIELD_NUMBER: _ClassVar[int]
    OLD_VALUE_FIELD_NUMBER: _ClassVar[int]
    NEW_VALUE_FIELD_NUMBER: _ClassVar[int]
    field: str
    old_value: str
    new_value: str
    def __init__(self, field: _Optional[str] = ..., old_value: _Optional[str] = ..., new_value: _Optional[str] = ...) -> None: ...

class ListActsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListActsResponse(_message.Message):
    __slots__ = ("acts",)
    ACTS_FIELD_NUMBER: _ClassVar[int]
    acts: _containers.RepeatedCompositeFieldContainer[OperatorAct]
    def __init__(self, acts: _Optional[_Iterable[_Union[OperatorAct, _Mapping]]] = ...) -> None: ...

class OperatorAct(_message.Message):
    __slots__ = ("ts_ms", "act", "detail", "token", "peer")
    TS_MS_FIELD_NUMBER: _ClassVar[int]
    ACT_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    PEER_FIELD_NUMBER: _ClassVar[int]
    ts_ms: int
    act: str
    detail: str
    token: str
    peer: str
    def __init__(self, ts_ms: _Optional[int] = ..., act: _Optional[str] = ..., detail: _Optional[str] = ..., token: _Optional[str] = ..., peer: _Optional[str] = ...) -> None: ...
