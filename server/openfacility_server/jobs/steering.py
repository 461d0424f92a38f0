"""Changing jobs that were submitted: hold, release, update, cancel.

Hold, release and update are told to the engine first and stored as the engine then sees the job, so that nobody is told
what is not so. A job that is just being handed over is stored with the change, and the reconciler, which compares what
it handed over with what is stored, makes up for it. Cancellation is stored first and carried out by the reconciler,
because it must happen even if this server dies at once.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from openfacility_server.auth.principal import Principal
from openfacility_server.errors import (
    Aborted,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    Unavailable,
    Violation,
)
from openfacility_server.idempotency import Mutation, answered, mutate
from openfacility_server.jobs import lifecycle, observations, refusals
from openfacility_server.jobs.engines import (
    EngineCannot,
    EngineError,
    EngineUpdate,
    JobEngine,
    JobRef,
    Observation,
)
from openfacility_server.jobs.filters import JobFilter, may_see, owner_seen_by
from openfacility_server.jobs.model import Job, JobReason, JobSpec, JobState, JobStatus
from openfacility_server.jobs.store import JobStore, Todo, Working
from openfacility_server.storage import ReadTx, Storage, Tx

_MAX_CANCELED = 10_000
_CANCEL_CHUNK = 200
_HAND_OVER_SECONDS = 2.0
_HAND_OVER_PAUSE_SECONDS = 0.01
_SETTLE_SECONDS = 10.0

# Paths that may change, each with the last state in which it may.
UPDATABLE: Mapping[str, JobState] = {
    "spec.name": JobState.CANCELED,
    "spec.labels": JobState.CANCELED,
    "spec.attributes.duration": JobState.ACTIVE,
    "spec.attributes.queue_name": JobState.HELD,
    "spec.attributes.account": JobState.HELD,
    "spec.resources": JobState.HELD,
}
_OF_ARRAYS = {"spec.name", "spec.labels"}


class Steering:
    """Holds, releases, updates and cancels jobs."""

    def __init__(self, storage: Storage, store: JobStore, engines: Mapping[str, JobEngine]) -> None:
        self._storage = storage
        self._store = store
        self._engines = engines

    async def hold(self, principal: Principal, job_id: str, wanted: Mutation) -> bytes:
        """Keeps a waiting job, or an array's waiting elements, from starting."""

        async def act(job: Job, refs: Sequence[JobRef], engine: JobEngine) -> None:
            await engine.hold(refs, _hold_reason(principal, job))
            if not job.array_counts:
                await _settled(engine, refs[0])

        def held(job: Job, now: datetime) -> Job:
            reason = _hold_reason(principal, job)
            if _held_by_operator(job):
                return job
            if job.status.state == JobState.NEW and not job.array_counts:
                return replace(job, spec=replace(job.spec, hold=True), status=JobStatus(JobState.NEW, reason))
            return lifecycle.moved(job, JobStatus(JobState.HELD, reason), now)

        return await self._steer(principal, job_id, wanted, act, held, "held", keeps=True)

    async def release(self, principal: Principal, job_id: str, wanted: Mutation) -> bytes:
        """Lets a held job, or an array's held elements, start."""

        async def act(job: Job, refs: Sequence[JobRef], engine: JobEngine) -> None:
            if _held_by_operator(job) and not principal.staff:
                text = f"an operator holds job {job_id}; ask them to release it"
                raise PermissionDenied("HELD_BY_OPERATOR", text, {"job_id": job_id})
            await engine.release(await self._releasable(principal, refs), _by_operator(principal, job))

        def released(job: Job, now: datetime) -> Job:
            if _held_by_operator(job) and not principal.staff:
                return job
            spec = replace(job.spec, hold=False)
            if job.status.state == JobState.NEW:
                return replace(job, spec=spec, status=JobStatus(JobState.NEW))
            if job.status.state == JobState.HELD:
                return lifecycle.moved(replace(job, spec=spec), JobStatus(JobState.QUEUED), now)
            return job

        return await self._steer(principal, job_id, wanted, act, released, "released")

    async def signal(self, principal: Principal, job_id: str, signal: str, wanted: Mutation) -> bytes:
        """Sends a signal to a running job, or to an array's running elements."""

        async def act(job: Job, refs: Sequence[JobRef], engine: JobEngine) -> None:
            await engine.signal(refs, signal, _by_operator(principal, job))

        return await self._steer(principal, job_id, wanted, act, _unchanged, "signaled", JobState.ACTIVE)

    async def requeue(self, principal: Principal, job_id: str, hold: bool, wanted: Mutation) -> bytes:
        """Puts a running job, or an array's running elements, back into the queue."""

        async def act(job: Job, refs: Sequence[JobRef], engine: JobEngine) -> None:
            await engine.requeue(refs, hold, _by_operator(principal, job))

        return await self._steer(principal, job_id, wanted, act, _unchanged, "requeued", JobState.ACTIVE)

    async def _releasable(self, principal: Principal, refs: Sequence[JobRef]) -> Sequence[JobRef]:
        """Leaves out the elements that an operator holds, if the caller is none."""
        if principal.staff:
            return refs
        found = await self._storage.read(lambda tx: self._store.load(tx, [ref.id for ref in refs]))
        return [ref for ref in refs if ref.id not in found or not _held_by_operator(found[ref.id].job)]

    async def _steer(
        self,
        principal: Principal,
        job_id: str,
        wanted: Mutation,
        act: Callable[[Job, Sequence[JobRef], JobEngine], Awaitable[None]],
        change: Callable[[Job, datetime], Job],
        verb: str,
        state: JobState = JobState.QUEUED,
        *,
        keeps: bool = False,
    ) -> bytes:
        """Tells the engine, then stores how the engine sees the job; ``state`` is QUEUED for what waiting jobs can
        have done to them, ACTIVE for what running ones can. With ``keeps`` it has failed if the job does not still
        wait afterwards."""
        answer = await answered(self._storage, wanted)
        if answer is not None:
            return answer
        job, refs = await self._ready_for(principal, job_id, state, verb)
        engine = self._engine(job)
        targets = refs[:1] if engine.takes_arrays else refs
        await self._told(job, act(job, targets, engine))
        seen = await engine.observe(refs)

        def effect(tx: Tx) -> bytes:
            now = datetime.now(UTC)
            changes: dict[str, observations.Change] = {
                found.job.id: (found, found.job) for found in self._store.load(tx, [ref.id for ref in refs]).values()
            }
            changes |= {new.id: (found, new) for found, new in self._changes(tx, job, seen)}
            for key, (found, current) in changes.items():
                waiting = current.status.state <= JobState.HELD
                if current.status.state == JobState.NEW or (current.array_counts and waiting):
                    changes[key] = found, change(current, now)
            observations.save(self._store, tx, changes.values())
            if keeps:
                _require(state, self._store.load(tx, [job_id])[job_id].job, verb)
            return self._message(tx, job_id)

        try:
            response = await mutate(self._storage, wanted, effect)
        except FailedPrecondition:
            # It has started meanwhile: whoever is told so sees it too.
            await self._storage.write(
                lambda tx: observations.apply(self._store, tx, seen=seen, resource_id=job.resource_id)
            )
            raise
        if job.status.state == JobState.NEW:
            # It may have reached the engine since.
            current, refs = await self._with_elements(principal, job_id)
            await self._told(current, act(current, refs[:1] if engine.takes_arrays else refs, engine))
        return response

    async def _ready_for(
        self, principal: Principal, job_id: str, state: JobState, verb: str
    ) -> tuple[Job, list[JobRef]]:
        """As ``_handed_over``. Raises FailedPrecondition when the job's state does not allow what is to be done."""
        job, refs = await self._handed_over(principal, job_id)
        try:
            _require(state, job, verb)
        except FailedPrecondition:
            if job.status.state == JobState.NEW or job.status.state.final:
                raise
            # The engine may know better what is on record here, and nobody is refused for that.
            seen = await self._engine(job).observe(refs)
            await self._storage.write(
                lambda tx: observations.apply(self._store, tx, seen=seen, resource_id=job.resource_id)
            )
            job, refs = await self._with_elements(principal, job_id)
            _require(state, job, verb)
        return job, refs

    def _changes(self, tx: ReadTx, job: Job, seen: Sequence[Observation]) -> list[observations.Change]:
        return observations.changes_of(self._store, tx, seen, job.resource_id)

    async def _told(self, job: Job, telling: Awaitable[None]) -> None:
        """Waits until an engine was told something. Raises what callers are told when it cannot or will not."""
        try:
            await telling
        except EngineCannot as error:
            raise FailedPrecondition("ENGINE_CANNOT", str(error), job.id, {"job_id": job.id}) from error
        except EngineError as error:
            applied = {"applied": ",".join(error.applied)} if error.applied else {}
            raise refusals.error_of(error.refusal, job.id, "job.spec", applied) from error

    async def update(
        self, principal: Principal, job_id: str, values: JobSpec, paths: Sequence[str], etag: str, wanted: Mutation
    ) -> bytes:
        """Changes fields of a job; ``paths`` are keys of ``UPDATABLE``."""
        answer = await answered(self._storage, wanted)
        if answer is not None:
            return answer
        job, _ = await self._handed_over(principal, job_id)
        updated = self._updated(job, values, paths, etag)
        # An array is ours alone, an engine has its elements; and with an ended job it is done.
        ours = job.array_counts or job.status.state.final
        update = None if ours else _engine_update(updated.spec, paths)
        if update and job.status.state != JobState.NEW:
            await self._update_engine(principal, job, update, values)

        def effect(tx: Tx) -> bytes:
            found = self._store.load(tx, [job_id])[job_id]
            observations.save(self._store, tx, [(found, self._updated(found.job, values, paths, etag))])
            return self._message(tx, job_id)

        response = await mutate(self._storage, wanted, effect)
        if update and job.status.state == JobState.NEW:
            current, _ = await self._with_elements(principal, job_id)
            if current.status.state in (JobState.QUEUED, JobState.HELD, JobState.ACTIVE):
                await self._update_engine(principal, current, update, values)
        return response

    async def _update_engine(self, principal: Principal, job: Job, update: EngineUpdate, values: JobSpec) -> None:
        """Changes a job at its engine; stores what took effect, also when it raises."""
        engine, by_operator = self._engine(job), _by_operator(principal, job)
        try:
            await engine.update(lifecycle.ref_of(job), update, by_operator)
        except EngineError as error:
            applied = [path for path in error.applied if path in UPDATABLE]
            if applied:
                await self._storage.write(lambda tx: self._store_applied(tx, job.id, values, applied))
            await self._told(job, _raised(error))

    def _store_applied(self, tx: Tx, job_id: str, values: JobSpec, paths: Sequence[str]) -> None:
        found = self._store.load(tx, [job_id])[job_id]
        spec = found.job.spec
        for path in paths:
            spec = _copied(spec, values, path)
        observations.save(self._store, tx, [(found, replace(found.job, spec=spec))])

    def _updated(self, job: Job, values: JobSpec, paths: Sequence[str], etag: str) -> Job:
        if etag and etag != job.etag:
            text = f"job {job.id} has changed since you read it; get it again"
            raise Aborted("ETAG_MISMATCH", text, {"job_id": job.id, "etag": job.etag})
        spec = job.spec
        for path in paths:
            if job.array_counts and path not in _OF_ARRAYS:
                text = f"of an array job only the name and the labels change; update {path} of its elements"
                raise FailedPrecondition("ARRAY_JOB", text, job.id, {"job_id": job.id, "path": path})
            if job.status.state > UPDATABLE[path]:
                raise _state_forbids(job, f"changed in {path}")
            spec = _copied(spec, values, path)
        problems = self._engine(job).check(spec) if spec != job.spec else ()
        if problems:
            violations = [Violation(f"job.spec.{p.field}", p.description, "RESOURCE_CANNOT") for p in problems]
            raise InvalidArgument(violations)
        return replace(job, spec=spec)

    async def cancel(self, principal: Principal, job_id: str, wanted: Mutation) -> bytes:
        """Asks for the end of a job, or of all of an array's elements."""

        def effect(tx: Tx) -> bytes:
            found = self._store.load(tx, [job_id]).get(job_id)
            if found is None or not may_see(principal, found.job.owner):
                raise NotFound("job", job_id)
            state = found.job.status.state
            if state.final and state != JobState.CANCELED:
                raise _state_forbids(found.job, "canceled")
            self._ask_end(tx, found, principal)
            return self._message(tx, job_id)

        return await mutate(self._storage, wanted, effect)

    async def cancel_matching(
        self, principal: Principal, filter_: JobFilter, wanted: Mutation, respond: Callable[[Sequence[str]], bytes]
    ) -> bytes:
        """Asks for the end of unfinished jobs that match; returns ``respond`` of their ids."""
        answer = await answered(self._storage, wanted)
        if answer is not None:
            return answer
        owner = owner_seen_by(principal)
        ids = await self._storage.read(lambda tx: self._store.matching_ids(tx, filter_, owner, _MAX_CANCELED))
        asked: list[str] = []
        for start in range(0, len(ids), _CANCEL_CHUNK):
            asked += await self._ask_ends(ids[start : start + _CANCEL_CHUNK], principal)
        return await mutate(self._storage, wanted, lambda tx: respond(asked))

    async def _ask_ends(self, job_ids: Sequence[str], principal: Principal) -> list[str]:
        def effect(tx: Tx) -> list[str]:
            found = self._store.load(tx, job_ids).values()
            return [working.job.id for working in found if self._ask_end(tx, working, principal)]

        return await self._storage.write(effect)

    def _ask_end(self, tx: Tx, found: Working, principal: Principal) -> bool:
        """Marks a job for cancellation; returns whether it was not marked or ended before."""
        job = found.job
        if job.status.state.final or job.cancel_requested:
            return False
        own = job.owner == principal.username
        reason = JobReason.CANCELED_BY_OWNER if own else JobReason.CANCELED_BY_OPERATOR
        marked = replace(found, todo=found.todo | Todo.CANCEL, cancel_reason=int(reason))
        observations.save(self._store, tx, [(marked, replace(job, cancel_requested=True))])
        return True

    def _engine(self, job: Job) -> JobEngine:
        engine = self._engines.get(job.resource_id)
        if engine is None:
            text = f"the resource {job.resource_id} of job {job.id} is no longer configured"
            raise FailedPrecondition("RESOURCE_GONE", text, job.id, {"job_id": job.id, "resource_id": job.resource_id})
        return engine

    def _message(self, tx: Tx, job_id: str) -> bytes:
        stored = self._store.stored(tx, job_id)
        if stored is None:
            raise NotFound("job", job_id)
        return stored.message

    async def _handed_over(self, principal: Principal, job_id: str) -> tuple[Job, list[JobRef]]:
        """As ``_with_elements``, when the engine has the job: steering one on its way there would come too late.

        One that the engine does not take for long is returned as it is.
        """
        until = time.monotonic() + _HAND_OVER_SECONDS
        while True:
            job, refs = await self._with_elements(principal, job_id)
            ours = job.array_counts and not self._engine(job).takes_arrays
            if job.status.state != JobState.NEW or ours or time.monotonic() > until:
                return job, refs
            await asyncio.sleep(_HAND_OVER_PAUSE_SECONDS)

    async def _with_elements(self, principal: Principal, job_id: str) -> tuple[Job, list[JobRef]]:
        """Returns a job, and what an engine needs to find it, followed by the same of its unfinished elements."""

        def read(tx: ReadTx) -> tuple[Job, list[JobRef]] | None:
            found = self._store.load(tx, [job_id]).get(job_id)
            if found is None or not may_see(principal, found.job.owner):
                return None
            job, refs = found.job, [lifecycle.ref_of(found.job)]
            if job.array_counts:
                elements = self._store.load(tx, self._store.unfinished_elements(tx, job_id))
                refs += [lifecycle.ref_of(element.job) for element in elements.values()]
            return job, refs

        found = await self._storage.read(read)
        if found is None:
            raise NotFound("job", job_id)
        return found


