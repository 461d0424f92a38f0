"""The local engine when something is killed, and when there is much of it."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from openfacility_server.jobs.engines import EngineUnavailable
from openfacility_server.jobs.engines.local import LocalEngine
from openfacility_server.jobs.engines.local.launch import Nursery
from openfacility_server.jobs.engines.local.needs import Needs
from openfacility_server.jobs.engines.local.shepherd import proc, record
from openfacility_server.jobs.engines.local.spool import Spool
from openfacility_server.jobs.model import JobArray, JobReason, JobSpec, JobState

from tests.engines.local_harness import (
    Followed,
    a_job,
    alive,
    elements,
    followed,
    new_id,
    numbers_in,
    ref,
    settings_in,
    shell,
    until,
    waits_for,
)

ROOT = Path(__file__).parents[2]


@pytest.fixture
async def local(tmp_path: Path) -> AsyncIterator[Followed]:
    async with followed(tmp_path) as facility:
        yield facility


@pytest.fixture
def other_server(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A server in another process, leading the spool of `local`'s settings with 64 cores."""
    command = [sys.executable, "-m", "tests.engines.local_leader", f"{tmp_path}/spool", "64", f"{tmp_path}/seen"]
    process = subprocess.Popen(command, cwd=ROOT)
    yield process
    process.kill()
    process.wait()


def shepherd_of(local: Followed, job_id: str) -> int:
    claim = record.read_json(str(local.settings.spool / "jobs" / job_id / "claim"))
    assert claim is not None
    return int(claim["pid"])


async def opened(tmp_path: Path, **values: object) -> Followed:
    """An engine that submits and does not lead."""
    local = Followed(settings_in(tmp_path, **values))
    await local.engine.open()
    return local


async def test_server_killed_during_fifty_jobs(tmp_path: Path, other_server: subprocess.Popen[bytes]) -> None:
    local = await opened(tmp_path, cores=64)
    go = tmp_path / "go"
    scripts = [waits_for(go, f"exit {number}") if number % 5 else waits_for(go, "kill -9 $$") for number in range(50)]
    ids = [await local.submit(shell(script)) for script in scripts]
    directories = [local.settings.spool / "jobs" / job_id for job_id in ids]
    await until(lambda: all((directory / "started.json").exists() for directory in directories))
    other_server.send_signal(signal.SIGKILL)
    other_server.wait()
    ended_alone = directories[1]
    (ended_alone / "cancel").symlink_to("CANCELED_BY_OWNER")  # obeyed without any server
    await until((ended_alone / "exit.json").exists)
    go.touch()
    await until(lambda: sum((d / "exit.json").exists() for d in directories) > 10)
    await local.engine.close()
    async with followed(tmp_path, cores=64) as later:
        ends = await later.ends_of(ids)
        for number, end in enumerate(ends):
            expected = (None, 9) if number % 5 == 0 else (number, None)
            if number != 1:
                assert (end.exit_code, end.signal) == expected
                assert end.start_time is not None
        assert ends[1].state is JobState.CANCELED
        await later.run(shell("true"))
        assert all(count == 1 for count in Counter(end.job_id for end in later.ends()).values())


async def test_interrupt_of_the_foreground_group(tmp_path: Path, other_server: subprocess.Popen[bytes]) -> None:
    """Ctrl-C and a kill of the server's process group do not reach jobs."""
    local = await opened(tmp_path, cores=64)
    pids = tmp_path / "pids"
    job_id = await local.submit(shell(f"echo $$ $PPID > {pids}; {waits_for(tmp_path / 'go', 'exit 3')}"))
    processes = await numbers_in(pids, 2)
    groups = {os.getpgid(pid) for pid in processes}
    assert os.getpgid(other_server.pid) not in groups
    assert shepherd_of(local, job_id) == processes[1]
    assert processes[1] not in proc.children(other_server.pid)
    other_server.send_signal(signal.SIGKILL)
    other_server.wait()
    assert all(alive(pid) for pid in processes)
    (tmp_path / "go").touch()
    await local.engine.close()
    async with followed(tmp_path) as later:
        assert (await later.end_of(job_id)).exit_code == 3


