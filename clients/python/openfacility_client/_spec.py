"""From the arguments of `submit` and of a list to the dataclasses of the contract."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any, TypedDict, Unpack

from openfacility_client._model import (
    Condition,
    Container,
    Job,
    JobArray,
    JobAttributes,
    JobDependency,
    JobFilter,
    JobSpec,
    JobState,
    ResourceSpec,
    ids_of,
)

Jobs = Job | str | Iterable[Job | str]
"""One or several jobs, each given as a `Job` or an id."""


class SpecOptions(TypedDict, total=False):
    """Keyword arguments of `submit` and `job_spec`. Paths are on the resource where the job runs."""

    name: str
    script: str
    """Text of a script; its first line starts with `#!`. The positional arguments are then the script's."""
    script_path: str | os.PathLike[str]
    """Absolute path of a script. The positional arguments are then the script's."""
    directory: str | os.PathLike[str]
    """Absolute path of the working directory; without it a new one of the job's own, or on a batch system the home."""
    environment: Mapping[str, str]
    inherit_environment: bool
    """Whether to start from the engine's environment (the default) or from an empty one."""
    stdin_path: str | os.PathLike[str]
    stdout_path: str | os.PathLike[str]
    stderr_path: str | os.PathLike[str]
    duration: timedelta | float
    """Time limit; a number is in seconds."""
    nodes: int
    processes: int
    """Over all nodes."""
    processes_per_node: int
    cores: int
    """CPU cores of each process."""
    gpus: int
    """GPUs of each process."""
    exclusive: bool
    """Whether no other job may share the nodes."""
    memory: int
    """Bytes, of the whole job on each node."""
    queue: str
    account: str
    """Project to charge."""
    reservation: str
    custom_attributes: Mapping[str, str]
    """Settings of one engine, keyed `<engine>.<name>`, such as `{"slurm.qos": "debug"}`."""
    pre_launch: str | os.PathLike[str]
    post_launch: str | os.PathLike[str]
    launcher: str
    """How the processes are started: `single`, `multiple`, on a batch system also `srun` and what is set up there."""
    container: Container | str
    """A container, or just the reference of its image."""
    array: JobArray | range
    """Makes it an array of jobs, one for each index."""
    max_active: int
    """How many elements of the array may run at the same time."""
    after: Jobs
    """Jobs that must have started first."""
    after_ok: Jobs
    """Jobs that must have COMPLETED first."""
    after_not_ok: Jobs
    """Jobs that must have FAILED, or been canceled, first."""
    after_any: Jobs
    """Jobs that must have ended first, however."""
    labels: Mapping[str, str]
    hold: bool
    """Whether to submit without starting; `release` starts it."""


class FilterOptions(TypedDict, total=False):
    """Keyword arguments that select jobs. All that are given must match; of several values in one, any."""

    job_ids: Jobs
    resource_ids: str | Iterable[str]
    project_ids: str | Iterable[str]
    owners: str | Iterable[str]
    states: JobState | str | Iterable[JobState | str]
    name: str
    """Exactly."""
    labels: Mapping[str, str]
    created_from: datetime
    """Accepted at or after this time; a naive time is UTC."""
    created_to: datetime
    """Accepted before this time; a naive time is UTC."""
    array_job_id: Job | str
    """Elements of this array job."""


def job_spec(*command: str | os.PathLike[str], **options: Unpack[SpecOptions]) -> JobSpec:
    """Make a job's spec from a command and options.

    `job_spec("/bin/echo", "hi", cores=2, duration=60)`, or, with a script, its arguments alone:
    `job_spec("an argument", script="#!/bin/sh\\necho $1")`.

    Raises:
        TypeError: an option is unknown.
        ValueError: an option has a value that cannot be meant, such as an empty range.
    """
    unknown = options.keys() - SpecOptions.__annotations__.keys()
    if unknown:
        raise TypeError(f"unknown option: {', '.join(sorted(unknown))}")
    words = tuple(os.fspath(word) for word in command)
    given: Mapping[str, Any] = options
    scripted = "script" in given or "script_path" in given
    if not scripted and not words:
        raise ValueError("what to run? Give a command, script= or script_path=")
    same: dict[str, Any] = {
        key: given[key] for key in ("name", "script", "launcher", "hold", "inherit_environment") if key in given
    }
    paths = {key: os.fspath(given[key]) for key in _PATHS if key in given}
    maps: dict[str, Any] = {key: dict(given[key]) for key in ("environment", "labels") if key in given}
    return JobSpec(
        **same,
        **paths,
        **maps,
        executable="" if scripted else words[0],
        arguments=words if scripted else words[1:],
        resources=ResourceSpec(**{field: given[key] for key, field in _RESOURCES.items() if key in given}),
        attributes=_attributes(given),
        container=_container(given.get("container")),
        array=_array(given.get("array"), given.get("max_active")),
        dependencies=_dependencies(given),
    )


