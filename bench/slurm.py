"""In front of a real Slurm: reads and submits beside Slurm's commands, its controller's load, how soon ends are told.

The cluster is the private one of the tests (`make test-deps`).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pwd
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.duration_pb2 import Duration
from openfacility.jobs.v1 import job_pb2, jobs_service_pb2, jobs_service_pb2_grpc

from bench.load import call
from bench.processes import USER, Process, facility, workplace
from bench.reads import SERVICE, settle
from bench.results import Result, median
from tests.engines.slurm import SlurmCluster, missing_programs

_METADATA = (("authorization", f"Bearer {USER}"),)
_POLL_EVERY_S = 5.0
_BATCH = 100
_TOLD_WITHIN_MS = 100.0
_FINAL = (job_pb2.JOB_STATE_COMPLETED, job_pb2.JOB_STATE_FAILED, job_pb2.JOB_STATE_CANCELED)


def slurm(quick: bool, pending: int = 5000, watchers: Sequence[int] = (1, 10, 100, 1000)) -> Sequence[Result]:
    """All of it, on one cluster with ``pending`` jobs in its queue."""
    if missing := missing_programs():
        raise SystemExit(f"not installed: {', '.join(missing)}. make test-deps")
    if quick:
        pending, watchers = min(pending, 300), (1, 100)
    with (
        SlurmCluster(nodes=2, cpus=4) as cluster,
        workplace() as directory,
        _facility(cluster, directory, "rest") as server,
    ):
        results = [_hand_over(server, cluster, pending)]
        results += _reads(server, cluster, 1 if quick else 5)
        results += _ends(server, cluster, 8 if quick else 40)
        results += _controller(server, cluster, watchers, 6 if quick else 20)
        with _facility(cluster, directory, "commands") as second:
            results += _submits(server, second, cluster, directory, 1 if quick else 3)
    return results


@contextlib.contextmanager
def _facility(cluster: SlurmCluster, directory: Path, way: str) -> Iterator[Process]:
    """A server of one resource that submits by REST or with commands. It does not look at the other server's jobs."""
    resource: dict[str, Any] = {
        "id": "cluster",
        "engine": "slurm",
        "conf": str(cluster.conf),
        "preload": cluster.env.get("LD_PRELOAD"),
        "users": {"bench": cluster.users[0]},
        "min_uid": min(1000, pwd.getpwnam(cluster.users[0]).pw_uid),
        "events": str(cluster.events),
        "controller_log": str(cluster.ctld_log),
        "external_jobs": False,
    }
    if way == "rest":
        resource["rest"] = {"unix_socket": str(cluster.rest_socket), "jwt_key": str(cluster.jwt_key)}
    with facility(directory, way, jobs={"resources": [resource]}) as server:
        yield server


def _request(cluster: SlurmCluster, script: str = "") -> Any:
    """A job that waits until tomorrow, or one that runs a script at once.

    The watchers of ``bench.watchers`` want a number for its name.
    """
    wait = {} if script else {"slurm.begin": "now+1day"}
    attributes = job_pb2.JobAttributes(
        duration=Duration(seconds=60), account="physics", queue_name="regular", custom_attributes=wait
    )
    spec = job_pb2.JobSpec(
        name=str(time.time_ns()),
        directory=str(cluster.jobs),
        stdout_path="/dev/null",
        stderr_path="/dev/null",
        executable="/bin/sh",
        arguments=["-c", script or "echo a line of output; sleep 1"],
        labels={"campaign": "2024-11", "step": "relax"},
        attributes=attributes,
    )
    return jobs_service_pb2.SubmitJobRequest(spec=spec)


