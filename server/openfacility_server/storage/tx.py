"""What a function that was given to `Storage.read` or `Storage.write` works with."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import peewee

from openfacility_server.storage.errors import IntegrityError, RequestIdReused, Retry
from openfacility_server.storage.session import Counter, Dialect, Row, Session

SEQ_BITS = 20
"""An event's primary key is `revision << SEQ_BITS | seq`: one integer that sorts as (revision, seq) does."""
MAX_EVENTS = 20_000
"""Most events of one transaction."""
MAX_PAYLOAD_BYTES = 1 << 20
"""Most bytes of one event's payload."""
MAX_TRANSACTION_BYTES = 32 << 20
"""Most bytes of all payloads of one transaction: a watch sends them in one piece."""
TAG_SEPARATOR = "\x1f"
REQUEST_TTL_S = 25 * 3600
"""How long answers are kept for replays, seconds; the contract promises 24 h."""


class ReadTx:
    """One transaction for reading. Valid only inside the function it was given to, and on that thread."""

    __slots__ = ("_session",)

    def __init__(self, session: Session) -> None:
        self._session = session

    @property
    def dialect(self) -> Dialect:
        """Which database this is; for the rare SQL that cannot be the same on both."""
        return self._session.dialect

    def execute(self, query: peewee.BaseQuery) -> Any:
        """Runs a peewee query and returns what peewee would, with all its rows read.

        Select: a sequence of rows; insert: the new primary key; update and delete: the number of rows. Models need
        no database of their own. Raises IntegrityError, StorageUnavailable, StorageError.
        """
        # A query object remembers its rows; a copy keeps module-level queries reusable and shareable by threads.
        try:
            result = query.clone().execute(self._session.database)
            if isinstance(result, peewee.CursorWrapper):
                result.fill_cache()
        except Exception as error:
            raise self._session.translate(error) from error
        return result

    def rows(self, sql: str, params: Sequence[Any] = ()) -> list[Row]:
        """Runs SQL with `?` placeholders, as `compile_sql` makes it, and returns all rows as tuples."""
        return self._session.fetch(sql, params)

    def row(self, sql: str, params: Sequence[Any] = ()) -> Row | None:
        """As `rows`, the first row only; None when there is none."""
        rows = self._session.fetch(sql, params)
        return rows[0] if rows else None

    def value(self, sql: str, params: Sequence[Any] = ()) -> Any:
        """As `row`, its first column only; None when there is no row."""
        rows = self._session.fetch(sql, params)
        return rows[0][0] if rows else None

    def translate(self, error: Exception) -> Exception:
        """The storage layer's error for a driver's error; anything else as it is."""
        return self._session.translate(error)

    def current_revision(self) -> int:
        """The newest revision that this transaction can see: what a list answers as the revision it was read at."""
        return int(self.value("SELECT revision FROM log_counter WHERE id = 1"))


class Group:
    """What the writes that are committed together share: the counter and the events that wait for the commit."""

    __slots__ = ("_start", "counter", "events", "remembered", "session")

    def __init__(self, session: Session, counter: Counter | None) -> None:
        self.session = session
        self.counter = counter
        self.events: list[Row] = []
        self.remembered = False
        self._start: int | None = counter.revision if counter else None

    def load(self) -> Counter:
        """The counter, read once per group; nobody else can change it before our commit."""
        if self.counter is None:
            self.counter = self.session.load_counter()
            self._start = self.counter.revision
        return self.counter

    @property
    def changed(self) -> Counter | None:
        """The counter if it was advanced."""
        if self.counter is None or self.counter.revision == self._start:
            return None
        return self.counter

    def mark(self) -> tuple[int, Counter | None]:
        """Remembers where the group stands before one of its writes."""
        counter = self.counter
        return len(self.events), counter and Counter(counter.revision, counter.events, counter.time_us)

    def reset(self, mark: tuple[int, Counter | None]) -> None:
        """Forgets what a failed write added: its revision and the ordinals of its events are given out again."""
        del self.events[mark[0] :]
        if mark[1] is not None:
            self.counter = mark[1]
        else:
            self.counter = None


