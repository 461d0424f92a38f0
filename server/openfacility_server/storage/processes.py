"""Telling whether a process that wrote its name somewhere is dead."""

from __future__ import annotations

import json
import os
import socket
from functools import cache
from pathlib import Path


@cache
def _of(pid: int) -> str:
    """Identity of the process `pid` is now, cached for our own; a fork has another pid and asks anew."""
    return json.dumps(
        {
            "host": socket.gethostname(),
            "boot": _boot_id(),
            "namespace": _pid_namespace(),
            "pid": pid,
            "start": _start_time(pid),
        },
        sort_keys=True,
    )


def this_process() -> str:
    """A text that names this process among all processes of all hosts, and stays the same for its life."""
    return _of(os.getpid())


def is_dead(identity: str) -> bool:
    """Whether the process so named is known to be dead.

    False when it lives, and when that cannot be known from here: on another host, before a reboot that cannot be told
    from another host of that name, in another container.
    """
    try:
        named = json.loads(identity)
        pid, start = int(named["pid"]), named["start"]
        named_place = (named["host"], named["boot"], named["namespace"])
        here = (socket.gethostname(), _boot_id(), _pid_namespace())
        if named_place != here or not named["boot"] or not start:
            return False
    except (ValueError, KeyError, TypeError):
        return False
    # The number may have been given to another process since; that one started later.
    return _start_time(pid) != str(start)


def _start_time(pid: int) -> str:
    """Clock ticks from boot to the start of a process; empty when there is none, or only its remains."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    # The name in parentheses may hold spaces and parentheses itself.
    fields = stat.rpartition(")")[2].split()
    return "" if fields[0] in {"Z", "X", "x"} else fields[19]


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _pid_namespace() -> str:
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""
