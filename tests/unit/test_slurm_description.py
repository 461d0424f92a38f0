"""What a job becomes for Slurm, what can never be one, and where its output is."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from openfacility_server.jobs.engines import EngineDependency, EngineJob
from openfacility_server.jobs.engines.slurm import options
from openfacility_server.jobs.engines.slurm.accounts import Account
from openfacility_server.jobs.engines.slurm.checks import problems_of
from openfacility_server.jobs.engines.slurm.description import describe, mebibytes, minutes, output_patterns
from openfacility_server.jobs.engines.slurm.options import OPTIONS, Dialect, Kind, parse
from openfacility_server.jobs.engines.slurm.output import Names, expand
from openfacility_server.jobs.engines.slurm.settings import RestSettings, SlurmSettings
from openfacility_server.jobs.model import (
    Container,
    DependencyCondition,
    JobArray,
    JobAttributes,
    JobDependency,
    JobSpec,
    ResourceSpec,
    VolumeMount,
)

ACCOUNT = Account("ada", 4711, 4711, "/home/a%da", "/bin/sh", (4711,))
SETTINGS = SlurmSettings("machine")
BY_REST = SlurmSettings("machine", rest=RestSettings(Path("/key"), Path("/socket")))
NOW = datetime(2026, 11, 22, 8, tzinfo=UTC)


def job(spec: JobSpec, *natives: str) -> EngineJob:
    dependencies = tuple(EngineDependency(f"o{native}", native) for native in natives)
    return EngineJob("j1", spec, "ada", NOW, dependencies=dependencies)


def described(spec: JobSpec, *natives: str) -> dict[str, options.Value]:
    return dict(describe(job(spec, *natives), ACCOUNT, SETTINGS).options)


def test_the_least() -> None:
    assert described(JobSpec(executable="/usr/bin/true")) == {
        "job-name": "true",
        "comment": "openfacility:j1",
        "chdir": "/home/a%da",
        "input": "/dev/null",
        "output": "/home/a%%da/openfacility-j1.out",
        "error": "/home/a%%da/openfacility-j1.err",
        "open-mode": "truncate",
        "nodes": "1",
        "ntasks": 1,
        "cpus-per-task": 1,
    }


def test_everything() -> None:
    spec = JobSpec(
        name="a name",
        executable="x",
        directory="/w",
        stdin_path="in%.txt",
        stdout_path="out-%j",
        stderr_path="/e/%A_%a",
        resources=ResourceSpec(2, None, 3, 4, 1, True, 1024 * 1024 + 1),
        attributes=JobAttributes(
            timedelta(seconds=61), "debug", "physics", "r1", {"slurm.requeue": "false", "slurm.tmp": "2G"}
        ),
        array=JobArray(1, 9, 4, 2),
        dependencies=(
            JobDependency("o5", DependencyCondition.AFTER_OK),
            JobDependency("o6", DependencyCondition.AFTER_ANY),
        ),
        hold=True,
    )
    arguments = describe(job(spec, "5", "6_7"), ACCOUNT, SETTINGS).arguments()
    assert arguments == [
        "--job-name=a name",
        "--comment=openfacility:j1",
        "--chdir=/w",
        "--input=/w/in%%.txt",
        "--output=/w/out-%j",
        "--open-mode=truncate",
        "--error=/e/%A_%a",
        "--nodes=2",
        "--ntasks=6",
        "--cpus-per-task=4",
        "--ntasks-per-node=3",
        "--gpus-per-task=1",
        "--exclusive",
        "--mem=2M",
        "--time=2",
        "--partition=debug",
        "--account=physics",
        "--reservation=r1",
        "--no-requeue",
        "--tmp=2048M",
        "--hold",
        "--array=1-9:4%2",
        "--dependency=afterok:5,afterany:6_7",
        "--kill-on-invalid-dep=yes",
    ]


def test_both_streams_to_one_file() -> None:
    assert "error" not in described(JobSpec(executable="x", stdout_path="all", stderr_path="all"))


def test_sharing_nodes_is_nothing_to_ask_for() -> None:
    spec = JobSpec(executable="x", resources=ResourceSpec(exclusive_node_use=False))
    assert not {"exclusive", "oversubscribe"} & set(described(spec))


def test_an_array_of_one() -> None:
    assert described(JobSpec(executable="x", array=JobArray(3, 3, 1, 0)))["array"] == "3"


def test_units() -> None:
    assert [minutes(timedelta(seconds=seconds)) for seconds in (1, 60, 61, 3600)] == [1, 1, 2, 60]
    assert [mebibytes(size) for size in (1, 1 << 20, (1 << 20) + 1)] == [1, 1, 2]


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (Kind.TEXT, " a,b ", "a,b"),
        (Kind.TEXT, " ", None),
        (Kind.FLAG, "", True),
        (Kind.FLAG, "No", False),
        (Kind.FLAG, "maybe", None),
        (Kind.COUNT, "12", 12),
        (Kind.COUNT, "-1", None),
        (Kind.COUNT, "1" * 30, None),
        (Kind.NUMBER, "-5", -5),
        (Kind.MINUTES, "1-0", None),
        (Kind.MEBIBYTES, "3", 3),
        (Kind.MEBIBYTES, "1500k", 2),
        (Kind.MEBIBYTES, "2GB", 2048),
        (Kind.MEBIBYTES, "2x", None),
        (Kind.MOMENT, "now", int(NOW.timestamp())),
        (Kind.MOMENT, "now + 2 hours", int(NOW.timestamp()) + 7200),
        (Kind.MOMENT, "now+30", int(NOW.timestamp()) + 30),
        (Kind.MOMENT, "2026-11-22T09:00:00+01:00", int(NOW.timestamp())),
        (Kind.MOMENT, "2026-11-22T08:00:00Z", int(NOW.timestamp())),
        (Kind.MOMENT, "teatime", None),
        (Kind.MOMENT, "now+999999999weeks", int(NOW.timestamp()) + 999999999 * 604800),
    ],
)
def test_values_of_custom_attributes(kind: Kind, text: str, value: options.Value | None) -> None:
    assert parse(kind, text, NOW) == value


def test_both_dialects_of_rest() -> None:
    given: dict[str, options.Value] = {
        "time": 5,
        "mem": 100,
        "exclusive": True,
        "requeue": False,
        "begin": 1000,
        "exclude": "n[1,3],m1",
        "gres": "gpu:1,fpga",
        "gpus-per-node": "2",
        "spread-job": True,
        "kill-on-invalid-dep": "yes",
        "signal": "B:USR1@60",
        "open-mode": "truncate",
        "nodes": "2",
        "mail-type": "begin,end",
        "delay-boot": 2,
    }
    old = options.body(given, Dialect.OLD)
    assert old == {
        "time_limit": 5,
        "memory_per_node": 100,
        "exclusive": "exclusive",
        "no_requeue": True,
        "begin_time": "uts1000",
        "exclude_nodes": "n[1,3],m1",
        "gres": "gpu:1,fpga",
        "gpus_per_node": "2",
        "spread_job": True,
        "kill_on_invalid_dependency": True,
        "signal": "B:USR1@60",
        "open_mode": "truncate",
        "nodes": "2",
        "mail_type": "begin,end",
        "delay_boot": 2,
    }
    assert options.body(given, Dialect.NEW) == {
        "time_limit": {"set": True, "infinite": False, "number": 5},
        "memory_per_node": {"set": True, "infinite": False, "number": 100},
        "shared": ["none"],
        "requeue": False,
        "begin_time": {"set": True, "infinite": False, "number": 1000},
        "excluded_nodes": ["n[1,3]", "m1"],
        "tres_per_node": "gres/gpu:1,gres/fpga,gres/gpu:2",
        "flags": ["SPREAD_JOB", "KILL_INVALID_DEPENDENCY"],
        "kill_warning_signal": "USR1",
        "kill_warning_delay": {"set": True, "infinite": False, "number": 60},
        "kill_warning_flags": ["BATCH_JOB"],
        "open_mode": ["TRUNCATE"],
        "nodes": "2",
        "mail_type": ["BEGIN", "END"],
        "delay_boot": 120,
    }


def test_what_a_dialect_has_no_words_for() -> None:
    assert options.body({"account": "x", "switches": "1"}, Dialect.OLD) == "switches"


def test_what_is_never_there() -> None:
    """slurmrestd 22.05 ends when it is given arguments of a script."""
    assert not any("argv" in str((option.old, option.new)) for option in OPTIONS.values())


def fields_of(spec: JobSpec, settings: SlurmSettings = SETTINGS) -> list[str]:
    return [problem.field for problem in problems_of(spec, settings)]


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        (JobSpec(launcher="mpi"), "launcher"),
        (JobSpec(script="#!\nx"), "script"),
        (JobSpec(script="#!/bin/sh\r\nx"), "script"),
        (JobSpec(script="#!/bin/sh\n\0"), "script"),
        (JobSpec(script="#!/bin/sh\n" + "x" * 130_000, launcher="srun"), "script"),
        (JobSpec(arguments=("x" * 100_000,) * 40), "arguments"),
        (JobSpec(environment={f"A{i}": "x" * 100_000 for i in range(40)}), "environment"),
        (JobSpec(directory="/a\nb"), "directory"),
        (JobSpec(stdin_path="a\x7f"), "stdin_path"),
        (JobSpec(stdout_path="a\\b"), "stdout_path"),
        (JobSpec(stderr_path="a\tb"), "stderr_path"),
        (JobSpec(container=Container("x")), "container"),
    ],
)
def test_what_can_never_be_honoured(spec: JobSpec, field: str) -> None:
    assert fields_of(spec) == [field]


@pytest.mark.parametrize(
    ("key", "value", "settings"),
    [
        ("slurm.no-such", "1", SETTINGS),
        ("slurm.comment", "1", SETTINGS),
        ("slurm.dependency", "afterok:1", SETTINGS),
        ("slurm.partition", "x", SETTINGS),
        ("pbs.qos", "1", SETTINGS),
        ("slurm.mincpus", "many", SETTINGS),
        ("slurm.switches", "1", BY_REST),
        ("slurm.signal", "B:USR1", BY_REST),
    ],
)
def test_custom_attributes_that_can_never_be(key: str, value: str, settings: SlurmSettings) -> None:
    spec = JobSpec(executable="x", attributes=JobAttributes(custom_attributes={key: value}))
    assert fields_of(spec, settings) == [f'attributes.custom_attributes["{key}"]']


def test_what_a_site_configured() -> None:
    settings = SlurmSettings("machine", launchers={"mpi": "mpirun"}, container="apptainer exec {mounts} {image}")
    mounts = (VolumeMount("/a,b", "/c"), VolumeMount("/d", "/e:f"))
    spec = JobSpec(executable="x", launcher="mpi", container=Container("img", mounts))
    assert fields_of(spec, settings) == ["container.volume_mounts[0].source", "container.volume_mounts[1].target"]
    assert fields_of(replace(spec, container=Container("img"))) == ["launcher", "container"]


def test_what_can_be_honoured() -> None:
    attributes = JobAttributes(custom_attributes={"slurm.switches": "1@10", "slurm.no-requeue": "", "slurm.qos": "x"})
    spec = JobSpec(script="#!/bin/sh\nx", launcher="multiple", stdout_path="%x-%4j.out", attributes=attributes)
    assert fields_of(spec) == []


# As a Slurm 22.05 named the files of a batch script.
ELEMENT = Names(number="111", array="109", index="3", node="n2", user="ada", name="nm x")
SINGLE = Names(number="110", array="110", index="", node="n1", user="ada", name="one")


@pytest.mark.parametrize(
    ("pattern", "names", "path"),
    [
        ("%A-%a-%j-%J-%N-%n-%s-%t-%u-%x-%%-%b-%4j-%q", ELEMENT, "109-3-111-111-n2-0-batch-0-ada-nm x-%-%b-0111-%q"),
        ("%A-%a-%4j-%j", SINGLE, "110-4294967294-0110-110"),
        ("%%j-%99j-%2a%", ELEMENT, "%j-0000000111-03%"),
        ("/a\\b/%j", SINGLE, "/ab/%j"),
        ("/plain", SINGLE, "/plain"),
        ("%", SINGLE, "%"),
    ],
)
def test_names_of_output_files(pattern: str, names: Names, path: str) -> None:
    assert expand(pattern, names) == path


def test_the_name_is_in_its_place_and_leads_nowhere_else() -> None:
    spec = JobSpec(name="../x\\%j", executable="x", stdout_path="%x-%%x-%4x.out")
    assert output_patterns("j1", spec, "/w", in_array=False) == (
        "/w/.._x_%%j-%%x-.._x_%%j.out",
        "/w/openfacility-j1.err",
    )
    assert output_patterns("j1", JobSpec(executable="x"), "/w", in_array=True)[0] == "/w/openfacility-j1_%a.out"
