"""That the test cluster is what tests of the engine take it for."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.engines.slurm import SlurmCluster, until

pytestmark = pytest.mark.slurm

AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="jobs of several users need root")


def submit(cluster: SlurmCluster, script: str, *options: str, user: str | None = None) -> int:
    done = cluster.run("sbatch", "--parsable", *options, user=user, stdin=f"#!/bin/sh\n{script}\n")
    return int(done.stdout)


def events(cluster: SlurmCluster) -> list[dict[str, Any]]:
    if not cluster.events.exists():
        return []
    return [json.loads(line) for line in cluster.events.read_text().splitlines()]


def end_of(cluster: SlurmCluster, job: int) -> dict[str, Any]:
    def found() -> dict[str, Any] | None:
        ends = (event for event in events(cluster) if event["event"] == "end" and event["job_id"] == job)
        return next(ends, None)

    event = until(found, f"job {job} to end")
    assert event is not None
    return event


def listening(pids: set[int]) -> set[str]:
    """The addresses, in hexadecimal as /proc has them, that these processes listen on by TCP."""
    inodes = set()
    for pid in pids:
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            inodes.update(re.findall(r"socket:\[(\d+)\]", str(descriptor.readlink())))
    lines = [line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()]
    return {fields[1].split(":")[0] for fields in lines if fields[3] == "0A" and fields[9] in inodes}


def processes_of(cluster: SlurmCluster) -> list[str]:
    """The processes that were started with this cluster in their environment, ended ones apart."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # gone meanwhile, or of another user
            if str(cluster.conf).encode() in (process / "environ").read_bytes():
                found.append(process.name)
    return found


def test_a_job_runs_as_its_user(slurm: SlurmCluster) -> None:
    user = slurm.users[0]
    account = pwd.getpwnam(user)
    output = slurm.jobs / "who.out"
    job = submit(slurm, "id -u; id -g; id -G; echo $HOME; exit 3", f"--output={output}", user=user)
    assert end_of(slurm, job) | {"t": 0, "start": 0, "end": 0} == {
        "event": "end",
        "t": 0,
        "job_id": job,
        "state": "FAILED",
        "status": 3 << 8,
        "user_id": account.pw_uid,
        "comment": "",
        "start": 0,
        "end": 0,
    }
    uid, gid, groups, home = output.read_text().splitlines()
    assert (int(uid), int(gid), home) == (account.pw_uid, account.pw_gid, account.pw_dir)
    assert {int(group) for group in groups.split()} == set(os.getgrouplist(user, account.pw_gid))


def test_steps_of_a_job_run_on_several_nodes(slurm: SlurmCluster) -> None:
    output = slurm.jobs / "steps.out"
    job = submit(
        slurm,
        "srun sh -c 'echo $SLURMD_NODENAME'",
        *("--partition=regular", "--nodes=2", "--ntasks-per-node=1", f"--output={output}"),
        user=slurm.users[0],
    )
    assert end_of(slurm, job)["state"] == "COMPLETED"
    assert len(set(output.read_text().split())) == 2


def test_rest_answers_on_its_socket_and_by_tcp(slurm: SlurmCluster) -> None:
    headers = slurm.headers(slurm.users[0])
    transport = httpx.HTTPTransport(uds=str(slurm.rest_socket))
    with (
        httpx.Client(transport=transport, base_url="http://slurm", headers=headers) as by_socket,
        httpx.Client(base_url=slurm.rest_url, headers=headers, trust_env=False) as by_tcp,
        httpx.Client(base_url=slurm.rest_url, trust_env=False) as nobody,
    ):
        paths = by_socket.get("/openapi/v3").json()["paths"]
        ping = max(path for path in paths if re.fullmatch(r"/slurm/v[0-9.]+/ping/?", path))
        for client in (by_socket, by_tcp):
            assert client.get(ping).json()["pings"][0]["ping"] == "UP"
        assert nobody.get(ping).status_code == 401


def test_events_carry_any_comment(slurm: SlurmCluster) -> None:
    comment = 'key "1" \\ a\tb\nc\x01 é€🙂 ' + "€" * 200
    job = submit(slurm, "true", f"--comment={comment}", "--job-name=a,b", "--hold", user=slurm.users[0])
    slurm.run("scontrol", "update", f"job={job}", "timelimit=1", user=slurm.users[0])
    slurm.run("scancel", str(job), user=slurm.users[0])
    assert end_of(slurm, job)["comment"] == comment
    uid = pwd.getpwnam(slurm.users[0]).pw_uid
    seen = [event for event in events(slurm) if event.get("comment") == comment or event.get("job_id") == job]
    assert [event["event"] for event in seen] == ["submit", "modify", "end"]
    assert (seen[0]["uid"], seen[0]["name"], seen[1]["uid"]) == (uid, "a,b", uid)


def test_events_stay_json_when_a_comment_is_not_text(slurm: SlurmCluster) -> None:
    job = submit(slurm, "true", b"--comment=\xff\xed\xa0\x80x".decode(errors="surrogateescape"), "--hold")
    slurm.run("scancel", str(job))
    assert end_of(slurm, job)["comment"] == "????x"


