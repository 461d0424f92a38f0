"""SQLite: one file in WAL mode, shared by any number of processes on one host."""

from __future__ import annotations

import fcntl
import os
import sqlite3
import stat
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, ClassVar

import peewee

from openfacility_server.storage.errors import IntegrityError, StorageError, StorageUnavailable
from openfacility_server.storage.session import (
    INSERT_EVENT,
    UPDATE_COUNTER,
    Backend,
    Counter,
    Dialect,
    Row,
    Session,
)

BUSY_TIMEOUT_S = 5.0
"""How long a write waits for another process's write before it becomes StorageUnavailable, seconds."""
MIGRATION_TIMEOUT_S = 120.0
_TURN_PATIENCE_S = 1.0
WRITER_CACHE_KIB = 4096
READER_CACHE_KIB = 1024
"""Page cache of a connection, of which there are six. Small: what is in the file is read through the memory map, and
shared by all of them."""
MMAP_BYTES = 256 << 20
WAL_KEEP_BYTES = 64 << 20
"""The write-ahead log is cut back to this after a checkpoint; it grows beyond only while a long read holds it."""

_UNAVAILABLE = {
    sqlite3.SQLITE_BUSY: "the database is locked by another process",
    sqlite3.SQLITE_LOCKED: "the database is locked",
    sqlite3.SQLITE_PROTOCOL: "the database is locked by another process",
    sqlite3.SQLITE_FULL: "the disk is full",
    sqlite3.SQLITE_IOERR: "the disk does not answer as it should",
    sqlite3.SQLITE_CANTOPEN: "the database file cannot be opened",
    sqlite3.SQLITE_READONLY: "the database file cannot be written",
    sqlite3.SQLITE_PERM: "the database file may not be used by this user",
    sqlite3.SQLITE_AUTH: "the database file may not be used by this user",
    sqlite3.SQLITE_NOMEM: "out of memory",
    sqlite3.SQLITE_CORRUPT: "the database file is damaged",
    sqlite3.SQLITE_NOTADB: "the file is not a SQLite database",
}
# After these a connection is not used again: its view of the file may be wrong for good.
_BREAKING = {
    sqlite3.SQLITE_PROTOCOL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_NOTADB,
}


class SqliteSession(Session):
    """One SQLite connection in autocommit mode; transactions are begun by hand."""

    dialect: ClassVar[Dialect] = "sqlite"

    def __init__(self, backend: SqliteBackend, *, writer: bool, timeout_s: float) -> None:
        self._backend = backend
        self._broken = False
        self._marked = False
        self._identity = backend.identity
        self._turn = _Turn(backend.path if writer else None)
        try:
            # Never mode=rwc: a database that went away must not be replaced by an empty one.
            self._connection = sqlite3.connect(
                f"{backend.path.as_uri()}?mode=rw",
                uri=True,
                timeout=timeout_s,
                isolation_level=None,
                check_same_thread=False,
                cached_statements=512,
            )
        except sqlite3.Error as error:
            self._turn.close()
            raise self.translate(error) from error
        self.database = _BoundDatabase(self)
        try:
            for pragma in (
                "journal_mode = WAL" if writer else "query_only = ON",
                # FULL: an acknowledged commit survives a power cut, not only a crash of this process.
                "synchronous = FULL",
                "foreign_keys = ON",
                f"mmap_size = {MMAP_BYTES}",
                f"journal_size_limit = {WAL_KEEP_BYTES}",
                f"cache_size = -{WRITER_CACHE_KIB if writer else READER_CACHE_KIB}",
                "temp_store = MEMORY",
            ):
                self._connection.execute(f"PRAGMA {pragma}").fetchall()
            if writer:
                self._connection.execute("PRAGMA busy_timeout = 0").fetchall()
        except (sqlite3.Error, peewee.PeeweeException) as error:
            self.close()
            raise self.translate(error) from error

    @property
    def broken(self) -> bool:
        return self._broken or self._identity != self._backend.identity

    def execute(self, sql: str, params: Sequence[Any] = ()) -> sqlite3.Cursor:
        try:
            return self._connection.execute(sql, params)
        except sqlite3.Error as error:
            raise self.translate(error) from error

    def fetch(self, sql: str, params: Sequence[Any] = ()) -> list[Row]:
        try:
            return self._connection.execute(sql, params).fetchall()
        except sqlite3.Error as error:
            raise self.translate(error) from error

    def run(self, sql: str, params: Sequence[Any] = ()) -> int:
        return self.execute(sql, params).rowcount

    def begin_read(self) -> None:
        self.execute("BEGIN")

    def begin_write(self) -> Counter | None:
        self._begin(BUSY_TIMEOUT_S)
        return None

    def begin_migration(self) -> None:
        self._begin(MIGRATION_TIMEOUT_S)

    def _begin(self, patience_s: float) -> None:
        """Waits for the write lock.

        Not by SQLite's own waiting, which sleeps up to 100 ms between attempts: beside a process that writes all the
        time it may miss every gap, until the timeout.
        """
        if self._backend.check_moved():
            self._broken = True
            raise StorageUnavailable(f"the database file {self._backend.path} was moved, removed or replaced")
        self._marked = False
        started = time.monotonic()
        with self._turn.taken():
            while True:
                try:
                    self._connection.execute("BEGIN IMMEDIATE")
                    return
                except sqlite3.Error as error:
                    waited = time.monotonic() - started
                    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
                    if code != sqlite3.SQLITE_BUSY or waited > patience_s:
                        raise self.translate(error) from error
                _pause(waited)

    def commit(self, events: Sequence[Row] = (), counter: Counter | None = None) -> None:
        try:
            if events:
                self._connection.executemany(INSERT_EVENT, events)
            if counter is not None:
                self._connection.execute(UPDATE_COUNTER, (counter.revision, counter.events, counter.time_us))
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            raise self.translate(error) from error

    def mark(self) -> None:
        # Savepoints of one name nest; left open, they would pile up until the commit.
        if self._marked:
            self.execute("RELEASE SAVEPOINT one")
        self.execute("SAVEPOINT one")
        self._marked = True

    def rollback(self) -> None:
        try:
            # A full disk makes SQLite roll back by itself.
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
        except sqlite3.Error:
            self._broken = True

    def translate(self, error: Exception) -> Exception:
        cause = error.__context__ if isinstance(error, peewee.PeeweeException) else error
        if not isinstance(cause, sqlite3.Error):
            return error
        if isinstance(cause, sqlite3.IntegrityError):
            return IntegrityError(str(cause))
        code = getattr(cause, "sqlite_errorcode", 0) & 0xFF
        if code in _BREAKING:
            self._broken = True
        if code in _UNAVAILABLE:
            return StorageUnavailable(f"{_UNAVAILABLE[code]}: {self._backend.path} ({cause})")
        return StorageError(f"{type(cause).__name__}: {cause}")

    def close(self) -> None:
        self._broken = True
        self._turn.close()
        with suppress(sqlite3.Error):
            self._connection.close()


