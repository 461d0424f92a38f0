"""Options that select jobs, the same for every command that has them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any, TypeVar

import click
from openfacility_client import JobFilter, JobState, job_filter

from openfacility_cli._values import MOMENT, PAIR

F = TypeVar("F", bound=Callable[..., Any])

_STATES = click.Choice([state.lower() for state in JobState if state is not JobState.UNSPECIFIED], case_sensitive=False)
_OPTIONS = (
    click.option("--state", "states", multiple=True, type=_STATES, help="In this state; may be repeated."),
    click.option("--label", "labels", multiple=True, type=PAIR, metavar="KEY=VALUE", help="With this label."),
    click.option("--name", help="With exactly this name."),
    click.option("--owner", "owners", multiple=True, help="Of this owner; may be repeated."),
    click.option("--resource", "resource_ids", multiple=True, help="On this resource; may be repeated."),
    click.option("--account", "project_ids", multiple=True, help="Charged to this project; may be repeated."),
    click.option("--array", "array_job_id", metavar="ID", help="Elements of this array job."),
    click.option("--since", "created_from", type=MOMENT, help="Submitted since then: a time, or 2h for 2 hours ago."),
    click.option("--until", "created_to", type=MOMENT, help="Submitted before then."),
)


def filter_options(command: F) -> F:
    """Give a command the options that select jobs; `make_filter` takes them."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def make_filter(
    *,
    states: tuple[str, ...],
    labels: tuple[tuple[str, str], ...],
    name: str | None,
    owners: tuple[str, ...],
    resource_ids: tuple[str, ...],
    project_ids: tuple[str, ...],
    array_job_id: str | None,
    created_from: datetime | None,
    created_to: datetime | None,
) -> JobFilter:
    """Make a filter from the options."""
    given: dict[str, Any] = {
        "states": states,
        "labels": dict(labels),
        "name": name,
        "owners": owners,
        "resource_ids": resource_ids,
        "project_ids": project_ids,
        "array_job_id": array_job_id,
        "created_from": created_from,
        "created_to": created_to,
    }
    return job_filter(None, **{key: value for key, value in given.items() if value})
