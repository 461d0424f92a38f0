"""The hub: follows the log, keeps its newest part in a ring, and wakes watchers."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Collection, Hashable
from datetime import timedelta

from openfacility_server.events.event import Compacted, Event, HubStopping
from openfacility_server.events.log import Page, compact_chunk, compactable, newest, read_page
from openfacility_server.events.pace import Pacer
from openfacility_server.events.ring import Match, Ring
from openfacility_server.events.watcher import Watcher
from openfacility_server.storage import ReadTx, Storage, StorageError, StorageUnavailable
from openfacility_server.storage.wakeups import Wakeups

WARM_EVENTS = 5_000
"""How many of the newest events a starting hub reads, so that those who resume need not read the log each."""
STOP_TIMEOUT_S = 0.8
"""How long `stop` waits for watchers to take their last batch, seconds."""
COMPACT_EVERY_S = 30.0
COMPACT_CHUNK = 500
"""Events removed per transaction; writers wait for one chunk at most."""
_BOOKMARK_TICKS = 20
_SENDS_AT_ONCE = 200

_log = logging.getLogger(__name__)


class EventHub:
    """All watches of this process.

    Promises, to each watcher and whatever happens to processes: events come in the order of their revisions (ordered),
    each once (unique), those of one transaction in one batch (atomic), none is left out (reliable), watching after any
    kept revision goes on exactly there (resumable), an empty batch says how far it is complete (bookmarkable), and
    only what matches is delivered (filtered).

    Args:
      storage: a started storage; other processes may write to the same database.
      ring_events, ring_bytes: how much of the newest log is kept in memory; a watcher further behind reads the log.
      keep, keep_events: events older than this, or beyond this number, are removed from the log.
      keep_at_least: events younger than this are never removed, whatever their number.
      bookmark_interval: an idle watcher receives its position about this often.
      sends_per_second: batches given to all watchers together; beyond that they wait, and batches are fuller.
    """

    def __init__(
        self,
        storage: Storage,
        *,
        ring_events: int = 20_000,
        ring_bytes: int = 64 << 20,
        keep: timedelta = timedelta(days=7),
        keep_events: int = 1_000_000,
        keep_at_least: timedelta = timedelta(hours=1),
        bookmark_interval: timedelta = timedelta(seconds=30),
        sends_per_second: int = 16_000,
    ) -> None:
        self._storage = storage
        self._ring_events = ring_events
        self._ring_bytes = ring_bytes
        self._keep = keep
        self._keep_events = keep_events
        self._keep_at_least = min(keep_at_least, keep)
        self._bookmark_s = bookmark_interval.total_seconds()
        self.ring = Ring(0, ring_events, ring_bytes)
        self.stopping = False
        self.pacer = Pacer(sends_per_second, _SENDS_AT_ONCE)
        self._watchers: set[Watcher] = set()
        # Watchers with tags of interest, by (topic, tag), and watchers of whole topics that wait for an event.
        self._by_tag: dict[tuple[str, str], set[Watcher]] = {}
        self._resting: dict[str, set[Watcher]] = {}
        self._reached: list[tuple[int, asyncio.Future[None]]] = []
        self._grown = asyncio.Event()
        self._wakeups = Wakeups(storage, self._maybe_grown)
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def current_revision(self) -> int:
        """The newest revision that the ring has seen; watchers are told of everything up to it."""
        return self.ring.revision

    @property
    def watchers(self) -> int:
        """How many watchers are open."""
        return len(self._watchers)

    async def start(self) -> None:
        """Reads the newest part of the log and begins to follow it. Raises StorageUnavailable."""
        after = await self._storage.read(lambda tx: newest(tx, min(WARM_EVENTS, self._ring_events)))
        self.ring = Ring(after, self._ring_events, self._ring_bytes)
        await self._pull()
        self._wakeups.start()
        self._tasks = [
            asyncio.create_task(self._pump(), name="log-pump"),
            asyncio.create_task(self._send_bookmarks(), name="log-bookmarks"),
            asyncio.create_task(self._compact(), name="log-compaction"),
        ]

    async def stop(self) -> None:
        """Gives every watcher a last batch, then HubStopping, and ends. Takes less than a second.

        Watchers whose consumers do not ask in that time learn it when they do.
        """
        if self.stopping:
            return
        self.stopping = True
        self.pacer.open()
        await self._wakeups.stop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._release_reached()
        for watcher in list(self._watchers):
            watcher.wake()
        deadline = time.monotonic() + STOP_TIMEOUT_S
        while (  # noqa: ASYNC110 - an event per watcher, for this alone, is worse
            not all(watcher.finished for watcher in self._watchers) and time.monotonic() < deadline
        ):
            await asyncio.sleep(0.01)

    def watch(
        self,
        topic: str,
        after: int | None = None,
        interest: frozenset[str] | None = None,
        match: Match | None = None,
        group: Hashable | None = None,
    ) -> Watcher:
        """Begins a watch of a topic. Close the watcher when done.

        Args:
          topic: as given to `tx.append`.
          after: send events after this revision, such as a list was read at; None: from `current_revision` on.
          interest: send, and wake for, only events with one of these tags; None: all of the topic.
          match: decides exactly, by an event's attributes; quick, and the same answer each time.
          group: watchers with the same group (and topic) have the same `interest` and `match`, and share batches.

        Raises HubStopping.
        """
        if self.stopping:
            raise HubStopping
        watcher = Watcher(self, topic, after, interest, match, group)
        self._watchers.add(watcher)
        return watcher

    async def refresh(self) -> int:
        """The newest revision in the database. Raises StorageUnavailable."""
        revision = await self._storage.point(ReadTx.current_revision)
        self._maybe_grown(revision)
        return revision

    async def page(self, after: int, topic: str, interest: Collection[str] | None) -> Page:
        """Reads a piece of the log for a watcher that is behind the ring."""
        return await self._storage.read(lambda tx: read_page(tx, after, topic, interest))

    async def reached(self, revision: int) -> None:
        """Waits until the ring has seen this revision, the hub stops, or the log begins anew."""
        if self.ring.revision < revision and not self.stopping:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._reached.append((revision, future))
            await future

    def register(self, watcher: Watcher) -> None:
        """Lets events mark the watcher by its tags; one of a whole topic is marked while it rests."""
        if watcher.interest is not None:
            for tag in watcher.interest:
                self._by_tag.setdefault((watcher.topic, tag), set()).add(watcher)

    def rest(self, watcher: Watcher) -> None:
        """A watcher of a whole topic has seen everything: mark it at the next event."""
        if watcher.interest is None and watcher in self._watchers:
            self._resting.setdefault(watcher.topic, set()).add(watcher)

    def unregister(self, watcher: Watcher) -> None:
        """Forgets a watcher."""
        self._watchers.discard(watcher)
        if watcher.interest is None:
            resting = self._resting.get(watcher.topic)
            if resting:
                resting.discard(watcher)
            return
        for tag in watcher.interest:
            key = (watcher.topic, tag)
            interested = self._by_tag.get(key)
            if interested:
                interested.discard(watcher)
                if not interested:
                    del self._by_tag[key]

    def _maybe_grown(self, revision: int) -> None:
        if revision != self.ring.revision:
            self._grown.set()

    async def _pump(self) -> None:
        """Follows the log for as long as the hub lives."""
        waiting = 0.05
        while True:
            await self._grown.wait()
            self._grown.clear()
            try:
                await self._pull()
                waiting = 0.05
            except Exception as error:  # noqa: BLE001 - logged below, or expected
                # Nothing is lost: the next attempt reads on after the ring's revision. Whatever it is, following must
                # not end, or every watcher would wait for ever.
                if not isinstance(error, StorageUnavailable):
                    _log.exception("cannot read the log")
                await asyncio.sleep(waiting * random.uniform(0.8, 1.2))
                waiting = min(waiting * 2, 1.0)
                self._grown.set()

    async def _pull(self) -> None:
        """Reads what is new in the log, page by page."""
        while True:
            after = self.ring.revision
            page = await self._storage.read(lambda tx, after=after: read_page(tx, after))  # type: ignore[misc]
            if page.current < after or after < page.oldest:
                self._start_over(page)
            elif page.revision > after:
                self._push(page.events, page.revision)
            if page.revision >= page.current:
                return

    def _push(self, events: list[Event], revision: int) -> None:
        ring = self.ring
        position = ring.head
        ring.push(events, revision)
        by_tag, resting = self._by_tag, self._resting
        for event in events:
            topic = event.topic
            waiting = resting.get(topic)
            if waiting:
                resting[topic] = set()
                for watcher in waiting:
                    watcher.mark(position, event.revision)
            if by_tag:
                for tag in event.tags:
                    for watcher in by_tag.get((topic, tag), ()):
                        watcher.mark(position, event.revision)
            position += 1
        if self._reached:
            self._release_reached()

    def _release_reached(self, *, everyone: bool = False) -> None:
        waiting, self._reached = self._reached, []
        for entry in waiting:
            if entry[1].done():
                continue
            if everyone or self.stopping or entry[0] <= self.ring.revision:
                entry[1].set_result(None)
            else:
                self._reached.append(entry)

    def _start_over(self, page: Page) -> None:
        """The log is not the one that the ring followed: an older copy was restored, or this process slept for days."""
        _log.warning(
            "the log went from revision %d to %d (kept from %d): all watchers list again",
            self.ring.revision,
            page.current,
            page.oldest,
        )
        for watcher in list(self._watchers):
            watcher.failure = Compacted(watcher.revision, page.oldest, page.current)
            watcher.wake()
        self.ring = Ring(page.current, self._ring_events, self._ring_bytes)
        page.revision = page.current
        self._release_reached(everyone=True)

    async def _send_bookmarks(self) -> None:
        """One task for all watchers; each is due at a time of its own, so that not all are sent at once."""
        while True:
            await asyncio.sleep(self._bookmark_s / _BOOKMARK_TICKS)
            now = time.monotonic()
            for watcher in self._watchers:
                if watcher.bookmark_at == 0.0:
                    # It received something since the last tick.
                    watcher.bookmark_at = now + self._bookmark_s * random.uniform(0.85, 1.0)
                elif now >= watcher.bookmark_at and watcher.idle:
                    watcher.bookmark_at = 0.0
                    watcher.bookmark()

    async def _compact(self) -> None:
        while True:
            await asyncio.sleep(COMPACT_EVERY_S * random.uniform(0.5, 1.5))
            try:
                await self.compact()
            except StorageUnavailable:
                continue
            except StorageError:
                _log.exception("cannot compact the log")

    async def compact(self) -> int:
        """Removes from the log what need not be kept, in small transactions; returns the log's new beginning.

        Runs by itself every half minute or so; more than one process doing it does no harm.
        """
        now = time.time()
        old, young = (int((now - age.total_seconds()) * 1e6) for age in (self._keep, self._keep_at_least))
        upto = await self._storage.read(lambda tx: compactable(tx, self._keep_events, old, young))
        beginning = await self._storage.read(lambda tx: read_page(tx, 0, "", ()).oldest)
        if upto <= beginning:
            return beginning
        more = True
        while more:
            more = await self._storage.write(lambda tx: compact_chunk(tx, upto, COMPACT_CHUNK))
            # Let the writes that gathered meanwhile go first.
            await asyncio.sleep(0.005)
        return upto
