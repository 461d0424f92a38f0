"""Tables and queries of the Jobs domain.

A job is kept as the serialized message that callers get, with the columns that lists and the reconciler search by
beside it. Building SQL takes peewee longer than running it takes the database, so queries are compiled once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import IntFlag
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

import peewee as pw

from openfacility_server.jobs.dependencies import Target
from openfacility_server.jobs.filters import JobFilter, attributes_of
from openfacility_server.jobs.model import Job, JobState
from openfacility_server.storage import ReadTx, Tx, compile_sql

TOPIC = "jobs"
# By number: what the enum does itself takes as long as reading a row.
_STATES = {state.value: state for state in JobState}
_CHUNK = 400  # bound parameters in one statement


class Todo(IntFlag):
    """What the reconciler still has to do for a job."""

    NOTHING = 0
    SUBMIT = 1
    CANCEL = 2
    EXPAND = 4
    # Beside SUBMIT: somebody began to hand it over, and may have got through.
    TRIED = 8


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


class JobComparison(pw.Model):
    """When the jobs of a resource were last compared with what its engine says; microseconds since 1970."""

    resource_id = pw.TextField(primary_key=True)
    time = pw.BigIntegerField()

    class Meta:
        table_name = "job_comparison"


class JobFollowing(pw.Model):
    """Up to when what came and went around this service on a resource is on record; microseconds since 1970."""

    resource_id = pw.TextField(primary_key=True)
    time = pw.BigIntegerField()

    class Meta:
        table_name = "job_following"


class Stored(NamedTuple):
    """A job's row as far as a reader needs it, undecoded."""

    id: str
    owner: str
    state: JobState
    revision: int
    message: bytes
    resource_id: str


_COLUMNS = tuple(JobRow._meta.sorted_field_names)  # noqa: SLF001 -- peewee's way to list a model's columns
_ROW = (JobRow.id, JobRow.owner, JobRow.state, JobRow.revision, JobRow.message, JobRow.resource_id)
_WORKING = (JobRow.id, JobRow.todo, JobRow.expanded, JobRow.cancel_reason, JobRow.message)
# Literal, not a parameter: the partial indexes are only used where the query says the same words.
_UNFINISHED = pw.SQL(f"state < {int(JobState.COMPLETED)}")
_HAS_TODO = pw.SQL("todo > 0")
_HANDED_OVER = pw.SQL(f"todo IN (0, {int(Todo.CANCEL)}) AND expanded < 0")

