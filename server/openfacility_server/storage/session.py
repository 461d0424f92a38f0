"""One connection to the database, of either kind, with one set of errors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

import peewee

from openfacility_server.storage.errors import StorageUnavailable

Dialect = Literal["sqlite", "postgresql"]
Row = tuple[Any, ...]


@dataclass(slots=True)
class Counter:
    """The one row of `log_counter`, as the open transaction sees it."""

    revision: int
    """Newest revision."""
    events: int
    """How many events were ever logged; the newest event has this ordinal."""
    time_us: int
    """Time of the newest event, microseconds since the epoch."""


class Session(ABC):
    """One open connection. Used by one thread at a time; never shared between transactions.

    Every method raises `StorageUnavailable`, `IntegrityError`, `Retry` or `StorageError`, never a driver's error.
    """

    dialect: ClassVar[Dialect]
    database: peewee.Database
    """What peewee queries are executed on; belongs to this connection alone."""

    @property
    @abstractmethod
    def broken(self) -> bool:
        """Whether this connection has to be replaced."""

    @abstractmethod
    def execute(self, sql: str, params: Sequence[Any] = ()) -> Any:
        """Runs one statement with the placeholders of the driver and returns its DB-API cursor."""

    @abstractmethod
    def fetch(self, sql: str, params: Sequence[Any] = ()) -> list[Row]:
        """Runs one statement with `?` placeholders and returns all its rows."""

    @abstractmethod
    def run(self, sql: str, params: Sequence[Any] = ()) -> int:
        """Runs one statement with `?` placeholders and returns how many rows it touched."""

    @abstractmethod
    def begin_read(self) -> None:
        """Starts a transaction in which every statement sees the same state."""

    @abstractmethod
    def begin_write(self) -> Counter | None:
        """Starts the one write transaction there can be at a time, over all processes; waits for its turn.

        Returns the counter when it was read with that, or None when `load_counter` has still to do so.
        """

    @abstractmethod
    def begin_migration(self) -> None:
        """Starts a write transaction that needs no tables yet, and waits long for its turn."""

    @abstractmethod
    def commit(self, events: Sequence[Row] = (), counter: Counter | None = None) -> None:
        """Stores `events` and the changed `counter`, and commits. On an error nothing is known to be committed."""

    def mark(self) -> None:
        """Begins the next write of a group: what was done before it stands, `undo` comes back to here."""
        self.execute("SAVEPOINT one")

    def undo(self) -> None:
        """Undoes what was done since `mark`."""
        self.execute("ROLLBACK TO SAVEPOINT one")

    @abstractmethod
    def rollback(self) -> None:
        """Ends the transaction without its changes. Never raises."""

    @abstractmethod
    def translate(self, error: Exception) -> Exception:
        """The storage layer's error for a driver's error; anything else as it is."""

    @abstractmethod
    def close(self) -> None:
        """Closes the connection. Never raises."""

    def load_counter(self) -> Counter:
        """Reads the counter; within a write transaction it stays ours until the commit."""
        return Counter(*self.fetch(SELECT_COUNTER)[0])


class Listener(Protocol):
    """A connection that hears of commits."""

    def fileno(self) -> int:
        """Descriptor that becomes readable when there is something to hear."""

    def notified(self) -> list[int]:
        """Revisions heard of, without waiting. Raises StorageUnavailable when the connection is gone."""

    def close(self) -> None:
        """Closes the connection. Never raises."""


class Backend(ABC):
    """Opens sessions to one database."""

    dialect: ClassVar[Dialect]
    inline_reads: ClassVar[bool]
    """Whether point reads are so quick that they may run on the event loop's thread."""

    @abstractmethod
    def open_writer(self) -> Session:
        """Opens a connection for write transactions. Raises StorageUnavailable."""

    def open_listener(self) -> Listener:
        """Opens a connection that hears of commits, where the database can tell. Raises StorageUnavailable."""
        raise StorageUnavailable(f"{self.dialect} sends no notifications")

    @abstractmethod
    def open_reader(self, *, inline: bool = False) -> Session:
        """Opens a connection for reads; `inline`: one that gives up at once instead of waiting for a lock."""


SELECT_COUNTER = "SELECT revision, events, time_us FROM log_counter WHERE id = 1"
UPDATE_COUNTER = "UPDATE log_counter SET revision = ?, events = ?, time_us = ? WHERE id = 1"
INSERT_EVENT = (
    "INSERT INTO log_event (id, ordinal, topic, name, time_us, tags, attributes, payload)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
)
