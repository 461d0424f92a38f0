"""Calls of the Jobs service through its generated stubs, as tests want them: short, with deadlines, and checked."""

from __future__ import annotations

import asyncio
import contextlib
import re
import uuid
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from openfacility.jobs.v1 import job_pb2 as pb
from openfacility.jobs.v1 import jobs_service_pb2 as rpc
from openfacility.jobs.v1 import jobs_service_pb2_grpc

DEADLINE = 30.0
FINAL = frozenset({pb.JOB_STATE_COMPLETED, pb.JOB_STATE_FAILED, pb.JOB_STATE_CANCELED})

_DETAILS = {
    message.DESCRIPTOR.full_name: message
    for message in (
        error_details_pb2.ErrorInfo,
        error_details_pb2.BadRequest,
        error_details_pb2.PreconditionFailure,
        error_details_pb2.ResourceInfo,
        error_details_pb2.RetryInfo,
        error_details_pb2.QuotaFailure,
    )
}
# What only the inside of the server has: class names, tracebacks, SQL, places in memory and on its disk.
_INSIDE = re.compile(
    r"Traceback|\w+(Error|Exception)\b|\bpeewee\b|sqlite|psycopg|\bSELECT\b|\bINSERT\b|\bUPDATE job\b| object at |"
    r"\.py\b|/tmp/|/usr/|/var/|_pb2|\bNone\b|<class"
)


class Refused:
    """An error as a caller sees it, checked for what every error promises."""

    def __init__(self, error: grpc.aio.AioRpcError) -> None:
        self.code: grpc.StatusCode = error.code()
        self.message: str = error.details() or ""
        status = rpc_status.from_call(error)
        assert status is not None, f"{self.code.name} without google.rpc.Status: {self.message}"
        assert status.code == self.code.value[0]
        assert status.message == self.message
        self.details: dict[str, Any] = {}
        for packed in status.details:
            kind = packed.TypeName()
            assert kind in _DETAILS, f"unexpected detail {kind}"
            assert kind not in self.details, f"two details of type {kind}"
            self.details[kind] = _DETAILS[kind].FromString(packed.value)
        self.info: error_details_pb2.ErrorInfo = self.details["google.rpc.ErrorInfo"]
        self.reason: str = self.info.reason
        self.metadata = dict(self.info.metadata)
        self.request_id = self.metadata.get("request_id", "")
        self._check(dict(error.trailing_metadata() or ()))

    @property
    def fields(self) -> list[str]:
        """The fields that BadRequest names."""
        bad = self.details.get("google.rpc.BadRequest")
        return [violation.field for violation in bad.field_violations] if bad else []

    @property
    def descriptions(self) -> list[str]:
        """What BadRequest says of each field."""
        bad = self.details.get("google.rpc.BadRequest")
        return [violation.description for violation in bad.field_violations] if bad else []

    def _check(self, trailing: dict[str, Any]) -> None:
        assert self.info.domain == "openfacility"
        assert re.fullmatch(r"[A-Z][A-Z0-9_]{2,62}", self.reason), self.reason
        assert self.request_id
        assert trailing.get("x-request-id") == self.request_id
        assert len(self.message.split()) >= 3, f"not a sentence: {self.message!r}"
        assert not _INSIDE.search(self.message), self.message
        assert not any(_INSIDE.search(value) for value in self.metadata.values()), self.metadata
        if self.code is grpc.StatusCode.INVALID_ARGUMENT:
            assert self.descriptions, "INVALID_ARGUMENT without BadRequest"
            assert all(self.descriptions)
        if self.code is grpc.StatusCode.FAILED_PRECONDITION:
            assert "google.rpc.PreconditionFailure" in self.details
        if self.code is grpc.StatusCode.NOT_FOUND:
            assert "google.rpc.ResourceInfo" in self.details
        if self.code is grpc.StatusCode.UNAVAILABLE:
            assert "google.rpc.RetryInfo" in self.details
        if self.code is grpc.StatusCode.RESOURCE_EXHAUSTED:
            # Either waiting helps, or something is used up.
            assert ("google.rpc.RetryInfo" in self.details) != ("google.rpc.QuotaFailure" in self.details)


class _Catch:
    error: Refused

    def __getattr__(self, name: str) -> Any:
        return getattr(self.error, name)


@contextlib.contextmanager
def refused(code: str, reason: str = "", field: str | None = None) -> Iterator[Any]:
    """Expects a call to be refused so; gives the `Refused` once it was."""
    caught = _Catch()
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        yield caught
    caught.error = error = Refused(raised.value)
    told = f"{error.code.name} {error.reason} {error.fields}: {error.message}"
    assert error.code.name == code, told
    assert not reason or error.reason == reason, told
    assert field is None or field in error.fields, told


@dataclass(frozen=True)
class Seen:
    """A caller's jobs at one moment, each with its etag, to compare with those of a later one."""

    jobs: tuple[tuple[str, str], ...]
    # The facility's, which others move too: another caller, or the first look at a resource.
    revision: int = field(compare=False)


