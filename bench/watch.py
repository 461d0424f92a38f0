"""Watch fan-out: every change to every watcher, beside a queue for each watcher."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

import grpc
from openfacility.jobs.v1 import jobs_service_pb2, jobs_service_pb2_grpc

from bench.load import call
from bench.processes import OPERATOR, USER, Process, base, facility, workplace
from bench.reads import SERVICE, settle, submit
from bench.results import Result, median

CHANGES_A_SECOND = 100
_JOBS = 50
_AFTER_S = 2.0  # what is still under way when the last change was made


def fan_out(quick: bool) -> Sequence[Result]:
    """Watchers of everything, and 100 changes a second by UpdateJob."""
    watchers = 200 if quick else 1000
    with workplace() as directory, facility(directory) as server:
        ids = submit(server, _JOBS)
        settle(server)
        job = call(server, f"{SERVICE}GetJob", jobs_service_pb2.GetJobRequest(job_id=ids[0]).SerializeToString(), USER)
        with base(directory, "queues", answer=job) as bare:
            reports: dict[str, list[dict[str, Any]]] = {"openfacility": [], "queues": []}
            for number in range(1 if quick else 5):
                for process in (server, bare)[:: -1 if number % 2 else 1]:
                    seconds = (3 if quick else 8) if process is server else (2 if quick else 3)
                    reports[process.name.removeprefix("base-")].append(_round(process, ids, watchers, seconds))
    return _results(watchers, reports["openfacility"], reports["queues"])


def _round(process: Process, ids: Sequence[str], watchers: int, seconds: float) -> dict[str, Any]:
    idle = process.uss()
    command = [sys.executable, "-m", "bench.watchers", str(process.port), OPERATOR, str(watchers)]
    with subprocess.Popen([*command, str(seconds + _AFTER_S)], stdout=subprocess.PIPE, text=True) as client:
        assert client.stdout is not None
        ready = json.loads(client.stdout.readline())
        assert ready["watchers"] == watchers, f"only {ready['watchers']} watches opened"
        memory = (process.uss() - idle) * 1024 / watchers
        cpu = process.cpu()
        made = asyncio.run(_change(process, ids, seconds))
        cpu = process.cpu() - cpu
        report = json.loads(client.stdout.readline())
    wanted = made * watchers
    return {
        **report,
        "memory": memory,
        "delivered": report["changes"] / wanted,
        "cpu_us": cpu / max(report["changes"], 1) * 1e6,
        "rate": report["changes"] / (seconds + _AFTER_S),
    }


async def _change(process: Process, ids: Sequence[str], seconds: float) -> int:
    """Renames jobs 100 times a second to the time of the call; returns how many changes were made."""
    async with grpc.aio.insecure_channel(process.address) as channel:
        stub = jobs_service_pb2_grpc.JobsServiceStub(channel)
        calls = []
        begun = time.monotonic()
        for number in range(int(seconds * CHANGES_A_SECOND)):
            await asyncio.sleep(begun + number / CHANGES_A_SECOND - time.monotonic())
            request = jobs_service_pb2.UpdateJobRequest(update_mask={"paths": ["spec.name"]})
            request.job.id = ids[number % len(ids)]
            request.job.spec.name = str(time.time_ns())
            answer = stub.UpdateJob(request, metadata=(("authorization", f"Bearer {OPERATOR}"),), timeout=60)
            calls.append(answer)
        answers = await asyncio.gather(*calls, return_exceptions=True)
    return sum(not isinstance(answer, BaseException) for answer in answers)


def _results(watchers: int, ours: Sequence[dict[str, Any]], naive: Sequence[dict[str, Any]]) -> Sequence[Result]:
    name = f"watch {watchers} x {CHANGES_A_SECOND}/s"

    def line(measure: str, key: str, unit: str, note: str = "", target: float | None = None) -> Result:
        values = [report[key] for report in ours]
        more = key == "delivered"
        return Result(name, measure, median(values), unit, min(values), max(values), target, more, note)

    def beside(key: str) -> float:
        return median([report[key] for report in naive])

    sent = median([report["changes"] / max(report["messages"], 1) for report in ours])
    client = max(report["cpu"] for report in ours)
    wrong = sum(report["disordered"] + report["ended"] for report in ours)
    return [
        line("delivered in order", "delivered", "x", f"queues: {beside('delivered'):.2f}", 1.0),
        Result(name, "out of order, doubled, ended", wrong, target=0, more_is_better=False),
        line("p50 from write", "written_p50", "ms", f"queues: {beside('written_p50'):.0f} ms", 30),
        line("p99 from write", "written_p99", "ms", f"queues: {beside('written_p99'):.0f} ms", 80),
        line("p50 from call", "asked_p50", "ms", f"queues: {beside('asked_p50'):.0f} ms"),
        line("p99 from call", "asked_p99", "ms", f"queues: {beside('asked_p99'):.0f} ms"),
        line("CPU per delivered change", "cpu_us", "us", f"queues: {beside('cpu_us'):.1f} us; {sent:.1f} in a message"),
        # Later rounds take what the first one left free.
        Result(
            name,
            "memory per watcher",
            ours[0]["memory"],
            "KB",
            note=f"queues: {naive[0]['memory']:.0f} KB; the client used {client:.0%} of a core",
        ),
    ]
