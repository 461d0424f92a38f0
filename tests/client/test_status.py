"""The facility's status by way of either client."""

from __future__ import annotations

import asyncio
import dataclasses
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import grpc
import openfacility_client as of
import pytest
from google.api import httpbody_pb2
from openfacility.jobs.v1 import jobs_service_pb2
from openfacility.status.v1 import status_pb2
from openfacility.status.v1 import status_service_pb2 as pb

from tests.client.scripted import Failure, ScriptedServer, reason

pytestmark = pytest.mark.timeout(60)

T = TypeVar("T")
Code = grpc.StatusCode
NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
MESSAGES = {
    of.AvailabilityReport: pb.CheckAvailabilityResponse,
    of.Capacity: status_pb2.Capacity,
    of.Contact: status_pb2.Contact,
    of.CurrentStatus: status_pb2.CurrentStatus,
    of.Event: status_pb2.Event,
    of.Facility: status_pb2.Facility,
    of.FacilityOverview: pb.FacilityOverview,
    of.Incident: status_pb2.Incident,
    of.IncidentNote: status_pb2.IncidentNote,
    of.NodeCounts: status_pb2.NodeCounts,
    of.Outage: status_pb2.Outage,
    of.OutageReport: pb.FindOutagesResponse,
    of.PeerFacility: pb.PeerFacility,
    of.QueueCapacity: status_pb2.QueueCapacity,
    of.Resource: status_pb2.Resource,
    of.Site: status_pb2.Site,
    of.SiteOverview: pb.SiteOverview,
    of.Span: status_pb2.Span,
    of.StatusChange: pb.StatusChange,
    of.StatusCounts: pb.StatusCounts,
}
ENUMS = {
    of.Availability: pb.CheckAvailabilityResponse.Availability.DESCRIPTOR,
    of.IncidentType: status_pb2.IncidentType.DESCRIPTOR,
    of.QueueState: status_pb2.QueueState.DESCRIPTOR,
    of.Resolution: status_pb2.Resolution.DESCRIPTOR,
    of.ResourceStatus: status_pb2.ResourceStatus.DESCRIPTOR,
    of.Severity: status_pb2.Severity.DESCRIPTOR,
    of.StatusChangeType: pb.StatusChange.Type.DESCRIPTOR,
    of.StatusSource: status_pb2.StatusSource.DESCRIPTOR,
}


@pytest.mark.parametrize("kind", MESSAGES, ids=lambda kind: kind.__name__)
def test_every_field_of_the_contract_is_there(kind):
    assert {item.name for item in dataclasses.fields(kind)} == set(MESSAGES[kind].DESCRIPTOR.fields_by_name)


@pytest.mark.parametrize("kind", ENUMS, ids=lambda kind: kind.__name__)
def test_every_value_of_the_contract_is_there(kind):
    prefix = ENUMS[kind].values_by_number[0].name.removesuffix("UNSPECIFIED")
    assert [str(member) for member in kind] == [value.name.removeprefix(prefix) for value in ENUMS[kind].values]


def test_every_filter_of_the_contract_is_there():
    filters = {
        of.ResourceOptions: pb.ResourceFilter,
        of.IncidentOptions: pb.IncidentFilter,
        of.EventOptions: pb.ListEventsRequest,
    }
    for options, message in filters.items():
        fields = set(message.DESCRIPTOR.fields_by_name) - {"page_size", "page_token"}
        assert len(options.__annotations__) == len(fields), options


@pytest.mark.parametrize(
    ("one", "other"),
    [(of.AsyncStatus, of.Status), (of.AsyncStatusWatch, of.StatusWatch), (of.AsyncStatusPager, of.StatusPager)],
)
def test_both_clients_have_the_same_methods(one, other):
    names = {name for name in dir(one) if not name.startswith("_")}
    assert names == {name for name in dir(other) if not name.startswith("_")}
    for name in names:
        if callable(getattr(one, name)):
            ours, theirs = (inspect.signature(getattr(kind, name)).parameters for kind in (one, other))
            assert list(ours) == list(theirs), name


def test_no_two_services_have_a_method_of_the_same_name():
    modules = (jobs_service_pb2, pb)
    names = [m.name for module in modules for s in module.DESCRIPTOR.services_by_name.values() for m in s.methods]
    assert len(set(names)) == len(names)


