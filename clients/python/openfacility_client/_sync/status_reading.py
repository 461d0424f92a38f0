# Made from _async/status_reading.py by clients/python/generate_sync.py; change that one.
"""Reading the facility's status, and asking what it means."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, TypeVar, Unpack

from openfacility.status.v1 import status_service_pb2 as pb

from openfacility_client._convert import from_proto
from openfacility_client._cursors import OnGap
from openfacility_client._model import Job, id_of
from openfacility_client._status_cursor import Key, StatusCursor
from openfacility_client._status_model import (
    AvailabilityReport,
    Event,
    Facility,
    FacilityOverview,
    Incident,
    OutageReport,
    PeerFacility,
    Resource,
    Site,
    incident_id_of,
    resource_id_of,
)
from openfacility_client._status_requests import (
    EventOptions,
    IncidentOptions,
    ResourceOptions,
    Resources,
    events_request,
    incident_filter,
    resource_filter,
    resource_ids,
    set_time,
)
from openfacility_client._sync.status_streams import StatusPager, StatusWatch
from openfacility_client._sync.streams import OnDisconnect
from openfacility_client._sync.transport import Transport

Timeout = timedelta | float | None
"""How long a call may take, as a duration or in seconds; None for the client's default (30 s)."""

Message = TypeVar("Message")
_LOOK_UP_AT_ONCE = 500


