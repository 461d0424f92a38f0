"""Which of our jobs is which of Slurm's."""

from __future__ import annotations

import asyncio
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Protocol

from openfacility_server.jobs.engines import EngineUnavailable, JobRef, Observation
from openfacility_server.jobs.engines.slurm import fields, observing, states
from openfacility_server.jobs.engines.slurm.accounting import Accounting
from openfacility_server.jobs.engines.slurm.queue import beside
from openfacility_server.jobs.engines.slurm.rows import QueueRow, Record, our_id

# The controller's clock and ours.
_CLOCKS = timedelta(seconds=60)
_ROUNDED = timedelta(seconds=2)
_EXTERNAL = re.compile(r"s(\d+)t([0-9a-z]+)(?:_(\d+))?")
_MOST_ENDINGS = 400
_ENDINGS_SECONDS = 0.3
_ENDINGS_AGAIN_SECONDS = 0.03

Key = tuple[str, str]
"""A run of a job: its native id, and when it came into the queue."""


class Owners(Protocol):
    """Whose an account of the operating system is."""

    def owner_of(self, user: str) -> str:
        """Returns the user of this service; empty when it is nobody's who may have jobs here."""


def key_of(row: QueueRow) -> Key:
    """Returns what tells a run from all others."""
    return row.native_id, row.submitted


