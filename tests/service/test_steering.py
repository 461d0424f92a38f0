"""Dependencies, hold and release, update, cancel."""

from __future__ import annotations

import asyncio
import signal

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from openfacility.jobs.v1 import job_pb2 as pb
from openfacility.jobs.v1 import jobs_service_pb2 as rpc

from tests.support.calls import FINAL, Caller, refused

AFTER = pb.JobDependency.CONDITION_AFTER
AFTER_OK = pb.JobDependency.CONDITION_AFTER_OK
AFTER_NOT_OK = pb.JobDependency.CONDITION_AFTER_NOT_OK
AFTER_ANY = pb.JobDependency.CONDITION_AFTER_ANY


def on(*pairs: tuple[pb.Job, pb.JobDependency.Condition]) -> list[pb.JobDependency]:
    return [pb.JobDependency(job_id=job.id, condition=condition) for job, condition in pairs]


# Dependencies.

HOW_IT_ENDS = {
    "completed": (["/bin/true"], False),
    "failed": (["/bin/false"], False),
    "canceled": (["/bin/sleep", "600"], True),
}
STARTS = {
    (AFTER, "completed"): True,
    (AFTER, "failed"): True,
    (AFTER, "canceled"): True,
    (AFTER_OK, "completed"): True,
    (AFTER_OK, "failed"): False,
    (AFTER_OK, "canceled"): False,
    (AFTER_NOT_OK, "completed"): False,
    (AFTER_NOT_OK, "failed"): True,
    (AFTER_NOT_OK, "canceled"): True,
    (AFTER_ANY, "completed"): True,
    (AFTER_ANY, "failed"): True,
    (AFTER_ANY, "canceled"): True,
}


@pytest.mark.parametrize("how", HOW_IT_ENDS)
async def test_dependencies_decide_by_how_the_other_job_ended(alice: Caller, how: str) -> None:
    argv, cancel = HOW_IT_ENDS[how]
    first = await alice.submit(*argv, hold=True)
    jobs = {
        condition: await alice.submit("/bin/true", dependencies=on((first, condition)))
        for condition in (AFTER, AFTER_OK, AFTER_NOT_OK, AFTER_ANY)
    }
    for job in jobs.values():
        async with alice.watch(job_id=job.id) as watch:
            waiting = await watch.until(lambda job: job.status.reason == pb.JOB_REASON_DEPENDENCY)
            assert waiting.status.state == pb.JOB_STATE_QUEUED
    _ = await alice.cancel(first.id) if cancel else await alice.release(first.id)
    for condition, job in jobs.items():
        ended = await alice.wait(job.id)
        if STARTS[condition, how]:
            assert ended.status.state == pb.JOB_STATE_COMPLETED, (condition, ended.status)
        else:
            expected = (pb.JOB_STATE_CANCELED, pb.JOB_REASON_DEPENDENCY_NEVER_SATISFIED)
            assert (ended.status.state, ended.status.reason) == expected
            assert not ended.HasField("start_time")


async def test_after_is_satisfied_by_the_start(alice: Caller) -> None:
    first = await alice.submit("/bin/sleep", "600")
    second = await alice.run("/bin/true", dependencies=on((first, AFTER)))
    assert second.status.state == pb.JOB_STATE_COMPLETED
    assert (await alice.get(first.id)).status.state == pb.JOB_STATE_ACTIVE


async def test_all_dependencies_must_hold(alice: Caller) -> None:
    good, bad = await alice.run("/bin/true"), await alice.submit("/bin/true", hold=True)
    job = await alice.submit("/bin/true", dependencies=on((good, AFTER_OK), (bad, AFTER_OK)))
    async with alice.watch(job_id=job.id) as watch:
        await watch.until(lambda job: job.status.reason == pb.JOB_REASON_DEPENDENCY)
    await alice.release(bad.id)
    ended = await alice.wait(job.id)
    assert ended.status.state == pb.JOB_STATE_COMPLETED
    assert ended.start_time.ToNanoseconds() >= (await alice.get(bad.id)).end_time.ToNanoseconds()


