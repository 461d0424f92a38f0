"""Single calls: results, tokens, deadlines, retries, errors; each for both clients."""

from __future__ import annotations

import asyncio
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

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


def same_job(request: Any) -> job_pb2.Job:
    return job_pb2.Job(id="j1", spec=request.spec)


async def test_submit_takes_a_command_and_returns_plain_data(client, server):
    server.on("SubmitJob", same_job)
    job = await client.jobs.submit(
        "/bin/echo",
        "hi",
        name="n",
        environment={"A": "1"},
        directory="/tmp",
        duration=90,
        cores=2,
        processes=3,
        memory=2**30,
        labels={"a": "b"},
        array=range(0, 10, 3),
        max_active=2,
        after_ok=["x1", "x2"],
        hold=True,
        queue="q",
        account="p",
        container="image:1",
        resource="r1",
    )
    sent = server.requests("SubmitJob")[0]
    assert sent.resource_id == "r1"
    assert len(sent.request_id) == 36
    assert job == of.Job(id="j1", spec=job.spec)
    assert job.spec == of.JobSpec(
        name="n",
        executable="/bin/echo",
        arguments=("hi",),
        directory="/tmp",
        environment={"A": "1"},
        resources=of.ResourceSpec(process_count=3, cpu_cores_per_process=2, memory=2**30),
        attributes=of.JobAttributes(duration=timedelta(seconds=90), queue_name="q", account="p"),
        container=of.Container("image:1"),
        array=of.JobArray(0, 9, 3, 2),
        dependencies=(
            of.JobDependency("x1", of.Condition.AFTER_OK),
            of.JobDependency("x2", of.Condition.AFTER_OK),
        ),
        labels={"a": "b"},
        hold=True,
    )


async def test_submit_takes_a_script_or_a_spec(client, server):
    server.on("SubmitJob", same_job)
    scripted = await client.jobs.submit("arg", script="#!/bin/sh\necho $1")
    assert (scripted.spec.executable, scripted.spec.arguments) == ("", ("arg",))
    spec = of.job_spec("/bin/true", inherit_environment=False)
    assert (await client.jobs.submit(spec)).spec == spec
    with pytest.raises(TypeError, match="one JobSpec"):
        await client.jobs.submit(spec, name="n")
    with pytest.raises(TypeError, match="unknown option: nmae"):
        await client.jobs.submit("/bin/true", nmae="n")
    with pytest.raises(ValueError, match="what to run"):
        await client.jobs.submit()


async def test_results_have_python_types(client, server):
    wire = job_pb2.Job(
        id="j1",
        status=job_pb2.JobStatus(state="JOB_STATE_FAILED", reason="JOB_REASON_NONZERO_EXIT", exit_code=3),
        transitions=[job_pb2.JobTransition(state="JOB_STATE_NEW")],
        usage=job_pb2.JobUsage(elapsed=Duration(seconds=1, nanos=500_000_000), peak_memory=42),
        array_index=0,
        array_counts=job_pb2.ArrayCounts(),
        revision=2**40,
    )
    wire.create_time.FromJsonString("2026-01-02T03:04:05.678Z")
    server.on("GetJob", wire)
    job = await client.jobs.get("j1")
    assert job.create_time == datetime(2026, 1, 2, 3, 4, 5, 678000, tzinfo=UTC)
    assert (job.state, job.status.reason, job.exit_code, job.final) == ("FAILED", of.JobReason.NONZERO_EXIT, 3, True)
    assert job.status.signal is None
    assert job.usage == of.JobUsage(elapsed=timedelta(seconds=1.5), peak_memory=42)
    assert job.transitions == (of.JobTransition(of.JobState.NEW),)
    assert (job.array_index, job.array_counts, job.start_time) == (0, of.ArrayCounts(), None)
    assert of.to_json(job)["revision"] == str(2**40)
    assert of.to_json(job)["status"] == {
        "state": "JOB_STATE_FAILED",
        "reason": "JOB_REASON_NONZERO_EXIT",
        "exit_code": 3,
    }


