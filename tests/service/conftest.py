"""What the service tests run against: a server that they start, or a running one given by its address and tokens."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.support.calls import Caller
from tests.support.server import TOKENS, Server
from tests.support.status import StatusCaller

_OPTIONS = {"alice": "--token", "bob": "--other-token", "olga": "--operator-token"}
_CHANNEL = [
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_receive_message_length", 64 << 20),
    ("grpc.initial_reconnect_backoff_ms", 100),
]


@dataclass
class Facility:
    """Where to call, and as whom. `server` is None when somebody else started it."""

    address: str
    tokens: dict[str, str]
    channel: grpc.aio.Channel
    server: Server | None = None

    def caller(self, name: str) -> Caller:
        """Returns alice (a user), bob (another), olga (an operator), ada (an admin), or nobody for an empty name."""
        if name and name not in self.tokens:
            option = _OPTIONS.get(name)
            pytest.skip(f"needs {option} and its token" if option else f"needs a server of the tests, for {name}")
        return Caller(self.channel, self.tokens.get(name), name)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "facility" in metafunc.fixturenames:
        if metafunc.config.getoption("address"):
            databases: list[Any] = ["running"]
        elif metafunc.definition.get_closest_marker("both_databases"):
            databases = ["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)]
        else:
            databases = ["sqlite"]
        metafunc.parametrize("facility", databases, indirect=True, scope="session")


@pytest.fixture(scope="session")
async def facility(request: pytest.FixtureRequest) -> AsyncIterator[Facility]:
    """The facility that most tests share, each with jobs of its own."""
    address = request.config.getoption("address")
    if address:
        channel = grpc.aio.insecure_channel(address, _CHANNEL)
        yield Facility(address, _given_tokens(request.config), channel)
        await channel.close()
        return
    overrides: dict[str, Any] = {}
    if request.param == "postgresql":
        overrides["state"] = {"database": request.getfixturevalue("postgres").new_database()}
    server = Server(overrides)
    try:
        server.start()
        channel = grpc.aio.insecure_channel(server.address, _CHANNEL)
        yield Facility(server.address, dict(TOKENS), channel, server)
        await channel.close()
        assert server.running, server.log_text()[-4000:]
        lines = server.log_lines()
        assert not [line for line in lines if line.get("level") == "error"]
        assert not [line for line in lines if line.get("code") in {"INTERNAL", "UNKNOWN"}]
        assert server.stop() == 0
    finally:
        server.remove()


def _given_tokens(config: pytest.Config) -> dict[str, str]:
    tokens = {}
    for name, option in _OPTIONS.items():
        key = option.removeprefix("--").replace("-", "_")
        token = config.getoption(key) or os.environ.get(f"OPENFACILITY_TEST_{key.upper()}")
        if token:
            tokens[name] = token
    return tokens


@pytest.fixture
async def sign_in(facility: Facility) -> AsyncIterator[Callable[[str], Caller]]:
    """Makes callers; ends their jobs after the test."""
    made: list[Caller] = []

    def make(name: str) -> Caller:
        made.append(facility.caller(name))
        return made[-1]

    yield make
    for caller in made:
        await caller.end_all()


@pytest.fixture
def alice(sign_in: Callable[[str], Caller]) -> Caller:
    """A user."""
    return sign_in("alice")


@pytest.fixture
def bob(sign_in: Callable[[str], Caller]) -> Caller:
    """Another user."""
    return sign_in("bob")


@pytest.fixture
def olga(sign_in: Callable[[str], Caller]) -> Caller:
    """An operator."""
    return sign_in("olga")


@pytest.fixture
def anonymous(sign_in: Callable[[str], Caller]) -> Caller:
    """Somebody without a token."""
    return sign_in("")


@pytest.fixture
async def status(facility: Facility) -> AsyncIterator[Callable[[str], StatusCaller]]:
    """Makes callers of the Status service; ends their incidents and takes their words back after the test."""
    made: list[StatusCaller] = []

    def make(name: str) -> StatusCaller:
        facility.caller(name)  # skips the test where there is no such caller
        made.append(StatusCaller(facility.channel, facility.tokens.get(name), name))
        return made[-1]

    yield make
    for caller in made:
        await caller.end_all()


@pytest.fixture
async def connect_status() -> AsyncIterator[Callable[..., StatusCaller]]:
    """Connects callers of the Status service to a test's own server."""
    channels: list[grpc.aio.Channel] = []

    def make(server: Server, name: str = "") -> StatusCaller:
        channels.append(grpc.aio.insecure_channel(server.address, _CHANNEL))
        return StatusCaller(channels[-1], server.tokens.get(name), name)

    yield make
    for channel in channels:
        await channel.close()


@pytest.fixture
def scratch(facility: Facility, tmp_path: Path) -> Path:
    """A directory that jobs reach by the same path as the test."""
    if facility.server is None:
        pytest.skip("needs a directory that it shares with the facility's jobs")
    return tmp_path


@pytest.fixture
def own_server(request: pytest.FixtureRequest) -> Iterator[Callable[..., Server]]:
    """Starts servers that a test has for itself, with a configuration of its own."""
    if request.config.getoption("address"):
        pytest.skip("needs a server of its own")
    made: list[Server] = []

    def make(**overrides: Any) -> Server:
        server = Server(overrides)
        made.append(server)
        server.start()
        return server

    yield make
    for server in made:
        server.remove()


@pytest.fixture
async def connect() -> AsyncIterator[Callable[[Server, str], Caller]]:
    """Connects callers to a test's own server."""
    channels: list[grpc.aio.Channel] = []

    def make(server: Server, name: str) -> Caller:
        channels.append(grpc.aio.insecure_channel(server.address, _CHANNEL))
        return Caller(channels[-1], server.tokens[name], name)

    yield make
    for channel in channels:
        await channel.close()
