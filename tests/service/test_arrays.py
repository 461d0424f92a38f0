"""Arrays: one submission, many elements, one job that stands for all of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from openfacility.jobs.v1 import job_pb2 as pb
from openfacility.jobs.v1 import jobs_service_pb2 as rpc

from tests.support.calls import FINAL, Caller, refused


async def elements(caller: Caller, array_job_id: str) -> list[pb.Job]:
    """Returns an array's elements as they are."""
    page = await caller.list(rpc.JobFilter(array_job_id=array_job_id), page_size=1000)
    return list(page.jobs)


def counts(job: pb.Job) -> dict[str, int]:
    return {field.name: value for field, value in job.array_counts.ListFields()}


async def waits(caller: Caller, array_job_id: str, state: int, number: int) -> list[pb.Job]:
    """Returns when so many elements of an array have entered a state."""
    found: dict[str, pb.Job] = {}
    async with caller.watch(filter=rpc.JobFilter(array_job_id=array_job_id)) as watch:
        while len([job for job in found.values() if job.status.state == state]) < number:
            change = await watch.change()
            found[change.job.id] = change.job
    return list(found.values())


@pytest.mark.both_databases
async def test_an_array_has_an_element_for_each_index(alice: Caller) -> None:
    new = await alice.submit(
        "/bin/sh", "-c", "echo $OPENFACILITY_ARRAY_INDEX", array=pb.JobArray(first=2, last=9, step=3), name="a"
    )
    assert new.HasField("array_counts")
    assert counts(new) == {"total": 3, "waiting": 3}
    assert not new.HasField("array_index")
    job = await alice.wait(new.id)
    assert job.status.state == pb.JOB_STATE_COMPLETED
    assert counts(job) == {"total": 3, "completed": 3}
    states = [transition.state for transition in job.transitions]
    assert (states[0], states[-1]) == (pb.JOB_STATE_NEW, pb.JOB_STATE_COMPLETED)
    assert pb.JOB_STATE_ACTIVE in states
    times = [transition.time.ToNanoseconds() for transition in job.transitions]
    assert times == sorted(times)
    found = await elements(alice, job.id)
    assert [element.id for element in found] == [f"{job.id}_2", f"{job.id}_5", f"{job.id}_8"]
    assert [element.array_index for element in found] == [2, 5, 8]
    assert job.start_time.ToNanoseconds() >= min(element.start_time.ToNanoseconds() for element in found)
    for element in found:
        assert element.array_job_id == job.id
        assert element.HasField("array_index")
        assert not element.HasField("array_counts")
        assert element.owner == job.owner
        assert element.spec.name == "a"
        assert element.status.state == pb.JOB_STATE_COMPLETED
        assert await alice.get(element.id) == element


async def test_index_0_is_an_index(alice: Caller) -> None:
    job = await alice.run("/bin/true", array=pb.JobArray(first=0, last=0))
    element = await alice.get(f"{job.id}_0")
    assert element.HasField("array_index")
    assert element.array_index == 0


async def test_file_names_and_scripts_of_elements(alice: Caller, scratch: Path) -> None:
    job = await alice.run(
        script="#!/bin/sh\necho from $1\n",
        arguments=["x"],
        array=pb.JobArray(first=1, last=2),
        directory=str(scratch),
        stdout_path="%A-%a-%j.out",
    )
    assert job.status.state == pb.JOB_STATE_COMPLETED
    names = sorted(path.name for path in scratch.iterdir())  # noqa: ASYNC240 -- a test
    assert names == [f"{job.id}-{index}-{job.id}_{index}.out" for index in (1, 2)]
    assert (scratch / names[0]).read_text() == "from x\n"
    assert await alice.output_bytes(f"{job.id}_2") == b"from x\n"


async def test_elements_are_listed_only_when_asked_for(alice: Caller) -> None:
    job = await alice.run("/bin/true", array=pb.JobArray(first=0, last=3))
    assert await alice.list_ids() == [job.id]
    assert len(await elements(alice, job.id)) == 4
    named = await alice.list(rpc.JobFilter(job_ids=[f"{job.id}_1", job.id]))
    assert {found.id for found in named.jobs} == {job.id, f"{job.id}_1"}


