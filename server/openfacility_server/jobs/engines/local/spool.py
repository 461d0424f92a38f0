"""The spool directory: the local engine's durable record, its own small batch system.

::

    spool/
      resource            id of the compute resource that it belongs to
      leader.lock         locked by the one process that schedules; the kernel frees it when that process dies
      wake                FIFO that wakes the leader
      sequence            last number given to a submission, the order of the queue
      active/<job id>     empty file: the job has not ended, or its end has not been taken by the follower
      inbox/<job id>      empty file: something about the job has changed, leader, look
      arrays/<array id>   indices of an array
      jobs/<job id>/      one job, see `shepherd.record`
      trash/              directories on their way out

A step of scheduling looks at ``inbox`` alone, a leader that starts at ``active``; ended jobs cost nothing. Directories
are 0700 and files 0600. Jobs run as the user that the spool belongs to and could therefore meddle with it; that is
accepted here, an engine that runs jobs as other users is another engine.
"""

# Called thousands of times in a row, where Path objects cost more than the calls.
# ruff: noqa: PTH103, PTH104, PTH108, PTH110, PTH112, PTH116, PTH118, PTH208

from __future__ import annotations

import fcntl
import logging
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path

from openfacility_server.jobs.engines import EngineError, EngineJob, EngineUnavailable
from openfacility_server.jobs.engines.local.codec import Json, Submitted, job_to_json, submitted_from_json
from openfacility_server.jobs.engines.local.shepherd import record
from openfacility_server.jobs.model import JobReason, JobState

log = logging.getLogger(__name__)

ORPHANED = 3600.0
JOB_ID = re.compile(r"[a-z0-9]{1,32}(_[0-9]{1,8})?\Z")


class Fate(Enum):
    """How far a job has come, as those that depend on it see it."""

    UNKNOWN = auto()
    WAITING = auto()
    STARTED = auto()
    COMPLETED = auto()
    UNSUCCESSFUL = auto()


