"""Notices the end of shepherds, which are not children of this process."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from openfacility_server.jobs.engines.local.shepherd import proc


@dataclass(slots=True)
class _Watched:
    pid: int
    identity: int | None
    pidfd: int | None


class ShepherdWatch:
    """Calls back when a shepherd is gone: at once where the kernel tells (pidfd), else when `poll` is called."""

    def __init__(self, gone: Callable[[str], None]) -> None:
        """``gone`` is called with a job's id, once for each `watch`, in the event loop."""
        self._gone = gone
        self._watched: dict[str, _Watched] = {}

    def watch(self, job_id: str, pid: int, identity: int | None) -> bool:
        """Watches a shepherd; False when it is gone already, or when its number belongs to another process by now."""
        if job_id in self._watched:
            return True
        pidfd = None
        if hasattr(os, "pidfd_open"):
            try:
                pidfd = os.pidfd_open(pid)
            except ProcessLookupError:
                return False
            except OSError:
                pass  # an old kernel, or no descriptors left: polled instead
        if proc.identity(pid) != identity or identity is None:
            if pidfd is not None:
                os.close(pidfd)
            return False
        self._watched[job_id] = _Watched(pid, identity, pidfd)
        if pidfd is not None:
            asyncio.get_running_loop().add_reader(pidfd, self._ended, job_id)
        return True

    def watching(self, job_id: str) -> bool:
        """Whether a job's shepherd is being watched, and so alive as far as is known."""
        return job_id in self._watched

    def tell(self, job_id: str) -> None:
        """Tells a shepherd that what is wanted of its job has changed."""
        watched = self._watched.get(job_id)
        if watched is None:
            return
        with suppress(ProcessLookupError):
            if watched.pidfd is not None:
                signal.pidfd_send_signal(watched.pidfd, signal.SIGHUP)
            elif proc.identity(watched.pid) == watched.identity:
                os.kill(watched.pid, signal.SIGHUP)

    def poll(self) -> None:
        """Looks after those that the kernel does not tell of."""
        for job_id, watched in list(self._watched.items()):
            if watched.pidfd is None and proc.identity(watched.pid) != watched.identity:
                self._ended(job_id)

    def _ended(self, job_id: str) -> None:
        self._drop(job_id)
        self._gone(job_id)

    def _drop(self, job_id: str) -> None:
        watched = self._watched.pop(job_id)
        if watched.pidfd is not None:
            asyncio.get_running_loop().remove_reader(watched.pidfd)
            os.close(watched.pidfd)
        with suppress(ChildProcessError):
            os.waitpid(watched.pid, os.WNOHANG)  # where this server is process 1, orphans are its own to bury

    def close(self) -> None:
        """Stops watching."""
        for job_id in list(self._watched):
            self._drop(job_id)
