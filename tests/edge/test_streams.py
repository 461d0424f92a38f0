"""Streams as NDJSON: as it happens, failing aloud, and ending what nobody reads any more."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from openfacility.jobs.v1 import jobs_service_pb2 as pb
from openfacility_server import edge

from tests.edge import scripted
from tests.edge.answers import error
from tests.edge.conftest import need_h2, settings
from tests.edge.scripted import Scripted, Upstream


async def test_as_it_happens(either: httpx.AsyncClient, server: Scripted) -> None:
    step = asyncio.Semaphore(0)

    async def watch(_: Any, __: Any) -> AsyncIterator[pb.WatchJobsResponse]:
        for number in range(1, 4):
            yield scripted.snapshot(f"j{number}")
            await step.acquire()
        yield pb.WatchJobsResponse(revision=9, caught_up=True)

    server.handlers["WatchJobs"] = watch
    async with asyncio.timeout(10), either.stream("GET", "/v1/jobs:watch") as response:
        assert response.headers["content-type"] == "application/x-ndjson"
        lines = response.aiter_lines()
        for number in range(1, 4):
            # The server does not go on before this line has arrived.
            line = json.loads(await anext(lines))
            assert line["changes"][0]["job"]["id"] == f"j{number}"
            step.release()
        assert json.loads(await anext(lines)) == {"changes": [], "revision": "9", "caught_up": True}
        assert [line async for line in lines if line] == []


async def test_failure_midway_is_the_last_line(either: httpx.AsyncClient, server: Scripted) -> None:
    failure = scripted.status(grpc.StatusCode.UNAVAILABLE, "the server is stopping; resume", "STOPPING")

    async def watch(_: Any, context: Any) -> AsyncIterator[pb.WatchJobsResponse]:
        yield scripted.snapshot("j1")
        assert dict(context.invocation_metadata())["x-openfacility-json"] == "1"
        yield pb.WatchJobsResponse(error=failure)
        await scripted.fail(context, grpc.StatusCode.UNAVAILABLE, failure.message)

    server.handlers["WatchJobs"] = watch
    response = await either.get("/v1/jobs:watch")
    assert response.status_code == 200
    *_, last = response.text.strip().splitlines()
    assert json.loads(last)["error"] == {
        "code": 14,
        "message": "the server is stopping; resume",
        "details": [
            {
                "@type": "type.googleapis.com/google.rpc.ErrorInfo",
                "reason": "STOPPING",
                "domain": "openfacility",
                "metadata": {"request_id": "r-1"},
            }
        ],
    }


async def test_failure_before_the_first_line_is_a_status(either: httpx.AsyncClient, server: Scripted) -> None:
    async def watch(_: Any, context: Any) -> AsyncIterator[pb.WatchJobsResponse]:
        await scripted.fail(context, grpc.StatusCode.OUT_OF_RANGE, "list again")
        yield pb.WatchJobsResponse()

    server.handlers["WatchJobs"] = watch
    response = await either.get("/v1/jobs:watch", params={"after_revision": 5})
    assert (response.status_code, response.json()["code"]) == (400, 11)


async def test_client_that_goes_away_ends_the_handler(either: httpx.AsyncClient, server: Scripted) -> None:
    ended = asyncio.Event()

    async def watch(_: Any, __: Any) -> AsyncIterator[pb.WatchJobsResponse]:
        try:
            yield scripted.snapshot("j1")
            await asyncio.Event().wait()
        finally:
            ended.set()

    server.handlers["WatchJobs"] = watch
    async with asyncio.timeout(10):
        async with either.stream("GET", "/v1/jobs:watch") as response:
            await anext(response.aiter_lines())
        await either.aclose()
        await ended.wait()


async def test_bytes_are_base64(client: httpx.AsyncClient, server: Scripted) -> None:
    async def output(_: Any, __: Any) -> AsyncIterator[pb.ReadJobOutputResponse]:
        yield pb.ReadJobOutputResponse(data=b"\x00\xff\n")
        yield pb.ReadJobOutputResponse(offset=3, end=True)

    server.handlers["ReadJobOutput"] = output
    lines = (await client.get("/v1/jobs/a/output", params={"stream": "STREAM_STDERR"})).text.splitlines()
    assert [json.loads(line) for line in lines if line] == [
        {"data": "AP8K", "offset": "0", "end": False},
        {"data": "", "offset": "3", "end": True},
    ]
    assert server.calls[0].request.stream == pb.ReadJobOutputRequest.STREAM_STDERR


@contextlib.asynccontextmanager
async def victim(directory: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """A server of its own, that can be killed."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.edge.scripted", str(directory), stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(20):
            assert await process.stdout.readline() == b"up\n"
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