def _percentile(values: Sequence[float], percent: int) -> float:
    ordered = sorted(values)
    return ordered[(len(ordered) - 1) * percent // 100]


# The stock of jobs, and reading it.


def _hand_over(server: Process, cluster: SlurmCluster, pending: int) -> Result:
    """Submits the jobs that wait for the rest of the time, all at once."""
    begun = time.monotonic()
    for _ in range(0, pending, _BATCH):
        request = jobs_service_pb2.BatchSubmitJobsRequest(jobs=[_request(cluster)] * min(_BATCH, pending))
        call(server, f"{SERVICE}BatchSubmitJobs", request.SerializeToString(), USER)
    stored = time.monotonic() - begun
    settle(server)
    whole = time.monotonic() - begun
    return Result(
        "slurm: batches", "handed over", pending / whole, "/s", note=f"{pending} jobs; stored in {stored:.1f} s"
    )


def _reads(server: Process, cluster: SlurmCluster, rounds: int) -> list[Result]:
    """One caller, one call after the other, beside what a user would run instead."""
    with grpc.insecure_channel(server.address) as channel:
        stub = jobs_service_pb2_grpc.JobsServiceStub(channel)
        newest = stub.ListJobs(jobs_service_pb2.ListJobsRequest(page_size=1), metadata=_METADATA).jobs[0]
        get = jobs_service_pb2.GetJobRequest(job_id=newest.id)
        listing = jobs_service_pb2.ListJobsRequest(page_size=100)
        variants: dict[str, tuple[Callable[[], object], int]] = {
            "GetJob": (lambda: stub.GetJob(get, metadata=_METADATA), 200),
            "squeue -j": (lambda: cluster.run("squeue", "-h", "-j", newest.native_id), 20),
            "ListJobs of 100": (lambda: stub.ListJobs(listing, metadata=_METADATA), 100),
            "squeue -u": (lambda: cluster.run("squeue", "-h", "-u", cluster.users[0]), 10),
        }
        times: dict[str, list[list[float]]] = {name: [] for name in variants}
        for number in range(rounds):
            for name in list(variants)[:: -1 if number % 2 else 1]:
                times[name].append(_times(*variants[name]))
    return [
        *_compared("GetJob", "squeue -j", times),
        *_compared("ListJobs of 100", "squeue -u", times),
    ]


def _times(do: Callable[[], object], count: int) -> list[float]:
    found = []
    for _ in range(count):
        begun = time.perf_counter()
        do()
        found.append((time.perf_counter() - begun) * 1000)
    return found


def _compared(ours: str, theirs: str, times: dict[str, list[list[float]]]) -> list[Result]:
    results = []
    for percent in (50, 99):
        pairs = [
            (_percentile(one, percent), _percentile(other, percent))
            for one, other in zip(times[ours], times[theirs], strict=True)
        ]
        values = [one / other for one, other in pairs]
        note = f"{median([one for one, _ in pairs]):.2f} ms : {median([other for _, other in pairs]):.1f} ms"
        name = f"slurm: {ours}"
        results.append(Result(name, f"p{percent} / {theirs}", median(values), "x", min(values), max(values), note=note))
    return results


# From a job's end to its watchers.


def _ends(server: Process, cluster: SlurmCluster, jobs: int) -> list[Result]:
    """From the job's last words by its own clock, and from the controller's line about its end, to a watch."""
    clocks = cluster.jobs / "clocks"
    clocks.mkdir(mode=0o777)
    clocks.chmod(0o777)
    lines: dict[str, float] = {}
    ending = threading.Event()
    reader = threading.Thread(target=_read_lines, args=(cluster.events, lines, ending))
    reader.start()
    try:
        seen = asyncio.run(_watch_ends(server, cluster, clocks, jobs))
    finally:
        ending.set()
        reader.join()
    by_clock = [(at - float((clocks / job).read_text())) * 1000 for job, at in seen.items()]
    by_line = [(at - lines[job]) * 1000 for job, at in seen.items()]
    note = f"{len(seen)} jobs; 4 at a time"
    results = []
    for name, values, target in (("job's clock", by_clock, _TOLD_WITHIN_MS), ("controller's line", by_line, None)):
        for measure, value in (("p50", _percentile(values, 50)), ("max", max(values))):
            bound: dict[str, Any] = {"target": target, "more_is_better": False}
            results.append(Result("slurm: end to watch", f"{measure} from {name}", value, "ms", **bound, note=note))
    return results


async def _watch_ends(server: Process, cluster: SlurmCluster, clocks: Path, jobs: int) -> dict[str, float]:
    # Only these jobs can end: all others wait until tomorrow.
    seen: dict[str, float] = {}
    all_seen = asyncio.Event()
    free = asyncio.Semaphore(4)
    script = f'sleep 0.2; date +%s.%N > "{clocks}/$OPENFACILITY_JOB_ID"'

    async def watch(answers: Any) -> None:
        async for answer in answers:
            now = time.time()
            for change in answer.changes:
                if change.job.status.state in _FINAL and change.job.id not in seen:
                    assert change.job.status.state == job_pb2.JOB_STATE_COMPLETED, change.job
                    seen[change.job.id] = now
                    free.release()
                    if len(seen) == jobs:
                        all_seen.set()

    async with grpc.aio.insecure_channel(server.address) as channel:
        stub = jobs_service_pb2_grpc.JobsServiceStub(channel)
        answers = stub.WatchJobs(jobs_service_pb2.WatchJobsRequest(skip_snapshot=True), metadata=_METADATA)
        task = asyncio.create_task(watch(answers))
        async with asyncio.timeout(120):
            for _ in range(jobs):
                await free.acquire()
                await stub.SubmitJob(_request(cluster, script), metadata=_METADATA)
            await all_seen.wait()
        task.cancel()
    return seen


def _read_lines(events: Path, found: dict[str, float], ending: threading.Event) -> None:
    """Notes when the controller's line about the end of each of our jobs could be read."""
    with events.open() as file:
        file.seek(0, os.SEEK_END)
        rest = ""
        while not ending.wait(0.001):
            if text := file.read():
                now = time.time()
                *whole, rest = (rest + text).split("\n")
                for line in map(json.loads, whole):
                    if line["event"] == "end":
                        found[line["comment"].removeprefix("openfacility:")] = now


# What the controller has to do.


def _controller(server: Process, cluster: SlurmCluster, counts: Sequence[int], seconds: int) -> list[Result]:
    """Requests to slurmctld a minute, beside the number of those who watch and poll."""
    rates = {count: _requests_a_minute(server, cluster, count, seconds) for count in counts}
    least = rates[counts[0]][0]
    results = []
    for count, (rate, kinds) in rates.items():
        note = f"{count} watches, {count / _POLL_EVERY_S:g} GetJob a second; {kinds}"
        # Of each of the five kinds, asked every few seconds, one more or less falls into the span.
        bound = None if count == counts[0] else least * 1.2 + 5 * 60 / seconds
        name = f"slurm: requests with {count}"
        results.append(Result(name, "to slurmctld a minute", rate, "", target=bound, more_is_better=False, note=note))
    return results


def _requests_a_minute(server: Process, cluster: SlurmCluster, count: int, seconds: int) -> tuple[float, str]:
    command = [sys.executable, "-m", "bench.watchers", str(server.port), USER, str(count), str(seconds + 2)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as client:
        assert client.stdout is not None
        assert json.loads(client.stdout.readline())["watchers"] == count
        before, begun = _requests(cluster), time.monotonic()
        asyncio.run(_poll(server, count, seconds))
        after, took = _requests(cluster), time.monotonic() - begun
        client.stdout.read()
    made = {kind: number - before.get(kind, 0) for kind, number in after.items()}
    kinds = ", ".join(f"{kind.removeprefix('REQUEST_')} {number}" for kind, number in made.items() if number)
    return sum(made.values()) * 60 / took, kinds


def _requests(cluster: SlurmCluster) -> dict[str, int]:
    """Requests so far by their kind, those of nodes and of this question left out."""
    text = cluster.run("sdiag").stdout
    section = text.partition("statistics by message type")[2].partition("statistics by user")[0]
    found = {kind: int(number) for kind, number in re.findall(r"^\s*(\w+)\s*\(.*?\)\s*count:(\d+)", section, re.M)}
    return {kind: number for kind, number in found.items() if "STATS" not in kind and not kind.startswith("MESSAGE")}


async def _poll(server: Process, count: int, seconds: float) -> None:
    """Reads a job as ``count`` callers would who each look every few seconds."""
    async with grpc.aio.insecure_channel(server.address) as channel:
        stub = jobs_service_pb2_grpc.JobsServiceStub(channel)
        listing = await stub.ListJobs(jobs_service_pb2.ListJobsRequest(), metadata=_METADATA)
        ids = [job.id for job in listing.jobs]
        begun = time.monotonic()
        calls = []
        for number in range(int(seconds * count / _POLL_EVERY_S)):
            await asyncio.sleep(begun + number * _POLL_EVERY_S / count - time.monotonic())
            request = jobs_service_pb2.GetJobRequest(job_id=ids[number % len(ids)])
            calls.append(stub.GetJob(request, metadata=_METADATA, timeout=30))
        await asyncio.gather(*calls)
        await asyncio.sleep(begun + seconds - time.monotonic())


# Submitting.


def _submits(rest: Process, commands: Process, cluster: SlurmCluster, directory: Path, rounds: int) -> list[Result]:
    """Jobs taken by Slurm a second, by 1 and by 8 callers at a time, beside sbatch as the same user."""
    script = directory / "job.sh"
    script.write_text("#!/bin/sh\necho a line of output; sleep 1\n")
    text = script.read_text()
    seconds = 2.0

    def sbatch() -> None:
        options = ("--begin=now+1day", "-p", "regular", "-A", "physics", "-t", "1", "-o", "/dev/null")
        cluster.run("sbatch", *options, user=cluster.users[0], stdin=text)

    results = []
    for callers in (1, 8):
        variants: dict[str, Callable[[], float]] = {
            "REST": lambda n=callers: asyncio.run(_submit_for(rest, cluster, n, seconds)),  # type: ignore[misc]
            "commands": lambda n=callers: asyncio.run(_submit_for(commands, cluster, n, seconds)),  # type: ignore[misc]
            "sbatch": lambda n=callers: _repeat_for(sbatch, n, seconds),  # type: ignore[misc]
        }
        rates: dict[str, list[float]] = {name: [] for name in variants}
        for number in range(rounds):
            for name in list(variants)[:: -1 if number % 2 else 1]:
                rates[name].append(variants[name]())
        for name in ("REST", "commands"):
            ratios = [one / other for one, other in zip(rates[name], rates["sbatch"], strict=True)]
            note = f"{median(rates[name]):.0f}/s : {median(rates['sbatch']):.0f}/s"
            who = f"slurm: submit, {callers} caller{'s' if callers > 1 else ''}, {name}"
            results.append(Result(who, "rate / sbatch", median(ratios), "x", min(ratios), max(ratios), note=note))
    return results


async def _submit_for(server: Process, cluster: SlurmCluster, callers: int, seconds: float) -> float:
    """Returns how many jobs a second Slurm took."""
    done = 0
    begun = time.monotonic()
    async with grpc.aio.insecure_channel(server.address) as channel:
        stub = jobs_service_pb2_grpc.JobsServiceStub(channel)

        async def caller() -> None:
            nonlocal done
            while time.monotonic() - begun < seconds:
                job = await stub.SubmitJob(_request(cluster), metadata=_METADATA, timeout=60)
                assert job.native_id, job
                done += 1

        await asyncio.gather(*(caller() for _ in range(callers)))
    return done / (time.monotonic() - begun)


def _repeat_for(do: Callable[[], None], callers: int, seconds: float) -> float:
    begun = time.monotonic()

    def caller(_: int) -> int:
        done = 0
        while time.monotonic() - begun < seconds:
            do()
            done += 1
        return done

    with ThreadPoolExecutor(callers) as pool:
        done = sum(pool.map(caller, range(callers)))
    return done / (time.monotonic() - begun)
