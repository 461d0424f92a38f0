"""The commands for the facility's status: what they print, what they ask, how they exit."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pty
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click
import grpc
import pytest
from click.testing import CliRunner
from google.api import httpbody_pb2
from openfacility.status.v1 import status_pb2
from openfacility.status.v1 import status_service_pb2 as pb
from openfacility_cli import _federation
from openfacility_cli._times import WHEN
from openfacility_cli.main import cli
from openfacility_cli.main import run as run_main

from tests.client.scripted import Failure, ScriptedServer

pytestmark = pytest.mark.timeout(60)

COMMAND = (sys.executable, "-m", "openfacility_cli")
Run = Callable[..., Awaitable[tuple[int, str, str]]]


@pytest.fixture
def run(server: ScriptedServer, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs the command against the scripted server; returns exit code, output and errors."""
    monkeypatch.setenv("OPENFACILITY_ADDRESS", server.address)
    monkeypatch.setenv("TZ", "UTC")

    async def call(*words: str) -> tuple[int, str, str]:
        capfd.readouterr()
        code = await asyncio.wait_for(asyncio.to_thread(run_main, list(words)), 30)
        sys.stdout.flush()
        out, err = capfd.readouterr()
        return code, click.unstyle(out), err

    return call


def time(hours: float) -> Any:
    stamp = status_pb2.Span().start_time
    stamp.FromDatetime(datetime(2030, 1, 1, tzinfo=UTC) + timedelta(hours=hours))
    return stamp


def resource(id_: str, status: str = "UP", **fields: Any) -> status_pb2.Resource:
    current = status_pb2.CurrentStatus(status=f"RESOURCE_STATUS_{status}", **fields.pop("current", {}))
    return status_pb2.Resource(id=id_, site_id="hall", type_word="compute", current=current, revision=1, **fields)


def incident(id_: str = "i1", resolution: str = "PENDING", **fields: Any) -> status_pb2.Incident:
    return status_pb2.Incident(
        id=id_,
        name="Cooling",
        type="INCIDENT_TYPE_PLANNED",
        status="RESOURCE_STATUS_DOWN",
        resolution=f"RESOLUTION_{resolution}",
        start_time=time(8),
        end_time=time(10),
        resource_ids=["cpu"],
        impacted_resource_ids=["cpu", "gpu"],
        etag='"7"',
        revision=7,
        **fields,
    )


def script_a_facility(server: ScriptedServer) -> None:
    counts = pb.StatusCounts(up=1, down=1)
    site = pb.SiteOverview(site=status_pb2.Site(id="hall", name="Hall A", country_name="UK"), counts=counts)
    server.on(
        "GetFacilityOverview",
        pb.FacilityOverview(
            facility=status_pb2.Facility(id="f", name="Hawk"),
            sites=[site],
            counts=counts,
            coming_incidents=[incident()],
        ),
    )
    down = resource("cpu", "DOWN", current={"reason": "No power", "incident_id": "i0", "since": time(0)})
    server.on("ListResources", pb.ListResourcesResponse(resources=[down, resource("gpu")]))


async def test_status_shows_sites_resources_and_incidents(server, run):
    script_a_facility(server)
    code, out, _ = await run("status")
    assert code == 0
    lines = out.splitlines()
    assert lines[0] == "Hawk: 1 down, 1 up"
    assert lines[2] == "Hall A (UK): 1 down, 1 up"
    assert [line.split()[:3] for line in lines[4:6]] == [["cpu", "compute", "down"], ["gpu", "compute", "up"]]
    assert "No power [i0]" in lines[4]
    assert lines[7] == "Incidents coming"
    assert "2030-01-01 08:00  2030-01-01 10:00  cpu" in lines[9]


