"""What a job is given, what of it runs, and how it ends. All of these jobs run at once."""

from __future__ import annotations

import json
import pwd
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import pytest
from openfacility_server.jobs.engines import Observation, OutputStream
from openfacility_server.jobs.model import JobArray, JobReason, JobSpec, JobState, ResourceSpec

from tests.engines.local_harness import shell
from tests.engines.suite.driven import Driven, Kind

HOSTILE = (
    "",
    "a b",
    "$(id)",
    "`id`",
    "new\nline",
    "%j",
    "'",
    '"',
    "\\",
    "\\n",
    "*",
    "-x",
    "é\u2603🙂",
    "a\tb",
    ";",
    "&",
    "!",
)
ERR = OutputStream.STDERR


@dataclass(frozen=True)
class Ran:
    """A job that has ended."""

    engine: Driven
    kind: Kind
    end: Observation
    directory: Path
    out: str
    err: str

    def succeeded(self) -> None:
        end = self.end
        assert (end.state, end.reason, end.exit_code, end.signal) == (
            JobState.COMPLETED,
            JobReason.UNSPECIFIED,
            0,
            None,
        )

    def variables(self) -> dict[str, str]:
        return dict(line.split("=", 1) for line in self.out.splitlines() if "=" in line)


@dataclass(frozen=True)
class Case:
    """A job, made for a directory of its own, and what has to be true of it in the end."""

    spec: Callable[[Path], JobSpec]
    holds: Callable[[Ran], None]


CASES: dict[str, Case] = {}


def case(spec: Callable[[Path], JobSpec]) -> Callable[[Callable[[Ran], None]], Callable[[Ran], None]]:
    """Adds a case; what is decorated looks at the job that ran."""

    def add(holds: Callable[[Ran], None]) -> Callable[[Ran], None]:
        CASES[holds.__name__] = Case(spec, holds)
        return holds

    return add


def executable(path: Path, text: str) -> str:
    path.write_text(text)
    path.chmod(0o755)
    return str(path)


# Ends


@case(lambda _: shell("echo out; echo err >&2; sleep 0.1"))
def success(ran: Ran) -> None:
    ran.succeeded()
    assert (ran.out, ran.err) == ("out\n", "err\n")
    end = ran.end
    assert end.start_time is not None
    assert end.end_time is not None
    assert end.start_time <= end.end_time
    assert end.usage is not None
    assert timedelta() <= end.usage.elapsed < timedelta(minutes=5)


@case(lambda _: shell("exit 42"))
def exit_code(ran: Ran) -> None:
    end = ran.end
    assert (end.state, end.reason, end.exit_code, end.signal) == (JobState.FAILED, JobReason.NONZERO_EXIT, 42, None)
    assert "42" in end.message


@case(lambda _: shell("exit 137"))
def large_exit_code(ran: Ran) -> None:
    assert (ran.end.state, ran.end.exit_code, ran.end.signal) == (JobState.FAILED, 137, None)


@case(lambda _: shell("kill -SEGV $$"))
def ended_by_a_signal(ran: Ran) -> None:
    end = ran.end
    assert (end.state, end.reason, end.exit_code, end.signal) == (JobState.FAILED, JobReason.SIGNALED, None, 11)
    assert "SEGV" in end.message


@case(lambda _: JobSpec(script="#!/bin/sh\nkill -KILL $$\n"))
def script_killed(ran: Ran) -> None:
    end = ran.end
    assert (end.state, end.reason, end.exit_code, end.signal) == (JobState.FAILED, JobReason.SIGNALED, None, 9)


@case(lambda _: JobSpec(executable="/no/such/program"))
def no_such_program(ran: Ran) -> None:
    assert ran.end.state is JobState.FAILED
    if ran.kind.slurm:  # a batch system has started it by then
        assert (ran.end.reason, ran.end.exit_code) == (JobReason.NONZERO_EXIT, 127)
    else:
        assert ran.end.reason is JobReason.LAUNCH_FAILED


@case(lambda _: shell("true", stdout_path="/no/such/directory/file"))
def output_cannot_be_opened(ran: Ran) -> None:
    assert (ran.end.state, ran.end.reason) == (JobState.FAILED, JobReason.LAUNCH_FAILED)


@case(lambda _: JobSpec(executable="/bin/true", directory="/no/such/directory"))
def no_such_directory(ran: Ran) -> None:
    """Slurm alone would run it in /tmp."""
    assert ran.end.state is JobState.FAILED
    assert ran.end.reason in (JobReason.LAUNCH_FAILED, JobReason.NONZERO_EXIT)


@case(lambda _: shell("cat", stdin_path="no-such-file"))
def no_such_input(ran: Ran) -> None:
    assert ran.end.state is JobState.FAILED


# What is run