_INSERT = compile_sql(JobRow.insert(dict.fromkeys(_COLUMNS, "")))
_INSERT_LABEL = compile_sql(JobLabel.insert(key="", value="", job_id=""))
_INSERT_SCRIPT = compile_sql(JobScript.insert(job_id="", script=""))
_UPDATE = compile_sql(JobRow.update(dict.fromkeys(_COLUMNS[1:], "")).where(JobRow.id == ""))
_GET = compile_sql(JobRow.select(*_ROW).where(JobRow.id == ""))
_GET_WHOLE = compile_sql(
    JobRow.select(*_ROW, JobScript.script)
    .join(JobScript, pw.JOIN.LEFT_OUTER, on=(JobScript.job_id == JobRow.id))
    .where(JobRow.id == "")
)
_SCRIPT = compile_sql(JobScript.select(JobScript.script).where(JobScript.job_id == ""))
_COUNT_UNFINISHED = compile_sql(JobRow.select(pw.fn.COUNT(JobRow.id)).where((JobRow.owner == "") & _UNFINISHED))
_WITH_TODO = compile_sql(
    JobRow.select(*_WORKING)
    .where(_HAS_TODO & (JobRow.resource_id == ""))
    .order_by(JobRow.create_time, JobRow.array_index)
    .limit(1)
)
_UNFINISHED_IDS = compile_sql(
    JobRow.select(JobRow.id)
    .where(_UNFINISHED & (JobRow.resource_id == "") & (JobRow.id > "") & _HANDED_OVER)
    .order_by(JobRow.id)
    .limit(1)
)
_ELEMENTS = JobRow.select(JobRow.id).where((JobRow.array_job_id == "") & _UNFINISHED)
_ELEMENT_IDS = compile_sql(_ELEMENTS.order_by(JobRow.array_index).limit(1))
_ELEMENT_IDS_NOT_CANCELED = compile_sql(
    _ELEMENTS.where(pw.SQL("cancel_reason = 0")).order_by(JobRow.array_index).limit(1)
)
_ELEMENT_TO_SUBMIT = compile_sql(
    JobRow.select(JobRow.id).where((JobRow.array_job_id == "") & pw.SQL(f"todo & {int(Todo.SUBMIT)} > 0")).limit(1)
).replace("LIMIT ?", "LIMIT 1")
_UNSET_TODO = "UPDATE job SET todo = todo & ? WHERE id = ?"
_ADD_TODO = "UPDATE job SET todo = todo | ? WHERE id = ?"
_COMPARED = compile_sql(JobComparison.select(JobComparison.time).where(JobComparison.resource_id == ""))
_FOLLOWED = compile_sql(JobFollowing.select(JobFollowing.time).where(JobFollowing.resource_id == ""))


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
        return None if row is None else _stored(row)

    def whole(self, tx: ReadTx, job_id: str) -> tuple[Stored, str] | None:
        """Returns a job's row and its inline script, or an empty string, in one query."""
        row = tx.row(_GET_WHOLE, (job_id,))
        return None if row is None else (_stored(row), row[6] or "")

    def script(self, tx: ReadTx, job_id: str) -> str:
        """Returns a job's inline script, or an empty string."""
        return tx.value(_SCRIPT, (job_id,)) or ""

    def page(self, tx: ReadTx, filter_: JobFilter, owner: str | None, after: str, limit: int) -> list[Stored]:
        """Returns jobs that match, newest first (an array's elements by index), after the row ``after``."""
        terms = _terms(filter_, owner)
        if after:
            terms.append(("after_index", (int(after),)) if filter_.array_job_id else ("before_id", (after,)))
        sql = _page_sql(_shape(terms), bool(filter_.array_job_id))
        return [_stored(row) for row in tx.rows(sql, (*_params(terms), limit))]

    def count_unfinished(self, tx: ReadTx, owner: str) -> int:
        """Counts an owner's unfinished jobs, array elements included."""
        return int(tx.value(_COUNT_UNFINISHED, (owner,)))

    def matching_ids(self, tx: ReadTx, filter_: JobFilter, owner: str | None, limit: int) -> list[str]:
        """Returns the ids of unfinished jobs that match and whose cancellation has not been asked for."""
        terms = [*_terms(filter_, owner), ("cancelable", ())]
        return [row[0] for row in tx.rows(_page_sql(_shape(terms), False), (*_params(terms), limit))]

    # Reads of the domain.

    def load(self, tx: ReadTx, job_ids: Sequence[str]) -> dict[str, Working]:
        """Returns jobs by id; those that do not exist are left out."""
        found: dict[str, Working] = {}
        for start in range(0, len(job_ids), _CHUNK):
            chunk = job_ids[start : start + _CHUNK]
            found.update((row[0], self._working(row)) for row in tx.rows(_load_sql(len(chunk)), tuple(chunk)))
        return found

    def with_todo(self, tx: ReadTx, resource_id: str, limit: int) -> list[Working]:
        """Returns jobs of a resource that the reconciler has to do something for, oldest first."""
        return [self._working(row) for row in tx.rows(_WITH_TODO, (resource_id, limit))]

    def unfinished_ids(self, tx: ReadTx, resource_id: str, after: str, limit: int) -> list[str]:
        """Returns ids of unfinished jobs of a resource that were handed to the engine, in order of id."""
        return [row[0] for row in tx.rows(_UNFINISHED_IDS, (resource_id, after, limit))]

    def targets(self, tx: ReadTx, job_ids: Sequence[str]) -> dict[str, Target]:
        """Returns how jobs depended on stand; those that do not exist are left out."""
        found: dict[str, Target] = {}
        for start in range(0, len(job_ids), _CHUNK):
            chunk = job_ids[start : start + _CHUNK]
            for row in tx.rows(_load_sql(len(chunk)), tuple(chunk)):
                working = self._working(row)
                found[row[0]] = Target(working.job.status.state, self._handed_over(tx, working), working.job.native_id)
        return found

    def _handed_over(self, tx: ReadTx, working: Working) -> bool:
        array = working.job.spec.array
        if array is None or working.job.array_job_id or working.job.native_id:
            return not working.todo & Todo.SUBMIT
        # An array that was canceled while its elements were made never has them all.
        made = working.expanded == len(array.indices)
        return made and tx.value(_ELEMENT_TO_SUBMIT, (working.job.id,)) is None

    def compared(self, tx: ReadTx, resource_id: str) -> datetime | None:
        """Returns when the jobs of a resource were last compared with what its engine says."""
        return _moment(tx.value(_COMPARED, (resource_id,)))

    def followed(self, tx: ReadTx, resource_id: str) -> datetime | None:
        """Returns up to when what came and went around this service on a resource is on record."""
        return _moment(tx.value(_FOLLOWED, (resource_id,)))

    def unfinished_elements(
        self, tx: ReadTx, array_job_id: str, not_canceled: bool = False, limit: int = 10_000
    ) -> list[str]:
        """Returns the ids of an array's unfinished elements, or of those whose end was not asked for."""
        sql = _ELEMENT_IDS_NOT_CANCELED if not_canceled else _ELEMENT_IDS
        return [row[0] for row in tx.rows(sql, (array_job_id, limit))]

    # Writes: every one of them appends to the event log in the same transaction.

    def insert(self, tx: Tx, working: Working, script: str = "") -> bytes:
        """Stores a new job; returns its message. The job's ``revision`` is the transaction's."""
        job = working.job
        message = self._codec.encode(job)
        tx.run(_INSERT, self._values(working, message))
        if script:
            tx.run(_INSERT_SCRIPT, (job.id, script))
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
            tx.execute(JobLabel.delete().where(JobLabel.job_id == job.id))
            self._set_labels(tx, job)
        self._append(tx, job, before, message)
        return message

    def set_todo(self, tx: Tx, job_ids: Iterable[str], done: Todo) -> None:
        """Marks something as done for jobs. Not a change that callers see."""
        for job_id in job_ids:
            tx.run(_UNSET_TODO, (~int(done) & 0xFF, job_id))

    def add_todo(self, tx: Tx, job_ids: Iterable[str], todo: Todo) -> None:
        """Marks something for the reconciler. Not a change that callers see."""
        for job_id in job_ids:
            tx.run(_ADD_TODO, (int(todo), job_id))

    def set_compared(self, tx: Tx, resource_id: str, time: datetime) -> None:
        """Records when the jobs of a resource were compared with what its engine says."""
        _set_time(tx, JobComparison, resource_id, time)

    def set_followed(self, tx: Tx, resource_id: str, time: datetime) -> None:
        """Records up to when what came and went around this service on a resource is on record."""
        _set_time(tx, JobFollowing, resource_id, time)

    def set_expanded(self, tx: Tx, job_id: str, expanded: int, todo: Todo) -> None:
        """Records how many elements of an array are made. Not a change that callers see."""
        tx.execute(JobRow.update(expanded=expanded, todo=int(todo)).where(JobRow.id == job_id))

    def _append(self, tx: Tx, job: Job, before: Job | None, message: bytes) -> None:
        change = self._codec.change(message, job.revision, before is None)
        tags = {f"job:{job.id}", f"owner:{job.owner}", f"resource:{job.resource_id}"}
        if job.array_job_id:
            tags.add(f"array:{job.array_job_id}")
        tx.append(TOPIC, job.id, change, frozenset(tags), attributes_of(job, before))

    def _set_labels(self, tx: Tx, job: Job) -> None:
        for key, value in job.spec.labels.items():
            tx.run(_INSERT_LABEL, (key, value, job.id))

    def _working(self, row: Sequence[Any]) -> Working:
        _, todo, expanded, cancel_reason, message = row
        return Working(self._codec.decode(bytes(message)), Todo(todo), expanded, cancel_reason)

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
            "create_time": _micros(job.create_time),
            "revision": job.revision,
            # An array job counts the elements made; what reaches the engine itself has -1.
            "expanded": working.expanded if job.spec.array and not job.array_job_id else -1,
            "cancel_reason": working.cancel_reason,
            "message": message,
        }
        return tuple(values[column] for column in _COLUMNS)


