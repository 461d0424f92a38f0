"""What the facility needs goes away and comes back: the engine, peers, the whole server, one server of two."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from openfacility.status.v1 import status_pb2 as pb
from openfacility.status.v1 import status_service_pb2 as rpc

from tests.engines.postgres import PostgresServer
from tests.faults.server_support import CHANNEL, DEADLINE, serving
from tests.faults.test_server_dependencies import NOT_SERVING, SERVING, HealthWatch
from tests.support.server import Server
from tests.support.status import (
    DEGRADED,
    DOWN,
    PLANNED,
    UNPLANNED,
    UP,
    StatusCaller,
    StatusWatch,
    ahead,
    brief,
    described,
    events_in_order,
    now,
    stamp,
    when,
    write,
)

PERIOD = 1.0
PROBED = {"status": {"probe": {"period": PERIOD, "deadline": 0.8}}}
COMPLETED = pb.RESOLUTION_COMPLETED


@contextlib.asynccontextmanager
async def connected(server: Server, name: str = "olga") -> AsyncIterator[StatusCaller]:
    """Gives a caller on a connection of its own."""
    async with grpc.aio.insecure_channel(server.address, CHANNEL) as channel:
        yield StatusCaller(channel, server.tokens.get(name), name)


async def probed(caller: StatusCaller, *resource_ids: str) -> None:
    """Returns when resources have been found to be up by their probes."""
    async with asyncio.timeout(DEADLINE), caller.watch() as watch:
        left = set(resource_ids)
        while left:
            change = await watch.change()
            current = change.resource.current
            if (current.status, current.source) == (UP, pb.STATUS_SOURCE_PROBE):
                left.discard(change.resource.id)


def moved(server: Server) -> tuple[Path, Path]:
    """The local engine's spool, and where it is when it is away: that is the engine killed."""
    spool = server.state / "jobs" / "local"
    return spool, spool.with_name("away")


# The engine.


async def test_the_engine_dies_and_comes_back(tmp_path: Path) -> None:
    # What depends on it follows; nothing else does.
    job = {"kind": "jobs", "resource": "local"}
    path = write(
        tmp_path / "facility.yaml",
        described({"id": "batch", "probe": job}, {"id": "portal", "depends_on": ["batch"]}, {"id": "tape"}),
    )
    overrides = {"status": {**PROBED["status"], "description": str(path)}}
    async with serving(overrides) as server, HealthWatch(server) as health, connected(server) as olga:
        await probed(olga, "batch")
        start = await olga.revision()
        async with olga.watch(after_revision=start) as watch:
            spool, away = moved(server)
            gone = now()
            spool.rename(away)
            incident = await watch.incident(lambda one: one.declared_by == "probe")
            known = now()
            [response] = [one for one in watch.responses if one.changes]
            assert {
                change.resource.id for change in response.changes if change.WhichOneof("subject") == "resource"
            } == {
                "batch",
                "portal",
            }
            await health.until(SERVING, NOT_SERVING)
            assert (incident.type, incident.status, incident.resolution) == (UNPLANNED, DOWN, pb.RESOLUTION_UNRESOLVED)
            assert list(incident.resource_ids) == ["batch"]
            assert list(incident.impacted_resource_ids) == ["batch", "portal"]
            assert gone <= when(incident.start_time) <= known
            batch, portal, tape = await olga.resources()
            assert (batch.current.status, batch.current.source) == (DOWN, pb.STATUS_SOURCE_PROBE)
            assert (batch.current.incident_id, batch.current.since) == (incident.id, incident.start_time)
            assert batch.current.reason
            assert (portal.current.status, portal.current.because_of_resource_id) == (DOWN, "batch")
            assert tape.current.status == UP
            assert incident in (await olga.call("GetFacilityOverview")).open_incidents
            answer = await olga.call("CheckAvailability", resource_id="portal")
            assert answer.availability == rpc.CheckAvailabilityResponse.AVAILABILITY_UNAVAILABLE
            back = now()
            away.rename(spool)
            ended = await watch.incident(lambda one: one.id == incident.id and one.resolution == COMPLETED)
            await health.until(SERVING, SERVING)
            assert back <= when(ended.end_time) <= now()
            assert ended.start_time == incident.start_time
            assert ended.notes[-1].author == "probe"
            end = await olga.revision()
            await watch.reached(end)
        # There and back, once each.
        events = await olga.events(**{"from": stamp(gone)})
        assert sorted(events_in_order(events)) == sorted(
            (resource_id, before, after, when(time))
            for resource_id in ("batch", "portal")
            for before, after, time in ((UP, DOWN, incident.start_time), (DOWN, UP, ended.end_time))
        )
        assert {event.incident_id for event in events} == {incident.id}
        assert len([one for one in watch.changes if one.WhichOneof("subject") == "event"]) == 4
        assert {(await olga.resource(one)).current.status for one in ("batch", "portal")} == {UP}
        found = await olga.call("FindOutages", resource_id="portal", start_time=stamp(gone))
        assert [outage.incident_id for outage in found.outages] == [incident.id]
        expected = when(ended.end_time) - when(incident.start_time)
        assert found.down.ToTimedelta() == expected


