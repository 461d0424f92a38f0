"""Options and plugins of all tests."""

from __future__ import annotations

import os
import signal
from pathlib import Path

# Tests start programs all the time; gRPC's way with forks is not made for that. It has to know before it is loaded.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

import pytest

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # Started in the background by a shell, which programs that tests interrupt would inherit.
    signal.signal(signal.SIGINT, signal.default_int_handler)

_ENGINES = Path(__file__).parent / "engines"

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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Says what stays together in one process of several: the tests of a file, and all that share a Slurm."""
    for item in items:
        shares_slurm = item.get_closest_marker("slurm") or item.path.is_relative_to(_ENGINES)
        item.add_marker(pytest.mark.xdist_group("slurm" if shares_slurm else item.path.stem))
