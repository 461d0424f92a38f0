"""Tables and queries of the Jobs domain.

A job is kept as the serialized message that callers get, with the columns that lists and the reconciler search by beside
it. Writing SQL takes peewee longer than running it takes the database, so the queries of every call are compiled once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntFlag
from typing import Protocol

import peewee as pw

from openfacility_server.jobs.filters import JobFilter, attributes_of
from openfacility_server.jobs.model import Job, JobState
from openfacility_server.storage import ReadTx, Tx

TOPIC = "jobs"
_CHUNK = 400  # bound parameters in one statement


class Todo(IntFlag):
    """What the reconciler still has to do for a job."""

    NOTHING = 0
    SUBMIT = 1
    CANCEL = 2
    EXPAND = 4


class Codec(Protocol):
    """Serializes jobs; the domain does not know how."""

    def encode(self, job: Job) -> bytes: ...
    def decode(self, data: bytes) -> Job: ...
    def change(self, job: bytes, revision: int, created: bool) -> bytes: ...
    def with_script(self, data: bytes, script: str) -> bytes: ...


class JobRow(pw.Model):
    """One job or array element; times in microseconds since 1970."""

    id = pw.TextField(primary_key=True)
    resource_id = pw.TextField()
    owner = pw.TextField()
    project = pw.TextField()
    name = pw.TextField()
    state = pw.SmallIntegerField()
    todo = pw.SmallIntegerField()
    array_job_id = pw.TextField()
    array_index = pw.IntegerField()
    create_time = pw.BigIntegerField()
    revision = pw.BigIntegerField()
    expanded = pw.IntegerField()
    cancel_reason = pw.SmallIntegerField()
    message = pw.BlobField()

    class Meta:
        table_name = "job"


class JobLabel(pw.Model):
    """One label of one job."""

    key = pw.TextField()
    value = pw.TextField()
    job_id = pw.TextField()

    class Meta:
        table_name = "job_label"
        primary_key = pw.CompositeKey("key", "value", "job_id")


class JobScript(pw.Model):
    """The inline script of a job, apart because it may be large and only its reader and the engine want it."""

    job_id = pw.TextField(primary_key=True)
    script = pw.TextField()

    class Meta:
        table_name = "job_script"


@dataclass(frozen=True, slots=True)
class Stored:
    """A job's row as far as a reader needs it, undecoded."""

    id: str
    owner: str
    state: JobState
    revision: int
    message: bytes


_COLUMNS = tuple(JobRow._meta.fields)
_INSERT = f"INSERT INTO job ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(_COLUMNS))})"  # noqa: S608 -- constants
_UPDATE = f"UPDATE job SET {', '.join(f'{c} = ?' for c in _COLUMNS[1:])} WHERE id = ?"  # noqa: S608 -- constants
_GET = "SELECT id, owner, state, revision, message FROM job WHERE id = ?"
_UNFINISHED_STATES = f"state < {int(JobState.COMPLETED)}"


@dataclass(frozen=True, slots=True)
class Working:
    """A job with what only the reconciler knows of it: what is left to do, elements made, why it is to be canceled."""

    job: Job
    todo: Todo = Todo.NOTHING
    expanded: int = 0
    cancel_reason: int = 0