async def test_a_known_failure_is_one_incident_over_a_restart() -> None:
    async with serving(PROBED) as server:
        async with connected(server) as olga:
            await probed(olga, "local")
            spool, away = moved(server)
            spool.rename(away)
            spool.write_text("in the way")  # a restart does not put it there again
            down = await olga.until("local", DOWN)
        server.kill()
        server.start()
        async with connected(server) as olga, olga.watch() as watch:
            await watch.caught_up()
            assert (await olga.resource("local")).current == down.current
            spool.unlink()
            away.rename(spool)
            ended = await watch.incident(lambda one: one.resolution == COMPLETED)
            assert ended.id == down.current.incident_id
            assert ended.start_time == down.current.since
            assert (await olga.resource("local")).current.status == UP
            assert [one.id for one in await olga.incidents()] == [ended.id]
            assert [event.status for event in await olga.events(resource_ids=["local"])] == [UP, DOWN]


async def test_an_operators_word_goes_before_a_probe_until_it_expires() -> None:
    async with serving(PROBED) as server, connected(server) as first:
        await probed(first, "local")
        spool, away = moved(server)
        until = ahead(2.5 * PERIOD)
        said = await first.say("local", UP, reason="being tested", expire_time=until)
        assert (said.current.status, said.current.source) == (UP, pb.STATUS_SOURCE_OPERATOR)
        async with first.watch(after_revision=await first.revision()) as watch:
            spool.rename(away)
            spool.write_text("in the way")
            incident = await watch.incident(lambda one: one.declared_by == "probe")
            assert (await first.resource("local")).current == said.current
            server.kill()
            await passed(when(until))
            server.start()
        async with connected(server) as olga:
            down = await olga.until("local", DOWN)
            event = (await olga.events(resource_ids=["local"]))[0]
            assert (event.previous_status, event.status, event.occur_time) == (UP, DOWN, until)
            assert down.current.incident_id == incident.id
            spool.unlink()
            away.rename(spool)
            await olga.until("local", UP)


async def passed(moment: Any) -> None:
    """Returns when a moment has passed; the clock is the condition."""
    async with asyncio.timeout(DEADLINE):
        while now() <= moment:  # noqa: ASYNC110 -- nothing tells of it
            await asyncio.sleep(0.02)


async def test_a_resource_without_its_probe_is_not_down_for_ever(tmp_path: Path) -> None:
    probe = {"kind": "filesystem", "path": str(tmp_path / "missing")}
    path = write(tmp_path / "facility.yaml", described({"id": "disk", "probe": probe}, {"id": "gone", "probe": probe}))
    async with serving({"status": {**PROBED["status"], "description": str(path)}}) as server, connected(server) as olga:
        await olga.until("disk", DOWN)
        await olga.until("gone", DOWN)
        first, second = await olga.incidents()
        write(path, described({"id": "disk"}))
        async with olga.watch() as watch:
            server.signal(1)
            ended = {(await watch.incident(lambda one: one.resolution == COMPLETED)).id for _ in range(2)}
            assert ended == {first.id, second.id}
        assert (await olga.until("disk", UP)).current.source == pb.STATUS_SOURCE_UNSPECIFIED