async def test_a_dependency_that_has_ended_already(alice: Caller) -> None:
    failed = await alice.run("/bin/false")
    assert (await alice.run("/bin/true", dependencies=on((failed, AFTER_NOT_OK)))).status.exit_code == 0
    never = await alice.run("/bin/true", dependencies=on((failed, AFTER_OK)))
    assert never.status.reason == pb.JOB_REASON_DEPENDENCY_NEVER_SATISFIED


async def test_an_array_counts_as_a_whole(alice: Caller) -> None:
    array = await alice.submit("/bin/true", array=pb.JobArray(first=0, last=2), hold=True)
    job = await alice.submit("/bin/true", dependencies=on((array, AFTER_OK)))
    for index in range(3):
        async with alice.watch(filter=rpc.JobFilter(job_ids=[f"{array.id}_{index}"])) as watch:
            await watch.until(lambda job: job.status.state == pb.JOB_STATE_HELD)
    await alice.release(f"{array.id}_0")
    await alice.wait(f"{array.id}_0")
    assert not (await alice.get(job.id)).HasField("start_time")
    await alice.release(array.id)
    ended = await alice.wait(job.id)
    assert ended.status.state == pb.JOB_STATE_COMPLETED
    assert ended.start_time.ToNanoseconds() >= (await alice.get(array.id)).end_time.ToNanoseconds()


async def test_dependency_on_one_element(alice: Caller) -> None:
    array = await alice.submit("/bin/true", array=pb.JobArray(first=0, last=1), hold=True)
    async with alice.watch(filter=rpc.JobFilter(job_ids=[f"{array.id}_1"])) as watch:
        await watch.until(lambda job: job.status.state == pb.JOB_STATE_HELD)
    one = [pb.JobDependency(job_id=f"{array.id}_1", condition=AFTER_OK)]
    job = await alice.submit("/bin/true", dependencies=one)
    await alice.release(f"{array.id}_1")
    assert (await alice.wait(job.id)).status.state == pb.JOB_STATE_COMPLETED


async def test_dependency_on_what_is_not_there(alice: Caller, bob: Caller) -> None:
    his = await bob.submit("/bin/true", hold=True)
    before = await alice.seen()
    for job_id in ("nosuchjob", his.id, f"{his.id}_1"):
        with refused("INVALID_ARGUMENT", "UNKNOWN_DEPENDENCY", "spec.dependencies[0].job_id"):
            await alice.submit("/bin/true", dependencies=[pb.JobDependency(job_id=job_id, condition=AFTER)])
    assert await alice.seen() == before


# Hold and release.


@pytest.mark.both_databases
async def test_hold_and_release_of_a_waiting_job(alice: Caller) -> None:
    first = await alice.submit("/bin/true", hold=True)
    job = await alice.submit("/bin/true", dependencies=on((first, AFTER_OK)))
    await alice.wait(job.id, pb.JOB_STATE_QUEUED)
    held = await alice.hold(job.id)
    assert (held.status.state, held.status.reason) == (pb.JOB_STATE_HELD, pb.JOB_REASON_HELD_BY_OWNER)
    await alice.release(first.id)
    await alice.wait(first.id)
    assert (await alice.get(job.id)).status.state == pb.JOB_STATE_HELD
    released = await alice.release(job.id)
    assert released.status.state != pb.JOB_STATE_HELD
    ended = await alice.wait(job.id)
    assert ended.status.state == pb.JOB_STATE_COMPLETED
    states = [transition.state for transition in ended.transitions]
    assert states.count(pb.JOB_STATE_HELD) == 1
    assert states[-2:] == [pb.JOB_STATE_ACTIVE, pb.JOB_STATE_COMPLETED]


async def test_hold_right_after_submission_holds_or_says_that_it_is_too_late(alice: Caller) -> None:
    jobs = [await alice.submit("/bin/sleep", "600") for _ in range(8)]
    for job in jobs:
        try:
            answer = await alice.hold(job.id)
        except grpc.aio.AioRpcError as error:
            assert error.code() is grpc.StatusCode.FAILED_PRECONDITION  # noqa: PT017
            assert (await alice.get(job.id)).HasField("start_time")
        else:
            assert answer.status.state == pb.JOB_STATE_HELD
            assert not answer.HasField("start_time")
    # What is held stays so when there is room.
    held = [job.id for job in (await alice.list(alice.mine(states=[pb.JOB_STATE_HELD]))).jobs]
    running = await alice.list_ids(states=[pb.JOB_STATE_ACTIVE])
    await asyncio.gather(*(alice.cancel(job_id) for job_id in running))
    await alice.wait_all(running)
    assert held == await alice.list_ids(states=[pb.JOB_STATE_HELD])


