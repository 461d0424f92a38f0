"""`openfacility jobs submit`."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import click
from openfacility_client import JobSpec, job_spec, spec_from_json

from openfacility_cli._app import App, json_option, pass_app
from openfacility_cli._follow import follow
from openfacility_cli._values import ARRAY, DURATION, PAIR, SIZE

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


@click.command(context_settings={"ignore_unknown_options": False})
@click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="[-- PROGRAM] [ARGUMENT]...")
@click.option("--script", type=click.File("r"), metavar="FILE", help="Send this script (- is standard input).")
@click.option("--script-path", metavar="PATH", help="Run this script, which is on the resource.")
@click.option("--spec", "spec_file", type=click.File("r"), metavar="FILE", help="All of it, as JSON or YAML.")
@click.option("--watch", is_flag=True, help="Follow its state and output, and exit as it does.")
@click.option("--name", help="Display name.")
@click.option("--label", "labels", multiple=True, type=PAIR, metavar="KEY=VALUE", help="May be repeated.")
@click.option("--env", "environment", multiple=True, type=PAIR, metavar="NAME=VALUE", help="May be repeated.")
@click.option("--clean-env", is_flag=True, help="Start from an empty environment.")
@click.option("--directory", "-C", metavar="PATH", help="Working directory on the resource.")
@click.option("--time", "duration", type=DURATION, help="Time limit: 90s, 5m, 1h30m, 2d, H:MM:SS.")
@click.option("--nodes", "-N", type=_COUNT)
@click.option("--processes", "-n", type=_COUNT, help="Over all nodes.")
@click.option("--processes-per-node", type=_COUNT)
@click.option("--cores", "-c", type=_COUNT, help="CPU cores of each process.")
@click.option("--gpus", type=_COUNT, help="GPUs of each process.")
@click.option("--memory", "-m", type=SIZE, help="Of the whole job on each node: 512M, 2G.")
@click.option("--exclusive", is_flag=True, help="Share the nodes with nobody.")
@click.option("--resource", "-r", default="", help="Where to run; else the facility's default.")
@click.option("--queue", "-q")
@click.option("--account", "-A", help="Project to charge.")
@click.option("--reservation")
@click.option("--container", metavar="IMAGE")
@click.option("--launcher", help="`single` or `multiple`: how the processes are started.")
@click.option("--stdin", "stdin_path", metavar="PATH", help="File on the resource.")
@click.option("--stdout", "stdout_path", metavar="PATH", help="File on the resource.")
@click.option("--stderr", "stderr_path", metavar="PATH", help="File on the resource.")
@click.option("--set", "custom_attributes", multiple=True, type=PAIR, metavar="ENGINE.NAME=VALUE", help="As is.")
@click.option("--array", type=ARRAY, metavar="FIRST-LAST[:STEP][%MOST]", help="One job for each index.")
@click.option("--after", multiple=True, metavar="ID", help="Start after this one has started.")
@click.option("--after-ok", multiple=True, metavar="ID", help="Start after this one has COMPLETED.")
@click.option("--after-not-ok", multiple=True, metavar="ID", help="Start after this one has FAILED.")
@click.option("--after-any", multiple=True, metavar="ID", help="Start after this one has ended.")
@click.option("--hold", is_flag=True, help="Do not start before `jobs release`.")
@click.option("--request-id", default="", help="Makes repeating this very submission safe.")
@json_option
@pass_app
def submit(
    app: App, /, command: tuple[str, ...], spec_file: Any, watch: bool, resource: str, request_id: str, **options: Any
) -> int:
    """Submit a job and print its id.

    \b
    openfacility jobs submit -- /bin/echo hi
    openfacility jobs submit --watch --cores 2 --time 10m -- /bin/sh -c 'make -j2'
    """
    given = _given(options)
    if spec_file is not None:
        if given or command:
            raise click.UsageError("--spec says all of it: leave out the command and the other options of the job")
        spec = _read_spec(spec_file)
    else:
        if not (command or "script" in given or "script_path" in given):
            raise click.UsageError("what to run? Give -- PROGRAM ARGUMENT..., --script, --script-path or --spec")
        spec = job_spec(*command, **given)
    job = app.client.jobs.submit(spec, resource=resource, request_id=request_id)
    if watch:
        if not (app.as_json or app.live):
            app.note(f"job {job.id}")
        return follow(app, job)
    if app.as_json:
        app.json(job)
    else:
        app.line(job.id)
    return 0


def _given(options: dict[str, Any]) -> Any:
    """Turn what was given on the command line into the arguments of `job_spec`."""
    given: dict[str, Any] = {key: options[key] for key in (*_SAME, *_SEVERAL) if options[key]}
    for key in ("labels", "environment", "custom_attributes"):
        if options[key]:
            given[key] = dict(options[key])
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
