"""SubmitJob: what a job is told to do, it does; what is wrong is refused with the field's name."""

from __future__ import annotations

import asyncio
import re
import signal
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from google.protobuf.duration_pb2 import Duration
from openfacility.jobs.v1 import job_pb2 as pb
from openfacility.jobs.v1 import jobs_service_pb2 as rpc

from tests.support.calls import Caller, refused

SHOW = "#!/bin/sh\n"


def executable(path: Path, text: str) -> str:
    """Writes a script that may be run."""
    path.write_text(text)
    path.chmod(0o755)
    return str(path)


@pytest.mark.both_databases
async def test_a_job_goes_from_new_to_completed(alice: Caller) -> None:
    before = datetime.now(UTC) - timedelta(seconds=5)
    new = await alice.submit("/bin/sh", "-c", "echo hello; echo oh >&2", name="greeting")
    assert re.fullmatch(r"[a-z0-9]{1,32}", new.id)
    assert new.status.state == pb.JOB_STATE_NEW
    assert new.revision > 0
    assert new.etag
    assert new.resource_id
    assert new.owner
    assert before < new.create_time.ToDatetime(UTC) < datetime.now(UTC) + timedelta(seconds=5)
    assert not new.HasField("start_time")
    assert not new.HasField("end_time")

    job = await alice.wait(new.id)
    assert job.status.state == pb.JOB_STATE_COMPLETED
    assert job.status.exit_code == 0
    assert job.status.HasField("exit_code")
    assert not job.status.HasField("signal")
    assert job.native_id
    states = [transition.state for transition in job.transitions]
    assert states == [pb.JOB_STATE_NEW, pb.JOB_STATE_QUEUED, pb.JOB_STATE_ACTIVE, pb.JOB_STATE_COMPLETED]
    times = [transition.time.ToNanoseconds() for transition in job.transitions]
    assert times == sorted(times)
    assert job.start_time.ToNanoseconds() == times[2]
    assert job.end_time.ToNanoseconds() == times[3]
    assert job.update_time.ToNanoseconds() >= new.create_time.ToNanoseconds()
    assert job.create_time == new.create_time
    assert job.usage.elapsed.ToNanoseconds() == pytest.approx(times[3] - times[2], abs=50_000_000)
    assert job.usage.HasField("cpu_time")
    assert await alice.output_bytes(job.id) == b"hello\n"
    assert await alice.output_bytes(job.id, stream=rpc.ReadJobOutputRequest.STREAM_STDERR) == b"oh\n"


async def test_the_answer_is_the_stored_job(alice: Caller) -> None:
    new = await alice.submit("/bin/true", hold=True)
    stored = await alice.get(new.id)
    assert stored.spec == new.spec
    assert stored.create_time == new.create_time
    assert stored.owner == new.owner
    assert [job.id for job in (await alice.list()).jobs] == [new.id]


async def test_every_field_of_a_spec_is_told_again(alice: Caller) -> None:
    spec = pb.JobSpec(
        name="all of it ✓",
        executable="/bin/echo",
        arguments=["-n", "a b", "", "ü", "'\"$x"],
        directory="/",
        inherit_environment=False,
        environment={"A": "1", "_b": "", "C": "x=y z"},
        stdin_path="/dev/null",
        stdout_path="/dev/null",
        stderr_path="/dev/null",
        resources=pb.ResourceSpec(
            node_count=1, process_count=1, cpu_cores_per_process=1, exclusive_node_use=False, memory=1 << 26
        ),
        attributes=pb.JobAttributes(duration=Duration(seconds=60, nanos=500_000_000), account="physics"),
        pre_launch="/bin/true",
        post_launch="/bin/true",
        launcher="single",
        array=pb.JobArray(first=2, last=8, step=3, max_active=1),
        labels={"test": alice.label, "group/x": "7", "empty": ""},
        hold=True,
    )
    job = await alice.submit_request(rpc.SubmitJobRequest(spec=spec))
    assert job.spec == spec
    assert (await alice.get(job.id)).spec == spec


async def test_what_is_left_out_stays_left_out(alice: Caller) -> None:
    job = await alice.submit("/bin/true", hold=True)
    assert not job.spec.HasField("resources") or job.spec.resources == pb.ResourceSpec()
    assert not job.spec.attributes.HasField("duration")
    assert not job.spec.HasField("array")
    assert not job.spec.HasField("container")


