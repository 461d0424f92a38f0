"""Jobs as text: lines, tables, details."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta

import click
from openfacility_client import Job, JobChange, JobReason, JobState

COLORS = {
    JobState.NEW: "cyan",
    JobState.QUEUED: "cyan",
    JobState.HELD: "yellow",
    JobState.ACTIVE: "blue",
    JobState.COMPLETED: "green",
    JobState.FAILED: "red",
    JobState.CANCELED: "magenta",
}
_HEADER = ("ID", "NAME", "STATE", "OWNER", "RESOURCE", "CREATED", "TIME", "EXIT")


def table(jobs: Sequence[Job]) -> Iterable[str]:
    """Lay jobs out in columns."""
    rows = [_HEADER, *(_row(job) for job in jobs)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADER))]
    for number, row in enumerate(rows):
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        if number:
            cells[2] = click.style(cells[2], fg=COLORS.get(jobs[number - 1].state))
        else:
            cells = [click.style(cell, bold=True) for cell in cells]
        yield "  ".join(cells).rstrip()


def change_line(change: JobChange) -> str:
    """Say what happened to a job, in a line."""
    job = change.job
    time = (job.update_time or datetime.now(UTC)).astimezone().strftime("%H:%M:%S")
    more = why(job) or job.name
    state = click.style(job.state.ljust(9) if more else job.state, fg=COLORS.get(job.state))
    return f"{time}  {job.id}  {state}  {more}".rstrip()


def why(job: Job) -> str:
    """Say why a job is in its state, as far as there is something to say."""
    parts = []
    if job.exit_code is not None and job.state is not JobState.COMPLETED:
        parts.append(f"exit code {job.exit_code}")
    elif job.status.signal is not None:
        parts.append(f"signal {job.status.signal}")
    elif job.status.reason is not JobReason.UNSPECIFIED:
        parts.append(job.status.reason.lower().replace("_", " "))
    if job.cancel_requested and not job.final:
        parts.append("cancellation asked for")
    if job.status.message and not parts:
        parts.append(job.status.message)
    return ", ".join(parts)


def details(job: Job) -> Iterable[str]:
    """Say all about a job, a line for each thing."""
    command = [job.spec.executable, *job.spec.arguments] if job.spec.executable else [job.spec.script_path or "script"]
    rows = {
        "id": job.id,
        "name": job.name,
        "state": job.state + (f" ({why(job)})" if why(job) else ""),
        "owner": job.owner,
        "resource": job.resource_id,
        "queue": job.spec.attributes.queue_name,
        "account": job.spec.attributes.account,
        "native id": job.native_id,
        "command": " ".join(command),
        "directory": job.spec.directory,
        "labels": " ".join(f"{key}={value}" for key, value in job.spec.labels.items()),
        "array": _counts(job),
        "created": moment(job.create_time),
        "started": moment(job.start_time),
        "ended": moment(job.end_time),
        "time": span(elapsed(job)),
        "time limit": span(job.spec.attributes.duration),
        "cpu time": span(job.usage.cpu_time if job.usage else None),
        "peak memory": size(job.usage.peak_memory if job.usage else 0),
        "exit code": "" if job.exit_code is None else str(job.exit_code),
    }
    for key, value in rows.items():
        if value:
            yield f"{key + ':':<13}{value}"
    for step in job.transitions:
        reason = "" if step.reason is JobReason.UNSPECIFIED else f"  {step.reason.lower().replace('_', ' ')}"
        yield f"{'':<13}{moment(step.time)}  {step.state}{reason}"


def elapsed(job: Job) -> timedelta | None:
    """Return how long a job has run, or ran."""
    if job.start_time is None:
        return None
    return (job.end_time or datetime.now(UTC)) - job.start_time


def span(time: timedelta | None) -> str:
    """Write a duration as people do."""
    if time is None:
        return ""
    seconds = max(0, round(time.total_seconds()))
    if seconds < 60:
        return f"{max(0.0, time.total_seconds()):.1f} s"
    hours, rest = divmod(seconds, 3600)
    return f"{hours}:{rest // 60:02}:{rest % 60:02}"


def moment(time: datetime | None) -> str:
    """Write a time in the local zone."""
    return "" if time is None else time.astimezone().strftime("%Y-%m-%d %H:%M:%S")


def size(count: int) -> str:
    """Write a number of bytes as people do."""
    if count <= 0:
        return ""
    amount = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} TiB"


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
        job.name if len(job.name) <= 24 else f"{job.name[:23]}…",
        job.state,
        job.owner,
        job.resource_id,
        moment(job.create_time),
        span(elapsed(job)),
        "" if job.exit_code is None else str(job.exit_code),
    )


def _counts(job: Job) -> str:
    counts = job.array_counts
    if counts is None:
        return ""
    return (
        f"{counts.total} elements: {counts.waiting} waiting, {counts.active} active, {counts.completed} completed, "
        f"{counts.failed} failed, {counts.canceled} canceled"
    )