# The clock.

DESCRIBED = described({"id": "root"}, {"id": "leaf", "depends_on": ["root"]}, {"id": "other"})


@pytest.mark.parametrize("how", ["up", "restarted", "killed over its start", "killed over all of it"])
async def test_maintenance_begins_and_ends_on_time(how: str, tmp_path: Path) -> None:
    path = write(tmp_path / "facility.yaml", DESCRIBED)
    async with serving({"status": {"description": str(path)}}) as server:
        async with connected(server) as olga:
            lead = 3 if how == "up" else 1.5
            start, end = ahead(lead), ahead(lead + 1)
            planned = await olga.plan("root", start_time=start, end_time=end)
            begun = await olga.revision()
            for resource_id in ("root", "leaf"):
                answer = await olga.call("CheckAvailability", resource_id=resource_id)
                assert answer.availability == rpc.CheckAvailabilityResponse.AVAILABILITY_UNAVAILABLE
                assert [one.id for one in answer.incidents] == [planned.id]
                assert answer.next_free.start_time == end
                assert (await olga.resource(resource_id)).current.status == UP
        if how == "restarted":
            server.restart()
        elif how != "up":
            server.kill()
            await passed(when(start if "start" in how else end))
            server.start()
        async with connected(server) as olga, olga.watch(after_revision=begun) as watch:
            changes = []
            while not any(one.incident.resolution == COMPLETED for one in changes):
                changes += (await watch.next()).changes
            over = await olga.incident(planned.id)
            assert (over.resolution, over.start_time, over.end_time) == (COMPLETED, start, end)
            moves = [one.incident.resolution for one in changes if one.WhichOneof("subject") == "incident"]
            assert moves == [pb.RESOLUTION_UNRESOLVED, COMPLETED]
            events = await olga.events()
            assert sorted(events_in_order(events)) == sorted(
                (resource_id, before, after, when(time))
                for resource_id in ("root", "leaf")
                for before, after, time in ((UP, DOWN, start), (DOWN, UP, end))
            )
            assert all(when(event.create_time) >= when(event.occur_time) for event in events)
            for resource in await olga.resources():
                assert resource.current.status == UP
                assert resource.id == "other" or resource.current.since == end
            found = await olga.call("FindOutages", resource_id="leaf", start_time=start)
            assert found.down.ToTimedelta() == when(end) - when(start)


async def test_what_overlapped_while_the_server_was_down_is_told_in_order(tmp_path: Path) -> None:
    path = write(tmp_path / "facility.yaml", DESCRIBED)
    async with serving({"status": {"description": str(path)}}) as server:
        async with connected(server) as olga:
            zero = now()
            at = {number: stamp(zero + (ahead_of(number))) for number in range(1, 6)}
            await olga.plan("root", status=DEGRADED, start_time=at[1], end_time=at[4])
            await olga.plan("leaf", start_time=at[2], end_time=at[3])
            await olga.say("other", DEGRADED, expire_time=at[3])
            await olga.plan("other", status=DEGRADED, start_time=at[2], end_time=at[5])
        server.kill()
        await passed(when(at[5]))
        server.start()
        async with connected(server) as olga:
            async with asyncio.timeout(DEADLINE), olga.watch(after_revision=0) as watch:
                while len([one for one in watch.changes if one.incident.resolution == COMPLETED]) < 3:
                    await watch.next()
            told = events_in_order(await olga.events())
            assert [entry[1:] for entry in told if entry[0] == "root"] == [
                (UP, DEGRADED, when(at[1])),
                (DEGRADED, UP, when(at[4])),
            ]
            assert [entry[1:] for entry in told if entry[0] == "leaf"] == [
                (UP, DEGRADED, when(at[1])),
                (DEGRADED, DOWN, when(at[2])),
                (DOWN, DEGRADED, when(at[3])),
                (DEGRADED, UP, when(at[4])),
            ]
            assert [entry[1:3] for entry in told if entry[0] == "other"] == [(UP, DEGRADED), (DEGRADED, UP)]
            assert [entry[3] for entry in told if entry[0] == "other"][1] == when(at[5])


