"""What accounting tells of a job after its end: how one ended that has left the queue, and what it used."""

from __future__ import annotations

import asyncio
import heapq
import logging
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from openfacility_server.jobs.engines import EngineUnavailable, JobRef, Observation
from openfacility_server.jobs.engines.slurm import observing
from openfacility_server.jobs.engines.slurm.accounting import Accounting
from openfacility_server.jobs.engines.slurm.ends import Ends
from openfacility_server.jobs.engines.slurm.naming import is_external
from openfacility_server.jobs.engines.slurm.rows import QueueRow, Record

_log = logging.getLogger(__name__)

_USAGE_SECONDS = 3.0
_AGAIN_SECONDS = 0.5
_PAUSE_SECONDS = 1.0
_MOST = 20_000
_BATCH = 200
_TRIES = 5


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What to look up about a job: what a run used, by ``number`` and ``submitted``, else how it ended."""

    seen: Observation
    number: str = ""
    submitted: str = ""
    create_time: datetime | None = None
    tries: int = 0


class Afterwards:
    """Looks jobs up, many at a time. What it cannot hold is dropped: whoever observes a job looks it up again."""

    def __init__(self, accounting: Accounting, ends: Ends) -> None:
        """Nothing is looked up yet."""
        self._accounting = accounting
        self._ends = ends
        self._left: list[_Wanted] = []
        self._waiting: list[tuple[float, int, _Wanted]] = []
        self._found: list[Observation] = []
        self._count = 0
        self._more = asyncio.Event()

    def add_end(self, told: Observation, submitted: datetime) -> None:
        """Looks up how a job ended that has left the queue; ``told`` is how it stood last."""
        if len(self._left) < _MOST:
            self._left.append(_Wanted(told, create_time=submitted))
        self._more.set()

    def add_usage(self, row: QueueRow, told: Observation) -> None:
        """Looks up what a job used whose end has been told."""
        self._later(_Wanted(told, row.number, row.submitted), _USAGE_SECONDS)

    def take(self) -> list[Observation]:
        """Returns what has been found since."""
        found, self._found = self._found, []
        return found

    async def run(self) -> None:
        """Looks up, until cancelled."""
        while True:
            try:
                await self._step()
            except EngineUnavailable as error:
                _log.info("looking up ended jobs later: %s", error)
                await asyncio.sleep(_PAUSE_SECONDS)

    async def _step(self) -> None:
        self._more.clear()
        if self._left:
            batch = self._left[:_BATCH]
            await self._find_ends(batch)
            del self._left[: len(batch)]  # more may have come meanwhile
            return
        wait = self._waiting[0][0] - time.monotonic() if self._waiting else None
        if wait is not None and wait <= 0:
            due = self._due()
            self._left += [one for one in due if not one.number]
            await self._find_usage([one for one in due if one.number])
            if self._left:
                return
            # In between more come together, so that a busy cluster is asked no more often.
            wait = _PAUSE_SECONDS
        try:
            async with asyncio.timeout(wait):
                await self._more.wait()
        except TimeoutError:
            pass

    def _later(self, wanted: _Wanted, seconds: float) -> None:
        if len(self._waiting) >= _MOST:
            return
        self._count += 1
        heapq.heappush(self._waiting, (time.monotonic() + seconds, self._count, wanted))
        if len(self._waiting) == 1:
            self._more.set()

    def _due(self) -> list[_Wanted]:
        now = time.monotonic()
        due: list[_Wanted] = []
        while self._waiting and self._waiting[0][0] <= now and len(due) < _BATCH:
            due.append(heapq.heappop(self._waiting)[2])
        return due

    async def _find_ends(self, wanted: Sequence[_Wanted]) -> None:
        await self._accounting.catch_up()
        now = datetime.now(UTC)
        refs = [_ref(one.seen, one.create_time or now) for one in wanted]
        ends = await self._ends.of(refs, caught_up=True)
        self._found += ends.values()
        self._try_again(one for one in wanted if one.seen.job_id not in ends)

    async def _find_usage(self, due: list[_Wanted]) -> None:
        try:
            records = await self._accounting.runs({one.number for one in due}) if due else []
        except EngineUnavailable:
            self._try_again(due)
            raise
        runs: dict[tuple[str, str], Record] = {
            (record.native_id, record.row.submitted): record for record in records if record.final
        }
        for one in due:
            record = runs.get((one.seen.native_id, one.submitted))
            if record is None:
                self._try_again([one])
            else:
                self._found.append(replace(one.seen, usage=observing.usage(record)))

    def _try_again(self, wanted: Iterable[_Wanted]) -> None:
        for one in wanted:
            if one.tries + 1 < _TRIES and self._accounting.kept:
                self._later(replace(one, tries=one.tries + 1), _AGAIN_SECONDS * 4**one.tries)


def _ref(told: Observation, submitted: datetime) -> JobRef:
    return JobRef(told.job_id, told.owner, told.native_id, submitted, external=is_external(told.job_id))
