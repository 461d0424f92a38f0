"""Tells of jobs as something happens to them: hints say where to look, and the whole queue is compared from time to
time."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from openfacility_server.jobs.engines import EngineUnavailable, Observation
from openfacility_server.jobs.engines.slurm import fields, observing, states
from openfacility_server.jobs.engines.slurm.afterwards import Afterwards
from openfacility_server.jobs.engines.slurm.controller import Controller
from openfacility_server.jobs.engines.slurm.hints import Hints
from openfacility_server.jobs.engines.slurm.naming import Naming
from openfacility_server.jobs.engines.slurm.queue import Look, Queue, beside
from openfacility_server.jobs.engines.slurm.rows import QueueRow

_log = logging.getLogger(__name__)

# Files are looked at this often: a fraction of what an end may take to be seen, and too little work to be felt.
_POLL_SECONDS = 0.02
# More jobs than this at once: the whole queue costs no more.
MOST_HINTS = 300
# A job whose nodes are being cleaned up is looked at again after this, then ever more rarely.
_CLEANING_SECONDS = 0.025
_MOST_CLEANING_SECONDS = 5.0
_AWAY_SECONDS = 0.5
_OTHERS_TURN = 100
_QUICK_SECONDS = 0.1
_MOST_REST_SECONDS = 1.0


@dataclass(slots=True)
class _Known:
    """What was seen and told of a job in the queue last. ``row`` stands for what the row was."""

    row: int
    submitted: datetime | None
    told: Observation


@dataclass(slots=True)
class Progress:
    """How the following goes, for `health`. ``compared`` is when the whole queue was looked at last."""

    compared: datetime | None = None
    jobs: int = 0
    hints: int = 0


@dataclass(slots=True)
class _Cleaning:
    due: float
    pause: float = _CLEANING_SECONDS


@dataclass(slots=True)
class Follower:
    """Follows one cluster's jobs, from the moment that it is made."""

    queue: Queue
    naming: Naming
    controller: Controller
    afterwards: Afterwards
    hints: Hints
    reconcile: timedelta
    closing: asyncio.Event
    progress: Progress = field(default_factory=Progress)
    _known: dict[str, _Known] = field(default_factory=dict)
    _cleaning: dict[str, _Cleaning] = field(default_factory=dict)
    _compare_at: float = 0.0
    _look_at: float = 0.0

    async def follow(self) -> AsyncIterator[Sequence[Observation]]:
        """Yields what is new, until `closing`; at first all that the queue has. While the controller is away it yields
        nothing.
        """
        finishing = asyncio.create_task(self.afterwards.run())
        closing = asyncio.create_task(self.closing.wait())
        working: asyncio.Task[list[Observation]] | None = None
        try:
            while not closing.done():
                working = asyncio.create_task(self._work())
                await asyncio.wait({working, closing, finishing}, return_when=asyncio.FIRST_COMPLETED)
                if finishing.done():
                    finishing.result()  # it ends by an error only
                if working.done() and (news := working.result()):
                    yield news
        finally:
            tasks = [task for task in (finishing, closing, working) if task is not None]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self.hints.close()

    async def _work(self) -> list[Observation]:
        try:
            return await self._next()
        except EngineUnavailable as error:
            _log.warning("not following: %s", error)
            await self._until_back()
            return []

    async def _until_back(self) -> None:
        """Waits until the controller answers. What happened meanwhile is seen by comparing all."""
        self._compare_at = 0.0
        serving = False
        while not serving:
            await asyncio.sleep(_AWAY_SECONDS)
            serving = (await self.controller.ping(fresh=True)).serving

    async def _next(self) -> list[Observation]:
        """Waits until there is something to look at, looks, and returns what is new."""
        while True:
            hinted = self.hints.poll()
            self.progress.hints = self.hints.count
            if later := self.afterwards.take():
                return [news for news in later if self._is_news_afterwards(news)]
            now = time.monotonic()
            if now >= self._compare_at:
                return await self._compare()
            cleaning = [native_id for native_id, state in self._cleaning.items() if state.due <= now]
            if (hinted or cleaning) and now >= self._look_at:
                return await self._look(cleaning)
            await asyncio.sleep(_POLL_SECONDS)

    async def _look(self, cleaning: Iterable[str]) -> list[Observation]:
        """Looks at the jobs of which there are hints, and at those that are being cleaned up."""
        ids, too_many = self.hints.take()
        ids.update(cleaning)
        if too_many or len(ids) > MOST_HINTS:
            return await self._compare()
        began = time.monotonic()
        look = await self.queue.some(sorted(ids))
        self._rest_after(began)
        present = {row.native_id for row in look.rows}
        for native_id in ids - present:
            self._gone(native_id)
        return await self._take(look)

    async def _compare(self) -> list[Observation]:
        """Compares the whole queue with what was told."""
        self.hints.take()  # answered with everything else
        began = time.monotonic()
        look = await self.queue.all()
        self._compare_at = time.monotonic() + self.reconcile.total_seconds()
        self._rest_after(began)
        present = {row.native_id for row in look.rows}
        for native_id in self._known.keys() - present:
            self._gone(native_id)
        news = await self._take(look)
        await self.naming.forget(look.rows)
        self.progress.compared, self.progress.jobs = look.time, len(look.rows)
        return news

    def _rest_after(self, began: float) -> None:
        """Leaves Slurm half of the time for its other work, where it has so much to tell that this matters."""
        now = time.monotonic()
        took = now - began
        self._look_at = now + min(took, _MOST_REST_SECONDS) if took > _QUICK_SECONDS else now

    async def _take(self, look: Look) -> list[Observation]:
        """Returns what is new in a look at the queue, and remembers it."""
        changed = await beside(look.rows, self._changed_of)
        if not changed:
            return []
        rows = {row.native_id: row for row in changed}
        news: list[Observation] = []
        for place, seen in enumerate(await self.naming.seen(changed, look.time)):
            if place % _OTHERS_TURN == 0:
                await asyncio.sleep(0)
            row = rows.get(seen.native_id)
            if row is None:  # an array as a whole, before its elements
                if any(one.native_id not in self._known for one in changed if one.array == seen.native_id):
                    news.append(seen)
            elif self._is_news(row, seen):
                news.append(seen)
        return news

    def _changed_of(self, rows: Sequence[QueueRow]) -> list[QueueRow]:
        return [row for row in rows if self._changed(row)]

    def _changed(self, row: QueueRow) -> bool:
        if not self.naming.concerns(row):
            return False
        known = self._known.get(row.native_id)
        cleaning = row.state == states.COMPLETING
        return known is None or known.row != hash(row) or (cleaning and not known.told.state.final)

    def _is_news(self, row: QueueRow, seen: Observation) -> bool:
        """Remembers a job as it is seen; returns whether that has to be told."""
        known = self._known.get(row.native_id)
        if known is not None and known.told.job_id != seen.job_id:
            self._gone(row.native_id)  # its number is another job's now
            known = None
        plain = replace(seen, external=None)
        told = known.told if known else plain
        # An end is told once, and what is done with a job after it is no business of ours.
        news = known is None or (not told.state.final and observing.differs(told, plain))
        self._known[row.native_id] = _Known(hash(row), fields.time(row.submitted), plain if news else told)
        self._clean_up(row, seen)
        if news and seen.state.final and row.ran:
            self.afterwards.add_usage(row, plain)
        return news

    def _clean_up(self, row: QueueRow, seen: Observation) -> None:
        if row.state != states.COMPLETING or seen.state.final:
            self._cleaning.pop(row.native_id, None)
            return
        before = self._cleaning.get(row.native_id)
        pause = min(before.pause * 2, _MOST_CLEANING_SECONDS) if before else _CLEANING_SECONDS
        self._cleaning[row.native_id] = _Cleaning(time.monotonic() + pause, pause)

    def _gone(self, native_id: str) -> None:
        """A job has left the queue: forgets it, and has its end looked up where it was not seen."""
        self._cleaning.pop(native_id, None)
        known = self._known.pop(native_id, None)
        if known is not None and not known.told.state.final:
            self.afterwards.add_end(known.told, known.submitted or datetime.now(UTC))

    def _is_news_afterwards(self, seen: Observation) -> bool:
        known = self._known.get(seen.native_id)
        if known is None or known.told.job_id != seen.job_id:
            return True
        # It is in the queue again, or still: that decides.
        return known.told.state == seen.state
