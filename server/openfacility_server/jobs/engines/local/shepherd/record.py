"""Files of a job's directory: how they are written, and how one process claims a job. Used by shepherd and engine."""

# A shepherd starts in milliseconds: no pathlib, no contextlib, nothing from outside of its package.
# ruff: noqa: PTH104, PTH108, PTH115, PTH118, PTH120, PTH123, PTH211, SIM105

from __future__ import annotations

import _thread
import fcntl
import json
import os
from typing import Any

Json = dict[str, Any]

JOB = "job.json"  # what was submitted; never changes
SCRIPT = "script"  # the inline script, when there is one
CONTROL = "control.json"  # what was changed since: hold, name, duration, ...
CANCEL = "cancel"  # somebody wants the end of it: a symbolic link to the reason, the first one counts
SIGNALS = "signals"  # signals that somebody has sent: a number in each line, only ever appended to
LAUNCH = "launch.json"  # the leader decided to start it; from here on it cannot be held or given other resources
CLAIM = "claim"  # locked by its shepherd for as long as that lives; not empty: a shepherd has taken the job
STARTED = "started.json"  # it runs, since when, and what
EXIT = "exit.json"  # how it ended
RESERVED = "exit.reserved"  # room on the disk for exit.json
STDOUT = "stdout"
STDERR = "stderr"
WORK = "work"

RESERVED_SIZE = 8192


def sync_directory(path: str) -> None:
    """Makes the names in a directory durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_file(path: str, content: bytes, *, durable: bool, mode: int = 0o600) -> None:
    """Writes a new file, readable for nobody else."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    try:
        with open(fd, "wb", closefd=False) as file:
            file.write(content)
        if durable:
            os.fsync(fd)
    finally:
        os.close(fd)


def write_json(path: str, value: Json, *, durable: bool = True) -> None:
    """Replaces a file in one step; durable means that it is still there after a power cut."""
    temporary = f"{path}.{os.getpid()}.{_thread.get_ident()}.tmp"  # several threads may write the same file
    try:
        write_file(temporary, json.dumps(value).encode(), durable=durable)
        os.rename(temporary, path)
    except OSError:
        remove(temporary)
        raise
    if durable:
        sync_directory(os.path.dirname(path))


def read_json(path: str) -> Json | None:
    """Returns what a file holds, or None when there is no such file or nothing in it."""
    try:
        with open(path, "rb") as file:
            content = file.read()
    except (FileNotFoundError, NotADirectoryError):
        return None
    value: Json | None = json.loads(content) if content else None
    return value


def write_cancel(path: str, reason: str) -> None:
    """Asks for the end of a job. A link needs no room on the disk: the job may be what has filled it."""
    try:
        os.symlink(reason, path)
    except FileExistsError:
        return
    sync_directory(os.path.dirname(path))


def read_cancel(path: str) -> str | None:
    """Returns the reason for which a job is to end, if it is."""
    try:
        return os.readlink(path)
    except FileNotFoundError:
        return None


def append_signal(path: str, number: int) -> None:
    """Asks for a signal to be sent to a job's processes."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(fd, b"%d\n" % number)
    finally:
        os.close(fd)


def read_signals(path: str, offset: int) -> tuple[list[int], int]:
    """Returns the signals asked for behind an offset, and the offset behind them."""
    try:
        with open(path, "rb") as file:
            file.seek(offset)
            content = file.read()
    except FileNotFoundError:
        return [], offset
    complete = content[: content.rfind(b"\n") + 1]
    return [int(line) for line in complete.split() if line.isdigit()], offset + len(complete)


def remove(path: str) -> None:
    """Removes a file if it is there."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass


def lock(path: str) -> int | None:
    """Locks an existing file; returns its descriptor, or None when another process has the lock."""
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    except OSError:
        os.close(fd)
        raise
    return fd


def claimed(fd: int) -> bool:
    """Whether a shepherd has ever taken the job whose locked claim this is."""
    return os.fstat(fd).st_size > 0


def reserve(path: str) -> None:
    """Takes room on the disk now, so that a job's end can be written when the disk is full."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(fd, 0, RESERVED_SIZE)
        else:
            os.write(fd, b"\0" * RESERVED_SIZE)
    finally:
        os.close(fd)


def write_reserved(reserved: str, path: str, value: Json) -> None:
    """Writes a value into reserved room and gives it its name, durably."""
    content = json.dumps(value).encode()
    fd = os.open(reserved, os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        if os.pwrite(fd, content, 0) != len(content):
            raise OSError("short write")
        os.ftruncate(fd, len(content))
        os.fsync(fd)
    finally:
        os.close(fd)
    os.rename(reserved, path)
    sync_directory(os.path.dirname(path))


def notify(spool: str, job_id: str) -> None:
    """Tells the process that leads the spool to look at a job. Its slow rescan makes up for a lost notice."""
    try:
        os.close(os.open(os.path.join(spool, "inbox", job_id), os.O_WRONLY | os.O_CREAT, 0o600))
        fd = os.open(os.path.join(spool, "wake"), os.O_WRONLY | os.O_NONBLOCK)
    except OSError:
        return  # no room for the notice, or nobody leads now: whoever will, reads everything first
    try:
        os.write(fd, b".")
    except OSError:
        pass  # the pipe is full: the leader wakes anyway
    finally:
        os.close(fd)
