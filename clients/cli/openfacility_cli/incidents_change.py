"""`openfacility incidents update`, `extend`, `resolve`, `cancel` and `note`.

Without `--etag` a change is based on the incident as it is when the command runs. With it, as when `incidents show` was
called: then a change that somebody else has made meanwhile is not overwritten.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, TypeVar

import click
from openfacility_client import Incident, RPCError

from openfacility_cli._app import App, json_option, pass_app
from openfacility_cli._errors import sentence
from openfacility_cli._incidents import SEVERITIES, print_incidents
from openfacility_cli._times import WHEN
from openfacility_cli._values import DURATION
from openfacility_cli.status import STATUSES

F = TypeVar("F", bound=Callable[..., Any])


def _version(command: F) -> F:
    etag = click.option("--etag", default="", help="Change nothing unless it is still this version.")
    request_id = click.option("--request-id", default="", help="Makes repeating the command safe.")
    return etag(request_id(command))


def _known(app: App, id_: str, etag: str) -> Incident:
    """Return the incident that a change is based on."""
    return Incident(id_, etag=etag) if etag else app.client.status.incident(id_)


@click.command()
@click.argument("id_", metavar="ID")
@click.option("--name")
@click.option("--description")
@click.option("--severity", type=SEVERITIES)
@click.option("--status", type=STATUSES, help="What it makes of the resources.")
@click.option("--resource", "-r", "resources", multiple=True, help="Replace all resources by these.")
@click.option("--from", "start", type=WHEN, help="When it begins; until it has begun.")
@click.option("--to", "end", type=WHEN, help="When it ends.")
@click.option("--no-end", is_flag=True, help="Nobody knows any more when it ends.")
@_version
@json_option
@pass_app
def update(app: App, /, id_: str, etag: str, resources: tuple[str, ...], no_end: bool, **changes: Any) -> None:
    """Change an incident; what is not given stays as it is."""
    if no_end and changes["end"]:
        raise click.UsageError("give --to or --no-end, not both")
    given = {key: value for key, value in changes.items() if value is not None}
    if not (resources or no_end or given.keys() - {"request_id"}):
        raise click.UsageError("say what to change: see --help")
    known = _known(app, id_, etag)
    found = app.client.status.update(known, resources=resources or None, no_end=no_end, **given)
    print_incidents(app, [found])


@click.command()
@click.argument("id_", metavar="ID")
@click.option("--to", "end", type=WHEN, help="The new end: a time with its zone, or +2h from now.")
@click.option("--by", "length", type=DURATION, help="How much later than it was to end: 30m, 2h, 1d.")
@_version
@json_option
@pass_app
def extend(app: App, /, id_: str, end: datetime | None, length: timedelta | None, etag: str, request_id: str) -> None:
    """Put off the end of an incident."""
    if (end is None) == (length is None):
        raise click.UsageError("say until when: either --to or --by")
    known = app.client.status.incident(id_)
    if length is not None:
        if known.end_time is None:
            raise click.UsageError("nobody knows when it ends: give --to")
        end = known.end_time + length
    print_incidents(app, [app.client.status.update(known, end=end, etag=etag, request_id=request_id)])


@click.command()
@click.argument("id_", metavar="ID")
@click.option("--at", "end", type=WHEN, help="When it ended: a time with its zone, or -30m; else now.")
@click.option("--note", default="", help="A last note.")
@_version
@json_option
@pass_app
def resolve(app: App, /, id_: str, etag: str, **options: Any) -> None:
    """End an incident; one that has not begun is called off."""
    print_incidents(app, [app.client.status.resolve(_known(app, id_, etag), **options)])


@click.command()
@click.argument("ids", metavar="ID...", nargs=-1, required=True)
@click.option("--note", default="", help="A last note.")
@json_option
@pass_app
def cancel(app: App, /, ids: tuple[str, ...], note: str) -> int:
    """Call incidents off: they will not be, or never were."""
    failed = 0
    for id_ in ids:
        try:
            print_incidents(app, [app.client.status.resolve(_known(app, id_, ""), cancel=True, note=note)])
        except RPCError as error:
            if len(ids) == 1:
                raise
            app.note(f"{id_}: {sentence(error)}")
            failed += 1
    return 1 if failed else 0


@click.command()
@click.argument("id_", metavar="ID")
@click.argument("text")
@click.option("--request-id", default="", help="Makes repeating the command safe.")
@json_option
@pass_app
def note(app: App, /, id_: str, text: str, request_id: str) -> None:
    """Add a note to an incident, also to one that is over."""
    print_incidents(app, [app.client.status.add_note(id_, text, request_id=request_id)])