async def test_an_inline_script_runs_with_its_arguments(alice: Caller) -> None:
    script = '#!/bin/sh\nprintf "%s|" "$@"\n'
    new = await alice.submit(script=script, arguments=["one", "two words", ""])
    assert new.spec.script == script
    job = await alice.wait(new.id)
    assert job.status.state == pb.JOB_STATE_COMPLETED
    assert await alice.output_bytes(job.id) == b"one|two words||"
    assert (await alice.get(job.id)).spec.script == script


async def test_a_script_on_the_resource_runs(alice: Caller, scratch: Path) -> None:
    path = executable(scratch / "job.sh", '#!/bin/sh\necho "from file $1"\n')
    job = await alice.run(script_path=path, arguments=["x"])
    assert await alice.output_bytes(job.id) == b"from file x\n"


async def test_an_executable_is_looked_up_in_the_path_and_sees_no_shell(alice: Caller) -> None:
    job = await alice.run("echo", "$HOME", "*", "a;b")
    assert await alice.output_bytes(job.id) == b"$HOME * a;b\n"


async def test_directory_and_relative_paths(alice: Caller, scratch: Path) -> None:
    (scratch / "in").write_text("from the file\n")
    job = await alice.run(
        "/bin/sh", "-c", "pwd; cat", directory=str(scratch), stdin_path="in", stdout_path="%x-%j-%%.out", name="my"
    )
    assert job.status.state == pb.JOB_STATE_COMPLETED, job.status
    assert (scratch / f"my-{job.id}-%.out").read_text() == f"{scratch}\nfrom the file\n"
    assert await alice.output_bytes(job.id) == f"{scratch}\nfrom the file\n".encode()


async def test_without_directory_and_input_a_job_has_an_empty_place_of_its_own(alice: Caller) -> None:
    first = await alice.run("/bin/sh", "-c", "pwd; cat; ls -A; touch here")
    second = await alice.run("/bin/sh", "-c", "pwd; cat; ls -A")
    places = [await alice.output_bytes(job.id) for job in (first, second)]
    assert all(place.count(b"\n") == 1 for place in places), places
    assert places[0] != places[1]


async def test_the_same_path_merges_output_and_error(alice: Caller, scratch: Path) -> None:
    both = str(scratch / "both")
    job = await alice.run("/bin/sh", "-c", "echo 1; echo 2 >&2; echo 3", stdout_path=both, stderr_path=both)
    assert job.status.state == pb.JOB_STATE_COMPLETED
    assert (scratch / "both").read_text() == "1\n2\n3\n"


async def test_output_files_are_overwritten(alice: Caller, scratch: Path) -> None:
    (scratch / "out").write_text("old and long\n")
    await alice.run("echo", "new", stdout_path=str(scratch / "out"))
    assert (scratch / "out").read_text() == "new\n"


async def test_environment_is_inherited_and_added_to(alice: Caller) -> None:
    job = await alice.run("/bin/sh", "-c", 'echo "$GREETING ${PATH:+path}"', environment={"GREETING": "hi there"})
    assert await alice.output_bytes(job.id) == b"hi there path\n"


async def test_environment_is_empty_when_asked(alice: Caller) -> None:
    job = await alice.run("/usr/bin/env", environment={"ONLY": "this"}, inherit_environment=False)
    names = {line.split(b"=")[0] for line in (await alice.output_bytes(job.id)).splitlines()}
    assert b"ONLY" in names
    assert b"HOME" not in names
    assert b"LANG" not in names


async def test_pre_and_post_launch_run_around_the_program(alice: Caller, scratch: Path) -> None:
    pre = executable(scratch / "pre", f'#!/bin/sh\necho "pre $X" >> {scratch}/trace\n')
    post = executable(scratch / "post", f"#!/bin/sh\necho post >> {scratch}/trace\n")
    job = await alice.run(
        "/bin/sh",
        "-c",
        f"echo program >> {scratch}/trace; exit 3",
        pre_launch=pre,
        post_launch=post,
        environment={"X": "env"},
    )
    assert (scratch / "trace").read_text() == "pre env\nprogram\npost\n"
    assert job.status.exit_code == 3