def ahead_of(number: int) -> Any:
    """Times that are a little apart from each other and soon over."""
    return when(ahead(0.8 + 0.3 * number)) - now()


# Watching over kills.


async def test_a_watch_goes_on_over_kills(tmp_path: Path) -> None:
    path = write(tmp_path / "facility.yaml", DESCRIBED)
    async with serving({"status": {"description": str(path)}}) as server:
        revision, seen = 0, []
        async with connected(server) as olga:
            revision = start = await olga.revision()
        for number in range(3):
            async with connected(server) as olga, olga.watch(after_revision=revision) as watch:
                watch.revision = revision
                incident = await olga.declare("root", status=DEGRADED if number % 2 else DOWN)
                changes = await watch.reached(incident.revision)
                # Killed with changes on their way: some are seen, some are not.
                tasks = [asyncio.ensure_future(olga.note(incident, f"{number}")) for number in range(20)]
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                server.kill()
                await asyncio.gather(*tasks, return_exceptions=True)
                with contextlib.suppress(grpc.aio.AioRpcError, StopAsyncIteration):
                    while True:
                        changes += (await watch.next()).changes
                revision = watch.revision
                seen += [brief(change) for change in changes]
            server.start()
        async with connected(server) as olga:
            end = await olga.revision()
            async with olga.watch(after_revision=revision) as watch:
                seen += [brief(change) for change in await watch.reached(end)]
            async with olga.watch(after_revision=start) as watch:
                whole = [brief(change) for change in await watch.reached(end)]
        assert [entry for entry in seen if entry[0] <= end] == [entry for entry in whole if entry[0] <= end]
        assert len(whole) > 12


# Everything at once.


async def test_an_incident_on_ten_thousand_resources(tmp_path: Path) -> None:
    count = 10_000
    parts = [{"id": f"node-{number:05}", "depends_on": ["room"]} for number in range(count - 1)]
    path = write(tmp_path / "facility.yaml", described({"id": "room"}, *parts))
    async with serving({"status": {"description": str(path)}}) as server, connected(server) as olga:
        start = await olga.revision()
        begun, end = ahead(-60), None
        async with olga.watch(after_revision=start) as watch:
            incident = await olga.declare("room", start_time=begun)
            assert len(incident.impacted_resource_ids) == count
            await _all_of(watch, count, DOWN)
            ended = await olga.resolve(await olga.incident(incident.id))
            end = ended.end_time
            await _all_of(watch, count, UP)
        overview = await olga.call("GetFacilityOverview")
        assert (overview.counts.up, overview.counts.down) == (count, 0)
        # However many transactions it took: all of it happened at the same times.
        events = await olga.events(incident_id=incident.id)
        assert len(events) == 2 * count
        described_at = when((await olga.call("GetFacility")).update_time)
        assert {when(one.occur_time) for one in events if one.status == DOWN} == {when(begun)}
        assert {when(one.occur_time) for one in events if one.status == UP} == {when(end)}
        assert described_at > when(begun)
        named = await olga.plan(*(part["id"] for part in parts), start=3600)
        assert len(named.resource_ids) == count - 1
        draft = olga.draft("room", type=PLANNED, start_time=ahead(60), end_time=ahead(120))
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await olga.create(draft, recurrence=pb.Recurrence(rule="FREQ=DAILY;COUNT=366"))
        assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def _all_of(watch: StatusWatch, count: int, status: int) -> None:
    left = count
    async with asyncio.timeout(DEADLINE):
        while left:
            for change in (await watch.next()).changes:
                left -= change.WhichOneof("subject") == "event" and change.event.status == status


# Two servers, and peers.


