"""How a job moves from state to state: pure functions from a job and what happened to the job after it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime, timedelta

from openfacility_server.jobs.engines import ExternalJob, JobRef, Observation
from openfacility_server.jobs.model import (
    ArrayCounts,
    Job,
    JobArray,
    JobReason,
    JobState,
    JobStatus,
    JobTransition,
    JobUsage,
)

# A batch system's expectation moves with every pass of its scheduler; a change smaller than this is none.
_EXPECTATION_NOISE = timedelta(minutes=1)
_CLOCK_NOISE = timedelta(seconds=2)
_COUNTER = {
    JobState.NEW: "waiting",
    JobState.QUEUED: "waiting",
    JobState.HELD: "waiting",
    JobState.ACTIVE: "active",
    JobState.COMPLETED: "completed",
    JobState.FAILED: "failed",
    JobState.CANCELED: "canceled",
}


def moved(job: Job, status: JobStatus, time: datetime) -> Job:
    """Returns a job with another status; a change of state is added to its transitions.

    Batch systems tell of whole seconds, by clocks of their own: no change of state is before the one before it.
    """
    if status == job.status:
        return job
    time = _not_before(job, time)
    transitions = job.transitions
    if status.state != job.status.state:
        transitions = (*transitions, JobTransition(status.state, time, status.reason, status.message))
    changed = replace(job, status=status, transitions=transitions)
    if status.state == JobState.ACTIVE and job.start_time is None:
        changed = replace(changed, start_time=time)
    if status.state.final:
        changed = replace(changed, end_time=time)
    return changed


def observed(job: Job, seen: Observation) -> Job:
    """Returns a job as the engine sees it; the same job when it sees nothing new.

    A final job stays as it is, but for what it used, which batch systems learn later than its end.
    """
    if job.status.state.final:
        late = seen.state == job.status.state and seen.usage is not None and _more_known(seen.usage, job.usage)
        return replace(job, usage=seen.usage) if late else job
    job = replace(job, native_id=seen.native_id or job.native_id, nodes=seen.nodes or job.nodes)
    if seen.state.final and seen.start_time and job.start_time is None:
        job = moved(job, JobStatus(JobState.ACTIVE), seen.start_time)
    if job.status.state == JobState.ACTIVE and seen.state < JobState.ACTIVE:
        # It was put back: what it was is over.
        job = replace(job, start_time=None, usage=None, nodes="")
    time = seen.end_time if seen.state.final and seen.end_time else seen.time
    job = moved(job, _status_of(seen, job.status), time)
    if seen.state == JobState.ACTIVE and seen.start_time and job.start_time:
        # It was put back and started anew between two looks.
        again = seen.start_time - job.start_time > _CLOCK_NOISE
        job = replace(job, start_time=seen.start_time) if again else job
    return replace(job, usage=seen.usage) if seen.usage else job


def _status_of(seen: Observation, before: JobStatus) -> JobStatus:
    expected = seen.expected_start
    if expected and before.expected_start and abs(expected - before.expected_start) < _EXPECTATION_NOISE:
        expected = before.expected_start
    return JobStatus(seen.state, seen.reason, seen.message, seen.exit_code, seen.signal, seen.engine_reason, expected)


def _more_known(usage: JobUsage, before: JobUsage | None) -> bool:
    return before is None or (not before.cpu_time and not before.peak_memory and usage != before)


def element_id(array_job_id: str, index: int) -> str:
    """Returns the id of an array's element."""
    return f"{array_job_id}_{index}"


def ref_of(job: Job) -> JobRef:
    """Returns what an engine needs to find a job."""
    return JobRef(job.id, job.owner, job.native_id, job.create_time, job.spec.name, job.external)


def found_outside(seen: Observation, external: ExternalJob) -> Job:
    """Returns a job that was submitted around this service, as it was then."""
    submitted = external.submit_time
    return Job(
        id=seen.job_id,
        resource_id="",
        owner=external.owner,
        spec=external.spec,
        status=JobStatus(JobState.QUEUED),
        create_time=submitted,
        update_time=submitted,
        transitions=(JobTransition(JobState.QUEUED, submitted),),
        native_id=seen.native_id,
        array_job_id=external.array_job_id,
        array_index=external.array_index,
        array_counts=ArrayCounts() if external.spec.array and not external.array_job_id else None,
        external=True,
    )


def element_of(array_job: Job, index: int, now: datetime) -> Job:
    """Returns an array's element, as submitted; its inline script stays with the array job.

    Where the engine has the array as a whole, it has the element too.
    """
    held = array_job.status.state == JobState.HELD or array_job.spec.hold
    spec = replace(array_job.spec, hold=held)
    reason = (array_job.status.reason or JobReason.HELD_BY_OWNER) if held else JobReason.UNSPECIFIED
    element = Job(
        id=element_id(array_job.id, index),
        resource_id=array_job.resource_id,
        owner=array_job.owner,
        spec=spec,
        status=JobStatus(JobState.NEW, reason),
        create_time=array_job.create_time,
        update_time=now,
        transitions=(JobTransition(JobState.NEW, now),),
        array_job_id=array_job.id,
        array_index=index,
    )
    if not array_job.native_id:
        return element
    element = replace(element, native_id=f"{array_job.native_id}_{index}")
    return moved(element, JobStatus(JobState.HELD if held else JobState.QUEUED, reason), now)


def count(counts: ArrayCounts, moves: Iterable[tuple[JobState | None, JobState]]) -> ArrayCounts:
    """Returns an array's counts after elements went from one state to another, or (None) came to be known of."""
    numbers = {name: getattr(counts, name) for name in ("waiting", "active", "completed", "failed", "canceled")}
    total = counts.total
    for before, after in moves:
        if before is None:
            total += 1
        else:
            numbers[_COUNTER[before]] -= 1
        numbers[_COUNTER[after]] += 1
    return ArrayCounts(total, **numbers)


def array_after(job: Job, counts: ArrayCounts, time: datetime, started: datetime | None = None) -> Job:
    """Returns an array job with new counts and the state that follows from them, at ``time`` by its elements.

    ``started`` is when one of them did, which nobody may have seen before it ended.
    """
    job = replace(job, array_counts=counts)
    if started is not None and job.start_time is None:
        job = moved(job, JobStatus(JobState.ACTIVE), started)
    return moved(job, _array_status(job.status, counts), time)


def _not_before(job: Job, time: datetime) -> datetime:
    return max([time, *(transition.time for transition in job.transitions[-1:])])


def _array_status(status: JobStatus, counts: ArrayCounts) -> JobStatus:
    if counts.active:
        return JobStatus(JobState.ACTIVE)
    if counts.waiting:
        untouched = status.state == JobState.NEW and counts.waiting == counts.total
        keep = untouched or status.state == JobState.HELD
        return status if keep else JobStatus(JobState.QUEUED)
    if counts.failed:
        text = f"{counts.failed} of {counts.total} elements failed"
        return JobStatus(JobState.FAILED, JobReason.ARRAY_ELEMENTS, text)
    if counts.canceled:
        text = f"{counts.canceled} of {counts.total} elements were canceled"
        return JobStatus(JobState.CANCELED, JobReason.ARRAY_ELEMENTS, text)
    return JobStatus(JobState.COMPLETED)


def array_size(array: JobArray) -> int:
    """Returns how many elements an array has."""
    return len(array.indices)
