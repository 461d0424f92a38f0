"""What the server needs goes away and comes back: the database, an engine's spool, room on the disk."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from openfacility.jobs.v1 import job_pb2 as pb
from openfacility.jobs.v1 import jobs_service_pb2 as rpc

from tests.engines.postgres import PostgresServer, find_programs
from tests.faults.server_support import (
    CHANNEL,
    DEADLINE,
    Follower,
    calling,
    current_revision,
    log_after,
    patiently,
    serving,
)
from tests.faults.test_server_crashes import Gate
from tests.support.calls import Caller, Refused, refused
from tests.support.server import Server

JOBS = "openfacility.jobs.v1.JobsService"
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class HealthWatch:
    """A health watcher, as a load balancer is one."""

    def __init__(self, server: Server) -> None:
        self._channel = grpc.aio.insecure_channel(server.address, CHANNEL)
        self._stub = health_pb2_grpc.HealthStub(self._channel)
        self._watches = {
            service: self._stub.Watch(health_pb2.HealthCheckRequest(service=service)) for service in ("", JOBS)
        }
        self._pending: dict[str, asyncio.Task[Any]] = {}
        self.now: dict[str, int] = {}

    async def __aenter__(self) -> HealthWatch:
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._pending.values():
            task.cancel()
        for watch in self._watches.values():
            watch.cancel()
        await asyncio.gather(*self._pending.values(), return_exceptions=True)
        await self._channel.close()

    async def until(self, overall: int, jobs: int) -> None:
        """Waits until both are told so; `Check` then says the same."""
        wanted = {"": overall, JOBS: jobs}
        async with asyncio.timeout(DEADLINE):
            while self.now != wanted:
                for service, watch in self._watches.items():
                    if service not in self._pending:
                        self._pending[service] = asyncio.create_task(watch.read())
                await asyncio.wait(self._pending.values(), return_when=asyncio.FIRST_COMPLETED)
                for service, task in list(self._pending.items()):
                    if task.done():
                        self.now[service] = self._pending.pop(service).result().status
        # Restarting the server would mend nothing of this.
        for service, status in {**wanted, "liveness": SERVING}.items():
            request = health_pb2.HealthCheckRequest(service=service)
            assert (await self._stub.Check(request, timeout=20)).status == status


@pytest.fixture
def own_postgres() -> Iterator[PostgresServer]:
    """A database server that a test may stop."""
    programs = find_programs()
    if programs is None:
        reason = "PostgreSQL's server programs are not installed: make test-deps"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    server = PostgresServer(programs)
    try:
        server.start()
        yield server
    finally:
        server.remove()


@pytest.mark.slow
@pytest.mark.postgres
async def test_database_down_and_up_again(own_postgres: PostgresServer) -> None:
    database = own_postgres.new_database()
    async with serving({"state": {"database": database}}) as server, HealthWatch(server) as health:
        await health.until(SERVING, SERVING)
        async with calling(server) as alice:
            start = await current_revision(alice)
            job = await alice.submit("/bin/true", hold=True)
            async with Follower(server, start) as follower:
                await follower.reached(job.revision)
                await asyncio.to_thread(own_postgres.stop)
                await health.until(NOT_SERVING, NOT_SERVING)
                async with httpx.AsyncClient(timeout=20) as client:
                    assert (await client.get(f"{server.http_url}/readyz")).status_code == 503
                    assert (await client.get(f"{server.http_url}/livez")).status_code == 200
                for attempt in (
                    lambda: alice.get(job.id),
                    alice.list,
                    lambda: alice.submit("/bin/true", hold=True),
                    lambda: alice.cancel(job.id),
                ):
                    with refused("UNAVAILABLE", "DATABASE_UNAVAILABLE") as error:
                        await attempt()
                    assert error.details["google.rpc.RetryInfo"].retry_delay.ToTimedelta().total_seconds() > 0
                with refused("UNAVAILABLE", "DATABASE_UNAVAILABLE"):
                    async with alice.watch() as watch:
                        await watch.next()
                await asyncio.to_thread(own_postgres.start)
                await health.until(SERVING, SERVING)
                # All works again without a restart, and the watch that was open missed nothing.
                later = await patiently(lambda: alice.submit("/bin/sh", "-c", "exit 7"))
                await follower.ended([later.id])
                assert follower.jobs[later.id].status.exit_code == 7
                last = await current_revision(alice)
                await follower.reached(last)
                assert follower.entries == await log_after(server, start)
                assert (await alice.get(job.id)).status.state == pb.JOB_STATE_HELD


@pytest.mark.slow
async def test_engine_down_and_up_again(tmp_path: Path) -> None:
    gate = Gate(tmp_path / "gate")
    async with serving() as server, HealthWatch(server) as health, calling(server) as alice:
        await health.until(SERVING, SERVING)
        running = await alice.submit("/bin/sh", "-c", f": < {gate.path}; exit 5")
        await alice.wait(running.id, pb.JOB_STATE_ACTIVE)
        spool = server.state / "jobs" / "local"
        assert spool.is_dir()
        away = spool.with_name("away")
        spool.rename(away)
        # Calls that need no engine can still be sent here.
        await health.until(SERVING, NOT_SERVING)
        async with httpx.AsyncClient(timeout=20) as client:
            ready = await client.get(f"{server.http_url}/readyz")
            assert (ready.status_code, ready.json()["components"]["jobs/local"]) == (200, "DOWN")
        assert (await alice.get(running.id)).status.state == pb.JOB_STATE_ACTIVE
        await alice.list()
        # What is only recorded is taken; it waits for the engine.
        waiting = await alice.submit("/bin/sh", "-c", "exit 6")
        held = await alice.submit("/bin/true", hold=True)
        assert (await alice.cancel(held.id)).cancel_requested
        away.rename(spool)
        await health.until(SERVING, SERVING)
        gate.open()
        assert (await alice.wait(waiting.id)).status.exit_code == 6
        assert (await alice.wait(running.id)).status.exit_code == 5
        assert (await alice.wait(held.id)).status.state == pb.JOB_STATE_CANCELED
        gate.close()


@pytest.mark.slow
async def test_a_server_whose_engine_is_down_starts_and_heals() -> None:
    async with serving(start=False) as server:
        spool = server.state / "jobs" / "local"
        spool.parent.mkdir(parents=True)
        spool.write_text("in the way")
        server.start()
        async with HealthWatch(server) as health, calling(server) as alice:
            await health.until(SERVING, NOT_SERVING)
            job = await alice.submit("/bin/sh", "-c", "exit 4")
            assert job.status.state == pb.JOB_STATE_NEW
            spool.unlink()
            await health.until(SERVING, SERVING)
            assert (await alice.wait(job.id)).status.exit_code == 4


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with room for little."""
    where = tmp_path / "disk"
    where.mkdir()
    if os.geteuid() != 0 or sys.platform != "linux" or not shutil.which("mount"):
        pytest.skip("mounting a small file system needs root on Linux")
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "none", where], capture_output=True, check=False)
    if done.returncode:
        pytest.skip(f"mounting is not allowed here: {done.stderr.decode().strip()}")
    yield where
    subprocess.run(["umount", "--lazy", where], check=True)


