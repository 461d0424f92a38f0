"""Unary reads: one job, and a list of 100."""

from __future__ import annotations

import time
from collections.abc import Sequence

from google.protobuf.duration_pb2 import Duration
from openfacility.jobs.v1 import job_pb2, jobs_service_pb2

from bench.load import Unary, call
from bench.processes import USER, Process, base, facility, workplace
from bench.results import Result, ratios, rounds

SERVICE = "/openfacility.jobs.v1.JobsService/"


def submission(hold: bool = True) -> jobs_service_pb2.SubmitJobRequest:
    """A job of ordinary size."""
    spec = job_pb2.JobSpec(
        name="bench",
        executable="/bin/sh",
        arguments=["-c", "echo a line of output; sleep 1"],
        labels={"campaign": "2024-11", "step": "relax"},
        attributes=job_pb2.JobAttributes(duration=Duration(seconds=60)),
        hold=hold,
    )
    return jobs_service_pb2.SubmitJobRequest(spec=spec)


def submit(process: Process, count: int) -> list[str]:
    """Submits jobs that stay held; returns their ids."""
    request = jobs_service_pb2.BatchSubmitJobsRequest(jobs=[submission()] * count)
    answer = call(process, f"{SERVICE}BatchSubmitJobs", request.SerializeToString(), USER)
    return [job.id for job in jobs_service_pb2.BatchSubmitJobsResponse.FromString(answer).jobs]


def get(quick: bool) -> Sequence[Result]:
    """GetJob beside constant bytes of the same size."""
    with workplace() as directory, facility(directory) as server:
        request = jobs_service_pb2.GetJobRequest(job_id=submit(server, 1)[0]).SerializeToString()
        settle(server)
        method = f"{SERVICE}GetJob"
        answer = call(server, method, request, USER)
        with base(directory, "constant", answer=answer) as bare:
            variants = {
                "openfacility": Unary(server, directory, method, request, USER, seconds(quick)),
                "constant": Unary(bare, directory, method, request, USER, seconds(quick)),
            }
            samples = rounds(variants, 1 if quick else 7)
    name = f"unary read ({len(answer)} B)"
    return ratios(name, samples, "openfacility", "constant", target=0.9)


def list_100(quick: bool) -> Sequence[Result]:
    """ListJobs of 100 beside the same list built as messages."""
    with workplace() as directory, facility(directory) as server:
        submit(server, 300)
        settle(server)
        method, request = f"{SERVICE}ListJobs", jobs_service_pb2.ListJobsRequest().SerializeToString()
        answer = jobs_service_pb2.ListJobsResponse.FromString(call(server, method, request, USER))
        assert len(answer.jobs) == 100, "a page is 100 jobs"
        with base(directory, "lists", answer=answer.SerializeToString()) as bare:
            same_list(call(bare, method, request, USER), answer)
            variants = {
                "openfacility": Unary(server, directory, method, request, USER, seconds(quick)),
                "messages": Unary(bare, directory, method, request, USER, seconds(quick)),
            }
            samples = rounds(variants, 1 if quick else 7)
    name = f"list of 100 ({answer.ByteSize() / 1000:.1f} kB)"
    return ratios(name, samples, "openfacility", "messages", target=2.0)


def same_list(data: bytes, expected: jobs_service_pb2.ListJobsResponse) -> None:
    """Asserts that the base sends about as much, so that the two are comparable."""
    assert abs(len(data) / expected.ByteSize() - 1) < 0.1, f"{len(data)} bytes beside {expected.ByteSize()}"


def settle(server: Process) -> None:
    """Waits until no submitted job is left to hand over."""
    filter_ = jobs_service_pb2.JobFilter(states=[job_pb2.JOB_STATE_NEW])
    request = jobs_service_pb2.ListJobsRequest(filter=filter_, page_size=1).SerializeToString()
    while jobs_service_pb2.ListJobsResponse.FromString(call(server, f"{SERVICE}ListJobs", request, USER)).jobs:
        time.sleep(0.1)


def seconds(quick: bool) -> int:
    """How long one sample loads a server."""
    return 1 if quick else 2
