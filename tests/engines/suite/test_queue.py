"""Arrays, and jobs that wait for others."""

from __future__ import annotations

from pathlib import Path

import pytest
from openfacility_server.jobs.engines import Observation
from openfacility_server.jobs.model import (
    DependencyCondition,
    JobArray,
    JobDependency,
    JobReason,
    JobSpec,
    JobState,
)

from tests.engines.local_harness import new_id, shell, waits_for
from tests.engines.suite.driven import Driven

AFTER, OK, NOT_OK, ANY = DependencyCondition
GOOD, BAD = "exit 0", "exit 1"


def most_at_once(log: Path) -> int:
    running = most = 0
    for line in log.read_text().split():
        running += 1 if line == "begin" else -1
        most = max(most, running)
    assert running == 0
    return most


# Arrays


async def test_array(engine: Driven) -> None:
    """Each element has its index, its end and its output."""
    spec = shell(
        "echo $OPENFACILITY_ARRAY_INDEX; exit $OPENFACILITY_ARRAY_INDEX", array=JobArray(3, 9, 3), stdout_path="%A-%a"
    )
    array_id = new_id()
    ids = await engine.submit_array(spec, array_id)
    ends = await engine.ends_of(ids)
    assert [end.job_id for end in ends] == [f"{array_id}_{index}" for index in (3, 6, 9)]
    assert [end.native_id for end in ends] == [engine.natives[job_id] for job_id in ids]
    assert [end.exit_code for end in ends] == [3, 6, 9]
    assert [await engine.output(job_id) for job_id in ids] == ["3\n", "6\n", "9\n"]


async def test_array_with_a_limit(engine: Driven) -> None:
    log = engine.directory() / "log"
    script = f"echo begin >> {log}; sleep 0.2; echo end >> {log}"
    ids = await engine.submit_array(shell(script, array=JobArray(0, 5, 1, max_active=2)))
    await engine.saw(ids[-1], JobState.QUEUED)
    ends = await engine.ends_of(ids)
    assert {end.state for end in ends} == {JobState.COMPLETED}
    assert most_at_once(log) == 2


async def test_elements_are_steered_one_by_one(engine: Driven) -> None:
    go = engine.directory() / "go"
    ids = await engine.submit_array(shell(waits_for(go), array=JobArray(0, 3, 1, max_active=1)))
    await engine.saw(ids[0], JobState.ACTIVE)
    await engine.engine.hold(engine.refs([ids[1]]), JobReason.HELD_BY_OWNER)
    await engine.saw(ids[1], JobState.HELD, JobReason.HELD_BY_OWNER)
    await engine.engine.cancel(engine.refs([ids[2], ids[0]]), JobReason.CANCELED_BY_OWNER)
    assert {end.state for end in await engine.ends_of([ids[2], ids[0]])} == {JobState.CANCELED}
    await engine.saw(ids[3], JobState.ACTIVE)
    go.touch()
    await engine.end_of(ids[3])
    await engine.engine.release(engine.refs([ids[1]]), by_operator=False)
    ends = await engine.ends_of(ids)
    assert [end.state for end in ends] == [
        JobState.CANCELED,
        JobState.COMPLETED,
        JobState.CANCELED,
        JobState.COMPLETED,
    ]


async def test_held_array(engine: Driven) -> None:
    ids = await engine.submit_array(shell("true", array=JobArray(0, 4), hold=True))
    for job_id in ids:
        await engine.saw(job_id, JobState.HELD, JobReason.HELD_BY_OWNER)
    await engine.engine.release(engine.refs(ids), by_operator=False)
    assert {end.state for end in await engine.ends_of(ids)} == {JobState.COMPLETED}


# Dependencies


def after(job_id: str, condition: DependencyCondition, script: str = "true") -> JobSpec:
    return shell(script, dependencies=(JobDependency(job_id, condition),))


