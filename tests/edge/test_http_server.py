"""The HTTP listeners themselves, without Envoy."""

from __future__ import annotations

import asyncio
import socket
import stat
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from openfacility.jobs.v1 import jobs_service_pb2 as pb
from openfacility_server.http.server import HttpServer, bind_unix

from tests.edge.answers import JSON, error
from tests.edge.scripted import Upstream


@pytest.fixture
def place() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="http-") as path:
        yield Path(path)


@pytest.fixture
async def alone(place: Path) -> AsyncIterator[Upstream]:
    server = Upstream(place)
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
async def tcp(alone: Upstream) -> AsyncIterator[httpx.AsyncClient]:
    assert alone.http is not None
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{alone.http.port}", timeout=10) as client:
        yield client


@pytest.fixture
async def uds(alone: Upstream) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.AsyncHTTPTransport(uds=str(alone.http_socket))
    async with httpx.AsyncClient(base_url="http://x", transport=transport, timeout=10) as client:
        yield client


async def test_probes_and_metrics(tcp: httpx.AsyncClient) -> None:
    for path in ("/livez", "/readyz", "/startupz"):
        assert (await tcp.get(path)).json()["status"] == "ok"
    metrics = await tcp.get("/metrics")
    assert metrics.headers["content-type"].startswith("text/plain")
    assert "edge_test_total" in metrics.text
    error(await tcp.get("/nope"), 404, 5, "ROUTE_NOT_FOUND")
    error(await tcp.post("/livez"), 405, 12, "METHOD_NOT_ALLOWED")


async def test_internal_route_is_on_the_unix_socket_only(tcp: httpx.AsyncClient, uds: httpx.AsyncClient) -> None:
    assert (await tcp.post("/internal/check/v1/jobs", json={})).status_code == 404
    assert (await uds.post("/internal/check/v1/jobs", json={})).status_code == 200
    assert (await uds.get("/metrics")).status_code == 404
    error(await uds.post("/internal/check/v1/nope", json={}), 404, 5, "ROUTE_NOT_FOUND")
    response = await uds.post("/internal/check/v1/jobs", content=b" " * (5 << 20), headers=JSON)
    error(response, 413, 3, "BODY_TOO_LARGE")


async def test_a_big_body_does_not_stop_the_loop(uds: httpx.AsyncClient) -> None:
    job = {"spec": {"executable": "/bin/true", "environment": {f"V{n}": "x" for n in range(100)}}}
    body = {"jobs": [job] * 1000}
    longest, last, done = 0.0, time.monotonic(), False

    async def beat() -> None:
        nonlocal longest, last
        while not done:
            await asyncio.sleep(0.001)
            longest, last = max(longest, time.monotonic() - last), time.monotonic()

    beating = asyncio.create_task(beat())
    response = await uds.post("/internal/check/v1/jobs:batchSubmit", json=body)
    done = True
    await beating
    assert response.status_code == 200
    assert longest < 0.5, longest  # parsing in the loop takes as long in one piece


async def test_stop_ends_event_streams_quickly(alone: Upstream, tcp: httpx.AsyncClient) -> None:
    async def endless(*_: Any) -> AsyncIterator[bytes]:
        yield pb.WatchJobsResponse(revision=1, caught_up=True).SerializeToString()
        await asyncio.Event().wait()

    alone.events = endless
    assert alone.http is not None
    async with asyncio.timeout(10), tcp.stream("GET", "/v1/jobs:watch", headers={"accept": "text/event-stream"}) as got:
        lines = got.aiter_lines()
        async for line in lines:
            if line.startswith("event: caught_up"):
                break
        started = time.monotonic()
        stopping = asyncio.create_task(alone.http.stop(9))
        rest = [line async for line in lines]
        await stopping
        assert time.monotonic() - started < 5
        assert "event: error" in rest
        assert any('"reason":"SERVER_STOPPING"' in line for line in rest)


async def test_socket_file(alone: Upstream) -> None:
    path = alone.http_socket
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert alone.http is not None
    with pytest.raises(OSError, match="another server listens here"):
        bind_unix(path)
    await alone.http.stop()
    assert not path.exists()


def test_stale_socket_file_is_replaced(place: Path) -> None:
    path = place / "s"
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(path))
    with bind_unix(path) as opened, socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        assert opened.fileno() >= 0
    assert [entry.name for entry in place.iterdir()] == ["s"]


def test_other_files_are_left_alone(place: Path) -> None:
    path = place / "s"
    path.write_text("mine")
    with pytest.raises(OSError, match="is not a socket"):
        bind_unix(path)
    assert path.read_text() == "mine"
    with pytest.raises(OSError, match="at most"):
        bind_unix(place / ("x" * 120))


async def test_successor_keeps_its_socket(alone: Upstream) -> None:
    assert alone.http is not None
    alone.http_socket.unlink()
    successor = HttpServer(alone.http._deps, listen=None, unix_socket=alone.http_socket)
    await successor.start()
    await alone.http.stop()
    assert alone.http_socket.exists()
    await successor.stop()
    assert not alone.http_socket.exists()


async def test_port_in_use(alone: Upstream) -> None:
    assert alone.http is not None
    other = HttpServer(alone.http._deps, listen=f"127.0.0.1:{alone.http.port}", unix_socket=None)
    with pytest.raises(OSError, match="cannot listen at 127"):
        await other.start()
