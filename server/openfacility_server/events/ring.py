"""The newest part of the log, in memory, once for all watchers."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Hashable
from operator import attrgetter

from openfacility_server.events.event import Event, Slice

BATCH_EVENTS = 1_000
BATCH_BYTES = 1 << 20
"""A batch ends after the revision that reached one of these."""
SCAN_EVENTS = 5_000
"""How many events one look goes through at most before others get their turn."""
CACHE_SLICES = 512
CACHE_BYTES = 16 << 20

Match = Callable[[Event], bool]


class Ring:
    """Events in order, each at a position that never changes; the oldest go when there are too many.

    Everything after revision `floor`, up to revision `revision`, is here.
    """

    __slots__ = ("_cache", "_cache_bytes", "_events", "_max_bytes", "_max_events", "base", "bytes", "floor", "revision")

    def __init__(self, revision: int, max_events: int, max_bytes: int) -> None:
        self.floor = revision
        self.revision = revision
        self.base = 0
        """Position of the oldest event that is here."""
        self.bytes = 0
        """Roughly what the events take, bytes."""
        self._events: list[Event] = []
        self._max_events = max_events
        self._max_bytes = max_bytes
        self._cache: dict[Hashable, Slice] = {}
        self._cache_bytes = 0

    @property
    def head(self) -> int:
        """The position after the newest event."""
        return self.base + len(self._events)

    def push(self, events: list[Event], revision: int) -> None:
        """Adds events of whole revisions, up to `revision`; drops the oldest that are too many."""
        self._cache.clear()
        self._cache_bytes = 0
        self._events.extend(events)
        self.bytes += sum(event.size for event in events)
        self.revision = revision
        drop = max(0, len(self._events) - self._max_events)
        dropped = sum(event.size for event in self._events[:drop])
        while self.bytes - dropped > self._max_bytes and drop < len(self._events):
            dropped += self._events[drop].size
            drop += 1
        if drop:
            self.floor = self._events[drop - 1].revision
            self.bytes -= dropped
            self.base += drop
            del self._events[:drop]

    def after(self, revision: int) -> int | None:
        """The position of the first event after `revision`; None when it is not here any more."""
        if revision < self.floor:
            return None
        return self.base + bisect_right(self._events, revision, key=_revision)

    def at(self, position: int) -> Event:
        """The event at a position that is here."""
        return self._events[position - self.base]

    def look(
        self, group: Hashable | None, start: int, topic: str, interest: frozenset[str] | None, match: Match | None
    ) -> Slice:
        """What a watcher with this filter gets from position `start` on; `slice.end` is where it goes on.

        Watchers with the same `group` (not None) share the result.
        """
        if group is None:
            return self._look(start, topic, interest, match)
        key = (group, topic, start, self.head)
        found = self._cache.get(key)
        if found is None:
            found = self._look(start, topic, interest, match)
            self._remember(key, found)
        return found

    def _look(self, start: int, topic: str, interest: frozenset[str] | None, match: Match | None) -> Slice:
        events = self._events
        taken: list[Event] = []
        size = 0
        previous = 0
        first = start - self.base
        end = len(events)
        for index in range(first, end):
            event = events[index]
            if event.revision != previous:
                # Only here: a batch never holds a part of a revision.
                if size >= BATCH_BYTES or len(taken) >= BATCH_EVENTS or index - first >= SCAN_EVENTS:
                    end = index
                    break
                previous = event.revision
            if (
                event.topic == topic
                and (interest is None or not interest.isdisjoint(event.tags))
                and (match is None or match(event))
            ):
                taken.append(event)
                size += len(event.frame)
        revision = self.revision if end == len(events) else previous
        return Slice(tuple(taken), self.base + end, revision)

    def _remember(self, key: Hashable, part: Slice) -> None:
        # Emptied by each push: what is in it ends at the head. The bounds are for many groups at many positions.
        self._cache[key] = part
        self._cache_bytes += part.size
        while len(self._cache) > CACHE_SLICES or self._cache_bytes > CACHE_BYTES:
            self._cache_bytes -= self._cache.pop(next(iter(self._cache))).size


_revision = attrgetter("revision")