async def test_launcher_multiple_starts_every_process(alice: Caller) -> None:
    job = await alice.run("echo", "x", launcher="multiple", resources=pb.ResourceSpec(process_count=2))
    assert await alice.output_bytes(job.id) == b"x\nx\n"


async def test_hold_at_submission(alice: Caller) -> None:
    job = await alice.submit("/bin/true", hold=True)
    held = await alice.wait(job.id, pb.JOB_STATE_HELD)
    assert held.status.reason == pb.JOB_REASON_HELD_BY_OWNER


async def test_jobs_wait_for_cores(alice: Caller) -> None:
    first = await alice.submit("/bin/sleep", "600", resources=pb.ResourceSpec(exclusive_node_use=True))
    await alice.wait(first.id, pb.JOB_STATE_ACTIVE)
    second = await alice.submit("/bin/true")
    async with alice.watch(job_id=second.id) as watch:
        waiting = await watch.until(lambda job: job.status.reason != pb.JOB_REASON_UNSPECIFIED)
        assert waiting.status.state == pb.JOB_STATE_QUEUED
        assert waiting.status.reason in {pb.JOB_REASON_RESOURCES, pb.JOB_REASON_PRIORITY}
        await alice.cancel(first.id)
        done = await watch.until(lambda job: job.status.state == pb.JOB_STATE_COMPLETED)
    assert done.status.reason == pb.JOB_REASON_UNSPECIFIED


# How jobs fail.


async def test_nonzero_exit(alice: Caller) -> None:
    job = await alice.run("/bin/sh", "-c", "exit 7")
    assert (job.status.state, job.status.reason) == (pb.JOB_STATE_FAILED, pb.JOB_REASON_NONZERO_EXIT)
    assert job.status.exit_code == 7


async def test_signaled(alice: Caller) -> None:
    job = await alice.run("/bin/sh", "-c", "kill -SEGV $$")
    assert (job.status.state, job.status.reason) == (pb.JOB_STATE_FAILED, pb.JOB_REASON_SIGNALED)
    assert job.status.signal == signal.SIGSEGV
    assert not job.status.HasField("exit_code")


async def test_time_limit(alice: Caller) -> None:
    limit = pb.JobAttributes(duration=Duration(seconds=1))
    job = await alice.run("/bin/sleep", "600", attributes=limit)
    assert (job.status.state, job.status.reason) == (pb.JOB_STATE_FAILED, pb.JOB_REASON_TIME_LIMIT)
    assert 1 <= job.usage.elapsed.ToTimedelta().total_seconds() < 10


async def test_out_of_memory(alice: Caller) -> None:
    hog = "head -c 300000000 /dev/zero | tail -c 200000000 | (sleep 30; cat)"
    job = await alice.run("/bin/sh", "-c", hog, resources=pb.ResourceSpec(memory=50_000_000))
    assert (job.status.state, job.status.reason) == (pb.JOB_STATE_FAILED, pb.JOB_REASON_OUT_OF_MEMORY)
    assert job.usage.peak_memory > 50_000_000


async def test_launch_failed(alice: Caller) -> None:
    job = await alice.run("/no/such/program")
    assert (job.status.state, job.status.reason) == (pb.JOB_STATE_FAILED, pb.JOB_REASON_LAUNCH_FAILED)
    assert job.status.message
    assert not job.HasField("start_time") or job.start_time.ToNanoseconds() <= job.end_time.ToNanoseconds()


async def test_unwritable_output_is_a_failed_launch(alice: Caller) -> None:
    job = await alice.run("/bin/true", stdout_path="/no/such/directory/out")
    assert (job.status.state, job.status.reason) == (pb.JOB_STATE_FAILED, pb.JOB_REASON_LAUNCH_FAILED)


# Who pays.


async def test_account_given_and_default(alice: Caller) -> None:
    given = await alice.submit("/bin/true", hold=True, attributes=pb.JobAttributes(account="physics"))
    default = await alice.submit("/bin/true", hold=True)
    assert given.spec.attributes.account == "physics"
    assert (await alice.list_ids(project_ids=["physics"])) == [given.id]
    if default.spec.attributes.account:
        assert default.id in await alice.list_ids(project_ids=[default.spec.attributes.account])


# What is refused. Each case: fields of JobSpec (None: leave out) and the field that BadRequest names.

