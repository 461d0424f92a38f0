"""The log and the hub in one process, on both databases; each test is named by the guarantee that it proves."""

from __future__ import annotations

import asyncio
import gc
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest
from openfacility_server.events import (
    Batch,
    Compacted,
    Event,
    EventHub,
    FutureRevision,
    HubStopping,
    Watcher,
    log,
)
from openfacility_server.events import (
    hub as hub_module,
)
from openfacility_server.events import ring as ring_module
from openfacility_server.storage import Storage, Tx

from tests.engines.postgres import Database
from tests.faults.log_checks import Checked, log_entries

DEADLINE_S = 20.0


@pytest.fixture
async def storage(database: Database) -> AsyncIterator[Storage]:
    opened = Storage.open(database.url)
    await opened.start()
    yield opened
    await opened.close()


@asynccontextmanager
async def running(storage: Storage, **options: object) -> AsyncIterator[EventHub]:
    hub = EventHub(storage, **options)  # type: ignore[arg-type]
    await hub.start()
    try:
        yield hub
    finally:
        # Nobody reads those any more, and stopping would wait for them.
        for watcher in list(hub._watchers):
            watcher.close()
        await hub.stop()


def change(*keys: str, topic: str = "jobs", payload: bytes = b"payload") -> Callable[[Tx], int]:
    """A write of one event per key; the key's first letter is its owner."""

    def write(tx: Tx) -> int:
        for key in keys:
            tx.append(topic, key, payload, frozenset({f"key:{key}", f"owner:{key[0]}"}), {"owner": key[0]})
        return tx.revision()

    return write


async def take(watcher: Watcher, checked: Checked, until: Callable[[Checked], bool]) -> None:
    """Reads batches until the condition holds."""
    async with asyncio.timeout(DEADLINE_S):
        while not until(checked):
            checked.take(await anext(watcher))


async def holds(condition: Callable[[], bool]) -> None:
    """Waits until it does."""
    async with asyncio.timeout(DEADLINE_S):
        while not condition():  # noqa: ASYNC110 - it is about another object's state
            await asyncio.sleep(0.001)


def upto(revision: int) -> Callable[[Checked], bool]:
    return lambda checked: checked.revision >= revision


async def test_ordered_unique_atomic_reliable_with_concurrent_writers(storage: Storage) -> None:
    async with running(storage) as hub:
        watchers = [hub.watch("jobs", after=0) for _ in range(5)]
        checks = [Checked(0) for _ in watchers]
        rng = random.Random(1)

        async def write(number: int) -> None:
            await storage.write(change(*(f"{rng.choice('abc')}{number}-{part}" for part in range(rng.randint(1, 5)))))

        async def consume(watcher: Watcher, checked: Checked) -> None:
            await take(watcher, checked, upto(300))

        tasks = [asyncio.create_task(consume(*pair)) for pair in zip(watchers, checks, strict=True)]
        await asyncio.gather(*(write(number) for number in range(300)))
        await asyncio.gather(*tasks)
        truth = await log_entries(storage)
        assert len(truth) > 300
        for checked in checks:
            checked.against(truth)
            assert checked.caught_up == 1


async def test_atomic_a_revision_larger_than_a_batch_is_not_split(storage: Storage) -> None:
    async with running(storage, ring_events=100) as hub:
        watcher, behind = hub.watch("jobs"), hub.watch("jobs", after=0)
        await storage.write(change("a0"))
        await storage.write(change(*(f"b{number}" for number in range(2_500))))
        await storage.write(change("c0"))
        for each in (watcher, behind):
            checked = Checked(0)
            sizes = []
            async with asyncio.timeout(DEADLINE_S):
                while checked.revision < 3:
                    batch = await anext(each)
                    checked.take(batch)
                    sizes.append(len(batch.events))
            checked.against(await log_entries(storage))
            assert max(sizes) >= 2_500


