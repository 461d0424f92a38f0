"""The commands for what a batch system adds to jobs: what they print, what they ask, how they exit."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import click
import grpc
import pytest
from buf.validate import validate_pb2
from google.rpc import error_details_pb2 as details
from openfacility.jobs.v1 import job_pb2
from openfacility.jobs.v1 import jobs_service_pb2 as pb
from openfacility_cli._layout import clock, until
from openfacility_cli._values import SIGNAL, SIGNALS
from openfacility_cli.main import run as run_main

from tests.client.scripted import Failure, ScriptedServer, reason
from tests.client.scripted import job as make_job

pytestmark = pytest.mark.timeout(60)

CODE = grpc.StatusCode
NOON = datetime(2130, 1, 1, 12, tzinfo=UTC)
Run = Callable[..., Awaitable[tuple[int, str, str]]]


@pytest.fixture
def run(server: ScriptedServer, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs the command against the scripted server; returns exit code, output and errors."""
    monkeypatch.setenv("OPENFACILITY_ADDRESS", server.address)
    monkeypatch.setenv("TZ", "UTC")

    async def call(*words: str) -> tuple[int, str, str]:
        capfd.readouterr()
        code = await asyncio.wait_for(asyncio.to_thread(run_main, list(words)), 30)
        sys.stdout.flush()
        out, err = capfd.readouterr()
        return code, click.unstyle(out), err

    return call


def waiting_job() -> job_pb2.Job:
    job = make_job("j1", "QUEUED", name="one")
    job.status.MergeFrom(
        job_pb2.JobStatus(
            reason="JOB_REASON_PRIORITY", message="Jobs before it in the queue go first.", engine_reason="Priority"
        )
    )
    job.status.expected_start_time.FromDatetime(NOON)
    job.spec.attributes.custom_attributes["slurm.qos"] = "debug"
    return job


def external_job() -> job_pb2.Job:
    job = make_job("j2", "ACTIVE", name="by hand")
    job.external, job.nodes, job.native_id = True, "n[1-4]", "4711"
    job.observe_time.FromDatetime(NOON)
    return job


async def test_get_says_for_what_a_job_waits_and_where_it_runs(server, run):
    server.on("GetJob", waiting_job(), external_job())
    code, out, _ = await run("jobs", "get", "--fresh", "j1", "j2")
    assert code == 0
    first, second = out.split("\n\n")
    assert "state:       QUEUED (waiting: jobs before it in the queue go first, expected 2130-01-01 12:00)" in first
    assert re.search(r"^expected:    2130-01-01 12:00:00 \(in \d+d\)$", first, re.MULTILINE)
    assert "engine says: Priority" in first
    assert "attributes:  slurm.qos=debug" in first
    assert "state:       ACTIVE (external, on n[1-4])" in second
    assert "external:    submitted around this service" in second
    assert "nodes:       n[1-4]" in second
    assert "as of:       2130-01-01 12:00:00" in second
    assert "command:" not in second
    assert [request.fresh for request in server.requests("GetJob")] == [True, True]


async def test_get_has_the_words_of_a_refusal(server, run):
    job = make_job("j1", "FAILED")
    status = job_pb2.JobStatus(
        reason="JOB_REASON_REFUSED",
        message="There is no project m9.",
        engine_reason="BAD_ACCOUNT",
        engine_message="Invalid account",
    )
    job.status.MergeFrom(status)
    server.on("GetJob", job)
    out = (await run("jobs", "get", "j1"))[1]
    assert "state:       FAILED (refused: There is no project m9.)" in out
    assert "engine says: BAD_ACCOUNT: Invalid account" in out


async def test_lists_say_for_what_jobs_wait(server, run):
    server.on("ListJobs", pb.ListJobsResponse(jobs=[waiting_job(), external_job()], revision=5))
    code, out, _ = await run("jobs", "list", "--fresh")
    assert code == 0
    lines = out.splitlines()
    assert lines[0].endswith("REMARKS")
    assert lines[1].endswith("waiting: jobs before it in the queue go first, expected 2130-01-01 12:00")
    assert lines[2].endswith("external, on n[1-4]")
    assert server.requests("ListJobs")[0].fresh
    await run("jobs", "list")
    assert not server.requests("ListJobs")[1].fresh


async def test_watches_say_for_what_jobs_wait(server, run):
    async def watch(_: Any) -> AsyncIterator[pb.WatchJobsResponse]:
        for number, job in enumerate((waiting_job(), external_job(), make_job("j1", "COMPLETED")), 1):
            job.revision = number
            change = pb.JobChange(type="TYPE_UPDATED", revision=number, job=job)
            yield pb.WatchJobsResponse(changes=[change], revision=number)
        raise Failure(CODE.PERMISSION_DENIED, "no longer")

    server.on("WatchJobs", watch)
    code, out, _ = await run("watch")
    assert code == 77
    first, second, third = (line.split("  ", 1)[1] for line in out.splitlines())
    assert first == "j1  QUEUED     waiting: jobs before it in the queue go first, expected 2130-01-01 12:00"
    assert second == "j2  ACTIVE     external, on n[1-4]"
    assert third == "j1  COMPLETED"