NUL = "a\0b"
MALFORMED = {
    "no program": ({"executable": ""}, "spec"),
    "two programs": ({"script": "#!/bin/sh\n"}, "spec"),
    "program and script path": ({"script_path": "/bin/true"}, "spec"),
    "script without #!": ({"executable": "", "script": "echo hi\n"}, "spec.script"),
    "script of more than 1 MiB": ({"executable": "", "script": "#!/bin/sh\n#" + "x" * (1 << 20)}, "spec.script"),
    "relative script path": ({"executable": "", "script_path": "job.sh"}, "spec.script_path"),
    "long name": ({"name": "n" * 256}, "spec.name"),
    "control character in the name": ({"name": "a\nb"}, "spec.name"),
    "NUL in the executable": ({"executable": NUL}, "spec.executable"),
    "long executable": ({"executable": "/" + "x" * 4096}, "spec.executable"),
    "NUL in an argument": ({"arguments": ["ok", NUL]}, "spec.arguments[1]"),
    "long argument": ({"arguments": ["x" * 131072]}, "spec.arguments[0]"),
    "too many arguments": ({"arguments": ["x"] * 1001}, "spec.arguments"),
    "relative directory": ({"directory": "here"}, "spec.directory"),
    "NUL in the directory": ({"directory": "/a\0"}, "spec.directory"),
    "environment name": ({"environment": {"1A": "x"}}, 'spec.environment["1A"]'),
    "NUL in the environment": ({"environment": {"A": NUL}}, 'spec.environment["A"]'),
    "too many variables": ({"environment": {f"V{i}": "" for i in range(1001)}}, "spec.environment"),
    "NUL in stdin": ({"stdin_path": NUL}, "spec.stdin_path"),
    "NUL in stdout": ({"stdout_path": NUL}, "spec.stdout_path"),
    "NUL in stderr": ({"stderr_path": NUL}, "spec.stderr_path"),
    "relative pre_launch": ({"pre_launch": "x"}, "spec.pre_launch"),
    "relative post_launch": ({"post_launch": "x"}, "spec.post_launch"),
    "launcher with capitals": ({"launcher": "MPI"}, "spec.launcher"),
    "no nodes": ({"resources": pb.ResourceSpec(node_count=0)}, "spec.resources.node_count"),
    "negative processes": ({"resources": pb.ResourceSpec(process_count=-1)}, "spec.resources.process_count"),
    "no processes per node": (
        {"resources": pb.ResourceSpec(processes_per_node=0)},
        "spec.resources.processes_per_node",
    ),
    "no cores": ({"resources": pb.ResourceSpec(cpu_cores_per_process=0)}, "spec.resources.cpu_cores_per_process"),
    "no GPUs": ({"resources": pb.ResourceSpec(gpu_cores_per_process=0)}, "spec.resources.gpu_cores_per_process"),
    "no memory": ({"resources": pb.ResourceSpec(memory=0)}, "spec.resources.memory"),
    "processes said twice": (
        {"resources": pb.ResourceSpec(process_count=1, processes_per_node=1)},
        "spec.resources",
    ),
    "duration of 0": ({"attributes": pb.JobAttributes(duration=Duration())}, "spec.attributes.duration"),
    "duration of 20 years": (
        {"attributes": pb.JobAttributes(duration=Duration(seconds=630720000))},
        "spec.attributes.duration",
    ),
    "long queue name": ({"attributes": pb.JobAttributes(queue_name="q" * 256)}, "spec.attributes.queue_name"),
    "account with a newline": ({"attributes": pb.JobAttributes(account="a\nb")}, "spec.attributes.account"),
    "long reservation": ({"attributes": pb.JobAttributes(reservation_id="r" * 256)}, "spec.attributes.reservation_id"),
    "custom attribute without an engine": (
        {"attributes": pb.JobAttributes(custom_attributes={"constraint": "x"})},
        'spec.attributes.custom_attributes["constraint"]',
    ),
    "container without an image": ({"container": pb.Container()}, "spec.container.image"),
    "mount without a source": (
        {"container": pb.Container(image="i", volume_mounts=[pb.VolumeMount(target="/t")])},
        "spec.container.volume_mounts[0].source",
    ),
    "array backwards": ({"array": pb.JobArray(first=3, last=2)}, "spec.array"),
    "array too large": ({"array": pb.JobArray(first=0, last=10_000)}, "spec.array"),
    "array with a negative index": ({"array": pb.JobArray(first=-1, last=2)}, "spec.array.first"),
    "array with a negative step": ({"array": pb.JobArray(first=0, last=2, step=-1)}, "spec.array.step"),
    "array with a negative limit": ({"array": pb.JobArray(first=0, last=2, max_active=-1)}, "spec.array.max_active"),
    "array with a huge index": ({"array": pb.JobArray(first=10_000_000, last=10_000_001)}, "spec.array.last"),
    "dependency without an id": (
        {"dependencies": [pb.JobDependency(condition=pb.JobDependency.CONDITION_AFTER)]},
        "spec.dependencies[0].job_id",
    ),
    "dependency without a condition": (
        {"dependencies": [pb.JobDependency(job_id="abc")]},
        "spec.dependencies[0].condition",
    ),
    "dependency with an unknown condition": (
        {"dependencies": [pb.JobDependency(job_id="abc", condition=99)]},  # type: ignore[arg-type]
        "spec.dependencies[0].condition",
    ),
    "too many dependencies": (
        {"dependencies": [pb.JobDependency(job_id="abc", condition=pb.JobDependency.CONDITION_AFTER)] * 101},
        "spec.dependencies",
    ),
    "label name": ({"labels": {"-x": "1"}}, 'spec.labels["-x"]'),
    "label with a newline": ({"labels": {"x": "a\nb"}}, 'spec.labels["x"]'),
    "long label": ({"labels": {"x": "v" * 256}}, 'spec.labels["x"]'),
    "too many labels": ({"labels": {f"l{i}": "" for i in range(65)}}, "spec.labels"),
}


