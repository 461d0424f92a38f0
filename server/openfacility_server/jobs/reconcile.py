"""Moves what is so towards what is wanted: hands jobs to their engine, asks for their end, takes over what it sees.

One server leads a resource at a time (a lease). Everything here may be repeated: after a crash, the next leader starts
from the rows, and the engine finds jobs again by our ids.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial

from openfacility_server.events import EventHub, HubStopping
from openfacility_server.jobs import lifecycle, observations, refusals
from openfacility_server.jobs.dependencies import Target, Verdict, judge
from openfacility_server.jobs.engines import (
    EngineDependency,
    EngineError,
    EngineJob,
    EngineUnavailable,
    JobEngine,
    JobRef,
    Observation,
    Refusal,
)
from openfacility_server.jobs.model import ArrayCounts, Job, JobDependency, JobReason, JobState, JobStatus
from openfacility_server.jobs.steering import difference
from openfacility_server.jobs.store import TOPIC, JobStore, Todo, Working
from openfacility_server.storage import LeaseLost, ReadTx, Storage, StorageUnavailable, Tx
from openfacility_server.storage.leases import Lease

_log = logging.getLogger(__name__)

_BATCH = 200
_RETRY_SECONDS = 1.0
_SWEEP = timedelta(seconds=30)
_SECOND_LOOK = timedelta(seconds=10)


class Reconciler:
    """Works for one compute resource, for as long as this server leads it."""

    def __init__(
        self, resource_id: str, engine: JobEngine, storage: Storage, store: JobStore, hub: EventHub, lease: Lease
    ) -> None:
        self._resource_id = resource_id
        self._engine = engine
        self._storage = storage
        self._store = store
        self._hub = hub
        self._lease = lease
        # Whether the engine does not know yet of some jobs if it has them.
        self._unsettled = False
        # Whether what happened while nobody led is on record.
        self._looked_back = False

    async def run(self) -> None:
        """Leads the resource whenever it may, until cancelled."""
        # A task group that fails just when it is cancelled tells of its failure only, so the hub is asked too.
        while not self._hub.stopping:
            try:
                if await self._lease.acquire():
                    _log.info("leading", extra={"resource_id": self._resource_id})
                    await self._lead()
            except* HubStopping:
                _log.debug("the server stops", extra={"resource_id": self._resource_id})
            except* (StorageUnavailable, EngineUnavailable, LeaseLost) as errors:
                _log.warning("not leading: %s", errors.exceptions[0], extra={"resource_id": self._resource_id})
            except* Exception as errors:  # noqa: BLE001 -- whatever it is, the jobs of this resource still need somebody
                _log.error("leading failed; beginning anew", exc_info=errors, extra={"resource_id": self._resource_id})
            await asyncio.sleep(_RETRY_SECONDS)

    async def _lead(self) -> None:
        self._looked_back = False
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._keep_lease())
                group.create_task(self._follow())
                group.create_task(self._look_back())
                group.create_task(self._work())
                group.create_task(self._sweep())
        finally:
            with contextlib.suppress(StorageUnavailable, LeaseLost):
                await self._lease.release()

    async def _keep_lease(self) -> None:
        while True:
            await asyncio.sleep(self._lease.remaining.total_seconds() / 3)
            await self._lease.renew()

    # What the engine sees.

    async def _follow(self) -> None:
        async with contextlib.aclosing(self._engine.follow()) as seen:  # type: ignore[type-var]
            async for batch in seen:
                await self._take(batch)

    async def _look_back(self) -> None:
        """Takes over what came and went around this service while nobody led; says so once that is on record."""
        since = await self._storage.read(lambda tx: self._store.followed(tx, self._resource_id))
        while since is not None:
            try:
                # First what is still there: of an array some elements may have ended, which are nothing without it.
                await self._take(await self._engine.observe_all())
                await self._take(await self._engine.missed(since))
                break
            except EngineUnavailable as error:
                _log.info("looking back later: %s", error, extra={"resource_id": self._resource_id})
                await asyncio.sleep(_SECOND_LOOK.total_seconds())
        self._looked_back = True

    async def _sweep(self) -> None:
        """Compares all unfinished jobs with the engine, at first and from time to time."""
        missing: set[str] = set()
        while True:
            pause = _SWEEP
            try:
                missing = await self._compare(missing)
                pause = _SECOND_LOOK if missing else _SWEEP
            except EngineUnavailable as error:
                pause = _SECOND_LOOK
                _log.warning("cannot compare: %s", error, extra={"resource_id": self._resource_id})
            await asyncio.sleep(pause.total_seconds())

    async def _compare(self, missing_before: set[str]) -> set[str]:
        """Takes over how all unfinished jobs stand; returns those that the engine does not know.

        One that it did not know the time before either is lost: what was handed over is known at once.
        """
        began = datetime.now(UTC)
        seen = await self._engine.observe_all()
        await self._take(seen)
        known = {observation.job_id for observation in seen}
        missing: set[str] = set()
        after = ""
        while ids := await self._storage.read(self._unfinished_after(after)):
            after = ids[-1]
            left = [job_id for job_id in ids if job_id not in known]
            missing.update(await self._look_for(left) if left else ())
        lost = sorted(missing & missing_before)
        now = datetime.now(UTC)
        text = "the engine does not know this job any more; how it ended is not known"
        await self._take([Observation(job_id, "", JobState.FAILED, now, JobReason.LOST, text) for job_id in lost])
        await self._persist(partial(self._note_compared, time=began))
        return missing

    def _note_compared(self, tx: Tx, time: datetime) -> None:
        self._store.set_compared(tx, self._resource_id, time)
        if self._looked_back:
            self._store.set_followed(tx, self._resource_id, time)

    async def _look_for(self, job_ids: Sequence[str]) -> set[str]:
        """Takes over how single jobs stand; returns those that the engine does not know."""
        found = await self._storage.read(lambda tx: self._store.load(tx, job_ids))
        seen = await self._engine.observe([lifecycle.ref_of(working.job) for working in found.values()])
        await self._take(seen)
        return set(job_ids) - {observation.job_id for observation in seen}

    def _unfinished_after(self, after: str) -> Callable[[ReadTx], list[str]]:
        return lambda tx: self._store.unfinished_ids(tx, self._resource_id, after, _BATCH)

    async def _take(self, seen: Sequence[Observation]) -> None:
        """Stores what is new in observations; most often that is nothing, and no writer has to wait."""
        for start in range(0, len(seen), _BATCH):
            chunk = seen[start : start + _BATCH]
            if await self._read_on(partial(observations.new, self._store, seen=chunk, resource_id=self._resource_id)):
                await self._persist(partial(observations.apply, self._store, seen=chunk, resource_id=self._resource_id))

    async def _read_on(self, read: Callable[[ReadTx], bool]) -> bool:
        while True:
            try:
                return await self._storage.read(read)
            except StorageUnavailable as error:
                _log.warning("database: %s; trying again", error, extra={"resource_id": self._resource_id})
                await asyncio.sleep(_RETRY_SECONDS)

    async def _persist(self, write: Callable[[Tx], None]) -> None:
        """Writes, however long the database is away: an observation that an engine gave is not given again."""
        while True:
            try:
                return await self._storage.write(write)
            except StorageUnavailable as error:
                _log.warning("database: %s; trying again", error, extra={"resource_id": self._resource_id})
                await asyncio.sleep(_RETRY_SECONDS)

    # What callers want.

    async def _work(self) -> None:
        watcher = self._hub.watch(TOPIC, after=None, interest=frozenset({f"resource:{self._resource_id}"}))
        change: asyncio.Future[object] | None = None
        try:
            while True:
                again = await self._work_off()
                change = change or asyncio.ensure_future(anext(watcher))
                await asyncio.wait([change], timeout=again)
                if change.done():
                    change.result()
                    change = None
        finally:
            if change is not None:
                change.cancel()
            watcher.close()

    async def _work_off(self) -> float | None:
        """Does what can be done now; returns when to try the rest again, seconds, or None when nothing is left."""
        self._unsettled = False
        try:
            while await self._step():
                pass
        except EngineUnavailable as error:
            _log.warning("engine: %s; trying again", error, extra={"resource_id": self._resource_id})
            return _RETRY_SECONDS
        return _RETRY_SECONDS if self._unsettled else None

    async def _step(self) -> bool:
        """Does what is to be done for some jobs; returns whether there may be more that can be done now."""
        open_ = await self._storage.read(lambda tx: self._store.with_todo(tx, self._resource_id, _BATCH))
        steps: tuple[tuple[Callable[[Working], bool], Callable[[Sequence[Working]], Awaitable[bool]]], ...] = (
            (lambda w: bool(w.job.array_counts and w.todo & Todo.CANCEL), self._cancel_arrays),
            (lambda w: bool(not w.job.array_counts and w.todo & Todo.CANCEL), self._cancel),
            (lambda w: bool(w.todo & Todo.EXPAND and not w.todo & (Todo.CANCEL | Todo.SUBMIT)), self._expand),
            (lambda w: bool(w.todo & Todo.SUBMIT and not w.todo & Todo.CANCEL), self._submit),
        )
        progress = False
        for applies, act in steps:
            chosen = [working for working in open_ if applies(working)]
            if chosen:
                progress = await act(chosen) or progress
        return progress

    async def _submit(self, chosen: Sequence[Working]) -> bool:
        """Hands over the jobs whose dependencies their engine can look after.

        A target is always older than what depends on it, so that the oldest jobs to hand over never all wait.
        """
        needed = {d.job_id for working in chosen for d in working.job.spec.dependencies}
        targets = await self._storage.read(lambda tx: self._store.targets(tx, sorted(needed))) if needed else {}
        verdicts = {w.job.id: judge(w.job.spec.dependencies, targets) for w in chosen}
        never = [w for w in chosen if verdicts[w.job.id][0] == Verdict.NEVER]
        if never:
            await self._storage.write(partial(self._end_unstarted, job_ids=[w.job.id for w in never]))
        ready = [w for w in chosen if verdicts[w.job.id][0] == Verdict.HAND_OVER]
        settled = False
        if ready:
            settled = await self._hand_over(ready, {w.job.id: verdicts[w.job.id][1] for w in ready}, targets)
        waiting = [w.job.id for w in chosen if verdicts[w.job.id][0] == Verdict.WAIT]
        if waiting:
            await self._storage.write(partial(self._note_waiting, job_ids=waiting))
        return bool(never or settled)

    def _end_unstarted(self, tx: Tx, job_ids: Sequence[str]) -> None:
        """Cancels jobs that no engine has, because what they wait for cannot come about any more."""
        now = datetime.now(UTC)
        text = "a job that it depends on ended in a way that rules out its start"
        status = JobStatus(JobState.CANCELED, JobReason.DEPENDENCY_NEVER_SATISFIED, text)
        found = self._store.load(tx, job_ids).values()
        observations.save(self._store, tx, [(w, lifecycle.moved(w.job, status, now)) for w in found])

    def _note_waiting(self, tx: Tx, job_ids: Sequence[str]) -> None:
        """Says of jobs what they wait for, before an engine has them. A job to be held keeps the reason of that."""
        found = self._store.load(tx, job_ids).values()
        status = JobStatus(JobState.NEW, JobReason.DEPENDENCY)
        changes = [(w, replace(w.job, status=status)) for w in found if w.job.status == JobStatus(JobState.NEW)]
        observations.save(self._store, tx, changes)

    async def _hand_over(
        self,
        ready: Sequence[Working],
        dependencies: Mapping[str, tuple[JobDependency, ...]],
        targets: Mapping[str, Target],
    ) -> bool:
        """Hands jobs over; returns whether the engine has answered about any."""
        jobs = [working.job for working in ready]
        scripts = await self._storage.read(
            lambda tx: {key: self._store.script(tx, key) for key in {job.array_job_id or job.id for job in jobs}}
        )
        if self._engine.verdict_wait:
            await self._storage.write(lambda tx: self._store.add_todo(tx, [job.id for job in jobs], Todo.TRIED))
        answers = await self._engine.submit(
            [_engine_job(w, scripts[w.job.array_job_id or w.job.id], dependencies[w.job.id], targets) for w in ready]
        )
        self._unsettled = self._unsettled or None in answers
        # A job that the engine had from before a crash may have been held since.
        doubtful = any(working.todo & Todo.TRIED for working in ready)
        for reason in (JobReason.HELD_BY_OWNER, JobReason.HELD_BY_OPERATOR):
            held = [
                replace(lifecycle.ref_of(job), native_id=answer)
                for job, answer in zip(jobs, answers, strict=True)
                if job.spec.hold and _hold_reason(job) == reason and isinstance(answer, str)
            ]
            # What an engine is only told once was told so with the job.
            if held and (reason == JobReason.HELD_BY_OPERATOR or doubtful or not self._engine.verdict_wait):
                await self._hold(held, reason)
        told = {job.id: (job, answer) for job, answer in zip(jobs, answers, strict=True) if answer is not None}
        any_told = bool(told)
        while told:
            changed = await self._storage.write(partial(self._record, told=told))
            for job in changed:
                await self._catch_up(told[job.id][0], job, told[job.id][1])
            told = {job.id: (job, told[job.id][1]) for job in changed}
        return any_told

    async def _hold(self, refs: Sequence[JobRef], reason: JobReason) -> None:
        try:
            await self._engine.hold(refs, reason)
        except EngineError as error:
            _log.warning("hold refused: %s", error, extra={"job_ids": [ref.id for ref in refs[:20]]})

    def _record(self, tx: Tx, told: Mapping[str, tuple[Job, str | Refusal]]) -> list[Job]:
        """Stores that jobs were handed over; returns those that changed meanwhile, which the engine must know first."""
        found = self._store.load(tx, list(told))
        now = datetime.now(UTC)
        same = [working for working in found.values() if working.job.spec == told[working.job.id][0].spec]
        changes = [(working, _handed_over(working.job, told[working.job.id][1], now)) for working in same]
        observations.save(self._store, tx, changes)
        done = {working.job.id for working in same}
        self._store.set_todo(tx, done, Todo.SUBMIT | Todo.TRIED)
        return [working.job for job_id, working in found.items() if job_id not in done]

    async def _catch_up(self, handed_over: Job, stored: Job, answer: str | Refusal) -> None:
        """Tells the engine what changed while the job was being handed over."""
        if isinstance(answer, Refusal):
            return
        ref = replace(lifecycle.ref_of(stored), native_id=answer)
        try:
            if stored.spec.hold and not handed_over.spec.hold:
                await self._engine.hold([ref], _hold_reason(stored))
            if handed_over.spec.hold and not stored.spec.hold:
                await self._engine.release([ref], by_operator=_hold_reason(handed_over) == JobReason.HELD_BY_OPERATOR)
            update = difference(handed_over.spec, stored.spec)
            if update:
                await self._engine.update(ref, update, by_operator=False)
        except EngineError as error:
            _log.warning("late change refused: %s", error, extra={"job_id": stored.id})

    async def _cancel(self, chosen: Sequence[Working]) -> bool:
        """Asks the engine for the end of jobs. Those that it never got end here."""
        by_reason: dict[int, list[Working]] = {}
        for working in chosen:
            by_reason.setdefault(working.cancel_reason, []).append(working)
        for reason, ones in by_reason.items():
            await self._engine_cancels([w.job for w in ones], JobReason(reason))
        ids = [working.job.id for working in chosen]
        seen = await self._engine.observe([lifecycle.ref_of(working.job) for working in chosen])
        known = {observation.job_id for observation in seen}

        def effect(tx: Tx) -> None:
            now = datetime.now(UTC)
            never_got = [
                w for w in self._store.load(tx, ids).values() if w.todo & Todo.SUBMIT and w.job.id not in known
            ]
            changes = [
                (w, lifecycle.moved(w.job, JobStatus(JobState.CANCELED, JobReason(w.cancel_reason)), now))
                for w in never_got
            ]
            engine_saw = observations.changes_of(self._store, tx, seen, self._resource_id)
            observations.save(self._store, tx, [*engine_saw, *changes])
            self._store.set_todo(tx, ids, Todo.CANCEL | Todo.SUBMIT | Todo.TRIED)

        await self._storage.write(effect)
        return True

    async def _engine_cancels(self, jobs: Sequence[Job], reason: JobReason) -> None:
        """Asks the engine; what it refuses will not be done by asking again."""
        try:
            await self._engine.cancel([lifecycle.ref_of(job) for job in jobs], reason)
        except EngineError as error:
            _log.warning("cancellation refused: %s", error, extra={"job_ids": [job.id for job in jobs[:20]]})

    async def _expand(self, chosen: Sequence[Working]) -> bool:
        """Makes the next elements of arrays, a bounded number at a time."""
        for working in chosen:
            made = await self._storage.write(partial(self._make_elements, job_id=working.job.id))
            if working.job.native_id and made:
                # The engine has them already: what it told of them before they were here was lost.
                await self._take(await self._engine.observe([lifecycle.ref_of(job) for job in made]))
        return True

    def _make_elements(self, tx: Tx, job_id: str) -> list[Job]:
        found = self._store.load(tx, [job_id])[job_id]
        array = found.job.spec.array
        if array is None or found.todo & Todo.CANCEL:
            return []
        now = datetime.now(UTC)
        if found.job.status.state == JobState.NEW:
            status = (
                JobStatus(JobState.HELD, _hold_reason(found.job)) if found.job.spec.hold else JobStatus(JobState.QUEUED)
            )
            observations.save(self._store, tx, [(found, lifecycle.moved(found.job, status, now))])
        made: list[Job] = []
        for index in array.indices[found.expanded : found.expanded + _BATCH]:
            element = lifecycle.element_of(found.job, index, now)
            todo = Todo.NOTHING if element.native_id else Todo.SUBMIT
            made.append(replace(element, revision=tx.revision()))
            self._store.insert(tx, Working(made[-1], todo))
        expanded = found.expanded + len(made)
        todo = found.todo if expanded < len(array.indices) else found.todo & ~Todo.EXPAND
        self._store.set_expanded(tx, job_id, expanded, todo)
        return made

    async def _cancel_arrays(self, chosen: Sequence[Working]) -> bool:
        for working in chosen:
            if self._engine.takes_arrays:
                await self._engine_cancels([working.job], JobReason(working.cancel_reason))
            while await self._storage.write(partial(self._cancel_elements, job_id=working.job.id)):
                pass
            if self._engine.takes_arrays:
                await self._see_elements(working.job.id)
        return True

    async def _see_elements(self, job_id: str) -> None:
        """Takes over how an array's elements stand: a batch system may keep nothing of those that never started."""
        ids = await self._storage.read(lambda tx: self._store.unfinished_elements(tx, job_id))
        for start in range(0, len(ids), _BATCH):
            await self._look_for(ids[start : start + _BATCH])

    def _cancel_elements(self, tx: Tx, job_id: str) -> bool:
        """Asks for the end of some elements; counts those never made as canceled. Returns whether more remain."""
        found = self._store.load(tx, [job_id])[job_id]
        self._give_up_unmade(tx, found)
        # An engine that has the array as a whole was asked for the end of all at once.
        per_element = Todo.NOTHING if self._engine.takes_arrays else Todo.CANCEL
        ids = self._store.unfinished_elements(tx, job_id, not_canceled=True, limit=_BATCH)
        elements = self._store.load(tx, ids).values()
        observations.save(
            self._store,
            tx,
            (
                (
                    replace(w, todo=w.todo | per_element, cancel_reason=found.cancel_reason),
                    replace(w.job, cancel_requested=True),
                )
                for w in elements
            ),
        )
        if len(ids) == _BATCH:
            return True
        self._store.set_todo(tx, [job_id], Todo.CANCEL | Todo.SUBMIT | Todo.TRIED)
        return False

    def _give_up_unmade(self, tx: Tx, found: Working) -> None:
        counts, array = found.job.array_counts, found.job.spec.array
        if counts is None or array is None or not found.todo & Todo.EXPAND:
            return
        unmade = len(array.indices) - found.expanded
        left = ArrayCounts(
            counts.total,
            counts.waiting - unmade,
            counts.active,
            counts.completed,
            counts.failed,
            counts.canceled + unmade,
        )
        job = lifecycle.array_after(found.job, left, datetime.now(UTC))
        observations.save(self._store, tx, [(replace(found, todo=found.todo & ~Todo.EXPAND), job)])


