"""The leader: the one process that starts jobs and tells how they stand.

Everything funnels through `_refresh`: whatever happened, the job's files are read again and the queue is brought in
line with them. A leader that has just begun therefore does nothing that one at work does not do all the time.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime
from functools import partial
from typing import TypeVar

from openfacility_server.jobs.engines import Observation
from openfacility_server.jobs.engines.local import launch
from openfacility_server.jobs.engines.local.codec import (
    Json,
    exit_to_observation,
    from_nanoseconds,
    needs_from_json,
)
from openfacility_server.jobs.engines.local.queue import Entry, Place, Queue
from openfacility_server.jobs.engines.local.settings import LocalSettings
from openfacility_server.jobs.engines.local.shepherd import proc
from openfacility_server.jobs.engines.local.spool import Claim, Fate, Snapshot, Spool, held_by
from openfacility_server.jobs.engines.local.watch import ShepherdWatch
from openfacility_server.jobs.model import JobReason, JobState

RESCAN = 1.0
RETRY = 0.1
ENDS_AT_ONCE = 100
RECHECK_AT_LEAST = 20
RECHECK_ROUNDS = 60
FILE_THREADS = 4
SWEEP = 3600.0
CHUNK = 200
LONGEST_BACKOFF = 30.0

T = TypeVar("T")
log = logging.getLogger(__name__)


class Leader:
    """Schedules the jobs of one spool for as long as `run` runs."""

    def __init__(self, settings: LocalSettings, spool: Spool) -> None:
        """Nothing happens yet."""
        self._settings = settings
        self._spool = spool
        self.queue = Queue(settings.cores, settings.memory, spool.members, spool.fate)
        self.trouble = ""  # why nothing can be started, if so
        self._watch = ShepherdWatch(self._shepherd_gone)
        self._files = ThreadPoolExecutor(FILE_THREADS, "local-files")
        self._nursery = launch.Nursery(settings, spool)
        self._spawner = ThreadPoolExecutor(1, "local-spawn")
        self._woken = asyncio.Event()
        self._news = asyncio.Event()
        self._observations: list[Observation] = []
        self._dirty: set[str] = set()
        self._strangers: set[str] = set()  # found by the last rescan, and not told of by a notice before
        self._to_recheck: list[str] = []
        self._ending: dict[str, Json] = {}
        self._gone: set[str] = set()  # jobs whose shepherd was seen to end, not looked at since
        self._starting: dict[str, asyncio.Task[None]] = {}
        # Ends that were published. Until the follower has taken them their jobs stay on the list of active ones; they
        # are remembered for one rescan more, which may have been reading that list meanwhile.
        self._told: set[str] = set()
        self._taken: set[str] = set()
        self._backoff = 0.0
        self._start_again_at = 0.0
        self._next_rescan = self._next_sweep = 0.0
        self._wake_fd = -1

    # What the follower sees

    async def observations(self) -> Sequence[Observation]:
        """Waits for news and returns all of it."""
        await self._news.wait()
        self._news.clear()
        batch, self._observations = self._observations, []
        return batch

    async def acknowledge(self, batch: Iterable[Observation]) -> None:
        """Notes that ends have been taken by the follower: the next leader does not have to tell of them."""
        ended = [observation.job_id for observation in batch if observation.state.final]
        if ended:
            await self._in_files(self._spool.forget, ended)
            self._taken.update(ended)

    def _publish(self, observation: Observation) -> None:
        self._observations.append(observation)
        self._news.set()

    # The loop

    async def run(self) -> None:
        """Leads until canceled."""
        self._wake_fd = os.open(self._spool.wake, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        loop = asyncio.get_running_loop()
        loop.add_reader(self._wake_fd, self._drain_wake)
        self._spawner.submit(self._nursery.open)  # ahead of the first job
        try:
            while True:
                await self._look()
                self._schedule()
                await self._wait()
        finally:
            loop.remove_reader(self._wake_fd)
            os.close(self._wake_fd)
            await self._stop()

    async def _stop(self) -> None:
        for task in self._starting.values():
            task.cancel()
        await asyncio.gather(*self._starting.values(), return_exceptions=True)
        self._watch.close()
        for pool in (self._spawner, self._files):
            await asyncio.to_thread(pool.shutdown, cancel_futures=True)
        await asyncio.to_thread(self._nursery.close)

    def _drain_wake(self) -> None:
        with suppress(BlockingIOError):
            os.read(self._wake_fd, 65536)
        self._woken.set()

    async def _wait(self) -> None:
        moments = [self._next_rescan]
        if self._start_again_at > time.monotonic():
            moments.append(self._start_again_at)
        try:
            async with asyncio.timeout(max(0.0, min(moments) - time.monotonic())):
                await self._woken.wait()
        except TimeoutError:
            pass
        self._woken.clear()

    async def _look(self) -> None:
        """Reads again the files of every job that something may have happened to."""
        if time.monotonic() >= self._next_rescan:
            await self._rescan()
        ids = set(await self._in_files(self._spool.take_inbox)) | self._dirty
        self._dirty = set()
        wanted = list(ids)
        for first in range(0, len(wanted), CHUNK):
            await self._refresh_all(wanted[first : first + CHUNK])
        doomed, self.queue.doomed = self.queue.doomed, {}
        for entry in doomed.values():
            message = "A job that it depends on ended in a way that rules out its start."
            self._end_waiting(entry, JobReason.DEPENDENCY_NEVER_SATISFIED, message)
        await self._end_some()

    async def _rescan(self) -> None:
        """Makes up for notices that were lost."""
        self._watch.poll()
        taken, self._taken = self._taken, set()
        active = await self._in_files(self._spool.active_ids)
        strangers = set(active) - self.queue.entries.keys() - self._told
        # One rescan later: jobs that are just being submitted get their notices when all of them are there, in order.
        self._dirty.update(strangers if self._next_rescan == 0 else strangers & self._strangers)
        if strangers:
            await self._in_files(self._spool.drop_orphans, strangers)
        self._strangers = strangers
        self._told -= taken
        self._recheck()
        self._next_rescan = time.monotonic() + RESCAN
        await self._sweep()

    def _recheck(self) -> None:
        """Looks at every job from time to time, some with each rescan: a full disk may have swallowed a notice."""
        if not self._to_recheck:
            self._to_recheck = list(self.queue.entries)
        some = max(RECHECK_AT_LEAST, len(self.queue.entries) // RECHECK_ROUNDS)
        self._dirty.update(self._to_recheck[-some:])
        del self._to_recheck[-some:]

    async def _sweep(self) -> None:
        retention = self._settings.retention
        if retention is None or time.monotonic() < self._next_sweep:
            return
        self._next_sweep = time.monotonic() + min(SWEEP, max(RESCAN, retention.total_seconds()))
        needed = self.queue.depended_on()
        await self._in_files(launch.sweep, self._spool, time.time() - retention.total_seconds(), needed)

    async def _in_files(self, function: Callable[..., T], *arguments: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._files, function, *arguments)

    def _look_at(self, job_id: str) -> None:
        self._dirty.add(job_id)
        self._woken.set()

    def _look_later(self, job_id: str) -> None:
        asyncio.get_running_loop().call_later(RETRY, self._look_at, job_id)

    def _shepherd_gone(self, job_id: str) -> None:
        self._gone.add(job_id)
        self._look_at(job_id)

    # Bringing the queue in line with the files

    async def _refresh_all(self, job_ids: Sequence[str]) -> None:
        snapshots = await self._in_files(_read_all, self._spool, job_ids)
        for snapshot in sorted(snapshots, key=lambda snapshot: snapshot.job.sequence):
            await self._refresh(snapshot)

    async def _refresh(self, snapshot: Snapshot) -> None:
        job_id = snapshot.job.id
        if snapshot.exit is not None:
            self._ended(snapshot)
            return
        entry = self.queue.entries.get(job_id)
        if entry is None:
            entry = self._new_entry(snapshot)
            self.queue.add(entry)
        if snapshot.launch is not None:
            await self._refresh_launched(entry, snapshot)
        elif job_id not in self._starting:
            await self._refresh_waiting(entry, snapshot)

    def _new_entry(self, snapshot: Snapshot) -> Entry:
        job = snapshot.job
        entry = Entry(
            id=job.id,
            sequence=job.sequence,
            needs=launch.wanted(snapshot, self._settings),
            since=job.submit_time,
            dependencies=job.dependencies,
            array_id=job.array_id,
            max_active=job.array.max_active if job.array_id and job.array is not None else 0,
        )
        self.queue.changed[entry.id] = entry  # the follower is told how it stands, whatever that is
        return entry

    async def _refresh_waiting(self, entry: Entry, snapshot: Snapshot) -> None:
        if snapshot.cancel is not None:
            self._end_waiting(entry, JobReason[snapshot.cancel])
            self.queue.set_aside(entry)
            return
        held = held_by(snapshot)
        entry.held = None if held is None else JobReason[held]
        entry.since = waiting_since(snapshot)
        needs = launch.wanted(snapshot, self._settings)
        if needs != entry.needs:
            self.queue.set_needs(entry, needs)
        self.queue.place(entry)

    def _end_waiting(self, entry: Entry, reason: JobReason, message: str = "") -> None:
        """Ends a job that has not been started, soon: see `_end_some`."""
        self._ending[entry.id] = {"state": JobState.CANCELED.name, "reason": reason.name, "message": message}

    async def _end_some(self) -> None:
        """Records ends of jobs that were not started: some at a time, so that others can start meanwhile."""
        if not self._ending:
            return
        batch = dict(itertools.islice(self._ending.items(), ENDS_AT_ONCE))
        items = list(batch.items())
        parts = [dict(items[first::FILE_THREADS]) for first in range(FILE_THREADS)]
        failures = await asyncio.gather(*(self._in_files(_end_all, self._spool, part) for part in parts))
        failed = set().union(*failures)
        for job_id in batch:
            del self._ending[job_id]
            if job_id in failed:
                self._look_later(job_id)
            else:
                self._look_at(job_id)
        if self._ending:
            self._woken.set()

    async def _refresh_launched(self, entry: Entry, snapshot: Snapshot) -> None:
        assert snapshot.launch is not None
        if entry.place is not Place.TAKEN:
            entry.needs = needs_from_json(snapshot.launch)
            self.queue.take(entry)
        if snapshot.started is not None and entry.state is not JobState.ACTIVE:
            entry.since = from_nanoseconds(snapshot.started["start_time"])
            self.queue.active(entry)
        if snapshot.claim is not None:
            await self._refresh_claimed(entry, snapshot)
        elif entry.id not in self._starting:
            await self._refresh_unclaimed(entry, snapshot)

    async def _refresh_claimed(self, entry: Entry, snapshot: Snapshot) -> None:
        assert snapshot.claim is not None
        self._backoff, self.trouble = 0.0, ""
        watched = entry.id in self._gone
        self._gone.discard(entry.id)
        if self._watch.watch(entry.id, snapshot.claim["pid"], snapshot.claim["identity"]):
            if snapshot.cancel is not None or snapshot.control or snapshot.signaled:
                self._watch.tell(entry.id)
            return
        if await self._in_files(self._spool.probe, entry.id) is not Claim.ABANDONED:
            self._look_later(entry.id)
            return
        settle = partial(launch.settle_lost, watched=watched)
        try:
            await self._in_files(settle, self._spool, snapshot, self._settings.resource_id)
        except OSError:
            log.exception("job %s is lost, which cannot be recorded", entry.id)
        self._look_later(entry.id)

    async def _refresh_unclaimed(self, entry: Entry, snapshot: Snapshot) -> None:
        """Deals with a start of which nothing has come yet."""
        if self._watch.watching(entry.id):
            return  # its shepherd is about to claim it, and looks for a cancellation then
        claim = await self._in_files(self._spool.probe, entry.id)
        if claim is not Claim.NONE:
            self._look_later(entry.id)  # just now a shepherd has come
        elif snapshot.cancel is not None:
            await self._withdraw(entry)
        elif entry.id in self._gone:
            self._gone.discard(entry.id)
            await self._withdraw(entry, "Jobs cannot be started: is the disk full?")
        else:
            self._start(entry)  # the leader before us did not get to it; if a shepherd is on its way, one of them wins

    async def _withdraw(self, entry: Entry, trouble: str = "") -> None:
        """Puts a job that could not be started back into the queue."""
        if await self._in_files(self._spool.withdraw, entry.id):
            self.queue.give_back(entry)
            if trouble:
                self._back_off(trouble)
        self._look_at(entry.id)

    def _back_off(self, trouble: str) -> None:
        self.trouble = trouble
        self._backoff = min(max(1.0, 2 * self._backoff), LONGEST_BACKOFF)
        self._start_again_at = time.monotonic() + self._backoff
        log.error("local engine %s: %s Trying again in %g s.", self._settings.resource_id, trouble, self._backoff)

    def _ended(self, snapshot: Snapshot) -> None:
        job_id = snapshot.job.id
        assert snapshot.exit is not None
        entry = self.queue.entries.get(job_id)
        if job_id in self._told or (entry is None and not snapshot.active):
            return
        observation = exit_to_observation(job_id, snapshot.exit)
        if entry is not None:
            completed = observation.state is JobState.COMPLETED
            self.queue.remove(entry, Fate.COMPLETED if completed else Fate.UNSUCCESSFUL)
        self._gone.discard(job_id)
        self._told.add(job_id)
        self._publish(observation)

    # Starting

    def _schedule(self) -> None:
        for entry in self.queue.step(may_start=time.monotonic() >= self._start_again_at):
            self._start(entry)
        changed, self.queue.changed = self.queue.changed, {}
        for entry in changed.values():
            self._publish(observation_of(entry))

    def _start(self, entry: Entry) -> None:
        if entry.id not in self._starting:
            self._starting[entry.id] = asyncio.create_task(self._launch(entry))

    async def _launch(self, entry: Entry) -> None:
        loop = asyncio.get_running_loop()
        try:
            pid = await loop.run_in_executor(self._spawner, self._nursery.start, entry.id, entry.needs)
        except OSError as error:
            await self._withdraw(entry, f"Jobs cannot be started: {error.strerror}.")
        else:
            if pid is None:  # held, canceled or changed meanwhile
                self.queue.give_back(entry)
                self._look_at(entry.id)
            elif not self._watch.watch(entry.id, pid, proc.identity(pid)):
                self._shepherd_gone(entry.id)
        finally:
            del self._starting[entry.id]


def _read_all(spool: Spool, job_ids: Sequence[str]) -> list[Snapshot]:
    return [snapshot for job_id in job_ids if (snapshot := spool.read(job_id)) is not None]


def _end_all(spool: Spool, ends: dict[str, Json]) -> set[str]:
    failed = set()
    for job_id, value in ends.items():
        try:
            spool.end(job_id, Claim.NONE, value)
        except OSError:
            log.exception("job %s cannot be ended", job_id)
            failed.add(job_id)
    return failed


def waiting_since(snapshot: Snapshot) -> datetime:
    """Returns since when a job has been waiting or held, as it is now."""
    changed = snapshot.control.get("hold_time")
    return snapshot.job.submit_time if changed is None else from_nanoseconds(changed)


def observation_of(entry: Entry) -> Observation:
    """Returns how an unfinished job stands."""
    return Observation(
        job_id=entry.id,
        native_id=entry.id,
        state=entry.state,
        time=entry.since,
        reason=entry.reason,
        message=entry.message,
        start_time=entry.since if entry.state is JobState.ACTIVE else None,
    )
