"""Jobs as plain data: frozen dataclasses with the names of the contract.

Times are aware UTC datetimes, durations `timedelta`, sizes bytes. What is not set is None, an empty string or an empty
collection. What each field means is said in full in `protos/openfacility/jobs/v1/job.proto`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum


class JobState(StrEnum):
    """State of a job. COMPLETED, FAILED and CANCELED are final."""

    UNSPECIFIED = "UNSPECIFIED"
    """A state that this client is too old to know."""
    NEW = "NEW"
    QUEUED = "QUEUED"
    HELD = "HELD"
    ACTIVE = "ACTIVE"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELED = "CANCELED"

    @property
    def final(self) -> bool:
        """Whether a job never leaves this state."""
        return self in _FINAL


_FINAL = frozenset({JobState.COMPLETED, JobState.FAILED, JobState.CANCELED})


class JobReason(StrEnum):
    """Why a job is in its state. UNSPECIFIED is also what this client is too old to know."""

    UNSPECIFIED = "UNSPECIFIED"
    RESOURCES = "RESOURCES"
    PRIORITY = "PRIORITY"
    DEPENDENCY = "DEPENDENCY"
    ARRAY_LIMIT = "ARRAY_LIMIT"
    HELD_BY_OWNER = "HELD_BY_OWNER"
    HELD_BY_OPERATOR = "HELD_BY_OPERATOR"
    NONZERO_EXIT = "NONZERO_EXIT"
    SIGNALED = "SIGNALED"
    TIME_LIMIT = "TIME_LIMIT"
    OUT_OF_MEMORY = "OUT_OF_MEMORY"
    LAUNCH_FAILED = "LAUNCH_FAILED"
    REFUSED = "REFUSED"
    LOST = "LOST"
    CANCELED_BY_OWNER = "CANCELED_BY_OWNER"
    CANCELED_BY_OPERATOR = "CANCELED_BY_OPERATOR"
    DEPENDENCY_NEVER_SATISFIED = "DEPENDENCY_NEVER_SATISFIED"
    ARRAY_ELEMENTS = "ARRAY_ELEMENTS"
    BEGIN_TIME = "BEGIN_TIME"
    RESERVATION = "RESERVATION"
    LICENSES = "LICENSES"
    NODES_UNAVAILABLE = "NODES_UNAVAILABLE"
    QUEUE_UNAVAILABLE = "QUEUE_UNAVAILABLE"
    LIMIT = "LIMIT"
    ALLOCATION_EXHAUSTED = "ALLOCATION_EXHAUSTED"
    NEVER_STARTS = "NEVER_STARTS"
    NODE_FAILED = "NODE_FAILED"
    PREEMPTED = "PREEMPTED"
    DEADLINE = "DEADLINE"
    SUSPENDED = "SUSPENDED"
    REQUEUED = "REQUEUED"
    OTHER = "OTHER"
    """The batch system's own reason: see `JobStatus.engine_reason`."""


class Condition(StrEnum):
    """What has to be true of a job that another one depends on."""

    UNSPECIFIED = "UNSPECIFIED"
    AFTER = "AFTER"
    """It has started, or was canceled before it could."""
    AFTER_OK = "AFTER_OK"
    """It ended as COMPLETED."""
    AFTER_NOT_OK = "AFTER_NOT_OK"
    """It ended as FAILED, or was canceled."""
    AFTER_ANY = "AFTER_ANY"
    """It ended, however."""


class ChangeType(StrEnum):
    """What kind of change a watch tells of."""

    UNSPECIFIED = "UNSPECIFIED"
    SNAPSHOT = "SNAPSHOT"
    """No change: the job as it was when the watch began, or began anew after it lost the history."""
    CREATED = "CREATED"
    """Submitted."""
    UPDATED = "UPDATED"
    """Changed in any field."""


@dataclass(frozen=True, slots=True)
class ResourceSpec:
    """Processes, cores and memory; None is what the facility takes by default."""

    node_count: int | None = None
    process_count: int | None = None
    processes_per_node: int | None = None
    cpu_cores_per_process: int | None = None
    gpu_cores_per_process: int | None = None
    exclusive_node_use: bool | None = None
    memory: int | None = None
    """Of the whole job on each node, in bytes."""


