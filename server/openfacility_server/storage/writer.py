"""The one thread that writes, and group commit.

Writes that wait are run one after the other in one transaction, each in a savepoint of its own, and committed
together: one fsync (SQLite) or one commit round trip (PostgreSQL) serves all of them. No timer is involved; the group
is what gathered while the group before was being committed.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import random
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from openfacility_server.storage.errors import Retry, StorageError, StorageUnavailable
from openfacility_server.storage.session import Backend, Session
from openfacility_server.storage.tx import Group, Tx, expire_requests

MAX_GROUP = 128
"""Most writes committed together."""
MAX_WAITING = 8192
"""Most writes that may wait; more are refused as StorageUnavailable, so that a stuck database cannot fill memory."""
MAX_ATTEMPTS = 6
"""How often a write that collides with others is begun before it is given up."""
_EXPIRE_CHUNK = 500
_EXPIRE_EVERY_S = 60.0

WriteFn = Callable[[Tx], Any]


@dataclass(slots=True, eq=False)
class _Work:
    """One call of `write` that waits for its turn."""

    fn: WriteFn
    future: asyncio.Future[Any] | concurrent.futures.Future[Any]
    loop: asyncio.AbstractEventLoop | None


@dataclass(slots=True, eq=False)
class _Outcome:
    work: _Work
    value: Any = None
    error: BaseException | None = None


class Writer:
    """Runs write functions on its own thread, over its own connection, which it replaces when it breaks."""

    def __init__(self, backend: Backend, session: Session, on_commit: Callable[[int], None]) -> None:
        self._backend = backend
        self._session: Session | None = session
        self._on_commit = on_commit
        self._queue: deque[_Work] = deque()
        self._lock = threading.Lock()
        self._running = False
        self._closed = False
        self._executor = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="storage-writer")
        self._thread = 0
        self._next_expiry = time.monotonic() + _EXPIRE_EVERY_S
        self.groups = 0
        """Transactions committed."""
        self.writes = 0
        """Write functions run in them."""

    def submit(self, fn: WriteFn, loop: asyncio.AbstractEventLoop | None) -> Any:
        """Queues `fn`; returns a future of `loop`, or a concurrent one when `loop` is None."""
        future: asyncio.Future[Any] | concurrent.futures.Future[Any]
        future = loop.create_future() if loop else concurrent.futures.Future()
        with self._lock:
            if self._closed:
                raise StorageUnavailable("the storage is closed")
            if len(self._queue) >= MAX_WAITING:
                raise StorageUnavailable(f"more than {MAX_WAITING} writes are waiting")
            self._queue.append(_Work(fn, future, loop))
            if not self._running:
                self._running = True
                self._executor.submit(self._drain)
        return future

    def call(self, fn: Callable[[Session], Any]) -> concurrent.futures.Future[Any]:
        """Runs `fn` with the bare connection on the writer's thread, between groups; for migrations."""

        def run() -> Any:
            return fn(self._connected())

        return self._executor.submit(run)

    def close(self) -> None:
        """Finishes what waits and closes the connection. Blocks."""
        with self._lock:
            self._closed = True
        self._executor.shutdown(wait=True)
        if self._session:
            self._session.close()

    @property
    def waiting(self) -> int:
        """How many writes wait."""
        return len(self._queue)

    def on_writer_thread(self) -> bool:
        """Whether the caller is a write function: waiting for another write there would never end."""
        return threading.get_ident() == self._thread

    def _connected(self) -> Session:
        session = self._session
        if session is not None and session.broken:
            session.close()
            session = self._session = None
        if session is None:
            session = self._session = self._backend.open_writer()
        return session

    def _drain(self) -> None:
        self._thread = threading.get_ident()
        while True:
            with self._lock:
                if not self._queue:
                    self._running = False
                    return
                works = [self._queue.popleft()]
            try:
                outcomes = self._serve(works)
            except BaseException as error:  # noqa: BLE001 - whatever it is, the callers must not wait for ever
                outcomes = [_Outcome(work, error=error) for work in works]
            self._deliver(outcomes)
            self._expire()

    def _serve(self, works: list[_Work]) -> list[_Outcome]:
        """Runs the first of `works` and, with it, what waits behind it (which it adds to `works`)."""
        if works[0].future.cancelled():
            return []
        if not self._queue:
            return [self._alone(works[0])]
        outcomes = self._together(works)
        if outcomes is None:
            outcomes = []
            for work in works:
                outcomes.append(self._alone(work))
                if isinstance(outcomes[-1].error, StorageUnavailable) and self._connection_lost():
                    rest = works[len(outcomes) :]
                    return outcomes + [_Outcome(other, error=outcomes[-1].error) for other in rest]
        return outcomes

    def _connection_lost(self) -> bool:
        return self._session is None or self._session.broken

    def _together(self, works: list[_Work]) -> list[_Outcome] | None:
        """Group commit. None: nothing was committed; run each alone to learn whose fault it is."""
        session: Session | None = None
        outcomes: list[_Outcome] = []
        again: list[_Work] = []
        committing = False
        try:
            session = self._connected()
            group = Group(session, session.begin_write())
            index = 0
            while index < len(works):
                work = works[index]
                index += 1
                if not work.future.cancelled():
                    mark = group.mark()
                    session.mark()
                    outcome = _run(work, Tx(group))
                    if isinstance(outcome.error, StorageUnavailable):
                        session.rollback()
                        return None
                    if outcome.error is not None:
                        session.undo()
                        group.reset(mark)
                    if isinstance(outcome.error, Retry):
                        again.append(work)
                    else:
                        outcomes.append(outcome)
                if index == len(works) and index < MAX_GROUP:
                    with self._lock:
                        if self._queue:
                            works.append(self._queue.popleft())
            committing = True
            self._commit(session, group, len(outcomes))
        except StorageError as error:
            if session:
                session.rollback()
                if committing and session.broken:
                    # The commit may have happened: running anything again could do it twice.
                    return [_Outcome(work, error=error) for work in works]
            return None
        outcomes.extend(self._alone(work) for work in again)
        return outcomes

    def _alone(self, work: _Work) -> _Outcome:
        """One write in one transaction; run again when it collided, or when the connection had died before it began."""
        outcome = _Outcome(work)
        reconnected = False
        attempt = 0
        while attempt < MAX_ATTEMPTS:
            attempt += 1
            session: Session | None = None
            committing = False
            try:
                session = self._connected()
                group = Group(session, session.begin_write())
                outcome = _run(work, Tx(group))
                if outcome.error is None:
                    committing = True
                    self._commit(session, group, 1)
                    return outcome
                session.rollback()
            except StorageError as error:
                outcome.error = error
                if session:
                    session.rollback()
            if isinstance(outcome.error, Retry):
                time.sleep(random.uniform(0.002, 0.02) * attempt)
            elif isinstance(outcome.error, StorageUnavailable) and session and session.broken:
                # Once more on a fresh connection, unless the commit itself was lost: it may have happened.
                if reconnected or committing:
                    break
                reconnected = True
            else:
                break
        if isinstance(outcome.error, Retry):
            outcome.error = StorageUnavailable(f"gave up after {attempt} collisions: {outcome.error}")
        return outcome

    def _commit(self, session: Session, group: Group, writes: int) -> None:
        changed = group.changed
        session.commit(group.events, changed)
        self.groups += 1
        self.writes += writes
        if group.remembered:
            self._next_expiry = min(self._next_expiry, time.monotonic() + _EXPIRE_EVERY_S)
        if changed:
            self._on_commit(changed.revision)

    def _expire(self) -> None:
        """Removes old answers in small chunks, after a group and never as part of one."""
        if time.monotonic() < self._next_expiry:
            return
        self._next_expiry = time.monotonic() + _EXPIRE_EVERY_S
        future: concurrent.futures.Future[Any] = concurrent.futures.Future()
        outcome = self._alone(_Work(lambda tx: expire_requests(tx, _EXPIRE_CHUNK), future, None))
        if outcome.value == _EXPIRE_CHUNK:
            self._next_expiry = 0.0

    def _deliver(self, outcomes: list[_Outcome]) -> None:
        by_loop: dict[asyncio.AbstractEventLoop | None, list[_Outcome]] = {}
        for outcome in outcomes:
            by_loop.setdefault(outcome.work.loop, []).append(outcome)
        for loop, mine in by_loop.items():
            if loop is None:
                _resolve(mine)
                continue
            try:
                loop.call_soon_threadsafe(_resolve, mine)
            except RuntimeError:
                # The loop was closed: nobody waits any more.
                continue


def _run(work: _Work, tx: Tx) -> _Outcome:
    try:
        return _Outcome(work, value=work.fn(tx))
    except Exception as error:  # noqa: BLE001 - it is the caller's and goes to the caller
        return _Outcome(work, error=tx.translate(error))


def _resolve(outcomes: list[_Outcome]) -> None:
    for outcome in outcomes:
        future = outcome.work.future
        # Cancelled meanwhile: the write has happened all the same.
        if future.done():
            continue
        if outcome.error is not None:
            future.set_exception(outcome.error)
        else:
            future.set_result(outcome.value)
