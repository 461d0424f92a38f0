"""Options and plugins of all tests."""

from __future__ import annotations

import os

# Tests start programs all the time; gRPC's way with forks is not made for that. It has to know before it is loaded.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

import pytest

pytest_plugins = ["tests.engines.postgres", "tests.engines.oidc", "tests.engines.slurm"]


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("openfacility", "a running server to test (tests/service); without, the tests start one")
    group.addoption("--address", metavar="HOST:PORT", help="gRPC address of a running server")
    for who, what in (
        ("", "a user's token"),
        ("other-", "a second user's token"),
        ("operator-", "an operator's token"),
    ):
        variable = f"OPENFACILITY_TEST_{who.upper().replace('-', '_')}TOKEN"
        group.addoption(f"--{who}token", metavar="TOKEN", help=f"{what} (default: ${variable})")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "both_databases: a service test that runs on PostgreSQL too")
