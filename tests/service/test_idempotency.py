"""request_id: the same call again answers as the first time did and changes nothing; another call is refused."""

from __future__ import annotations

import asyncio
import uuid

import pytest
from openfacility.jobs.v1 import job_pb2 as pb
from openfacility.jobs.v1 import jobs_service_pb2 as rpc

from tests.support.calls import Caller, refused

pytestmark = pytest.mark.both_databases


def fresh() -> str:
    return str(uuid.uuid4())


async def test_the_same_submission_again_is_the_same_job(alice: Caller) -> None:
    request_id = fresh()
    first = await alice.submit("/bin/true", hold=True, request_id=request_id)
    await alice.wait(first.id, pb.JOB_STATE_HELD)
    before = await alice.seen()
    again = await alice.submit("/bin/true", hold=True, request_id=request_id)
    assert again.SerializeToString(deterministic=True) == first.SerializeToString(deterministic=True)
    assert await alice.seen() == before


async def test_twenty_at_once_are_one_job(alice: Caller) -> None:
    request_id = fresh()
    jobs = await asyncio.gather(
        *(alice.submit("/bin/true", hold=True, request_id=request_id, name="once") for _ in range(20))
    )
    assert len({job.SerializeToString(deterministic=True) for job in jobs}) == 1
    assert await alice.list_ids() == [jobs[0].id]


async def test_a_script_comes_back_with_the_first_answer(alice: Caller) -> None:
    request_id = fresh()
    first = await alice.submit(script="#!/bin/sh\nexit 0\n", hold=True, request_id=request_id)
    again = await alice.submit(script="#!/bin/sh\nexit 0\n", hold=True, request_id=request_id)
    assert again == first
    assert again.spec.script == "#!/bin/sh\nexit 0\n"


@pytest.mark.parametrize("other", [{"name": "other"}, {"labels": {"more": "1"}}, {"hold": False}])
async def test_the_same_request_id_with_another_body_is_refused(alice: Caller, other: dict[str, object]) -> None:
    request_id = fresh()
    first = await alice.submit("/bin/true", hold=True, request_id=request_id)
    await alice.wait(first.id, pb.JOB_STATE_HELD)
    before = await alice.seen()
    with refused("INVALID_ARGUMENT", "REQUEST_ID_REUSED", "request_id"):
        await alice.submit("/bin/true", request_id=request_id, **({"hold": True} | other))
    assert await alice.seen() == before


async def test_without_a_request_id_each_call_is_a_new_job(alice: Caller) -> None:
    first, second = await alice.submit("/bin/true", hold=True), await alice.submit("/bin/true", hold=True)
    assert first.id != second.id


async def test_callers_do_not_share_request_ids(alice: Caller, bob: Caller) -> None:
    request_id = fresh()
    hers = await alice.submit("/bin/true", hold=True, request_id=request_id)
    his = await bob.submit("/bin/false", hold=True, request_id=request_id)
    assert hers.id != his.id
    assert his.owner != hers.owner


async def test_a_refused_call_does_not_use_its_request_id_up(alice: Caller) -> None:
    request_id = fresh()
    with refused("INVALID_ARGUMENT"):
        await alice.submit("/bin/true", hold=True, resource_id="no-such", request_id=request_id)
    job = await alice.submit("/bin/true", hold=True, request_id=request_id)
    assert (await alice.get(job.id)).id == job.id


async def test_a_batch_again_is_the_same_batch(alice: Caller) -> None:
    request_id = fresh()
    specs = [alice.spec("/bin/true", hold=True, name=str(number)) for number in range(5)]
    first = await alice.batch(specs, request_id)
    again = await alice.batch(specs, request_id)
    assert again == first
    assert len(await alice.list_ids()) == 5
    with refused("INVALID_ARGUMENT", "REQUEST_ID_REUSED", "request_id"):
        await alice.batch(specs[:4], request_id)
    assert len(await alice.list_ids()) == 5


async def test_batches_at_once_are_one_batch(alice: Caller) -> None:
    request_id = fresh()
    specs = [alice.spec("/bin/true", hold=True) for _ in range(3)]
    batches = await asyncio.gather(*(alice.batch(specs, request_id) for _ in range(10)))
    assert all(batch == batches[0] for batch in batches)
    assert len(await alice.list_ids()) == 3


async def test_an_update_again_changes_nothing_more(alice: Caller) -> None:
    request_id = fresh()
    job = await alice.submit("/bin/true", hold=True)
    first = await alice.update(job.id, ["spec.name"], name="one", request_id=request_id)
    await alice.update(job.id, ["spec.name"], name="two")
    again = await alice.update(job.id, ["spec.name"], name="one", request_id=request_id)
    assert again == first
    assert (await alice.get(job.id)).spec.name == "two"
    with refused("INVALID_ARGUMENT", "REQUEST_ID_REUSED", "request_id"):
        await alice.update(job.id, ["spec.name"], name="three", request_id=request_id)
    assert (await alice.get(job.id)).spec.name == "two"