class Caller:
    """One caller. Jobs that it submits through `submit` bear a label of their own and are ended after the test."""

    def __init__(self, channel: grpc.aio.Channel, token: str | None, name: str = "") -> None:
        self.name = name
        self.label = uuid.uuid4().hex
        self.metadata: tuple[tuple[str, str], ...] = (("authorization", f"Bearer {token}"),) if token else ()
        self.submitted: list[str] = []
        self.channel = channel
        self._stub = jobs_service_pb2_grpc.JobsServiceStub(channel)

    # The RPCs.

    def call(self, method: str, request: Message, timeout: float | None = DEADLINE, metadata: Any = None) -> Any:
        """Begins any RPC."""
        more = self.metadata if metadata is None else metadata
        return getattr(self._stub, method)(request, timeout=timeout, metadata=more)

    async def submit_request(self, request: rpc.SubmitJobRequest) -> pb.Job:
        """Submits, and remembers to end the job."""
        job = await self.call("SubmitJob", request)
        self.submitted.append(job.id)
        return job

    async def submit(self, *argv: str, request_id: str = "", resource_id: str = "", **spec: Any) -> pb.Job:
        """Submits a job that runs `argv`, or with the given fields of JobSpec."""
        return await self.submit_request(
            rpc.SubmitJobRequest(resource_id=resource_id, spec=self.spec(*argv, **spec), request_id=request_id)
        )

    def spec(self, *argv: str, **fields: Any) -> pb.JobSpec:
        """Returns a JobSpec with this caller's label."""
        if argv:
            fields |= {"executable": argv[0], "arguments": argv[1:]}
        labels = {"test": self.label} | dict(fields.pop("labels", {}))
        return pb.JobSpec(labels=labels, **fields)

    async def batch(self, specs: Iterable[pb.JobSpec], request_id: str = "") -> list[pb.Job]:
        """Submits several jobs."""
        request = rpc.BatchSubmitJobsRequest(
            jobs=[rpc.SubmitJobRequest(spec=spec) for spec in specs], request_id=request_id
        )
        response = await self.call("BatchSubmitJobs", request)
        self.submitted += [job.id for job in response.jobs]
        return list(response.jobs)

    async def get(self, job_id: str, fresh: bool = False) -> pb.Job:
        """Returns a job as lists have it: without the time of its last comparison."""
        job: pb.Job = await self.call("GetJob", rpc.GetJobRequest(job_id=job_id, fresh=fresh))
        job.ClearField("observe_time")
        return job

    def mine(self, **conditions: Any) -> rpc.JobFilter:
        """Returns a filter for the jobs that this caller submitted."""
        labels = [f"test={self.label}", *conditions.pop("labels", ())]
        return rpc.JobFilter(labels=labels, **conditions)

    async def list(self, filter_: rpc.JobFilter | None = None, **fields: Any) -> rpc.ListJobsResponse:
        """Lists a page of this caller's own jobs, or of those that match."""
        return await self.call("ListJobs", rpc.ListJobsRequest(filter=filter_ or self.mine(), **fields))

    async def list_ids(self, **conditions: Any) -> list[str]:
        """Returns the ids of this caller's jobs that match."""
        return [job.id for job in (await self.list(self.mine(**conditions))).jobs]

    async def update(self, job_id: str, paths: Sequence[str] = (), **fields: Any) -> pb.Job:
        """Updates fields of a job's spec."""
        more = {key: fields.pop(key) for key in ("etag", "request_id") if key in fields}
        request = rpc.UpdateJobRequest(job=pb.Job(id=job_id, spec=pb.JobSpec(**fields)), **more)
        request.update_mask.paths.extend(paths)
        return await self.call("UpdateJob", request)

    async def hold(self, job_id: str, request_id: str = "") -> pb.Job:
        return await self.call("HoldJob", rpc.HoldJobRequest(job_id=job_id, request_id=request_id))

    async def release(self, job_id: str, request_id: str = "") -> pb.Job:
        return await self.call("ReleaseJob", rpc.ReleaseJobRequest(job_id=job_id, request_id=request_id))

    async def cancel(self, job_id: str, request_id: str = "") -> pb.Job:
        return await self.call("CancelJob", rpc.CancelJobRequest(job_id=job_id, request_id=request_id))

    async def cancel_matching(self, filter_: rpc.JobFilter, request_id: str = "") -> list[str]:
        request = rpc.CancelJobsRequest(filter=filter_, request_id=request_id)
        return list((await self.call("CancelJobs", request)).job_ids)

    async def output(self, job_id: str, **fields: Any) -> list[rpc.ReadJobOutputResponse]:
        """Reads all pieces of a job's output."""
        return [piece async for piece in self.call("ReadJobOutput", rpc.ReadJobOutputRequest(job_id=job_id, **fields))]

    async def output_bytes(self, job_id: str, **fields: Any) -> bytes:
        """Reads a job's output to its end."""
        pieces = await self.output(job_id, **fields)
        assert [piece.end for piece in pieces] == [False] * (len(pieces) - 1) + [True]
        return b"".join(piece.data for piece in pieces)

    # Watching.

    @contextlib.asynccontextmanager
    async def watch(self, metadata: Any = None, **fields: Any) -> AsyncIterator[Watch]:
        """Watches."""
        request = rpc.WatchJobsRequest(**fields)
        watch = Watch(self.call("WatchJobs", request, timeout=None, metadata=metadata))
        try:
            yield watch
        finally:
            watch.cancel()

    async def wait(self, job_id: str, *states: int) -> pb.Job:
        """Returns a job as it was when it entered one of these states (unset: when it had ended)."""
        wanted = frozenset(states) or FINAL
        async with self.watch(job_id=job_id) as watch:
            return await watch.until(lambda job: job.id == job_id and job.status.state in wanted)

    async def run(self, *argv: str, **spec: Any) -> pb.Job:
        """Submits a job and returns it ended."""
        return await self.wait((await self.submit(*argv, **spec)).id)

    async def wait_all(self, job_ids: Iterable[str]) -> dict[str, pb.Job]:
        """Returns jobs when all have ended."""
        left, ended = list(job_ids), {}
        for start in range(0, len(left), 500):
            some = set(left[start : start + 500])
            async with self.watch(filter=rpc.JobFilter(job_ids=some)) as watch:
                while some:
                    job = await watch.until(lambda job: job.status.state in FINAL)
                    some.discard(job.id)
                    ended[job.id] = job
        return ended

    # Around a test.

    async def seen(self) -> Seen:
        """Returns all of the caller's jobs that are not elements of arrays, and the revision."""
        jobs, token, revision = [], "", 0
        while True:
            page = await self.call("ListJobs", rpc.ListJobsRequest(page_size=1000, page_token=token))
            jobs += [(job.id, job.etag) for job in page.jobs]
            revision = revision or page.revision
            token = page.next_page_token
            if not token:
                return Seen(tuple(jobs), revision)

    async def end_all(self) -> None:
        """Ends what this caller submitted, and waits for it."""
        for start in range(0, len(self.submitted), 500):
            await self.cancel_matching(rpc.JobFilter(job_ids=self.submitted[start : start + 500]))
        await self.wait_all(self.submitted)


