"""What a facility consists of and how it is, as plain data: frozen dataclasses with the names of the contract.

Times are aware UTC datetimes, durations `timedelta`. What is not set is None, an empty string or an empty collection.
What each field means is said in full in `protos/openfacility/status/v1/status.proto`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum


class ResourceStatus(StrEnum):
    """Whether a resource can be used."""

    UNSPECIFIED = "UNSPECIFIED"
    """A status that this client is too old to know."""
    UP = "UP"
    DEGRADED = "DEGRADED"
    DOWN = "DOWN"
    UNKNOWN = "UNKNOWN"


class StatusSource(StrEnum):
    """What made a resource be in its status."""

    UNSPECIFIED = "UNSPECIFIED"
    PROBE = "PROBE"
    OPERATOR = "OPERATOR"
    INCIDENT = "INCIDENT"
    DEPENDENCY = "DEPENDENCY"


class QueueState(StrEnum):
    """What a queue does with jobs."""

    UNSPECIFIED = "UNSPECIFIED"
    OPEN = "OPEN"
    """Takes jobs and starts them."""
    STOPPED = "STOPPED"
    """Takes jobs and starts none."""
    DRAINING = "DRAINING"
    """Takes no jobs, and starts those that it has."""
    CLOSED = "CLOSED"
    """Takes no jobs and starts none."""


class IncidentType(StrEnum):
    """Why an incident happens."""

    UNSPECIFIED = "UNSPECIFIED"
    PLANNED = "PLANNED"
    UNPLANNED = "UNPLANNED"
    RESERVATION = "RESERVATION"
    """Kept for somebody: the resource works, but not for everyone."""


class Severity(StrEnum):
    """How bad an incident is."""

    UNSPECIFIED = "UNSPECIFIED"
    """Counts as minor."""
    MINOR = "MINOR"
    MAJOR = "MAJOR"
    CRITICAL = "CRITICAL"


class Resolution(StrEnum):
    """How an incident stands."""

    UNSPECIFIED = "UNSPECIFIED"
    UNRESOLVED = "UNRESOLVED"
    """Goes on."""
    PENDING = "PENDING"
    """Has not begun."""
    EXTENDED = "EXTENDED"
    """Goes on, and its end has been put off."""
    COMPLETED = "COMPLETED"
    CANCELLED = "CANCELLED"

    @property
    def over(self) -> bool:
        """Whether the incident will not go on any more."""
        return self in (Resolution.COMPLETED, Resolution.CANCELLED)


class Availability(StrEnum):
    """Whether a resource can be used in a span of time."""

    UNSPECIFIED = "UNSPECIFIED"
    AVAILABLE = "AVAILABLE"
    AT_RISK = "AT_RISK"
    """It should work, but is degraded, unknown, or reserved in part of the span."""
    UNAVAILABLE = "UNAVAILABLE"


class StatusChangeType(StrEnum):
    """What kind of change a watch tells of."""

    UNSPECIFIED = "UNSPECIFIED"
    SNAPSHOT = "SNAPSHOT"
    """No change: as it was when the watch began, or began anew after it lost the history."""
    CREATED = "CREATED"
    UPDATED = "UPDATED"
    DELETED = "DELETED"
    """No longer part of the facility's description."""


@dataclass(frozen=True, slots=True)
class Contact:
    """Somebody to turn to."""

    name: str = ""
    role: str = ""
    email: str = ""
    phone: str = ""
    uri: str = ""


@dataclass(frozen=True, slots=True)
class Facility:
    """Who operates the resources."""

    id: str = ""
    name: str = ""
    short_name: str = ""
    description: str = ""
    organization_name: str = ""
    support_uri: str = ""
    contacts: tuple[Contact, ...] = ()
    site_ids: tuple[str, ...] = ()
    update_time: datetime | None = None