async def test_values_that_the_client_is_too_old_to_know(client, server):
    server.on("GetJob", job_pb2.Job(id="j1", status=job_pb2.JobStatus(state=99, reason=99)))  # type: ignore[arg-type]
    status = (await client.jobs.get("j1")).status
    assert (status.state, status.reason) == (of.JobState.UNSPECIFIED, of.JobReason.UNSPECIFIED)


async def test_list_goes_over_pages_with_an_empty_one_among_them(client, server):
    for ids, token in ((["a", "b", "c"], "1"), ([], "2"), (["d"], "3"), (["e", "f"], "")):
        jobs = [job_pb2.Job(id=id_) for id_ in ids]
        server.on("ListJobs", pb.ListJobsResponse(jobs=jobs, next_page_token=token, revision=7))
    server.on("ListJobs", RuntimeError("one call too many"))
    found = client.jobs.list(page_size=3, states=["active", of.JobState.HELD], labels={"k": "v"}, owners="me")
    assert [job.id async for job in found] == ["a", "b", "c", "d", "e", "f"]
    assert found.revision == 7
    sent = server.requests("ListJobs")
    assert [request.page_token for request in sent] == ["", "1", "2", "3"]
    assert list(sent[0].filter.states) == [job_pb2.JOB_STATE_ACTIVE, job_pb2.JOB_STATE_HELD]
    assert list(sent[0].filter.labels) == ["k=v"]
    assert list(sent[0].filter.owners) == ["me"]


async def test_list_by_pages(client, server):
    server.on("ListJobs", pb.ListJobsResponse(jobs=[job_pb2.Job(id="a")], next_page_token="1", revision=7))
    server.on("ListJobs", pb.ListJobsResponse(jobs=[job_pb2.Job(id="b")], revision=7))
    pages = [page async for page in client.jobs.list().pages()]
    assert [[job.id for job in page.jobs] for page in pages] == [["a"], ["b"]]
    assert pages[1].revision == 7


async def test_every_mutation_carries_a_request_id(client, server):
    job = make_job()
    server.on("BatchSubmitJobs", pb.BatchSubmitJobsResponse(jobs=[job, job]))
    server.on("CancelJobs", pb.CancelJobsResponse(job_ids=["a"]))
    for method in ("UpdateJob", "HoldJob", "ReleaseJob", "CancelJob"):
        server.on(method, job)
    assert len(await client.jobs.submit_many([of.job_spec("a"), of.job_spec("b")], resource="r")) == 2
    await client.jobs.update("j1", labels={"a": "b"}, duration=5, etag="e")
    await client.jobs.hold("j1")
    await client.jobs.release("j1")
    await client.jobs.cancel(of.Job(id="j1"), request_id="mine")
    assert await client.jobs.cancel_all(labels={"a": "b"}) == ["a"]
    ids = [call.request.request_id for call in server.calls]
    assert len(set(ids)) == 6
    assert ids[4] == "mine"
    update = server.requests("UpdateJob")[0]
    assert list(update.update_mask.paths) == ["spec.labels", "spec.attributes.duration"]
    assert (update.etag, update.job.spec.labels["a"]) == ("e", "b")


async def test_unavailable_is_retried_with_the_same_request_id(client, server):
    server.on("SubmitJob", Failure(UNAVAILABLE), Failure(UNAVAILABLE), same_job)
    await client.jobs.submit("/bin/true")
    sent = server.requests("SubmitJob")
    assert len(sent) == 3
    assert len({request.request_id for request in sent}) == 1


async def test_unavailable_is_retried_four_times_at_most(client, server):
    server.on("GetJob", Failure(UNAVAILABLE))
    with pytest.raises(of.Unavailable):
        await client.jobs.get("j1")
    assert len(server.calls) == 4


