"""Tables and queries of the Status domain.

Resources, incidents and events are kept as the serialized messages that callers get, with the columns that lists search
by beside them. Facts that the current status is worked out from (what probes and operators said, which incidents go on)
are rows of their own. Times are microseconds since 1970; an end that nobody knows is ``FOREVER``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, Protocol

import peewee as pw

from openfacility_server.status.model import CurrentStatus, Event, Incident, Resource, Source, Status, Word
from openfacility_server.status.tables import (
    AuditRow,
    CapabilityRow,
    DescriptionRow,
    EventRow,
    ImpactRow,
    IncidentRow,
    ResourceRow,
    WordRow,
)
from openfacility_server.storage import ReadTx, Tx, compile_sql

TOPIC = "status"
FOREVER = 1 << 62
_EPOCH = datetime.fromtimestamp(0, UTC)
_CHUNK = 400
_MOST_PARTS = 8


class Codec(Protocol):
    """Serializes what callers get; the domain does not know how."""

    def resource(self, resource: Resource, current: CurrentStatus, update_time: datetime, revision: int) -> bytes: ...
    def current(self, data: bytes) -> CurrentStatus: ...
    def incident(self, incident: Incident) -> bytes: ...
    def read_incident(self, data: bytes) -> Incident: ...
    def event(self, event: Event) -> bytes: ...
    def read_event(self, data: bytes) -> Event: ...
    def change(self, kind: str, data: bytes, revision: int, type_: str) -> bytes: ...


_OPEN = pw.SQL("resolution < 4")


def micros(moment: datetime | None) -> int:
    """Returns a time as kept; None as FOREVER."""
    return FOREVER if moment is None else (moment - _EPOCH) // timedelta(microseconds=1)


def moment(value: int) -> datetime | None:
    """Returns a kept time."""
    return None if value >= FOREVER else _EPOCH + timedelta(microseconds=value)


def known_time(value: int) -> datetime:
    """Returns a kept time that is known."""
    return _EPOCH + timedelta(microseconds=value)


def gist(current: CurrentStatus) -> str:
    """Returns all of a status but since when, for comparison."""
    parts = (str(int(current.status)), str(int(current.source)), current.incident_id, current.because_of_resource_id)
    return "|".join((*parts, current.reason))


@dataclass(frozen=True, slots=True)
class Stored:
    """A resource as stored: its status, and its message as of its own change time and revision."""

    current: CurrentStatus
    update_time: datetime
    revision: int
    message: bytes


@dataclass(frozen=True, slots=True)
class Row:
    """A row as far as a page needs it; ``key`` continues the list after it."""

    key: str
    message: bytes
    revision: int = 0

    @property
    def id(self) -> str:
        """Which one it is."""
        return self.key.rpartition("/")[2]


# A condition's name and the values that it is about.
Term = tuple[str, tuple[Any, ...]]

_RESOURCE_CONDITIONS: Mapping[str, Callable[[int], Any]] = {
    "ids": lambda n: ResourceRow.id.in_([""] * n),
    "after": lambda _: ResourceRow.id > "",
    "name": lambda _: ResourceRow.name == "",
    "description": lambda _: pw.SQL("lower(t1.description) LIKE ? ESCAPE '!'", ("",)),
    "group": lambda _: ResourceRow.group_name == "",
    "type": lambda _: pw.SQL(
        "(t1.resource_type = ? OR t1.resource_type LIKE ? ESCAPE '!' OR t1.type_word = ?)", ("",) * 3
    ),
    "sites": lambda n: ResourceRow.site_id.in_([""] * n),
    "statuses": lambda n: ResourceRow.status.in_([0] * n),
    "capabilities": lambda n: ResourceRow.id.in_(
        CapabilityRow.select(CapabilityRow.resource_id).where(CapabilityRow.capability_id.in_([""] * n))
    ),
    "modified": lambda _: ResourceRow.update_time >= 0,
}
_INCIDENT_CONDITIONS: Mapping[str, Callable[[int], Any]] = {
    "ids": lambda n: IncidentRow.id.in_([""] * n),
    "after": lambda _: pw.SQL("(t1.start_time < ? OR (t1.start_time = ? AND t1.id < ?))", (0, 0, "")),
    "text": lambda _: pw.SQL("t1.text LIKE ? ESCAPE '!'", ("",)),
    "resources": lambda n: IncidentRow.id.in_(
        ImpactRow.select(ImpactRow.incident_id).where(ImpactRow.resource_id.in_([""] * n))
    ),
    "types": lambda n: IncidentRow.type.in_([0] * n),
    "statuses": lambda n: IncidentRow.status.in_([0] * n),
    "resolutions": lambda n: IncidentRow.resolution.in_([0] * n),
    "open": lambda _: _OPEN,
    "ends_after": lambda _: IncidentRow.end_time > 0,
    "starts_before": lambda _: IncidentRow.start_time < 0,
    "starts_from": lambda _: IncidentRow.start_time >= 0,
    "modified": lambda _: IncidentRow.update_time >= 0,
    "series": lambda _: IncidentRow.series_id == "",
    "uid": lambda _: IncidentRow.calendar_uid == "",
    "uid_prefix": lambda _: pw.SQL("(t1.calendar_uid <> '' AND t1.calendar_uid LIKE ? ESCAPE '!')", ("",)),
}
_EVENT_CONDITIONS: Mapping[str, Callable[[int], Any]] = {
    "after": lambda _: pw.SQL("(t1.occur_time < ? OR (t1.occur_time = ? AND t1.id < ?))", (0, 0, "")),
    "resources": lambda n: EventRow.resource_id.in_([""] * n),
    "incident": lambda _: EventRow.incident_id == "",
    "statuses": lambda n: EventRow.status.in_([0] * n),
    "from": lambda _: EventRow.occur_time >= 0,
    "to": lambda _: EventRow.occur_time < 0,
}


def contains(text: str) -> str:
    """Returns the LIKE pattern of what contains a text, in any case."""
    return f"%{_escaped(text.lower())}%"


def below(urn: str) -> str:
    """Returns the LIKE pattern of the types below a type."""
    return f"{_escaped(urn)}:%"


def _escaped(text: str) -> str:
    return "".join(f"!{char}" if char in "!%_" else char for char in text)


def _chunks(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    return (ids[start : start + _CHUNK] for start in range(0, len(ids), _CHUNK))


def _marks(values: Sequence[Any]) -> str:
    return ", ".join("?" * len(values))


def _shape(terms: Sequence[Term]) -> tuple[tuple[str, int], ...]:
    return tuple((name, len(values)) for name, values in terms)


def _params(terms: Sequence[Term]) -> Iterator[Any]:
    return (value for _, values in terms for value in values)


def _where(query: Any, conditions: Mapping[str, Callable[[int], Any]], shape: tuple[tuple[str, int], ...]) -> Any:
    for name, count in shape:
        query = query.where(conditions[name](count))
    return query


@lru_cache(maxsize=256)
def _resources_sql(shape: tuple[tuple[str, int], ...]) -> str:
    query = ResourceRow.select(ResourceRow.id, ResourceRow.message, ResourceRow.revision)
    return compile_sql(_where(query, _RESOURCE_CONDITIONS, shape).order_by(ResourceRow.id).limit(1))


@lru_cache(maxsize=256)
def _incidents_sql(shape: tuple[tuple[str, int], ...], soonest: bool) -> str:
    query = IncidentRow.select(IncidentRow.start_time, IncidentRow.id, IncidentRow.message, IncidentRow.revision)
    query = _where(query, _INCIDENT_CONDITIONS, shape)
    if soonest:
        return compile_sql(query.order_by(IncidentRow.start_time, IncidentRow.id).limit(1))
    return compile_sql(query.order_by(IncidentRow.start_time.desc(), IncidentRow.id.desc()).limit(1))


@lru_cache(maxsize=256)
def _events_sql(shape: tuple[tuple[str, int], ...]) -> str:
    query = EventRow.select(EventRow.occur_time, EventRow.id, EventRow.message)
    query = _where(query, _EVENT_CONDITIONS, shape)
    return compile_sql(query.order_by(EventRow.occur_time.desc(), EventRow.id.desc()).limit(1))


@lru_cache(maxsize=256)
def _some_events_sql(shape: tuple[tuple[str, int], ...], parts: int) -> str:
    """The newest of the newest of each part: an index gives each in order, and none of all of them together."""
    query = _where(EventRow.select(EventRow.occur_time, EventRow.id), _EVENT_CONDITIONS, shape)
    part = compile_sql(query.order_by(EventRow.occur_time.desc(), EventRow.id.desc()).limit(1))
    together = " UNION ALL ".join(f"SELECT * FROM ({part}) AS part{number}" for number in range(parts))  # noqa: S608
    return (
        "SELECT e.occur_time, e.id, e.message FROM "  # noqa: S608
        f"(SELECT occur_time, id FROM ({together}) AS parts ORDER BY occur_time DESC, id DESC LIMIT ?) AS newest "
        "JOIN status_event e ON e.id = newest.id ORDER BY e.occur_time DESC, e.id DESC"
    )


def _split(terms: Sequence[Term]) -> list[Sequence[Term]]:
    """Divides a query for events at its first term of few values, into one for each."""
    names = {name for name, _ in terms}
    for index, (name, values) in enumerate(terms):
        if name in ("resources", "statuses") and 1 < len(values) <= _MOST_PARTS and "incident" not in names:
            return [[*terms[:index], (name, (value,)), *terms[index + 1 :]] for value in values]
    return [terms]


_RESOURCE = compile_sql(ResourceRow.select(ResourceRow.message).where(ResourceRow.id == ""))
_INCIDENT = compile_sql(IncidentRow.select(IncidentRow.message).where(IncidentRow.id == ""))
_EVENT = compile_sql(EventRow.select(EventRow.message, EventRow.occur_time).where(EventRow.id == ""))
_DUE = """
SELECT min(due) FROM (
  SELECT min(start_time) AS due FROM status_incident WHERE resolution < 4 AND resolution = 2
  UNION ALL SELECT min(end_time) FROM status_incident WHERE resolution < 4 AND resolution <> 2
  UNION ALL SELECT min(until) FROM status_word
  UNION ALL SELECT min(moment) FROM status_unsettled
) AS dues"""
# Resources that are not simply as their probe says, up: all that something may have to be worked out for.
_CONCERNED = """
SELECT r.id FROM status_resource r LEFT JOIN status_word w ON w.resource_id = r.id AND w.source = 1
WHERE r.gist <> CASE WHEN w.status IS NULL THEN '1|0|||' WHEN w.status = 1 AND w.reason = '' THEN '1|1|||' ELSE '' END
UNION SELECT resource_id FROM status_word WHERE source = 2"""
_INSERT_RESOURCE = (
    "INSERT INTO status_resource (id, name, description, group_name, resource_type, type_word, site_id, status, since, "
    "gist, update_time, revision, message) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_INSERT_CAPABILITY = "INSERT INTO status_capability (capability_id, resource_id) VALUES (?, ?)"
_INSERT_EVENT = (
    "INSERT INTO status_event (id, resource_id, incident_id, status, occur_time, message) VALUES (?, ?, ?, ?, ?, ?)"
)
_INSERT_IMPACT = "INSERT INTO status_impact (resource_id, incident_id) VALUES (?, ?)"


class StatusStore:
    """All reads and writes of Status. Methods run inside a transaction that the caller opened."""

    def __init__(self, codec: Codec) -> None:
        self._codec = codec

    # Reads of callers.

    def resource(self, tx: ReadTx, resource_id: str) -> bytes | None:
        """Returns a resource's message."""
        value = tx.value(_RESOURCE, (resource_id,))
        return None if value is None else bytes(value)

    def incident(self, tx: ReadTx, incident_id: str) -> bytes | None:
        """Returns an incident's message."""
        value = tx.value(_INCIDENT, (incident_id,))
        return None if value is None else bytes(value)

    def event(self, tx: ReadTx, event_id: str) -> tuple[bytes, int] | None:
        """Returns an event's message and when it happened."""
        row = tx.row(_EVENT, (event_id,))
        return None if row is None else (bytes(row[0]), row[1])

    def resources(self, tx: ReadTx, terms: Sequence[Term], limit: int) -> list[Row]:
        """Returns resources that match, by id."""
        return [Row(r[0], bytes(r[1]), r[2]) for r in tx.rows(_resources_sql(_shape(terms)), (*_params(terms), limit))]

    def incidents(self, tx: ReadTx, terms: Sequence[Term], limit: int, *, soonest: bool = False) -> list[Row]:
        """Returns incidents that match, newest start first, or oldest."""
        rows = tx.rows(_incidents_sql(_shape(terms), soonest), (*_params(terms), limit))
        return [Row(f"{r[0]}/{r[1]}", bytes(r[2]), r[3]) for r in rows]

    def events(self, tx: ReadTx, terms: Sequence[Term], limit: int) -> list[Row]:
        """Returns events that match, newest first."""
        parts = _split(terms)
        if len(parts) > 1:
            values = [value for part in parts for value in (*_params(part), limit)]
            rows = tx.rows(_some_events_sql(_shape(parts[0]), len(parts)), (*values, limit))
        else:
            rows = tx.rows(_events_sql(_shape(terms)), (*_params(terms), limit))
        return [Row(f"{r[0]}/{r[1]}", bytes(r[2])) for r in rows]

    def descriptions(self, tx: ReadTx, kind: str) -> list[tuple[str, str, str, int, bytes]]:
        """Returns id, name, short name, change time and message of the descriptions of a kind, by id."""
        query = DescriptionRow.select(
            DescriptionRow.id,
            DescriptionRow.name,
            DescriptionRow.short_name,
            DescriptionRow.update_time,
            DescriptionRow.message,
        ).where(DescriptionRow.kind == kind)
        return [(r[0], r[1], r[2], r[3], bytes(r[4])) for r in tx.execute(query.order_by(DescriptionRow.id).tuples())]

    def counts(self, tx: ReadTx) -> list[tuple[str, Status, int]]:
        """Returns how many resources of each site are in each status."""
        rows = tx.rows("SELECT site_id, status, count(*) FROM status_resource GROUP BY site_id, status")
        return [(row[0], Status(row[1]), row[2]) for row in rows]

    # Reads of the domain.

    def load_incident(self, tx: ReadTx, incident_id: str) -> Incident | None:
        """Returns one incident."""
        data = self.incident(tx, incident_id)
        return None if data is None else self._codec.read_incident(data)

    def find_incidents(
        self, tx: ReadTx, terms: Sequence[Term], limit: int = 10_000, *, soonest: bool = False
    ) -> list[Incident]:
        """Returns incidents that match, newest start first, or oldest."""
        return [self._codec.read_incident(row.message) for row in self.incidents(tx, terms, limit, soonest=soonest)]

    def find_events(self, tx: ReadTx, terms: Sequence[Term], limit: int = 10_000) -> list[Event]:
        """Returns events that match, newest first."""
        return [self._codec.read_event(row.message) for row in self.events(tx, terms, limit)]

    def words(self, tx: ReadTx, source: Source, resource_ids: Sequence[str] | None = None) -> dict[str, Word]:
        """Returns what probes or operators last said, by resource: of all, or of some."""
        sql = "SELECT resource_id, status, since, until, reason, incident_id FROM status_word WHERE source = ?"
        rows: list[Any] = []
        if resource_ids is None:
            rows = tx.rows(sql, (int(source),))
        for ids in _chunks(resource_ids or ()):
            rows += tx.rows(f"{sql} AND resource_id IN ({_marks(ids)})", (int(source), *ids))
        return {
            row[0]: Word(Status(row[1]), _EPOCH + timedelta(microseconds=row[2]), row[4], moment(row[3]), row[5])
            for row in rows
        }

    def gists(self, tx: ReadTx, resource_ids: Sequence[str]) -> dict[str, str]:
        """Returns the gist of the stored status of resources; those that do not exist are left out."""
        found: dict[str, str] = {}
        for ids in _chunks(resource_ids):
            found.update(tx.rows(f"SELECT id, gist FROM status_resource WHERE id IN ({_marks(ids)})", ids))  # noqa: S608
        return found

    def resource_ids(self, tx: ReadTx) -> list[str]:
        """Returns the ids of all stored resources."""
        return [row[0] for row in tx.rows("SELECT id FROM status_resource")]

    def concerned(self, tx: ReadTx) -> list[str]:
        """Returns the resources that are not up, or of whose status something was said that is not stored yet."""
        return [row[0] for row in tx.rows(_CONCERNED)]

    def unsettled(self, tx: ReadTx) -> datetime | None:
        """Returns the moment of which some changes are left to record."""
        value = tx.value("SELECT moment FROM status_unsettled")
        return None if value is None else known_time(value)

    def current(self, tx: ReadTx, resource_id: str) -> CurrentStatus | None:
        """Returns a resource's stored status."""
        message = self.resource(tx, resource_id)
        return None if message is None else self._codec.current(message)

    def described(self, tx: ReadTx, resource_ids: Sequence[str]) -> dict[str, Stored]:
        """Returns stored resources by id; those that do not exist are left out."""
        found: dict[str, Stored] = {}
        for start in range(0, len(resource_ids), _CHUNK):
            chunk = resource_ids[start : start + _CHUNK]
            query = ResourceRow.select(
                ResourceRow.id, ResourceRow.update_time, ResourceRow.revision, ResourceRow.message
            ).where(ResourceRow.id.in_(list(chunk)))
            for row in tx.execute(query.tuples()):
                message = bytes(row[3])
                found[row[0]] = Stored(self._codec.current(message), known_time(row[1]), row[2], message)
        return found

    def same_description(self, resource: Resource, stored: Stored) -> bool:
        """Whether a resource, made again as of its last change, is what is stored."""
        return self._codec.resource(resource, stored.current, stored.update_time, stored.revision) == stored.message

    def next_due(self, tx: ReadTx) -> datetime | None:
        """Returns when the next incident begins or ends or an operator's word runs out."""
        due = tx.value(_DUE)
        return None if due is None else moment(due)

    # Writes: what callers see is appended to the event log in the same transaction.

    def put_unsettled(self, tx: Tx, left: datetime | None) -> None:
        """Stores the moment of which some changes are left to record."""
        tx.run("DELETE FROM status_unsettled")
        if left is not None:
            tx.run("INSERT INTO status_unsettled (id, moment) VALUES (1, ?)", (micros(left),))

    def put_description(
        self, tx: Tx, kind: str, id_: str, names: tuple[str, str], message: bytes, now: datetime, revision: int
    ) -> None:
        """Stores the facility's or a site's description."""
        known = tx.execute(DescriptionRow.delete().where((DescriptionRow.kind == kind) & (DescriptionRow.id == id_)))
        tx.execute(
            DescriptionRow.insert(
                kind=kind, id=id_, name=names[0], short_name=names[1], update_time=micros(now), message=message
            )
        )
        self._append(tx, kind, id_, message, revision, "TYPE_UPDATED" if known else "TYPE_CREATED", (), {})

    def remove_description(self, tx: Tx, kind: str, id_: str, message: bytes, revision: int) -> None:
        """Forgets a site."""
        tx.execute(DescriptionRow.delete().where((DescriptionRow.kind == kind) & (DescriptionRow.id == id_)))
        self._append(tx, kind, id_, message, revision, "TYPE_DELETED", (), {})

    def put_resource(
        self, tx: Tx, resource: Resource, current: CurrentStatus, now: datetime, *, new: bool, described: bool
    ) -> bytes:
        """Stores a resource with its status; ``described`` is whether its description may have changed too."""
        revision = tx.revision()
        message = self._codec.resource(resource, current, now, revision)
        if new or described:
            if not new:
                self._forget(tx, resource.id)
            row = (
                resource.id,
                resource.name,
                resource.description,
                resource.group,
                resource.resource_type,
                resource.type_word,
                resource.site_id,
                int(current.status),
                micros(current.since),
                gist(current),
                micros(now),
                revision,
                message,
            )
            tx.run(_INSERT_RESOURCE, row)
            for capability_id in set(resource.capability_ids):
                tx.run(_INSERT_CAPABILITY, (capability_id, resource.id))
        else:
            values = (int(current.status), micros(current.since), gist(current), micros(now), revision, message)
            tx.run(_UPDATE_RESOURCE, (*values, resource.id))
        kind = "TYPE_CREATED" if new else "TYPE_UPDATED"
        self._append(tx, "resource", resource.id, message, revision, kind, (resource.id,), {})
        return message

    def remove_resource(self, tx: Tx, resource_id: str) -> None:
        """Forgets a resource that is no longer described; its history stays."""
        message = self.resource(tx, resource_id) or b""
        self._forget(tx, resource_id)
        tx.execute(WordRow.delete().where(WordRow.resource_id == resource_id))
        self._append(tx, "resource", resource_id, message, tx.revision(), "TYPE_DELETED", (resource_id,), {})

    def put_word(self, tx: Tx, resource_id: str, source: Source, word: Word | None) -> None:
        """Stores what a probe or an operator says, or that they take it back."""
        tx.execute(WordRow.delete().where((WordRow.resource_id == resource_id) & (WordRow.source == int(source))))
        if word is not None:
            tx.execute(
                WordRow.insert(
                    resource_id=resource_id,
                    source=int(source),
                    status=int(word.status),
                    since=micros(word.since),
                    until=micros(word.until),
                    reason=word.reason,
                    incident_id=word.incident_id,
                )
            )

    def incident_size(self, incident: Incident) -> int:
        """Returns how many bytes an incident takes."""
        return len(self._codec.incident(incident))

    def put_incident(self, tx: Tx, incident: Incident, before: Incident | None) -> bytes:
        """Stores an incident; its ``revision`` is the transaction's."""
        message = self._codec.incident(incident)
        values = {
            "type": int(incident.type),
            "status": int(incident.status),
            "resolution": int(incident.resolution),
            "start_time": micros(incident.start_time),
            "end_time": micros(incident.end_time),
            "update_time": micros(incident.update_time),
            "series_id": incident.series_id,
            "calendar_uid": incident.calendar_uid,
            "text": f"{incident.name}\n{incident.description}".lower(),
            "revision": incident.revision,
            "message": message,
        }
        if before is None:
            tx.execute(IncidentRow.insert(id=incident.id, **values))
        else:
            tx.execute(IncidentRow.update(**values).where(IncidentRow.id == incident.id))
        impacted = incident.impacted_resource_ids
        if before is None or before.impacted_resource_ids != impacted:
            tx.execute(ImpactRow.delete().where(ImpactRow.incident_id == incident.id))
            for resource_id in impacted:
                tx.run(_INSERT_IMPACT, (resource_id, incident.id))
        seen = tuple(sorted(set(impacted) | set(before.impacted_resource_ids if before else ())))
        kind = "TYPE_UPDATED" if before else "TYPE_CREATED"
        self._append(
            tx, "incident", incident.id, message, incident.revision, kind, seen, {"over": incident.resolution.over}
        )
        return message

    def add_event(self, tx: Tx, event: Event) -> bytes:
        """Stores an event; its ``revision`` is the transaction's."""
        message = self._codec.event(event)
        time = micros(event.occur_time)
        tx.run(_INSERT_EVENT, (event.id, event.resource_id, event.incident_id, int(event.status), time, message))
        self._append(tx, "event", event.id, message, event.revision, "TYPE_CREATED", (event.resource_id,), {})
        return message

    def audit(self, tx: Tx, id_: str, now: datetime, who: tuple[str, str, str], subject: str, text: str) -> None:
        """Writes down who changed what; ``who`` is name, method and request id."""
        tx.execute(
            AuditRow.insert(
                id=id_, time=micros(now), username=who[0], method=who[1], request_id=who[2], subject=subject, text=text
            )
        )

    def was_changed_by_operator(self, tx: ReadTx, incident_id: str) -> bool:
        """Whether an operator ever changed an incident."""
        return tx.value("SELECT 1 FROM audit WHERE subject = ? LIMIT 1", (incident_id,)) is not None

    def _forget(self, tx: Tx, resource_id: str) -> None:
        tx.execute(ResourceRow.delete().where(ResourceRow.id == resource_id))
        tx.execute(CapabilityRow.delete().where(CapabilityRow.resource_id == resource_id))

    def _append(
        self,
        tx: Tx,
        kind: str,
        id_: str,
        message: bytes,
        revision: int,
        type_: str,
        resource_ids: Iterable[str],
        attributes: Mapping[str, Any],
    ) -> None:
        ids = list(resource_ids)
        # What concerns many wakes everyone, and each watch decides by the attributes.
        tags = {f"resource:{resource_id}" for resource_id in ids} if len(ids) <= _MOST_TAGS else {"resource:*"}
        change = self._codec.change(kind, message, revision, type_)
        tx.append(TOPIC, f"{kind}:{id_}", change, frozenset(tags), {"kind": kind, "resources": ids, **attributes})


_MOST_TAGS = 50
_UPDATE_RESOURCE = compile_sql(
    ResourceRow.update(status=0, since=0, gist="", update_time=0, revision=0, message=b"").where(ResourceRow.id == "")
)
