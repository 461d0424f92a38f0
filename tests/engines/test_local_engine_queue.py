"""The local engine's queue: order, limits, holds, arrays and dependencies, with real processes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from openfacility_server.jobs.engines import EngineError, EngineUpdate
from openfacility_server.jobs.engines.local import LocalEngine
from openfacility_server.jobs.model import (
    DependencyCondition,
    JobArray,
    JobDependency,
    JobReason,
    JobSpec,
    JobState,
    ResourceSpec,
)

from tests.engines.local_harness import Followed, a_job, followed, new_id, ref, settings_in, shell, until, waits_for

AFTER, OK, NOT_OK, ANY = DependencyCondition


@pytest.fixture
async def local(tmp_path: Path) -> AsyncIterator[Followed]:
    async with followed(tmp_path) as facility:
        yield facility


def recorded(log: Path, cores: int = 1, then: str = "sleep 0.05") -> JobSpec:
    """A job that writes down when it runs, so that overlaps can be seen."""
    script = f"echo $OPENFACILITY_JOB_ID +{cores} >> {log}; {then}; echo $OPENFACILITY_JOB_ID -{cores} >> {log}"
    return shell(script, resources=ResourceSpec(cpu_cores_per_process=cores))


def most_at_once(log: Path) -> int:
    used = most = 0
    for line in log.read_text().splitlines():
        used += int(line.split()[1])
        most = max(most, used)
    assert used == 0
    return most


async def test_cores_are_never_exceeded(local: Followed, tmp_path: Path) -> None:
    log = tmp_path / "log"
    ids = [await local.submit(recorded(log, 1 + number % 3)) for number in range(24)]
    ends = await local.ends_of(ids)
    assert all(end.state is JobState.COMPLETED for end in ends)
    assert 2 <= most_at_once(log) <= 4


async def test_first_come_first_served(tmp_path: Path) -> None:
    log = tmp_path / "log"
    async with followed(tmp_path, cores=2) as local:
        blocker = await local.submit(shell(waits_for(tmp_path / "go")))
        await local.saw(blocker, JobState.ACTIVE)
        wide = await local.submit(recorded(log, 2))
        narrow = [await local.submit(recorded(log, 1)) for _ in range(3)]
        # One core is free all this time, but the wide job is first.
        await local.saw(wide, JobState.QUEUED, JobReason.RESOURCES)
        for job_id in narrow:
            await local.saw(job_id, JobState.QUEUED, JobReason.PRIORITY)
        (tmp_path / "go").touch()
        await local.ends_of([wide, *narrow])
        assert log.read_text().split()[0] == wide
        assert most_at_once(log) <= 2
        assert [o.reason for o in local.of(wide) if o.state is JobState.QUEUED] == [JobReason.RESOURCES]


async def test_strict_order_on_one_core(tmp_path: Path) -> None:
    async with followed(tmp_path, cores=1) as local:
        ids = [await local.submit(recorded(tmp_path / "log", then="true")) for _ in range(10)]
        await local.ends_of(ids)
        assert (tmp_path / "log").read_text().split()[::4] == ids


async def test_memory_is_handed_out(tmp_path: Path) -> None:
    async with followed(tmp_path, memory=1 << 30) as local:
        spec = shell(waits_for(tmp_path / "go"), resources=ResourceSpec(memory=600 << 20))
        first, second = await local.submit(spec), await local.submit(spec)
        await local.saw(first, JobState.ACTIVE)
        await local.saw(second, JobState.QUEUED, JobReason.RESOURCES)
        (tmp_path / "go").touch()
        assert (await local.end_of(second)).state is JobState.COMPLETED


async def test_exclusive_use(local: Followed, tmp_path: Path) -> None:
    first = await local.submit(shell(waits_for(tmp_path / "go"), resources=ResourceSpec(exclusive_node_use=True)))
    second = await local.submit(shell("true"))
    await local.saw(first, JobState.ACTIVE)
    await local.saw(second, JobState.QUEUED, JobReason.RESOURCES)
    (tmp_path / "go").touch()
    await local.end_of(second)


async def test_job_larger_than_the_resource_has_become(tmp_path: Path) -> None:
    before = LocalEngine(settings_in(tmp_path, cores=2))
    await before.open()
    large = new_id()
    spec = shell("true", resources=ResourceSpec(process_count=2), hold=True)
    await before.submit([a_job(large, spec)])
    await before.close()
    async with followed(tmp_path, cores=1) as local:
        await local.engine.release([ref(large)], by_operator=False)
        seen = await local.saw(large, JobState.QUEUED, JobReason.RESOURCES)
        assert "more than" in seen.message
        assert (await local.run(shell("true"))).state is JobState.COMPLETED  # it does not stand in the way


# Holding


async def test_hold_and_release(local: Followed) -> None:
    job_id = await local.submit(shell("echo ran", hold=True))
    await local.saw(job_id, JobState.HELD, JobReason.HELD_BY_OWNER)
    assert (await local.run(shell("true"))).state is JobState.COMPLETED
    await local.engine.hold([ref(job_id)], JobReason.HELD_BY_OPERATOR)  # takes over
    await local.engine.hold([ref(job_id)], JobReason.HELD_BY_OWNER)  # changes nothing
    [seen] = await local.engine.observe([ref(job_id)])
    assert (seen.state, seen.reason) == (JobState.HELD, JobReason.HELD_BY_OPERATOR)
    with pytest.raises(EngineError, match="operator holds"):
        await local.engine.release([ref(job_id), ref("unknown")], by_operator=False)
    assert await local.engine.observe([ref(job_id)]) == [seen]
    await local.engine.release([ref(job_id), ref("unknown")], by_operator=True)
    assert (await local.end_of(job_id)).state is JobState.COMPLETED


async def test_hold_a_waiting_job(local: Followed, tmp_path: Path) -> None:
    blocker = await local.submit(shell(waits_for(tmp_path / "go"), resources=ResourceSpec(process_count=4)))
    first, second = await local.submit(shell("true")), await local.submit(shell("true"))
    await local.saw(first, JobState.QUEUED, JobReason.RESOURCES)
    await local.engine.hold([ref(first), ref(blocker)], JobReason.HELD_BY_OPERATOR)
    await local.saw(first, JobState.HELD, JobReason.HELD_BY_OPERATOR)
    await local.saw(second, JobState.QUEUED, JobReason.RESOURCES)
    (tmp_path / "go").touch()
    assert (await local.end_of(blocker)).state is JobState.COMPLETED  # holding what runs does nothing
    await local.end_of(second)
    assert not any(o.state.final for o in local.of(first))


async def test_resources_changed_while_waiting(local: Followed, tmp_path: Path) -> None:
    blocker = await local.submit(shell(waits_for(tmp_path / "go"), resources=ResourceSpec(process_count=3)))
    await local.saw(blocker, JobState.ACTIVE)
    wide = await local.submit(shell("true", resources=ResourceSpec(process_count=2)))
    await local.saw(wide, JobState.QUEUED, JobReason.RESOURCES)
    await local.engine.update(ref(wide), EngineUpdate(resources=ResourceSpec(process_count=1)), by_operator=False)
    assert (await local.end_of(wide)).state is JobState.COMPLETED
    (tmp_path / "go").touch()


# Arrays


async def test_array_with_a_limit(local: Followed, tmp_path: Path) -> None:
    log = tmp_path / "log"
    ids = await local.submit_array(replace(recorded(log), array=JobArray(0, 9, 1, max_active=2)))
    between = await local.submit(shell("true"))
    await local.saw(ids[-1], JobState.QUEUED, JobReason.ARRAY_LIMIT)
    await local.end_of(between)
    assert not any(end.job_id == ids[-1] for end in local.ends())  # the array does not stand in its way
    await local.ends_of(ids)
    assert most_at_once(log) == 2


async def test_canceled_elements_make_room(local: Followed, tmp_path: Path) -> None:
    spec = shell(waits_for(tmp_path / "go"), array=JobArray(0, 3, 1, max_active=1))
    ids = await local.submit_array(spec)
    await local.saw(ids[0], JobState.ACTIVE)
    await local.engine.cancel([ref(job_id) for job_id in ids[:3]], JobReason.CANCELED_BY_OWNER)
    await local.saw(ids[3], JobState.ACTIVE)
    (tmp_path / "go").touch()
    assert [end.state for end in await local.ends_of(ids)] == [JobState.CANCELED] * 3 + [JobState.COMPLETED]


# Dependencies

GOOD, BAD = "exit 0", "exit 1"


@pytest.mark.parametrize(
    ("condition", "script", "runs"),
    [
        (OK, GOOD, True),
        (OK, BAD, False),
        (NOT_OK, GOOD, False),
        (NOT_OK, BAD, True),
        (ANY, GOOD, True),
        (ANY, BAD, True),
    ],
)
@pytest.mark.parametrize("before", [True, False])
async def test_dependency(
    local: Followed, tmp_path: Path, condition: DependencyCondition, script: str, runs: bool, before: bool
) -> None:
    """Whether the job depended on has ended before, or ends while the other waits."""
    first = await local.submit(shell(waits_for(tmp_path / "go", script)))
    if before:
        (tmp_path / "go").touch()
        await local.end_of(first)
    second = await local.submit(shell("true", dependencies=(JobDependency(first, condition),)))
    if not before:
        await local.saw(second, JobState.QUEUED, JobReason.DEPENDENCY)
        (tmp_path / "go").touch()
    end = await local.end_of(second)
    if runs:
        assert end.state is JobState.COMPLETED
    else:
        assert (end.state, end.reason) == (JobState.CANCELED, JobReason.DEPENDENCY_NEVER_SATISFIED)


async def test_after_the_start(local: Followed, tmp_path: Path) -> None:
    first = await local.submit(shell(waits_for(tmp_path / "go"), hold=True))
    second = await local.submit(shell("true", dependencies=(JobDependency(first, AFTER),)))
    await local.saw(second, JobState.QUEUED, JobReason.DEPENDENCY)
    await local.engine.release([ref(first)], by_operator=False)
    assert (await local.end_of(second)).state is JobState.COMPLETED
    assert not any(o.state.final for o in local.of(first))
    (tmp_path / "go").touch()


async def test_after_a_job_that_is_canceled_before_it_starts(local: Followed) -> None:
    first = await local.submit(shell("true", hold=True))
    dependents = [
        await local.submit(shell("true", dependencies=(JobDependency(first, condition),)))
        for condition in (AFTER, NOT_OK, ANY, OK)
    ]
    await local.engine.cancel([ref(first)], JobReason.CANCELED_BY_OWNER)
    states = [end.state for end in await local.ends_of(dependents)]
    assert states == [JobState.COMPLETED] * 3 + [JobState.CANCELED]


@pytest.mark.parametrize("condition", [AFTER, OK, NOT_OK, ANY])
async def test_dependency_on_an_array(local: Followed, tmp_path: Path, condition: DependencyCondition) -> None:
    """The whole array counts; its elements may come after those that wait for them."""
    array_id = new_id()
    dependent = await local.submit(shell("true", dependencies=(JobDependency(array_id, condition),)))
    await local.saw(dependent, JobState.QUEUED, JobReason.DEPENDENCY)
    script = f"[ $OPENFACILITY_ARRAY_INDEX != 2 ] || {{ {waits_for(tmp_path / 'go', 'exit 1')}; }}"
    ids = await local.submit_array(shell(script, array=JobArray(0, 2)), array_id)
    await local.ends_of(ids[:2])
    await local.saw(ids[2], JobState.ACTIVE)
    if condition is AFTER:
        assert (await local.end_of(dependent)).state is JobState.COMPLETED
    else:
        assert not any(o.state.final for o in local.of(dependent))
    (tmp_path / "go").touch()
    end = await local.end_of(dependent)
    assert end.state is (JobState.CANCELED if condition is OK else JobState.COMPLETED)
    late = await local.run(shell("true", dependencies=(JobDependency(array_id, condition),)))
    assert late.state is end.state


async def test_chain_falls(local: Followed) -> None:
    """What depends on a job that can never start can never start either."""
    first = await local.submit(shell("exit 1", hold=True))
    chain = [first]
    for _ in range(5):
        chain.append(await local.submit(shell("true", dependencies=(JobDependency(chain[-1], OK),))))
    await local.engine.release([ref(first)], by_operator=False)
    ends = await local.ends_of(chain)
    assert [end.reason for end in ends] == [JobReason.NONZERO_EXIT] + [JobReason.DEPENDENCY_NEVER_SATISFIED] * 5


async def test_job_that_waits_for_itself(local: Followed) -> None:
    job_id = new_id()
    await local.submit(shell("true", dependencies=(JobDependency(job_id, ANY),)), job_id)
    assert (await local.end_of(job_id)).reason is JobReason.DEPENDENCY_NEVER_SATISFIED


async def test_no_spam(local: Followed, tmp_path: Path) -> None:
    """A job that waits is told of when something changes for it, not when something changes."""
    blocker = await local.submit(shell(waits_for(tmp_path / "go"), resources=ResourceSpec(process_count=3)))
    await local.saw(blocker, JobState.ACTIVE)
    waiting = [await local.submit(shell("true", resources=ResourceSpec(process_count=4))) for _ in range(5)]
    await local.saw(waiting[-1], JobState.QUEUED, JobReason.PRIORITY)
    for _ in range(3):
        canceled = await local.submit(shell("true", hold=True))
        await local.engine.cancel([ref(canceled)], JobReason.CANCELED_BY_OWNER)
        await local.end_of(canceled)
    assert all(len(local.of(job_id)) == 1 for job_id in waiting)
    (tmp_path / "go").touch()
    await local.ends_of(waiting)
    await until(lambda: all(len(local.of(job_id)) <= 4 for job_id in waiting))
