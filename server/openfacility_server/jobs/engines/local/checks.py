"""What a local engine can never give."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path

from openfacility_server.jobs.engines import FieldProblem, Refusal
from openfacility_server.jobs.engines.local.needs import needs_of
from openfacility_server.jobs.engines.local.settings import LocalSettings
from openfacility_server.jobs.model import JobSpec, ResourceSpec

LAUNCHERS = ("", "single", "multiple")

_REASONS = {
    "attributes.duration": "BAD_TIME_LIMIT",
    "attributes.queue_name": "BAD_QUEUE",
    "attributes.reservation_id": "BAD_RESERVATION",
    "directory": "BAD_DIRECTORY",
    "script_path": "BAD_SCRIPT",
    "pre_launch": "BAD_SCRIPT",
    "post_launch": "BAD_SCRIPT",
}


def problems_of(spec: JobSpec, settings: LocalSettings, *, files: bool) -> list[FieldProblem]:
    """Returns what cannot be honoured; ``files`` says whether to look at the paths named as well."""
    found = [*_resources(spec.resources, settings), *_attributes(spec, settings), *_kind(spec)]
    if files:
        found.extend(_paths(spec))
    return found


def refusal_of(problems: Sequence[FieldProblem]) -> Refusal:
    """Returns the refusal of a specification that has these problems, of which there is one at least."""
    first = problems[0].field
    reason = "RESOURCES_IMPOSSIBLE" if first.startswith("resources.") else _REASONS.get(first, "BAD_ATTRIBUTE")
    message = " ".join(f"{problem.field}: {problem.description}" for problem in problems)
    return Refusal(message, reason, first)


def _resources(resources: ResourceSpec, settings: LocalSettings) -> Iterator[FieldProblem]:
    if (resources.node_count or 1) > 1:
        yield FieldProblem("resources.node_count", "This resource is one node: leave it unset or ask for 1.")
    if resources.gpu_cores_per_process:
        yield FieldProblem("resources.gpu_cores_per_process", "This resource has no GPUs to give: leave it unset.")
    needs = needs_of(resources, settings.cores)
    if needs.cores > settings.cores:
        field = "cpu_cores_per_process" if (resources.cpu_cores_per_process or 1) > settings.cores else "process_count"
        if resources.processes_per_node and field == "process_count":
            field = "processes_per_node"
        yield FieldProblem(
            f"resources.{field}",
            f"{needs.cores} cores are asked for (processes times cores of each); "
            f"this resource has {settings.cores}: ask for no more.",
        )
    if settings.memory is not None and needs.memory > settings.memory:
        yield FieldProblem("resources.memory", f"This resource has {settings.memory} bytes: ask for no more.")


def _attributes(spec: JobSpec, settings: LocalSettings) -> Iterator[FieldProblem]:
    attributes = spec.attributes
    if (problem := duration_problem(attributes.duration, settings)) is not None:
        yield problem
    if (problem := queue_problem(attributes.queue_name, settings)) is not None:
        yield problem
    if attributes.reservation_id:
        yield FieldProblem("attributes.reservation_id", "This resource has no reservations: leave it empty.")
    for key in attributes.custom_attributes:
        yield FieldProblem(
            f'attributes.custom_attributes["{key}"]', "This resource knows no custom attributes: remove it."
        )


def duration_problem(duration: timedelta | None, settings: LocalSettings) -> FieldProblem | None:
    """Returns what is wrong with a time limit."""
    if duration is None or settings.max_duration is None or duration <= settings.max_duration:
        return None
    seconds = f"{settings.max_duration.total_seconds():g}"
    return FieldProblem("attributes.duration", f"The longest time limit here is {seconds} s: ask for no more.")


def queue_problem(name: str, settings: LocalSettings) -> FieldProblem | None:
    """Returns what is wrong with a queue name."""
    if name in settings.queues:
        return None
    known = ", ".join(queue for queue in settings.queues if queue)
    hint = f"use {known} or leave it empty" if known else "leave it empty"
    return FieldProblem("attributes.queue_name", f"This resource has no such queue: {hint}.")


def _kind(spec: JobSpec) -> Iterator[FieldProblem]:
    if spec.container is not None:
        yield FieldProblem("container", "This resource runs no containers: leave it unset.")
    if spec.launcher not in LAUNCHERS:
        yield FieldProblem("launcher", "Launchers here are single and multiple: use one of them or leave it empty.")


def _paths(spec: JobSpec) -> Iterator[FieldProblem]:
    if spec.directory and not Path(spec.directory).is_dir():
        yield FieldProblem("directory", "There is no such directory: create it first, or leave the field empty.")
    elif spec.directory and not os.access(spec.directory, os.X_OK):
        yield FieldProblem("directory", "The directory may not be entered: name another one or change its mode.")
    for field in ("script_path", "pre_launch", "post_launch"):
        path: str = getattr(spec, field)
        if path and not Path(path).is_file():
            yield FieldProblem(field, "There is no such file: put the script there first.")
        elif path and not os.access(path, os.X_OK):
            yield FieldProblem(field, "The file is not executable: set its mode with chmod +x.")
