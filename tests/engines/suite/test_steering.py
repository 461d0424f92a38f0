"""Holding, releasing, changing, canceling, signaling jobs and putting them back."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from openfacility_server.jobs.engines import EngineCannot, EngineError, EngineUpdate
from openfacility_server.jobs.model import JobArray, JobAttributes, JobReason, JobSpec, JobState, ResourceSpec

from tests.engines.local_harness import shell, until, waits_for
from tests.engines.suite.driven import Driven, words_in

OWNER, OPERATOR = JobReason.HELD_BY_OWNER, JobReason.HELD_BY_OPERATOR


async def started(engine: Driven, spec: JobSpec) -> str:
    """Submits a job and waits until it runs."""
    job_id = await engine.submit(spec)
    seen = await engine.saw(job_id, JobState.ACTIVE)
    assert seen.start_time is not None
    return job_id


# Holding


async def test_states_in_order(engine: Driven) -> None:
    job_id = await engine.submit(shell("sleep 0.5", hold=True))
    await engine.saw(job_id, JobState.HELD, OWNER)
    await engine.engine.release([engine.ref(job_id), engine.ref("unknown")], by_operator=False)
    await engine.saw(job_id, JobState.ACTIVE)
    end = await engine.end_of(job_id)
    states = engine.states(job_id)
    assert [state for state in states if state is not JobState.QUEUED] == [
        JobState.HELD,
        JobState.ACTIVE,
        JobState.COMPLETED,
    ]
    assert states == sorted(states, key=[JobState.HELD, JobState.QUEUED, JobState.ACTIVE, JobState.COMPLETED].index)
    assert end.start_time is not None
    assert end.end_time is not None
    assert end.end_time - end.start_time < timedelta(minutes=1)
    assert abs(end.end_time - datetime.now(UTC)) < timedelta(minutes=2)


async def test_an_operators_hold(engine: Driven) -> None:
    """It takes over from the owner's, and only an operator undoes it."""
    job_id = await engine.submit(shell("true", hold=True))
    await engine.saw(job_id, JobState.HELD, OWNER)
    refs = [engine.ref(job_id)]
    await engine.engine.hold(refs, OPERATOR)
    await engine.engine.hold(refs, OWNER)  # changes nothing
    [seen] = await engine.engine.observe(refs)
    assert (seen.state, seen.reason) == (JobState.HELD, OPERATOR)
    with pytest.raises(EngineError):
        await engine.engine.release(refs, by_operator=False)
    [seen] = await engine.engine.observe(refs)
    assert (seen.state, seen.reason) == (JobState.HELD, OPERATOR)
    await engine.engine.release(refs, by_operator=True)
    assert (await engine.end_of(job_id)).state is JobState.COMPLETED


