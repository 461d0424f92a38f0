"""The board: how every resource is, worked out from what is known, and every change of it recorded.

Everything happens in the transaction of whatever changed the facts. Time is a fact too: incidents begin and end, and
words run out, at their moments, in order, also when nobody was there to see it.

A change that concerns thousands of resources is recorded in several transactions, each of a size that a watch can send.
The moment that is being recorded is kept until all of it is, so that whoever goes on gives all of it the same time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from openfacility_server.ids import IdMaker
from openfacility_server.status import graph
from openfacility_server.status.graph import Graph
from openfacility_server.status.model import Capacity, CurrentStatus, Event, Incident, Resolution, Source, Status
from openfacility_server.status.store import StatusStore, Term, gist, micros
from openfacility_server.storage import Tx

# An operator's call settles up to three times in its transaction. That and the incident itself stay below the 4 MiB
# that gRPC clients take in one piece, and below what the log takes; each change makes two entries there.
_MOST_BYTES = 600_000
_MOST_CHANGES = 2000
Capacities = Mapping[str, Capacity | None]
NOTHING_NEW: Capacities = {}
_GOING_ON: Term = ("resolutions", (int(Resolution.UNRESOLVED), int(Resolution.EXTENDED)))


@dataclass(slots=True)
class _Room:
    """What is left of what may be recorded at once."""

    bytes_left: int = _MOST_BYTES
    changes_left: int = _MOST_CHANGES

    def take(self, size: int) -> None:
        """Counts a change."""
        self.bytes_left -= size
        self.changes_left -= 1

    @property
    def used_up(self) -> bool:
        """Whether no more may be recorded."""
        return self.bytes_left <= 0 or self.changes_left <= 0


class Board:
    """Works out and records how resources are. ``describe`` sets what there is."""

    def __init__(self, store: StatusStore, new_id: IdMaker, clock: Callable[[], datetime] | None = None) -> None:
        self._store = store
        self._new_id = new_id
        self.now = clock or (lambda: datetime.now(UTC))
        self.graph = Graph(())

    def describe(self, described: Graph) -> None:
        """Takes what resources there are from now on."""
        self.graph = described

    def settle(self, tx: Tx, until: datetime | None = None) -> bool:
        """Brings everything up to a moment (unset: now); returns whether there is more than one transaction may hold.

        Then the clock goes on with the rest, in whichever server it strikes first.
        """
        room = _Room()
        until = until or self.now()
        left = self._store.unsettled(tx)
        if left is not None:
            self._store.put_unsettled(tx, None)
            if self._record(tx, left, room):
                return True
        for moment in self._boundaries(tx, until):
            if self._pass(tx, moment, room) or self._record(tx, moment, room):
                return True
        return self._record(tx, until, room)

    def _boundaries(self, tx: Tx, now: datetime) -> Sequence[datetime]:
        """Returns the moments up to now at which something begins or ends, in order."""
        moments: set[datetime] = set()
        for incident in self._open_before(tx, now):
            if incident.resolution == Resolution.PENDING:
                moments.add(incident.start_time)
            if incident.end_time and incident.end_time <= now:
                moments.add(incident.end_time)
        for word in self._store.words(tx, Source.OPERATOR).values():
            if word.until and word.until <= now:
                moments.add(word.until)
        return sorted(moments)

    def _open_before(self, tx: Tx, now: datetime) -> list[Incident]:
        return self._store.find_incidents(tx, [("open", ()), ("starts_before", (micros(now) + 1,))])

    def _pass(self, tx: Tx, moment: datetime, room: _Room) -> bool:
        """Begins and ends what begins and ends at a moment; returns whether some is left to do."""
        for incident in self._open_before(tx, moment):
            resolution = incident.resolution
            if resolution == Resolution.PENDING:
                resolution = Resolution.UNRESOLVED
            if incident.end_time and incident.end_time <= moment:
                resolution = Resolution.COMPLETED
            if resolution == incident.resolution:
                continue
            if room.used_up:
                return True
            changed = replace(incident, resolution=resolution, update_time=self.now(), revision=tx.revision())
            room.take(len(self._store.put_incident(tx, changed, incident)))
        for resource_id, word in self._store.words(tx, Source.OPERATOR).items():
            if word.until and word.until <= moment:
                self._store.put_word(tx, resource_id, Source.OPERATOR, None)
        return False

    def record(self, tx: Tx, moment: datetime, capacities: Capacities = NOTHING_NEW) -> None:
        """Stores every status that is another than before, as of a moment that nothing else happened after.

        ``capacities`` are those that are known better than before, by resource.
        """
        self._record(tx, moment, _Room(), capacities)
        self.show(tx, capacities)

    def show(self, tx: Tx, capacities: Capacities) -> None:
        """Stores capacities that are others than before."""
        for resource_id, capacity in capacities.items():
            before = self._store.current(tx, resource_id)
            if before is not None and before.capacity != capacity:
                current = replace(before, capacity=capacity)
                resource = self.graph.resources[resource_id]
                self._store.put_resource(tx, resource, current, self.now(), new=False, described=False)

    def _record(self, tx: Tx, moment: datetime, room: _Room, capacities: Capacities = NOTHING_NEW) -> bool:
        active = self._store.find_incidents(tx, [_GOING_ON])
        named = {resource_id for incident in active for resource_id in incident.resource_ids}
        concerned = self.graph.with_dependents([*self._store.concerned(tx), *named])
        if not concerned:
            return False
        found = graph.statuses(
            self.graph,
            self._store.words(tx, Source.PROBE, concerned),
            self._store.words(tx, Source.OPERATOR),
            active,
            moment,
            concerned,
        )
        stored = self._store.gists(tx, concerned)
        for resource_id, current in found.items():
            if stored.get(resource_id, gist(current)) == gist(current):
                continue
            if room.used_up:
                self._store.put_unsettled(tx, moment)
                return True
            self._change(tx, resource_id, current, moment, room, capacities)
        return False

    def _change(
        self,
        tx: Tx,
        resource_id: str,
        current: CurrentStatus,
        moment: datetime,
        room: _Room,
        capacities: Capacities,
    ) -> None:
        now = self.now()
        before = self._store.current(tx, resource_id) or CurrentStatus(Status.UNKNOWN, moment)
        changed = current.status != before.status
        if changed:
            moment = self._not_before_last(tx, resource_id, moment, before.since)
        capacity = capacities.get(resource_id, before.capacity)
        current = replace(current, since=moment if changed else before.since, capacity=capacity)
        resource = self.graph.resources[resource_id]
        size = len(self._store.put_resource(tx, resource, current, now, new=False, described=False))
        if changed:
            event = Event(
                id=self._new_id(),
                resource_id=resource_id,
                status=current.status,
                previous_status=before.status,
                occur_time=moment,
                create_time=now,
                # What is over ended with the incident that it was part of.
                incident_id=current.incident_id or before.incident_id,
                reason=current.reason or f"{before.status.name.lower()} no more",
                source=current.source or before.source,
                revision=tx.revision(),
            )
            size += len(self._store.add_event(tx, event))
        room.take(size)

    def _not_before_last(self, tx: Tx, resource_id: str, moment: datetime, since: datetime) -> datetime:
        """Returns a moment, but not one before the last event: what is told late must not be told in another order."""
        if moment >= since:
            return moment
        last = self._store.find_events(tx, [("resources", (resource_id,))], 1)
        return max(moment, last[0].occur_time) if last else moment
