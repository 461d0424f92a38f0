"""What depends on what, and what follows from it: pure functions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime

from openfacility_server.status.model import CurrentStatus, Incident, IncidentType, Resource, Source, Status, Word

PROBE = "probe"
"""Who declares the incidents that probes open."""
BATCH_SYSTEM = "batch system"
"""Who declares the maintenance that is reserved in a batch system."""


class Graph:
    """The resources of a facility and their dependencies, which have no cycle."""

    def __init__(self, resources: Iterable[Resource]) -> None:
        self.resources = {resource.id: resource for resource in resources}
        self._dependents: dict[str, list[str]] = {resource_id: [] for resource_id in self.resources}
        for resource in self.resources.values():
            for needed in resource.depends_on:
                self._dependents[needed].append(resource.id)
        self._rank = {resource_id: rank for rank, resource_id in enumerate(self._sorted())}

    def _sorted(self) -> list[str]:
        """Returns the ids so that each comes after all that it depends on. Raises ValueError for a cycle."""
        waiting = {resource.id: len(set(resource.depends_on)) for resource in self.resources.values()}
        ready = [resource_id for resource_id, count in waiting.items() if count == 0]
        order: list[str] = []
        while ready:
            resource_id = ready.pop()
            order.append(resource_id)
            for dependent in set(self._dependents[resource_id]):
                waiting[dependent] -= 1
                if waiting[dependent] == 0:
                    ready.append(dependent)
        if len(order) < len(waiting):
            cycle = ", ".join(sorted(set(waiting) - set(order)))
            raise ValueError(f"these resources depend on each other in a circle: {cycle}")
        return order

    def with_dependents(self, resource_ids: Iterable[str]) -> tuple[str, ...]:
        """Returns resources and all that depends on them, sorted."""
        found: set[str] = set()
        waiting = [resource_id for resource_id in resource_ids if resource_id in self.resources]
        while waiting:
            resource_id = waiting.pop()
            if resource_id not in found:
                found.add(resource_id)
                waiting += self._dependents[resource_id]
        return tuple(sorted(found))

    def ordered(self, resource_ids: Iterable[str]) -> list[str]:
        """Returns resources so that each comes after all that it depends on."""
        return sorted((one for one in resource_ids if one in self._rank), key=self._rank.__getitem__)


def statuses(
    graph: Graph,
    probes: Mapping[str, Word],
    operators: Mapping[str, Word],
    incidents: Iterable[Incident],
    now: datetime,
    concerned: Iterable[str] | None = None,
) -> dict[str, CurrentStatus]:
    """Returns how resources are: all, or those ``concerned`` when nothing is wrong with any other.

    An operator's word that still counts goes before the probe's; then the worst of that, of the incidents that go on
    for the resource itself, and of what it depends on. ``since`` is when the deciding fact began.
    """
    by_resource: dict[str, list[Incident]] = {}
    for incident in incidents:
        # What a probe declared is what it says: an operator's word goes before it.
        if incident.resolution.active and incident.type != IncidentType.RESERVATION and incident.declared_by != PROBE:
            for resource_id in incident.resource_ids:
                by_resource.setdefault(resource_id, []).append(incident)
    found: dict[str, CurrentStatus] = {}
    for resource_id in graph.ordered(graph.resources if concerned is None else concerned):
        own = _said(probes.get(resource_id), operators.get(resource_id), now)
        candidates = [own, *(_from_incident(incident) for incident in by_resource.get(resource_id, ()))]
        candidates += (
            _from_dependency(graph.resources[needed], found[needed])
            for needed in graph.resources[resource_id].depends_on
            if needed in found and found[needed].status in (Status.DOWN, Status.DEGRADED)
        )
        # The first of equally bad ones: what is known of the resource itself explains more than what it depends on.
        found[resource_id] = max(candidates, key=lambda candidate: candidate.status.badness)
    return found


def _said(probe: Word | None, operator: Word | None, now: datetime) -> CurrentStatus:
    if operator and (operator.until is None or operator.until > now):
        return CurrentStatus(operator.status, operator.since, operator.reason, Source.OPERATOR, operator.incident_id)
    if probe:
        return CurrentStatus(probe.status, probe.since, probe.reason, Source.PROBE, probe.incident_id)
    # Nobody looks at it: it is up unless somebody says otherwise.
    return CurrentStatus(Status.UP, datetime.fromtimestamp(0, now.tzinfo))


def _from_incident(incident: Incident) -> CurrentStatus:
    return CurrentStatus(incident.status, incident.start_time, incident.name, Source.INCIDENT, incident.id)


def _from_dependency(needed: Resource, current: CurrentStatus) -> CurrentStatus:
    root = current.because_of_resource_id or needed.id
    reason = f"{needed.name or needed.id} is {current.status.name.lower()}"
    return CurrentStatus(current.status, current.since, reason, Source.DEPENDENCY, current.incident_id, root)
