import datetime

from buf.validate import validate_pb2 as _validate_pb2
from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class JobState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    JOB_STATE_UNSPECIFIED: _ClassVar[JobState]
    JOB_STATE_NEW: _ClassVar[JobState]
    JOB_STATE_QUEUED: _ClassVar[JobState]
    JOB_STATE_HELD: _ClassVar[JobState]
    JOB_STATE_ACTIVE: _ClassVar[JobState]
    JOB_STATE_COMPLETED: _ClassVar[JobState]
    JOB_STATE_FAILED: _ClassVar[JobState]
    JOB_STATE_CANCELED: _ClassVar[JobState]

class JobReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    JOB_REASON_UNSPECIFIED: _ClassVar[JobReason]
    JOB_REASON_RESOURCES: _ClassVar[JobReason]
    JOB_REASON_PRIORITY: _ClassVar[JobReason]
    JOB_REASON_DEPENDENCY: _ClassVar[JobReason]
    JOB_REASON_ARRAY_LIMIT: _ClassVar[JobReason]
    JOB_REASON_HELD_BY_OWNER: _ClassVar[JobReason]
    JOB_REASON_HELD_BY_OPERATOR: _ClassVar[JobReason]
    JOB_REASON_NONZERO_EXIT: _ClassVar[JobReason]
    JOB_REASON_SIGNALED: _ClassVar[JobReason]
    JOB_REASON_TIME_LIMIT: _ClassVar[JobReason]
    JOB_REASON_OUT_OF_MEMORY: _ClassVar[JobReason]
    JOB_REASON_LAUNCH_FAILED: _ClassVar[JobReason]
    JOB_REASON_REFUSED: _ClassVar[JobReason]
    JOB_REASON_LOST: _ClassVar[JobReason]
    JOB_REASON_CANCELED_BY_OWNER: _ClassVar[JobReason]
    JOB_REASON_CANCELED_BY_OPERATOR: _ClassVar[JobReason]
    JOB_REASON_DEPENDENCY_NEVER_SATISFIED: _ClassVar[JobReason]
    JOB_REASON_ARRAY_ELEMENTS: _ClassVar[JobReason]
    JOB_REASON_BEGIN_TIME: _ClassVar[JobReason]
    JOB_REASON_RESERVATION: _ClassVar[JobReason]
    JOB_REASON_LICENSES: _ClassVar[JobReason]
    JOB_REASON_NODES_UNAVAILABLE: _ClassVar[JobReason]
    JOB_REASON_QUEUE_UNAVAILABLE: _ClassVar[JobReason]
    JOB_REASON_LIMIT: _ClassVar[JobReason]
    JOB_REASON_ALLOCATION_EXHAUSTED: _ClassVar[JobReason]
    JOB_REASON_NEVER_STARTS: _ClassVar[JobReason]
    JOB_REASON_NODE_FAILED: _ClassVar[JobReason]
    JOB_REASON_PREEMPTED: _ClassVar[JobReason]
    JOB_REASON_DEADLINE: _ClassVar[JobReason]
    JOB_REASON_SUSPENDED: _ClassVar[JobReason]
    JOB_REASON_REQUEUED: _ClassVar[JobReason]
    JOB_REASON_OTHER: _ClassVar[JobReason]
JOB_STATE_UNSPECIFIED: JobState
JOB_STATE_NEW: JobState
JOB_STATE_QUEUED: JobState
JOB_STATE_HELD: JobState
JOB_STATE_ACTIVE: JobState
JOB_STATE_COMPLETED: JobState
JOB_STATE_FAILED: JobState
JOB_STATE_CANCELED: JobState
JOB_REASON_UNSPECIFIED: JobReason
JOB_REASON_RESOURCES: JobReason
JOB_REASON_PRIORITY: JobReason
JOB_REASON_DEPENDENCY: JobReason
JOB_REASON_ARRAY_LIMIT: JobReason
JOB_REASON_HELD_BY_OWNER: JobReason
JOB_REASON_HELD_BY_OPERATOR: JobReason
JOB_REASON_NONZERO_EXIT: JobReason
JOB_REASON_SIGNALED: JobReason
JOB_REASON_TIME_LIMIT: JobReason
JOB_REASON_OUT_OF_MEMORY: JobReason
JOB_REASON_LAUNCH_FAILED: JobReason
JOB_REASON_REFUSED: JobReason
JOB_REASON_LOST: JobReason
JOB_REASON_CANCELED_BY_OWNER: JobReason
JOB_REASON_CANCELED_BY_OPERATOR: JobReason
JOB_REASON_DEPENDENCY_NEVER_SATISFIED: JobReason
JOB_REASON_ARRAY_ELEMENTS: JobReason
JOB_REASON_BEGIN_TIME: JobReason
JOB_REASON_RESERVATION: JobReason
JOB_REASON_LICENSES: JobReason
JOB_REASON_NODES_UNAVAILABLE: JobReason
JOB_REASON_QUEUE_UNAVAILABLE: JobReason
JOB_REASON_LIMIT: JobReason
JOB_REASON_ALLOCATION_EXHAUSTED: JobReason
JOB_REASON_NEVER_STARTS: JobReason
JOB_REASON_NODE_FAILED: JobReason
JOB_REASON_PREEMPTED: JobReason
JOB_REASON_DEADLINE: JobReason
JOB_REASON_SUSPENDED: JobReason
JOB_REASON_REQUEUED: JobReason
JOB_REASON_OTHER: JobReason

