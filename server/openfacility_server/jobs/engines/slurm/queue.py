"""The controller's queue, read with squeue."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from openfacility_server.jobs.engines import EngineUnavailable
from openfacility_server.jobs.engines.slurm import fields
from openfacility_server.jobs.engines.slurm.commands import Commands, Result
from openfacility_server.jobs.engines.slurm.rows import COLUMNS, QueueRow, queue_rows

_log = logging.getLogger(__name__)

# Longer answers are taken apart in a thread, so that nobody else waits for it.
_LONG = 200_000
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

    async def all(self) -> Look:
        """Returns the whole queue as it is after this call. All who ask while a look goes on share the next one.

        Raises EngineUnavailable.
        """
        if self._next is None:
            self._next = asyncio.create_task(self._after(self._running))
            # Whoever asked may be gone by the time that it fails.
            self._next.add_done_callback(lambda done: done.cancelled() or done.exception())
        return await asyncio.shield(self._next)

    async def some(self, native_ids: Sequence[str]) -> Look:
        """Returns some jobs, of an array's number all its elements. Those that are not known are left out.

        One costs the controller little, several as much as all. Raises EngineUnavailable.
        """
        ids = [native_id for native_id in native_ids if _NATIVE_ID.fullmatch(native_id)]
        return await self._ask("-j", ",".join(ids)) if ids else Look(datetime.now(UTC), ())

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
        return await self._ask()

    async def _ask(self, *which: str) -> Look:
        separator = fields.separator()
        columns = ",".join(f"{column}:{separator}" for column in COLUMNS.values())
        time = datetime.now(UTC)
        command = ["squeue", "-r", "-a", "-t", "all", "-h", *which, "-O", columns]
        result = await self._commands.run(command, env={"SLURM_TIME_FORMAT": "%s", "SLURM_BITSTR_LEN": "0"})
        if result.code != 0:
            _look_whether_unknown(result)
        if len(result.out) > _LONG:
            return Look(time, await asyncio.to_thread(queue_rows, result.out, separator))
        return Look(time, queue_rows(result.out, separator))


def _look_whether_unknown(result: Result) -> None:
    if "Invalid job id specified" in result.err:
        return
    _log.warning("squeue failed with %s: %s", result.code, result.err[:1000])
    raise EngineUnavailable("The batch system does not tell its queue.")