async def test_stop_and_start_while_jobs_run(local: Followed, tmp_path: Path) -> None:
    job_id = await local.submit(shell(waits_for(tmp_path / "go", "exit 8")))
    queued = await local.submit(shell("exit 9", hold=True))
    await local.saw(job_id, JobState.ACTIVE)
    await local.stop()
    local.seen.clear()
    await local.start()
    started = await local.saw(job_id, JobState.ACTIVE)
    assert started.start_time == started.time
    (tmp_path / "go").touch()
    assert (await local.end_of(job_id)).exit_code == 8
    await local.engine.release([ref(queued)], by_operator=False)
    assert (await local.end_of(queued)).exit_code == 9


async def test_second_process_steers_while_the_first_leads(
    tmp_path: Path, other_server: subprocess.Popen[bytes]
) -> None:
    local = await opened(tmp_path, cores=64)
    assert other_server.poll() is None

    async def state(job_id: str, wanted: JobState) -> None:
        async with asyncio.timeout(60):
            while (await local.engine.observe([ref(job_id)]))[0].state is not wanted:  # noqa: ASYNC110 -- another leads
                await asyncio.sleep(0.01)

    runs = await local.submit(shell("sleep 1000"))
    held = await local.submit(shell("exit 4", hold=True))
    await state(runs, JobState.ACTIVE)
    await local.engine.cancel([ref(runs)], JobReason.CANCELED_BY_OWNER)
    await state(runs, JobState.CANCELED)
    await state(held, JobState.HELD)
    await local.engine.release([ref(held)], by_operator=False)
    await state(held, JobState.FAILED)
    await until(lambda: not local.unfinished())
    seen = (tmp_path / "seen").read_text().splitlines()
    assert [line for line in seen if line.startswith(held)][-1] == f"{held} FAILED NONZERO_EXIT 4"
    await local.engine.close()


async def test_second_follower_takes_over(local: Followed, tmp_path: Path) -> None:
    second = await Followed(local.settings).start()
    job_id = await local.submit(shell(waits_for(tmp_path / "go", "exit 2")))
    await local.saw(job_id, JobState.ACTIVE)
    assert second.seen == []
    await local.stop()
    await second.saw(job_id, JobState.ACTIVE)
    (tmp_path / "go").touch()
    assert (await second.end_of(job_id)).exit_code == 2
    await second.stop()
    await local.start()


async def test_shepherd_killed(local: Followed, tmp_path: Path) -> None:
    """The job is lost, which is said, and nothing of it goes on."""
    pids = tmp_path / "pids"
    script = f"""
        setsid sh -c 'echo $$ >> {pids}; exec sleep 1000' &
        env -i sh -c 'echo $$ >> {pids}; exec sleep 1000' &
        echo $$ >> {pids}; wait
    """
    job_id = await local.submit(shell(script))
    processes = await numbers_in(pids, 3)
    await local.saw(job_id, JobState.ACTIVE)
    os.kill(shepherd_of(local, job_id), signal.SIGKILL)
    end = await local.end_of(job_id)
    assert (end.state, end.reason, end.exit_code, end.usage) == (JobState.FAILED, JobReason.LOST, None, None)
    assert end.start_time is not None
    assert not any(alive(pid) for pid in processes)


