"""`Storage`: the database as the rest of the server sees it."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from urllib.parse import unquote, urlsplit

from openfacility_server.storage.errors import Retry, StorageError, StorageUnavailable
from openfacility_server.storage.migrations import Migrations, migrate
from openfacility_server.storage.schema import MIGRATIONS
from openfacility_server.storage.session import Backend, Dialect, Listener, Session
from openfacility_server.storage.sqlite import SqliteBackend
from openfacility_server.storage.tx import ReadTx, Tx
from openfacility_server.storage.writer import Writer

READERS = 4
"""Threads that read, each with a connection of its own."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Statistics:
    """Counts since the storage was opened; for metrics."""

    writes: int
    """Write functions that were committed or that raised."""
    commits: int
    """Transactions that they took."""
    waiting: int
    """Write functions that wait now."""


class Storage:
    """One database, shared by everything in this process and by other processes.

    Functions given to `write`, `read` and `point` run synchronously inside one transaction. They must not await, start
    threads, keep the `tx`, or do anything but compute and query: a write function is run again from its start when its
    transaction collides with another one or is committed apart from its group.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._listeners: list[tuple[asyncio.AbstractEventLoop, Callable[[int], None]]] = []
        self._writer = Writer(backend, backend.open_writer(), self._committed)
        self._readers = concurrent.futures.ThreadPoolExecutor(READERS, thread_name_prefix="storage-reader")
        self._local = threading.local()
        self._sessions: set[Session] = set()
        self._sessions_lock = threading.Lock()
        self._inline: Session | None = None
        self._inline_thread = 0
        self._closed = False

    @classmethod
    def open(cls, url: str) -> Storage:
        """Connects to `sqlite:///absolute/path` or `postgresql://user@host:port/database` (also `?host=/socket/dir`).

        A SQLite file that is not there is created with mode 0600. Blocks while connecting, a few seconds at most.
        Raises ValueError when the URL is of no use, StorageUnavailable when the database is not there.
        """
        scheme = url.partition(":")[0].lower()
        if scheme == "sqlite":
            parts = urlsplit(url)
            path = unquote(parts.path)
            if parts.netloc or not path.startswith("/") or path.endswith("/") or parts.query or parts.fragment:
                raise ValueError("a SQLite URL is sqlite:///absolute/path/of/the/file.db")
            return cls(SqliteBackend(Path(path)))
        if scheme in {"postgresql", "postgres"}:
            try:
                from openfacility_server.storage.postgres import PostgresBackend  # noqa: PLC0415 - an optional extra
            except ImportError as error:
                raise StorageUnavailable("PostgreSQL needs psycopg: pip install 'openfacility[postgres]'") from error
            return cls(PostgresBackend(url))
        raise ValueError("a database URL begins with sqlite:/// or postgresql://")

    @property
    def dialect(self) -> Dialect:
        """Which database this is."""
        return self._backend.dialect

    @property
    def backend(self) -> Backend:
        """How connections are made; for the log's wake-ups."""
        return self._backend

    def statistics(self) -> Statistics:
        """What this process has written so far."""
        return Statistics(self._writer.writes, self._writer.groups, self._writer.waiting)

    async def start(self, migrations: Migrations | None = None) -> None:
        """Brings the schema up to date: the storage's own tables, then `migrations` in their order.

        Raises SchemaTooNew, StorageUnavailable, or what a migration raises.
        """
        await asyncio.wrap_future(self._start(migrations))

    def start_sync(self, migrations: Migrations | None = None) -> None:
        """As `start`, for tools without an event loop."""
        self._start(migrations).result()

    def _start(self, migrations: Migrations | None) -> concurrent.futures.Future[None]:
        steps: Migrations = {"storage": MIGRATIONS, **(migrations or {})}
        return self._writer.call(lambda session: migrate(session, steps))

    async def close(self) -> None:
        """Finishes the writes that wait, then closes every connection. Further calls raise StorageUnavailable."""
        self._closed = True
        # On the thread that uses it.
        inline, self._inline = self._inline, None
        if inline:
            inline.close()
        await asyncio.get_running_loop().run_in_executor(None, self.close_sync)

    def close_sync(self) -> None:
        """As `close`, for tools without an event loop."""
        self._closed = True
        self._writer.close()
        self._readers.shutdown(wait=True)
        with self._sessions_lock:
            sessions, self._sessions = self._sessions, set()
        for session in sessions:
            session.close()
        if self._inline:
            self._inline.close()
            self._inline = None

    async def write(self, fn: Callable[[Tx], T]) -> T:
        """Runs `fn` in one write transaction and returns its result once that is committed and durable.

        What `fn` raises undoes the transaction and is raised here. A caller that is cancelled while its write waits
        takes it back; once it runs, it is carried out. Raises StorageUnavailable.
        """
        result: T = await self._writer.submit(fn, asyncio.get_running_loop())
        return result

    def write_sync(self, fn: Callable[[Tx], T]) -> T:
        """As `write`, for tools without an event loop; blocks."""
        if self._writer.on_writer_thread():
            raise StorageError("a write function must not wait for another write")
        result: T = self._writer.submit(fn, None).result()
        return result

    async def read(self, fn: Callable[[ReadTx], T]) -> T:
        """Runs `fn` on a reading thread; all of its statements see one state. Raises StorageUnavailable."""
        return await asyncio.wrap_future(self._in_pool(lambda: self._read(fn)))

    def read_sync(self, fn: Callable[[ReadTx], T]) -> T:
        """As `read`, for tools without an event loop; blocks."""
        return self._in_pool(lambda: self._read(fn)).result()

    async def point(self, fn: Callable[[ReadTx], T]) -> T:
        """Runs `fn` the quickest way; for one look-up by key.

        On SQLite it runs at once on the event loop's thread, on PostgreSQL on a reading thread; without a transaction
        around it, which would cost as much as the look-up: each statement sees the newest state. Raises
        StorageUnavailable.
        """
        if self._backend.inline_reads:
            try:
                return self._point_inline(fn)
            except StorageUnavailable:
                # Locked for a moment, or broken: the pool waits, and reconnects.
                return await self.read(fn)
        return await asyncio.wrap_future(self._in_pool(lambda: self._read_plain(fn)))

    async def ping(self) -> None:
        """Asks the database for an answer. Raises StorageUnavailable when there is none."""
        await self.read(lambda tx: tx.value("SELECT 1"))

    async def listener(self) -> Listener:
        """Opens a connection that hears of every process's commits; PostgreSQL only. Raises StorageUnavailable."""
        opening = self._in_pool(self._backend.open_listener)
        try:
            return await asyncio.wrap_future(opening)
        except asyncio.CancelledError:
            # The pool connects all the same, and nobody else would close that.
            opening.add_done_callback(_close_opened)
            raise

    def on_commit(self, callback: Callable[[int], None]) -> Callable[[], None]:
        """Calls `callback(revision)` on the running loop after each commit of this process that took a revision.

        Returns a function that ends it. Commits of other processes are not seen here; see `Wakeups`.
        """
        entry = (asyncio.get_running_loop(), callback)
        self._listeners = [*self._listeners, entry]

        def end() -> None:
            self._listeners = [other for other in self._listeners if other is not entry]

        return end

    def _committed(self, revision: int) -> None:
        for loop, callback in self._listeners:
            try:
                loop.call_soon_threadsafe(callback, revision)
            except RuntimeError:
                continue  # That loop is closed.

    def _in_pool(self, call: Callable[[], T]) -> concurrent.futures.Future[T]:
        try:
            return self._readers.submit(call)
        except RuntimeError as error:
            raise StorageUnavailable("the storage is closed") from error

    def _session(self) -> Session:
        """This reading thread's connection; a new one when it broke."""
        session: Session | None = getattr(self._local, "session", None)
        if session is not None and not session.broken:
            return session
        if session is not None:
            session.close()
            with self._sessions_lock:
                self._sessions.discard(session)
            self._local.session = None
        session = self._backend.open_reader()
        with self._sessions_lock:
            self._sessions.add(session)
        self._local.session = session
        return session

    def _read(self, fn: Callable[[ReadTx], T]) -> T:
        return self._attempt(lambda session: _in_snapshot(session, fn))

    def _read_plain(self, fn: Callable[[ReadTx], T]) -> T:
        return self._attempt(lambda session: _translated(session, fn))

    def _attempt(self, run: Callable[[Session], T]) -> T:
        """Reading twice does no harm: once more on a fresh connection when the old one turned out to be dead."""
        session = self._session()
        try:
            return run(session)
        except StorageUnavailable:
            if not session.broken:
                raise
        except Retry:
            pass
        return run(self._session())

    def _point_inline(self, fn: Callable[[ReadTx], T]) -> T:
        session = self._inline
        if session is None or session.broken:
            if self._closed:
                raise StorageUnavailable("the storage is closed")
            if session:
                session.close()
            session = self._inline = self._backend.open_reader(inline=True)
            self._inline_thread = threading.get_ident()
        if self._inline_thread != threading.get_ident():
            raise StorageUnavailable("another thread has the inline connection")
        return _translated(session, fn)


def _close_opened(opening: concurrent.futures.Future[Listener]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result().close()


def _in_snapshot(session: Session, fn: Callable[[ReadTx], T]) -> T:
    session.begin_read()
    try:
        return _translated(session, fn)
    finally:
        session.rollback()


def _translated(session: Session, fn: Callable[[ReadTx], T]) -> T:
    try:
        return fn(ReadTx(session))
    except Exception as error:
        mapped = session.translate(error)
        if mapped is error:
            raise
        raise mapped from error
