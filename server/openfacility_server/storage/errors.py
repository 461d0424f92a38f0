"""What can go wrong in the storage layer.

    StorageError
     ├── StorageUnavailable   the database is not there, full, or locked for too long: try again later
     ├── IntegrityError       a constraint of the schema was broken (also a `peewee.IntegrityError`)
     ├── RequestIdReused      the same request id with another body
     ├── SchemaTooNew         the database was migrated by a newer version of this program
     └── LeaseLost            somebody else holds the lease now

None of the texts is meant for a caller outside: they may name files and hosts.
"""

from __future__ import annotations

import peewee


class StorageError(Exception):
    """Anything that went wrong in the storage layer; by itself: a defect, such as a bad SQL statement."""


class StorageUnavailable(StorageError):
    """The database cannot serve now: not reachable, disk full, or locked by another for too long.

    Nothing has to be mended in this process; the storage reconnects by itself. A write that ended so may, in the
    rare case that the connection broke during the commit itself, still have happened: `request_id` makes repeating
    it safe.
    """


class IntegrityError(StorageError, peewee.IntegrityError):
    """A unique, foreign key or check constraint was broken.

    PostgreSQL refuses every further statement of the transaction after it; wrap what may fail so and shall be
    survived into `tx.savepoint()`.
    """


class RequestIdReused(StorageError):
    """The principal used this request id on this method before, with another body."""

    def __init__(self, request_id: str) -> None:
        super().__init__(f"request id {request_id!r} was used before with other content")
        self.request_id = request_id


class SchemaTooNew(StorageError):
    """The database has a schema version that this program does not know."""


class LeaseLost(StorageError):
    """The lease is not held any more: it ran out, was released, or was taken over."""


class Retry(StorageError):
    """Internal: the transaction collided with another one and can be run again from its start."""