async def test_release_right_after_submission(alice: Caller) -> None:
    jobs = [await alice.submit("/bin/true", hold=True) for _ in range(8)]
    await asyncio.gather(*(alice.release(job.id) for job in jobs))
    ended = await alice.wait_all(job.id for job in jobs)
    assert {job.status.state for job in ended.values()} == {pb.JOB_STATE_COMPLETED}


async def test_update_right_after_submission(alice: Caller) -> None:
    limit = pb.JobAttributes(duration=Duration(seconds=1))
    job = await alice.submit("/bin/sleep", "600")
    await alice.update(job.id, ["spec.attributes.duration"], attributes=limit)
    assert (await alice.wait(job.id)).status.reason == pb.JOB_REASON_TIME_LIMIT


async def test_holding_a_held_job_changes_nothing(alice: Caller) -> None:
    job = await alice.submit("/bin/true", hold=True)
    held = await alice.wait(job.id, pb.JOB_STATE_HELD)
    before = await alice.seen()
    assert await alice.hold(job.id) == held
    assert await alice.seen() == before


async def test_releasing_a_waiting_job_changes_nothing(alice: Caller) -> None:
    first = await alice.submit("/bin/true", hold=True)
    job = await alice.submit("/bin/true", dependencies=on((first, AFTER_OK)))
    async with alice.watch(job_id=job.id) as watch:
        waiting = await watch.until(lambda job: job.status.reason == pb.JOB_REASON_DEPENDENCY)
    assert await alice.release(job.id) == waiting
    assert await alice.get(job.id) == waiting


@pytest.mark.both_databases
async def test_a_running_or_ended_job_is_neither_held_nor_released(alice: Caller) -> None:
    job = await alice.submit("/bin/sleep", "600")
    await alice.wait(job.id, pb.JOB_STATE_ACTIVE)
    for act in (alice.hold, alice.release):
        with refused("FAILED_PRECONDITION", "JOB_STATE") as error:
            await act(job.id)
        assert error.metadata["state"] == "ACTIVE"
    await alice.cancel(job.id)
    ended = await alice.wait(job.id)
    for act in (alice.hold, alice.release):
        with refused("FAILED_PRECONDITION", "JOB_STATE"):
            await act(job.id)
    assert await alice.get(job.id) == ended


async def test_what_an_operator_holds_only_an_operator_releases(alice: Caller, olga: Caller) -> None:
    first = await alice.submit("/bin/true", hold=True)
    job = await alice.submit("/bin/true", dependencies=on((first, AFTER_OK)))
    await alice.wait(job.id, pb.JOB_STATE_QUEUED)
    held = await olga.hold(job.id)
    assert (held.status.state, held.status.reason) == (pb.JOB_STATE_HELD, pb.JOB_REASON_HELD_BY_OPERATOR)
    with refused("PERMISSION_DENIED", "HELD_BY_OPERATOR"):
        await alice.release(job.id)
    assert await alice.get(job.id) == held
    assert (await alice.hold(job.id)).status.reason == pb.JOB_REASON_HELD_BY_OPERATOR
    with refused("PERMISSION_DENIED", "HELD_BY_OPERATOR"):
        await alice.release(job.id)
    await alice.release(first.id)
    await olga.release(job.id)
    assert (await alice.wait(job.id)).status.state == pb.JOB_STATE_COMPLETED


async def test_an_operators_hold_takes_over_from_the_owners(alice: Caller, olga: Caller) -> None:
    job = await alice.submit("/bin/true", hold=True)
    await alice.wait(job.id, pb.JOB_STATE_HELD)
    assert (await olga.hold(job.id)).status.reason == pb.JOB_REASON_HELD_BY_OPERATOR
    with refused("PERMISSION_DENIED", "HELD_BY_OPERATOR"):
        await alice.release(job.id)
    await olga.release(job.id)
    assert (await alice.wait(job.id)).status.state == pb.JOB_STATE_COMPLETED


