"""What is new in Jobs, against the real server and its local engine: by the client and by the command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator

import openfacility_client as of
import pytest

from tests.support.server import ALICE, BOB, Server

pytestmark = pytest.mark.timeout(120)

WAIT = 60
# Says when it can be signalled, and ends by itself only when it was.
TRAPPING = "trap 'echo caught; exit 3' USR1; echo ready; while :; do sleep 0.05; done"


@pytest.fixture(scope="module")
def real() -> Iterator[Server]:
    server = Server()
    try:
        server.start()
        yield server
    finally:
        server.remove()


@pytest.fixture
def alice(real: Server) -> Iterator[of.Client]:
    with of.Client(real.address, token=ALICE) as client:
        yield client


def command(server: Server, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OPENFACILITY_ADDRESS": server.address, "OPENFACILITY_TOKEN": ALICE, "TZ": "UTC"}
    return subprocess.run(
        [sys.executable, "-m", "openfacility_cli", *words],
        env=environment,
        capture_output=True,
        text=True,
        timeout=WAIT,
        check=False,
    )


def trapping_job(client: of.Client) -> of.Job:
    """Submits a job that waits for USR1, and returns it when it can take it."""
    job = client.jobs.submit("/bin/bash", "-c", TRAPPING)
    with client.jobs.logs(job, follow=True, timeout=WAIT) as pieces:
        assert next(iter(pieces)) == b"ready\n"
    return job


def test_a_fresh_answer_says_when_it_was_compared(alice: of.Client, real: Server) -> None:
    job = alice.jobs.wait(alice.jobs.submit("/bin/true"), timeout=WAIT)
    first = alice.jobs.get(job, fresh=True)
    second = alice.jobs.get(job, fresh=True)
    assert first.observe_time is not None
    assert second.observe_time is not None
    assert first.observe_time <= second.observe_time
    assert (first.external, first.nodes) == (False, "")
    found = alice.jobs.list(fresh=True, job_ids=job)
    assert [each.id for each in found] == [job.id]
    assert found.observe_times["local"] >= first.observe_time
    shown = command(real, "jobs", "get", "--fresh", job.id)
    assert "as of:" in shown.stdout
    assert command(real, "jobs", "list", "--fresh").returncode == 0


def test_a_signal_reaches_the_program(alice: of.Client, real: Server) -> None:
    job = trapping_job(alice)
    assert alice.jobs.signal(job, "SIGUSR1").id == job.id
    ended = alice.jobs.wait(job, timeout=WAIT)
    assert (ended.state, ended.exit_code) == (of.JobState.FAILED, 3)
    with pytest.raises(of.FailedPrecondition) as caught:
        alice.jobs.signal(job, "USR1")
    assert caught.value.reason == "JOB_STATE"
    with pytest.raises(of.InvalidArgument):
        alice.jobs.signal(job, "SIGNONSENSE")
    again = trapping_job(alice)
    assert command(real, "jobs", "signal", again.id, "usr1").returncode == 0
    assert alice.jobs.wait(again, timeout=WAIT).exit_code == 3


def test_others_jobs_are_not_there_to_be_signalled(alice: of.Client, real: Server) -> None:
    job = alice.jobs.submit("/bin/true", hold=True)
    with of.Client(real.address, token=BOB) as bob:
        for steer in (lambda: bob.jobs.signal(job, "USR1"), lambda: bob.jobs.requeue(job)):
            with pytest.raises(of.NotFound):
                steer()
    alice.jobs.cancel(job)


def test_the_local_engine_puts_no_job_back(alice: of.Client, real: Server) -> None:
    job = trapping_job(alice)
    with pytest.raises(of.FailedPrecondition) as caught:
        alice.jobs.requeue(job)
    assert caught.value.reason == "ENGINE_CANNOT"
    shown = command(real, "jobs", "requeue", job.id, "--hold")
    assert shown.returncode == 1
    assert shown.stderr.startswith("openfacility: ")
    assert len(shown.stderr.splitlines()) == 1
    alice.jobs.cancel(job)


def test_an_estimate_submits_nothing(alice: of.Client, real: Server) -> None:
    before = [job.id for job in alice.jobs.list()]
    found = alice.jobs.estimate("/bin/true", cores=2, duration=3600)
    assert found.acceptable
    assert (found.core_count, found.core_hours) == (2, 2.0)
    with pytest.raises(of.InvalidArgument):
        alice.jobs.estimate("/bin/true", cores=5000)
    shown = command(real, "jobs", "estimate", "--cores", "2", "--time", "1h", "--", "/bin/true")
    assert shown.returncode == 0
    assert "core hours:  2" in shown.stdout
    assert json.loads(command(real, "jobs", "estimate", "--json", "/bin/true").stdout)["acceptable"]
    assert [job.id for job in alice.jobs.list()] == before


def test_there_are_no_reservations_without_a_batch_system(alice: of.Client, real: Server) -> None:
    assert alice.jobs.reservations() == []
    with pytest.raises(of.InvalidArgument):
        alice.jobs.reservations(resource_ids=["local", "nowhere"])
    assert command(real, "reservations").stdout.split()[:2] == ["ID", "RESOURCE"]
    assert command(real, "reservations", "-r", "nowhere").returncode == 1


def test_what_waits_says_for_what(alice: of.Client, real: Server) -> None:
    full = alice.jobs.submit("/bin/sleep", "600", cores=4)
    waiting = alice.jobs.submit("/bin/true", cores=4)
    try:
        with alice.jobs.watch(waiting, timeout=WAIT) as changes:
            assert any(change.job.status.reason is of.JobReason.RESOURCES for change in changes)
        assert "QUEUED (waiting: " in command(real, "jobs", "get", waiting.id).stdout
        line = next(line for line in command(real, "jobs", "list").stdout.splitlines() if line.startswith(waiting.id))
        assert "waiting: " in line
    finally:
        alice.jobs.cancel(waiting)
        alice.jobs.cancel(full)