@dataclass(frozen=True, slots=True)
class Site:
    """A place where resources are."""

    id: str = ""
    name: str = ""
    short_name: str = ""
    description: str = ""
    operating_organization: str = ""
    country_name: str = ""
    locality_name: str = ""
    state_or_province_name: str = ""
    street_address: str = ""
    unlocode: str = ""
    latitude: float | None = None
    longitude: float | None = None
    altitude: float | None = None
    contacts: tuple[Contact, ...] = ()
    resource_ids: tuple[str, ...] = ()
    update_time: datetime | None = None


@dataclass(frozen=True, slots=True)
class NodeCounts:
    """How many nodes are how; each counts once."""

    total: int = 0
    idle: int = 0
    mixed: int = 0
    """Busy in part."""
    allocated: int = 0
    """Busy."""
    drained: int = 0
    """Taken out of service; they may still run what they have."""
    down: int = 0
    maintenance: int = 0
    unknown: int = 0


@dataclass(frozen=True, slots=True)
class QueueCapacity:
    """A queue of a batch system, and how many of its nodes are how."""

    name: str
    """What `submit` takes as `queue`."""
    state: QueueState = QueueState.UNSPECIFIED
    nodes: NodeCounts | None = None


@dataclass(frozen=True, slots=True)
class Capacity:
    """The nodes of a compute resource, and its queues. A node may be in several queues."""

    nodes: NodeCounts | None = None
    queues: tuple[QueueCapacity, ...] = ()
    time: datetime | None = None
    """When it was so."""


@dataclass(frozen=True, slots=True)
class CurrentStatus:
    """How a resource is: the worst of what is known."""

    status: ResourceStatus = ResourceStatus.UNSPECIFIED
    since: datetime | None = None
    reason: str = ""
    """A sentence."""
    source: StatusSource = StatusSource.UNSPECIFIED
    incident_id: str = ""
    because_of_resource_id: str = ""
    capacity: Capacity | None = None
    """Of a compute resource whose batch system tells how its nodes are."""


@dataclass(frozen=True, slots=True)
class Resource:
    """Something that can be up or down, and used."""

    id: str
    name: str = ""
    description: str = ""
    resource_type: str = ""
    """A URN such as `urn:doe-iri:resource:compute:system`."""
    type_word: str = ""
    group: str = ""
    site_id: str = ""
    capability_ids: tuple[str, ...] = ()
    depends_on: tuple[str, ...] = ()
    services: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    current: CurrentStatus = field(default_factory=CurrentStatus)
    update_time: datetime | None = None
    revision: int = 0

    @property
    def status(self) -> ResourceStatus:
        """How it is now."""
        return self.current.status


@dataclass(frozen=True, slots=True)
class IncidentNote:
    """Something said about an incident."""

    time: datetime | None = None
    author: str = ""
    text: str = ""


@dataclass(frozen=True, slots=True)
class Incident:
    """A span of time in which resources are not as they should be."""

    id: str
    type: IncidentType = IncidentType.UNSPECIFIED
    name: str = ""
    description: str = ""
    status: ResourceStatus = ResourceStatus.UNSPECIFIED
    """What it makes of the resources while it goes on."""
    severity: Severity = Severity.UNSPECIFIED
    start_time: datetime | None = None
    end_time: datetime | None = None
    """None while nobody knows."""
    resolution: Resolution = Resolution.UNSPECIFIED
    resource_ids: tuple[str, ...] = ()
    impacted_resource_ids: tuple[str, ...] = ()
    """Those, and what depends on them."""
    notes: tuple[IncidentNote, ...] = ()
    declared_by: str = ""
    series_id: str = ""
    calendar_uid: str = ""
    create_time: datetime | None = None
    update_time: datetime | None = None
    etag: str = ""
    revision: int = 0

    @property
    def over(self) -> bool:
        """Whether it will not go on any more."""
        return self.resolution.over


