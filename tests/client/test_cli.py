"""The command line, mostly as a process of its own: what it prints where, and how it exits."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import subprocess
import sys
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import click
import grpc
import pytest
from click.testing import CliRunner
from google.rpc import error_details_pb2 as details
from openfacility.jobs.v1 import job_pb2
from openfacility.jobs.v1 import jobs_service_pb2 as pb
from openfacility_cli._values import ARRAY, DURATION, PAIR, SIZE
from openfacility_cli.main import cli

from tests.client.scripted import Failure, ScriptedServer, change, reason
from tests.client.scripted import job as make_job

pytestmark = pytest.mark.timeout(60)

COMMAND = (sys.executable, "-m", "openfacility_cli")


class Run:
    """The command as a process, against the scripted server."""

    def __init__(self, server: ScriptedServer) -> None:
        self._server = server

    async def start(self, *words: str, **options: Any) -> asyncio.subprocess.Process:
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
        environment = {**os.environ, "OPENFACILITY_ADDRESS": self._server.address, "TERM": "xterm", "COLUMNS": "100"}
        return await asyncio.create_subprocess_exec(*COMMAND, *words, env=environment, **pipes)

    async def __call__(self, *words: str) -> tuple[int | None, str, str]:
        process = await self.start(*words)
        out, err = await asyncio.wait_for(process.communicate(), 30)
        return process.returncode, out.decode(), err.decode()


@pytest.fixture
def run(server: ScriptedServer) -> Run:
    return Run(server)


def ended(state: str = "COMPLETED", **status: Any) -> job_pb2.Job:
    job = make_job("j1", state, revision=3)
    job.status.MergeFrom(job_pb2.JobStatus(**status))
    return job


def script_a_job(server: ScriptedServer, last: job_pb2.Job) -> None:
    async def watch(_: Any) -> AsyncIterator[pb.WatchJobsResponse]:
        yield pb.WatchJobsResponse(changes=[change("j1", "QUEUED", 1, "SNAPSHOT")], revision=1, caught_up=True)
        yield pb.WatchJobsResponse(changes=[change("j1", "ACTIVE", 2)], revision=2)
        yield pb.WatchJobsResponse(changes=[pb.JobChange(type="TYPE_UPDATED", revision=3, job=last)], revision=3)

    async def output(request: pb.ReadJobOutputRequest) -> AsyncIterator[pb.ReadJobOutputResponse]:
        text = b"oops\n" if request.stream == pb.ReadJobOutputRequest.STREAM_STDERR else b"1\n2\n\xff3"
        yield pb.ReadJobOutputResponse(data=text[:3])
        yield pb.ReadJobOutputResponse(data=text[3:], offset=3)
        yield pb.ReadJobOutputResponse(offset=len(text), end=True)

    server.on("SubmitJob", make_job("j1"))
    server.on("WatchJobs", watch)
    server.on("ReadJobOutput", output)


async def test_submit_prints_the_id(server, run):
    server.on("SubmitJob", make_job("j1"))
    words = [
        "--time",
        "1h30m",
        "-c",
        "2",
        "-m",
        "2G",
        "--array",
        "0-9:3%2",
        "--label",
        "a=b",
        "--env",
        "X=1",
        "--after-ok",
        "j0",
        "--hold",
        "-C",
        "/tmp",
        "-r",
        "r1",
    ]
    assert await run("jobs", "submit", *words, "--", "/bin/echo", "--watch", "-x") == (0, "j1\n", "")
    request = server.requests("SubmitJob")[0]
    spec = request.spec
    assert (spec.executable, list(spec.arguments)) == ("/bin/echo", ["--watch", "-x"])
    assert spec.attributes.duration.seconds == 5400
    assert (spec.resources.cpu_cores_per_process, spec.resources.memory) == (2, 2 * 2**30)
    assert (spec.array.first, spec.array.last, spec.array.step, spec.array.max_active) == (0, 9, 3, 2)
    assert (dict(spec.labels), dict(spec.environment), spec.hold, spec.directory) == (
        {"a": "b"},
        {"X": "1"},
        True,
        "/tmp",
    )
    assert (spec.dependencies[0].job_id, request.resource_id) == ("j0", "r1")


@pytest.mark.parametrize("suffix", ["json", "yaml"])
async def test_submit_a_spec_or_a_script(server, run, tmp_path, suffix):
    server.on("SubmitJob", make_job("j1"))
    spec = tmp_path / f"spec.{suffix}"
    text = {
        "json": '{"executable": "/bin/true", "labels": {"a": "b"}}',
        "yaml": "executable: /bin/true\nlabels: {a: b}",
    }
    spec.write_text(text[suffix])
    script = tmp_path / "script"
    script.write_text("#!/bin/sh\n")
    assert (await run("jobs", "submit", "--spec", str(spec)))[0] == 0
    assert (await run("jobs", "submit", "--script", str(script), "an argument"))[0] == 0
    first, second = (request.spec for request in server.requests("SubmitJob"))
    assert (first.executable, first.labels["a"]) == ("/bin/true", "b")
    assert (second.script, list(second.arguments)) == ("#!/bin/sh\n", ["an argument"])


@pytest.mark.parametrize(
    ("last", "code"),
    [
        (ended(), 0),
        (ended("FAILED", exit_code=7, reason="JOB_REASON_NONZERO_EXIT"), 7),
        (ended("FAILED", signal=9, reason="JOB_REASON_SIGNALED"), 137),
        (ended("FAILED", signal=9, reason="JOB_REASON_TIME_LIMIT"), 124),
        (ended("CANCELED"), 125),
    ],
)
async def test_submit_and_watch_exits_as_the_job_does(server, run, last, code):
    script_a_job(server, last)
    process = await run.start("jobs", "submit", "--watch", "--", "/bin/true")
    out, err = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == code
    assert out == b"1\n2\n\xff3"
    assert b"oops\n" in err
    assert b"ACTIVE" in err


async def test_submit_and_watch_on_a_terminal(server, run):
    script_a_job(server, ended("FAILED", exit_code=7))
    ours, theirs = pty.openpty()
    process = await run.start("jobs", "submit", "--watch", "--", "/bin/true", stdout=theirs, stderr=theirs)
    os.close(theirs)
    seen = await asyncio.to_thread(_read_all, ours)
    assert await asyncio.wait_for(process.wait(), 30) == 7
    assert b"\x1b[?25l" in seen, "the cursor is hidden while the display moves"
    assert b"\x1b[?25h" in seen, "and shown again at the end"
    for text in (b"1\r\n", b"2\r\n", b"oops", b"exit code 7"):
        assert text in seen


async def test_watch_on_a_terminal_is_a_table(server, run):
    async def watch(_: Any) -> AsyncIterator[pb.WatchJobsResponse]:
        changes = [change("j1", "ACTIVE", 1, "SNAPSHOT", name="first"), change("j2", "FAILED", 2, "SNAPSHOT")]
        changes.append(change("j3", "QUEUED", 3, "SNAPSHOT"))
        changes[2].job.status.reason = job_pb2.JOB_REASON_LICENSES
        yield pb.WatchJobsResponse(changes=changes)
        raise Failure(grpc.StatusCode.PERMISSION_DENIED, "no longer")

    server.on("WatchJobs", watch)
    ours, theirs = pty.openpty()
    process = await run.start("watch", stdout=theirs, stderr=theirs)
    os.close(theirs)
    seen = await asyncio.to_thread(_read_all, ours)
    assert await asyncio.wait_for(process.wait(), 30) == 77
    for text in (b"1 ACTIVE", b"first", b"j2", b"waiting: licenses", b"openfacility: no longer"):
        assert text in seen


def _read_all(terminal: int) -> bytes:
    seen = b""
    try:
        while piece := os.read(terminal, 65536):
            seen += piece
    except OSError:  # The other side has gone.
        pass
    os.close(terminal)
    return seen


async def test_watch_as_json_lines_goes_on_over_a_restart_and_ends_quietly(server, run, facility):
    facility.change(a="NEW")
    process = await run.start("watch", "--json")
    assert process.stdout is not None
    lines = [json.loads(await asyncio.wait_for(process.stdout.readline(), 20))]
    await server.kill()
    facility.change(a="ACTIVE")
    await server.start()
    lines.append(json.loads(await asyncio.wait_for(process.stdout.readline(), 20)))
    assert [(line["type"], line["revision"], line["job"]["status"]["state"]) for line in lines] == [
        ("TYPE_SNAPSHOT", "1", "JOB_STATE_NEW"),
        ("TYPE_UPDATED", "2", "JOB_STATE_ACTIVE"),
    ]
    process.send_signal(2)
    out, err = await asyncio.wait_for(process.communicate(), 20)
    assert process.returncode == 130
    assert out == b""
    assert b"Traceback" not in err


async def test_lists_have_columns_or_are_json(server, run):
    server.on("ListJobs", pb.ListJobsResponse(jobs=[make_job("j1", "ACTIVE", name="one"), make_job("j2")], revision=5))
    code, out, _ = await run("jobs", "list", "--state", "active", "--label", "a=b")
    assert code == 0
    assert [line.split()[:2] for line in out.splitlines()] == [["ID", "NAME"], ["j1", "one"], ["j2", "NEW"]]
    code, out, err = await run("--json", "jobs", "list", "--limit", "1")
    assert [json.loads(line)["id"] for line in out.splitlines()] == ["j1"]
    assert "more" in err
    assert list(server.requests("ListJobs")[0].filter.labels) == ["a=b"]


async def test_a_reader_that_goes_away_is_no_error(server, run):
    jobs = [make_job(f"j{number}", name="x" * 200) for number in range(1000)]
    server.on("ListJobs", pb.ListJobsResponse(jobs=jobs))
    process = await run.start("jobs", "list", "--all", "--json")
    assert process.stdout is not None
    assert process.stderr is not None
    await asyncio.wait_for(process.stdout.read(10), 20)
    process.stdout._transport.close()  # type: ignore[attr-defined]
    assert await asyncio.wait_for(process.stderr.read(), 20) == b""
    assert await asyncio.wait_for(process.wait(), 20) == 141


async def test_logs_are_bytes(server, run):
    script_a_job(server, ended())
    process = await run.start("jobs", "logs", "-f", "j1")
    assert (await asyncio.wait_for(process.communicate(), 20))[0] == b"1\n2\n\xff3"
    assert (await run("jobs", "logs", "--stderr", "--offset", "0", "j1"))[1] == "oops\n"
    assert server.requests("ReadJobOutput")[0].follow


async def test_steering(server, run):
    for method in ("HoldJob", "ReleaseJob", "CancelJob", "UpdateJob"):
        server.on(method, make_job("j1", "HELD"))
    server.on("CancelJobs", pb.CancelJobsResponse(job_ids=["a", "b"]))
    server.on("GetJob", make_job("j1", "HELD", name="one"))
    assert (await run("jobs", "hold", "j1"))[1] == "j1  HELD\n"
    assert (await run("jobs", "release", "j1", "j2"))[0] == 0
    assert (await run("jobs", "cancel", "j1"))[0] == 0
    assert (await run("jobs", "cancel", "--label", "a=b"))[1] == "a\nb\n"
    assert (await run("jobs", "cancel"))[0] == 2
    assert (await run("jobs", "update", "j1", "--time", "5m", "--cores", "2"))[0] == 0
    assert list(server.requests("UpdateJob")[0].update_mask.paths) == ["spec.attributes.duration", "spec.resources"]
    assert "name:        one" in (await run("jobs", "get", "j1"))[1]


async def test_wait(server, run):
    script_a_job(server, ended("FAILED", exit_code=3))
    assert await run("jobs", "wait", "j1") == (3, "j1  FAILED  exit code 3\n", "")


async def test_errors_are_a_sentence(server, run):
    bad = details.BadRequest(field_violations=[{"field": "spec.name", "description": "too long"}])
    info = reason("INVALID", request_id="r-1")
    server.on("SubmitJob", Failure(grpc.StatusCode.INVALID_ARGUMENT, "the spec is malformed", (info, bad)))
    server.on("GetJob", Failure(grpc.StatusCode.UNAUTHENTICATED, "sign in"), Failure(grpc.StatusCode.UNAVAILABLE))
    assert await run("jobs", "submit", "x") == (
        1,
        "",
        "openfacility: the spec is malformed (request r-1)\n  spec.name: too long\n",
    )
    assert await run("jobs", "get", "j1") == (77, "", "openfacility: sign in\n")
    assert (await run("jobs", "get", "j1"))[0] == 69
    assert (await run("--address", "nonsense", "jobs", "get", "j1"))[0] == 2
    assert (await run("--address", "h:1", "--token", "s3cret", "jobs", "get", "j1"))[0] == 2
    assert (await run("jobs", "nonsense"))[0] == 2


async def test_settings_come_from_the_first_place_that_has_them(server, run, tmp_path):
    server.on("GetJob", make_job("j1"))
    file = tmp_path / "token"
    file.write_text("from-file\n")
    assert (await run("config", "set", "address", "profile.example:1"))[0] == 0
    assert (await run("config", "set", "token", "for-the-profile"))[0] == 0
    assert (await run("config", "set", "timeout", "x"))[0] == 2
    code, out, _ = await run("--token-file", str(file), "config", "show")
    assert code == 0
    assert f"address = {server.address}  # environment" in out
    assert f"token_file = {file}  # option" in out
    await run("jobs", "get", "j1")
    assert "authorization" not in server.calls[-1].metadata, "a profile's token is for its own address only"
    await run("--token-file", str(file), "jobs", "get", "j1")
    assert server.calls[-1].metadata["authorization"] == "Bearer from-file"


def test_a_broken_configuration_is_a_clear_error(tmp_path, monkeypatch):
    file = tmp_path / "openfacility" / "config.toml"
    file.parent.mkdir()
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    for text, words in (
        ("[", "config.toml"),
        ("[profiles.default]\nadress = 'x'", "adress is not known"),
        ("x = 1", "x"),
    ):
        file.write_text(text)
        result = CliRunner().invoke(cli, ["config", "show"])
        assert result.exit_code == 2
        assert words in result.output


def test_help_is_quick_and_needs_neither_grpc_nor_rich():
    code = "import sys; from openfacility_cli.main import run; run(['--help']); run(['jobs', '--help'])"
    code += "; assert not {'grpc', 'rich', 'google'} & set(sys.modules), 'imported'"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=20)


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (DURATION, "90", timedelta(seconds=90)),
        (DURATION, "1h30m", timedelta(hours=1.5)),
        (DURATION, "1:30:00", timedelta(hours=1.5)),
        (DURATION, "1-02:00", timedelta(days=1, hours=2)),
        (SIZE, "2GiB", 2**31),
        (SIZE, "1.5k", 1536),
        (SIZE, "7", 7),
        (ARRAY, "3-9:2%4", (range(3, 10, 2), 4)),
        (PAIR, "a=b=c", ("a", "b=c")),
    ],
)
def test_values(kind, text, value):
    assert kind.convert(text, None, None) == value


@pytest.mark.parametrize(
    ("kind", "text"), [(DURATION, "soon"), (SIZE, "big"), (ARRAY, "5-1"), (ARRAY, "a"), (PAIR, "=b")]
)
def test_values_that_mean_nothing(kind, text):
    with pytest.raises(click.UsageError):
        kind.convert(text, None, None)