async def test_retry_info_is_honoured(client, server):
    soon = details.RetryInfo(retry_delay=Duration(nanos=20_000_000))
    limited = Failure(grpc.StatusCode.RESOURCE_EXHAUSTED, "slowly", (reason("RATE"), soon))
    server.on("GetJob", limited, limited, make_job())
    assert (await client.jobs.get("j1")).id == "j1"
    assert len(server.calls) == 3


async def test_retry_info_is_not_waited_for_beyond_the_deadline(client, server):
    late = details.RetryInfo(retry_delay=Duration(seconds=3600))
    server.on("GetJob", Failure(grpc.StatusCode.RESOURCE_EXHAUSTED, "slowly", (late,)))
    with pytest.raises(of.ResourceExhausted) as caught:
        await client.jobs.get("j1")
    assert caught.value.retry_after == 3600
    assert len(server.calls) == 1


async def test_deadlines(connect, server):
    async def never(_: Any) -> None:
        await asyncio.Event().wait()

    server.on("GetJob", make_job(), make_job(), never)
    client = connect(server.address)
    await client.jobs.get("j1")
    await client.jobs.get("j1", timeout=timedelta(seconds=5))
    with pytest.raises(of.DeadlineExceeded) as caught:
        await client.jobs.get("j1", timeout=0.05)
    assert isinstance(caught.value, TimeoutError)
    default, own, _ = (call.time_remaining for call in server.calls)
    assert 25 < default <= 30.1
    assert 4 < own <= 5.1


async def test_a_token_travels_as_a_bearer_and_is_never_shown(connect, server):
    server.on("GetJob", make_job())
    client = connect(server.address, token="s3cret")
    await client.jobs.get("j1")
    assert server.calls[0].metadata["authorization"] == "Bearer s3cret"
    assert "s3cret" not in repr(client)
    assert "s3cret" not in repr(of.Token("s3cret"))


async def test_a_refused_token_is_replaced_once(connect, server):
    def check(_: Any, context: Any) -> Any:
        given = dict(context.invocation_metadata())["authorization"]
        return make_job() if given == "Bearer t2" else Failure(grpc.StatusCode.UNAUTHENTICATED)

    server.on("GetJob", check)
    made: list[str] = []

    def token() -> str:
        made.append(f"t{len(made) + 1}")
        return made[-1]

    client = connect(server.address, token=token)
    found = await asyncio.gather(*(client.jobs.get("j1") for _ in range(5)))
    assert len(found) == 5
    assert made == ["t1", "t2"]


async def test_a_token_that_stays_refused_is_an_error(connect, server):
    server.on("GetJob", Failure(grpc.StatusCode.UNAUTHENTICATED))
    for token, calls in ((None, 1), ("fixed", 1), (lambda: "same", 1), (iter(["a", "b", "c"]).__next__, 2)):
        server.calls.clear()
        with pytest.raises(of.Unauthenticated):
            await connect(server.address, token=token).jobs.get("j1")
        assert len(server.calls) == calls


async def test_an_expired_token_is_replaced_before_it_is_sent(connect, server):
    server.on("GetJob", make_job())
    tokens = iter([of.Token("old", expires_at=1.0), of.Token("new", expires_at=4e9), of.Token("newer")])
    client = connect(server.address, token=lambda: next(tokens))
    for _ in range(3):
        await client.jobs.get("j1")
    assert [call.metadata["authorization"] for call in server.calls] == ["Bearer old", "Bearer new", "Bearer new"]


async def test_the_asyncio_client_awaits_a_token(server):
    async def token() -> str:
        return "awaited"

    server.on("GetJob", make_job())
    async with of.AsyncClient(server.address, token=token) as client:
        await client.jobs.get("j1")
    assert server.calls[0].metadata["authorization"] == "Bearer awaited"


