"""Options that say what to run, the same for `jobs submit` and `jobs estimate`."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import click
from openfacility_client import JobSpec, job_spec, spec_from_json

from openfacility_cli._values import ARRAY, DURATION, PAIR, SIZE

F = TypeVar("F", bound=Callable[..., Any])

_SAME = (
    "name",
    "directory",
    "duration",
    "nodes",
    "processes",
    "processes_per_node",
    "cores",
    "gpus",
    "memory",
    "queue",
    "account",
    "reservation",
    "container",
    "launcher",
    "stdin_path",
    "stdout_path",
    "stderr_path",
    "script_path",
)
_SEVERAL = ("after", "after_ok", "after_not_ok", "after_any")
_COUNT = click.IntRange(min=1)
_OPTIONS = (
    click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="[-- PROGRAM] [ARGUMENT]..."),
    click.option("--script", type=click.File("r"), metavar="FILE", help="Send this script (- is standard input)."),
    click.option("--script-path", metavar="PATH", help="Run this script, which is on the resource."),
    click.option("--spec", "spec_file", type=click.File("r"), metavar="FILE", help="All of it, as JSON or YAML."),
    click.option("--name", help="Display name."),
    click.option("--label", "labels", multiple=True, type=PAIR, metavar="KEY=VALUE", help="May be repeated."),
    click.option("--env", "environment", multiple=True, type=PAIR, metavar="NAME=VALUE", help="May be repeated."),
    click.option("--clean-env", is_flag=True, help="Start from an empty environment."),
    click.option("--directory", "-C", metavar="PATH", help="Working directory on the resource."),
    click.option("--time", "duration", type=DURATION, help="Time limit: 90s, 5m, 1h30m, 2d, H:MM:SS."),
    click.option("--nodes", "-N", type=_COUNT),
    click.option("--processes", "-n", type=_COUNT, help="Over all nodes."),
    click.option("--processes-per-node", type=_COUNT),
    click.option("--cores", "-c", type=_COUNT, help="CPU cores of each process."),
    click.option("--gpus", type=_COUNT, help="GPUs of each process."),
    click.option("--memory", "-m", type=SIZE, help="Of the whole job on each node: 512M, 2G."),
    click.option("--exclusive", is_flag=True, help="Share the nodes with nobody."),
    click.option("--resource", "-r", default="", help="Where to run; else the facility's default."),
    click.option("--queue", "-q", help="Queue or partition; else the default one."),
    click.option("--account", "-A", help="Project to charge; else your default one."),
    click.option("--reservation", help="Run in it; `openfacility reservations` lists them."),
    click.option("--qos", help="On Slurm; short for --attribute slurm.qos=QOS."),
    click.option("--constraint", help="On Slurm; short for --attribute slurm.constraint=CONSTRAINT."),
    click.option(
        "--attribute",
        "--set",
        "custom_attributes",
        multiple=True,
        type=PAIR,
        metavar="ENGINE.NAME=VALUE",
        help="Any other setting of the batch system; may be repeated.",
    ),
    click.option("--container", metavar="IMAGE"),
    click.option("--launcher", help="How the processes are started: single, multiple; on a batch system also srun."),
    click.option("--stdin", "stdin_path", metavar="PATH", help="File on the resource."),
    click.option("--stdout", "stdout_path", metavar="PATH", help="File on the resource."),
    click.option("--stderr", "stderr_path", metavar="PATH", help="File on the resource."),
    click.option("--array", type=ARRAY, metavar="FIRST-LAST[:STEP][%MOST]", help="One job for each index."),
    click.option("--after", multiple=True, metavar="ID", help="Start after this one has started."),
    click.option("--after-ok", multiple=True, metavar="ID", help="Start after this one has COMPLETED."),
    click.option("--after-not-ok", multiple=True, metavar="ID", help="Start after this one has FAILED."),
    click.option("--after-any", multiple=True, metavar="ID", help="Start after this one has ended."),
    click.option("--hold", is_flag=True, help="Do not start before `jobs release`."),
)


def job_options(command: F) -> F:
    """Give a command the options that say what to run, and `--resource`; `make_spec` takes all but that."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def make_spec(*, command: tuple[str, ...], spec_file: Any, **options: Any) -> JobSpec:
    """Make a job's spec from the options.

    Raises:
        click.UsageError: they do not say what to run, or say it twice.
    """
    given = _given(options)
    if spec_file is not None:
        if given or command:
            raise click.UsageError("--spec says all of it: leave out the command and the other options of the job")
        return _read_spec(spec_file)
    if not (command or "script" in given or "script_path" in given):
        raise click.UsageError("what to run? Give -- PROGRAM ARGUMENT..., --script, --script-path or --spec")
    return job_spec(*command, **given)


def _given(options: dict[str, Any]) -> Any:
    """Turn what was given on the command line into the arguments of `job_spec`."""
    given: dict[str, Any] = {key: options[key] for key in (*_SAME, *_SEVERAL) if options[key]}
    for key in ("labels", "environment"):
        if options[key]:
            given[key] = dict(options[key])
    short = {f"slurm.{key}": options[key] for key in ("qos", "constraint") if options[key]}
    if attributes := {**short, **dict(options["custom_attributes"])}:
        given["custom_attributes"] = attributes
    for key in ("exclusive", "hold"):
        if options[key]:
            given[key] = True
    if options["clean_env"]:
        given["inherit_environment"] = False
    if options["script"] is not None:
        given["script"] = options["script"].read()
    if options["array"] is not None:
        given["array"], most = options["array"]
        if most is not None:
            given["max_active"] = most
    if isinstance(given.get("duration"), timedelta) and not given["duration"]:
        raise click.UsageError("--time must be more than 0 s")
    return given


def _read_spec(file: Any) -> JobSpec:
    text = file.read()
    name = getattr(file, "name", "")
    try:
        content = _yaml(text) if Path(name).suffix in (".yaml", ".yml") else json.loads(text)
    except json.JSONDecodeError as error:
        raise click.UsageError(f"{name}: {error}") from error
    if not isinstance(content, dict):
        raise click.UsageError(f"{name}: a job's spec is an object")
    return spec_from_json(content)


def _yaml(text: str) -> Any:
    try:
        import yaml  # noqa: PLC0415 - optional
    except ImportError:
        raise click.UsageError("YAML needs the package PyYAML; JSON does not") from None
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise click.UsageError(str(error)) from error
