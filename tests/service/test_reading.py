"""GetJob and ListJobs: filters, order, pages, and the revision that a watch continues from."""

from __future__ import annotations

import asyncio
import base64
from datetime import UTC, datetime, timedelta

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from openfacility.jobs.v1 import job_pb2 as pb
from openfacility.jobs.v1 import jobs_service_pb2 as rpc

from tests.support.calls import Caller, refused


async def held(caller: Caller, count: int, **spec: object) -> list[str]:
    """Submits held jobs; returns their ids, newest first."""
    jobs = await caller.batch([caller.spec("/bin/true", hold=True, **spec)] * count)
    for job in jobs:
        await caller.wait(job.id, pb.JOB_STATE_HELD)
    return [job.id for job in reversed(jobs)]


async def pages(caller: Caller, filter_: rpc.JobFilter, size: int) -> list[rpc.ListJobsResponse]:
    """Reads all pages."""
    found = [await caller.list(filter_, page_size=size)]
    while found[-1].next_page_token:
        found.append(await caller.list(filter_, page_size=size, page_token=found[-1].next_page_token))
    return found


# Get.


async def test_get_of_what_is_not_there(alice: Caller) -> None:
    for job_id in ("nosuchjob", "0" * 32, "nosuch_7"):
        with refused("NOT_FOUND", "NOT_FOUND") as error:
            await alice.get(job_id)
        assert error.metadata["name"] == job_id
        assert error.details["google.rpc.ResourceInfo"].resource_name == job_id


@pytest.mark.parametrize(
    "job_id", ["", "UPPER", "a/b", "a b", "../x", "x" * 33, "a_", "a_x", "a_123456789", "ü", "a\n"]
)
async def test_get_of_what_cannot_be_an_id(alice: Caller, job_id: str) -> None:
    with refused("INVALID_ARGUMENT", "INVALID_FIELD", "job_id"):
        await alice.get(job_id)


# List: order and filters.


@pytest.mark.both_databases
async def test_newest_first_and_finished_ones_too(alice: Caller) -> None:
    done = await alice.run("/bin/true")
    failed = await alice.run("/bin/false")
    waiting = await alice.submit("/bin/true", hold=True)
    assert await alice.list_ids() == [waiting.id, failed.id, done.id]


@pytest.mark.both_databases
async def test_each_filter_selects(alice: Caller, olga: Caller) -> None:
    one = await alice.submit(
        "/bin/true", hold=True, name="one", labels={"k": "v", "x/y": "="}, attributes=pb.JobAttributes(account="p1")
    )
    two = await alice.submit(
        "/bin/true", hold=True, name="two", labels={"k": "w"}, attributes=pb.JobAttributes(account="p2")
    )
    done = await alice.run("/bin/true", name="done", labels={"k": ""})
    await alice.wait(one.id, pb.JOB_STATE_HELD)
    await alice.wait(two.id, pb.JOB_STATE_HELD)
    both = [two.id, one.id]
    cases: list[tuple[dict[str, object], list[str]]] = [
        ({}, [done.id, *both]),
        ({"job_ids": [one.id]}, [one.id]),
        ({"job_ids": [one.id, two.id, "nosuch"]}, both),
        ({"resource_ids": [one.resource_id]}, [done.id, *both]),
        ({"resource_ids": ["no-such"]}, []),
        ({"resource_ids": ["no-such", one.resource_id]}, [done.id, *both]),
        ({"project_ids": ["p1"]}, [one.id]),
        ({"project_ids": ["p1", "p2"]}, both),
        ({"project_ids": ["p"]}, []),
        ({"owners": [one.owner]}, [done.id, *both]),
        ({"owners": ["somebody-else"]}, []),
        ({"states": [pb.JOB_STATE_HELD]}, both),
        ({"states": [pb.JOB_STATE_COMPLETED]}, [done.id]),
        ({"states": [pb.JOB_STATE_COMPLETED, pb.JOB_STATE_HELD]}, [done.id, *both]),
        ({"states": [pb.JOB_STATE_FAILED]}, []),
        ({"name": "one"}, [one.id]),
        ({"name": "on"}, []),
        ({"name": "ONE"}, []),
        ({"labels": ["k=v"]}, [one.id]),
        ({"labels": ["x/y=="]}, [one.id]),
        ({"labels": ["k=v", "x/y=="]}, [one.id]),
        ({"labels": ["k=v", "k=w"]}, []),
        ({"labels": ["k="]}, [done.id]),
        ({"labels": ["k=V"]}, []),
        ({"labels": ["none="]}, []),
        ({"name": "one", "states": [pb.JOB_STATE_COMPLETED]}, []),
        ({"name": "one", "labels": ["k=v"], "project_ids": ["p1"], "states": [pb.JOB_STATE_HELD]}, [one.id]),
    ]
    for conditions, expected in cases:
        for caller in (alice, olga):
            page = await caller.list(alice.mine(**conditions))
            assert [job.id for job in page.jobs] == expected, conditions
            assert page.next_page_token == ""


