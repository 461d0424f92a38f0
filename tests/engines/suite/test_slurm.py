"""What only a batch system with several users can show, on a real Slurm both ways."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from openfacility_server.jobs.engines import EngineError, EngineUpdate, JobRef, Observation
from openfacility_server.jobs.model import JobArray, JobAttributes, JobReason, JobSpec, JobState, ResourceSpec

from tests.engines.local_harness import new_id, shell, until, waits_for
from tests.engines.slurm import SlurmCluster
from tests.engines.suite.conftest import SLURM_KINDS, slurm_kind
from tests.engines.suite.driven import Driven, Kind

pytestmark = [pytest.mark.slurm, pytest.mark.parametrize("kind", SLURM_KINDS, indirect=True, scope="session")]

AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="jobs of several users need root")


def of_queue(cluster: SlurmCluster, job_id: str, form: str) -> str:
    """What Slurm itself says of a job."""
    return cluster.run("squeue", "-h", "-t", "all", "-j", job_id, "-o", form).stdout.strip()


def custom(**values: str) -> JobAttributes:
    return JobAttributes(custom_attributes={f"slurm.{name.replace('_', '-')}": value for name, value in values.items()})


# What is handed over


async def test_what_slurm_is_told(engine: Driven, wide_slurm: SlurmCluster) -> None:
    attributes = JobAttributes(duration=timedelta(seconds=61), queue_name="regular", account="chemistry")
    resources = ResourceSpec(node_count=2, processes_per_node=3, cpu_cores_per_process=2, memory=700_000_001)
    attributes = replace(attributes, custom_attributes={"slurm.qos": "premium", "slurm.begin": "now+1hour"})
    job_id = await engine.submit(shell("true", name="na me", attributes=attributes, resources=resources))
    told = of_queue(wide_slurm, engine.natives[job_id], "%j|%P|%a|%q|%l|%D|%C|%m|%k|%u")
    assert told == f"na me|regular|chemistry|premium|2:00|2|12|668M|openfacility:{job_id}|{engine.kind.account}"
    seen = await engine.saw(job_id, JobState.QUEUED, JobReason.BEGIN_TIME)
    assert seen.expected_start is not None
    assert timedelta(minutes=50) < seen.expected_start - datetime.now(UTC) < timedelta(minutes=70)
    assert seen.engine_reason == "BeginTime"
    assert seen.message.endswith(".")
    assert seen.owner == engine.kind.owner
    await engine.engine.cancel(engine.refs([job_id]), JobReason.CANCELED_BY_OWNER)
    await engine.end_of(job_id)


async def test_nodes_and_usage(engine: Driven) -> None:
    work = "import time\nwhile time.process_time() < 0.5: pass\ntime.sleep(1)"
    job_id = await engine.submit(JobSpec(executable="python3", arguments=("-c", work)))
    seen = await engine.saw(job_id, JobState.ACTIVE)
    assert seen.nodes == "n1"
    end = await engine.end_of(job_id)
    assert end.nodes == "n1"

    def used() -> bool:
        usage = engine.of(job_id)[-1].usage
        return usage is not None and usage.cpu_time > timedelta(seconds=0.4)

    await until(used)
    usage = engine.of(job_id)[-1].usage
    assert usage is not None
    assert timedelta(seconds=1) <= usage.elapsed < timedelta(minutes=1)


REFUSED = {
    "no such account": (JobAttributes(account="no-such"), "BAD_ACCOUNT", "attributes.account"),
    "no such qos": (custom(qos="no-such"), "BAD_QOS", 'attributes.custom_attributes["slurm.qos"]'),
    "beyond the qos": (
        replace(custom(qos="debug"), duration=timedelta(hours=2), queue_name="regular"),
        "OVER_LIMIT",
        "",
    ),
    "no such node": (custom(nodelist="n99"), "BAD_NODES", 'attributes.custom_attributes["slurm.nodelist"]'),
    "no such feature": (custom(constraint="no-such"), "BAD_CONSTRAINT", ""),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_refusal(engine: Driven, name: str) -> None:
    attributes, reason, field = REFUSED[name]
    refusal = await engine.refusal(shell("true", attributes=attributes))
    assert refusal.reason == reason, refusal
    assert refusal.field.startswith(field)
    assert refusal.message.endswith(".")
    assert refusal.engine_message


@AS_ROOT
async def test_a_project_of_others(engine: Driven) -> None:
    spec = shell("true", attributes=JobAttributes(account="secret"))
    assert (await engine.refusal(spec)).reason == "BAD_ACCOUNT"
    assert (await engine.run(spec, owner="bob")).state is JobState.COMPLETED


@AS_ROOT
@pytest.mark.parametrize("owner", ["nobody-of-that-name", "root", "daemon", "-v", "of-alice;id", ""])
async def test_no_account_to_run_as(engine: Driven, owner: str) -> None:
    assert (await engine.refusal(shell("id"), owner=owner)).reason == "NO_POSIX_ACCOUNT"


async def test_an_allocation_that_does_not_suffice(engine: Driven) -> None:
    attributes = JobAttributes(account="tiny", duration=timedelta(minutes=5))
    job_id = await engine.submit(shell("true", attributes=attributes))
    seen = await engine.saw(job_id, JobState.QUEUED, JobReason.ALLOCATION_EXHAUSTED)
    assert seen.engine_reason == "AssocGrpCPUMinutesLimit"
    assert seen.message.endswith(".")
    await engine.engine.cancel(engine.refs([job_id]), JobReason.CANCELED_BY_OWNER)
    await engine.end_of(job_id)


# Steering


async def test_update_that_takes_effect_in_part(engine: Driven, wide_slurm: SlurmCluster) -> None:
    """What the refusal says of it is true."""
    go = engine.directory() / "go"
    job_id = await engine.submit(
        shell(waits_for(go), name="old", attributes=JobAttributes(duration=timedelta(minutes=20)))
    )
    native = engine.natives[job_id]
    await engine.saw(job_id, JobState.ACTIVE)
    update = EngineUpdate(name="new", duration=timedelta(minutes=9), queue_name="regular")
    with pytest.raises(EngineError) as refused:
        await engine.engine.update(engine.ref(job_id), update, by_operator=False)
    name, limit, queue = of_queue(wide_slurm, native, "%j|%l|%P").split("|")
    assert queue == "debug"
    effect = {"spec.name": name == "new", "spec.attributes.duration": limit == "9:00"}
    assert set(refused.value.applied) == {path for path, applied in effect.items() if applied}
    await engine.engine.update(engine.ref(job_id), EngineUpdate(duration=timedelta(minutes=8)), by_operator=False)
    assert of_queue(wide_slurm, native, "%l") == "8:00"
    go.touch()
    await engine.end_of(job_id)


@AS_ROOT
async def test_longer_than_the_queue_allows(engine: Driven) -> None:
    """Only an operator may go beyond."""
    go = engine.directory() / "go"
    job_id = await engine.submit(shell(waits_for(go)))
    await engine.saw(job_id, JobState.ACTIVE)
    update = EngineUpdate(duration=timedelta(hours=9))
    with pytest.raises(EngineError) as refused:
        await engine.engine.update(engine.ref(job_id), update, by_operator=False)
    assert refused.value.refusal.engine_message
    await engine.engine.update(engine.ref(job_id), update, by_operator=True)
    go.touch()
    await engine.end_of(job_id)


@AS_ROOT
async def test_somebody_elses_job(engine: Driven) -> None:
    """A reference that names another's job steers nothing, whatever number it gives."""
    go = engine.directory() / "go"
    job_id = await engine.submit(shell(waits_for(go)), owner="bob")
    await engine.saw(job_id, JobState.ACTIVE)
    forged = replace(engine.ref(job_id), owner="alice")
    for mine in (forged, replace(forged, id=new_id())):
        await _steer_all_ways(engine, mine)
    assert [one.job_id for one in await engine.engine.observe([forged])] in ([], [job_id])
    assert (await engine.engine.observe([engine.ref(job_id)]))[0].state is JobState.ACTIVE
    go.touch()
    assert (await engine.end_of(job_id)).state is JobState.COMPLETED