async def test_batches_are_bounded(storage: Storage) -> None:
    for start in range(0, 3_000, 100):
        await storage.write(
            lambda tx, start=start: [tx.append("jobs", str(start + n), b"x" * 2_000) for n in range(100)]
        )
    async with running(storage) as hub:
        for ring_hit in (True, False):
            if not ring_hit:
                hub.ring = ring_module.Ring(30, 10, 10)
            checked = Checked(0)
            with hub.watch("jobs", after=0) as watcher:
                async with asyncio.timeout(DEADLINE_S):
                    while checked.revision < 30:
                        batch = await anext(watcher)
                        assert len(batch.frames) < ring_module.BATCH_BYTES + 300_000
                        checked.take(batch)
            checked.against(await log_entries(storage))


async def test_resumable_from_every_revision_from_ring_and_from_log(storage: Storage) -> None:
    revisions = [await storage.write(change(*(["a", "b", "c"][: 1 + n % 3]))) for n in range(30)]
    truth = await log_entries(storage)
    for events in (1_000, 10):
        async with running(storage, ring_events=events) as hub:
            for after in range(31):
                checked = Checked(after)
                with hub.watch("jobs", after=after) as watcher:
                    await take(watcher, checked, lambda checked: checked.caught_up == 1)
                assert checked.revision == revisions[-1]
                checked.against(truth)


async def test_from_now_begins_with_the_next_change(storage: Storage) -> None:
    async with running(storage) as hub:
        last = await storage.write(change("a"))
        await take(hub.watch("jobs", after=0), Checked(0), upto(last))
        with hub.watch("jobs") as watcher:
            checked = Checked(last)
            first = await anext(watcher)
            assert (first.events, first.caught_up, first.revision) == ((), True, last)
            await storage.write(change("b"))
            await take(watcher, checked, upto(last + 1))
            assert [entry[2] for entry in checked.entries] == ["b"]


async def test_bookmarkable_idle_watchers_learn_how_far_they_are_complete(storage: Storage) -> None:
    async with running(storage, bookmark_interval=timedelta(seconds=0.2)) as hub:
        with hub.watch("jobs", interest=frozenset({"key:mine"})) as watcher:
            assert (await anext(watcher)).caught_up
            last = await storage.write(change("other"))
            checked = Checked(0)
            await take(watcher, checked, upto(last))
            assert (checked.entries, checked.bookmarks) == ([], 1)
            await take(watcher, checked, lambda checked: checked.bookmarks == 3)
            await storage.write(change("mine"))
            await take(watcher, checked, lambda checked: bool(checked.entries))
        checked = Checked(last)
        with hub.watch("jobs", after=last) as watcher:
            await take(watcher, checked, lambda checked: checked.caught_up == 1)
        assert [entry[2] for entry in checked.entries] == ["mine"], "a bookmark is a position to resume from"


async def test_bookmarks_are_left_out_while_events_flow(storage: Storage) -> None:
    async with running(storage, bookmark_interval=timedelta(seconds=0.3)) as hub:
        with hub.watch("jobs") as watcher:
            checked = Checked(0)
            begun = time.monotonic()
            while time.monotonic() - begun < 1:
                revision = await storage.write(change("a"))
                await take(watcher, checked, upto(revision))
            # The first says "caught up".
            assert checked.bookmarks <= 1


async def test_filtered_by_topic_interest_and_match(storage: Storage) -> None:
    cases: list[tuple[frozenset[str] | None, Callable[[Event], bool] | None, Callable[[str], bool]]] = [
        (None, None, lambda _: True),
        (frozenset({"owner:a"}), None, lambda tags: "owner:a" in tags),
        (frozenset({"key:a1", "key:b2"}), None, lambda tags: "key:a1\x1f" in tags or "key:b2\x1f" in tags),
        (frozenset(f"key:a{n}" for n in range(9)), None, lambda tags: "owner:a" in tags),
        (None, lambda event: event.attributes["owner"] == "b", lambda tags: "owner:b" in tags),
        (frozenset({"owner:a", "owner:b"}), lambda event: event.key == "b3", lambda tags: "key:b3\x1f" in tags),
        (frozenset(), None, lambda _: False),
        (frozenset({"owner:%"}), None, lambda _: False),
    ]
    async with running(storage, ring_events=5) as small, running(storage) as large:
        live = [large.watch("jobs", after=0, interest=case[0], match=case[1]) for case in cases]
        last = 0
        for number in range(9):
            last = await storage.write(change(f"a{number}", f"b{number}"))
            await storage.write(change(f"a{number}", topic="files"))
        for case, watcher in zip(cases, live, strict=True):
            truth = [e for e in await log_entries(storage, case[2]) if e[0] % 2]
            late = [hub.watch("jobs", after=0, interest=case[0], match=case[1]) for hub in (small, large)]
            for each in (watcher, *late):
                checked = Checked(0)
                await take(
                    each,
                    checked,
                    lambda checked, each=each: checked.caught_up == 1 and each._host.ring.revision >= last,
                )
                if checked.revision < last and truth and truth[-1][0] > checked.revision:
                    await take(each, checked, upto(truth[-1][0]))
                checked.against(truth)
                each.close()