@pytest.mark.parametrize("case", MALFORMED)
async def test_a_malformed_job_is_refused_and_changes_nothing(alice: Caller, case: str) -> None:
    fields, field = MALFORMED[case]
    before = await alice.seen()
    spec = pb.JobSpec(**({"executable": "/bin/true"} | fields))
    with refused("INVALID_ARGUMENT", "INVALID_FIELD", field):
        await alice.submit_request(rpc.SubmitJobRequest(spec=spec))
    assert await alice.seen() == before


CANNOT = {
    "nodes": ({"resources": pb.ResourceSpec(node_count=2)}, "spec.resources.node_count"),
    "cores": ({"resources": pb.ResourceSpec(cpu_cores_per_process=100_000)}, "spec.resources.cpu_cores_per_process"),
    "processes": ({"resources": pb.ResourceSpec(process_count=100_000)}, "spec.resources.process_count"),
    "processes per node": (
        {"resources": pb.ResourceSpec(processes_per_node=100_000)},
        "spec.resources.processes_per_node",
    ),
    "GPUs": ({"resources": pb.ResourceSpec(gpu_cores_per_process=1)}, "spec.resources.gpu_cores_per_process"),
    "queue": ({"attributes": pb.JobAttributes(queue_name="no-such-queue")}, "spec.attributes.queue_name"),
    "reservation": ({"attributes": pb.JobAttributes(reservation_id="r1")}, "spec.attributes.reservation_id"),
    "attribute": (
        {"attributes": pb.JobAttributes(custom_attributes={"none.such": "x"})},
        'spec.attributes.custom_attributes["none.such"]',
    ),
    "container": ({"container": pb.Container(image="alpine")}, "spec.container"),
    "launcher": ({"launcher": "no-such"}, "spec.launcher"),
    "directory": ({"directory": "/no/such/directory"}, "spec.directory"),
    "script": ({"executable": "", "script_path": "/no/such/script"}, "spec.script_path"),
    "script not executable": ({"executable": "", "script_path": "/etc/passwd"}, "spec.script_path"),
    "pre_launch": ({"pre_launch": "/no/such/script"}, "spec.pre_launch"),
    "post_launch": ({"post_launch": "/no/such/script"}, "spec.post_launch"),
}


