"""Runs the ASGI application inside the server's own event loop."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp

from openfacility_server.http.app import Deps, create_app

_BACKLOG = 2048
# Longer than Envoy keeps idle connections to us, so that it never uses one that we are closing.
_KEEP_ALIVE = 75
_MAX_SOCKET_PATH = 104  # sun_path, less the suffix of a replica's socket on the way


class HttpServer:
    """The HTTP listeners: one on TCP for probes and metrics, one on a unix socket for Envoy."""

    def __init__(self, deps: Deps, *, listen: str | None, unix_socket: Path | None, mode: int = 0o600) -> None:
        self._deps = deps
        self._listen = listen
        self._unix_socket = unix_socket
        self._mode = mode
        self._stopping = asyncio.Event()
        self._running: list[tuple[_Server, asyncio.Task[None]]] = []
        self._owned: tuple[Path, int] | None = None
        self.port: int | None = None
        """The TCP port, once started."""

    async def start(self) -> None:
        """Opens the listeners and returns when they answer. Raises OSError when one cannot be opened."""
        listeners: list[tuple[socket.socket, bool]] = []
        try:
            if self._listen is not None:
                tcp = bind_tcp(self._listen)
                listeners.append((tcp, False))
                self.port = tcp.getsockname()[1]
            if self._unix_socket is not None:
                listeners.append((bind_unix(self._unix_socket, self._mode), True))
                self._owned = (self._unix_socket, self._unix_socket.stat().st_ino)
        except OSError:
            for opened, _ in listeners:
                opened.close()
            raise
        for opened, internal in listeners:
            server = _Server(create_app(self._deps, self._stopping, internal=internal))
            task = asyncio.create_task(server.serve([opened]), name="http")
            self._running.append((server, task))
        for server, task in self._running:
            up = asyncio.ensure_future(server.up.wait())
            await asyncio.wait({up, task}, return_when=asyncio.FIRST_COMPLETED)
            up.cancel()
            if task.done():
                await self.stop(0)
                task.result()
                raise RuntimeError("the HTTP server ended at its start")

    async def stop(self, grace: float = 1.0) -> None:
        """Takes no new requests, ends event streams, gives the others ``grace`` seconds, and closes everything."""
        self._stopping.set()
        for server, _ in self._running:
            # 0 means without end to uvicorn.
            server.config.timeout_graceful_shutdown = max(grace, 0.01)  # type: ignore[assignment]
            server.should_exit = True
        tasks = [task for _, task in self._running]
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=grace + 1)
            for task in late:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        self._running.clear()
        if self._owned is not None:
            path, inode = self._owned
            self._owned = None
            with contextlib.suppress(FileNotFoundError):
                if path.stat().st_ino == inode:  # else it is a successor's
                    path.unlink()


class _Server(uvicorn.Server):
    """uvicorn as a guest: signals and logging belong to the program around it."""

    def __init__(self, app: ASGIApp) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                lifespan="off",
                log_config=None,
                log_level="warning",
                access_log=False,
                server_header=False,
                date_header=False,
                proxy_headers=False,
                ws="none",
                timeout_keep_alive=_KEEP_ALIVE,
                backlog=_BACKLOG,
            )
        )
        self.up = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.up.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def bind_tcp(address: str) -> socket.socket:
    """Opens ``host:port``; port 0 picks a free one."""
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    family, kind, protocol, _, target = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)[0]
    opened = socket.socket(family, kind, protocol)
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind(target)
        opened.listen(_BACKLOG)
    except OSError as error:
        opened.close()
        raise OSError(error.errno, f"cannot listen at {address}: {error.strerror}") from None
    opened.setblocking(False)
    return opened


def bind_unix(path: Path, mode: int = 0o600) -> socket.socket:
    """Opens a unix socket that only its owner can use.

    A socket file that nobody listens on, left by a server that was killed, is replaced; one in use is an error. The
    file appears at its place complete, with its mode and listening, and replaces the old one in one step.
    """
    if len(os.fsencode(path)) > _MAX_SOCKET_PATH:
        raise OSError(errno.ENAMETOOLONG, f"a socket's path has at most {_MAX_SOCKET_PATH} bytes", str(path))
    if path.exists():
        if not stat.S_ISSOCK(path.stat().st_mode):
            raise OSError(errno.EEXIST, "is there and is not a socket", str(path))
        if answers(path):
            raise OSError(errno.EADDRINUSE, "another server listens here", str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{os.getpid():x}"[:10])
    new.unlink(missing_ok=True)
    opened = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        opened.bind(str(new))
        new.chmod(mode)
        opened.listen(_BACKLOG)
        new.replace(path)
    except OSError:
        opened.close()
        new.unlink(missing_ok=True)
        raise
    opened.setblocking(False)
    return opened


def answers(path: Path) -> bool:
    """Whether somebody listens on a unix socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:
            return True  # full or not ours to open: in any case somebody's
        return True
