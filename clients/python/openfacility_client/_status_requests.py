"""From the arguments of the Status methods to the requests of the contract. No input or output here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any, TypedDict, TypeVar

from openfacility.status.v1 import status_pb2
from openfacility.status.v1 import status_service_pb2 as pb

from openfacility_client._convert import enum_number
from openfacility_client._status_model import (
    Incident,
    IncidentType,
    Resolution,
    Resource,
    ResourceStatus,
    Severity,
    incident_id_of,
    resource_id_of,
)

Resources = Resource | str | Iterable[Resource | str]
"""One or several resources, each given as a `Resource` or an id."""


class ResourceOptions(TypedDict, total=False):
    """Keyword arguments that select resources. All that are given must match; of several values in one, any."""

    ids: Resources
    name: str
    """Exactly."""
    description: str
    """Text in it, in any case."""
    group: str
    """Exactly."""
    type: str
    """A word such as `storage`, or a URN or the beginning of one in whole parts."""
    sites: str | Iterable[str]
    statuses: ResourceStatus | str | Iterable[ResourceStatus | str]
    capabilities: str | Iterable[str]
    modified_since: datetime


class IncidentOptions(TypedDict, total=False):
    """Keyword arguments that select incidents. All that are given must match; of several values in one, any."""

    ids: str | Iterable[str]
    text: str
    """In the name or the description, in any case."""
    resources: Resources
    """Impacted ones, through dependencies too."""
    types: IncidentType | str | Iterable[IncidentType | str]
    statuses: ResourceStatus | str | Iterable[ResourceStatus | str]
    resolutions: Resolution | str | Iterable[Resolution | str]
    at: datetime
    """Going on at this time."""
    since: datetime
    """Ending after this time, or not at all."""
    until: datetime
    """Beginning before this time."""
    modified_since: datetime
    series: str
    """Occurrences of this recurring maintenance."""


class EventOptions(TypedDict, total=False):
    """Keyword arguments that select events. All that are given must match; of several values in one, any."""

    resources: Resources
    incident: Incident | str
    statuses: ResourceStatus | str | Iterable[ResourceStatus | str]
    since: datetime
    """Happened at or after this time."""
    until: datetime
    """Happened before this time."""


def resource_filter(**options: Any) -> pb.ResourceFilter:
    """Make a filter for resources from `ResourceOptions`. Raises TypeError and ValueError."""
    return _fill(pb.ResourceFilter(), options, _RESOURCE_FIELDS)


def incident_filter(**options: Any) -> pb.IncidentFilter:
    """Make a filter for incidents from `IncidentOptions`. Raises TypeError and ValueError."""
    return _fill(pb.IncidentFilter(), options, _INCIDENT_FIELDS)


def events_request(**options: Any) -> pb.ListEventsRequest:
    """Make a request for events from `EventOptions`. Raises TypeError and ValueError."""
    return _fill(pb.ListEventsRequest(), options, _EVENT_FIELDS)


def set_time(message: Any, field: str, name: str, value: datetime | None) -> None:
    """Write a time into a message, if there is one. Raises ValueError if it has no time zone."""
    if value is None:
        return
    if value.tzinfo is None:
        raise ValueError(f"{name} has no time zone: give an aware datetime")
    getattr(message, field).FromDatetime(value)


def resource_ids(resources: Resources) -> list[str]:
    """Return the ids of one or several resources."""
    if isinstance(resources, (Resource, str)):
        return [resource_id_of(resources)]
    return [resource_id_of(resource) for resource in resources]


def number(descriptor: Any, value: str) -> Any:
    """Return the number of an enum value by its name. Raises ValueError."""
    return enum_number(descriptor, value)


STATUS = status_pb2.ResourceStatus.DESCRIPTOR
TYPE = status_pb2.IncidentType.DESCRIPTOR
SEVERITY = status_pb2.Severity.DESCRIPTOR
_RESOLUTION = status_pb2.Resolution.DESCRIPTOR


def incident_fields(
    incident: status_pb2.Incident,
    *,
    name: str | None = None,
    description: str | None = None,
    severity: Severity | str | None = None,
    status: ResourceStatus | str | None = None,
    resources: Resources | None = None,
    start: datetime | None = None,
    end: datetime | None = None,
) -> list[str]:
    """Write what is not None into an incident, and return the paths of what was written."""
    given = {
        "name": name,
        "description": description,
        "severity": None if severity is None else number(SEVERITY, severity),
        "status": None if status is None else number(STATUS, status),
    }
    paths = [field for field, value in given.items() if value is not None]
    for field in paths:
        setattr(incident, field, given[field])
    if resources is not None:
        incident.resource_ids.extend(resource_ids(resources))
        paths.append("resource_ids")
    for field, argument, time in (("start_time", "start", start), ("end_time", "end", end)):
        if time is not None:
            set_time(incident, field, argument, time)
            paths.append(field)
    return paths


_Message = TypeVar("_Message")
_Writer = Callable[[Any, str, str, Any], None]


def _set(message: Any, field: str, _: str, value: Any) -> None:
    setattr(message, field, value)


def _set_words(message: Any, field: str, _: str, value: str | Iterable[str]) -> None:
    getattr(message, field).extend([value] if isinstance(value, str) else value)


def _set_resources(message: Any, field: str, _: str, value: Resources) -> None:
    getattr(message, field).extend(resource_ids(value))


def _set_incident(message: Any, field: str, _: str, value: Incident | str) -> None:
    setattr(message, field, incident_id_of(value))


def _set_enums(descriptor: Any) -> _Writer:
    def write(message: Any, field: str, _: str, value: str | Iterable[str]) -> None:
        values = [value] if isinstance(value, str) else value
        getattr(message, field).extend(number(descriptor, each) for each in values)

    return write


_Fields = Mapping[str, tuple[str, _Writer]]
_RESOURCE_FIELDS: _Fields = {
    "ids": ("resource_ids", _set_resources),
    "name": ("name", _set),
    "description": ("description", _set),
    "group": ("group", _set),
    "type": ("resource_type", _set),
    "sites": ("site_ids", _set_words),
    "statuses": ("statuses", _set_enums(STATUS)),
    "capabilities": ("capability_ids", _set_words),
    "modified_since": ("modified_since", set_time),
}
_INCIDENT_FIELDS: _Fields = {
    "ids": ("incident_ids", _set_words),
    "text": ("text", _set),
    "resources": ("resource_ids", _set_resources),
    "types": ("types", _set_enums(TYPE)),
    "statuses": ("statuses", _set_enums(STATUS)),
    "resolutions": ("resolutions", _set_enums(_RESOLUTION)),
    "at": ("at", set_time),
    "since": ("from", set_time),
    "until": ("to", set_time),
    "modified_since": ("modified_since", set_time),
    "series": ("series_id", _set),
}
_EVENT_FIELDS: _Fields = {
    "resources": ("resource_ids", _set_resources),
    "incident": ("incident_id", _set_incident),
    "statuses": ("statuses", _set_enums(STATUS)),
    "since": ("from", set_time),
    "until": ("to", set_time),
}


def _fill(message: _Message, options: Mapping[str, Any], fields: _Fields) -> _Message:
    unknown = options.keys() - fields.keys()
    if unknown:
        raise TypeError(f"unknown filter: {', '.join(sorted(unknown))}")
    for name, value in options.items():
        field, write = fields[name]
        write(message, field, name, value)
    return message