class JobSpec(_message.Message):
    __slots__ = ("name", "executable", "arguments", "script", "script_path", "directory", "inherit_environment", "environment", "stdin_path", "stdout_path", "stderr_path", "resources", "attributes", "pre_launch", "post_launch", "launcher", "container", "array", "dependencies", "labels", "hold")
    class EnvironmentEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    NAME_FIELD_NUMBER: _ClassVar[int]
    EXECUTABLE_FIELD_NUMBER: _ClassVar[int]
    ARGUMENTS_FIELD_NUMBER: _ClassVar[int]
    SCRIPT_FIELD_NUMBER: _ClassVar[int]
    SCRIPT_PATH_FIELD_NUMBER: _ClassVar[int]
    DIRECTORY_FIELD_NUMBER: _ClassVar[int]
    INHERIT_ENVIRONMENT_FIELD_NUMBER: _ClassVar[int]
    ENVIRONMENT_FIELD_NUMBER: _ClassVar[int]
    STDIN_PATH_FIELD_NUMBER: _ClassVar[int]
    STDOUT_PATH_FIELD_NUMBER: _ClassVar[int]
    STDERR_PATH_FIELD_NUMBER: _ClassVar[int]
    RESOURCES_FIELD_NUMBER: _ClassVar[int]
    ATTRIBUTES_FIELD_NUMBER: _ClassVar[int]
    PRE_LAUNCH_FIELD_NUMBER: _ClassVar[int]
    POST_LAUNCH_FIELD_NUMBER: _ClassVar[int]
    LAUNCHER_FIELD_NUMBER: _ClassVar[int]
    CONTAINER_FIELD_NUMBER: _ClassVar[int]
    ARRAY_FIELD_NUMBER: _ClassVar[int]
    DEPENDENCIES_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    HOLD_FIELD_NUMBER: _ClassVar[int]
    name: str
    executable: str
    arguments: _containers.RepeatedScalarFieldContainer[str]
    script: str
    script_path: str
    directory: str
    inherit_environment: bool
    environment: _containers.ScalarMap[str, str]
    stdin_path: str
    stdout_path: str
    stderr_path: str
    resources: ResourceSpec
    attributes: JobAttributes
    pre_launch: str
    post_launch: str
    launcher: str
    container: Container
    array: JobArray
    dependencies: _containers.RepeatedCompositeFieldContainer[JobDependency]
    labels: _containers.ScalarMap[str, str]
    hold: bool
    def __init__(self, name: _Optional[str] = ..., executable: _Optional[str] = ..., arguments: _Optional[_Iterable[str]] = ..., script: _Optional[str] = ..., script_path: _Optional[str] = ..., directory: _Optional[str] = ..., inherit_environment: bool = ..., environment: _Optional[_Mapping[str, str]] = ..., stdin_path: _Optional[str] = ..., stdout_path: _Optional[str] = ..., stderr_path: _Optional[str] = ..., resources: _Optional[_Union[ResourceSpec, _Mapping]] = ..., attributes: _Optional[_Union[JobAttributes, _Mapping]] = ..., pre_launch: _Optional[str] = ..., post_launch: _Optional[str] = ..., launcher: _Optional[str] = ..., container: _Optional[_Union[Container, _Mapping]] = ..., array: _Optional[_Union[JobArray, _Mapping]] = ..., dependencies: _Optional[_Iterable[_Union[JobDependency, _Mapping]]] = ..., labels: _Optional[_Mapping[str, str]] = ..., hold: bool = ...) -> None: ...

