"""The same reads with a small and with a large history in the database."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from openfacility.jobs.v1 import jobs_service_pb2
from openfacility_server.app import MIGRATIONS
from openfacility_server.jobs.convert import JobCodec
from openfacility_server.jobs.model import Job, JobAttributes, JobSpec, JobState, JobStatus, JobTransition
from openfacility_server.jobs.store import JobStore, Working
from openfacility_server.storage import Storage, Tx

from bench.load import Unary
from bench.processes import OPERATOR, USER, facility, workplace
from bench.reads import SERVICE
from bench.results import Result, ratios, rounds

_CHUNK = 1000
_OWNERS = 5  # so that the user has more than a page also in the small one


def reads(quick: bool, large: int = 100_000) -> Sequence[Result]:
    """GetJob and ListJobs with 10^3 jobs, and with ``large``."""
    sizes = (1_000, 10_000 if quick else large)
    results: list[Result] = []
    with workplace() as directory:
        for size in sizes:
            fill(directory / str(size), size)
        with (
            facility(directory, "small", directory / str(sizes[0])) as small,
            facility(directory, "large", directory / str(sizes[1])) as big,
        ):
            get = jobs_service_pb2.GetJobRequest(job_id=job_id(sizes[0] // 20 * 10)).SerializeToString()
            every = jobs_service_pb2.ListJobsRequest().SerializeToString()
            named = jobs_service_pb2.ListJobsRequest(
                filter={"labels": ["step=rare"]}, page_size=100
            ).SerializeToString()
            active = jobs_service_pb2.ListJobsRequest(filter={"states": [4]}).SerializeToString()
            for name, rpc, request, token in (
                ("get", "GetJob", get, USER),
                ("list mine", "ListJobs", every, USER),
                ("list my active", "ListJobs", active, USER),
                ("list all", "ListJobs", every, OPERATOR),
                ("list by label", "ListJobs", named, OPERATOR),
            ):
                variants = {
                    f"10^{len(str(size)) - 1}": Unary(server, directory, SERVICE + rpc, request, token, 1, exact=False)
                    for size, server in zip(sizes, (small, big), strict=True)
                }
                samples = rounds(variants, 1 if quick else 5)
                less, more = variants
                cost = ratios(f"history: {name}", samples, more, less)[1]
                results.append(
                    Result(cost.name, cost.measure, cost.value, "x", cost.low, cost.high, 1.2, False, cost.note)
                )
    return results


def fill(state: Path, count: int) -> None:
    """Makes a database with jobs that ended, one in five of them the user's."""
    state.mkdir(mode=0o700)
    storage = Storage.open(f"sqlite://{state}/state.db")
    storage.start_sync(MIGRATIONS)
    store = JobStore(JobCodec())
    first = datetime.now(UTC) - timedelta(days=30)
    for start in range(0, count, _CHUNK):

        def write(tx: Tx, start: int = start) -> None:
            for number in range(start, min(start + _CHUNK, count)):
                store.insert(tx, Working(_job(number, count, first, tx.revision())))

        storage.write_sync(write)
    storage.close_sync()


def job_id(number: int) -> str:
    """The id of a job that was filled in."""
    return f"0{number:012d}"


def _job(number: int, count: int, first: datetime, revision: int) -> Job:
    made = first + timedelta(seconds=number)
    states = (JobState.NEW, JobState.QUEUED, JobState.ACTIVE, JobState.COMPLETED)
    return Job(
        id=job_id(number),
        resource_id="local",
        owner="bench" if number % _OWNERS == 0 else f"other{number % _OWNERS}",
        spec=JobSpec(
            name=f"job {number}",
            executable="/bin/sh",
            arguments=("-c", "echo a line of output"),
            labels={"step": "rare" if number % (count // 50) == 0 else "usual"},
            attributes=JobAttributes(account="bench"),
        ),
        status=JobStatus(JobState.COMPLETED, exit_code=0),
        create_time=made,
        update_time=made + timedelta(seconds=9),
        start_time=made + timedelta(seconds=2),
        end_time=made + timedelta(seconds=9),
        transitions=tuple(JobTransition(state, made + timedelta(seconds=3 * at)) for at, state in enumerate(states)),
        revision=revision,
    )


def million(quick: bool) -> Sequence[Result]:
    """As ``reads``, with 10^6 jobs; making them takes minutes."""
    begun = time.monotonic()
    found = reads(quick, 1_000_000)
    print(f"10^6 jobs: {time.monotonic() - begun:.0f} s in all")
    return found