async def test_an_owner_cannot_free_an_element_by_way_of_its_array(alice: Caller, olga: Caller) -> None:
    job = await alice.submit("/bin/true", hold=True, array=pb.JobArray(first=0, last=1))
    await alice.wait(job.id, pb.JOB_STATE_HELD)
    await alice.wait(f"{job.id}_1", pb.JOB_STATE_HELD)
    assert (await olga.hold(f"{job.id}_1")).status.reason == pb.JOB_REASON_HELD_BY_OPERATOR
    await alice.release(job.id)
    await alice.wait(f"{job.id}_0", pb.JOB_STATE_COMPLETED)
    held = await alice.get(f"{job.id}_1")
    assert (held.status.state, held.status.reason) == (pb.JOB_STATE_HELD, pb.JOB_REASON_HELD_BY_OPERATOR)
    await olga.release(f"{job.id}_1")
    assert (await alice.wait(job.id)).status.state == pb.JOB_STATE_COMPLETED


async def test_an_array_that_an_operator_holds(alice: Caller, olga: Caller) -> None:
    first = await alice.submit("/bin/true", hold=True)
    job = await alice.submit("/bin/true", array=pb.JobArray(first=0, last=2), dependencies=on((first, AFTER_OK)))
    async with alice.watch(filter=rpc.JobFilter(array_job_id=job.id)) as watch:
        waiting: set[str] = set()
        while len(waiting) < 3:
            change = await watch.change()
            if change.job.status.state == pb.JOB_STATE_QUEUED:
                waiting.add(change.job.id)
    held = await olga.hold(job.id)
    assert (held.status.state, held.status.reason) == (pb.JOB_STATE_HELD, pb.JOB_REASON_HELD_BY_OPERATOR)
    for job_id in (job.id, f"{job.id}_1"):
        with refused("PERMISSION_DENIED", "HELD_BY_OPERATOR"):
            await alice.release(job_id)
    elements = [await alice.get(f"{job.id}_{index}") for index in range(3)]
    assert {element.status.state for element in elements} == {pb.JOB_STATE_HELD}
    assert {element.status.reason for element in elements} == {pb.JOB_REASON_HELD_BY_OPERATOR}
    await alice.release(first.id)
    await olga.release(job.id)
    assert (await alice.wait(job.id)).status.state == pb.JOB_STATE_COMPLETED


async def test_an_operator_may_release_what_its_owner_holds(alice: Caller, olga: Caller) -> None:
    job = await alice.submit("/bin/true", hold=True)
    await alice.wait(job.id, pb.JOB_STATE_HELD)
    await olga.release(job.id)
    assert (await alice.wait(job.id)).status.state == pb.JOB_STATE_COMPLETED


# Update.


@pytest.mark.both_databases
async def test_update_changes_what_the_mask_names(alice: Caller) -> None:
    job = await alice.submit("/bin/true", hold=True, name="old", labels={"a": "1"})
    job = await alice.wait(job.id, pb.JOB_STATE_HELD)
    changed = await alice.update(job.id, ["spec.name"], name="new", labels={"b": "2"})
    assert changed.spec.name == "new"
    assert changed.spec.labels == job.spec.labels
    assert changed.etag != job.etag
    assert changed.revision > job.revision
    assert changed.update_time.ToNanoseconds() >= job.update_time.ToNanoseconds()
    assert await alice.get(job.id) == changed


async def test_every_path_that_may_change(alice: Caller) -> None:
    job = await alice.submit("/bin/true", hold=True, name="old")
    await alice.wait(job.id, pb.JOB_STATE_HELD)
    attributes = pb.JobAttributes(duration=Duration(seconds=90), account="chemistry", queue_name="default")
    resources = pb.ResourceSpec(process_count=2, memory=1 << 26)
    labels = {"test": alice.label, "x": "y"}
    changed = await alice.update(
        job.id,
        [
            "spec.name",
            "spec.labels",
            "spec.resources",
            "spec.attributes.duration",
            "spec.attributes.account",
            "spec.attributes.queue_name",
        ],
        name="new",
        labels=labels,
        resources=resources,
        attributes=attributes,
    )
    expected = pb.JobSpec()
    expected.CopyFrom(job.spec)
    expected.name = "new"
    expected.resources.CopyFrom(resources)
    expected.attributes.CopyFrom(attributes)
    expected.labels.clear()
    expected.labels.update(labels)
    assert changed.spec == expected
    assert await alice.list_ids(labels=["x=y"]) == [job.id]
    assert job.id in await alice.list_ids(project_ids=["chemistry"])
    assert await alice.list_ids(name="new") == [job.id]
    await alice.release(job.id)
    assert (await alice.wait(job.id)).status.state == pb.JOB_STATE_COMPLETED


