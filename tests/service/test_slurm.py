"""The Jobs service in front of a real Slurm, reached both ways: what a batch system adds, and who may do what."""

from __future__ import annotations

import asyncio
import itertools
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest
from google.protobuf import duration_pb2
from openfacility.jobs.v1 import job_pb2 as pb
from openfacility.jobs.v1 import jobs_service_pb2 as rpc

from tests.engines.slurm import SlurmCluster
from tests.support.calls import DEADLINE, Caller, refused
from tests.support.server import Server
from tests.support.slurm import WAYS, slurm_config, users_of

pytestmark = pytest.mark.slurm

MINUTE = duration_pb2.Duration(seconds=60)


@dataclass
class Site:
    """A server and the cluster behind it."""

    cluster: SlurmCluster
    server: Server
    channel: grpc.aio.Channel
    way: str

    def caller(self, name: str) -> Caller:
        if name not in users_of(self.cluster):
            pytest.skip(f"needs root, to run jobs as {name}")
        return Caller(self.channel, self.server.tokens[name], name)

    def slurm(self, *command: str, user: str = "alice") -> str:
        """Runs one of Slurm's commands as one of the users; returns what it prints."""
        return self.cluster.run(*command, user=users_of(self.cluster)[user]).stdout.strip()

    def fails(self, *command: str, user: str) -> str:
        """Runs one of Slurm's commands as one of the users, which fails; returns what it says."""
        done = self.cluster.run(*command, user=users_of(self.cluster)[user], check=False)
        assert done.returncode, done.stdout
        return done.stdout + done.stderr