async def _steer_all_ways(engine: Driven, job: JobRef) -> None:
    """Tries everything; that some of it is refused is fine."""
    calls = (
        engine.engine.cancel([job], JobReason.CANCELED_BY_OWNER),
        engine.engine.hold([job], JobReason.HELD_BY_OWNER),
        engine.engine.signal([job], "KILL", by_operator=False),
        engine.engine.requeue([job], hold=True, by_operator=False),
        engine.engine.update(job, EngineUpdate(duration=timedelta(minutes=1)), by_operator=False),
    )
    for call in calls:
        try:
            await call
        except EngineError:
            continue


# Output


@AS_ROOT
async def test_output_is_opened_as_its_owner(engine: Driven) -> None:
    """What the owner may read and the server's own account need not; and nothing that only root may."""
    there = engine.directory()
    job_id = await engine.submit(shell("echo mine; umask 77", directory=str(there), stdout_path="o", stderr_path="e"))
    await engine.end_of(job_id)
    (there / "o").chmod(0o600)
    assert await engine.output(job_id) == "mine\n"
    secret = there / "secret"
    secret.write_text("root's")
    secret.chmod(0o600)
    (there / "o").unlink()
    (there / "o").symlink_to(secret)
    with pytest.raises(EngineError) as refused:
        await engine.output(job_id)
    assert refused.value.refusal.reason == "OUTPUT_UNREADABLE"
    (there / "o").unlink()
    os.mkfifo(there / "o", 0o666)
    with pytest.raises(EngineError):
        await asyncio.wait_for(engine.output(job_id), 30)


