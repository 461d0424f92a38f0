"""Submitting and reading jobs. Nothing here knows of gRPC; responses are serialized jobs.

Every method takes who calls, decides what they may see (``filters.owner_seen_by``) before anything else, and raises
``errors.Error`` as the contract says.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from openfacility_server.auth.principal import Principal
from openfacility_server.errors import InvalidArgument, NotFound, ResourceExhausted, Violation, invalid
from openfacility_server.idempotency import Mutation, mutate
from openfacility_server.ids import IdMaker
from openfacility_server.jobs import lifecycle
from openfacility_server.jobs.engines import JobEngine
from openfacility_server.jobs.filters import JobFilter, may_see, owner_seen_by
from openfacility_server.jobs.model import (
    ArrayCounts,
    Job,
    JobReason,
    JobSpec,
    JobState,
    JobStatus,
    JobTransition,
)
from openfacility_server.jobs.store import Codec, JobStore, Stored, Todo, Working
from openfacility_server.paging import Position
from openfacility_server.storage import ReadTx, Storage, Tx

_MAX_SPEC_BYTES = 256 * 1024
_MAX_BATCH_BYTES = 2 * 1024 * 1024
_RETRY_QUOTA = timedelta(seconds=30)


@dataclass(frozen=True, slots=True)
class Submission:
    """One job to submit. ``where`` is the path of its fields in the request, such as ``jobs[2].``."""

    resource_id: str
    spec: JobSpec
    where: str = ""


@dataclass(frozen=True, slots=True)
class Page:
    """Part of a list; ``next`` is None on the last one."""

    jobs: Sequence[Stored]
    next: Position | None
    revision: int


class Jobs:
    """The jobs of all compute resources of the facility; the first resource is the default one."""

    def __init__(
        self,
        storage: Storage,
        store: JobStore,
        engines: Mapping[str, JobEngine],
        codec: Codec,
        max_unfinished: int,
    ) -> None:
        self._storage = storage
        self._store = store
        self._engines = engines
        self._codec = codec
        self._max_unfinished = max_unfinished
        self._new_id = IdMaker()

    # Reading.

    async def get(self, principal: Principal, job_id: str) -> bytes:
        """Returns one job, with its inline script."""
        found = await self._storage.point(lambda tx: self._store.whole(tx, job_id))
        stored, script = found or (None, "")
        seen = _seen(principal, stored, job_id)
        return self._codec.with_script(seen.message, script) if script else seen.message

    async def stored(self, principal: Principal, job_id: str) -> Stored:
        """Returns one job's row."""
        return _seen(principal, await self._storage.point(lambda tx: self._store.stored(tx, job_id)), job_id)

    async def job(self, principal: Principal, job_id: str) -> Job:
        """Returns one job, decoded, without its inline script."""
        return self._codec.decode((await self.stored(principal, job_id)).message)

    async def list(self, principal: Principal, filter_: JobFilter, start: Position | None, limit: int) -> Page:
        """Returns a page of jobs, newest first; elements of an array by index."""
        owner = owner_seen_by(principal)

        def read(tx: ReadTx) -> tuple[list[Stored], int]:
            rows = self._store.page(tx, filter_, owner, start.key if start else "", limit + 1)
            return rows, start.revision if start else tx.current_revision()

        rows, revision = await self._storage.read(read)
        if len(rows) <= limit:
            return Page(rows, None, revision)
        rows = rows[:limit]
        last = rows[-1].id
        key = last.rpartition("_")[2] if filter_.array_job_id else last
        return Page(rows, Position(key, revision), revision)

    # Submitting.

    async def submit(
        self,
        principal: Principal,
        submissions: Sequence[Submission],
        wanted: Mutation,
        respond: Callable[[Sequence[bytes]], bytes],
    ) -> bytes:
        """Stores jobs, all or none, for the reconciler to hand over; returns ``respond`` of their messages."""
        resources = [self._resource(submission) for submission in submissions]
        await asyncio.to_thread(self._check, submissions, resources)

        def effect(tx: Tx) -> bytes:
            self._check_quota(tx, principal, submissions)
            self._check_dependencies(tx, principal, submissions, resources)
            now = datetime.now(UTC)
            return respond(
                [
                    self._insert(tx, principal, resource, submission.spec, now)
                    for submission, resource in zip(submissions, resources, strict=True)
                ]
            )

        return await mutate(self._storage, wanted, effect)

    def _resource(self, submission: Submission) -> str:
        wanted = submission.resource_id or next(iter(self._engines), "")
        if wanted not in self._engines:
            known = ", ".join(self._engines) or "none"
            text = f"there is no compute resource of this name; there are: {known}"
            raise invalid(f"{submission.where}resource_id", text, "UNKNOWN_RESOURCE")
        return wanted

    def _check(self, submissions: Sequence[Submission], resources: Sequence[str]) -> None:
        problems: list[Violation] = []
        total = 0
        for submission, resource in zip(submissions, resources, strict=True):
            where = f"{submission.where}spec"
            size = self._size(submission.spec)
            total += size
            if size > _MAX_SPEC_BYTES:
                text = f"is {size} bytes without its script; at most {_MAX_SPEC_BYTES} are taken"
                problems.append(Violation(where, text, "SPEC_TOO_LARGE"))
            problems += [
                Violation(f"{where}.{found.field}", found.description, "RESOURCE_CANNOT")
                for found in self._engines[resource].check(submission.spec)
            ]
        if total > _MAX_BATCH_BYTES:
            text = f"are {total} bytes without their scripts; at most {_MAX_BATCH_BYTES} are taken in one call"
            problems.append(Violation("jobs", text, "BATCH_TOO_LARGE"))
        if problems:
            raise InvalidArgument(problems)

    def _size(self, spec: JobSpec) -> int:
        now = datetime.now(UTC)
        return len(self._codec.encode(Job("", "", "", replace(spec, script=""), JobStatus(JobState.NEW), now, now)))

    def _check_quota(self, tx: ReadTx, principal: Principal, submissions: Sequence[Submission]) -> None:
        asked = sum(lifecycle.array_size(s.spec.array) if s.spec.array else 1 for s in submissions)
        have = self._store.count_unfinished(tx, principal.username)
        if have + asked > self._max_unfinished:
            raise ResourceExhausted(
                "TOO_MANY_JOBS",
                f"you have {have} unfinished jobs and may have {self._max_unfinished}; wait until some have ended",
                _RETRY_QUOTA,
                {"limit": str(self._max_unfinished), "unfinished": str(have)},
            )

    def _check_dependencies(
        self, tx: ReadTx, principal: Principal, submissions: Sequence[Submission], resources: Sequence[str]
    ) -> None:
        for submission, resource in zip(submissions, resources, strict=True):
            wanted = [dependency.job_id for dependency in submission.spec.dependencies]
            found = self._store.load(tx, wanted) if wanted else {}
            for index, job_id in enumerate(wanted):
                other = found.get(job_id)
                if other and may_see(principal, other.job.owner) and other.job.resource_id == resource:
                    continue
                where = f"{submission.where}spec.dependencies[{index}].job_id"
                text = f"there is no job {job_id} on the resource {resource} that you may see"
                raise invalid(where, text, "UNKNOWN_DEPENDENCY")

    def _insert(self, tx: Tx, principal: Principal, resource: str, spec: JobSpec, now: datetime) -> bytes:
        status = JobStatus(JobState.NEW, JobReason.HELD_BY_OWNER if spec.hold else JobReason.UNSPECIFIED)
        job = Job(
            id=self._new_id(),
            resource_id=resource,
            owner=principal.username,
            spec=replace(_with_defaults(spec, principal), script=""),
            status=status,
            create_time=now,
            update_time=now,
            transitions=(JobTransition(JobState.NEW, now),),
            revision=tx.revision(),
        )
        todo = Todo.SUBMIT
        if spec.array:
            size = lifecycle.array_size(spec.array)
            job = replace(job, array_counts=ArrayCounts(total=size, waiting=size))
            todo = Todo.EXPAND
        message = self._store.insert(tx, Working(job, todo), spec.script)
        return self._codec.with_script(message, spec.script) if spec.script else message


def _seen(principal: Principal, stored: Stored | None, job_id: str) -> Stored:
    if stored is None or not may_see(principal, stored.owner):
        raise NotFound("job", job_id)
    return stored


def _with_defaults(spec: JobSpec, principal: Principal) -> JobSpec:
    if spec.attributes.account or not principal.projects:
        return spec
    return replace(spec, attributes=replace(spec.attributes, account=principal.projects[0]))