async def test_a_masked_field_that_is_not_set_is_cleared(alice: Caller) -> None:
    job = await alice.submit(
        "/bin/true", hold=True, name="old", attributes=pb.JobAttributes(duration=Duration(seconds=60))
    )
    await alice.wait(job.id, pb.JOB_STATE_HELD)
    changed = await alice.update(job.id, ["spec.name", "spec.attributes.duration", "spec.labels"])
    assert changed.spec.name == ""
    assert not changed.spec.attributes.HasField("duration")
    assert not changed.spec.labels


async def test_without_a_mask_the_fields_that_are_set_change(alice: Caller) -> None:
    job = await alice.submit("/bin/true", hold=True, name="old", attributes=pb.JobAttributes(account="a"))
    await alice.wait(job.id, pb.JOB_STATE_HELD)
    changed = await alice.update(job.id, name="new", attributes=pb.JobAttributes(duration=Duration(seconds=60)))
    assert changed.spec.name == "new"
    assert changed.spec.attributes.duration.seconds == 60
    assert changed.spec.attributes.account == "a"
    assert changed.spec.labels == job.spec.labels


async def test_without_a_mask_a_field_that_never_changes_is_refused(alice: Caller) -> None:
    job = await alice.submit("/bin/true", hold=True)
    held = await alice.wait(job.id, pb.JOB_STATE_HELD)
    with refused("INVALID_ARGUMENT", field="update_mask"):
        await alice.update(job.id, executable="/bin/false", name="x")
    assert await alice.get(job.id) == held


@pytest.mark.parametrize(
    "path",
    ["spec.executable", "spec.arguments", "spec.nonsense", "nonsense", "spec", "", "spec.hold", "*", "spec.name.x"],
)
async def test_a_path_that_is_unknown_or_never_changes_is_refused(alice: Caller, path: str) -> None:
    job = await alice.submit("/bin/true", hold=True)
    held = await alice.wait(job.id, pb.JOB_STATE_HELD)
    with refused("INVALID_ARGUMENT", field="update_mask") as error:
        await alice.update(job.id, ["spec.name", path], name="x", executable="/bin/false")
    assert "spec.name" in error.descriptions[0]
    assert await alice.get(job.id) == held


async def test_output_fields_in_the_mask_are_ignored(alice: Caller) -> None:
    job = await alice.submit("/bin/true", hold=True)
    held = await alice.wait(job.id, pb.JOB_STATE_HELD)
    request = rpc.UpdateJobRequest(
        job=pb.Job(id=job.id, owner="mallory", status=pb.JobStatus(state=pb.JOB_STATE_COMPLETED), etag="x", revision=1)
    )
    request.update_mask.paths.extend(["owner", "status", "status.state", "id", "etag", "revision", "create_time"])
    assert await alice.call("UpdateJob", request) == held
    request.update_mask.paths.append("spec.name")
    request.job.spec.name = "new"
    changed = await alice.call("UpdateJob", request)
    assert (changed.owner, changed.status, changed.spec.name) == (held.owner, held.status, "new")


async def test_a_mask_of_too_many_paths_is_refused(alice: Caller) -> None:
    job = await alice.submit("/bin/true", hold=True)
    with refused("INVALID_ARGUMENT", field="update_mask"):
        await alice.update(job.id, [f"owner.x{number}" for number in range(33)])


async def test_an_update_that_changes_nothing_makes_no_change(alice: Caller) -> None:
    job = await alice.submit("/bin/true", hold=True, name="same")
    held = await alice.wait(job.id, pb.JOB_STATE_HELD)
    before = await alice.seen()
    assert await alice.update(job.id, ["spec.name"], name="same") == held
    assert await alice.seen() == before


