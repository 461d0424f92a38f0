"""The storage layer; every test here runs on SQLite and on PostgreSQL unless it says otherwise."""

from __future__ import annotations

import asyncio
import stat
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace

import peewee
import pytest
from openfacility_server.storage import (
    IntegrityError,
    Migration,
    ReadTx,
    RequestIdReused,
    SchemaTooNew,
    Storage,
    StorageError,
    StorageUnavailable,
    Tx,
    compile_sql,
)
from openfacility_server.storage import tx as tx_module
from openfacility_server.storage.session import Session
from openfacility_server.storage.sql import to_format_style
from openfacility_server.storage.tx import expire_requests

from tests.engines.postgres import Database


class Thing(peewee.Model):
    """A table of a domain: defined without a database."""

    id = peewee.TextField(primary_key=True)
    number = peewee.IntegerField(index=True)
    data = peewee.BlobField(null=True)

    class Meta:
        table_name = "thing"


class Part(peewee.Model):
    """A table with a foreign key and a serial primary key."""

    thing = peewee.ForeignKeyField(Thing, backref="parts", on_delete="CASCADE", lazy_load=False)
    label = peewee.TextField()

    class Meta:
        table_name = "part"


NUMBER = compile_sql(Thing.select(Thing.number).where(Thing.id == ""))
THINGS = {"things": [Migration(1, lambda tx: tx.create_tables(Thing)), Migration(2, lambda tx: tx.create_tables(Part))]}


@pytest.fixture
async def storage(database: Database) -> AsyncIterator[Storage]:
    opened = Storage.open(database.url)
    await opened.start(THINGS)
    yield opened
    await opened.close()


def add(name: str, number: int = 1, *, fail: bool = False):
    def write(tx: Tx) -> int:
        tx.execute(Thing.insert(id=name, number=number))
        tx.append("things", name, name.encode())
        revision = tx.revision()
        if fail:
            raise KeyError(name)
        return revision

    return write


def ids(tx: ReadTx) -> list[str]:
    return [row.id for row in tx.execute(Thing.select(Thing.id).order_by(Thing.id))]


async def test_peewee_models_without_a_database_work_on_the_transaction(storage: Storage) -> None:
    def write(tx: Tx) -> tuple[object, object]:
        key = tx.execute(Thing.insert(id="a", number=1, data=b"\x00\xff"))
        tx.execute(Thing.insert_many([{"id": "b", "number": 2}, {"id": "c", "number": 3}]))
        part = tx.execute(Part.insert(thing="a", label="wheel"))
        return key, part

    assert await storage.write(write) == ("a", 1)
    assert await storage.write(lambda tx: tx.execute(Thing.update(number=5).where(Thing.number >= 2))) == 2
    rows = await storage.read(lambda tx: tx.execute(Thing.select().order_by(Thing.id)))
    assert [(row.id, row.number) for row in rows] == [("a", 1), ("b", 5), ("c", 5)]
    assert bytes(rows[0].data) == b"\x00\xff"
    joined = Part.select(Part, Thing).join(Thing)
    part = (await storage.read(lambda tx: tx.execute(joined)))[0]
    assert (part.label, part.thing.number) == ("wheel", 1)
    upsert = Thing.insert(id="a", number=9).on_conflict(conflict_target=[Thing.id], preserve=[Thing.number])
    await storage.write(lambda tx: tx.execute(upsert))
    assert await storage.point(lambda tx: tx.value(NUMBER, ("a",))) == 9
    assert await storage.write(lambda tx: tx.execute(Thing.delete().where(Thing.id == "a"))) == 1
    assert await storage.read(lambda tx: tx.value("SELECT count(*) FROM part")) == 0
    assert Thing._meta.database is None


async def test_compiled_sql_and_portable_placeholders(storage: Storage) -> None:
    await storage.write(add("it's 100% ?", 7))
    assert await storage.point(lambda tx: tx.row(NUMBER, ("it's 100% ?",))) == (7,)
    assert await storage.point(lambda tx: tx.row(NUMBER, ("no",))) is None
    literal = "SELECT 'a ? b %', number FROM thing WHERE number = ?"
    assert await storage.read(lambda tx: tx.rows(literal, (7,))) == [("a ? b %", 7)]
    assert await storage.read(lambda tx: tx.value("SELECT '100%'")) == "100%"
    assert to_format_style("""SELECT "a?b", 'it''s ?' WHERE x = ?""") == """SELECT "a?b", 'it''s ?' WHERE x = %s"""


async def test_a_failed_write_leaves_nothing_and_gives_its_revision_back(storage: Storage) -> None:
    first = await storage.write(add("a"))
    with pytest.raises(KeyError):
        await storage.write(add("b", fail=True))
    assert await storage.write(add("c")) == first + 1
    assert await storage.read(ids) == ["a", "c"]
    assert await storage.read(lambda tx: tx.value("SELECT count(*) FROM log_event")) == 2


