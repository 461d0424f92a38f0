"""What probes ask: a compute resource, a directory, the database, a port, a page."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import secrets
import ssl
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Protocol

import httpx

from openfacility_server.jobs.engines import EngineHealth, EngineUnavailable, FieldProblem
from openfacility_server.jobs.engines.cluster import ClusterEngine
from openfacility_server.jobs.model import JobAttributes, JobSpec
from openfacility_server.status.cluster import judge
from openfacility_server.status.model import Status
from openfacility_server.status.probes import (
    Check,
    DatabaseTarget,
    FileSystemTarget,
    Finding,
    HttpTarget,
    JobsTarget,
    Target,
    TcpTarget,
)

_UP = Finding(Status.UP)
_HTTP_SECONDS = 60.0  # more than deadlines, which cut it off before
_WRITTEN = bytes(4096)
_SIMPLEST_JOB = JobSpec(executable="/bin/true", attributes=JobAttributes(duration=timedelta(minutes=1)))
_FULL = {errno.ENOSPC: "is full", errno.EDQUOT: "has no quota left for this server"}
_REFUSED = (errno.EACCES, errno.EPERM)


class Engine(Protocol):
    """What is asked of a jobs engine."""

    def check(self, spec: JobSpec) -> Sequence[FieldProblem]:
        """Returns what of a spec it can never honour."""

    async def health(self) -> EngineHealth:
        """Tells whether it answers."""


class Checks:
    """Makes the check of a target."""

    def __init__(self, engines: Mapping[str, Engine], ping_database: Callable[[], Awaitable[None]]) -> None:
        self._engines = engines
        self._ping_database = ping_database

    def __call__(self, target: Target) -> Check:
        """Returns a new check. Raises KeyError for a compute resource that has no engine."""
        match target:
            case JobsTarget(resource):
                return _NoCutting(_jobs(self._engines[resource], target))
            case FileSystemTarget():
                return _NoCutting(lambda: _in_thread(lambda: look_at(target)))
            case DatabaseTarget():
                return _NoCutting(_database(self._ping_database))
            case TcpTarget(host, port):
                return _Tcp(host, port)
            case HttpTarget(url, unix_socket):
                return _Http(url, unix_socket)


class _NoCutting:
    """A question that cannot be cut off, because a thread works on it: while one is open no other is asked."""

    def __init__(self, question: Callable[[], Awaitable[Finding]]) -> None:
        self._question = question
        self._open: asyncio.Future[Finding] | None = None

    async def ask(self) -> Finding:
        if self._open is None:
            self._open = asyncio.ensure_future(self._question())
            self._open.add_done_callback(self._answered)
        return await asyncio.shield(self._open)

    def _answered(self, done: asyncio.Future[Finding]) -> None:
        self._open = None
        if not done.cancelled():
            done.exception()  # Nobody may be waiting for it any more.

    async def close(self) -> None:
        if self._open is not None:
            self._open.cancel()
            await asyncio.gather(self._open, return_exceptions=True)


def _jobs(engine: Engine, target: JobsTarget) -> Callable[[], Awaitable[Finding]]:
    async def ask() -> Finding:
        try:
            health = await engine.health()
            if not health.serving:
                return Finding(Status.DOWN, health.message or "the batch system takes no jobs")
            if problems := engine.check(_SIMPLEST_JOB):
                return Finding(Status.DOWN, "the batch system takes not even the simplest job", problems[0].description)
            if isinstance(engine, ClusterEngine):
                return await asyncio.to_thread(judge, await engine.cluster(), target)
        except EngineUnavailable as error:
            return Finding(Status.DOWN, "the batch system does not answer", str(error))
        return _UP if target.whole else Finding(Status.DOWN, "the batch system tells nothing of queues and nodes")

    return ask


def _database(ping: Callable[[], Awaitable[None]]) -> Callable[[], Awaitable[Finding]]:
    async def ask() -> Finding:
        try:
            await ping()
        except Exception as error:  # noqa: BLE001 -- drivers raise what they like; its text is not for everyone
            return Finding(Status.DOWN, "the database does not answer", str(error))
        return _UP

    return ask


class _Tcp:
    def __init__(self, host: str, port: int) -> None:
        self._host = host
        self._port = port

    async def ask(self) -> Finding:
        try:
            _, writer = await asyncio.open_connection(self._host, self._port)
        except OSError as error:
            return Finding(Status.DOWN, "takes no connections", str(error))
        writer.transport.abort()
        return _UP

    async def close(self) -> None:
        pass


class _Http:
    def __init__(self, url: str, unix_socket: Path | None) -> None:
        self._url = url
        self._unix_socket = unix_socket
        self._client: httpx.AsyncClient | None = None

    async def ask(self) -> Finding:
        if self._client is None:
            self._client = await asyncio.to_thread(self._make_client)
        try:
            # What the page says may be long; that it answers is enough.
            async with self._client.stream("GET", self._url, headers={"connection": "close"}) as answer:
                code = answer.status_code
        except httpx.TransportError as error:
            return Finding(Status.DOWN, "does not answer", f"{type(error).__name__}: {error}")
        if answer.is_success or answer.is_redirect:
            return _UP
        return Finding(Status.DOWN, f"answers with HTTP status {code}")

    def _make_client(self) -> httpx.AsyncClient:
        # The system's authorities, for which reading them takes a while.
        verify: ssl.SSLContext | bool = ssl.create_default_context() if self._url.startswith("https:") else False
        uds = str(self._unix_socket) if self._unix_socket else None
        return httpx.AsyncClient(
            transport=httpx.AsyncHTTPTransport(verify=verify, uds=uds), trust_env=False, timeout=_HTTP_SECONDS
        )

    async def close(self) -> None:
        if self._client is not None:
            await self._client.aclose()


async def _in_thread(work: Callable[[], Finding]) -> Finding:
    """Does work in a thread of its own: one that hangs for ever holds up neither a pool nor the end of the process."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[Finding] = loop.create_future()

    def tell(finding: Finding) -> None:
        if not answer.done():
            answer.set_result(finding)

    def run() -> None:
        try:
            finding = work()
        except Exception as error:  # noqa: BLE001 -- it must reach the loop, whatever it is
            finding = Finding(Status.DOWN, "does not work", str(error) or type(error).__name__)
        with contextlib.suppress(RuntimeError):  # The loop may be closed by now.
            loop.call_soon_threadsafe(tell, finding)

    threading.Thread(target=run, name="probe", daemon=True).start()
    return await answer


