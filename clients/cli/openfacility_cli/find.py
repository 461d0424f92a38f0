"""`openfacility jobs list` and `get`."""

from __future__ import annotations

from itertools import islice
from typing import Any

import click

from openfacility_cli import _text
from openfacility_cli._app import App, json_option, pass_app
from openfacility_cli._filters import filter_options, make_filter


@click.command("list")
@filter_options
@click.option("--fresh", is_flag=True, help="Ask the batch systems first.")
@click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True, help="Most jobs to print.")
@click.option("--all", "everything", is_flag=True, help="Print all of them.")
@json_option
@pass_app
def list_jobs(app: App, /, fresh: bool, limit: int, everything: bool, **filters: Any) -> None:
    """List jobs, newest first, finished ones included."""
    page_size = 1000 if everything else min(limit + 1, 1000)
    found = app.client.jobs.list(make_filter(**filters), fresh=fresh, page_size=page_size)
    if everything and app.as_json:
        for job in found:
            app.json(job)
        return
    jobs = list(found) if everything else list(islice(found, limit + 1))
    more = not everything and len(jobs) > limit
    shown = jobs[:limit] if more else jobs
    if app.as_json:
        for job in shown:
            app.json(job)
    else:
        for line in _text.table(shown):
            click.echo(line)
    if more:
        app.note(f"there are more than these {limit}: see --limit and --all")


@click.command()
@click.argument("ids", metavar="ID...", nargs=-1, required=True)
@click.option("--fresh", is_flag=True, help="Ask the batch system first.")
@json_option
@pass_app
def get(app: App, /, ids: tuple[str, ...], fresh: bool) -> None:
    """Show all about jobs."""
    for number, id_ in enumerate(ids):
        job = app.client.jobs.get(id_, fresh=fresh)
        if app.as_json:
            app.json(job)
            continue
        if number:
            click.echo()
        for line in _text.details(job):
            click.echo(line)
