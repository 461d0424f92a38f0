"""How jobs stand on a Slurm cluster: by the queue, by accounting, and as it happens."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from openfacility_server.jobs.engines import EngineHealth, EngineJob, EngineUnavailable, JobRef, Observation
from openfacility_server.jobs.engines.slurm import fields, observing
from openfacility_server.jobs.engines.slurm.accounting import Accounting
from openfacility_server.jobs.engines.slurm.afterwards import Afterwards
from openfacility_server.jobs.engines.slurm.commands import Commands
from openfacility_server.jobs.engines.slurm.controller import Controller
from openfacility_server.jobs.engines.slurm.ends import Ends
from openfacility_server.jobs.engines.slurm.follow import MOST_HINTS, Follower, Progress
from openfacility_server.jobs.engines.slurm.hints import Hints
from openfacility_server.jobs.engines.slurm.history import History
from openfacility_server.jobs.engines.slurm.identity import Identity
from openfacility_server.jobs.engines.slurm.naming import Index, Naming
from openfacility_server.jobs.engines.slurm.queue import Look, Queue, beside
from openfacility_server.jobs.engines.slurm.rows import QueueRow, Record, our_id
from openfacility_server.jobs.engines.slurm.settings import SlurmSettings

_FEW = 50
_BEFORE = timedelta(minutes=1)


class Seeing:
    """Sees the jobs of one cluster. For one event loop."""

    def __init__(self, settings: SlurmSettings, commands: Commands, identity: Identity) -> None:
        """Nothing is asked yet."""
        self._settings = settings
        self._identity = identity
        self._queue = Queue(commands)
        self._accounting = Accounting(commands, settings.timeout.total_seconds())
        self._controller = Controller(commands)
        self._naming = Naming(identity, self._accounting, settings.external_jobs)
        self._ending = Ends(self._queue, self._accounting, self._naming)
        self._history = History(settings, self._accounting, identity)
        self._progress = Progress()
        self._closing = asyncio.Event()
        # Those who share a look share what is made of it.
        self._all: tuple[Look, asyncio.Task[list[Observation]]] | None = None

    async def close(self) -> None:
        """Ends the following, and what is being asked."""
        self._closing.set()
        await self._queue.close()
        await self._controller.close()

    async def observe(self, refs: Sequence[JobRef]) -> Sequence[Observation]:
        """Returns how jobs stand after this call; those that are neither in the queue nor have ended are left out.

        Raises EngineUnavailable, also when it takes accounting to tell and that does not answer.
        """
        if not refs:
            return []
        look = await self._look(refs)
        chosen = await self._choose(refs, look)
        rows = {row.native_id: row for rows in chosen.values() for row in rows}
        seen = {one.native_id: one for one in await self._naming.seen(list(rows.values()), look.time)}
        found: list[Observation] = []
        missing: list[JobRef] = []
        for ref in refs:
            parts = [seen[row.native_id] for row in chosen[ref.id] if row.native_id in seen]
            if not parts:
                missing.append(ref)
            elif parts[0].job_id == ref.id:
                found.append(parts[0])
            else:
                found.append(observing.of_elements(parts, ref.id, parts[0].native_id.partition("_")[0]))
        return [*found, *(await self._ended(missing) if missing else ())]

    async def standing(self, refs: Sequence[JobRef]) -> Mapping[str, Sequence[QueueRow]]:
        """Returns the rows that jobs have in the queue after this call, of an array those of its elements, by our ids.

        Raises EngineUnavailable.
        """
        return await self._choose(refs, await self._look(refs)) if refs else {}

    async def last_run(self, ref: JobRef) -> Record | None:
        """Returns accounting's record of a job or an element that the queue does not have; None when it has none.

        Raises EngineUnavailable.
        """
        records = await self._accounting.runs([ref.native_id.partition("_")[0]], steps=False)
        return self._naming.run_of(ref, records)

    async def _choose(self, refs: Sequence[JobRef], look: Look) -> dict[str, list[QueueRow]]:
        """Returns the row of each job, of an array those of its elements, by our ids."""
        await self._naming.learn(look.rows)
        index = await beside(look.rows, Index.of)
        chosen: dict[str, list[QueueRow]] = {}
        for ref in refs:
            row = self._naming.row_of(ref, index)
            chosen[ref.id] = [row] if row is not None else self._naming.elements_of(ref, index)
        return chosen

    async def observe_all(self) -> Sequence[Observation]:
        """Returns how all jobs stand that are in the queue after this call. Raises EngineUnavailable."""
        look = await self._queue.all()
        if self._all is None or self._all[0] is not look:
            self._all = look, asyncio.create_task(self._naming.seen(look.rows, look.time))
            self._all[1].add_done_callback(self._drop_all)
        return await asyncio.shield(self._all[1])

    def _drop_all(self, done: asyncio.Task[list[Observation]]) -> None:
        if self._all is not None and self._all[1] is done:
            self._all = None

    async def find(self, jobs: Sequence[JobRef | EngineJob]) -> Mapping[str, tuple[str, ...]]:
        """Returns the native ids of all that Slurm has with a job's comment, oldest first; of an array its number. Jobs
        that it has none of are left out.

        Accounting knows comments of jobs that have ended only, the queue all others. Raises EngineUnavailable.
        """
        look = await self._queue.all()
        found: dict[str, dict[str, int]] = defaultdict(dict)
        owners = {job.id: job for job in jobs}
        for row in look.rows:
            job = owners.get(our_id(row.comment))
            if job is not None and self._is_owners(row.user, row.submitted, job):
                found[job.id][row.array] = fields.number(row.submitted)
        for job_id, record in await self._in_accounting([job for job in jobs if job.id not in found]):
            found[job_id].setdefault(record.array, fields.number(record.row.submitted))
        return {job_id: tuple(sorted(numbers, key=lambda n: (numbers[n], int(n)))) for job_id, numbers in found.items()}

    async def missed(self, since: datetime) -> Sequence[Observation]:
        """Returns how jobs from outside ended after a time, an array before its elements. Raises EngineUnavailable."""
        ended = await self._history.since(since)
        if not ended:
            return []
        # What is in the queue, still or again, is told by that.
        standing = {row.native_id for row in (await self._queue.all()).rows}
        return [one for one in ended if one.native_id not in standing]

    async def follow(self) -> AsyncIterator[Sequence[Observation]]:
        """Yields what changes until `close`, at first all that the queue has; waits while the controller is away."""
        hints = Hints(self._settings.events, self._settings.controller_log, MOST_HINTS)
        follower = Follower(
            self._queue,
            self._naming,
            self._controller,
            Afterwards(self._accounting, self._ending),
            hints,
            self._settings.reconcile,
            self._closing,
            self._progress,
        )
        async for news in follower.follow():
            yield news

    async def health(self) -> EngineHealth:
        """Tells whether the controller answers, within 2 s, and how the following goes."""
        answer = await self._controller.ping()
        details = {"jobs_in_queue": str(self._progress.jobs), "hints_seen": str(self._progress.hints)}
        if self._progress.compared is not None:
            age = (datetime.now(UTC) - self._progress.compared).total_seconds()
            details["last_comparison_age_seconds"] = f"{age:.1f}"
        if answer.serving:
            with suppress(EngineUnavailable):
                settings = await self._controller.settings()
                details["slurm_version"] = settings.get("SLURM_VERSION", "")
                stores = "job_comment" in settings.get("AccountingStoreFlags", "")
                details["accounting_stores_comments"] = str(stores and self._accounting.kept).lower()
        return replace(answer, details=details)

    async def _look(self, refs: Sequence[JobRef]) -> Look:
        if len(refs) > _FEW or not all(ref.native_id for ref in refs):
            return await self._queue.all()
        return await self._queue.some([ref.native_id for ref in refs])

    async def _ended(self, refs: Sequence[JobRef]) -> list[Observation]:
        """Returns how jobs ended that the queue does not have."""
        ends = await self._ends(refs, caught_up=False)
        unknown = [ref for ref in refs if ref.id not in ends]
        if unknown:
            # Before a job is given up accounting must have been told everything.
            await self._accounting.catch_up()
            ends |= await self._ends(unknown, caught_up=True)
        return list(ends.values())

    async def _ends(self, refs: Sequence[JobRef], *, caught_up: bool) -> dict[str, Observation]:
        known = [ref for ref in refs if ref.native_id]
        unknown = {ref.id: ref for ref in refs if not ref.native_id}
        commented = await self._in_accounting(list(unknown.values()))
        for job_id, record in commented:
            index = job_id.partition("_")[2]
            native_id = f"{record.array}_{index}" if index else record.array
            known.append(replace(unknown[job_id], native_id=native_id))
        return dict(await self._ending.of(known, caught_up=caught_up))

    async def _in_accounting(self, jobs: Sequence[JobRef | EngineJob]) -> list[tuple[str, Record]]:
        """Returns what accounting has with the jobs' comments, oldest first, each with our id."""
        by_user: dict[str, dict[str, JobRef | EngineJob]] = defaultdict(dict)
        for job in jobs:
            if user := self._identity.account_name(job.owner):
                by_user[user][job.id] = job
        found: list[tuple[str, Record]] = []
        for user, wanted in by_user.items():
            oldest = min(job.create_time for job in wanted.values())
            since = max(oldest - _BEFORE, datetime.now(UTC) - self._settings.history)
            for record in await self._accounting.of_user(user, since):
                names = {record.our_id, our_id(record.row.comment)} & wanted.keys()
                submitted = record.row.submitted
                found += [(name, record) for name in names if self._is_owners(user, submitted, wanted[name])]
        return found

    def _is_owners(self, user: str, submitted: str, job: JobRef | EngineJob) -> bool:
        at = fields.time(submitted)
        recent = at is not None and at >= job.create_time - _BEFORE
        return recent and self._identity.owner_of(user) == job.owner
