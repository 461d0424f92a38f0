"""`openfacility outages`."""

from __future__ import annotations

from datetime import datetime

import click

from openfacility_cli import _status_text as text
from openfacility_cli._app import App, json_option, pass_app
from openfacility_cli._times import WHEN


@click.command()
@click.option("--resource", "-r", help="What was down on this resource.")
@click.option("--job", metavar="ID", help="What may have broken this job.")
@click.option("--from", "start", type=WHEN, help="With --resource: start, with zone, or -2d; else a day before.")
@click.option("--to", "end", type=WHEN, help="With --resource: end; else now.")
@json_option
@pass_app
def outages(app: App, /, resource: str | None, job: str | None, start: datetime | None, end: datetime | None) -> None:
    """Find the outages of a resource, or those that may explain how a job ended."""
    if bool(resource) == bool(job):
        raise click.UsageError("say what it is about: either --resource or --job")
    if job and (start or end):
        raise click.UsageError("--from and --to go with --resource; a job has its own time")
    report = app.client.status.find_outages(resource=resource, job=job, start=start, end=end)
    if app.as_json:
        app.json(report)
        return
    for line in text.outage_lines(report):
        click.echo(line)
