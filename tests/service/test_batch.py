"""BatchSubmitJobs: all or none, in order, with the place of what is wrong."""

from __future__ import annotations

import pytest
from openfacility.jobs.v1 import job_pb2 as pb
from openfacility.jobs.v1 import jobs_service_pb2 as rpc

from tests.support.calls import Caller, refused


@pytest.mark.both_databases
async def test_jobs_come_back_in_the_order_of_the_request(alice: Caller) -> None:
    jobs = await alice.batch(alice.spec("/bin/true", hold=True, name=f"job {number}") for number in range(10))
    assert [job.spec.name for job in jobs] == [f"job {number}" for number in range(10)]
    assert len({job.id for job in jobs}) == 10
    assert {job.status.state for job in jobs} == {pb.JOB_STATE_NEW}
    assert await alice.list_ids() == [job.id for job in reversed(jobs)]


async def test_jobs_of_a_batch_share_one_revision(alice: Caller) -> None:
    start = (await alice.list()).revision
    jobs = await alice.batch([alice.spec("/bin/true", hold=True)] * 3)
    assert len({job.revision for job in jobs}) == 1
    async with alice.watch(filter=alice.mine(), after_revision=start) as watch:
        first = await watch.next()
    assert [change.job.id for change in first.changes[:3]] == [job.id for job in jobs]


async def test_they_run(alice: Caller) -> None:
    jobs = await alice.batch(alice.spec("/bin/sh", "-c", f"exit {number}") for number in range(3))
    ended = await alice.wait_all(job.id for job in jobs)
    assert [ended[job.id].status.exit_code for job in jobs] == [0, 1, 2]


async def test_a_thousand_in_one_call(alice: Caller) -> None:
    jobs = await alice.batch([alice.spec("/bin/true", hold=True)] * 1000)
    assert len({job.id for job in jobs}) == 1000


WRONG = {
    "field rule": (rpc.SubmitJobRequest(spec=pb.JobSpec(executable="x", directory="y")), "jobs[2].spec.directory"),
    "program": (rpc.SubmitJobRequest(spec=pb.JobSpec()), "jobs[2].spec"),
    "no spec": (rpc.SubmitJobRequest(), "jobs[2].spec"),
    "resource": (rpc.SubmitJobRequest(resource_id="none", spec=pb.JobSpec(executable="x")), "jobs[2].resource_id"),
    "dependency": (
        rpc.SubmitJobRequest(
            spec=pb.JobSpec(
                executable="x",
                dependencies=[pb.JobDependency(job_id="nosuch", condition=pb.JobDependency.CONDITION_AFTER)],
            )
        ),
        "jobs[2].spec.dependencies[0].job_id",
    ),
    "path": (rpc.SubmitJobRequest(spec=pb.JobSpec(script_path="/no/such")), "jobs[2].spec.script_path"),
}


@pytest.mark.parametrize("case", WRONG)
@pytest.mark.both_databases
async def test_one_wrong_job_and_none_is_submitted(alice: Caller, case: str) -> None:
    wrong, field = WRONG[case]
    before = await alice.seen()
    good = rpc.SubmitJobRequest(spec=pb.JobSpec(executable="/bin/true", hold=True))
    with refused("INVALID_ARGUMENT", field=field):
        await alice.call("BatchSubmitJobs", rpc.BatchSubmitJobsRequest(jobs=[good, good, wrong, good]))
    assert await alice.seen() == before


@pytest.mark.parametrize("count", [0, 1001])
async def test_no_jobs_and_too_many_are_refused(alice: Caller, count: int) -> None:
    before = await alice.seen()
    with refused("INVALID_ARGUMENT", "INVALID_FIELD", "jobs"):
        await alice.batch([pb.JobSpec(executable="/bin/true")] * count)
    assert await alice.seen() == before


async def test_a_batch_that_is_too_large_is_refused(alice: Caller) -> None:
    before = await alice.seen()
    with refused("INVALID_ARGUMENT", field="jobs"):
        await alice.batch([alice.spec("/bin/true", "x" * 100_000)] * 40)
    assert await alice.seen() == before


async def test_request_ids_of_single_jobs_are_not_used(alice: Caller) -> None:
    one = rpc.SubmitJobRequest(spec=alice.spec("/bin/true", hold=True), request_id="in-a-batch")
    response = await alice.call("BatchSubmitJobs", rpc.BatchSubmitJobsRequest(jobs=[one, one]))
    alice.submitted += [job.id for job in response.jobs]
    assert len({job.id for job in response.jobs}) == 2


async def test_the_limit_of_unfinished_jobs_counts_the_whole_batch(own_server, connect) -> None:
    alice = connect(own_server(limits={"unfinished_jobs_per_owner": 3}), "alice")
    with refused("RESOURCE_EXHAUSTED", "TOO_MANY_JOBS"):
        await alice.batch([alice.spec("/bin/true", hold=True)] * 4)
    assert await alice.list_ids() == []
    assert len(await alice.batch([alice.spec("/bin/true", hold=True)] * 3)) == 3