class JobStore:
    """All reads and writes of jobs. Methods run inside a transaction that the caller opened."""

    def __init__(self, codec: Codec) -> None:
        self._codec = codec

    # Reads of callers.

    def stored(self, tx: ReadTx, job_id: str) -> Stored | None:
        """Returns a job's row."""
        row = tx.row(_GET, (job_id,))
        return row and Stored(row[0], row[1], JobState(row[2]), row[3], bytes(row[4]))

    def script(self, tx: ReadTx, job_id: str) -> str:
        """Returns a job's inline script, or an empty string."""
        return tx.value("SELECT script FROM job_script WHERE job_id = ?", (job_id,)) or ""

    def page(self, tx: ReadTx, filter_: JobFilter, owner: str | None, after: str, limit: int) -> list[Stored]:
        """Returns jobs that match, newest first (an array's elements by index), after the row ``after``."""
        where, params = _conditions(filter_, owner)
        if filter_.array_job_id:
            order, key = "array_index", "array_index > ?"
            after_key: object = int(after) if after else None
        else:
            order, key = "id DESC", "id < ?"
            after_key = after or None
        if after_key is not None:
            where.append(key)
            params.append(after_key)
        sql = "SELECT id, owner, state, revision, message FROM job"
        if where:
            sql += f" WHERE {' AND '.join(where)}"
        rows = tx.rows(f"{sql} ORDER BY {order} LIMIT ?", (*params, limit))
        return [Stored(row[0], row[1], JobState(row[2]), row[3], bytes(row[4])) for row in rows]

    def count_unfinished(self, tx: ReadTx, owner: str) -> int:
        """Counts an owner's unfinished jobs, array elements included."""
        return int(tx.value(f"SELECT count(*) FROM job WHERE owner = ? AND {_UNFINISHED_STATES}", (owner,)))

    def matching_ids(self, tx: ReadTx, filter_: JobFilter, owner: str | None, limit: int) -> list[str]:
        """Returns the ids of unfinished jobs that match and whose cancellation has not been asked for."""
        where, params = _conditions(filter_, owner)
        where += [_UNFINISHED_STATES, "cancel_reason = 0"]
        rows = tx.rows(f"SELECT id FROM job WHERE {' AND '.join(where)} ORDER BY id LIMIT ?", (*params, limit))
        return [row[0] for row in rows]

    # Reads of the domain.

    def load(self, tx: ReadTx, job_ids: Sequence[str]) -> dict[str, Working]:
        """Returns jobs by id; those that do not exist are left out."""
        found: dict[str, Working] = {}
        for start in range(0, len(job_ids), _CHUNK):
            chunk = job_ids[start : start + _CHUNK]
            sql = f"SELECT id, todo, expanded, cancel_reason, message FROM job WHERE id IN ({_marks(chunk)})"
            found.update((row[0], self._working(row)) for row in tx.rows(sql, tuple(chunk)))
        return found

    def with_todo(self, tx: ReadTx, resource_id: str, limit: int) -> list[Working]:
        """Returns jobs of a resource that the reconciler has to do something for, oldest first."""
        sql = (
            "SELECT id, todo, expanded, cancel_reason, message FROM job"
            " WHERE todo > 0 AND resource_id = ? ORDER BY create_time, array_index LIMIT ?"
        )
        return [self._working(row) for row in tx.rows(sql, (resource_id, limit))]

    def unfinished_ids(self, tx: ReadTx, resource_id: str, after: str, limit: int) -> list[str]:
        """Returns ids of unfinished jobs of a resource that the engine has or had, in order of id."""
        sql = (
            f"SELECT id FROM job WHERE resource_id = ? AND {_UNFINISHED_STATES} AND todo IN (0, {int(Todo.CANCEL)})"
            " AND expanded < 0 AND id > ? ORDER BY id LIMIT ?"
        )
        return [row[0] for row in tx.rows(sql, (resource_id, after, limit))]

    def unfinished_elements(
        self, tx: ReadTx, array_job_id: str, not_canceled: bool = False, limit: int = 10_000
    ) -> list[str]:
        """Returns the ids of an array's unfinished elements, or of those whose end was not asked for."""
        more = "AND cancel_reason = 0" if not_canceled else ""
        sql = f"SELECT id FROM job WHERE array_job_id = ? AND {_UNFINISHED_STATES} {more} ORDER BY array_index LIMIT ?"
        return [row[0] for row in tx.rows(sql, (array_job_id, limit))]

    # Writes: every one of them appends to the event log in the same transaction.

    def insert(self, tx: Tx, working: Working, script: str = "") -> bytes:
        """Stores a new job; returns its message. The job's ``revision`` is the transaction's."""
        job = working.job
        message = self._codec.encode(job)
        tx.run(_INSERT, self._values(working, message))
        if script:
            tx.run("INSERT INTO job_script (job_id, script) VALUES (?, ?)", (job.id, script))
        self._set_labels(tx, job)
        self._append(tx, job, None, message)
        return message

    def update(self, tx: Tx, working: Working, before: Job) -> bytes:
        """Stores a changed job; returns its message. The job's ``revision`` is the transaction's."""
        job = working.job
        message = self._codec.encode(job)
        values = self._values(working, message)
        tx.run(_UPDATE, (*values[1:], values[0]))
        if job.spec.labels != before.spec.labels:
            tx.run("DELETE FROM job_label WHERE job_id = ?", (job.id,))
            self._set_labels(tx, job)
        self._append(tx, job, before, message)
        return message

    def set_todo(self, tx: Tx, job_ids: Iterable[str], done: Todo) -> None:
        """Marks something as done for jobs. Not a change that callers see."""
        for job_id in job_ids:
            tx.run("UPDATE job SET todo = todo & ? WHERE id = ?", (~int(done) & 0xFF, job_id))

    def set_expanded(self, tx: Tx, job_id: str, expanded: int, todo: Todo) -> None:
        """Records how many elements of an array are made. Not a change that callers see."""
        tx.run("UPDATE job SET expanded = ?, todo = ? WHERE id = ?", (expanded, int(todo), job_id))

    def _append(self, tx: Tx, job: Job, before: Job | None, message: bytes) -> None:
        change = self._codec.change(message, job.revision, before is None)
        tags = {f"job:{job.id}", f"owner:{job.owner}", f"resource:{job.resource_id}"}
        if job.array_job_id:
            tags.add(f"array:{job.array_job_id}")
        tx.append(TOPIC, job.id, change, frozenset(tags), attributes_of(job, before))

    def _set_labels(self, tx: Tx, job: Job) -> None:
        for key, value in job.spec.labels.items():
            tx.run("INSERT INTO job_label (key, value, job_id) VALUES (?, ?, ?)", (key, value, job.id))

    def _working(self, row: Sequence[object]) -> Working:
        _, todo, expanded, cancel_reason, message = row
        return Working(self._codec.decode(bytes(message)), Todo(todo), expanded, cancel_reason)  # type: ignore[arg-type]

    def _values(self, working: Working, message: bytes) -> tuple[object, ...]:
        job = working.job
        values = {
            "id": job.id,
            "resource_id": job.resource_id,
            "owner": job.owner,
            "project": job.spec.attributes.account,
            "name": job.spec.name,
            "state": int(job.status.state),
            "todo": int(working.todo),
            "array_job_id": job.array_job_id,
            "array_index": -1 if job.array_index is None else job.array_index,
            "create_time": int(job.create_time.timestamp() * 1_000_000),
            "revision": job.revision,
            # An array job counts the elements made; what reaches the engine itself has -1.
            "expanded": working.expanded if job.spec.array and not job.array_job_id else -1,
            "cancel_reason": working.cancel_reason,
            "message": message,
        }
        return tuple(values[column] for column in _COLUMNS)