async def test_a_change_of_one_job_wakes_only_its_watchers(storage: Storage) -> None:
    async with running(storage) as hub:
        watchers = [hub.watch("jobs", interest=frozenset({f"key:{number}"})) for number in range(1_000)]
        received: dict[int, list[Batch]] = {number: [] for number in range(1_000)}

        async def consume(number: int) -> None:
            async for batch in watchers[number]:
                received[number].append(batch)

        tasks = [asyncio.create_task(consume(number)) for number in range(1_000)]
        await holds(lambda: all(received.values()) and all(watcher.idle for watcher in watchers))
        waiters = [watcher._waiter for watcher in watchers]
        last = 0
        for number in range(0, 1_000, 100):
            last = await storage.write(change(str(number)))
        await holds(lambda: sum(map(len, received.values())) == 1_010)
        same = sum(watcher._waiter is waiter for watcher, waiter in zip(watchers, waiters, strict=True))
        assert same == 990, "Filtered: watchers of other jobs were woken"
        assert watchers[1].revision == last, "a filtered watcher's position goes on without waking it"
        for watcher in watchers:
            watcher.close()
        await asyncio.gather(*tasks)
        assert (hub._by_tag, hub._watchers) == ({}, set()), "closed watchers leave nothing behind"


async def test_watchers_of_a_group_share_batches_and_frames(storage: Storage) -> None:
    async with running(storage) as hub:

        def match(event: Event) -> bool:
            return event.key.startswith("a")

        watchers = [hub.watch("jobs", match=match, group=("owner", "a")) for _ in range(3)]
        for watcher in watchers:
            assert (await anext(watcher)).caught_up
        revision = await storage.write(change("a1", "b1", "a2"))
        await hub.reached(revision)
        batches = [await anext(watcher) for watcher in watchers]
        assert [event.key for event in batches[0].events] == ["a1", "a2"]
        assert batches[0].frames is batches[1].frames is batches[2].frames
        assert batches[0].events is batches[2].events
        assert batches[0].frames == b"\x0a\x07payload" * 2


async def test_frames_are_field_number_one(storage: Storage) -> None:
    async with running(storage) as hub:
        with hub.watch("jobs", after=0) as watcher:
            for size in (0, 1, 127, 128, 16_383, 16_384, 300_000):
                revision = await storage.write(
                    lambda tx, size=size: (tx.append("jobs", "k", b"x" * size), tx.revision())[1]
                )
                await hub.reached(revision)
                batch = await anext(watcher)
                event = batch.events[-1]
                assert event.payload == b"x" * size
                head, length, shift = event.frame[: event.offset], 0, 0
                assert head[0] == 0x0A
                for byte in head[1:]:
                    length |= (byte & 0x7F) << shift
                    shift += 7
                assert length == size
                assert abs(event.time.timestamp() - time.time()) < 60


