"""A real `openfacility-server`, started by tests as its users start it: a process, a configuration file, signals."""

from __future__ import annotations

import contextlib
import copy
import json
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

ALICE = "alice-token-for-tests"
BOB = "bob-token-for-tests-xx"
OLGA = "olga-token-for-tests-x"
ADA = "ada-token-for-tests-xxx"
TOKENS = {"alice": ALICE, "bob": BOB, "olga": OLGA, "ada": ADA}
_ROLES = {"alice": "user", "bob": "user", "olga": "operator", "ada": "admin"}

START_DEADLINE = 30.0
STOP_DEADLINE = 20.0
_MARK = "FACILITY_TEST_HOME"  # in the environment of all that a server starts, so that nothing is left behind
_PROGRAM = Path(__file__).parents[2] / ".venv/bin/openfacility-server"


def base_config(directory: Path) -> dict[str, Any]:
    """The configuration of a small facility on ports that the system picks: 4 cores, alice, bob, olga and ada."""
    return {
        "facility": {"id": "test", "name": "Test facility"},
        "state": {"directory": str(directory / "state")},
        "grpc": {"listen": ["127.0.0.1:0"]},
        "http": {"listen": "127.0.0.1:0"},
        "auth": {
            "dev_tokens": [
                {"token": token, "username": name, "role": _ROLES[name], "projects": [f"{name}-project"]}
                for name, token in TOKENS.items()
            ]
        },
        "events": {"bookmark_interval": 0.5},
        "jobs": {"resources": [{"id": "local", "engine": "local", "cores": 4, "kill_grace": 1}]},
        "shutdown": {"grace": 1},
    }


