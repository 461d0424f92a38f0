"""Reading and asking: what holds on any facility, and every filter on one that is described for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st
from openfacility.status.v1 import status_pb2 as pb
from openfacility.status.v1 import status_service_pb2 as rpc

from tests.service.conftest import _CHANNEL
from tests.service.test_fuzz import FUZZ, PROPER, enums, int32s, message, stamps, texts
from tests.support.calls import Caller, Refused, refused
from tests.support.server import Server
from tests.support.status import (
    DEGRADED,
    DOWN,
    PLANNED,
    RESERVATION,
    UNKNOWN,
    UNPLANNED,
    UP,
    StatusCaller,
    ahead,
    described,
    now,
    stamp,
    when,
    write,
)

Make = Callable[[str], StatusCaller]
Answer = rpc.CheckAvailabilityResponse


@pytest.fixture
def anyone(status: Make) -> StatusCaller:
    return status("")


# On any facility.


async def test_all_parts_agree(anyone: StatusCaller) -> None:
    facility = await anyone.call("GetFacility")
    sites = (await anyone.call("ListSites", page_size=1000)).sites
    resources = await anyone.resources()
    assert facility.id
    assert facility.name
    assert list(facility.site_ids) == [site.id for site in sites]
    assert [site.id for site in sites] == sorted(site.id for site in sites)
    ids = [resource.id for resource in resources]
    assert ids == sorted(ids)
    assert sorted(one for site in sites for one in site.resource_ids) == ids
    for site in sites:
        assert await anyone.call("GetSite", site_id=site.id) == site
        assert set(site.resource_ids) == {one.id for one in resources if one.site_id == site.id}
    for resource in resources:
        assert resource.current.status in (UP, DEGRADED, DOWN, UNKNOWN)
        assert resource.current.HasField("since")
        assert resource.resource_type.startswith("urn:doe-iri:")
        assert resource.type_word in {"compute", "storage", "network", "service", "website", "system", "unknown"}
        assert set(resource.depends_on) <= set(ids)


async def test_the_overview_is_of_one_revision(anyone: StatusCaller) -> None:
    overview = await anyone.call("GetFacilityOverview")
    assert overview.facility == await anyone.call("GetFacility")
    counts = overview.counts
    assert counts.up + counts.degraded + counts.down + counts.unknown == len(await anyone.resources())
    for name in ("up", "degraded", "down", "unknown"):
        assert sum(getattr(site.counts, name) for site in overview.sites) == getattr(counts, name)
    async with anyone.watch(after_revision=overview.revision) as watch:
        await watch.caught_up()


async def test_this_facility_is_the_first(anyone: StatusCaller) -> None:
    facilities = (await anyone.call("ListFacilities")).facilities
    own = facilities[0]
    assert own.name == (await anyone.call("GetFacility")).id
    assert own.reachable
    assert not own.address
    assert own.overview.facility.id == own.name
    assert abs(when(own.heard_time) - now()) < timedelta(minutes=10)
    assert [peer.name for peer in facilities[1:]] == sorted(peer.name for peer in facilities[1:])


@pytest.mark.parametrize(
    ("method", "field"),
    [("GetSite", "site_id"), ("GetResource", "resource_id"), ("GetIncident", "incident_id"), ("GetEvent", "event_id")],
)
async def test_what_is_not_there(anyone: StatusCaller, method: str, field: str) -> None:
    with refused("NOT_FOUND", "NOT_FOUND") as error:
        await anyone.call(method, **{field: "nosuch"})
    assert error.details["google.rpc.ResourceInfo"].resource_name == "nosuch"
    for wrong in ("", "a/b", "-", "x" * 64, "ü"):
        with refused("INVALID_ARGUMENT", "INVALID_FIELD", field):
            await anyone.call(method, **{field: wrong})


LISTS = ("ListSites", "ListResources", "ListIncidents", "ListEvents")


@pytest.mark.parametrize("method", LISTS)
async def test_wrong_pages(anyone: StatusCaller, method: str) -> None:
    with refused("INVALID_ARGUMENT", "PAGE_TOKEN_INVALID", "page_token"):
        await anyone.call(method, page_token="nonsense")
    with refused("INVALID_ARGUMENT", "INVALID_FIELD", "page_size"):
        await anyone.call(method, page_size=-1)


async def test_more_than_may_be_asked_for(anyone: StatusCaller) -> None:
    many = [f"r{number}" for number in range(501)]
    for method, request, field in (
        ("ListResources", {"filter": rpc.ResourceFilter(resource_ids=many)}, "filter.resource_ids"),
        ("ListResources", {"filter": rpc.ResourceFilter(statuses=[0])}, "filter.statuses[0]"),
        ("ListResources", {"filter": rpc.ResourceFilter(statuses=[9])}, "filter.statuses[0]"),
        ("ListResources", {"filter": rpc.ResourceFilter(name="x" * 256)}, "filter.name"),
        ("ListIncidents", {"filter": rpc.IncidentFilter(incident_ids=many)}, "filter.incident_ids"),
        ("ListIncidents", {"filter": rpc.IncidentFilter(incident_ids=["A"])}, "filter.incident_ids[0]"),
        ("ListIncidents", {"filter": rpc.IncidentFilter(resolutions=[0])}, "filter.resolutions[0]"),
        ("ListIncidents", {"filter": rpc.IncidentFilter(types=[4])}, "filter.types[0]"),
        ("ListEvents", {"resource_ids": many[:101]}, "resource_ids"),
        ("WatchStatus", {"resource_ids": many}, "resource_ids"),
        ("WatchStatus", {"after_revision": -1}, "after_revision"),
        ("ExportCalendar", {"resource_ids": many[:101]}, "resource_ids"),
    ):
        with refused("INVALID_ARGUMENT", "INVALID_FIELD", field):
            call = anyone.call(method, **request)
            _ = [part async for part in call] if method == "WatchStatus" else await call


# Questions.

HOUR = timedelta(hours=1)


async def test_a_question_without_a_span_is_about_the_next_hour(anyone: StatusCaller) -> None:
    resource_id = (await anyone.resource_ids())[0]
    before = now()
    answer = await anyone.call("CheckAvailability", resource_id=resource_id)
    assert before <= when(answer.span.start_time) <= now()
    assert when(answer.span.end_time) - when(answer.span.start_time) == HOUR
    assert answer.availability != Answer.AVAILABILITY_UNSPECIFIED
    assert answer.reason
    found = await anyone.call("FindOutages", resource_id=resource_id)
    assert when(found.span.end_time) - when(found.span.start_time) == 24 * HOUR
    assert found.summary


@pytest.mark.parametrize("method", ["CheckAvailability", "FindOutages"])
@pytest.mark.parametrize(
    ("start", "end", "field"),
    [
        (2 * HOUR, HOUR, "end_time"),
        (HOUR, 1000 * 365 * 24 * HOUR, "end_time"),
        (timedelta(), 3660 * 24 * HOUR, "end_time"),
        (7000 * 365 * 24 * HOUR, 7001 * 365 * 24 * HOUR, "start_time"),
    ],
)
async def test_wrong_spans(anyone: StatusCaller, method: str, start: timedelta, end: timedelta, field: str) -> None:
    resource_id = (await anyone.resource_ids())[0]
    moment = now()
    with refused("INVALID_ARGUMENT", "INVALID_FIELD", field):
        span = {"start_time": stamp(moment + start), "end_time": stamp(moment + end)}
        await anyone.call(method, resource_id=resource_id, **span)
    with refused("INVALID_ARGUMENT", "INVALID_FIELD", "end_time"):
        await anyone.call(method, resource_id=resource_id, start_time=stamp(moment), end_time=stamp(moment))


async def test_wrong_questions(anyone: StatusCaller) -> None:
    for method in ("CheckAvailability", "FindOutages"):
        with refused("NOT_FOUND", "NOT_FOUND"):
            await anyone.call(method, resource_id="no-such")
    for request in ({}, {"resource_id": "a", "job_id": "b"}):
        with refused("INVALID_ARGUMENT", "INVALID_FIELD") as error:
            await anyone.call("FindOutages", **request)
        assert set(error.fields) == {"resource_id", "job_id"}
    with refused("UNAUTHENTICATED", "SIGN_IN_REQUIRED"):
        await anyone.call("FindOutages", job_id="nosuch")


async def test_outages_of_a_job(status: Make, alice: Caller, bob: Caller) -> None:
    olga = status("olga")
    resource_id = next(r.id for r in await olga.resources() if "openfacility.jobs.v1.JobsService" in r.services)
    incident = await olga.declare(resource_id)
    job = await alice.run("/bin/sh", "-c", "exit 3")
    found = await status("alice").call("FindOutages", job_id=job.id)
    assert incident.id in [outage.incident_id for outage in found.outages]
    outage = next(one for one in found.outages if one.incident_id == incident.id)
    assert (outage.resource_id, outage.status) == (resource_id, DOWN)
    assert 0 < outage.likelihood <= 1
    assert outage.explanation
    assert outage.duration.ToTimedelta() > timedelta()
    assert when(found.span.start_time) < when(job.start_time)
    assert when(found.span.end_time) > when(job.end_time)
    assert found.down.ToTimedelta() > timedelta()
    # To others there is no such job.
    with refused("NOT_FOUND", "NOT_FOUND"):
        await status("bob").call("FindOutages", job_id=job.id)
    with refused("NOT_FOUND", "NOT_FOUND"):
        await status("alice").call("FindOutages", job_id="nosuch")
    assert (await olga.call("FindOutages", job_id=job.id)).outages


# Whatever a request holds.

ids = st.lists(texts, max_size=2)
_incidents = message(
    pb.Incident,
    id=texts,
    type=enums,
    name=texts,
    status=enums,
    severity=enums,
    start_time=stamps,
    end_time=stamps,
    resource_ids=ids,
)
REQUESTS = {
    "ListResources": message(
        rpc.ListResourcesRequest,
        filter=message(
            rpc.ResourceFilter,
            resource_ids=ids,
            name=texts,
            description=texts,
            group=texts,
            resource_type=texts,
            site_ids=ids,
            statuses=st.lists(enums, max_size=2),
            capability_ids=ids,
            modified_since=stamps,
        ),
        page_size=int32s,
        page_token=texts,
    ),
    "ListIncidents": message(
        rpc.ListIncidentsRequest,
        filter=message(
            rpc.IncidentFilter,
            incident_ids=ids,
            text=texts,
            resource_ids=ids,
            at=stamps,
            to=stamps,
            modified_since=stamps,
            series_id=texts,
        ),
        page_size=int32s,
    ),
    "ListEvents": message(
        rpc.ListEventsRequest, resource_ids=ids, incident_id=texts, statuses=st.lists(enums, max_size=2), to=stamps
    ),
    "ListSites": message(rpc.ListSitesRequest, name=texts, modified_since=stamps, page_size=int32s),
    "CheckAvailability": message(
        rpc.CheckAvailabilityRequest, resource_id=st.just("local"), start_time=stamps, end_time=stamps
    ),
    "FindOutages": message(
        rpc.FindOutagesRequest, resource_id=st.just("local"), job_id=texts, start_time=stamps, end_time=stamps
    ),
    "UpdateIncident": message(rpc.UpdateIncidentRequest, incident=_incidents, etag=texts, request_id=texts),
    "CreateIncident": message(
        rpc.CreateIncidentRequest,
        incident=_incidents,
        recurrence=message(pb.Recurrence, rule=texts, time_zone=texts),
        note=texts,
    ),
    "ImportCalendar": message(rpc.ImportCalendarRequest, calendar=texts, resource_ids=ids),
    "ResolveIncident": message(rpc.ResolveIncidentRequest, incident_id=texts, end_time=stamps, etag=texts),
}


@pytest.mark.parametrize("method", REQUESTS)
async def test_any_request_has_a_proper_answer(status: Make, method: str) -> None:
    olga = status("olga")
    loop = asyncio.get_running_loop()

    async def attempt(request: Any) -> None:
        try:
            await olga.call(method, request)
        except grpc.aio.AioRpcError as error:
            if Refused(error).code not in PROPER:
                raise AssertionError(f"{request}: {error.code()} {error.details()}") from error

    @FUZZ
    @given(REQUESTS[method])
    def check(request: Any) -> None:
        asyncio.run_coroutine_threadsafe(attempt(request), loop).result(30)

    await asyncio.to_thread(check)


# On a facility described for it.

T = "urn:doe-iri:resource"
ARCHER = {"site": "leith", "group": "archer", "depends_on": ["scratch"]}
FACILITY = described(
    {"id": "archive", "type": "storage", "site": "dundee", "group": "tape", "capabilities": ["tape"]},
    {"id": "cpu", "name": "Processors", "type": f"{T}:compute:system", "capabilities": ["cpu"], **ARCHER},
    {"id": "gpu", "type": f"{T}:compute:system:gpu", "capabilities": ["gpu", "cpu"], **ARCHER},
    {"id": "net", "type": f"{T}:network", "site": "dundee", "description": "100% of the under_score traffic!"},
    {"id": "odd", "type": f"{T}:computerized", "site": "dundee", "description": "Under1score, 100 of them"},
    {"id": "portal", "type": "website", "site": "leith", "depends_on": ["gpu"], "labels": {"a": "b"}},
    {"id": "scratch", "type": f"{T}:storage:filesystem", "site": "leith", "group": "archer"},
    sites=[
        {"id": "dundee", "name": "Dundee Archive", "short_name": "Dundee", "latitude": 56.4, "longitude": 0.0},
        {"id": "leith", "name": "Leith", "unlocode": "GB LEI", "altitude": 3.5},
    ],
    short_name="Demo",
)  # fmt: skip


@pytest.fixture(scope="module")
async def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Server]:
    """A server with a described facility."""
    if request.config.getoption("address"):
        pytest.skip("needs a server of its own")
    path = write(tmp_path_factory.mktemp("status") / "facility.yaml", FACILITY)
    server = Server({"status": {"description": str(path), "anonymous_history": 3600}})
    try:
        server.start()
        yield server
    finally:
        server.remove()


@pytest.fixture
async def there(place: Server) -> AsyncIterator[Make]:
    """Callers of it, who leave it as it was."""
    made: list[StatusCaller] = []
    async with grpc.aio.insecure_channel(place.address, _CHANNEL) as channel:

        def make(name: str) -> StatusCaller:
            made.append(StatusCaller(channel, place.tokens.get(name), name))
            return made[-1]

        yield make
        for caller in made:
            await caller.end_all()


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        ({}, "archive cpu gpu net odd portal scratch"),
        ({"resource_ids": ["gpu", "no-such", "net", "gpu"]}, "gpu net"),
        ({"name": "Processors"}, "cpu"),
        ({"name": "processors"}, ""),
        ({"name": "gpu"}, "gpu"),
        ({"description": "100%"}, "net"),
        ({"description": "UNDER_SCORE"}, "net"),
        ({"description": "under"}, "net odd"),
        ({"description": "!"}, "net"),
        ({"description": "%"}, "net"),
        ({"group": "archer"}, "cpu gpu scratch"),
        ({"group": "arch"}, ""),
        ({"resource_type": f"{T}:compute"}, "cpu gpu"),
        ({"resource_type": f"{T}:compute:system"}, "cpu gpu"),
        ({"resource_type": f"{T}:compute:system:gpu"}, "gpu"),
        ({"resource_type": f"{T}:comp"}, ""),
        ({"resource_type": f"{T}:c%"}, ""),
        ({"resource_type": T}, "archive cpu gpu net odd scratch"),
        ({"resource_type": "compute"}, "cpu gpu"),
        ({"resource_type": "storage"}, "archive scratch"),
        ({"resource_type": "website"}, "portal"),
        ({"resource_type": "unknown"}, "odd"),
        ({"site_ids": ["dundee"]}, "archive net odd"),
        ({"site_ids": ["dundee", "leith"], "group": "archer"}, "cpu gpu scratch"),
        ({"statuses": [UP]}, "archive cpu gpu net odd portal scratch"),
        ({"statuses": [DOWN, UNKNOWN, DEGRADED]}, ""),
        ({"capability_ids": ["cpu"]}, "cpu gpu"),
        ({"capability_ids": ["gpu", "tape"]}, "archive gpu"),
        ({"capability_ids": ["cpu"], "resource_ids": ["gpu"], "site_ids": ["leith"]}, "gpu"),
        ({"capability_ids": ["cpu"], "site_ids": ["dundee"]}, ""),
    ],
)
async def test_filters_of_resources(there: Make, conditions: dict[str, Any], expected: str) -> None:
    assert await there("").resource_ids(**conditions) == expected.split()


async def test_statuses_and_changes_as_filters(there: Make) -> None:
    olga, anyone = there("olga"), there("")
    before = ahead()
    await olga.say("scratch", DEGRADED)
    await olga.say("net", UNKNOWN)
    assert await anyone.resource_ids(statuses=[DEGRADED]) == ["cpu", "gpu", "portal", "scratch"]
    assert await anyone.resource_ids(statuses=[UNKNOWN, DOWN]) == ["net"]
    assert await anyone.resource_ids(modified_since=before) == ["cpu", "gpu", "net", "portal", "scratch"]
    assert await anyone.resource_ids(modified_since=ahead(60)) == []
    assert await anyone.resource_ids(modified_since=(await anyone.resource("net")).update_time) == ["net"]
    # What is not known does not spread, what is bad does, to the end.
    portal = await anyone.resource("portal")
    assert portal.current.because_of_resource_id == "scratch"
    assert portal.type_word == "website"
    assert dict(portal.labels) == {"a": "b"}


async def test_sites(there: Make) -> None:
    anyone = there("")
    dundee, leith = (await anyone.call("ListSites")).sites
    assert (dundee.latitude, dundee.longitude) == (56.4, 0.0)
    assert dundee.HasField("longitude")
    assert not dundee.HasField("altitude")
    assert not leith.HasField("latitude")
    assert (leith.altitude, leith.unlocode) == (3.5, "GBLEI")
    for conditions, expected in (
        ({"name": "Dundee Archive"}, ["dundee"]),
        ({"name": "Dundee"}, []),
        ({"short_name": "Dundee"}, ["dundee"]),
        ({"modified_since": ahead(60)}, []),
        ({"modified_since": leith.update_time}, ["dundee", "leith"]),
    ):
        assert [site.id for site in (await anyone.call("ListSites", **conditions)).sites] == expected
    first = await anyone.call("ListSites", page_size=1)
    second = await anyone.call("ListSites", page_size=1, page_token=first.next_page_token)
    assert [*first.sites, *second.sites] == [dundee, leith]
    assert not second.next_page_token


async def test_pages_of_resources(there: Make) -> None:
    anyone, olga = there(""), there("olga")
    query = {"filter": rpc.ResourceFilter(site_ids=["leith"])}
    found, token, revision = [], "", 0
    while True:
        page = await anyone.call("ListResources", page_size=3, page_token=token, **query)
        found += [resource.id for resource in page.resources]
        revision = revision or page.revision
        assert page.revision == revision
        if not page.next_page_token:
            break
        token = page.next_page_token
        await olga.say("net", DEGRADED if len(found) % 2 else UP)
    assert found == ["cpu", "gpu", "portal", "scratch"]
    for fields in ({"filter": rpc.ResourceFilter(site_ids=["dundee"])}, {}):
        with refused("INVALID_ARGUMENT", "PAGE_TOKEN_INVALID", "page_token"):
            await anyone.call("ListResources", page_token=token, **fields)
    with refused("INVALID_ARGUMENT", "PAGE_TOKEN_INVALID", "page_token"):
        await olga.call("ListResources", page_token=token, **query)
    with refused("INVALID_ARGUMENT", "PAGE_TOKEN_INVALID", "page_token"):
        await anyone.call("ListIncidents", page_token=token)


async def test_filters_and_pages_of_incidents(there: Make) -> None:
    olga, anyone = there("olga"), there("")
    first = await olga.plan("scratch", start=1000, length=1000, name="Chiller 100%")
    second = await olga.plan("net", start=2500, length=1000, type=RESERVATION, status=UP, description="for a CHILLER_x")
    third = await olga.declare("cpu", status=DEGRADED)
    series = await olga.create(
        olga.draft("archive", type=PLANNED, start_time=ahead(5000), end_time=ahead(5100)),
        recurrence=pb.Recurrence(rule="FREQ=DAILY;COUNT=3"),
    )
    mine = [first.id, second.id, third.id, *(one.id for one in series)]
    names = {first.id: "1", second.id: "2", third.id: "3", **{one.id: str(n) for n, one in enumerate(series, 4)}}

    async def found(**conditions: Any) -> str:
        return "".join(names[one] for one in await anyone.incident_ids(incident_ids=mine, **conditions))

    assert await found() == "654213"
    assert await found(text="chiller") == "21"
    assert await found(text="100%") == "1"
    assert await found(text="r_") == "2"
    assert await found(resource_ids=["portal"]) == "1"
    assert await found(resource_ids=["net", "cpu"]) == "213"
    assert await found(types=[RESERVATION, UNPLANNED]) == "23"
    assert await found(statuses=[UP, DEGRADED]) == "23"
    assert await found(resolutions=[pb.RESOLUTION_UNRESOLVED]) == "3"
    assert await found(resolutions=[pb.RESOLUTION_PENDING]) == "65421"
    assert await found(series_id=series[0].series_id) == "654"
    assert await found(at=ahead(1500)) == "13"
    assert await found(at=first.start_time) == "13"
    assert await found(at=first.end_time) == "3"
    assert await found(to=ahead(2000)) == "13"
    assert await found(to=first.start_time) == "3"
    assert await found(**{"from": first.end_time}) == "65423"
    assert await found(**{"from": ahead(2200), "to": ahead(3000)}) == "23"
    assert await found(modified_since=series[0].update_time) == "654"
    assert await found(modified_since=ahead(60)) == ""
    filter_ = rpc.IncidentFilter(incident_ids=mine)
    pages, token = [], ""
    while not pages or token:
        page = await anyone.call("ListIncidents", filter=filter_, page_size=2, page_token=token)
        pages.append([names[one.id] for one in page.incidents])
        token = page.next_page_token
    assert pages == [["6", "5"], ["4", "2"], ["1", "3"]]


async def test_filters_and_pages_of_events(there: Make) -> None:
    olga, anyone = there("olga"), there("")
    start = ahead()
    for status in (DOWN, UP, DEGRADED, UP):
        await olga.say("portal", status)
    incident = await olga.declare("scratch")
    events = await anyone.events(**{"from": start})
    assert len(events) == 8
    assert [event.status for event in await anyone.events(resource_ids=["portal"], **{"from": start})] == [
        DOWN,
        UP,
        DEGRADED,
        UP,
        DOWN,
    ]
    assert {event.resource_id for event in await anyone.events(incident_id=incident.id)} == {
        *incident.impacted_resource_ids
    }
    assert [event.status for event in await anyone.events(statuses=[UP, DEGRADED], **{"from": start})] == [
        UP,
        DEGRADED,
        UP,
    ]
    middle = events[5].occur_time
    assert await anyone.events(**{"from": start, "to": middle}) == events[6:]
    assert await anyone.events(**{"from": middle}) == events[:6]
    # Paging is not disturbed by what comes on top.
    page = await anyone.call("ListEvents", page_size=3, **{"from": start})
    await olga.say("net", DOWN)
    rest = await anyone.call("ListEvents", page_size=100, page_token=page.next_page_token, **{"from": start})
    assert [*page.events, *rest.events] == events
    assert rest.revision == page.revision


async def test_the_overview_has_the_worst_and_the_soonest_first(there: Make) -> None:
    olga = there("olga")
    minor = await olga.declare("net", severity=pb.SEVERITY_MINOR)
    critical = await olga.declare("net", severity=pb.SEVERITY_CRITICAL)
    major = await olga.declare("net", severity=pb.SEVERITY_MAJOR)
    later = await olga.plan("net", start=9000)
    sooner = await olga.plan("net", start=3000)
    await olga.plan("net", start=40 * 24 * 3600)
    overview = await there("").call("GetFacilityOverview")
    assert [one.id for one in overview.open_incidents] == [critical.id, major.id, minor.id]
    assert [one.id for one in overview.coming_incidents] == [sooner.id, later.id]
    assert [(site.site.id, site.counts.down, site.counts.up) for site in overview.sites] == [
        ("dundee", 1, 2),
        ("leith", 0, 4),
    ]


async def test_of_many_that_come_the_overview_has_the_soonest(there: Make) -> None:
    olga = there("olga")
    start = now() + timedelta(minutes=1)
    hours = ",".join(map(str, range(24)))
    draft = olga.draft(
        "net", type=PLANNED, start_time=stamp(start), end_time=stamp(start + timedelta(minutes=1)), status=DEGRADED
    )
    made = await olga.create(draft, recurrence=pb.Recurrence(rule=f"FREQ=DAILY;BYHOUR={hours};COUNT=130"))
    overview = await there("").call("GetFacilityOverview")
    assert [one.id for one in overview.coming_incidents] == [one.id for one in made[:100]]
    answer = await olga.call("CheckAvailability", resource_id="net")
    assert answer.availability == Answer.AVAILABILITY_AT_RISK


async def test_anonymous_callers_see_a_limited_history(there: Make) -> None:
    olga, alice, anyone = there("olga"), there("alice"), there("")
    old = await olga.declare("odd", start_time=ahead(-9000))
    await olga.resolve(old, end_time=ahead(-8000))
    recent = await olga.resolve(await olga.declare("odd"))
    for caller in (anyone, alice):
        assert await caller.incident_ids(resource_ids=["odd"]) == [recent.id]
        with refused("NOT_FOUND", "NOT_FOUND"):
            await caller.incident(old.id)
        assert await caller.events(incident_id=old.id) == []
        for event in await olga.events(incident_id=old.id):
            with refused("NOT_FOUND", "NOT_FOUND"):
                await caller.call("GetEvent", event_id=event.id)
        found = await caller.call("FindOutages", resource_id="odd")
        assert old.id not in [outage.incident_id for outage in found.outages]
    for name in ("olga", "ada"):
        staff = there(name)
        assert await staff.incident_ids(resource_ids=["odd"]) == [recent.id, old.id]
        assert (await staff.incident(old.id)).id == old.id
        assert len(await staff.events(incident_id=old.id)) == 2
        found = await staff.call("FindOutages", resource_id="odd")
        assert old.id in [outage.incident_id for outage in found.outages]
    # What began before and goes on is no history.
    long = await olga.declare("odd", start_time=ahead(-9000))
    assert long.id in await anyone.incident_ids(resource_ids=["odd"])


async def test_questions_about_dependencies(there: Make) -> None:
    olga, anyone = there("olga"), there("")
    first = await olga.plan("scratch", start=3600, length=3600)
    second = await olga.plan("gpu", start=2 * 3600 + 600, length=1200, status=DEGRADED)
    span = {"start_time": ahead(1800), "end_time": ahead(1800 + 5400)}
    answer = await anyone.call("CheckAvailability", resource_id="portal", **span)
    assert answer.availability == Answer.AVAILABILITY_UNAVAILABLE
    assert [one.id for one in answer.incidents] == [first.id]
    assert answer.next_free.start_time == second.end_time
    inside = {"start_time": ahead(2 * 3600 + 700), "end_time": ahead(2 * 3600 + 800)}
    assert (await anyone.call("CheckAvailability", resource_id="portal", **inside)).availability == (
        Answer.AVAILABILITY_AT_RISK
    )
    assert (await anyone.call("CheckAvailability", resource_id="cpu", **inside)).availability == (
        Answer.AVAILABILITY_AVAILABLE
    )
    for_ever = await olga.declare("net")
    answer = await anyone.call("CheckAvailability", resource_id="net", **span)
    assert answer.availability == Answer.AVAILABILITY_UNAVAILABLE
    assert not answer.HasField("next_free")
    await olga.resolve(for_ever)
    with refused("INVALID_ARGUMENT", "INVALID_FIELD", "end_time"):
        await anyone.call("CheckAvailability", resource_id="net", start_time=ahead(-100), end_time=ahead(-50))


async def test_a_calendar_of_some_resources(there: Make) -> None:
    olga, anyone = there("olga"), there("")
    first = await olga.plan("scratch", start=3600)
    second = await olga.plan("odd", start=7200)
    await olga.declare("net")
    text = (await anyone.call("ExportCalendar", resource_ids=["portal"])).data.decode()
    assert first.id in text
    assert second.id not in text
    text = (await anyone.call("ExportCalendar", **{"from": ahead(5000)})).data.decode()
    assert second.id in text
    assert first.id not in text
    assert (await anyone.call("ExportCalendar", resource_ids=["odd"])).data.count(b"BEGIN:VEVENT") == 1


async def test_times_of_no_calendar(there: Make) -> None:
    for wrong in (Timestamp(seconds=10**15), Timestamp(seconds=-(10**12)), Timestamp(nanos=-5)):
        for method, fields in (
            ("CheckAvailability", {"resource_id": "net", "start_time": wrong}),
            ("ListEvents", {"from": wrong}),
            ("ListSites", {"modified_since": wrong}),
            ("ListIncidents", {"filter": rpc.IncidentFilter(at=wrong)}),
            ("ExportCalendar", {"from": wrong}),
        ):
            with refused("INVALID_ARGUMENT"):
                await there("").call(method, **fields)
