"""Reading what a job writes, while it writes it."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from openfacility_server.errors import NotFound, OutOfRange

_PIECE = 256 * 1024
# A growing file tells nobody: look often at first, then less so while nothing comes.
_FIRST_PAUSE_SECONDS = 0.05
_LONGEST_PAUSE_SECONDS = 0.5
# Proxies end streams that are silent for long.
_LONGEST_SILENCE_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Piece:
    """Some bytes of the output and where they begin; ``end`` says that no more will come."""

    data: bytes
    offset: int
    end: bool = False


class Output:
    """One output file of one job: opened once it is there, and kept open."""

    def __init__(self, job_id: str, open_: Callable[[], Coroutine[Any, Any, int | None]]) -> None:
        """``open_`` returns a descriptor for reading, None while there is no file; it may raise FileNotFoundError."""
        self._job_id = job_id
        self._open = open_
        self._descriptor: int | None = None

    async def size(self) -> int:
        """Returns how long it is, 0 while there is none. Raises NotFound when it has been removed."""
        if self._descriptor is None:
            try:
                self._descriptor = await self._open()
            except FileNotFoundError as error:
                raise self._gone() from error
        if self._descriptor is None:
            return 0
        found = await asyncio.to_thread(os.fstat, self._descriptor)
        if not found.st_nlink:
            raise self._gone()
        return found.st_size

    async def read(self, offset: int, count: int) -> bytes:
        """Returns bytes from an offset on; none at the end. Raises NotFound when it cannot be read."""
        if self._descriptor is None:
            return b""
        try:
            return await asyncio.to_thread(os.pread, self._descriptor, count, offset)
        except OSError as error:
            raise self._gone() from error

    def _gone(self) -> NotFound:
        return NotFound("output of job", self._job_id)

    def close(self) -> None:
        """Lets go of the file."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)


async def read_output(
    job_id: str,
    offset: int,
    follow: bool,
    output: Output,
    ended: Callable[[], Coroutine[Any, Any, bool]],
) -> AsyncIterator[Piece]:
    """Yields a job's output from ``offset`` (negative: from the end) on, last a piece with ``end``.

    While nothing is written, an empty piece comes from time to time. ``ended`` returns whether the job has.

    Raises NotFound when the file has been removed, OutOfRange when the offset is beyond the end of a finished job's
    output.
    """
    pause, spoken = _FIRST_PAUSE_SECONDS, time.monotonic()
    limit: int | None = None
    while True:
        # In this order: what was written before the end was seen is read after it.
        over = await ended()
        size = await output.size()
        if not follow:
            # The present end is the one there was at first, however fast the job writes.
            limit = size = size if limit is None else min(limit, size)
        if offset < 0:
            offset = max(0, size + offset)
        if over and offset > size:
            text = f"the output of job {job_id} ends at byte {size}"
            raise OutOfRange("OFFSET_BEYOND_END", text, {"job_id": job_id, "size": str(size)})
        if size > offset:
            pause, spoken = _FIRST_PAUSE_SECONDS, time.monotonic()
            while offset < size and (data := await output.read(offset, min(_PIECE, size - offset))):
                yield Piece(data, offset)
                offset += len(data)
            continue
        if over or not follow:
            yield Piece(b"", min(offset, size), end=True)
            return
        if time.monotonic() - spoken > _LONGEST_SILENCE_SECONDS:
            spoken = time.monotonic()
            yield Piece(b"", offset)
        await asyncio.sleep(pause)
        pause = min(pause * 1.5, _LONGEST_PAUSE_SECONDS)