def _conditions(filter_: JobFilter, owner: str | None) -> tuple[list[str], list[object]]:
    where: list[str] = []
    params: list[object] = []

    def any_of(column: str, values: Iterable[object]) -> None:
        chosen = sorted(values)  # type: ignore[type-var]
        if chosen:
            where.append(f"{column} IN ({_marks(chosen)})")
            params.extend(chosen)

    if owner is not None:
        where.append("owner = ?")
        params.append(owner)
    if filter_.job_ids:
        any_of("id", filter_.job_ids)
    else:
        where.append("array_job_id = ?")
        params.append(filter_.array_job_id)
    any_of("resource_id", filter_.resource_ids)
    any_of("project", filter_.project_ids)
    any_of("owner", filter_.owners)
    any_of("state", (int(state) for state in filter_.states))
    if filter_.name:
        where.append("name = ?")
        params.append(filter_.name)
    for key, value in filter_.labels:
        where.append("id IN (SELECT job_id FROM job_label WHERE key = ? AND value = ?)")
        params += [key, value]
    if filter_.created_from:
        where.append("create_time >= ?")
        params.append(int(filter_.created_from.timestamp() * 1_000_000))
    if filter_.created_to:
        where.append("create_time < ?")
        params.append(int(filter_.created_to.timestamp() * 1_000_000))
    return where, params


def _marks(values: Sequence[object]) -> str:
    return ", ".join("?" * len(values))