class Naming:
    """Names jobs of the queue, and makes observations of them.

    A job of ours is named by its comment. Whoever writes our comment on a job of theirs is told apart by the owner,
    which is in every observation.
    """

    def __init__(self, owners: Owners, accounting: Accounting, external_jobs: bool) -> None:
        """Without ``external_jobs`` those that came around us are passed over."""
        self._owners = owners
        self._accounting = accounting
        self._external_jobs = external_jobs
        # By number: when it was submitted first, and by whom.
        self._origins: dict[str, tuple[int, str]] = {}
        self._endings: dict[Key, Record] = {}

    async def seen(self, rows: Sequence[QueueRow], now: datetime) -> list[Observation]:
        """Returns observations of jobs in the queue; an array that came around us before its elements."""
        await self.learn(rows)
        await self._learn_endings(rows)
        return await beside(rows, partial(self._observe, now=now))

    def concerns(self, row: QueueRow) -> bool:
        """Whether a job may be anybody's here."""
        return bool(row.our_id) or (self._external_jobs and bool(self._owners.owner_of(row.user)))

    def job_id(self, row: QueueRow) -> str:
        """Returns our id of a job in the queue, for which `seen` has been called."""
        index = row.task if row.is_element else ""
        return row.our_id or observing.external_id(row.array, self._origin(row), index)

    async def forget(self, present: Sequence[QueueRow]) -> None:
        """Drops what was remembered of jobs that are not in the queue any more."""
        keys, numbers = await beside(present, lambda rows: ({key_of(row) for row in rows}, {row.array for row in rows}))
        self._endings = {key: record for key, record in self._endings.items() if key in keys}
        self._origins = {number: origin for number, origin in self._origins.items() if number in numbers}

    def _observe(self, rows: Sequence[QueueRow], *, now: datetime) -> list[Observation]:
        arrays: dict[str, list[QueueRow]] = defaultdict(list)
        found: list[Observation] = []
        for row in rows:
            owner = self._owners.owner_of(row.user)
            if row.our_id:
                found.append(observing.of_row(row, row.our_id, owner, now, self._endings.get(key_of(row))))
            elif self._external_jobs and owner and self._origin(row):
                external = observing.external(row, owner, self._origin(row))
                record = self._endings.get(key_of(row))
                found.append(observing.of_row(row, self.job_id(row), owner, now, record, external))
                if row.is_element:
                    arrays[row.array].append(row)
        whole = [
            observing.external_array(elements, self._owners.owner_of(elements[0].user), self._origin(elements[0]), now)
            for elements in arrays.values()
        ]
        return whole + found

    def _origin(self, row: QueueRow) -> int:
        """Returns when a job from outside was submitted first; 0 where that is not known now."""
        if _first_run(row):
            return fields.number(row.submitted)
        origin, user = self._origins.get(row.array, (0, ""))
        return origin if user == row.user else 0

    async def learn(self, rows: Sequence[QueueRow]) -> None:
        """Finds out when jobs from outside were submitted first, which is what names them: Slurm's time is that of the
        last time that they came into the queue."""
        if not self._external_jobs:
            return
        again = await beside(rows, self._learn_first_runs)
        unknown = [row for row in again.values() if not self._origin(row)]
        if not unknown:
            return
        try:
            records = await self._accounting.runs({row.array for row in unknown}, steps=False)
        except EngineUnavailable:
            return  # they are passed over until it is known which they are
        for row in unknown:
            self._origins[row.array] = _first_submitted(records, row), row.user

    def _learn_first_runs(self, rows: Sequence[QueueRow]) -> dict[str, QueueRow]:
        """Returns those of the jobs from outside that have been put back, by their numbers."""
        again: dict[str, QueueRow] = {}
        for row in rows:
            if not row.our_id and _first_run(row):
                self._origins[row.array] = fields.number(row.submitted), row.user
            elif not row.our_id:
                again[row.array] = row
        return again

    async def _learn_endings(self, rows: Sequence[QueueRow]) -> None:
        """Finds out who canceled jobs, and how those ended whose nodes are being cleaned up, where that is quick."""
        wanted = [row for row in rows if self._ending_unknown(row)][:_MOST_ENDINGS]
        if not wanted:
            return
        try:
            async with asyncio.timeout(_ENDINGS_SECONDS):
                if not await self._look_up_endings(wanted):
                    await asyncio.sleep(_ENDINGS_AGAIN_SECONDS)  # accounting is told a moment later
                    await self._look_up_endings(wanted)
        except (TimeoutError, EngineUnavailable):
            return  # the queue has told that it ended, which is what matters

    async def _look_up_endings(self, wanted: Sequence[QueueRow]) -> bool:
        """Looks up how jobs ended; returns whether there is no more to learn."""
        found = await self._accounting.runs({row.number for row in wanted}, steps=False)
        records = [record for record in found if record.final]
        by_key = {(record.native_id, record.row.submitted): record for record in records}
        rests = {(record.array, record.row.submitted): record for record in records if record.is_rest}
        for row in wanted:
            record = by_key.get(key_of(row)) or rests.get((row.number, row.submitted))
            # A run that may be followed by another is over only when its nodes are free.
            if record is not None and not (row.state == states.COMPLETING and record.state in states.AGAIN):
                self._endings[key_of(row)] = record
        learned = [self._endings.get(key_of(row)) for row in wanted]
        return all(record is not None and record.is_settled for record in learned)

    def _ending_unknown(self, row: QueueRow) -> bool:
        unclear = row.state in (states.CANCELED, states.COMPLETING) and row.reason != states.NEVER_SATISFIED
        return unclear and self.concerns(row) and key_of(row) not in self._endings

    # Jobs that we know, and where they are.

    def row_of(self, ref: JobRef, index: Index) -> QueueRow | None:
        """Returns a job's row; of several with its comment the one with its native id, else the oldest.

        A number of ours that is another job's by now is passed over. For an array see `elements_of`.
        """
        return self._choose(ref, index.by_id.get(ref.id, ()) if not ref.external else index.numbered(ref.native_id))

    def elements_of(self, ref: JobRef, index: Index) -> list[QueueRow]:
        """Returns the rows of an array's elements, where it is the array that is asked for."""
        if not ref.external:
            rows = index.by_array.get(ref.id, ())
            first = self._choose(ref, rows)
            return [row for row in rows if first is not None and row.array == first.array]
        rows = index.numbered(ref.native_id + "_")
        return [row for row in rows if observing.external_id(row.array, self._origin(row)) == ref.id]

    def _choose(self, ref: JobRef, rows: Iterable[QueueRow]) -> QueueRow | None:
        mine = [row for row in rows if self._is(ref, row)]
        wanted = ref.native_id.partition("_")[0]
        mine.sort(key=lambda row: (row.array != wanted, fields.number(row.submitted), fields.number(row.array)))
        return mine[0] if mine else None

    def _is(self, ref: JobRef, row: QueueRow) -> bool:
        if ref.external:
            return not row.our_id and self.job_id(row) == ref.id
        submitted = fields.time(row.submitted)
        recent = submitted is not None and submitted >= ref.create_time - _CLOCKS
        return recent and self._owners.owner_of(row.user) == ref.owner

    def run_of(self, ref: JobRef, records: Sequence[Record]) -> Record | None:
        """Returns the last run of a job or an element that the queue does not have, by the records of its number; None
        when none of them is known to be it."""
        mine = [record for record in records if record.native_id == ref.native_id and self._owns(ref, record)]
        last = _last_run(mine, self._start(ref))
        return last if last is not None and last.final else None

    def end_of(
        self,
        ref: JobRef,
        records: Sequence[Record],
        now: datetime,
        *,
        array_in_queue: bool = False,
        caught_up: bool = True,
    ) -> Observation | None:
        """Returns how a job that the queue does not have ended, by the records of its number; None when that is not
        known.

        ``array_in_queue``: the queue has others of its array, or the array itself; ``caught_up``: accounting has been
        told everything.
        """
        number, _, index = ref.native_id.partition("_")
        mine = [record for record in records if record.array == number and self._owns(ref, record)]
        if not index and any(record.native_id != number for record in mine):
            return self._end_of_array(ref, mine, now)
        last = _last_run([record for record in mine if record.native_id == ref.native_id], self._start(ref))
        if last is not None:
            return observing.of_record(last, ref.id, ref.native_id, ref.owner, now)
        if not index:
            return None
        rests = [record for record in mine if record.is_rest and record.may_cover(int(index))]
        # What accounting takes to be waiting is not always so: the queue knows better.
        rests = [record for record in rests if record.final or not array_in_queue]
        if rests:
            return observing.of_record(rests[-1], ref.id, ref.native_id, ref.owner, now)
        if not caught_up or not (mine or array_in_queue):
            return None
        # Slurm keeps nothing of an element that was canceled by itself before it started.
        return observing.canceled_unseen(ref.id, ref.native_id, ref.owner, now)

    def is_array_of(self, ref: JobRef, row: QueueRow) -> bool:
        """Whether a row is of the array that a job is an element of."""
        if self._owners.owner_of(row.user) != ref.owner:
            return False
        if ref.external:
            return not row.our_id and fields.number(row.submitted) >= _origin_in(ref.id)
        return our_id(row.comment) == ref.id.partition("_")[0]

    def _end_of_array(self, ref: JobRef, mine: Sequence[Record], now: datetime) -> Observation | None:
        last = {record.native_id: record for record in mine}
        ends = [observing.of_record(record, ref.id, ref.native_id, ref.owner, now) for record in last.values()]
        known = [end for end in ends if end is not None]
        return observing.of_elements(known, ref.id, ref.native_id) if len(known) == len(ends) else None

    def _owns(self, ref: JobRef, record: Record) -> bool:
        if self._owners.owner_of(record.row.user) != ref.owner:
            return False
        named = our_id(record.row.comment)
        if ref.external:
            return not named and fields.number(record.row.submitted) >= _origin_in(ref.id)
        # Accounting may keep no comments, and has none before the job has ended.
        if named:
            return named == ref.id.partition("_")[0]
        submitted = record.submitted
        return submitted is not None and submitted >= ref.create_time - _ROUNDED

    def _start(self, ref: JobRef) -> datetime | None:
        return fields.time(str(_origin_in(ref.id))) if ref.external else ref.create_time


