"""Server processes: started on one core, watched through /proc, and ended."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

USER, OPERATOR = "bench-user-token-0123456789", "bench-operator-token-01234567"
_TICK = 1 / os.sysconf("SC_CLK_TCK")
_START_DEADLINE = 60.0

CORES = sorted(os.sched_getaffinity(0))
SERVER_CORE = CORES[0]
LOAD_CORE = CORES[-1]


class Process:
    """A server process, on ``SERVER_CORE``. What loads it is on ``LOAD_CORE``, the same one when there is but one."""

    def __init__(self, name: str, command: list[str], directory: Path) -> None:
        self.name = name
        self.log = directory / f"{name}.log"
        self.started = time.monotonic()
        with self.log.open("wb") as log:
            self.popen = subprocess.Popen(
                ["taskset", "-c", str(SERVER_CORE), *command], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        self.port = 0

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def wait_line(self, event: str) -> dict[str, Any]:
        """Returns the first JSON line of the log with this event."""
        deadline = time.monotonic() + _START_DEADLINE
        while time.monotonic() < deadline:
            for text in self.log.read_text(errors="replace").splitlines():
                with contextlib.suppress(ValueError):
                    line = json.loads(text)
                    if line.get("event") == event:
                        return dict(line)
            if self.popen.poll() is not None:
                break
            time.sleep(0.005)
        raise RuntimeError(f"{self.name} did not start:\n{self.log.read_text(errors='replace')[-3000:]}")

    def cpu(self) -> float:
        """Seconds of CPU used so far, by all threads."""
        fields = Path(f"/proc/{self.popen.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) * _TICK

    def uss(self) -> float:
        """Memory that is this process's alone, in MB."""
        text = Path(f"/proc/{self.popen.pid}/smaps_rollup").read_text()
        return sum(int(line.split()[1]) for line in text.splitlines() if line.startswith("Private_")) / 1024

    def end(self) -> None:
        self.popen.terminate()
        try:
            self.popen.wait(10)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            self.popen.wait()


@contextlib.contextmanager
def workplace() -> Iterator[Path]:
    """A directory for the time of one benchmark."""
    directory = Path(tempfile.mkdtemp(prefix="openfacility-bench-"))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def facility_config(state: Path, **overrides: Any) -> dict[str, Any]:
    """A server as `openfacility-server serve` runs it: access log on, dev tokens, SQLite, the local engine."""
    return {
        "state": {"directory": str(state)},
        "grpc": {"listen": ["127.0.0.1:0"]},
        "http": {"listen": "127.0.0.1:0"},
        "auth": {
            "dev_tokens": [
                {"token": USER, "username": "bench", "role": "user", "projects": ["bench"]},
                {"token": OPERATOR, "username": "operator", "role": "operator"},
            ]
        },
        "limits": {"unfinished_jobs_per_owner": 10_000_000, "streams_per_caller": 10_000},
        "jobs": {"resources": [{"id": "local", "engine": "local", "cores": 1}]},
        "shutdown": {"grace": 0.2},
    } | overrides


@contextlib.contextmanager
def facility(
    directory: Path, name: str = "openfacility", state: Path | None = None, **overrides: Any
) -> Iterator[Process]:
    """A serving openfacility-server."""
    file = directory / f"{name}.yaml"
    file.write_text(yaml.safe_dump(facility_config(state or directory / name, **overrides)))
    program = Path(sys.executable).with_name("openfacility-server")
    process = Process(name, [str(program), "serve", str(file)], directory)
    try:
        process.port = process.wait_line("serving")["grpc_ports"][0]
        yield process
    finally:
        process.end()


@contextlib.contextmanager
def base(directory: Path, kind: str, **files: bytes) -> Iterator[Process]:
    """A serving base of ``bench.bases``; ``files`` are written for it."""
    for name, content in files.items():
        (directory / name).write_bytes(content)
    process = Process(f"base-{kind}", [sys.executable, "-m", "bench.bases", kind, str(directory)], directory)
    try:
        process.port = process.wait_line("serving")["port"]
        yield process
    finally:
        process.end()
