# Made from _async/jobs.py by clients/python/generate_sync.py; change that one.
"""Jobs: submit, find, steer and follow them."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any, Literal, Unpack

from openfacility.jobs.v1 import jobs_service_pb2 as pb

from openfacility_client._convert import filter_to_proto, from_proto, to_proto
from openfacility_client._cursors import OnGap, OutputCursor, WatchCursor
from openfacility_client._exceptions import DeadlineExceeded
from openfacility_client._model import Job, JobFilter, JobPage, JobSpec, ResourceSpec, id_of
from openfacility_client._spec import FilterOptions, SpecOptions, job_filter, job_spec, to_timedelta
from openfacility_client._sync.streams import JobOutput, JobWatch, OnDisconnect
from openfacility_client._sync.transport import Transport
from openfacility_client._threads import Alarm
from openfacility_client._timing import Backoff, Deadline

Timeout = timedelta | float | None
"""How long a call may take, as a duration or in seconds; None for the client's default (30 s)."""

_LOOK_UP_AT_ONCE = 500


class JobPager(Iterator[Job]):
    """The jobs of a list, page after page; each page is fetched when its first job is wanted."""

    def __init__(self, transport: Transport, request: pb.ListJobsRequest, timeout: Timeout) -> None:
        """Fetch nothing yet."""
        self.revision: int | None = None
        """Revision that the list was read at, once the first page is there: a watch with `after_revision` continues
        from here without a gap."""
        self._transport = transport
        self._request = request
        self._timeout = timeout
        self._jobs: list[Job] = []
        self._done = False

    def __iter__(self) -> JobPager:
        """Return this very list."""
        return self

    def __next__(self) -> Job:
        """Return the next job."""
        while not self._jobs:
            page = self._fetch()
            if page is None:
                raise StopIteration
            self._jobs = list(reversed(page.jobs))
        return self._jobs.pop()

    def pages(self) -> Iterator[JobPage]:
        """Go through the list page by page instead of job by job."""
        while (page := self._fetch()) is not None:
            yield page

    def _fetch(self) -> JobPage | None:
        if self._done:
            return None
        response = self._transport.call("ListJobs", self._request, timeout=self._timeout)
        page = from_proto(JobPage, response)
        self._request.page_token = page.next_page_token
        self._done = not page.next_page_token
        if self.revision is None:
            self.revision = page.revision
        return page


