"""Jobs on a batch system: what it says of them, what it refuses, and what one can ask of it; each for both clients."""

from __future__ import annotations

import asyncio
import signal
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import openfacility_client as of
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2 as details
from openfacility.jobs.v1 import job_pb2
from openfacility.jobs.v1 import jobs_service_pb2 as pb

from tests.client.scripted import Failure, reason
from tests.client.scripted import job as make_job

pytestmark = pytest.mark.timeout(30)

CODE = grpc.StatusCode
NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)


def no_answer(name: str = "SUBMIT_PENDING", **more: Any) -> Failure:
    soon = details.RetryInfo(retry_delay=Duration(nanos=1_000_000))
    return Failure(CODE.UNAVAILABLE, "the batch system does not answer", (reason(name, **more), soon))


async def test_what_a_batch_system_says_of_a_job(client, server):
    wire = make_job("j1", "QUEUED")
    wire.status.MergeFrom(
        job_pb2.JobStatus(reason="JOB_REASON_LIMIT", engine_reason="AssocGrpCPUMinutesLimit", engine_message="No.")
    )
    wire.status.expected_start_time.FromDatetime(NOON)
    wire.observe_time.FromDatetime(NOON)
    wire.external, wire.nodes = True, "n[1-4]"
    server.on("GetJob", wire)
    job = await client.jobs.get("j1", fresh=True)
    assert job.status == of.JobStatus(
        of.JobState.QUEUED,
        of.JobReason.LIMIT,
        engine_reason="AssocGrpCPUMinutesLimit",
        expected_start_time=NOON,
        engine_message="No.",
    )
    assert (job.observe_time, job.external, job.nodes) == (NOON, True, "n[1-4]")
    assert of.to_json(job)["observe_time"] == "2030-01-01T12:00:00Z"
    await client.jobs.get("j1")
    assert [request.fresh for request in server.requests("GetJob")] == [True, False]


async def test_a_fresh_list_says_how_fresh_it_is(client, server):
    for token, hours in (("more", 0), ("", 1)):
        page = pb.ListJobsResponse(jobs=[make_job()], next_page_token=token, revision=7)
        page.observe_times["cluster"].FromDatetime(NOON + timedelta(hours=hours))
        server.on("ListJobs", page)
    found = client.jobs.list(fresh=True)
    assert found.observe_times == {}
    pages = [page async for page in found.pages()]
    assert [request.fresh for request in server.requests("ListJobs")] == [True, True]
    assert pages[0].observe_times == {"cluster": NOON}
    assert found.observe_times == {"cluster": NOON + timedelta(hours=1)}
    assert of.to_json(pages[0])["observe_times"] == {"cluster": "2030-01-01T12:00:00Z"}


@pytest.mark.parametrize("given", ["USR1", "SIGUSR1", "usr1", signal.SIGUSR1])
async def test_a_signal_by_any_of_its_names(client, server, given):
    server.on("SignalJob", make_job("j1", "ACTIVE"))
    assert (await client.jobs.signal(of.Job(id="j1"), given)).id == "j1"
    sent = server.requests("SignalJob")[0]
    assert (sent.job_id, sent.signal, len(sent.request_id)) == ("j1", "USR1", 36)


async def test_requeue(client, server):
    server.on("RequeueJob", make_job("j1", "QUEUED"))
    await client.jobs.requeue("j1")
    await client.jobs.requeue("j1", hold=True, request_id="mine")
    first, second = server.requests("RequeueJob")
    assert (first.hold, second.hold, second.request_id) == (False, True, "mine")
    assert len(first.request_id) == 36


async def test_an_estimate_takes_what_a_submission_takes(client, server):
    answer = pb.EstimateStartResponse(
        acceptable=True, node_count=2, core_count=8, core_hours=4.5, node_hours=1.125, account="m1"
    )
    answer.expected_start_time.FromDatetime(NOON)
    refused = pb.EstimateStartResponse(
        reason="BAD_QOS", message="No such QOS.", field="spec.attributes", engine_message="Invalid qos specification"
    )
    server.on("EstimateStart", answer, refused)
    estimate = await client.jobs.estimate("/bin/true", nodes=2, account="m1", resource="cluster")
    assert estimate == of.Estimate(
        True,
        expected_start_time=NOON,
        node_count=2,
        core_count=8,
        core_hours=4.5,
        node_hours=1.125,
        account="m1",
    )
    assert of.to_json(estimate)["core_hours"] == 4.5
    again = await client.jobs.estimate(of.job_spec("/bin/true", custom_attributes={"slurm.qos": "no"}))
    assert (again.acceptable, again.reason, again.engine_message) == (False, "BAD_QOS", "Invalid qos specification")
    assert again.expected_start_time is None
    first, second = server.requests("EstimateStart")
    assert (first.resource_id, first.spec.resources.node_count, first.spec.attributes.account) == ("cluster", 2, "m1")
    assert dict(second.spec.attributes.custom_attributes) == {"slurm.qos": "no"}
    with pytest.raises(TypeError, match="one JobSpec"):
        await client.jobs.estimate(of.job_spec("/bin/true"), name="n")