# ------------------------------------------------------------------------------------------------------------ watching


async def soon(awaitable: Awaitable[T]) -> T:
    return await asyncio.wait_for(awaitable, 20)


async def take(watch: Any, count: int) -> list[of.StatusChange]:
    return [await soon(anext(watch)) for _ in range(count)]


def brief(changes: list[of.StatusChange]) -> list[str]:
    return [f"{c.type} {c.subject.id} {c.revision}" for c in changes]


def resource(id_: str, revision: int, status: str = "UP") -> dict[str, Any]:
    current = status_pb2.CurrentStatus(status=f"RESOURCE_STATUS_{status}")
    return {"resource": status_pb2.Resource(id=id_, revision=revision, current=current)}


def incident(id_: str, revision: int, resolution: str = "UNRESOLVED") -> dict[str, Any]:
    return {"incident": status_pb2.Incident(id=id_, revision=revision, resolution=f"RESOLUTION_{resolution}")}


def event(id_: str, revision: int) -> dict[str, Any]:
    return {"event": status_pb2.Event(id=id_, revision=revision)}


def told(kind: str, revision: int, *subjects: dict[str, Any], up_to: int = 0, caught_up: bool = False) -> Any:
    """A response with some changes of one kind and revision."""
    return pb.WatchStatusResponse(
        changes=[pb.StatusChange(type=f"TYPE_{kind}", revision=revision, **subject) for subject in subjects],
        revision=up_to,
        caught_up=caught_up,
    )


def stream(*entries: Any) -> Callable[[Any], AsyncIterator[Any]]:
    """A stream that tells some responses and then fails, or stays open."""

    async def run(_: Any) -> AsyncIterator[Any]:
        for entry in entries:
            if isinstance(entry, Exception):
                raise entry
            yield entry
        await asyncio.Event().wait()

    return run


LOST = Failure(Code.OUT_OF_RANGE, "gone", (reason("REVISION_COMPACTED", oldest_revision="20", current_revision="30"),))
GONE = Failure(Code.UNAVAILABLE, "stopping", (reason("SERVER_STOPPING"),))


async def test_snapshot_then_changes(client, server: ScriptedServer):
    server.on(
        "WatchStatus",
        stream(
            told("SNAPSHOT", 5, resource("cpu", 3), incident("i1", 4)),
            told("UPDATED", 0, up_to=5, caught_up=True),
            told("UPDATED", 6, resource("cpu", 6, "DOWN"), event("e1", 6), up_to=6),
        ),
    )
    watch = client.status.watch(["cpu", of.Resource("gpu")])
    assert watch.revision is None
    assert brief(await take(watch, 2)) == ["SNAPSHOT cpu 5", "SNAPSHOT i1 5"]
    first, second = await take(watch, 2)
    assert first.resource.status is of.ResourceStatus.DOWN
    assert second.event.id == "e1"
    assert (watch.revision, watch.caught_up, watch.resets) == (6, True, 0)
    assert list(server.requests("WatchStatus")[0].resource_ids) == ["cpu", "gpu"]
    assert of.to_json(first)["resource"]["current"]["status"] == "RESOURCE_STATUS_DOWN"


async def test_it_goes_on_after_the_last_revision(client, server: ScriptedServer):
    server.on(
        "WatchStatus",
        stream(told("SNAPSHOT", 5, resource("cpu", 3)), told("UPDATED", 0, up_to=5, caught_up=True), GONE),
        stream(told("UPDATED", 5, resource("cpu", 5), up_to=5), told("UPDATED", 6, resource("cpu", 6), up_to=6)),
    )
    assert brief(await take(client.status.watch(), 2)) == ["SNAPSHOT cpu 5", "UPDATED cpu 6"]
    assert server.requests("WatchStatus")[1].after_revision == 5


