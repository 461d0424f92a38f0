"""What the commands on incidents share."""

from __future__ import annotations

from collections.abc import Sequence

import click
from openfacility_client import Incident, Severity

from openfacility_cli import _status_text as text
from openfacility_cli._app import App

SEVERITIES = click.Choice([severity.lower() for severity in Severity if severity is not Severity.UNSPECIFIED])


def print_incidents(app: App, incidents: Sequence[Incident]) -> None:
    """Print incidents after a change, a line each."""
    for incident in incidents:
        if app.as_json:
            app.json(incident)
        else:
            app.line(text.incident_line(incident))
