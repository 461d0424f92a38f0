"""Small facts that all servers of one database share."""

from __future__ import annotations

from collections.abc import Callable

import peewee as pw

from openfacility_server.storage import Migration, Storage, Tx


class Setting(pw.Model):
    """One fact."""

    name = pw.TextField(primary_key=True)
    value = pw.BlobField()

    class Meta:
        table_name = "setting"


def _create(tx: Tx) -> None:
    tx.create_tables(Setting)


MIGRATIONS = (Migration(1, _create),)


async def shared_secret(storage: Storage, name: str, make: Callable[[], bytes]) -> bytes:
    """Returns the secret of this name, made by the server that asks first."""

    def get(tx: Tx) -> bytes:
        value = tx.value("SELECT value FROM setting WHERE name = ?", (name,))
        if value is None:
            value = make()
            tx.run("INSERT INTO setting (name, value) VALUES (?, ?)", (name, value))
        return bytes(value)

    return await storage.write(get)
