"""Where a stream stands: what to ask for next, what of an answer is new, when it is over. No input or output here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Generic, Literal, Protocol, TypeVar

from openfacility.jobs.v1 import job_pb2
from openfacility.jobs.v1 import jobs_service_pb2 as pb

from openfacility_client._convert import filter_to_proto, from_proto
from openfacility_client._exceptions import OutOfRange
from openfacility_client._model import ChangeType, Job, JobChange, JobFilter

Item_co = TypeVar("Item_co", covariant=True)
OnGap = Literal["snapshot", "raise"]

_STREAMS = {"stdout": pb.ReadJobOutputRequest.STREAM_STDOUT, "stderr": pb.ReadJobOutputRequest.STREAM_STDERR}


class Cursor(Protocol, Generic[Item_co]):
    """The position of one stream."""

    finished: bool
    """Whether the caller has been given everything."""

    def request(self) -> Any:
        """Return the request that continues from here."""

    def accept(self, response: Any) -> Sequence[Item_co]:
        """Take a response, move on, and return what is new in it."""

    def ended(self) -> None:
        """Note that the server ended the stream without an error."""

    def lost(self, error: OutOfRange) -> bool:
        """Note that the position is gone; return whether there is another way to go on."""


class OutputCursor:
    """The position in a job's output."""

    def __init__(self, job_id: str, *, stream: Literal["stdout", "stderr"], offset: int, follow: bool) -> None:
        """Start at a byte offset, or, if it is negative, that many bytes before the end."""
        self.finished = False
        self.offset = offset
        self._job_id = job_id
        self._stream = _STREAMS[stream]
        self._follow = follow

    def request(self) -> pb.ReadJobOutputRequest:
        """Return the request for what comes next."""
        return pb.ReadJobOutputRequest(
            job_id=self._job_id, stream=self._stream, offset=self.offset, follow=self._follow
        )

    def accept(self, response: pb.ReadJobOutputResponse) -> Sequence[bytes]:
        """Return the bytes of a response that have not been seen yet."""
        data = response.data
        if data:
            known = max(0, self.offset - response.offset) if self.offset >= 0 else 0
            data = data[known:]
            self.offset = max(self.offset, response.offset + len(response.data))
        elif response.end:
            self.offset = response.offset
        self.finished = response.end
        return (data,) if data else ()

    def ended(self) -> None:
        """Nothing is over before a response says `end`."""

    def lost(self, error: OutOfRange) -> bool:
        """There is nothing at this offset, and no other way to it."""
        return False


