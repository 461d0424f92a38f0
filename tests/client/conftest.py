"""Fixtures: the scripted server, and each test once for either client."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from openfacility_client import AsyncClient, Client

from tests.client.model import Facility
from tests.client.scripted import ScriptedServer, Threaded


@pytest.fixture
async def server() -> AsyncIterator[ScriptedServer]:
    scripted = ScriptedServer()
    await scripted.start()
    yield scripted
    await scripted.stop()


@pytest.fixture
def facility(server: ScriptedServer) -> Facility:
    """A model of a facility behind the server."""
    model = Facility()
    server.on("WatchJobs", model.watch)
    server.on("ListJobs", model.list)
    return model


@pytest.fixture(params=["asyncio", "threads"])
async def connect(request: pytest.FixtureRequest) -> AsyncIterator[Callable[..., Any]]:
    """Makes clients of both kinds, and closes them."""
    made: list[Any] = []

    def make(address: str, **options: Any) -> Any:
        client = AsyncClient(address, **options) if request.param == "asyncio" else Threaded(Client(address, **options))
        made.append(client)
        return client

    yield make
    for client in made:
        await client.close()


@pytest.fixture
async def client(connect: Callable[..., Any], server: ScriptedServer) -> Any:
    return connect(server.address)


@pytest.fixture(autouse=True)
def quick_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests need not wait as long as people should."""
    monkeypatch.setattr("openfacility_client._timing.Backoff.FIRST", 0.005)
    monkeypatch.setattr("openfacility_client._timing.Backoff.LONGEST", 0.05)


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No setting of the developer reaches a test."""
    for name in ("ADDRESS", "TOKEN", "TOKEN_FILE", "PROFILE"):
        monkeypatch.delenv(f"OPENFACILITY_{name}", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