async def test_status_counts_nodes_and_names_closed_queues(server, run):
    nodes = status_pb2.NodeCounts(total=16, idle=11, mixed=1, allocated=2, drained=1, down=1)
    queues = [
        status_pb2.QueueCapacity(name="day", state="QUEUE_STATE_OPEN"),
        status_pb2.QueueCapacity(name="night", state="QUEUE_STATE_CLOSED"),
    ]
    capacity = status_pb2.Capacity(nodes=nodes, queues=queues)
    script_a_facility(server)
    server.script["ListResources"].clear()
    server.on("ListResources", pb.ListResourcesResponse(resources=[resource("cpu", current={"capacity": capacity})]))
    _, out, _ = await run("status")
    assert out.splitlines()[4].endswith("(16 nodes: 11 idle, 3 busy, 1 drained, 1 down; night closed)")


async def test_status_as_json_and_filtered(server, run):
    script_a_facility(server)
    _, out, _ = await run("--json", "status", "--status", "down", "--type", "compute", "--site", "hall")
    found = [json.loads(line) for line in out.splitlines()]
    assert [next(iter(each)) for each in found] == ["resource", "resource", "incident"]
    assert found[0]["resource"]["current"]["status"] == "RESOURCE_STATUS_DOWN"
    wanted = server.requests("ListResources")[0].filter
    assert (wanted.resource_type, list(wanted.site_ids), list(wanted.statuses)) == ("compute", ["hall"], [3])


@pytest.mark.parametrize(("word", "code"), [("AVAILABLE", 0), ("AT_RISK", 3), ("UNAVAILABLE", 4)])
async def test_check_exits_as_the_answer_is(server, run, word, code):
    free = status_pb2.Span(start_time=time(10), end_time=time(11))
    server.on(
        "CheckAvailability",
        pb.CheckAvailabilityResponse(availability=f"AVAILABILITY_{word}", reason="because", next_free=free),
    )
    found, out, _ = await run("status", "check", "cpu", "--from", "2030-01-01T08:00+01:00", "--for", "90m")
    assert found == code
    assert out.startswith(f"cpu: {word.lower().replace('_', ' ')}, because")
    assert ("next free for as long: 2030-01-01 10:00:00 to 2030-01-01 11:00:00" in out) is bool(code)
    [request] = server.requests("CheckAvailability")
    assert request.start_time == time(7)
    assert request.end_time == time(8.5)


async def test_outages_of_a_resource_and_of_a_job(server, run):
    outage = status_pb2.Outage(
        incident_id="i1", likelihood=0.95, explanation="it was down", status="RESOURCE_STATUS_DOWN"
    )
    outage.overlap.start_time.CopyFrom(time(1))
    outage.duration.seconds = 5400
    server.on("FindOutages", pb.FindOutagesResponse(outages=[outage], summary="that is why"))
    _, out, _ = await run("outages", "--job", "j1")
    assert out.splitlines()[0] == "that is why"
    assert out.splitlines()[2].split()[:5] == ["95%", "down", "2030-01-01", "01:00:00", "1h30m"]
    _, out, _ = await run("outages", "-r", "cpu", "--from", "-2d", "--json")
    assert json.loads(out)["outages"][0]["likelihood"] == 0.95
    assert [request.job_id for request in server.requests("FindOutages")] == ["j1", ""]
    assert (await run("outages"))[0] == 2
    assert (await run("outages", "--job", "j1", "--from", "now"))[0] == 2


async def test_incidents_are_found(server, run):
    server.on("ListIncidents", pb.ListIncidentsResponse(incidents=[incident("i1"), incident("i2")]))
    server.on("GetIncident", incident(notes=[status_pb2.IncidentNote(author="olga", text="wait", time=time(9))]))
    _, out, err = await run("incidents", "list", "--limit", "1", "-r", "cpu")
    assert [line.split()[0] for line in out.splitlines()] == ["ID", "i1"]
    assert "more than these 1" in err
    await run("incidents", "list", "--all", "--from", "2030-01-01T00:00Z", "--type", "planned")
    first, second = (request.filter for request in server.requests("ListIncidents"))
    assert (list(first.resolutions), list(second.resolutions)) == ([1, 2, 3], [])
    assert getattr(second, "from") == time(0)
    _, out, _ = await run("incidents", "show", "i1")
    assert "impacts too: gpu" in out
    assert "olga: wait" in out


