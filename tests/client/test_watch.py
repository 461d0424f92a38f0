"""Watches over reconnects. The six guarantees are those that etcd gives (and tests) for its own watches."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable
from contextlib import suppress
from typing import Any, TypeVar

import grpc
import openfacility_client as of
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2 as details
from openfacility.jobs.v1 import job_pb2
from openfacility.jobs.v1 import jobs_service_pb2 as pb

from tests.client.model import Facility
from tests.client.scripted import Failure, change, reason

pytestmark = pytest.mark.timeout(60)

T = TypeVar("T")
Code = grpc.StatusCode


async def soon(awaitable: Awaitable[T]) -> T:
    return await asyncio.wait_for(awaitable, 20)


async def take(watch: Any, count: int) -> list[of.JobChange]:
    return [await soon(anext(watch)) for _ in range(count)]


def brief(changes: list[of.JobChange]) -> list[tuple[str, str, int]]:
    return [(str(c.type), c.job.id, c.revision) for c in changes]


def once(*failures: Any) -> Any:
    """Break at the next points of a stream, one after the other, then no more."""
    left = list(failures)
    return lambda point: left.pop(0)[1] if left and left[0][0] == point else None


BREAKS = [
    Failure(Code.UNAVAILABLE, "stopping", (reason("SERVER_STOPPING"),)),
    Failure(Code.UNAVAILABLE),
    Failure(Code.INTERNAL, "Received RST_STREAM with error code 2"),
    Failure(Code.UNKNOWN, "Stream removed"),
    Failure(Code.CANCELLED, "RST_STREAM"),
    Failure(Code.RESOURCE_EXHAUSTED, "streams", (details.RetryInfo(retry_delay=Duration(nanos=1)),)),
    "eof",
]


async def test_snapshot_then_changes(client, facility):
    facility.change(a="NEW", b="ACTIVE")
    watch = client.jobs.watch()
    assert watch.revision is None
    assert brief(await take(watch, 2)) == [("SNAPSHOT", "a", 1), ("SNAPSHOT", "b", 1)]
    facility.change(c="NEW")
    facility.change(a="QUEUED")
    assert brief(await take(watch, 2)) == [("CREATED", "c", 2), ("UPDATED", "a", 3)]
    assert watch.revision == 3
    assert watch.caught_up


async def test_a_watch_of_one_job_ends_with_it(client, facility):
    facility.change(a="ACTIVE", b="ACTIVE")
    watch = client.jobs.watch("a")
    assert (await take(watch, 1))[0].job.state is of.JobState.ACTIVE
    facility.change(a="COMPLETED")
    assert [c.job.state async for c in watch] == ["COMPLETED"]
    assert [c.job.state async for c in client.jobs.watch(of.Job(id="a"))] == ["COMPLETED"]
    # Nothing comes after the end, and that is an end too, not a reason to ask again.
    assert [c async for c in client.jobs.watch("a", after_revision=2)] == []


async def test_the_position_never_splits_a_revision(client, facility):
    facility.change(a="NEW", b="NEW")
    facility.change(a="QUEUED", b="QUEUED")
    watch = client.jobs.watch(after_revision=0)
    seen = []
    while len(seen) < 4:
        (told,) = await take(watch, 1)
        seen.append((told.revision, watch.revision))
    assert seen == [(1, 0), (1, 1), (2, 1), (2, 2)]


@pytest.mark.parametrize("broken", BREAKS, ids=str)
@pytest.mark.parametrize("point", ["begin", "snapshot", "live"])
async def test_it_goes_on_wherever_it_breaks(client, facility, point, broken):
    facility.change(a="NEW", b="NEW", c="NEW")
    facility.breaks = once((point, broken))
    watch = client.jobs.watch()
    first = await take(watch, 3)
    facility.change(a="QUEUED")
    assert brief(first + await take(watch, 1)) == [
        ("SNAPSHOT", "a", 1),
        ("SNAPSHOT", "b", 1),
        ("SNAPSHOT", "c", 1),
        ("UPDATED", "a", 2),
    ]
    # A live watch may have told the change before it broke; nobody has asked it for more since.
    assert len(facility.watches) in ((1, 2) if point == "live" else (2,))


@pytest.mark.parametrize(
    "error",
    [
        Failure(Code.NOT_FOUND),
        Failure(Code.PERMISSION_DENIED),
        Failure(Code.INVALID_ARGUMENT),
        Failure(Code.INTERNAL, "a defect", (reason("INTERNAL"),)),
        Failure(Code.RESOURCE_EXHAUSTED, "message too large"),
        Failure(Code.UNIMPLEMENTED),
        Failure(Code.UNAUTHENTICATED),
        Failure(Code.OUT_OF_RANGE),
    ],
    ids=lambda failure: failure.code.name,
)
async def test_what_does_not_pass_by_itself_is_raised(client, facility, error):
    facility.breaks = lambda _: error
    with pytest.raises(of.RPCError) as caught:
        await soon(anext(client.jobs.watch()))
    assert caught.value.code == error.code.name
    assert len(facility.watches) == 1


async def test_an_error_that_nobody_explains_is_raised_in_the_end(client, facility):
    facility.breaks = lambda _: Failure(Code.UNKNOWN, "?")
    with pytest.raises(of.Unknown):
        await soon(anext(client.jobs.watch()))
    assert len(facility.watches) == 9


async def test_a_broken_snapshot_is_told_once_and_what_left_meanwhile_is_told_too(client, facility):
    facility.change(a="ACTIVE", b="ACTIVE", c="ACTIVE")

    def breaks(point: str) -> Any:
        if point == "snapshot" and len(facility.watches) == 1:
            facility.change(a="COMPLETED")
            facility.change(b="ACTIVE")
            return Failure(Code.UNAVAILABLE)
        return None

    facility.breaks = breaks
    watch = client.jobs.watch(states=of.JobState.ACTIVE)
    assert brief(await take(watch, 5)) == [
        ("SNAPSHOT", "a", 1),
        ("SNAPSHOT", "b", 1),
        ("SNAPSHOT", "b", 3),
        ("SNAPSHOT", "c", 1),
        ("UPDATED", "a", 2),
    ]
    facility.change(d="ACTIVE")
    assert brief(await take(watch, 1)) == [("CREATED", "d", 4)]


async def test_a_snapshot_that_read_late_is_not_told_again_after_a_resume(client, server):
    async def first(_: Any) -> Any:
        yield pb.WatchJobsResponse(changes=[change("a", "ACTIVE", 15, "SNAPSHOT")])
        yield pb.WatchJobsResponse(revision=10, caught_up=True)
        raise Failure(Code.UNAVAILABLE)

    async def second(request: Any) -> Any:
        assert request.after_revision == 10
        changes = [change("a", "QUEUED", 12), change("b", "NEW", 14, "CREATED"), change("a", "ACTIVE", 15)]
        yield pb.WatchJobsResponse(changes=changes, revision=15)
        yield pb.WatchJobsResponse(changes=[change("a", "FAILED", 16)], revision=16)
        await asyncio.Event().wait()

    server.on("WatchJobs", first, second)
    watch = client.jobs.watch()
    assert brief(await take(watch, 3)) == [("SNAPSHOT", "a", 15), ("CREATED", "b", 14), ("UPDATED", "a", 16)]


async def test_a_lost_position_is_healed_by_a_new_snapshot(client, facility):
    facility.change(a="ACTIVE", b="ACTIVE", c="ACTIVE")
    watch = client.jobs.watch(states=["ACTIVE"])
    await take(watch, 3)
    facility.change(c="ACTIVE")
    await take(watch, 1)

    def breaks(point: str) -> Any:
        if point == "live" and len(facility.watches) == 1:
            facility.change(a="COMPLETED")
            facility.change(b="ACTIVE")
            facility.change(d="ACTIVE", e="COMPLETED")
            facility.forget(facility.revision)
            return Failure(Code.UNAVAILABLE)
        return None

    facility.breaks = breaks
    facility.change(x="COMPLETED")
    # c has not changed and is not told again; e never matched; a has left.
    assert brief(await take(watch, 3)) == [("SNAPSHOT", "b", 5), ("SNAPSHOT", "d", 6), ("UPDATED", "a", 4)]
    assert watch.resets == 1
    facility.change(c="FAILED")
    assert brief(await take(watch, 1)) == [("UPDATED", "c", 7)]


async def test_a_history_that_began_anew_is_told_from_its_beginning(client, facility):
    facility.change(a="ACTIVE")
    watch = client.jobs.watch(after_revision=99)
    assert brief(await take(watch, 1)) == [("SNAPSHOT", "a", 1)]
    assert watch.resets == 1


async def test_who_wants_to_list_again_is_told(client, facility):
    facility.change(a="ACTIVE")
    facility.change(a="ACTIVE")
    facility.forget(2)
    with pytest.raises(of.OutOfRange) as caught:
        await soon(anext(client.jobs.watch(after_revision=1, on_gap="raise")))
    assert (caught.value.oldest_revision, caught.value.current_revision) == (2, 2)


async def test_only_from_now_on(client, facility):
    facility.change(a="NEW")
    facility.breaks = once(("live", Failure(Code.UNAVAILABLE)))
    watch = client.jobs.watch(snapshot=False)
    reading = asyncio.ensure_future(anext(watch))
    while len(facility.watches) < 2:  # noqa: ASYNC110 - bounded by the test's timeout
        await asyncio.sleep(0)
    facility.change(b="NEW")
    assert brief([await soon(reading)]) == [("CREATED", "b", 2)]
    assert facility.watches[0].skip_snapshot
    assert facility.watches[1].after_revision == 1


async def test_a_token_that_expires_meanwhile_is_replaced(connect, server, facility):
    tokens = iter(["t1", "t2", "t3", "t4"])
    facility.change(a="NEW")
    refused = Failure(Code.UNAUTHENTICATED, "expired", (reason("TOKEN_EXPIRED"),))
    facility.breaks = once(("live", refused), ("live", refused))
    watch = connect(server.address, token=lambda: next(tokens)).jobs.watch()
    await take(watch, 1)
    facility.change(a="QUEUED")
    facility.change(a="ACTIVE")
    await take(watch, 2)
    facility.change(a="COMPLETED")
    await take(watch, 1)
    assert [call.metadata["authorization"] for call in server.calls] == ["Bearer t1", "Bearer t2", "Bearer t3"]


async def test_a_restart_of_the_server_loses_nothing(client, server, facility):
    facility.change(a="NEW")
    told: list[float] = []
    watch = client.jobs.watch(on_disconnect=lambda _, delay: told.append(delay))
    await take(watch, 1)
    reading = asyncio.ensure_future(anext(watch))
    await server.kill()
    facility.change(a="QUEUED")
    facility.change(a="ACTIVE")
    await server.start()
    assert brief([await soon(reading), *await take(watch, 1)]) == [("UPDATED", "a", 2), ("UPDATED", "a", 3)]
    assert told


async def test_it_can_be_closed_while_somebody_waits(client, facility):
    facility.change(a="NEW")
    watch = client.jobs.watch()
    await take(watch, 1)
    reading = asyncio.ensure_future(anext(watch))
    await asyncio.sleep(0.01)
    watch.close()
    with pytest.raises(StopAsyncIteration):
        await soon(reading)


async def test_a_wait_that_is_given_up_costs_nothing(facility, server):
    facility.change(a="NEW")
    async with of.AsyncClient(server.address) as client:
        watch = client.jobs.watch()
        await take(watch, 1)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(watch), 0.02)
        facility.change(a="QUEUED")
        assert brief(await take(watch, 1)) == [("UPDATED", "a", 2)]


async def test_time_limits(connect, client, facility):
    facility.change(a="ACTIVE")
    with pytest.raises(of.DeadlineExceeded):
        await soon(client.jobs.wait("a", timeout=0.1))
    with pytest.raises(of.DeadlineExceeded):
        await soon(anext(connect("127.0.0.1:1").jobs.watch(timeout=0.2)))
    with pytest.raises(of.Unavailable):
        await soon(anext(connect("127.0.0.1:1").jobs.watch(give_up_after=0.2)))


async def test_wait(client, facility):
    facility.change(a="ACTIVE")
    facility.breaks = once(("live", Failure(Code.UNAVAILABLE)))
    waiting = asyncio.ensure_future(client.jobs.wait("a", timeout=20))
    while len(facility.watches) < 2:  # noqa: ASYNC110 - bounded by the test's timeout
        await asyncio.sleep(0)
    facility.change(a="FAILED")
    assert (await waiting).state is of.JobState.FAILED


async def test_nothing_secret_is_logged(connect, server, facility, caplog):
    caplog.set_level(logging.DEBUG)
    facility.change(a="NEW")
    facility.breaks = once(("live", Failure(Code.UNAVAILABLE)), ("live", Failure(Code.UNAUTHENTICATED)))
    watch = connect(server.address, token=lambda: "s3cret").jobs.watch()
    await take(watch, 1)
    facility.change(a="QUEUED")
    with suppress(of.RPCError):
        await take(watch, 2)
    assert "interrupted" in caplog.text
    assert "s3cret" not in caplog.text


async def test_arguments_that_exclude_each_other(client):
    with pytest.raises(TypeError, match="not both"):
        client.jobs.watch("a", states="ACTIVE")
    with pytest.raises(ValueError, match="no state"):
        client.jobs.watch(states="RUNNING")


def faults(dice: random.Random, left: int) -> Any:
    """Break four streams in ten, in any way, until it has been enough."""

    def breaks(_: str) -> Any:
        nonlocal left
        if left and dice.random() < 0.4:
            left -= 1
            return dice.choice(BREAKS)
        return None

    return breaks


def logged(facility: Facility, after: int, states: tuple[str, ...]) -> list[tuple[str, str, int]]:
    """What a watch has to tell after a revision."""
    numbers = {job_pb2.JobState.Value(f"JOB_STATE_{state}") for state in states}
    return [
        ("UPDATED" if was is not None else "CREATED", job.id, revision)
        for revision, entry in facility.log
        if revision > after
        for was, job in entry
        if not numbers or numbers & {job.status.state, was.status.state if was is not None else -1}
    ]


@pytest.mark.parametrize("states", [(), ("ACTIVE",)], ids=["all", "active"])
@pytest.mark.parametrize("seed", range(6))
async def test_guarantees_under_faults(client, facility, seed, states):
    """Ordered, unique, atomic, reliable, resumable, bookmarked: against the log, with faults wherever there can be."""
    dice = random.Random(seed)
    facility.breaks = faults(dice, 40)

    def happen() -> None:
        ids = dice.sample("abcdefgh", dice.randint(1, 3))
        facility.change(**{id_: dice.choice(["NEW", "ACTIVE", "FAILED"]) for id_ in ids})

    for _ in range(4):
        happen()
    watch = client.jobs.watch(**({"states": states} if states else {}))
    got = [await soon(anext(watch))]
    for _ in range(30):
        for _ in range(dice.randint(1, 3)):
            happen()
        await asyncio.sleep(0)
    while True:
        last = f"last{facility.revision}"
        facility.change(**{last: "ACTIVE"})
        while got[-1].job.id != last:
            position = watch.revision
            got += await take(watch, 1)
            assert position is None or got[-1].revision > position, "resumable: the position covers only what was told"
        if got[-1].type != "SNAPSHOT":
            break
    if states:
        reading = asyncio.ensure_future(anext(watch))
        facility.change(unseen="NEW")
        while watch.revision != facility.revision:  # noqa: ASYNC110 - bounded by the test's timeout
            await asyncio.sleep(0)
        assert not reading.done(), "bookmarked: the position moves on without anything to tell"
        watch.close()
        with suppress(StopAsyncIteration):
            await soon(reading)
    watch.close()
    check_guarantees(got, facility, states)


def check_guarantees(got: list[of.JobChange], facility: Facility, states: tuple[str, ...]) -> None:
    began = facility.snapshot_revision
    live = [told for told in got if told.type != "SNAPSHOT" and told.revision > began]
    before = {told.job.id: told.job.revision for told in got if told not in live}
    revisions = [told.revision for told in live]
    assert revisions == sorted(revisions), "ordered: changes come in the order of the log"
    per_job = [(told.job.id, told.job.revision) for told in got]
    assert len(set(per_job)) == len(per_job), "unique: each revision of a job is told once"
    for job in {told.job.id for told in got}:
        own = [told.job.revision for told in got if told.job.id == job]
        assert own == sorted(own), "ordered: a job never goes back"
    expected = [entry for entry in logged(facility, began, states) if entry[2] > before.get(entry[1], 0)]
    assert brief(live) == expected, "reliable: nothing is left out"
    for revision in set(revisions):
        positions = [index for index, other in enumerate(revisions) if other == revision]
        assert positions == list(range(positions[0], positions[-1] + 1)), "atomic: what was changed together stays so"
    latest = {told.job.id: told.job for told in got}
    matching = {id_ for id_, job in facility.jobs.items() if not states or job.status.state in (4,)}
    assert {id_ for id_, job in latest.items() if not states or job.state in states} == matching, "convergent"
