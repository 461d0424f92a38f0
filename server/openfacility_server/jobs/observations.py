"""Taking over what an engine sees, in one transaction for many jobs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from openfacility_server.jobs import lifecycle
from openfacility_server.jobs.dependencies import Verdict, judge
from openfacility_server.jobs.engines import Observation
from openfacility_server.jobs.model import Job, JobReason, JobState
from openfacility_server.jobs.store import JobStore, Todo, Working
from openfacility_server.storage import ReadTx, Tx

Change = tuple[Working | None, Job]
"""A job as stored (None: not yet), and as it is to be stored."""


def apply(store: JobStore, tx: Tx, *, seen: Sequence[Observation], resource_id: str) -> None:
    """Stores what is new in observations of one resource. Repeating it changes nothing."""
    save(store, tx, changes_of(store, tx, seen, resource_id))


def new(store: JobStore, tx: ReadTx, *, seen: Sequence[Observation], resource_id: str) -> bool:
    """Whether `apply` would change anything."""
    return bool(changes_of(store, tx, seen, resource_id))


def changes_of(store: JobStore, tx: ReadTx, seen: Sequence[Observation], resource_id: str) -> list[Change]:
    """Returns jobs that are not as they are seen, each with the same job as it is seen."""
    known: dict[str, Working | None] = dict(store.load(tx, list({observation.job_id for observation in seen})))
    changed: dict[str, Job] = {}
    for observation in seen:
        found = known.get(observation.job_id)
        current = changed.get(observation.job_id)
        if current is None:
            current = found.job if found else _found_outside(observation, resource_id)
        if current is None or not _same_job(current, observation, resource_id):
            continue
        known.setdefault(observation.job_id, None)
        if not current.array_counts:
            # An array is known by its elements.
            current = lifecycle.observed(current, _canceled_for(store, tx, observation, found))
        changed[observation.job_id] = current
    return [(known[job_id], job) for job_id, job in changed.items() if _differs(known[job_id], job)]


def _found_outside(seen: Observation, resource_id: str) -> Job | None:
    if seen.external is None:
        return None
    return replace(lifecycle.found_outside(seen, seen.external), resource_id=resource_id)


def _same_job(job: Job, seen: Observation, resource_id: str) -> bool:
    """Whether an observation is about this job, and not about one that somebody gave its name, or its twin."""
    same = not job.native_id or seen.native_id in ("", job.native_id)
    return same and job.resource_id == resource_id and seen.owner in ("", job.owner)


def _canceled_for(store: JobStore, tx: ReadTx, seen: Observation, found: Working | None) -> Observation:
    """Says on whose behalf a job was canceled, or that it could never have started: a batch system may only know that
    it was."""
    if found is None or seen.state != JobState.CANCELED or found.job.status.state.final:
        return seen
    if found.cancel_reason:
        return replace(seen, reason=JobReason(found.cancel_reason))
    wanted = found.job.spec.dependencies
    if seen.start_time is None and wanted:
        verdict, _ = judge(wanted, store.targets(tx, [dependency.job_id for dependency in wanted]))
        if verdict == Verdict.NEVER:
            return replace(seen, reason=JobReason.DEPENDENCY_NEVER_SATISFIED)
    return seen


def _differs(found: Working | None, job: Job) -> bool:
    return found is None or job != found.job


def save(store: JobStore, tx: Tx, changes: Iterable[Change]) -> None:
    """Stores jobs as changed, and what that means for the arrays that they are elements of.

    Call it once in a transaction for any one job and for any one array: a job changes once in a revision.
    """
    now = datetime.now(UTC)
    wanted: dict[str, Change] = {job.id: (found, job) for found, job in changes}
    moves: dict[str, list[tuple[JobState | None, Job]]] = defaultdict(list)
    for found, job in wanted.values():
        before = found.job.status.state if found else None
        if job.array_job_id and job.status.state != before:
            moves[job.array_job_id].append((before, job))
    for array_job_id, steps in moves.items():
        if array_job_id not in wanted:
            array = store.load(tx, [array_job_id]).get(array_job_id)
            if array is None:
                # An element of an array that is not known here: the array comes with the next look at all.
                for _, job in steps:
                    wanted.pop(job.id)
                continue
            wanted[array_job_id] = array, array.job
        found, job = wanted[array_job_id]
        wanted[array_job_id] = found, _array_after(job, steps, now)
    # Arrays before their elements.
    for found, job in sorted(wanted.values(), key=lambda change: bool(change[1].array_job_id)):
        if _differs(found, job):
            _save_one(store, tx, found, job, now)


def _array_after(array_job: Job, steps: Sequence[tuple[JobState | None, Job]], now: datetime) -> Job:
    """Returns an array job after some of its elements changed their states."""
    if array_job.array_counts is None:
        return array_job
    counts = lifecycle.count(array_job.array_counts, ((before, job.status.state) for before, job in steps))
    time = max(job.end_time or job.start_time or now for _, job in steps)
    started = min((job.start_time for _, job in steps if job.start_time), default=None)
    return lifecycle.array_after(array_job, counts, time, started)


def _save_one(store: JobStore, tx: Tx, found: Working | None, job: Job, now: datetime) -> None:
    job = replace(job, update_time=now, revision=tx.revision())
    if found is None:
        store.insert(tx, Working(job))
        return
    # What an engine tells of, it has: there is nothing left to hand over.
    todo = found.todo & ~(Todo.SUBMIT | Todo.TRIED) if job.status.state > JobState.NEW else found.todo
    todo = Todo.NOTHING if job.status.state.final else todo
    store.update(tx, replace(found, job=job, todo=todo), found.job)