async def test_incidents_are_made(server, run):
    server.on("CreateIncident", pb.CreateIncidentResponse(incidents=[incident()]))
    code, out, _ = await run("incidents", "declare", "Leak", "-r", "cpu", "-r", "gpu", "--severity", "major")
    assert (code, out.split()[:3]) == (0, ["i1", "pending", "down"])
    plan = ("incidents", "plan", "Cooling", "-r", "cpu", "--from", "2030-01-01T08:00Z")
    await run(*plan, "--for", "2h", "--repeat", "FREQ=DAILY;COUNT=2", "--time-zone", "Europe/London")
    await run(*plan, "--to", "2030-01-01T10:00Z", "--reservation", "--status", "up")
    declared, planned, reserved = (request.incident for request in server.requests("CreateIncident"))
    assert (declared.type, declared.severity, list(declared.resource_ids)) == (2, 2, ["cpu", "gpu"])
    assert planned.end_time == reserved.end_time == time(10)
    assert (planned.type, reserved.type, reserved.status) == (1, 3, 1)
    assert server.requests("CreateIncident")[1].recurrence.time_zone == "Europe/London"
    assert (await run(*plan, "--for", "2h", "--to", "+1d"))[0] == 2
    assert (await run(*plan, "--time-zone", "Europe/London"))[0] == 2
    assert len(server.requests("CreateIncident")) == 3


async def test_incidents_are_changed(server, run):
    server.on("GetIncident", incident())
    server.on("UpdateIncident", incident(resolution="EXTENDED"))
    server.on("ResolveIncident", incident(resolution="COMPLETED"))
    server.on("AddIncidentNote", incident())
    await run("incidents", "update", "i1", "--name", "Heating", "--no-end")
    await run("incidents", "update", "i1", "--status", "degraded", "--etag", "mine")
    await run("incidents", "extend", "i1", "--by", "90m")
    await run("incidents", "extend", "i1", "--to", "2030-01-02T00:00Z")
    first, second, third, fourth = server.requests("UpdateIncident")
    assert (first.etag, list(first.update_mask.paths)) == ('"7"', ["name", "end_time"])
    assert second.etag == "mine"
    assert third.incident.end_time == time(11.5)
    assert fourth.incident.end_time == time(24)
    assert (await run("incidents", "resolve", "i1", "--at", "2030-01-01T09:00Z", "--note", "ok"))[0] == 0
    assert (await run("incidents", "cancel", "i1"))[0] == 0
    ended, called_off = server.requests("ResolveIncident")
    assert (ended.end_time, ended.note, ended.cancel, called_off.cancel) == (time(9), "ok", False, True)
    assert (await run("incidents", "note", "i1", "hello"))[0] == 0
    for words in (["update", "i1"], ["extend", "i1"], ["extend", "i1", "--by", "1h", "--to", "+1h"]):
        assert (await run("incidents", *words))[0] == 2


async def test_cancel_goes_on_after_one_that_refuses(server, run):
    server.on("GetIncident", Failure(grpc.StatusCode.NOT_FOUND, "there is no incident"), incident("i2"))
    server.on("ResolveIncident", incident("i2", "CANCELLED"))
    code, out, err = await run("incidents", "cancel", "i1", "i2")
    assert (code, out.split()[:2]) == (1, ["i2", "cancelled"])
    assert "i1: there is no incident" in err