async def test_a_snapshot_that_breaks_off_tells_nothing_twice(client, server: ScriptedServer):
    server.on(
        "WatchStatus",
        stream(told("SNAPSHOT", 5, resource("a", 1), resource("b", 2), incident("i1", 3)), GONE),
        stream(
            told("SNAPSHOT", 8, resource("a", 1), resource("b", 7), resource("c", 8)),
            told("UPDATED", 0, up_to=8, caught_up=True),
            told("UPDATED", 9, resource("a", 9), up_to=9),
        ),
    )
    server.on("ListIncidents", pb.ListIncidentsResponse(incidents=[incident("i1", 6, "COMPLETED")["incident"]]))
    changes = await take(client.status.watch(), 7)
    assert brief(changes) == [
        "SNAPSHOT a 5",
        "SNAPSHOT b 5",
        "SNAPSHOT i1 5",
        "SNAPSHOT b 8",
        "SNAPSHOT c 8",
        "UPDATED i1 6",
        "UPDATED a 9",
    ]
    assert changes[5].incident.over


async def test_what_a_snapshot_read_late_is_not_told_again(client, server: ScriptedServer):
    server.on(
        "WatchStatus",
        stream(
            told("SNAPSHOT", 5, resource("a", 7)),
            told("UPDATED", 0, up_to=5, caught_up=True),
            told("UPDATED", 7, resource("a", 7), up_to=7),
            told("UPDATED", 8, resource("a", 8), up_to=8),
        ),
    )
    assert brief(await take(client.status.watch(), 2)) == ["SNAPSHOT a 5", "UPDATED a 8"]


async def test_a_lost_position_is_healed_by_a_snapshot(client, server: ScriptedServer):
    server.on(
        "WatchStatus",
        stream(
            told("SNAPSHOT", 5, resource("a", 1), resource("b", 2), resource("c", 3), incident("i1", 4)),
            told("UPDATED", 0, up_to=5, caught_up=True),
            GONE,
        ),
        LOST,
        stream(
            told("SNAPSHOT", 30, resource("a", 1), resource("b", 21), incident("i2", 22)),
            told("UPDATED", 0, up_to=30, caught_up=True),
            told("UPDATED", 31, resource("a", 31), up_to=31),
        ),
    )
    server.on("ListIncidents", pb.ListIncidentsResponse(incidents=[incident("i1", 15, "CANCELLED")["incident"]]))
    server.on("ListResources", pb.ListResourcesResponse())
    watch = client.status.watch()
    changes = await take(watch, 9)
    assert brief(changes[4:]) == [
        "SNAPSHOT b 30",
        "SNAPSHOT i2 30",
        "DELETED c 30",
        "UPDATED i1 15",
        "UPDATED a 31",
    ]
    assert watch.resets == 1
    assert list(server.requests("ListResources")[0].filter.resource_ids) == ["c"]
    assert not server.requests("WatchStatus")[2].HasField("after_revision")


async def test_a_lost_position_is_told_if_wanted(client, server: ScriptedServer):
    server.on("WatchStatus", LOST)
    with pytest.raises(of.OutOfRange) as caught:
        await soon(anext(client.status.watch(after_revision=3, on_gap="raise")))
    assert caught.value.oldest_revision == 20


async def test_without_snapshot(client, server: ScriptedServer):
    server.on("WatchStatus", stream(told("CREATED", 9, incident("i1", 9), up_to=9)))
    assert brief(await take(client.status.watch(snapshot=False), 1)) == ["CREATED i1 9"]
    assert server.requests("WatchStatus")[0].skip_snapshot


# ------------------------------------------------------------------------------------------------------------- reading


async def test_lists_go_through_all_pages(client, server: ScriptedServer):
    server.on(
        "ListResources",
        pb.ListResourcesResponse(
            resources=[resource(name, 1)["resource"] for name in "ab"], next_page_token="more", revision=7
        ),
        pb.ListResourcesResponse(resources=[resource("c", 9)["resource"]], revision=7),
    )
    found = client.status.resources(type="compute", sites="hall", statuses=["up", of.ResourceStatus.DOWN], page_size=2)
    assert [each.id async for each in found] == ["a", "b", "c"]
    assert found.revision == 7
    first, second = server.requests("ListResources")
    assert (first.filter.resource_type, list(first.filter.site_ids), list(first.filter.statuses)) == (
        "compute",
        ["hall"],
        [1, 3],
    )
    assert (second.page_token, second.filter) == ("more", first.filter)


