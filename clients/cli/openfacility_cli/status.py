"""`openfacility status`: the facility, or several, as they are and as they change."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import click
from openfacility_client import Availability, ResourceStatus

from openfacility_cli import _status_text as text
from openfacility_cli._app import App, json_option, pass_app
from openfacility_cli._layout import age, columns, moment
from openfacility_cli._times import WHEN
from openfacility_cli._values import DURATION, PAIR

STATUSES = click.Choice([status.lower() for status in ResourceStatus if status is not ResourceStatus.UNSPECIFIED])
_EXIT_CODES = {Availability.AVAILABLE: 0, Availability.AT_RISK: 3}


@click.group(invoke_without_command=True)
@click.option("--all", "several", is_flag=True, help="Show all profiles of the configuration, as one, as they change.")
@click.option(
    "--facility", "given", multiple=True, type=PAIR, metavar="NAME=ADDR", help="Instead of the profiles; repeatable."
)
@click.option("--once", is_flag=True, help="With --all: print how they are and exit; with 69 if one does not answer.")
@click.option("--site", "sites", multiple=True, help="Only resources at this site; repeatable.")
@click.option("--type", "type_", help="Only resources of this type: a word such as storage, or a URN.")
@click.option("--group", help="Only resources of this group.")
@click.option("--status", "statuses", multiple=True, type=STATUSES, help="Only resources that are so; repeatable.")
@json_option
@click.pass_context
def status(
    context: click.Context,
    several: bool,
    given: tuple[tuple[str, str], ...],
    once: bool,
    sites: tuple[str, ...],
    type_: str | None,
    group: str | None,
    statuses: tuple[str, ...],
) -> int:
    """Show which resources are up, and the incidents that go on or come."""
    if context.invoked_subcommand is not None:
        return 0
    app = context.ensure_object(App)
    filters = {"sites": sites, "type": type_, "group": group, "statuses": statuses}
    chosen: Any = {key: value for key, value in filters.items() if value}
    if several or given:
        if chosen:
            raise click.UsageError("--all shows whole facilities: leave the filters out")
        from openfacility_cli._federation import show_all  # noqa: PLC0415 - only this needs threads and rich

        return show_all(app, app.facilities(dict(given)), once=once)
    overview = app.client.status.overview()
    resources = list(app.client.status.resources(page_size=1000, **chosen))
    if app.as_json:
        for resource in resources:
            app.json(text.as_json("resource", resource))
        for incident in (*overview.open_incidents, *overview.coming_incidents):
            app.json(text.as_json("incident", incident))
        return 0
    for line in text.facility(overview, resources, filtered=bool(chosen)):
        click.echo(line)
    return 0


@status.command()
@click.argument("resources", metavar="[RESOURCE]...", nargs=-1)
@click.option("--after", metavar="REVISION", type=click.IntRange(min=0), help="Only changes after this one.")
@click.option("--no-snapshot", is_flag=True, help="Only what changes from now on.")
@json_option
@pass_app
def watch(app: App, /, resources: tuple[str, ...], after: int | None, no_snapshot: bool) -> None:
    """Show the facility, or some resources, as they change, until interrupted.

    A table on a terminal, otherwise a line for each change; with --json, the change as an object.
    """
    changes = app.client.status.watch(
        resources, after_revision=after, snapshot=not no_snapshot, on_disconnect=app.on_disconnect
    )
    if app.live:
        from openfacility_cli._status_live import FacilityDisplay  # noqa: PLC0415 - only a terminal needs rich

        with FacilityDisplay() as display:
            for change in changes:
                display.show(change)
        return
    for change in changes:
        if app.as_json:
            app.json(change)
        else:
            app.line(text.change_line(change))


@status.command()
@click.argument("resource")
@click.option("--from", "start", type=WHEN, help="Start, with its zone; else now.")
@click.option("--to", "end", type=WHEN, help="End, with its zone; else an hour after the start.")
@click.option("--for", "length", type=DURATION, help="How long, instead of --to: 90s, 5m, 1h30m, 2d.")
@json_option
@pass_app
def check(app: App, /, resource: str, start: datetime | None, end: datetime | None, length: timedelta | None) -> int:
    """Say whether RESOURCE can be used in a span of time, and when it could be.

    Exits with 0 if it is available, with 3 if it is at risk, with 4 if it is not available.
    """
    end = end_of(start, end, length)
    report = app.client.status.check_availability(resource, start, end)
    if app.as_json:
        app.json(report)
    else:
        for line in text.availability_lines(resource, report):
            app.line(line)
    return _EXIT_CODES.get(report.availability, 4)


@status.command("set")
@click.argument("resource")
@click.argument("value", metavar="STATUS", type=click.Choice(["up", "degraded", "down", "unknown", "auto"]))
@click.option("--reason", default="", help="Why, in a sentence.")
@click.option("--until", type=WHEN, help="When this ceases to count, with its zone; else when it is taken back.")
@click.option("--incident", "incident_id", default="", metavar="ID", help="Incident that this is part of.")
@click.option("--request-id", default="", help="Makes repeating the command safe.")
@json_option
@pass_app
def set_(app: App, /, resource: str, value: str, incident_id: str, **options: Any) -> None:
    """Say how RESOURCE is, on an operator's word; `auto` takes that back and lets the probes speak."""
    found = app.client.status.set_status(resource, None if value == "auto" else value, incident=incident_id, **options)
    if app.as_json:
        app.json(found)
    else:
        app.line(f"{found.id}  {text.status(found.status)}  {text.why(found)}".rstrip())


