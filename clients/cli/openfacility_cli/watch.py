"""`openfacility watch` and `openfacility jobs watch`."""

from __future__ import annotations

from typing import Any

import click
from openfacility_client import JobFilter, JobWatch

from openfacility_cli._app import App, json_option, pass_app
from openfacility_cli._filters import filter_options, make_filter
from openfacility_cli._text import change_line


@click.command("watch")
@click.option("--after", metavar="REVISION", type=click.IntRange(min=0), help="Only changes after this one.")
@click.option("--no-snapshot", is_flag=True, help="Only what changes from now on.")
@json_option
@pass_app
def watch_all(app: App, /, after: int | None, no_snapshot: bool) -> None:
    """Show everything as it happens, until interrupted.

    A table on a terminal, otherwise a line for each change; with --json, the change as an object.
    """
    _show(app, app.client.jobs.watch(after_revision=after, snapshot=not no_snapshot, on_disconnect=app.on_disconnect))


@click.command()
@click.argument("job_id", metavar="[ID]", required=False)
@filter_options
@click.option("--after", metavar="REVISION", type=click.IntRange(min=0), help="Only changes after this one.")
@click.option("--no-snapshot", is_flag=True, help="Only what changes from now on.")
@json_option
@pass_app
def watch(app: App, /, job_id: str | None, after: int | None, no_snapshot: bool, **filters: Any) -> None:
    """Show one job until it has ended, or all that match, as they change."""
    where = make_filter(**filters)
    if job_id and where != JobFilter():
        raise click.UsageError("watch one job by its id, or those that match options, not both")
    changes = app.client.jobs.watch(
        job_id,
        where=None if job_id else where,
        after_revision=after,
        snapshot=not no_snapshot,
        on_disconnect=app.on_disconnect,
    )
    _show(app, changes)


def _show(app: App, /, changes: JobWatch) -> None:
    if app.live:
        from openfacility_cli._live import JobsDisplay  # noqa: PLC0415 - only a terminal needs rich

        with JobsDisplay() as display:
            for change in changes:
                display.show(change)
        return
    for change in changes:
        if app.as_json:
            app.json(change)
        else:
            app.line(change_line(change))