# Jobs from outside


async def by_hand(cluster: SlurmCluster, *options: str, user: str, script: str = "true") -> str:
    text = f"#!/bin/sh\n{script}\n"
    done = await asyncio.to_thread(
        cluster.run, "sbatch", "--parsable", *options, "--output=/dev/null", user=user, stdin=text
    )
    return done.stdout.strip()


async def seen_of(engine: Driven, native: str, state: JobState) -> Observation:
    def found() -> Observation | None:
        each = (one for told in list(engine.seen.values()) for one in told)
        return next((one for one in each if one.native_id == native and one.state is state), None)

    return await until(found)


def external_ref(seen: Observation) -> JobRef:
    assert seen.external is not None
    return JobRef(seen.job_id, seen.external.owner, seen.native_id, seen.external.submit_time, external=True)


async def test_external_job(engine: Driven, wide_slurm: SlurmCluster) -> None:
    account = wide_slurm.users[1 % len(wide_slurm.users)]
    owner = "bob" if os.geteuid() == 0 else "alice"
    options = ("-J", "by hand", "-t", "7", "-A", "chemistry", "-p", "regular", "--hold", "-n", "2")
    native = await by_hand(wide_slurm, *options, user=account, script="exit 3")
    seen = await seen_of(engine, native, JobState.HELD)
    assert seen.external is not None
    assert (seen.external.owner, seen.external.spec.name) == (owner, "by hand")
    attributes = seen.external.spec.attributes
    assert (attributes.duration, attributes.account) == (timedelta(minutes=7), "chemistry")
    assert attributes.queue_name == "regular"
    assert abs(seen.external.submit_time - datetime.now(UTC)) < timedelta(minutes=2)
    again = {one.native_id: one for one in await engine.engine.observe_all()}
    assert again[native].job_id == seen.job_id
    [alone] = await engine.engine.observe([external_ref(seen)])
    assert (alone.job_id, alone.state) == (seen.job_id, JobState.HELD)
    await engine.engine.release([external_ref(seen)], by_operator=False)
    end = await engine.end_of(seen.job_id)
    assert (end.state, end.exit_code, end.native_id) == (JobState.FAILED, 3, native)


async def test_external_array(engine: Driven, wide_slurm: SlurmCluster) -> None:
    native = await by_hand(wide_slurm, "--array=2-4", user=wide_slurm.users[0], script="exit $SLURM_ARRAY_TASK_ID")
    ends = [await seen_of(engine, f"{native}_{index}", JobState.FAILED) for index in (2, 3, 4)]
    assert [end.exit_code for end in ends] == [2, 3, 4]
    first = engine.seen[ends[0].job_id][0]
    assert first.external is not None
    array_id = first.external.array_job_id
    assert ends[0].job_id == f"{array_id}_2"
    assert first.external.array_index == 2
    order = list(engine.seen)
    assert all(order.index(array_id) < order.index(end.job_id) for end in ends)
    whole = engine.seen[array_id][0]
    assert whole.external is not None
    assert whole.external.spec.array is not None


async def test_external_jobs_not_wanted(kind: Kind, engine: Driven, wide_slurm: SlurmCluster) -> None:
    quiet = await Driven(slurm_kind(kind.name, wide_slurm, external_jobs=False)).start()
    native = await by_hand(wide_slurm, user=wide_slurm.users[0])
    await seen_of(engine, native, JobState.COMPLETED)
    await quiet.run(shell("true"))
    assert not any(one.external for told in quiet.seen.values() for one in told)
    assert not any(one.external for one in await quiet.engine.observe_all())
    await quiet.stop()


@AS_ROOT
async def test_a_comment_proves_nothing(engine: Driven, wide_slurm: SlurmCluster) -> None:
    """Nobody's job is taken for another's because it says so: neither observed nor found as a doubtful one."""
    job = engine.job(shell("exit 4"), owner="alice")
    forged = await by_hand(wide_slurm, f"--comment=openfacility:{job.id}", "--hold", user=wide_slurm.users[1])
    await engine.hand_over([replace(job, doubtful=True)])
    assert engine.natives[job.id] != forged
    assert (await engine.end_of(job.id)).exit_code == 4
    assert {told.owner for told in engine.of(job.id)} == {"alice"}
    await until(lambda: any(told.native_id == forged and told.owner == "bob" for told in engine.passed_over))
    assert of_queue(wide_slurm, forged, "%t") == "PD"
    wide_slurm.run("scancel", forged)


