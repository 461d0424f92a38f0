"""`openfacility reservations`."""

from __future__ import annotations

import click

from openfacility_cli import _text
from openfacility_cli._app import App, json_option, pass_app


@click.command()
@click.option("--resource", "-r", "resource_ids", multiple=True, help="On this resource; may be repeated.")
@json_option
@pass_app
def reservations(app: App, /, resource_ids: tuple[str, ...]) -> None:
    """Show which nodes are kept for whom, now and to come: what you may use, and maintenance.

    `jobs submit --reservation ID` runs a job in one.
    """
    found = app.client.jobs.reservations(resource_ids=resource_ids)
    if app.as_json:
        for reservation in found:
            app.json(reservation)
        return
    for line in _text.reservations(found):
        click.echo(line)
