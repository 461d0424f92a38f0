"""Outages of nodes that happened while nobody looked, from the batch system's own record, as incidents of the past."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from openfacility_server.ids import IdMaker
from openfacility_server.jobs.engines.cluster import ClusterView, NodeOutage
from openfacility_server.status.board import Board
from openfacility_server.status.cluster import outage, selected
from openfacility_server.status.graph import PROBE
from openfacility_server.status.model import Incident, IncidentType, Note, Resolution, Severity, Status
from openfacility_server.status.probes import JobsTarget
from openfacility_server.status.store import StatusStore, micros
from openfacility_server.storage import Tx

_MOST = 500


@dataclass(frozen=True, slots=True)
class Past:
    """A span in which a resource was not as it should be."""

    resource_id: str
    status: Status
    start: datetime
    end: datetime
    reason: str


def past(
    view: ClusterView,
    outages: Iterable[NodeOutage],
    tied: Sequence[tuple[str, JobsTarget]],
    shortest: timedelta,
) -> list[Past]:
    """Returns the outages of resources that are over, at most 500 of each; shorter ones would not have been noticed."""
    known = list(outages)
    found: list[Past] = []
    for resource_id, target in tied:
        names = {node.name for node in selected(view, target)}
        own = [one for one in known if one.node in names]
        spans = [span for span in _spans(own) if span.end - span.start >= shortest]
        found += (
            span.told(resource_id, len(names))
            for span in spans[-_MOST:]
            if 100 * span.most > target.nodes_out_percent * len(names)
        )
    return found


@dataclass(frozen=True, slots=True)
class _Span:
    """A span in which at least one node was out; ``most`` is how many were at the same time."""

    start: datetime
    end: datetime
    most: int
    outages: tuple[NodeOutage, ...]

    def told(self, resource_id: str, total: int) -> Past:
        status = Status.DOWN if self.most >= total else Status.DEGRADED
        causes = list(dict.fromkeys((one.node, one.state, one.reason) for one in self.outages))
        return Past(resource_id, status, self.start, self.end, outage(causes, total, "were" if total > 1 else "was"))


def _spans(outages: Sequence[NodeOutage]) -> Iterator[_Span]:
    """Gives the spans that are over; one that goes on is told by the probes."""
    changes: list[tuple[datetime, int, NodeOutage]] = []
    for one in outages:
        changes.append((one.start, 1, one))
        if one.end is not None:
            changes.append((one.end, -1, one))
    # At the same moment one begins before another ends: they are one span.
    changes.sort(key=lambda change: (change[0], -change[1]))
    out: dict[str, int] = {}
    most, members, start = 0, [], None
    for moment, step, one in changes:
        if step > 0:
            start = start or moment
            members.append(one)
        out[one.node] = out.get(one.node, 0) + step
        if not out[one.node]:
            del out[one.node]
        most = max(most, len(out))
        if not out and start is not None:
            yield _Span(start, moment, most, tuple(members))
            most, members, start = 0, [], None


class History:
    """Stores what happened, where it is not known yet."""

    def __init__(self, store: StatusStore, board: Board, new_id: IdMaker) -> None:
        self._store = store
        self._board = board
        self._new_id = new_id

    def take(self, tx: Tx, spans: Sequence[Past]) -> int:
        """Stores outages that overlap no incident of the same resource that a probe opened; returns how many."""
        return sum(self._take(tx, span) for span in spans if span.resource_id in self._board.graph.resources)

    def _take(self, tx: Tx, span: Past) -> bool:
        terms = [
            ("resources", (span.resource_id,)),
            ("types", (int(IncidentType.UNPLANNED),)),
            ("ends_after", (micros(span.start),)),
            ("starts_before", (micros(span.end),)),
        ]
        known = self._store.find_incidents(tx, terms, 1000)
        if any(one.declared_by == PROBE and span.resource_id in one.resource_ids for one in known):
            return False
        now = self._board.now()
        resource = self._board.graph.resources[span.resource_id]
        incident = Incident(
            id=self._new_id(),
            type=IncidentType.UNPLANNED,
            name=f"{resource.name or resource.id} was {span.status.name.lower()}",
            description=span.reason,
            status=span.status,
            severity=Severity.MAJOR if span.status == Status.DOWN else Severity.MINOR,
            start_time=span.start,
            end_time=span.end,
            resolution=Resolution.COMPLETED,
            resource_ids=(resource.id,),
            impacted_resource_ids=self._board.graph.with_dependents([resource.id]),
            notes=(Note(now, PROBE, "from the batch system's record of its nodes"),),
            declared_by=PROBE,
            create_time=now,
            update_time=now,
            revision=tx.revision(),
        )
        self._store.put_incident(tx, incident, None)
        return True