async def test_filters_by_time(client, server: ScriptedServer):
    server.on("ListIncidents", pb.ListIncidentsResponse())
    server.on("ListEvents", pb.ListEventsResponse())
    server.on("ListSites", pb.ListSitesResponse(sites=[status_pb2.Site(id="hall", latitude=1.5)]))
    assert [
        i async for i in client.status.incidents(since=NOON, until=NOON + HOUR, resources="cpu", types="planned")
    ] == []
    assert [e async for e in client.status.events(since=NOON, incident=of.Incident("i1"))] == []
    assert [s.latitude async for s in client.status.sites(modified_since=NOON)] == [1.5]
    wanted = server.requests("ListIncidents")[0].filter
    assert getattr(wanted, "from").ToDatetime(UTC) == NOON
    assert wanted.to.ToDatetime(UTC) == NOON + HOUR
    assert (list(wanted.resource_ids), list(wanted.types)) == (["cpu"], [1])
    assert server.requests("ListEvents")[0].incident_id == "i1"


async def test_a_time_without_a_zone_is_refused(client, server: ScriptedServer):
    naive = datetime(2030, 1, 1, 12)  # noqa: DTZ001
    for call in (
        lambda: client.status.check_availability("cpu", naive),
        lambda: client.status.find_outages(resource="cpu", end=naive),
        lambda: client.status.declare("x", "cpu", start=naive),
        lambda: client.status.plan("x", "cpu", NOON, naive),
        lambda: client.status.set_status("cpu", "up", until=naive),
        lambda: client.status.export_calendar(since=naive),
    ):
        with pytest.raises(ValueError, match=r"(start|end|until|since) has no time zone"):
            await call()
    with pytest.raises(ValueError, match="at has no time zone"):
        of.Client("127.0.0.1:1").status.incidents(at=naive)
    assert server.calls == []


async def test_mistakes_are_told_before_the_call(client, server: ScriptedServer):
    with pytest.raises(TypeError, match="unknown filter: colour"):
        of.Client("127.0.0.1:1").status.resources(colour="red")
    with pytest.raises(TypeError, match="either a resource or a job"):
        await client.status.find_outages()
    with pytest.raises(TypeError, match="a job has its own"):
        await client.status.find_outages(job="j1", start=NOON)
    with pytest.raises(ValueError, match="'SIDEWAYS' is no ResourceStatus"):
        await client.status.set_status("cpu", "SIDEWAYS")
    with pytest.raises(TypeError, match="or its etag"):
        await client.status.update("i1", name="x")
    with pytest.raises(TypeError, match="or its etag"):
        await client.status.resolve("i1")
    with pytest.raises(ValueError, match="nothing to change"):
        await client.status.update(of.Incident("i1", etag="1"))
    with pytest.raises(TypeError, match="not both"):
        await client.status.update(of.Incident("i1", etag="1"), end=NOON, no_end=True)
    assert server.calls == []


async def test_one_of_each(client, server: ScriptedServer):
    overview = pb.FacilityOverview(
        facility=status_pb2.Facility(id="f", name="F"), counts=pb.StatusCounts(up=2, down=1), revision=4
    )
    server.on("GetFacility", status_pb2.Facility(id="f", contacts=[status_pb2.Contact(name="Desk")]))
    server.on("GetFacilityOverview", overview)
    server.on("ListFacilities", pb.ListFacilitiesResponse(facilities=[pb.PeerFacility(name="f", overview=overview)]))
    server.on("GetSite", status_pb2.Site(id="hall"))
    server.on("GetResource", resource("cpu", 3)["resource"])
    server.on("GetIncident", incident("i1", 3, "PENDING")["incident"])
    server.on("GetEvent", status_pb2.Event(id="e1"))
    status = client.status
    assert (await status.facility()).contacts[0].name == "Desk"
    assert (await status.overview()).counts.total == 3
    [peer] = await status.facilities()
    assert peer.overview.facility.name == "F"
    assert (await status.site("hall")).id == "hall"
    assert (await status.resource(of.Resource("cpu"))).status is of.ResourceStatus.UP
    assert not (await status.incident("i1")).over
    assert (await status.event("e1")).id == "e1"


