"""The database goes away, is full, or is locked; and comes back."""

from __future__ import annotations

import asyncio
import os
import resource
import shutil
import signal
import sqlite3
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import psycopg
import pytest
from openfacility_server.events import EventHub
from openfacility_server.storage import ReadTx, Storage, StorageUnavailable, Tx, sqlite
from openfacility_server.storage import postgres as postgres_module

from tests.engines.postgres import PostgresServer
from tests.faults.log_checks import Checked, log_entries

DEADLINE_S = 30.0


def change(payload: bytes = b"x"):
    def write(tx: Tx) -> int:
        tx.append("jobs", "k", payload, frozenset({"a"}))
        return tx.revision()

    return write


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[tuple[Storage, EventHub]]:
    storage = Storage.open(url)
    await storage.start()
    hub = EventHub(storage)
    await hub.start()
    try:
        yield storage, hub
    finally:
        for watcher in list(hub._watchers):
            watcher.close()
        await hub.stop()
        await storage.close()


async def written(storage: Storage) -> int:
    """Writes as soon as the database lets it."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            try:
                return await storage.write(change())
            except StorageUnavailable:
                await asyncio.sleep(0.02)


async def fill(storage: Storage, payload: bytes) -> None:
    """Writes until it fails; each write that returns has the revision after that of the write before."""
    for number in range(1, 1_000):
        assert await storage.write(change(payload)) == number


def replace(path: Path, copy: Path) -> None:
    """Restores a backup in the place of a database."""
    for file in path.parent.glob(f"{path.name}*"):
        file.unlink()
    shutil.move(copy, path)


@contextmanager
def small_disk(path: Path) -> Iterator[bool]:
    """A file system of 1 MiB, where we may mount one."""
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(path)]
    mounted = os.geteuid() == 0 and subprocess.run(mount, capture_output=True, check=False).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(path)], check=True)


@contextmanager
def short_files(size: int) -> Iterator[None]:
    """No file may grow beyond `size` bytes. Python ignores the signal, so writing fails."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def test_a_full_disk_makes_writes_unavailable_and_nothing_else(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as mounted:
        if not mounted:
            pytest.skip("mounting a small tmpfs needs root")
        ballast = tmp_path / "disk" / "ballast"
        ballast.write_bytes(bytes(300_000))
        async with opened(f"sqlite://{tmp_path}/disk/state.db") as (storage, hub):
            watcher, checked = hub.watch("jobs", after=0), Checked(0)
            with pytest.raises(StorageUnavailable, match="disk"):
                await fill(storage, bytes(20_000))
            last = await storage.read(ReadTx.current_revision)
            results = await asyncio.gather(
                *(storage.write(change(bytes(30_000))) for _ in range(5)), return_exceptions=True
            )
            assert all(isinstance(result, StorageUnavailable) for result in results), results
            assert await storage.read(ReadTx.current_revision) == last
            assert await storage.point(ReadTx.current_revision) == last
            await storage.ping()
            ballast.unlink()
            assert await written(storage) == last + 1
            async with asyncio.timeout(DEADLINE_S):
                while checked.revision <= last:
                    checked.take(await anext(watcher))
            checked.against(await log_entries(storage))


async def test_a_file_that_must_not_grow(tmp_path: Path) -> None:
    """As a full disk, for those who are not root."""
    async with opened(f"sqlite://{tmp_path}/state.db") as (storage, _):
        with short_files(400_000), pytest.raises(StorageUnavailable):
            await fill(storage, bytes(20_000))
        last = await storage.read(ReadTx.current_revision)
        assert last > 0
        assert await written(storage) == last + 1
        assert await storage.read(lambda tx: tx.value("PRAGMA integrity_check")) == "ok"


async def test_a_file_that_was_moved_is_not_written_to_any_more(tmp_path: Path) -> None:
    """SQLite itself would go on in the moved file, and what it acknowledged would be lost."""
    path, away = tmp_path / "here", tmp_path / "away"
    path.mkdir()
    async with opened(f"sqlite://{path}/state.db") as (storage, hub):
        last = await storage.write(change())
        path.rename(away)
        with pytest.raises(StorageUnavailable):
            await storage.write(change())
        with pytest.raises(StorageUnavailable):
            await storage.point(ReadTx.current_revision)
        with pytest.raises(StorageUnavailable):
            await storage.ping()
        assert not path.exists(), "no empty database may take its place"
        away.rename(path)
        assert await written(storage) == last + 1
        await storage.ping()
        async with asyncio.timeout(DEADLINE_S):
            await hub.reached(last + 1)


