"""`openfacility jobs`: where its commands are."""

from __future__ import annotations

from openfacility_cli._lazy import LazyGroup

jobs = LazyGroup(
    name="jobs",
    help="Submit, find, steer and follow jobs.",
    no_args_is_help=True,
    commands_at={
        "submit": ("openfacility_cli.submit:submit", "Submit a job."),
        "estimate": ("openfacility_cli.submit:estimate", "Say when a job would start, and what it would charge."),
        "list": ("openfacility_cli.find:list_jobs", "List jobs, newest first."),
        "get": ("openfacility_cli.find:get", "Show all about jobs."),
        "watch": ("openfacility_cli.watch:watch", "Show jobs as they change."),
        "logs": ("openfacility_cli.output:logs", "Print a job's output."),
        "wait": ("openfacility_cli.output:wait", "Wait until jobs have ended."),
        "update": ("openfacility_cli.steer:update", "Change a job."),
        "hold": ("openfacility_cli.steer:hold", "Keep waiting jobs from starting."),
        "release": ("openfacility_cli.steer:release", "Let held jobs start."),
        "signal": ("openfacility_cli.steer:signal", "Send a signal to running jobs."),
        "requeue": ("openfacility_cli.steer:requeue", "Put running jobs back into the queue."),
        "cancel": ("openfacility_cli.steer:cancel", "End jobs, by id or by filter."),
    },
)