async def _settled(engine: JobEngine, ref: JobRef) -> None:
    """Returns when a job that an engine was told to hold is held or has started: one just starting is neither.

    Raises Unavailable when it does not come to be either.
    """
    until = time.monotonic() + _SETTLE_SECONDS
    while True:
        seen = await engine.observe([ref])
        if not seen or seen[0].state != JobState.QUEUED:
            return
        if time.monotonic() > until:
            text = f"job {ref.id} is about to start and cannot be held now; retry"
            raise Unavailable("JOB_STARTING", text, timedelta(seconds=1), {"job_id": ref.id})
        await asyncio.sleep(_HAND_OVER_PAUSE_SECONDS)


async def _raised(error: EngineError) -> None:
    raise error


def _unchanged(job: Job, now: datetime) -> Job:
    return job


def _by_operator(principal: Principal, job: Job) -> bool:
    return principal.staff and job.owner != principal.username


def _held_by_operator(job: Job) -> bool:
    return job.status.state <= JobState.HELD and job.status.reason == JobReason.HELD_BY_OPERATOR


def _hold_reason(principal: Principal, job: Job) -> JobReason:
    own = job.owner == principal.username
    return JobReason.HELD_BY_OWNER if own or not principal.staff else JobReason.HELD_BY_OPERATOR