def _stored(row: Sequence[Any]) -> Stored:
    return Stored(row[0], row[1], _STATES[row[2]], row[3], bytes(row[4]), row[5])


# A condition's name and the values that it is about.
_Term = tuple[str, tuple[Any, ...]]

_EXPRESSIONS: Mapping[str, Callable[[int], Any]] = {
    "owner": lambda _: JobRow.owner == "",
    "array": lambda _: JobRow.array_job_id == "",
    # The same, hidden from the planner, where another index finds fewer jobs than job_by_owner and job_by_array.
    "array_of_few": lambda _: JobRow.array_job_id + pw.SQL("''") == "",
    "unfinished": lambda _: _UNFINISHED,
    "no_element": lambda _: pw.SQL("array_index = -1"),
    "ids": lambda count: JobRow.id.in_([""] * count),
    "resources": lambda count: JobRow.resource_id.in_([""] * count),
    "projects": lambda count: JobRow.project.in_([""] * count),
    "owners": lambda count: JobRow.owner.in_([""] * count),
    "states": lambda count: JobRow.state.in_([0] * count),
    "name": lambda _: JobRow.name == "",
    "label": lambda _: JobRow.id.in_(
        JobLabel.select(JobLabel.job_id).where((JobLabel.key == "") & (JobLabel.value == ""))
    ),
    "created_from": lambda _: JobRow.create_time >= 0,
    "created_to": lambda _: JobRow.create_time < 0,
    "before_id": lambda _: JobRow.id < "",
    "after_index": lambda _: JobRow.array_index > 0,
    "cancelable": lambda _: _UNFINISHED & pw.SQL("cancel_reason = 0"),
}


