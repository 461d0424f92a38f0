# ruff: noqa: ASYNC109 - the timeout is gRPC's, which also tells it to the server
"""Jobs: submit, find, steer and follow them."""

from __future__ import annotations

import os
import signal as signals
import uuid
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any, Literal, Unpack

from openfacility.jobs.v1 import jobs_service_pb2 as pb

from openfacility_client._aio import Alarm
from openfacility_client._async.job_pager import AsyncJobPager
from openfacility_client._async.streams import AsyncJobOutput, AsyncJobWatch, OnDisconnect
from openfacility_client._async.transport import AsyncTransport
from openfacility_client._convert import filter_to_proto, from_proto, to_proto
from openfacility_client._cursors import OnGap, OutputCursor, WatchCursor
from openfacility_client._exceptions import DeadlineExceeded
from openfacility_client._model import Estimate, Job, JobFilter, JobSpec, Reservation, ResourceSpec, id_of, ids_of
from openfacility_client._spec import FilterOptions, SpecOptions, job_filter, spec_of, to_timedelta
from openfacility_client._timing import Backoff, Deadline

Timeout = timedelta | float | None
"""How long a call may take, as a duration or in seconds; None for the client's default (30 s)."""

_LOOK_UP_AT_ONCE = 500


class AsyncJobs:
    """The jobs of a facility. Every method that changes something can safely be repeated with the same `request_id`.

    Wherever a job is asked for, a `Job` or its id will do. All methods raise `RPCError`s; the contract says which.
    """

    def __init__(self, transport: AsyncTransport) -> None:
        """Use a connection."""
        self._transport = transport

    async def submit(
        self,
        *command: str | os.PathLike[str] | JobSpec,
        resource: str = "",
        request_id: str = "",
        timeout: Timeout = None,
        **options: Unpack[SpecOptions],
    ) -> Job:
        """Submit a job, given as a command with options, or as one `JobSpec`; return it as it was stored.

        Args:
            command: the program and its arguments; with `script` or `script_path`, that script's arguments.
            resource: compute resource to run on; empty for the facility's default.
            request_id: makes repeating safe, also from another process; empty for a new one.
            timeout: how long to wait, in seconds. While the batch system does not answer, the submission is repeated
                until then.
            options: see `SpecOptions`.

        Raises:
            InvalidArgument: see its `violations`; what the batch system refuses has its words in `engine_message`.
            PermissionDenied: the batch system does not let the caller have this; `reason` says what.
            FailedPrecondition: the batch system refuses it for now; `reason` says why.
            ResourceExhausted: the caller has too many unfinished jobs, or asks for more than is granted.
            Unavailable: the batch system did not answer in time. With the reason `SUBMIT_PENDING` the job may come to
                run nevertheless: submit it again with the error's `retry_request_id`, and it is still one job.
        """
        request = pb.SubmitJobRequest(resource_id=resource, request_id=request_id or _new_id())
        to_proto(spec_of(*command, **options), request.spec)
        return await self._job("SubmitJob", request, timeout)

    async def submit_many(
        self, specs: Iterable[JobSpec], *, resource: str = "", request_id: str = "", timeout: Timeout = None
    ) -> list[Job]:
        """Submit up to 1,000 jobs at once, all or none; return them in the same order."""
        request = pb.BatchSubmitJobsRequest(request_id=request_id or _new_id())
        for spec in specs:
            to_proto(spec, request.jobs.add(resource_id=resource).spec)
        response = await self._transport.call("BatchSubmitJobs", request, timeout=timeout)
        return [from_proto(Job, job) for job in response.jobs]

    async def estimate(
        self,
        *command: str | os.PathLike[str] | JobSpec,
        resource: str = "",
        timeout: Timeout = None,
        **options: Unpack[SpecOptions],
    ) -> Estimate:
        """Say what would become of a job if it were submitted now, given as in `submit`. Nothing is submitted.

        What the batch system would refuse is an answer (`acceptable` is False), not an error.

        Raises:
            InvalidArgument: as in `submit`, but for what the batch system would refuse.
            Unavailable: the batch system does not answer.
        """
        request = pb.EstimateStartRequest(resource_id=resource)
        to_proto(spec_of(*command, **options), request.spec)
        return from_proto(Estimate, await self._transport.call("EstimateStart", request, timeout=timeout))

    async def get(self, job: Job | str, *, fresh: bool = False, timeout: Timeout = None) -> Job:
        """Return a job as it is known; `observe_time` says when that was last compared with the engine.

        Args:
            job: the job.
            fresh: whether to ask the engine first.
            timeout: how long to wait, in seconds.

        Raises:
            NotFound: there is none that the caller may see.
            Unavailable: with `fresh`: the engine does not answer.
        """
        return await self._job("GetJob", pb.GetJobRequest(job_id=id_of(job), fresh=fresh), timeout)

    def list(
        self,
        where: JobFilter | None = None,
        *,
        fresh: bool = False,
        page_size: int = 0,
        timeout: Timeout = None,
        **filters: Unpack[FilterOptions],
    ) -> AsyncJobPager:
        """Go through the jobs that match, newest first, finished ones included.

        Args:
            where: which jobs; `filters` go over it. Without both, all that the caller may see.
            fresh: whether to compare with the engines first, so that what happened around this service is there.
            page_size: most jobs in one call, up to 1,000; 0 for the server's choice.
            timeout: how long to wait for each page, in seconds.
            filters: see `FilterOptions`.

        Raises:
            Unavailable: with `fresh`, when the first page is fetched: an engine does not answer.
        """
        request = pb.ListJobsRequest(page_size=page_size, fresh=fresh)
        selected = job_filter(where, **filters)
        if selected != JobFilter():
            request.filter.CopyFrom(filter_to_proto(selected))
        return AsyncJobPager(self._transport, request, timeout)

    async def update(
        self,
        job: Job | str,
        *,
        name: str | None = None,
        labels: Mapping[str, str] | None = None,
        duration: timedelta | float | None = None,
        queue: str | None = None,
        account: str | None = None,
        resources: ResourceSpec | None = None,
        etag: str = "",
        request_id: str = "",
        timeout: Timeout = None,
    ) -> Job:
        """Change a job; what is None stays as it is. Labels and resources are replaced as a whole.

        Args:
            job: the job.
            name: display name; may change at any time.
            labels: may change at any time.
            duration: time limit from the start, in seconds; may change until the job has ended.
            queue: may change until the job starts.
            account: project to charge; may change until the job starts.
            resources: may change until the job starts.
            etag: `Job.etag` that the change is based on; empty to change whatever is there.
            request_id: makes repeating safe; empty for a new one.
            timeout: how long to wait, in seconds.

        Raises:
            Aborted: the job is not at `etag` any more.
            FailedPrecondition: it is too late to change this.
            RPCError: what a batch system refuses is raised as in `submit`; `applied` says what it changed all the same.
        """
        request = pb.UpdateJobRequest(etag=etag, request_id=request_id or _new_id())
        request.job.id = id_of(job)
        spec, paths = request.job.spec, request.update_mask.paths
        if name is not None:
            spec.name = name
            paths.append("spec.name")
        if labels is not None:
            spec.labels.update(labels)
            paths.append("spec.labels")
        if duration is not None:
            spec.attributes.duration.FromTimedelta(to_timedelta(duration))
            paths.append("spec.attributes.duration")
        if queue is not None:
            spec.attributes.queue_name = queue
            paths.append("spec.attributes.queue_name")
        if account is not None:
            spec.attributes.account = account
            paths.append("spec.attributes.account")
        if resources is not None:
            to_proto(resources, spec.resources).SetInParent()
            paths.append("spec.resources")
        if not paths:
            raise ValueError("nothing to change")
        return await self._job("UpdateJob", request, timeout)

    async def hold(self, job: Job | str, *, request_id: str = "", timeout: Timeout = None) -> Job:
        """Keep a waiting job from starting.

        Raises:
            FailedPrecondition: it runs or has ended.
        """
        request = pb.HoldJobRequest(job_id=id_of(job), request_id=request_id or _new_id())
        return await self._job("HoldJob", request, timeout)

    async def release(self, job: Job | str, *, request_id: str = "", timeout: Timeout = None) -> Job:
        """Let a held job start.

        Raises:
            FailedPrecondition: it runs or has ended.
            PermissionDenied: an operator held it.
        """
        request = pb.ReleaseJobRequest(job_id=id_of(job), request_id=request_id or _new_id())
        return await self._job("ReleaseJob", request, timeout)

    async def signal(
        self, job: Job | str, signal: str | signals.Signals, *, request_id: str = "", timeout: Timeout = None
    ) -> Job:
        """Send a signal to a running job: to its program and what that started. Of an array: to its running elements.

        Args:
            job: the job.
            signal: such as `"USR1"`, `"SIGUSR1"` or `signal.SIGUSR1`.
            request_id: makes repeating safe; empty for a new one.
            timeout: how long to wait, in seconds.

        Raises:
            InvalidArgument: there is no such signal, or it is not one that can be sent.
            FailedPrecondition: it does not run (`JOB_STATE`), or its engine sends no signals (`ENGINE_CANNOT`).
        """
        name = signal.name if isinstance(signal, signals.Signals) else signal.upper()
        request = pb.SignalJobRequest(
            job_id=id_of(job), signal=name.removeprefix("SIG"), request_id=request_id or _new_id()
        )
        return await self._job("SignalJob", request, timeout)

    async def requeue(
        self, job: Job | str, *, hold: bool = False, request_id: str = "", timeout: Timeout = None
    ) -> Job:
        """Stop a running job and put it back into the queue, to start anew. Of an array: its running elements.

        Args:
            job: the job.
            hold: whether it then waits for `release`.
            request_id: makes repeating safe; empty for a new one.
            timeout: how long to wait, in seconds.

        Raises:
            FailedPrecondition: it does not run (`JOB_STATE`), may not be put back (`UPDATE_REFUSED`), or its engine
                puts none back (`ENGINE_CANNOT`).
        """
        request = pb.RequeueJobRequest(job_id=id_of(job), hold=hold, request_id=request_id or _new_id())
        return await self._job("RequeueJob", request, timeout)

    async def cancel(self, job: Job | str, *, request_id: str = "", timeout: Timeout = None) -> Job:
        """Ask for a job's end. It is CANCELED once its processes are gone: `wait` for that.

        Raises:
            FailedPrecondition: it has ended already, in another way.
        """
        request = pb.CancelJobRequest(job_id=id_of(job), request_id=request_id or _new_id())
        return await self._job("CancelJob", request, timeout)

    async def cancel_all(
        self,
        where: JobFilter | None = None,
        *,
        request_id: str = "",
        timeout: Timeout = None,
        **filters: Unpack[FilterOptions],
    ) -> Sequence[str]:
        """Ask for the end of all unfinished jobs that match; return their ids.

        One call asks for at most 10,000: if that many ids come back, call again.

        Raises:
            InvalidArgument: there is no filter at all.
        """
        request = pb.CancelJobsRequest(request_id=request_id or _new_id())
        request.filter.CopyFrom(filter_to_proto(job_filter(where, **filters)))
        response = await self._transport.call("CancelJobs", request, timeout=timeout)
        return list(response.job_ids)

    async def reservations(
        self, *, resource_ids: str | Iterable[str] = (), timeout: Timeout = None
    ) -> Sequence[Reservation]:
        """Return the reservations that go on or are to come, by start: those that the caller may use, and maintenance.

        Args:
            resource_ids: compute resources; empty for all.
            timeout: how long to wait, in seconds.

        Raises:
            InvalidArgument: there is no such resource.
            Unavailable: an engine does not answer.
        """
        request = pb.ListReservationsRequest(resource_ids=ids_of(resource_ids))
        response = await self._transport.call("ListReservations", request, timeout=timeout)
        return [from_proto(Reservation, reservation) for reservation in response.reservations]

    def watch(
        self,
        job: Job | str | None = None,
        *,
        where: JobFilter | None = None,
        after_revision: int | None = None,
        snapshot: bool = True,
        on_gap: OnGap = "snapshot",
        timeout: Timeout = None,
        give_up_after: timedelta | float | None = None,
        on_disconnect: OnDisconnect | None = None,
        **filters: Unpack[FilterOptions],
    ) -> AsyncJobWatch:
        """Follow one job to its end, or all jobs that match for as long as one listens.

        First come the jobs as they are (type SNAPSHOT), then every change, in order, each exactly once. A change is
        also told when the job ceases to match by it. It all goes on over reconnects, restarts of the server and
        expired tokens. If the server no longer keeps the changes since the last one, a new snapshot is taken: then
        jobs that have changed meanwhile come as SNAPSHOT, and those that have ceased to match as UPDATED, so that
        whoever keeps the jobs by their ids is right again; several changes of one job may have become one. (What
        ceased to match while nobody watched, before `after_revision` and too long ago, is not told; `on_gap="raise"`
        is for those who would rather list again.)

        Args:
            job: the one job to follow; not together with a filter.
            where: which jobs; `filters` go over it. Without any, all that the caller may see.
            after_revision: only changes after this one, from a list or an earlier watch, and no snapshot.
            snapshot: False for changes from now on only.
            on_gap: what to do when the position is lost; "raise" raises `OutOfRange`.
            timeout: seconds until `DeadlineExceeded`, in all; None for no limit.
            give_up_after: seconds without any contact until the error is raised; None to try for ever.
            on_disconnect: told of each interruption: the error (None if the server just ended the stream) and the
                seconds until it goes on.
            filters: see `FilterOptions`.

        Raises:
            NotFound: there is no such job that the caller may see.
            Unauthenticated: the token expired, and there is no fresh one.
        """
        selected = job_filter(where, **filters) if where is not None or filters else None
        if job is not None and selected is not None:
            raise TypeError("watch one job or a filter, not both")
        cursor = WatchCursor(
            job_id="" if job is None else id_of(job),
            jobs=selected,
            after_revision=after_revision,
            snapshot=snapshot,
            on_gap=on_gap,
        )
        return AsyncJobWatch(
            self._transport,
            cursor,
            timeout=timeout,
            give_up_after=give_up_after,
            on_disconnect=on_disconnect,
            look_up=self._look_up,
        )

    async def wait(
        self,
        job: Job | str,
        *,
        timeout: Timeout = None,
        give_up_after: timedelta | float | None = None,
        on_disconnect: OnDisconnect | None = None,
    ) -> Job:
        """Wait until a job has ended, and return it as it is then. Costs one watch, no polling.

        Raises:
            DeadlineExceeded: it has not ended after `timeout` seconds; None waits for ever.
            NotFound: there is no such job that the caller may see.
        """
        deadline, backoff = Deadline(timeout), Backoff()
        while True:
            async with self.watch(
                job, timeout=deadline.remaining, give_up_after=give_up_after, on_disconnect=on_disconnect
            ) as changes:
                async for change in changes:
                    if change.job.final:
                        return change.job
            found = await self.get(job)
            if found.final:
                return found
            if deadline.passed:
                raise DeadlineExceeded("the job has not ended in time", method="WatchJobs")
            await Alarm().pause(min(backoff.next(), deadline.remaining))

    def logs(
        self,
        job: Job | str,
        *,
        stream: Literal["stdout", "stderr"] = "stdout",
        follow: bool = False,
        offset: int = 0,
        timeout: Timeout = None,
        give_up_after: timedelta | float | None = None,
        on_disconnect: OnDisconnect | None = None,
    ) -> AsyncJobOutput:
        """Read a job's output, as pieces of bytes; goes on over reconnects where it was.

        Args:
            job: the job, or one element of an array.
            stream: which of the two.
            follow: whether to go on until the job has ended, instead of to the present end.
            offset: byte to start at; negative: that many before the present end.
            timeout: seconds until `DeadlineExceeded`, in all; None for no limit.
            give_up_after: seconds without any contact until the error is raised; None for ever with `follow`, and
                for as long as any call may take (30 s) without.
            on_disconnect: as in `watch`.

        Raises:
            NotFound: there is no such job that the caller may see, or the file has been removed.
            OutOfRange: the offset is beyond the end of a finished job's output.
            FailedPrecondition: the job is an array; read its elements' output.
        """
        if give_up_after is None and not follow:
            give_up_after = self._transport.settings.timeout
        cursor = OutputCursor(id_of(job), stream=stream, offset=offset, follow=follow)
        return AsyncJobOutput(
            self._transport, cursor, timeout=timeout, give_up_after=give_up_after, on_disconnect=on_disconnect
        )

    async def _job(self, method: str, request: Any, timeout: Timeout) -> Job:
        return from_proto(Job, await self._transport.call(method, request, timeout=timeout))

    async def _look_up(self, job_ids: Sequence[str]) -> Sequence[Job]:
        found: list[Job] = []
        for start in range(0, len(job_ids), _LOOK_UP_AT_ONCE):
            some = job_ids[start : start + _LOOK_UP_AT_ONCE]
            async for page in self.list(job_ids=some, page_size=_LOOK_UP_AT_ONCE).pages():
                found.extend(page.jobs)
        return found


def _new_id() -> str:
    return str(uuid.uuid4())