class Jobs:
    """The jobs of a facility. Every method that changes something can safely be repeated with the same `request_id`.

    Wherever a job is asked for, a `Job` or its id will do. All methods raise `RPCError`s; the contract says which.
    """

    def __init__(self, transport: Transport) -> None:
        """Use a connection."""
        self._transport = transport

    def submit(
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
            timeout: how long to wait, in seconds.
            options: see `SpecOptions`.

        Raises:
            InvalidArgument: see its `violations`.
            ResourceExhausted: the caller has too many unfinished jobs.
        """
        if command and isinstance(command[0], JobSpec):
            if len(command) > 1 or options:
                raise TypeError("give one JobSpec and nothing else, or a command with options")
            spec = command[0]
        else:
            spec = job_spec(*(word for word in command if not isinstance(word, JobSpec)), **options)
        request = pb.SubmitJobRequest(resource_id=resource, request_id=request_id or _new_id())
        to_proto(spec, request.spec)
        return self._job("SubmitJob", request, timeout)

    def submit_many(
        self, specs: Iterable[JobSpec], *, resource: str = "", request_id: str = "", timeout: Timeout = None
    ) -> list[Job]:
        """Submit up to 1,000 jobs at once, all or none; return them in the same order."""
        request = pb.BatchSubmitJobsRequest(request_id=request_id or _new_id())
        for spec in specs:
            to_proto(spec, request.jobs.add(resource_id=resource).spec)
        response = self._transport.call("BatchSubmitJobs", request, timeout=timeout)
        return [from_proto(Job, job) for job in response.jobs]

    def get(self, job: Job | str, *, timeout: Timeout = None) -> Job:
        """Return a job as it is now.

        Raises:
            NotFound: there is none that the caller may see.
        """
        return self._job("GetJob", pb.GetJobRequest(job_id=id_of(job)), timeout)

    def list(
        self,
        where: JobFilter | None = None,
        *,
        page_size: int = 0,
        timeout: Timeout = None,
        **filters: Unpack[FilterOptions],
    ) -> JobPager:
        """Go through the jobs that match, newest first, finished ones included.

        Args:
            where: which jobs; `filters` go over it. Without both, all that the caller may see.
            page_size: most jobs in one call, up to 1,000; 0 for the server's choice.
            timeout: how long to wait for each page, in seconds.
            filters: see `FilterOptions`.
        """
        request = pb.ListJobsRequest(page_size=page_size)
        selected = job_filter(where, **filters)
        if selected != JobFilter():
            request.filter.CopyFrom(filter_to_proto(selected))
        return JobPager(self._transport, request, timeout)

    def update(
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
        return self._job("UpdateJob", request, timeout)

    def hold(self, job: Job | str, *, request_id: str = "", timeout: Timeout = None) -> Job:
        """Keep a waiting job from starting.

        Raises:
            FailedPrecondition: it runs or has ended.
        """
        request = pb.HoldJobRequest(job_id=id_of(job), request_id=request_id or _new_id())
        return self._job("HoldJob", request, timeout)

    def release(self, job: Job | str, *, request_id: str = "", timeout: Timeout = None) -> Job:
        """Let a held job start.

        Raises:
            FailedPrecondition: it runs or has ended.
            PermissionDenied: an operator held it.
        """
        request = pb.ReleaseJobRequest(job_id=id_of(job), request_id=request_id or _new_id())
        return self._job("ReleaseJob", request, timeout)

    def cancel(self, job: Job | str, *, request_id: str = "", timeout: Timeout = None) -> Job:
        """Ask for a job's end. It is CANCELED once its processes are gone: `wait` for that.

        Raises:
            FailedPrecondition: it has ended already, in another way.
        """
        request = pb.CancelJobRequest(job_id=id_of(job), request_id=request_id or _new_id())
        return self._job("CancelJob", request, timeout)

    def cancel_all(
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
        response = self._transport.call("CancelJobs", request, timeout=timeout)
        return list(response.job_ids)

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
    ) -> JobWatch:
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
        return JobWatch(
            self._transport,
            cursor,
            timeout=timeout,
            give_up_after=give_up_after,
            on_disconnect=on_disconnect,
            look_up=self._look_up,
        )

    def wait(
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
            with self.watch(
                job, timeout=deadline.remaining, give_up_after=give_up_after, on_disconnect=on_disconnect
            ) as changes:
                for change in changes:
                    if change.job.final:
                        return change.job
            found = self.get(job)
            if found.final:
                return found
            if deadline.passed:
                raise DeadlineExceeded("the job has not ended in time", method="WatchJobs")
            Alarm().pause(min(backoff.next(), deadline.remaining))

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
    ) -> JobOutput:
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
        return JobOutput(
            self._transport, cursor, timeout=timeout, give_up_after=give_up_after, on_disconnect=on_disconnect
        )

    def _job(self, method: str, request: Any, timeout: Timeout) -> Job:
        return from_proto(Job, self._transport.call(method, request, timeout=timeout))

    def _look_up(self, job_ids: Sequence[str]) -> Sequence[Job]:
        found: list[Job] = []
        for start in range(0, len(job_ids), _LOOK_UP_AT_ONCE):
            some = job_ids[start : start + _LOOK_UP_AT_ONCE]
            for page in self.list(job_ids=some, page_size=_LOOK_UP_AT_ONCE).pages():
                found.extend(page.jobs)
        return found


def _new_id() -> str:
    return str(uuid.uuid4())
