"""One watcher: a cursor, not a queue."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Hashable
from types import TracebackType
from typing import Protocol, Self

from openfacility_server.events.event import (
    NOTHING,
    Batch,
    Compacted,
    Event,
    FutureRevision,
    HubStopping,
    Slice,
    WatchError,
)
from openfacility_server.events.log import Page
from openfacility_server.events.pace import Pacer
from openfacility_server.events.ring import Match, Ring
from openfacility_server.storage import StorageUnavailable

LOG_PATIENCE_S = 30.0
"""How long a watcher that has to read the log waits for the database before it gives up, seconds."""
_IDLE = -1


class Host(Protocol):
    """What a watcher needs of its hub."""

    ring: Ring
    stopping: bool
    pacer: Pacer

    def register(self, watcher: Watcher) -> None:
        """Lets the watcher be marked by events of interest."""

    def rest(self, watcher: Watcher) -> None:
        """Says that the watcher has seen everything."""

    def unregister(self, watcher: Watcher) -> None:
        """Forgets the watcher."""

    async def refresh(self) -> int:
        """The newest revision in the database."""

    async def reached(self, revision: int) -> None:
        """Waits until the ring has this revision, the hub stops, or the log begins anew: look which."""

    async def page(self, after: int, topic: str, interest: Collection[str] | None) -> Page:
        """Reads a piece of the log."""


class Watcher:
    """An endless iterator of batches, made by `EventHub.watch`. For one consumer; close it in a `finally`.

    It holds a position only. What the consumer does not ask for is not kept for it: the next batch has everything
    since the previous one, from the ring, or from the log when the ring has moved on.

    Iterating raises Compacted or FutureRevision when the position cannot be watched from, HubStopping when the server
    stops (after a last batch), StorageUnavailable when the log had to be read and could not for half a minute. It ends
    after `close`.
    """

    __slots__ = (
        "_after",
        "_behind",
        "_bookmark",
        "_caught_up",
        "_closed",
        "_final",
        "_from_log",
        "_group",
        "_host",
        "_match",
        "_opened",
        "_pending",
        "_target",
        "_turn",
        "_waiter",
        "bookmark_at",
        "failure",
        "interest",
        "resyncs",
        "topic",
    )

    def __init__(
        self,
        host: Host,
        topic: str,
        after: int | None,
        interest: frozenset[str] | None,
        match: Match | None,
        group: Hashable | None,
    ) -> None:
        self._host = host
        self.topic = topic
        self.interest = interest
        self._match = match
        if group is None and interest is None and match is None:
            group = Watcher  # Everything of the topic: alike for all who want that.
        self._group = group
        self._after = host.ring.revision if after is None else after
        self._target = host.ring.revision
        self._pending = _IDLE
        """Position in the ring of the first event not looked at that may match; _IDLE: there is none."""
        self._behind = 0
        """While not idle: everything up to this revision was delivered."""
        self._from_log = False
        self._opened = False
        self._closed = False
        self._final = False
        self._caught_up = False
        self._bookmark = False
        self._turn = False
        self._waiter: asyncio.Future[None] | None = None
        self.bookmark_at = 0.0
        """When an idle watcher is due a bookmark, on the monotonic clock."""
        self.failure: WatchError | None = None
        """What the next iteration raises."""
        self.resyncs = 0
        """How often it fell off the ring and was read from the log."""

    @property
    def revision(self) -> int:
        """The watcher is complete up to this revision."""
        if not self._opened:
            return self._after
        return self._host.ring.revision if self._pending == _IDLE else self._behind

    @property
    def finished(self) -> bool:
        """Whether it gives nothing more but the end."""
        return self._final or self._closed

    @property
    def idle(self) -> bool:
        """Whether it has been given everything there is and waits for more."""
        return self._pending == _IDLE and self._waiter is not None

    def __aiter__(self) -> Self:
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the watch; whoever waits for a batch gets the end of the iteration. Closing twice does no harm."""
        if not self._closed:
            self._closed = True
            self._host.unregister(self)
            self.wake()

    def mark(self, position: int, revision: int) -> None:
        """Called by the hub: the event of `revision` at `position` may be of interest."""
        if self._pending == _IDLE:
            self._pending = position
            self._behind = revision - 1
            waiter = self._waiter
            if waiter is not None:
                self._waiter = None
                if not waiter.done():
                    waiter.set_result(None)

    def wake(self) -> None:
        """Lets whoever waits look again."""
        waiter = self._waiter
        if waiter is not None:
            self._waiter = None
            if not waiter.done():
                waiter.set_result(None)

    def bookmark(self) -> None:
        """Called by the hub: send the position though nothing happened."""
        if self.idle:
            self._bookmark = True
            self.wake()

    async def __anext__(self) -> Batch:
        while True:
            if self._closed:
                raise StopAsyncIteration
            if self.failure is not None:
                raise self.failure
            if self._final or (self._host.stopping and not self._opened):
                raise HubStopping
            if not self._opened:
                await self._open()
                continue
            if self._from_log:
                batch = await self._read_log()
            elif self._pending != _IDLE and not self._turn and not self._host.stopping:
                await self._host.pacer.turn()
                self._turn = True
                continue
            else:
                self._turn = False
                batch = self._read_ring()
            if batch is not None:
                return batch

            if self._pending != _IDLE:
                # Much was looked through in vain: let others have their turn.
                await asyncio.sleep(0)
            else:
                self._waiter = asyncio.get_running_loop().create_future()
                try:
                    await self._waiter
                finally:
                    self._waiter = None

    async def _open(self) -> None:
        """Finds the place to begin at."""
        host = self._host
        if self._after > host.ring.revision:
            # Read from a list a moment ago, and the ring is not there yet; or from another life of the database.
            current = await host.refresh()
            if self._after > current:
                raise FutureRevision(self._after, host.ring.floor, current)
            await host.reached(self._after)
            if self._closed or self.failure is not None or host.ring.revision < self._after:
                return
        self._opened = True
        self._behind = self._after
        position = host.ring.after(self._after)
        if position is None:
            self._pending = 0
            self._from_log = True
        else:
            self._settle(position)
        host.register(self)

    def _settle(self, position: int) -> None:
        """Goes on at a position of the ring."""
        self._from_log = False
        if position >= self._host.ring.head:
            self._pending = _IDLE
            self._host.rest(self)
        else:
            self._pending = position

    def _read_ring(self) -> Batch | None:
        host = self._host
        ring = host.ring
        part = NOTHING
        if self._pending != _IDLE:
            if self._pending < ring.base:
                self._from_log = True
                self.resyncs += 1
                return self._bookmark_now(self._behind) if host.stopping else None
            part = ring.look(self._group, self._pending, self.topic, self.interest, self._match)
            self._behind = part.revision
            self._settle(part.end)
        return self._batch(part, self.revision)

    async def _read_log(self) -> Batch | None:
        host = self._host
        if host.stopping:
            return self._bookmark_now(self._behind)
        page = await self._page()
        if page.revision > host.ring.revision:
            # The database is ahead of the ring. Were the ring joined now, it would deliver the page's end again.
            await host.reached(page.revision)
        # No await from here on: a consumer that is cancelled and asks again misses nothing.
        if self._closed or self.failure is not None or page.revision > host.ring.revision:
            return None
        if self._behind < page.oldest:
            raise Compacted(self._behind, page.oldest, page.current)
        interest, match = self.interest, self._match
        events: list[Event] = [
            event
            for event in page.events
            if (interest is None or not interest.isdisjoint(event.tags)) and (match is None or match(event))
        ]
        self._behind = page.revision
        position = host.ring.after(page.revision)
        if position is not None:
            self._settle(position)
        return self._batch(Slice(tuple(events), -1, page.revision), page.revision)

    async def _page(self) -> Page:
        deadline = time.monotonic() + LOG_PATIENCE_S
        waiting = 0.05
        while True:
            try:
                return await self._host.page(self._behind, self.topic, self.interest)
            except StorageUnavailable:
                if self._closed or self._host.stopping or time.monotonic() > deadline:
                    raise
            await asyncio.sleep(waiting)
            waiting = min(waiting * 2, 1.0)

    def _batch(self, part: Slice, revision: int) -> Batch | None:
        """The batch to deliver, or None when there is nothing to say."""
        stopping = self._host.stopping
        caught_up = not self._caught_up and revision >= self._target
        if not (part.events or caught_up or self._bookmark or stopping):
            return None
        self._caught_up |= caught_up
        self._bookmark = False
        self._final = stopping
        self.bookmark_at = 0.0
        return Batch(part, revision, caught_up)

    def _bookmark_now(self, revision: int) -> Batch:
        self._final = True
        return Batch(NOTHING, revision, False)