@dataclass(frozen=True, slots=True)
class JobAttributes:
    """Scheduling attributes."""

    duration: timedelta | None = None
    """Time limit from the start."""
    queue_name: str = ""
    account: str = ""
    """Project to charge."""
    reservation_id: str = ""
    custom_attributes: Mapping[str, str] = field(default_factory=dict)
    """Settings of one engine, keyed `<engine>.<name>`."""


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
    """Indices `first`, `first + step`, … up to `last`, inclusive."""

    first: int
    last: int
    step: int = 1
    max_active: int = 0
    """How many elements may run at the same time; 0 means no limit."""


@dataclass(frozen=True, slots=True)
class JobDependency:
    """A condition on another job."""

    job_id: str
    condition: Condition


@dataclass(frozen=True, slots=True)
class JobSpec:
    """What to run and with what. Easiest made with `job_spec`, or by `submit` from the same arguments."""

    name: str = ""
    executable: str = ""
    arguments: tuple[str, ...] = ()
    script: str = ""
    script_path: str = ""
    directory: str = ""
    inherit_environment: bool = True
    environment: Mapping[str, str] = field(default_factory=dict)
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
    labels: Mapping[str, str] = field(default_factory=dict)
    hold: bool = False


@dataclass(frozen=True, slots=True)
class JobStatus:
    """How a job stands."""

    state: JobState = JobState.UNSPECIFIED
    reason: JobReason = JobReason.UNSPECIFIED
    message: str = ""
    """A sentence for people."""
    exit_code: int | None = None
    """Of the program, when it ended by itself."""
    signal: int | None = None
    """That ended the program, when one did."""
    engine_reason: str = ""
    """The batch system's own word for the reason; of a job that it refused, the error's `reason`."""
    expected_start_time: datetime | None = None
    """When the batch system expects to start it, as long as it waits. It changes its mind."""
    engine_message: str = ""
    """What the batch system said, of a job that it refused."""


@dataclass(frozen=True, slots=True)
class JobTransition:
    """One change of state."""

    state: JobState
    reason: JobReason = JobReason.UNSPECIFIED
    time: datetime | None = None
    message: str = ""


@dataclass(frozen=True, slots=True)
class JobUsage:
    """What a job used."""

    elapsed: timedelta | None = None
    cpu_time: timedelta | None = None
    peak_memory: int = 0
    """Bytes."""


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
    """A job as it was when the server answered. Plain data: it does not follow what happens afterwards."""

    id: str
    resource_id: str = ""
    owner: str = ""
    spec: JobSpec = field(default_factory=JobSpec)
    status: JobStatus = field(default_factory=JobStatus)
    transitions: tuple[JobTransition, ...] = ()
    usage: JobUsage | None = None
    native_id: str = ""
    create_time: datetime | None = None
    update_time: datetime | None = None
    start_time: datetime | None = None
    end_time: datetime | None = None
    array_job_id: str = ""
    array_index: int | None = None
    array_counts: ArrayCounts | None = None
    cancel_requested: bool = False
    etag: str = ""
    revision: int = 0
    observe_time: datetime | None = None
    """When this was last compared with what the engine says; only `get` tells it, for lists see the pager."""
    external: bool = False
    """Submitted around this service, such as with `sbatch`, and found in the batch system."""
    nodes: str = ""
    """Nodes that it runs or ran on, in the batch system's notation, such as `n[1-4]`."""

    @property
    def name(self) -> str:
        """Display name."""
        return self.spec.name

    @property
    def state(self) -> JobState:
        """State."""
        return self.status.state

    @property
    def final(self) -> bool:
        """Whether it has ended."""
        return self.status.state.final

    @property
    def exit_code(self) -> int | None:
        """Exit code of the program, when it ended by itself."""
        return self.status.exit_code


