"""`openfacility jobs submit` and `estimate`."""

from __future__ import annotations

import uuid
from typing import Any

import click

from openfacility_cli import _text
from openfacility_cli._app import App, json_option, pass_app
from openfacility_cli._follow import follow
from openfacility_cli._job_options import job_options, make_spec


@click.command()
@job_options
@click.option("--watch", is_flag=True, help="Follow its state and output, and exit as it does.")
@click.option("--request-id", default="", help="Makes repeating this very submission safe.")
@json_option
@pass_app
def submit(app: App, /, watch: bool, resource: str, request_id: str, **options: Any) -> int:
    """Submit a job and print its id.

    \b
    openfacility jobs submit -- /bin/echo hi
    openfacility jobs submit --watch --cores 2 --time 10m -- /bin/sh -c 'make -j2'

    While the batch system does not answer this goes on trying, for as long as --timeout allows; it is one job all the
    same.
    """
    spec = make_spec(**options)
    request_id = request_id or str(uuid.uuid4())
    try:
        job = app.client.jobs.submit(spec, resource=resource, request_id=request_id)
    except KeyboardInterrupt:
        app.note(f"it may have been submitted nevertheless: repeat it with --request-id {request_id}")
        raise
    if watch:
        if not (app.as_json or app.live):
            app.note(f"job {job.id}")
        return follow(app, job)
    if app.as_json:
        app.json(job)
    else:
        app.line(job.id)
    return 0


@click.command()
@job_options
@json_option
@pass_app
def estimate(app: App, /, resource: str, **options: Any) -> int:
    """Say what would become of a job if it were submitted now; submit nothing.

    Takes what `jobs submit` takes. Exits with 4 if the batch system would refuse it.
    """
    found = app.client.jobs.estimate(make_spec(**options), resource=resource)
    if app.as_json:
        app.json(found)
    else:
        for line in _text.estimate(found):
            click.echo(line)
    return 0 if found.acceptable else 4