class StatusReading:
    """What everybody may do with the status of a facility."""

    def __init__(self, transport: Transport) -> None:
        """Use a connection."""
        self._transport = transport

    def facility(self, *, timeout: Timeout = None) -> Facility:
        """Return the facility."""
        return self._get(Facility, "GetFacility", pb.GetFacilityRequest(), timeout)

    def overview(self, *, timeout: Timeout = None) -> FacilityOverview:
        """Return one answer for a map or a dashboard: sites with counts, incidents that go on or come."""
        return self._get(FacilityOverview, "GetFacilityOverview", pb.GetFacilityOverviewRequest(), timeout)

    def facilities(self, *, timeout: Timeout = None) -> list[PeerFacility]:
        """Return this facility and those that its server knows of, each as it was when last heard of."""
        response = self._transport.call("ListFacilities", pb.ListFacilitiesRequest(), timeout=timeout)
        return [from_proto(PeerFacility, each) for each in response.facilities]

    def site(self, site_id: str, *, timeout: Timeout = None) -> Site:
        """Return a site.

        Raises:
            NotFound: there is none with this id.
        """
        return self._get(Site, "GetSite", pb.GetSiteRequest(site_id=site_id), timeout)

    def sites(
        self,
        *,
        name: str = "",
        short_name: str = "",
        modified_since: datetime | None = None,
        page_size: int = 0,
        timeout: Timeout = None,
    ) -> StatusPager[Site]:
        """Go through the sites, by id."""
        request = pb.ListSitesRequest(name=name, short_name=short_name, page_size=page_size)
        set_time(request, "modified_since", "modified_since", modified_since)
        return StatusPager(self._transport, "ListSites", request, Site, "sites", timeout)

    def resource(self, resource: Resource | str, *, timeout: Timeout = None) -> Resource:
        """Return a resource as it is now.

        Raises:
            NotFound: there is none with this id.
        """
        request = pb.GetResourceRequest(resource_id=resource_id_of(resource))
        return self._get(Resource, "GetResource", request, timeout)

    def resources(
        self, *, page_size: int = 0, timeout: Timeout = None, **filters: Unpack[ResourceOptions]
    ) -> StatusPager[Resource]:
        """Go through the resources that match, by id.

        Args:
            page_size: most resources in one call, up to 1,000; 0 for the server's choice.
            timeout: how long to wait for each page, in seconds.
            filters: see `ResourceOptions`.
        """
        request = pb.ListResourcesRequest(page_size=page_size)
        if filters:
            request.filter.CopyFrom(resource_filter(**filters))
        return StatusPager(self._transport, "ListResources", request, Resource, "resources", timeout)

    def incident(self, incident: Incident | str, *, timeout: Timeout = None) -> Incident:
        """Return an incident as it is now.

        Raises:
            NotFound: there is none that the caller may see.
        """
        request = pb.GetIncidentRequest(incident_id=incident_id_of(incident))
        return self._get(Incident, "GetIncident", request, timeout)

    def incidents(
        self, *, page_size: int = 0, timeout: Timeout = None, **filters: Unpack[IncidentOptions]
    ) -> StatusPager[Incident]:
        """Go through the incidents that match, newest start first; `filters` are `IncidentOptions`."""
        request = pb.ListIncidentsRequest(page_size=page_size)
        if filters:
            request.filter.CopyFrom(incident_filter(**filters))
        return StatusPager(self._transport, "ListIncidents", request, Incident, "incidents", timeout)

    def event(self, event_id: str, *, timeout: Timeout = None) -> Event:
        """Return an event.

        Raises:
            NotFound: there is none that the caller may see.
        """
        return self._get(Event, "GetEvent", pb.GetEventRequest(event_id=event_id), timeout)

    def events(
        self, *, page_size: int = 0, timeout: Timeout = None, **filters: Unpack[EventOptions]
    ) -> StatusPager[Event]:
        """Go through the changes of status that match, newest first; `filters` are `EventOptions`."""
        request = events_request(**filters)
        request.page_size = page_size
        return StatusPager(self._transport, "ListEvents", request, Event, "events", timeout)

    def watch(
        self,
        resources: Resources = (),
        *,
        after_revision: int | None = None,
        snapshot: bool = True,
        on_gap: OnGap = "snapshot",
        timeout: Timeout = None,
        give_up_after: timedelta | float | None = None,
        on_disconnect: OnDisconnect | None = None,
    ) -> StatusWatch:
        """Follow the facility, or some resources with the incidents that impact them and their events.

        First come the resources and the incidents that are not over, as they are (type SNAPSHOT), then every change, in
        order, each exactly once. It all goes on over reconnects, restarts of the server and expired tokens. If the
        server no longer keeps the changes since the last one, a new snapshot is taken: then what has changed meanwhile
        comes as SNAPSHOT, incidents that have ended as UPDATED and resources that were taken out as DELETED (with
        nothing but their id), so that whoever keeps all by their ids is right again; events in between are left out.

        Args:
            resources: which, at most 500; none for all.
            after_revision: only changes after this one, from a list or an earlier watch, and no snapshot.
            snapshot: False for changes from now on only.
            on_gap: what to do when the position is lost; "raise" raises `OutOfRange`.
            timeout: seconds until `DeadlineExceeded`, in all; None for no limit.
            give_up_after: seconds without any contact until the error is raised; None to try for ever.
            on_disconnect: as in `client.jobs.watch`.
        """
        cursor = StatusCursor(resource_ids(resources), after_revision=after_revision, snapshot=snapshot, on_gap=on_gap)
        return StatusWatch(
            self._transport,
            cursor,
            timeout=timeout,
            give_up_after=give_up_after,
            on_disconnect=on_disconnect,
            look_up=self._look_up,
        )

    def check_availability(
        self,
        resource: Resource | str,
        start: datetime | None = None,
        end: datetime | None = None,
        *,
        timeout: Timeout = None,
    ) -> AvailabilityReport:
        """Say whether a resource can be used in a span of time, because of what not, and when it could be for as long.

        Args:
            resource: the resource.
            start: None for now.
            end: None for an hour after the start.
            timeout: how long to wait, in seconds.

        Raises:
            NotFound: there is no such resource.
            InvalidArgument: the span is empty, upside down, over already, or longer than 10 years.
        """
        request = pb.CheckAvailabilityRequest(resource_id=resource_id_of(resource))
        _set_span(request, start, end)
        return self._get(AvailabilityReport, "CheckAvailability", request, timeout)

    def find_outages(
        self,
        *,
        resource: Resource | str | None = None,
        job: Job | str | None = None,
        start: datetime | None = None,
        end: datetime | None = None,
        timeout: Timeout = None,
    ) -> OutageReport:
        """Find the outages of a resource in a span of time, or around the run of a job, and what they explain.

        Args:
            resource: the resource; not together with `job`.
            job: a job of the caller's; its resource and its run are looked at.
            start: None for a day before the end.
            end: None for now.
            timeout: how long to wait, in seconds.

        Raises:
            NotFound: there is no such resource or job that the caller may see.
            Unauthenticated: a job needs a caller who is signed in.
            InvalidArgument: the span makes no sense.
        """
        if (resource is None) == (job is None):
            raise TypeError("give either a resource or a job")
        if job is not None and (start or end):
            raise TypeError("a span of time goes with a resource; a job has its own")
        request = pb.FindOutagesRequest(
            resource_id="" if resource is None else resource_id_of(resource), job_id="" if job is None else id_of(job)
        )
        _set_span(request, start, end)
        return self._get(OutageReport, "FindOutages", request, timeout)

    def _get(self, kind: type[Message], method: str, request: Any, timeout: Timeout) -> Message:
        return from_proto(kind, self._transport.call(method, request, timeout=timeout))

    def _look_up(self, keys: Sequence[Key]) -> tuple[list[Resource], list[Incident]]:
        resources: list[Resource] = []
        incidents: list[Incident] = []
        for start in range(0, len(keys), _LOOK_UP_AT_ONCE):
            some = keys[start : start + _LOOK_UP_AT_ONCE]
            if ids := [id_ for kind, id_ in some if kind == "resource"]:
                for page in self.resources(ids=ids, page_size=_LOOK_UP_AT_ONCE).pages():
                    resources += page
            if ids := [id_ for kind, id_ in some if kind == "incident"]:
                for found in self.incidents(ids=ids, page_size=_LOOK_UP_AT_ONCE).pages():
                    incidents += found
        return resources, incidents


def _set_span(request: Any, start: datetime | None, end: datetime | None) -> None:
    set_time(request, "start_time", "start", start)
    set_time(request, "end_time", "end", end)
