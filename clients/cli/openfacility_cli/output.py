"""`openfacility jobs logs` and `wait`."""

from __future__ import annotations

import math
import sys
import time
from base64 import b64encode
from datetime import timedelta

import click

from openfacility_cli import _text
from openfacility_cli._app import App, json_option, pass_app
from openfacility_cli._values import DURATION


@click.command()
@click.argument("job_id", metavar="ID")
@click.option("--follow", "-f", is_flag=True, help="Go on until the job has ended.")
@click.option("--stderr", is_flag=True, help="Its standard error instead of its standard output.")
@click.option("--offset", type=int, default=0, help="Byte to start at; negative: that many before the end.")
@json_option
@pass_app
def logs(app: App, /, job_id: str, follow: bool, stderr: bool, offset: int) -> None:
    """Print a job's output, byte for byte. With --json: pieces in base64, with their offset."""
    pieces = app.client.jobs.logs(
        job_id,
        stream="stderr" if stderr else "stdout",
        follow=follow,
        offset=offset,
        on_disconnect=app.on_disconnect,
    )
    for piece in pieces:
        if app.as_json:
            app.json({"data": b64encode(piece).decode(), "offset": str(pieces.offset - len(piece))})
        else:
            sys.stdout.buffer.write(piece)
            sys.stdout.buffer.flush()


@click.command()
@click.argument("ids", metavar="ID...", nargs=-1, required=True)
@click.option("--timeout", "limit", type=DURATION, help="Give up after this long, in all.")
@json_option
@pass_app
def wait(app: App, /, ids: tuple[str, ...], limit: timedelta | None) -> int:
    """Wait until jobs have ended, and exit as the first of them that did not COMPLETE."""
    end = math.inf if limit is None else time.monotonic() + limit.total_seconds()
    code = 0
    for id_ in ids:
        job = app.client.jobs.wait(id_, timeout=max(0.0, end - time.monotonic()), on_disconnect=app.on_disconnect)
        code = code or _text.exit_code(job)
        if app.as_json:
            app.json(job)
        else:
            app.line(f"{job.id}  {click.style(job.state, fg=_text.COLORS.get(job.state))}  {_text.why(job)}".rstrip())
    return code