async def test_reservations(client, server):
    wire = pb.Reservation(
        id="bk1", resource_id="cluster", nodes="n[1-2]", node_count=2, users=["laba"], flags=["SPEC_NODES"]
    )
    wire.start_time.FromDatetime(NOON)
    server.on("ListReservations", pb.ListReservationsResponse(reservations=[wire]))
    found = await client.jobs.reservations(resource_ids="cluster")
    assert found == [
        of.Reservation(
            "bk1",
            "cluster",
            start_time=NOON,
            nodes="n[1-2]",
            node_count=2,
            users=("laba",),
            flags=("SPEC_NODES",),
        )
    ]
    await client.jobs.reservations()
    assert [list(request.resource_ids) for request in server.requests("ListReservations")] == [["cluster"], []]
    assert of.to_json(found[0])["start_time"] == "2030-01-01T12:00:00Z"


async def test_a_refusal_has_the_batch_systems_words(client, server):
    words = "Invalid account or account/partition combination specified"
    info = reason("BAD_ACCOUNT", engine_message=words, job_id="j7")
    bad = details.BadRequest(
        field_violations=[{"field": "spec.attributes.account", "description": "no such project", "reason": "R"}]
    )
    server.on("SubmitJob", Failure(CODE.INVALID_ARGUMENT, "no such project", (info, bad)))
    with pytest.raises(of.InvalidArgument) as caught:
        await client.jobs.submit("/bin/true", account="m9")
    error = caught.value
    assert (error.reason, error.engine_message, error.job_id) == ("BAD_ACCOUNT", words, "j7")
    assert str(error).splitlines()[-1] == f"  the batch system's words: {words}"
    assert len(server.calls) == 1


async def test_a_limit_that_is_reached_is_no_reason_to_wait(client, server):
    quota = details.QuotaFailure(violations=[{"subject": "j7", "description": "10 of 10 jobs"}])
    server.on("SubmitJob", Failure(CODE.RESOURCE_EXHAUSTED, "too much", (reason("OVER_LIMIT"), quota)))
    with pytest.raises(of.ResourceExhausted) as caught:
        await client.jobs.submit("/bin/true")
    assert caught.value.violations == (of.QuotaViolation("j7", "10 of 10 jobs"),)
    assert caught.value.retry_after is None
    assert len(server.calls) == 1


async def test_what_an_update_did_all_the_same(client, server):
    info = reason("UPDATE_REFUSED", applied="spec.name,spec.attributes.duration")
    server.on("UpdateJob", Failure(CODE.FAILED_PRECONDITION, "no", (info,)), Failure(CODE.FAILED_PRECONDITION))
    with pytest.raises(of.FailedPrecondition) as caught:
        await client.jobs.update("j1", name="n", duration=60, queue="q")
    assert caught.value.applied == ("spec.name", "spec.attributes.duration")
    with pytest.raises(of.FailedPrecondition) as caught:
        await client.jobs.update("j1", name="n")
    assert caught.value.applied == ()


@pytest.mark.parametrize("name", ["SUBMIT_PENDING", "ENGINE_UNAVAILABLE"])
async def test_a_submission_is_repeated_until_the_batch_system_answers(client, server, name):
    server.on("SubmitJob", *[no_answer(name)] * 9, make_job("j1", "QUEUED"))
    job = await client.jobs.submit("/bin/true")
    assert (job.id, job.state) == ("j1", "QUEUED")
    sent = server.requests("SubmitJob")
    assert len(sent) == 10
    assert len({request.request_id for request in sent}) == 1


async def test_a_submission_is_repeated_no_longer_than_its_time(client, server):
    server.on("SubmitJob", no_answer(job_id="j1"))
    with pytest.raises(of.Unavailable) as caught:
        await client.jobs.submit("/bin/true", timeout=1.5)
    assert (caught.value.reason, caught.value.job_id) == ("SUBMIT_PENDING", "j1")
    assert caught.value.retry_request_id == server.requests("SubmitJob")[0].request_id


async def test_time_that_runs_out_for_want_of_an_answer_says_so(client, server):
    async def never(_: Any) -> None:
        await asyncio.Event().wait()

    server.on("SubmitJob", no_answer(), never)
    with pytest.raises(of.Unavailable) as caught:
        await client.jobs.submit("/bin/true", request_id="mine", timeout=1)
    assert (caught.value.reason, caught.value.retry_request_id) == ("SUBMIT_PENDING", "mine")


async def test_other_calls_do_not_wait_for_a_batch_system(client, server):
    server.on("GetJob", no_answer("ENGINE_UNAVAILABLE"))
    with pytest.raises(of.Unavailable) as caught:
        await client.jobs.get("j1", fresh=True)
    assert caught.value.reason == "ENGINE_UNAVAILABLE"
    assert len(server.calls) <= 4
