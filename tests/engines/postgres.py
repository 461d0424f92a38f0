"""A private PostgreSQL for tests, and the databases that storage tests run on.

As a pytest plugin (`-p tests.engines.postgres`, or `pytest_plugins` in the top conftest) it gives:

    postgres   session: a `PostgresServer`; skipped where its programs are not installed, an error there when CI is set
    database   a new, empty database; every test that uses it runs on SQLite and on PostgreSQL
"""

from __future__ import annotations

import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

_DEADLINE_S = 30.0
_USER = "openfacility"
_SETTINGS = {
    "listen_addresses": "",  # a unix socket only
    "fsync": "off",  # kill -9 of a client is tested here, not a power cut
    "full_page_writes": "off",
    "shared_buffers": "32MB",
    "max_connections": "200",
    "log_min_messages": "fatal",
    "autovacuum_naptime": "5s",
}


class PostgresServer:
    """One server with a data directory and a socket of its own, run by an unprivileged user."""

    def __init__(self, programs: Path) -> None:
        self._programs = programs
        self._numbers = itertools.count(1)
        self._process: subprocess.Popen[bytes] | None = None
        # Not pytest's directory: the server's user has to reach it, and a socket's path must be short.
        # In memory where that can be: each database is 300 files to write and to remove.
        shm = Path("/dev/shm")
        self._home = Path(tempfile.mkdtemp(prefix="of-pg-", dir=shm if os.access(shm, os.W_OK) else None))
        self._as_user: list[str] = []
        if os.geteuid() == 0:
            user = _unprivileged()
            os.chown(self._home, user.pw_uid, user.pw_gid)
            self._as_user = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
        self._data = self._home / "data"
        self._run("initdb", "-D", str(self._data), "-U", _USER, "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")

    def url(self, database: str) -> str:
        """Where a database of this server is."""
        return f"postgresql://{_USER}@/{database}?host={self._home}&port=5432"

    def new_database(self) -> str:
        """Creates an empty database and returns its URL."""
        name = f"test_{next(self._numbers)}"
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return self.url(name)

    def start(self) -> None:
        """Starts the server and waits until it answers."""
        command = [str(self._programs / "postgres"), "-D", str(self._data), "-k", str(self._home), "-p", "5432"]
        for name, value in _SETTINGS.items():
            command += ["-c", f"{name}={value}"]
        # The signal comes when the test run dies without stopping the server.
        dying = ["--pdeathsig", "INT"] if shutil.which("setpriv") else []
        prefix = self._as_user or (["setpriv"] if dying else [])
        with (self._home / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                [*prefix, *(dying if prefix else []), *command], cwd=self._home, stdout=log, stderr=log
            )
        deadline = time.monotonic() + _DEADLINE_S
        while True:
            try:
                psycopg.connect(self.url("postgres"), connect_timeout=5).close()
                return
            except psycopg.OperationalError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError((self._home / "server.log").read_text()) from None
                time.sleep(0.05)

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """Stops the server: SIGINT ends its connections, SIGQUIT is as a crash."""
        if self._process:
            self._process.send_signal(how)
            self._process.wait(_DEADLINE_S)
            self._process = None

    def remove(self) -> None:
        """Stops the server and removes all that it wrote."""
        self.stop(signal.SIGQUIT)
        shutil.rmtree(self._home, ignore_errors=True)

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [*self._as_user, str(self._programs / program), *arguments],
            cwd=self._home,
            capture_output=True,
            text=True,
            timeout=_DEADLINE_S * 2,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{program} failed: {done.stderr}")


@dataclass(frozen=True)
class Database:
    """A database that a test has for itself."""

    url: str
    dialect: str


def find_programs() -> Path | None:
    """The directory of PostgreSQL's server programs; Debian keeps them off the PATH."""
    candidates = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: float(path.parent.name))
    on_path = shutil.which("initdb")
    if on_path:
        candidates.insert(0, Path(on_path).resolve().parent)
    found = [path for path in candidates if (path / "initdb").exists() and (path / "postgres").exists()]
    return found[-1] if found else None


def _unprivileged() -> pwd.struct_passwd:
    """PostgreSQL refuses to run as root."""
    try:
        return pwd.getpwnam("postgres")
    except KeyError:
        return pwd.getpwnam("nobody")


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    programs = find_programs()
    if programs is None:
        reason = "PostgreSQL's server programs (initdb, postgres) are not installed: make test-deps"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    server = PostgresServer(programs)
    try:
        server.start()
        yield server
    finally:
        server.remove()


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Database:
    if request.param == "sqlite":
        return Database(f"sqlite://{tmp_path}/state.db", "sqlite")
    server: PostgresServer = request.getfixturevalue("postgres")
    return Database(server.new_database(), "postgresql")