async def test_t29_overlapping_writes_of_which_some_fail(storage: Storage) -> None:
    """T29: tasks that write at the same time share a transaction; a failure takes back its own write only."""

    async def one(number: int) -> int | None:
        try:
            return await storage.write(add(f"{number:03}", fail=number % 3 == 0))
        except KeyError:
            return None

    before = storage.statistics()
    revisions = await asyncio.gather(*(one(number) for number in range(300)))
    after = storage.statistics()
    good = [number for number in range(300) if number % 3]
    assert await storage.read(ids) == [f"{number:03}" for number in good]
    assert sorted(revision for revision in revisions if revision) == list(range(1, len(good) + 1))
    events = await storage.read(lambda tx: tx.rows("SELECT id, name, ordinal FROM log_event ORDER BY id"))
    assert [row[2] for row in events] == list(range(1, len(good) + 1))
    assert {row[1]: row[0] >> 20 for row in events} == {f"{number:03}": revisions[number] for number in good}
    assert after.writes - before.writes >= 200
    assert after.commits - before.commits < 60, "writes that waited were not committed together"


async def test_a_broken_constraint_is_an_integrity_error(storage: Storage) -> None:
    await storage.write(add("a"))
    results = await asyncio.gather(
        storage.write(add("a")), storage.write(add("b")), storage.write(add("b")), return_exceptions=True
    )
    assert [isinstance(result, IntegrityError) for result in results] == [True, False, True]
    with pytest.raises(peewee.IntegrityError):
        await storage.write(lambda tx: tx.execute(Part.insert(thing="nobody", label="x")))
    with pytest.raises(IntegrityError):
        await storage.write(lambda tx: tx.run("INSERT INTO thing (id, number) VALUES (?, ?)", ("a", 1)))


async def test_a_savepoint_undoes_what_is_in_it(storage: Storage) -> None:
    def write(tx: Tx) -> int:
        tx.execute(Thing.insert(id="kept", number=1))
        tx.append("things", "kept", b"1")
        for _ in range(2):
            try:
                with tx.savepoint():
                    tx.execute(Thing.insert(id="other", number=1))
                    tx.append("things", "gone", b"2")
                    tx.execute(Thing.insert(id="kept", number=2))
            except IntegrityError:
                pass
        tx.append("things", "after", b"3")
        with tx.savepoint():
            tx.execute(Thing.insert(id="last", number=1))
        return tx.revision()

    revision = await storage.write(write)
    assert await storage.read(ids) == ["kept", "last"]
    rows = await storage.read(lambda tx: tx.rows("SELECT id, ordinal, name FROM log_event ORDER BY id"))
    assert rows == [(revision << 20, 1, "kept"), (revision << 20 | 1, 2, "after")]


async def test_a_read_sees_one_state(storage: Storage) -> None:
    await storage.write(add("a"))
    begun, written = threading.Event(), threading.Event()

    def read(tx: ReadTx) -> list[object]:
        seen: list[object] = [tx.current_revision()]
        begun.set()
        assert written.wait(10)
        return [*seen, tx.current_revision(), ids(tx)]

    reading = asyncio.create_task(storage.read(read))
    await asyncio.to_thread(begun.wait, 10)
    await storage.write(add("b"))
    written.set()
    assert await reading == [1, 1, ["a"]]
    assert await storage.read(ReadTx.current_revision) == 2


async def test_reading_cannot_write(storage: Storage) -> None:
    for call in (storage.read, storage.point) if storage.dialect == "sqlite" else (storage.read,):
        with pytest.raises(StorageError):
            await call(lambda tx: tx.execute(Thing.insert(id="x", number=1)))
    assert await storage.read(ids) == []


async def test_two_storages_share_nothing_but_the_database(
    database: Database, storage: Storage, tmp_path: Path
) -> None:
    other = Storage.open(f"sqlite://{tmp_path}/other.db")
    await other.start(THINGS)
    again = Storage.open(database.url)
    await asyncio.gather(storage.write(add("a")), other.write(add("b")), again.write(add("c")))
    assert await storage.read(ids) == ["a", "c"]
    assert await other.read(ids) == ["b"]
    await other.close()
    assert await again.read(ids) == ["a", "c"]
    await again.close()


async def test_a_slow_write_of_another_connection_is_waited_for_and_not_lost(
    database: Database, storage: Storage
) -> None:
    """What one write reads cannot change before it commits: no update is lost, on either database."""
    await storage.write(add("n", 0))
    other = Storage.open(database.url)

    def increment(tx: Tx) -> None:
        number = tx.value(NUMBER, ("n",))
        tx.execute(Thing.update(number=number + 1).where(Thing.id == "n"))

    await asyncio.gather(*(store.write(increment) for _ in range(50) for store in (storage, other)))
    assert await storage.point(lambda tx: tx.value(NUMBER, ("n",))) == 100
    await other.close()


