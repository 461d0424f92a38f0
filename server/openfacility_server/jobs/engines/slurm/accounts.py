"""Accounts of the operating system."""

from __future__ import annotations

import asyncio
import os
import pwd
import time
from dataclasses import dataclass

_KEEP_SECONDS = 60.0
_MOST = 10_000


@dataclass(frozen=True, slots=True)
class Account:
    """One account; ``groups`` are the numbers of all groups that it is in, ``gid`` among them."""

    name: str
    uid: int
    gid: int
    home: str
    shell: str
    groups: tuple[int, ...]


class Accounts:
    """Looks accounts up beside the event loop (they may be in a directory service) and remembers them for a minute.

    That an account is missing is not remembered: somebody may be making it.
    """

    def __init__(self) -> None:
        """Nothing is known yet."""
        self._known: dict[str, tuple[float, Account]] = {}

    async def find(self, name: str) -> Account | None:
        """Returns the account of that name, if there is one."""
        known = self._known.get(name)
        if known is not None and time.monotonic() - known[0] < _KEEP_SECONDS:
            return known[1]
        found = await asyncio.to_thread(_look_up, name)
        if len(self._known) >= _MOST:
            self._known.clear()
        if found is not None:
            self._known[name] = (time.monotonic(), found)
        return found

    async def own(self) -> Account:
        """Returns the account that this process runs as."""
        uid = os.geteuid()
        try:
            entry = pwd.getpwuid(uid)
        except KeyError:  # a container's arbitrary number: Slurm knows it by that alone
            return Account(str(uid), uid, os.getegid(), "/", "/bin/sh", tuple(os.getgroups()))
        return await self.find(entry.pw_name) or _account(entry)


def _look_up(name: str) -> Account | None:
    try:
        return _account(pwd.getpwnam(name))
    except (KeyError, ValueError):  # ValueError: no name could look like this
        return None


def _account(entry: pwd.struct_passwd) -> Account:
    groups = os.getgrouplist(entry.pw_name, entry.pw_gid)
    return Account(entry.pw_name, entry.pw_uid, entry.pw_gid, entry.pw_dir, entry.pw_shell or "/bin/sh", tuple(groups))
