"""WatchStatus: what is, then every change, in order, each once; and what a changed description does to it."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from openfacility.status.v1 import status_pb2 as pb
from openfacility.status.v1 import status_service_pb2 as rpc

from tests.support.calls import refused
from tests.support.server import Server
from tests.support.status import DEGRADED, DOWN, OPEN, UP, Brief, StatusCaller, brief, described, when, write

Make = Callable[[str], StatusCaller]
SNAPSHOT, CREATED, UPDATED, DELETED = (
    rpc.StatusChange.TYPE_SNAPSHOT,
    rpc.StatusChange.TYPE_CREATED,
    rpc.StatusChange.TYPE_UPDATED,
    rpc.StatusChange.TYPE_DELETED,
)


@pytest.fixture
def olga(status: Make) -> StatusCaller:
    return status("olga")


@pytest.fixture
async def pair(olga: StatusCaller) -> tuple[str, str]:
    """A resource and one that depends on it."""
    for resource in await olga.resources():
        if resource.depends_on:
            return resource.depends_on[0], resource.id
    pytest.skip("needs a facility with a resource that depends on another")


async def test_first_what_is_then_the_changes(status: Make, olga: StatusCaller, pair: tuple[str, str]) -> None:
    coming = await olga.plan(pair[0])
    over = await olga.resolve(await olga.declare(pair[0]))
    async with status("").watch() as watch:
        snapshot = await watch.caught_up()
        assert {change.type for change in snapshot} == {SNAPSHOT}
        shown = {one.incident.id: one.incident for one in snapshot if one.WhichOneof("subject") == "incident"}
        assert shown[coming.id] == coming
        assert over.id not in shown
        assert set(shown) == set(await olga.incident_ids(resolutions=OPEN))
        resources = [one.resource for one in snapshot if one.WhichOneof("subject") == "resource"]
        assert resources == await olga.resources()
        assert {response.revision for response in watch.responses if response.changes} == {0}
        assert watch.responses[-1].revision >= max(one.revision for one in snapshot)
        assert sum(response.caught_up for response in watch.responses) == 1
        incident = await olga.declare(pair[0])
        changes = await watch.reached(incident.revision)
        made = [one for one in changes if one.type != SNAPSHOT]
        # All that was done together is told together.
        assert {one.revision for one in made} == {incident.revision}
        [last] = [response for response in watch.responses if any(one.type != SNAPSHOT for one in response.changes)]
        assert list(last.changes) == made
        kinds = {(one.WhichOneof("subject"), one.type) for one in made}
        assert kinds == {("incident", CREATED), ("incident", UPDATED), ("resource", UPDATED), ("event", CREATED)}
        incidents = [one.incident for one in made if one.WhichOneof("subject") == "incident"]
        assert incidents[-1] == incident
        for resource_id in pair:
            [resource] = [one.resource for one in made if one.resource.id == resource_id]
            assert resource == await olga.resource(resource_id)
            [event] = [one.event for one in made if one.event.resource_id == resource_id]
            assert (event.previous_status, event.status, event.incident_id) == (UP, DOWN, incident.id)


async def test_resuming_is_the_same_from_anywhere(olga: StatusCaller, pair: tuple[str, str]) -> None:
    start = await olga.revision()
    incident = await olga.declare(pair[0])
    await olga.note(incident, "looked")
    await olga.say(pair[1], DEGRADED)
    await olga.resolve(await olga.incident(incident.id))
    end = await olga.revision()
    async with olga.watch(after_revision=start) as watch:
        whole = [brief(change) for change in await watch.reached(end)]
    assert len({entry[0] for entry in whole}) >= 3
    for revision in sorted({start, end, *(entry[0] for entry in whole)}):
        async with olga.watch(after_revision=revision) as watch:
            rest = [brief(change) for change in await watch.reached(end)]
            assert [entry for entry in rest if entry[0] <= end] == [entry for entry in whole if entry[0] > revision]


async def test_only_changes_from_now_on(olga: StatusCaller, pair: tuple[str, str]) -> None:
    async with olga.watch(skip_snapshot=True) as watch:
        assert await watch.caught_up() == []
        incident = await olga.plan(pair[0])
        assert (await watch.change()).incident == incident


async def test_an_idle_watch_gets_bookmarks(status: Make) -> None:
    async with status("").watch(skip_snapshot=True) as watch:
        await watch.caught_up()
        while (await watch.next()).changes:
            pass
        assert watch.responses[-1].revision > 0
        assert not watch.responses[-1].caught_up


async def test_only_some_resources(own_server, connect_status, tmp_path: Path) -> None:
    parts = [{"id": f"n{number:03}", "depends_on": ["root"]} for number in range(120)]
    path = write(tmp_path / "facility.yaml", described({"id": "root"}, {"id": "alone"}, *parts))
    server: Server = own_server(status={"description": str(path)})
    olga: StatusCaller = connect_status(server, "olga")
    async with olga.watch(resource_ids=["n007"]) as narrow, olga.watch(resource_ids=["alone", "n008"]) as other:
        assert [change.resource.id for change in await narrow.caught_up()] == ["n007"]
        assert [change.resource.id for change in await other.caught_up()] == ["alone", "n008"]
        # It concerns more than tags are kept for.
        wide = await olga.declare("root")
        far = await olga.declare("alone")
        near = await olga.declare("n007", status=DEGRADED)
        await olga.resolve(wide)
        end = await olga.revision()
        seen = [brief(change) for change in await narrow.reached(end) if change.type != SNAPSHOT]
        assert {entry[2] for entry in seen if entry[1] == "incident"} == {wide.id, near.id}
        assert {entry[2] for entry in seen if entry[1] == "resource"} == {"n007"}
        assert [entry[3] for entry in seen if entry[1] == "resource"] == [DOWN, DEGRADED]
        assert {c.event.resource_id for c in narrow.changes if c.WhichOneof("subject") == "event"} == {"n007"}
        seen = [brief(change) for change in await other.reached(end) if change.type != SNAPSHOT]
        assert {entry[2] for entry in seen if entry[1] == "incident"} == {wide.id, far.id}
        assert {entry[2] for entry in seen if entry[1] == "resource"} == {"alone", "n008"}
    # The snapshot is filtered by impact too.
    async with olga.watch(resource_ids=["n009"]) as watch:
        snapshot = await watch.caught_up()
        assert [change.resource.id or change.incident.id for change in snapshot] == ["n009"]
    async with olga.watch(resource_ids=["n007"]) as watch:
        assert {change.resource.id or change.incident.id for change in await watch.caught_up()} == {"n007", near.id}


async def test_revisions_out_of_range(status: Make) -> None:
    anyone = status("")
    with refused("OUT_OF_RANGE", "REVISION_OUT_OF_RANGE") as error:
        async with anyone.watch(after_revision=1 << 50) as watch:
            await watch.next()
    assert int(error.metadata["current_revision"]) >= await anyone.revision()


async def test_many_watches_while_much_changes(olga: StatusCaller, pair: tuple[str, str]) -> None:
    start = await olga.revision()

    async def change(number: int) -> None:
        incident = await olga.declare(pair[number % 2], status=DOWN if number % 3 else DEGRADED)
        await olga.note(incident, "n")
        await olga.resolve(await olga.incident(incident.id))

    async def follow(fields: dict[str, Any]) -> tuple[list[Brief], list[Brief]]:
        """Returns what was in the snapshot, and the changes after it."""
        async with olga.watch(**fields) as watch:
            changes = await watch.reached(await done)
            shown = [brief(one) for one in changes if one.type == SNAPSHOT]
            return shown, [brief(one) for one in changes if one.type != SNAPSHOT and one.revision <= await done]

    done: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    followers = [asyncio.create_task(follow({"after_revision": start})) for _ in range(3)]
    followers += [asyncio.create_task(follow({"resource_ids": [pair[1]], "after_revision": start})) for _ in range(2)]
    snapshots = []
    for number in range(12):
        snapshots.append(asyncio.create_task(follow({})))
        await change(number)
    done.set_result(await olga.revision())
    first, *others = [(await task)[1] for task in followers]
    assert others[:2] == [first, first]
    assert others[2] == others[3]
    assert others[2] == [entry for entry in first if entry in set(others[2])]
    for task in snapshots:
        shown, late = await task
        assert late
        # What the snapshot showed already, as it was read after its revision, does not come again; all else does.
        known = {(kind, id_): revision for revision, kind, id_, _ in shown}
        rest = [entry for entry in first if entry[0] >= late[0][0]]
        assert late == [entry for entry in rest if entry[0] > known.get((entry[1], entry[2]), 0)]


# The description, read again.


def _places(*resources: dict[str, Any], **facility: Any) -> dict[str, Any]:
    return described(*resources, sites=["here", "there"], **facility)


def _at(id_: str, site: str = "here", **more: Any) -> dict[str, Any]:
    return {"id": id_, "site": site, **more}


async def test_a_changed_description(own_server, connect_status, tmp_path: Path) -> None:
    path = write(tmp_path / "facility.yaml", _places(_at("a"), _at("b", depends_on=["a"]), _at("c"), name="One"))
    server: Server = own_server(status={"description": str(path)})
    olga: StatusCaller = connect_status(server, "olga")
    await olga.say("a", DEGRADED, reason="slow")
    incident = await olga.declare("c")
    before = {one.id: one for one in await olga.resources()}
    async with olga.watch(skip_snapshot=True) as watch:
        await watch.caught_up()
        write(
            path,
            _places(_at("a"), _at("b", depends_on=["a", "c"], name="Bee"), _at("d", "there"), _at("c"), name="Two"),
        )
        server.signal(signal.SIGHUP)
        server.wait_line(lambda line: line.get("event") == "the description was read again")
        changes = await watch.reached(await olga.revision())
    found = [(change.type, change.WhichOneof("subject"), _id(change)) for change in changes]
    assert (CREATED, "resource", "d") in found
    assert (UPDATED, "resource", "b") in found
    assert (UPDATED, "facility", "test") in found
    assert (UPDATED, "site", "there") in found
    assert (UPDATED, "site", "here") not in found
    # What b needs now is down.
    assert (UPDATED, "incident", incident.id) in found
    assert not [entry for entry in found if entry[2] in ("a", "c")]
    after = {one.id: one for one in await olga.resources()}
    assert (after["a"], after["c"]) == (before["a"], before["c"])
    assert (after["b"].name, after["b"].current.status) == ("Bee", DOWN)
    assert after["b"].current.incident_id == incident.id
    assert after["d"].current.status == UP
    assert (await olga.call("GetFacility")).name == "Two"
    assert list((await olga.incident(incident.id)).impacted_resource_ids) == ["b", "c"]
    with refused("ABORTED", "ETAG_MISMATCH"):
        await olga.resolve(incident)


def _id(change: rpc.StatusChange) -> str:
    return str(getattr(change, change.WhichOneof("subject") or "").id)


async def test_removed_from_the_description(own_server, connect_status, tmp_path: Path) -> None:
    path = write(tmp_path / "facility.yaml", _places(_at("a"), _at("b", "there", depends_on=["a"]), _at("c")))
    server: Server = own_server(status={"description": str(path)})
    olga: StatusCaller = connect_status(server, "olga")
    incident = await olga.declare("a", "c")
    history = await olga.events()
    async with olga.watch(skip_snapshot=True) as watch:
        await watch.caught_up()
        write(path, described(_at("c")))
        server.signal(signal.SIGHUP)
        server.wait_line(lambda line: line.get("event") == "the description was read again")
        changes = await watch.reached(await olga.revision())
    deleted = [(change.WhichOneof("subject"), _id(change)) for change in changes if change.type == DELETED]
    assert sorted(deleted) == [("resource", "a"), ("resource", "b"), ("site", "there")]
    assert await olga.resource_ids() == ["c"]
    with refused("NOT_FOUND", "NOT_FOUND"):
        await olga.resource("a")
    with refused("NOT_FOUND", "NOT_FOUND"):
        await olga.call("GetSite", site_id="there")
    # History stays, and what was declared for it can still be worked with.
    assert await olga.events() == history
    incident = await olga.incident(incident.id)
    assert list(incident.impacted_resource_ids) == ["a", "b", "c"]
    incident = await olga.update(incident, name="still")
    with refused("INVALID_ARGUMENT", field="incident.resource_ids[0]"):
        await olga.update(incident, resource_ids=["a", "c"])
    await olga.resolve(incident)
    assert (await olga.resource("c")).current.status == UP
    server.restart(kill=True)
    assert await connect_status(server).resource_ids() == ["c"]


@pytest.mark.parametrize(
    ("broken", "line", "words"),
    [
        (described({"id": "a", "depends_on": ["b"]}, {"id": "b", "depends_on": ["a"]}), 6, "circle"),
        (described({"id": "a"}, {"id": "a"}), 6, "twice"),
        (described({"id": "a", "depends_on": ["zz"]}), 7, "zz"),
        (described({"id": "a", "colour": "red"}), 6, "colour"),
    ],
    ids=["circle", "twice", "unknown dependency", "unknown key"],
)
async def test_a_wrong_description_changes_nothing(
    own_server, connect_status, tmp_path: Path, broken: dict[str, Any], line: int, words: str
) -> None:
    path = write(tmp_path / "facility.yaml", described({"id": "a"}, {"id": "b"}))
    server: Server = own_server(status={"description": str(path)})
    anyone: StatusCaller = connect_status(server)
    before = await anyone.world(), await anyone.call("GetFacility"), await anyone.revision()
    write(path, broken)
    server.signal(signal.SIGHUP)
    told = server.wait_line(lambda one: "the description is not taken" in one.get("event", ""))
    assert told["level"] == "error"
    assert words in told["event"]
    assert f"facility.yaml:{line}:" in told["event"]
    assert (await anyone.world(), await anyone.call("GetFacility"), await anyone.revision()) == before
    # And is put right.
    write(path, described({"id": "a"}, {"id": "b"}, {"id": "c"}))
    server.signal(signal.SIGHUP)
    server.wait_line(lambda one: one.get("event") == "the description was read again")
    assert await anyone.resource_ids() == ["a", "b", "c"]
    [entry] = [one for one in await anyone.resources() if one.id == "a"]
    assert when(entry.update_time) <= when((await anyone.resource("c")).update_time)


def test_the_kinds_of_subjects_are_all_known() -> None:
    fields = rpc.StatusChange.DESCRIPTOR.oneofs_by_name["subject"].fields
    assert [field.message_type for field in fields] == [
        kind.DESCRIPTOR for kind in (pb.Resource, pb.Incident, pb.Event, pb.Facility, pb.Site)
    ]