async def test_shepherd_killed_while_no_server_runs(local: Followed, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    job_id = await local.submit(shell(f"setsid sh -c 'echo $$ > {pids}; exec sleep 1000'; sleep 1000"))
    processes = await numbers_in(pids)
    await local.stop()
    os.kill(shepherd_of(local, job_id), signal.SIGKILL)
    await local.start()
    assert (await local.end_of(job_id)).reason is JobReason.LOST
    assert not any(alive(pid) for pid in processes)


async def test_machine_restarted(local: Followed) -> None:
    """A claim of another boot is nobody's, whoever has that process number now."""
    job_id = await local.submit(shell("exec sleep 1000"))
    await local.saw(job_id, JobState.ACTIVE)
    await local.stop()
    shepherd = shepherd_of(local, job_id)
    os.kill(shepherd, signal.SIGKILL)
    await until(lambda: not alive(shepherd))
    claim = local.settings.spool / "jobs" / job_id / "claim"
    claim.write_text(f'{{"pid": {os.getpid()}, "identity": 1, "boot": "another"}}')
    await local.start()
    end = await local.end_of(job_id)
    assert end.reason is JobReason.LOST
    assert "restarted" in end.message


async def test_crash_between_start_and_record(tmp_path: Path) -> None:
    """However often a job is started again by leaders that did not get to note it, it runs once."""
    local = await opened(tmp_path)
    runs = tmp_path / "runs"
    job_id = await local.submit(shell(f"echo ran >> {runs}; {waits_for(tmp_path / 'go', 'exit 5')}"))
    spool = Spool(local.settings.spool)
    nurseries = [Nursery(local.settings, spool) for _ in range(5)]
    await asyncio.gather(*(asyncio.to_thread(nursery.start, job_id, Needs()) for nursery in nurseries))
    await local.submit(shell("true"), job_id)
    async with followed(tmp_path) as later:
        await later.saw(job_id, JobState.ACTIVE)
        (tmp_path / "go").touch()
        assert (await later.end_of(job_id)).exit_code == 5
    for nursery in nurseries:
        nursery.close()
    assert runs.read_text() == "ran\n"
    await local.engine.close()


async def test_crash_between_decision_and_start(tmp_path: Path) -> None:
    """A leader that decided to start a job and died: the next one starts it."""
    local = await opened(tmp_path)
    job_id, canceled = await local.submit(shell("exit 6")), await local.submit(shell("echo ran"))
    launch = {
        "resource_id": "laptop",
        "name": "",
        "processes": 1,
        "cores": 1,
        "memory": None,
        "duration": None,
        "kill_grace": 1,
    }
    spool = Spool(local.settings.spool)
    assert all(spool.begin(each, lambda _: launch) for each in (job_id, canceled))
    await local.engine.cancel([ref(canceled)], JobReason.CANCELED_BY_OWNER)
    await local.engine.close()
    async with followed(tmp_path) as later:
        assert (await later.end_of(job_id)).exit_code == 6
        end = await later.end_of(canceled)
        assert (end.state, end.start_time) == (JobState.CANCELED, None)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(tmp_path)]
    if subprocess.run(mount, check=False, capture_output=True).returncode != 0:
        pytest.skip("may not mount file systems here")
    yield tmp_path
    subprocess.run(["umount", "--lazy", str(tmp_path)], check=True)


