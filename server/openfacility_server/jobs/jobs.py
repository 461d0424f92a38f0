"""Submitting and reading jobs. Nothing here knows of gRPC; responses are serialized jobs.

Every method takes who calls, decides what they may see (``filters.owner_seen_by``) before anything else, and raises
``errors.Error`` as the contract says.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial

from openfacility_server.auth.principal import Principal
from openfacility_server.errors import (
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    Unavailable,
    Violation,
    invalid,
)
from openfacility_server.events import EventHub
from openfacility_server.idempotency import Mutation, answered, mutate
from openfacility_server.ids import IdMaker
from openfacility_server.jobs import lifecycle, observations, refusals
from openfacility_server.jobs.engines import (
    EngineCannot,
    EngineDependency,
    EngineError,
    Estimate,
    JobEngine,
    Reservation,
)
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
from openfacility_server.jobs.store import TOPIC, Codec, JobStore, Stored, Todo, Working
from openfacility_server.paging import Position
from openfacility_server.storage import ReadTx, Storage, Tx

_MAX_SPEC_BYTES = 256 * 1024
_MAX_BATCH_BYTES = 2 * 1024 * 1024
_RETRY_QUOTA = timedelta(seconds=30)
_RETRY_ENGINE = timedelta(seconds=2)


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


@dataclass(frozen=True, slots=True)
class Reserved:
    """A reservation of a compute resource."""

    resource_id: str
    reservation: Reservation

    @property
    def key(self) -> str:
        """Its place in a list."""
        return f"{self.reservation.start_time.isoformat()} {self.resource_id} {self.reservation.id}"


class Jobs:
    """The jobs of all compute resources of the facility; the first resource is the default one."""

    def __init__(
        self,
        storage: Storage,
        store: JobStore,
        engines: Mapping[str, JobEngine],
        codec: Codec,
        hub: EventHub,
        max_unfinished: int,
    ) -> None:
        self._storage = storage
        self._store = store
        self._engines = engines
        self._codec = codec
        self._hub = hub
        self._max_unfinished = max_unfinished
        self._new_id = IdMaker()

    # Reading.

    async def get(self, principal: Principal, job_id: str) -> Stored:
        """Returns one job's row, with the inline script in its message."""
        found = await self._storage.point(lambda tx: self._store.whole(tx, job_id))
        stored, script = found or (None, "")
        seen = _seen(principal, stored, job_id)
        return seen._replace(message=self._codec.with_script(seen.message, script)) if script else seen

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
        return await self._store_all(principal, submissions, resources, wanted, respond)

    async def submit_one(self, principal: Principal, submission: Submission, wanted: Mutation) -> bytes:
        """Stores a job; where its engine may refuse it, waits until it has taken it. Returns the job's message.

        Raises what callers are told of a refusal, and Unavailable when the engine does not answer.
        """
        resource = self._resource(submission)
        engine = self._engines[resource]
        if engine.verdict_wait and await answered(self._storage, wanted) is None:
            await _require_serving(resource, engine)
        message = await self._store_all(principal, [submission], [resource], wanted, lambda messages: messages[0])
        if not engine.verdict_wait:
            return message
        return await self._verdict(principal, self._codec.decode(message).id, engine.verdict_wait, wanted)

    async def _verdict(self, principal: Principal, job_id: str, wait: timedelta, wanted: Mutation) -> bytes:
        """Waits until an engine has taken a job, or refused it."""
        watcher = self._hub.watch(TOPIC, after=None, interest=frozenset({f"job:{job_id}"}))
        try:
            async with asyncio.timeout(wait.total_seconds()):
                while True:
                    job = await self.job(principal, job_id)
                    # One that waits for others to be handed over first may wait for long.
                    if job.status.state != JobState.NEW or job.status.reason == JobReason.DEPENDENCY:
                        break
                    await anext(watcher)
        except TimeoutError:
            raise await self._give_up(job_id, wanted) from None
        finally:
            watcher.close()
        refusal = refusals.refused(job.status)
        if refusal is not None:
            raise refusals.error_of(refusal, job_id)
        return (await self.get(principal, job_id)).message

    async def _give_up(self, job_id: str, wanted: Mutation) -> Unavailable:
        """Returns the error for a job whose engine did not answer. Without request id it is withdrawn."""
        if not wanted.request_id:
            await self._storage.write(partial(self._withdraw, job_id=job_id))
        text = f"the batch system did not answer in time; job {job_id} is kept, repeat the call with its request_id"
        if not wanted.request_id:
            text = f"the batch system did not answer in time; job {job_id} is being canceled, submit it again"
        return Unavailable("SUBMIT_PENDING", text, _RETRY_ENGINE, {"job_id": job_id})

    def _withdraw(self, tx: Tx, job_id: str) -> None:
        found = self._store.load(tx, [job_id])[job_id]
        if found.job.status.state == JobState.NEW:
            reason = int(JobReason.CANCELED_BY_OWNER)
            marked = replace(found, todo=found.todo | Todo.CANCEL, cancel_reason=reason)
            observations.save(self._store, tx, [(marked, replace(found.job, cancel_requested=True))])

    async def estimate(self, principal: Principal, submission: Submission) -> Estimate:
        """Says what would become of a job. Raises InvalidArgument for what no engine has to be asked about."""
        resource = self._resource(submission)
        await asyncio.to_thread(self._check, [submission], [resource])
        spec = _with_defaults(submission.spec, principal)

        def read(tx: ReadTx) -> list[EngineDependency]:
            self._check_dependencies(tx, principal, [submission], [resource])
            targets = self._store.targets(tx, [dependency.job_id for dependency in spec.dependencies])
            return [EngineDependency(d.job_id, targets[d.job_id].native_id) for d in spec.dependencies]

        dependencies = await self._storage.read(read)
        try:
            return await self._engines[resource].estimate(spec, principal.username, dependencies)
        except EngineCannot as error:
            raise FailedPrecondition("ENGINE_CANNOT", str(error), resource, {"resource_id": resource}) from error
        except EngineError as error:
            return Estimate(refusal=error.refusal)

    async def reservations(self, principal: Principal, resource_ids: Sequence[str]) -> Sequence[Reserved]:
        """Returns the reservations that a caller may know of, by start."""
        for index, resource_id in enumerate(resource_ids):
            self._resource(Submission(resource_id, JobSpec()), f"resource_ids[{index}]")
        found = [
            Reserved(resource_id, reservation)
            for resource_id in dict.fromkeys(resource_ids or self._engines)
            for reservation in await self._engines[resource_id].reservations()
            if _may_know(principal, reservation)
        ]
        return sorted(found, key=lambda one: one.key)

    async def _store_all(
        self,
        principal: Principal,
        submissions: Sequence[Submission],
        resources: Sequence[str],
        wanted: Mutation,
        respond: Callable[[Sequence[bytes]], bytes],
    ) -> bytes:
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

    def _resource(self, submission: Submission, field: str = "") -> str:
        wanted = submission.resource_id or next(iter(self._engines), "")
        if wanted not in self._engines:
            known = ", ".join(self._engines) or "none"
            text = f"there is no compute resource of this name; there are: {known}"
            raise invalid(field or f"{submission.where}resource_id", text, "UNKNOWN_RESOURCE")
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
            todo = Todo.SUBMIT | Todo.EXPAND if self._engines[resource].takes_arrays else Todo.EXPAND
        message = self._store.insert(tx, Working(job, todo), spec.script)
        return self._codec.with_script(message, spec.script) if spec.script else message


async def _require_serving(resource_id: str, engine: JobEngine) -> None:
    """Raises Unavailable when an engine takes no jobs now: what is not stored need not be withdrawn."""
    health = await engine.health()
    if not health.serving:
        text = f"the batch system of {resource_id} does not answer; nothing was submitted, retry"
        raise Unavailable("ENGINE_UNAVAILABLE", text, _RETRY_ENGINE, {"resource_id": resource_id})


def _may_know(principal: Principal, reservation: Reservation) -> bool:
    if principal.staff or reservation.maintenance or principal.username in reservation.owners:
        return True
    # Those for projects and no single users.
    return not reservation.owners and bool(set(reservation.accounts) & set(principal.projects))


def _seen(principal: Principal, stored: Stored | None, job_id: str) -> Stored:
    if stored is None or not may_see(principal, stored.owner):
        raise NotFound("job", job_id)
    return stored


def _with_defaults(spec: JobSpec, principal: Principal) -> JobSpec:
    if spec.attributes.account or not principal.projects:
        return spec
    return replace(spec, attributes=replace(spec.attributes, account=principal.projects[0]))
