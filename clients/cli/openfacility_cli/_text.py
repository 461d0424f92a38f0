"""Jobs as text: lines, tables, details."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta

import click
from openfacility_client import Estimate, Job, JobChange, JobReason, JobState, Reservation

from openfacility_cli._layout import clock, columns, moment, short, size, span, until

COLORS = {
    JobState.NEW: "cyan",
    JobState.QUEUED: "cyan",
    JobState.HELD: "yellow",
    JobState.ACTIVE: "blue",
    JobState.COMPLETED: "green",
    JobState.FAILED: "red",
    JobState.CANCELED: "magenta",
}
_WAITING = (JobState.NEW, JobState.QUEUED)
_TELLING = (JobReason.REFUSED, JobReason.LAUNCH_FAILED)
_LONGEST = 100


def table(jobs: Sequence[Job]) -> Iterable[str]:
    """Lay jobs out in columns."""
    return columns(
        ("ID", "NAME", "STATE", "OWNER", "RESOURCE", "CREATED", "TIME", "REMARKS"), [_row(job) for job in jobs]
    )


def change_line(change: JobChange) -> str:
    """Say what happened to a job, in a line."""
    job = change.job
    time = (job.update_time or datetime.now(UTC)).astimezone().strftime("%H:%M:%S")
    more = why(job) or job.name
    state = click.style(job.state.ljust(9) if more else job.state, fg=COLORS.get(job.state))
    return f"{time}  {job.id}  {state}  {more}".rstrip()


def why(job: Job) -> str:
    """Say why a job is in its state and what else there is to know of it, as far as there is something to say."""
    parts = ["external"] if job.external else []
    parts += [part for part in (_cause(job), _where(job)) if part]
    if job.cancel_requested and not job.final:
        parts.append("cancellation asked for")
    return ", ".join(parts)


def _cause(job: Job) -> str:
    status = job.status
    if job.state in _WAITING or (job.state is JobState.HELD and status.reason is JobReason.UNSPECIFIED):
        return _waiting(job)
    if job.exit_code is not None and job.state is not JobState.COMPLETED:
        return f"exit code {job.exit_code}"
    if status.signal is not None:
        return f"signal {status.signal}"
    if status.reason is JobReason.UNSPECIFIED:
        return short(status.message, _LONGEST)
    word = _word(status.reason)
    told = status.reason in _TELLING and status.message
    return f"{word}: {short(status.message, _LONGEST)}" if told else word


def _waiting(job: Job) -> str:
    """Say for what a job waits, and how long that may be."""
    status = job.status
    message = short(status.message, _LONGEST).removesuffix(".")
    if message[1:2].islower():
        message = message[0].lower() + message[1:]
    cause = message or ("" if status.reason is JobReason.UNSPECIFIED else _word(status.reason))
    parts = [f"waiting: {cause}"] if cause else []
    if status.expected_start_time is not None:
        parts.append(f"expected {clock(status.expected_start_time)}")
    return ", ".join(parts)


def _where(job: Job) -> str:
    return f"on {short(job.nodes)}" if job.nodes and job.state is JobState.ACTIVE else ""


def _word(reason: JobReason) -> str:
    return reason.lower().replace("_", " ")


def details(job: Job) -> Iterable[str]:
    """Say all about a job, a line for each thing."""
    status, attributes = job.status, job.spec.attributes
    expected = status.expected_start_time
    return _rows(
        {
            "id": job.id,
            "name": job.name,
            "state": job.state + (f" ({why(job)})" if why(job) else ""),
            "message": status.message,
            "engine says": ": ".join(part for part in (status.engine_reason, status.engine_message) if part),
            "expected": f"{moment(expected)} ({until(expected)})" if expected else "",
            "external": "submitted around this service" if job.external else "",
            "owner": job.owner,
            "resource": job.resource_id,
            "queue": attributes.queue_name,
            "account": attributes.account,
            "reservation": attributes.reservation_id,
            "attributes": _pairs(attributes.custom_attributes),
            "native id": job.native_id,
            "nodes": job.nodes,
            "command": _command(job),
            "directory": job.spec.directory,
            "labels": _pairs(job.spec.labels),
            "array": _counts(job),
            "created": moment(job.create_time),
            "started": moment(job.start_time),
            "ended": moment(job.end_time),
            "time": span(elapsed(job)),
            "time limit": span(attributes.duration),
            "cpu time": span(job.usage.cpu_time if job.usage else None),
            "peak memory": size(job.usage.peak_memory if job.usage else 0),
            "exit code": "" if job.exit_code is None else str(job.exit_code),
            "as of": moment(job.observe_time),
        },
        (
            f"{moment(step.time)}  {step.state}"
            + ("" if step.reason is JobReason.UNSPECIFIED else f"  {_word(step.reason)}")
            for step in job.transitions
        ),
    )


def estimate(found: Estimate) -> Iterable[str]:
    """Say what would become of a job, a line for each thing."""
    start = found.expected_start_time
    expected = f"{moment(start)} ({until(start)})" if start else "not known"
    return _rows(
        {
            "acceptable": click.style("yes", fg="green") if found.acceptable else click.style("no", fg="red"),
            "why not": found.message,
            "reason": found.reason,
            "field": found.field,
            "engine says": found.engine_message,
            "expected": expected if found.acceptable else "",
            "nodes": f"{found.node_count or ''}",
            "cores": f"{found.core_count or ''}",
            "core hours": f"{found.core_hours:.4g}" if found.core_hours else "",
            "node hours": f"{found.node_hours:.4g}" if found.node_hours else "",
            "account": found.account,
        }
    )


def reservations(found: Sequence[Reservation]) -> Iterable[str]:
    """Lay reservations out in columns."""
    header = ("ID", "RESOURCE", "FROM", "TO", "", "NODES", "CORES", "QUEUE", "FOR", "KIND")
    return columns(header, [_reservation(each) for each in found])


def _reservation(each: Reservation) -> tuple[str, ...]:
    start = "" if each.start_time is None else until(each.start_time)
    return (
        each.id,
        each.resource_id,
        moment(each.start_time)[:16],
        moment(each.end_time)[:16],
        click.style("active", fg="green") if each.active else start,
        short(each.nodes, 30) or f"{each.node_count or ''}",
        f"{each.core_count or ''}",
        each.queue_name,
        "maintenance" if each.maintenance else short(",".join((*each.users, *each.accounts)), 30),
        short(",".join(each.flags), 40).lower(),
    )


def _rows(rows: Mapping[str, str], more: Iterable[str] = ()) -> Iterable[str]:
    """Write what is there of some things, each with its name, and more lines below."""
    for key, value in rows.items():
        if value:
            yield f"{key + ':':<13}{value}"
    for line in more:
        yield f"{'':<13}{line}"


def _command(job: Job) -> str:
    first = job.spec.executable or job.spec.script_path or ("script" if job.spec.script else "")
    return " ".join((first, *job.spec.arguments)) if first else ""


def _pairs(pairs: Mapping[str, str]) -> str:
    return " ".join(f"{key}={value}" for key, value in pairs.items())


def elapsed(job: Job) -> timedelta | None:
    """Return how long a job has run, or ran."""
    if job.start_time is None:
        return None
    return (job.end_time or datetime.now(UTC)) - job.start_time


def exit_code(job: Job) -> int:
    """Return how this command exits for a job that has ended."""
    if job.state is JobState.COMPLETED:
        return 0
    if job.status.reason is JobReason.TIME_LIMIT:
        return 124
    if job.exit_code:
        return job.exit_code
    if job.status.signal and job.state is JobState.FAILED:
        return 128 + job.status.signal
    return 125


def _row(job: Job) -> tuple[str, ...]:
    return (
        job.id,
        short(job.name, 24),
        click.style(job.state, fg=COLORS.get(job.state)),
        job.owner,
        job.resource_id,
        moment(job.create_time),
        span(elapsed(job)),
        why(job),
    )


def _counts(job: Job) -> str:
    counts = job.array_counts
    if counts is None:
        return ""
    return (
        f"{counts.total} elements: {counts.waiting} waiting, {counts.active} active, {counts.completed} completed, "
        f"{counts.failed} failed, {counts.canceled} canceled"
    )
