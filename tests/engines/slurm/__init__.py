"""A real Slurm for tests: private, on loopback, thrown away afterwards.

As a pytest plugin (`pytest_plugins` in the top conftest) it gives:

    slurm           session: a running `SlurmCluster` that tests share; leave its daemons up
    slurm_cluster   a function that starts a cluster of the test's own, to break: `slurm_cluster(nodes=1)`

Both skip where Slurm's programs are not installed (`make test-deps`), and fail there when CI is set.
`python -m tests.engines.slurm` brings one up to try things by hand.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.engines.slurm.cluster import SlurmCluster, SlurmFailed, missing_programs, until
from tests.engines.slurm.users import ensure_users

__all__ = ["SlurmCluster", "SlurmFailed", "ensure_users", "missing_programs", "require_slurm", "until"]


def require_slurm() -> None:
    """Skips the test, or fails it when CI is set, where there is no Slurm to start."""
    if missing := missing_programs():
        reason = f"Slurm's programs ({', '.join(missing)}) are not installed: make test-deps"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)


@pytest.fixture(scope="session")
def slurm() -> Iterator[SlurmCluster]:
    require_slurm()
    with SlurmCluster() as cluster:
        yield cluster


@pytest.fixture
def slurm_cluster() -> Iterator[Callable[..., SlurmCluster]]:
    require_slurm()
    with contextlib.ExitStack() as clusters:

        def start(**options: Any) -> SlurmCluster:
            return clusters.enter_context(SlurmCluster(**options))

        yield start