@dataclass(frozen=True, slots=True)
class JobChange:
    """One change of one job. Changes that were made together share a revision."""

    type: ChangeType
    revision: int
    job: Job
    """The job after the change."""


@dataclass(frozen=True, slots=True)
class JobPage:
    """One page of a list."""

    jobs: tuple[Job, ...]
    revision: int
    """Revision that the first page was read at: a watch with `after_revision` continues from here without a gap."""
    next_page_token: str = ""
    observe_times: Mapping[str, datetime] = field(default_factory=dict)
    """When the jobs of each resource were last compared with what its engine says, by resource id."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """What would become of a job if it were submitted now."""

    acceptable: bool
    """Whether the batch system would take it."""
    reason: str = ""
    """Why not, in the word that `submit` would raise."""
    message: str = ""
    """Why not, in a sentence."""
    field: str = ""
    """What is at fault, where that is known, such as `spec.attributes.account`."""
    engine_message: str = ""
    """The batch system's own words, when it would refuse the job."""
    expected_start_time: datetime | None = None
    """As things stand now; None when it is not known."""
    node_count: int = 0
    """0 when it is not known."""
    core_count: int = 0
    """Over all nodes; 0 when it is not known."""
    core_hours: float = 0.0
    """Charged at most, if it used all of its time limit; of an array, for all elements."""
    node_hours: float = 0.0
    """The same in nodes times hours."""
    account: str = ""
    """Project that would be charged; empty when it is not known."""


@dataclass(frozen=True, slots=True)
class Reservation:
    """A span in which nodes of a batch system are kept for some."""

    id: str
    """Name in the batch system: what `submit` takes as `reservation`."""
    resource_id: str = ""
    start_time: datetime | None = None
    end_time: datetime | None = None
    active: bool = False
    """Whether it goes on now."""
    nodes: str = ""
    """In the batch system's notation."""
    node_count: int = 0
    core_count: int = 0
    queue_name: str = ""
    users: tuple[str, ...] = ()
    """Who may use it; empty: see `accounts`."""
    accounts: tuple[str, ...] = ()
    """Projects that may use it."""
    flags: tuple[str, ...] = ()
    """The batch system's words for its kind, such as `MAINT`."""
    maintenance: bool = False
    """Whether it is for maintenance: nobody's jobs run in it but the operators'."""


@dataclass(frozen=True, slots=True)
class JobFilter:
    """Selects jobs. Fields that are set must all match; of several values in one field, any."""

    job_ids: tuple[str, ...] = ()
    resource_ids: tuple[str, ...] = ()
    project_ids: tuple[str, ...] = ()
    owners: tuple[str, ...] = ()
    states: tuple[JobState, ...] = ()
    name: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    created_from: datetime | None = None
    created_to: datetime | None = None
    array_job_id: str = ""

    @property
    def changeable(self) -> bool:
        """Whether a job can come to match, or cease to, by a change."""
        return bool(self.states or self.name or self.labels or self.project_ids)

    def keeps(self, job: Job) -> bool:
        """Whether a job that once matched still does: looks only at what can change."""
        return (
            (not self.states or job.state in self.states)
            and (not self.name or job.spec.name == self.name)
            and (not self.project_ids or job.spec.attributes.account in self.project_ids)
            and all(job.spec.labels.get(key) == value for key, value in self.labels.items())
        )


class HealthStatus(StrEnum):
    """Whether a server takes calls."""

    UNKNOWN = "UNKNOWN"
    SERVING = "SERVING"
    NOT_SERVING = "NOT_SERVING"
    SERVICE_UNKNOWN = "SERVICE_UNKNOWN"


def ids_of(jobs: Job | str | Iterable[Job | str]) -> tuple[str, ...]:
    """Return the ids of one or several jobs, each given as a job or an id."""
    if isinstance(jobs, (Job, str)):
        return (id_of(jobs),)
    return tuple(id_of(job) for job in jobs)


def id_of(job: Job | str) -> str:
    """Return the id of a job, given as a job or an id."""
    return job.id if isinstance(job, Job) else job