def never(end: Observation) -> bool:
    if end.state is JobState.COMPLETED:
        return False
    # A batch system may only say that it was canceled; the service, which knows for what it waited, says why.
    assert end.state is JobState.CANCELED
    assert end.reason in (JobReason.DEPENDENCY_NEVER_SATISFIED, JobReason.CANCELED_BY_OWNER)
    assert end.start_time is None
    return True


async def test_dependencies(engine: Driven) -> None:
    """Whether the job depended on has ended before, or ends while the others wait."""
    go = engine.directory() / "go"
    good, bad = [await engine.submit(shell(waits_for(go, end))) for end in (GOOD, BAD)]
    wanted = {(condition, first) for condition in (OK, NOT_OK, ANY) for first in (good, bad)}
    waiting = {pair: await engine.submit(after(pair[1], pair[0])) for pair in wanted}
    for job_id in waiting.values():
        await engine.saw(job_id, JobState.QUEUED, JobReason.DEPENDENCY)
    go.touch()
    await engine.ends_of([good, bad])
    late = {pair: await engine.submit(after(pair[1], pair[0])) for pair in wanted}
    for jobs in (waiting, late):
        ends = dict(zip(jobs, await engine.ends_of(list(jobs.values())), strict=True))
        assert {pair for pair, end in ends.items() if never(end)} == {(OK, bad), (NOT_OK, good)}


async def test_after_the_start(engine: Driven) -> None:
    go = engine.directory() / "go"
    first = await engine.submit(shell(waits_for(go), hold=True))
    second = await engine.submit(after(first, AFTER))
    await engine.saw(second, JobState.QUEUED, JobReason.DEPENDENCY)
    await engine.engine.release(engine.refs([first]), by_operator=False)
    assert (await engine.end_of(second)).state is JobState.COMPLETED
    assert not any(one.state.final for one in engine.of(first))
    go.touch()
    await engine.end_of(first)


async def test_after_a_job_that_is_canceled(engine: Driven) -> None:
    first = await engine.submit(shell("true", hold=True))
    others = [await engine.submit(after(first, condition)) for condition in (AFTER, NOT_OK, ANY, OK)]
    await engine.engine.cancel(engine.refs([first]), JobReason.CANCELED_BY_OWNER)
    assert [never(end) for end in await engine.ends_of(others)] == [False, False, False, True]


@pytest.mark.parametrize("condition", [OK, NOT_OK, ANY])
async def test_after_an_array(engine: Driven, condition: DependencyCondition) -> None:
    """An array counts as a whole."""
    go = engine.directory() / "go"
    array_id = new_id()
    script = f"[ $OPENFACILITY_ARRAY_INDEX != 1 ] || {{ {waits_for(go, BAD)}; }}"
    ids = await engine.submit_array(shell(script, array=JobArray(0, 1)), array_id)
    job_id = await engine.submit(after(array_id, condition))
    await engine.saw(job_id, JobState.QUEUED, JobReason.DEPENDENCY)
    await engine.end_of(ids[0])
    go.touch()
    assert never(await engine.end_of(job_id)) is (condition is OK)


async def test_chain_falls(engine: Driven) -> None:
    chain = [await engine.submit(shell("exit 1", hold=True))]
    for _ in range(3):
        chain.append(await engine.submit(after(chain[-1], OK)))
    await engine.engine.release(engine.refs(chain[:1]), by_operator=False)
    ends = await engine.ends_of(chain)
    assert ends[0].reason is JobReason.NONZERO_EXIT
    assert all(never(end) for end in ends[1:])


async def test_several_conditions(engine: Driven) -> None:
    first, second = [await engine.submit(shell("true", hold=True)) for _ in range(2)]
    both = (JobDependency(first, OK), JobDependency(second, ANY))
    job_id = await engine.submit(shell("true", dependencies=both))
    await engine.engine.release(engine.refs([first]), by_operator=False)
    await engine.end_of(first)
    await engine.engine.cancel(engine.refs([second]), JobReason.CANCELED_BY_OWNER)
    assert (await engine.end_of(job_id)).state is JobState.COMPLETED
    await engine.end_of(second)
