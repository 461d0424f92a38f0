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
from typing import BinaryIO

_PIECE = 64 * 1024  # what a pipe holds
# What was killed and has not been reaped yet.
_dying: set[asyncio.Task[int]] = set()


class OutputTooLong(Exception):
    """A program wrote more than it may."""


class Program:
    """One that runs, in a session of its own. Call `end` in any case."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        """See `start`."""
        self._process = process

    async def output(self, most: int) -> tuple[bytes, bytes]:
        """Returns all that it writes to its standard output and error. Raises OutputTooLong, of ``most`` bytes each."""
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        files = self._process.stdout.fileno(), self._process.stderr.fileno()
        written = {file: bytearray() for file in files}
        for file in files:
            os.set_blocking(file, False)
        with _Readable(*files) as readable:
            while readable.files:
                await readable.wait()
                for file in list(readable.files):
                    with suppress(BlockingIOError):
                        piece = os.read(file, _PIECE)
                        written[file] += piece
                        if not piece:
                            readable.forget(file)
                if max(map(len, written.values())) > most:
                    raise OutputTooLong
        return bytes(written[files[0]]), bytes(written[files[1]])

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
        for pipe in (self._process.stdout, self._process.stderr):
            if pipe is not None:
                pipe.close()


def start(command: Sequence[str], env: Mapping[str, str], stdin: bytes | int = b"") -> Program:
    """Starts a program in the root directory. ``stdin`` is what it reads, or an open file. Raises OSError."""
    if isinstance(stdin, bytes):
        with _in_memory(stdin) as file:
            return start(command, env, file.fileno())
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        command, stdin=stdin, stdout=pipe, stderr=pipe, bufsize=0, env=dict(env), cwd="/", start_new_session=True
    )
    return Program(process)


def _in_memory(data: bytes) -> BinaryIO:
    """Returns a file with this in it: nothing has to be written while a program runs, which need not read it."""
    file = os.fdopen(os.memfd_create("stdin"), "w+b")
    file.write(data)
    file.seek(0)
    return file


async def _ended(process: subprocess.Popen[bytes]) -> None:
    try:
        file = os.pidfd_open(process.pid)
    except (AttributeError, OSError):  # an older kernel
        await asyncio.to_thread(process.wait)
        return
    try:
        with _Readable(file) as readable:
            await readable.wait()
    finally:
        os.close(file)


class _Readable:
    """Tells when something can be read from one of some open files, or nothing any more."""

    def __init__(self, *files: int) -> None:
        self.files = set(files)
        self._some = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def __enter__(self) -> _Readable:
        for file in self.files:
            self._loop.add_reader(file, self._some.set)
        return self

    def __exit__(self, *_: object) -> None:
        for file in list(self.files):
            self.forget(file)

    def forget(self, file: int) -> None:
        self.files.remove(file)
        self._loop.remove_reader(file)

    async def wait(self) -> None:
        self._some.clear()
        await self._some.wait()