async def test_twins_are_mended(engine: Driven, wide_slurm: SlurmCluster) -> None:
    """Of two with the same comment, which only a fault can bring about, the older one stays."""
    job = engine.job(shell("true"))
    comment = f"--comment=openfacility:{job.id}"
    twins = [await by_hand(wide_slurm, comment, "--hold", user=engine.kind.account) for _ in range(2)]
    await engine.hand_over([replace(job, doubtful=True)])
    assert engine.natives[job.id] == twins[0]
    await until(lambda: of_queue(wide_slurm, twins[1], "%t") == "CA")
    assert of_queue(wide_slurm, twins[0], "%t") == "PD"
    await engine.engine.release(engine.refs([job.id]), by_operator=False)
    assert (await engine.end_of(job.id)).native_id == twins[0]
    assert {told.native_id for told in await engine.engine.observe(engine.refs([job.id]))} == {twins[0]}


# How it is seen


@pytest.fixture
async def hinted(kind: Kind, wide_slurm: SlurmCluster) -> AsyncIterator[Callable[..., object]]:
    """Starts engines that compare too seldom to see anything by that."""
    started: list[Driven] = []

    async def start(**values: object) -> Driven:
        driven = await Driven(slurm_kind(kind.name, wide_slurm, reconcile=timedelta(hours=1), **values)).start()
        started.append(driven)
        return driven

    yield start
    for driven in started:
        await driven.stop()


@pytest.mark.parametrize("source", ["events", "controller_log"])
async def test_told_rather_than_asked(hinted: Callable[..., object], source: str) -> None:
    """Each of the two files is enough to see ends; the log shows starts too."""
    other = "controller_log" if source == "events" else "events"
    driven = await hinted(**{other: None})  # type: ignore[misc]
    began = time.monotonic()
    ids = [await driven.submit(shell(f"sleep 0.2; exit {code}")) for code in (3, 4)]
    ids += await driven.submit_array(shell("exit 5", array=JobArray(0, 2)))
    assert [end.exit_code for end in await driven.ends_of(ids)] == [3, 4, 5, 5, 5]
    assert time.monotonic() - began < 60  # not by comparing
    if source == "controller_log":
        job_id = await driven.submit(shell("sleep 1"))
        await driven.saw(job_id, JobState.ACTIVE)
        await driven.end_of(job_id)


async def test_cluster_by_name(kind: Kind, wide_slurm: SlurmCluster) -> None:
    """As one of several clusters of one accounting."""
    driven = await Driven(slurm_kind(kind.name, wide_slurm, cluster="facility")).start()
    job_id = await driven.submit(shell("echo out; exit 6", hold=True))
    await driven.saw(job_id, JobState.HELD)
    await driven.engine.update(driven.ref(job_id), EngineUpdate(name="other"), by_operator=False)
    await driven.engine.release(driven.refs([job_id]), by_operator=False)
    assert (await driven.end_of(job_id)).exit_code == 6
    assert await driven.output(job_id) == "out\n"
    await driven.stop()


async def test_forgotten_by_the_controller(kind: Kind, slurm_cluster: Callable[..., SlurmCluster]) -> None:
    """What has left the queue is found in accounting, with all that was seen of it."""
    cluster = slurm_cluster(nodes=1, min_job_age=2)
    driven = await Driven(slurm_kind(kind.name, cluster)).start()
    single = await driven.submit(shell("exit 7"))
    killed = await driven.submit(shell("kill -9 $$"))
    array = await driven.submit_array(shell("echo out; exit $OPENFACILITY_ARRAY_INDEX", array=JobArray(0, 1)))
    canceled = await driven.submit(shell("true", hold=True))
    await driven.engine.cancel(driven.refs([canceled]), JobReason.CANCELED_BY_OWNER)
    ids = [single, killed, *array, canceled]
    before = await driven.ends_of(ids)
    await until(lambda: not cluster.run("squeue", "-h", "-t", "all").stdout)
    refs = driven.refs([*ids, "unknown"])
    for asked in (refs, [replace(ref, native_id="") for ref in refs]):
        found = {one.job_id: one for one in await driven.engine.observe(asked)}
        for end in before:
            again = found[end.job_id]
            assert (again.state, again.exit_code, again.signal) == (end.state, end.exit_code, end.signal)
            assert (again.start_time, again.end_time, again.native_id) == (end.start_time, end.end_time, end.native_id)
    assert await driven.output(array[0]) == "out\n"
    assert await driven.answers([replace(driven.given[single], doubtful=True)]) == [driven.natives[single]]
    await driven.stop()