class Watch:
    """A watch that checks, of everything it gets, that revisions only grow and nothing comes twice."""

    def __init__(self, call: Any) -> None:
        self._call = call
        self.responses: list[rpc.WatchJobsResponse] = []
        self.changes: list[rpc.JobChange] = []
        self.revision = 0
        self._seen: set[tuple[str, int]] = set()
        self._pending: list[rpc.JobChange] = []

    async def next(self, deadline: float = DEADLINE) -> rpc.WatchJobsResponse:
        """Returns the next response. Raises StopAsyncIteration at the stream's end."""
        async with asyncio.timeout(deadline):
            response = await self._call.read()
        if response is grpc.aio.EOF:
            raise StopAsyncIteration
        self._check(response)
        self.responses.append(response)
        self.changes += response.changes
        return response

    async def change(self) -> rpc.JobChange:
        """Returns the next change."""
        while not self._pending:
            self._pending += (await self.next()).changes
        return self._pending.pop(0)

    async def until(self, wanted: Callable[[pb.Job], bool]) -> pb.Job:
        """Returns the job of the next change that is as wanted."""
        async with asyncio.timeout(DEADLINE):
            while True:
                change = await self.change()
                if wanted(change.job):
                    return change.job

    async def caught_up(self) -> list[rpc.JobChange]:
        """Reads until the watch has caught up; returns all changes up to then."""
        while not (await self.next()).caught_up:
            pass
        return list(self.changes)

    async def end(self) -> list[rpc.JobChange]:
        """Reads to the stream's end; returns all changes."""
        with contextlib.suppress(StopAsyncIteration):
            while True:
                await self.next()
        return self.changes

    def states(self, job_id: str) -> list[int]:
        """The states of a job, in the order seen."""
        return [change.job.status.state for change in self.changes if change.job.id == job_id]

    def cancel(self) -> None:
        """Ends the watch."""
        self._call.cancel()

    def _check(self, response: rpc.WatchJobsResponse) -> None:
        assert not response.HasField("error"), "errors are no messages over gRPC"
        if response.revision:
            assert response.revision >= self.revision, "Ordered: the position went back"
        live = [change for change in response.changes if change.type != rpc.JobChange.TYPE_SNAPSHOT]
        if live:
            revisions = [change.revision for change in live]
            assert revisions == sorted(revisions), "Ordered: changes within a response"
            assert revisions[0] > self.revision, "Atomic: a revision was split over two responses, or came again"
            assert response.revision == revisions[-1] or response.revision > revisions[-1]
        for change in response.changes:
            assert (change.job.id, change.revision) not in self._seen, "Unique: a change came twice"
            assert change.job.revision == change.revision
            self._seen.add((change.job.id, change.revision))
        self.revision = max(self.revision, response.revision)
