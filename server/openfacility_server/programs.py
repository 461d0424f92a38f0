"""Starting programs, and waiting for them, without holding up the event loop.

The event loop of libuv starts them by fork, which takes the longer the more memory the server has (14 ms with 250 MB),
and all else waits meanwhile; subprocess does it by vfork, in half a millisecond.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import IO, BinaryIO

_PIECE = 256 * 1024
# What was killed and has not been reaped yet.
_dying: set[asyncio.Task[int]] = set()


class Program:
    """One that runs, in a session of its own. Call `end` in any case."""

    stdout: asyncio.StreamReader
    stderr: asyncio.StreamReader

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        """See `start`."""
        self._process = process
        self._pipes: list[asyncio.BaseTransport] = []

    async def connect(self) -> None:
        """Makes its output readable."""
        self.stdout = await self._reader(self._process.stdout)
        self.stderr = await self._reader(self._process.stderr)

    async def _reader(self, pipe: IO[bytes] | None) -> asyncio.StreamReader:
        reader = asyncio.StreamReader(limit=_PIECE)
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), pipe
        )
        self._pipes.append(transport)
        return reader

    async def wait(self) -> int:
        """Waits for the end; returns the exit code, or minus the number of the signal that ended it."""
        if self._process.poll() is None:
            await _ended(self._process)
        return self._process.wait()

    def end(self) -> None:
        """Kills it with all that it started, if it has not ended, and lets go of its output."""
        if self._process.poll() is None:
            with suppress(ProcessLookupError, PermissionError):  # PermissionError: sudo's, which ends by itself
                os.killpg(self._process.pid, signal.SIGKILL)
            task = asyncio.create_task(self.wait())
            _dying.add(task)
            task.add_done_callback(_dying.discard)
        for pipe in self._pipes:
            pipe.close()


async def start(command: Sequence[str], env: Mapping[str, str], stdin: bytes | int = b"") -> Program:
    """Starts a program in the root directory. ``stdin`` is what it reads, or an open file. Raises OSError."""
    if isinstance(stdin, int):
        return await _start(command, env, stdin)
    with _in_memory(stdin) as file:
        return await _start(command, env, file.fileno())


def _in_memory(data: bytes) -> BinaryIO:
    """Returns a file with this in it: nothing has to be written while a program runs, which need not read it."""
    file = os.fdopen(os.memfd_create("stdin"), "w+b")
    file.write(data)
    file.seek(0)
    return file


async def _start(command: Sequence[str], env: Mapping[str, str], stdin: int) -> Program:
    pipe = subprocess.PIPE
    process = subprocess.Popen(  # noqa: ASYNC220 -- see above
        command, stdin=stdin, stdout=pipe, stderr=pipe, env=dict(env), cwd="/", start_new_session=True
    )
    program = Program(process)
    try:
        await program.connect()
    except BaseException:
        program.end()
        raise
    return program


async def _ended(process: subprocess.Popen[bytes]) -> None:
    try:
        file = os.pidfd_open(process.pid)
    except (AttributeError, OSError):  # an older kernel
        await asyncio.to_thread(process.wait)
        return
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(file, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(file)
        os.close(file)
