"""The named things that the server is measured beside: what one writes with grpc.aio, and nothing more.

`python -m bench.bases KIND DIRECTORY` serves one on a free port; it prints the port as a JSON line.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
import sys
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.timestamp_pb2 import Timestamp
from openfacility.jobs.v1 import job_pb2, jobs_service_pb2, jobs_service_pb2_grpc


class Constant:
    """GetJob: the same bytes for every call."""

    def __init__(self, directory: Path) -> None:
        self._answer = (directory / "answer").read_bytes()

    def handlers(self) -> dict[str, Any]:
        return {
            "GetJob": grpc.unary_unary_rpc_method_handler(
                self.get, request_deserializer=jobs_service_pb2.GetJobRequest.FromString
            )
        }

    async def get(self, request: Any, context: Any) -> bytes:
        return self._answer


class Lists(jobs_service_pb2_grpc.JobsServiceServicer):
    """ListJobs: messages made from rows in memory for every call."""

    def __init__(self, directory: Path) -> None:
        answer = jobs_service_pb2.ListJobsResponse.FromString((directory / "answer").read_bytes())
        self._revision = answer.revision
        self._rows = [_row(job) for job in answer.jobs]

    async def ListJobs(self, request: Any, context: Any) -> Any:  # noqa: N802 -- gRPC's name
        return jobs_service_pb2.ListJobsResponse(jobs=map(_job, self._rows), revision=self._revision)


class Insert(jobs_service_pb2_grpc.JobsServiceServicer):
    """SubmitJob: one INSERT of the request, committed for itself (WAL, synchronous = FULL)."""

    def __init__(self, directory: Path) -> None:
        self._answer = job_pb2.Job.FromString((directory / "answer").read_bytes())
        self._database = sqlite3.connect(directory / "plain.db", isolation_level=None)
        for pragma in ("journal_mode = WAL", "synchronous = FULL"):
            self._database.execute(f"PRAGMA {pragma}").fetchall()
        self._database.execute("CREATE TABLE job (id TEXT PRIMARY KEY, message BLOB)")

    async def SubmitJob(self, request: Any, context: Any) -> Any:  # noqa: N802
        job = job_pb2.Job(id=uuid.uuid4().hex, spec=request.spec, status=self._answer.status)
        self._database.execute("INSERT INTO job VALUES (?, ?)", (job.id, job.SerializeToString()))
        return job

    async def BatchSubmitJobs(self, request: Any, context: Any) -> Any:  # noqa: N802
        jobs = [job_pb2.Job(id=uuid.uuid4().hex, spec=one.spec, status=self._answer.status) for one in request.jobs]
        self._database.execute("BEGIN")
        rows = [(job.id, job.SerializeToString()) for job in jobs]
        self._database.executemany("INSERT INTO job VALUES (?, ?)", rows)
        self._database.execute("COMMIT")
        return jobs_service_pb2.BatchSubmitJobsResponse(jobs=jobs)


class Queues(jobs_service_pb2_grpc.JobsServiceServicer):
    """WatchJobs: an asyncio.Queue for each watcher. UpdateJob is what changes."""

    def __init__(self, directory: Path) -> None:
        self._job = job_pb2.Job.FromString((directory / "answer").read_bytes())
        self._queues: set[asyncio.Queue[Any]] = set()
        self._revision = 0

    async def UpdateJob(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._revision += 1
        job = job_pb2.Job()
        job.CopyFrom(self._job)
        job.spec.name = request.job.spec.name
        job.update_time.GetCurrentTime()
        change = jobs_service_pb2.JobChange(revision=self._revision, job=job)
        for queue in self._queues:
            queue.put_nowait(jobs_service_pb2.WatchJobsResponse(changes=[change], revision=self._revision))
        return job

    async def WatchJobs(self, request: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802
        queue: asyncio.Queue[Any] = asyncio.Queue()
        self._queues.add(queue)
        yield jobs_service_pb2.WatchJobsResponse(caught_up=True)
        try:
            while True:
                yield await queue.get()
        finally:
            self._queues.discard(queue)


def _row(job: Any) -> tuple[Any, ...]:
    spec, attributes = job.spec, job.spec.attributes
    moves = [(move.state, move.time.seconds, move.time.nanos) for move in job.transitions]
    return (
        (job.id, job.resource_id, job.owner, job.native_id, job.revision, job.etag),
        (spec.name, spec.executable, list(spec.arguments), dict(spec.labels), spec.hold, attributes.account),
        (job.status.state, job.status.reason),
        moves,
        (job.create_time.seconds, job.create_time.nanos),
        (job.update_time.seconds, job.update_time.nanos),
    )


def _job(row: tuple[Any, ...]) -> Any:
    (id_, resource, owner, native, revision, etag), spec, status, moves, created, updated = row
    name, executable, arguments, labels, hold, account = spec
    return job_pb2.Job(
        id=id_,
        resource_id=resource,
        owner=owner,
        native_id=native,
        revision=revision,
        etag=etag,
        spec=job_pb2.JobSpec(
            name=name,
            executable=executable,
            arguments=arguments,
            labels=labels,
            hold=hold,
            attributes=job_pb2.JobAttributes(account=account),
        ),
        status=job_pb2.JobStatus(state=status[0], reason=status[1]),
        transitions=[
            job_pb2.JobTransition(state=state, time=Timestamp(seconds=seconds, nanos=nanos))
            for state, seconds, nanos in moves
        ],
        create_time=Timestamp(seconds=created[0], nanos=created[1]),
        update_time=Timestamp(seconds=updated[0], nanos=updated[1]),
    )


KINDS: dict[str, Callable[[Path], Any]] = {"constant": Constant, "lists": Lists, "insert": Insert, "queues": Queues}


async def _serve(kind: str, directory: Path) -> None:
    server = grpc.aio.server()
    servicer = KINDS[kind](directory)
    if isinstance(servicer, Constant):
        handler = grpc.method_handlers_generic_handler("openfacility.jobs.v1.JobsService", servicer.handlers())
        server.add_generic_rpc_handlers((handler,))
    else:
        jobs_service_pb2_grpc.add_JobsServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(json.dumps({"event": "serving", "port": port}), flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(_serve(sys.argv[1], Path(sys.argv[2])))
