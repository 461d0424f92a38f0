"""What the tests of a failing server share: a checked server, a follower that resumes as clients do, memory."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import grpc
import httpx
from google.protobuf.message import Message
from openfacility.jobs.v1 import job_pb2 as pb
from openfacility.jobs.v1 import jobs_service_pb2 as rpc
from openfacility.jobs.v1 import jobs_service_pb2_grpc

from tests.support.calls import FINAL, Caller, Refused
from tests.support.server import Server

DEADLINE = 60.0
CHANNEL = [
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_receive_message_length", 64 << 20),
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 200),
]
# What a server must never log, whatever happens to it: signs of a loop misused and of errors that nobody looked at.
_NEVER = re.compile(
    "BlockingIOError|never awaited|never retrieved|was destroyed but it is pending|InvalidStateError"
    "|attached to a different loop|Fatal Python|leaked|unexpected error|Exception ignored"
)


@contextlib.asynccontextmanager
async def serving(
    overrides: Mapping[str, Any] | None = None, environment: Mapping[str, str] | None = None, start: bool = True
) -> AsyncIterator[Server]:
    """Runs a server of the test's own, and checks in the end that its log has nothing alarming."""
    server = Server(overrides, environment)
    try:
        if start:
            server.start()
        yield server
        alarming = [line for line in whole_log(server).splitlines() if _NEVER.search(line)]
        assert not alarming, "\n".join(alarming[:20])
    finally:
        await asyncio.to_thread(server.remove)


def whole_log(server: Server) -> str:
    """What the server wrote since its first start."""
    return (server.directory / "server.log").read_text(errors="replace")


@contextlib.asynccontextmanager
async def calling(
    server: Server, name: str = "alice", options: Sequence[tuple[str, Any]] = ()
) -> AsyncIterator[Caller]:
    """Gives a caller on a connection of its own."""
    async with grpc.aio.insecure_channel(server.address, [*CHANNEL, *options]) as channel:
        yield Caller(channel, server.tokens[name], name)


async def until(condition: Callable[[], bool], deadline: float = DEADLINE) -> None:
    """Waits until ``condition`` holds, for what can only be asked for."""
    async with asyncio.timeout(deadline):
        while not condition():  # noqa: ASYNC110 -- nothing tells of it
            await asyncio.sleep(0.02)


async def patiently(attempt: Callable[[], Any], deadline: float = DEADLINE) -> Any:
    """Repeats a call for as long as it is UNAVAILABLE, as the contract says; returns its answer."""
    async with asyncio.timeout(deadline):
        while True:
            try:
                return await attempt()
            except grpc.aio.AioRpcError as error:
                if not passes(error):
                    raise
            await asyncio.sleep(0.05)


def passes(error: grpc.aio.AioRpcError) -> bool:
    """Whether the same call can be made again: UNAVAILABLE, or what gRPC itself says to a call that meets a stopping
    server before it was looked at: CANCELLED, without details."""
    if error.code() is grpc.StatusCode.CANCELLED:
        return not reason_of(error)
    return error.code() is grpc.StatusCode.UNAVAILABLE


def memory(server: Server) -> int:
    """The resident memory of the server's process, bytes."""
    return int(Path(f"/proc/{server.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def metric(server: Server, name: str, **labels: str) -> float:
    """The sum of a metric's samples with these labels."""
    async with httpx.AsyncClient(timeout=DEADLINE) as client:
        text = (await client.get(f"{server.http_url}/metrics")).text
    wanted = [f'{key}="{value}"' for key, value in labels.items()]
    lines = [line for line in text.splitlines() if re.match(rf"{name}[ {{]", line)]
    return sum(float(line.rpartition(" ")[2]) for line in lines if all(label in line for label in wanted))


Entry = tuple[int, str, int]
"""(revision, job, state)"""


class Follower:
    """A watch that goes on over every end of its stream, by the contract alone: after the last revision received."""

    def __init__(self, server: Server, after: int, name: str = "alice", filter_: rpc.JobFilter | None = None) -> None:
        self.revision = after
        self.entries: list[Entry] = []
        self.jobs: dict[str, pb.Job] = {}
        self.streams = 0
        self.ends: list[str] = []
        self._server = server
        self._name = name
        self._filter = filter_
        self._grown = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Follower:
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    async def reached(self, revision: int, deadline: float = DEADLINE) -> None:
        """Waits until the watch is complete up to a revision."""
        await self._wait(lambda: self.revision >= revision, deadline)

    async def ended(self, job_ids: Sequence[str], deadline: float = DEADLINE) -> None:
        """Waits until it has told the end of all these jobs."""
        await self._wait(
            lambda: all(self.jobs.get(job_id, pb.Job()).status.state in FINAL for job_id in job_ids), deadline
        )

    async def _wait(self, condition: Callable[[], bool], deadline: float) -> None:
        assert self._task is not None
        async with asyncio.timeout(deadline):
            while not condition():
                self._grown.clear()
                grown = asyncio.ensure_future(self._grown.wait())
                await asyncio.wait({grown, self._task}, return_when=asyncio.FIRST_COMPLETED)
                grown.cancel()
                if self._task.done():
                    self._task.result()

    async def _run(self) -> None:
        async with calling(self._server, self._name) as caller:
            while True:
                request = rpc.WatchJobsRequest(after_revision=self.revision, filter=self._filter)
                call = caller.call("WatchJobs", request, timeout=None)
                self.streams += 1
                try:
                    async for response in call:
                        self._take(response)
                    raise AssertionError("a watch of many jobs ended by itself")
                except grpc.aio.AioRpcError as error:
                    self.ends.append(reason_of(error))
                    if not passes(error):
                        raise
                    await asyncio.sleep(0.02)

    def _take(self, response: rpc.WatchJobsResponse) -> None:
        for change in response.changes:
            assert change.revision > self.revision, f"came again: {change.revision} after {self.revision}"
            self.entries.append((change.revision, change.job.id, change.job.status.state))
            self.jobs[change.job.id] = change.job
        assert response.revision >= self.revision, "the position went back"
        self.revision = response.revision
        self._grown.set()


async def log_after(server: Server, revision: int, name: str = "alice") -> list[Entry]:
    """Reads what the log has after a revision, in one go: what every follower must have seen."""
    async with calling(server, name) as caller, caller.watch(after_revision=revision) as watch:
        return [(change.revision, change.job.id, change.job.status.state) for change in await watch.caught_up()]


async def current_revision(caller: Caller) -> int:
    """The revision that a list is read at."""
    return (await caller.list()).revision


def reason_of(error: grpc.RpcError) -> str:
    """The reason in an error's ErrorInfo, empty for one that gRPC made itself (the connection broke)."""
    has_details = any(key == "grpc-status-details-bin" for key, _ in error.trailing_metadata() or ())
    return Refused(error).reason if has_details else ""


def raw_watch(channel: grpc.aio.Channel, token: str, request: rpc.WatchJobsRequest) -> Any:
    """Begins a watch."""
    metadata = (("authorization", f"Bearer {token}"),)
    return jobs_service_pb2_grpc.JobsServiceStub(channel).WatchJobs(request, metadata=metadata)


async def responses(call: Any) -> tuple[list[Message], grpc.aio.AioRpcError | None]:
    """Reads a stream to its end; returns all responses and the error that ended it."""
    found: list[Message] = []
    try:
        while (response := await call.read()) is not grpc.aio.EOF:
            found.append(response)
    except grpc.aio.AioRpcError as error:
        return found, error
    return found, None
