"""PostgreSQL through psycopg 3: for several replicas.

Why commit order equals revision order: a write transaction begins by locking the one row of `log_counter`
(`SELECT ... FOR UPDATE`) and keeps that lock until it has committed. PostgreSQL makes a transaction visible before it
releases its locks, so the next writer, and every snapshot that sees the next writer's revision, sees this one too. A
snapshot whose counter says N therefore holds every event up to N: no gap can appear later below it. No sequence is
involved, whose numbers would be taken in another order than they are committed and lost on a rollback.

It also gives a write transaction the meaning it has on SQLite: there is one at a time, over all processes, and it sees
everything that was committed before. A domain that is right on SQLite cannot lose an update on PostgreSQL.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any, ClassVar

import peewee
import psycopg
from psycopg import errors as pg
from psycopg.conninfo import make_conninfo

from openfacility_server.storage.errors import IntegrityError, Retry, StorageError, StorageUnavailable
from openfacility_server.storage.session import (
    INSERT_EVENT,
    UPDATE_COUNTER,
    Backend,
    Counter,
    Dialect,
    Row,
    Session,
)
from openfacility_server.storage.sql import to_format_style

CONNECT_TIMEOUT_S = 5
LOCK_TIMEOUT_MS = 5_000
STATEMENT_TIMEOUT_MS = 60_000
IDLE_IN_TRANSACTION_TIMEOUT_MS = 15_000
"""A process that stops in the middle of a write (SIGSTOP, a frozen VM) loses its transaction after this, so that the
others can go on."""
NOTIFY_CHANNEL = "openfacility_log"
_MIGRATION_LOCK = 0x6F66_6D69  # "ofmi": any constant that nobody else uses in this database.

# Errors that pass by themselves or need an administrator, but no change of ours.
_UNAVAILABLE = (
    psycopg.OperationalError,
    psycopg.InterfaceError,
    pg.ReadOnlySqlTransaction,  # connected to a standby after a failover
    pg.InsufficientResources,
    pg.OperatorIntervention,
)
_COLLISION = (pg.SerializationFailure, pg.DeadlockDetected)


class PostgresSession(Session):
    """One PostgreSQL connection in autocommit mode; transactions are begun by hand."""

    dialect: ClassVar[Dialect] = "postgresql"

    def __init__(self, backend: PostgresBackend) -> None:
        try:
            self._connection = psycopg.connect(backend.conninfo, autocommit=True)
        except psycopg.Error as error:
            raise StorageUnavailable(f"cannot connect to {backend.shown}: {error}") from error
        self._shown = backend.shown
        self._marked = False
        self.database = _BoundDatabase(self)

    @property
    def broken(self) -> bool:
        return self._connection.broken or self._connection.closed

    def execute(self, sql: str, params: Sequence[Any] = ()) -> psycopg.Cursor[Row]:
        try:
            return self._connection.execute(sql, params or None)
        except psycopg.Error as error:
            raise self.translate(error) from error

    def fetch(self, sql: str, params: Sequence[Any] = ()) -> list[Row]:
        try:
            # psycopg leaves percent signs alone when there are no parameters; pass () so that one rule holds.
            return self._connection.execute(to_format_style(sql), params).fetchall()
        except psycopg.Error as error:
            raise self.translate(error) from error

    def run(self, sql: str, params: Sequence[Any] = ()) -> int:
        try:
            return self._connection.execute(to_format_style(sql), params).rowcount
        except psycopg.Error as error:
            raise self.translate(error) from error

    def begin_read(self) -> None:
        self.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")

    def begin_write(self) -> Counter | None:
        try:
            # Both in one round trip. READ COMMITTED: once the lock is ours, each statement sees all that is committed.
            cursor = self._connection.execute(_BEGIN_WRITE, prepare=False)
            self._marked = False
            cursor.nextset()
            row = cursor.fetchone()
        except psycopg.Error as error:
            raise self.translate(error) from error
        if row is None:
            raise StorageError("log_counter has no row")
        return Counter(*row)

    def begin_migration(self) -> None:
        self.execute("BEGIN")
        self.execute("SET LOCAL lock_timeout = 0")
        self.execute("SET LOCAL statement_timeout = 0")
        self.execute(f"SELECT pg_advisory_xact_lock({_MIGRATION_LOCK})")

    def commit(self, events: Sequence[Row] = (), counter: Counter | None = None) -> None:
        try:
            if not events and counter is None:
                self._connection.execute("COMMIT")
                return
            # One round trip. A statement that fails keeps the server from executing those after it.
            with self._connection.pipeline(), self._connection.cursor() as cursor:
                for event in events:
                    cursor.execute(_INSERT_EVENT, event)
                if counter is not None:
                    cursor.execute(_UPDATE_COUNTER, (counter.revision, counter.events, counter.time_us))
                    cursor.execute(_NOTIFY, (str(counter.revision),))
                cursor.execute("COMMIT")
        except psycopg.Error as error:
            raise self.translate(error) from error

    def mark(self) -> None:
        try:
            # One round trip for the end of the write before and the beginning of this one.
            self._connection.execute(
                "RELEASE SAVEPOINT one; SAVEPOINT one" if self._marked else "SAVEPOINT one", prepare=False
            )
        except psycopg.Error as error:
            raise self.translate(error) from error
        self._marked = True

    def rollback(self) -> None:
        # A connection that cannot roll back is broken, and psycopg knows it.
        with suppress(psycopg.Error):
            if not self.broken:
                self._connection.execute("ROLLBACK")

    def translate(self, error: Exception) -> Exception:
        cause = error.__context__ if isinstance(error, peewee.PeeweeException) else error
        if not isinstance(cause, psycopg.Error):
            return error
        text = str(cause).strip().replace("\n", " ")
        if isinstance(cause, psycopg.IntegrityError):
            return IntegrityError(text)
        if isinstance(cause, _COLLISION):
            return Retry(text)
        if isinstance(cause, _UNAVAILABLE):
            return StorageUnavailable(f"{self._shown}: {text}")
        return StorageError(f"{type(cause).__name__}: {text}")

    def close(self) -> None:
        with suppress(psycopg.Error):
            self._connection.close()


class PostgresListener:
    """A connection that LISTENs. Opened on any thread, then used on the event loop's only."""

    def __init__(self, backend: PostgresBackend) -> None:
        self._shown = backend.shown
        try:
            self._connection = psycopg.connect(backend.conninfo, autocommit=True)
            self._connection.execute(f"LISTEN {NOTIFY_CHANNEL}")
        except psycopg.Error as error:
            raise StorageUnavailable(f"cannot listen on {backend.shown}: {error}") from error

    def fileno(self) -> int:
        """The socket."""
        return self._connection.fileno()

    def notified(self) -> list[int]:
        """Reads what the socket has, without waiting."""
        revisions: list[int] = []
        connection = self._connection.pgconn
        try:
            connection.consume_input()
            while notification := connection.notifies():
                revisions.append(int(notification.extra or b"0"))
        except psycopg.Error as error:
            raise StorageUnavailable(f"{self._shown}: {error}") from error
        return revisions

    def close(self) -> None:
        """Closes the connection."""
        with suppress(psycopg.Error):
            self._connection.close()


