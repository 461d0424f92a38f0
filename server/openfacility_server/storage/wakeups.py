"""Learning that the log has grown, whoever wrote to it."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable

from openfacility_server.storage.errors import StorageError, StorageUnavailable
from openfacility_server.storage.store import Storage
from openfacility_server.storage.tx import ReadTx

SQLITE_POLL_S = 0.05
"""How soon another process's commit is seen on SQLite, seconds. A poll reads one row: about 10 microseconds."""
POSTGRES_POLL_S = 1.0
"""As above on PostgreSQL, where it only stands in for a lost notification."""
RECONNECT_MAX_S = 2.0

_log = logging.getLogger(__name__)


class Wakeups:
    """Calls `callback(revision)` on the loop when a revision may be new; often too often, never too seldom.

    Sources: commits of this process, a poll of the counter, and on PostgreSQL LISTEN. The counter is polled, and not
    `PRAGMA data_version`, as it costs the same and does not change for writes that are no events.
    """

    def __init__(self, storage: Storage, callback: Callable[[int], None]) -> None:
        self._storage = storage
        self._callback = callback
        self._tasks: list[asyncio.Task[None]] = []
        self._end: Callable[[], None] | None = None

    def start(self) -> None:
        """Begins; needs the running loop."""
        self._end = self._storage.on_commit(self._callback)
        sqlite = self._storage.dialect == "sqlite"
        poll = self._poll(SQLITE_POLL_S if sqlite else POSTGRES_POLL_S)
        self._tasks.append(asyncio.create_task(poll, name="log-poll"))
        if not sqlite:
            self._tasks.append(asyncio.create_task(self._listen(), name="log-listen"))

    async def stop(self) -> None:
        """Ends all of it."""
        if self._end:
            self._end()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()

    async def _poll(self, interval: float) -> None:
        waiting = interval
        while True:
            await asyncio.sleep(waiting)
            try:
                self._callback(await self._storage.point(ReadTx.current_revision))
                waiting = interval
            except StorageUnavailable:
                waiting = min(max(waiting * 2, interval), RECONNECT_MAX_S)
            except StorageError:
                _log.exception("cannot read the log's counter")
                waiting = RECONNECT_MAX_S

    async def _listen(self) -> None:
        waiting = 0.05
        while True:
            try:
                listener = await self._storage.listener()
            except StorageUnavailable:
                await asyncio.sleep(waiting * random.uniform(0.8, 1.2))
                waiting = min(waiting * 2, RECONNECT_MAX_S)
                continue
            try:
                waiting = 0.05
                # What was committed while nobody listened.
                self._callback(await self._storage.point(ReadTx.current_revision))
                await self._follow(listener.fileno(), listener.notified)
            except StorageUnavailable:
                _log.info("lost the connection that listens for changes; connecting again")
            finally:
                listener.close()

    async def _follow(self, descriptor: int, notified: Callable[[], list[int]]) -> None:
        """Passes notifications on until the connection breaks, which raises StorageUnavailable."""
        loop = asyncio.get_running_loop()
        broken: asyncio.Future[None] = loop.create_future()

        def readable() -> None:
            try:
                revisions = notified()
            except StorageUnavailable as error:
                loop.remove_reader(descriptor)
                if not broken.done():
                    broken.set_exception(error)
                return
            if revisions:
                self._callback(max(revisions))

        loop.add_reader(descriptor, readable)
        try:
            await broken
        finally:
            loop.remove_reader(descriptor)
