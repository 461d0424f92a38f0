"""Reading what a job writes, while it writes it."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
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


async def read_output(
    job_id: str,
    offset: int,
    follow: bool,
    locate: Callable[[], Coroutine[Any, Any, Path | None]],
    ended: Callable[[], Coroutine[Any, Any, bool]],
) -> AsyncIterator[Piece]:
    """Yields a job's output from ``offset`` (negative: from the end) on, last a piece with ``end``.

    While nothing is written, an empty piece comes from time to time.

    ``locate`` returns the file, None while there is none; ``ended`` whether the job has. Raises NotFound when the file
    has been removed, OutOfRange when the offset is beyond the end of a finished job's output.
    """
    pause, spoken = _FIRST_PAUSE_SECONDS, time.monotonic()
    limit: int | None = None
    while True:
        # In this order: what was written before the end was seen is read after it.
        over = await ended()
        path = await locate()
        size = await asyncio.to_thread(_size, path, job_id) if path else 0
        if not follow:
            # The present end is the one there was at first, however fast the job writes.
            limit = size = size if limit is None else min(limit, size)
        if offset < 0:
            offset = max(0, size + offset)
        if over and offset > size:
            text = f"the output of job {job_id} ends at byte {size}"
            raise OutOfRange("OFFSET_BEYOND_END", text, {"job_id": job_id, "size": str(size)})
        if path and size > offset:
            pause, spoken = _FIRST_PAUSE_SECONDS, time.monotonic()
            async for piece in _pieces(path, offset, size, job_id):
                offset = piece.offset + len(piece.data)
                yield piece
            continue
        if over or not follow:
            yield Piece(b"", min(offset, size), end=True)
            return
        if time.monotonic() - spoken > _LONGEST_SILENCE_SECONDS:
            spoken = time.monotonic()
            yield Piece(b"", offset)
        await asyncio.sleep(pause)
        pause = min(pause * 1.5, _LONGEST_PAUSE_SECONDS)


async def _pieces(path: Path, offset: int, size: int, job_id: str) -> AsyncIterator[Piece]:
    while offset < size:
        data = await asyncio.to_thread(_read, path, offset, min(_PIECE, size - offset), job_id)
        if not data:
            return
        yield Piece(data, offset)
        offset += len(data)


def _size(path: Path, job_id: str) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise NotFound("output of job", job_id) from error


def _read(path: Path, offset: int, count: int, job_id: str) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise NotFound("output of job", job_id) from error
    try:
        return os.pread(descriptor, count, offset)
    except OSError as error:
        raise NotFound("output of job", job_id) from error
    finally:
        os.close(descriptor)