def _require(state: JobState, job: Job, verb: str) -> None:
    """Raises FailedPrecondition unless a job waits (QUEUED), or runs (ACTIVE); of an array, unless an element does."""
    counts = job.array_counts
    if state == JobState.ACTIVE:
        fits = counts.active > 0 if counts else job.status.state == JobState.ACTIVE
    else:
        fits = counts.waiting > 0 if counts else job.status.state <= JobState.HELD
    if not fits:
        raise _state_forbids(job, verb)


def _state_forbids(job: Job, verb: str) -> FailedPrecondition:
    state = job.status.state.name
    when = " any more" if job.status.state > JobState.HELD else ""
    text = f"job {job.id} is {state} and cannot be {verb}{when}"
    return FailedPrecondition("JOB_STATE", text, job.id, {"job_id": job.id, "state": state})


def _copied(spec: JobSpec, values: JobSpec, path: str) -> JobSpec:
    """Returns a spec with the value that another one has at ``path``."""
    _, _, field = path.partition(".")
    outer, _, inner = field.partition(".")
    if not inner:
        return replace(spec, **{outer: getattr(values, outer)})
    part = replace(getattr(spec, outer), **{inner: getattr(getattr(values, outer), inner)})
    return replace(spec, **{outer: part})


def _engine_update(spec: JobSpec, paths: Sequence[str]) -> EngineUpdate | None:
    """Returns what an engine has to know of an update, None when nothing."""
    update = EngineUpdate(
        name=spec.name if "spec.name" in paths else None,
        duration=spec.attributes.duration if "spec.attributes.duration" in paths else None,
        queue_name=spec.attributes.queue_name if "spec.attributes.queue_name" in paths else None,
        account=spec.attributes.account if "spec.attributes.account" in paths else None,
        resources=spec.resources if "spec.resources" in paths else None,
    )
    return None if update == EngineUpdate() else update


def difference(handed_over: JobSpec, stored: JobSpec) -> EngineUpdate | None:
    """Returns what an engine has to know of a change that was stored while the job was being handed over."""
    old, new = handed_over, stored
    update = EngineUpdate(
        name=new.name if new.name != old.name else None,
        duration=new.attributes.duration if new.attributes.duration != old.attributes.duration else None,
        queue_name=new.attributes.queue_name if new.attributes.queue_name != old.attributes.queue_name else None,
        account=new.attributes.account if new.attributes.account != old.attributes.account else None,
        resources=new.resources if new.resources != old.resources else None,
    )
    return None if update == EngineUpdate() else update
