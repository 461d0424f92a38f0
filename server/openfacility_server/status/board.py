"""The board: how every resource is, worked out from what is known, and every change of it recorded.

Everything happens in the transaction of whatever changed the facts. Time is a fact too: incidents begin and end, and
words run out, at their moments, in order, also when nobody was there to see it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from openfacility_server.ids import IdMaker
from openfacility_server.status import graph
from openfacility_server.status.graph import Graph
from openfacility_server.status.model import CurrentStatus, Event, Incident, Resolution, Source, Status
from openfacility_server.status.store import StatusStore, gist, micros
from openfacility_server.storage import Tx

_log = logging.getLogger(__name__)

# Each changed resource makes two entries in the log, of which one transaction may have some thousands.
_MOST_CHANGES = 4000


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

    def settle(self, tx: Tx) -> bool:
        """Brings everything up to now; returns whether there is more to do than one transaction may hold."""
        now = self.now()
        for moment in self._boundaries(tx, now):
            self._pass(tx, moment)
            if self.record(tx, moment):
                return True
        return self.record(tx, now)

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

    def _pass(self, tx: Tx, moment: datetime) -> None:
        """Begins and ends what begins and ends at a moment."""
        for incident in self._open_before(tx, moment):
            resolution = incident.resolution
            if resolution == Resolution.PENDING:
                resolution = Resolution.UNRESOLVED
            if incident.end_time and incident.end_time <= moment:
                resolution = Resolution.COMPLETED
            if resolution != incident.resolution:
                changed = replace(incident, resolution=resolution, update_time=self.now(), revision=tx.revision())
                self._store.put_incident(tx, changed, incident)
        for resource_id, word in self._store.words(tx, Source.OPERATOR).items():
            if word.until and word.until <= moment:
                self._store.put_word(tx, resource_id, Source.OPERATOR, None)

    def record(self, tx: Tx, moment: datetime) -> bool:
        """Stores every status that is another than before, as of a moment; returns whether some are left to do."""
        active = self._store.find_incidents(tx, [("open", ()), ("starts_before", (micros(moment) + 1,))])
        found = graph.statuses(
            self.graph,
            self._store.words(tx, Source.PROBE),
            self._store.words(tx, Source.OPERATOR),
            active,
            moment,
        )
        changes = 0
        for resource_id, before in self._store.currents(tx).items():
            current = found.get(resource_id)
            if current is None or gist(current) == before:
                continue
            if changes == _MOST_CHANGES:
                return True
            changes += 1
            self._change(tx, resource_id, current, moment)
        return False

    def _change(self, tx: Tx, resource_id: str, current: CurrentStatus, moment: datetime) -> None:
        now = self.now()
        before = self._store.current(tx, resource_id) or CurrentStatus(Status.UNKNOWN, moment)
        changed = current.status != before.status
        current = replace(current, since=moment if changed else before.since)
        self._store.put_resource(tx, self.graph.resources[resource_id], current, now, new=False, described=False)
        if changed:
            self._store.add_event(
                tx,
                Event(
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
                ),
            )
