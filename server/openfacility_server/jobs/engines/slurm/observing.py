"""What a row of the queue or a record of accounting says about a job, as an observation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import pairwise

from openfacility_server.jobs.engines import ExternalJob, Observation
from openfacility_server.jobs.engines.slurm import fields, states
from openfacility_server.jobs.engines.slurm.rows import QueueRow, Record
from openfacility_server.jobs.model import (
    JobArray,
    JobAttributes,
    JobReason,
    JobSpec,
    JobState,
    JobUsage,
    ResourceSpec,
)

_LONGEST_PATH = 4096
_LONGEST_NAME = 255
_MOST_ARGUMENTS = 1000
_LONGEST_NODES = 4096
_MOST_NUMBER = 2**31 - 1
# The controller's clock and ours.
_CLOCKS = timedelta(seconds=30)
_WAITING = (JobState.QUEUED, JobState.HELD)
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
_LONGEST_DURATION = timedelta(days=3650)


def external_id(number: str, origin: int, index: str = "") -> str:
    """Returns our id of a job that came around us: by its number (of an element: its array's) and the second when it
    was submitted first, since Slurm gives numbers again after it has lost its memory."""
    digits = ""
    while origin:
        origin, digit = divmod(origin, 36)
        digits = _DIGITS[digit] + digits
    base = f"s{number}t{digits}"
    return f"{base}_{index}" if index else base


def of_row(
    row: QueueRow,
    job_id: str,
    owner: str,
    now: datetime,
    record: Record | None = None,
    external: ExternalJob | None = None,
) -> Observation:
    """Returns how a job in the queue stands at ``now``.

    ``record`` is its latest run in accounting, where that was looked up: it tells who canceled a job, and how one ended
    whose nodes are still being cleaned up.
    """
    word, status, by_owner = row.state, fields.number(row.status), True
    if record is not None and record.final:
        by_owner = not record.canceled_by_another(row.uid)
        if word == states.COMPLETING:
            # The queue's status is the better one: accounting takes 128 off an exit code beyond that.
            word, status = record.state, status or record.status
    elif word == states.COMPLETING and _is_put_back(row, now):
        word = states.REQUEUED
    stands = states.standing(word, row.reason, status, fields.number(row.restarts), by_owner)
    observation = Observation(
        job_id,
        row.native_id,
        stands.state,
        now,
        stands.reason,
        stands.message,
        stands.exit_code,
        stands.signal,
        engine_reason=stands.engine_reason,
        owner=owner,
        external=external,
    )
    started = fields.time(row.started)
    if stands.state in _WAITING:
        forecast = stands.state == JobState.QUEUED and row.state != states.COMPLETING
        return replace(observation, expected_start=started if forecast else None)
    ended = fields.time(row.ended) if stands.state.final else None
    return _with_times(observation, started if row.ran else None, ended, row.nodes)


def _is_put_back(row: QueueRow, now: datetime) -> bool:
    """Whether a job whose nodes are being cleaned up waits again: one that has ended has an end that is past."""
    ended = fields.time(row.ended)
    return ended is None or ended > now + _CLOCKS


def of_record(
    record: Record, job_id: str, native_id: str, owner: str, now: datetime, external: ExternalJob | None = None
) -> Observation | None:
    """Returns how a job ended by accounting; None when it has not."""
    if not record.final:
        return None
    row = record.row
    by_owner = not record.canceled_by_another(row.uid)
    stands = states.standing(row.state, row.reason, record.status, owner_canceled=by_owner)
    observation = Observation(
        job_id,
        native_id,
        stands.state,
        now,
        stands.reason,
        stands.message,
        stands.exit_code,
        stands.signal,
        engine_reason=stands.engine_reason,
        owner=owner,
        external=external,
    )
    nodes = "" if row.nodes.startswith("None assigned") else fields.text(row.nodes)
    started = fields.time(row.started) if nodes else None
    observation = _with_times(observation, started, fields.time(row.ended), nodes)
    return replace(observation, usage=usage(record)) if started else observation


def canceled_unseen(job_id: str, native_id: str, owner: str, now: datetime) -> Observation:
    """Returns the end of an array's element of which Slurm keeps nothing: canceled alone, before it started."""
    return Observation(
        job_id, native_id, JobState.CANCELED, now, JobReason.CANCELED_BY_OWNER, end_time=now, owner=owner
    )


def usage(record: Record) -> JobUsage:
    """Returns what a run used."""
    elapsed = timedelta(seconds=fields.number(record.row.elapsed))
    return JobUsage(elapsed, fields.span(record.row.cpu) or timedelta(), record.peak_memory)


def _with_times(observation: Observation, started: datetime | None, ended: datetime | None, nodes: str) -> Observation:
    if started is not None and ended is not None:
        ended = max(started, ended)
    return replace(
        observation,
        time=ended or started or observation.time,
        start_time=started,
        end_time=ended,
        nodes=fields.text(nodes)[:_LONGEST_NODES],
        usage=JobUsage(ended - started) if started and ended else None,
    )


def external(row: QueueRow, owner: str, origin: int) -> ExternalJob:
    """Returns what the queue tells of a job that came around us."""
    submitted = fields.time(str(origin)) or fields.time(row.submitted)
    assert submitted is not None
    if not row.is_element:
        return ExternalJob(owner, _spec(row), submitted)
    index = fields.number(row.task)
    return ExternalJob(owner, _spec(row), submitted, external_id(row.array, origin), index)


def external_array(rows: Sequence[QueueRow], owner: str, origin: int, now: datetime) -> Observation:
    """Returns an array that came around us as a whole, by its elements that are seen."""
    first = rows[0]
    indices = sorted(fields.number(row.task) for row in rows)
    step = math.gcd(*(later - earlier for earlier, later in pairwise(indices)))
    spec = replace(_spec(first), array=JobArray(indices[0], indices[-1], step or 1))
    job = ExternalJob(owner, spec, fields.time(str(origin)) or now)
    seen = [of_row(row, "", owner, now) for row in rows]
    return replace(of_elements(seen, external_id(first.array, origin), first.array), external=job)


def of_elements(seen: Sequence[Observation], job_id: str, native_id: str) -> Observation:
    """Returns how an array stands as a whole, by its elements."""
    stands = min(seen, key=lambda one: _ARRAY_ORDER.index(one.state))
    final = stands.state.final
    return Observation(
        job_id,
        native_id,
        stands.state,
        max(one.time for one in seen) if final else stands.time,
        JobReason.UNSPECIFIED if final else stands.reason,
        "" if final else stands.message,
        start_time=min((one.start_time for one in seen if one.start_time), default=None),
        engine_reason="" if final else stands.engine_reason,
        owner=stands.owner,
    )


# The first of these that an element is in is the array's.
_ARRAY_ORDER = (
    JobState.ACTIVE,
    JobState.QUEUED,
    JobState.HELD,
    JobState.FAILED,
    JobState.CANCELED,
    JobState.COMPLETED,
)


def _spec(row: QueueRow) -> JobSpec:
    command = fields.line(row.command, _LONGEST_PATH + 128 * 1024).split(" ")
    program, arguments = command[0][:_LONGEST_PATH], tuple(command[1 : 1 + _MOST_ARGUMENTS])
    is_path = program.startswith("/")
    return JobSpec(
        name=fields.line(row.name, _LONGEST_NAME),
        executable="" if is_path else program,
        script_path=program if is_path else "",
        arguments=arguments,
        directory=fields.line(row.directory, _LONGEST_PATH),
        stdout_path=_output(row, row.stdout),
        stderr_path=_output(row, row.stderr),
        resources=_resources(row),
        attributes=JobAttributes(
            duration=_duration(row.limit),
            queue_name=fields.line(row.partition, _LONGEST_NAME),
            account=fields.line(row.account, _LONGEST_NAME),
            reservation_id=fields.line(row.reservation, _LONGEST_NAME),
        ),
    )


def _output(row: QueueRow, path: str) -> str:
    if not fields.text(row.stderr):  # run by srun or salloc: what squeue calls its output is not written
        return ""
    # squeue makes up the default name, and an array's wrongly.
    if row.is_element and path == f"{row.directory}/slurm-{row.number}.out":
        path = f"{row.directory}/slurm-%A_%a.out"
    return fields.line(path, _LONGEST_PATH)


def _resources(row: QueueRow) -> ResourceSpec:
    asked = fields.resources(row.resources)
    nodes, tasks = _count(row.node_count), _count(row.task_count)
    gpus = fields.number(asked.get("gres/gpu", ""))
    memory = fields.size(asked.get("mem", ""))
    return ResourceSpec(
        node_count=nodes,
        process_count=tasks,
        cpu_cores_per_process=_count(row.cores_per_task),
        gpu_cores_per_process=gpus // (tasks or 1) or None,
        memory=memory // (nodes or 1) or None,
    )


def _count(value: str) -> int | None:
    count = fields.number(value)  # a range such as "2-4" of a job that waits counts as not told
    return count if 0 < count <= _MOST_NUMBER else None


def _duration(value: str) -> timedelta | None:
    span = fields.span(value)
    return span if span and timedelta(seconds=1) <= span <= _LONGEST_DURATION else None


def differs(before: Observation, after: Observation) -> bool:
    """Whether an observation says anything new.

    The scheduler's forecast moves with every pass of it: only a change that matters to somebody who waits is news.
    """
    if after.state in _WAITING:
        forecast = after.expected_start if _moved(before, after) else before.expected_start
        after = replace(after, time=before.time, expected_start=forecast)
    if after.state == JobState.ACTIVE and after.start_time is None:
        after = replace(after, time=before.time)
    return before != after


def _moved(before: Observation, after: Observation) -> bool:
    if before.expected_start is None or after.expected_start is None:
        return before.expected_start != after.expected_start
    slack = max(timedelta(minutes=1), abs(after.expected_start - after.time) / 10)
    return abs(after.expected_start - before.expected_start) >= slack
