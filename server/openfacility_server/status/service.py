"""The gRPC side of Status: converts, calls the domain, converts back. Who may call was decided before."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, cast

from google.api import httpbody_pb2
from google.protobuf.message import Message
from openfacility.status.v1 import status_pb2, status_service_pb2

from openfacility_server.auth.principal import Principal, Role
from openfacility_server.errors import InvalidArgument, NotFound, Unauthenticated, Violation, invalid
from openfacility_server.events import EventHub
from openfacility_server.idempotency import Mutation, mutation
from openfacility_server.interceptors.call import current_call
from openfacility_server.paging import Pager, Position, page_size
from openfacility_server.status import calendar, convert, questions, recurrence
from openfacility_server.status.board import Board
from openfacility_server.status.model import IncidentType, Severity, Status
from openfacility_server.status.operating import UPDATABLE, Draft, Operating
from openfacility_server.status.reading import Overview, Page, Reading
from openfacility_server.status.store import Term, below, contains, micros
from openfacility_server.status.watching import watch_status
from openfacility_server.wire import duration, framed, frames, moment, timestamp

_OVERVIEW_INCIDENTS = 100
_SOON = timedelta(days=30)
_CALENDAR_PAST = timedelta(days=30)
_CALENDAR_MOST = 5000
_MOST_PATHS = 32

Peers = Callable[[], Sequence[status_service_pb2.PeerFacility]]


@dataclass(frozen=True, slots=True)
class JobRun:
    """Where and when a job ran, and how it failed if it did."""

    resource_id: str
    start: datetime | None
    end: datetime | None
    failure: questions.Failure | None


JobOf = Callable[[Principal, str], Awaitable[JobRun]]


class StatusService:
    """Servicer of ``openfacility.status.v1.StatusService``. Responses are messages or their bytes."""

    def __init__(
        self,
        reading: Reading,
        operating: Operating,
        board: Board,
        hub: EventHub,
        pager: Pager,
        job_of: JobOf,
        peers: Peers,
    ) -> None:
        self._reading = reading
        self._operating = operating
        self._board = board
        self._hub = hub
        self._pager = pager
        self._job_of = job_of
        self._peers = peers

    # Reading.

    async def GetFacility(self, request: status_service_pb2.GetFacilityRequest, context: object) -> bytes:
        return await self._reading.facility()

    async def GetFacilityOverview(
        self, request: status_service_pb2.GetFacilityOverviewRequest, context: object
    ) -> status_service_pb2.FacilityOverview:
        return _overview(await self._reading.overview(self._board.now(), _SOON, _OVERVIEW_INCIDENTS))

    async def ListFacilities(
        self, request: status_service_pb2.ListFacilitiesRequest, context: object
    ) -> status_service_pb2.ListFacilitiesResponse:
        now = self._board.now()
        overview = _overview(await self._reading.overview(now, _SOON, _OVERVIEW_INCIDENTS))
        own = status_service_pb2.PeerFacility(
            name=overview.facility.id, overview=overview, reachable=True, heard_time=timestamp(now)
        )
        return status_service_pb2.ListFacilitiesResponse(facilities=[own, *self._peers()])

    async def GetSite(self, request: status_service_pb2.GetSiteRequest, context: object) -> bytes:
        for site in await self._reading.sites():
            if site[0] == request.site_id:
                return site[4]
        raise NotFound("site", request.site_id)

    async def ListSites(self, request: status_service_pb2.ListSitesRequest, context: object) -> bytes:
        query, start, limit = self._paging(request)
        modified = _time(request, "modified_since")
        since = micros(modified) if modified else 0
        found = [
            site
            for site in await self._reading.sites()
            if (not request.name or site[1] == request.name)
            and (not request.short_name or site[2] == request.short_name)
            and site[3] >= since
            and (start is None or site[0] > start.key)
        ]
        page = found[:limit]
        token = ""
        if len(found) > limit:
            token = self._pager.seal(Position(page[-1][0], 0), query, _caller().username)
        tail = status_service_pb2.ListSitesResponse(next_page_token=token)
        return frames(1, (site[4] for site in page)) + tail.SerializeToString()

    async def GetResource(self, request: status_service_pb2.GetResourceRequest, context: object) -> bytes:
        return await self._reading.resource(request.resource_id)

    async def ListResources(self, request: status_service_pb2.ListResourcesRequest, context: object) -> bytes:
        query, start, limit = self._paging(request)
        page = await self._reading.resources(_resource_terms(request.filter), start, limit)
        return self._list(page, query)

    async def GetIncident(self, request: status_service_pb2.GetIncidentRequest, context: object) -> bytes:
        return await self._reading.incident(_caller(), request.incident_id, self._board.now())

    async def ListIncidents(self, request: status_service_pb2.ListIncidentsRequest, context: object) -> bytes:
        query, start, limit = self._paging(request)
        terms = _incident_terms(request.filter)
        return self._list(await self._reading.incidents(_caller(), terms, start, limit, self._board.now()), query)

    async def GetEvent(self, request: status_service_pb2.GetEventRequest, context: object) -> bytes:
        return await self._reading.event(_caller(), request.event_id, self._board.now())

    async def ListEvents(self, request: status_service_pb2.ListEventsRequest, context: object) -> bytes:
        query, start, limit = self._paging(request)
        page = await self._reading.events(_caller(), _event_terms(request), start, limit, self._board.now())
        return self._list(page, query)

    def _paging(self, request: Any) -> tuple[bytes, Any, int]:
        bare = type(request)()
        bare.CopyFrom(request)
        bare.ClearField("page_size")
        bare.ClearField("page_token")
        query = f"{type(request).__name__}\n".encode() + bare.SerializeToString(deterministic=True)
        start = self._pager.open(request.page_token, query, _caller().username) if request.page_token else None
        return query, start, page_size(request.page_size)

    def _list(self, page: Page, query: bytes) -> bytes:
        token = self._pager.seal(page.next, query, _caller().username) if page.next else ""
        # All list responses have these fields at these numbers.
        tail = status_service_pb2.ListResourcesResponse(next_page_token=token, revision=page.revision)
        return frames(1, page.messages) + tail.SerializeToString()

    # Watching.

    async def WatchStatus(
        self, request: status_service_pb2.WatchStatusRequest, context: object
    ) -> AsyncGenerator[bytes, None]:
        after = request.after_revision if request.HasField("after_revision") else None
        watch = watch_status(
            self._reading,
            self._hub,
            frozenset(request.resource_ids),
            after,
            not request.skip_snapshot,
            self._board.now(),
        )
        async for part in watch:
            if isinstance(part, Sequence):
                yield frames(1, (_snapshot(kind, message, revision) for kind, message, revision in part))
                continue
            tail = status_service_pb2.WatchStatusResponse(revision=part.revision, caught_up=part.caught_up)
            yield part.frames + tail.SerializeToString()

    # Questions.

    async def CheckAvailability(
        self, request: status_service_pb2.CheckAvailabilityRequest, context: object
    ) -> status_service_pb2.CheckAvailabilityResponse:
        now = self._board.now()
        start, end = _times_of(request)
        span = questions.availability_span(start, end, now)
        resource = status_pb2.Resource.FromString(await self._reading.resource(request.resource_id))
        incidents = await self._reading.obstacles(request.resource_id, span.start)
        current = convert.current_from_pb(resource.current)
        answer = questions.availability(convert.resource_from_pb(resource), current, incidents, span, now)
        response = status_service_pb2.CheckAvailabilityResponse(
            availability=cast("status_service_pb2.CheckAvailabilityResponse.Availability", int(answer.availability)),
            reason=answer.reason,
            span=_span(span),
            incidents=[convert.incident_to_pb(incident) for incident in answer.incidents],
        )
        if answer.next_free is not None:
            response.next_free.CopyFrom(_span(answer.next_free))
        return response

    async def FindOutages(
        self, request: status_service_pb2.FindOutagesRequest, context: object
    ) -> status_service_pb2.FindOutagesResponse:
        if bool(request.resource_id) == bool(request.job_id):
            text = "set either resource_id or job_id"
            raise InvalidArgument([Violation(name, text, "ONE_OF") for name in ("resource_id", "job_id")])
        now = self._board.now()
        failure: questions.Failure | None = None
        if request.job_id:
            caller = _caller()
            if caller.role < Role.USER:
                raise Unauthenticated("SIGN_IN_REQUIRED", "sign in to ask about a job")
            run = await self._job_of(caller, request.job_id)
            resource_id, failure = run.resource_id, run.failure
            span = questions.run_span(run.start, run.end, now)
        else:
            resource_id = request.resource_id
            span = questions.outages_span(*_times_of(request), now)
        resource = convert.resource_from_pb(status_pb2.Resource.FromString(await self._reading.resource(resource_id)))
        incidents = await self._reading.incidents_of(_caller(), resource_id, span.start, span.end, now)
        events = await self._reading.events_of(_caller(), resource_id, span.start, span.end, now)
        found = questions.outages(span, events, incidents, resource, now, failure)
        return status_service_pb2.FindOutagesResponse(
            outages=[_outage(outage) for outage in found.outages],
            span=_span(span),
            down=duration(found.down),
            summary=found.summary,
        )

    # Operating.

    async def CreateIncident(self, request: status_service_pb2.CreateIncidentRequest, context: object) -> bytes:
        drafts = self._drafts(request)
        return await self._operating.declare(
            _caller(), drafts, request.note, _mutation(request), _audit(), lambda messages: frames(1, messages)
        )

    def _drafts(self, request: status_service_pb2.CreateIncidentRequest) -> Sequence[Draft]:
        draft = _draft(request.incident)
        if not request.HasField("recurrence"):
            return [draft]
        if draft.type != IncidentType.PLANNED or draft.start_time is None or draft.end_time is None:
            raise invalid("recurrence", "only a planned incident with start and end can repeat", "RECURRENCE")
        spans = recurrence.occurrences(
            request.recurrence.rule, request.recurrence.time_zone, draft.start_time, draft.end_time
        )
        series = self._operating.new_series()
        return [
            Draft(
                draft.type,
                draft.name,
                draft.status,
                draft.resource_ids,
                start,
                end,
                draft.description,
                draft.severity,
                series_id=series,
            )
            for start, end in spans
        ]

    async def UpdateIncident(self, request: status_service_pb2.UpdateIncidentRequest, context: object) -> bytes:
        if not request.incident.id:
            raise invalid("incident.id", "must name the incident to change", "REQUIRED")
        values = _values(request)
        return await self._operating.update(request.incident.id, values, request.etag, _mutation(request), _audit())

    async def ResolveIncident(self, request: status_service_pb2.ResolveIncidentRequest, context: object) -> bytes:
        end = _time(request, "end_time")
        return await self._operating.resolve(
            _caller(),
            request.incident_id,
            end,
            request.cancel,
            request.note,
            request.etag,
            _mutation(request),
            _audit(),
        )

    async def AddIncidentNote(self, request: status_service_pb2.AddIncidentNoteRequest, context: object) -> bytes:
        return await self._operating.add_note(
            _caller(), request.incident_id, request.text, _mutation(request), _audit()
        )

    async def SetResourceStatus(self, request: status_service_pb2.SetResourceStatusRequest, context: object) -> bytes:
        status = Status(request.status) if request.status else None
        until = _time(request, "expire_time")
        return await self._operating.set_status(
            request.resource_id, status, request.reason, until, request.incident_id, _mutation(request), _audit()
        )

    async def ImportCalendar(self, request: status_service_pb2.ImportCalendarRequest, context: object) -> bytes:
        resources = self._board.graph.resources
        planned = await asyncio.to_thread(calendar.read, request.calendar, list(request.resource_ids), resources)
        return await self._operating.take_calendar(
            _caller(), planned, _mutation(request), _audit(), lambda messages: frames(1, messages)
        )

    async def ExportCalendar(
        self, request: status_service_pb2.ExportCalendarRequest, context: object
    ) -> httpbody_pb2.HttpBody:
        now = self._board.now()
        start = _time(request, "from") or now - _CALENDAR_PAST
        terms: list[Term] = [("types", (int(IncidentType.PLANNED),)), ("starts_from", (micros(start),))]
        if request.resource_ids:
            terms.append(("resources", tuple(request.resource_ids)))
        page = await self._reading.incidents(_caller(), terms, None, _CALENDAR_MOST, now)
        incidents = [convert.incident_from_pb(status_pb2.Incident.FromString(message)) for message in page.messages]
        facility = status_pb2.Facility.FromString(await self._reading.facility())
        text = calendar.write(convert.facility_from_pb(facility), incidents)
        return httpbody_pb2.HttpBody(content_type="text/calendar; charset=utf-8", data=text.encode())


def _caller() -> Principal:
    return current_call().principal


def _mutation(request: Message) -> Mutation:
    call = current_call()
    return mutation(call.principal.username, call.method.full_name, request)


def _audit() -> tuple[str, str, str]:
    call = current_call()
    return call.principal.username, call.method.full_name, call.request_id


def _overview(found: Overview) -> status_service_pb2.FacilityOverview:
    by_site: dict[str, dict[str, int]] = {}
    total: dict[str, int] = {}
    for site_id, status, count in found.counts:
        name = status.name.lower()
        by_site.setdefault(site_id, {})[name] = count
        total[name] = total.get(name, 0) + count
    return status_service_pb2.FacilityOverview(
        facility=status_pb2.Facility.FromString(found.facility),
        sites=[
            status_service_pb2.SiteOverview(
                site=status_pb2.Site.FromString(message),
                counts=status_service_pb2.StatusCounts(**by_site.get(site_id, {})),
            )
            for site_id, message in found.sites
        ],
        counts=status_service_pb2.StatusCounts(**total),
        open_incidents=_worst_first(found.open),
        coming_incidents=[status_pb2.Incident.FromString(message) for message in found.coming],
        revision=found.revision,
    )


def _worst_first(messages: Sequence[bytes]) -> list[status_pb2.Incident]:
    incidents = [status_pb2.Incident.FromString(message) for message in messages]
    incidents.sort(key=lambda incident: -incident.severity)
    return incidents[:_OVERVIEW_INCIDENTS]


def _resource_terms(filter_: status_service_pb2.ResourceFilter) -> list[Term]:
    terms = _sets(
        {
            "ids": filter_.resource_ids,
            "sites": filter_.site_ids,
            "statuses": filter_.statuses,
            "capabilities": filter_.capability_ids,
        }
    )
    if filter_.name:
        terms.append(("name", (filter_.name,)))
    if filter_.description:
        terms.append(("description", (contains(filter_.description),)))
    if filter_.group:
        terms.append(("group", (filter_.group,)))
    if filter_.resource_type:
        terms.append(("type", (filter_.resource_type, below(filter_.resource_type), filter_.resource_type)))
    return terms + _times(filter_, {"modified": "modified_since"}, "filter.")


def _incident_terms(filter_: status_service_pb2.IncidentFilter) -> list[Term]:
    terms = _sets(
        {
            "ids": filter_.incident_ids,
            "resources": filter_.resource_ids,
            "types": filter_.types,
            "statuses": filter_.statuses,
            "resolutions": filter_.resolutions,
        }
    )
    if filter_.text:
        terms.append(("text", (contains(filter_.text),)))
    if filter_.series_id:
        terms.append(("series", (filter_.series_id,)))
    going_on = _time(filter_, "at", "filter.")
    if going_on is not None:
        at = micros(going_on)
        terms += [("starts_before", (at + 1,)), ("ends_after", (at,))]
    names = {"ends_after": "from", "starts_before": "to", "modified": "modified_since"}
    return terms + _times(filter_, names, "filter.")


def _event_terms(request: status_service_pb2.ListEventsRequest) -> list[Term]:
    terms = _sets({"resources": request.resource_ids, "statuses": request.statuses})
    if request.incident_id:
        terms.append(("incident", (request.incident_id,)))
    return terms + _times(request, {"from": "from", "to": "to"})


def _sets(sets: Mapping[str, Sequence[Any]]) -> list[Term]:
    return [(name, tuple(sorted(set(values)))) for name, values in sets.items() if values]


def _times(message: Message, names: Mapping[str, str], where: str = "") -> list[Term]:
    found = ((term, _time(message, field, where)) for term, field in names.items())
    return [(term, (micros(time),)) for term, time in found if time is not None]


def _time(message: Message, field: str, where: str = "") -> datetime | None:
    """Returns a time of a request, None where it is unset. Raises InvalidArgument for one that no calendar has."""
    if not message.HasField(field):
        return None
    stamp = getattr(message, field)
    with contextlib.suppress(ValueError, OverflowError, OSError):
        if 0 <= stamp.nanos < 1_000_000_000:
            return moment(stamp)
    text = "must be a time from the year 1 to 9999, with 0 to 999,999,999 nanoseconds"
    raise InvalidArgument([Violation(f"{where}{field}", text, "TIME_OUT_OF_RANGE")])


def _snapshot(kind: str, message: bytes, revision: int) -> bytes:
    head = status_service_pb2.StatusChange(type=status_service_pb2.StatusChange.TYPE_SNAPSHOT, revision=revision)
    return head.SerializeToString() + framed(convert.SUBJECT_FIELDS[kind], message)


def _draft(pb: status_pb2.Incident) -> Draft:
    problems = []
    if not pb.type:
        problems.append(Violation("incident.type", "say whether it is planned, unplanned or a reservation", "REQUIRED"))
    if not pb.status:
        problems.append(Violation("incident.status", "say what it makes of the resources", "REQUIRED"))
    if problems:
        raise InvalidArgument(problems)
    return Draft(
        type=_enum(IncidentType, pb.type, "incident.type"),
        name=pb.name,
        status=_enum(Status, pb.status, "incident.status"),
        resource_ids=tuple(pb.resource_ids),
        start_time=_time(pb, "start_time", "incident."),
        end_time=_time(pb, "end_time", "incident."),
        description=pb.description,
        severity=_enum(Severity, pb.severity or Severity.MINOR, "incident.severity"),
    )


def _enum(kind: Any, value: int, field: str) -> Any:
    try:
        return kind(value)
    except ValueError:
        raise InvalidArgument([Violation(field, "is not one of the values there are", "UNKNOWN_VALUE")]) from None


def _values(request: status_service_pb2.UpdateIncidentRequest) -> Mapping[str, object]:
    pb = request.incident
    if len(request.update_mask.paths) > _MOST_PATHS:
        raise InvalidArgument([Violation("update_mask", f"has more than {_MOST_PATHS} paths", "TOO_MANY_PATHS")])
    outputs = {field.name for field in pb.DESCRIPTOR.fields} - UPDATABLE
    paths = list(dict.fromkeys(request.update_mask.paths)) or [
        field.name for field, _ in pb.ListFields() if field.name in UPDATABLE
    ]
    wrong = [path for path in paths if path not in UPDATABLE and path not in outputs]
    if wrong:
        known = ", ".join(sorted(UPDATABLE))
        raise InvalidArgument(
            [
                Violation("update_mask", f"{path} cannot be changed; what can: {known}", "NOT_UPDATABLE")
                for path in wrong
            ]
        )
    makers: Mapping[str, Callable[[], object]] = {
        "name": lambda: pb.name,
        "description": lambda: pb.description,
        "severity": lambda: _enum(Severity, pb.severity or Severity.MINOR, "incident.severity"),
        "status": lambda: _enum(Status, pb.status, "incident.status"),
        "resource_ids": lambda: tuple(dict.fromkeys(pb.resource_ids)),
        "start_time": lambda: _required_time(pb),
        "end_time": lambda: _time(pb, "end_time", "incident."),
    }
    return {path: makers[path]() for path in paths if path in UPDATABLE}


def _required_time(pb: status_pb2.Incident) -> datetime:
    start = _time(pb, "start_time", "incident.")
    if start is None:
        raise InvalidArgument([Violation("incident.start_time", "say when it begins", "REQUIRED")])
    return start


def _times_of(request: Any) -> tuple[datetime | None, datetime | None]:
    return _time(request, "start_time"), _time(request, "end_time")


def _span(span: questions.Span) -> status_pb2.Span:
    return status_pb2.Span(start_time=timestamp(span.start), end_time=timestamp(span.end))


def _outage(outage: questions.Outage) -> status_pb2.Outage:
    return status_pb2.Outage(
        incident_id=outage.incident_id,
        resource_id=outage.resource_id,
        status=cast("status_pb2.ResourceStatus", int(outage.status)),
        overlap=_span(outage.overlap),
        duration=duration(outage.overlap.end - outage.overlap.start),
        likelihood=outage.likelihood,
        explanation=outage.explanation,
        events=[convert.event_to_pb(event) for event in outage.events],
    )