class WatchCursor:
    """The position in the changes of one job, or of all that match a filter.

    How it keeps its promises:

    * *In order, each once, none left out:* it resumes after the last revision of which it has everything. What arrives
      a second time (a resume overlaps, a snapshot is sent anew) is recognized by the job's revision and dropped.
    * *A snapshot that breaks off* is asked for anew; jobs that were already passed on are passed on again only if they
      have changed, and jobs that have ceased to match meanwhile are looked up (`unsure`) and passed on as UPDATED.
    * *A lost position* (the server no longer keeps the changes since) is healed the same way, if `on_gap` says so: a
      new snapshot brings the jobs that have changed as SNAPSHOT, and those that have ceased to match as UPDATED.

    To know what has ceased to match it keeps the ids of the jobs that do match now, and only for a filter by
    something that can change.
    """

    def __init__(
        self,
        *,
        job_id: str = "",
        jobs: JobFilter | None = None,
        after_revision: int | None = None,
        snapshot: bool = True,
        on_gap: OnGap = "snapshot",
    ) -> None:
        """Start after a revision, or with a snapshot, or with changes from now on."""
        self.finished = False
        self.caught_up = False
        self.revision = after_revision
        """Resume after this one; None as long as there is none."""
        self.unsure: list[str] = []
        """Jobs to look up: they matched, and are not in the new snapshot."""
        self.resets = 0
        self._job_id = job_id
        self._filter = jobs
        self._snapshot = snapshot
        self._on_gap = on_gap
        self._delivered_to = 0
        self._matching: dict[str, int] = {}
        self._ahead: dict[str, int] = {}  # Passed on at a revision beyond `revision`.
        self._present: set[str] = set()
        self._in_snapshot = False

    def request(self) -> pb.WatchJobsRequest:
        """Return the request that continues from here."""
        request = pb.WatchJobsRequest(job_id=self._job_id)
        if self._filter is not None and self._filter != JobFilter():
            request.filter.CopyFrom(filter_to_proto(self._filter))
        if self.revision is not None:
            request.after_revision = self.revision
        elif not self._snapshot:
            request.skip_snapshot = True
        self._in_snapshot = self.revision is None and self._snapshot
        self._present = set()
        return request

    def accept(self, response: pb.WatchJobsResponse) -> Sequence[JobChange]:
        """Return the changes of a response that are new."""
        changes = [from_proto(JobChange, change) for change in response.changes if self._is_new(change)]
        for change in changes:
            self._note(change.job, change.revision)
        if response.revision:
            self.revision = max(self.revision or 0, response.revision)
            self._ahead = {id_: known for id_, known in self._ahead.items() if known > response.revision}
        if response.caught_up:
            self._catch_up()
        if self._job_id:
            self.finished = any(
                change.job.id == self._job_id and change.job.status.state in _FINAL for change in response.changes
            )
        return changes

    def ended(self) -> None:
        """Note a clean end: that of one job's watch is final, that of many jobs' is a server or proxy going away."""
        self.finished = bool(self._job_id)

    def lost(self, error: OutOfRange) -> bool:
        """Start over with a snapshot, unless the caller would rather be told."""
        if self._on_gap == "raise" or self.revision is None:
            return False
        if error.current_revision is not None and error.current_revision < self.revision:
            # The server's history is another one (restored from a backup): revisions mean nothing any more.
            self._delivered_to = 0
            self._matching = dict.fromkeys(self._matching, 0)
        else:
            self._delivered_to = self.revision
        self._ahead.clear()
        self.revision = None
        self._snapshot = True
        self.resets += 1
        return True

    def found(self, jobs: Iterable[Job]) -> Sequence[JobChange]:
        """Take what the look-up of `unsure` jobs gave; return what has changed."""
        position = self.revision or 0
        news = [job for job in jobs if job.revision > self._matching.get(job.id, 0)]
        for id_ in self.unsure:
            self._matching.pop(id_, None)
        self.unsure = []
        for job in news:
            self._note(job, job.revision)
            if job.revision > position:
                self._ahead[job.id] = job.revision
        # The change itself lies before the position, even if the job has gone on since: the order stays.
        return [JobChange(ChangeType.UPDATED, min(job.revision, position), job) for job in news]

    def _is_new(self, change: pb.JobChange) -> bool:
        known = max(self._matching.get(change.job.id, 0), self._ahead.get(change.job.id, 0))
        if change.type == pb.JobChange.TYPE_SNAPSHOT:
            self._present.add(change.job.id)
            return (change.job.revision or change.revision) > max(self._delivered_to, known)
        return change.revision > max(self.revision or 0, known)

    def _note(self, job: Job, revision: int) -> None:
        """Remember that a job matches, as long as that is of use."""
        if not self._in_snapshot and not self._may_leave:
            return
        if self._filter is None or self._filter.keeps(job):
            self._matching[job.id] = max(job.revision, revision)
        else:
            self._matching.pop(job.id, None)

    def _catch_up(self) -> None:
        self.caught_up = True
        if not self._in_snapshot:
            return
        self._in_snapshot = False
        # A snapshot takes longer than a moment: what it read late is newer than the revision it stands for.
        position = self.revision or 0
        self._ahead.update((id_, known) for id_, known in self._matching.items() if known > position)
        if self._may_leave:
            self.unsure = [id_ for id_ in self._matching if id_ not in self._present]
        else:
            self._matching.clear()
        self._present = set()

    @property
    def _may_leave(self) -> bool:
        return self._filter is not None and self._filter.changeable


_FINAL = frozenset({job_pb2.JOB_STATE_COMPLETED, job_pb2.JOB_STATE_FAILED, job_pb2.JOB_STATE_CANCELED})