async def test_calendars(server, run, tmp_path: Path):
    server.on("ImportCalendar", pb.ImportCalendarResponse(incidents=[incident()]), pb.ImportCalendarResponse())
    server.on("ExportCalendar", httpbody_pb2.HttpBody(data="BEGIN:VCALENDAR\r\né\r\n".encode()))
    file = tmp_path / "plan.ics"
    file.write_bytes(b"BEGIN:VCALENDAR\r\nEND:VCALENDAR\r\n")
    assert (await run("incidents", "import", str(file), "-r", "cpu"))[1].startswith("i1  pending")
    assert "nothing to change" in (await run("incidents", "import", str(file)))[2]
    [first, _] = server.requests("ImportCalendar")
    assert (first.calendar, list(first.resource_ids)) == ("BEGIN:VCALENDAR\r\nEND:VCALENDAR\r\n", ["cpu"])
    assert "é" in (await run("incidents", "export", "--from", "-90d"))[1]
    assert (await run("incidents", "export", "-o", str(tmp_path / "out.ics")))[1] == ""
    assert (tmp_path / "out.ics").read_bytes() == "BEGIN:VCALENDAR\r\né\r\n".encode()
    file.write_bytes(b"x" * ((1 << 20) + 1))
    assert (await run("incidents", "import", str(file)))[0] == 2
    file.write_bytes(b"\xff\xfe")
    code, _, err = await run("incidents", "import", str(file))
    assert code == 2
    assert "utf-8" in err


async def test_words_of_operators_events_and_facilities(server, run):
    server.on("SetResourceStatus", resource("cpu", "DOWN", current={"reason": "I say so"}))
    change = status_pb2.Event(
        id="e1",
        resource_id="cpu",
        previous_status="RESOURCE_STATUS_UP",
        status="RESOURCE_STATUS_DOWN",
        occur_time=time(1),
        reason="no answer",
    )
    server.on("ListEvents", pb.ListEventsResponse(events=[change]))
    old = pb.PeerFacility(name="far", error="gone", heard_time=time(0), overview=pb.FacilityOverview())
    server.on("ListFacilities", pb.ListFacilitiesResponse(facilities=[pb.PeerFacility(name="f", reachable=True), old]))
    assert (await run("status", "set", "cpu", "down", "--reason", "I say so"))[1] == "cpu  down  I say so\n"
    await run("status", "set", "cpu", "auto")
    assert [request.status for request in server.requests("SetResourceStatus")] == [3, 0]
    _, out, _ = await run("status", "events", "cpu", "--from", "-1d")
    assert "2030-01-01 01:00:00  cpu       up → down  -         no answer" in out
    _, out, _ = await run("status", "facilities")
    assert "does not answer" in out.splitlines()[2]
    assert "gone" in out.splitlines()[2]


@pytest.mark.parametrize(
    "words",
    [
        ["status", "check", "cpu", "--from", "2030-01-01T08:00"],
        ["outages", "-r", "cpu", "--to", "2030-01-01"],
        ["incidents", "plan", "x", "-r", "cpu", "--from", "2030-01-01 08:00"],
        ["incidents", "resolve", "i1", "--at", "2030-01-01T08:00:00"],
        ["incidents", "list", "--at", "2030-01-01T08:00"],
    ],
)
async def test_a_time_without_a_zone_is_refused(server, run, words):
    code, _, err = await run(*words)
    assert code == 2
    assert "has no time zone: say 2026-01-31T12:00Z" in err
    assert server.calls == []


def test_times():
    now = datetime.now(UTC)
    assert WHEN.convert("2030-01-01T08:00+01:00", None, None) == datetime(2030, 1, 1, 7, tzinfo=UTC)
    assert abs(WHEN.convert("now", None, None) - now) < timedelta(minutes=1)
    assert abs(WHEN.convert("+1d2h", None, None) - now - timedelta(hours=26)) < timedelta(minutes=1)
    assert abs(WHEN.convert("-90m", None, None) - now + timedelta(minutes=90)) < timedelta(minutes=1)
    for wrong in ("soon", "2h", "+", "+2y", "2030-13-01T00:00Z", f"+{'9' * 30}d"):
        with pytest.raises(click.BadParameter, match="is no time"):
            WHEN.convert(wrong, None, None)


# ------------------------------------------------------------------------------------------------------------ watching