@pytest.mark.parametrize("where", ["no job", "no id", "malformed id"])
async def test_an_update_names_its_job(alice: Caller, where: str) -> None:
    request = {
        "no job": rpc.UpdateJobRequest(),
        "no id": rpc.UpdateJobRequest(job=pb.Job(spec=pb.JobSpec(name="x"))),
        "malformed id": rpc.UpdateJobRequest(job=pb.Job(id="No/Such", spec=pb.JobSpec(name="x"))),
    }[where]
    code = "NOT_FOUND" if where == "malformed id" else "INVALID_ARGUMENT"
    with refused(code) as error:
        await alice.call("UpdateJob", request)
    if code == "INVALID_ARGUMENT":
        assert error.fields in (["job"], ["job.id"])


async def test_values_are_held_to_the_rules_of_submission(alice: Caller) -> None:
    job = await alice.submit("/bin/true", hold=True)
    held = await alice.wait(job.id, pb.JOB_STATE_HELD)
    with refused("INVALID_ARGUMENT", "INVALID_FIELD", "job.spec.name"):
        await alice.update(job.id, ["spec.name"], name="a\nb")
    with refused("INVALID_ARGUMENT", "INVALID_FIELD", "job.spec.attributes.duration"):
        await alice.update(
            job.id, ["spec.attributes.duration"], attributes=pb.JobAttributes(duration=Duration(seconds=-5))
        )
    with refused("INVALID_ARGUMENT", field="job.spec.resources.process_count"):
        await alice.update(job.id, ["spec.resources"], resources=pb.ResourceSpec(process_count=100_000))
    with refused("INVALID_ARGUMENT", field="job.spec.attributes.queue_name"):
        await alice.update(
            job.id, ["spec.attributes.queue_name"], attributes=pb.JobAttributes(queue_name="no-such-queue")
        )
    assert await alice.get(job.id) == held


@pytest.mark.both_databases
async def test_a_stale_etag_loses_and_learns_the_current_one(alice: Caller) -> None:
    job = await alice.submit("/bin/true", hold=True)
    first = await alice.wait(job.id, pb.JOB_STATE_HELD)
    second = await alice.update(job.id, ["spec.name"], name="one", etag=first.etag)
    with refused("ABORTED", "ETAG_MISMATCH") as error:
        await alice.update(job.id, ["spec.name"], name="two", etag=first.etag)
    assert error.metadata["etag"] == second.etag
    assert await alice.get(job.id) == second


async def test_of_many_with_one_etag_one_wins(alice: Caller) -> None:
    job = await alice.submit("/bin/true", hold=True)
    held = await alice.wait(job.id, pb.JOB_STATE_HELD)
    results = await asyncio.gather(
        *(alice.update(job.id, ["spec.name"], name=f"n{number}", etag=held.etag) for number in range(10)),
        return_exceptions=True,
    )
    won = [result for result in results if isinstance(result, pb.Job)]
    assert len(won) == 1
    assert {result.code().name for result in results if isinstance(result, grpc.aio.AioRpcError)} == {"ABORTED"}
    assert await alice.get(job.id) == won[0]


async def test_what_may_change_while_a_job_runs(alice: Caller) -> None:
    job = await alice.submit("/bin/sleep", "600")
    running = await alice.wait(job.id, pb.JOB_STATE_ACTIVE)
    assert (await alice.update(job.id, ["spec.name"], name="new")).spec.name == "new"
    for path, fields in {
        "spec.resources": {"resources": pb.ResourceSpec(process_count=2)},
        "spec.attributes.account": {"attributes": pb.JobAttributes(account="x")},
        "spec.attributes.queue_name": {"attributes": pb.JobAttributes(queue_name="default")},
    }.items():
        with refused("FAILED_PRECONDITION", "JOB_STATE") as error:
            await alice.update(job.id, [path], **fields)
        assert path in error.message
    assert (await alice.get(job.id)).spec.attributes == running.spec.attributes
    # A new time limit counts from the start, so this one is over already or soon.
    limit = pb.JobAttributes(duration=Duration(seconds=1))
    changed = await alice.update(job.id, ["spec.attributes.duration"], attributes=limit)
    assert changed.spec.attributes.duration.seconds == 1
    ended = await alice.wait(job.id)
    assert (ended.status.state, ended.status.reason) == (pb.JOB_STATE_FAILED, pb.JOB_REASON_TIME_LIMIT)


