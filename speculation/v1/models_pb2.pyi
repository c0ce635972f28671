from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ListVersionsRequest(_message.Message):
    __slots__ = ("policy",)
    POLICY_FIELD_NUMBER: _ClassVar[int]
    policy: str
    def __init__(self, policy: _Optional[str] = ...) -> None: ...

class ListVersionsResponse(_message.Message):
    __slots__ = ("policy", "versions", "active", "before")
    POLICY_FIELD_NUMBER: _ClassVar[int]
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    ACTIVE_FIELD_NUMBER: _ClassVar[int]
    BEFORE_FIELD_NUMBER: _ClassVar[int]
    policy: str
    versions: _containers.RepeatedCompositeFieldContainer[ModelVersion]
    active: int
    before: int
    def __init__(self, policy: _Optional[str] = ..., versions: _Optional[_Iterable[_Union[ModelVersion, _Mapping]]] = ..., active: _Optional[int] = ..., before: _Optional[int] = ...) -> None: ...

class ModelVersion(_message.Message):
    __slots__ = ("version", "created_ms", "origin", "parent", "sha256", "num_bytes", "evaluation")
    class EvaluationEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    VERSION_FIELD_NUMBER: _ClassVar[int]
    CREATED_MS_FIELD_NUMBER: _ClassVar[int]
    ORIGIN_FIELD_NUMBER: _ClassVar[int]
    PARENT_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    NUM_BYTES_FIELD_NUMBER: _ClassVar[int]
    EVALUATION_FIELD_NUMBER: _ClassVar[int]
    version: int
    created_ms: int
    origin: str
    parent: int
    sha256: str
    num_bytes: int
    evaluation: _containers.ScalarMap[str, str]
    def __init__(self, version: _Optional[int] = ..., created_ms: _Optional[int] = ..., origin: _Optional[str] = ..., parent: _Optional[int] = ..., sha256: _Optional[str] = ..., num_bytes: _Optional[int] = ..., evaluation: _Optional[_Mapping[str, str]] = ...) -> None: ...

class CompareVersionsRequest(_message.Message):
    __slots__ = ("policy", "old_version", "new_version")
    POLICY_FIELD_NUMBER: _ClassVar[int]
    OLD_VERSION_FIELD_NUMBER: _ClassVar[int]
    NEW_VERSION_FIELD_NUMBER: _ClassVar[int]
    policy: str
    old_version: int
    new_version: int
    def __init__(self, policy: _Optional[str] = ..., old_version: _Optional[int] = ..., new_version: _Optional[int] = ...) -> None: ...

class CompareVersionsResponse(_message.Message):
    __slots__ = ("tables", "equal_tables")
    TABLES_FIELD_NUMBER: _ClassVar[int]
    EQUAL_TABLES_FIELD_NUMBER: _ClassVar[int]
    tables: _containers.RepeatedCompositeFieldContainer[TableDifference]
    equal_tables: int
    def __init__(self, tables: _Optional[_Iterable[_Union[TableDifference, _Mapping]]] = ..., equal_tables: _Optional[int] = ...) -> None: ...

class TableDifference(_message.Message):
    __slots__ = ("name", "old_numbers", "new_numbers", "changed", "largest_change")
    NAME_FIELD_NUMBER: _ClassVar[int]
    OLD_NUMBERS_FIELD_NUMBER: _ClassVar[int]
    NEW_NUMBERS_FIELD_NUMBER: _ClassVar[int]
    CHANGED_FIELD_NUMBER: _ClassVar[int]
    LARGEST_CHANGE_FIELD_NUMBER: _ClassVar[int]
    name: str
    old_numbers: int
    new_numbers: int
    changed: int
    largest_change: float
    def __init__(self, name: _Optional[str] = ..., old_numbers: _Optional[int] = ..., new_numbers: _Optional[int] = ..., changed: _Optional[int] = ..., largest_change: _Optional[float] = ...) -> None: ...

class PromoteRequest(_message.Message):
    __slots__ = ("policy", "version", "replacing")
    POLICY_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    REPLACING_FIELD_NUMBER: _ClassVar[int]
    policy: str
    version: int
    replacing: int
    def __init__(self, policy: _Optional[str] = ..., version: _Optional[int] = ..., replacing: _Optional[int] = ...) -> None: ...

class PromoteResponse(_message.Message):
    __slots__ = ("active",)
    ACTIVE_FIELD_NUMBER: _ClassVar[int]
    active: int
    def __init__(self, active: _Optional[int] = ...) -> None: ...

class RollbackRequest(_message.Message):
    __slots__ = ("policy", "replacing")
    POLICY_FIELD_NUMBER: _ClassVar[int]
    REPLACING_FIELD_NUMBER: _ClassVar[int]
    policy: str
    replacing: int
    def __init__(self, policy: _Optional[str] = ..., replacing: _Optional[int] = ...) -> None: ...

class RollbackResponse(_message.Message):
    __slots__ = ("active",)
    ACTIVE_FIELD_NUMBER: _ClassVar[int]
    active: int
    def __init__(self, active: _Optional[int] = ...) -> None: ...