@dataclass(frozen=True, slots=True)
class Event:
    """One change of status of one resource."""

    id: str
    resource_id: str = ""
    incident_id: str = ""
    status: ResourceStatus = ResourceStatus.UNSPECIFIED
    previous_status: ResourceStatus = ResourceStatus.UNSPECIFIED
    occur_time: datetime | None = None
    create_time: datetime | None = None
    reason: str = ""
    source: StatusSource = StatusSource.UNSPECIFIED
    revision: int = 0


@dataclass(frozen=True, slots=True)
class Span:
    """A span of time; without an end if `end_time` is None."""

    start_time: datetime | None = None
    end_time: datetime | None = None


@dataclass(frozen=True, slots=True)
class StatusCounts:
    """Resources by status."""

    up: int = 0
    degraded: int = 0
    down: int = 0
    unknown: int = 0

    @property
    def total(self) -> int:
        """All of them."""
        return self.up + self.degraded + self.down + self.unknown


@dataclass(frozen=True, slots=True)
class SiteOverview:
    """A site and how its resources are."""

    site: Site = field(default_factory=Site)
    counts: StatusCounts = field(default_factory=StatusCounts)


@dataclass(frozen=True, slots=True)
class FacilityOverview:
    """One answer for a map or a dashboard."""

    facility: Facility = field(default_factory=Facility)
    sites: tuple[SiteOverview, ...] = ()
    counts: StatusCounts = field(default_factory=StatusCounts)
    open_incidents: tuple[Incident, ...] = ()
    """Those that go on, worst first."""
    coming_incidents: tuple[Incident, ...] = ()
    """Those that begin within 30 days, soonest first."""
    revision: int = 0
    """A watch with `after_revision` continues from here without a gap."""


@dataclass(frozen=True, slots=True)
class PeerFacility:
    """A facility that the server knows of, and whether it answers."""

    name: str = ""
    address: str = ""
    overview: FacilityOverview | None = None
    """As it was when it was last heard of; None when it never was."""
    reachable: bool = False
    heard_time: datetime | None = None
    error: str = ""


@dataclass(frozen=True, slots=True)
class AvailabilityReport:
    """Whether a resource can be used in a span, because of what not, and when it could be for as long."""

    availability: Availability = Availability.UNSPECIFIED
    reason: str = ""
    span: Span = field(default_factory=Span)
    incidents: tuple[Incident, ...] = ()
    next_free: Span | None = None
    """None when an incident without an end stands in the way."""


@dataclass(frozen=True, slots=True)
class Outage:
    """A time in which a resource was not as it should be."""

    incident_id: str = ""
    resource_id: str = ""
    status: ResourceStatus = ResourceStatus.UNSPECIFIED
    overlap: Span = field(default_factory=Span)
    duration: timedelta | None = None
    likelihood: float = 0.0
    """0 to 1: how strongly it explains what was asked about."""
    explanation: str = ""
    events: tuple[Event, ...] = ()


@dataclass(frozen=True, slots=True)
class OutageReport:
    """The outages of a resource in a span, or around the run of a job, likeliest first."""

    outages: tuple[Outage, ...] = ()
    span: Span = field(default_factory=Span)
    down: timedelta | None = None
    """How long the resource was down in the span."""
    summary: str = ""


@dataclass(frozen=True, slots=True)
class StatusChange:
    """One change of one thing, which is the only one of the last five fields that is set."""

    type: StatusChangeType
    revision: int
    resource: Resource | None = None
    incident: Incident | None = None
    event: Event | None = None
    facility: Facility | None = None
    site: Site | None = None

    @property
    def subject(self) -> Resource | Incident | Event | Facility | Site | None:
        """What changed, after the change; None when this client is too old to know it."""
        return self.resource or self.incident or self.event or self.facility or self.site


def resource_id_of(resource: Resource | str) -> str:
    """Return the id of a resource, given as one or as an id."""
    return resource.id if isinstance(resource, Resource) else resource


def incident_id_of(incident: Incident | str) -> str:
    """Return the id of an incident, given as one or as an id."""
    return incident.id if isinstance(incident, Incident) else incident
