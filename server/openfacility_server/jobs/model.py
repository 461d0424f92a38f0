"""What the Jobs domain is about, in plain Python: no protobuf, no SQL.

Times are aware UTC datetimes, durations are ``timedelta``, sizes are bytes. The meaning of each field is documented
once, in ``protos/openfacility/jobs/v1/job.proto``; names and enum numbers here are the same.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import IntEnum


class JobState(IntEnum):
    """State of a job; numbers as in the contract."""

    NEW = 1
    QUEUED = 2
    HELD = 3
    ACTIVE = 4
    COMPLETED = 5
    FAILED = 6
    CANCELED = 7

    @property
    def final(self) -> bool:
        """Whether a job never leaves this state."""
        return self >= JobState.COMPLETED


class JobReason(IntEnum):
    """Why a job is in its state; numbers as in the contract."""

    UNSPECIFIED = 0
    RESOURCES = 1
    PRIORITY = 2
    DEPENDENCY = 3
    ARRAY_LIMIT = 4
    HELD_BY_OWNER = 5
    HELD_BY_OPERATOR = 6
    NONZERO_EXIT = 7
    SIGNALED = 8
    TIME_LIMIT = 9
    OUT_OF_MEMORY = 10
    LAUNCH_FAILED = 11
    REFUSED = 12
    LOST = 13
    CANCELED_BY_OWNER = 14
    CANCELED_BY_OPERATOR = 15
    DEPENDENCY_NEVER_SATISFIED = 16
    ARRAY_ELEMENTS = 17
    BEGIN_TIME = 18
    RESERVATION = 19
    LICENSES = 20
    NODES_UNAVAILABLE = 21
    QUEUE_UNAVAILABLE = 22
    LIMIT = 23
    ALLOCATION_EXHAUSTED = 24
    NEVER_STARTS = 25
    NODE_FAILED = 26
    PREEMPTED = 27
    DEADLINE = 28
    SUSPENDED = 29
    REQUEUED = 30
    OTHER = 31


class DependencyCondition(IntEnum):
    """What has to be true of the job depended on."""

    AFTER = 1
    AFTER_OK = 2
    AFTER_NOT_OK = 3
    AFTER_ANY = 4


@dataclass(frozen=True, slots=True)
class ResourceSpec:
    """Processes, cores and memory; ``None`` means not asked for."""

    node_count: int | None = None
    process_count: int | None = None
    processes_per_node: int | None = None
    cpu_cores_per_process: int | None = None
    gpu_cores_per_process: int | None = None
    exclusive_node_use: bool | None = None
    memory: int | None = None


@dataclass(frozen=True, slots=True)
class JobAttributes:
    """Scheduling attributes."""

    duration: timedelta | None = None
    queue_name: str = ""
    account: str = ""
    reservation_id: str = ""
    custom_attributes: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class VolumeMount:
    """One directory of the host, seen inside a container."""

    source: str
    target: str
    read_only: bool = True


@dataclass(frozen=True, slots=True)
class Container:
    """Container image and its mounts."""

    image: str
    volume_mounts: tuple[VolumeMount, ...] = ()


@dataclass(frozen=True, slots=True)
class JobArray:
    """Indices of an array."""

    first: int
    last: int
    step: int = 1
    max_active: int = 0

    @property
    def indices(self) -> range:
        """All indices, ascending."""
        return range(self.first, self.last + 1, self.step or 1)


@dataclass(frozen=True, slots=True)
class JobDependency:
    """A condition on another job of the same resource."""

    job_id: str
    condition: DependencyCondition


@dataclass(frozen=True, slots=True)
class JobSpec:
    """What to run and with what."""

    name: str = ""
    executable: str = ""
    arguments: tuple[str, ...] = ()
    script: str = ""
    script_path: str = ""
    directory: str = ""
    inherit_environment: bool = True
    environment: dict[str, str] = field(default_factory=dict)
    stdin_path: str = ""
    stdout_path: str = ""
    stderr_path: str = ""
    resources: ResourceSpec = field(default_factory=ResourceSpec)
    attributes: JobAttributes = field(default_factory=JobAttributes)
    pre_launch: str = ""
    post_launch: str = ""
    launcher: str = ""
    container: Container | None = None
    array: JobArray | None = None
    dependencies: tuple[JobDependency, ...] = ()
    labels: dict[str, str] = field(default_factory=dict)
    hold: bool = False


@dataclass(frozen=True, slots=True)
class JobStatus:
    """How a job stands."""

    state: JobState
    reason: JobReason = JobReason.UNSPECIFIED
    message: str = ""
    exit_code: int | None = None
    signal: int | None = None
    engine_reason: str = ""
    expected_start: datetime | None = None
    engine_message: str = ""


@dataclass(frozen=True, slots=True)
class JobTransition:
    """One change of state."""

    state: JobState
    time: datetime
    reason: JobReason = JobReason.UNSPECIFIED
    message: str = ""


@dataclass(frozen=True, slots=True)
class JobUsage:
    """What a job used; memory in bytes."""

    elapsed: timedelta = timedelta()
    cpu_time: timedelta = timedelta()
    peak_memory: int = 0


@dataclass(frozen=True, slots=True)
class ArrayCounts:
    """Elements of an array by state."""

    total: int = 0
    waiting: int = 0
    active: int = 0
    completed: int = 0
    failed: int = 0
    canceled: int = 0


@dataclass(frozen=True, slots=True)
class Job:
    """A job as stored."""

    id: str
    resource_id: str
    owner: str
    spec: JobSpec
    status: JobStatus
    create_time: datetime
    update_time: datetime
    transitions: tuple[JobTransition, ...] = ()
    usage: JobUsage | None = None
    native_id: str = ""
    start_time: datetime | None = None
    end_time: datetime | None = None
    array_job_id: str = ""
    array_index: int | None = None
    array_counts: ArrayCounts | None = None
    cancel_requested: bool = False
    external: bool = False
    nodes: str = ""
    revision: int = 0

    @property
    def etag(self) -> str:
        """Version for optimistic updates."""
        return f'"{self.revision}"'