class _BoundDatabase(peewee.PostgresqlDatabase):
    """peewee's idea of PostgreSQL, over the connection of one session. It opens and closes nothing by itself."""

    def __init__(self, session: PostgresSession) -> None:
        super().__init__(None, thread_safe=False, autoconnect=False, prefer_psycopg3=True)
        self._session = session

    def execute_sql(self, sql: str, params: Sequence[Any] | None = None, *_: Any, **__: Any) -> psycopg.Cursor[Row]:
        return self._session.execute(sql, params or ())


class PostgresBackend(Backend):
    """Opens connections to one PostgreSQL database."""

    dialect: ClassVar[Dialect] = "postgresql"
    inline_reads: ClassVar[bool] = False

    def __init__(self, url: str) -> None:
        try:
            parsed = psycopg.conninfo.conninfo_to_dict(url)
        except psycopg.Error as error:
            raise ValueError(f"not a PostgreSQL URL: {error}") from error
        self.shown = "PostgreSQL {}:{}/{}".format(
            parsed.get("host", "localhost"), parsed.get("port", 5432), parsed.get("dbname", "")
        )
        """What logs may show of the address: no password."""
        options = " ".join(
            f"-c {name}={value}"
            for name, value in {
                "lock_timeout": LOCK_TIMEOUT_MS,
                "statement_timeout": STATEMENT_TIMEOUT_MS,
                "idle_in_transaction_session_timeout": IDLE_IN_TRANSACTION_TIMEOUT_MS,
                "default_transaction_isolation": r"read\ committed",
                "client_encoding": "UTF8",
                "timezone": "UTC",
            }.items()
        )
        defaults: dict[str, Any] = {
            "connect_timeout": CONNECT_TIMEOUT_S,
            "application_name": "openfacility",
            "keepalives_idle": 10,
            "keepalives_interval": 5,
            "keepalives_count": 3,
            "tcp_user_timeout": 20_000,
        }
        given = str(parsed.get("options", "") or "")
        self.conninfo = make_conninfo(url, **{**defaults, **parsed, "options": f"{options} {given}".strip()})

    def open_writer(self) -> Session:
        return PostgresSession(self)

    def open_listener(self) -> PostgresListener:
        return PostgresListener(self)

    def open_reader(self, *, inline: bool = False) -> Session:
        return PostgresSession(self)


_BEGIN_WRITE = "BEGIN; SELECT revision, events, time_us FROM log_counter WHERE id = 1 FOR UPDATE"
_INSERT_EVENT = to_format_style(INSERT_EVENT)
_UPDATE_COUNTER = to_format_style(UPDATE_COUNTER)
_NOTIFY = f"SELECT pg_notify('{NOTIFY_CHANNEL}', %s)"
