"""What callers can read of the facility's status. Nothing here knows of gRPC; responses are serialized messages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from openfacility_server.auth.principal import Principal
from openfacility_server.errors import NotFound
from openfacility_server.paging import Position
from openfacility_server.status.model import Event, Incident, IncidentType, Status
from openfacility_server.status.store import Row, StatusStore, Term, micros
from openfacility_server.storage import ReadTx, Storage

# Of a question that one answer is made of.
_MOST_FOUND = 1000
_MOST_OPEN = 10_000


@dataclass(frozen=True, slots=True)
class Page:
    """Part of a list; ``next`` is None on the last one."""

    rows: Sequence[Row]
    next: Position | None
    revision: int

    @property
    def messages(self) -> Sequence[bytes]:
        """What callers get."""
        return [row.message for row in self.rows]


@dataclass(frozen=True, slots=True)
class Overview:
    """What a map or a dashboard shows, read at one revision."""

    facility: bytes
    sites: Sequence[tuple[str, bytes]]
    counts: Sequence[tuple[str, Status, int]]
    open: Sequence[bytes]
    coming: Sequence[bytes]
    revision: int


class Reading:
    """Reads. What is older than ``history`` is for staff only."""

    def __init__(self, storage: Storage, store: StatusStore, history: timedelta) -> None:
        self._storage = storage
        self._store = store
        self._history = history

    def _horizon(self, principal: Principal, now: datetime) -> int:
        return 0 if principal.staff else micros(now - self._history)

    async def resource(self, resource_id: str) -> bytes:
        """Returns one resource."""
        message = await self._storage.point(lambda tx: self._store.resource(tx, resource_id))
        return _found(message, "resource", resource_id)

    async def resources(self, terms: Sequence[Term], start: Position | None, limit: int) -> Page:
        """Returns a page of resources, by id."""

        def read(tx: ReadTx) -> Page:
            after: list[Term] = [("after", (start.key,))] if start else []
            return _page(tx, self._store.resources(tx, [*terms, *after], limit + 1), start, limit)

        return await self._storage.read(read)

    async def incident(self, principal: Principal, incident_id: str, now: datetime) -> bytes:
        """Returns one incident."""
        horizon = self._horizon(principal, now)

        def read(tx: ReadTx) -> bytes | None:
            found = self._store.incidents(tx, [("ids", (incident_id,)), ("ends_after", (horizon,))], 1)
            return found[0].message if found else None

        return _found(await self._storage.point(read), "incident", incident_id)

    async def incidents(
        self, principal: Principal, terms: Sequence[Term], start: Position | None, limit: int, now: datetime
    ) -> Page:
        """Returns a page of incidents, newest start first."""
        seen: Term = ("ends_after", (self._horizon(principal, now),))

        def read(tx: ReadTx) -> Page:
            rows = self._store.incidents(tx, [*terms, seen, *_after(start)], limit + 1)
            return _page(tx, rows, start, limit)

        return await self._storage.read(read)

    async def event(self, principal: Principal, event_id: str, now: datetime) -> bytes:
        """Returns one event."""
        found = await self._storage.point(lambda tx: self._store.event(tx, event_id))
        if found is not None and found[1] < self._horizon(principal, now):
            found = None
        return _found(found and found[0], "event", event_id)

    async def events(
        self, principal: Principal, terms: Sequence[Term], start: Position | None, limit: int, now: datetime
    ) -> Page:
        """Returns a page of events, newest first."""
        seen: Term = ("from", (self._horizon(principal, now),))

        def read(tx: ReadTx) -> Page:
            return _page(tx, self._store.events(tx, [*terms, seen, *_after(start)], limit + 1), start, limit)

        return await self._storage.read(read)

    async def facility(self) -> bytes:
        """Returns the facility."""
        rows = await self._storage.read(lambda tx: self._store.descriptions(tx, "facility"))
        return _found(rows[0][4] if rows else None, "facility", "this")

    async def sites(self) -> list[tuple[str, str, str, int, bytes]]:
        """Returns id, name, short name, change time and message of every site, by id."""
        return await self._storage.read(lambda tx: self._store.descriptions(tx, "site"))

    async def overview(self, now: datetime, soon: timedelta, limit: int) -> Overview:
        """Returns the overview."""

        def read(tx: ReadTx) -> Overview:
            facility = self._store.descriptions(tx, "facility")
            sites = self._store.descriptions(tx, "site")
            present = micros(now)
            open_ = self._store.incidents(tx, [("open", ()), ("starts_before", (present + 1,))], _MOST_OPEN)
            soonest: list[Term] = [("starts_from", (present + 1,)), ("starts_before", (micros(now + soon),))]
            coming = self._store.incidents(tx, [("open", ()), *soonest], limit, soonest=True)
            return Overview(
                facility[0][4] if facility else b"",
                [(site[0], site[4]) for site in sites],
                self._store.counts(tx),
                [row.message for row in open_],
                [row.message for row in coming],
                tx.current_revision(),
            )

        return await self._storage.read(read)

    async def obstacles(self, resource_id: str, start: datetime) -> list[Incident]:
        """Returns the incidents that impact a resource from a time on and are not over, soonest first."""
        terms: list[Term] = [("resources", (resource_id,)), ("open", ()), ("ends_after", (micros(start),))]
        return await self._storage.read(lambda tx: self._store.find_incidents(tx, terms, _MOST_FOUND, soonest=True))

    async def planned_down(self, resource_ids: Sequence[str]) -> set[str]:
        """Returns those of some resources that are down because of a planned incident."""

        def read(tx: ReadTx) -> set[str]:
            found = set()
            for resource_id in resource_ids:
                current = self._store.current(tx, resource_id)
                if current and current.status == Status.DOWN and current.incident_id:
                    incident = self._store.load_incident(tx, current.incident_id)
                    if incident and incident.type == IncidentType.PLANNED:
                        found.add(resource_id)
            return found

        return await self._storage.read(read)

    async def incidents_of(
        self, principal: Principal, resource_id: str, start: datetime, end: datetime, now: datetime
    ) -> list[Incident]:
        """Returns the incidents that impact a resource in a span, through dependencies too."""
        begin = max(micros(start), self._horizon(principal, now))
        terms: list[Term] = [("resources", (resource_id,)), ("ends_after", (begin,)), ("starts_before", (micros(end),))]
        return await self._storage.read(lambda tx: self._store.find_incidents(tx, terms, _MOST_FOUND))

    async def events_of(
        self, principal: Principal, resource_id: str, start: datetime, end: datetime, now: datetime
    ) -> list[Event]:
        """Returns the events of a resource in a span, oldest first, after the last one before it."""
        horizon = self._horizon(principal, now)
        begin = max(micros(start), horizon)

        def read(tx: ReadTx) -> list[Event]:
            of: Term = ("resources", (resource_id,))
            inside = self._store.find_events(tx, [of, ("from", (begin,)), ("to", (micros(end),))], _MOST_FOUND)
            before = self._store.find_events(tx, [of, ("from", (horizon,)), ("to", (begin,))], 1)
            return [*before, *reversed(inside)]

        return await self._storage.read(read)


def _after(start: Position | None) -> list[Term]:
    if start is None:
        return []
    time, _, id_ = start.key.partition("/")
    return [("after", (int(time), int(time), id_))]


def _page(tx: ReadTx, rows: Sequence[Row], start: Position | None, limit: int) -> Page:
    revision = start.revision if start else tx.current_revision()
    more = len(rows) > limit
    rows = rows[:limit]
    return Page(rows, Position(rows[-1].key, revision) if more else None, revision)


def _found(message: bytes | None, kind: str, name: str) -> bytes:
    if message is None:
        raise NotFound(kind, name)
    return message