async def test_output_that_may_not_be_read_does_not_hide_how_the_job_ended(server, run):
    async def watch(_: Any) -> AsyncIterator[pb.WatchJobsResponse]:
        job = make_job("j1", "FAILED", revision=1)
        job.status.exit_code = 7
        yield pb.WatchJobsResponse(changes=[pb.JobChange(type="TYPE_UPDATED", revision=1, job=job)], revision=1)

    server.on("SubmitJob", make_job("j1"))
    server.on("WatchJobs", watch)
    server.on("ReadJobOutput", Failure(CODE.FAILED_PRECONDITION, "Not readable.", (reason("OUTPUT_UNREADABLE"),)))
    code, out, err = await run("jobs", "submit", "--watch", "x")
    assert (code, out) == (7, "")
    assert err.splitlines()[-1] == "openfacility: Not readable."


async def test_signal_and_requeue(server, run):
    server.on("SignalJob", make_job("j1", "ACTIVE"))
    refused = Failure(CODE.FAILED_PRECONDITION, "the engine puts none back", (reason("ENGINE_CANNOT"),))
    server.on("RequeueJob", make_job("j1", "QUEUED"), refused)
    assert await run("jobs", "signal", "j1", "j2", "sigusr1") == (0, "j1  ACTIVE\nj1  ACTIVE\n", "")
    assert [(each.job_id, each.signal) for each in server.requests("SignalJob")] == [("j1", "USR1"), ("j2", "USR1")]
    assert (await run("jobs", "signal", "j1", "SIGWHAT"))[0] == 2
    assert (await run("jobs", "signal", "USR1"))[0] == 2
    assert await run("jobs", "requeue", "j1", "--hold") == (0, "j1  QUEUED\n", "")
    assert server.requests("RequeueJob")[0].hold
    assert await run("jobs", "requeue", "j1") == (1, "", "openfacility: the engine puts none back\n")


def test_signals_are_those_of_the_contract():
    field = pb.SignalJobRequest.DESCRIPTOR.fields_by_name["signal"]
    allowed = field.GetOptions().Extensions[validate_pb2.field].string
    assert tuple(getattr(allowed, "in")) == SIGNALS
    assert [SIGNAL.convert(text, None, None) for text in ("TERM", "SIGTERM", "term")] == ["TERM"] * 3


async def test_an_estimate(server, run):
    answer = pb.EstimateStartResponse(
        acceptable=True, node_count=2, core_count=8, core_hours=4.5, node_hours=1.125, account="m1"
    )
    answer.expected_start_time.FromDatetime(NOON)
    server.on("EstimateStart", answer, pb.EstimateStartResponse(acceptable=True), answer)
    words = ["--qos", "debug", "--constraint", "gpu", "--attribute", "slurm.nice=5", "--set", "slurm.mail=x"]
    words += ["-A", "m1", "-q", "long", "--reservation", "bk1", "-N", "2", "-r", "cluster", "--array", "0-3"]
    code, out, err = await run("jobs", "estimate", *words, "--", "/bin/true")
    assert (code, err) == (0, "")
    assert re.sub(r"in \d+d", "in …", out).splitlines() == [
        "acceptable:  yes",
        "expected:    2130-01-01 12:00:00 (in …)",
        "nodes:       2",
        "cores:       8",
        "core hours:  4.5",
        "node hours:  1.125",
        "account:     m1",
    ]
    sent = server.requests("EstimateStart")[0]
    assert (sent.resource_id, sent.spec.executable, sent.spec.array.last) == ("cluster", "/bin/true", 3)
    attributes = sent.spec.attributes
    assert (attributes.account, attributes.queue_name, attributes.reservation_id) == ("m1", "long", "bk1")
    assert dict(attributes.custom_attributes) == {
        "slurm.qos": "debug",
        "slurm.constraint": "gpu",
        "slurm.nice": "5",
        "slurm.mail": "x",
    }
    assert (await run("jobs", "estimate", "x"))[1] == "acceptable:  yes\nexpected:    not known\n"
    assert json.loads((await run("--json", "jobs", "estimate", "x"))[1])["core_hours"] == 4.5
    assert (await run("jobs", "estimate"))[0] == 2


