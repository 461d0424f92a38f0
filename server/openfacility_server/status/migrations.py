"""The steps that make the tables of the Status domain. A released step is never changed; add another one."""

from __future__ import annotations

from openfacility_server.status.tables import INDEXES, TABLES
from openfacility_server.storage import Migration, Tx


def _create(tx: Tx) -> None:
    tx.create_tables(*TABLES)
    for statement in INDEXES:
        tx.run(statement)


def _find_what_was_done_to_something(tx: Tx) -> None:
    tx.run("CREATE INDEX audit_subject ON audit (subject)")


MIGRATIONS = (Migration(1, _create), Migration(2, _find_what_was_done_to_something))