def test_events_of_an_array_name_array_and_task(slurm: SlurmCluster) -> None:
    array = submit(slurm, "exit $SLURM_ARRAY_TASK_ID", "--array=0-2", "--output=/dev/null", user=slurm.users[0])

    def tasks() -> list[dict[str, Any]]:
        return [event for event in events(slurm) if event.get("array_job_id") == array]

    until(lambda: len(tasks()) == 3, "all tasks to end")
    assert {event["array_task_id"]: event["status"] for event in tasks()} == {0: 0, 1: 256, 2: 512}
    assert len({event["job_id"] for event in tasks()}) == 3


def test_accounting_knows_the_comment(slurm: SlurmCluster) -> None:
    job = submit(slurm, "true", "--comment=of:1", "--output=/dev/null", user=slurm.users[0])
    end_of(slurm, job)
    sacct = ("sacct", "-X", "-n", "-P", "-j", str(job), "-o", "state,comment,user,account,qos")
    expected = f"COMPLETED|of:1|{slurm.users[0]}|physics|regular\n"
    until(lambda: slurm.run(*sacct).stdout == expected, "accounting to know the job")


@AS_ROOT
def test_accounts_and_roles(slurm: SlurmCluster) -> None:
    alice, bob, olga = slurm.users
    for user in (alice, olga):
        refused = slurm.run("sbatch", "-A", "secret", user=user, check=False, stdin="#!/bin/sh\ntrue\n")
        assert "Invalid account" in refused.stderr
    job = submit(slurm, "true", "-A", "secret", "--hold", user=bob)
    assert slurm.run("scancel", str(job), user=alice, check=False).returncode != 0
    slurm.run("scancel", str(job), user=olga)


def test_an_allocation_that_does_not_suffice_keeps_the_job_waiting(slurm: SlurmCluster) -> None:
    job = submit(slurm, "true", "-A", "tiny", "-t", "5", user=slurm.users[0])
    reason = ("squeue", "-h", "-j", str(job), "-o", "%r")
    until(lambda: slurm.run(*reason).stdout == "AssocGrpCPUMinutesLimit\n", "the reason")
    slurm.run("scancel", str(job), user=slurm.users[0])


def test_daemons_listen_on_loopback_only(slurm: SlurmCluster) -> None:
    if "LD_PRELOAD" not in slurm.env:
        pytest.skip("without a C compiler slurmdbd listens on all addresses")
    pids = {daemon.process.pid for daemon in slurm._daemons.values() if daemon.process}
    assert listening(pids) == {"0100007F"}


def test_a_controller_that_crashed_knows_its_jobs(slurm_cluster: Callable[..., SlurmCluster]) -> None:
    cluster = slurm_cluster(nodes=1, rest=False)
    job = submit(cluster, "true", "--hold", "--output=/dev/null")
    until((cluster.base / "state" / "job_state").exists, "the controller to save its state")
    cluster.kill("slurmctld")
    assert cluster.run("scontrol", "ping", check=False).returncode != 0
    cluster.start_daemon("slurmctld")
    assert cluster.run("squeue", "-h", "-o", "%i").stdout == f"{job}\n"
    cluster.run("scontrol", "release", str(job))
    assert end_of(cluster, job)["state"] == "COMPLETED"


def test_nothing_is_left_of_a_cluster(slurm_cluster: Callable[..., SlurmCluster]) -> None:
    cluster = slurm_cluster(nodes=1, rest=False)
    cluster.stop()
    cluster.start()
    job = submit(cluster, "sleep 600", f"--output={cluster.jobs}/sleep.out")
    until(lambda: cluster.run("squeue", "-h", "-j", str(job), "-o", "%T").stdout == "RUNNING\n", "the job to run")
    assert processes_of(cluster)
    cluster.remove()
    assert not cluster.base.exists()
    until(lambda: not processes_of(cluster), "its processes to be gone")


def test_a_site_keeps_its_own_job_submit_script(slurm_cluster: Callable[..., SlurmCluster]) -> None:
    cluster = slurm_cluster(nodes=1, rest=False)
    ours = cluster.conf.with_name("job_submit.lua")
    ours.rename(ours.with_name("openfacility_job_submit.lua"))
    replacement = ours.with_name("new.lua")
    replacement.write_text(
        "function slurm_job_submit(job, partitions, uid)\n"
        "  if job.name == 'unwanted' then slurm.log_user('not this one') return slurm.ERROR end\n"
        "  job.comment = 'from the site'\n"
        "  return slurm.SUCCESS\n"
        "end\n"
        "function slurm_job_modify(change, job, partitions, uid) return slurm.SUCCESS end\n"
        f'dofile("{ours.with_name("openfacility_job_submit.lua")}")\n'
        "return slurm.SUCCESS\n"
    )
    replacement.rename(ours)
    refused = cluster.run("sbatch", "-J", "unwanted", check=False, stdin="#!/bin/sh\ntrue\n")
    assert "not this one" in refused.stderr
    submit(cluster, "true", "-J", "wanted", "--hold")
    assert [(event["name"], event["comment"]) for event in events(cluster)] == [("wanted", "from the site")]


def test_no_event_is_no_harm(slurm_cluster: Callable[..., SlurmCluster]) -> None:
    cluster = slurm_cluster(nodes=1, rest=False)
    cluster.events.parent.rmdir()
    job = submit(cluster, "true", "--output=/dev/null")
    state = ("squeue", "-h", "-t", "all", "-j", str(job), "-o", "%T")
    until(lambda: cluster.run(*state).stdout == "COMPLETED\n", "the job to end")
