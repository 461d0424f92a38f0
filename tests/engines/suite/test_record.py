"""That a job is handed over once, seen by all, and outlives the engine that was told of it."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from openfacility_server.jobs.engines import EngineUpdate, OutputStream
from openfacility_server.jobs.model import JobArray, JobReason, JobState

from tests.engines.local_harness import shell, until, waits_for
from tests.engines.suite.driven import Driven, Kind


async def test_submit_again(engine: Driven) -> None:
    """While it waits, while it runs and when it has ended: it is the same job, and runs once."""
    there = engine.directory()
    runs, go = there / "runs", there / "go"
    job_id = await engine.submit(shell(f"echo ran >> {runs}; {waits_for(go)}", hold=True))
    again = replace(engine.given[job_id], doubtful=True)

    async def same() -> None:
        assert await engine.answers([again]) == [engine.natives[job_id]]

    await same()
    await engine.engine.release(engine.refs([job_id]), by_operator=False)
    await engine.saw(job_id, JobState.ACTIVE)
    await same()
    go.touch()
    await engine.end_of(job_id)
    await same()
    await engine.run(shell("true"))
    assert runs.read_text() == "ran\n"


async def test_submit_many_again(engine: Driven) -> None:
    """Of what was taken nothing is taken again, and what was not is."""
    log = engine.directory() / "log"
    spec = shell(f"echo $OPENFACILITY_JOB_ID >> {log}")
    jobs = [engine.job(spec) for _ in range(20)]
    await engine.hand_over(jobs[::2])
    before = dict(engine.natives)
    array = engine.elements(replace(spec, array=JobArray(0, 2)))
    await engine.hand_over(array)
    doubtful = [replace(job, doubtful=True) for job in (*jobs, *array)]
    answers = await engine.answers(doubtful)
    for job, answer in zip(doubtful, answers, strict=True):
        assert isinstance(answer, str)
        assert answer == before.get(job.id, answer)
    await engine.hand_over(doubtful)
    array_id = array[0].array_job_id or array[0].id
    ids = [*(job.id for job in jobs), *(f"{array_id}_{index}" for index in range(3))]
    await engine.ends_of(ids)
    await engine.run(shell("true"))
    assert sorted(log.read_text().split()) == sorted(ids)


async def test_submit_at_the_same_time(engine: Driven) -> None:
    """Many calls side by side, as of several callers."""
    ids = await asyncio.gather(*(engine.submit(shell(f"exit {number}")) for number in range(12)))
    ends = await engine.ends_of(ids)
    assert [end.exit_code for end in ends] == list(range(12))
    assert len({engine.natives[job_id] for job_id in ids}) == 12


async def test_observe(engine: Driven) -> None:
    go = engine.directory() / "go"
    held, runs, ended = [
        await engine.submit(shell(waits_for(go), hold=True)),
        await engine.submit(shell(waits_for(go))),
        await engine.submit(shell("exit 3")),
    ]
    await engine.saw(runs, JobState.ACTIVE)
    end = await engine.end_of(ended)
    found = await engine.engine.observe(engine.refs([held, "unknown", runs, ended]))
    seen = {one.job_id: one for one in found}
    assert seen.keys() == {held, runs, ended}
    assert (seen[held].state, seen[held].native_id) == (JobState.HELD, engine.natives[held])
    assert seen[runs].state is JobState.ACTIVE
    assert (seen[ended].state, seen[ended].exit_code, seen[ended].start_time) == (JobState.FAILED, 3, end.start_time)
    everything = {one.job_id: one.state for one in await engine.engine.observe_all()}
    assert everything[held] is JobState.HELD
    assert everything[runs] is JobState.ACTIVE
    nameless = [replace(ref, native_id="") for ref in engine.refs([held, runs, ended, "unknown"])]
    assert {one.job_id: one.state for one in await engine.engine.observe(nameless)} == {
        held: JobState.HELD,
        runs: JobState.ACTIVE,
        ended: JobState.FAILED,
    }
    go.touch()
    await engine.engine.cancel(engine.refs([held]), JobReason.CANCELED_BY_OWNER)
    await engine.ends_of([held, runs])


async def test_output(engine: Driven) -> None:
    """It is read while the job writes it, and is gone when somebody removes it."""
    there = engine.directory()
    go, ready = there / "go", there / "ready"
    script = f"echo one; echo err >&2; touch {ready}; {waits_for(go, 'echo two')}"
    spec = shell(script, name="old", directory=str(there), stdout_path="o-%x")
    job_id = await engine.submit(replace(spec, hold=True))
    assert await engine.output(job_id) is None
    await engine.engine.update(engine.ref(job_id), EngineUpdate(name="new"), by_operator=False)
    given = engine.given[job_id]
    engine.given[job_id] = replace(given, spec=replace(given.spec, name="new"))
    await engine.engine.release(engine.refs([job_id]), by_operator=False)
    await until(ready.exists)
    await engine.saw(job_id, JobState.ACTIVE)
    assert await engine.output(job_id) == "one\n"
    assert await engine.output(job_id, OutputStream.STDERR) == "err\n"
    go.touch()
    await engine.end_of(job_id)
    assert await engine.output(job_id) == "one\ntwo\n"
    [file] = there.glob("o-*")
    file.unlink()
    with pytest.raises(FileNotFoundError):
        await engine.output(job_id)


async def test_engine_closed_and_opened(apart: Kind) -> None:
    """What runs, runs on; what ends meanwhile is told by the next engine, and so is what ends later."""
    first = await Driven(apart).start()
    there = first.directory()
    early, late = there / "early", there / "late"
    ends_meanwhile = await first.submit(shell(waits_for(early, "exit 8")))
    ends_later = await first.submit(shell(waits_for(late, f"touch {there}/done; exit 9")))
    held = await first.submit(shell("exit 10", hold=True))
    for job_id in (ends_meanwhile, ends_later):
        await first.saw(job_id, JobState.ACTIVE)
    await first.stop()
    early.write_text("")
    second = Driven(apart, given=first.given, natives=first.natives)
    await second.start()
    assert (await second.end_of(ends_meanwhile)).exit_code == 8
    await second.saw(ends_later, JobState.ACTIVE)
    late.write_text("")
    assert (await second.end_of(ends_later)).exit_code == 9
    await second.engine.release(second.refs([held]), by_operator=False)
    assert (await second.end_of(held)).exit_code == 10
    await second.stop()
    assert second.faults == []