async def test_a_consumer_that_gives_up_waiting_misses_nothing(storage: Storage) -> None:
    """The position moves only with what was returned, so `wait_for` around it is safe."""
    async with running(storage, ring_events=3) as hub:
        with hub.watch("jobs", after=0) as watcher:
            checked = Checked(0)
            for number in range(60):
                await storage.write(change(f"a{number}"))
                try:
                    checked.take(await asyncio.wait_for(anext(watcher), random.choice([0, 0.0005, 0.002])))
                except TimeoutError:
                    continue
            await take(watcher, checked, upto(60))
            checked.against(await log_entries(storage))


async def test_reliable_a_watcher_that_fell_off_the_ring_is_read_from_the_log(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "PAGE_EVENTS", 20)
    async with running(storage, ring_events=50) as hub:
        slow = [hub.watch("jobs"), hub.watch("jobs", interest=frozenset({"owner:a"}))]
        checks = [Checked(0), Checked(0, lambda event: event.key[0] == "a")]
        for watcher, checked in zip(slow, checks, strict=True):
            checked.take(await anext(watcher))
        for number in range(300):
            await storage.write(change(f"a{number}", f"b{number}"))
        await hub.reached(300)
        assert hub.ring.head - hub.ring.base == 50
        for watcher, checked in zip(slow, checks, strict=True):
            await take(watcher, checked, upto(300))
            assert watcher.resyncs == 1
            assert checked.batches > 3
            await storage.write(change("a-last"))
            await take(watcher, checked, upto(301))
        checks[0].against(await log_entries(storage))
        checks[1].against(await log_entries(storage, lambda tags: "owner:a" in tags))


async def test_the_ring_is_bounded_by_bytes(storage: Storage) -> None:
    async with running(storage, ring_bytes=200_000) as hub:
        for _ in range(20):
            await hub.reached(await storage.write(change("a", payload=bytes(50_000))))
        assert 0 < hub.ring.bytes <= 200_000


async def test_compacted_and_future_revisions_are_refused(storage: Storage) -> None:
    for number in range(20):
        await storage.write(change(f"a{number}"))
    options = {"keep_events": 5, "keep_at_least": timedelta(0)}
    async with running(storage, **options) as hub:
        with pytest.raises(FutureRevision) as future:
            await anext(hub.watch("jobs", after=21))
        assert future.value.current_revision == 20
        assert await hub.compact() == 15
        assert await hub.compact() == 15
        hub.ring = ring_module.Ring(20, 10, 10_000)
        for after, fine in ((0, False), (14, False), (15, True), (20, True)):
            checked = Checked(after)
            with hub.watch("jobs", after=after) as watcher:
                if fine:
                    await take(watcher, checked, lambda checked: checked.caught_up == 1)
                    checked.against(await log_entries(storage))
                    continue
                with pytest.raises(Compacted) as compacted:
                    await anext(watcher)
                assert (compacted.value.oldest_revision, compacted.value.current_revision) == (15, 20)
                with pytest.raises(Compacted):
                    await anext(watcher)
    async with running(storage, keep=timedelta(hours=1)) as hub:
        assert await hub.compact() == 15, "young events stay"
    async with running(storage, keep_events=1) as hub:
        assert await hub.compact() == 15, "the newest hour stays, whatever its number"
    async with running(storage, keep=timedelta(seconds=-10), keep_at_least=timedelta(seconds=-10)) as hub:
        assert await hub.compact() == 20
    restarted = EventHub(storage)
    await restarted.start()
    assert restarted.current_revision == 20
    await restarted.stop()


