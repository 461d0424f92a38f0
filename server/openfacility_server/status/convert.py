"""Status as protobuf messages and back."""

from __future__ import annotations

from datetime import datetime
from typing import cast

from openfacility.status.v1 import status_pb2, status_service_pb2

from openfacility_server.status import model
from openfacility_server.wire import framed, moment, timestamp

_SITE_TEXTS = (
    "id",
    "name",
    "short_name",
    "description",
    "operating_organization",
    "country_name",
    "locality_name",
    "state_or_province_name",
    "street_address",
    "unlocode",
)
_FACILITY_TEXTS = ("id", "name", "short_name", "description", "organization_name", "support_uri")
_COUNTS = ("total", "idle", "mixed", "allocated", "drained", "down", "maintenance", "unknown")
SUBJECT_FIELDS = {"resource": 3, "incident": 4, "event": 5, "facility": 6, "site": 7}


def contacts_to_pb(contacts: tuple[model.Contact, ...]) -> list[status_pb2.Contact]:
    """Returns contacts as messages."""
    return [status_pb2.Contact(name=c.name, role=c.role, email=c.email, phone=c.phone, uri=c.uri) for c in contacts]


def facility_to_pb(facility: model.Facility, site_ids: list[str], update_time: datetime) -> status_pb2.Facility:
    """Returns the facility's message."""
    return status_pb2.Facility(
        **{name: getattr(facility, name) for name in _FACILITY_TEXTS},
        contacts=contacts_to_pb(facility.contacts),
        site_ids=site_ids,
        update_time=timestamp(update_time),
    )


def site_to_pb(site: model.Site, resource_ids: list[str], update_time: datetime) -> status_pb2.Site:
    """Returns a site's message."""
    pb = status_pb2.Site(
        **{name: getattr(site, name) for name in _SITE_TEXTS},
        contacts=contacts_to_pb(site.contacts),
        resource_ids=resource_ids,
        update_time=timestamp(update_time),
    )
    for name in ("latitude", "longitude", "altitude"):
        value = getattr(site, name)
        if value is not None:
            setattr(pb, name, value)
    return pb


def current_to_pb(current: model.CurrentStatus) -> status_pb2.CurrentStatus:
    """Returns a status as a message."""
    return status_pb2.CurrentStatus(
        status=cast("status_pb2.ResourceStatus", int(current.status)),
        since=timestamp(current.since),
        reason=current.reason,
        source=cast("status_pb2.StatusSource", int(current.source)),
        incident_id=current.incident_id,
        because_of_resource_id=current.because_of_resource_id,
        capacity=capacity_to_pb(current.capacity) if current.capacity else None,
    )


def capacity_to_pb(capacity: model.Capacity) -> status_pb2.Capacity:
    """Returns a capacity as a message."""
    return status_pb2.Capacity(
        nodes=_counts_to_pb(capacity.nodes),
        queues=[
            status_pb2.QueueCapacity(
                name=queue.name,
                state=cast("status_pb2.QueueState", int(queue.state)),
                nodes=_counts_to_pb(queue.nodes),
            )
            for queue in capacity.queues
        ],
        time=timestamp(capacity.time),
    )


def _counts_to_pb(counts: model.NodeCounts) -> status_pb2.NodeCounts:
    return status_pb2.NodeCounts(**{name: getattr(counts, name) for name in _COUNTS})


def _capacity_from_pb(pb: status_pb2.Capacity) -> model.Capacity:
    queues = tuple(
        model.QueueCapacity(queue.name, model.QueueState(queue.state), _counts_from_pb(queue.nodes))
        for queue in pb.queues
    )
    return model.Capacity(_counts_from_pb(pb.nodes), queues, moment(pb.time))


def _counts_from_pb(pb: status_pb2.NodeCounts) -> model.NodeCounts:
    return model.NodeCounts(**{name: getattr(pb, name) for name in _COUNTS})


def incident_to_pb(incident: model.Incident) -> status_pb2.Incident:
    """Returns an incident's message."""
    pb = status_pb2.Incident(
        id=incident.id,
        type=cast("status_pb2.IncidentType", int(incident.type)),
        name=incident.name,
        description=incident.description,
        status=cast("status_pb2.ResourceStatus", int(incident.status)),
        severity=cast("status_pb2.Severity", int(incident.severity)),
        start_time=timestamp(incident.start_time),
        resolution=cast("status_pb2.Resolution", int(incident.resolution)),
        resource_ids=incident.resource_ids,
        impacted_resource_ids=incident.impacted_resource_ids,
        notes=[
            status_pb2.IncidentNote(time=timestamp(note.time), author=note.author, text=note.text)
            for note in incident.notes
        ],
        declared_by=incident.declared_by,
        series_id=incident.series_id,
        calendar_uid=incident.calendar_uid,
        create_time=timestamp(incident.create_time),
        update_time=timestamp(incident.update_time),
        etag=incident.etag,
        revision=incident.revision,
    )
    if incident.end_time is not None:
        pb.end_time.CopyFrom(timestamp(incident.end_time))
    return pb