class _Turn:
    """Whose turn it is to write next, among processes: fairness only, SQLite's own lock is what protects.

    Who waits for the write lock holds this one (`flock` on a file beside the database). A process that has just
    written and wants to write again has to pass here first, so it cannot overtake the one that waits.
    """

    def __init__(self, database: Path | None) -> None:
        self._descriptor = -1
        if database is not None:
            # Without it, writing works all the same.
            with suppress(OSError):
                self._descriptor = os.open(f"{database}-turn", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Waits for the turn, but not for long: its holder may be stopped."""
        started = time.monotonic()
        while self._descriptor >= 0 and (waited := time.monotonic() - started) < _TURN_PATIENCE_S:
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                _pause(waited)
        try:
            yield
        finally:
            if self._descriptor >= 0:
                with suppress(OSError):
                    fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def close(self) -> None:
        """Closes the file."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


def _pause(waited_s: float) -> None:
    time.sleep(0.0005 if waited_s < 0.1 else 0.005)


class _BoundDatabase(peewee.SqliteDatabase):
    """peewee's idea of SQLite, over the connection of one session. It opens and closes nothing by itself."""

    def __init__(self, session: SqliteSession) -> None:
        super().__init__(None, thread_safe=False, autoconnect=False)
        # As on PostgreSQL: an insert returns the primary key, whatever its type.
        self.returning_clause = True
        self._session = session

    def execute_sql(self, sql: str, params: Sequence[Any] | None = None, *_: Any, **__: Any) -> sqlite3.Cursor:
        return self._session.execute(sql, params or ())


class SqliteBackend(Backend):
    """Opens connections to one SQLite file, which it creates (mode 0600) when there is none."""

    dialect: ClassVar[Dialect] = "sqlite"
    inline_reads: ClassVar[bool] = True

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            # An existing file is never opened and closed here: closing any descriptor of a file drops the POSIX locks
            # that SQLite connections of this process hold on it.
            if not path.exists():
                os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        except FileExistsError:
            pass
        except OSError as error:
            raise StorageUnavailable(f"cannot create the database file {path}: {error.strerror}") from error
        try:
            found = path.stat()
            if stat.S_IMODE(found.st_mode) & 0o077 and found.st_uid == os.geteuid():
                path.chmod(0o600)
        except OSError as error:
            raise StorageUnavailable(f"cannot open the database file {path}: {error.strerror}") from error
        self.identity = (found.st_dev, found.st_ino)

    def check_moved(self) -> bool:
        """Whether the path names another file than the connections have open, or none at all.

        SQLite would go on in the file that nobody finds again, and acknowledge what is then lost.
        """
        try:
            found = self.path.stat()
        except OSError:
            self.identity = (0, 0)
            return True
        moved = self.identity != (found.st_dev, found.st_ino)
        self.identity = (found.st_dev, found.st_ino)
        return moved

    def open_writer(self) -> Session:
        self.check_moved()
        return SqliteSession(self, writer=True, timeout_s=BUSY_TIMEOUT_S)

    def open_reader(self, *, inline: bool = False) -> Session:
        return SqliteSession(self, writer=False, timeout_s=0.02 if inline else BUSY_TIMEOUT_S)
