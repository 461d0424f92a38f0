"""What operators do: declare, plan, change, end, note, and say how a resource is. Every change is audited."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from openfacility_server.auth.principal import Principal
from openfacility_server.errors import Aborted, FailedPrecondition, InvalidArgument, NotFound, Violation, invalid
from openfacility_server.idempotency import Mutation, mutate
from openfacility_server.ids import IdMaker
from openfacility_server.status.board import Board
from openfacility_server.status.calendar import Planned, incident_id_of
from openfacility_server.status.graph import BATCH_SYSTEM, PROBE
from openfacility_server.status.model import (
    Incident,
    IncidentType,
    Note,
    Resolution,
    Severity,
    Source,
    Status,
    Word,
)
from openfacility_server.status.store import StatusStore
from openfacility_server.storage import Storage, Tx

_LONGEST_INCIDENT = timedelta(days=366)
_FURTHEST = timedelta(days=3660)
_MOST_NOTES = 1000
# An incident is one entry of the log, and grows a little when it begins and ends.
_MOST_BYTES = 900_000
_MOST_BYTES_TOGETHER = 2 << 20

UPDATABLE = frozenset({"name", "description", "severity", "status", "resource_ids", "start_time", "end_time"})


@dataclass(frozen=True, slots=True)
class Draft:
    """An incident as an operator asks for it; ``where`` is the path of its fields in the request."""

    type: IncidentType
    name: str
    status: Status
    resource_ids: tuple[str, ...]
    start_time: datetime | None = None
    end_time: datetime | None = None
    description: str = ""
    severity: Severity = Severity.MINOR
    calendar_uid: str = ""
    series_id: str = ""
    where: str = "incident."


class Operating:
    """Changes incidents and operators' words."""

    def __init__(self, facility_id: str, storage: Storage, store: StatusStore, board: Board, new_id: IdMaker) -> None:
        self._facility_id = facility_id
        self._storage = storage
        self._store = store
        self._board = board
        self._new_id = new_id

    async def declare(
        self,
        principal: Principal,
        drafts: Sequence[Draft],
        note: str,
        wanted: Mutation,
        audit: tuple[str, str, str],
        respond: Callable[[Sequence[bytes]], bytes],
    ) -> bytes:
        """Declares or plans incidents, all or none; returns ``respond`` of their messages."""

        def effect(tx: Tx) -> bytes:
            self._board.settle(tx)
            made = []
            left = _MOST_BYTES_TOGETHER
            for draft in drafts:
                incident_id, size = self.add(tx, principal.username, draft, note)
                made.append(incident_id)
                left -= size
                if left < 0:
                    raise _too_large(f"{draft.where}resource_ids", "are too many for so many incidents; name fewer")
            self._board.settle(tx)
            self._audit(tx, audit, ",".join(made)[:1000], f"declared: {drafts[0].name}" if drafts else "nothing")
            return respond([self._message(tx, incident_id) for incident_id in made])

        return await mutate(self._storage, wanted, effect)

    def add(self, tx: Tx, author: str, draft: Draft, note: str = "") -> tuple[str, int]:
        """Stores one incident in a transaction; returns its id and size. The board is not settled by this."""
        now = self._board.now()
        draft = self._checked(draft, now)
        start = draft.start_time or now
        incident = Incident(
            id=self._new_id(),
            type=draft.type,
            name=draft.name,
            description=draft.description,
            status=draft.status,
            severity=draft.severity,
            start_time=start,
            end_time=draft.end_time,
            # It begins, and ends, when the board passes these moments.
            resolution=Resolution.PENDING,
            resource_ids=draft.resource_ids,
            impacted_resource_ids=self._impacted(draft.type, draft.resource_ids),
            notes=(Note(now, author, note),) if note else (),
            # The names of those that are no users are nobody's.
            declared_by=f"{author} (user)" if author in (PROBE, BATCH_SYSTEM) else author,
            series_id=draft.series_id,
            calendar_uid=draft.calendar_uid,
            create_time=now,
            update_time=now,
            revision=tx.revision(),
        )
        return incident.id, self._put(tx, incident, None, f"{draft.where}resource_ids")

    def _put(self, tx: Tx, incident: Incident, before: Incident | None, field: str) -> int:
        """Stores an incident that is not too large; returns its size."""
        size = self._store.incident_size(incident)
        if size > _MOST_BYTES:
            raise _too_large(field, f"the incident is {size} bytes large; at most {_MOST_BYTES} can be")
        self._store.put_incident(tx, incident, before)
        return size

    def new_series(self) -> str:
        """Returns an id for the occurrences of a recurring maintenance."""
        return self._new_id()

    async def take_calendar(
        self,
        principal: Principal,
        planned: Sequence[Planned],
        wanted: Mutation,
        audit: tuple[str, str, str],
        respond: Callable[[Sequence[bytes]], bytes],
    ) -> bytes:
        """Plans what a calendar says, all or none: new, changed or called off by its UID."""

        def effect(tx: Tx) -> bytes:
            self._board.settle(tx)
            series: dict[str, str] = {}
            touched = [self._take(tx, principal, one, series) for one in planned]
            ids = [incident_id for incident_id in touched if incident_id]
            if sum(len(self._message(tx, incident_id)) for incident_id in ids) > _MOST_BYTES_TOGETHER:
                raise _too_large("calendar", "its incidents impact too many resources together; divide it")
            self._board.settle(tx)
            self._audit(tx, audit, ",".join(ids)[:1000], f"took {len(ids)} incidents from a calendar")
            return respond([self._message(tx, incident_id) for incident_id in ids])

        return await mutate(self._storage, wanted, effect)

    def _take(self, tx: Tx, principal: Principal, one: Planned, series: dict[str, str]) -> str:
        own = incident_id_of(self._facility_id, one.uid)
        known = self._store.find_incidents(tx, [("ids", (own,))], 1) if own else []
        known = known or self._store.find_incidents(tx, [("uid", (one.uid,))], 1)
        if not known:
            if one.cancelled:
                return ""
            series_id = series.setdefault(one.series_uid, self._new_id()) if one.series_uid else ""
            draft = Draft(
                one.type,
                one.name,
                one.status,
                one.resource_ids,
                one.start,
                one.end,
                one.description,
                one.severity,
                one.uid,
                series_id,
                "calendar.",
            )
            return self.add(tx, principal.username, draft)[0]
        before = known[0]
        if before.resolution.over:
            return ""
        if one.cancelled:
            changed = replace(before, resolution=Resolution.CANCELLED, end_time=before.end_time or before.start_time)
        else:
            begun = before.resolution != Resolution.PENDING
            start = before.start_time if begun else one.start
            self._checked(
                Draft(one.type, one.name, one.status, one.resource_ids, start, one.end, where="calendar."),
                self._board.now(),
                begun=begun,
            )
            changed = replace(
                before,
                name=one.name,
                description=one.description,
                start_time=start,
                end_time=one.end,
                status=one.status,
                severity=one.severity,
                resource_ids=one.resource_ids,
                impacted_resource_ids=self._impacted(before.type, one.resource_ids),
            )
        if changed != before:
            changed = replace(changed, update_time=self._board.now(), revision=tx.revision())
            self._put(tx, changed, before, "calendar")
        return before.id

    async def update(
        self, incident_id: str, values: Mapping[str, object], etag: str, wanted: Mutation, audit: tuple[str, str, str]
    ) -> bytes:
        """Changes fields of an incident; ``values`` are by name, of those in ``UPDATABLE``."""

        def change(incident: Incident) -> Incident:
            if incident.resolution.over:
                raise _over(incident)
            if "start_time" in values and incident.resolution != Resolution.PENDING:
                text = f"incident {incident.id} has begun; its start is a fact"
                raise FailedPrecondition("INCIDENT_BEGUN", text, incident.id, {"incident_id": incident.id})
            changed = replace(incident, **values)  # type: ignore[arg-type]
            draft = Draft(
                changed.type, changed.name, changed.status, changed.resource_ids, changed.start_time, changed.end_time
            )
            # A resource that is no longer described does not stand in the way of changing anything else.
            begun = incident.resolution != Resolution.PENDING
            self._checked(draft, self._board.now(), begun=begun, named="resource_ids" in values)
            later = changed.end_time is None or (incident.end_time is not None and changed.end_time > incident.end_time)
            if incident.resolution.active and "end_time" in values and changed.end_time != incident.end_time and later:
                changed = replace(changed, resolution=Resolution.EXTENDED)
            if "resource_ids" not in values:
                return changed
            return replace(changed, impacted_resource_ids=self._impacted(changed.type, changed.resource_ids))

        return await self._change(incident_id, etag, change, wanted, audit, f"changed {', '.join(sorted(values))}")

    async def resolve(
        self,
        principal: Principal,
        incident_id: str,
        end_time: datetime | None,
        cancel: bool,
        note: str,
        etag: str,
        wanted: Mutation,
        audit: tuple[str, str, str],
    ) -> bytes:
        """Ends an incident, or calls it off."""

        def change(incident: Incident) -> Incident:
            now = self._board.now()
            if incident.resolution.over:
                raise _over(incident)
            end = end_time or now
            pending = incident.resolution == Resolution.PENDING
            if (end_time or not pending) and not incident.start_time <= end <= now:
                raise invalid("end_time", "must be between the incident's start and now", "END_OUT_OF_SPAN")
            resolution = Resolution.CANCELLED if cancel or pending else Resolution.COMPLETED
            notes = (*incident.notes, Note(now, principal.username, note)) if note else incident.notes
            if pending:
                end = incident.end_time or incident.start_time
            return replace(incident, resolution=resolution, end_time=end, notes=notes)

        return await self._change(incident_id, etag, change, wanted, audit, "called off" if cancel else "ended")

    async def add_note(
        self, principal: Principal, incident_id: str, text: str, wanted: Mutation, audit: tuple[str, str, str]
    ) -> bytes:
        """Adds a note to an incident."""

        def change(incident: Incident) -> Incident:
            if len(incident.notes) >= _MOST_NOTES:
                raise _too_many_notes(incident)
            return replace(incident, notes=(*incident.notes, Note(self._board.now(), principal.username, text)))

        return await self._change(incident_id, "", change, wanted, audit, "noted")

    async def set_status(
        self,
        resource_id: str,
        status: Status | None,
        reason: str,
        until: datetime | None,
        incident_id: str,
        wanted: Mutation,
        audit: tuple[str, str, str],
    ) -> bytes:
        """Takes an operator's word on a resource, or takes it back."""

        def effect(tx: Tx) -> bytes:
            # An earlier word may have run out just now, which is news of its own.
            self._board.settle(tx)
            now = self._board.now()
            if resource_id not in self._board.graph.resources:
                raise NotFound("resource", resource_id)
            if until is not None and not now < until <= now + _LONGEST_INCIDENT:
                raise invalid("expire_time", "must be in the future, at most a year away", "EXPIRY_OUT_OF_RANGE")
            if incident_id and self._store.load_incident(tx, incident_id) is None:
                raise invalid("incident_id", f"there is no incident {incident_id}", "UNKNOWN_INCIDENT")
            word = Word(status, now, reason, until, incident_id) if status else None
            self._store.put_word(tx, resource_id, Source.OPERATOR, word)
            self._board.settle(tx)
            said = status.name.lower() if status else "nothing"
            self._audit(tx, audit, resource_id, f"said {said}: {reason}")
            message = self._store.resource(tx, resource_id)
            if message is None:
                raise NotFound("resource", resource_id)
            return message

        return await mutate(self._storage, wanted, effect)

    async def _change(
        self,
        incident_id: str,
        etag: str,
        change: Callable[[Incident], Incident],
        wanted: Mutation,
        audit: tuple[str, str, str],
        what: str,
    ) -> bytes:
        def effect(tx: Tx) -> bytes:
            self._board.settle(tx)
            before = self._store.load_incident(tx, incident_id)
            if before is None:
                raise NotFound("incident", incident_id)
            if etag and etag != before.etag:
                text = f"incident {incident_id} has changed since you read it; get it again"
                raise Aborted("ETAG_MISMATCH", text, {"incident_id": incident_id, "etag": before.etag})
            changed = replace(change(before), update_time=self._board.now(), revision=tx.revision())
            if len(changed.notes) > len(before.notes) and self._store.incident_size(changed) > _MOST_BYTES:
                raise _too_many_notes(before)
            self._put(tx, changed, before, "incident")
            if changed.resolution.over and changed.end_time and changed.end_time <= self._board.now():
                self._board.record(tx, changed.end_time)
            self._board.settle(tx)
            self._audit(tx, audit, incident_id, what)
            return self._message(tx, incident_id)

        return await mutate(self._storage, wanted, effect)

    def _checked(self, draft: Draft, now: datetime, begun: bool = False, named: bool = True) -> Draft:
        problems: list[Violation] = []
        where = draft.where
        for index, resource_id in enumerate(draft.resource_ids):
            if named and resource_id not in self._board.graph.resources:
                text = f"there is no resource {resource_id}"
                problems.append(Violation(f"{where}resource_ids[{index}]", text, "UNKNOWN_RESOURCE"))
        if not draft.resource_ids:
            problems.append(Violation(f"{where}resource_ids", "name at least one resource", "REQUIRED"))
        if not draft.name.strip():
            problems.append(Violation(f"{where}name", "say in a line what it is", "REQUIRED"))
        if draft.status == Status.UNKNOWN or (draft.status == Status.UP and draft.type != IncidentType.RESERVATION):
            text = "must be degraded or down; up is for reservations"
            problems.append(Violation(f"{where}status", text, "INCIDENT_STATUS"))
        start = draft.start_time or now
        if not now - _FURTHEST <= start <= now + _FURTHEST:
            problems.append(Violation(f"{where}start_time", "must be within ten years of now", "TIME_OUT_OF_RANGE"))
        if draft.end_time is not None:
            if draft.end_time <= start:
                problems.append(Violation(f"{where}end_time", "must be after the start", "END_BEFORE_START"))
            elif draft.end_time - start > _LONGEST_INCIDENT:
                problems.append(Violation(f"{where}end_time", "must be within a year of the start", "SPAN_TOO_LONG"))
        elif draft.type != IncidentType.UNPLANNED and not begun:
            problems.append(Violation(f"{where}end_time", "say when it will end", "REQUIRED"))
        if problems:
            raise InvalidArgument(problems)
        return replace(draft, resource_ids=tuple(dict.fromkeys(draft.resource_ids)))

    def _impacted(self, type_: IncidentType, resource_ids: Sequence[str]) -> tuple[str, ...]:
        if type_ == IncidentType.RESERVATION:
            return tuple(sorted(resource_ids))
        return self._board.graph.with_dependents(resource_ids)

    def _message(self, tx: Tx, incident_id: str) -> bytes:
        message = self._store.incident(tx, incident_id)
        if message is None:
            raise NotFound("incident", incident_id)
        return message

    def _audit(self, tx: Tx, who: tuple[str, str, str], subject: str, text: str) -> None:
        self._store.audit(tx, self._new_id(), self._board.now(), who, subject, text)


def _too_large(field: str, text: str) -> InvalidArgument:
    return invalid(field, text, "INCIDENT_TOO_LARGE")


def _too_many_notes(incident: Incident) -> FailedPrecondition:
    text = f"incident {incident.id} has so many notes that there is no room for another"
    return FailedPrecondition("TOO_MANY_NOTES", text, incident.id, {"incident_id": incident.id})


def _over(incident: Incident) -> FailedPrecondition:
    state = incident.resolution.name
    text = f"incident {incident.id} is {state} and cannot be changed any more"
    return FailedPrecondition("INCIDENT_OVER", text, incident.id, {"incident_id": incident.id, "resolution": state})
