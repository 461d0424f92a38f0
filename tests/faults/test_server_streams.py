"""Many watches, slow ones, idle ones, short ones: all is delivered and the memory stays bounded."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import uuid
from typing import Any

import grpc
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from openfacility.jobs.v1 import jobs_service_pb2 as rpc

from tests.faults.server_support import (
    CHANNEL,
    Follower,
    calling,
    current_revision,
    log_after,
    memory,
    metric,
    raw_watch,
    serving,
)
from tests.support.calls import Caller, refused
from tests.support.server import Server

_log = logging.getLogger(__name__)
MB = 1 << 20
WATCH = "/openfacility.jobs.v1.JobsService/WatchJobs"


async def _change(caller: Caller, job_ids: list[str], count: int, text: str = "") -> None:
    """Makes ``count`` changes, a few at a time."""

    async def some(job_id: str, numbers: range) -> None:
        for number in numbers:
            await caller.update(job_id, ["spec.labels"], labels={"test": caller.label, "n": f"{number}{text}"})

    each = len(job_ids)
    await asyncio.gather(*(some(job_id, range(first, count, each)) for first, job_id in enumerate(job_ids)))


class Reader:
    """Reads one watch as it comes, and checks the order; keeps revisions only."""

    def __init__(self, call: Any) -> None:
        self.call = call
        self.revisions: list[int] = []
        self.position = 0

    async def to(self, revision: int) -> None:
        """Reads until the watch is complete up to a revision."""
        while self.position < revision:
            response = await self.call.read()
            assert response is not grpc.aio.EOF
            self.revisions += [change.revision for change in response.changes]
            assert response.revision >= self.position
            self.position = response.revision


@pytest.mark.slow
@pytest.mark.timeout(240)
async def test_a_thousand_watchers_of_a_hundred_changes_a_second_half_of_whom_stop_reading() -> None:
    changes, padding = 200, "x" * 200
    async with serving({"events": {"bookmark_interval": 30}}) as server, contextlib.AsyncExitStack() as stack:
        alice = await stack.enter_async_context(calling(server))
        specs = [alice.spec("/bin/true", hold=True, environment={"BIG": "x" * 3000}) for _ in range(5)]
        job_ids = [job.id for job in await alice.batch(specs)]
        for job_id in job_ids:
            await alice.wait(job_id, 3)
        start = await current_revision(alice)
        readers: list[Reader] = []
        for name in ("alice", "olga", "ada", "alice"):
            channel = await stack.enter_async_context(grpc.aio.insecure_channel(server.address, CHANNEL))
            request = rpc.WatchJobsRequest(after_revision=start)
            readers += [Reader(raw_watch(channel, server.tokens[name], request)) for _ in range(250)]
        await asyncio.gather(*(reader.to(start) for reader in readers))
        reading, stalled = readers[::2], readers[1::2]
        before = memory(server)
        writing = asyncio.create_task(_change(alice, job_ids, changes, padding))
        most = before
        while not writing.done():
            position = min(reader.position for reader in reading)
            async with asyncio.timeout(60):
                await asyncio.gather(*(reader.to(position + 1) for reader in reading))
            most = max(most, memory(server))
        await writing
        last = await current_revision(alice)
        await asyncio.gather(*(reader.to(last) for reader in reading))
        most = max(most, memory(server))
        expected = [revision for revision, _, _ in await log_after(server, start)]
        assert len(expected) == changes
        for reader in reading:
            assert reader.revisions == expected
        # The others go on reading where they were, and miss nothing either.
        await asyncio.gather(*(reader.to(last) for reader in stalled))
        for reader in stalled:
            assert reader.revisions == expected
        grown = (max(most, memory(server)) - before) / MB
        size = 4096 * changes / MB
        _log.info(
            "%d deliveries to 1000 watchers; memory grew by %.0f MB; a queue for each stalled one: %.0f MB",
            changes * 1000,
            grown,
            500 * size,
        )
        assert grown < 150


@pytest.mark.slow
async def test_a_stalled_reader_costs_no_memory_and_is_read_from_the_log_later() -> None:
    stalled, changes = 40, 200
    events = {"ring_events": 100, "ring_bytes": MB, "bookmark_interval": 30}
    # Narrow windows: what is not read stays with the server.
    narrow = [("grpc.http2.lookahead_bytes", 65_535), ("grpc.http2.bdp_probe", 0)]
    async with serving({"events": events}) as server, contextlib.AsyncExitStack() as stack:
        alice = await stack.enter_async_context(calling(server))
        job = await alice.submit("/bin/true", hold=True, environment={f"BIG{n}": "x" * 25_000 for n in range(2)})
        await alice.wait(job.id, 3)
        start = await current_revision(alice)
        readers = []
        for _ in range(stalled):
            channel = await stack.enter_async_context(grpc.aio.insecure_channel(server.address, [*CHANNEL, *narrow]))
            request = rpc.WatchJobsRequest(after_revision=start)
            readers.append(Reader(raw_watch(channel, server.tokens["alice"], request)))
        await asyncio.gather(*(reader.to(start) for reader in readers))
        before = memory(server)
        await _change(alice, [job.id], changes)
        grown = (memory(server) - before) / MB
        written = changes * 50_000 / MB
        _log.info("%.0f MB written for each of %d stalled watches; memory grew by %.0f MB", written, stalled, grown)
        assert grown < 0.25 * written * stalled
        assert grown < 120
        last = await current_revision(alice)
        expected = [revision for revision, _, _ in await log_after(server, start)]
        assert len(expected) == changes
        for reader in readers:
            await reader.to(last)
            assert reader.revisions == expected


@pytest.mark.slow
async def test_opening_and_cancelling_watches_leaves_nothing_behind() -> None:
    async with serving() as server, calling(server) as alice:
        await alice.submit("/bin/true", hold=True)

        async def churn(count: int) -> None:
            async def one(number: int) -> None:
                call = alice.call("WatchJobs", rpc.WatchJobsRequest(), timeout=None)
                if number % 3:  # the others are cancelled before anything was read
                    await call.read()
                call.cancel()
                with contextlib.suppress(asyncio.CancelledError, grpc.aio.AioRpcError):
                    await call.read()

            for first in range(0, count, 100):
                await asyncio.gather(*(one(number) for number in range(first, min(first + 100, count))))
            await _none_open(server)

        await churn(1000)
        first = memory(server)
        await churn(1500)
        second = memory(server)
        await churn(1500)
        third = memory(server)
        _log.info("after 1000, 2500, 4000 watches: %.1f, %.1f, %.1f MB", first / MB, second / MB, third / MB)
        # A leak of 4 KB a watch would show.
        assert third - first < 3000 * 4096


async def _none_open(server: Server) -> None:
    async with asyncio.timeout(60):
        while await metric(server, "openfacility_grpc_open_streams", method=WATCH):  # noqa: ASYNC110 -- nothing tells
            await asyncio.sleep(0.02)


async def test_an_idle_watch_lives_through_many_keepalive_pings() -> None:
    overrides = {"grpc": {"keepalive_min_interval": 0.5}, "events": {"bookmark_interval": 600}}
    # As the shipped clients do, faster.
    options = [
        ("grpc.keepalive_time_ms", 1000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
    ]
    async with serving(overrides) as server, calling(server, options=options) as alice, alice.watch() as watch:
        await watch.caught_up()
        next_ = asyncio.ensure_future(watch.next())
        done, _ = await asyncio.wait({next_}, timeout=3.5)
        assert not done, "an idle watch ended or was sent something"
        job = await alice.submit("/bin/true", hold=True)
        assert (await next_).changes[0].job.id == job.id


async def test_connections_that_are_closed_for_their_age_lose_nothing() -> None:
    async with serving({"grpc": {"max_connection_age": 0.5}}) as server, contextlib.AsyncExitStack() as stack:
        async with calling(server) as alice:
            job = await alice.submit("/bin/true", hold=True)
            start = await current_revision(alice)
            followers = [await stack.enter_async_context(Follower(server, start)) for _ in range(5)]
            number = 0
            async with asyncio.timeout(60):
                while any(follower.streams < 2 for follower in followers):
                    number += 1
                    labels = {"test": alice.label, "n": str(number)}
                    # Unary calls are never cut: the age comes with a grace.
                    await alice.update(job.id, ["spec.labels"], labels=labels)
                    await asyncio.sleep(0.02)
            last = await current_revision(alice)
        log = await log_after(server, start)
        for follower in followers:
            await follower.reached(last)
            assert follower.entries == log


async def test_at_the_cap_of_streams_other_calls_are_served() -> None:
    limits = {"streams": 12, "streams_per_caller": 8}
    async with serving({"limits": limits}) as server, contextlib.AsyncExitStack() as stack:
        alice = await stack.enter_async_context(calling(server))
        bob = await stack.enter_async_context(calling(server, "bob"))

        async def opened(caller: Caller) -> Any:
            watch = await stack.enter_async_context(caller.watch())
            await watch.caught_up()
            return watch

        mine = [await opened(alice) for _ in range(8)]
        async with alice.watch() as one_more:
            with refused("RESOURCE_EXHAUSTED", "TOO_MANY_STREAMS_OF_CALLER"):
                await one_more.next()
        for _ in range(4):
            await opened(bob)
        async with bob.watch() as one_more:
            with refused("RESOURCE_EXHAUSTED", "TOO_MANY_STREAMS"):
                await one_more.next()
        # Unary calls, health and probes are served as ever.
        await alice.list()
        await bob.submit("/bin/true", hold=True)
        async with grpc.aio.insecure_channel(server.address, CHANNEL) as channel:
            health = health_pb2_grpc.HealthStub(channel)
            assert (await health.Check(health_pb2.HealthCheckRequest(), timeout=20)).status == 1
            watch = health.Watch(health_pb2.HealthCheckRequest())
            assert (await watch.read()).status == 1
            watch.cancel()
        async with httpx.AsyncClient(timeout=20) as client:
            assert (await client.get(f"{server.http_url}/readyz")).status_code == 200
        mine[0].cancel()
        async with asyncio.timeout(20):
            while await metric(server, "openfacility_grpc_open_streams", method=WATCH) > 11:  # noqa: ASYNC110 -- none
                await asyncio.sleep(0.02)
        await opened(bob)


async def test_unknown_methods_say_only_that() -> None:
    async with serving() as server, grpc.aio.insecure_channel(server.address, CHANNEL) as channel:
        for path in ("/openfacility.jobs.v1.JobsService/DropTables", "/no.such.v1.Service/Call"):
            with pytest.raises(grpc.aio.AioRpcError) as failed:
                await channel.unary_unary(path)(b"", timeout=20)
            assert failed.value.code() is grpc.StatusCode.UNIMPLEMENTED
            assert failed.value.details() == "Method not found!"
            assert not [key for key, _ in failed.value.trailing_metadata() or () if key.startswith("grpc-status-d")]


@pytest.mark.slow
async def test_a_busy_run_of_all_kinds_of_calls_logs_nothing_alarming() -> None:
    async with serving() as server:

        async def work(name: str) -> None:
            async with calling(server, name) as caller:
                for number in range(6):
                    async with caller.watch() as watch:
                        job = await caller.submit("/bin/echo", str(number), request_id=uuid.uuid4().hex)
                        await caller.list()
                        with refused("NOT_FOUND"):
                            await caller.get("nosuchjob")
                        with refused("INVALID_ARGUMENT"):
                            await caller.list(page_size=-1)
                        await watch.until(lambda changed, job=job: changed.id == job.id)
                        output = caller.call("ReadJobOutput", rpc.ReadJobOutputRequest(job_id=job.id, follow=True))
                        if number % 2:
                            output.cancel()
                        else:
                            async for _ in output:
                                pass
                        with contextlib.suppress(grpc.aio.AioRpcError):
                            await caller.call("ListJobs", rpc.ListJobsRequest(), timeout=0.001)
                await caller.wait_all(caller.submitted)

        await asyncio.gather(*(work(name) for name in ("alice", "bob", "olga", "ada") * 3))
        # `serving` looks for what should never be there; here is no reason for any error either.
        assert not [line for line in server.log_lines() if line.get("level") == "error"]
        assert not [line for line in server.log_lines() if line.get("code") in ("INTERNAL", "UNKNOWN")]
        assert server.stop() == 0
