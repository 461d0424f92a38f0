"""Jobs that the controller has forgotten, read with sacct."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import TypeVar

from openfacility_server.jobs.engines import EngineUnavailable
from openfacility_server.jobs.engines.slurm import fields
from openfacility_server.jobs.engines.slurm.commands import Commands
from openfacility_server.jobs.engines.slurm.rows import ACCOUNT_COLUMNS, AccountRow, Record, records

_T = TypeVar("_T")
_log = logging.getLogger(__name__)

_CHUNK = 200
_LONG = 100_000
_SLOWER = 2.5
_NUMBER = re.compile(r"\d{1,10}")
_USER = re.compile(r"[^\s,\x00-\x1f-][^\s,\x00-\x1f]{0,255}")
# With states named, a window of time also finds jobs that were never eligible to start: those held, and canceled then.
_STATES = "PD,R,S,RQ,RS,CD,CA,F,TO,NF,OOM,DL,BF,PR,RV"
_BEHIND = re.compile(r"DBD Agent queue size:\s*(\d+)")
_CATCH_UP_SECONDS = 0.2
_CATCH_UP_TIMES = 6


class Accounting:
    """Asks the accounting database of the cluster, if it has one."""

    def __init__(self, commands: Commands, timeout_seconds: float) -> None:
        """``timeout_seconds`` of one request to the controller: the database may take longer."""
        self._commands = commands
        self._timeout = timeout_seconds * _SLOWER
        self.kept = True

    async def runs(self, numbers: Iterable[str], steps: bool = True) -> list[Record]:
        """Returns all runs of jobs, oldest first; by an array's number of all its elements.

        Numbers are given again after a controller lost its memory: look whose they are. ``steps`` False leaves out the
        memory used. Raises EngineUnavailable.
        """
        wanted = sorted({number for number in numbers if _NUMBER.fullmatch(number)})
        found: list[Record] = []
        for start in range(0, len(wanted), _CHUNK):
            which = ["-a", "-j", ",".join(wanted[start : start + _CHUNK])]
            found += await self._ask(which if steps else ["-X", *which])
        return found

    async def of_user(self, user: str, since: datetime) -> list[Record]:
        """Returns all runs of an account's jobs that were in the queue or ran after a time, oldest first.

        Raises EngineUnavailable.
        """
        if not _USER.fullmatch(user):
            return []
        window = ["-S", f"uts{int(since.timestamp())}", "-E", "now", "-s", _STATES]
        return await self._ask(["-X", "-u", user, *window])

    async def ended(self, since: datetime, words: str, more: str) -> list[tuple[Record, Sequence[str]]]:
        """Returns the runs of everybody's jobs that ended in one of some states after a time, in the order of their
        submission; each with further columns. Raises EngineUnavailable.
        """
        which = ["-X", "-a", "-S", f"uts{int(since.timestamp())}", "-E", "now", "-s", words]
        width = len(AccountRow._fields)

        def read(text: str, separator: str) -> list[tuple[Record, Sequence[str]]]:
            rows = fields.table(text, separator, width + len(more.split(",")))
            return [(Record(AccountRow._make(row[:width])), row[width:]) for row in rows]

        found = await self._read(which, f"{ACCOUNT_COLUMNS},{more}", read)
        return sorted(found, key=lambda one: _order(one[0]))

    async def catch_up(self) -> None:
        """Returns when the controller has told accounting everything up to now.

        What it has forgotten and accounting does not know is lost only then. Raises EngineUnavailable.
        """
        for _ in range(_CATCH_UP_TIMES):
            result = await self._commands.run(["sdiag"])
            behind = _BEHIND.search(result.out)
            if behind is None or behind[1] == "0":
                return
            await asyncio.sleep(_CATCH_UP_SECONDS)
        raise EngineUnavailable("The batch system's accounting is behind.")

    async def _ask(self, which: Sequence[str]) -> list[Record]:
        return sorted(await self._read(which, ACCOUNT_COLUMNS, records), key=_order)

    async def _read(self, which: Sequence[str], columns: str, read: Callable[[str, str], list[_T]]) -> list[_T]:
        separator = fields.separator()
        command = ["sacct", "-D", "-n", "-p", "--noconvert", f"--delimiter={separator}", *which, "-o", columns]
        env = {"SLURM_TIME_FORMAT": "%s", "SLURM_BITSTR_LEN": "0"}
        result = await self._commands.run(command, env=env, timeout=self._timeout)
        if result.code != 0:
            self._look_whether_kept(result.err)
            return []
        self.kept = True
        if len(result.out) > _LONG:
            return await asyncio.to_thread(read, result.out, separator)
        return read(result.out, separator)

    def _look_whether_kept(self, err: str) -> None:
        if "accounting storage is disabled" in err.lower():
            self.kept = False
            return
        _log.warning("sacct failed: %s", err[:1000])
        raise EngineUnavailable("The batch system's accounting does not answer.")


def _order(record: Record) -> tuple[int, int]:
    return fields.number(record.row.submitted), fields.number(record.row.started)
