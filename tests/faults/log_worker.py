"""A process that writes to the log, or writes and watches; started by the tests beside it.

python -m tests.faults.log_worker write URL NAME       until killed; prints each revision when it is acknowledged
python -m tests.faults.log_worker both URL NAME COUNT TOTAL
                                                       writes COUNT times, watches to revision TOTAL, prints a digest
"""

from __future__ import annotations

import asyncio
import json
import random
import sys

from openfacility_server.events import EventHub
from openfacility_server.storage import Storage, Tx

from tests.faults.log_checks import Checked

DEADLINE_S = 40.0


def change(name: str, number: int, size: int):
    """Writes `size` events and, in the same transaction, counts them in the writer's row."""

    def write(tx: Tx) -> int:
        for part in range(size):
            tx.append("jobs", f"{name}-{number}-{part}", b"x" * 200, frozenset({f"writer:{name}"}), {"size": size})
        tx.run(
            "INSERT INTO tally (name, events) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET"
            " events = tally.events + excluded.events",
            (name, size),
        )
        return tx.revision()

    return write


def say(what: object) -> None:
    """One line to the test that started this."""
    sys.stdout.write(f"{what}\n")
    sys.stdout.flush()


async def write_for_ever(url: str, name: str) -> None:
    """Four tasks, so that group commit is killed too."""
    storage = Storage.open(url)
    numbers = iter(range(1_000_000_000))
    rng = random.Random(name)

    async def one() -> None:
        while True:
            revision = await storage.write(change(name, next(numbers), rng.randint(1, 5)))
            say(revision)

    await asyncio.gather(*(one() for _ in range(4)))


async def write_and_watch(url: str, name: str, count: int, total: int) -> None:
    """Writes while it watches everybody's changes."""
    storage = Storage.open(url)
    await storage.start()
    hub = EventHub(storage)
    await hub.start()
    rng = random.Random(name)
    say("ready")
    await asyncio.to_thread(sys.stdin.readline)

    async def write(numbers: range) -> None:
        for number in numbers:
            await storage.write(change(name, number, rng.randint(1, 5)))

    async def watch() -> Checked:
        checked = Checked(0)
        with hub.watch("jobs", after=0) as watcher:
            while checked.revision < total:
                checked.take(await anext(watcher))
        return checked

    async with asyncio.timeout(DEADLINE_S), asyncio.TaskGroup() as group:
        watching = group.create_task(watch())
        for start in range(4):
            group.create_task(write(range(start, count, 4)))
    say(json.dumps(watching.result().entries))
    await hub.stop()
    await storage.close()


if __name__ == "__main__":
    if sys.argv[1] == "write":
        asyncio.run(write_for_ever(sys.argv[2], sys.argv[3]))
    else:
        asyncio.run(write_and_watch(sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5])))