async def test_holding_what_waits_and_what_does_not(engine: Driven) -> None:
    go = engine.directory() / "go"
    most = ResourceSpec(process_count=engine.kind.cores * 2 // 3)
    runs = await started(engine, shell(waits_for(go), resources=most))
    waits = await engine.submit(shell("true", resources=most))
    await engine.saw(waits, JobState.QUEUED, JobReason.RESOURCES)
    await engine.engine.hold(engine.refs([waits, runs, "unknown"]), OWNER)
    await engine.saw(waits, JobState.HELD, OWNER)
    go.touch()
    assert (await engine.end_of(runs)).state is JobState.COMPLETED  # what runs is not held
    await engine.engine.hold(engine.refs([runs]), OWNER)  # nor is what has ended
    await engine.engine.release(engine.refs([waits, runs]), by_operator=False)
    assert (await engine.end_of(waits)).state is JobState.COMPLETED


# Canceling


async def test_cancel_what_waits(engine: Driven) -> None:
    mine, theirs = [await engine.submit(shell("echo ran", hold=True)) for _ in range(2)]
    await engine.saw(mine, JobState.HELD)
    await engine.engine.cancel(engine.refs([mine, "unknown"]), JobReason.CANCELED_BY_OWNER)
    await engine.engine.cancel(engine.refs([theirs]), JobReason.CANCELED_BY_OPERATOR)
    end = await engine.end_of(mine)
    assert (end.state, end.reason, end.exit_code, end.signal) == (
        JobState.CANCELED,
        JobReason.CANCELED_BY_OWNER,
        None,
        None,
    )
    assert end.start_time is None
    assert (await engine.end_of(theirs)).state is JobState.CANCELED
    assert await engine.output(mine) is None
    await engine.engine.cancel(engine.refs([mine]), JobReason.CANCELED_BY_OWNER)  # has no effect any more
    assert [one.state for one in await engine.engine.observe(engine.refs([mine]))] == [JobState.CANCELED]


async def test_cancel_what_runs(engine: Driven) -> None:
    pids = engine.directory() / "pids"
    script = f"setsid sleep 1000 & echo $! > {pids}; echo $$ >> {pids}; wait"
    job_id = await started(engine, shell(script))
    await until(lambda: len(words_in(pids)) == 2)
    await engine.engine.cancel(engine.refs([job_id]), JobReason.CANCELED_BY_OWNER)
    end = await engine.end_of(job_id)
    assert (end.state, end.reason) == (JobState.CANCELED, JobReason.CANCELED_BY_OWNER)
    assert end.start_time is not None
    await until(lambda: not any(Path(f"/proc/{pid}/cmdline").exists() for pid in words_in(pids)))


async def test_cancel_many(engine: Driven) -> None:
    ids = await engine.submit_array(held_array(30))
    singles = [await engine.submit(shell("true", hold=True)) for _ in range(5)]
    for job_id in (*ids, *singles):
        await engine.saw(job_id, JobState.HELD)
    await engine.engine.cancel(engine.refs([*ids, *singles]), JobReason.CANCELED_BY_OWNER)
    assert {end.state for end in await engine.ends_of([*ids, *singles])} == {JobState.CANCELED}


def held_array(count: int) -> JobSpec:
    return shell("true", hold=True, array=JobArray(0, count - 1))


# Changing


async def test_update(engine: Driven) -> None:
    go = engine.directory() / "go"
    spec = shell(f"echo $OPENFACILITY_CORES; {waits_for(go)}", name="old", hold=True)
    job_id = await engine.submit(spec)
    update = EngineUpdate(
        name="new", resources=ResourceSpec(process_count=3), duration=timedelta(minutes=7), queue_name="", account=None
    )
    await engine.engine.update(engine.ref(job_id), EngineUpdate(name="new", resources=update.resources), False)
    await engine.engine.update(engine.ref(job_id), EngineUpdate(duration=update.duration), True)
    await engine.engine.release(engine.refs([job_id]), by_operator=False)
    await engine.saw(job_id, JobState.ACTIVE)
    await engine.engine.update(engine.ref(job_id), EngineUpdate(duration=timedelta(minutes=5)), by_operator=False)
    with pytest.raises(EngineError) as refused:
        await engine.engine.update(engine.ref(job_id), EngineUpdate(resources=ResourceSpec(process_count=2)), False)
    assert refused.value.applied == ()
    assert str(refused.value).endswith(".")
    go.touch()
    end = await engine.end_of(job_id)
    assert end.state is JobState.COMPLETED
    assert await engine.output(job_id) == "3\n"
    with pytest.raises(EngineError):
        await engine.engine.update(engine.ref(job_id), EngineUpdate(duration=timedelta(minutes=3)), by_operator=False)
    with pytest.raises(EngineError):
        await engine.engine.update(engine.ref("unknown"), EngineUpdate(name="x"), by_operator=False)


async def test_update_to_what_cannot_be(engine: Driven) -> None:
    job_id = await engine.submit(shell("true", hold=True))
    for update, reason in (
        (EngineUpdate(queue_name="no-such"), "BAD_QUEUE"),
        (EngineUpdate(resources=ResourceSpec(process_count=5000)), "RESOURCES_IMPOSSIBLE"),
    ):
        with pytest.raises(EngineError) as refused:
            await engine.engine.update(engine.ref(job_id), update, by_operator=False)
        assert (refused.value.refusal.reason, refused.value.applied) == (reason, ())
    await engine.engine.cancel(engine.refs([job_id]), JobReason.CANCELED_BY_OWNER)
    await engine.end_of(job_id)


# Signals


async def test_signal(engine: Driven) -> None:
    """It reaches the program and what that started, each time, and nobody else."""
    there = engine.directory()
    heard, ready, go = there / "heard", there / "ready", there / "go"
    loop = f"echo x >> {ready}; {waits_for(go, 'true')}"
    child = f"trap 'echo child >> {heard}' USR1; {loop}"
    spec = shell(f"trap 'echo parent >> {heard}' USR1; sh -c \"$CHILD\" & {loop}; wait", environment={"CHILD": child})
    job_id, other = await started(engine, spec), await started(engine, shell(waits_for(go)))
    held = await engine.submit(shell("true", hold=True))
    await until(lambda: len(words_in(ready)) == 2)
    for count in (2, 4):
        await engine.engine.signal(engine.refs([job_id, held, "unknown"]), "USR1", by_operator=count == 4)
        await until(lambda: len(words_in(heard)) >= count)  # noqa: B023 -- awaited
    go.touch()
    assert (await engine.end_of(job_id)).state is JobState.COMPLETED
    assert sorted(words_in(heard)) == ["child", "child", "parent", "parent"]
    assert (await engine.end_of(other)).state is JobState.COMPLETED
    await engine.engine.signal(engine.refs([job_id]), "KILL", by_operator=False)
    await engine.engine.cancel(engine.refs([held]), JobReason.CANCELED_BY_OWNER)
    await engine.end_of(held)


async def test_signal_that_kills(engine: Driven) -> None:
    job_id = await started(engine, shell("exec sleep 1000"))
    await engine.engine.signal(engine.refs([job_id]), "KILL", by_operator=False)
    end = await engine.end_of(job_id)
    assert (end.state, end.reason, end.signal) == (JobState.FAILED, JobReason.SIGNALED, 9)


# Putting back


async def test_requeue(engine: Driven) -> None:
    there = engine.directory()
    runs, go = there / "runs", there / "go"
    job_id = await started(engine, shell(f"echo ran >> {runs}; {waits_for(go)}"))
    await until(lambda: len(words_in(runs)) == 1)
    if not engine.kind.puts_back:
        with pytest.raises(EngineCannot):
            await engine.engine.requeue(engine.refs([job_id]), hold=True, by_operator=False)
        go.touch()
        await engine.end_of(job_id)
        return
    await engine.engine.requeue(engine.refs([job_id]), hold=True, by_operator=False)
    seen = await engine.saw(job_id, JobState.HELD, JobReason.REQUEUED)
    assert seen.start_time is None
    await engine.engine.release(engine.refs([job_id]), by_operator=False)
    # Slurm lets it wait for two minutes before it starts anew, so that the nodes forget it.
    await engine.saw(job_id, JobState.QUEUED, JobReason.REQUEUED)
    await engine.engine.cancel(engine.refs([job_id]), JobReason.CANCELED_BY_OWNER)
    assert (await engine.end_of(job_id)).state is JobState.CANCELED


# Asking


async def test_estimate(engine: Driven) -> None:
    spec = shell(
        "true",
        resources=ResourceSpec(process_count=2, cpu_cores_per_process=2),
        attributes=JobAttributes(duration=timedelta(minutes=4)),
    )
    estimate = await engine.engine.estimate(spec, engine.kind.owner, ())
    assert estimate.refusal is None
    assert estimate.start_time is not None
    assert abs(estimate.start_time - datetime.now(UTC)) < timedelta(minutes=2)
    assert (estimate.node_count, estimate.core_count) == (1, 4)
    assert estimate.duration == timedelta(minutes=4)


async def test_health(engine: Driven) -> None:
    health = await engine.engine.health()
    assert health.serving
    assert list(await asyncio.wait_for(engine.engine.reservations(), 30)) == []