async def test_what_may_change_after_the_end(alice: Caller) -> None:
    job = await alice.run("/bin/true")
    labels = {"test": alice.label, "kept": "yes"}
    changed = await alice.update(job.id, ["spec.name", "spec.labels"], name="late", labels=labels)
    assert (changed.spec.name, dict(changed.spec.labels)) == ("late", labels)
    assert changed.status == job.status
    assert changed.end_time == job.end_time
    with refused("FAILED_PRECONDITION", "JOB_STATE"):
        await alice.update(
            job.id, ["spec.attributes.duration"], attributes=pb.JobAttributes(duration=Duration(seconds=5))
        )


# Cancel.


@pytest.mark.both_databases
async def test_cancel_of_a_held_job(alice: Caller) -> None:
    job = await alice.submit("/bin/true", hold=True)
    await alice.wait(job.id, pb.JOB_STATE_HELD)
    answer = await alice.cancel(job.id)
    assert answer.cancel_requested
    ended = await alice.wait(job.id)
    assert (ended.status.state, ended.status.reason) == (pb.JOB_STATE_CANCELED, pb.JOB_REASON_CANCELED_BY_OWNER)
    assert not ended.HasField("start_time")
    assert ended.HasField("end_time")


async def test_cancel_right_after_submission(alice: Caller) -> None:
    jobs = [await alice.submit("/bin/sleep", "600") for _ in range(10)]
    for job in jobs:
        assert (await alice.cancel(job.id)).cancel_requested
    ended = await alice.wait_all(job.id for job in jobs)
    assert {job.status.state for job in ended.values()} == {pb.JOB_STATE_CANCELED}
    assert {job.status.reason for job in ended.values()} == {pb.JOB_REASON_CANCELED_BY_OWNER}


@pytest.mark.both_databases
async def test_cancel_of_a_running_job_ends_all_its_processes(alice: Caller) -> None:
    job = await alice.submit("/bin/sh", "-c", "sleep 600 & echo $!; wait")
    async with alice.watch(job_id=job.id) as watch:
        await watch.until(lambda job: job.status.state == pb.JOB_STATE_ACTIVE)
        child = b""
        pieces = alice.call("ReadJobOutput", rpc.ReadJobOutputRequest(job_id=job.id, follow=True))
        async for piece in pieces:
            child += piece.data
            if child.endswith(b"\n"):
                break
        pieces.cancel()
        answer = await alice.cancel(job.id)
        assert answer.cancel_requested
        ended = await watch.until(lambda job: job.status.state in FINAL)
    assert (ended.status.state, ended.status.reason) == (pb.JOB_STATE_CANCELED, pb.JOB_REASON_CANCELED_BY_OWNER)
    assert int(child) > 1
    # Another job of the same user looks whether the process is there.
    look = await alice.run(
        "/bin/sh", "-c", f"grep -q sleep /proc/{int(child)}/comm && ! grep -q 'State:.Z' /proc/{int(child)}/status"
    )
    assert look.status.exit_code != 0


async def test_a_job_that_ignores_the_signal_is_killed(alice: Caller) -> None:
    job = await alice.submit("/bin/sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.1; done")
    pieces = alice.call("ReadJobOutput", rpc.ReadJobOutputRequest(job_id=job.id, follow=True))
    async for piece in pieces:
        if b"ready" in piece.data:
            break
    pieces.cancel()
    await alice.cancel(job.id)
    ended = await alice.wait(job.id)
    assert ended.status.state == pb.JOB_STATE_CANCELED
    assert not ended.status.HasField("signal") or ended.status.signal == signal.SIGKILL


async def test_cancel_twice(alice: Caller) -> None:
    job = await alice.submit("/bin/sleep", "600")
    first = await alice.cancel(job.id)
    second = await alice.cancel(job.id)
    assert first.cancel_requested
    assert second.cancel_requested
    ended = await alice.wait(job.id)
    before = await alice.seen()
    assert await alice.cancel(job.id) == ended
    assert await alice.seen() == before


@pytest.mark.parametrize("argv", [["/bin/true"], ["/bin/false"]], ids=["completed", "failed"])
async def test_cancel_of_a_job_that_ended_otherwise_is_refused(alice: Caller, argv: list[str]) -> None:
    job = await alice.run(*argv)
    before = await alice.seen()
    with refused("FAILED_PRECONDITION", "JOB_STATE") as error:
        await alice.cancel(job.id)
    assert error.metadata["state"] in {"COMPLETED", "FAILED"}
    assert await alice.seen() == before


