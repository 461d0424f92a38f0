"""The engines that the suite is run on."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from openfacility_server.jobs.engines.local import LocalEngine, LocalSettings
from openfacility_server.jobs.engines.slurm import RestSettings, SlurmEngine, SlurmSettings

from tests.engines.slurm import SlurmCluster, require_slurm
from tests.engines.slurm.users import own_name
from tests.engines.suite.driven import Driven, Kind

SLURM_KINDS = ("slurm-rest", "slurm-commands")
KINDS = ("local", *SLURM_KINDS)


@pytest.fixture(scope="session")
def wide_slurm() -> Iterator[SlurmCluster]:
    """A Slurm with room for many jobs at once, which nobody breaks."""
    require_slurm()
    with SlurmCluster(nodes=2, cpus=32) as cluster:
        yield cluster


def local_kind(base: Path) -> Kind:
    settings = LocalSettings(
        resource_id="machine",
        spool=base / "spool",
        cores=32,
        max_duration=timedelta(hours=1),
        kill_grace=timedelta(seconds=1),
    )
    return Kind(
        name="local",
        make=lambda: LocalEngine(settings),
        base=base,
        owner="alice",
        account=own_name(),
        cores=32,
        many_singles=300,
        many_elements=300,
        puts_back=False,
    )


def slurm_settings(slurm: SlurmCluster, *, rest: bool) -> SlurmSettings:
    """How the engine is told of a test cluster."""
    alice, *others = slurm.users
    users = {"alice": alice, **dict(zip(("bob", "olga"), others, strict=False))}
    preload = slurm.env.get("LD_PRELOAD")
    return SlurmSettings(
        resource_id="machine",
        conf=slurm.conf,
        rest=RestSettings(jwt_key=slurm.jwt_key, unix_socket=slurm.rest_socket) if rest else None,
        users=users,
        operator=users.get("olga"),
        reconcile=timedelta(seconds=2),
        timeout=timedelta(seconds=20),  # the machine may be busy, and nothing here repeats what did not get through
        events=slurm.events,
        controller_log=slurm.ctld_log,
        environment={"SITE": "of Slurm"},
        preload=Path(preload) if preload else None,
    )


def slurm_kind(name: str, slurm: SlurmCluster, **values: object) -> Kind:
    """An engine for a test cluster; ``values`` are settings of it."""
    rest = name == "slurm-rest"
    settings = replace(slurm_settings(slurm, rest=rest), **values)  # type: ignore[arg-type]
    return Kind(
        name=name,
        make=lambda: SlurmEngine(settings),
        base=slurm.jobs,
        owner="alice",
        account=slurm.users[0],
        cores=32,
        everywhere="regular",
        least_limit=timedelta(minutes=1),
        # A thousand of each kind once; the other way of the same engine has some.
        many_singles=1000 if rest else 100,
        many_elements=100 if rest else 1000,
    )


@pytest.fixture(
    scope="session", params=[pytest.param(k, marks=() if k == "local" else pytest.mark.slurm) for k in KINDS]
)
def kind(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Kind:
    """One engine after the other."""
    if request.param == "local":
        return local_kind(tmp_path_factory.mktemp("local"))
    return slurm_kind(request.param, request.getfixturevalue("wide_slurm"))


@pytest.fixture
def apart(kind: Kind, tmp_path: Path) -> Kind:
    """The same kind of engine, with nobody else following it where only one can."""
    return kind if kind.slurm else local_kind(tmp_path)


@pytest.fixture(scope="session")
async def shared(kind: Kind) -> AsyncIterator[Driven]:
    """The engine that tests share, each with jobs of its own."""
    driven = await Driven(kind).start()
    await driven.begin_the_longest()
    yield driven
    await driven.clear_away()
    await driven.stop()


@pytest.fixture
async def engine(shared: Driven) -> AsyncIterator[Driven]:
    """The shared engine; nothing contradictory has been told of any job when the test is over."""
    yield shared
    faults, shared.faults = shared.faults, []
    assert faults == []
