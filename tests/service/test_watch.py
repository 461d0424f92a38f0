"""WatchJobs: a snapshot, then every change, in order, each once; resumable from any kept revision."""

from __future__ import annotations

import asyncio

import pytest
from openfacility.jobs.v1 import job_pb2 as pb
from openfacility.jobs.v1 import jobs_service_pb2 as rpc

from tests.support.calls import FINAL, Caller, refused

SNAPSHOT, CREATED, UPDATED = rpc.JobChange.TYPE_SNAPSHOT, rpc.JobChange.TYPE_CREATED, rpc.JobChange.TYPE_UPDATED


def brief(changes: list[rpc.JobChange]) -> list[tuple[str, int, int]]:
    return [(change.job.id, change.revision, change.job.status.state) for change in changes]


@pytest.mark.both_databases
async def test_first_the_jobs_as_they_are_then_the_changes(alice: Caller) -> None:
    done = await alice.run("/bin/true")
    held = await alice.submit("/bin/true", hold=True)
    await alice.wait(held.id, pb.JOB_STATE_HELD)
    async with alice.watch(filter=alice.mine()) as watch:
        snapshot = await watch.caught_up()
        assert [change.type for change in snapshot] == [SNAPSHOT] * 2
        assert {change.job.id for change in snapshot} == {done.id, held.id}
        assert [await alice.get(change.job.id) for change in snapshot] == [change.job for change in snapshot]
        with_jobs = [response for response in watch.responses if response.changes]
        assert {response.revision for response in with_jobs} == {0}
        assert [response.caught_up for response in watch.responses].count(True) == 1
        assert watch.responses[-1].revision >= max(change.revision for change in snapshot)
        new = await alice.submit("/bin/true")
        await watch.until(lambda job: job.id == new.id and job.status.state in FINAL)
        live = [change for change in watch.changes if change.job.id == new.id]
    assert [change.type for change in live] == [CREATED] + [UPDATED] * (len(live) - 1)
    assert live[0].job == new
    states = [change.job.status.state for change in live]
    # A start and an end that were seen together are one change, whose transitions tell of both.
    assert states == sorted(states)
    assert [transition.state for transition in live[-1].job.transitions] == [
        pb.JOB_STATE_NEW,
        pb.JOB_STATE_QUEUED,
        pb.JOB_STATE_ACTIVE,
        pb.JOB_STATE_COMPLETED,
    ]
    assert not any(response.caught_up for response in watch.responses[2:])


async def test_a_watch_without_a_filter_is_of_all_that_one_may_see(alice: Caller, bob: Caller) -> None:
    async with alice.watch(skip_snapshot=True) as watch:
        await watch.caught_up()
        await bob.run("/bin/true")
        mine = await alice.submit("/bin/true", hold=True)
        first = await watch.change()
        assert first.job.id == mine.id


async def test_skip_snapshot_starts_from_now(alice: Caller) -> None:
    await alice.run("/bin/true")
    async with alice.watch(filter=alice.mine(), skip_snapshot=True) as watch:
        assert await watch.caught_up() == []
        assert watch.revision > 0
        new = await alice.submit("/bin/true", hold=True)
        change = await watch.change()
    assert (change.type, change.job) == (CREATED, new)


async def test_an_empty_snapshot_is_caught_up(alice: Caller) -> None:
    async with alice.watch(filter=alice.mine()) as watch:
        assert await watch.caught_up() == []
        assert len(watch.responses) == 1


async def test_a_large_snapshot_comes_whole(alice: Caller) -> None:
    jobs = await alice.batch([alice.spec("/bin/true", hold=True)] * 450)
    async with alice.watch(filter=alice.mine()) as watch:
        snapshot = await watch.caught_up()
    assert {change.job.id for change in snapshot} == {job.id for job in jobs}
    assert len(watch.responses) > 2


@pytest.mark.both_databases
async def test_a_watch_of_one_job_ends_with_it(alice: Caller) -> None:
    job = await alice.submit("/bin/true")
    async with alice.watch(job_id=job.id) as watch:
        changes = await watch.end()
    assert changes[-1].job.status.state == pb.JOB_STATE_COMPLETED
    assert {change.job.id for change in changes} == {job.id}
    assert watch.revision >= changes[-1].revision


