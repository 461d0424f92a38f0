"""What operators do: declare, plan, change, end, note, say how a resource is; and what is refused, changing nothing."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from openfacility.status.v1 import status_pb2 as pb
from openfacility.status.v1 import status_service_pb2 as rpc

from tests.support.calls import refused
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
    now,
    stamp,
    when,
)

Make = Callable[[str], StatusCaller]
COMPLETED, CANCELLED = pb.RESOLUTION_COMPLETED, pb.RESOLUTION_CANCELLED
PENDING, UNRESOLVED, EXTENDED = pb.RESOLUTION_PENDING, pb.RESOLUTION_UNRESOLVED, pb.RESOLUTION_EXTENDED
Pair = tuple[str, str]


@pytest.fixture
def olga(status: Make) -> StatusCaller:
    return status("olga")


@pytest.fixture
def anyone(status: Make) -> StatusCaller:
    return status("")


@pytest.fixture
async def pair(olga: StatusCaller) -> AsyncIterator[Pair]:
    """A resource and one that depends on it, both up."""
    for resource in await olga.resources():
        if resource.depends_on:
            needed = resource.depends_on[0]
            for one in (needed, resource.id):
                await olga.until(one, UP)
            yield needed, resource.id
            return
    pytest.skip("needs a facility with a resource that depends on another")


# Declaring and planning.


async def test_an_incident_that_goes_on_takes_its_resources_and_their_dependents_down(
    olga: StatusCaller, anyone: StatusCaller, pair: Pair
) -> None:
    needed, dependent = pair
    before = now()
    incident = await olga.declare(needed, description="A pump broke.", severity=pb.SEVERITY_MAJOR)
    assert incident.resolution == UNRESOLVED
    assert incident.declared_by == "olga"
    assert dependent in incident.impacted_resource_ids
    assert list(incident.resource_ids) == [needed]
    assert before <= when(incident.start_time) <= now()
    assert not incident.HasField("end_time")
    own, through = await anyone.resource(needed), await anyone.resource(dependent)
    assert (own.current.status, own.current.source, own.current.incident_id) == (
        DOWN,
        pb.STATUS_SOURCE_INCIDENT,
        incident.id,
    )
    assert own.current.since == incident.start_time
    assert own.current.reason == olga.label
    assert (through.current.status, through.current.source) == (DOWN, pb.STATUS_SOURCE_DEPENDENCY)
    assert (through.current.because_of_resource_id, through.current.incident_id) == (needed, incident.id)
    assert await anyone.incident(incident.id) == incident
    ended = await olga.resolve(incident, note="repaired")
    assert ended.resolution == COMPLETED
    assert when(ended.start_time) <= when(ended.end_time) <= now()
    assert [(note.author, note.text) for note in ended.notes] == [("olga", "repaired")]
    for resource_id in pair:
        assert (await anyone.resource(resource_id)).current.status == UP
        up, down = await anyone.events(incident_id=incident.id, resource_ids=[resource_id])
        assert (down.previous_status, down.status, down.occur_time) == (UP, DOWN, incident.start_time)
        assert (up.previous_status, up.status, up.occur_time) == (DOWN, UP, ended.end_time)
        assert when(down.create_time) >= when(down.occur_time)
        assert await anyone.call("GetEvent", event_id=up.id) == up


async def test_what_began_earlier_is_recorded_with_its_time(olga: StatusCaller, pair: Pair) -> None:
    last = await olga.events(resource_ids=[pair[0]])
    start = max([now() - timedelta(minutes=10), *(when(event.occur_time) for event in last[:1])])
    incident = await olga.declare(pair[0], start_time=stamp(start))
    assert (await olga.resource(pair[0])).current.since == stamp(start)
    middle = start + (now() - start) / 2
    ended = await olga.resolve(incident, end_time=stamp(middle))
    assert when(ended.end_time) == middle
    up, down = await olga.events(incident_id=incident.id, resource_ids=[pair[0]])
    assert (when(down.occur_time), when(up.occur_time)) == (start, middle)
    assert when(up.create_time) > middle
    assert (await olga.resource(pair[0])).current.since == stamp(middle)


async def test_events_are_in_the_order_of_their_times_even_when_told_late(olga: StatusCaller, pair: Pair) -> None:
    first = await olga.declare(pair[0])
    ended = await olga.resolve(first)
    second = await olga.declare(pair[0], start_time=stamp(when(first.start_time) - timedelta(minutes=5)))
    newest = (await olga.events(resource_ids=[pair[0]]))[0]
    assert newest.incident_id == second.id
    assert newest.status == DOWN
    assert newest.occur_time == ended.end_time


async def test_a_planned_incident_is_pending_and_seen_beforehand(olga: StatusCaller, pair: Pair) -> None:
    incident = await olga.plan(pair[0])
    assert incident.resolution == PENDING
    assert (await olga.resource(pair[1])).current.status == UP
    for resource_id in pair:
        answer = await olga.call(
            "CheckAvailability", resource_id=resource_id, start_time=incident.start_time, end_time=incident.end_time
        )
        assert answer.availability == rpc.CheckAvailabilityResponse.AVAILABILITY_UNAVAILABLE
        assert incident.id in [found.id for found in answer.incidents]
        assert when(answer.next_free.start_time) >= when(incident.end_time)
        length = when(incident.end_time) - when(incident.start_time)
        assert when(answer.next_free.end_time) - when(answer.next_free.start_time) == length
    overview = await olga.call("GetFacilityOverview")
    assert incident in overview.coming_incidents
    cancelled = await olga.resolve(incident)
    assert cancelled.resolution == CANCELLED
    assert await olga.events(incident_id=incident.id) == []
    assert incident.id not in [one.id for one in (await olga.call("GetFacilityOverview")).coming_incidents]


async def test_a_reservation_takes_nothing_down_but_is_a_risk(olga: StatusCaller, pair: Pair) -> None:
    incident = await olga.plan(pair[0], type=RESERVATION, status=UP)
    assert list(incident.impacted_resource_ids) == [pair[0]]
    span = {"start_time": incident.start_time, "end_time": incident.end_time}
    answer = await olga.call("CheckAvailability", resource_id=pair[0], **span)
    assert answer.availability == rpc.CheckAvailabilityResponse.AVAILABILITY_AT_RISK
    goes_on = await olga.plan(pair[0], type=RESERVATION, status=UP, start=-1)
    assert goes_on.resolution == UNRESOLVED
    assert (await olga.resource(pair[0])).current.status == UP


async def test_recurring_maintenance(olga: StatusCaller, pair: Pair) -> None:
    start = datetime(now().year + 1, 3, 1, 9, tzinfo=UTC)
    draft = olga.draft(pair[0], type=PLANNED, start_time=stamp(start), end_time=stamp(start + timedelta(hours=2)))
    made = await olga.create(draft, recurrence=pb.Recurrence(rule="FREQ=WEEKLY;COUNT=6", time_zone="Europe/London"))
    assert len(made) == 6
    assert len({one.series_id for one in made}) == 1
    assert made[0].series_id
    assert when(made[0].start_time) == start
    # The clocks go forward in the last week of March: it stays nine o'clock for people.
    assert (when(made[-1].start_time) - start) == timedelta(weeks=5) - timedelta(hours=1)
    assert all(when(one.end_time) - when(one.start_time) == timedelta(hours=2) for one in made)
    assert set(await olga.incident_ids(series_id=made[0].series_id)) == {one.id for one in made}


# Overlaps, changes, ends.


async def test_overlapping_incidents_resolve_to_the_worst(olga: StatusCaller, pair: Pair) -> None:
    mild = await olga.declare(pair[0], status=DEGRADED)
    bad = await olga.declare(pair[0])
    assert (await olga.resource(pair[1])).current.status == DOWN
    await olga.resolve(bad)
    for resource_id in pair:
        assert (await olga.resource(resource_id)).current.status == DEGRADED
    own = await olga.declare(pair[1])
    assert (await olga.resource(pair[0])).current.status == DEGRADED
    assert (await olga.resource(pair[1])).current.incident_id == own.id
    mild = await olga.update(await olga.incident(mild.id), status=DOWN)
    assert (await olga.resource(pair[0])).current.status == DOWN
    await olga.resolve(mild)
    assert (await olga.resource(pair[0])).current.status == UP
    assert (await olga.resource(pair[1])).current.status == DOWN
    await olga.resolve(own)
    assert (await olga.resource(pair[1])).current.status == UP


async def test_changing(olga: StatusCaller, pair: Pair) -> None:
    incident = await olga.plan(pair[1], start=600, length=60)
    moved = await olga.update(
        incident,
        "name",
        "description",
        "severity",
        "status",
        "resource_ids",
        "start_time",
        "end_time",
        name=f"{olga.label} moved",
        severity=pb.SEVERITY_CRITICAL,
        status=DEGRADED,
        resource_ids=[pair[0]],
        start_time=ahead(700),
        end_time=ahead(900),
    )
    assert (moved.name, moved.severity, moved.status) == (f"{olga.label} moved", pb.SEVERITY_CRITICAL, DEGRADED)
    assert set(pair) <= set(moved.impacted_resource_ids)
    assert moved.etag != incident.etag
    assert moved.revision > incident.revision
    assert moved.resolution == PENDING
    assert when(moved.update_time) > when(incident.update_time)
    # Without a mask: the fields that are set.
    again = await olga.update(moved, description="soon")
    assert (again.description, again.name, again.end_time) == ("soon", moved.name, moved.end_time)


async def test_extending_shortening_and_the_end_by_itself(olga: StatusCaller, pair: Pair) -> None:
    incident = await olga.plan(pair[0], start=-5, length=1000)
    assert incident.resolution == UNRESOLVED
    longer = await olga.update(incident, end_time=ahead(2000))
    assert longer.resolution == EXTENDED
    assert (await olga.resource(pair[0])).current.status == DOWN
    end = now() + timedelta(seconds=0.5)
    shorter = await olga.update(longer, end_time=stamp(end))
    assert shorter.resolution == EXTENDED
    over = await olga.until_incident(incident.id)
    assert (over.resolution, when(over.end_time)) == (COMPLETED, end)
    assert (await olga.resource(pair[0])).current.status == UP
    up, _ = await olga.events(incident_id=incident.id, resource_ids=[pair[0]])
    assert when(up.occur_time) == end


async def test_calling_off_what_goes_on(olga: StatusCaller, pair: Pair) -> None:
    incident = await olga.declare(pair[0])
    ended = await olga.resolve(incident, cancel=True)
    assert ended.resolution == CANCELLED
    assert (await olga.resource(pair[1])).current.status == UP


async def test_notes(olga: StatusCaller, pair: Pair) -> None:
    incident = (await olga.create(olga.draft(pair[0]), note="first"))[0]
    noted = await olga.note(incident, "second")
    assert [note.text for note in noted.notes] == ["first", "second"]
    assert noted.etag != incident.etag
    ended = await olga.resolve(noted)
    last = await olga.note(ended, "why it was")
    assert [note.text for note in last.notes] == ["first", "second", "why it was"]
    assert last.resolution == COMPLETED
    assert when(last.notes[0].time) <= when(last.notes[2].time) <= now()


async def test_no_more_notes_than_can_be_sent(olga: StatusCaller, pair: Pair) -> None:
    incident = await olga.plan(pair[0])
    with refused("FAILED_PRECONDITION", "TOO_MANY_NOTES"):
        for number in range(200):
            await olga.note(incident, f"{number} {'x' * 9990}")
    noted = await olga.incident(incident.id)
    assert 50 < len(noted.notes) < 200
    assert (await olga.resolve(noted)).resolution == CANCELLED


# Words.


async def test_an_operators_word_and_taking_it_back(olga: StatusCaller, pair: Pair) -> None:
    said = await olga.say(pair[0], DEGRADED, reason="slow today")
    assert (said.current.status, said.current.source) == (DEGRADED, pb.STATUS_SOURCE_OPERATOR)
    assert said.current.reason == "slow today"
    assert (await olga.resource(pair[1])).current.status == DEGRADED
    # What is worse still counts.
    incident = await olga.declare(pair[0])
    assert (await olga.resource(pair[0])).current.incident_id == incident.id
    await olga.say(pair[0], UP)
    assert (await olga.resource(pair[0])).current.status == DOWN
    await olga.resolve(incident)
    assert (await olga.resource(pair[0])).current.status == UP
    assert (await olga.say(pair[0], UNKNOWN)).current.status == UNKNOWN
    back = await olga.say(pair[0])
    assert back.current.status == UP
    assert back.current.source != pb.STATUS_SOURCE_OPERATOR


async def test_a_word_runs_out(olga: StatusCaller, pair: Pair) -> None:
    until = now() + timedelta(seconds=0.6)
    async with olga.watch(after_revision=await olga.revision(), resource_ids=list(pair)) as watch:
        await olga.say(pair[0], DOWN, reason="look", expire_time=stamp(until))
        for resource_id in pair:
            await watch.event(resource_id, DOWN)
        event = await watch.event(pair[0], UP)
    assert when(event.occur_time) == until
    assert (await olga.resource(pair[0])).current.since == event.occur_time


async def test_a_word_as_part_of_an_incident(olga: StatusCaller, pair: Pair) -> None:
    incident = await olga.plan(pair[0])
    said = await olga.say(pair[0], DOWN, incident_id=incident.id)
    assert said.current.incident_id == incident.id
    assert [event.status for event in await olga.events(incident_id=incident.id, resource_ids=[pair[0]])] == [DOWN]
    with refused("INVALID_ARGUMENT", "UNKNOWN_INCIDENT", "incident_id"):
        await olga.say(pair[0], DOWN, incident_id="nosuch")


# Etags and request ids.


async def test_an_old_etag_is_refused_with_the_current_one(olga: StatusCaller, pair: Pair) -> None:
    incident = await olga.declare(pair[0])
    changed = await olga.update(incident, name=f"{olga.label} first")
    for attempt in (
        lambda: olga.update(incident, name="second"),
        lambda: olga.resolve(incident),
        lambda: olga.resolve(incident, cancel=True),
    ):
        with refused("ABORTED", "ETAG_MISMATCH") as error:
            await attempt()
        assert error.metadata["etag"] == changed.etag
        assert await olga.incident(incident.id) == changed
    answers = await asyncio.gather(
        *(olga.update(changed, name=f"{olga.label} {number}") for number in range(8)), return_exceptions=True
    )
    assert len([answer for answer in answers if isinstance(answer, pb.Incident)]) == 1


async def test_an_etag_is_needed(olga: StatusCaller, pair: Pair) -> None:
    incident = await olga.declare(pair[0])
    for method, request in (
        ("UpdateIncident", {"incident": pb.Incident(id=incident.id, name="x")}),
        ("ResolveIncident", {"incident_id": incident.id}),
    ):
        with refused("INVALID_ARGUMENT", "INVALID_FIELD", "etag"):
            await olga.call(method, **request)
    assert await olga.incident(incident.id) == incident


async def test_what_is_over_stays(olga: StatusCaller, pair: Pair) -> None:
    ended = await olga.resolve(await olga.declare(pair[0]))
    for attempt in (lambda: olga.update(ended, name="x"), lambda: olga.resolve(ended)):
        with refused("FAILED_PRECONDITION", "INCIDENT_OVER") as error:
            await attempt()
        assert error.metadata["resolution"] == "COMPLETED"
    assert await olga.incident(ended.id) == ended


async def test_each_change_may_be_repeated(olga: StatusCaller, pair: Pair) -> None:
    key = olga.label.replace(" ", ".")
    draft = olga.draft(pair[0])
    first = await olga.create(draft, request_id=f"{key}.1")
    assert await olga.create(draft, request_id=f"{key}.1") == first
    assert len(await olga.incidents(text=olga.label)) == 1
    incident = first[0]
    change = rpc.UpdateIncidentRequest(
        incident=pb.Incident(id=incident.id, description="d"), etag=incident.etag, request_id=f"{key}.2"
    )
    updated = await olga.call("UpdateIncident", change)
    assert await olga.call("UpdateIncident", change) == updated
    noted = await olga.note(incident, "n", request_id=f"{key}.3")
    assert await olga.note(incident, "n", request_id=f"{key}.3") == noted
    assert len(noted.notes) == 1
    said = await olga.say(pair[1], DEGRADED, request_id=f"{key}.4")
    await olga.say(pair[1])
    assert await olga.say(pair[1], DEGRADED, request_id=f"{key}.4") == said
    assert (await olga.resource(pair[1])).current.source != pb.STATUS_SOURCE_OPERATOR
    ended = await olga.resolve(noted, request_id=f"{key}.5")
    assert await olga.resolve(noted, request_id=f"{key}.5") == ended
    with refused("INVALID_ARGUMENT", "REQUEST_ID_REUSED", "request_id"):
        await olga.create(olga.draft(pair[1]), request_id=f"{key}.1")


# Who may.


def _changes(incident: pb.Incident) -> dict[str, dict[str, Any]]:
    resource_id = incident.resource_ids[0]
    return {
        "CreateIncident": {"incident": pb.Incident(type=UNPLANNED, name="x", status=DOWN, resource_ids=[resource_id])},
        "UpdateIncident": {"incident": pb.Incident(id=incident.id, name="stolen"), "etag": incident.etag},
        "ResolveIncident": {"incident_id": incident.id, "etag": incident.etag},
        "AddIncidentNote": {"incident_id": incident.id, "text": "x"},
        "SetResourceStatus": {"resource_id": resource_id, "status": DOWN},
        "ImportCalendar": {"calendar": "BEGIN:VCALENDAR\r\nEND:VCALENDAR\r\n", "resource_ids": [resource_id]},
    }


@pytest.mark.parametrize(
    ("name", "code", "reason"),
    [("alice", "PERMISSION_DENIED", "ROLE_REQUIRED"), ("", "UNAUTHENTICATED", "SIGN_IN_REQUIRED")],
)
async def test_only_operators_change_anything(
    status: Make, olga: StatusCaller, pair: Pair, name: str, code: str, reason: str
) -> None:
    incident = await olga.plan(pair[0])
    before = await olga.resources(), await olga.incidents(), await olga.events()
    for method, fields in _changes(incident).items():
        with refused(code, reason):
            await status(name).call(method, **fields)
    assert (await olga.resources(), await olga.incidents(), await olga.events()) == before


async def test_everyone_reads_the_same(status: Make, olga: StatusCaller, pair: Pair) -> None:
    incident = await olga.declare(pair[0])
    for name in ("", "alice", "olga"):
        caller = status(name)
        assert await caller.incident(incident.id) == incident
        assert (await caller.resource(pair[1])).current.incident_id == incident.id
        assert incident.id in await caller.incident_ids(resource_ids=[pair[1]])
        overview = await caller.call("GetFacilityOverview")
        assert incident in overview.open_incidents
        assert overview.counts.down >= 2


async def test_every_change_is_audited(own_server, connect_status) -> None:
    server: Server = own_server()
    olga: StatusCaller = connect_status(server, "olga")
    incident = await olga.declare("state")
    incident = await olga.update(incident, name="another")
    await olga.note(incident, "n")
    await olga.say("local", UP)
    calendar = (await olga.call("ExportCalendar")).data.decode()
    await olga.call("ImportCalendar", calendar=calendar, resource_ids=["local"])
    await olga.resolve(await olga.incident(incident.id))
    with refused("FAILED_PRECONDITION", "INCIDENT_OVER"):
        await olga.resolve(await olga.incident(incident.id))
    with closing(sqlite3.connect(server.state / "state.db")) as database:
        rows = database.execute("SELECT username, method, subject, request_id, text, time FROM audit ORDER BY id")
        found = rows.fetchall()
    assert {row[0] for row in found} == {"olga"}
    prefix = "/openfacility.status.v1.StatusService/"
    assert [(row[1].removeprefix(prefix), row[2]) for row in found] == [
        ("CreateIncident", incident.id),
        ("UpdateIncident", incident.id),
        ("AddIncidentNote", incident.id),
        ("SetResourceStatus", "local"),
        ("ImportCalendar", ""),
        ("ResolveIncident", incident.id),
    ]
    assert len({row[3] for row in found}) == len(found)
    assert all(row[3] for row in found)
    assert all(abs(row[5] / 1e6 - now().timestamp()) < 600 for row in found)


# Bad input.

FAR = Timestamp(seconds=253402300799)
HOUR = timedelta(hours=1)


def _span(start: timedelta, end: timedelta) -> dict[str, Timestamp]:
    return {"start_time": stamp(now() + start), "end_time": stamp(now() + end)}


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "end before start": (_span(2 * HOUR, HOUR), "incident.end_time"),
    "end at start": (
        {"start_time": stamp(now().replace(microsecond=0)), "end_time": stamp(now().replace(microsecond=0))},
        "incident.end_time",
    ),
    "a thousand years": (_span(HOUR, 1000 * 365 * 24 * HOUR), "incident.end_time"),
    "more than a year": (_span(HOUR, 367 * 24 * HOUR), "incident.end_time"),
    "the year 9999": ({"start_time": FAR}, "incident.start_time"),
    "long ago": (_span(-20 * 365 * 24 * HOUR, HOUR), "incident.start_time"),
    "planned without end": ({"type": PLANNED}, "incident.end_time"),
    "unknown resource": ({"resource_ids": ["no-such"]}, "incident.resource_ids[0]"),
    "no resource": ({"resource_ids": []}, "incident.resource_ids"),
    "no name": ({"name": " "}, "incident.name"),
    "a name of two lines": ({"name": "a\nb"}, "incident.name"),
    "a long name": ({"name": "x" * 256}, "incident.name"),
    "a long description": ({"description": "x" * 10_001}, "incident.description"),
    "no type": ({"type": 0}, "incident.type"),
    "an unknown type": ({"type": 9}, "incident.type"),
    "no status": ({"status": 0}, "incident.status"),
    "up": ({"status": UP}, "incident.status"),
    "unknown": ({"status": UNKNOWN}, "incident.status"),
    "an unknown status": ({"status": 77}, "incident.status"),
    "an unknown severity": ({"severity": 9}, "incident.severity"),
}


@pytest.mark.parametrize("case", WRONG)
async def test_wrong_incidents(olga: StatusCaller, pair: Pair, case: str) -> None:
    fields, field = WRONG[case]
    values = {"type": UNPLANNED, "name": olga.label, "status": DOWN, "resource_ids": [pair[0]]} | fields
    before = await olga.world()
    with refused("INVALID_ARGUMENT", "INVALID_FIELD", field):
        await olga.call("CreateIncident", incident=pb.Incident(**values))
    assert await olga.world() == before


async def test_all_that_is_wrong_is_named_at_once(olga: StatusCaller) -> None:
    wrong = pb.Incident(type=PLANNED, status=UP, resource_ids=["no-such"], **_span(2 * HOUR, HOUR))
    with refused("INVALID_ARGUMENT") as error:
        await olga.call("CreateIncident", incident=wrong)
    assert set(error.fields) == {
        "incident.resource_ids[0]",
        "incident.name",
        "incident.status",
        "incident.end_time",
    }


@pytest.mark.parametrize(
    ("rule", "zone"),
    [
        ("FREQ=DAILY", ""),
        ("FREQ=DAILY;COUNT=367", ""),
        ("FREQ=DAILY;COUNT=2", "Mars/Olympus"),
        ("nonsense", ""),
        ("FREQ=SECONDLY;COUNT=2", ""),
    ],
)
async def test_wrong_recurrences(olga: StatusCaller, pair: Pair, rule: str, zone: str) -> None:
    before = await olga.incident_ids()
    draft = olga.draft(pair[0], type=PLANNED, **_span(HOUR, 2 * HOUR))
    with refused("INVALID_ARGUMENT") as error:
        await olga.create(draft, recurrence=pb.Recurrence(rule=rule, time_zone=zone))
    assert error.fields[0].startswith("recurrence.")
    assert await olga.incident_ids() == before


async def test_only_what_is_planned_with_an_end_repeats(olga: StatusCaller, pair: Pair) -> None:
    for fields in ({}, {"type": PLANNED, "start_time": ahead(60)}, _span(HOUR, 2 * HOUR)):
        with refused("INVALID_ARGUMENT", "RECURRENCE", "recurrence"):
            await olga.create(olga.draft(pair[0], **fields), recurrence=pb.Recurrence(rule="FREQ=DAILY;COUNT=2"))


async def test_wrong_changes(olga: StatusCaller, pair: Pair) -> None:
    pending = await olga.plan(pair[0])
    begun = await olga.declare(pair[0])
    before = await olga.world()
    for incident, paths, fields, field in (
        (pending, ["end_time"], {"end_time": stamp(when(pending.start_time) - HOUR)}, "incident.end_time"),
        (pending, ["end_time"], {"end_time": FAR}, "incident.end_time"),
        (pending, ["end_time"], {}, "incident.end_time"),
        (pending, ["start_time"], {}, "incident.start_time"),
        (pending, ["resource_ids"], {}, "incident.resource_ids"),
        (pending, ["resource_ids"], {"resource_ids": [pair[0], "no-such"]}, "incident.resource_ids[1]"),
        (pending, ["status"], {"status": UP}, "incident.status"),
        (pending, ["status"], {}, "incident.status"),
        (pending, ["status"], {"status": 9}, "incident.status"),
        (pending, ["name"], {}, "incident.name"),
        (begun, ["end_time"], {"end_time": stamp(when(begun.start_time) - HOUR)}, "incident.end_time"),
        (begun, ["no_such_field"], {}, "update_mask"),
        (begun, ["name"] * 33, {"name": "x"}, "update_mask"),
    ):
        with refused("INVALID_ARGUMENT", "INVALID_FIELD", field):
            await olga.update(incident, *paths, **fields)
    with refused("FAILED_PRECONDITION", "INCIDENT_BEGUN"):
        await olga.update(begun, start_time=ahead(60))
    for end in (ahead(60), stamp(when(begun.start_time) - HOUR), FAR):
        for cancel in (False, True):
            with refused("INVALID_ARGUMENT", "END_OUT_OF_SPAN", "end_time"):
                await olga.resolve(begun, end_time=end, cancel=cancel)
    for expiry in (ahead(-60), ahead(367 * 24 * 3600), FAR, Timestamp()):
        with refused("INVALID_ARGUMENT", "EXPIRY_OUT_OF_RANGE", "expire_time"):
            await olga.say(pair[0], DOWN, expire_time=expiry)
    with refused("INVALID_ARGUMENT", "INVALID_FIELD", "status"):
        await olga.say(pair[0], 9)
    assert await olga.world() == before


async def test_what_is_not_there(olga: StatusCaller) -> None:
    nothing = pb.Incident(id="nosuch", etag='"1"')
    for attempt in (
        lambda: olga.update(nothing, name="x"),
        lambda: olga.resolve(nothing),
        lambda: olga.note(nothing, "x"),
        lambda: olga.call("SetResourceStatus", resource_id="no-such", status=DOWN),
    ):
        with refused("NOT_FOUND", "NOT_FOUND"):
            await attempt()
    with refused("INVALID_ARGUMENT", field="incident.id"):
        await olga.update(pb.Incident(etag='"1"'), name="x")


# Calendars.


async def test_a_calendar_goes_out_and_in(olga: StatusCaller, pair: Pair) -> None:
    incident = await olga.plan(pair[0], start=86_400, name=f"{olga.label} umläut; comma, and more " + "long" * 30)
    body = await olga.call("ExportCalendar", resource_ids=[pair[0]], **{"from": ahead(3600)})
    assert body.content_type.startswith("text/calendar")
    assert incident.id in body.data.decode()
    taken = await olga.call("ImportCalendar", calendar=body.data.decode())
    assert incident.id in [one.id for one in taken.incidents]
    assert len(await olga.incidents(text=olga.label)) == 1
    assert (await olga.incident(incident.id)).name == incident.name


def _calendar(uid: str, *lines: str) -> str:
    day = (now() + timedelta(days=9)).strftime("%Y%m%d")
    event = ["BEGIN:VEVENT", f"UID:{uid}", "DTSTAMP:20240101T000000Z", f"DTSTART:{day}T090000Z", *lines, "END:VEVENT"]
    return "\r\n".join(["BEGIN:VCALENDAR", "VERSION:2.0", "PRODID:-//x//y//EN", *event, "END:VCALENDAR", ""])


async def test_an_event_of_a_calendar_is_planned_changed_and_called_off(olga: StatusCaller, pair: Pair) -> None:
    uid = f"{olga.label.split()[1]}@example.org"

    async def take(*lines: str) -> list[pb.Incident]:
        answer = await olga.call("ImportCalendar", calendar=_calendar(uid, *lines), resource_ids=[pair[0]])
        return list(answer.incidents)

    [planned] = await take("DURATION:PT2H", f"SUMMARY:{olga.label}")
    assert (planned.type, planned.resolution, planned.calendar_uid) == (PLANNED, PENDING, uid)
    assert when(planned.end_time) - when(planned.start_time) == 2 * HOUR
    [changed] = await take("DURATION:PT3H", f"SUMMARY:{olga.label} longer")
    assert changed.id == planned.id
    assert when(changed.end_time) - when(changed.start_time) == 3 * HOUR
    [off] = await take("DURATION:PT3H", f"SUMMARY:{olga.label} longer", "STATUS:CANCELLED")
    assert (off.id, off.resolution) == (planned.id, CANCELLED)


async def test_a_wrong_calendar_changes_nothing(olga: StatusCaller, pair: Pair) -> None:
    before = await olga.world()
    good = _calendar("good@example.org", "DURATION:PT1H", "SUMMARY:good")
    bad = _calendar("bad@example.org", "DURATION:PT1H", "SUMMARY:bad", "LOCATION:no-such-resource")
    both = good.replace("END:VCALENDAR\r\n", "") + bad.partition("PRODID:-//x//y//EN\r\n")[2]
    for text in ("not a calendar", both.replace("DURATION:PT1H", "DTEND:19700101T000000Z"), both[: len(both) // 2]):
        with refused("INVALID_ARGUMENT", field="calendar"):
            await olga.call("ImportCalendar", calendar=text, resource_ids=[pair[0]])
    with refused("INVALID_ARGUMENT"):
        await olga.call("ImportCalendar", calendar=good, resource_ids=["no-such"])
    assert await olga.world() == before
