"""Processes: who they are, what descends from them, what they use, how to end them all. Used by shepherd and engine.

Linux tells through ``/proc``. Elsewhere a process is known by its number alone and a tree by its process groups.
"""

# A shepherd starts in milliseconds: no pathlib, no contextlib, nothing from outside of its package.
# ruff: noqa: PLC0415, PTH110, PTH123, PTH208

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Iterable, Iterator

LINUX = os.path.exists("/proc/self/stat")
PAGE = os.sysconf("SC_PAGE_SIZE")

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


def _prctl(option: int, value: int) -> None:
    """Calls prctl(2); without it (not Linux) nothing happens."""
    if not LINUX:
        return
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, ctypes.c_ulong(value), ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0)) != 0:
        raise OSError(ctypes.get_errno(), "prctl")


def adopt_orphans() -> None:
    """Makes every descendant that loses its parent a child of this process, so that none escapes."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent() -> None:
    """Has the kernel kill this process when its parent dies."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def boot_id() -> str:
    """Returns what tells one boot of this machine from another; empty where nothing does."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return file.read().strip()
    except OSError:
        return ""


def _stat(pid: int) -> list[bytes] | None:
    """Returns the fields of /proc/<pid>/stat after the name, or None when there is no such process."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b") ")[2].split()
    except OSError:
        return None


def identity(pid: int) -> int | None:
    """Returns what tells a living process from a later one of the same number; None when it is not alive."""
    if not LINUX:
        try:
            os.kill(pid, 0)
        except PermissionError:
            return 0
        except OSError:
            return None
        return 0
    fields = _stat(pid)
    if fields is None or fields[0] in (b"Z", b"X"):
        return None
    return int(fields[19])  # start time in clock ticks since boot


def children(pid: int) -> list[int]:
    """Returns the direct children of a process."""
    found: list[int] = []
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return found
    for thread in threads:
        try:
            with open(f"/proc/{pid}/task/{thread}/children", "rb") as file:
                found.extend(map(int, file.read().split()))
        except FileNotFoundError:
            if identity(pid) is not None and os.path.exists(f"/proc/{pid}/task/{thread}"):
                return _children_by_scan(pid)  # a kernel without CONFIG_PROC_CHILDREN
        except OSError:
            continue
    return found


def _children_by_scan(pid: int) -> list[int]:
    parent = b"%d" % pid
    return [other for other in all_processes() if (fields := _stat(other)) is not None and fields[1] == parent]


def all_processes() -> Iterator[int]:
    """Yields the number of every process that can be seen."""
    if LINUX:
        for name in os.listdir("/proc"):
            if name.isdigit():
                yield int(name)


def descendants(root: int) -> list[int]:
    """Returns all processes below one, those that are dead and not waited for included."""
    found: list[int] = []
    unseen = [root]
    while unseen:
        below = children(unseen.pop())
        found.extend(below)
        unseen.extend(below)
    return found


def resident(pids: Iterable[int]) -> int:
    """Returns the bytes of memory that processes have resident, added up."""
    pages = 0
    for pid in pids:
        try:
            with open(f"/proc/{pid}/statm", "rb") as file:
                pages += int(file.read().split()[1])
        except (OSError, IndexError):
            continue  # it ended meanwhile
    return pages * PAGE


def send(pids: Iterable[int], number: int) -> int:
    """Sends a signal to processes; returns how many there were that it could be sent to."""
    sent = 0
    for pid in pids:
        try:
            os.kill(pid, number)
            sent += 1
        except OSError as error:
            if error.errno not in (errno.ESRCH, errno.EPERM):
                raise
    return sent


def leftovers(job_id: str, resource_id: str, sessions: Iterable[int]) -> list[int]:
    """Returns the living processes of a job whose shepherd is gone.

    They are known by the session of the programs that it started, or by our variables in their first environment.
    """
    marks = (f"OPENFACILITY_JOB_ID={job_id}".encode(), f"OPENFACILITY_RESOURCE_ID={resource_id}".encode())
    wanted = {b"%d" % session for session in sessions}
    found = []
    for pid in all_processes():
        fields = _stat(pid)
        if fields is None or fields[0] in (b"Z", b"X"):
            continue
        if fields[3] in wanted or _marked(pid, marks):
            found.append(pid)
    return found


def _marked(pid: int, marks: tuple[bytes, ...]) -> bool:
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            variables = file.read().split(b"\0")
    except OSError:
        return False
    return all(mark in variables for mark in marks)