async def test_an_update_with_an_etag_again_is_no_lost_race(alice: Caller) -> None:
    request_id = fresh()
    job = await alice.submit("/bin/true", hold=True)
    job = await alice.wait(job.id, pb.JOB_STATE_HELD)
    first = await alice.update(job.id, ["spec.name"], name="one", etag=job.etag, request_id=request_id)
    again = await alice.update(job.id, ["spec.name"], name="one", etag=job.etag, request_id=request_id)
    assert again == first


async def test_hold_and_release_again_change_nothing_more(alice: Caller) -> None:
    job = await alice.submit("/bin/true", hold=True)
    await alice.wait(job.id, pb.JOB_STATE_HELD)
    released = await alice.release(job.id, "release-" + job.id)
    await alice.wait(job.id)
    assert await alice.release(job.id, "release-" + job.id) == released

    other = await alice.submit("/bin/true", hold=True)
    held = await alice.hold(other.id, "hold-" + other.id)
    await alice.release(other.id)
    ended = await alice.wait(other.id)
    assert await alice.hold(other.id, "hold-" + other.id) == held
    assert (await alice.get(other.id)).status == ended.status


async def test_cancel_again_answers_as_before(alice: Caller) -> None:
    job = await alice.submit("/bin/sleep", "600")
    first = await alice.cancel(job.id, "cancel-" + job.id)
    await alice.wait(job.id)
    assert await alice.cancel(job.id, "cancel-" + job.id) == first


async def test_cancel_matching_again_answers_as_before(alice: Caller) -> None:
    request_id = fresh()
    jobs = await alice.batch([alice.spec("/bin/true", hold=True)] * 3)
    first = await alice.cancel_matching(alice.mine(), request_id)
    assert sorted(first) == sorted(job.id for job in jobs)
    later = await alice.submit("/bin/true", hold=True)
    assert await alice.cancel_matching(alice.mine(), request_id) == first
    assert not (await alice.get(later.id)).cancel_requested
    with refused("INVALID_ARGUMENT", "REQUEST_ID_REUSED", "request_id"):
        await alice.cancel_matching(alice.mine(name="x"), request_id)


@pytest.mark.parametrize("method", ["HoldJob", "ReleaseJob", "CancelJob"])
async def test_steering_another_job_under_the_same_request_id_is_refused(alice: Caller, method: str) -> None:
    request_id = fresh()
    first, second = await alice.batch([alice.spec("/bin/true", hold=True)] * 2)
    request = getattr(rpc, f"{method}Request")
    await alice.call(method, request(job_id=first.id, request_id=request_id))
    before = await alice.wait(second.id, pb.JOB_STATE_HELD)
    with refused("INVALID_ARGUMENT", "REQUEST_ID_REUSED", "request_id"):
        await alice.call(method, request(job_id=second.id, request_id=request_id))
    assert await alice.get(second.id) == before


async def test_after_a_deadline_the_same_call_tells_what_came_of_it(own_server, connect) -> None:
    server = own_server(limits={"default_deadline": 0.02})
    alice = connect(server, "alice")
    spec = alice.spec("/bin/true", hold=True)
    request = rpc.BatchSubmitJobsRequest(jobs=[rpc.SubmitJobRequest(spec=spec)] * 1000, request_id="once")
    with refused("DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED") as error:
        await alice.call("BatchSubmitJobs", request, timeout=None)
    assert "request_id" in error.message
    again = connect(server, "alice")
    jobs = (await again.call("BatchSubmitJobs", request)).jobs
    found = await again.list(rpc.JobFilter(labels=[f"test={alice.label}"]), page_size=1000)
    assert {job.id for job in found.jobs} == {job.id for job in jobs}
    assert len(found.jobs) == 1000
    assert found.next_page_token == ""


@pytest.mark.parametrize("kill", [False, True], ids=["stopped", "killed"])
async def test_the_first_answer_outlives_the_server(own_server, connect, kill: bool) -> None:
    server = own_server()
    alice = connect(server, "alice")
    first = await alice.submit("/bin/true", hold=True, name="x", request_id="only-once")
    batch = await alice.batch([alice.spec("/bin/true", hold=True)] * 2, "only-once")
    server.restart(kill=kill)
    again = connect(server, "alice")
    again.label = alice.label
    assert await again.submit("/bin/true", hold=True, name="x", request_id="only-once") == first
    assert await again.batch([alice.spec("/bin/true", hold=True)] * 2, "only-once") == batch
    assert sorted(await again.list_ids()) == sorted([first.id, *(job.id for job in batch)])
    with refused("INVALID_ARGUMENT", "REQUEST_ID_REUSED", "request_id"):
        await again.submit("/bin/true", hold=True, name="y", request_id="only-once")