async def test_failed_elements_fail_the_array(alice: Caller) -> None:
    script = '#!/bin/sh\ncase "$OPENFACILITY_JOB_ID" in *_1) exit 4;; esac\n'
    job = await alice.run(script=script, array=pb.JobArray(first=0, last=2))
    assert (job.status.state, job.status.reason) == (pb.JOB_STATE_FAILED, pb.JOB_REASON_ARRAY_ELEMENTS)
    assert counts(job) == {"total": 3, "completed": 2, "failed": 1}
    assert "1 of 3" in job.status.message
    failed = [element for element in await elements(alice, job.id) if element.status.state == pb.JOB_STATE_FAILED]
    assert [(element.id, element.status.exit_code) for element in failed] == [(f"{job.id}_1", 4)]


async def test_max_active_bounds_what_runs(alice: Caller) -> None:
    job = await alice.submit("/bin/sleep", "600", array=pb.JobArray(first=0, last=3, max_active=1))
    found = await waits(alice, job.id, pb.JOB_STATE_ACTIVE, 1)
    active = [element for element in found if element.status.state == pb.JOB_STATE_ACTIVE]
    assert len(active) == 1
    await alice.cancel(active[0].id)
    async with alice.watch(filter=rpc.JobFilter(array_job_id=job.id)) as watch:
        now: dict[str, int] = {}
        while True:
            change = await watch.change()
            now[change.job.id] = change.job.status.state
            running = [key for key, state in now.items() if state == pb.JOB_STATE_ACTIVE]
            assert len(running) <= 1, now
            if running and running != [active[0].id]:
                break
    # What waits says why.
    waiting = [element for element in await elements(alice, job.id) if element.status.state == pb.JOB_STATE_QUEUED]
    assert waiting
    assert {element.status.reason for element in waiting} <= {
        pb.JOB_REASON_ARRAY_LIMIT,
        pb.JOB_REASON_PRIORITY,
        pb.JOB_REASON_RESOURCES,
    }


async def test_cancel_ends_all_elements(alice: Caller) -> None:
    job = await alice.submit("/bin/sleep", "600", array=pb.JobArray(first=0, last=5))
    await waits(alice, job.id, pb.JOB_STATE_ACTIVE, 1)
    answer = await alice.cancel(job.id)
    assert answer.cancel_requested
    job = await alice.wait(job.id)
    assert (job.status.state, job.status.reason) == (pb.JOB_STATE_CANCELED, pb.JOB_REASON_ARRAY_ELEMENTS)
    assert counts(job) == {"total": 6, "canceled": 6}
    assert {element.status.state for element in await elements(alice, job.id)} == {pb.JOB_STATE_CANCELED}
    assert {element.status.reason for element in await elements(alice, job.id)} == {pb.JOB_REASON_CANCELED_BY_OWNER}


async def test_cancel_right_after_submission_ends_even_elements_never_made(alice: Caller) -> None:
    job = await alice.submit("/bin/sleep", "600", array=pb.JobArray(first=0, last=999))
    await alice.cancel(job.id)
    job = await alice.wait(job.id)
    assert job.status.state == pb.JOB_STATE_CANCELED
    assert counts(job) == {"total": 1000, "canceled": 1000}


async def test_one_element_is_canceled_alone(alice: Caller) -> None:
    job = await alice.submit("/bin/sleep", "600", array=pb.JobArray(first=0, last=1))
    await waits(alice, job.id, pb.JOB_STATE_ACTIVE, 2)
    await alice.cancel(f"{job.id}_0")
    assert (await alice.wait(f"{job.id}_0")).status.state == pb.JOB_STATE_CANCELED
    array = await alice.get(job.id)
    assert array.status.state == pb.JOB_STATE_ACTIVE
    assert counts(array) == {"total": 2, "active": 1, "canceled": 1}
    assert (await alice.get(f"{job.id}_1")).status.state == pb.JOB_STATE_ACTIVE


async def test_an_array_is_held_and_released_as_a_whole(alice: Caller) -> None:
    job = await alice.submit("/bin/true", array=pb.JobArray(first=0, last=2), hold=True)
    await waits(alice, job.id, pb.JOB_STATE_HELD, 3)
    held = await alice.wait(job.id, pb.JOB_STATE_HELD)
    assert held.status.reason == pb.JOB_REASON_HELD_BY_OWNER
    assert counts(held) == {"total": 3, "waiting": 3}
    released = await alice.release(job.id)
    assert released.status.state != pb.JOB_STATE_HELD
    done = await alice.wait(job.id)
    assert done.status.state == pb.JOB_STATE_COMPLETED
    assert counts(done) == {"total": 3, "completed": 3}


