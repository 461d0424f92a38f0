"""`openfacility health`."""

from __future__ import annotations

import click
from openfacility_client import HealthStatus

from openfacility_cli._app import App, json_option, pass_app


@click.command()
@click.argument("service", default="")
@json_option
@pass_app
def health(app: App, /, service: str) -> int:
    """Ask whether the service, or one SERVICE of it, takes calls. Exits with 0 if it does, with 69 if not."""
    status = app.client.health(service)
    if app.as_json:
        app.json({"status": str(status)})
    else:
        app.line(status)
    return 0 if status is HealthStatus.SERVING else 69