async def test_cancelling_a_waiting_write_takes_it_back(storage: Storage) -> None:
    running, go_on = threading.Event(), threading.Event()

    def slow(tx: Tx) -> None:
        running.set()
        assert go_on.wait(10)
        tx.execute(Thing.insert(id="slow", number=1))

    first = asyncio.create_task(storage.write(slow))
    await asyncio.to_thread(running.wait, 10)
    second = asyncio.create_task(storage.write(add("cancelled")))
    await asyncio.sleep(0)
    second.cancel()
    first.cancel()
    go_on.set()
    await asyncio.gather(first, second, return_exceptions=True)
    await storage.write(add("last"))
    assert await storage.read(ids) == ["last", "slow"], "a write that runs is carried out, one that waits is not"


async def test_limits_of_events(storage: Storage) -> None:
    with pytest.raises(ValueError, match="bytes"):
        await storage.write(lambda tx: tx.append("t", "k", bytes(tx_module.MAX_PAYLOAD_BYTES + 1)))
    for tags in (frozenset({"a\x1fb"}), frozenset({""})):
        with pytest.raises(ValueError, match="tag"):
            await storage.write(lambda tx, tags=tags: tx.append("t", "k", b"", tags))
    with pytest.raises(ValueError, match="divide"):
        await storage.write(lambda tx: [tx.append("t", "k", b"") for _ in range(tx_module.MAX_EVENTS + 1)])
    assert await storage.read(ReadTx.current_revision) == 0


async def test_tools_without_a_loop(database: Database) -> None:
    def tool() -> list[str]:
        store = Storage.open(database.url)
        store.start_sync(THINGS)
        store.write_sync(add("a"))
        with pytest.raises(KeyError):
            store.write_sync(add("b", fail=True))
        with pytest.raises(StorageError, match="another write"):
            store.write_sync(lambda _: store.write_sync(add("c")))
        found = store.read_sync(ids)
        store.close_sync()
        with pytest.raises(StorageUnavailable):
            store.write_sync(add("d"))
        return found

    assert await asyncio.to_thread(tool) == ["a"]


async def test_after_close(database: Database) -> None:
    store = Storage.open(database.url)
    await store.start()
    waiting = [asyncio.create_task(store.write(lambda tx: tx.append("t", "k", b""))) for _ in range(20)]
    await asyncio.sleep(0)
    await store.close()
    assert await asyncio.gather(*waiting) == [None] * 20, "close finishes what waits"
    for call in (store.read, store.point, store.write):
        with pytest.raises(StorageUnavailable):
            await call(lambda _: None)
    with pytest.raises(StorageUnavailable):
        await store.ping()


