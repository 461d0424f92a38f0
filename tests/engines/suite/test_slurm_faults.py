"""Slurm's daemons killed and stopped in the middle; each test breaks a cluster of its own."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from openfacility_server.jobs.engines import (
    EngineError,
    EngineJob,
    EngineUnavailable,
    EngineUpdate,
    JobRef,
)
from openfacility_server.jobs.model import JobAttributes, JobReason, JobState

from tests.engines.local_harness import new_id, shell, until, waits_for
from tests.engines.slurm import SlurmCluster
from tests.engines.suite.conftest import SLURM_KINDS, slurm_kind
from tests.engines.suite.driven import Driven, words_in

pytestmark = [pytest.mark.slurm, pytest.mark.slow, pytest.mark.timeout(180)]

Start = Callable[..., Awaitable[tuple[SlurmCluster, Driven]]]


@pytest.fixture(params=SLURM_KINDS)
def way(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def start(slurm_cluster: Callable[..., SlurmCluster]) -> AsyncIterator[Start]:
    """Starts a cluster and an engine that follows it."""
    started: list[Driven] = []

    async def begin(
        way: str, *, settings: dict[str, object] | None = None, **options: object
    ) -> tuple[SlurmCluster, Driven]:
        cluster = await asyncio.to_thread(slurm_cluster, **{"nodes": 1, **options})
        values = {"timeout": timedelta(seconds=2), **(settings or {})}
        driven = await Driven(slurm_kind(way, cluster, **values)).start()
        started.append(driven)
        return cluster, driven

    yield begin
    for driven in started:
        await driven.stop()


def counting(driven: Driven, then: str = "true") -> tuple[EngineJob, Path]:
    """A job that writes down each of its runs."""
    there = driven.directory()
    runs = there / "runs"
    return driven.job(shell(f"echo ran >> {runs}; {then}", directory=str(there))), runs


async def hand_over_at_last(driven: Driven, job: EngineJob) -> None:
    """Repeats a submission that was cut off until the engine answers, as the server does."""
    async with asyncio.timeout(60):
        while True:
            try:
                await driven.hand_over([replace(job, doubtful=True)])
            except EngineUnavailable:
                await asyncio.sleep(0.1)
            else:
                return


async def one_run(cluster: SlurmCluster, driven: Driven, job: EngineJob, runs: Path) -> None:
    """The job runs to its end, and there is no other."""
    assert (await driven.end_of(job.id)).state is JobState.COMPLETED
    await driven.run(shell("true"))
    listed = await asyncio.to_thread(cluster.run, "squeue", "-h", "-t", "all", "-o", "%i %k %T")
    mine = [line for line in listed.stdout.splitlines() if line.split()[1] == f"openfacility:{job.id}"]
    assert [line.split()[0] for line in mine if "CANCELLED" not in line] == [driven.natives[job.id]]
    assert words_in(runs) == ["ran"]


async def test_submit_while_the_controller_hangs(start: Start, way: str) -> None:
    """It takes what it was sent when it goes on, after we have given up: still there is one job."""
    cluster, driven = await start(way)
    job, runs = counting(driven)
    cluster.pause("slurmctld")
    try:
        async with asyncio.timeout(30):
            with pytest.raises(EngineUnavailable):
                await driven.engine.submit([job])
            assert not (await driven.engine.health()).serving
            with pytest.raises(EngineUnavailable):
                await driven.engine.observe([driven.ref(job.id)])
    finally:
        cluster.resume("slurmctld")
    await hand_over_at_last(driven, job)
    await one_run(cluster, driven, job, runs)
    assert (await driven.engine.health()).serving


async def test_submit_while_the_controller_is_dead(start: Start, way: str) -> None:
    cluster, driven = await start(way)
    running = await driven.submit(shell("exit 5", hold=True))
    await until((cluster.base / "state" / "job_state").exists)
    job, runs = counting(driven)
    await asyncio.to_thread(cluster.kill, "slurmctld")
    async with asyncio.timeout(30):
        with pytest.raises(EngineUnavailable):
            await driven.engine.submit([job])
        with pytest.raises(EngineUnavailable):
            await driven.engine.release(driven.refs([running]), by_operator=False)
        with pytest.raises(EngineUnavailable):
            await driven.engine.estimate(shell("true"), driven.kind.owner, ())
        assert not (await driven.engine.health()).serving
    await asyncio.to_thread(cluster.start_daemon, "slurmctld")
    await hand_over_at_last(driven, job)
    await driven.engine.release(driven.refs([running]), by_operator=False)
    await one_run(cluster, driven, job, runs)
    assert (await driven.end_of(running)).exit_code == 5


async def test_controller_killed_among_many(start: Start) -> None:
    """Cut off in the middle of a batch: each job is there once in the end."""
    cluster, driven = await start("slurm-commands", cpus=16)
    log = driven.directory() / "log"
    jobs = [driven.job(shell(f"echo $OPENFACILITY_JOB_ID >> {log}", hold=True)) for _ in range(60)]
    handing = asyncio.create_task(driven.engine.submit(jobs))
    await until(lambda: cluster.events.exists() and len(cluster.events.read_text().splitlines()) > 20)
    await asyncio.to_thread(cluster.kill, "slurmctld")
    with pytest.raises(EngineUnavailable):
        await handing
    await asyncio.to_thread(cluster.start_daemon, "slurmctld")
    async with asyncio.timeout(60):
        while True:
            try:
                await driven.hand_over([replace(job, doubtful=True) for job in jobs])
                break
            except EngineUnavailable:
                await asyncio.sleep(0.1)
    ids = [job.id for job in jobs]
    assert len({driven.natives[job_id] for job_id in ids}) == 60
    await driven.engine.release(driven.refs(ids), by_operator=False)
    await driven.ends_of(ids)
    assert sorted(log.read_text().split()) == sorted(ids)


async def test_rest_killed(start: Start) -> None:
    cluster, driven = await start("slurm-rest")
    go = driven.directory() / "go"
    running = await driven.submit(shell(waits_for(go, "exit 5")))
    await driven.saw(running, JobState.ACTIVE)
    await asyncio.to_thread(cluster.kill, "slurmrestd")
    job, runs = counting(driven)
    with pytest.raises(EngineUnavailable):
        await driven.engine.submit([job])
    go.touch()
    assert (await driven.end_of(running)).exit_code == 5  # what is seen does not go that way
    await asyncio.to_thread(cluster.start_daemon, "slurmrestd")
    await hand_over_at_last(driven, job)
    await one_run(cluster, driven, job, runs)


async def test_rest_hangs(start: Start) -> None:
    cluster, driven = await start("slurm-rest")
    job, runs = counting(driven)
    cluster.pause("slurmrestd")
    async with asyncio.timeout(30):
        with pytest.raises(EngineUnavailable):
            await driven.engine.submit([job])
    cluster.resume("slurmrestd")
    await hand_over_at_last(driven, job)
    await one_run(cluster, driven, job, runs)


async def test_node_killed(start: Start) -> None:
    """What ran there failed with it, or was put back: which, its submitter decides."""
    cluster, driven = await start("slurm-commands", nodes=2, extra=["SlurmdTimeout=3"])
    stays = JobAttributes(queue_name="regular", custom_attributes={"slurm.nodelist": "n2", "slurm.no-requeue": ""})
    again = JobAttributes(queue_name="regular", custom_attributes={"slurm.nodelist": "n2", "slurm.requeue": ""})
    lost, put_back = [await driven.submit(shell("exec sleep 600", attributes=each)) for each in (stays, again)]
    for job_id in (lost, put_back):
        assert (await driven.saw(job_id, JobState.ACTIVE)).nodes == "n2"
    await asyncio.to_thread(cluster.kill, "n2")
    end = await driven.end_of(lost)
    assert (end.state, end.reason) == (JobState.FAILED, JobReason.NODE_FAILED)
    await until(lambda: driven.states(put_back)[-2:] == [JobState.ACTIVE, JobState.QUEUED])
    await driven.engine.cancel(driven.refs([put_back]), JobReason.CANCELED_BY_OWNER)
    assert (await driven.end_of(put_back)).state is JobState.CANCELED


async def test_accounting_dead(start: Start) -> None:
    """Jobs are run and their ends are seen without it; what only it knows is said to be unknown for now."""
    cluster, driven = await start("slurm-rest")
    await asyncio.to_thread(cluster.kill, "slurmdbd")
    async with asyncio.timeout(60):
        assert (await driven.run(shell("exit 5"))).exit_code == 5
    asked = JobRef(new_id(), driven.kind.owner, "", driven.job(shell("true")).create_time)
    with pytest.raises(EngineUnavailable):
        await driven.engine.observe([asked])
    await asyncio.to_thread(cluster.start_daemon, "slurmdbd")
    assert (await driven.run(shell("exit 6"))).exit_code == 6


async def test_numbers_used_again(start: Start) -> None:
    """A controller that crashes forgets what it took last, and gives others the same numbers."""
    cluster, driven = await start("slurm-commands")
    go = driven.directory() / "go"
    forgotten, runs = counting(driven)
    forgotten = replace(forgotten, spec=replace(forgotten.spec, hold=True))
    driven.given[forgotten.id] = forgotten
    remembered = await driven.submit(shell("true", hold=True))
    state, before = cluster.base / "state", cluster.base / "before"
    await until(lambda: (file := state / "job_state").exists() and remembered.encode() in file.read_bytes())
    shutil.copytree(state, before)
    await driven.hand_over([forgotten])
    number = driven.natives[forgotten.id]
    await asyncio.to_thread(cluster.kill, "slurmctld")
    shutil.rmtree(state)  # it may have saved it in time
    before.rename(state)
    await asyncio.to_thread(cluster.start_daemon, "slurmctld")
    other = await driven.submit(shell(waits_for(go, "exit 3")))
    assert driven.natives[other] == number
    await driven.saw(other, JobState.ACTIVE)
    old = JobRef(forgotten.id, forgotten.owner, number, forgotten.create_time)
    assert list(await driven.engine.observe([old])) == []
    await driven.engine.cancel([old], JobReason.CANCELED_BY_OWNER)
    await driven.engine.signal([old], "KILL", by_operator=False)
    with pytest.raises(EngineError):
        await driven.engine.update(old, EngineUpdate(name="x"), by_operator=False)
    await driven.hand_over([replace(forgotten, doubtful=True)])
    assert driven.natives[forgotten.id] != number
    await driven.engine.release(driven.refs([forgotten.id]), by_operator=False)
    await one_run(cluster, driven, forgotten, runs)
    go.touch()
    assert (await driven.end_of(other)).exit_code == 3
    [seen] = await driven.engine.observe(driven.refs([remembered]))
    assert seen.state is JobState.HELD