async def test_a_watch_that_begins_just_as_the_job_ends_ends_too(alice: Caller) -> None:
    async def states(job_id: str) -> list[int]:
        async with alice.watch(job_id=job_id) as watch:
            await watch.end()
            return watch.states(job_id)

    for _ in range(20):
        job = await alice.submit("/bin/true")
        watching = []
        while job.status.state not in FINAL:
            watching.append(asyncio.create_task(states(job.id)))
            job = await alice.get(job.id)  # while it is asked for, the watch begins
        for seen in await asyncio.gather(*watching):
            assert seen[-1] == pb.JOB_STATE_COMPLETED


async def test_a_watch_of_an_ended_job_shows_it_and_ends(alice: Caller) -> None:
    job = await alice.run("/bin/true")
    async with alice.watch(job_id=job.id) as watch:
        changes = await watch.end()
    assert [change.job for change in changes] == [job]
    async with alice.watch(job_id=job.id, after_revision=job.revision) as watch:
        assert await watch.end() == []
    async with alice.watch(job_id=job.id, skip_snapshot=True) as watch:
        assert await watch.end() == []


@pytest.mark.both_databases
async def test_resuming_anywhere_has_no_gap_and_no_duplicate(alice: Caller) -> None:
    start = (await alice.list()).revision
    jobs = [await alice.submit("/bin/true") for _ in range(4)]
    ended = await alice.wait_all(job.id for job in jobs)
    last = max(job.revision for job in ended.values())

    async def after(revision: int) -> list[rpc.JobChange]:
        async with alice.watch(filter=alice.mine(), after_revision=revision) as watch:
            return await watch.caught_up()

    whole = await after(start)
    assert {change.type for change in whole} == {CREATED, UPDATED}
    assert len({change.job.id for change in whole}) == 4
    for revision in range(start, last + 1):
        expected = [entry for entry in brief(whole) if entry[1] > revision]
        assert brief(await after(revision)) == expected


@pytest.mark.both_databases
async def test_resuming_while_things_happen(alice: Caller) -> None:
    """One watch stays, another begins anew after every response: they see the same."""
    start = (await alice.list()).revision
    async with alice.watch(filter=alice.mine(), after_revision=start) as whole:
        jobs = [await alice.submit("/bin/true") for _ in range(5)]
        left, position, pieces = {job.id for job in jobs}, start, []
        while left:
            async with alice.watch(filter=alice.mine(), after_revision=position) as watch:
                response = await watch.next()
                while not response.changes:
                    response = await watch.next()
            pieces += response.changes
            position = response.revision
            left -= {change.job.id for change in response.changes if change.job.status.state in FINAL}
        while whole.revision < position:
            await whole.next()
    assert brief(pieces) == brief([change for change in whole.changes if change.revision <= position])


@pytest.mark.parametrize("kill", [False, True], ids=["stopped", "killed"])
async def test_resuming_after_a_restart(own_server, connect, kill: bool) -> None:
    server = own_server()
    alice = connect(server, "alice")
    start = (await alice.list()).revision
    job = await alice.run("/bin/true")
    server.restart(kill=kill)
    again = connect(server, "alice")
    async with again.watch(filter=alice.mine(), after_revision=start) as watch:
        changes = await watch.caught_up()
        assert changes[0].type == CREATED
        assert changes[-1].job == job
        states = [change.job.status.state for change in changes]
        assert states == sorted(states)


async def test_a_stopping_server_says_how_far_it_came(own_server, connect) -> None:
    server = own_server()
    alice = connect(server, "alice")
    job = await alice.submit("/bin/sleep", "600")
    await alice.wait(job.id, pb.JOB_STATE_ACTIVE)
    async with alice.watch(filter=alice.mine()) as watch:
        await watch.caught_up()
        position = watch.revision
        stopping = asyncio.create_task(asyncio.to_thread(server.stop))
        with refused("UNAVAILABLE", "SERVER_STOPPING"):
            while True:
                await watch.next()
        assert watch.revision >= position
        assert not watch.responses[-1].changes
        assert await stopping == 0