class ResourceSpec(_message.Message):
    __slots__ = ("node_count", "process_count", "processes_per_node", "cpu_cores_per_process", "gpu_cores_per_process", "exclusive_node_use", "memory")
    NODE_COUNT_FIELD_NUMBER: _ClassVar[int]
    PROCESS_COUNT_FIELD_NUMBER: _ClassVar[int]
    PROCESSES_PER_NODE_FIELD_NUMBER: _ClassVar[int]
    CPU_CORES_PER_PROCESS_FIELD_NUMBER: _ClassVar[int]
    GPU_CORES_PER_PROCESS_FIELD_NUMBER: _ClassVar[int]
    EXCLUSIVE_NODE_USE_FIELD_NUMBER: _ClassVar[int]
    MEMORY_FIELD_NUMBER: _ClassVar[int]
    node_count: int
    process_count: int
    processes_per_node: int
    cpu_cores_per_process: int
    gpu_cores_per_process: int
    exclusive_node_use: bool
    memory: int
    def __init__(self, node_count: _Optional[int] = ..., process_count: _Optional[int] = ..., processes_per_node: _Optional[int] = ..., cpu_cores_per_process: _Optional[int] = ..., gpu_cores_per_process: _Optional[int] = ..., exclusive_node_use: bool = ..., memory: _Optional[int] = ...) -> None: ...

class JobAttributes(_message.Message):
    __slots__ = ("duration", "queue_name", "account", "reservation_id", "custom_attributes")
    class CustomAttributesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    DURATION_FIELD_NUMBER: _ClassVar[int]
    QUEUE_NAME_FIELD_NUMBER: _ClassVar[int]
    ACCOUNT_FIELD_NUMBER: _ClassVar[int]
    RESERVATION_ID_FIELD_NUMBER: _ClassVar[int]
    CUSTOM_ATTRIBUTES_FIELD_NUMBER: _ClassVar[int]
    duration: _duration_pb2.Duration
    queue_name: str
    account: str
    reservation_id: str
    custom_attributes: _containers.ScalarMap[str, str]
    def __init__(self, duration: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., queue_name: _Optional[str] = ..., account: _Optional[str] = ..., reservation_id: _Optional[str] = ..., custom_attributes: _Optional[_Mapping[str, str]] = ...) -> None: ...

class Container(_message.Message):
    __slots__ = ("image", "volume_mounts")
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    VOLUME_MOUNTS_FIELD_NUMBER: _ClassVar[int]
    image: str
    volume_mounts: _containers.RepeatedCompositeFieldContainer[VolumeMount]
    def __init__(self, image: _Optional[str] = ..., volume_mounts: _Optional[_Iterable[_Union[VolumeMount, _Mapping]]] = ...) -> None: ...

class VolumeMount(_message.Message):
    __slots__ = ("source", "target", "read_only")
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    READ_ONLY_FIELD_NUMBER: _ClassVar[int]
    source: str
    target: str
    read_only: bool
    def __init__(self, source: _Optional[str] = ..., target: _Optional[str] = ..., read_only: bool = ...) -> None: ...

class JobArray(_message.Message):
    __slots__ = ("first", "last", "step", "max_active")
    FIRST_FIELD_NUMBER: _ClassVar[int]
    LAST_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    MAX_ACTIVE_FIELD_NUMBER: _ClassVar[int]
    first: int
    last: int
    step: int
    max_active: int
    def __init__(self, first: _Optional[int] = ..., last: _Optional[int] = ..., step: _Optional[int] = ..., max_active: _Optional[int] = ...) -> None: ...

