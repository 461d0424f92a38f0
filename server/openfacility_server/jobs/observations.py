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
    known = store.load(tx, list({observation.job_id for observation in seen}))
    changed: dict[str, Job] = {}
    for observation in seen:
        found = known.get(observation.job_id)
        if found is not None:
            current = changed.get(observation.job_id, found.job)
            changed[observation.job_id] = lifecycle.observed(current, observation)
    save(store, tx, ((known[job_id], job) for job_id, job in changed.items()))


def save(store: JobStore, tx: Tx, changes: Iterable[tuple[Working, Job]]) -> None:
    """Stores jobs as changed, and what that means for the arrays that they are elements of."""
    now = datetime.now(UTC)
    moves: dict[str, list[tuple[JobState, JobState]]] = defaultdict(list)
    for found, job in changes:
        if job == found.job:
            continue
        # What an engine tells of, it has: there is nothing left to hand over.
        todo = found.todo & ~Todo.SUBMIT if job.status.state > JobState.NEW else found.todo
        todo = Todo.NOTHING if job.status.state.final else todo
        changed = replace(job, update_time=now, revision=tx.revision())
        store.update(tx, replace(found, job=changed, todo=todo), found.job)
        if job.array_job_id and job.status.state != found.job.status.state:
            moves[job.array_job_id].append((found.job.status.state, job.status.state))
    for array_job_id, steps in moves.items():
        _save_array(store, tx, array_job_id, steps, now)


def _save_array(
    store: JobStore, tx: Tx, array_job_id: str, moves: Sequence[tuple[JobState, JobState]], now: datetime
) -> None:
    found = store.load(tx, [array_job_id])[array_job_id]
    counts = found.job.array_counts
    if counts is None:
        return
    after = lifecycle.count(counts, moves)
    job = lifecycle.array_after(found.job, after, now)
    if job != found.job:
        job = replace(job, update_time=now, revision=tx.revision())
        todo = Todo.NOTHING if job.status.state.final else found.todo
        store.update(tx, replace(found, job=job, todo=todo), found.job)
