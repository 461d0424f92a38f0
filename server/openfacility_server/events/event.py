"""What a watcher receives."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NO_ATTRIBUTES: dict[str, Any] = {}
_NO_TAGS: frozenset[str] = frozenset()
OVERHEAD_BYTES = 700
"""What one event costs in memory besides its frame, tags and attributes, roughly."""


class Event:
    """One entry of the log; shared by all watchers, so never to be changed."""

    __slots__ = ("attributes", "frame", "key", "offset", "revision", "seq", "size", "tags", "time_us", "topic")

    revision: int
    """Revision of the transaction that wrote it; greater than 0."""
    seq: int
    """Place among the events of its revision, from 0."""
    topic: str
    key: str
    time_us: int
    """When it was written, microseconds since the epoch; never less than that of the event before."""
    tags: frozenset[str]
    attributes: dict[str, Any]
    frame: bytes
    """The payload as field number 1 of a protobuf message: joined frames are a message with `repeated` field 1."""
    offset: int
    """Where the payload begins in `frame`."""
    size: int
    """Roughly what it costs in memory, bytes."""

    def __init__(
        self, revision: int, seq: int, topic: str, key: str, time_us: int, tags: str, attributes: str, payload: bytes
    ) -> None:
        self.revision = revision
        self.seq = seq
        self.topic = topic
        self.key = key
        self.time_us = time_us
        self.tags = frozenset(tags[1:-1].split("\x1f")) if tags else _NO_TAGS
        self.attributes = json.loads(attributes) if attributes else _NO_ATTRIBUTES
        head = frame_head(len(payload))
        self.frame = head + payload
        self.offset = len(head)
        self.size = OVERHEAD_BYTES + len(self.frame) + 2 * len(tags) + 4 * len(attributes)

    @property
    def payload(self) -> bytes:
        """The bytes given to `tx.append`."""
        return self.frame[self.offset :]

    @property
    def time(self) -> datetime:
        """When it was written."""
        return _EPOCH + timedelta(microseconds=self.time_us)

    def __repr__(self) -> str:
        return f"Event({self.revision}.{self.seq} {self.topic} {self.key})"


def frame_head(length: int) -> bytes:
    """Key and length of field number 1, wire type 2, for `length` bytes."""
    head = bytearray(b"\x0a")
    while length > 0x7F:
        head.append(length & 0x7F | 0x80)
        length >>= 7
    head.append(length)
    return bytes(head)


class Slice:
    """Events that several watchers of one group receive alike, and their frames joined once for all of them."""

    __slots__ = ("_frames", "end", "events", "revision", "size")

    def __init__(self, events: tuple[Event, ...], end: int, revision: int) -> None:
        self.events = events
        self.end = end
        self.revision = revision
        self.size = sum(len(event.frame) for event in events)
        self._frames: bytes | None = None

    @property
    def frames(self) -> bytes:
        if self._frames is None:
            events = self.events
            self._frames = events[0].frame if len(events) == 1 else b"".join([event.frame for event in events])
        return self._frames


class Batch:
    """Everything a watcher missed since its previous batch; empty: a bookmark."""

    __slots__ = ("_slice", "caught_up", "revision")

    def __init__(self, part: Slice, revision: int, caught_up: bool) -> None:
        self._slice = part
        self.revision = revision
        """The watcher is complete up to this revision: resume with `after=revision`."""
        self.caught_up = caught_up
        """True once per watcher: it has now received all that was there when it began."""

    @property
    def events(self) -> tuple[Event, ...]:
        """The events, oldest first; all events of one revision are in one batch."""
        return self._slice.events

    @property
    def frames(self) -> bytes:
        """All `event.frame` joined; computed once for all watchers of a group."""
        return self._slice.frames

    def __repr__(self) -> str:
        return f"Batch({len(self.events)} events, revision {self.revision}{', caught up' * self.caught_up})"


NOTHING = Slice((), -1, 0)


class WatchError(Exception):
    """A watch cannot go on."""


class OutOfRange(WatchError):
    """The position is not one to watch from."""

    def __init__(self, after: int, oldest_revision: int, current_revision: int) -> None:
        super().__init__(f"revision {after} is not in {oldest_revision}..{current_revision}")
        self.after = after
        self.oldest_revision = oldest_revision
        """The least `after` that can be resumed from."""
        self.current_revision = current_revision
        """The newest revision there is."""


class Compacted(OutOfRange):
    """Changes after the position are not kept any more: list again, and watch from the list's revision."""


class FutureRevision(OutOfRange):
    """The position is newer than any revision, perhaps from before a restored backup: list again."""


class HubStopping(WatchError):
    """The server is stopping; resume elsewhere from the last revision received."""
