"""Taking over what an engine sees, in one transaction for many jobs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from openfacility_server.jobs import lifecycle
from openfacility_server.jobs.engines import Observation
from openfacility_server.jobs.model import Job, JobState
from openfacility_server.jobs.store import JobStore, Todo, Working
from openfacility_server.storage import Tx


def apply(store: JobStore, tx: Tx, seen: Sequence[Observation]) -> None:
    """Stores what is new in observations. Repeating it changes nothing."""
    save(store, tx, changes_of(store, tx, seen))


def changes_of(store: JobStore, tx: Tx, seen: Sequence[Observation]) -> list[tuple[Working, Job]]:
    """Returns jobs, each with the same job as it is seen."""
    known = store.load(tx, list({observation.job_id for observation in seen}))
    changed: dict[str, Job] = {}
    for observation in seen:
        found = known.get(observation.job_id)
        if found is not None:
            current = changed.get(observation.job_id, found.job)
            changed[observation.job_id] = lifecycle.observed(current, observation)
    return [(known[job_id], job) for job_id, job in changed.items()]


def save(store: JobStore, tx: Tx, changes: Iterable[tuple[Working, Job]]) -> None:
    """Stores jobs as changed, and what that means for the arrays that they are elements of.

    Call it once in a transaction for any one job and for any one array: a job changes once in a revision.
    """
    now = datetime.now(UTC)
    wanted = {found.job.id: (found, job) for found, job in changes}
    moves: dict[str, list[tuple[Job, Job]]] = defaultdict(list)
    for found, job in wanted.values():
        if job.array_job_id and job.status.state != found.job.status.state:
            moves[job.array_job_id].append((found.job, job))
    for array_job_id, steps in moves.items():
        if array_job_id not in wanted:
            found = store.load(tx, [array_job_id])[array_job_id]
            wanted[array_job_id] = found, found.job
        found, job = wanted[array_job_id]
        wanted[array_job_id] = found, _array_after(job, steps, now)
    for found, job in wanted.values():
        if job != found.job:
            _save_one(store, tx, found, job, now)


def _array_after(array_job: Job, steps: Sequence[tuple[Job, Job]], now: datetime) -> Job:
    """Returns an array job after some of its elements changed their states."""
    if array_job.array_counts is None:
        return array_job
    counts = lifecycle.count(array_job.array_counts, ((old.status.state, new.status.state) for old, new in steps))
    time = max(new.end_time or new.start_time or now for _, new in steps)
    started = min((new.start_time for _, new in steps if new.start_time), default=None)
    return lifecycle.array_after(array_job, counts, time, started)


def _save_one(store: JobStore, tx: Tx, found: Working, job: Job, now: datetime) -> None:
    # What an engine tells of, it has: there is nothing left to hand over.
    todo = found.todo & ~Todo.SUBMIT if job.status.state > JobState.NEW else found.todo
    todo = Todo.NOTHING if job.status.state.final else todo
    job = replace(job, update_time=now, revision=tx.revision())
    store.update(tx, replace(found, job=job, todo=todo), found.job)
