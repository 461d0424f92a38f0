"""`openfacility incidents declare` and `plan`."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, TypeVar

import click
from openfacility_client import Severity

from openfacility_cli._app import App, json_option, pass_app
from openfacility_cli._incidents import SEVERITIES, print_incidents
from openfacility_cli._times import WHEN
from openfacility_cli._values import DURATION
from openfacility_cli.status import STATUSES, end_of

F = TypeVar("F", bound=Callable[..., Any])

_OPTIONS = (
    click.argument("name"),
    click.option("--resource", "-r", "resources", multiple=True, required=True, help="That it is about; repeatable."),
    click.option("--status", default="down", show_default=True, type=STATUSES, help="What it makes of them."),
    click.option("--severity", default=Severity.MINOR.lower(), show_default=True, type=SEVERITIES),
    click.option("--description", default="", help="A paragraph."),
    click.option("--note", default="", help="A first note."),
    click.option("--request-id", default="", help="Makes repeating the command safe."),
)


def _what(command: F) -> F:
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


@click.command()
@_what
@click.option("--from", "start", type=WHEN, help="When it began: a time with its zone, or -30m; else now.")
@click.option("--to", "end", type=WHEN, help="When it will be over, if somebody knows.")
@json_option
@pass_app
def declare(app: App, /, name: str, resources: tuple[str, ...], **options: Any) -> None:
    """Say that something is wrong now: NAME is a line that says what."""
    print_incidents(app, [app.client.status.declare(name, resources, **options)])


@click.command()
@_what
@click.option("--from", "start", type=WHEN, required=True, help="When it begins: a time with its zone, or +2d.")
@click.option("--to", "end", type=WHEN, help="When it ends.")
@click.option("--for", "length", type=DURATION, help="How long it takes, instead of --to: 90s, 5m, 1h30m, 2d.")
@click.option("--repeat", "rule", default="", metavar="RULE", help="As in RFC 5545: FREQ=WEEKLY;BYDAY=TU;COUNT=10.")
@click.option("--time-zone", default="", metavar="ZONE", help="In which it repeats, such as Europe/London; else UTC.")
@click.option("--reservation", is_flag=True, help="The resources work, but are kept for somebody.")
@json_option
@pass_app
def plan(
    app: App,
    /,
    name: str,
    resources: tuple[str, ...],
    start: datetime,
    end: datetime | None,
    length: timedelta | None,
    **options: Any,
) -> None:
    """Announce maintenance: NAME is a line that says what will be done."""
    if options["time_zone"] and not options["rule"]:
        raise click.UsageError("--time-zone goes with --repeat")
    end = end_of(start, end, length)
    print_incidents(app, app.client.status.plan(name, resources, start, end, **options))
