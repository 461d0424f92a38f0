"""Fixtures: a real Envoy in front of a scripted server, and clients."""

from __future__ import annotations

import importlib.util
import os
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
from openfacility_server import edge
from openfacility_server.http.envoy_config import Settings

from tests.edge.scripted import Scripted, Upstream


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.edge)


def missing(what: str) -> None:
    """Skips a test that lacks something; on CI nothing may be lacking."""
    if os.environ.get("CI"):
        pytest.fail(what)
    pytest.skip(what)


def need_h2() -> None:
    """Skips a test that needs a client for HTTP/2 where there is none."""
    if importlib.util.find_spec("h2") is None:
        missing("h2 is not installed: pip install httpx[http2]")


@pytest.fixture(scope="session")
def envoy_binary() -> str:
    try:
        return edge.find_envoy()
    except edge.EnvoyError as error:
        missing(str(error))
        raise


@pytest.fixture(scope="session")
def directory() -> Iterator[Path]:
    # pytest's own directories have names too long for a unix socket.
    with tempfile.TemporaryDirectory(prefix="edge-") as path:
        yield Path(path)


def settings(directory: Path) -> Settings:
    return Settings(
        listen_address="127.0.0.1",
        listen_port=0,
        grpc_socket=str(directory / "grpc.sock"),
        http_socket=str(directory / "http.sock"),
        admin_socket=str(directory / "admin.sock"),
        descriptor=str(edge.descriptor_path()),
    )


@pytest.fixture(scope="session")
async def upstream(directory: Path) -> AsyncIterator[Upstream]:
    server = Upstream(directory)
    await server.start()
    yield server
    await server.stop()


@pytest.fixture(scope="session")
async def envoy(envoy_binary: str, directory: Path, upstream: Upstream) -> AsyncIterator[edge.Envoy]:
    del envoy_binary, upstream
    process = edge.Envoy(settings(directory), directory)
    await process.start()
    yield process
    await process.stop(0)


@pytest.fixture
def server(upstream: Upstream) -> Iterator[Scripted]:
    """The scripted server, without what earlier tests told it."""
    upstream.scripted.calls.clear()
    upstream.scripted.handlers.clear()
    yield upstream.scripted
    upstream.scripted.handlers.clear()


@pytest.fixture
async def client(envoy: edge.Envoy) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=f"http://{envoy.address}", timeout=10) as made:
        yield made


@pytest.fixture(params=["HTTP/1.1", "HTTP/2"])
async def either(request: pytest.FixtureRequest, envoy: edge.Envoy) -> AsyncIterator[httpx.AsyncClient]:
    """A client of each version of HTTP."""
    http2 = request.param == "HTTP/2"
    if http2:
        need_h2()
    async with httpx.AsyncClient(base_url=f"http://{envoy.address}", timeout=10, http2=http2, http1=not http2) as made:
        yield made