async def test_questions(client, server: ScriptedServer):
    span = status_pb2.Span()
    span.start_time.FromDatetime(NOON)
    server.on(
        "CheckAvailability",
        pb.CheckAvailabilityResponse(availability="AVAILABILITY_AT_RISK", reason="because", next_free=span),
    )
    server.on("FindOutages", pb.FindOutagesResponse(outages=[status_pb2.Outage(likelihood=0.5)], summary="perhaps"))
    report = await client.status.check_availability("cpu", NOON)
    assert (report.availability, report.next_free) == (of.Availability.AT_RISK, of.Span(NOON))
    assert not server.requests("CheckAvailability")[0].HasField("end_time")
    assert (await client.status.find_outages(job=of.Job("j1"))).outages[0].likelihood == 0.5
    assert (await client.status.find_outages(resource="cpu", start=NOON)).summary == "perhaps"
    by_job, by_resource = server.requests("FindOutages")
    assert (by_job.job_id, by_resource.resource_id) == ("j1", "cpu")


# ----------------------------------------------------------------------------------------------------------- operating


async def test_declaring_and_planning(client, server: ScriptedServer):
    made = pb.CreateIncidentResponse(incidents=[incident("i1", 1)["incident"], incident("i2", 1)["incident"]])
    server.on("CreateIncident", made)
    assert (await client.status.declare("Leak", ["cpu"], severity="major", note="mopping")).id == "i1"
    rule = "FREQ=WEEKLY;COUNT=2"
    planned = await client.status.plan("Clean", "cpu", NOON, NOON + HOUR, rule=rule, time_zone="Europe/London")
    assert [each.id for each in planned] == ["i1", "i2"]
    first, second = server.requests("CreateIncident")
    assert (first.incident.type, first.incident.status, first.incident.severity, first.note) == (2, 3, 2, "mopping")
    assert first.request_id
    assert not first.incident.HasField("start_time")
    assert (second.incident.type, second.recurrence.rule) == (1, rule)
    await client.status.plan("Class", "cpu", NOON, reservation=True, status="up", request_id="mine")
    third = server.requests("CreateIncident")[2]
    assert (third.incident.type, third.incident.status, third.request_id) == (3, 1, "mine")
    assert not third.HasField("recurrence")


async def test_changing(client, server: ScriptedServer):
    server.on("UpdateIncident", incident("i1", 5, "EXTENDED")["incident"])
    server.on("ResolveIncident", incident("i1", 6, "COMPLETED")["incident"])
    server.on("AddIncidentNote", incident("i1", 7)["incident"])
    known = of.Incident("i1", etag='"4"')
    assert (await client.status.update(known, end=NOON, resources=["a", "b"])).resolution is of.Resolution.EXTENDED
    await client.status.update("i1", no_end=True, name="", etag="x")
    first, second = server.requests("UpdateIncident")
    assert (first.incident.id, first.etag, list(first.update_mask.paths)) == ("i1", '"4"', ["resource_ids", "end_time"])
    assert (second.etag, list(second.update_mask.paths)) == ("x", ["name", "end_time"])
    assert not second.incident.HasField("end_time")
    assert (await client.status.resolve(known, note="done", cancel=True)).over
    assert (await client.status.add_note("i1", "more")).id == "i1"
    assert server.requests("ResolveIncident")[0].cancel


async def test_words_and_calendars(client, server: ScriptedServer):
    server.on("SetResourceStatus", resource("cpu", 5, "DEGRADED")["resource"])
    server.on("ImportCalendar", pb.ImportCalendarResponse(incidents=[incident("i1", 1)["incident"]]))
    server.on("ExportCalendar", httpbody_pb2.HttpBody(content_type="text/calendar", data="é".encode()))
    assert (await client.status.set_status("cpu", "degraded", "slow", until=NOON)).status == "DEGRADED"
    await client.status.set_status("cpu", None)
    said, taken_back = server.requests("SetResourceStatus")
    assert (said.status, said.reason, taken_back.status) == (2, "slow", 0)
    assert [each.id for each in await client.status.import_calendar("é".encode("utf-8-sig"), "cpu")] == ["i1"]
    assert server.requests("ImportCalendar")[0].calendar == "é"
    assert await client.status.export_calendar(["cpu"]) == "é"