class JobDependency(_message.Message):
    __slots__ = ("job_id", "condition")
    class Condition(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        CONDITION_UNSPECIFIED: _ClassVar[JobDependency.Condition]
        CONDITION_AFTER: _ClassVar[JobDependency.Condition]
        CONDITION_AFTER_OK: _ClassVar[JobDependency.Condition]
        CONDITION_AFTER_NOT_OK: _ClassVar[JobDependency.Condition]
        CONDITION_AFTER_ANY: _ClassVar[JobDependency.Condition]
    CONDITION_UNSPECIFIED: JobDependency.Condition
    CONDITION_AFTER: JobDependency.Condition
    CONDITION_AFTER_OK: JobDependency.Condition
    CONDITION_AFTER_NOT_OK: JobDependency.Condition
    CONDITION_AFTER_ANY: JobDependency.Condition
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    CONDITION_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    condition: JobDependency.Condition
    def __init__(self, job_id: _Optional[str] = ..., condition: _Optional[_Union[JobDependency.Condition, str]] = ...) -> None: ...

class Job(_message.Message):
    __slots__ = ("id", "resource_id", "owner", "spec", "status", "transitions", "usage", "native_id", "create_time", "update_time", "start_time", "end_time", "array_job_id", "array_index", "array_counts", "cancel_requested", "etag", "revision", "observe_time", "external", "nodes")
    ID_FIELD_NUMBER: _ClassVar[int]
    RESOURCE_ID_FIELD_NUMBER: _ClassVar[int]
    OWNER_FIELD_NUMBER: _ClassVar[int]
    SPEC_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    TRANSITIONS_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    NATIVE_ID_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    UPDATE_TIME_FIELD_NUMBER: _ClassVar[int]
    START_TIME_FIELD_NUMBER: _ClassVar[int]
    END_TIME_FIELD_NUMBER: _ClassVar[int]
    ARRAY_JOB_ID_FIELD_NUMBER: _ClassVar[int]
    ARRAY_INDEX_FIELD_NUMBER: _ClassVar[int]
    ARRAY_COUNTS_FIELD_NUMBER: _ClassVar[int]
    CANCEL_REQUESTED_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    OBSERVE_TIME_FIELD_NUMBER: _ClassVar[int]
    EXTERNAL_FIELD_NUMBER: _ClassVar[int]
    NODES_FIELD_NUMBER: _ClassVar[int]
    id: str
    resource_id: str
    owner: str
    spec: JobSpec
    status: JobStatus
    transitions: _containers.RepeatedCompositeFieldContainer[JobTransition]
    usage: JobUsage
    native_id: str
    create_time: _timestamp_pb2.Timestamp
    update_time: _timestamp_pb2.Timestamp
    start_time: _timestamp_pb2.Timestamp
    end_time: _timestamp_pb2.Timestamp
    array_job_id: str
    array_index: int
    array_counts: ArrayCounts
    cancel_requested: bool
    etag: str
    revision: int
    observe_time: _timestamp_pb2.Timestamp
    external: bool
    nodes: str
    def __init__(self, id: _Optional[str] = ..., resource_id: _Optional[str] = ..., owner: _Optional[str] = ..., spec: _Optional[_Union[JobSpec, _Mapping]] = ..., status: _Optional[_Union[JobStatus, _Mapping]] = ..., transitions: _Optional[_Iterable[_Union[JobTransition, _Mapping]]] = ..., usage: _Optional[_Union[JobUsage, _Mapping]] = ..., native_id: _Optional[str] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., update_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., start_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., end_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., array_job_id: _Optional[str] = ..., array_index: _Optional[int] = ..., array_counts: _Optional[_Union[ArrayCounts, _Mapping]] = ..., cancel_requested: bool = ..., etag: _Optional[str] = ..., revision: _Optional[int] = ..., observe_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., external: bool = ..., nodes: _Optional[str] = ...) -> None: ...

class JobStatus(_message.Message):
    __slots__ = ("state", "reason", "message", "exit_code", "signal", "engine_reason", "expected_start_time", "engine_message")
    STATE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    EXIT_CODE_FIELD_NUMBER: _ClassVar[int]
    SIGNAL_FIELD_NUMBER: _ClassVar[int]
    ENGINE_REASON_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_START_TIME_FIELD_NUMBER: _ClassVar[int]
    ENGINE_MESSAGE_FIELD_NUMBER: _ClassVar[int]
    state: JobState
    reason: JobReason
    message: str
    exit_code: int
    signal: int
    engine_reason: str
    expected_start_time: _timestamp_pb2.Timestamp
    engine_message: str
    def __init__(self, state: _Optional[_Union[JobState, str]] = ..., reason: _Optional[_Union[JobReason, str]] = ..., message: _Optional[str] = ..., exit_code: _Optional[int] = ..., signal: _Optional[int] = ..., engine_reason: _Optional[str] = ..., expected_start_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., engine_message: _Optional[str] = ...) -> None: ...

class JobTransition(_message.Message):
    __slots__ = ("state", "reason", "time", "message")
    STATE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    TIME_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    state: JobState
    reason: JobReason
    time: _timestamp_pb2.Timestamp
    message: str
    def __init__(self, state: _Optional[_Union[JobState, str]] = ..., reason: _Optional[_Union[JobReason, str]] = ..., time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., message: _Optional[str] = ...) -> None: ...

class JobUsage(_message.Message):
    __slots__ = ("elapsed", "cpu_time", "peak_memory")
    ELAPSED_FIELD_NUMBER: _ClassVar[int]
    CPU_TIME_FIELD_NUMBER: _ClassVar[int]
    PEAK_MEMORY_FIELD_NUMBER: _ClassVar[int]
    elapsed: _duration_pb2.Duration
    cpu_time: _duration_pb2.Duration
    peak_memory: int
    def __init__(self, elapsed: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., cpu_time: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., peak_memory: _Optional[int] = ...) -> None: ...

class ArrayCounts(_message.Message):
    __slots__ = ("total", "waiting", "active", "completed", "failed", "canceled")
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    ACTIVE_FIELD_NUMBER: _ClassVar[int]
    COMPLETED_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    CANCELED_FIELD_NUMBER: _ClassVar[int]
    total: int
    waiting: int
    active: int
    completed: int
    failed: int
    canceled: int
    def __init__(self, total: _Optional[int] = ..., waiting: _Optional[int] = ..., active: _Optional[int] = ..., completed: _Optional[int] = ..., failed: _Optional[int] = ..., canceled: _Optional[int] = ...) -> None: ...
