"""Files that tell of which jobs something has happened: only a reason to look, never what is so.

One is written by the Lua scripts of deploy/slurm, the other is slurmctld's log.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from openfacility_server.jobs.engines.slurm.rows import expand

_log = logging.getLogger(__name__)

_PIECE = 256 * 1024
_MOST_AT_ONCE = 1024 * 1024
_LONGEST_LINE = 64 * 1024
_LARGEST_NUMBER = 2**32
# 7, 7_3, 7_3(12), 7_[1-5,9]; "7_*" is an array as a whole.
_LOGGED = re.compile(rb"\bJobId=(\d{1,10})(?!\d)(?:_(?:(\d{1,9})|\[([\d,:-]{1,4000})(?:%\d+)?\]))?")


class Tail:
    """Reads what is appended to a file, which may be missing, truncated, or replaced by another of its name."""

    def __init__(self, path: Path) -> None:
        """What is in the file now is passed over."""
        self._path = path
        self._fd: int | None = None
        self._offset = 0
        self._rest = b""
        self._failed = 0
        self._open(at_end=True)

    def read(self) -> tuple[list[bytes], bool]:
        """Returns the complete lines that are new, and whether some were passed over since they were too many."""
        lines: list[bytes] = []
        missed = False
        if self._fd is not None:
            lines, missed = self._read_on()
        if self._replaced():
            self.close()
            self._open(at_end=False)
            more, missed_more = self._read_on() if self._fd is not None else ([], False)
            lines, missed = lines + more, missed or missed_more
        return lines, missed

    def close(self) -> None:
        """Lets go of the file."""
        if self._fd is not None:
            os.close(self._fd)
        self._fd, self._offset, self._rest = None, 0, b""

    def _open(self, *, at_end: bool) -> None:
        try:
            self._fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
        except OSError as error:
            if error.errno != self._failed:
                self._failed = error.errno or 0
                # There may be none yet: the first event makes it.
                level = logging.INFO if error.errno == errno.ENOENT else logging.WARNING
                _log.log(level, "no hints from %s: %s", self._path.name, error.strerror)
            return
        self._failed = 0
        self._offset = os.fstat(self._fd).st_size if at_end else 0

    def _replaced(self) -> bool:
        try:
            now = self._path.stat()
        except OSError:
            return False  # being rotated: the old one is read on until there is a new one
        if self._fd is None:
            return True
        mine = os.fstat(self._fd)
        return (now.st_dev, now.st_ino) != (mine.st_dev, mine.st_ino)

    def _read_on(self) -> tuple[list[bytes], bool]:
        assert self._fd is not None
        size = os.fstat(self._fd).st_size
        if size < self._offset:
            self._offset, self._rest = 0, b""
        missed = size - self._offset > _MOST_AT_ONCE
        if missed:
            self._offset, self._rest = size, b""
        pieces = [self._rest]
        with suppress(OSError):
            while piece := os.pread(self._fd, _PIECE, self._offset):
                self._offset += len(piece)
                pieces.append(piece)
                if len(pieces) * _PIECE > _MOST_AT_ONCE:
                    break
        *lines, self._rest = b"".join(pieces).split(b"\n")
        if len(self._rest) > _LONGEST_LINE:
            self._rest = b""
        return lines, missed


def of_event(line: bytes) -> Iterable[str]:
    """Returns the jobs that a line of the Lua scripts is about, as `QueueRow.native_id` or an array's number."""
    if not line.startswith(b"{") or len(line) > _LONGEST_LINE:
        return ()
    try:
        event = json.loads(line)
    except (ValueError, RecursionError):
        return ()
    if not isinstance(event, dict):
        return ()
    job, array, index = (event.get(key) for key in ("job_id", "array_job_id", "array_task_id"))
    if _is_number(array) and _is_number(index):
        return (f"{array}_{index}",)
    return (str(job),) if _is_number(job) and job else ()


def of_log(line: bytes) -> Iterable[str]:
    """Returns the jobs that a line of slurmctld's log is about, as `of_event` does."""
    found = _LOGGED.search(line)
    if found is None:
        return ()
    number = found[1].decode()
    if found[2]:
        return (f"{number}_{found[2].decode()}",)
    if found[3]:
        return [f"{number}_{index}" for index in expand(found[3].decode())]
    return (number,)


def _is_number(value: object) -> bool:
    return type(value) is int and 0 <= value < _LARGEST_NUMBER


class Hints:
    """The jobs to look at. ``count`` is how many were told of in all."""

    def __init__(self, events: Path | None, controller_log: Path | None, most: int) -> None:
        """More than ``most`` jobs at one time are `too_many`: it takes a look at all."""
        self._files: list[tuple[Tail, Callable[[bytes], Iterable[str]]]] = []
        if events is not None:
            self._files.append((Tail(events), of_event))
        if controller_log is not None:
            self._files.append((Tail(controller_log), of_log))
        self._most = most
        self._ids: set[str] = set()
        self.too_many = False
        self.count = 0

    @property
    def any_files(self) -> bool:
        """Whether there is anything to read."""
        return bool(self._files)

    def poll(self) -> bool:
        """Reads what is new; returns whether there is anything to look at."""
        for tail, parse in self._files:
            lines, missed = tail.read()
            self.too_many |= missed
            for line in lines:
                self._add(parse(line))
        return self.too_many or bool(self._ids)

    def _add(self, ids: Iterable[str]) -> None:
        for native_id in ids:
            self.count += 1
            self._ids.add(native_id)
        if len(self._ids) > self._most:
            self._ids.clear()
            self.too_many = True

    def take(self) -> tuple[set[str], bool]:
        """Returns the jobs to look at, or that there are too many; they are not returned again."""
        ids, too_many = self._ids, self.too_many
        self._ids, self.too_many = set(), False
        return ids, too_many

    def close(self) -> None:
        """Lets go of the files."""
        for tail, _ in self._files:
            tail.close()