def _engine_job(
    working: Working, script: str, dependencies: tuple[JobDependency, ...], targets: Mapping[str, Target]
) -> EngineJob:
    job = working.job
    return EngineJob(
        id=job.id,
        spec=replace(job.spec, script=script, dependencies=dependencies),
        owner=job.owner,
        create_time=job.create_time,
        array_job_id=job.array_job_id,
        array_index=job.array_index,
        dependencies=tuple(EngineDependency(d.job_id, targets[d.job_id].native_id) for d in dependencies),
        doubtful=bool(working.todo & Todo.TRIED),
    )


def _handed_over(job: Job, answer: str | Refusal, now: datetime) -> Job:
    """Returns a job after the engine took or refused it; one that the engine told more of already stays as it is."""
    if job.status.state != JobState.NEW:
        return job
    if isinstance(answer, Refusal):
        if job.array_counts:
            total = job.array_counts.total
            job = replace(job, array_counts=ArrayCounts(total, failed=total))
        return lifecycle.moved(job, refusals.on_record(answer), now)
    status = JobStatus(JobState.QUEUED)
    if job.spec.hold:
        status = JobStatus(JobState.HELD, _hold_reason(job))
    return lifecycle.moved(replace(job, native_id=answer), status, now)


def _hold_reason(job: Job) -> JobReason:
    operator = job.status.reason == JobReason.HELD_BY_OPERATOR
    return JobReason.HELD_BY_OPERATOR if operator else JobReason.HELD_BY_OWNER
