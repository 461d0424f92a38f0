"""The server killed at any moment: jobs, watches and submissions come through whole."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
from collections import Counter
from pathlib import Path

import grpc
import pytest
from openfacility.jobs.v1 import job_pb2 as pb
from openfacility.jobs.v1 import jobs_service_pb2 as rpc

from tests.faults.server_support import (
    Follower,
    calling,
    current_revision,
    log_after,
    passes,
    patiently,
    serving,
)
from tests.support.calls import Caller
from tests.support.server import Server

JOBS = 50
WATCHES = 20
_MANY_CORES = {"jobs": {"resources": [{"id": "local", "engine": "local", "cores": 64, "kill_grace": 1}]}}


class Gate:
    """Holds jobs until it is opened; then, and from then on, lets them through."""

    def __init__(self, path: Path) -> None:
        self.path = path
        os.mkfifo(path)
        self._fd = -1

    def open(self) -> None:
        self._fd = os.open(self.path, os.O_RDWR)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)


@pytest.mark.slow
@pytest.mark.parametrize("kill", [True, False], ids=["kill -9", "restart"])
async def test_running_jobs_and_watches_come_through(kill: bool, tmp_path: Path) -> None:
    down, up = Gate(tmp_path / "down"), Gate(tmp_path / "up")
    async with serving(_MANY_CORES) as server, contextlib.AsyncExitStack() as stack:
        async with calling(server) as alice:
            start = await current_revision(alice)
            names = ("alice",) * (WATCHES - 2) + ("olga", "ada")
            followers = [await stack.enter_async_context(Follower(server, start, name)) for name in names]
            specs = [_held_by(alice, down if number % 2 else up, number) for number in range(JOBS)]
            jobs = await alice.batch(specs)
            ids = [job.id for job in jobs]
            await asyncio.gather(*(alice.wait(job_id, pb.JOB_STATE_ACTIVE) for job_id in ids))
        await asyncio.to_thread(_end, server, kill)
        down.open()  # half of the jobs end while there is no server
        await asyncio.to_thread(server.start)
        up.open()  # and the others just now,
        await asyncio.to_thread(_end, server, kill)  # when it ends again
        await asyncio.to_thread(server.start)
        await asyncio.gather(*(follower.ended(ids) for follower in followers))
        async with calling(server) as alice:
            for number, job_id in enumerate(ids):
                _check_end(await alice.get(job_id), number)
            last = await current_revision(alice)
        # Nothing in the log is missing from any watch, nothing came twice, and all agree.
        log = await log_after(server, start)
        assert Counter(job_id for _, job_id, state in log if state == pb.JOB_STATE_ACTIVE).keys() == set(ids)
        for follower in followers:
            await follower.reached(last)
            assert follower.entries == log
            assert follower.streams >= 3
        down.close()
        up.close()


def _held_by(caller: Caller, gate: Gate, number: int) -> pb.JobSpec:
    """A job that waits at the gate and then ends with its number as exit code, or by a signal."""
    end = f"exit {number}" if number % 10 else f"kill -{_signal(number)} $$"
    return caller.spec("/bin/sh", "-c", f": < {gate.path}; {end}", name=str(number))


def _signal(number: int) -> int:
    return 9 if number % 20 else 15


def _check_end(job: pb.Job, number: int) -> None:
    assert job.spec.name == str(number)
    assert job.status.state == pb.JOB_STATE_FAILED, job.status
    if number % 10:
        assert job.status.reason == pb.JOB_REASON_NONZERO_EXIT
        assert job.status.exit_code == number
    else:
        assert job.status.reason == pb.JOB_REASON_SIGNALED
        assert job.status.signal == _signal(number)
    states = [transition.state for transition in job.transitions]
    wanted = [pb.JOB_STATE_NEW, pb.JOB_STATE_QUEUED, pb.JOB_STATE_ACTIVE, pb.JOB_STATE_FAILED]
    assert states in (wanted, [wanted[0], *wanted[2:]])
    times = [transition.time.ToNanoseconds() for transition in job.transitions]
    assert times == sorted(times)
    assert job.start_time.ToNanoseconds() <= job.end_time.ToNanoseconds()


def _end(server: Server, kill: bool) -> None:
    if kill:
        server.kill()
    else:
        assert server.stop() == 0
        # Nothing fails because the server stops.
        assert not [line for line in server.log_lines() if line.get("level") == "error"]


@pytest.mark.slow
async def test_submissions_during_kills_happen_exactly_once(tmp_path: Path) -> None:
    seed = random.randrange(1 << 32)
    rng = random.Random(seed)  # shown by pytest when the test fails
    submissions, kills, submitters = 80, 5, 8
    ran = tmp_path / "ran"
    waiting = [f"submit-{number}" for number in range(submissions)]
    acknowledged: dict[str, str] = {}
    retried = 0

    def request(caller: Caller, request_id: str) -> rpc.SubmitJobRequest:
        # The label would differ between callers, and with it the content.
        spec = caller.spec("/bin/sh", "-c", f"echo {request_id} >> {ran}", name=request_id)
        del spec.labels["test"]
        return rpc.SubmitJobRequest(spec=spec, request_id=request_id)

    async with serving(_MANY_CORES) as server:

        async def submit() -> None:
            nonlocal retried
            async with calling(server) as alice:
                while waiting:
                    request_id = waiting.pop()
                    while True:
                        try:
                            job = await alice.call("SubmitJob", request(alice, request_id), timeout=5)
                            break
                        except grpc.aio.AioRpcError as error:
                            if not passes(error) and error.code() is not grpc.StatusCode.DEADLINE_EXCEEDED:
                                raise
                            retried += 1
                            await asyncio.sleep(0.05)
                    assert request_id not in acknowledged
                    acknowledged[request_id] = job.id

        tasks = [asyncio.create_task(submit()) for _ in range(submitters)]
        for round_ in range(kills):
            quota = submissions * (round_ + 1) // (kills + 1)
            while len(acknowledged) < quota:
                assert not any(task.done() and task.exception() for task in tasks)
                await asyncio.sleep(0.001)
            # Anywhere in the life of the calls that are under way.
            await asyncio.sleep(rng.uniform(0, 0.03))
            await asyncio.to_thread(server.restart, kill=True)
        await asyncio.gather(*tasks)
        assert len(acknowledged) == submissions
        assert retried
        async with calling(server) as alice:
            await alice.wait_all(acknowledged.values())
            # All that were acknowledged exist, once, under the id that was told; and nothing else does.
            listed = {job.id: job for job in (await alice.list(rpc.JobFilter(), page_size=1000)).jobs}
            assert {job.spec.name: job.id for job in listed.values()} == acknowledged
            assert len(listed) == submissions
            assert Counter(ran.read_text().split()) == dict.fromkeys(acknowledged, 1)
            # Repeating any of them, now that all is over, changes nothing and answers as the first time did.
            before = await alice.seen()
            for request_id, job_id in acknowledged.items():
                again = await patiently(lambda i=request_id: alice.call("SubmitJob", request(alice, i)))
                assert again.id == job_id
                assert again.status.state == pb.JOB_STATE_NEW
            assert await alice.seen() == before
