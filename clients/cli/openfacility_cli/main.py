"""The `openfacility` command: global options, and what its exit codes and errors look like.

Exit codes:

    0    done; with `wait` and `submit --watch`: the job COMPLETED
    1    the service refused, or something else went wrong
    2    wrong usage, or a wrong configuration
    69   the service cannot be reached, or did not answer in time
    77   not signed in, or not allowed
    130  interrupted (Ctrl-C)
    141  whoever read the output has gone

`status check` exits with 3 if the resource is at risk, with 4 if it is not available; `status --all --once` with 69 if
a facility does not answer; `jobs estimate` with 4 if the job would be refused. `jobs wait` and `jobs submit --watch`
exit as the job did: with its exit code, 128 + N after signal N, 124 at its time limit, 125 if it ended in any other way
(canceled, lost, could not be started).
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from openfacility_cli._app import App
from openfacility_cli._lazy import LazyGroup

_COMMANDS = {
    "jobs": ("openfacility_cli.jobs:jobs", "Submit, find, steer and follow jobs."),
    "status": ("openfacility_cli.status:status", "See what is up, here or at several facilities."),
    "outages": ("openfacility_cli.outages:outages", "Find out what was down, or what broke a job."),
    "incidents": ("openfacility_cli.incidents:incidents", "Find, declare, plan and end incidents."),
    "reservations": ("openfacility_cli.reservations:reservations", "Show which nodes are kept for whom."),
    "watch": ("openfacility_cli.watch:watch_all", "Show everything as it happens."),
    "health": ("openfacility_cli.health:health", "Ask whether the service takes calls."),
    "config": ("openfacility_cli.config:config", "Show and change the settings of this command."),
}


@click.group(
    cls=LazyGroup,
    commands_at=_COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 done, 1 refused, 2 wrong usage, 69 not reachable, 77 not allowed, 130 interrupted; "
    "`jobs wait` and `jobs submit --watch` exit as the job did.",
)
@click.option("--address", metavar="ADDR", help="host:port or unix:path.  [env: OPENFACILITY_ADDRESS]")
@click.option("--token", metavar="TOKEN", help="Bearer token; better in a file.  [env: OPENFACILITY_TOKEN]")
@click.option(
    "--token-file",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="File with the token, read again when that expires.  [env: OPENFACILITY_TOKEN_FILE]",
)
@click.option("--profile", metavar="NAME", help="Profile of the configuration.  [env: OPENFACILITY_PROFILE]")
@click.option("--tls/--no-tls", default=None, help="Encrypt the connection.")
@click.option("--ca", metavar="FILE", type=click.Path(path_type=Path), help="Authorities to trust; implies --tls.")
@click.option("--cert", metavar="FILE", type=click.Path(path_type=Path), help="Own certificate, for mutual TLS.")
@click.option("--key", metavar="FILE", type=click.Path(path_type=Path), help="Private key of --cert.")
@click.option("--insecure", is_flag=True, default=None, help="Send the token in plain text to another machine.")
@click.option("--timeout", metavar="SECONDS", type=click.FloatRange(min=0, min_open=True), help="Of each call [30].")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, one object per line.")
@click.version_option(package_name="openfacility", prog_name="openfacility")
@click.pass_context
def cli(
    context: click.Context, /, as_json: bool, profile: str | None, **given: str | Path | float | bool | None
) -> None:
    """Run jobs on a research computing facility, and see what becomes of them and of it."""
    context.obj = App(given, profile=profile, as_json=as_json)
    context.call_on_close(context.obj.close)


def main() -> None:
    """Run the command line, and exit."""
    # gRPC reports every lost connection on standard error; here the commands say what there is to say.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run the command line; return the exit code."""
    try:
        if "_OPENFACILITY_COMPLETE" in os.environ:
            cli.main(arguments, prog_name="openfacility")
        with cli.make_context("openfacility", arguments) as context:
            code = cli.invoke(context)
        sys.stdout.flush()
    except click.exceptions.Exit as end:
        return end.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return 130
    except BrokenPipeError:
        # Nobody reads any more; the interpreter must not find that out again when it flushes at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception as error:
        from openfacility_cli._errors import explain  # noqa: PLC0415 - imports gRPC, which help does not need

        explanation = explain(error)
        if explanation is None:
            raise
        click.echo(explanation.text, err=True)
        return explanation.exit_code
    return code if isinstance(code, int) else 0