@pytest.mark.both_databases
async def test_filter_by_time_of_acceptance(alice: Caller) -> None:
    newest, middle, oldest = await held(alice, 1), await held(alice, 1), await held(alice, 1)
    newest, oldest = oldest, newest
    middle_time = (await alice.get(middle[0])).create_time
    assert await alice.list_ids(created_from=middle_time) == newest + middle
    assert await alice.list_ids(created_to=middle_time) == oldest
    later = Timestamp()
    later.FromDatetime(middle_time.ToDatetime(UTC) + timedelta(microseconds=1))
    assert await alice.list_ids(created_from=middle_time, created_to=later) == middle
    tomorrow = Timestamp()
    tomorrow.FromDatetime(datetime.now(UTC) + timedelta(days=1))
    assert await alice.list_ids(created_from=tomorrow) == []


EXTREME = [Timestamp(seconds=-62135596800), Timestamp(seconds=253402300799, nanos=999_999_999)]


async def test_filter_by_extreme_times(alice: Caller) -> None:
    ids = await held(alice, 1)
    assert await alice.list_ids(created_from=EXTREME[0], created_to=EXTREME[1]) == ids
    assert await alice.list_ids(created_from=EXTREME[1]) == []


WRONG_FILTERS = {
    "job id": (rpc.JobFilter(job_ids=["ok", "Not OK"]), "filter.job_ids[1]"),
    "too many job ids": (rpc.JobFilter(job_ids=["x"] * 501), "filter.job_ids"),
    "empty resource": (rpc.JobFilter(resource_ids=[""]), "filter.resource_ids[0]"),
    "too many resources": (rpc.JobFilter(resource_ids=["x"] * 101), "filter.resource_ids"),
    "long project": (rpc.JobFilter(project_ids=["x" * 256]), "filter.project_ids[0]"),
    "empty owner": (rpc.JobFilter(owners=[""]), "filter.owners[0]"),
    "unspecified state": (rpc.JobFilter(states=[pb.JOB_STATE_UNSPECIFIED]), "filter.states[0]"),
    "unknown state": (rpc.JobFilter(states=[77]), "filter.states[0]"),  # type: ignore[list-item]
    "too many states": (rpc.JobFilter(states=[pb.JOB_STATE_NEW] * 8), "filter.states"),
    "long name": (rpc.JobFilter(name="x" * 256), "filter.name"),
    "label without =": (rpc.JobFilter(labels=["key"]), "filter.labels[0]"),
    "label without a key": (rpc.JobFilter(labels=["=v"]), "filter.labels[0]"),
    "too many labels": (rpc.JobFilter(labels=["a=b"] * 17), "filter.labels"),
    "time backwards": (
        rpc.JobFilter(created_from=Timestamp(seconds=2), created_to=Timestamp(seconds=1)),
        "filter",
    ),
    "time that never was": (rpc.JobFilter(created_from=Timestamp(seconds=10**15)), "filter.created_from"),
    "nanoseconds that never were": (rpc.JobFilter(created_to=Timestamp(nanos=-1)), "filter.created_to"),
    "array id": (rpc.JobFilter(array_job_id="a_1"), "filter.array_job_id"),
}


@pytest.mark.parametrize("case", WRONG_FILTERS)
async def test_a_malformed_filter_is_refused_everywhere(alice: Caller, case: str) -> None:
    filter_, field = WRONG_FILTERS[case]
    with refused("INVALID_ARGUMENT", "INVALID_FIELD", field):
        await alice.list(filter_)
    with refused("INVALID_ARGUMENT", "INVALID_FIELD", field):
        await alice.cancel_matching(filter_)
    with refused("INVALID_ARGUMENT", "INVALID_FIELD", field):
        async with alice.watch(filter=filter_) as watch:
            await watch.next()


# Pages.


@pytest.mark.both_databases
async def test_pages_have_every_job_once_in_order(alice: Caller) -> None:
    ids = await held(alice, 23)
    found = await pages(alice, alice.mine(), 5)
    assert [len(page.jobs) for page in found] == [5, 5, 5, 5, 3]
    assert [job.id for page in found for job in page.jobs] == ids
    assert len({page.revision for page in found}) == 1


async def test_a_last_page_that_is_full_ends_the_list(alice: Caller) -> None:
    await held(alice, 6)
    found = await pages(alice, alice.mine(), 3)
    assert [len(page.jobs) for page in found] == [3, 3]