def look_at(target: FileSystemTarget) -> Finding:
    """Writes, syncs and removes a small file in a directory and looks at what is free. May take for ever."""
    try:
        if target.mount is not None and not os.path.ismount(target.mount):
            return Finding(Status.DOWN, "is not mounted")
        figures = os.statvfs(target.path)
        if figures.f_flag & os.ST_RDONLY:
            return Finding(Status.DOWN, "can only be read")
        _write(target.path)
    except OSError as error:
        return Finding(Status.DOWN, _trouble(error), str(error))
    return _what_is_free(os.statvfs(target.path), target)


def _write(directory: Path) -> None:
    # A name that nobody can have taken before us: others may be allowed to write here too.
    file = directory / f".openfacility-probe-{secrets.token_hex(8)}"
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        written = os.write(descriptor, _WRITTEN)
        if written < len(_WRITTEN):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync(descriptor)
    finally:
        # Removed first: closing can report an error that was not told before.
        try:
            file.unlink()
        finally:
            os.close(descriptor)


def _trouble(error: OSError) -> str:
    if error.errno in _FULL:
        return _FULL[error.errno]
    if error.errno in _REFUSED:
        return "cannot be written to by this server"
    match error.errno:
        case errno.EROFS:
            return "can only be read"
        case errno.ENOENT | errno.ENOTDIR:
            return "is missing"
    return (error.strerror or "fails").lower()


def _what_is_free(figures: os.statvfs_result, target: FileSystemTarget) -> Finding:
    """Judges space and inodes; a file system that does not count them has total numbers of 0."""
    if figures.f_blocks:
        usable = figures.f_blocks - figures.f_bfree + figures.f_bavail
        free = figures.f_bavail * figures.f_frsize
        if figures.f_bavail <= 0:
            return Finding(Status.DOWN, "is full")
        if free < target.min_free_bytes or 100 * figures.f_bavail < target.min_free_percent * usable:
            return Finding(Status.DEGRADED, "has little space left", f"{free} bytes are free")
    if figures.f_files:
        if figures.f_favail <= 0:
            return Finding(Status.DOWN, "has no inodes left")
        if figures.f_favail < target.min_free_inodes:
            return Finding(Status.DEGRADED, "has few inodes left", f"{figures.f_favail} inodes are free")
    return _UP
