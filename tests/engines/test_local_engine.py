"""The local engine with real processes: how jobs run and end."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from openfacility_server.jobs.engines import EngineCannot, EngineError, EngineUpdate, OutputStream
from openfacility_server.jobs.engines.local.shepherd import proc
from openfacility_server.jobs.model import (
    Container,
    JobArray,
    JobAttributes,
    JobReason,
    JobSpec,
    JobState,
    ResourceSpec,
)

from tests.engines.local_harness import Followed, alive, followed, names_in, numbers_in, ref, shell, until, waits_for


@pytest.fixture
async def local(tmp_path: Path) -> AsyncIterator[Followed]:
    async with followed(tmp_path) as facility:
        yield facility


def executable(path: Path, text: str) -> str:
    path.write_text(text)
    path.chmod(0o755)
    return str(path)


# Ends


async def test_success(local: Followed) -> None:
    end = await local.run(shell("echo out; echo err >&2"))
    assert (end.state, end.reason, end.exit_code, end.signal) == (JobState.COMPLETED, JobReason.UNSPECIFIED, 0, None)
    assert end.start_time is not None
    assert end.end_time is not None
    assert end.start_time <= end.end_time
    assert end.usage is not None
    assert end.usage.elapsed > timedelta()
    assert local.output(end.job_id) == "out\n"
    assert local.output(end.job_id, "stderr") == "err\n"


async def test_states_in_order(local: Followed) -> None:
    end = await local.run(shell("sleep 0.3"))
    states = [observation.state for observation in local.of(end.job_id)]
    assert states == [JobState.QUEUED, JobState.ACTIVE, JobState.COMPLETED]
    assert await local.engine.observe([ref(end.job_id), ref("unknown")]) == [end]


async def test_exit_code(local: Followed) -> None:
    end = await local.run(shell("exit 42"))
    assert (end.state, end.reason, end.exit_code) == (JobState.FAILED, JobReason.NONZERO_EXIT, 42)


async def test_signal(local: Followed) -> None:
    end = await local.run(shell("kill -SEGV $$"))
    assert (end.state, end.reason, end.exit_code, end.signal) == (JobState.FAILED, JobReason.SIGNALED, None, 11)
    assert "SIGSEGV" in end.message


async def test_time_limit(local: Followed) -> None:
    end = await local.run(shell("trap '' TERM; while :; do sleep 1; done", attributes=limit(1)))
    assert (end.state, end.reason, end.signal) == (JobState.FAILED, JobReason.TIME_LIMIT, signal.SIGKILL)
    assert end.usage is not None
    assert end.usage.elapsed >= timedelta(seconds=2)  # limit and grace


def limit(seconds: float) -> JobAttributes:
    return JobAttributes(duration=timedelta(seconds=seconds))


async def test_default_time_limit(tmp_path: Path) -> None:
    async with followed(tmp_path, default_duration=timedelta(seconds=0.5)) as local:
        end = await local.run(shell("sleep 1000"))
        assert (end.reason, end.signal) == (JobReason.TIME_LIMIT, signal.SIGTERM)


async def test_time_limit_changed_while_running(local: Followed) -> None:
    longer = await local.submit(shell("sleep 2", attributes=limit(1)))
    shorter = await local.submit(shell("sleep 1000", attributes=limit(900)))
    for job_id in (longer, shorter):
        await local.saw(job_id, JobState.ACTIVE)
    await local.engine.update(ref(longer), EngineUpdate(duration=timedelta(seconds=100)), by_operator=False)
    await local.engine.update(ref(shorter), EngineUpdate(duration=timedelta(seconds=1)), by_operator=False)
    assert (await local.end_of(longer)).state is JobState.COMPLETED
    assert (await local.end_of(shorter)).reason is JobReason.TIME_LIMIT


async def test_memory_limit(local: Followed) -> None:
    hungry = "x = []\nwhile True: x.append(bytearray(4 << 20)); __import__('time').sleep(0.005)"
    spec = JobSpec(executable="python3", arguments=("-c", hungry), resources=ResourceSpec(memory=100 << 20))
    end = await local.run(spec)
    assert (end.state, end.reason) == (JobState.FAILED, JobReason.OUT_OF_MEMORY)
    assert end.usage is not None
    assert end.usage.peak_memory > 100 << 20


async def test_usage(local: Followed) -> None:
    work = "x = bytearray(200 << 20)\nfor i in range(3_000_000): pass\nimport time; time.sleep(0.6)"
    end = await local.run(shell(f"python3 -c '{work}'"))
    assert end.usage is not None
    assert end.usage.peak_memory > 200 << 20
    assert timedelta(seconds=0.02) < end.usage.cpu_time < timedelta(seconds=30)


async def test_what_a_program_leaves_behind_is_killed(local: Followed, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    end = await local.run(shell(f"setsid sleep 1000 & echo $! > {pids}; exit 3"))
    assert end.exit_code == 3
    assert not any(alive(pid) for pid in await numbers_in(pids))


# Cancellation


async def test_cancel_ends_the_whole_tree(local: Followed, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    # A child, one in a session of its own whose parent is gone, and one that does not listen to SIGTERM.
    script = f"""
        sleep 1000 & echo $! >> {pids}
        (setsid sh -c 'echo $$ >> {pids}; exec sleep 1000' &)
        (trap '' TERM; setsid sh -c 'echo $$ >> {pids}; while :; do sleep 1; done' &)
        echo $$ >> {pids}; wait; sleep 1000
    """
    job_id = await local.submit(shell(script))
    processes = await numbers_in(pids, 4)
    assert all(alive(pid) for pid in processes)
    await local.engine.cancel([ref(job_id), ref("unknown"), ref("../..")], JobReason.CANCELED_BY_OPERATOR)
    end = await local.end_of(job_id)
    assert (end.state, end.reason) == (JobState.CANCELED, JobReason.CANCELED_BY_OPERATOR)
    assert not any(alive(pid) for pid in processes)
    await local.engine.cancel([ref(job_id)], JobReason.CANCELED_BY_OWNER)
    assert await local.engine.observe([ref(job_id)]) == [end]


async def test_cancel_while_waiting(local: Followed) -> None:
    job_id = await local.submit(shell("echo ran", hold=True))
    await local.saw(job_id, JobState.HELD)
    await local.engine.cancel([ref(job_id)], JobReason.CANCELED_BY_OWNER)
    end = await local.end_of(job_id)
    assert (end.state, end.reason, end.start_time) == (JobState.CANCELED, JobReason.CANCELED_BY_OWNER, None)
    assert await local.read(job_id) is None


async def test_exit_code_of_a_canceled_program(local: Followed) -> None:
    job_id = await local.submit(shell("trap 'exit 7' TERM; while :; do sleep 0.05; done"))
    await local.saw(job_id, JobState.ACTIVE)
    await local.engine.cancel([ref(job_id)], JobReason.CANCELED_BY_OWNER)
    end = await local.end_of(job_id)
    assert end.state is JobState.CANCELED
    assert end.signal in (None, signal.SIGTERM)  # SIGTERM, when it came before the trap was set
    assert end.exit_code in (None, 7)


# What a job is given


async def test_environment_inherited(local: Followed, monkeypatch: pytest.MonkeyPatch) -> None:
    # The nursery has been started with the environment of this process before; a new leader takes it over as it is now.
    monkeypatch.setenv("SITE_MODULES", "/opt/modules")
    monkeypatch.setenv("OPENFACILITY_DATABASE", "postgresql://secret")
    monkeypatch.setenv("MY_SECRET", "x")
    await local.stop()
    await local.start()
    end = await local.run(JobSpec(executable="env", environment={"MINE": "1 % \n 2", "OPENFACILITY_JOB_ID": "forged"}))
    lines = local.output(end.job_id).splitlines()
    assert {"SITE_MODULES=/opt/modules", "MINE=1 % ", " 2", f"OPENFACILITY_JOB_ID={end.job_id}"} <= set(lines)
    assert not any(line.startswith(("OPENFACILITY_DATABASE", "MY_SECRET")) for line in lines)


async def test_environment_empty(local: Followed) -> None:
    spec = JobSpec(
        executable="/usr/bin/env",
        inherit_environment=False,
        environment={"A": "b"},
        resources=ResourceSpec(process_count=2, cpu_cores_per_process=2),
        array=JobArray(7, 7),
    )
    [job_id] = await local.submit_array(spec)
    await local.end_of(job_id)
    variables = dict(line.split("=", 1) for line in local.output(job_id).splitlines())
    assert variables == {
        "A": "b",
        "OPENFACILITY_JOB_ID": job_id,
        "OPENFACILITY_RESOURCE_ID": "laptop",
        "OPENFACILITY_CORES": "4",
        "OPENFACILITY_PROCESS_INDEX": "0",
        "OPENFACILITY_ARRAY_JOB_ID": job_id.split("_")[0],
        "OPENFACILITY_ARRAY_INDEX": "7",
    }


async def test_clean_process(local: Followed) -> None:
    """No descriptors, ignored signals or terminal of ours."""
    script = "ls -l /proc/self/fd | wc -l; grep -E '^Sig(Blk|Ign)' /proc/self/status; ps -o tty= -p $$"
    end = await local.run(shell(script))
    lines = local.output(end.job_id).split()
    assert lines[0] == "5"  # a heading, three files, and the directory being listed
    assert lines[1:4] == ["SigBlk:", "0" * 16, "SigIgn:"]
    # Signals 32 and 33 are the C library's own: nobody can reset what they were when the tests were started.
    assert int(lines[4], 16) & ~(0b11 << 31) == 0
    assert lines[5] == "?"


async def test_directory_and_stdin(local: Followed, tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("hello\n")
    end = await local.run(shell("pwd; cat", directory=str(tmp_path), stdin_path="in.txt"))
    assert local.output(end.job_id) == f"{tmp_path}\nhello\n"
    own = await local.run(shell("pwd; cat; echo made > here"))
    work = local.settings.spool / "jobs" / own.job_id / "work"
    assert local.output(own.job_id) == f"{work}\n"
    assert (work / "here").exists()
    assert work.stat().st_mode & 0o777 == 0o700


async def test_output_patterns(local: Followed, tmp_path: Path) -> None:
    spec = shell(
        "echo out; echo err >&2",
        name="my/job",
        directory=str(tmp_path),
        stdout_path="%x-%A-%a-%%-%j-%q.out",
        stderr_path=str(tmp_path / "err-%a"),
        array=JobArray(3, 5, 2),
    )
    ids = await local.submit_array(spec)
    await local.ends_of(ids)
    for job_id in ids:
        array_id, index = job_id.split("_")
        path = tmp_path / f"my_job-{array_id}-{index}-%-{job_id}-%q.out"
        assert path.read_text() == "out\n"
        assert (tmp_path / f"err-{index}").read_text() == "err\n"
        assert await local.read(job_id) == b"out\n"
        assert await local.read(job_id, OutputStream.STDERR) == b"err\n"


async def test_merged_output_overwrites(local: Followed, tmp_path: Path) -> None:
    (tmp_path / "log").write_text("something very long from before\n" * 10)
    script = "echo one; echo two >&2; echo three"
    await local.run(shell(script, directory=str(tmp_path), stdout_path="log", stderr_path="./log"))
    assert (tmp_path / "log").read_text() == "one\ntwo\nthree\n"


async def test_hostile_names(local: Followed, tmp_path: Path) -> None:
    directory = tmp_path / "a b\n%j;$(touch x)'\"é"
    directory.mkdir()
    program = executable(directory / "pro\ngram %s", '#!/bin/sh\nprintf "<%s>" "$@"\n')
    arguments = ("", "a b", "$(id)", "new\nline", "%j", "'", "\u2603")
    spec = JobSpec(executable=program, arguments=arguments, directory=str(directory), stdout_path="o\nut %%j ü")
    end = await local.run(spec)
    assert end.state is JobState.COMPLETED, end.message
    assert (directory / "o\nut %j ü").read_text() == "".join(f"<{argument}>" for argument in arguments)


async def test_hostile_spool(tmp_path: Path) -> None:
    spool = tmp_path / ("long" * 40) / "new\nline %j 'é"
    async with followed(tmp_path, spool=spool) as local:
        assert (await local.run(shell("exit 5"))).exit_code == 5


async def test_inline_script(local: Followed) -> None:
    script = "#!/usr/bin/env python3\nimport sys\nprint('é', sys.argv[1:])\nsys.exit(9)\n"
    end = await local.run(JobSpec(script=script, arguments=("a b",)))
    assert end.exit_code == 9
    assert local.output(end.job_id) == "é ['a b']\n"
    assert (local.settings.spool / "jobs" / end.job_id / "script").stat().st_mode & 0o777 == 0o700


async def test_modes(local: Followed) -> None:
    end = await local.run(shell("true"))
    directory = local.settings.spool / "jobs" / end.job_id
    assert directory.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o177 for path in directory.iterdir() if path.is_file()} == {0}


# Around the program


async def test_pre_and_post_launch(local: Followed, tmp_path: Path) -> None:
    pre = executable(tmp_path / "pre", "#!/bin/sh\necho pre $A; pwd > where\n")
    post = executable(tmp_path / "post", "#!/bin/sh\necho post; exit 4\n")
    spec = shell("echo main; exit 3", directory=str(tmp_path), environment={"A": "b"}, pre_launch=pre, post_launch=post)
    end = await local.run(spec)
    assert (end.state, end.reason, end.exit_code) == (JobState.FAILED, JobReason.NONZERO_EXIT, 3)
    assert "post_launch script ended with exit code 4" in end.message
    assert local.output(end.job_id) == "pre b\nmain\npost\n"
    assert (tmp_path / "where").read_text() == f"{tmp_path}\n"


async def test_pre_launch_that_fails(local: Followed, tmp_path: Path) -> None:
    pre = executable(tmp_path / "pre", "#!/bin/sh\nexit 2\n")
    end = await local.run(shell("echo main", pre_launch=pre))
    assert (end.state, end.reason, end.exit_code) == (JobState.FAILED, JobReason.NONZERO_EXIT, None)
    assert "pre_launch" in end.message
    assert local.output(end.job_id) == ""


async def test_post_launch_after_cancel_is_bounded(local: Followed, tmp_path: Path) -> None:
    post = executable(tmp_path / "post", f"#!/bin/sh\ntouch {tmp_path}/ran; sleep 1000\n")
    job_id = await local.submit(shell("sleep 1000", post_launch=post))
    await local.saw(job_id, JobState.ACTIVE)
    await local.engine.cancel([ref(job_id)], JobReason.CANCELED_BY_OWNER)
    end = await local.end_of(job_id)
    assert (end.state, end.signal) == (JobState.CANCELED, signal.SIGTERM)
    assert (tmp_path / "ran").exists()


async def test_multiple(local: Followed, tmp_path: Path) -> None:
    script = f"echo $OPENFACILITY_PROCESS_INDEX; touch {tmp_path}/$OPENFACILITY_PROCESS_INDEX; " + "; ".join(
        waits_for(tmp_path / str(index), "true") for index in range(3)
    )
    script += "; [ $OPENFACILITY_PROCESS_INDEX != 1 ] || exit 6"
    end = await local.run(shell(script, launcher="multiple", resources=ResourceSpec(process_count=3)))
    assert end.exit_code == 6
    assert sorted(local.output(end.job_id).split()) == ["0", "1", "2"]


# What cannot be launched

NO_SUCH = "No such file or directory"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (JobSpec(executable="/no/such/program"), f"The program could not be started: {NO_SUCH}."),
        (JobSpec(executable="no-such-program-anywhere"), f"The program could not be started: {NO_SUCH}."),
        (JobSpec(executable="/etc"), "The program could not be started: Permission denied."),
        (JobSpec(script="#!/no/such/interpreter\n"), "interpreter in its first line does not exist"),
        (shell("true", directory="/no/such"), f"The directory could not be entered: {NO_SUCH}."),
        (shell("true", stdin_path="no-such"), f"Standard input could not be opened: {NO_SUCH}."),
        (shell("true", stdin_path="/"), "Standard input could not be opened: Is a directory."),
        (shell("true", stdout_path="/no/such/file"), f"Standard output could not be opened: {NO_SUCH}."),
        (shell("true", stderr_path="/etc"), "Standard error could not be opened: Is a directory."),
        (shell("true", pre_launch="/no/such"), "The pre_launch script could not be started"),
    ],
)
async def test_launch_failed(local: Followed, spec: JobSpec, message: str) -> None:
    end = await local.run(spec)
    assert (end.state, end.reason) == (JobState.FAILED, JobReason.LAUNCH_FAILED)
    assert (end.exit_code, end.signal, end.start_time) == (None, None, None)
    assert message in end.message
    assert str(local.settings.spool) not in end.message


async def test_fifo_without_a_reader_does_not_hang(local: Followed, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    assert (await local.run(shell("true", stdout_path=str(tmp_path / "fifo")))).reason is JobReason.LAUNCH_FAILED


# What the engine refuses


async def test_check(local: Followed, tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.write_text("")

    def fields(spec: JobSpec) -> list[str]:
        problems = local.engine.check(spec)
        assert all(problem.description.endswith(".") for problem in problems)
        return [problem.field for problem in problems]

    assert fields(shell("true", directory=str(tmp_path))) == []
    resources = ResourceSpec(node_count=2, process_count=3, cpu_cores_per_process=2, gpu_cores_per_process=1)
    assert fields(shell("true", resources=resources)) == [
        "resources.node_count",
        "resources.gpu_cores_per_process",
        "resources.process_count",
    ]
    attributes = JobAttributes(queue_name="night", reservation_id="r", custom_attributes={"slurm.x": "1"})
    assert fields(shell("true", attributes=attributes, launcher="mpirun", container=Container("x"))) == [
        "attributes.queue_name",
        "attributes.reservation_id",
        'attributes.custom_attributes["slurm.x"]',
        "container",
        "launcher",
    ]
    assert fields(JobSpec(script_path=str(plain), pre_launch="/no/such", directory=str(plain))) == [
        "directory",
        "script_path",
        "pre_launch",
    ]


async def test_check_of_limits(tmp_path: Path) -> None:
    async with followed(tmp_path, max_duration=timedelta(hours=1), memory=1 << 30) as local:
        spec = shell("true", attributes=limit(3601), resources=ResourceSpec(memory=(1 << 30) + 1))
        assert [problem.field for problem in local.engine.check(spec)] == ["resources.memory", "attributes.duration"]
        [job_id] = [await local.submit(shell("true", hold=True))]
        with pytest.raises(EngineError, match=r"attributes\.duration"):
            await local.engine.update(ref(job_id), EngineUpdate(duration=timedelta(hours=2)), by_operator=False)


async def test_update(local: Followed) -> None:
    job_id = await local.submit(shell("echo $OPENFACILITY_CORES; sleep 0.5", name="old", stdout_path="%x", hold=True))
    await local.engine.update(
        ref(job_id), EngineUpdate(name="new", resources=ResourceSpec(process_count=3)), by_operator=False
    )
    await local.engine.release([ref(job_id)], by_operator=False)
    await local.saw(job_id, JobState.ACTIVE)
    with pytest.raises(EngineError, match="has been started"):
        await local.engine.update(ref(job_id), EngineUpdate(resources=ResourceSpec()), by_operator=False)
    end = await local.end_of(job_id)
    assert local.output(job_id, "work/new") == "3\n"
    with pytest.raises(EngineError, match="has ended"):
        await local.engine.update(ref(end.job_id), EngineUpdate(name="x"), by_operator=False)
    with pytest.raises(EngineError, match="no such job"):
        await local.engine.update(ref("unknown"), EngineUpdate(name="x"), by_operator=False)


# Signals and what there is not


async def test_signals(local: Followed, tmp_path: Path) -> None:
    """Each one reaches the program and what it started, once, however busy its shepherd is."""
    heard, ready = tmp_path / "heard", tmp_path / "ready"
    loop = f"echo x >> {ready}; {waits_for(tmp_path / 'go')}"
    child = f"trap 'echo child >> {heard}' USR1; {loop}"
    job_id = await local.submit(
        shell(
            f"trap 'echo parent >> {heard}' USR1; setsid sh -c \"$CHILD\" & {loop}; wait", environment={"CHILD": child}
        )
    )
    await until(lambda: ready.exists() and len(ready.read_text().split()) == 2)
    for _ in range(2):
        before = len(heard.read_text().split()) if heard.exists() else 0
        await local.engine.signal([ref(job_id), ref("unknown")], "USR1", by_operator=False)
        await until(lambda: heard.exists() and len(heard.read_text().split()) > before + 1)  # noqa: B023 -- awaited
    assert sorted(heard.read_text().split()) == ["child", "child", "parent", "parent"]
    (tmp_path / "go").touch()
    end = await local.end_of(job_id)
    assert end.state is JobState.COMPLETED
    await local.engine.signal([ref(job_id)], "KILL", by_operator=False)
    assert await local.engine.observe([ref(job_id)]) == [end]


async def test_signals_while_the_shepherd_sleeps(local: Followed, tmp_path: Path) -> None:
    """A shepherd that is stopped hears of all of them when it goes on."""
    pids, heard = tmp_path / "pids", tmp_path / "heard"
    script = f"trap 'echo x >> {heard}' USR1; trap 'echo y >> {heard}' USR2; echo $PPID > {pids}; "
    job_id = await local.submit(shell(script + waits_for(tmp_path / "go")))
    [shepherd] = await numbers_in(pids)
    await local.saw(job_id, JobState.ACTIVE)
    os.kill(shepherd, signal.SIGSTOP)
    await local.engine.signal([ref(job_id)], "USR1", by_operator=False)
    await local.engine.signal([ref(job_id)], "USR2", by_operator=False)
    os.kill(shepherd, signal.SIGCONT)
    await until(lambda: heard.exists() and sorted(heard.read_text().split()) == ["x", "y"])
    (tmp_path / "go").touch()


async def test_signal_that_kills(local: Followed) -> None:
    job_id = await local.submit(shell("exec sleep 1000"))
    await local.saw(job_id, JobState.ACTIVE)
    with pytest.raises(EngineError, match="no such signal"):
        await local.engine.signal([ref(job_id)], "NONE", by_operator=False)
    await local.engine.signal([ref(job_id)], "KILL", by_operator=False)
    end = await local.end_of(job_id)
    assert (end.state, end.reason, end.signal) == (JobState.FAILED, JobReason.SIGNALED, signal.SIGKILL)


async def test_signal_for_a_job_that_waits(local: Followed) -> None:
    """It is passed over, not kept until the job runs."""
    job_id = await local.submit(shell("sleep 0.2", hold=True))
    await local.engine.signal([ref(job_id)], "KILL", by_operator=False)
    await local.engine.release([ref(job_id)], by_operator=False)
    assert (await local.end_of(job_id)).state is JobState.COMPLETED


async def test_what_there_is_not(local: Followed) -> None:
    assert await local.engine.reservations() == ()
    with pytest.raises(EngineCannot, match="submit it again"):
        await local.engine.requeue([ref("any")], hold=False, by_operator=True)


async def test_estimate(local: Followed, tmp_path: Path) -> None:
    spec = shell("true", attributes=limit(60), resources=ResourceSpec(process_count=2, cpu_cores_per_process=2))
    free = await local.engine.estimate(spec, "me", ())
    assert free.refusal is None
    assert free.start_time is not None
    assert (free.node_count, free.core_count, free.duration) == (1, 4, timedelta(seconds=60))
    blocker = await local.submit(shell(waits_for(tmp_path / "go")))
    await local.saw(blocker, JobState.ACTIVE)
    full = await local.engine.estimate(spec, "me", ())
    assert (full.refusal, full.start_time, full.core_count) == (None, None, 4)
    assert (await local.engine.estimate(shell("true"), "me", ())).start_time is not None
    large = await local.engine.estimate(shell("true", resources=ResourceSpec(process_count=9)), "me", ())
    assert large.refusal is not None
    assert (large.refusal.reason, large.refusal.field) == ("RESOURCES_IMPOSSIBLE", "resources.process_count")
    (tmp_path / "go").touch()
    await local.end_of(blocker)


async def test_output(local: Followed, tmp_path: Path) -> None:
    """It is read while the job writes it, and is gone when somebody removes it."""
    job_id = await local.submit(
        shell(f"echo one; {waits_for(tmp_path / 'go', 'echo two')}", stdout_path=f"{tmp_path}/o")
    )
    assert await local.read("unknown") is None
    await until(lambda: (tmp_path / "o").exists() and (tmp_path / "o").read_text() == "one\n")
    await local.saw(job_id, JobState.ACTIVE)
    assert await local.read(job_id) == b"one\n"
    (tmp_path / "go").touch()
    await local.end_of(job_id)
    assert await local.read(job_id) == b"one\ntwo\n"
    assert await local.read(job_id, OutputStream.STDERR) == b""
    (tmp_path / "o").unlink()
    with pytest.raises(FileNotFoundError):
        await local.read(job_id)
    (tmp_path / "o").symlink_to(tmp_path / "o")
    with pytest.raises(EngineError, match="cannot be read"):
        await local.read(job_id)


async def test_observe_all(local: Followed) -> None:
    held = await local.submit(shell("true", hold=True))
    runs = await local.submit(shell("sleep 1000"))
    end = await local.run(shell("true"))
    await local.saw(runs, JobState.ACTIVE)
    states = {seen.job_id: seen.state for seen in await local.engine.observe_all()}
    states.pop(end.job_id, None)
    assert states == {held: JobState.HELD, runs: JobState.ACTIVE}


# Housekeeping


async def test_nothing_is_leaked(local: Followed) -> None:
    await local.run(shell("true"))
    before = len(names_in(Path("/proc/self/fd")))
    ids = [await local.submit(shell("sleep 0.05")) for _ in range(20)]
    await local.ends_of(ids)
    await until(lambda: len(names_in(Path("/proc/self/fd"))) <= before)
    assert all(alive(child) for child in proc.children(os.getpid()))  # no zombies


async def test_retention(tmp_path: Path) -> None:
    async with followed(tmp_path, retention=timedelta(seconds=1)) as local:
        old = await local.run(shell("true"))
        waiting = await local.submit(shell("true", hold=True))
        await until(lambda: not (local.settings.spool / "jobs" / old.job_id).exists())
        assert [o.job_id for o in await local.engine.observe([ref(old.job_id), ref(waiting)])] == [waiting]


async def test_submit_again(local: Followed, tmp_path: Path) -> None:
    spec = shell("echo ran", directory=str(tmp_path), stdout_path="out")
    end = await local.run(spec)
    again = await local.submit(replace(spec, executable="/bin/false"), end.job_id)
    assert again == end.job_id
    await local.run(shell("true"))
    assert local.of(end.job_id)[-1] == end
    assert len([o for o in local.of(end.job_id) if o.state.final]) == 1


async def test_health(local: Followed) -> None:
    health = await local.engine.health()
    assert health.serving
    assert health.details["cores"] == "4"
