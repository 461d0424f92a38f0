"""Maintenance that is reserved in a batch system, as planned incidents that follow it: moved, changed and called off.

An incident is known by its UID: the compute resource, the reservation and its start, and what it makes of resources.
One reservation may be two incidents, as it may be all of a queue and part of the cluster.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from openfacility_server.ids import IdMaker
from openfacility_server.jobs.engines import Reservation
from openfacility_server.jobs.engines.cluster import ClusterView
from openfacility_server.jobs.engines.nodenames import compress
from openfacility_server.status.board import Board
from openfacility_server.status.cluster import selected
from openfacility_server.status.graph import BATCH_SYSTEM
from openfacility_server.status.model import Incident, IncidentType, Note, Resolution, Severity, Status
from openfacility_server.status.probes import JobsTarget
from openfacility_server.status.store import StatusStore
from openfacility_server.storage import Tx

_MOST_NODES_TEXT = 2000
_LONGEST_AHEAD = timedelta(days=3660)
# Names that Slurm makes by itself from those of users and projects.
_MADE_UP = re.compile(r".+_\d+")


@dataclass(frozen=True, slots=True)
class Wanted:
    """An incident as a reservation asks for it; ``group`` names those of one reservation, whenever it is."""

    uid: str
    group: str
    name: str
    description: str
    status: Status
    start: datetime
    end: datetime
    resource_ids: tuple[str, ...]


def prefix_of(jobs_resource_id: str) -> str:
    """Returns what the UIDs of all incidents of a compute resource begin with."""
    return f"reservation/{jobs_resource_id}/"


def wanted(
    jobs_resource_id: str,
    view: ClusterView,
    reservations: Iterable[Reservation],
    tied: Sequence[tuple[str, JobsTarget]],
    now: datetime,
) -> list[Wanted]:
    """Returns the incidents for maintenance that goes on or is to come; ``tied``: resources and what they stand for."""
    members = {resource_id: {node.name for node in selected(view, target)} for resource_id, target in tied}
    found = []
    for one in reservations:
        if not one.maintenance or one.end_time <= now or one.start_time > now + _LONGEST_AHEAD:
            continue
        names = set(one.node_names)
        hit = {resource_id: nodes & names for resource_id, nodes in members.items() if nodes & names}
        for status in (Status.DOWN, Status.DEGRADED):
            ids = [each for each in hit if (hit[each] == members[each]) == (status == Status.DOWN)]
            if ids:
                found.append(_wanted(jobs_resource_id, one, status, tuple(sorted(ids)), names))
    return found


def _wanted(
    jobs_resource_id: str, one: Reservation, status: Status, resource_ids: tuple[str, ...], names: set[str]
) -> Wanted:
    # The reservation's name may be a user's, and the UID is for everyone.
    digest = hashlib.sha256(one.id.encode()).hexdigest()[:16]
    group = f"{prefix_of(jobs_resource_id)}{digest}/{status.name.lower()}"
    nodes = compress(names)
    count = f"{len(names)} node{'s' if len(names) != 1 else ''}"
    return Wanted(
        uid=f"{group}/{one.start_time:%Y%m%dT%H%M%SZ}",
        group=group,
        name="Maintenance" if _MADE_UP.fullmatch(one.id) else f"Maintenance: {one.id}"[:255],
        description=f"{count} in maintenance: {nodes}"[:_MOST_NODES_TEXT],
        status=status,
        start=one.start_time,
        end=one.end_time,
        resource_ids=resource_ids,
    )


class Maintenance:
    """Keeps planned incidents in step with reservations."""

    def __init__(self, store: StatusStore, board: Board, new_id: IdMaker) -> None:
        self._store = store
        self._board = board
        self._new_id = new_id

    def follow(self, tx: Tx, jobs_resource_id: str, wanted: Sequence[Wanted]) -> None:
        """Makes, changes and calls off the incidents of a compute resource. What is as it should be is not touched."""
        self._board.settle(tx)
        terms = [("open", ()), ("uid_prefix", (f"{_escaped(prefix_of(jobs_resource_id))}%",))]
        left = {incident.calendar_uid: incident for incident in self._store.find_incidents(tx, terms, soonest=True)}
        strange = []
        for one in wanted:
            same = left.pop(one.uid, None)
            if same is None:
                strange.append(one)
            else:
                self._change(tx, same, one)
        for one in strange:
            moved = next((each for each in left.values() if _may_be(each, one)), None)
            if moved is not None:
                self._change(tx, left.pop(moved.calendar_uid), one)
            else:
                self._add(tx, one)
        for incident in left.values():
            self._end(tx, incident)
        self._board.settle(tx)

    def _change(self, tx: Tx, before: Incident, one: Wanted) -> None:
        """Takes over when and what; what an operator wrote into it stays."""
        pending = before.resolution == Resolution.PENDING
        changed = replace(
            before,
            start_time=one.start if pending else before.start_time,
            end_time=one.end,
            status=one.status,
            calendar_uid=one.uid,
            resource_ids=one.resource_ids,
            impacted_resource_ids=self._board.graph.with_dependents(one.resource_ids),
        )
        if changed == before:
            return
        if not pending and (before.end_time is None or one.end > before.end_time):
            changed = replace(changed, resolution=Resolution.EXTENDED)
        self._put(tx, changed, before)

    def _add(self, tx: Tx, one: Wanted) -> None:
        start = one.start
        for known in self._store.find_incidents(tx, [("uid", (one.uid,))], 1):
            # An operator who has ended or called it off knows better; else it has been reserved again, or for longer.
            ours = bool(known.notes) and known.notes[-1].author == BATCH_SYSTEM
            if not ours and self._store.was_changed_by_operator(tx, known.id):
                return
            if known.resolution == Resolution.COMPLETED and known.end_time:
                start = max(start, known.end_time)
        now = self._board.now()
        incident = Incident(
            id=self._new_id(),
            type=IncidentType.PLANNED,
            name=one.name,
            description=one.description,
            status=one.status,
            severity=Severity.MAJOR if one.status == Status.DOWN else Severity.MINOR,
            start_time=start,
            end_time=one.end,
            # It begins when the board passes that moment.
            resolution=Resolution.PENDING,
            resource_ids=one.resource_ids,
            impacted_resource_ids=self._board.graph.with_dependents(one.resource_ids),
            declared_by=BATCH_SYSTEM,
            calendar_uid=one.uid,
            create_time=now,
            update_time=now,
        )
        self._put(tx, incident, None)

    def _end(self, tx: Tx, before: Incident) -> None:
        """Ends what is not reserved any more; what ends now anyhow is left to the clock."""
        now = self._board.now()
        if before.end_time is not None and before.end_time <= now:
            return
        pending = before.resolution == Resolution.PENDING
        ended = replace(
            before,
            resolution=Resolution.CANCELLED if pending else Resolution.COMPLETED,
            end_time=(before.end_time or before.start_time) if pending else max(now, before.start_time),
            notes=(*before.notes, Note(now, BATCH_SYSTEM, "the reservation was removed")),
        )
        self._put(tx, ended, before)
        if not pending:
            self._board.record(tx, now)

    def _put(self, tx: Tx, incident: Incident, before: Incident | None) -> None:
        changed = replace(incident, update_time=self._board.now(), revision=tx.revision())
        self._store.put_incident(tx, changed, before)


def _may_be(incident: Incident, one: Wanted) -> bool:
    """Whether a reservation is this one, moved: one that has begun cannot be."""
    return incident.resolution == Resolution.PENDING and incident.calendar_uid.startswith(f"{one.group}/")


def _escaped(text: str) -> str:
    return re.sub(r"([!%_])", r"!\1", text)
