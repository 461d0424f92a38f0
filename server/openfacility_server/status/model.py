"""What the Status domain is about, in plain Python: no protobuf, no SQL.

Times are aware UTC datetimes. The meaning of each field is documented once, in
``protos/openfacility/status/v1/status.proto``; names and enum numbers here are the same.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import IntEnum


class Status(IntEnum):
    """Whether a resource can be used; numbers as in the contract."""

    UP = 1
    DEGRADED = 2
    DOWN = 3
    UNKNOWN = 4

    @property
    def badness(self) -> int:
        """How bad it is, to find the worst of several: known bad is worse than unknown, unknown worse than up."""
        return {Status.UP: 0, Status.UNKNOWN: 1, Status.DEGRADED: 2, Status.DOWN: 3}[self]


class Source(IntEnum):
    """What made a resource be in its status; numbers as in the contract."""

    NONE = 0
    PROBE = 1
    OPERATOR = 2
    INCIDENT = 3
    DEPENDENCY = 4


class IncidentType(IntEnum):
    """Why an incident happens; numbers as in the contract."""

    PLANNED = 1
    UNPLANNED = 2
    RESERVATION = 3


class Severity(IntEnum):
    """How bad an incident is; numbers as in the contract."""

    MINOR = 1
    MAJOR = 2
    CRITICAL = 3


class Resolution(IntEnum):
    """How an incident stands; numbers as in the contract."""

    UNRESOLVED = 1
    PENDING = 2
    EXTENDED = 3
    COMPLETED = 4
    CANCELLED = 5

    @property
    def active(self) -> bool:
        """Whether the incident goes on."""
        return self in (Resolution.UNRESOLVED, Resolution.EXTENDED)

    @property
    def over(self) -> bool:
        """Whether the incident will not go on any more."""
        return self in (Resolution.COMPLETED, Resolution.CANCELLED)


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

    id: str
    name: str = ""
    short_name: str = ""
    description: str = ""
    organization_name: str = ""
    support_uri: str = ""
    contacts: tuple[Contact, ...] = ()


@dataclass(frozen=True, slots=True)
class Site:
    """A place where resources are."""

    id: str
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


@dataclass(frozen=True, slots=True)
class Resource:
    """Something that can be up or down, as it is described."""

    id: str
    name: str = ""
    description: str = ""
    resource_type: str = ""
    group: str = ""
    site_id: str = ""
    capability_ids: tuple[str, ...] = ()
    depends_on: tuple[str, ...] = ()
    services: tuple[str, ...] = ()
    labels: dict[str, str] = field(default_factory=dict)

    @property
    def type_word(self) -> str:
        """The type in one word."""
        return type_word(self.resource_type)


@dataclass(frozen=True, slots=True)
class Word:
    """What somebody or something says of a resource, since when, and until when it counts."""

    status: Status
    since: datetime
    reason: str = ""
    until: datetime | None = None
    incident_id: str = ""


class QueueState(IntEnum):
    """What a queue does with jobs; numbers as in the contract."""

    OPEN = 1
    STOPPED = 2
    DRAINING = 3
    CLOSED = 4


@dataclass(frozen=True, slots=True)
class NodeCounts:
    """How many nodes are how; each counts once."""

    total: int = 0
    idle: int = 0
    mixed: int = 0
    allocated: int = 0
    drained: int = 0
    down: int = 0
    maintenance: int = 0
    unknown: int = 0

    @property
    def busy(self) -> tuple[int, ...]:
        """Those that come and go with every job."""
        return self.idle, self.mixed, self.allocated

    @property
    def out(self) -> int:
        """Those that take no jobs, unannounced."""
        return self.drained + self.down


@dataclass(frozen=True, slots=True)
class QueueCapacity:
    """A queue and its nodes."""

    name: str
    state: QueueState
    nodes: NodeCounts


@dataclass(frozen=True, slots=True)
class Capacity:
    """The nodes of a compute resource, as they were at a time."""

    nodes: NodeCounts
    queues: tuple[QueueCapacity, ...]
    time: datetime


@dataclass(frozen=True, slots=True)
class CurrentStatus:
    """How a resource is: the worst of what is known."""

    status: Status
    since: datetime
    reason: str = ""
    source: Source = Source.NONE
    incident_id: str = ""
    because_of_resource_id: str = ""
    capacity: Capacity | None = None


@dataclass(frozen=True, slots=True)
class Note:
    """Something said about an incident."""

    time: datetime
    author: str
    text: str


@dataclass(frozen=True, slots=True)
class Incident:
    """A span of time in which resources are not as they should be."""

    id: str
    type: IncidentType
    name: str
    status: Status
    severity: Severity
    start_time: datetime
    end_time: datetime | None
    resolution: Resolution
    resource_ids: tuple[str, ...]
    create_time: datetime
    update_time: datetime
    description: str = ""
    impacted_resource_ids: tuple[str, ...] = ()
    notes: tuple[Note, ...] = ()
    declared_by: str = ""
    series_id: str = ""
    calendar_uid: str = ""
    revision: int = 0

    @property
    def etag(self) -> str:
        """Version for changes."""
        return f'"{self.revision}"'


@dataclass(frozen=True, slots=True)
class Event:
    """One change of status of one resource."""

    id: str
    resource_id: str
    status: Status
    previous_status: Status
    occur_time: datetime
    create_time: datetime
    incident_id: str = ""
    reason: str = ""
    source: Source = Source.NONE
    revision: int = 0


_WORDS = ("compute", "storage", "network", "service", "website", "system")


def type_word(urn: str) -> str:
    """Returns the word for a type's URN: its first known part after the namespace, `unknown` if there is none."""
    parts = urn.lower().split(":")[2:]
    if "website" in parts:
        return "website"
    return next((part for part in parts if part in _WORDS), "unknown")


def type_matches(urn: str, wanted: str) -> bool:
    """Whether a type is, or is below, the wanted URN, or has the wanted word."""
    return urn == wanted or urn.startswith(f"{wanted}:") or type_word(urn) == wanted