def told(kind: str, revision: int, *subjects: Any, caught_up: bool = False) -> pb.WatchStatusResponse:
    changes = []
    for each in subjects:
        field = type(each).__name__.lower()
        changes.append(pb.StatusChange(type=f"TYPE_{kind}", revision=revision, **{field: each}))
    return pb.WatchStatusResponse(changes=changes, revision=revision, caught_up=caught_up)


def stream(*entries: Any, stay: bool = True) -> Callable[[Any], AsyncIterator[Any]]:
    async def tell(_: Any) -> AsyncIterator[Any]:
        for entry in entries:
            if isinstance(entry, Exception):
                raise entry
            yield entry
        if stay:
            await asyncio.Event().wait()

    return tell


END = Failure(grpc.StatusCode.PERMISSION_DENIED, "enough")


async def test_watch_prints_each_change(server, run):
    change = status_pb2.Event(
        id="e1",
        resource_id="cpu",
        previous_status="RESOURCE_STATUS_UP",
        status="RESOURCE_STATUS_DOWN",
        occur_time=time(1),
        reason="no answer",
    )
    site = status_pb2.Site(id="hall", update_time=time(1))
    entries = [
        told("SNAPSHOT", 1, resource("cpu"), caught_up=True),
        told("UPDATED", 2, resource("cpu", "DOWN", update_time=time(1)), change, incident(update_time=time(1)), site),
        told("DELETED", 3, resource("gpu")),
        END,
    ]
    entries[1].changes[0].resource.revision = 2
    server.on("WatchStatus", stream(*entries))
    code, out, err = await run("status", "watch", "cpu")
    assert (code, "enough" in err) == (77, True)
    assert [line[10:] for line in out.splitlines()] == [
        "resource  cpu  up",
        "resource  cpu  down",
        "event     cpu  up → down  no answer",
        "incident  i1  pending  down  2030-01-01 08:00:00 to 2030-01-01 10:00:00  Cooling  (cpu)",
        "site      hall  updated",
        "resource  gpu  is no longer part of the facility",
    ]
    server.on("WatchStatus", stream(*entries))
    _, out, _ = await run("status", "watch", "--json")
    assert [json.loads(line)["type"] for line in out.splitlines()[:2]] == ["TYPE_SNAPSHOT", "TYPE_UPDATED"]