def _terms(filter_: JobFilter, owner: str | None) -> list[_Term]:
    """Returns the conditions that a filter, and what the caller may see, put on jobs."""
    terms: list[_Term] = []
    if owner is not None:
        terms.append(("owner", (owner,)))
    unfinished = bool(filter_.states) and not any(state.final for state in filter_.states)
    few = not filter_.array_job_id and (unfinished if owner else bool(filter_.labels))
    if filter_.job_ids:
        terms.append(("ids", tuple(sorted(filter_.job_ids))))
    else:
        terms.append(("array_of_few" if few else "array", (filter_.array_job_id,)))
    if unfinished:
        terms.append(("unfinished", ()))
    if not (
        owner or filter_.job_ids or filter_.array_job_id or filter_.owners or filter_.project_ids or filter_.labels
    ):
        # It says nothing new, but with it job_by_array has the newest first, and nothing needs to be sorted. Where
        # another index finds fewer jobs, it would mislead the planner.
        terms.append(("no_element", ()))
    sets = {
        "resources": filter_.resource_ids,
        "projects": filter_.project_ids,
        "owners": filter_.owners,
        "states": {int(state) for state in filter_.states},
    }
    terms += [(name, tuple(sorted(values))) for name, values in sets.items() if values]
    if filter_.name:
        terms.append(("name", (filter_.name,)))
    terms += [("label", label) for label in filter_.labels]
    if filter_.created_from:
        terms.append(("created_from", (_micros(filter_.created_from),)))
    if filter_.created_to:
        terms.append(("created_to", (_micros(filter_.created_to),)))
    return terms


def _shape(terms: Sequence[_Term]) -> tuple[tuple[str, int], ...]:
    return tuple((name, len(values)) for name, values in terms)


def _params(terms: Sequence[_Term]) -> Iterator[Any]:
    return (value for _, values in terms for value in values)


@lru_cache(maxsize=512)
def _page_sql(shape: tuple[tuple[str, int], ...], by_index: bool) -> str:
    """Compiles a list's query once for each combination of conditions."""
    query = JobRow.select(*_ROW)
    for name, count in shape:
        query = query.where(_EXPRESSIONS[name](count))
    return compile_sql(query.order_by(JobRow.array_index if by_index else JobRow.id.desc()).limit(1))


@lru_cache(maxsize=_CHUNK)
def _load_sql(count: int) -> str:
    return compile_sql(JobRow.select(*_WORKING).where(JobRow.id.in_([""] * count)))


def _set_time(tx: Tx, model: type[JobComparison | JobFollowing], resource_id: str, time: datetime) -> None:
    row = {"resource_id": resource_id, "time": _micros(time)}
    insert = model.insert(row).on_conflict(conflict_target=[model.resource_id], update={model.time: _micros(time)})
    tx.execute(insert)


def _micros(moment: datetime) -> int:
    return (moment - datetime.fromtimestamp(0, UTC)) // timedelta(microseconds=1)


def _moment(micros: Any) -> datetime | None:
    return None if micros is None else datetime.fromtimestamp(0, UTC) + timedelta(microseconds=int(micros))
