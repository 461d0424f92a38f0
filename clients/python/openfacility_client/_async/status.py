# ruff: noqa: ASYNC109 - the timeout is gRPC's, which also tells it to the server
"""The facility's status: what is up, what will be, and what broke a job."""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Any

from openfacility.status.v1 import status_service_pb2 as pb

from openfacility_client._async.status_reading import AsyncStatusReading, Timeout
from openfacility_client._convert import from_proto
from openfacility_client._status_model import (
    Incident,
    IncidentType,
    Resource,
    ResourceStatus,
    Severity,
    incident_id_of,
    resource_id_of,
)
from openfacility_client._status_requests import (
    STATUS,
    TYPE,
    Resources,
    incident_fields,
    number,
    resource_ids,
    set_time,
)


class AsyncStatus(AsyncStatusReading):
    """The facility's sites, resources, incidents and events. Reading needs no token.

    Wherever a resource or an incident is asked for, its id will do. Times are aware datetimes: one without a time zone
    raises ValueError. Every method that changes something is for operators, and can safely be repeated with the same
    `request_id`. All methods raise `RPCError`s; the contract says which.
    """

    async def declare(
        self,
        name: str,
        resources: Resources,
        *,
        status: ResourceStatus | str = ResourceStatus.DOWN,
        severity: Severity | str = Severity.MINOR,
        type: IncidentType | str = IncidentType.UNPLANNED,  # noqa: A002 - the contract's word
        start: datetime | None = None,
        end: datetime | None = None,
        description: str = "",
        note: str = "",
        request_id: str = "",
        timeout: Timeout = None,
    ) -> Incident:
        """Declare an incident that goes on; return it as it was stored.

        Args:
            name: a line that says what is wrong.
            resources: those that it is about; what depends on them is impacted too.
            status: what it makes of them.
            severity: how bad it is.
            type: why it happens.
            start: when it began; None for now.
            end: when it will be over; None while nobody knows.
            description: a paragraph.
            note: a first note.
            request_id: makes repeating safe; empty for a new one.
            timeout: how long to wait, in seconds.

        Raises:
            InvalidArgument: an unknown resource, an end before the start, a span longer than a year.
        """
        request = pb.CreateIncidentRequest(note=note, request_id=request_id or _new_id())
        request.incident.type = number(TYPE, type)
        incident_fields(
            request.incident,
            name=name,
            description=description,
            severity=severity,
            status=status,
            resources=resources,
            start=start,
            end=end,
        )
        return (await self._incidents("CreateIncident", request, timeout))[0]

    async def plan(
        self,
        name: str,
        resources: Resources,
        start: datetime,
        end: datetime | None = None,
        *,
        rule: str = "",
        time_zone: str = "",
        status: ResourceStatus | str = ResourceStatus.DOWN,
        severity: Severity | str = Severity.MINOR,
        reservation: bool = False,
        description: str = "",
        note: str = "",
        request_id: str = "",
        timeout: Timeout = None,
    ) -> list[Incident]:
        """Plan an incident that will be, once or repeatedly; return it, or all its occurrences.

        Args:
            name: a line that says what will be done.
            resources: those that it is about.
            start: when it begins, for the first time.
            end: when that is over; needed with a rule.
            rule: repeats it, as RFC 5545 says: `FREQ=WEEKLY;BYDAY=TU;COUNT=10`. It must end.
            time_zone: in which the rule is meant, such as `Europe/London`; empty for UTC.
            status: what it makes of the resources.
            severity: how bad it is.
            reservation: whether they are only kept for somebody, and work.
            description: a paragraph.
            note: a first note.
            request_id: makes repeating safe; empty for a new one.
            timeout: how long to wait, in seconds.

        Raises:
            InvalidArgument: as in `declare`, or the rule does not end or cannot be understood.
        """
        request = pb.CreateIncidentRequest(note=note, request_id=request_id or _new_id())
        request.incident.type = number(TYPE, IncidentType.RESERVATION if reservation else IncidentType.PLANNED)
        incident_fields(
            request.incident,
            name=name,
            description=description,
            severity=severity,
            status=status,
            resources=resources,
            start=start,
            end=end,
        )
        if rule:
            request.recurrence.rule = rule
            request.recurrence.time_zone = time_zone
        return await self._incidents("CreateIncident", request, timeout)

    async def update(
        self,
        incident: Incident | str,
        *,
        name: str | None = None,
        description: str | None = None,
        severity: Severity | str | None = None,
        status: ResourceStatus | str | None = None,
        resources: Resources | None = None,
        start: datetime | None = None,
        end: datetime | None = None,
        no_end: bool = False,
        etag: str = "",
        request_id: str = "",
        timeout: Timeout = None,
    ) -> Incident:
        """Change an incident; what is None stays as it is. A later end extends one that goes on.

        Args:
            incident: the incident as the caller knows it; or its id, together with `etag`.
            name: a line.
            description: a paragraph.
            severity: how bad it is.
            status: what it makes of the resources.
            resources: all those that it is about from now on.
            start: when it begins; may change until it has begun.
            end: when it ends.
            no_end: whether nobody knows any more when it ends.
            etag: the version that the change is based on, if not that of `incident`.
            request_id: makes repeating safe; empty for a new one.
            timeout: how long to wait, in seconds.

        Raises:
            Aborted: the incident was changed by somebody else: get it again and decide anew.
            FailedPrecondition: it is over.
        """
        request = pb.UpdateIncidentRequest(etag=_etag(incident, etag), request_id=request_id or _new_id())
        request.incident.id = incident_id_of(incident)
        paths = incident_fields(
            request.incident,
            name=name,
            description=description,
            severity=severity,
            status=status,
            resources=resources,
            start=start,
            end=end,
        )
        if no_end:
            if end is not None:
                raise TypeError("give an end or no_end, not both")
            paths.append("end_time")
        if not paths:
            raise ValueError("nothing to change")
        request.update_mask.paths.extend(paths)
        return await self._get(Incident, "UpdateIncident", request, timeout)

    async def resolve(
        self,
        incident: Incident | str,
        *,
        end: datetime | None = None,
        cancel: bool = False,
        note: str = "",
        etag: str = "",
        request_id: str = "",
        timeout: Timeout = None,
    ) -> Incident:
        """End an incident; one that has not begun is called off.

        Args:
            incident: the incident as the caller knows it; or its id, together with `etag`.
            end: when it ended, between its start and now; None for now.
            cancel: call it off instead: it was never so.
            note: a last note.
            etag: the version that the change is based on, if not that of `incident`.
            request_id: makes repeating safe; empty for a new one.
            timeout: how long to wait, in seconds.

        Raises:
            Aborted: the incident was changed by somebody else: get it again and decide anew.
            FailedPrecondition: it is over already.
        """
        request = pb.ResolveIncidentRequest(
            incident_id=incident_id_of(incident),
            cancel=cancel,
            note=note,
            etag=_etag(incident, etag),
            request_id=request_id or _new_id(),
        )
        set_time(request, "end_time", "end", end)
        return await self._get(Incident, "ResolveIncident", request, timeout)

    async def add_note(
        self, incident: Incident | str, text: str, *, request_id: str = "", timeout: Timeout = None
    ) -> Incident:
        """Add a note to an incident, also to one that is over."""
        request = pb.AddIncidentNoteRequest(
            incident_id=incident_id_of(incident), text=text, request_id=request_id or _new_id()
        )
        return await self._get(Incident, "AddIncidentNote", request, timeout)

    async def set_status(
        self,
        resource: Resource | str,
        status: ResourceStatus | str | None,
        reason: str = "",
        *,
        until: datetime | None = None,
        incident: Incident | str = "",
        request_id: str = "",
        timeout: Timeout = None,
    ) -> Resource:
        """Say how a resource is; that goes before what probes say. Incidents that are worse still count.

        Args:
            resource: the resource.
            status: how it is; None takes an earlier word back.
            reason: a sentence.
            until: when the word ceases to count; None for when it is taken back.
            incident: the incident that this is part of.
            request_id: makes repeating safe; empty for a new one.
            timeout: how long to wait, in seconds.

        Raises:
            InvalidArgument: the expiry is in the past or over a year away.
        """
        request = pb.SetResourceStatusRequest(
            resource_id=resource_id_of(resource),
            reason=reason,
            incident_id=incident_id_of(incident),
            request_id=request_id or _new_id(),
        )
        if status is not None:
            request.status = number(STATUS, status)
        set_time(request, "expire_time", "until", until)
        return await self._get(Resource, "SetResourceStatus", request, timeout)

    async def import_calendar(
        self, calendar: str | bytes, resources: Resources = (), *, request_id: str = "", timeout: Timeout = None
    ) -> list[Incident]:
        """Plan the incidents of an iCalendar document; return those that were planned, changed or called off.

        Args:
            calendar: the document, at most 1 MiB. Events whose UID is known are changed.
            resources: those of events that name none.
            request_id: makes repeating safe; empty for a new one.
            timeout: how long to wait, in seconds.

        Raises:
            InvalidArgument: names the component and what is wrong with it; then nothing was changed.
        """
        text = calendar.decode("utf-8-sig") if isinstance(calendar, bytes) else calendar
        request = pb.ImportCalendarRequest(
            calendar=text, resource_ids=resource_ids(resources), request_id=request_id or _new_id()
        )
        return await self._incidents("ImportCalendar", request, timeout)

    async def export_calendar(
        self, resources: Resources = (), *, since: datetime | None = None, timeout: Timeout = None
    ) -> str:
        """Return planned incidents as an iCalendar document.

        Args:
            resources: only incidents that impact these; none for all.
            since: beginning at or after this time; None for 30 days ago.
            timeout: how long to wait, in seconds.
        """
        request = pb.ExportCalendarRequest(resource_ids=resource_ids(resources))
        set_time(request, "from", "since", since)
        response = await self._transport.call("ExportCalendar", request, timeout=timeout)
        return bytes(response.data).decode()

    async def _incidents(self, method: str, request: Any, timeout: Timeout) -> list[Incident]:
        response = await self._transport.call(method, request, timeout=timeout)
        return [from_proto(Incident, each) for each in response.incidents]


def _etag(incident: Incident | str, etag: str) -> str:
    if etag:
        return etag
    if isinstance(incident, Incident) and incident.etag:
        return incident.etag
    raise TypeError("give the Incident that the change is based on, or its etag: somebody else may have changed it")


def _new_id() -> str:
    return str(uuid.uuid4())
