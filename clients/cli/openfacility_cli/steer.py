"""`openfacility jobs update`, `hold`, `release`, `signal`, `requeue` and `cancel`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click
from openfacility_client import Job, JobFilter, ResourceSpec, RPCError

from openfacility_cli import _text
from openfacility_cli._app import App, json_option, pass_app
from openfacility_cli._errors import sentence
from openfacility_cli._filters import filter_options, make_filter
from openfacility_cli._values import DURATION, PAIR, SIGNAL, SIZE

_COUNT = click.IntRange(min=1)


@click.command()
@click.argument("job_id", metavar="ID")
@click.option("--name")
@click.option("--label", "labels", multiple=True, type=PAIR, metavar="KEY=VALUE", help="Replace all labels by these.")
@click.option("--time", "duration", type=DURATION, help="Time limit from the start.")
@click.option("--queue")
@click.option("--account", help="Project to charge.")
@click.option("--nodes", type=_COUNT, help="With the next four: replace all that was asked for.")
@click.option("--processes", type=_COUNT)
@click.option("--cores", type=_COUNT, help="Of each process.")
@click.option("--gpus", type=_COUNT, help="Of each process.")
@click.option("--memory", type=SIZE, help="Of the whole job on each node.")
@click.option("--etag", default="", help="Change nothing unless the job is still this version.")
@json_option
@pass_app
def update(
    app: App,
    /,
    job_id: str,
    labels: tuple[tuple[str, str], ...],
    nodes: int | None,
    processes: int | None,
    cores: int | None,
    gpus: int | None,
    memory: int | None,
    **changes: Any,
) -> None:
    """Change a job; what is not given stays as it is."""
    resources = ResourceSpec(
        node_count=nodes,
        process_count=processes,
        cpu_cores_per_process=cores,
        gpu_cores_per_process=gpus,
        memory=memory,
    )
    job = app.client.jobs.update(
        job_id,
        labels=dict(labels) if labels else None,
        resources=None if resources == ResourceSpec() else resources,
        **changes,
    )
    _show(app, job)


@click.command()
@click.argument("ids", metavar="ID...", nargs=-1, required=True)
@json_option
@pass_app
def hold(app: App, /, ids: tuple[str, ...]) -> int:
    """Keep waiting jobs from starting."""
    return _each(app, ids, app.client.jobs.hold)


@click.command()
@click.argument("ids", metavar="ID...", nargs=-1, required=True)
@json_option
@pass_app
def release(app: App, /, ids: tuple[str, ...]) -> int:
    """Let held jobs start."""
    return _each(app, ids, app.client.jobs.release)


@click.command()
@click.argument("ids", metavar="ID...", nargs=-1, required=True)
@click.argument("name", metavar="SIGNAL", type=SIGNAL)
@json_option
@pass_app
def signal(app: App, /, ids: tuple[str, ...], name: str) -> int:
    """Send a signal, such as USR1, to running jobs: to their programs and what those started."""
    return _each(app, ids, lambda id_: app.client.jobs.signal(id_, name))


@click.command()
@click.argument("ids", metavar="ID...", nargs=-1, required=True)
@click.option("--hold", is_flag=True, help="Do not start them again before `jobs release`.")
@json_option
@pass_app
def requeue(app: App, /, ids: tuple[str, ...], hold: bool) -> int:
    """Stop running jobs and put them back into the queue, to start anew from their beginning."""
    return _each(app, ids, lambda id_: app.client.jobs.requeue(id_, hold=hold))


@click.command()
@click.argument("ids", metavar="[ID]...", nargs=-1)
@filter_options
@json_option
@pass_app
def cancel(app: App, /, ids: tuple[str, ...], **filters: Any) -> int:
    """Ask for the end of jobs, by id, or of all unfinished ones that match."""
    where = make_filter(**filters)
    if bool(ids) == (where != JobFilter()):
        raise click.UsageError("say which jobs: either by id, or by options such as --label")
    if ids:
        return _each(app, ids, app.client.jobs.cancel)
    for id_ in app.client.jobs.cancel_all(where):
        if app.as_json:
            app.json({"id": id_})
        else:
            app.line(id_)
    return 0


def _each(app: App, /, ids: tuple[str, ...], do: Callable[[str], Job]) -> int:
    """Do something to each job; one that refuses does not spare the others."""
    failed = 0
    for id_ in ids:
        try:
            _show(app, do(id_))
        except RPCError as error:
            if len(ids) == 1:
                raise
            app.note(f"{id_}: {sentence(error)}")
            failed += 1
    return 1 if failed else 0


def _show(app: App, /, job: Job) -> None:
    if app.as_json:
        app.json(job)
    else:
        app.line(f"{job.id}  {click.style(job.state, fg=_text.COLORS.get(job.state))}  {_text.why(job)}".rstrip())