async def test_cancel_by_an_operator_says_so(alice: Caller, olga: Caller) -> None:
    job = await alice.submit("/bin/sleep", "600")
    await alice.wait(job.id, pb.JOB_STATE_ACTIVE)
    await olga.cancel(job.id)
    ended = await alice.wait(job.id)
    assert (ended.status.state, ended.status.reason) == (pb.JOB_STATE_CANCELED, pb.JOB_REASON_CANCELED_BY_OPERATOR)


@pytest.mark.both_databases
async def test_cancel_of_all_that_match(alice: Caller) -> None:
    held = await alice.submit("/bin/true", hold=True, labels={"group": "a"})
    running = await alice.submit("/bin/sleep", "600", labels={"group": "a"})
    other = await alice.submit("/bin/sleep", "600", labels={"group": "b"})
    done = await alice.run("/bin/true", labels={"group": "a"})
    await alice.wait(running.id, pb.JOB_STATE_ACTIVE)
    await alice.wait(other.id, pb.JOB_STATE_ACTIVE)
    assert sorted(await alice.cancel_matching(alice.mine(labels=["group=a"]))) == sorted([held.id, running.id])
    ended = await alice.wait_all([held.id, running.id])
    assert {job.status.state for job in ended.values()} == {pb.JOB_STATE_CANCELED}
    assert (await alice.get(other.id)).status.state == pb.JOB_STATE_ACTIVE
    assert await alice.get(done.id) == done
    # Nothing is left that matches.
    assert await alice.cancel_matching(alice.mine(labels=["group=a"])) == []


async def test_cancel_of_an_arrays_elements_that_match(alice: Caller) -> None:
    job = await alice.submit("/bin/sleep", "600", array=pb.JobArray(first=0, last=3))
    async with alice.watch(filter=rpc.JobFilter(array_job_id=job.id)) as watch:
        while len({change.job.id for change in watch.changes}) < 4:
            await watch.next()
    ids = await alice.cancel_matching(rpc.JobFilter(array_job_id=job.id))
    assert sorted(ids) == [f"{job.id}_{index}" for index in range(4)]
    ended = await alice.wait(job.id)
    assert ended.array_counts.canceled == 4


@pytest.mark.parametrize("request_", [rpc.CancelJobsRequest(), rpc.CancelJobsRequest(filter=rpc.JobFilter())])
async def test_cancel_without_a_condition_is_refused(alice: Caller, request_: rpc.CancelJobsRequest) -> None:
    job = await alice.submit("/bin/true", hold=True)
    held = await alice.wait(job.id, pb.JOB_STATE_HELD)
    with refused("INVALID_ARGUMENT", field="filter"):
        await alice.call("CancelJobs", request_)
    assert await alice.get(job.id) == held


async def test_cancel_of_matching_jobs_spares_those_of_others(alice: Caller, bob: Caller) -> None:
    his = await bob.submit("/bin/true", hold=True, labels={"shared": alice.label})
    held = await bob.wait(his.id, pb.JOB_STATE_HELD)
    mine = await alice.submit("/bin/true", hold=True, labels={"shared": alice.label})
    filters = [
        rpc.JobFilter(labels=[f"shared={alice.label}"]),
        rpc.JobFilter(job_ids=[his.id]),
        rpc.JobFilter(owners=[his.owner]),
    ]
    asked = [await alice.cancel_matching(filter_) for filter_ in filters]
    assert asked == [[mine.id], [], []]
    assert await bob.get(his.id) == held


async def test_an_operator_cancels_everyones(alice: Caller, bob: Caller, olga: Caller) -> None:
    label = f"shared={alice.label}"
    jobs = [await caller.submit("/bin/true", hold=True, labels={"shared": alice.label}) for caller in (alice, bob)]
    assert sorted(await olga.cancel_matching(rpc.JobFilter(labels=[label]))) == sorted(job.id for job in jobs)
    for caller, job in zip((alice, bob), jobs, strict=True):
        assert (await caller.wait(job.id)).status.reason == pb.JOB_REASON_CANCELED_BY_OPERATOR