@dataclass(frozen=True, slots=True)
class Index:
    """A look at the queue, by our ids, by those of our arrays, and by Slurm's numbers."""

    by_id: Mapping[str, Sequence[QueueRow]]
    by_array: Mapping[str, Sequence[QueueRow]]
    by_number: Mapping[str, Sequence[QueueRow]]

    @staticmethod
    def of(rows: Iterable[QueueRow]) -> Index:
        """Returns the index of rows."""
        by_id: dict[str, list[QueueRow]] = defaultdict(list)
        by_array: dict[str, list[QueueRow]] = defaultdict(list)
        by_number: dict[str, list[QueueRow]] = defaultdict(list)
        for row in rows:
            job_id = row.our_id
            if job_id:
                by_id[job_id].append(row)
            if job_id and row.is_element:
                by_array[our_id(row.comment)].append(row)
            by_number[row.native_id].append(row)
            if row.is_element:
                by_number[f"{row.array}_"].append(row)
        return Index(by_id, by_array, by_number)

    def numbered(self, native_id: str) -> Sequence[QueueRow]:
        """Returns the rows with a native id; with ``7_`` all elements of an array."""
        return self.by_number.get(native_id, ())


def is_external(job_id: str) -> bool:
    """Whether an id is one of those that we give to jobs from outside."""
    return _EXTERNAL.fullmatch(job_id) is not None


def _first_run(row: QueueRow) -> bool:
    return row.restarts in ("0", "N/A", "")


def _origin_in(job_id: str) -> int:
    found = _EXTERNAL.fullmatch(job_id)
    return int(found[2], 36) if found else 0


def _first_submitted(records: Sequence[Record], row: QueueRow) -> int:
    """Returns when a job that was put back was submitted first, by its earlier runs."""
    first = fields.number(row.submitted)
    runs = [record for record in records if record.array == row.array and record.row.user == row.user]
    for record in reversed(runs):
        submitted = fields.number(record.row.submitted)
        if submitted < first and record.state not in states.AGAIN:
            break
        first = min(first, submitted)
    return first


def _last_run(runs: Sequence[Record], start: datetime | None) -> Record | None:
    """Returns the last run of the job that came into the queue at ``start`` or next to it.

    Another job's may follow: numbers are given again.
    """
    if not runs:
        return None
    last = min(range(len(runs)), key=lambda place: _distance(runs[place], start))
    while last + 1 < len(runs) and runs[last].state in states.AGAIN:
        last += 1
    return runs[last]


def _distance(record: Record, start: datetime | None) -> timedelta:
    submitted = record.submitted
    return abs(submitted - start) if submitted is not None and start is not None else timedelta.max