@pytest.mark.parametrize("case", CANNOT)
async def test_what_the_resource_can_never_give_is_refused(alice: Caller, facility: object, case: str) -> None:
    if getattr(facility, "server", None) is None:
        pytest.skip("says what the local engine cannot do")
    fields, field = CANNOT[case]
    before = await alice.seen()
    with refused("INVALID_ARGUMENT", field=field) as error:
        await alice.submit_request(rpc.SubmitJobRequest(spec=pb.JobSpec(**({"executable": "/bin/true"} | fields))))
    assert error.descriptions[0].count(" ") >= 3
    assert await alice.seen() == before


async def test_every_wrong_field_is_named_at_once(alice: Caller) -> None:
    with refused("INVALID_ARGUMENT") as error:
        await alice.submit("/bin/true", name="a\n", directory="x", launcher="MPI")
    assert {"spec.name", "spec.directory", "spec.launcher"} <= set(error.fields)


async def test_no_spec_is_refused(alice: Caller) -> None:
    with refused("INVALID_ARGUMENT", "INVALID_FIELD", "spec"):
        await alice.submit_request(rpc.SubmitJobRequest())


async def test_an_unknown_resource_is_refused(alice: Caller) -> None:
    before = await alice.seen()
    with refused("INVALID_ARGUMENT", "UNKNOWN_RESOURCE", "resource_id") as error:
        await alice.submit("/bin/true", resource_id="no-such")
    assert "local" in error.message or "there are" in error.message
    assert await alice.seen() == before


async def test_a_long_resource_id_is_refused(alice: Caller) -> None:
    with refused("INVALID_ARGUMENT", "INVALID_FIELD", "resource_id"):
        await alice.submit("/bin/true", resource_id="r" * 64)


@pytest.mark.parametrize("request_id", ["x" * 65, "with space", "ü", "a\nb"])
async def test_a_malformed_request_id_is_refused(alice: Caller, request_id: str) -> None:
    with refused("INVALID_ARGUMENT", "INVALID_FIELD", "request_id"):
        await alice.submit("/bin/true", request_id=request_id)


async def test_a_spec_that_is_too_large_is_refused(alice: Caller) -> None:
    before = await alice.seen()
    with refused("INVALID_ARGUMENT", field="spec"):
        await alice.submit("/bin/true", *["x" * 100_000] * 10)
    assert await alice.seen() == before


async def test_a_script_of_10_mb_is_refused(alice: Caller) -> None:
    before = await alice.seen()
    with refused("INVALID_ARGUMENT", "INVALID_FIELD", "spec.script"):
        await alice.submit(script="#!/bin/sh\n" + "# comment\n" * 1_000_000)
    assert await alice.seen() == before


async def test_a_script_of_1_mib_is_taken(alice: Caller) -> None:
    script = "#!/bin/sh\necho large\n#" + "x" * ((1 << 20) - 22)
    assert len(script) == 1 << 20
    job = await alice.run(script=script)
    assert job.status.state == pb.JOB_STATE_COMPLETED
    assert (await alice.get(job.id)).spec.script == script


async def test_too_many_unfinished_jobs(own_server, connect) -> None:
    server = own_server(limits={"unfinished_jobs_per_owner": 3})
    alice, bob = connect(server, "alice"), connect(server, "bob")
    first, second = await alice.submit("/bin/true", hold=True), await alice.submit("/bin/true", hold=True)
    for job in (first, second):
        await alice.wait(job.id, pb.JOB_STATE_HELD)
    before = await alice.seen()
    with refused("RESOURCE_EXHAUSTED", "TOO_MANY_JOBS") as error:
        await alice.submit("/bin/true", array=pb.JobArray(first=0, last=1))
    assert error.metadata["limit"] == "3"
    assert await alice.seen() == before
    await bob.submit("/bin/true", hold=True)
    await alice.submit("/bin/true", hold=True)
    with refused("RESOURCE_EXHAUSTED", "TOO_MANY_JOBS"):
        await alice.submit("/bin/true")
    await asyncio.gather(alice.cancel(first.id), alice.cancel(second.id))
    await alice.wait(first.id)
    await alice.submit("/bin/true", hold=True)


async def test_the_server_still_runs_after_a_message_that_is_too_large(alice: Caller, facility: object) -> None:
    if getattr(facility, "server", None) is None:
        pytest.skip("needs to know the server's largest message")
    import grpc  # noqa: PLC0415

    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await alice.submit(script="#!" + "x" * (17 << 20))
    assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    await alice.submit("/bin/true", hold=True)