@pytest.mark.both_databases
async def test_a_filter_shows_what_enters_and_what_leaves(alice: Caller) -> None:
    async with alice.watch(filter=alice.mine(states=[pb.JOB_STATE_HELD])) as watch:
        assert await watch.caught_up() == []
        job = await alice.submit("/bin/true", hold=True)
        assert (await watch.change()).job.status.state == pb.JOB_STATE_HELD
        await alice.release(job.id)
        left = await watch.change()
        assert left.job.status.state != pb.JOB_STATE_HELD
        await alice.wait(job.id)
        # What happens outside of the filter is not sent: the next is another job.
        other = await alice.submit("/bin/true", hold=True)
        assert (await watch.change()).job.id == other.id
        await alice.update(other.id, ["spec.name"], name="new")
        assert (await watch.change()).job.spec.name == "new"


async def test_a_job_leaves_by_its_name_labels_and_project(alice: Caller) -> None:
    job = await alice.submit(
        "/bin/true", hold=True, name="n", labels={"k": "v"}, attributes=pb.JobAttributes(account="p")
    )
    await alice.wait(job.id, pb.JOB_STATE_HELD)
    for conditions, path, fields in (
        ({"name": "n"}, "spec.name", {"name": "other"}),
        ({"labels": ["k=v"]}, "spec.labels", {"labels": {"test": alice.label}}),
        ({"project_ids": ["p"]}, "spec.attributes.account", {"attributes": pb.JobAttributes(account="q")}),
    ):
        async with alice.watch(filter=alice.mine(**conditions)) as watch:
            assert len(await watch.caught_up()) == 1
            changed = await alice.update(job.id, [path], **fields)
            while not watch.changes[1:]:
                await watch.next()
            assert watch.changes[1].job == changed


async def test_two_owners_never_see_each_other(alice: Caller, bob: Caller, olga: Caller) -> None:
    label = f"shared={alice.label}"
    filters = [rpc.JobFilter(labels=[label]), rpc.JobFilter(labels=[label], owners=["alice", "bob"])]
    for filter_ in filters:
        async with (
            alice.watch(filter=filter_, skip_snapshot=True) as hers,
            bob.watch(filter=filter_, skip_snapshot=True) as his,
            olga.watch(filter=rpc.JobFilter(labels=[label]), skip_snapshot=True) as all_,
        ):
            for watch in (hers, his, all_):
                await watch.caught_up()
            first = await alice.submit("/bin/true", labels={"shared": alice.label})
            second = await bob.submit("/bin/true", labels={"shared": alice.label})
            await asyncio.gather(alice.wait(first.id), bob.wait(second.id))
            for watch, ids in ((hers, {first.id}), (his, {second.id}), (all_, {first.id, second.id})):
                ended: set[str] = set()
                while ended != ids:
                    change = await watch.change()
                    assert change.job.id in ids
                    if change.job.status.state in FINAL:
                        ended.add(change.job.id)


async def test_another_users_jobs_are_in_no_snapshot_and_no_past(alice: Caller, bob: Caller) -> None:
    start = (await alice.list()).revision
    his = await bob.run("/bin/true", labels={"shared": alice.label})
    for fields in (
        {"filter": rpc.JobFilter(job_ids=[his.id])},
        {"filter": rpc.JobFilter(owners=[his.owner])},
        {"filter": rpc.JobFilter(labels=[f"shared={alice.label}"])},
        {"filter": rpc.JobFilter(job_ids=[his.id]), "after_revision": start},
        {"filter": rpc.JobFilter(owners=[his.owner]), "after_revision": start},
        {"after_revision": start},
    ):
        async with alice.watch(**fields) as watch:
            assert await watch.caught_up() == []


@pytest.mark.both_databases
async def test_an_idle_watch_sends_its_position(own_server, connect, alice: Caller, bob: Caller, facility) -> None:
    if facility.server is None:
        pytest.skip("needs a short bookmark interval")
    async with alice.watch(filter=alice.mine(), skip_snapshot=True) as watch:
        await watch.caught_up()
        position = watch.revision
        # Another's changes move the position, without being seen.
        his = await bob.run("/bin/true")
        while watch.revision < his.revision:
            response = await watch.next(10)
            assert not response.changes
            assert not response.caught_up
        assert watch.revision > position
        assert watch.changes == []
    async with alice.watch(filter=alice.mine(), after_revision=watch.revision) as resumed:
        mine = await alice.submit("/bin/true", hold=True)
        assert (await resumed.change()).job == mine


