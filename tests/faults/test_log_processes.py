"""Several processes on one log, on both databases; some of them are killed."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from openfacility_server.events import EventHub, Watcher
from openfacility_server.storage import Migration, ReadTx, Storage

from tests.engines.postgres import Database
from tests.faults.log_checks import Checked, log_entries

DEADLINE_S = 40.0
ROOT = Path(__file__).parents[2]
TALLY = {
    "tally": [
        Migration(1, lambda tx: tx.run("CREATE TABLE tally (name TEXT PRIMARY KEY, events BIGINT NOT NULL)") and None)
    ]
}


@pytest.fixture
async def storage(database: Database) -> AsyncIterator[Storage]:
    opened = Storage.open(database.url)
    await opened.start(TALLY)
    yield opened
    await opened.close()


async def worker(*arguments: object) -> Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.faults.log_worker", *map(str, arguments), cwd=ROOT, stdin=PIPE, stdout=PIPE
    )


async def end(process: Process) -> None:
    if process.returncode is None:
        process.kill()
    await process.communicate()


async def test_two_processes_write_and_watch_at_once(database: Database, storage: Storage) -> None:
    """Ordered, unique, atomic, reliable in each of them, and alike in both."""
    count = 300
    processes = [await worker("both", database.url, name, count, 2 * count) for name in ("one", "two")]
    try:
        async with asyncio.timeout(DEADLINE_S):
            for process in processes:
                assert process.stdout
                assert await process.stdout.readline() == b"ready\n"
            results = await asyncio.gather(*(process.communicate(b"go\n") for process in processes))
        truth = await log_entries(storage)
        assert await storage.read(ReadTx.current_revision) == 2 * count
        for output, _ in results:
            assert [tuple(entry) for entry in json.loads(output)] == truth, "Reliable: a process saw another log"
        names = [entry[2].split("-")[0] for entry in truth]
        changes = sum(before != after for before, after in itertools.pairwise(names))
        assert changes > 4, "the test is of no use: they did not write at the same time"
    finally:
        for process in processes:
            await end(process)


async def test_kill_9_of_a_writer_while_another_process_watches(database: Database, storage: Storage) -> None:
    """What was acknowledged is there and was watched once; what was not is there whole or not at all."""
    rng = random.Random()
    hub = EventHub(storage)
    await hub.start()
    checked = Checked(0)
    watcher = hub.watch("jobs", after=0)
    acknowledged: list[int] = []
    spoiled = asyncio.create_task(follow(watcher, checked))
    process = await worker("write", database.url, "w0")
    try:
        for number in range(5):
            following = await worker("write", database.url, f"w{number + 1}")
            async with asyncio.timeout(DEADLINE_S):
                assert process.stdout
                acknowledged += [int(await process.stdout.readline()) for _ in range(rng.randint(1, 120))]
            process.kill()
            rest = (await process.communicate())[0]
            acknowledged += [int(line) for line in rest.split(b"\n")[:-1]]
            process = following
        # The last one has had time to start; it shows that a killed writer leaves no lock behind.
        async with asyncio.timeout(DEADLINE_S):
            assert process.stdout
            acknowledged.append(int(await process.stdout.readline()))
        await end(process)
        last = await storage.read(ReadTx.current_revision)
        async with asyncio.timeout(DEADLINE_S):
            while checked.revision < last:  # noqa: ASYNC110 - the task that follows is another's
                await asyncio.sleep(0.01)
        truth = await log_entries(storage)
        checked.against(truth)
        revisions = {entry[0] for entry in truth}
        assert revisions == set(range(1, last + 1)), "Reliable: a revision has no events"
        assert set(acknowledged) <= revisions, "Durable: an acknowledged write is gone"
        tally = await storage.read(lambda tx: tx.value("SELECT sum(events) FROM tally"))
        assert tally == len(truth), "Atomic: the log and the rows that it tells of differ"
        sizes = await storage.read(lambda tx: tx.rows("SELECT id, attributes FROM log_event"))
        for revision in revisions:
            told = {json.loads(row[1])["size"] for row in sizes if row[0] >> 20 == revision}
            assert told == {sum(entry[0] == revision for entry in truth)}, "Atomic: a part of a transaction is there"
    finally:
        await end(process)
        watcher.close()
        await asyncio.gather(spoiled, return_exceptions=True)
        await hub.stop()
    assert spoiled.exception() is None


async def follow(watcher: Watcher, checked: Checked) -> None:
    async for batch in watcher:
        checked.take(batch)


async def test_a_restarted_hub_resumes_where_its_watchers_were(database: Database, storage: Storage) -> None:
    """Resumable: with a writer at work all the time, over many lives of the watching process's hub."""
    process = await worker("write", database.url, "w")
    checked = Checked(0)
    try:
        assert process.stdout
        async with asyncio.timeout(DEADLINE_S):
            await process.stdout.readline()
            reading = asyncio.create_task(drain(process))
            for life in range(8):
                own = Storage.open(database.url)
                hub = EventHub(own, ring_events=20 if life % 2 else 1_000)
                await hub.start()
                checked = checked.resumed()
                with hub.watch("jobs", after=checked.revision) as watcher:
                    for _ in range(5 + life):
                        checked.take(await anext(watcher))
                await hub.stop()
                await own.close()
        process.kill()
        await reading
        truth = await log_entries(storage)
        checked.against(truth)
        assert len(checked.entries) > 20
    finally:
        await end(process)


async def drain(process: Process) -> None:
    """A full pipe would stop the writer."""
    assert process.stdout
    while await process.stdout.readline():
        pass