@pytest.mark.slow
async def test_full_disk_and_room_again(small_disk: Path, tmp_path: Path) -> None:
    gate = Gate(tmp_path / "gate")
    state = {"state": {"directory": str(small_disk / "state")}}
    async with serving(state) as server, calling(server) as alice:
        start = await current_revision(alice)
        running = await alice.submit("/bin/sh", "-c", f": < {gate.path}; exit 3")
        await alice.wait(running.id, pb.JOB_STATE_ACTIVE)
        _fill(small_disk / "filler")
        acknowledged: list[pb.Job] = []
        errors = await _submit_until_refused(alice, acknowledged)
        for error in errors:
            told = Refused(error)
            assert told.code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED)
        # Reading goes on.
        for job in [running, *acknowledged]:
            assert (await alice.get(job.id)).id == job.id
        assert server.running
        gate.open()  # the job ends while there is no room for anything
        (small_disk / "filler").unlink()
        later = await patiently(lambda: alice.submit("/bin/sh", "-c", "exit 2", name="later"))
        ended = await alice.wait_all([running.id, later.id, *(job.id for job in acknowledged)])
        assert ended[running.id].status.exit_code == 3
        assert ended[later.id].status.exit_code == 2
        assert all(ended[job.id].status.exit_code == 1 for job in acknowledged)
        # What was refused was not done, what was acknowledged is all there is.
        assert {job.id for job in (await alice.list(rpc.JobFilter(), page_size=1000)).jobs} == set(ended)
        log = await log_after(server, start)
        server.restart(kill=True)
        await patiently(lambda: current_revision(alice))
        assert await log_after(server, start) == log
        gate.close()


def _fill(path: Path) -> None:
    with contextlib.suppress(OSError), path.open("wb", buffering=0) as file:
        while True:
            file.write(b"\0" * 4096)


async def _submit_until_refused(caller: Caller, acknowledged: list[pb.Job]) -> list[grpc.aio.AioRpcError]:
    """Submits until the disk is felt, and some more; what still fits is acknowledged."""
    errors: list[grpc.aio.AioRpcError] = []
    async with asyncio.timeout(DEADLINE):
        while len(errors) < 5:
            try:
                big = {"BIG": "x" * 50_000}
                spec = caller.spec("/bin/sh", "-c", "exit 1", environment=big)
                acknowledged.append(await caller.call("SubmitJob", rpc.SubmitJobRequest(spec=spec)))
            except grpc.aio.AioRpcError as error:
                errors.append(error)
    return errors