def spec_of(*command: str | os.PathLike[str] | JobSpec, **options: Unpack[SpecOptions]) -> JobSpec:
    """Return the one spec that was given, or make it from a command and options.

    Raises:
        TypeError: a spec and something else were given, or an option is unknown.
        ValueError: as in `job_spec`.
    """
    specs = [word for word in command if isinstance(word, JobSpec)]
    if specs:
        if len(command) > 1 or options:
            raise TypeError("give one JobSpec and nothing else, or a command with options")
        return specs[0]
    return job_spec(*(word for word in command if not isinstance(word, JobSpec)), **options)


def job_filter(base: JobFilter | None = None, **options: Unpack[FilterOptions]) -> JobFilter:
    """Make a filter from keyword arguments, which go over what `base` says.

    Raises:
        TypeError: an option is unknown.
        ValueError: a state is unknown.
    """
    given: dict[str, Any] = dict(options)
    unknown = given.keys() - FilterOptions.__annotations__.keys()
    if unknown:
        raise TypeError(f"unknown filter: {', '.join(sorted(unknown))}")
    values: dict[str, Any] = {key: getattr(base, key) for key in FilterOptions.__annotations__} if base else {}
    for key, value in given.items():
        if key in ("job_ids", "resource_ids", "project_ids", "owners"):
            values[key] = ids_of(value)
        elif key == "states":
            values[key] = tuple(_state(state) for state in ([value] if isinstance(value, str) else value))
        elif key == "array_job_id":
            values[key] = ids_of(value)[0]
        elif key == "labels":
            values[key] = dict(value)
        else:
            values[key] = value
    return JobFilter(**values)


_PATHS = (
    "script_path",
    "directory",
    "stdin_path",
    "stdout_path",
    "stderr_path",
    "pre_launch",
    "post_launch",
)
_RESOURCES = {
    "nodes": "node_count",
    "processes": "process_count",
    "processes_per_node": "processes_per_node",
    "cores": "cpu_cores_per_process",
    "gpus": "gpu_cores_per_process",
    "exclusive": "exclusive_node_use",
    "memory": "memory",
}
_CONDITIONS = {
    "after": Condition.AFTER,
    "after_ok": Condition.AFTER_OK,
    "after_not_ok": Condition.AFTER_NOT_OK,
    "after_any": Condition.AFTER_ANY,
}


def to_timedelta(value: timedelta | float) -> timedelta:
    """Return a duration, given as one or in seconds."""
    return value if isinstance(value, timedelta) else timedelta(seconds=value)


def _attributes(given: Mapping[str, Any]) -> JobAttributes:
    return JobAttributes(
        duration=None if given.get("duration") is None else to_timedelta(given["duration"]),
        queue_name=given.get("queue", ""),
        account=given.get("account", ""),
        reservation_id=given.get("reservation", ""),
        custom_attributes=dict(given.get("custom_attributes", {})),
    )


def _container(value: Container | str | None) -> Container | None:
    return Container(value) if isinstance(value, str) else value


def _array(value: JobArray | range | None, max_active: int | None) -> JobArray | None:
    if value is None:
        if max_active is not None:
            raise ValueError("max_active is for arrays: give array= too")
        return None
    if isinstance(value, range):
        if not value or value.step < 0:
            raise ValueError(f"array={value!r} must be a range that ascends and is not empty")
        value = JobArray(value[0], value[-1], value.step)
    if max_active is not None:
        value = JobArray(value.first, value.last, value.step, max_active)
    return value


def _dependencies(given: Mapping[str, Any]) -> tuple[JobDependency, ...]:
    return tuple(
        JobDependency(job_id, condition)
        for key, condition in _CONDITIONS.items()
        if key in given
        for job_id in ids_of(given[key])
    )


def _state(value: str) -> JobState:
    try:
        return JobState(value.upper().removeprefix("JOB_STATE_"))
    except ValueError:
        raise ValueError(f"{value!r} is no state; there are {', '.join(JobState)}") from None