async def test_page_size_may_change_on_the_way(alice: Caller) -> None:
    ids = await held(alice, 7)
    first = await alice.list(page_size=2)
    rest = await alice.list(page_size=100, page_token=first.next_page_token)
    assert [job.id for job in (*first.jobs, *rest.jobs)] == ids
    assert rest.next_page_token == ""


async def test_no_page_size_means_100_and_a_huge_one_1000(alice: Caller) -> None:
    jobs = await alice.batch([alice.spec("/bin/true", hold=True)] * 1000)
    assert len((await alice.list()).jobs) == 100
    one_more = await alice.submit("/bin/true", hold=True)
    page = await alice.list(page_size=2**31 - 1)
    assert len(page.jobs) == 1000
    last = await alice.list(page_size=1000, page_token=page.next_page_token)
    assert [job.id for job in last.jobs] == [jobs[0].id]
    assert page.jobs[0].id == one_more.id


@pytest.mark.parametrize("size", [-1, -(2**31)])
async def test_a_negative_page_size_is_refused(alice: Caller, size: int) -> None:
    with refused("INVALID_ARGUMENT", "INVALID_FIELD", "page_size"):
        await alice.list(page_size=size)


async def test_new_jobs_do_not_disturb_the_pages(alice: Caller) -> None:
    ids = await held(alice, 6)
    first = await alice.list(page_size=3)
    await held(alice, 3)
    second = await alice.list(page_size=3, page_token=first.next_page_token)
    assert [job.id for job in (*first.jobs, *second.jobs)] == ids
    assert second.revision == first.revision


async def test_a_token_is_tied_to_its_filter_and_caller(alice: Caller, bob: Caller, olga: Caller) -> None:
    await held(alice, 4)
    token = (await alice.list(page_size=2)).next_page_token
    for caller, filter_ in (
        (alice, alice.mine(name="x")),
        (alice, rpc.JobFilter(states=[pb.JOB_STATE_HELD])),
        (bob, alice.mine()),
        (olga, alice.mine()),
    ):
        with refused("INVALID_ARGUMENT", "PAGE_TOKEN_INVALID", "page_token"):
            await caller.list(filter_, page_token=token)
    with refused("INVALID_ARGUMENT", "PAGE_TOKEN_INVALID", "page_token"):
        await alice.call("ListJobs", rpc.ListJobsRequest(page_token=token))
    assert len((await alice.list(page_token=token)).jobs) == 2


async def test_a_tampered_token_is_refused_and_tells_nothing(alice: Caller) -> None:
    ids = await held(alice, 4)
    token = (await alice.list(page_size=2)).next_page_token
    opened = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
    assert not any(job_id.encode() in opened for job_id in ids)
    middle = len(token) // 2
    other = "A" if token[middle] != "A" else "B"
    for bad in (token[:middle] + other + token[middle + 1 :], token[:-8], token + "x", "x", "ü", "-1", "0" * 2048):
        with refused("INVALID_ARGUMENT", "PAGE_TOKEN_INVALID", "page_token"):
            await alice.list(page_token=bad)
    with refused("INVALID_ARGUMENT", "INVALID_FIELD", "page_token"):
        await alice.list(page_token="0" * 2049)


async def test_a_token_outlives_the_server(own_server, connect) -> None:
    server = own_server()
    alice = connect(server, "alice")
    ids = await held(alice, 4)
    first = await alice.list(page_size=2)
    server.restart()
    again = connect(server, "alice")
    second = await again.list(alice.mine(), page_size=2, page_token=first.next_page_token)
    assert [job.id for job in (*first.jobs, *second.jobs)] == ids


@pytest.mark.both_databases
async def test_a_watch_continues_where_a_list_was_read(alice: Caller) -> None:
    """Whatever happens around a list is either in it or comes after its revision: never both, never neither."""
    stop = asyncio.Event()

    async def submit() -> list[str]:
        made = []
        while not stop.is_set():
            made.append((await alice.submit("/bin/true", hold=True)).id)
        return made

    submitting = asyncio.create_task(submit())
    while len((await alice.list()).jobs) < 5:
        pass
    filter_ = alice.mine()
    found = await pages(alice, filter_, 7)
    listed = {job.id for page in found for job in page.jobs}
    async with alice.watch(filter=filter_, after_revision=found[0].revision) as watch:
        await watch.until(lambda job: job.status.state == pb.JOB_STATE_HELD)
        stop.set()
        made = set(await submitting)
        created = {change.job.id for change in watch.changes if change.type == rpc.JobChange.TYPE_CREATED}
        while not made <= listed | created:
            response = await watch.next()
            created |= {change.job.id for change in response.changes if change.type == rpc.JobChange.TYPE_CREATED}
    assert made == listed | created
    assert not listed & created