async def test_a_lock_that_is_held_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "BUSY_TIMEOUT_S", 0.1)
    async with opened(f"sqlite://{tmp_path}/state.db") as (storage, _):
        last = await storage.write(change())
        other = sqlite3.connect(tmp_path / "state.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StorageUnavailable, match="locked"):
            await storage.write(change())
        results = await asyncio.gather(*(storage.write(change()) for _ in range(3)), return_exceptions=True)
        assert all(isinstance(result, StorageUnavailable) for result in results)
        assert await storage.point(ReadTx.current_revision) == last, "reads do not wait for it"
        other.execute("ROLLBACK")
        other.close()
        assert await written(storage) == last + 1


@pytest.mark.postgres
async def test_a_frozen_writer_on_postgresql(postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres_module, "LOCK_TIMEOUT_MS", 100)
    url = postgres.new_database()
    async with opened(url) as (storage, _):
        last = await storage.write(change())
        with psycopg.connect(url) as other:
            other.execute("SELECT * FROM log_counter FOR UPDATE")
            with pytest.raises(StorageUnavailable):
                await storage.write(change())
            assert await storage.point(ReadTx.current_revision) == last
        assert await written(storage) == last + 1


@pytest.mark.postgres
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT])
async def test_postgresql_stops_and_starts(postgres: PostgresServer, how: signal.Signals) -> None:
    """The hub serves what it has, connects again by itself, and skips nothing."""
    url = postgres.new_database()
    async with opened(url) as (storage, hub):
        last = await storage.write(change())
        await hub.reached(last)
        watcher, checked = hub.watch("jobs", after=0), Checked(0)
        checked.take(await anext(watcher))
        # One of each kind of connection is open now, and all of them will break.
        await asyncio.gather(*(storage.read(ReadTx.current_revision) for _ in range(8)))
        await asyncio.to_thread(postgres.stop, how)
        try:
            with pytest.raises(StorageUnavailable):
                await storage.write(change())
            results = await asyncio.gather(*(storage.write(change()) for _ in range(5)), return_exceptions=True)
            assert all(isinstance(result, StorageUnavailable) for result in results)
            for call in (storage.ping(), storage.point(ReadTx.current_revision), hub.refresh()):
                with pytest.raises(StorageUnavailable):
                    await call
            late = Checked(0)
            with hub.watch("jobs", after=0) as served:
                late.take(await anext(served))
            assert [entry[0] for entry in late.entries] == [last], "the hub serves what it has"
        finally:
            await asyncio.to_thread(postgres.start)
        await storage.ping()
        assert await storage.write(change()) == last + 1, "the first write after the restart works"
        other = Storage.open(url)
        for _ in range(20):
            last = await other.write(change())
        await other.close()
        async with asyncio.timeout(DEADLINE_S):
            while checked.revision < last:
                checked.take(await anext(watcher))
        checked.against(await log_entries(storage))


@pytest.mark.postgres
async def test_connections_that_an_administrator_ends(postgres: PostgresServer) -> None:
    """Also the one that listens: what it does not hear is found by the poll."""
    url = postgres.new_database()
    async with opened(url) as (storage, hub):
        watcher, checked = hub.watch("jobs", after=0), Checked(0)
        with psycopg.connect(url, autocommit=True) as other:
            for _ in range(5):
                await storage.write(change())
                await storage.ping()
                other.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )
        last = await storage.write(change())
        async with asyncio.timeout(DEADLINE_S):
            while checked.revision < last:
                checked.take(await anext(watcher))
        checked.against(await log_entries(storage))
        assert last == 6


async def test_a_restored_copy_is_taken_up(tmp_path: Path) -> None:
    path, copy = tmp_path / "state.db", tmp_path / "copy.db"
    async with opened(f"sqlite://{path}") as (storage, hub):
        await storage.write(change())
        with sqlite3.connect(path) as source, sqlite3.connect(copy) as target:
            source.backup(target)
        source.close()
        target.close()
        for _ in range(3):
            await storage.write(change())
        await hub.reached(4)
        replace(path, copy)
        assert await written(storage) == 2
        assert await hub.refresh() == 2