@case(lambda there: JobSpec(executable=executable(there / "a 'b' $c %j é", SHOW), arguments=HOSTILE))
def hostile_arguments(ran: Ran) -> None:
    ran.succeeded()
    assert ran.out == "".join(f"<{argument}>" for argument in HOSTILE)


SHOW = '#!/bin/sh\nprintf "<%s>" "$@"\n'


@case(lambda _: JobSpec(executable="python3", arguments=("-c", "import sys; print(len(sys.argv[1]))", "x" * 100_000)))
def long_argument(ran: Ran) -> None:
    ran.succeeded()
    assert ran.out == "100000\n"


@case(
    lambda _: JobSpec(
        script="#!/usr/bin/env python3\nimport sys\nprint('é', sys.argv[1:])\nsys.exit(9)\n", arguments=("a b", "$x")
    )
)
def inline_script(ran: Ran) -> None:
    assert ran.end.exit_code == 9
    assert ran.out == "é ['a b', '$x']\n"


@case(lambda _: JobSpec(script="#!/bin/sh\n" + f"# {'x' * 1000}\n" * 1000 + "echo end\n"))
def long_script(ran: Ran) -> None:
    ran.succeeded()
    assert ran.out == "end\n"


@case(
    lambda _: JobSpec(script="#!/bin/sh\n#SBATCH --job-name=theirs --comment=theirs --output=/no/such/file\necho ran\n")
)
def script_with_directives(ran: Ran) -> None:
    """What is in the specification counts, and nobody passes their job off as another."""
    ran.succeeded()
    assert ran.out == "ran\n"


@case(lambda there: JobSpec(script_path=executable(there / "a script", SHOW), arguments=HOSTILE))
def script_by_path(ran: Ran) -> None:
    ran.succeeded()
    assert ran.out == "".join(f"<{argument}>" for argument in HOSTILE)


# What it is given


@case(lambda _: JobSpec(executable="id", arguments=("-un",)))
def user(ran: Ran) -> None:
    ran.succeeded()
    assert ran.out == f"{ran.kind.account}\n"


VALUES = {"MINE": "1 % \n 2", "QUOTES": "'\"$(id)\\", "EMPTY": "", "LONG": "y" * 50_000, "COMMA": "a,b=c"}


@case(
    lambda _: JobSpec(
        executable="python3",
        arguments=("-c", "import os, json; print(json.dumps(dict(os.environ)))"),
        environment={**VALUES, "OPENFACILITY_JOB_ID": "forged"},
    )
)
def environment(ran: Ran) -> None:
    ran.succeeded()
    variables = json.loads(ran.out)
    assert {name: variables[name] for name in VALUES} == VALUES
    assert variables["OPENFACILITY_JOB_ID"] == ran.end.job_id
    assert variables["OPENFACILITY_RESOURCE_ID"] == "machine"
    assert "PATH" in variables
    if ran.kind.slurm:
        account = pwd.getpwnam(ran.kind.account)
        assert (variables["HOME"], variables["USER"]) == (account.pw_dir, account.pw_name)
        assert variables["SITE"] == "of Slurm"


@case(lambda _: JobSpec(executable="/usr/bin/env", inherit_environment=False, environment={"A": "b"}))
def environment_of_its_own(ran: Ran) -> None:
    ran.succeeded()
    variables = ran.variables()
    assert variables["A"] == "b"
    assert variables["OPENFACILITY_JOB_ID"] == ran.end.job_id
    assert not {"SITE", "PYTEST_CURRENT_TEST", "LD_PRELOAD", "VIRTUAL_ENV"} & variables.keys()


@case(lambda there: _input(there, shell("pwd; cat", directory=str(there), stdin_path="in put")))
def directory_and_input(ran: Ran) -> None:
    ran.succeeded()
    assert ran.out == f"{ran.directory}\nhello\n"


def _input(there: Path, spec: JobSpec) -> JobSpec:
    (there / "in put").write_text("hello\n")
    return spec


@case(lambda _: shell("cat; echo end"))
def no_input(ran: Ran) -> None:
    ran.succeeded()
    assert ran.out == "end\n"


@case(
    lambda there: shell(
        "echo one; echo two >&2; echo three", directory=str(_log(there)), stdout_path="log", stderr_path="log"
    )
)
def merged_output_overwrites(ran: Ran) -> None:
    ran.succeeded()
    assert (ran.directory / "log").read_text() == "one\ntwo\nthree\n"
    assert ran.out == ran.err == "one\ntwo\nthree\n"


def _log(there: Path) -> Path:
    (there / "log").write_text("something very long from before\n" * 10)
    (there / "log").chmod(0o666)
    return there


