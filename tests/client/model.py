"""A facility small enough to see through: a log of changes, and the watch that the contract promises on top of it.

It breaks streams wherever a test wants, keeps what it has told (so that a test can compare), and forgets old changes.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import grpc
from openfacility.jobs.v1 import job_pb2
from openfacility.jobs.v1 import jobs_service_pb2 as pb

from tests.client.scripted import Failure, reason


class Facility:
    """Jobs, and every change of them since `oldest`."""

    def __init__(self) -> None:
        self.revision = 0
        self.oldest = 0
        self.snapshot_revision = 0
        """Revision of the last snapshot that a watch began with."""
        self.jobs: dict[str, job_pb2.Job] = {}
        self.log: list[tuple[int, list[tuple[job_pb2.Job | None, job_pb2.Job]]]] = []
        self.breaks: Callable[[str], Exception | str | None] = lambda _: None
        """Asked at each point of a stream; an exception or "eof" ends it there."""
        self.page = 2
        self.watches: list[pb.WatchJobsRequest] = []
        self._changed = asyncio.Event()

    def change(self, **states: str) -> int:
        """Change some jobs together; return the revision."""
        self.revision += 1
        entry: list[tuple[job_pb2.Job | None, job_pb2.Job]] = []
        for id_, state in states.items():
            before = self.jobs.get(id_)
            status = job_pb2.JobStatus(state=job_pb2.JobState.Value(f"JOB_STATE_{state}"))
            self.jobs[id_] = job_pb2.Job(id=id_, revision=self.revision, status=status)
            entry.append((before, self.jobs[id_]))
        self.log.append((self.revision, entry))
        self._changed.set()
        self._changed = asyncio.Event()
        return self.revision

    def forget(self, oldest: int) -> None:
        """Forget all changes up to a revision."""
        self.oldest = oldest
        self.log = [(revision, entry) for revision, entry in self.log if revision > oldest]

    async def list(self, request: pb.ListJobsRequest) -> pb.ListJobsResponse:
        jobs = [job for job in self.jobs.values() if _matches(job, request.filter)]
        return pb.ListJobsResponse(jobs=jobs, revision=self.revision)

    async def watch(self, request: pb.WatchJobsRequest) -> AsyncIterator[pb.WatchJobsResponse]:
        self.watches.append(request)
        if self._ends("begin"):
            return
        if request.HasField("after_revision"):
            position = request.after_revision
            if not self.oldest <= position <= self.revision:
                gone = reason("COMPACTED", oldest_revision=str(self.oldest), current_revision=str(self.revision))
                raise Failure(grpc.StatusCode.OUT_OF_RANGE, "gone", (gone,))
        else:
            position = self.snapshot_revision = self.revision
            matching = [job for job in self.jobs.values() if self._wants(request, job)]
            for start in range(0, 0 if request.skip_snapshot else len(matching), self.page):
                yield pb.WatchJobsResponse(
                    changes=[
                        pb.JobChange(type="TYPE_SNAPSHOT", revision=job.revision, job=job)
                        for job in matching[start : start + self.page]
                    ]
                )
                if self._ends("snapshot"):
                    return
        caught_up = False
        while True:
            changed = self._changed
            changes = list(self._since(position, request))
            position = self.revision
            yield pb.WatchJobsResponse(changes=changes, revision=position, caught_up=not caught_up)
            caught_up = True
            if self._ends("live"):
                return
            if (
                position == self.revision
                and request.job_id
                and self.jobs[request.job_id].status.state >= job_pb2.JOB_STATE_COMPLETED
            ):
                return
            if position == self.revision:
                await changed.wait()

    def _since(self, position: int, request: pb.WatchJobsRequest) -> Iterator[pb.JobChange]:
        for revision, entry in self.log:
            for before, after in entry if revision > position else ():
                if self._wants(request, after) or (before is not None and self._wants(request, before)):
                    kind = "TYPE_UPDATED" if before is not None else "TYPE_CREATED"
                    yield pb.JobChange(type=kind, revision=revision, job=after)

    def _wants(self, request: pb.WatchJobsRequest, job: job_pb2.Job) -> bool:
        return job.id == request.job_id if request.job_id else _matches(job, request.filter)

    def _ends(self, point: str) -> bool:
        broken = self.breaks(point)
        if isinstance(broken, Exception):
            raise broken
        return broken == "eof"


def _matches(job: job_pb2.Job, wanted: Any) -> bool:
    return (not wanted.states or job.status.state in wanted.states) and (not wanted.job_ids or job.id in wanted.job_ids)
