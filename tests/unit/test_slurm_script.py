"""The batch script of a job, run by a shell as a node would."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from openfacility_server.jobs.engines.slurm.accounts import Account
from openfacility_server.jobs.engines.slurm.script import batch_script, interpreter_of, quote
from openfacility_server.jobs.engines.slurm.settings import SlurmSettings
from openfacility_server.jobs.model import Container, JobArray, JobSpec, ResourceSpec, VolumeMount

SHELLS = [path for name in ("dash", "bash", "busybox") if (path := shutil.which(name))]
ACCOUNT = Account("ada", 4711, 4711, "/home/ada", "/bin/zsh", (4711,))
SETTINGS = SlurmSettings(
    "machine",
    environment={"SITE": "here"},
    launchers={"mpi": "echo -n {process_count} --on={node_count}x{processes_per_node} '{other} y'"},
    container="echo run {mounts} {image}",
)
TELL = (sys.executable, "-c", "import json,os,sys; print(json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)]))")
HOSTILE = (
    "a b",
    "'",
    '"',
    "$HOME",
    "`id`",
    "$(id)",
    "\\",
    "*",
    "",
    "-x",
    "--",
    "a\nb",
    "a\r\nb",
    "ü",
    "%j",
    "x=y",
    "!",
    "#",
)


@pytest.fixture(params=SHELLS)
def shell(request: pytest.FixtureRequest) -> list[str]:
    return [request.param, "sh"] if request.param.endswith("busybox") else [request.param]


def run(
    shell: list[str], spec: JobSpec, there: Path, job_id: str = "j1", **slurm: str
) -> subprocess.CompletedProcess[str]:
    text = batch_script(job_id, spec, ACCOUNT, str(there), SETTINGS)
    assert "\r" not in text
    script = there / "slurm_script"
    script.write_text(text)
    environment = {"SLURM_JOB_ID": "7", "TMPDIR": str(there), **slurm}
    return subprocess.run(
        [*shell, script],
        env=environment,
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )


def told(done: subprocess.CompletedProcess[str]) -> tuple[list[str], str, dict[str, str]]:
    assert done.returncode == 0, done.stderr
    arguments, directory, environment = json.loads(done.stdout)
    return arguments, directory, environment


def test_program_gets_its_arguments_directory_and_variables(shell: list[str], tmp_path: Path) -> None:
    there = tmp_path / "it's a $dir; `id`"
    there.mkdir()
    values = {"A": "1 2'\"\\", "UID": "7", "PPID": "8", "IFS": "x", "LINES": "a\nb\r\n", "SITE": "mine"}
    spec = JobSpec(executable=TELL[0], arguments=(*TELL[1:], *HOSTILE), environment=values)
    arguments, directory, environment = told(run(shell, spec, there))
    assert arguments == list(HOSTILE)
    assert directory == str(there)
    assert {name: environment[name] for name in values} == values
    assert environment["HOME"] == "/home/ada"
    assert environment["SHELL"] == "/bin/zsh"
    assert environment["USER"] == environment["LOGNAME"] == "ada"
    assert environment["OPENFACILITY_JOB_ID"] == "j1"
    assert environment["OPENFACILITY_RESOURCE_ID"] == "machine"
    assert environment["OPENFACILITY_PROCESS_INDEX"] == "0"
    assert environment["OPENFACILITY_CORES"] == "1"
    assert environment["SLURM_JOB_ID"] == "7"
    assert "OPENFACILITY_ARRAY_INDEX" not in environment


def test_nothing_is_inherited_where_nothing_is_to_be(shell: list[str], tmp_path: Path) -> None:
    spec = JobSpec(executable=TELL[0], arguments=TELL[1:], inherit_environment=False, environment={"A": "1"})
    _, _, environment = told(run(shell, spec, tmp_path))
    assert environment["A"] == "1"
    assert environment["PATH"]
    assert not {"HOME", "USER", "LOGNAME", "SHELL", "SITE"} & set(environment)


def test_element_of_an_array(shell: list[str], tmp_path: Path) -> None:
    spec = JobSpec(executable=TELL[0], arguments=TELL[1:], array=JobArray(0, 5))
    _, _, environment = told(run(shell, spec, tmp_path, SLURM_ARRAY_TASK_ID="3"))
    names = ("JOB_ID", "ARRAY_JOB_ID", "ARRAY_INDEX")
    assert [environment[f"OPENFACILITY_{name}"] for name in names] == ["j1_3", "j1", "3"]


def test_a_program_with_an_equals_sign(shell: list[str], tmp_path: Path) -> None:
    program = tmp_path / "a=b"
    program.write_text('#!/bin/sh\necho "ran $1"\n')
    program.chmod(0o755)
    assert run(shell, JobSpec(executable=str(program), arguments=("x y",)), tmp_path).stdout == "ran x y\n"


@pytest.mark.parametrize(
    ("script", "out", "code"),
    [
        ('#!/bin/sh\n#SBATCH --nodes=1000\necho "$#:$1:$2"; exit 3\n', "2:a b:'\n", 3),
        ("#!/bin/sh -e\nfalse\necho never\n", "", 1),
        (f"#! {sys.executable}\nimport sys; print(sys.argv[1:])\n", "['a b', \"'\"]\n", 0),
        ("#!/usr/bin/env sh\necho 'it'\"'\"'s'\n# no line end", "it's\n", 0),
        ("#!/bin/sh\nprintf %s 'x\r\ny'\n", "x\ny", 0),
    ],
)
def test_script(shell: list[str], tmp_path: Path, script: str, out: str, code: int) -> None:
    done = run(shell, JobSpec(script=script, arguments=("a b", "'")), tmp_path)
    assert (done.stdout, done.returncode) == (out, code)
    assert [path.name for path in tmp_path.iterdir()] == ["slurm_script"]  # nothing is left behind


def test_a_large_script(shell: list[str], tmp_path: Path) -> None:
    script = "#!/bin/sh\n" + "# it's long\n" * 80_000 + "echo end\n"
    assert run(shell, JobSpec(script=script), tmp_path).stdout == "end\n"


def test_no_room_for_the_script(shell: list[str], tmp_path: Path) -> None:
    done = run(shell, JobSpec(script="#!/bin/sh\necho never\n"), tmp_path, TMPDIR=str(tmp_path / "none"))
    assert (done.returncode, done.stdout) == (126, "")
    assert "cannot be stored" in done.stderr


def test_no_such_directory(shell: list[str], tmp_path: Path) -> None:
    spec = JobSpec(executable="/bin/echo", arguments=("never",))
    text = batch_script("j1", spec, ACCOUNT, str(tmp_path / "none"), SETTINGS)
    done = subprocess.run([*shell, "-s"], input=text, capture_output=True, text=True, check=False, env={})
    assert (done.returncode, done.stdout) == (126, "")
    assert "working directory" in done.stderr


def test_no_such_program(shell: list[str], tmp_path: Path) -> None:
    assert run(shell, JobSpec(executable="/no/such"), tmp_path).returncode == 127


def test_before_and_after(shell: list[str], tmp_path: Path) -> None:
    for name in ("pre", "post"):
        path = tmp_path / name
        path.write_text(f'#!/bin/sh\necho "{name} $OPENFACILITY_JOB_ID $A"\n')
        path.chmod(0o755)
    before, after = str(tmp_path / "pre"), str(tmp_path / "post")
    main = JobSpec(executable="/bin/sh", arguments=("-c", "echo main; exit 5"), environment={"A": "x"})
    done = run(shell, replace(main, pre_launch=before, post_launch=after), tmp_path)
    assert (done.stdout, done.returncode) == ("pre j1 x\nmain\npost j1 x\n", 5)
    done = run(shell, replace(main, pre_launch="/bin/false", post_launch=after), tmp_path)
    assert (done.stdout, done.returncode) == ("", 1)
    done = run(
        shell,
        replace(main, script="#!/bin/sh\necho script\n", executable="", arguments=(), post_launch=after),
        tmp_path,
    )
    assert (done.stdout, done.returncode) == ("script\npost j1 x\n", 0)


def test_after_a_signal(shell: list[str], tmp_path: Path) -> None:
    """The program hears of it, and what comes after it runs all the same."""
    after = tmp_path / "post"
    after.write_text("#!/bin/sh\necho after\n")
    after.chmod(0o755)
    ready = tmp_path / "ready"
    program = f"trap 'echo heard; exit 4' TERM; echo > {ready}; while :; do sleep 0.02; done"
    spec = JobSpec(executable="/bin/sh", arguments=("-c", program), post_launch=str(after))
    script = tmp_path / "slurm_script"
    script.write_text(batch_script("j1", spec, ACCOUNT, str(tmp_path), SETTINGS))
    process = subprocess.Popen([*shell, script], stdout=subprocess.PIPE, text=True, start_new_session=True)
    deadline = time.monotonic() + 20
    while not ready.exists():
        assert time.monotonic() < deadline
    os.killpg(process.pid, signal.SIGTERM)
    out, _ = process.communicate(timeout=20)
    assert (out, process.returncode) == ("heard\nafter\n", 4)


def test_configured_launcher_and_container(shell: list[str], tmp_path: Path) -> None:
    container = Container("docker://a b", (VolumeMount("/a b", "/c"), VolumeMount("/d", "/e", read_only=False)))
    spec = JobSpec(
        executable="prog",
        arguments=("x'y",),
        launcher="mpi",
        resources=ResourceSpec(node_count=2, processes_per_node=3),
        container=container,
    )
    done = run(shell, spec, tmp_path, SLURM_JOB_NUM_NODES="2", SLURM_TASKS_PER_NODE="3(x2)")
    words = "6 --on=2x3 {other} y echo run --bind=/a b:/c:ro --bind=/d:/e docker://a b prog x'y"
    assert done.stdout == words


def test_each_process_knows_its_index(shell: list[str], tmp_path: Path) -> None:
    srun = tmp_path / "srun"
    srun.write_text('#!/bin/sh\nwhile [ "${1#--}" != "$1" ]; do echo "$1"; shift; done\nSLURM_PROCID=4 exec "$@"\n')
    srun.chmod(0o755)
    spec = JobSpec(
        script="#!/bin/sh\necho $OPENFACILITY_PROCESS_INDEX \"$1\" 'q'\n",
        arguments=("it's",),
        launcher="multiple",
        resources=ResourceSpec(node_count=2, process_count=5, cpu_cores_per_process=2, gpu_cores_per_process=1),
        environment={"PATH": f"{tmp_path}:/usr/bin:/bin"},
    )
    lines = run(shell, spec, tmp_path).stdout.splitlines()
    assert lines == ["--ntasks=5", "--nodes=2", "--cpus-per-task=2", "--gpus-per-task=1", "4 it's q"]


@pytest.mark.parametrize(
    ("first", "words"),
    [
        ("#!/bin/sh", ["/bin/sh"]),
        ("#!  /bin/sh  -e -x ", ["/bin/sh", "-e -x"]),
        ("#!/usr/bin/env\tpython3", ["/usr/bin/env", "python3"]),
        ("#!", []),
    ],
)
def test_interpreters_are_read_as_the_kernel_does(first: str, words: list[str]) -> None:
    assert interpreter_of(f"{first}\nrest\n") == words


def test_quote() -> None:
    assert quote("a\r'b") == "'a'\"$of_cr\"''\"'\"'b'"
