"""The facility's status as text: lines, tables, details."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import click
from openfacility_client import (
    Availability,
    AvailabilityReport,
    Capacity,
    Event,
    FacilityOverview,
    Incident,
    IncidentType,
    NodeCounts,
    OutageReport,
    QueueState,
    Resource,
    ResourceStatus,
    Severity,
    StatusChange,
    StatusChangeType,
    StatusCounts,
)

from openfacility_cli._layout import age, columns, moment, short

COLORS = {
    ResourceStatus.UP: "green",
    ResourceStatus.DEGRADED: "yellow",
    ResourceStatus.DOWN: "red",
    ResourceStatus.UNKNOWN: "magenta",
}
_STARTING = (QueueState.OPEN, QueueState.UNSPECIFIED)
AVAILABILITY_COLORS = {Availability.AVAILABLE: "green", Availability.AT_RISK: "yellow", Availability.UNAVAILABLE: "red"}


def status(value: ResourceStatus) -> str:
    """Return a status in its color."""
    return click.style(value.lower(), fg=COLORS.get(value))


def counts(found: StatusCounts) -> str:
    """Say how many resources are how."""
    parts = [
        click.style(f"{number} {kind.lower()}", fg=COLORS[kind])
        for kind, number in (
            (ResourceStatus.DOWN, found.down),
            (ResourceStatus.DEGRADED, found.degraded),
            (ResourceStatus.UNKNOWN, found.unknown),
            (ResourceStatus.UP, found.up),
        )
        if number
    ]
    return ", ".join(parts) or "no resources"


def facility(overview: FacilityOverview, resources: Sequence[Resource], *, filtered: bool) -> Iterable[str]:
    """Show a facility: its resources by site, the incidents that go on and those that come."""
    name = overview.facility.name or overview.facility.id
    yield f"{click.style(name, bold=True)}: {counts(overview.counts)}"
    by_site: dict[str, list[Resource]] = {}
    for resource in resources:
        by_site.setdefault(resource.site_id, []).append(resource)
    for site in overview.sites:
        there = by_site.pop(site.site.id, [])
        if there or not filtered:
            yield ""
            place = ", ".join(part for part in (site.site.locality_name, site.site.country_name) if part)
            title = f"{site.site.name or site.site.id}{f' ({place})' if place else ''}"
            yield f"{click.style(title, bold=True)}: {counts(site.counts)}"
            yield from _resources(there)
    for left in by_site.values():
        yield ""
        yield from _resources(left)
    for title, incidents in (("going on", overview.open_incidents), ("coming", overview.coming_incidents)):
        if incidents:
            yield ""
            yield click.style(f"Incidents {title}", bold=True)
            yield from incident_table(incidents, indent="  ")


def _resources(resources: Sequence[Resource]) -> Iterable[str]:
    if not resources:
        return
    rows = [(each.id, each.type_word, status(each.status), since(each), why(each)) for each in resources]
    yield from columns(("RESOURCE", "TYPE", "STATUS", "SINCE", "REASON"), rows, indent="  ")


def since(resource: Resource) -> str:
    """Say how long a resource has been as it is."""
    start = resource.current.since
    if start is None or start.timestamp() <= 0:
        return ""
    return age(datetime.now(UTC) - start)


def why(resource: Resource) -> str:
    """Say why a resource is as it is, as far as there is something to say."""
    current = resource.current
    parts = [short(current.reason)] if current.reason else []
    if current.incident_id:
        parts.append(f"[{current.incident_id}]")
    if current.capacity:
        parts.append(f"({_capacity(current.capacity)})")
    return " ".join(parts)


def _capacity(capacity: Capacity) -> str:
    """Say how the nodes are, and which queues do not take and start jobs."""
    nodes = capacity.nodes or NodeCounts()
    numbers = {
        "idle": nodes.idle,
        "busy": nodes.mixed + nodes.allocated,
        "drained": nodes.drained,
        "down": nodes.down,
        "in maintenance": nodes.maintenance,
        "unknown": nodes.unknown,
    }
    parts = [f"{number} {how}" for how, number in numbers.items() if number]
    text = f"{nodes.total} {'node' if nodes.total == 1 else 'nodes'}" + (f": {', '.join(parts)}" if parts else "")
    closed = [f"{queue.name} {queue.state.lower()}" for queue in capacity.queues if queue.state not in _STARTING]
    return f"{text}; {short(', '.join(closed))}" if closed else text


def incident_table(incidents: Sequence[Incident], *, indent: str = "") -> Iterable[str]:
    """Lay incidents out in columns."""
    header = ("ID", "TYPE", "SEVERITY", "STATUS", "STANDS", "FROM", "TO", "RESOURCES", "NAME")
    rows = [
        (
            each.id,
            each.type.lower(),
            severity(each.severity),
            status(each.status),
            each.resolution.lower(),
            moment(each.start_time)[:16],
            moment(each.end_time)[:16] or "?",
            short(",".join(each.resource_ids), 30),
            short(each.name),
        )
        for each in incidents
    ]
    return columns(header, rows, indent=indent)


def severity(value: Severity) -> str:
    """Return a severity in its color."""
    word = "minor" if value is Severity.UNSPECIFIED else value.lower()
    return click.style(word, fg={"major": "yellow", "critical": "red"}.get(word))


def incident_details(incident: Incident) -> Iterable[str]:
    """Say all about an incident, a line for each thing."""
    others = sorted(set(incident.impacted_resource_ids) - set(incident.resource_ids))
    rows = {
        "id": incident.id,
        "name": incident.name,
        "type": incident.type.lower(),
        "stands": incident.resolution.lower(),
        "makes them": status(incident.status),
        "severity": severity(incident.severity),
        "from": moment(incident.start_time),
        "to": moment(incident.end_time) or "nobody knows",
        "resources": " ".join(incident.resource_ids),
        "impacts too": " ".join(others),
        "series": incident.series_id,
        "calendar": incident.calendar_uid,
        "declared by": incident.declared_by,
        "declared": moment(incident.create_time),
        "changed": moment(incident.update_time),
        "etag": incident.etag,
    }
    for key, value in rows.items():
        if value:
            yield f"{key + ':':<13}{value}"
    for line in incident.description.splitlines():
        yield f"{'':<13}{line}"
    for note in incident.notes:
        yield f"{'':<13}{moment(note.time)}  {note.author}: {note.text}"


def incident_line(incident: Incident) -> str:
    """Say in a line how an incident stands."""
    parts = (incident.id, incident.resolution.lower(), status(incident.status), span(incident), incident.name)
    return "  ".join(part for part in parts if part)


def span(incident: Incident) -> str:
    """Say from when to when an incident lasts."""
    end = moment(incident.end_time)
    return f"{moment(incident.start_time)} to {end or '?'}"


def change_line(change: StatusChange) -> str:
    """Say in a line what happened."""
    subject = change.subject
    if isinstance(subject, Resource):
        text = f"{subject.id}  {status(subject.status)}  {why(subject)}"
        if change.type is StatusChangeType.DELETED:
            text = f"{subject.id}  is no longer part of the facility"
        time = subject.current.since if change.type is StatusChangeType.SNAPSHOT else subject.update_time
        return _line(time, "resource", text)
    if isinstance(subject, Incident):
        text = f"{incident_line(subject)}  ({', '.join(subject.resource_ids)})"
        return _line(subject.update_time, "incident", text)
    if isinstance(subject, Event):
        text = f"{subject.resource_id}  {status(subject.previous_status)} → {status(subject.status)}  {subject.reason}"
        return _line(subject.occur_time, "event", text)
    if subject is None:
        return _line(None, "change", "of a kind that this program is too old to know")
    kind = "site" if change.site is not None else "facility"
    return _line(subject.update_time, kind, f"{subject.id}  {change.type.lower()}")


def _line(time: datetime | None, kind: str, text: str) -> str:
    local = (time if time and time.timestamp() > 0 else datetime.now(UTC)).astimezone()
    return f"{local:%H:%M:%S}  {kind:<8}  {text}".rstrip()


def availability_lines(resource_id: str, report: AvailabilityReport) -> Iterable[str]:
    """Say whether a resource can be used, and when."""
    word = report.availability.lower().replace("_", " ")
    yield f"{resource_id}: {click.style(word, fg=AVAILABILITY_COLORS.get(report.availability))}, {report.reason}"
    if report.availability is not Availability.AVAILABLE:
        free = report.next_free
        when = f"{moment(free.start_time)} to {moment(free.end_time)}" if free else "nobody knows when"
        yield f"next free for as long: {when}"
    if report.incidents:
        yield from incident_table(report.incidents)


def outage_lines(report: OutageReport) -> Iterable[str]:
    """Say what was down, and how much that explains."""
    yield report.summary
    if not report.outages:
        return
    rows = [
        (
            f"{each.likelihood:.0%}",
            status(each.status),
            moment(each.overlap.start_time),
            age(each.duration or timedelta()),
            each.incident_id or "-",
            each.explanation,
        )
        for each in report.outages
    ]
    yield from columns(("LIKELY", "STATUS", "FROM", "FOR", "INCIDENT", "EXPLANATION"), rows)


def kind_of(change: StatusChange) -> str:
    """Return the name of the field that a change sets."""
    names = ("resource", "incident", "event", "facility", "site")
    return next((name for name in names if getattr(change, name) is not None), "")


def planned(incident: Incident) -> bool:
    """Whether an incident was announced before."""
    return incident.type in (IncidentType.PLANNED, IncidentType.RESERVATION)


def as_json(kind: str, value: Any, **more: Any) -> dict[str, Any]:
    """Return a thing as one object that says what kind of thing it is."""
    from openfacility_client import to_json  # noqa: PLC0415 - beside where it is used

    return {**more, kind: to_json(value)}