def incident_from_pb(pb: status_pb2.Incident) -> model.Incident:
    """Returns a stored incident from its message."""
    return model.Incident(
        id=pb.id,
        type=model.IncidentType(pb.type),
        name=pb.name,
        description=pb.description,
        status=model.Status(pb.status),
        severity=model.Severity(pb.severity or model.Severity.MINOR),
        start_time=moment(pb.start_time),
        end_time=moment(pb.end_time) if pb.HasField("end_time") else None,
        resolution=model.Resolution(pb.resolution),
        resource_ids=tuple(pb.resource_ids),
        impacted_resource_ids=tuple(pb.impacted_resource_ids),
        notes=tuple(model.Note(moment(note.time), note.author, note.text) for note in pb.notes),
        declared_by=pb.declared_by,
        series_id=pb.series_id,
        calendar_uid=pb.calendar_uid,
        create_time=moment(pb.create_time),
        update_time=moment(pb.update_time),
        revision=pb.revision,
    )


def event_to_pb(event: model.Event) -> status_pb2.Event:
    """Returns an event's message."""
    return status_pb2.Event(
        id=event.id,
        resource_id=event.resource_id,
        incident_id=event.incident_id,
        status=cast("status_pb2.ResourceStatus", int(event.status)),
        previous_status=cast("status_pb2.ResourceStatus", int(event.previous_status)),
        occur_time=timestamp(event.occur_time),
        create_time=timestamp(event.create_time),
        reason=event.reason,
        source=cast("status_pb2.StatusSource", int(event.source)),
        revision=event.revision,
    )


class StatusCodec:
    """How the store keeps things: as the serialized messages that callers get."""

    def resource(
        self, resource: model.Resource, current: model.CurrentStatus, update_time: datetime, revision: int
    ) -> bytes:
        """Serializes a resource with its status."""
        return status_pb2.Resource(
            id=resource.id,
            name=resource.name,
            description=resource.description,
            resource_type=resource.resource_type,
            type_word=resource.type_word,
            group=resource.group,
            site_id=resource.site_id,
            capability_ids=resource.capability_ids,
            depends_on=resource.depends_on,
            services=resource.services,
            labels=resource.labels,
            current=current_to_pb(current),
            update_time=timestamp(update_time),
            revision=revision,
        ).SerializeToString(deterministic=True)

    def current(self, data: bytes) -> model.CurrentStatus:
        """Reads the status out of a serialized resource."""
        return current_from_pb(status_pb2.Resource.FromString(data).current)

    def incident(self, incident: model.Incident) -> bytes:
        """Serializes an incident."""
        return incident_to_pb(incident).SerializeToString()

    def read_incident(self, data: bytes) -> model.Incident:
        """Reads a serialized incident."""
        return incident_from_pb(status_pb2.Incident.FromString(data))

    def event(self, event: model.Event) -> bytes:
        """Serializes an event."""
        return event_to_pb(event).SerializeToString()

    def read_event(self, data: bytes) -> model.Event:
        """Reads a serialized event."""
        pb = status_pb2.Event.FromString(data)
        return model.Event(
            id=pb.id,
            resource_id=pb.resource_id,
            status=model.Status(pb.status),
            previous_status=model.Status(pb.previous_status or model.Status.UNKNOWN),
            occur_time=moment(pb.occur_time),
            create_time=moment(pb.create_time),
            incident_id=pb.incident_id,
            reason=pb.reason,
            source=model.Source(pb.source),
            revision=pb.revision,
        )

    def change(self, kind: str, data: bytes, revision: int, type_: str) -> bytes:
        """Serializes a change of something that is serialized already."""
        head = status_service_pb2.StatusChange(type=type_, revision=revision)
        return head.SerializeToString() + framed(SUBJECT_FIELDS[kind], data)


def current_from_pb(pb: status_pb2.CurrentStatus) -> model.CurrentStatus:
    """Returns a status from its message."""
    return model.CurrentStatus(
        model.Status(pb.status),
        moment(pb.since),
        pb.reason,
        model.Source(pb.source),
        pb.incident_id,
        pb.because_of_resource_id,
        _capacity_from_pb(pb.capacity) if pb.HasField("capacity") else None,
    )


def resource_from_pb(pb: status_pb2.Resource) -> model.Resource:
    """Returns a resource's description from its message."""
    return model.Resource(
        id=pb.id,
        name=pb.name,
        description=pb.description,
        resource_type=pb.resource_type,
        group=pb.group,
        site_id=pb.site_id,
        capability_ids=tuple(pb.capability_ids),
        depends_on=tuple(pb.depends_on),
        services=tuple(pb.services),
        labels=dict(pb.labels),
    )


def facility_from_pb(pb: status_pb2.Facility) -> model.Facility:
    """Returns the facility's description from its message, without its contacts."""
    return model.Facility(**{name: getattr(pb, name) for name in _FACILITY_TEXTS})


class Describer:
    """Serializes descriptions."""

    def facility(self, facility: model.Facility, site_ids: list[str], update_time: datetime) -> bytes:
        """Serializes the facility."""
        return facility_to_pb(facility, site_ids, update_time).SerializeToString()

    def site(self, site: model.Site, resource_ids: list[str], update_time: datetime) -> bytes:
        """Serializes a site."""
        return site_to_pb(site, resource_ids, update_time).SerializeToString()
