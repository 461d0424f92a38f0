"""Leases, on both databases; the clock is the test's."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from openfacility_server.storage import Lease, LeaseLost, Storage, Tx
from openfacility_server.storage.processes import is_dead, this_process

from tests.engines.postgres import Database

TTL = timedelta(seconds=10)


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
async def storage(database: Database) -> AsyncIterator[Storage]:
    opened = Storage.open(database.url)
    await opened.start()
    yield opened
    await opened.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


async def test_one_holds_and_the_other_waits_its_time(storage: Storage, clock: Clock) -> None:
    first, second = (Lease(storage, "job", holder, TTL, clock=clock) for holder in ("first", "second"))
    assert await first.acquire()
    assert not await second.acquire()
    clock.now += 9
    await first.renew()
    clock.now += 9
    assert first.held
    assert not await second.acquire(), "it was renewed since the second one looked"
    clock.now += 9.9
    assert not first.held, "10 s after the renewal began"
    assert not await second.acquire(), "the second has not yet seen it unrenewed for 10 s"
    clock.now += 0.2
    assert await second.acquire()
    assert (second.fence, second.held, first.held) == (2, True, False)
    with pytest.raises(LeaseLost):
        await first.renew()
    assert not await first.acquire()


async def test_a_released_lease_is_free_at_once(storage: Storage, clock: Clock) -> None:
    first, second = (Lease(storage, "job", holder, TTL, clock=clock) for holder in ("first", "second"))
    assert await first.acquire()
    await first.release()
    await first.release()
    assert await second.acquire()
    assert second.fence == 2
    await first.release()
    assert second.remaining == TTL
    await second.renew()


async def test_one_that_ran_out_is_taken_again_by_its_holder(storage: Storage, clock: Clock) -> None:
    lease = Lease(storage, "job", "first", TTL, clock=clock)
    assert await lease.acquire()
    clock.now += 11
    assert not lease.held
    with pytest.raises(LeaseLost):
        await lease.renew()
    assert await lease.acquire()
    assert lease.fence == 2, "whoever acted in between is fenced off"


async def test_fencing(storage: Storage, clock: Clock) -> None:
    """A holder that was stopped between looking and writing cannot write."""
    first, second = (Lease(storage, "job", holder, TTL, clock=clock) for holder in ("first", "second"))

    def write(lease: Lease):
        def run(tx: Tx) -> int:
            lease.check(tx)
            tx.append("t", "k", b"")
            return tx.revision()

        return run

    assert await first.acquire()
    assert await storage.write(write(first)) == 1
    assert not await second.acquire()
    later = Clock()
    later.now = clock.now + 11
    second._clock = later
    assert await second.acquire()
    assert first.held, "by its own clock, which was stopped"
    with pytest.raises(LeaseLost):
        await storage.write(write(first))
    assert await storage.write(write(second)) == 2


async def test_of_many_candidates_one_wins(database: Database, storage: Storage, clock: Clock) -> None:
    other = Storage.open(database.url)
    candidates = [Lease(store, "job", "x", TTL, clock=clock) for store in (storage, other) for _ in range(10)]
    assert sum(await asyncio.gather(*(lease.acquire() for lease in candidates))) == 1
    await other.close()


HOLD = """
import asyncio, sys
from datetime import timedelta
from openfacility_server.storage import Lease, Storage
async def main():
    storage = Storage.open(sys.argv[1])
    assert await Lease(storage, "job", "child", timedelta(hours=1)).acquire()
    print("held", flush=True)
    await asyncio.sleep(60)
asyncio.run(main())
"""


async def test_a_dead_holder_on_this_host_is_replaced_at_once(database: Database, storage: Storage) -> None:
    child = subprocess.Popen([sys.executable, "-c", HOLD, database.url], stdout=subprocess.PIPE)  # noqa: ASYNC220
    try:
        assert child.stdout
        assert await asyncio.to_thread(child.stdout.readline) == b"held\n"
        lease = Lease(storage, "job", "parent", TTL)
        assert not await lease.acquire()
        child.send_signal(signal.SIGKILL)
        # Not yet waited for: it is a zombie, and dead all the same.
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # noqa: ASYNC222 - it has been killed
        assert await lease.acquire(), "a holder that is known to be dead is not waited for"
        assert lease.fence == 2
    finally:
        child.kill()
        await asyncio.to_thread(child.wait, 10)
        child.stdout.close()


def test_dead_or_not() -> None:
    me = this_process()
    assert not is_dead(me)
    assert is_dead(me.replace(f'"pid": {os.getpid()}', '"pid": 4194305'))
    assert not is_dead(me.replace('"boot": "', '"boot": "other')), "another host or boot: not to be known"
    assert not any(is_dead(text) for text in ("", "[]", "{}"))