@pytest.fixture(scope="session", params=WAYS)
async def site(request: pytest.FixtureRequest, slurm: SlurmCluster) -> AsyncIterator[Site]:
    server = Server(slurm_config(slurm, request.param))
    try:
        await asyncio.to_thread(server.start)
        async with grpc.aio.insecure_channel(server.address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
            yield Site(slurm, server, channel, request.param)
        lines = server.log_lines()
        assert not [line for line in lines if line.get("level") == "error"]
        assert not [line for line in lines if line.get("code") in {"INTERNAL", "UNKNOWN"}]
    finally:
        server.remove()


@pytest.fixture
async def callers(site: Site) -> AsyncIterator[Callable[[str], Caller]]:
    made: list[Caller] = []

    def make(name: str) -> Caller:
        made.append(site.caller(name))
        return made[-1]

    yield make
    for caller in made:
        await caller.end_all()


@pytest.fixture
def alice(callers: Callable[[str], Caller]) -> Caller:
    return callers("alice")


@pytest.fixture
def bob(callers: Callable[[str], Caller]) -> Caller:
    return callers("bob")


@pytest.fixture
def olga(callers: Callable[[str], Caller]) -> Caller:
    return callers("olga")


@pytest.fixture
def busy(site: Site) -> Iterator[None]:
    """All nodes are taken."""
    blockers = [
        site.slurm("sbatch", "--parsable", "-p", "regular", "--exclusive", "-N", "1", "-t", "5", "--wrap", "sleep 300")
        for _ in site.cluster.nodes
    ]
    yield
    site.slurm("scancel", *blockers)


async def until(condition: Callable[[], Awaitable[Any]]) -> Any:
    """Waits until something holds, and returns it."""
    deadline = time.monotonic() + DEADLINE
    while not (value := await condition()):
        assert time.monotonic() < deadline, "did not come to be"
        await asyncio.sleep(0.05)
    return value


def attributes(**values: Any) -> pb.JobAttributes:
    """Attributes of a short job in the partition of all nodes."""
    return pb.JobAttributes(**({"duration": MINUTE, "queue_name": "regular"} | values))


# As the user.


async def test_a_job_is_the_users_own(site: Site, alice: Caller) -> None:
    job = await alice.submit("/bin/sh", "-c", "id -u; id -g; echo $HOME; pwd", name="mine", attributes=attributes())
    assert job.native_id.isdigit(), "the batch system had it when the call returned"
    assert job.status.state in {pb.JOB_STATE_QUEUED, pb.JOB_STATE_ACTIVE}
    done = await alice.wait(job.id)
    assert done.status.state == pb.JOB_STATE_COMPLETED, done.status
    user = site.slurm("id", "-u"), site.slurm("id", "-g"), site.slurm("sh", "-c", "echo $HOME")
    assert (await alice.output_bytes(job.id)).decode().split() == [*user, user[2]]
    assert done.nodes.startswith("n")
    assert done.transitions[0].state == pb.JOB_STATE_NEW
    assert not done.external
    said = site.slurm("squeue", "-h", "-t", "all", "-j", job.native_id, "-O", "UserName:20,Comment:60,Account:20")
    assert said.split() == [users_of(site.cluster)["alice"], f"openfacility:{job.id}", "physics"]


async def test_nobody_reads_or_steers_anothers_job(site: Site, alice: Caller, bob: Caller) -> None:
    private = site.slurm("sh", "-c", "mkdir -p -m 700 $HOME/private && echo $HOME/private")
    script = "echo secret; sleep 60"
    job = await alice.submit("/bin/sh", "-c", script, directory=private, stdout_path="out", attributes=attributes())
    await alice.wait(job.id, pb.JOB_STATE_ACTIVE)

    async def written() -> bool:
        return await alice.output_bytes(job.id) == b"secret\n"

    await until(written)
    for call in (bob.get(job.id), bob.hold(job.id), bob.cancel(job.id), bob.output_bytes(job.id)):
        with refused("NOT_FOUND"):
            await call
    for method, request in (
        ("SignalJob", rpc.SignalJobRequest(job_id=job.id, signal="TERM")),
        ("RequeueJob", rpc.RequeueJobRequest(job_id=job.id)),
    ):
        with refused("NOT_FOUND"):
            await bob.call(method, request)
    # And Slurm and the kernel would not have let him.
    assert "denied" in site.fails("scancel", "-v", job.native_id, user="bob")
    assert "Invalid user id" in site.fails("scontrol", "hold", job.native_id, user="bob")
    assert "denied" in site.fails("cat", f"{private}/out", user="bob").lower()
    assert (await alice.get(job.id)).status.state == pb.JOB_STATE_ACTIVE


async def test_who_has_no_account_runs_nothing(site: Site) -> None:
    ada = Caller(site.channel, site.server.tokens["ada"], "ada")
    with refused("PERMISSION_DENIED", "NO_POSIX_ACCOUNT"):
        await ada.submit("/bin/true")

    request = rpc.EstimateStartRequest(spec=ada.spec("/bin/true"))
    answer = await ada.call("EstimateStart", request)
    assert (answer.acceptable, answer.reason) == (False, "NO_POSIX_ACCOUNT")


async def test_what_is_not_yet_known_here_is_asked_before_a_refusal(slurm: SlurmCluster) -> None:
    rarely = slurm_config(slurm, "commands", events=None, controller_log=None, reconcile=600)
    server = Server(rarely)
    try:
        await asyncio.to_thread(server.start)
        async with grpc.aio.insecure_channel(server.address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
            alice = Caller(channel, server.tokens["alice"], "alice")
            job = await alice.submit("/bin/sleep", "300", attributes=attributes())

            async def running() -> bool:
                shown = slurm.run("squeue", "-h", "-j", job.native_id, "-o", "%T").stdout
                return shown.strip() == "RUNNING"

            await until(running)
            await alice.call("SignalJob", rpc.SignalJobRequest(job_id=job.id, signal="TERM"))
            assert (await alice.get(job.id, fresh=True)).status.state >= pb.JOB_STATE_ACTIVE
            await alice.end_all()
    finally:
        server.remove()


# What is refused.

REFUSALS: dict[str, tuple[str, str, str, dict[str, Any]]] = {
    "account": ("INVALID_ARGUMENT", "BAD_ACCOUNT", "spec.attributes.account", {"account": "nosuch"}),
    "account of others": ("INVALID_ARGUMENT", "BAD_ACCOUNT", "spec.attributes.account", {"account": "secret"}),
    "partition": ("INVALID_ARGUMENT", "BAD_QUEUE", "spec.attributes.queue_name", {"queue_name": "nosuch"}),
    "reservation": (
        "INVALID_ARGUMENT",
        "BAD_RESERVATION",
        "spec.attributes.reservation_id",
        {"reservation_id": "nosuch"},
    ),
    "qos": (
        "INVALID_ARGUMENT",
        "BAD_QOS",
        'spec.attributes.custom_attributes["slurm.qos"]',
        {"custom_attributes": {"slurm.qos": "nosuch"}},
    ),
    "time limit": (
        "INVALID_ARGUMENT",
        "BAD_TIME_LIMIT",
        "spec.attributes.duration",
        {"duration": duration_pb2.Duration(seconds=7 * 86400)},
    ),
    "feature": (
        "INVALID_ARGUMENT",
        "BAD_CONSTRAINT",
        'spec.attributes.custom_attributes["slurm.constraint"]',
        {"custom_attributes": {"slurm.constraint": "unicorn"}},
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
async def test_what_slurm_refuses_has_a_reason(alice: Caller, case: str) -> None:
    code, reason, field, wrong = REFUSALS[case]
    spec = alice.spec("/bin/true", attributes=attributes(**wrong))
    request = rpc.SubmitJobRequest(spec=spec, request_id=f"refused-{alice.label}")
    with refused(code, reason, field) as first:
        await alice.submit_request(request)
    assert first.metadata["engine_message"]
    record = await alice.get(first.metadata["job_id"])
    assert (record.status.state, record.status.reason) == (pb.JOB_STATE_FAILED, pb.JOB_REASON_REFUSED)
    assert (record.status.engine_reason, record.status.engine_message) == (reason, first.metadata["engine_message"])
    with refused(code, reason, field) as again:
        await alice.submit_request(request)
    assert again.metadata["job_id"] == first.metadata["job_id"]
    answer = await alice.call("EstimateStart", rpc.EstimateStartRequest(spec=spec))
    assert (answer.acceptable, answer.reason, answer.field) == (False, reason, field)
    assert answer.engine_message


async def test_what_no_nodes_can_give_is_refused(alice: Caller) -> None:
    with refused("INVALID_ARGUMENT", "RESOURCES_IMPOSSIBLE") as error:
        await alice.submit("/bin/true", resources=pb.ResourceSpec(process_count=1000), attributes=attributes())
    assert error.fields[0].startswith("spec.resources")


async def test_over_a_limit(site: Site, alice: Caller) -> None:
    debug = attributes(custom_attributes={"slurm.qos": "debug"})
    for _ in range(5):
        await alice.submit("/bin/true", hold=True, attributes=debug)
    with refused("RESOURCE_EXHAUSTED", "OVER_LIMIT"):
        await alice.submit("/bin/true", hold=True, attributes=debug)


# What waits.


@pytest.mark.usefixtures("busy")
async def test_says_why_a_job_waits_and_until_when(alice: Caller) -> None:
    resources = pb.ResourceSpec(node_count=4, exclusive_node_use=True)
    job = await alice.submit("/bin/true", resources=resources, attributes=attributes())
    async with alice.watch(job_id=job.id) as watch:
        # Slurm comes to know the two one after the other.
        waiting = await watch.until(lambda job: job.status.HasField("expected_start_time") and job.status.reason)
    assert waiting.status.state == pb.JOB_STATE_QUEUED
    assert waiting.status.reason in {pb.JOB_REASON_RESOURCES, pb.JOB_REASON_PRIORITY}
    assert waiting.status.engine_reason in {"Resources", "Priority"}
    assert len(waiting.status.message.split()) > 3
    now = datetime.now(UTC)
    assert now < waiting.status.expected_start_time.ToDatetime(UTC) < now + timedelta(minutes=10)


async def test_an_allocation_too_small_is_told(alice: Caller) -> None:
    small = attributes(account="tiny", duration=duration_pb2.Duration(seconds=1800))
    try:
        job = await alice.submit("/bin/true", attributes=small)
    except grpc.aio.AioRpcError as error:
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED  # noqa: PT017 -- either is right
        return
    async with alice.watch(job_id=job.id) as watch:
        waiting = await watch.until(lambda job: job.status.reason == pb.JOB_REASON_ALLOCATION_EXHAUSTED)
    assert waiting.status.engine_reason.startswith("AssocGrp")


async def test_estimates_a_start(alice: Caller) -> None:
    request = rpc.EstimateStartRequest(
        spec=alice.spec("/bin/true", resources=pb.ResourceSpec(process_count=2), attributes=attributes())
    )
    answer = await alice.call("EstimateStart", request)
    assert answer.acceptable, answer
    now = datetime.now(UTC)
    assert abs(answer.expected_start_time.ToDatetime(UTC) - now) < timedelta(minutes=5)
    assert answer.core_count >= 2
    assert answer.core_hours == pytest.approx(answer.core_count / 60)
    assert answer.account == "physics"
    assert await alice.list_ids() == []


# From outside, and from before.


async def test_jobs_submitted_around_us_appear(site: Site, alice: Caller, bob: Caller, olga: Caller) -> None:
    native = site.slurm("sbatch", "--parsable", "-J", "outside", "-p", "regular", "-t", "5", "--wrap", "sleep 300")

    async def listed(caller: Caller) -> list[pb.Job]:
        page = await caller.list(rpc.JobFilter(name="outside", owners=["alice"]), fresh=True)
        return [job for job in page.jobs if job.native_id == native]

    found = (await until(lambda: listed(alice)))[0]
    assert found.external
    assert (found.owner, found.spec.attributes.queue_name) == ("alice", "regular")
    assert found.spec.attributes.duration.seconds == 300
    assert await listed(bob) == []
    assert [job.id for job in await listed(olga)] == [found.id]
    await alice.cancel(found.id)
    assert (await alice.wait(found.id)).status.state == pb.JOB_STATE_CANCELED


async def test_an_array_from_outside(site: Site, alice: Caller) -> None:
    command = ("sbatch", "--parsable", "-J", "array-outside", "-p", "regular", "-t", "5", "-a", "1-3", "--wrap", "true")
    native = site.slurm(*command)

    async def listed() -> list[pb.Job]:
        page = await alice.list(rpc.JobFilter(name="array-outside", owners=["alice"]), fresh=True)
        return [job for job in page.jobs if job.native_id == native and job.status.state == pb.JOB_STATE_COMPLETED]

    found = (await until(listed))[0]
    assert (found.array_counts.total, found.array_counts.completed) == (3, 3)
    elements = (await alice.list(rpc.JobFilter(array_job_id=found.id))).jobs
    assert [element.native_id for element in elements] == [f"{native}_{index}" for index in (1, 2, 3)]


async def test_a_forged_comment_is_nobody_elses_job(site: Site, alice: Caller, bob: Caller) -> None:
    job = await alice.submit("/bin/sleep", "60", attributes=attributes())
    forged = ("sbatch", "--parsable", f"--comment=openfacility:{job.id}", "-p", "regular", "-t", "1", "--wrap", "false")
    native = site.slurm(*forged, user="bob")
    await until(lambda: _ended(site, native))
    current = await alice.get(job.id, fresh=True)
    assert current.native_id == job.native_id
    assert current.status.state in {pb.JOB_STATE_QUEUED, pb.JOB_STATE_ACTIVE}


async def _ended(site: Site, native: str) -> bool:
    done = site.cluster.run("squeue", "-h", "-j", native, "-t", "all", "-o", "%T", check=False)
    return done.stdout.strip() in {"", "COMPLETED", "FAILED", "CANCELLED"}


async def test_says_how_old_the_answer_is(alice: Caller) -> None:
    job = await alice.submit("/bin/true", hold=True, attributes=attributes())
    before = datetime.now(UTC)
    answer = await alice.call("GetJob", rpc.GetJobRequest(job_id=job.id, fresh=True))
    assert before <= answer.observe_time.ToDatetime(UTC) <= datetime.now(UTC)
    page = await alice.list(fresh=True)
    assert before <= page.observe_times["cluster"].ToDatetime(UTC) <= datetime.now(UTC)
    assert (await alice.call("GetJob", rpc.GetJobRequest(job_id=job.id))).HasField("observe_time")


# Arrays.


async def test_an_array_is_one_array_in_slurm(site: Site, alice: Caller) -> None:
    array = pb.JobArray(first=2, last=8, step=3, max_active=1)
    script = "test $SLURM_ARRAY_TASK_ID = $OPENFACILITY_ARRAY_INDEX && echo element $SLURM_ARRAY_TASK_ID"
    spec: dict[str, Any] = {"array": array, "attributes": attributes(), "stdout_path": "/tmp/of-%A_%a-%x.out"}
    job = await alice.submit("/bin/sh", "-c", script, name="sweep", **spec)
    assert job.native_id.isdigit()
    done = await alice.wait(job.id)
    assert done.status.state == pb.JOB_STATE_COMPLETED, done
    elements = (await alice.list(rpc.JobFilter(array_job_id=job.id))).jobs
    assert [element.native_id for element in elements] == [f"{job.native_id}_{index}" for index in (2, 5, 8)]
    for element in elements:
        assert await alice.output_bytes(element.id) == f"element {element.array_index}\n".encode()
    spans = sorted((e.start_time.ToNanoseconds(), e.end_time.ToNanoseconds()) for e in elements)
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(spans)), "one at a time"
    site.slurm("sh", "-c", f"rm /tmp/of-{job.native_id}_*-sweep.out")


async def test_elements_are_addressed_alone(alice: Caller) -> None:
    array = pb.JobArray(first=0, last=3)
    job = await alice.submit("/bin/sleep", "60", array=array, hold=True, attributes=attributes())

    async def expanded() -> bool:
        return len((await alice.list(rpc.JobFilter(array_job_id=job.id))).jobs) == 4

    await until(expanded)
    await alice.cancel(f"{job.id}_2")
    assert (await alice.wait(f"{job.id}_2")).status.state == pb.JOB_STATE_CANCELED
    await alice.release(f"{job.id}_1")
    await alice.wait(f"{job.id}_1", pb.JOB_STATE_ACTIVE)
    assert (await alice.get(f"{job.id}_0")).status.state == pb.JOB_STATE_HELD
    await alice.cancel(job.id)
    done = await alice.wait(job.id)
    assert (done.status.state, done.array_counts.canceled) == (pb.JOB_STATE_CANCELED, 4)


async def test_an_array_that_is_canceled_before_it_starts(alice: Caller) -> None:
    """A batch system keeps next to nothing of it."""
    job = await alice.submit("/bin/true", array=pb.JobArray(first=0, last=29), hold=True, attributes=attributes())
    await alice.cancel(job.id)
    done = await alice.wait(job.id)
    assert (done.status.state, done.array_counts.canceled) == (pb.JOB_STATE_CANCELED, 30)


async def test_a_dependency_that_cannot_come_about(alice: Caller) -> None:
    first = await alice.submit("/bin/sh", "-c", "sleep 1; exit 1", attributes=attributes())
    after = [pb.JobDependency(job_id=first.id, condition=pb.JobDependency.CONDITION_AFTER_OK)]
    job = await alice.submit("/bin/true", dependencies=after, attributes=attributes())
    done = await alice.wait(job.id)
    never = pb.JOB_REASON_DEPENDENCY_NEVER_SATISFIED
    assert (done.status.state, done.status.reason) == (pb.JOB_STATE_CANCELED, never)
    assert not done.HasField("start_time")


# Steering.


async def test_hold_release_update_cancel(site: Site, alice: Caller, olga: Caller) -> None:
    job = await alice.submit("/bin/sleep", "60", hold=True, attributes=attributes())
    assert job.status.state == pb.JOB_STATE_HELD
    updated = await alice.update(
        job.id, name="renamed", attributes=pb.JobAttributes(duration=duration_pb2.Duration(seconds=180))
    )
    assert updated.spec.name == "renamed"
    said = site.slurm("squeue", "-h", "-j", job.native_id, "-o", "%j %l")
    assert said.split() == ["renamed", "3:00"]
    assert (await alice.release(job.id)).status.state in {pb.JOB_STATE_QUEUED, pb.JOB_STATE_ACTIVE}
    await alice.wait(job.id, pb.JOB_STATE_ACTIVE)
    with refused("FAILED_PRECONDITION", "JOB_STATE"):
        await alice.hold(job.id)
    await olga.cancel(job.id)
    done = await alice.wait(job.id)
    assert (done.status.state, done.status.reason) == (pb.JOB_STATE_CANCELED, pb.JOB_REASON_CANCELED_BY_OPERATOR)


async def test_an_operators_hold_is_theirs(alice: Caller, olga: Caller) -> None:
    job = await alice.submit("/bin/true", hold=True, attributes=attributes())
    held = await olga.hold(job.id)
    assert held.status.reason == pb.JOB_REASON_HELD_BY_OPERATOR
    with refused("PERMISSION_DENIED", "HELD_BY_OPERATOR"):
        await alice.release(job.id)
    await olga.release(job.id)
    assert (await alice.wait(job.id)).status.state == pb.JOB_STATE_COMPLETED


async def test_a_refused_update_says_what_was_done(site: Site, alice: Caller) -> None:
    job = await alice.submit("/bin/true", hold=True, name="before", attributes=attributes())
    with refused("INVALID_ARGUMENT", "BAD_QUEUE") as error:
        await alice.update(job.id, name="after", attributes=pb.JobAttributes(queue_name="nosuch"))
    applied = [path for path in error.metadata.get("applied", "").split(",") if path]
    current = await alice.get(job.id, fresh=True)
    in_slurm = site.slurm("squeue", "-h", "-j", job.native_id, "-o", "%j")
    assert current.spec.name == in_slurm == ("after" if "spec.name" in applied else "before")
    assert current.spec.attributes.queue_name == "regular"


async def test_signals_and_requeues(alice: Caller) -> None:
    script = "trap 'echo got USR1' USR1; echo begun; while :; do sleep 0.1; done"
    job = await alice.submit("/bin/sh", "-c", script, attributes=attributes())
    await alice.wait(job.id, pb.JOB_STATE_ACTIVE)

    async def printed(text: bytes) -> bool:
        return text in await alice.output_bytes(job.id)

    await until(lambda: printed(b"begun"))
    await alice.call("SignalJob", rpc.SignalJobRequest(job_id=job.id, signal="USR1"))
    await until(lambda: printed(b"got USR1"))
    back = await alice.call("RequeueJob", rpc.RequeueJobRequest(job_id=job.id, hold=True))
    assert back.status.state in {pb.JOB_STATE_ACTIVE, pb.JOB_STATE_QUEUED, pb.JOB_STATE_HELD}
    held = await alice.wait(job.id, pb.JOB_STATE_HELD)
    assert held.status.reason == pb.JOB_REASON_REQUEUED
    assert not held.HasField("start_time")


# Output.


async def test_output_is_followed_while_it_is_written(alice: Caller) -> None:
    script = "for i in 1 2 3; do echo $i; sleep 0.3; done"
    job = await alice.submit("/bin/sh", "-c", script, attributes=attributes(), stdout_path="out-%j-%x-%%", name="a b")
    assert await alice.output_bytes(job.id, follow=True) == b"1\n2\n3\n"
    assert (await alice.wait(job.id)).status.state == pb.JOB_STATE_COMPLETED


async def test_output_that_may_not_be_read(site: Site, alice: Caller) -> None:
    """What the user could not read, we do not read for them, whatever we may."""
    if os.geteuid() != 0:
        pytest.skip("needs root, for a file that is somebody else's")
    job = await alice.submit("/bin/true", attributes=attributes(), stdout_path="/etc/shadow")
    done = await alice.wait(job.id)
    assert done.status.state == pb.JOB_STATE_FAILED
    with refused("FAILED_PRECONDITION", "OUTPUT_UNREADABLE"):
        await alice.output_bytes(job.id)


# Reservations.


async def test_reservations_are_listed_to_whom_they_concern(site: Site, alice: Caller, bob: Caller) -> None:
    users = users_of(site.cluster)
    create = ("scontrol", "create", "reservation", "StartTime=now+60minutes", "Duration=30", "Nodes=n4")
    for name, who in (("hers", f"Users={users['alice']}"), ("all", "Accounts=physics")):
        site.cluster.run(*create, f"ReservationName={name}", who, "Flags=OVERLAP")

    async def names(caller: Caller) -> set[str]:
        answer = await caller.call("ListReservations", rpc.ListReservationsRequest())
        return {one.id for one in answer.reservations}

    try:
        assert await names(alice) == {"hers", "all"}
        assert await names(bob) == {"all"}
        one = (await alice.call("ListReservations", rpc.ListReservationsRequest(page_size=1))).reservations[0]
        assert (one.nodes, one.node_count, one.active, one.resource_id) == ("n4", 1, False, "cluster")
        assert one.end_time.seconds - one.start_time.seconds == 1800
        with refused("PERMISSION_DENIED", "RESERVATION_DENIED"):
            await bob.submit("/bin/true", attributes=attributes(reservation_id="hers"))
        job = await alice.submit("/bin/true", attributes=attributes(reservation_id="hers"))
        async with alice.watch(job_id=job.id) as watch:
            await watch.until(lambda job: job.status.reason == pb.JOB_REASON_RESERVATION)
        await alice.cancel(job.id)
        await alice.wait(job.id)
    finally:
        for name in ("hers", "all"):
            site.cluster.run("scontrol", "delete", f"reservationname={name}")
