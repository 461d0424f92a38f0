"""The controller's queue, read with squeue."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeVar

from openfacility_server.jobs.engines import EngineUnavailable
from openfacility_server.jobs.engines.slurm import fields
from openfacility_server.jobs.engines.slurm.commands import Commands, Result
from openfacility_server.jobs.engines.slurm.rows import COLUMNS, QueueRow, queue_rows

_log = logging.getLogger(__name__)

# What would keep everybody else waiting is done in a thread.
_LONG = 100_000
_MANY = 300
# So many jobs are asked for one by one in a queue of at least this size.
_SINGLY = 3
_LARGE = 500
_T = TypeVar("_T")
_NATIVE_ID = re.compile(r"\d{1,10}(_\d{1,9})?")


@dataclass(frozen=True, slots=True)
class Look:
    """What the queue had in it after ``time``."""

    time: datetime
    rows: Sequence[QueueRow]


class Queue:
    """Asks the controller. Jobs that have ended are in its answers for some minutes (MinJobAge)."""

    def __init__(self, commands: Commands) -> None:
        """Nothing is asked yet."""
        self._commands = commands
        self._running: asyncio.Task[Look] | None = None
        self._next: asyncio.Task[Look] | None = None
        self._size = 0

    async def all(self) -> Look:
        """Returns the whole queue as it is after this call. All who ask while a look goes on share the next one.

        Raises EngineUnavailable.
        """
        if self._next is None:
            self._next = asyncio.create_task(self._after(self._running))
            # Whoever asked may be gone by the time that it fails.
            self._next.add_done_callback(lambda done: done.cancelled() or done.exception())
        asked = self._next
        try:
            return await asyncio.shield(asked)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if asked.cancelled() and not (task and task.cancelling()):  # by `close`
                raise EngineUnavailable("This server is stopping.") from None
            raise

    async def some(self, native_ids: Sequence[str]) -> Look:
        """Returns some jobs, of an array's number all its elements. Those that are not known are left out.

        Raises EngineUnavailable.
        """
        ids = [native_id for native_id in native_ids if _NATIVE_ID.fullmatch(native_id)]
        if not ids:
            return Look(datetime.now(UTC), ())
        # Asked for one job the controller sends that one, asked for several it sends all of its queue.
        if self._size < _LARGE or len(ids) > _SINGLY:
            return await self._ask("-j", ",".join(ids))
        looks = await asyncio.gather(*(self._ask("-j", native_id) for native_id in ids))
        rows = {(row.number, row.task): row for look in looks for row in look.rows}
        return Look(min(look.time for look in looks), list(rows.values()))

    async def close(self) -> None:
        """Ends what is being asked."""
        tasks = [task for task in (self._running, self._next) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _after(self, before: asyncio.Task[Look] | None) -> Look:
        if before is not None:
            await asyncio.wait([before])
        self._running, self._next = self._next, None
        look = await self._ask()
        self._size = len(look.rows)
        return look

    async def _ask(self, *which: str) -> Look:
        separator = fields.separator()
        columns = ",".join(f"{column}:{separator}" for column in COLUMNS.values())
        time = datetime.now(UTC)
        command = ["squeue", "-r", "-a", "-t", "all", "-h", *which, "-O", columns]
        result = await self._commands.run(command, env={"SLURM_TIME_FORMAT": "%s", "SLURM_BITSTR_LEN": "0"})
        _look_whether_told(result)
        if len(result.out) > _LONG:
            return Look(time, await asyncio.to_thread(queue_rows, result.out, separator))
        return Look(time, queue_rows(result.out, separator))


async def beside(rows: Sequence[QueueRow], work: Callable[[Sequence[QueueRow]], _T]) -> _T:
    """Does something with rows; with many of them, beside the event loop."""
    return await asyncio.to_thread(work, rows) if len(rows) > _MANY else work(rows)


def _look_whether_told(result: Result) -> None:
    if "Invalid job format" in result.err:  # it leaves the column out, and goes on
        _log.error("this squeue does not have all columns: %s", result.err[:1000])
        raise EngineUnavailable("This server does not understand this version of Slurm.")
    if result.code != 0 and "Invalid job id specified" not in result.err:
        _log.warning("squeue failed with %s: %s", result.code, result.err[:1000])
        raise EngineUnavailable("The batch system does not tell its queue.")
