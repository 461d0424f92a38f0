"""Job engines: what drives one batch system each, behind one small interface.

An engine knows nothing of users' rights, of the database or of the wire. It keeps (or its batch system keeps) its own
durable record of every job it accepted, found again by **our** job id, so that every call here may be repeated after a
crash without a second effect.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Protocol

from openfacility_server.jobs.model import JobReason, JobSpec, JobState, JobUsage, ResourceSpec


@dataclass(frozen=True, slots=True)
class FieldProblem:
    """A part of a specification that the engine cannot honour.

    ``field`` is the path inside the spec, such as ``resources.node_count``; ``description`` a sentence that says what
    to do about it.
    """

    field: str
    description: str


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why the engine would not take a job, or change one.

    ``message`` is a sentence; ``reason`` one of ``refusals.KINDS``, which decides what callers are told; ``field`` the
    path inside the spec that is at fault, where that is known; ``engine_message`` the batch system's own words.
    """

    message: str
    reason: str = "REFUSED"
    field: str = ""
    engine_message: str = ""


class EngineError(Exception):
    """The engine refused one operation for good; ``str()`` is a sentence for the caller.

    ``applied`` names the parts of an update that took effect all the same, as in ``UPDATABLE`` (``spec.name``, …).
    """

    def __init__(self, refusal: Refusal | str, applied: Sequence[str] = ()) -> None:
        self.refusal = Refusal(refusal, "UPDATE_REFUSED") if isinstance(refusal, str) else refusal
        super().__init__(self.refusal.message)
        self.applied = tuple(applied)


class EngineUnavailable(Exception):
    """The engine does not answer; the same call may succeed later."""


class EngineCannot(Exception):
    """The engine does not have this kind of operation; ``str()`` is a sentence for the caller."""


@dataclass(frozen=True, slots=True)
class JobRef:
    """A job that an engine was given, or is about to be: how to find it again, and as whom.

    ``native_id`` is empty while it is not known here whether the engine has the job.
    """

    id: str
    owner: str
    native_id: str
    create_time: datetime
    name: str = ""
    external: bool = False


@dataclass(frozen=True, slots=True)
class EngineJob:
    """One job to hand over: a single one, an element of an array, or, where ``spec.array`` is set, an array as a whole.

    ``doubtful``: it may have been handed over before, by a call that was cut off; look for it first.
    """

    id: str
    spec: JobSpec
    owner: str
    create_time: datetime
    array_job_id: str = ""
    array_index: int | None = None
    dependencies: tuple[EngineDependency, ...] = ()
    doubtful: bool = False


@dataclass(frozen=True, slots=True)
class EngineDependency:
    """A job that another one depends on, by both ids. ``condition`` is in the spec, at the same place."""

    job_id: str
    native_id: str


@dataclass(frozen=True, slots=True)
class EngineUpdate:
    """New values for a job; ``None`` leaves a value as it is."""

    name: str | None = None
    duration: timedelta | None = None
    queue_name: str | None = None
    account: str | None = None
    resources: ResourceSpec | None = None


@dataclass(frozen=True, slots=True)
class ExternalJob:
    """What is known of a job that was submitted around this service. ``spec.array`` is set for an array as a whole."""

    owner: str
    spec: JobSpec
    submit_time: datetime
    array_job_id: str = ""
    array_index: int | None = None


@dataclass(frozen=True, slots=True)
class Observation:
    """How the engine sees one job now. Repeating an observation changes nothing.

    ``time`` is when the job entered ``state``; ``start_time`` is set once it has started, also when it has ended since
    (so that a start nobody saw is still told). ``external`` is set for a job that nobody handed over: it is taken on
    record when it is not there yet; the array of an external element comes before it. ``owner`` is whose job it is in
    the engine, where it tells: nobody passes off theirs as another's.
    """

    job_id: str
    native_id: str
    state: JobState
    time: datetime
    reason: JobReason = JobReason.UNSPECIFIED
    message: str = ""
    exit_code: int | None = None
    signal: int | None = None
    start_time: datetime | None = None
    end_time: datetime | None = None
    usage: JobUsage | None = None
    engine_reason: str = ""
    expected_start: datetime | None = None
    nodes: str = ""
    owner: str = ""
    external: ExternalJob | None = None


class OutputStream(StrEnum):
    """One of the two output files of a job."""

    STDOUT = "stdout"
    STDERR = "stderr"


@dataclass(frozen=True, slots=True)
class Estimate:
    """What would become of a job: refused, or started at a time (None: not known) on so many nodes and cores."""

    refusal: Refusal | None = None
    start_time: datetime | None = None
    node_count: int = 0
    core_count: int = 0
    duration: timedelta | None = None
    account: str = ""