class Tx(ReadTx):
    """One write transaction: everything in it happens, or nothing, and it is durable when `write` returns.

    There is one write transaction at a time, over all processes on the database, and it sees all that was committed
    before: what it reads cannot change before it commits.
    """

    __slots__ = ("_bytes", "_group", "_revision", "_savepoints", "_seq")

    def __init__(self, group: Group) -> None:
        super().__init__(group.session)
        self._group = group
        self._revision = 0
        self._seq = 0
        self._bytes = 0
        self._savepoints = 0

    def run(self, sql: str, params: Sequence[Any] = ()) -> int:
        """Runs one changing statement with `?` placeholders; returns how many rows it touched."""
        return self._session.run(sql, params)

    def create_tables(self, *models: type[peewee.Model]) -> None:
        """Creates the tables and indexes of peewee models, in this order; for migrations."""
        for model in models:
            manager = peewee.SchemaManager(model, database=self._session.database)
            try:
                manager.create_all(safe=False)
            except Exception as error:
                raise self._session.translate(error) from error

    @contextmanager
    def savepoint(self) -> Iterator[None]:
        """Undoes what was done inside, events included, when an exception leaves it; what was before stands."""
        name = f"inner_{self._savepoints}"
        self._savepoints += 1
        events, seq = len(self._group.events), self._seq
        self._session.execute(f"SAVEPOINT {name}")
        try:
            yield
        except BaseException:
            self._session.execute(f"ROLLBACK TO SAVEPOINT {name}")
            self._session.execute(f"RELEASE SAVEPOINT {name}")
            if self._group.counter is not None:
                self._group.counter.events -= len(self._group.events) - events
            del self._group.events[events:]
            self._seq = seq
            raise
        self._session.execute(f"RELEASE SAVEPOINT {name}")

    def revision(self) -> int:
        """The revision of this transaction, taken on first use; greater than that of all committed before.

        Nothing committed later has a smaller one, and a transaction that fails gives its number back: revisions have
        no gaps. Store it in the rows that change, and answer it to the caller.
        """
        if not self._revision:
            counter = self._group.load()
            counter.revision += 1
            self._revision = counter.revision
        return self._revision

    def append(
        self,
        topic: str,
        key: str,
        payload: bytes,
        tags: frozenset[str] = frozenset(),
        attributes: Mapping[str, Any] | None = None,
    ) -> None:
        """Adds one event to the log, to be seen by watchers when this transaction has committed.

        Args:
          topic: what kind of thing changed, such as "jobs"; a watcher watches one topic.
          key: which one, its id.
          payload: the serialized change as watchers send it, at most 1 MiB.
          tags: words by which watchers are woken (`EventHub.watch(interest=...)`), such as "job:17", "owner:ada".
          attributes: what `match` functions decide by; JSON values.

        Raises ValueError when a limit is broken.
        """
        if len(payload) > MAX_PAYLOAD_BYTES:
            raise ValueError(f"an event of {len(payload)} bytes is more than {MAX_PAYLOAD_BYTES}")
        self._bytes += len(payload)
        if self._seq >= MAX_EVENTS or self._bytes > MAX_TRANSACTION_BYTES:
            raise ValueError("too many or too large events in one transaction; divide it")
        joined = ""
        if tags:
            joined = TAG_SEPARATOR.join(sorted(tags))
            if joined.count(TAG_SEPARATOR) != len(tags) - 1 or "" in tags:
                raise ValueError("a tag is empty or contains the separator")
            joined = f"{TAG_SEPARATOR}{joined}{TAG_SEPARATOR}"
        revision = self.revision()
        counter = self._group.load()
        counter.events += 1
        # Never back in time, so that compaction can search by age.
        counter.time_us = max(counter.time_us, time.time_ns() // 1000)
        self._group.events.append(
            (
                revision << SEQ_BITS | self._seq,
                counter.events,
                topic,
                key,
                counter.time_us,
                joined,
                json.dumps(attributes, separators=(",", ":"), allow_nan=False) if attributes else "",
                payload,
            )
        )
        self._seq += 1

    def replay(self, principal: str, method: str, request_id: str, digest: bytes) -> bytes | None:
        """The answer that was remembered for this request id; None when it is new, or when `request_id` is empty.

        Raises RequestIdReused when it was remembered for a request with another digest.
        """
        if not request_id:
            return None
        row = self.row(_SELECT_REQUEST, (principal, method, request_id))
        if row is None:
            return None
        if bytes(row[0]) != digest:
            raise RequestIdReused(request_id)
        return bytes(row[1])

    def remember(self, principal: str, method: str, request_id: str, digest: bytes, response: bytes) -> None:
        """Keeps the answer to this request id for at least 24 h, in the same transaction as its effect.

        Does nothing when `request_id` is empty. Call `replay` first, in the same function: should another process
        have answered in between, the whole function is run again and then finds that answer.
        """
        if not request_id:
            return
        self._group.remembered = True
        now = int(time.time())
        try:
            self.run(_INSERT_REQUEST, (principal, method, request_id, digest, response, now))
        except IntegrityError as error:
            raise Retry("the request id was remembered meanwhile") from error


def expire_requests(tx: Tx, limit: int) -> int:
    """Removes up to `limit` remembered answers that are past their time; returns how many it were."""
    return tx.run(_EXPIRE_REQUESTS, (int(time.time()) - REQUEST_TTL_S, limit))


def seq_of(event_id: int) -> tuple[int, int]:
    """(revision, seq) of an event's primary key."""
    return event_id >> SEQ_BITS, event_id & ((1 << SEQ_BITS) - 1)


_SELECT_REQUEST = "SELECT digest, response FROM request WHERE principal = ? AND method = ? AND request_id = ?"
_INSERT_REQUEST = (
    "INSERT INTO request (principal, method, request_id, digest, response, create_time) VALUES (?, ?, ?, ?, ?, ?)"
)
_EXPIRE_REQUESTS = (
    "DELETE FROM request WHERE id IN (SELECT id FROM request WHERE create_time < ? ORDER BY create_time LIMIT ?)"
)
