"""The engine itself: the interface of all job engines over the spool."""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
import signal as signals
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from openfacility_server.jobs.engines import (
    EngineCannot,
    EngineDependency,
    EngineError,
    EngineHealth,
    EngineJob,
    EngineUnavailable,
    EngineUpdate,
    Estimate,
    FieldProblem,
    JobRef,
    Observation,
    OutputStream,
    Refusal,
    Reservation,
)
from openfacility_server.jobs.engines.local import checks
from openfacility_server.jobs.engines.local.codec import Json, exit_to_observation, from_nanoseconds, seconds
from openfacility_server.jobs.engines.local.leader import Leader, observation_of, waiting_since
from openfacility_server.jobs.engines.local.needs import needs_of
from openfacility_server.jobs.engines.local.settings import LocalSettings
from openfacility_server.jobs.engines.local.shepherd import record
from openfacility_server.jobs.engines.local.spool import JOB_ID, Snapshot, Spool, held_by
from openfacility_server.jobs.model import JobReason, JobSpec, JobState

WAIT_FOR_LOCK = 0.25
CHUNK = 25
WRITERS = 4

T = TypeVar("T")


class LocalEngine:
    """Runs jobs on this machine. See the package for how."""

    def __init__(self, settings: LocalSettings) -> None:
        """Nothing is read or written before `open`."""
        self._settings = settings
        self._spool = Spool(settings.spool)
        self._files: ThreadPoolExecutor | None = None
        self._closed = asyncio.Event()
        self._leader: Leader | None = None

    @property
    def verdict_wait(self) -> timedelta:
        """Nobody waits for a verdict: what `check` lets through is taken."""
        return timedelta(0)

    @property
    def takes_arrays(self) -> bool:
        """Elements are handed over one by one."""
        return False

    def check(self, spec: JobSpec) -> Sequence[FieldProblem]:
        """Returns what of a spec this engine can never honour."""
        return checks.problems_of(spec, self._settings, files=True)

    async def open(self) -> None:
        """Makes the spool where it is missing. Raises EngineUnavailable."""
        self._files = ThreadPoolExecutor(WRITERS, "local-engine")
        self._closed.clear()
        try:
            await self._run(self._spool.prepare, self._settings.resource_id)
        except EngineUnavailable:
            await self.close()
            raise

    async def close(self) -> None:
        """Ends `follow` and lets go of everything but the jobs."""
        self._closed.set()
        files, self._files = self._files, None
        if files is not None:
            await asyncio.to_thread(files.shutdown)

    async def health(self) -> EngineHealth:
        """Tells whether the spool can be used and jobs be started."""
        try:
            details = await self._run(self._figures)
        except EngineUnavailable as error:
            return EngineHealth(serving=False, message=str(error))
        leader = self._leader
        details["leading"] = "no" if leader is None else "yes"
        if leader is not None:
            details["cores_in_use"] = str(leader.queue.used_cores)
        trouble = "" if leader is None else leader.trouble
        return EngineHealth(serving=not trouble, message=trouble, details=details)

    def _figures(self) -> dict[str, str]:
        if not os.access(self._spool.jobs, os.W_OK | os.X_OK):
            raise PermissionError("the spool cannot be written to")
        return {
            "cores": str(self._settings.cores),
            "unfinished_jobs": str(len(self._spool.active_ids())),
            "spool_free_bytes": str(shutil.disk_usage(self._spool.root).free),
        }

    async def submit(self, jobs: Sequence[EngineJob]) -> Sequence[str | Refusal]:
        """Records jobs in the spool, in this order; returns the native id or a refusal for each."""
        answers = [self._refusal(job) or job.id for job in jobs]
        taken = [job for job, answer in zip(jobs, answers, strict=True) if not isinstance(answer, Refusal)]
        if taken:
            await self._record(taken)
        return answers

    async def _record(self, jobs: Sequence[EngineJob]) -> None:
        sequences = await self._run(self._spool.sequences, len(jobs))
        numbered = list(zip(jobs, sequences, strict=True))
        chunks = [numbered[first : first + CHUNK] for first in range(0, len(numbered), CHUNK)]
        await _all(self._run(self._write, chunk) for chunk in chunks)
        await self._run(self._spool.commit, [job.id for job in jobs])

    def _write(self, numbered: Sequence[tuple[EngineJob, int]]) -> None:
        for job, sequence in numbered:
            self._spool.submit(job, sequence)

    def _refusal(self, job: EngineJob) -> Refusal | None:
        if JOB_ID.match(job.id) is None or (job.array_job_id and JOB_ID.match(job.array_job_id) is None):
            return Refusal("The job's id is not one that this engine takes.")
        problems = checks.problems_of(job.spec, self._settings, files=False)
        return checks.refusal_of(problems) if problems else None

    async def cancel(self, jobs: Sequence[JobRef], reason: JobReason) -> None:
        """Ends jobs, waiting or running."""
        await self._each(jobs, lambda job_id: self._spool.cancel(job_id, reason.name))

    async def hold(self, jobs: Sequence[JobRef], reason: JobReason) -> None:
        """Keeps waiting jobs from starting. Of two reasons to hold a job, an operator's stays."""
        await self._each(jobs, lambda job_id: self._spool.hold(job_id, reason.name))

    async def release(self, jobs: Sequence[JobRef], by_operator: bool) -> None:
        """Undoes `hold`. Raises EngineError when an operator's hold is left to be undone by one."""
        kept: list[str] = []

        def release(job_id: str) -> None:
            if not self._spool.hold(job_id, None, by_operator=by_operator):
                kept.append(job_id)

        await self._each(jobs, release)
        if kept:
            raise EngineError(Refusal("An operator holds the job: ask them to release it.", "ACCESS_DENIED"))

    async def update(self, job: JobRef, update: EngineUpdate, by_operator: bool) -> None:
        """Changes a job: its name and time limit until it has ended, the rest until it starts."""
        self._check_update(update)
        await self._run(self._spool.change, job.id, lambda snapshot: _change(snapshot, update))

    def _check_update(self, update: EngineUpdate) -> None:
        problems: list[FieldProblem | None] = [checks.duration_problem(update.duration, self._settings)]
        if update.queue_name is not None:
            problems.append(checks.queue_problem(update.queue_name, self._settings))
        if update.resources is not None:
            spec = JobSpec(resources=update.resources)
            problems.extend(checks.problems_of(spec, self._settings, files=False))
        found = [problem for problem in problems if problem is not None]
        if found:
            raise EngineError(checks.refusal_of(found))

    async def signal(self, jobs: Sequence[JobRef], signal: str, by_operator: bool) -> None:
        """Has running jobs' shepherds send a signal to all that they have started."""
        number = signals.Signals.__members__.get(f"SIG{signal}")
        if number is None:
            raise EngineError(Refusal("This system has no such signal.", "REFUSED"))
        await self._each(jobs, lambda job_id: self._spool.signal(job_id, number))

    async def requeue(self, jobs: Sequence[JobRef], hold: bool, by_operator: bool) -> None:
        """What runs is never put back. Raises EngineCannot."""
        raise EngineCannot(
            "This resource puts no running jobs back into its queue: cancel the job and submit it again."
        )

    async def estimate(self, spec: JobSpec, owner: str, dependencies: Sequence[EngineDependency]) -> Estimate:
        """Says whether a job would start now. When, otherwise, is not known: jobs need no time limit here."""
        problems = self.check(spec)
        if problems:
            return Estimate(refusal=checks.refusal_of(problems))
        needs = needs_of(spec.resources, self._settings.cores)
        leader = self._leader
        at_once = not dependencies and not spec.hold and leader is not None and leader.queue.has_room(needs)
        duration = spec.attributes.duration
        return Estimate(
            start_time=datetime.now(UTC) if at_once else None,
            node_count=1,
            core_count=needs.cores,
            duration=self._settings.limit if duration is None else duration,
            account=spec.attributes.account,
        )

    async def reservations(self) -> Sequence[Reservation]:
        """There are none."""
        return ()

    async def observe(self, jobs: Sequence[JobRef]) -> Sequence[Observation]:
        """Returns how jobs stand by their files. Why a job is queued is known to the process that leads only."""
        return await self._observe([job.id for job in jobs])

    async def observe_all(self) -> Sequence[Observation]:
        """Returns how all jobs stand that have not ended, or whose ends `follow` has still to tell."""
        return await self._observe(await self._run(self._spool.active_ids))

    async def _observe(self, job_ids: Sequence[str]) -> Sequence[Observation]:
        found: list[Observation] = []
        for first in range(0, len(job_ids), CHUNK):
            found.extend(await self._run(self._observe_some, job_ids[first : first + CHUNK]))
        leader = self._leader
        return found if leader is None else [_with_reason(observation, leader) for observation in found]

    def _observe_some(self, job_ids: Sequence[str]) -> list[Observation]:
        return [_observe(snapshot) for job_id in job_ids if (snapshot := self._spool.read(job_id)) is not None]

    async def open_output(self, job: JobRef, spec: JobSpec, stream: OutputStream) -> int | None:
        """Opens what a job writes, wherever it has been told to: jobs and this process are one user's."""
        if JOB_ID.match(job.id) is None:
            return None
        started = await self._run(record.read_json, self._spool.path(job.id, record.STARTED))
        if started is None or self._files is None:
            return None
        opening = self._files.submit(os.open, started[stream.value], os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            return await asyncio.wrap_future(opening)
        except asyncio.CancelledError:
            opening.add_done_callback(_close)
            raise
        except (FileNotFoundError, NotADirectoryError) as error:
            raise FileNotFoundError(error.errno, "the output has been removed") from error
        except OSError as error:
            message = f"The output cannot be read: {error.strerror or 'failure'}."
            raise EngineError(Refusal(message, "OUTPUT_UNREADABLE")) from error

    async def missed(self, since: datetime) -> Sequence[Observation]:
        """Returns nothing: no job gets here but through this service."""
        return ()

    async def follow(self) -> AsyncIterator[Sequence[Observation]]:
        """Leads the spool, once no other process does, and yields what changes.

        The first batches tell how every unfinished job stands: what has happened under the leader before is in them.
        An end is off the books when the next batch is asked for; until then the next leader would tell of it again.
        """
        lock = await self._lead()
        if lock is None:
            return
        leader = Leader(self._settings, self._spool)
        running = asyncio.create_task(leader.run())
        closed = asyncio.create_task(self._closed.wait())
        self._leader = leader
        try:
            while not closed.done():
                news = asyncio.create_task(leader.observations())
                try:
                    await asyncio.wait((news, running, closed), return_when=asyncio.FIRST_COMPLETED)
                    if not news.done():
                        break
                finally:
                    news.cancel()
                yield news.result()
                await leader.acknowledge(news.result())
        finally:
            self._leader = None
            closed.cancel()
            running.cancel()
            failure = (await asyncio.gather(running, closed, return_exceptions=True))[0]
            os.close(lock)
        if isinstance(failure, OSError):
            raise EngineUnavailable(_unavailable(failure)) from failure
        if isinstance(failure, Exception):
            raise failure

    async def _lead(self) -> int | None:
        """Waits for the lock of the spool; None when the engine is closed meanwhile."""
        try:
            lock = os.open(self._settings.spool / "leader.lock", os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            raise EngineUnavailable(_unavailable(error)) from error
        try:
            while not self._closed.is_set():
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    await _wait(self._closed, WAIT_FOR_LOCK)
                else:
                    return lock
        except BaseException:
            os.close(lock)
            raise
        os.close(lock)
        return None

    async def _each(self, jobs: Sequence[JobRef], change: Callable[[str], object]) -> None:
        job_ids = [job.id for job in jobs]
        chunks = [job_ids[first : first + CHUNK] for first in range(0, len(job_ids), CHUNK)]
        await _all(self._run(_for_each, chunk, change) for chunk in chunks)

    async def _run(self, function: Callable[..., T], *arguments: object) -> T:
        """Does file work beside the event loop. Raises EngineUnavailable."""
        if self._files is None:
            raise EngineUnavailable("The local engine is closed.")
        try:
            return await asyncio.get_running_loop().run_in_executor(self._files, function, *arguments)
        except OSError as error:
            raise EngineUnavailable(_unavailable(error)) from error


async def _all(works: Iterable[Awaitable[None]]) -> None:
    """Does work side by side; raises the first failure when all of it is done, so that none goes on unseen."""
    for result in await asyncio.gather(*works, return_exceptions=True):
        if isinstance(result, BaseException):
            raise result


def _unavailable(error: OSError) -> str:
    return f"The local engine cannot use its spool: {error.strerror or 'failure'}."


def _close(opening: Future[int]) -> None:
    """Closes a file that nobody waits for any more."""
    if not opening.cancelled() and opening.exception() is None:
        os.close(opening.result())


def _for_each(job_ids: Sequence[str], change: Callable[[str], object]) -> None:
    for job_id in job_ids:
        change(job_id)


async def _wait(event: asyncio.Event, longest: float) -> None:
    try:
        async with asyncio.timeout(longest):
            await event.wait()
    except TimeoutError:
        pass


def _change(snapshot: Snapshot, update: EngineUpdate) -> Json:
    """Returns what to record of an update, if the job's state allows it."""
    if snapshot.exit is not None:
        raise EngineError("The job has ended: nothing of it can be changed any more.")
    early = (update.queue_name, update.account, update.resources)
    if snapshot.launch is not None and any(value is not None for value in early):
        raise EngineError("The job has been started: only its name and its time limit can still be changed.")
    values = {
        "name": update.name,
        "duration": seconds(update.duration),
        "queue_name": update.queue_name,
        "account": update.account,
        "resources": None if update.resources is None else asdict(update.resources),
    }
    return {name: value for name, value in values.items() if value is not None}


def _observe(snapshot: Snapshot) -> Observation:
    job_id = snapshot.job.id
    if snapshot.exit is not None:
        return exit_to_observation(job_id, snapshot.exit)
    if snapshot.started is not None:
        start = from_nanoseconds(snapshot.started["start_time"])
        return Observation(job_id, job_id, JobState.ACTIVE, start, start_time=start)
    held = held_by(snapshot) if snapshot.launch is None else None
    if held is not None:
        return Observation(job_id, job_id, JobState.HELD, waiting_since(snapshot), JobReason[held])
    return Observation(job_id, job_id, JobState.QUEUED, waiting_since(snapshot))


def _with_reason(observation: Observation, leader: Leader) -> Observation:
    entry = leader.queue.entries.get(observation.job_id)
    if observation.state is not JobState.QUEUED or entry is None or entry.state is not JobState.QUEUED:
        return observation
    return replace(observation, reason=entry.reason, message=observation_of(entry).message)