async def on_a_terminal(server: ScriptedServer, words: tuple[str, ...], wanted: str) -> str:
    """Runs the command on a terminal until it has shown what is wanted."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "OPENFACILITY_ADDRESS": server.address, "TERM": "xterm", "COLUMNS": "120"}
    process = await asyncio.create_subprocess_exec(
        *COMMAND, *words, env=environment, stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    os.set_blocking(ours, False)
    shown = b""
    try:
        async with asyncio.timeout(30):
            while wanted.encode() not in shown:
                try:
                    shown += os.read(ours, 65536)
                except BlockingIOError:
                    await asyncio.sleep(0.02)
                except OSError:  # It has ended.
                    pytest.fail(f"nothing of the kind was shown:\n{shown.decode(errors='replace')}")
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()
        os.close(ours)
    return shown.decode(errors="replace")


async def test_watch_is_a_picture_on_a_terminal(server):
    down = resource("cpu", "DOWN", current={"reason": "No power"})
    server.on("WatchStatus", stream(told("SNAPSHOT", 1, resource("gpu"), down, incident(), caught_up=True)))
    shown = await on_a_terminal(server, ("status", "watch"), "Cooling")
    assert "No power" in shown
    assert "RESOURCE" in shown


async def test_several_facilities_are_a_picture_on_a_terminal(server):
    down = resource("cpu", "DOWN", current={"reason": "No power"})
    server.on("WatchStatus", stream(told("SNAPSHOT", 1, resource("gpu"), down, incident(), caught_up=True)))
    words = ("status", "--facility", f"here={server.address}", "--facility", "nobody=127.0.0.1:1")
    shown = await on_a_terminal(server, words, "never heard of")
    assert "FACILITY" in shown


# ---------------------------------------------------------------------------------------------------------- federation


async def test_all_facilities_once(server, run, monkeypatch):
    server.on("WatchStatus", stream(told("SNAPSHOT", 1, resource("cpu", "DOWN"), incident(), caught_up=True)))
    facilities = ("--facility", f"here={server.address}", "--facility", "nobody=127.0.0.1:1")
    monkeypatch.setattr(_federation, "_PATIENCE", 20.0)
    code, out, _ = await run("status", *facilities, "--once")
    assert code == 69
    lines = [line.split() for line in out.splitlines()]
    assert lines[1] == ["here", "1", "down", "answers"]
    assert lines[2][:9] == ["nobody", "no", "resources", "does", "not", "answer", "(never", "heard", "of):"]
    assert ["here", "cpu", "down"] in lines
    code, out, _ = await run("status", *facilities[:2], "--once", "--json")
    assert code == 0
    found = [json.loads(line) for line in out.splitlines()]
    assert [each["facility"] for each in found] == ["here"] * 3
    assert found[0]["reachable"] is True
    assert found[1]["resource"]["id"] == "cpu"
    assert found[2]["incident"]["id"] == "i1"


async def test_all_profiles_each_with_its_own_token(server, run, monkeypatch):
    other = ScriptedServer()
    await other.start()
    try:
        for each in (server, other):
            each.on("WatchStatus", stream(told("SNAPSHOT", 1, resource("cpu"), caught_up=True)))
        for name, key, value in (
            ("one", "address", server.address),
            ("one", "token", "token-of-one"),
            ("two", "address", other.address),
        ):
            await run("config", "set", "--profile", name, key, value)
        monkeypatch.setenv("OPENFACILITY_TOKEN", "for-somebody-else")
        code, out, _ = await run("status", "--all", "--once")
        assert code == 0
        assert [line.split()[0] for line in out.splitlines()[1:3]] == ["one", "two"]
        assert server.calls[0].metadata["authorization"] == "Bearer token-of-one"
        assert "authorization" not in other.calls[0].metadata
    finally:
        await other.stop()


async def test_without_any_facility(run):
    code, _, err = await run("status", "--all")
    assert code == 2
    assert "there are no facilities" in err


async def test_a_facility_that_goes_away_is_named_and_comes_back(server, monkeypatch):
    other = ScriptedServer()
    await other.start()
    for each in (server, other):
        each.on("WatchStatus", stream(told("SNAPSHOT", 1, resource("cpu"), caught_up=True)))
    words = ("status", "--facility", f"here={server.address}", "--facility", f"there={other.address}")
    process = await asyncio.create_subprocess_exec(
        *COMMAND, "--json", *words, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )

    async def contact(reachable: bool, names: set[str]) -> list[dict[str, Any]]:
        """The next lines that say whether these answer."""
        found = []
        assert process.stdout is not None
        while {each["facility"] for each in found} != names:
            line = json.loads(await asyncio.wait_for(process.stdout.readline(), 30))
            if line.get("reachable") is reachable:
                found.append(line)
        return found

    try:
        await contact(True, {"here", "there"})
        await other.kill()
        [gone] = await contact(False, {"there"})
        assert gone["age_seconds"] >= 0
        assert "cannot be reached" in gone["error"]
        await other.start()
        await contact(True, {"there"})
    finally:
        process.terminate()
        await process.communicate()
        await other.stop()


def test_help_of_every_command():
    runner = CliRunner()
    groups = {
        "status": ["watch", "check", "set", "facilities", "events"],
        "incidents": [
            *("list", "show", "declare", "plan", "update", "extend", "resolve", "cancel", "note", "import", "export"),
        ],
        "outages": [""],
    }
    for group, commands in groups.items():
        for command in commands:
            result = runner.invoke(cli, [group, *([command] if command else []), "--help"])
            assert result.exit_code == 0, result.output
