"""The database: connections, transactions, migrations, answers kept for replays, leases.

    storage = Storage.open("sqlite:///var/lib/openfacility/state.db")
    await storage.start({"jobs": jobs_migrations})

    def submit(tx: Tx) -> bytes:
        if (answer := tx.replay(principal, method, request_id, digest)) is not None:
            return answer
        tx.execute(Job.insert(id=job_id, revision=tx.revision(), ...))
        tx.append("jobs", job_id, change, frozenset({f"job:{job_id}", f"owner:{owner}"}))
        tx.remember(principal, method, request_id, digest, answer)
        return answer

    answer = await storage.write(submit)

The same code works on SQLite (WAL, one host) and on PostgreSQL (several replicas), and means the same: one write
transaction at a time over all processes, durable when `write` returns; reads see one state.
"""

from openfacility_server.storage.errors import (
    IntegrityError,
    LeaseLost,
    RequestIdReused,
    SchemaTooNew,
    StorageError,
    StorageUnavailable,
)
from openfacility_server.storage.leases import Lease
from openfacility_server.storage.migrations import Migration, Migrations, MigrationStep
from openfacility_server.storage.sql import compile_sql
from openfacility_server.storage.store import Storage
from openfacility_server.storage.tx import ReadTx, Tx

__all__ = [
    "IntegrityError",
    "Lease",
    "LeaseLost",
    "Migration",
    "MigrationStep",
    "Migrations",
    "ReadTx",
    "RequestIdReused",
    "SchemaTooNew",
    "Storage",
    "StorageError",
    "StorageUnavailable",
    "Tx",
    "compile_sql",
]