@status.command()
@json_option
@pass_app
def facilities(app: App) -> None:
    """List this facility and those that its server knows of, and when each was last heard of."""
    found = app.client.status.facilities()
    if app.as_json:
        for each in found:
            app.json(each)
        return
    now = datetime.now(UTC)
    rows = [
        (
            each.name,
            text.counts(each.overview.counts) if each.overview else "never heard of",
            click.style("answers", fg="green") if each.reachable else click.style("does not answer", fg="red"),
            "" if each.heard_time is None else f"{age(now - each.heard_time)} ago",
            each.error,
        )
        for each in found
    ]
    for line in columns(("FACILITY", "RESOURCES", "", "HEARD", "ERROR"), rows):
        click.echo(line)


@status.command()
@click.argument("resource", required=False)
@click.option("--incident", "incident_id", metavar="ID", help="Only changes that are part of this incident.")
@click.option("--from", "since", type=WHEN, help="Since then: a time with its zone, or -2d.")
@click.option("--to", "until", type=WHEN, help="Before then.")
@click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True, help="Most events to print.")
@json_option
@pass_app
def events(app: App, /, resource: str | None, incident_id: str | None, limit: int, **times: Any) -> None:
    """List changes of status, of all resources or one, newest first."""
    filters: Any = {"resources": resource, "incident": incident_id, **times}
    found = app.client.status.events(
        page_size=min(limit, 1000), **{key: value for key, value in filters.items() if value}
    )
    rows = []
    for event, _ in zip(found, range(limit), strict=False):
        if app.as_json:
            app.json(event)
            continue
        change = f"{text.status(event.previous_status)} → {text.status(event.status)}"
        rows.append((moment(event.occur_time), event.resource_id, change, event.incident_id or "-", event.reason))
    if not app.as_json:
        for line in columns(("TIME", "RESOURCE", "STATUS", "INCIDENT", "REASON"), rows):
            click.echo(line)


def end_of(start: datetime | None, end: datetime | None, length: timedelta | None) -> datetime | None:
    """Return the end of a span that is given by its end or its length."""
    if length is None:
        return end
    if end is not None:
        raise click.UsageError("give --to or --for, not both")
    return (start or datetime.now(UTC)) + length