@pytest.mark.postgres
async def test_two_servers_are_one_facility(postgres: PostgresServer, tmp_path: Path) -> None:
    probe = {"kind": "filesystem", "path": str(tmp_path / "disk")}
    (tmp_path / "disk").mkdir()
    path = write(
        tmp_path / "facility.yaml",
        described({"id": "disk", "probe": probe}, {"id": "leaf", "depends_on": ["disk"]}, {"id": "other"}),
    )
    overrides: dict[str, Any] = {
        "state": {"database": postgres.new_database()},
        "status": {**PROBED["status"], "description": str(path)},
        "jobs": {"resources": []},
    }
    async with (
        serving(overrides) as one,
        serving(overrides) as two,
        connected(one) as first,
        connected(two) as second,
    ):
        await probed(second, "disk")
        start = await first.revision()
        planned = await second.plan("other", start=1, length=1)
        (tmp_path / "disk").rename(tmp_path / "away")
        assert (await second.until("disk", DOWN)).current == (await first.until("disk", DOWN)).current
        await first.until_incident(planned.id)
        (tmp_path / "away").rename(tmp_path / "disk")
        await second.until("disk", UP)
        await first.until("leaf", UP)
        end = await first.revision()
        told = []
        for caller in (first, second):
            async with caller.watch(after_revision=start) as watch:
                told.append([brief(change) for change in await watch.reached(end)])
        assert told[0] == told[1]
        assert await first.world() == await second.world()
        # Each once: a probe's incident, a planned one, and two events for each resource.
        incidents = {one.id: one for one in await first.incidents()}
        assert sorted(one.declared_by for one in incidents.values()) == ["olga", "probe"]
        assert [entry[3] for entry in told[0] if entry[2] == planned.id] == [
            pb.RESOLUTION_PENDING,
            pb.RESOLUTION_UNRESOLVED,
            COMPLETED,
        ]
        events = await first.events(**{"from": planned.create_time})
        assert sorted((event.resource_id, event.status) for event in events) == sorted(
            (resource_id, status) for resource_id in ("disk", "leaf", "other") for status in (UP, DOWN)
        )
        # Whoever probes: when it is killed the other one does.
        one.kill()
        (tmp_path / "disk").rename(tmp_path / "away")
        assert (await second.until("disk", DOWN)).current.source == pb.STATUS_SOURCE_PROBE


async def test_peers() -> None:
    async with serving({"facility": {"id": "north", "name": "North"}}, start=False) as north:
        north.start()
        peers = [{"name": "up-north", "address": north.address, "tls": False}]
        south_config = {
            "facility": {"id": "south", "name": "South"},
            "status": {"peers": [*peers, {"name": "nobody", "address": "127.0.0.1:1", "tls": False}]},
        }
        async with serving(south_config) as south, connected(south, "") as anyone:
            reached = await _peer(anyone, lambda peer: peer.reachable)
            assert reached.overview.facility.id == "north"
            assert reached.address == north.address
            assert when(reached.heard_time) <= now()
            facilities = (await anyone.call("ListFacilities")).facilities
            assert [one.name for one in facilities] == ["south", "nobody", "up-north"]
            assert (facilities[1].reachable, facilities[1].HasField("overview")) == (False, False)
            assert not facilities[1].HasField("heard_time")
            assert facilities[1].error
            async with connected(north) as olga:
                incident = await olga.declare("local", status=DEGRADED)
                await _peer(anyone, lambda peer: peer.overview.counts.degraded == 1)
                north.kill()
                killed = now()
                lost = await _peer(anyone, lambda peer: not peer.reachable)
                # What was last heard of it stays, with its age.
                assert lost.overview.open_incidents[0].id == incident.id
                assert when(lost.heard_time) <= killed
                assert lost.error
            north.start()
            back = await _peer(anyone, lambda peer: peer.reachable)
            assert when(back.heard_time) > killed
            assert not back.error


async def _peer(caller: StatusCaller, wanted: Any) -> rpc.PeerFacility:
    async with asyncio.timeout(DEADLINE):
        while True:
            for peer in (await caller.call("ListFacilities")).facilities:
                if peer.name == "up-north" and wanted(peer):
                    return peer
            await asyncio.sleep(0.05)
