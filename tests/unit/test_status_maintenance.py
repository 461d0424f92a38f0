"""Reserved maintenance as planned incidents, and outages of the past, on real databases with a clock of our own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from openfacility_server.ids import IdMaker
from openfacility_server.jobs.engines import Reservation
from openfacility_server.jobs.engines.cluster import ClusterView, Node, NodeState, Queue, QueueState
from openfacility_server.status.board import Board
from openfacility_server.status.convert import Describer, StatusCodec
from openfacility_server.status.description import Description
from openfacility_server.status.graph import BATCH_SYSTEM, PROBE
from openfacility_server.status.keeper import Keeper
from openfacility_server.status.maintenance import Maintenance, wanted
from openfacility_server.status.migrations import MIGRATIONS
from openfacility_server.status.model import Facility, Incident, IncidentType, Resolution, Resource, Site, Status
from openfacility_server.status.outages import History, Past
from openfacility_server.status.probes import JobsTarget, ProbeResult
from openfacility_server.status.store import StatusStore
from openfacility_server.storage import Storage

from tests.engines.postgres import Database

START = datetime(2026, 11, 22, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
VIEW = ClusterView(
    tuple(Node(f"n{number}", NodeState.IDLE, ("debug", "all") if number == 1 else ("all",)) for number in range(1, 5)),
    (Queue("all", QueueState.OPEN), Queue("debug", QueueState.OPEN)),
    START,
)
TIED = [("cluster", JobsTarget("c")), ("debug", JobsTarget("c", queue="debug"))]
RESOURCES = (Resource("cluster", "The cluster"), Resource("debug"), Resource("portal", depends_on=("cluster",)))


class World:
    """A Status domain whose time passes when a test says so."""

    def __init__(self, storage_: Storage) -> None:
        self.now = START
        self.storage = storage_
        new_id = IdMaker()
        self.store = StatusStore(StatusCodec())
        self.board = Board(self.store, new_id, lambda: self.now)
        self.keeper = Keeper(storage_, self.store, self.board, None, Describer(), new_id)  # type: ignore[arg-type]
        self._maintenance = Maintenance(self.store, self.board, new_id)
        self._history = History(self.store, self.board, new_id)

    async def describe(self) -> None:
        site = Site("here")
        resources = tuple(replace(one, site_id="here") for one in RESOURCES)
        await self.keeper.describe(Description(Facility("f"), (site,), resources, (), "", START))

    async def reserve(self, *reservations: Reservation) -> None:
        found = wanted("c", VIEW, reservations, TIED, self.now)
        await self.storage.write(lambda tx: self._maintenance.follow(tx, "c", found))

    async def take(self, *spans: Past) -> int:
        return await self.storage.write(lambda tx: self._history.take(tx, spans))

    async def incidents(self) -> list[Incident]:
        """All, oldest start first."""
        found = await self.storage.read(lambda tx: self.store.find_incidents(tx, [], soonest=True))
        return sorted(found, key=lambda one: (one.start_time, one.status, one.id))

    async def statuses(self) -> dict[str, Status]:
        def read(tx: Any) -> dict[str, Status]:
            current = {one.id: self.store.current(tx, one.id) for one in RESOURCES}
            return {name: one.status for name, one in current.items() if one}

        await self.storage.write(self.board.settle)
        return await self.storage.read(read)

    async def operator_changes(self, incident: Incident, **values: Any) -> None:
        def change(tx: Any) -> None:
            self.store.put_incident(tx, replace(incident, revision=tx.revision(), **values), incident)
            key = f"{incident.id}-{incident.revision}"
            self.store.audit(tx, key, self.now, ("olga", "x", ""), incident.id, "changed")

        await self.storage.write(change)


@pytest.fixture
async def world(database: Database) -> AsyncIterator[World]:
    opened = Storage.open(database.url)
    await opened.start({"status": MIGRATIONS})
    made = World(opened)
    await made.describe()
    yield made
    await opened.close()


def reservation(name: str = "m", start: float = 1, hours: float = 2, nodes: str = "n1 n2 n3 n4") -> Reservation:
    names = tuple(nodes.split())
    begin = START + start * HOUR
    return Reservation(name, begin, begin + hours * HOUR, start <= 0, node_names=names, maintenance=True)


async def test_maintenance_comes_goes_on_and_ends(world: World) -> None:
    await world.reserve(reservation())
    (planned,) = await world.incidents()
    assert (planned.type, planned.status, planned.resolution) == (IncidentType.PLANNED, Status.DOWN, Resolution.PENDING)
    assert (planned.name, planned.description) == ("Maintenance: m", "4 nodes in maintenance: n[1-4]")
    assert (planned.start_time, planned.end_time) == (START + HOUR, START + 3 * HOUR)
    assert (planned.resource_ids, planned.declared_by) == (("cluster", "debug"), BATCH_SYSTEM)
    assert planned.impacted_resource_ids == ("cluster", "debug", "portal")
    assert await world.statuses() == dict.fromkeys(("cluster", "debug", "portal"), Status.UP)
    await world.reserve(reservation())
    assert await world.incidents() == [planned], "what is as it was is not touched"
    world.now += 2 * HOUR
    assert await world.statuses() == dict.fromkeys(("cluster", "debug", "portal"), Status.DOWN)
    await world.reserve(reservation(hours=4))
    (extended,) = await world.incidents()
    assert (extended.id, extended.resolution) == (planned.id, Resolution.EXTENDED)
    assert extended.end_time == START + 5 * HOUR
    world.now += 4 * HOUR
    await world.reserve()
    (ended,) = await world.incidents()
    assert (ended.id, ended.resolution, ended.end_time) == (planned.id, Resolution.COMPLETED, START + 5 * HOUR)
    assert set((await world.statuses()).values()) == {Status.UP}


async def test_part_of_a_cluster_and_all_of_a_queue(world: World) -> None:
    await world.reserve(reservation(nodes="n1 elsewhere"), reservation("other", nodes="elsewhere"))
    degraded, down = await world.incidents()
    assert (degraded.status, degraded.resource_ids) == (Status.DEGRADED, ("cluster",))
    assert (down.status, down.resource_ids) == (Status.DOWN, ("debug",))
    assert degraded.calendar_uid != down.calendar_uid
    world.now += 2 * HOUR
    assert await world.statuses() == {
        "cluster": Status.DEGRADED,
        "debug": Status.DOWN,
        "portal": Status.DEGRADED,
    }
    await world.reserve()
    assert {one.resolution for one in await world.incidents()} == {Resolution.COMPLETED}
    assert {one.end_time for one in await world.incidents()} == {world.now}


async def test_what_is_moved_is_moved_and_what_is_removed_is_called_off(world: World) -> None:
    await world.reserve(reservation(), reservation("other", start=10))
    first, second = await world.incidents()
    await world.reserve(reservation(start=5), reservation("other", start=10, nodes="n2"))
    moved, called_off, smaller = await world.incidents()
    assert (moved.id, moved.start_time) == (first.id, START + 5 * HOUR)
    assert moved.calendar_uid != first.calendar_uid
    # What it would make of the cluster is another thing now.
    assert {one.resolution for one in (called_off, smaller)} == {Resolution.CANCELLED, Resolution.PENDING}
    assert second.id in (called_off.id, smaller.id)
    await world.reserve()
    over = await world.incidents()
    assert {one.resolution for one in over} == {Resolution.CANCELLED}
    assert {one.notes[-1].text for one in over} == {"the reservation was removed"}
    world.now += 20 * HOUR
    assert set((await world.statuses()).values()) == {Status.UP}


async def test_what_is_reserved_again_is_planned_again(world: World) -> None:
    await world.reserve(reservation())
    await world.reserve()
    await world.reserve(reservation())
    found = await world.incidents()
    assert [one.resolution for one in found] == [Resolution.CANCELLED, Resolution.PENDING]
    assert found[0].calendar_uid == found[1].calendar_uid
    await world.reserve(reservation())
    assert len(await world.incidents()) == 2


async def test_what_repeats_is_an_incident_each_time(world: World) -> None:
    for day in range(3):
        await world.reserve(reservation(start=24 * day + 1))
        world.now += timedelta(days=1)
    await world.statuses()
    found = await world.incidents()
    assert [one.start_time - START for one in found] == [HOUR, 25 * HOUR, 49 * HOUR]
    assert {one.resolution for one in found} == {Resolution.COMPLETED}


async def test_an_extension_that_nobody_saw_goes_on_where_it_ended(world: World) -> None:
    await world.reserve(reservation())
    # No server ran until after what was planned to be its end.
    world.now += 4 * HOUR
    assert set((await world.statuses()).values()) == {Status.UP}
    await world.reserve(reservation(hours=8))
    first, second = await world.incidents()
    assert (first.resolution, first.end_time) == (Resolution.COMPLETED, START + 3 * HOUR)
    assert (second.start_time, second.end_time) == (START + 3 * HOUR, START + 9 * HOUR)
    assert set((await world.statuses()).values()) == {Status.DOWN}
    await world.reserve(reservation(hours=8))
    assert len(await world.incidents()) == 2


async def test_an_operator_knows_better(world: World) -> None:
    await world.reserve(reservation())
    (planned,) = await world.incidents()
    await world.operator_changes(planned, description="New cooling")
    await world.reserve(reservation(start=2))
    (moved,) = await world.incidents()
    assert (moved.description, moved.start_time) == ("New cooling", START + 2 * HOUR)
    await world.operator_changes(moved, resolution=Resolution.CANCELLED)
    await world.reserve(reservation(start=2))
    assert [one.resolution for one in await world.incidents()] == [Resolution.CANCELLED]


@pytest.mark.parametrize(
    "other",
    [
        lambda one: replace(one, maintenance=False),
        lambda one: replace(one, end_time=START),
        lambda one: replace(one, node_names=()),
        lambda one: replace(one, start_time=START + timedelta(days=9000), end_time=START + timedelta(days=9001)),
    ],
)
async def test_what_is_no_maintenance_to_come(world: World, other: Callable[[Reservation], Reservation]) -> None:
    await world.reserve(other(reservation()))
    assert await world.incidents() == []


async def test_names_that_were_made_of_users_are_told_to_nobody(world: World) -> None:
    await world.reserve(reservation("alice_17"))
    (planned,) = await world.incidents()
    assert planned.name == "Maintenance"
    assert "alice" not in repr(planned)


async def test_outages_are_taken_once_and_not_beside_what_was_seen(world: World) -> None:
    def span(start: float, end: float, resource_id: str = "cluster") -> Past:
        return Past(
            resource_id, Status.DEGRADED, START - start * HOUR, START - end * HOUR, "1 of 4 nodes were down: n1"
        )

    await world.keeper.report(ProbeResult("debug", Status.DOWN, "gone", START - 2 * HOUR))
    await world.keeper.report(ProbeResult("debug", Status.UP, "", START - HOUR))
    spans = (span(9, 8), span(7, 6), span(3, 1.5, "debug"), span(0.9, 0.8, "debug"), span(9, 8, "nowhere"))
    assert await world.take(*spans) == 3
    assert await world.take(*spans) == 0
    assert await world.take(span(8.5, 6.5)) == 0
    found = [one for one in await world.incidents() if one.notes[0].text.startswith("from the batch")]
    assert [one.start_time for one in found] == [START - 9 * HOUR, START - 7 * HOUR, START - 0.9 * HOUR]
    assert {(one.resolution, one.declared_by, one.type) for one in found} == {
        (Resolution.COMPLETED, PROBE, IncidentType.UNPLANNED)
    }
    assert found[0].impacted_resource_ids == ("cluster", "portal")
    assert found[0].description == "1 of 4 nodes were down: n1"


async def test_a_failure_began_when_the_batch_system_says(world: World) -> None:
    await world.keeper.report(ProbeResult("cluster", Status.UP, "", START - 5 * HOUR))
    seen = ProbeResult("cluster", Status.DEGRADED, "1 of 4", START, since=START - 3 * HOUR)
    await world.keeper.report(seen)
    (incident,) = await world.incidents()
    assert incident.start_time == START - 3 * HOUR
    # What else is wrong from now on does not make it older, nor what was before it had worked.
    await world.keeper.report(replace(seen, status=Status.DOWN, since=START - 4 * HOUR))
    assert [one.start_time for one in await world.incidents()] == [START - 3 * HOUR]
    await world.keeper.report(ProbeResult("cluster", Status.UP, "", START + HOUR))
    await world.keeper.report(replace(seen, time=START + 2 * HOUR))
    assert [one.start_time for one in await world.incidents()] == [START - 3 * HOUR, START + HOUR]