@case(lambda there: shell("echo out", name="my job é 100% 'x'", stdout_path="o-%x-%j-%%", stderr_path=f"{there}/e-%j"))
def output_by_pattern(ran: Ran) -> None:
    ran.succeeded()
    native = ran.engine.natives[ran.end.job_id]
    assert (ran.directory / f"o-my job é 100% 'x'-{native}-%").read_text() == "out\n"
    assert (ran.directory / f"e-{native}").exists()
    assert (ran.out, ran.err) == ("out\n", "")


@case(lambda _: shell("echo out", name="../up/../.."))
def name_with_slashes(ran: Ran) -> None:
    ran.succeeded()


# Around it


def _around(there: Path, pre: str, main: str, post: str) -> JobSpec:
    return shell(
        main,
        environment={"A": "b"},
        pre_launch=executable(there / "pre launch", f"#!/bin/sh\n{pre}\n"),
        post_launch=executable(there / "post launch", f"#!/bin/sh\n{post}\n"),
    )


@case(lambda there: _around(there, "echo pre $A; pwd", "echo main; exit 3", "echo post $A; exit 4"))
def before_and_after(ran: Ran) -> None:
    assert (ran.end.state, ran.end.reason, ran.end.exit_code) == (JobState.FAILED, JobReason.NONZERO_EXIT, 3)
    assert ran.out == f"pre b\n{ran.directory}\nmain\npost b\n"


@case(lambda there: _around(there, "true", "echo main; kill -KILL $$", "echo post"))
def after_a_signal(ran: Ran) -> None:
    assert ran.end.state is JobState.FAILED
    assert (ran.end.reason, ran.end.signal, ran.end.exit_code) == (JobReason.SIGNALED, 9, None)
    assert ran.out == "main\npost\n"


@case(lambda there: _around(there, "echo pre; exit 2", "echo main", "true"))
def before_fails(ran: Ran) -> None:
    assert (ran.end.state, ran.end.reason) == (JobState.FAILED, JobReason.NONZERO_EXIT)
    assert ran.out == "pre\n"


THREE = ResourceSpec(process_count=3)


@case(lambda _: shell("echo $OPENFACILITY_PROCESS_INDEX", launcher="multiple", resources=THREE))
def several_processes(ran: Ran) -> None:
    ran.succeeded()
    assert sorted(ran.out.split()) == ["0", "1", "2"]


@case(lambda _: shell("[ $OPENFACILITY_PROCESS_INDEX != 1 ] || exit 6", launcher="multiple", resources=THREE))
def one_process_of_several_fails(ran: Ran) -> None:
    assert (ran.end.state, ran.end.exit_code) == (JobState.FAILED, 6)


@case(
    lambda _: JobSpec(executable="/bin/sh", arguments=("-c", 'printf "<%s>" "$@"', "sh", *HOSTILE), launcher="multiple")
)
def hostile_arguments_of_several(ran: Ran) -> None:
    ran.succeeded()
    assert ran.out == "".join(f"<{argument}>" for argument in HOSTILE)


@case(
    lambda _: shell(
        "echo once $OPENFACILITY_CORES", launcher="single", resources=replace(THREE, cpu_cores_per_process=2)
    )
)
def one_process_on_several_cores(ran: Ran) -> None:
    ran.succeeded()
    assert ran.out == "once 6\n"


@case(lambda _: shell("env", array=JobArray(7, 7)))
def element_of_an_array(ran: Ran) -> None:
    ran.succeeded()
    variables = ran.variables()
    assert variables["OPENFACILITY_JOB_ID"] == ran.end.job_id
    assert variables["OPENFACILITY_ARRAY_JOB_ID"] == ran.end.job_id.split("_")[0]
    assert variables["OPENFACILITY_ARRAY_INDEX"] == "7"


# All at once


@pytest.fixture(scope="session")
async def handed_over(shared: Driven) -> dict[str, tuple[str, Path]]:
    """The jobs of all cases and their directories, by the names of the cases."""
    jobs, made = [], {}
    for name, one in CASES.items():
        there = shared.directory()
        spec = one.spec(there)
        spec = replace(spec, directory=spec.directory or str(there))
        array = spec.array is not None
        [job] = shared.elements(spec) if array else [shared.job(spec)]
        jobs.append(job)
        made[name] = (f"{job.id}_7" if array and not job.array_job_id else job.id, there)
    await shared.hand_over(jobs)
    return made


@pytest.mark.parametrize("name", CASES)
async def test_job(engine: Driven, handed_over: dict[str, tuple[str, Path]], name: str) -> None:
    job_id, directory = handed_over[name]
    end = await engine.end_of(job_id)
    out = await engine.output(job_id) if end.reason is not JobReason.LAUNCH_FAILED else None
    err = await engine.output(job_id, ERR) if out is not None else None
    CASES[name].holds(Ran(engine, engine.kind, end, directory, out or "", err or ""))
