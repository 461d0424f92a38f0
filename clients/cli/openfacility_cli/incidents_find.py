"""`openfacility incidents list` and `show`."""

from __future__ import annotations

from itertools import islice
from typing import Any

import click
from openfacility_client import IncidentType, Resolution

from openfacility_cli import _status_text as text
from openfacility_cli._app import App, json_option, pass_app
from openfacility_cli._times import WHEN

_TYPES = click.Choice([kind.lower() for kind in IncidentType if kind is not IncidentType.UNSPECIFIED])
_RESOLUTIONS = click.Choice([how.lower() for how in Resolution if how is not Resolution.UNSPECIFIED])
_NOT_OVER = tuple(how for how in Resolution if how is not Resolution.UNSPECIFIED and not how.over)


@click.command("list")
@click.option("--all", "everything", is_flag=True, help="Those that are over, too.")
@click.option("--resource", "-r", "resources", multiple=True, help="That impact this resource; repeatable.")
@click.option("--type", "types", multiple=True, type=_TYPES, help="Of this type; repeatable.")
@click.option("--resolution", "resolutions", multiple=True, type=_RESOLUTIONS, help="That stand so; repeatable.")
@click.option("--text", help="With this in the name or the description.")
@click.option("--series", metavar="ID", help="Occurrences of this recurring maintenance.")
@click.option("--at", type=WHEN, help="Going on then: a time with its zone, now, +2h or -2d.")
@click.option("--from", "since", type=WHEN, help="Not over before then.")
@click.option("--to", "until", type=WHEN, help="Begun before then.")
@click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True, help="Most to print.")
@json_option
@pass_app
def list_incidents(app: App, /, everything: bool, limit: int, **filters: Any) -> None:
    """List incidents that are not over, newest start first."""
    given: Any = {key: value for key, value in filters.items() if value}
    if not (everything or given.keys() & {"resolutions", "at", "since", "until"}):
        given["resolutions"] = _NOT_OVER
    found = list(islice(app.client.status.incidents(page_size=min(limit + 1, 1000), **given), limit + 1))
    shown = found[:limit]
    if app.as_json:
        for incident in shown:
            app.json(incident)
    else:
        for line in text.incident_table(shown):
            click.echo(line)
    if len(found) > limit:
        app.note(f"there are more than these {limit}: see --limit")


@click.command()
@click.argument("ids", metavar="ID...", nargs=-1, required=True)
@json_option
@pass_app
def show(app: App, /, ids: tuple[str, ...]) -> None:
    """Show all about incidents."""
    for number, id_ in enumerate(ids):
        incident = app.client.status.incident(id_)
        if app.as_json:
            app.json(incident)
            continue
        if number:
            click.echo()
        for line in text.incident_details(incident):
            click.echo(line)