async def test_hold_of_an_array_holds_its_waiting_elements(alice: Caller) -> None:
    job = await alice.submit("/bin/sleep", "600", array=pb.JobArray(first=0, last=2, max_active=1))
    await waits(alice, job.id, pb.JOB_STATE_ACTIVE, 1)
    await waits(alice, job.id, pb.JOB_STATE_QUEUED, 2)
    await alice.hold(job.id)
    found = await waits(alice, job.id, pb.JOB_STATE_HELD, 2)
    assert sorted(element.status.state for element in found) == [
        pb.JOB_STATE_HELD,
        pb.JOB_STATE_HELD,
        pb.JOB_STATE_ACTIVE,
    ]
    await alice.release(job.id)
    await waits(alice, job.id, pb.JOB_STATE_QUEUED, 2)


async def test_one_element_is_released_alone(alice: Caller) -> None:
    job = await alice.submit("/bin/true", array=pb.JobArray(first=0, last=1), hold=True)
    await waits(alice, job.id, pb.JOB_STATE_HELD, 2)
    await alice.release(f"{job.id}_1")
    assert (await alice.wait(f"{job.id}_1")).status.state == pb.JOB_STATE_COMPLETED
    assert (await alice.get(f"{job.id}_0")).status.state == pb.JOB_STATE_HELD
    assert counts(await alice.get(job.id)) == {"total": 2, "waiting": 1, "completed": 1}


async def test_hold_after_all_elements_run_or_ended_is_refused(alice: Caller) -> None:
    job = await alice.submit("/bin/sleep", "600", array=pb.JobArray(first=0, last=1))
    await waits(alice, job.id, pb.JOB_STATE_ACTIVE, 2)
    with refused("FAILED_PRECONDITION", "JOB_STATE"):
        await alice.hold(job.id)
    await alice.cancel(job.id)
    await alice.wait(job.id)
    for act in (alice.hold, alice.release):
        with refused("FAILED_PRECONDITION", "JOB_STATE"):
            await act(job.id)


async def test_a_watch_of_an_array_ends_with_it(alice: Caller) -> None:
    job = await alice.submit("/bin/true", array=pb.JobArray(first=0, last=4))
    async with alice.watch(job_id=job.id) as watch:
        changes = await watch.end()
    assert {change.job.id for change in changes} == {job.id}
    last = changes[-1].job
    assert last.status.state in FINAL
    assert counts(last) == {"total": 5, "completed": 5}
    for change in changes:
        array = change.job.array_counts
        assert array.waiting + array.active + array.completed + array.failed + array.canceled == array.total == 5


@pytest.mark.both_databases
async def test_a_watch_of_elements_sees_every_one(alice: Caller) -> None:
    job = await alice.submit("/bin/true", array=pb.JobArray(first=0, last=9))
    ended: set[str] = set()
    async with alice.watch(filter=rpc.JobFilter(array_job_id=job.id)) as watch:
        while len(ended) < 10:
            change = await watch.change()
            if change.job.status.state in FINAL:
                ended.add(change.job.id)
    assert ended == {f"{job.id}_{index}" for index in range(10)}


async def test_elements_are_paged_by_index(alice: Caller) -> None:
    job = await alice.submit("/bin/true", array=pb.JobArray(first=0, last=24), hold=True)
    await waits(alice, job.id, pb.JOB_STATE_HELD, 25)
    filter_, found, token = rpc.JobFilter(array_job_id=job.id), [], ""
    while True:
        page = await alice.list(filter_, page_size=7, page_token=token)
        found += [element.array_index for element in page.jobs]
        token = page.next_page_token
        if not token:
            break
    assert found == list(range(25))


async def test_an_index_outside_of_the_array_is_not_found(alice: Caller) -> None:
    job = await alice.submit("/bin/true", array=pb.JobArray(first=0, last=4, step=2), hold=True)
    await waits(alice, job.id, pb.JOB_STATE_HELD, 3)
    for index in (1, 6, 99999999):
        with refused("NOT_FOUND", "NOT_FOUND"):
            await alice.get(f"{job.id}_{index}")


async def test_of_an_array_only_name_and_labels_change(alice: Caller) -> None:
    job = await alice.submit("/bin/true", array=pb.JobArray(first=0, last=1), hold=True)
    assert (await alice.update(job.id, ["spec.name"], name="renamed")).spec.name == "renamed"
    with refused("FAILED_PRECONDITION", "ARRAY_JOB"):
        await alice.update(job.id, ["spec.resources"], resources=pb.ResourceSpec(process_count=2))