async def test_compaction_while_watchers_resume(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    """A watcher either gets everything after its revision, or Compacted; never a log with a hole."""
    monkeypatch.setattr(hub_module, "COMPACT_CHUNK", 10)
    monkeypatch.setattr(log, "PAGE_EVENTS", 40)
    for number in range(200):
        await storage.write(change(*(f"a{number}-{part}" for part in range(1 + number % 4))))
    truth = await log_entries(storage)
    outcomes = {"all": 0, "compacted": 0}
    async with running(storage, ring_events=10, keep_events=50, keep_at_least=timedelta(0)) as hub:
        compacting = asyncio.create_task(hub.compact())

        async def resume(after: int) -> None:
            checked = Checked(after)
            with hub.watch("jobs", after=after) as watcher:
                try:
                    await take(watcher, checked, lambda checked: checked.caught_up == 1)
                    outcomes["all"] += 1
                except Compacted as error:
                    refused = error.oldest_revision
                    outcomes["compacted"] += 1
                else:
                    refused = checked.revision + 1
            assert checked.revision < refused, "Reliable: what is still kept was refused"
            checked.against(truth)

        while not compacting.done():
            await asyncio.gather(*(resume(after) for after in range(0, 200, 40)))
        await asyncio.gather(*(resume(after) for after in range(0, 200, 40)))
        assert 40 <= len(await log_entries(storage)) <= 50
    assert all(outcomes.values()), outcomes


async def test_stopping_gives_1000_watchers_a_last_batch(storage: Storage) -> None:
    async with running(storage) as hub:
        ends: list[tuple[int, bool]] = []

        async def consume() -> None:
            revision = -1
            try:
                async for batch in hub.watch("jobs"):
                    revision = batch.revision
            except HubStopping:
                ends.append((revision, True))

        tasks = [asyncio.create_task(consume()) for _ in range(1_000)]
        stalled = hub.watch("jobs", after=0)
        await asyncio.sleep(0)
        last = await storage.write(change("a"))
        await hub.reached(last)
        await hub.stop()
        async with asyncio.timeout(DEADLINE_S):
            await asyncio.gather(*tasks)
        assert ends == [(last, True)] * 1_000
        for each in (stalled, stalled):
            with pytest.raises(HubStopping):
                await anext(each)
        with pytest.raises(HubStopping):
            hub.watch("jobs")


async def test_closing_ends_the_iteration(storage: Storage) -> None:
    async with running(storage) as hub:
        watcher = hub.watch("jobs")

        async def consume() -> int:
            return sum([1 async for _ in watcher])

        task = asyncio.create_task(consume())
        await holds(lambda: watcher.idle)
        watcher.close()
        watcher.close()
        async with asyncio.timeout(DEADLINE_S):
            assert await task == 1
        assert hub.watchers == 0


async def test_a_match_that_fails_fails_its_watcher_only(storage: Storage) -> None:
    async with running(storage) as hub:
        bad = hub.watch("jobs", match=lambda event: event.attributes["no such"])
        good = hub.watch("jobs")
        await anext(bad)
        await storage.write(change("a"))
        with pytest.raises(KeyError):
            await anext(bad)
        await take(good, Checked(0), upto(1))


async def test_a_log_that_goes_back_makes_all_list_again(storage: Storage) -> None:
    """An older copy of the database was restored under a running server."""
    async with running(storage) as hub:
        for _ in range(5):
            last = await storage.write(change("a"))
        await hub.reached(last)
        watcher, waiting = hub.watch("jobs"), hub.watch("jobs", interest=frozenset({"x"}))
        for each in (watcher, waiting):
            await anext(each)
        task = asyncio.create_task(anext(waiting))  # type: ignore[arg-type]
        await storage.write(lambda tx: tx.run("DELETE FROM log_event WHERE id >= ?", (3 << 20,)))
        await storage.write(lambda tx: tx.run("UPDATE log_counter SET revision = 2, events = 2 WHERE id = 1"))
        assert await hub.refresh() == 2
        async with asyncio.timeout(DEADLINE_S):
            for end in (task, anext(watcher)):
                with pytest.raises(Compacted) as again:
                    await end
                assert again.value.current_revision == 2
        checked = Checked(2)
        fresh = hub.watch("jobs", after=2)
        assert await storage.write(change("b")) == 3
        await take(fresh, checked, upto(3))
        assert [entry[2] for entry in checked.entries] == ["b"]


async def test_opening_and_closing_leaves_no_memory(storage: Storage) -> None:
    async with running(storage) as hub:

        async def cycle() -> None:
            for number in range(2_000):
                with hub.watch("jobs", interest=frozenset({f"key:{number}"})) as watcher:
                    await anext(watcher)

        await cycle()
        gc.collect()
        before = len(gc.get_objects())
        await cycle()
        gc.collect()
        assert len(gc.get_objects()) - before < 500