async def test_many_watchers_see_the_same(alice: Caller) -> None:
    filters = [alice.mine(), alice.mine(states=[pb.JOB_STATE_COMPLETED]), alice.mine(name="b")]

    async def follow(filter_: rpc.JobFilter, ready: asyncio.Barrier) -> list[tuple[str, int, int]]:
        async with alice.watch(filter=filter_, skip_snapshot=True) as watch:
            await watch.caught_up()
            await ready.wait()
            await watch.until(lambda job: job.spec.name == "b" and job.status.state in FINAL)
            return brief(watch.changes)

    ready = asyncio.Barrier(61)
    following = [asyncio.create_task(follow(filter_, ready)) for filter_ in filters for _ in range(20)]
    await ready.wait()
    await alice.run("/bin/true", name="a")
    await alice.run("/bin/true", name="b")
    seen = await asyncio.gather(*following)
    for kind in range(3):
        assert len({tuple(one) for one in seen[kind * 20 : kind * 20 + 20]}) == 1
    assert len(seen[0]) > len(seen[40]) > len(seen[20]) == 2


# What is refused.


@pytest.mark.both_databases
@pytest.mark.parametrize("single", [False, True], ids=["filter", "one job"])
async def test_a_revision_from_the_future_is_refused(alice: Caller, single: bool) -> None:
    job = await alice.submit("/bin/true", hold=True)
    await alice.wait(job.id, pb.JOB_STATE_HELD)
    before = await alice.seen()
    for revision in (10**18, 2**63 - 1):
        what = {"job_id": job.id} if single else {"filter": alice.mine()}
        with refused("OUT_OF_RANGE", "REVISION_OUT_OF_RANGE") as error:
            async with alice.watch(after_revision=revision, **what) as watch:
                await watch.next()
        assert int(error.metadata["current_revision"]) >= before.revision
        assert 0 <= int(error.metadata["oldest_revision"]) <= before.revision
        assert "list again" in error.message
    assert await alice.seen() == before


async def test_a_negative_revision_is_refused(alice: Caller) -> None:
    for revision in (-1, -(2**63)):
        with refused("INVALID_ARGUMENT", "INVALID_FIELD", "after_revision"):
            async with alice.watch(after_revision=revision) as watch:
                await watch.next()


async def test_a_job_and_a_filter_exclude_each_other(alice: Caller) -> None:
    job = await alice.submit("/bin/true", hold=True)
    with refused("INVALID_ARGUMENT", "INVALID_FIELD"):
        async with alice.watch(job_id=job.id, filter=rpc.JobFilter()) as watch:
            await watch.next()


async def test_a_watch_of_a_job_that_is_not_there(alice: Caller, bob: Caller) -> None:
    his = await bob.submit("/bin/true", hold=True)
    for job_id in ("nosuchjob", his.id):
        for more in ({}, {"after_revision": 0}, {"skip_snapshot": True}):
            with refused("NOT_FOUND", "NOT_FOUND"):
                async with alice.watch(job_id=job_id, **more) as watch:
                    await watch.next()
    with refused("INVALID_ARGUMENT", "INVALID_FIELD", "job_id"):
        async with alice.watch(job_id="No/Job") as watch:
            await watch.next()


async def test_too_many_streams_of_one_caller(own_server, connect) -> None:
    server = own_server(limits={"streams_per_caller": 2})
    alice, bob = connect(server, "alice"), connect(server, "bob")
    async with alice.watch() as first, alice.watch() as second:
        await asyncio.gather(first.caught_up(), second.caught_up())
        with refused("RESOURCE_EXHAUSTED", "TOO_MANY_STREAMS_OF_CALLER") as error:
            async with alice.watch() as third:
                await third.next()
        assert error.metadata["limit"] == "2"
        async with bob.watch() as his:
            await his.caught_up()
        second.cancel()
        # A place is free again as soon as the server has noticed.
        async with asyncio.timeout(10):
            while True:
                try:
                    async with alice.watch() as another:
                        await another.caught_up()
                    break
                except Exception as failed:  # noqa: BLE001 -- looked at in the next line
                    assert "RESOURCE_EXHAUSTED" in str(failed)  # noqa: PT017