class Claim(Enum):
    """What a job's claim tells of its shepherd."""

    HELD = auto()  # it lives
    NONE = auto()  # there never was one
    ABANDONED = auto()  # there was one, and it is dead


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All that the files tell of one job."""

    job: Submitted
    control: Json
    cancel: str | None
    launch: Json | None
    claim: Json | None
    started: Json | None
    exit: Json | None
    active: bool
    signaled: bool = False


class Spool:
    """Reads and writes the spool. Every method is short, blocking and safe to run in several processes at once."""

    def __init__(self, root: Path) -> None:
        """Names the directory; `prepare` makes it."""
        self.root = str(root.absolute())
        self.jobs = os.path.join(self.root, "jobs")
        self.active = os.path.join(self.root, "active")
        self.inbox = os.path.join(self.root, "inbox")
        self.arrays = os.path.join(self.root, "arrays")
        self.trash = os.path.join(self.root, "trash")
        self.wake = os.path.join(self.root, "wake")
        self._damaged: set[str] = set()  # said once of each

    def prepare(self, resource_id: str) -> None:
        """Makes what is missing. Raises EngineUnavailable when the spool is another resource's."""
        for path in (self.root, self.jobs, self.active, self.inbox, self.arrays, self.trash):
            os.makedirs(path, mode=0o700, exist_ok=True)
        for name in ("leader.lock", "sequence", "resource"):
            os.close(os.open(os.path.join(self.root, name), os.O_RDWR | os.O_CREAT, 0o600))
        with suppress(FileExistsError):
            os.mkfifo(self.wake, 0o600)
        with self._locked(os.path.join(self.root, "resource")) as fd:
            owner = os.pread(fd, 1000, 0).decode()
            if not owner:
                os.pwrite(fd, resource_id.encode(), 0)
            elif owner != resource_id:
                raise EngineUnavailable(f"The spool of {resource_id} belongs to another resource, {owner}.")

    def path(self, job_id: str, name: str = "") -> str:
        """Returns the path of a job's directory or of a file in it."""
        if JOB_ID.match(job_id) is None:
            raise ValueError("not a job id")
        directory = os.path.join(self.jobs, job_id)
        return os.path.join(directory, name) if name else directory

    @contextmanager
    def _locked(self, path: str) -> Iterator[int]:
        """Holds the lock of a file or directory for one short change."""
        fd = os.open(path, os.O_RDONLY if os.path.isdir(path) else os.O_RDWR)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield fd
        finally:
            os.close(fd)

    def locked(self, job_id: str) -> AbstractContextManager[int]:
        """Holds a job's lock: whoever changes what is wanted of a job, or decides to start it, does so under it."""
        return self._locked(self.path(job_id))

    # Submitting

    def sequences(self, count: int) -> range:
        """Returns the next numbers of the queue's order; they grow, also when the clock is set back."""
        with self._locked(os.path.join(self.root, "sequence")) as fd:
            last = int(os.pread(fd, 100, 0) or b"0")
            first = max(last + 1, time.time_ns())
            os.pwrite(fd, b"%d" % (first + count - 1), 0)
        return range(first, first + count)

    def submit(self, job: EngineJob, sequence: int) -> None:
        """Records a job; one that is recorded already stays as it is. `commit` makes it durable and known."""
        if not os.path.exists(self.path(job.id)):
            # The marker comes first: a job without marker would never start, a marker without job does no harm.
            self._mark(job.id)
            try:
                self._record_array(job)
                self._record_job(job, sequence)
            except OSError:
                if not self.known(job.id):
                    self.forget([job.id])
                raise
            self._mark(job.id)  # another process may have failed with the same job meanwhile, and tidied up
        elif not os.path.exists(self.path(job.id, record.EXIT)):
            self._mark(job.id)

    def _mark(self, job_id: str) -> None:
        os.close(os.open(os.path.join(self.active, job_id), os.O_WRONLY | os.O_CREAT, 0o600))

    def _record_array(self, job: EngineJob) -> None:
        path = os.path.join(self.arrays, job.array_job_id)
        if job.array_job_id and job.spec.array is not None and not os.path.exists(path):
            indices = job.spec.array.indices
            value = {"first": indices.start, "stop": indices.stop, "step": indices.step}
            record.write_json(os.path.join(self.arrays, job.array_job_id), value)

    def _record_job(self, job: EngineJob, sequence: int) -> None:
        directory = tempfile.mkdtemp(prefix=f".new-{job.id}-", dir=self.jobs)
        try:
            if job.spec.script:
                script = os.path.join(directory, record.SCRIPT)
                record.write_file(script, job.spec.script.encode(), durable=True, mode=0o700)
            record.write_file(os.path.join(directory, record.CLAIM), b"", durable=False)
            record.write_json(os.path.join(directory, record.JOB), job_to_json(job, sequence, time.time_ns()))
            os.rename(directory, self.path(job.id))
        except OSError:
            shutil.rmtree(directory, ignore_errors=True)
            if not os.path.exists(self.path(job.id)):  # otherwise: another process was faster, with the same job
                raise

    def commit(self, job_ids: Sequence[str]) -> None:
        """Makes submissions durable and tells the leader of them."""
        for directory in (self.active, self.jobs):
            record.sync_directory(directory)
        for job_id in job_ids:
            record.notify(self.root, job_id)

    # Reading

    def active_ids(self) -> list[str]:
        """Returns the jobs that have not ended."""
        return [name for name in os.listdir(self.active) if JOB_ID.match(name)]

    def drop_orphans(self, job_ids: Iterable[str]) -> None:
        """Removes markers whose jobs were never recorded, because who submitted them was killed."""
        for job_id in job_ids:
            marker = os.path.join(self.active, job_id)
            with suppress(FileNotFoundError):
                if os.stat(marker).st_mtime < time.time() - ORPHANED and not self.known(job_id):
                    os.unlink(marker)

    def take_inbox(self) -> list[str]:
        """Returns the jobs to look at, and empties the list before they are looked at."""
        names = [name for name in os.listdir(self.inbox) if JOB_ID.match(name)]
        for name in names:
            record.remove(os.path.join(self.inbox, name))
        return names

    def known(self, job_id: str) -> bool:
        """Whether there is such a job."""
        return JOB_ID.match(job_id) is not None and os.path.exists(self.path(job_id, record.JOB))

    def read(self, job_id: str) -> Snapshot | None:
        """Returns what is recorded of a job, or None. A damaged record is as good as none, and stops nobody else."""
        if JOB_ID.match(job_id) is None:
            return None
        try:
            return self._read(job_id)
        except (ValueError, LookupError, TypeError):
            if job_id not in self._damaged:
                log.exception("the record of job %s is damaged", job_id)
                self._damaged.add(job_id)
            return None

    def _read(self, job_id: str) -> Snapshot | None:
        # The end is read first: what is read after it is then never younger than it, and a job that is seen without
        # end but with a dead shepherd is looked at again under its claim before anything is concluded.
        ended = record.read_json(self.path(job_id, record.EXIT))
        job = record.read_json(self.path(job_id, record.JOB))
        if job is None:
            return None
        return Snapshot(
            job=submitted_from_json(job),
            control=record.read_json(self.path(job_id, record.CONTROL)) or {},
            cancel=record.read_cancel(self.path(job_id, record.CANCEL)),
            launch=record.read_json(self.path(job_id, record.LAUNCH)),
            claim=record.read_json(self.path(job_id, record.CLAIM)),
            started=record.read_json(self.path(job_id, record.STARTED)),
            exit=ended,
            active=os.path.exists(os.path.join(self.active, job_id)),
            signaled=os.path.exists(self.path(job_id, record.SIGNALS)),
        )

    def fate(self, job_id: str) -> Fate:
        """Returns how far a job has come."""
        ended = record.read_json(self.path(job_id, record.EXIT))
        if ended is not None:
            return Fate.COMPLETED if ended["state"] == JobState.COMPLETED.name else Fate.UNSUCCESSFUL
        if os.path.exists(self.path(job_id, record.STARTED)):
            return Fate.STARTED
        return Fate.WAITING if self.known(job_id) else Fate.UNKNOWN

    def members(self, job_id: str) -> list[str]:
        """Returns the jobs that an id stands for: an array's elements, or the job itself."""
        array = record.read_json(os.path.join(self.arrays, job_id)) if JOB_ID.match(job_id) else None
        if array is None:
            return [job_id]
        return [f"{job_id}_{index}" for index in range(array["first"], array["stop"], array["step"])]

    # Steering

    def cancel(self, job_id: str, reason: str) -> bool:
        """Asks for a job's end; returns whether that makes sense. The first reason stays."""
        if not self.known(job_id):
            return False
        with self.locked(job_id):
            if os.path.exists(self.path(job_id, record.EXIT)):
                return False
            record.write_cancel(self.path(job_id, record.CANCEL), reason)
        record.notify(self.root, job_id)
        return True

    def hold(self, job_id: str, reason: str | None, *, by_operator: bool = False) -> bool:
        """Holds a waiting job, or releases it when there is no reason; False when only an operator may release it."""
        if not self.known(job_id):
            return True
        with self.locked(job_id):
            snapshot = self.read(job_id)
            if snapshot is None or snapshot.launch is not None or snapshot.exit is not None:
                return True
            held = held_by(snapshot)
            if reason is None and held == JobReason.HELD_BY_OPERATOR.name and not by_operator:
                return False
            if (held is None) == (reason is None) and (held == reason or reason != JobReason.HELD_BY_OPERATOR.name):
                return True  # holding a held job changes nothing, but for an operator, nor does releasing a waiting one
            change = {"hold": reason, "hold_time": time.time_ns()}
            record.write_json(self.path(job_id, record.CONTROL), snapshot.control | change)
        record.notify(self.root, job_id)
        return True

    def signal(self, job_id: str, number: int) -> None:
        """Has a signal sent to a running job's processes: its shepherd does so as soon as it hears of it."""
        if not self.known(job_id) or not os.path.exists(self.path(job_id, record.STARTED)):
            return
        with self.locked(job_id):
            if os.path.exists(self.path(job_id, record.EXIT)):
                return
            record.append_signal(self.path(job_id, record.SIGNALS), number)
        record.notify(self.root, job_id)

    def change(self, job_id: str, decide: Callable[[Snapshot], Json]) -> None:
        """Changes what is wanted of a job; ``decide`` sees how it stands and may refuse. Raises EngineError."""
        if not self.known(job_id):
            raise EngineError("There is no such job.")
        with self.locked(job_id):
            snapshot = self.read(job_id)
            if snapshot is None:
                raise EngineError("There is no such job.")
            record.write_json(self.path(job_id, record.CONTROL), snapshot.control | decide(snapshot))
        record.notify(self.root, job_id)

    # Starting and ending, by the leader

    def begin(self, job_id: str, decide: Callable[[Snapshot], Json | None]) -> bool:
        """Records the decision to start a job, unless it was held or canceled meanwhile or ``decide`` returns None."""
        with self.locked(job_id):
            snapshot = self.read(job_id)
            if snapshot is None or snapshot.exit is not None:
                return False
            if snapshot.launch is not None:
                return snapshot.claim is None
            if snapshot.cancel is not None or held_by(snapshot) is not None:
                return False
            decision = decide(snapshot)
            if decision is not None:
                record.write_json(self.path(job_id, record.LAUNCH), decision, durable=False)
            return decision is not None

    def probe(self, job_id: str) -> Claim:
        """Tells how it is with a job's shepherd."""
        with self._claim(job_id) as claim:
            return claim

    def withdraw(self, job_id: str) -> bool:
        """Takes back a decision to start that no shepherd has taken up."""
        with self.locked(job_id), self._claim(job_id) as claim:
            if claim is not Claim.NONE:
                return False
            record.remove(self.path(job_id, record.LAUNCH))
            return True

    def end(self, job_id: str, expected: Claim, value: Json) -> bool:
        """Records the end of a job that has no shepherd (any more); False when that turns out to be wrong."""
        with self.locked(job_id), self._claim(job_id) as claim:
            if os.path.exists(self.path(job_id, record.EXIT)):
                return True
            if claim is not expected:
                return False
            reserved, final = self.path(job_id, record.RESERVED), self.path(job_id, record.EXIT)
            record.write_reserved(reserved, final, {"end_time": time.time_ns(), **value})
            return True

    @contextmanager
    def _claim(self, job_id: str) -> Iterator[Claim]:
        fd = record.lock(self.path(job_id, record.CLAIM))
        if fd is None:
            yield Claim.HELD
            return
        try:
            yield Claim.ABANDONED if record.claimed(fd) else Claim.NONE
        finally:
            os.close(fd)

    def forget(self, job_ids: Sequence[str]) -> None:
        """Takes ended jobs off the list of active ones."""
        for job_id in job_ids:
            record.remove(os.path.join(self.active, job_id))


def held_by(snapshot: Snapshot) -> str | None:
    """Returns the reason for which a job is held, or None."""
    held: str | None = snapshot.control.get("hold", "HELD_BY_OWNER" if snapshot.job.hold else None)
    return held
