"""`openfacility incidents import` and `export`."""

from __future__ import annotations

import sys
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

import click

from openfacility_cli._app import App, json_option, pass_app
from openfacility_cli._incidents import print_incidents
from openfacility_cli._times import WHEN

_LARGEST = 1 << 20


@click.command("import")
@click.argument("file", type=click.File("rb"))
@click.option("--resource", "-r", "resources", multiple=True, help="Of events that name none; repeatable.")
@click.option("--request-id", default="", help="Makes repeating the command safe.")
@json_option
@pass_app
def import_(app: App, /, file: BinaryIO, resources: tuple[str, ...], request_id: str) -> None:
    """Plan what the events of an iCalendar FILE say (- is standard input); all of them or none.

    An event that was imported before is changed, a cancelled one called off.
    """
    content = file.read(_LARGEST + 1)
    if len(content) > _LARGEST:
        raise click.UsageError("the file is larger than 1 MiB")
    found = app.client.status.import_calendar(content, resources, request_id=request_id)
    print_incidents(app, found)
    if not found and not app.as_json:
        app.note("nothing to change")


@click.command()
@click.option("--resource", "-r", "resources", multiple=True, help="Only what impacts this resource; repeatable.")
@click.option("--from", "since", type=WHEN, help="Beginning then or later: a time with its zone, or -90d [-30d].")
@click.option("--output", "-o", type=click.Path(dir_okay=False, path_type=Path), help="A file, instead of the screen.")
@pass_app
def export(app: App, /, resources: tuple[str, ...], since: datetime | None, output: Path | None) -> None:
    """Print planned incidents as an iCalendar document."""
    content = app.client.status.export_calendar(resources, since=since).encode()
    if output is None:
        sys.stdout.buffer.write(content)
    else:
        output.write_bytes(content)