@dataclass(frozen=True, slots=True)
class Reservation:
    """A span in which nodes are kept for some.

    ``owners`` are users of this service; ``nodes`` is in the batch system's notation, ``node_names`` the same in full.
    """

    id: str
    start_time: datetime
    end_time: datetime
    active: bool
    nodes: str = ""
    node_names: tuple[str, ...] = ()
    node_count: int = 0
    core_count: int = 0
    queue_name: str = ""
    owners: tuple[str, ...] = ()
    accounts: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    maintenance: bool = False


@dataclass(frozen=True, slots=True)
class EngineHealth:
    """Whether the engine answers and accepts jobs."""

    serving: bool
    message: str = ""
    details: dict[str, str] = field(default_factory=dict)


class JobEngine(Protocol):
    """One batch system. All methods but ``check`` may be called from several server processes at once; ``follow`` is
    called by the one that leads the resource."""

    @property
    def verdict_wait(self) -> timedelta:
        """How long a submit call waits for the engine to take or refuse the job; zero: it takes all that ``check`` lets
        through, and nobody waits."""

    @property
    def takes_arrays(self) -> bool:
        """Whether an array is handed over as a whole; its elements' ids are then ``<array's id>_<index>``, in
        ``native_id`` too."""

    def check(self, spec: JobSpec) -> Sequence[FieldProblem]:
        """Returns what of a spec this engine can never honour. Quick: no waiting."""

    async def open(self) -> None:
        """Connects. Raises EngineUnavailable."""

    async def close(self) -> None:
        """Lets go of everything but the jobs, which run on."""

    async def health(self) -> EngineHealth:
        """Tells whether the engine answers."""

    async def submit(self, jobs: Sequence[EngineJob]) -> Sequence[str | Refusal | None]:
        """Hands jobs over; returns the native id or a refusal for each. A job handed over before keeps its native id.

        None for a doubtful job of which it cannot be told yet whether it was handed over before: ask again in a second.
        Raises EngineUnavailable; then none, some or all may have been taken, and the call is repeated later, with
        ``doubtful`` jobs.
        """

    async def cancel(self, jobs: Sequence[JobRef], reason: JobReason) -> None:
        """Ends jobs, waiting or running; unknown and ended ones are passed over. The end itself is observed later.

        ``reason`` says on whose behalf: as the owner, or as an operator.
        """

    async def hold(self, jobs: Sequence[JobRef], reason: JobReason) -> None:
        """Keeps waiting jobs from starting; jobs that run or have ended are passed over. Raises EngineError."""

    async def release(self, jobs: Sequence[JobRef], by_operator: bool) -> None:
        """Undoes ``hold``. Raises EngineError."""

    async def update(self, job: JobRef, update: EngineUpdate, by_operator: bool) -> None:
        """Changes a job. Raises EngineError when the engine cannot."""

    async def signal(self, jobs: Sequence[JobRef], signal: str, by_operator: bool) -> None:
        """Sends a signal, such as ``USR1``, to running jobs; others are passed over.

        Raises EngineCannot, EngineError.
        """

    async def requeue(self, jobs: Sequence[JobRef], hold: bool, by_operator: bool) -> None:
        """Puts running jobs back into the queue. Raises EngineCannot, EngineError."""

    async def estimate(self, spec: JobSpec, owner: str, dependencies: Sequence[EngineDependency]) -> Estimate:
        """Says what would become of a job."""

    async def reservations(self) -> Sequence[Reservation]:
        """Returns the reservations that go on or are to come."""

    async def observe(self, jobs: Sequence[JobRef]) -> Sequence[Observation]:
        """Returns how these jobs stand now; those that the engine does not know are left out."""

    async def observe_all(self) -> Sequence[Observation]:
        """Returns how all jobs stand that the engine has in hand, unfinished at least; also those that were submitted
        around this service."""

    async def missed(self, since: datetime) -> Sequence[Observation]:
        """Returns how jobs ended that have come and gone around this service after a time, where the engine has a
        record of them. Raises EngineUnavailable."""

    def follow(self) -> AsyncIterator[Sequence[Observation]]:
        """Yields what changes, as it changes, from the call on: at least once per change, in order per job.

        The caller asks `observe` for its unfinished jobs first; nothing that happens after this call is made is missed.
        """

    async def open_output(self, job: JobRef, spec: JobSpec, stream: OutputStream) -> int | None:
        """Opens what a job writes, as its owner, for reading; the caller closes the descriptor.

        None while it has not started or when it never has. Raises FileNotFoundError when the file has been removed,
        EngineError when it may not be read.
        """
