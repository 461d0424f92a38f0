"""Numbered steps that bring a database's schema up to what the code needs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from openfacility_server.storage.errors import SchemaTooNew
from openfacility_server.storage.session import Session
from openfacility_server.storage.tx import Group, Tx


class MigrationStep(Protocol):
    """One step: a `Migration`, or a module (`m0001_jobs.py`) with these two names in it."""

    @property
    def version(self) -> int:
        """Its number, from 1, without gaps; never changed once released."""

    @property
    def up(self) -> Callable[[Tx], None]:
        """Makes the change: `tx.create_tables(Job)` or SQL that both databases know."""


@dataclass(frozen=True, slots=True)
class Migration:
    """A step as an object."""

    version: int
    up: Callable[[Tx], None]


Migrations = Mapping[str, Iterable[MigrationStep]]
"""Steps by name; a name is a domain, and each has a version of its own."""

_CREATE = "CREATE TABLE IF NOT EXISTS schema_version (name TEXT PRIMARY KEY, version BIGINT NOT NULL)"


def migrate(session: Session, migrations: Migrations) -> None:
    """Runs the steps that this database has not seen, each in a transaction of its own, under a lock.

    Of processes that start at once, one does the work and the others wait for it. Raises SchemaTooNew,
    StorageUnavailable, and what a step raises; the steps before that one stay done.
    """
    for name, steps in migrations.items():
        ordered = sorted(steps, key=lambda step: step.version)
        if [step.version for step in ordered] != list(range(1, len(ordered) + 1)):
            raise ValueError(f"the migrations of {name} are not numbered 1, 2, 3, ...")
        while True:
            session.begin_migration()
            try:
                done = _step(session, name, ordered)
                session.commit()
            except BaseException:
                session.rollback()
                raise
            if done:
                break


def _step(session: Session, name: str, ordered: list[MigrationStep]) -> bool:
    """Runs the next step of `name`, in the open transaction. Returns whether there was none left."""
    session.run(_CREATE)
    found = session.fetch("SELECT version FROM schema_version WHERE name = ?", (name,))
    version = int(found[0][0]) if found else 0
    if version > len(ordered):
        raise SchemaTooNew(
            f"the database has version {version} of the {name} tables, this program knows {len(ordered)}; "
            "run the newer program, or restore the backup that was made before it"
        )
    if version == len(ordered):
        return True
    ordered[version].up(Tx(Group(session, None)))
    if found:
        session.run("UPDATE schema_version SET version = ? WHERE name = ?", (version + 1, name))
    else:
        session.run("INSERT INTO schema_version (name, version) VALUES (?, ?)", (name, version + 1))
    return False