@pytest.mark.parametrize("version", ["HTTP/1.1", "HTTP/2"])
async def test_server_killed_and_back(version: str, envoy_binary: str, directory: Path) -> None:
    del envoy_binary
    http2 = version == "HTTP/2"
    if http2:
        need_h2()
    place = directory / version[-1]
    place.mkdir()
    front = edge.Envoy(settings(place), place)
    try:
        async with victim(place) as process:
            await front.start()
            async with (
                httpx.AsyncClient(base_url=f"http://{front.address}", http1=not http2, http2=http2) as client,
                client.stream("GET", "/v1/jobs:watch") as response,
            ):
                lines = response.aiter_lines()
                await anext(lines)
                process.kill()
                # The body is incomplete, and the client can tell.
                with pytest.raises(httpx.RemoteProtocolError):
                    async with asyncio.timeout(10):
                        [line async for line in lines]

        async with httpx.AsyncClient(base_url=f"http://{front.address}", timeout=10) as client:
            # Socket files without anybody behind them.
            for request in (
                client.get("/v1/jobs/a"),
                client.post("/v1/jobs", json={}),
                client.get("/v1/jobs:watch"),
                client.get("/v1/jobs", params={"page_size": 1}),
                client.get("/v1/jobs:watch", headers={"accept": "text/event-stream"}),
                client.get("/readyz"),
            ):
                response = await request
                body = error(response, 503, 14, "UNAVAILABLE")
                assert body["details"][1]["retry_delay"] == "1s"
                assert response.headers["retry-after"] == "1"
            assert (await client.get("/healthz")).status_code == 200
            async with grpc.aio.insecure_channel(front.address) as channel:
                call = channel.unary_unary("/openfacility.jobs.v1.JobsService/GetJob")
                with pytest.raises(grpc.aio.AioRpcError) as failure:
                    await call(b"", timeout=5)
                assert failure.value.code() == grpc.StatusCode.UNAVAILABLE
                assert failure.value.details() == "the service cannot be reached just now; make the same call again"

            async with victim(place):
                # The next request finds the server that is back, without a word to Envoy.
                assert (await client.get("/v1/jobs/a")).status_code == 200
                assert (await client.post("/v1/jobs", json={})).status_code == 200
    finally:
        await front.stop(0)


async def test_nothing_passes_unchecked(envoy_binary: str, directory: Path) -> None:
    del envoy_binary
    place = directory / "closed"
    place.mkdir()
    upstream = Upstream(place)
    await upstream.start()
    front = edge.Envoy(settings(place), place)
    await front.start()
    try:
        async with httpx.AsyncClient(base_url=f"http://{front.address}", timeout=10) as client:
            assert upstream.http is not None
            await upstream.http.stop()
            error(await client.post("/v1/jobs", json={}), 503, 14, "UNAVAILABLE")
            error(await client.get("/v1/jobs?page_size=1"), 503, 14, "UNAVAILABLE")
            assert not upstream.scripted.calls
            assert (await client.get("/v1/jobs/a")).status_code == 200
    finally:
        await front.stop(0)
        await upstream.stop()
