"""Many watchers, and watchers that do not read."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from openfacility_server.events import EventHub, Watcher
from openfacility_server.storage import Storage, Tx

from tests.engines.postgres import Database
from tests.faults.log_checks import Checked, log_entries

DEADLINE_S = 60.0
WATCHERS = 1_000
MIB = 1 << 20


@pytest.fixture
async def storage(database: Database) -> AsyncIterator[Storage]:
    opened = Storage.open(database.url)
    await opened.start()
    yield opened
    await opened.close()


def resident() -> int:
    """Bytes of memory that this process uses."""
    gc.collect()
    # What is free, in between, belongs to whatever ran before; without the GNU library it stays.
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def change(number: int, payload: bytes):
    def write(tx: Tx) -> None:
        tx.append("jobs", str(number), payload, frozenset({f"job:{number}"}), {"number": number})

    return write


class Counted:
    """Checks order without keeping anything per event: a thousand of these are watching."""

    def __init__(self) -> None:
        self.last = 0
        self.count = 0
        self.delays: list[float] = []

    async def follow(self, watcher: Watcher, total: int) -> None:
        """Reads until `total` events have come."""
        while self.count < total:
            batch = await anext(watcher)
            now = time.time()
            for event in batch.events:
                assert event.revision == self.last + 1, f"Ordered: {event} came after revision {self.last}"
                self.last = event.revision
            if batch.events:
                self.count += len(batch.events)
                self.delays.append(now - batch.events[0].time_us / 1e6)


async def test_1000_watchers_and_100_changes_a_second(storage: Storage) -> None:
    """All delivered, in order, and no backlog builds up."""
    seconds, rate = 3, 100
    hub = EventHub(storage)
    await hub.start()
    watchers = [hub.watch("jobs", group="all") for _ in range(WATCHERS)]
    counted = [Counted() for _ in watchers]
    tasks = [
        asyncio.create_task(each.follow(watcher, seconds * rate))
        for each, watcher in zip(counted, watchers, strict=True)
    ]
    async with asyncio.timeout(DEADLINE_S):
        begun = time.monotonic()
        writes = []
        for number in range(seconds * rate):
            await asyncio.sleep(max(0.0, begun + number / rate - time.monotonic()))
            writes.append(asyncio.create_task(storage.write(change(number, bytes(300)))))
        await asyncio.gather(*writes, *tasks)
    assert all(each.count == seconds * rate for each in counted)
    delays = sorted(delay for each in counted for delay in each.delays)
    # Loose on purpose: the machine may be busy. bench/ has the figures.
    assert delays[len(delays) // 2] < 0.5
    for watcher in watchers:
        watcher.close()
    await hub.stop()


async def test_when_half_of_them_stop_reading_memory_is_bounded_and_nothing_is_lost(storage: Storage) -> None:
    hub = EventHub(storage, ring_bytes=2 * MIB)
    await hub.start()
    readers = [hub.watch("jobs", group="all") for _ in range(WATCHERS // 2)]
    stalled = [hub.watch("jobs", group="all") for _ in range(WATCHERS // 2)]
    for watcher in stalled:
        assert (await anext(watcher)).caught_up

    total, size = 6_000, 10_000
    counted = [Counted() for _ in readers]
    tasks = [asyncio.create_task(each.follow(watcher, total)) for each, watcher in zip(counted, readers, strict=True)]

    async def write(start: int, stop: int) -> None:
        for base in range(start, stop, 50):
            await asyncio.gather(*(storage.write(change(number, bytes(size))) for number in range(base, base + 50)))
            await hub.reached(base + 50)

    async with asyncio.timeout(DEADLINE_S):
        await write(0, 500)
        before = resident()
        await write(500, total)
        grown = resident() - before
        await asyncio.gather(*tasks)
    assert all(each.count == total for each in counted)
    assert hub.ring.bytes <= 2 * MIB
    # 55 MB were written, and would be there if anybody kept what the stalled ones did not read.
    assert grown < 30 * MIB, f"memory grew by {grown / MIB:.1f} MiB"

    truth = await log_entries(storage)
    async with asyncio.timeout(DEADLINE_S):
        for watcher in stalled[:5]:
            checked = Checked(0)
            while checked.revision < total:
                checked.take(await anext(watcher))
            checked.against(truth)
            assert watcher.resyncs == 1
    for watcher in (*readers, *stalled):
        watcher.close()
    await hub.stop()
