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
from pathlib import Path
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


class EngineError(Exception):
    """The engine refused one operation for good; ``str()`` is a sentence for the caller."""


class EngineUnavailable(Exception):
    """The engine does not answer; the same call may succeed later."""


@dataclass(frozen=True, slots=True)
class EngineJob:
    """One job (or one array element: arrays are expanded before they reach an engine) to hand over."""

    id: str
    spec: JobSpec
    owner: str
    array_job_id: str = ""
    array_index: int | None = None


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why the engine would not take a job, in a sentence."""

    message: str


@dataclass(frozen=True, slots=True)
class EngineUpdate:
    """New values for a job; ``None`` leaves a value as it is."""

    name: str | None = None
    duration: timedelta | None = None
    queue_name: str | None = None
    account: str | None = None
    resources: ResourceSpec | None = None


@dataclass(frozen=True, slots=True)
class Observation:
    """How the engine sees one job now. Repeating an observation changes nothing.

    ``time`` is when the job entered ``state``; ``start_time`` is set once it has started, also when it has ended since
    (so that a start nobody saw is still told).
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


class OutputStream(StrEnum):
    """One of the two output files of a job."""

    STDOUT = "stdout"
    STDERR = "stderr"


@dataclass(frozen=True, slots=True)
class EngineHealth:
    """Whether the engine answers and accepts jobs."""

    serving: bool
    message: str = ""
    details: dict[str, str] = field(default_factory=dict)


class JobEngine(Protocol):
    """One batch system. All methods but ``check`` may be called from several server processes at once; ``follow`` is
    called by the one that leads the resource."""

    def check(self, spec: JobSpec) -> Sequence[FieldProblem]:
        """Returns what of a spec this engine can never honour. Quick: no waiting."""

    async def open(self) -> None:
        """Connects. Raises EngineUnavailable."""

    async def close(self) -> None:
        """Lets go of everything but the jobs, which run on."""

    async def health(self) -> EngineHealth:
        """Tells whether the engine answers."""

    async def submit(self, jobs: Sequence[EngineJob]) -> Sequence[str | Refusal]:
        """Hands jobs over; returns the native id or a refusal for each. A job handed over before keeps its native id.

        Raises EngineUnavailable; then none, some or all may have been taken, and the call is repeated later.
        """

    async def cancel(self, job_ids: Sequence[str], reason: JobReason) -> None:
        """Ends jobs, waiting or running; unknown and ended ones are passed over. The end itself is observed later."""

    async def hold(self, job_ids: Sequence[str], reason: JobReason) -> None:
        """Keeps waiting jobs from starting; jobs that run or have ended are passed over."""

    async def release(self, job_ids: Sequence[str]) -> None:
        """Undoes ``hold``."""

    async def update(self, job_id: str, update: EngineUpdate) -> None:
        """Changes a job. Raises EngineError when the engine cannot."""

    async def observe(self, job_ids: Sequence[str]) -> Sequence[Observation]:
        """Returns how these jobs stand now; those that the engine does not know are left out."""

    def follow(self) -> AsyncIterator[Sequence[Observation]]:
        """Yields what changes, as it changes, from the call on: at least once per change, in order per job.

        The caller asks `observe` for its unfinished jobs first; nothing that happens after this call is made is missed.
        """

    async def output_path(self, job_id: str, stream: OutputStream) -> Path | None:
        """Returns where a job writes, or None while it has not started or when it never has."""
