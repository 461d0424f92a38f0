"""A server in front of Slurm when either is killed or stands still: one submission, no end lost, and it heals."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import shutil
import sqlite3
import time
import uuid
from collections import Counter
from collections.abc import Callable

import grpc
import pytest
from google.protobuf import duration_pb2
from openfacility.jobs.v1 import job_pb2 as pb
from openfacility.jobs.v1 import jobs_service_pb2 as rpc

from tests.engines.postgres import PostgresServer
from tests.engines.slurm import SlurmCluster
from tests.faults.server_support import Follower, calling, current_revision, patiently, serving, until
from tests.support.calls import FINAL, Caller, Refused, refused
from tests.support.server import Server
from tests.support.slurm import WAYS, slurm_config, users_of

pytestmark = [pytest.mark.slurm, pytest.mark.slow]

Start = Callable[..., SlurmCluster]
SHORT = pb.JobAttributes(duration=duration_pb2.Duration(seconds=60), queue_name="regular")
ANSWER_WITHIN = 8.0  # Slurm's own clients take 9 s to say that there is no controller


def in_slurm(cluster: SlurmCluster) -> Counter[str]:
    """Returns how many jobs Slurm has for each of our ids."""
    done = cluster.run("squeue", "-h", "-a", "-t", "all", "-O", "Comment:200")
    return Counter(line.strip().removeprefix("openfacility:") for line in done.stdout.splitlines() if "openf" in line)


def request(caller: Caller, *argv: str, request_id: str = "") -> rpc.SubmitJobRequest:
    return rpc.SubmitJobRequest(spec=caller.spec(*argv, attributes=SHORT), request_id=request_id)


@pytest.mark.parametrize("way", WAYS)
async def test_the_server_killed_while_it_submits(slurm_cluster: Start, way: str) -> None:
    cluster = slurm_cluster(nodes=2, cpus=32)
    async with serving(slurm_config(cluster, way)) as server:
        async with calling(server) as alice:
            start = await current_revision(alice)
        async with Follower(server, start) as follower:

            async def submit(number: int) -> str:
                async with calling(server) as alice:
                    wanted = request(alice, "/bin/true", request_id=f"once-{number}-{uuid.uuid4()}")
                    job = await patiently(lambda: alice.call("SubmitJob", wanted))
                    return str(job.id)

            submitting = [asyncio.create_task(submit(number)) for number in range(60)]
            for handed_over in (5, 25):
                await until(lambda: sum(in_slurm(cluster).values()) >= handed_over)  # noqa: B023 -- awaited at once
                await asyncio.to_thread(server.restart, kill=True)
            ids = await asyncio.gather(*submitting)
            await follower.ended(ids)
            assert {follower.jobs[job_id].status.state for job_id in ids} == {pb.JOB_STATE_COMPLETED}
            ends = Counter(job for _, job, state in follower.entries if state in FINAL)
            again = {job: count for job, count in ends.items() if count > 2}  # its usage is told after its end
            assert not again
        assert in_slurm(cluster) == Counter(ids), "each job once"


@pytest.mark.postgres
async def test_two_servers_on_one_database(slurm_cluster: Start, postgres: PostgresServer) -> None:
    """Either takes jobs, one hands them over; when that one is killed the other goes on."""
    cluster = slurm_cluster(nodes=2, cpus=32)
    config = {**slurm_config(cluster, "rest"), "state": {"database": postgres.new_database()}}
    async with serving(config) as first, serving(config) as second:
        async with calling(second) as alice:
            start = await current_revision(alice)
        async with Follower(second, start) as follower:

            async def submit(number: int) -> str:
                spec = pb.JobSpec(executable="/bin/true", attributes=SHORT)
                wanted = rpc.SubmitJobRequest(spec=spec, request_id=f"two-{number}-{uuid.uuid4()}")
                servers = itertools.cycle((first, second) if number % 2 else (second, first))

                async def attempt() -> pb.Job:
                    async with calling(next(servers)) as alice:
                        return await alice.call("SubmitJob", wanted)

                return str((await patiently(attempt)).id)

            submitting = [asyncio.create_task(submit(number)) for number in range(40)]
            await until(lambda: sum(in_slurm(cluster).values()) >= 5)
            await asyncio.to_thread(first.kill)
            ids = await asyncio.gather(*submitting)
            await follower.ended(ids)
        assert in_slurm(cluster) == Counter(ids), "each job once"


@pytest.mark.parametrize("way", WAYS)
async def test_the_controller_killed(slurm_cluster: Start, way: str) -> None:
    cluster = slurm_cluster(nodes=1)
    async with serving(slurm_config(cluster, way)) as server, calling(server) as alice:
        before = await alice.submit("/bin/sleep", "3", attributes=SHORT)
        await alice.wait(before.id, pb.JOB_STATE_ACTIVE)
        # What Slurm has not saved yet it forgets when it is killed; that is tested below.
        await asyncio.to_thread(cluster.restart, "slurmctld")
        cluster.kill("slurmctld")
        began = time.monotonic()
        with refused("UNAVAILABLE") as error:
            await alice.submit("/bin/true", attributes=SHORT)
        assert error.reason in {"ENGINE_UNAVAILABLE", "SUBMIT_PENDING"}
        assert time.monotonic() - began < ANSWER_WITHIN
        with refused("UNAVAILABLE", "ENGINE_UNAVAILABLE"):
            await alice.get(before.id, fresh=True)
        assert (await alice.get(before.id)).id == before.id, "reads are answered all the same"
        await asyncio.to_thread(cluster.start_daemon, "slurmctld")
        after = await patiently(lambda: alice.submit("/bin/true", attributes=SHORT))
        for job_id in (before.id, after.id):
            assert (await alice.wait(job_id)).status.state == pb.JOB_STATE_COMPLETED


@pytest.mark.parametrize("way", WAYS)
async def test_a_controller_that_answers_late(slurm_cluster: Start, way: str) -> None:
    """What was sent before it stood still is worked off afterwards: neither twice, nor not at all."""
    cluster = slurm_cluster(nodes=1)
    async with serving(slurm_config(cluster, way, timeout=2)) as server, calling(server) as alice:
        await alice.run("/bin/true", attributes=SHORT)
        wanted = request(alice, "/bin/true", request_id=f"late-{uuid.uuid4()}")
        cluster.pause("slurmctld")
        try:
            began = time.monotonic()
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await alice.submit_request(wanted)
            assert Refused(raised.value).reason in {"SUBMIT_PENDING", "ENGINE_UNAVAILABLE"}
            assert time.monotonic() - began < ANSWER_WITHIN
        finally:
            cluster.resume("slurmctld")
        job = await patiently(lambda: alice.submit_request(wanted))
        assert (await alice.wait(job.id)).status.state == pb.JOB_STATE_COMPLETED
        assert in_slurm(cluster)[job.id] == 1


async def test_slurmrestd_killed(slurm_cluster: Start) -> None:
    cluster = slurm_cluster(nodes=1)
    async with serving(slurm_config(cluster, "rest")) as server, calling(server) as alice:
        running = await alice.submit("/bin/sleep", "2", attributes=SHORT)
        cluster.kill("slurmrestd")
        with refused("UNAVAILABLE"):
            await alice.submit("/bin/true", attributes=SHORT)
        assert (await alice.wait(running.id)).status.state == pb.JOB_STATE_COMPLETED, "seen without it"
        await asyncio.to_thread(cluster.start_daemon, "slurmrestd")
        job = await patiently(lambda: alice.submit("/bin/true", attributes=SHORT))
        assert (await alice.wait(job.id)).status.state == pb.JOB_STATE_COMPLETED


async def test_what_the_controller_forgot(slurm_cluster: Start) -> None:
    """Ended while nobody looked, and forgotten: accounting knows. Accepted, and forgotten before it was saved: lost."""
    cluster = slurm_cluster(nodes=1, hints=False)
    config = slurm_config(cluster, "commands", events=None, controller_log=None)
    async with serving(config) as server:
        async with calling(server) as alice:
            ended = await alice.submit("/bin/sh", "-c", "exit 7", attributes=SHORT)
            waiting = await alice.submit("/bin/true", hold=True, attributes=SHORT)
            await asyncio.to_thread(server.stop)
        user = users_of(cluster)["alice"]
        outside = ("sbatch", "--parsable", "-J", "outside", "-p", "regular", "-t", "5")
        single = cluster.run(*outside, "--wrap", "exit 3", user=user).stdout.strip()
        array = cluster.run(*outside, "-a", "1-5:2", "--wrap", "true", user=user).stdout.strip()
        await until(lambda: "3:0" in cluster.run("sacct", "-nXP", "-j", single, "-o", "ExitCode").stdout)
        await until(lambda: cluster.run("sacct", "-nXP", "-j", array, "-o", "State").stdout.count("COMPLETED") == 3)
        await until(lambda: "7:0" in cluster.run("sacct", "-nXP", "-j", ended.native_id, "-o", "ExitCode").stdout)
        await asyncio.to_thread(_forget_all, cluster)
        await asyncio.to_thread(_make_it_long_ago, cluster, server)
        await _in_vain(cluster, server)
        await asyncio.to_thread(server.start)
        async with calling(server) as alice:
            done = await alice.wait(ended.id)
            assert (done.status.state, done.status.exit_code) == (pb.JOB_STATE_FAILED, 7)
            assert done.HasField("start_time")
            await _came_and_went(alice, single, array)
            # Its number is given again, to another job.
            other = await alice.submit("/bin/sleep", "1", attributes=SHORT)
            numbers = {ended.native_id, waiting.native_id}
            while other.native_id not in numbers and int(other.native_id) < max(map(int, numbers)):
                other = await alice.submit("/bin/true", attributes=SHORT)
            assert other.native_id in numbers, "Slurm began to count anew"
            assert (await alice.wait(other.id)).status.state == pb.JOB_STATE_COMPLETED
            current = await alice.get(waiting.id, fresh=True)
            assert current.status.state != pb.JOB_STATE_COMPLETED
            await alice.cancel(waiting.id)
            assert (await alice.wait(waiting.id)).status.state in {pb.JOB_STATE_FAILED, pb.JOB_STATE_CANCELED}


async def test_an_array_that_ended_in_part_while_nobody_looked(slurm_cluster: Start) -> None:
    """Of an array from outside the queue has what has not ended, accounting the rest; it is shown as one."""
    cluster = slurm_cluster(nodes=1, hints=False, rest=False, min_job_age=2)
    config = slurm_config(cluster, "commands", events=None, controller_log=None)
    async with serving(config) as server:
        async with calling(server) as alice:
            await patiently(lambda: alice.list(rpc.JobFilter(), fresh=True))
            await until(lambda: _followed(server))
        await asyncio.to_thread(server.stop)
        words = ("sbatch", "--parsable", "-J", "outside", "-p", "regular", "-t", "5", "-a", "1-2")
        script = "[ $SLURM_ARRAY_TASK_ID = 1 ] || sleep 300"
        array = cluster.run(*words, "--wrap", script, user=users_of(cluster)["alice"]).stdout.strip()
        await until(lambda: cluster.run("sacct", "-nXP", "-j", array, "-o", "State").stdout.count("COMPLETED") == 1)
        await until(
            lambda: len(cluster.run("squeue", "-h", "-r", "-t", "all", "-j", array).stdout.splitlines()) == 1, 60
        )
        await asyncio.to_thread(server.start)
        async with calling(server) as alice:
            async with alice.watch(filter=rpc.JobFilter(name="outside")) as watch:
                whole = (await watch.change()).job
            async with alice.watch(filter=rpc.JobFilter(array_job_id=whole.id)) as watch:
                await watch.until(lambda job: job.native_id == f"{array}_1")
            elements = (await alice.list(rpc.JobFilter(array_job_id=whole.id))).jobs
            states = {element.native_id: element.status.state for element in elements}
            assert states == {f"{array}_1": pb.JOB_STATE_COMPLETED, f"{array}_2": pb.JOB_STATE_ACTIVE}


def _followed(server: Server) -> bool:
    with contextlib.closing(sqlite3.connect(server.state / "state.db")) as database:
        return bool(database.execute("SELECT 1 FROM job_following").fetchall())


async def _in_vain(cluster: SlurmCluster, server: Server) -> None:
    """The server runs for a while and cannot ask accounting what it has missed; that it runs is no answer."""
    await asyncio.to_thread(cluster.kill, "slurmdbd")
    await asyncio.to_thread(server.start)
    async with calling(server) as alice:
        await patiently(lambda: alice.list(rpc.JobFilter(), fresh=True))
    await asyncio.to_thread(server.stop)
    await asyncio.to_thread(cluster.start_daemon, "slurmdbd")


def _make_it_long_ago(cluster: SlurmCluster, server: Server) -> None:
    """Moves what happened before into the past, for both who remember it: nobody waits for an hour here."""
    times = ", ".join(f"time_{name} = time_{name} - 1800" for name in ("submit", "eligible", "start", "end"))
    statement = f"UPDATE facility_job_table SET {times} WHERE job_name = 'outside'"
    cluster.run("mariadb", "--no-defaults", f"--socket={cluster.base}/sql/socket", "-uroot", "slurm", "-e", statement)
    with contextlib.closing(sqlite3.connect(server.state / "state.db")) as database, database:
        database.execute("UPDATE job_following SET time = time - 3600000000")


async def _came_and_went(alice: Caller, single: str, array: str) -> None:
    """Jobs that were submitted around us and ended while no server ran are there, with their ends."""
    async with alice.watch(filter=rpc.JobFilter(name="outside")) as watch:
        while len({change.job.id for change in watch.changes}) < 2:
            await watch.next()
    found = (await alice.list(rpc.JobFilter(name="outside"))).jobs
    by_number = {job.native_id: job for job in found}
    assert all(job.external for job in found)
    assert (by_number[single].status.state, by_number[single].status.exit_code) == (pb.JOB_STATE_FAILED, 3)
    assert by_number[single].spec.attributes.queue_name == "regular"
    assert by_number[array].status.state == pb.JOB_STATE_COMPLETED
    elements = (await alice.list(rpc.JobFilter(array_job_id=by_number[array].id))).jobs
    assert [element.native_id for element in elements] == [f"{array}_{index}" for index in (1, 3, 5)]


def _forget_all(cluster: SlurmCluster) -> None:
    """The controller loses all that it had saved, as after a crash in the worst moment."""
    cluster.kill("slurmctld")
    shutil.rmtree(cluster.base / "state")
    (cluster.base / "state").mkdir()
    cluster.start_daemon("slurmctld")