def merged(base: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Returns `base` with `overrides`: mappings are merged, all else is replaced."""
    result = copy.deepcopy(dict(base))
    for key, value in overrides.items():
        old = result.get(key)
        result[key] = merged(old, value) if isinstance(old, dict) and isinstance(value, Mapping) else value
    return result


class Server:
    """One server process with a directory of its own.

    `start`, `stop` (SIGTERM), `kill` (SIGKILL) and `restart` keep the state, and the ports of the first start.
    `remove` ends everything, running jobs too, and deletes the directory.
    """

    def __init__(
        self, overrides: Mapping[str, Any] | None = None, environment: Mapping[str, str] | None = None
    ) -> None:
        # Not pytest's directory: paths of unix sockets must be short.
        self.directory = Path(tempfile.mkdtemp(prefix="of-test-"))
        self.config = merged(base_config(self.directory), overrides or {})
        self.tokens = dict(TOKENS)
        self.process: subprocess.Popen[bytes] | None = None
        self.grpc_ports: list[int] = []
        self.http_port: int | None = None
        self._environment = dict(environment or {})
        self._log = self.directory / "server.log"
        self._log.touch()
        self._offset = 0

    # Where it is.

    @property
    def address(self) -> str:
        """The first gRPC address."""
        return f"127.0.0.1:{self.grpc_ports[0]}"

    @property
    def http_url(self) -> str:
        """The HTTP listener's base URL."""
        return f"http://127.0.0.1:{self.http_port}"

    @property
    def state(self) -> Path:
        """The state directory."""
        return Path(self.config["state"]["directory"])

    @property
    def pid(self) -> int:
        """The number of the running process."""
        assert self.process is not None, "the server does not run"
        return self.process.pid

    @property
    def running(self) -> bool:
        """Whether the process lives."""
        return self.process is not None and self.process.poll() is None

    # Life.

    def start(self, wait: bool = True) -> None:
        """Starts the process; with `wait`, returns when it serves. Raises AssertionError with its log if not."""
        assert not self.running, "the server runs already"
        path = self.directory / "config.yaml"
        path.write_text(yaml.safe_dump(self.config), encoding="utf-8")
        self._offset = self._log.stat().st_size
        environment = {**os.environ, **self._environment, _MARK: str(self.directory)}
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [*_die_with_me(), str(_PROGRAM), "serve", str(path)],
                cwd=self.directory,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        if wait:
            self.wait_serving()

    def wait_serving(self, deadline: float = START_DEADLINE) -> None:
        """Returns when the process serves."""
        serving = self.wait_line(lambda line: line.get("event") == "serving", deadline)
        self.grpc_ports = serving["grpc_ports"]
        self.http_port = serving["http_port"]
        # The next start is found at the same place.
        listen = self.config["grpc"]["listen"]
        self.config["grpc"]["listen"] = [
            f"{address.rpartition(':')[0]}:{port}" for address, port in zip(listen, self.grpc_ports, strict=True)
        ]
        if self.http_port is not None:
            self.config["http"]["listen"] = f"127.0.0.1:{self.http_port}"

    def wait_line(self, wanted: Callable[[dict[str, Any]], bool], deadline: float = START_DEADLINE) -> dict[str, Any]:
        """Returns the first line logged since the last start that is as wanted, when there is one."""
        until = time.monotonic() + deadline
        while True:
            ended = not self.running
            for line in self.log_lines():
                if wanted(line):
                    return line
            assert not ended, f"the server ended before:\n{self.log_text()[-4000:]}"
            assert time.monotonic() < until, f"no such line within {deadline} s:\n{self.log_text()[-4000:]}"
            time.sleep(0.02)

    def signal(self, number: signal.Signals) -> None:
        """Sends the process a signal."""
        assert self.process is not None
        self.process.send_signal(number)

    def stop(self) -> int:
        """Stops the server as an operator does (SIGTERM); returns its exit code. Jobs run on."""
        self.signal(signal.SIGTERM)
        return self.wait_stopped()

    def wait_stopped(self, deadline: float = STOP_DEADLINE) -> int:
        """Returns the exit code when the process has ended."""
        assert self.process is not None
        code = self.process.wait(deadline)
        self.process = None
        return code

    def kill(self) -> None:
        """Kills the server (SIGKILL). Jobs run on."""
        self.signal(signal.SIGKILL)
        self.wait_stopped()

    def restart(self, kill: bool = False, overrides: Mapping[str, Any] | None = None) -> None:
        """Stops (or kills) the server and starts it again, with a changed configuration if so wanted."""
        if self.running:
            _ = self.kill() if kill else self.stop()
        self.config = merged(self.config, overrides or {})
        self.start()

    def remove(self) -> None:
        """Kills the server and all that it started, and deletes its directory."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(STOP_DEADLINE)
            self.process = None
        self._end_jobs()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _end_jobs(self) -> None:
        mark = f"{_MARK}={self.directory}".encode()
        until = time.monotonic() + STOP_DEADLINE
        while (left := list(_processes_with(mark))) and time.monotonic() < until:
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.01)

    # What it says.

    def log_text(self) -> str:
        """All that was logged since the last start."""
        with self._log.open("rb") as log:
            log.seek(self._offset)
            return log.read().decode(errors="replace")

    def log_lines(self) -> list[dict[str, Any]]:
        """The JSON lines logged since the last start."""
        found = []
        for text in self.log_text().splitlines():
            with contextlib.suppress(ValueError):
                line = json.loads(text)
                if isinstance(line, dict):
                    found.append(line)
        return found


def _die_with_me() -> list[str]:
    """The command that has the server stopped when the tests die. The signal comes when the starting *thread* ends."""
    setpriv = shutil.which("setpriv")
    if setpriv is None or threading.current_thread() is not threading.main_thread():
        return []
    return [setpriv, "--pdeathsig", "TERM"]


def _processes_with(mark: bytes) -> Iterator[int]:
    """Yields the numbers of processes that have `mark` in their environment."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if mark in (entry / "environ").read_bytes().split(b"\0"):
                    yield int(entry.name)