async def test_full_disk(small_disk: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Ends are recorded and jobs can be canceled; what cannot start waits until there is room."""
    go = tmp_path_factory.mktemp("go") / "go"
    async with followed(small_disk) as local:
        ends = await local.submit(shell(waits_for(go, "exit 3")))
        await local.saw(ends, JobState.ACTIVE)
        fills = await local.submit(shell(f"cat /dev/zero > {small_disk}/fill; sleep 1000"))
        await until(lambda: shutil.disk_usage(small_disk).free == 0)
        go.touch()
        assert (await local.end_of(ends)).exit_code == 3
        waits = new_id()
        with suppress(EngineUnavailable):
            await local.engine.submit([a_job(waits, shell("exit 4"))])
        await local.engine.cancel([ref(fills)], JobReason.CANCELED_BY_OWNER)
        assert (await local.end_of(fills)).state is JobState.CANCELED
        (small_disk / "fill").unlink()
        await local.submit(shell("exit 4"), waits)
        assert (await local.end_of(waits)).exit_code == 4


async def test_submission_that_was_never_finished(local: Followed) -> None:
    """A marker without a job does no harm and goes away; the job can be submitted after all."""
    marker = local.settings.spool / "active" / new_id()
    marker.touch()
    assert (await local.run(shell("exit 3"))).exit_code == 3
    assert await local.engine.observe([ref(marker.name)]) == []
    os.utime(marker, (0, 0))
    await until(lambda: not marker.exists())
    await local.submit(shell("exit 4"), marker.name)
    assert (await local.end_of(marker.name)).exit_code == 4


async def test_damaged_record(local: Followed) -> None:
    """One job whose record is destroyed stops no other."""
    damaged = await local.submit(shell("true", hold=True))
    await local.saw(damaged, JobState.HELD)
    await local.stop()
    (local.settings.spool / "jobs" / damaged / "job.json").write_text('{"id')
    await local.start()
    assert (await local.run(shell("exit 3"))).exit_code == 3
    assert await local.engine.observe([ref(damaged)]) == []
    (local.settings.spool / "active" / damaged).unlink()


async def test_nursery_killed(local: Followed) -> None:
    assert (await local.run(shell("true"))).state is JobState.COMPLETED
    leader = local.engine._leader
    assert leader is not None
    process = leader._nursery.open()
    process.kill()
    await asyncio.to_thread(process.wait)
    assert (await local.run(shell("exit 3"))).exit_code == 3


async def test_end_that_was_not_taken_is_told_again(tmp_path: Path) -> None:
    """The follower dies before it has stored what it was given: the next one is given it too."""
    engine = LocalEngine(settings_in(tmp_path))
    await engine.open()
    job_id = new_id()
    await engine.submit([a_job(job_id, shell("exit 3"))])
    follower = engine.follow()
    async for batch in follower:
        if any(observation.state.final for observation in batch):
            break
    await follower.aclose()  # type: ignore[attr-defined]
    await engine.close()
    async with followed(tmp_path) as later:
        assert (await later.end_of(job_id)).exit_code == 3
        await until(lambda: not later.unfinished())


@pytest.mark.timeout(300)
async def test_a_thousand_jobs_at_once(tmp_path: Path) -> None:
    """Single jobs and elements, each ending in its own way, each end told once."""
    async with followed(tmp_path, cores=32) as local:
        singles = [a_job(new_id(), shell(f"exit {number % 7}")) for number in range(500)]
        spec = shell("exit $((OPENFACILITY_ARRAY_INDEX % 5))", array=JobArray(0, 499, 1, max_active=8))
        array = elements(new_id(), spec)
        first, second = await asyncio.gather(local.engine.submit(singles), local.engine.submit(array))
        assert [*first, *second] == [job.id for job in (*singles, *array)]
        await local.ends_of([*first, *second], deadline=240)
        await local.run(shell("true"))
        counts = Counter(end.job_id for end in local.ends())
        assert len(counts) == 1001
        assert set(counts.values()) == {1}
        codes = {end.job_id: end.exit_code for end in local.ends()}
        assert all(codes[job.id] == number % 7 for number, job in enumerate(singles))
        assert all(codes[job.id] == index % 5 for index, job in enumerate(array))


async def test_a_long_queue_is_not_told_of_again(tmp_path: Path) -> None:
    """A long queue of held jobs does not slow down the one that runs."""
    async with followed(tmp_path) as local:
        spec = JobSpec(executable="/bin/true", hold=True)
        jobs = [a_job(new_id(), spec) for _ in range(2000)]
        await local.engine.submit(jobs)
        await local.saw(jobs[-1].id, JobState.HELD)
        before = len(local.seen)
        for _ in range(5):
            await local.run(shell("true"))
        assert len(local.seen) - before <= 15