async def test_an_estimate_of_what_would_be_refused(server, run):
    refused = pb.EstimateStartResponse(
        reason="BAD_QOS", message="There is no QOS x.", field="spec.attributes", engine_message="Invalid qos"
    )
    server.on("EstimateStart", refused)
    code, out, _ = await run("jobs", "estimate", "/bin/true")
    assert code == 4
    assert out.splitlines() == [
        "acceptable:  no",
        "why not:     There is no QOS x.",
        "reason:      BAD_QOS",
        "field:       spec.attributes",
        "engine says: Invalid qos",
    ]


async def test_reservations(server, run):
    mine = pb.Reservation(
        id="bk1", resource_id="cluster", nodes="n[1-2]", core_count=8, users=["laba"], accounts=["m1"], active=True
    )
    fixed = pb.Reservation(id="pm", resource_id="cluster", node_count=4, flags=["MAINT"], maintenance=True)
    for each in (mine, fixed):
        each.start_time.FromDatetime(NOON)
        each.end_time.FromDatetime(NOON + timedelta(hours=2))
    server.on("ListReservations", pb.ListReservationsResponse(reservations=[mine, fixed]))
    code, out, _ = await run("reservations", "-r", "cluster")
    assert code == 0
    first, second = (re.split(r"  +", line) for line in re.sub(r"in \d+d", "in …", out).splitlines()[1:])
    assert first == ["bk1", "cluster", "2130-01-01 12:00", "2130-01-01 14:00", "active", "n[1-2]", "8", "laba,m1"]
    assert second == ["pm", "cluster", "2130-01-01 12:00", "2130-01-01 14:00", "in …", "4", "maintenance", "maint"]
    assert list(server.requests("ListReservations")[0].resource_ids) == ["cluster"]
    lines = (await run("reservations", "--json"))[1].splitlines()
    assert [json.loads(line)["id"] for line in lines] == ["bk1", "pm"]


async def test_refusals_come_with_the_batch_systems_words(server, run):
    info = reason("BAD_ACCOUNT", request_id="r-1", job_id="j7", engine_message="Invalid account")
    field = {"field": "spec.attributes.account", "description": "There is no project m9.", "reason": "BAD_ACCOUNT"}
    bad = details.BadRequest(field_violations=[field])
    server.on("SubmitJob", Failure(CODE.INVALID_ARGUMENT, "There is no project m9.", (info, bad)))
    code, out, err = await run("jobs", "submit", "x")
    assert (code, out) == (1, "")
    assert err.splitlines() == [
        "openfacility: There is no project m9. (request r-1)",
        "  in spec.attributes.account",
        "  the batch system's words: Invalid account",
        "  on record as job j7",
    ]


async def test_what_is_not_allowed_or_over_a_limit(server, run):
    quota = details.QuotaFailure(violations=[{"subject": "j7", "description": "Too many jobs."}])
    server.on("SubmitJob", Failure(CODE.RESOURCE_EXHAUSTED, "Too many jobs.", (reason("OVER_LIMIT"), quota)))
    server.on("SubmitJob", Failure(CODE.PERMISSION_DENIED, "No account.", (reason("NO_POSIX_ACCOUNT"),)))
    assert await run("jobs", "submit", "x") == (1, "", "openfacility: Too many jobs.\n")
    assert await run("jobs", "submit", "x") == (77, "", "openfacility: No account.\n")


async def test_an_update_that_took_effect_in_part(server, run):
    info = reason("UPDATE_REFUSED", applied="spec.name")
    server.on("UpdateJob", Failure(CODE.FAILED_PRECONDITION, "No.", (info,)))
    assert await run("jobs", "update", "j1", "--name", "n", "--queue", "q") == (
        1,
        "",
        "openfacility: No.\n  changed all the same: spec.name\n",
    )


async def test_a_batch_system_that_does_not_answer(server, run):
    server.on("SubmitJob", Failure(CODE.UNAVAILABLE, "No answer.", (reason("SUBMIT_PENDING", job_id="j7"),)))
    code, out, err = await run("--timeout", "0.5", "jobs", "submit", "--request-id", "mine", "x")
    assert (code, out) == (69, "")
    assert err == (
        "openfacility: No answer.\n  it may run nevertheless: learn what became of it with --request-id mine\n"
    )
    assert {request.request_id for request in server.requests("SubmitJob")} == {"mine"}


def test_times_are_relative_and_dated_unless_today():
    now = datetime.now(UTC)
    assert until(now) == "now"
    assert until(now + timedelta(minutes=30, seconds=30)) == "in 30m"
    assert until(now - timedelta(minutes=30, seconds=30)) == "30m ago"
    assert clock(NOON) == NOON.astimezone().strftime("%Y-%m-%d %H:%M")
    assert re.fullmatch(r"\d\d:\d\d", clock(now))
