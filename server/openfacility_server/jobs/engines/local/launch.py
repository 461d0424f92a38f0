"""Starts shepherds, and cleans up behind those that were killed."""

# Paths are strings here as they are in the spool.
# ruff: noqa: PTH104, PTH110, PTH116, PTH118, PTH208

from __future__ import annotations

import errno
import fnmatch
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from openfacility_server.jobs.engines.local.codec import Json, seconds
from openfacility_server.jobs.engines.local.needs import Needs, needs_of
from openfacility_server.jobs.engines.local.settings import LocalSettings
from openfacility_server.jobs.engines.local.shepherd import proc, record
from openfacility_server.jobs.engines.local.spool import Claim, Snapshot, Spool
from openfacility_server.jobs.model import ResourceSpec

SHEPHERD = str(Path(__file__).with_name("shepherd"))
KILL_TRIES = 200


class Nursery:
    """Starts shepherds, through a process that is there for that alone (see `shepherd.__main__`). For one thread."""

    def __init__(self, settings: LocalSettings, spool: Spool) -> None:
        """Nothing is started yet."""
        self._settings, self._spool = settings, spool
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, job_id: str, needs: Needs) -> int | None:
        """Starts a job's shepherd; returns its number, or None when the job is not to start after all.

        Raises OSError. The shepherd is no child of this process and outlives it.
        """

        def decide(snapshot: Snapshot) -> Json | None:
            if wanted(snapshot, self._settings) != needs:
                return None  # it was given other resources after the leader made room for it
            return _launch_record(snapshot, needs, self._settings)

        if not self._spool.begin(job_id, decide):
            return None
        try:
            return self._request(self._spool.path(job_id))
        except (BrokenPipeError, ValueError):
            self.close()  # somebody killed it: once more with a new one
            return self._request(self._spool.path(job_id))

    def _request(self, directory: str) -> int:
        process = self.open()
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(directory).encode() + b"\n")
        process.stdin.flush()
        answer = process.stdout.readline().split()
        if answer[:1] == [b"error"]:
            raise OSError(int(answer[1]), os.strerror(int(answer[1])))
        if not answer:
            raise BrokenPipeError(errno.EPIPE, "the nursery has ended")
        return int(answer[0])

    def open(self) -> subprocess.Popen[bytes]:
        """Starts the nursery if there is none."""
        if self._process is not None:
            return self._process
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-E", "-X", "utf8", SHEPHERD],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd="/",
            env=job_environment(self._settings.hidden_environment),
            start_new_session=True,
        )
        return self._process

    def close(self) -> None:
        """Lets the nursery end, and waits for that."""
        process, self._process = self._process, None
        if process is not None:
            with suppress(BrokenPipeError):
                process.communicate()


def wanted(snapshot: Snapshot, settings: LocalSettings) -> Needs:
    """Returns what a job needs, as it was submitted or changed since."""
    resources = snapshot.job.resources
    if "resources" in snapshot.control:
        resources = ResourceSpec(**snapshot.control["resources"])
    return needs_of(resources, settings.cores)


def _launch_record(snapshot: Snapshot, needs: Needs, settings: LocalSettings) -> Json:
    job, control = snapshot.job, snapshot.control
    duration = control.get("duration", job.duration)
    return {
        "resource_id": settings.resource_id,
        "name": control.get("name", job.name),
        "processes": needs.processes,
        "cores": needs.cores,
        "memory": needs.memory or None,
        "duration": seconds(settings.limit) if duration is None else duration,
        "kill_grace": settings.kill_grace.total_seconds(),
    }


def job_environment(hidden: Sequence[str]) -> dict[str, str]:
    """Returns this process's environment without what is its own business."""
    return {
        name: value
        for name, value in os.environ.items()
        if not any(fnmatch.fnmatchcase(name.upper(), pattern) for pattern in hidden)
    }


def settle_lost(spool: Spool, snapshot: Snapshot, resource_id: str, *, watched: bool) -> bool:
    """Ends a job whose shepherd is dead and has left no exit record: kills what still runs, and says so.

    ``watched`` says that the shepherd died just now: only then are the numbers that it recorded still to be trusted.
    """
    rebooted = (snapshot.claim or {}).get("boot", "") != proc.boot_id()
    if not rebooted:
        sessions = (snapshot.started or {}).get("sessions", []) if watched else []
        _kill_leftovers(snapshot.job.id, resource_id, sessions)
    what = "The machine was restarted" if rebooted else "What watched over the job was killed from outside"
    value: Json = {
        "state": "FAILED",
        "reason": "LOST",
        "message": f"{what}; how the job ended, or would have, is not known.",
    }
    if snapshot.started is not None:
        value["start_time"] = snapshot.started["start_time"]
    return spool.end(snapshot.job.id, Claim.ABANDONED, value)


def _kill_leftovers(job_id: str, resource_id: str, sessions: Sequence[int]) -> None:
    for _ in range(KILL_TRIES):
        left = [pid for pid in proc.leftovers(job_id, resource_id, sessions) if pid != os.getpid()]
        if not proc.send(left, signal.SIGKILL):
            return
        time.sleep(0.01)


def remove_directory(spool: Spool, job_id: str) -> None:
    """Removes an ended job's directory in one step as others see it."""
    aside = os.path.join(spool.trash, f"{job_id}.{time.time_ns()}")
    os.rename(spool.path(job_id), aside)
    shutil.rmtree(aside, ignore_errors=True)


def sweep(spool: Spool, keep_after: float, needed: set[str]) -> int:
    """Removes directories of jobs that ended before a time, and what crashes have left; returns how many jobs."""
    removed = 0
    for name in os.listdir(spool.trash):
        shutil.rmtree(os.path.join(spool.trash, name), ignore_errors=True)
    with os.scandir(spool.jobs) as found:
        for item in found:
            time.sleep(0)  # others want to run too: there may be a hundred thousand
            if item.name.startswith(".new-"):
                if item.stat().st_mtime < time.time() - 3600:
                    shutil.rmtree(item.path, ignore_errors=True)
            elif item.name not in needed and _ended_before(spool, item, keep_after):
                remove_directory(spool, item.name)
                removed += 1
    return removed


def _ended_before(spool: Spool, item: os.DirEntry[str], moment: float) -> bool:
    """Whether a job ended before a time, and its follower knows."""
    try:
        ended = os.stat(os.path.join(item.path, record.EXIT)).st_mtime
    except FileNotFoundError:
        return False
    return ended < moment and not os.path.exists(os.path.join(spool.active, item.name))