@pytest.mark.parametrize("kind", of.RPCError.__subclasses__(), ids=lambda kind: kind.__name__)
async def test_every_status_has_its_exception(connect, server, kind):
    code = grpc.StatusCode[kind.code]
    info = reason("SOME_REASON", request_id="r-1", extra="x")
    server.on("HoldJob", Failure(code, "a sentence", (info,)))
    with pytest.raises(kind) as caught:
        await connect(server.address).jobs.hold("j1", request_id="again")
    error = caught.value
    assert type(error) is kind
    assert (error.message, error.reason, error.request_id) == ("a sentence", "SOME_REASON", "r-1")
    assert error.metadata["extra"] == "x"
    assert error.retry_request_id == "again"
    assert str(error) == "HoldJob: a sentence (SOME_REASON, request r-1)"


async def test_errors_carry_their_details(client, server):
    bad = details.BadRequest(field_violations=[{"field": "spec.name", "description": "too long", "reason": "R"}])
    unmet = details.PreconditionFailure(violations=[{"type": "STATE", "subject": "j1", "description": "it runs"}])
    about = details.ResourceInfo(resource_type="job", resource_name="j1")
    gone = reason("COMPACTED", oldest_revision="5", current_revision="9")
    code = grpc.StatusCode
    server.on("GetJob", Failure(code.INVALID_ARGUMENT, "bad", (bad,)))
    server.on("GetJob", Failure(code.FAILED_PRECONDITION, "no", (unmet, about)))
    server.on("GetJob", Failure(code.OUT_OF_RANGE, "gone", (gone,)))
    server.on("GetJob", Failure(code.NOT_FOUND, ""))
    with pytest.raises(of.InvalidArgument) as invalid:
        await client.jobs.get("j1")
    assert invalid.value.violations == (of.FieldViolation("spec.name", "too long", "R"),)
    assert str(invalid.value) == "GetJob: bad\n  spec.name: too long"
    with pytest.raises(of.FailedPrecondition) as failed:
        await client.jobs.get("j1")
    assert failed.value.violations == (of.PreconditionViolation("STATE", "j1", "it runs"),)
    assert failed.value.resource == of.ResourceReference("job", "j1")
    with pytest.raises(of.OutOfRange) as out:
        await client.jobs.get("j1")
    assert (out.value.oldest_revision, out.value.current_revision) == (5, 9)
    with pytest.raises(of.NotFound) as missing:
        await client.jobs.get("j1")
    assert str(missing.value) == "GetJob: Not found"


async def test_a_closed_client_says_so(client, server):
    server.on("GetJob", make_job())
    await client.jobs.get("j1")
    await client.close()
    with pytest.raises(of.ClientClosed):
        await client.jobs.get("j1")


async def test_nobody_there(connect):
    client = connect("127.0.0.1:1")
    with pytest.raises(of.Unavailable) as caught:
        await client.jobs.get("j1")
    assert caught.value.reason == ""
    with pytest.raises(of.Unavailable):
        await client.health()


@pytest.mark.parametrize(
    ("address", "options"),
    [
        ("no-port", {}),
        ("host:99999", {}),
        ("http://host:1", {}),
        ("unix:", {}),
        ("host:1", {"token": "t"}),
        ("10.0.0.1:1", {"token": lambda: "t"}),
        ("host:1", {"tls": of.TLS(cert=b"c")}),
        ("host:1", {"tls": of.TLS(ca="/does/not/exist")}),
        ("host:1", {"timeout": 0}),
    ],
)
async def test_what_cannot_work_is_refused(connect, address, options):
    with pytest.raises(of.ConfigurationError):
        connect(address, **options)


@pytest.mark.parametrize("address", ["localhost:1", "127.9.9.9:1", "[::1]:1", "unix:/tmp/s", "dns:///localhost:1"])
async def test_a_token_may_stay_on_this_machine(connect, address):
    connect(address, token="t")
    connect("host:1", token="t", insecure=True)
    connect("host:1", token="t", tls=True)