async def test_a_commit_whose_answer_was_lost_is_not_repeated(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have happened: only the caller can know, by its request id."""
    session = type(storage._writer._session)
    commit = session.commit

    def lossy(self: Session, *arguments: object) -> None:
        commit(self, *arguments)
        monkeypatch.setattr(session, "broken", property(lambda other: other is self))
        raise StorageUnavailable("the connection broke")

    monkeypatch.setattr(session, "commit", lossy)
    results = await asyncio.gather(*(storage.write(add(name)) for name in "abcdef"), return_exceptions=True)
    monkeypatch.undo()
    assert all(isinstance(result, StorageUnavailable) for result in results), results
    assert await storage.read(ids) == list("abcdef"), "each happened once"
    await storage.write(add("g"))


# Migrations


async def test_processes_that_start_at_once_migrate_once(database: Database) -> None:
    runs: list[int] = []

    def up(tx: Tx) -> None:
        runs.append(1)
        tx.create_tables(Thing)

    stores = await asyncio.gather(*(asyncio.to_thread(Storage.open, database.url) for _ in range(5)))
    steps = {"things": [SimpleNamespace(version=1, up=up)]}
    await asyncio.gather(*(store.start(steps) for store in stores))
    assert len(runs) == 1
    for store in stores:
        await store.close()


async def test_a_failed_migration_leaves_the_steps_before_it(database: Database) -> None:
    def bad(tx: Tx) -> None:
        tx.create_tables(Part)
        raise RuntimeError("no")

    store = Storage.open(database.url)
    with pytest.raises(RuntimeError, match="no"):
        await store.start({"things": [THINGS["things"][0], Migration(2, bad)]})
    await store.start(THINGS)
    await store.write(add("a"))
    await store.close()


async def test_an_older_program_refuses_a_newer_database(database: Database) -> None:
    store = Storage.open(database.url)
    await store.start(THINGS)
    with pytest.raises(SchemaTooNew, match="version 2"):
        await store.start({"things": THINGS["things"][:1]})
    with pytest.raises(ValueError, match="numbered"):
        await store.start({"gaps": [Migration(1, lambda _: None), Migration(3, lambda _: None)]})
    await store.close()


# Answers kept for replays


def submit(request_id: str, digest: bytes, effects: list[int]):
    def write(tx: Tx) -> bytes:
        found = tx.replay("ada", "/Submit", request_id, digest)
        if found is not None:
            return found
        effects.append(1)
        tx.append("things", "x", b"effect")
        answer = f"answer {tx.revision()}".encode()
        tx.remember("ada", "/Submit", request_id, digest, answer)
        return answer

    return write


async def test_the_same_request_id_20_times_at_once_and_after_a_restart(database: Database, storage: Storage) -> None:
    other = Storage.open(database.url)
    effects: list[int] = []
    stores = [storage, other] * 10
    answers = await asyncio.gather(*(store.write(submit("r1", b"d", effects)) for store in stores))
    assert set(answers) == {b"answer 1"}, "every caller gets the first answer"
    assert await storage.read(lambda tx: tx.value("SELECT count(*) FROM log_event")) == 1, "one effect"
    await other.close()
    restarted = Storage.open(database.url)
    await restarted.start(THINGS)
    assert await restarted.write(submit("r1", b"d", effects)) == b"answer 1"
    with pytest.raises(RequestIdReused) as reused:
        await restarted.write(submit("r1", b"other", effects))
    assert reused.value.request_id == "r1"
    assert await restarted.write(submit("", b"d", effects)) != await restarted.write(submit("", b"d", effects))
    await restarted.close()


async def test_a_request_that_fails_is_not_remembered(storage: Storage) -> None:
    def write(tx: Tx) -> None:
        tx.remember("ada", "/Submit", "r1", b"d", b"answer")
        raise KeyError

    with pytest.raises(KeyError):
        await storage.write(write)
    assert await storage.write(submit("r1", b"d", [])) == b"answer 1"
    per_method = await storage.read(lambda tx: tx.value("SELECT count(*) FROM request"))
    assert per_method == 1


async def test_remembering_twice_runs_the_write_again(storage: Storage) -> None:
    """The unique key is the last guard, should a replay not have been asked for in time."""
    await storage.write(submit("r1", b"d", []))
    runs: list[int] = []

    def write(tx: Tx) -> bytes:
        runs.append(1)
        found = tx.replay("ada", "/Submit", "r1", b"d") if len(runs) > 1 else None
        if found is None:
            tx.remember("ada", "/Submit", "r1", b"d", b"second")
            return b"second"
        return found

    assert await storage.write(write) == b"answer 1"


async def test_answers_expire_in_chunks(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(7):
        await storage.write(submit(f"r{number}", b"d", []))
    assert await storage.write(lambda tx: expire_requests(tx, 5)) == 0, "none is 24 h old"
    monkeypatch.setattr(tx_module, "REQUEST_TTL_S", -10)
    assert await storage.write(lambda tx: expire_requests(tx, 5)) == 5
    assert await storage.write(lambda tx: expire_requests(tx, 5)) == 2


# Opening


@pytest.mark.parametrize(
    "url", ["sqlite://relative.db", "sqlite:///dir/", "mysql://x/y", "", "/a/b.db", "sqlite:///a.db?mode=ro"]
)
def test_a_url_that_is_of_no_use(url: str) -> None:
    with pytest.raises(ValueError, match="URL"):
        Storage.open(url)


def test_a_database_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(StorageUnavailable, match="missing"):
        Storage.open(f"sqlite://{tmp_path}/missing/state.db")
    (tmp_path / "text.db").write_text("this is no database, it is only some text " * 100)
    with pytest.raises(StorageUnavailable, match="not a SQLite database"):
        Storage.open(f"sqlite://{tmp_path}/text.db")
    with pytest.raises(StorageUnavailable) as refused:
        Storage.open(f"postgresql://me:secret@/db?host={tmp_path}")
    assert "secret" not in str(refused.value)


def test_the_file_is_private(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    path.touch(mode=0o644)
    store = Storage.open(f"sqlite://{path}")
    store.start_sync()
    for file in tmp_path.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file
    assert store.read_sync(lambda tx: tx.value("PRAGMA synchronous")) == 2
    assert store.write_sync(lambda tx: tx.value("PRAGMA synchronous")) == 2
    assert store.write_sync(lambda tx: tx.value("PRAGMA foreign_keys")) == 1
    assert store.write_sync(lambda tx: tx.value("PRAGMA journal_mode")) == "wal"
    store.close_sync()
