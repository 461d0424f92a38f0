"""Submitting, beside an INSERT that is as durable."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from openfacility.jobs.v1 import jobs_service_pb2

from bench.load import Unary, call
from bench.processes import USER, Process, base, facility, workplace
from bench.reads import SERVICE, settle, submission, submit
from bench.results import Result, Sample, ratios, rounds

_BATCH = 100


def single(quick: bool) -> Sequence[Result]:
    """SubmitJob beside one INSERT and commit a call."""
    return _compare("submit", "SubmitJob", submission().SerializeToString(), quick, {})


def batch(quick: bool) -> Sequence[Result]:
    """BatchSubmitJobs of 100 beside 100 INSERTs and one commit a call."""
    request = jobs_service_pb2.BatchSubmitJobsRequest(jobs=[submission()] * _BATCH)
    return _compare(
        f"submit of {_BATCH}", "BatchSubmitJobs", request.SerializeToString(), quick, {"connections": 1, "streams": 2}
    )


def _compare(name: str, rpc: str, request: bytes, quick: bool, load: dict[str, int]) -> Sequence[Result]:
    with workplace() as directory, facility(directory) as server:
        get = jobs_service_pb2.GetJobRequest(job_id=submit(server, 1)[0])
        answer = call(server, f"{SERVICE}GetJob", get.SerializeToString(), USER)
        with base(directory, "insert", answer=answer) as bare:
            ours = Unary(server, directory, SERVICE + rpc, request, USER, 1, exact=False, **load)
            theirs = Unary(bare, directory, SERVICE + rpc, request, USER, 1, exact=False, **load)
            variants = {"openfacility": _with_hand_over(server, ours), "INSERT": theirs}
            samples = rounds(variants, 1 if quick else 5)
    return ratios(name, samples, "openfacility", "INSERT")


def _with_hand_over(server: Process, load: Unary) -> Callable[[], Sample]:
    """Adds, to the CPU of a submission, what it takes to hand the job to its engine, which may come later."""

    def take() -> Sample:
        sample = load()
        before = server.cpu()
        deadline = time.monotonic() + 120
        settle(server)
        assert time.monotonic() < deadline, "the jobs are not handed over"
        later = (server.cpu() - before) / load.done * 1e6
        return Sample(sample.rate, sample.cpu_us + later, sample.p50_ms, sample.p99_ms)

    return take
