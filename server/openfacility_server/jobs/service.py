"""The gRPC side of Jobs: converts, calls the domain, converts back. Who may call was decided before."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Mapping, Sequence
from functools import partial

from google.protobuf import field_mask_pb2
from google.protobuf.message import Message
from openfacility.jobs.v1 import job_pb2, jobs_service_pb2

from openfacility_server.auth.principal import Principal
from openfacility_server.errors import FailedPrecondition, InvalidArgument, Violation, invalid
from openfacility_server.events import Batch, EventHub
from openfacility_server.idempotency import Mutation, mutation
from openfacility_server.interceptors.call import current_call
from openfacility_server.jobs import convert, refusals
from openfacility_server.jobs.engines import EngineError, JobEngine, OutputStream
from openfacility_server.jobs.filters import JobFilter
from openfacility_server.jobs.freshness import Freshness
from openfacility_server.jobs.jobs import Jobs, Submission
from openfacility_server.jobs.lifecycle import array_size, ref_of
from openfacility_server.jobs.model import JobState
from openfacility_server.jobs.output import Output, read_output
from openfacility_server.jobs.steering import UPDATABLE, Steering
from openfacility_server.jobs.store import Stored
from openfacility_server.jobs.watching import Snapshot, watch_jobs
from openfacility_server.paging import Pager, Position, page_size
from openfacility_server.wire import framed, frames, timestamp

_Stderr = jobs_service_pb2.ReadJobOutputRequest.STREAM_STDERR
_SNAPSHOT_HEAD = jobs_service_pb2.JobChange(type=jobs_service_pb2.JobChange.TYPE_SNAPSHOT).SerializeToString()
# Set by the service: harmless in an update's mask.
_OUTPUT_FIELDS = {field.name for field in job_pb2.Job.DESCRIPTOR.fields} - {"spec"}


class JobsService:
    """Servicer of ``openfacility.jobs.v1.JobsService``. Responses are messages or their bytes."""

    def __init__(
        self,
        jobs: Jobs,
        steering: Steering,
        freshness: Freshness,
        engines: Mapping[str, JobEngine],
        hub: EventHub,
        pager: Pager,
    ) -> None:
        self._jobs = jobs
        self._steering = steering
        self._freshness = freshness
        self._engines = engines
        self._hub = hub
        self._pager = pager

    async def SubmitJob(self, request: jobs_service_pb2.SubmitJobRequest, context: object) -> bytes:
        submission = Submission(request.resource_id, convert.spec_from_pb(request.spec))
        return await self._jobs.submit_one(_caller(), submission, _mutation(request))

    async def BatchSubmitJobs(self, request: jobs_service_pb2.BatchSubmitJobsRequest, context: object) -> bytes:
        submissions = [
            Submission(one.resource_id, convert.spec_from_pb(one.spec), f"jobs[{index}].")
            for index, one in enumerate(request.jobs)
        ]
        return await self._jobs.submit(_caller(), submissions, _mutation(request), partial(frames, 1))

    async def GetJob(self, request: jobs_service_pb2.GetJobRequest, context: object) -> bytes:
        caller, job_id = _caller(), request.job_id
        if request.fresh:
            compared = await self._freshness.refresh_job(await self._jobs.job(caller, job_id))
            return (await self._jobs.get(caller, job_id)).message + convert.observed_at(compared)
        found = await self._jobs.get(caller, job_id)
        return found.message + convert.observed_at(await self._freshness.compared(found.resource_id))

    async def ListJobs(self, request: jobs_service_pb2.ListJobsRequest, context: object) -> bytes:
        caller = _caller()
        query = request.filter.SerializeToString(deterministic=True)
        start = self._pager.open(request.page_token, query, caller.username) if request.page_token else None
        filter_ = convert.filter_from_pb(request.filter)
        known = self._freshness.resources
        resources = [one for one in known if one in filter_.resource_ids] if filter_.resource_ids else known
        if request.fresh and start is None:
            await asyncio.gather(*(self._freshness.refresh(resource_id) for resource_id in resources))
        times = {one: time for one in resources if (time := await self._freshness.compared(one))}
        page = await self._jobs.list(caller, filter_, start, page_size(request.page_size))
        token = self._pager.seal(page.next, query, caller.username) if page.next else ""
        tail = jobs_service_pb2.ListJobsResponse(
            next_page_token=token,
            revision=page.revision,
            observe_times={resource_id: timestamp(time) for resource_id, time in times.items()},
        )
        return frames(1, (job.message for job in page.jobs)) + tail.SerializeToString()

    async def UpdateJob(self, request: jobs_service_pb2.UpdateJobRequest, context: object) -> bytes:
        paths = _paths(request)
        values = convert.spec_from_pb(request.job.spec)
        return await self._steering.update(_caller(), request.job.id, values, paths, request.etag, _mutation(request))

    async def HoldJob(self, request: jobs_service_pb2.HoldJobRequest, context: object) -> bytes:
        return await self._steering.hold(_caller(), request.job_id, _mutation(request))

    async def ReleaseJob(self, request: jobs_service_pb2.ReleaseJobRequest, context: object) -> bytes:
        return await self._steering.release(_caller(), request.job_id, _mutation(request))

    async def CancelJob(self, request: jobs_service_pb2.CancelJobRequest, context: object) -> bytes:
        return await self._steering.cancel(_caller(), request.job_id, _mutation(request))

    async def CancelJobs(self, request: jobs_service_pb2.CancelJobsRequest, context: object) -> bytes:
        filter_ = convert.filter_from_pb(request.filter)
        if filter_.empty:
            raise invalid("filter", "set at least one field: this call ends every job that matches", "EMPTY_FILTER")
        return await self._steering.cancel_matching(
            _caller(),
            filter_,
            _mutation(request),
            lambda ids: jobs_service_pb2.CancelJobsResponse(job_ids=ids).SerializeToString(),
        )

    async def SignalJob(self, request: jobs_service_pb2.SignalJobRequest, context: object) -> bytes:
        return await self._steering.signal(_caller(), request.job_id, request.signal, _mutation(request))

    async def RequeueJob(self, request: jobs_service_pb2.RequeueJobRequest, context: object) -> bytes:
        return await self._steering.requeue(_caller(), request.job_id, request.hold, _mutation(request))

    async def EstimateStart(
        self, request: jobs_service_pb2.EstimateStartRequest, context: object
    ) -> jobs_service_pb2.EstimateStartResponse:
        spec = convert.spec_from_pb(request.spec)
        estimate = await self._jobs.estimate(_caller(), Submission(request.resource_id, spec))
        return convert.estimate_to_pb(estimate, array_size(spec.array) if spec.array else 1)

    async def ListReservations(
        self, request: jobs_service_pb2.ListReservationsRequest, context: object
    ) -> jobs_service_pb2.ListReservationsResponse:
        caller, size = _caller(), page_size(request.page_size)
        query = ",".join(request.resource_ids).encode()
        start = self._pager.open(request.page_token, query, caller.username) if request.page_token else None
        found = await self._jobs.reservations(caller, request.resource_ids)
        left = [one for one in found if start is None or one.key > start.key]
        more = Position(left[size - 1].key, 0) if len(left) > size else None
        return jobs_service_pb2.ListReservationsResponse(
            reservations=[convert.reservation_to_pb(one.resource_id, one.reservation) for one in left[:size]],
            next_page_token=self._pager.seal(more, query, caller.username) if more else "",
        )

    async def WatchJobs(
        self, request: jobs_service_pb2.WatchJobsRequest, context: object
    ) -> AsyncGenerator[bytes, None]:
        caller = _caller()
        single = request.job_id
        filter_ = JobFilter(job_ids=frozenset({single})) if single else convert.filter_from_pb(request.filter)
        if single:
            await self._jobs.stored(caller, single)
        after = request.after_revision if request.HasField("after_revision") else None
        told = 0
        async for part in watch_jobs(self._jobs, self._hub, caller, filter_, after, not request.skip_snapshot):
            if isinstance(part, Snapshot):
                yield frames(1, map(_snapshot_change, part.jobs))
                told = part.jobs[-1].revision
                continue
            yield part.frames + _watch_tail(part)
            if single and await self._ended(caller, single, part, told):
                return

    async def _ended(self, caller: Principal, job_id: str, batch: Batch, told: int) -> bool:
        """Whether a watch of one job has sent its end, maybe in the snapshot, which had it as of revision ``told``."""
        if not batch.events and not batch.caught_up:
            return False
        job = await self._jobs.stored(caller, job_id)
        return job.state.final and job.revision <= max(batch.revision, told)

    async def ReadJobOutput(
        self, request: jobs_service_pb2.ReadJobOutputRequest, context: object
    ) -> AsyncGenerator[jobs_service_pb2.ReadJobOutputResponse, None]:
        caller, job_id = _caller(), request.job_id
        job = await self._jobs.job(caller, job_id)
        if job.array_counts:
            text = f"job {job_id} is an array and has no output of its own; read that of its elements, {job_id}_0 …"
            raise FailedPrecondition("ARRAY_JOB", text, job_id, {"job_id": job_id})
        engine = self._engines.get(job.resource_id)
        stream = OutputStream.STDERR if request.stream == _Stderr else OutputStream.STDOUT

        async def open_() -> int | None:
            current = await self._jobs.job(caller, job_id)
            started = current.start_time or current.status.state >= JobState.ACTIVE
            if engine is None or not started:
                return None
            try:
                return await engine.open_output(ref_of(current), current.spec, stream)
            except EngineError as error:
                raise refusals.error_of(error.refusal, job_id) from error

        async def ended() -> bool:
            return (await self._jobs.stored(caller, job_id)).state.final

        with contextlib.closing(Output(job_id, open_)) as output:
            async for piece in read_output(job_id, request.offset, request.follow, output, ended):
                yield jobs_service_pb2.ReadJobOutputResponse(data=piece.data, offset=piece.offset, end=piece.end)


def _caller() -> Principal:
    return current_call().principal


def _mutation(request: Message) -> Mutation:
    call = current_call()
    return mutation(call.principal.username, call.method.full_name, request)


def _snapshot_change(job: Stored) -> bytes:
    revision = jobs_service_pb2.JobChange(revision=job.revision).SerializeToString()
    return _SNAPSHOT_HEAD + revision + framed(3, job.message)


def _watch_tail(batch: Batch) -> bytes:
    return jobs_service_pb2.WatchJobsResponse(revision=batch.revision, caught_up=batch.caught_up).SerializeToString()


def _paths(request: jobs_service_pb2.UpdateJobRequest) -> Sequence[str]:
    """Returns what an update changes. Raises InvalidArgument for paths that do not exist or never change."""
    if not request.job.id:
        raise invalid("job.id", "must name the job to change", "REQUIRED")
    mask: field_mask_pb2.FieldMask = request.update_mask
    paths = list(dict.fromkeys(mask.paths)) or _set_paths(request.job)
    wrong = [path for path in paths if path not in UPDATABLE and path.split(".")[0] not in _OUTPUT_FIELDS]
    if wrong or len(paths) > 32:
        known = ", ".join(UPDATABLE)
        found = [
            Violation("update_mask", f"{path} cannot be changed; what can: {known}", "NOT_UPDATABLE") for path in wrong
        ]
        raise InvalidArgument(found or [Violation("update_mask", "has more than 32 paths", "TOO_MANY_PATHS")])
    return [path for path in paths if path in UPDATABLE]


def _set_paths(job: job_pb2.Job) -> list[str]:
    """Returns the paths of the fields of ``job.spec`` that are set, for an update without a mask."""
    spec = job.spec
    paths = [f"spec.{field.name}" for field, _ in spec.ListFields() if field.name != "attributes"]
    return paths + [f"spec.attributes.{field.name}" for field, _ in spec.attributes.ListFields()]
