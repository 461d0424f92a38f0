"""The storage layer's own tables."""

from __future__ import annotations

from openfacility_server.storage.migrations import Migration
from openfacility_server.storage.tx import Tx


def _first(tx: Tx) -> None:
    blob = "BLOB" if tx.dialect == "sqlite" else "BYTEA"
    identity = "INTEGER PRIMARY KEY" if tx.dialect == "sqlite" else "BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY"
    # One row that every write changes: room in its page keeps PostgreSQL's updates cheap (HOT).
    roomy = "" if tx.dialect == "sqlite" else " WITH (fillfactor = 10)"
    # compacted: events up to this revision may be gone.
    tx.run(
        "CREATE TABLE log_counter (id INTEGER PRIMARY KEY CHECK (id = 1), revision BIGINT NOT NULL,"
        " events BIGINT NOT NULL, time_us BIGINT NOT NULL, compacted BIGINT NOT NULL)" + roomy
    )
    tx.run("INSERT INTO log_counter (id, revision, events, time_us, compacted) VALUES (1, 0, 0, 0, 0)")
    # The payload comes last: a scan that filters by topic and tags never reads it.
    tx.run(
        "CREATE TABLE log_event (id BIGINT PRIMARY KEY, ordinal BIGINT NOT NULL, topic TEXT NOT NULL,"
        " name TEXT NOT NULL, time_us BIGINT NOT NULL, tags TEXT NOT NULL, attributes TEXT NOT NULL,"
        f" payload {blob} NOT NULL)".replace("id BIGINT", "id INTEGER" if tx.dialect == "sqlite" else "id BIGINT", 1)
    )
    tx.run(
        f"CREATE TABLE request (id {identity}, principal TEXT NOT NULL, method TEXT NOT NULL, request_id TEXT NOT NULL,"
        f" digest {blob} NOT NULL, response {blob} NOT NULL, create_time BIGINT NOT NULL,"
        " UNIQUE (principal, method, request_id))"
    )
    tx.run("CREATE INDEX request_create_time ON request (create_time)")
    tx.run(
        "CREATE TABLE lease (name TEXT PRIMARY KEY, holder TEXT NOT NULL, process TEXT NOT NULL, fence BIGINT NOT NULL,"
        " beat BIGINT NOT NULL, ttl_ms BIGINT NOT NULL)"
    )


MIGRATIONS = [Migration(1, _first)]
