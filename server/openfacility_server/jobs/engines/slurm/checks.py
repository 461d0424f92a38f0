"""What of a specification a Slurm engine can never honour."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime

from openfacility_server.jobs.engines import FieldProblem
from openfacility_server.jobs.engines.slurm.description import PREFIX
from openfacility_server.jobs.engines.slurm.options import OPTIONS, parse
from openfacility_server.jobs.engines.slurm.script import MOST_FOR_LAUNCHERS, interpreter_of
from openfacility_server.jobs.engines.slurm.settings import SlurmSettings
from openfacility_server.jobs.model import JobSpec

# Slurm takes 4 MiB of batch script, where a quote can become five characters.
_MOST_TEXT = 3 * 1024 * 1024
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
# Slurm reads a backslash in the name of an output file as "no replacement symbols".
_PATHS = {
    "directory": _CONTROL.pattern + r"|\\",
    "stdin_path": _CONTROL.pattern + r"|\\",
    "stdout_path": _CONTROL.pattern + r"|\\",
    "stderr_path": _CONTROL.pattern + r"|\\",
}


def problems_of(spec: JobSpec, settings: SlurmSettings) -> list[FieldProblem]:
    """Returns what cannot be honoured, whatever the state of the cluster."""
    return [
        *_program(spec, settings),
        *_paths(spec),
        *_sizes(spec),
        *_container(spec, settings),
        *_custom(spec, settings),
    ]


def _program(spec: JobSpec, settings: SlurmSettings) -> Iterator[FieldProblem]:
    known = {"single", "multiple", "srun", *settings.launchers}
    if spec.launcher and spec.launcher not in known:
        yield FieldProblem("launcher", f"Launchers here are {', '.join(sorted(known))}: use one of them.")
    if not spec.script:
        return
    if "\0" in spec.script:
        yield FieldProblem("script", "A script cannot have NUL characters: remove them.")
    if not interpreter_of(spec.script):
        yield FieldProblem("script", "The first line must name an interpreter after the #!.")
    elif spec.script.partition("\n")[0].endswith("\r"):
        yield FieldProblem("script", "The first line ends with a carriage return: save it with Unix line ends.")
    moved = spec.launcher not in ("", "single") or spec.container is not None
    if moved and len(spec.script.encode()) > MOST_FOR_LAUNCHERS:
        text = f"With a launcher or a container a script may have {MOST_FOR_LAUNCHERS} bytes: use script_path."
        yield FieldProblem("script", text)


def _paths(spec: JobSpec) -> Iterator[FieldProblem]:
    for field, wrong in _PATHS.items():
        if re.search(wrong, getattr(spec, field)):
            yield FieldProblem(field, "Control characters and backslashes cannot be in paths here: use another one.")
    custom = spec.attributes
    for field, value in (("queue_name", custom.queue_name), ("reservation_id", custom.reservation_id)):
        if value != value.strip():
            yield FieldProblem(f"attributes.{field}", "It begins or ends with a space: remove it.")


def _sizes(spec: JobSpec) -> Iterator[FieldProblem]:
    sizes = {
        "script": len(spec.script.encode()),
        "arguments": sum(len(argument.encode()) + 3 for argument in spec.arguments),
        "environment": sum(len(name) + len(value.encode()) + 4 for name, value in spec.environment.items()),
    }
    if sum(sizes.values()) > _MOST_TEXT:
        largest = max(sizes, key=lambda name: sizes[name])
        text = f"Script, arguments and environment may have {_MOST_TEXT} bytes together: pass large data in files."
        yield FieldProblem(largest, text)


def _container(spec: JobSpec, settings: SlurmSettings) -> Iterator[FieldProblem]:
    if spec.container is None:
        return
    if settings.container is None:
        yield FieldProblem("container", "This resource runs no containers: leave it unset.")
        return
    for index, mount in enumerate(spec.container.volume_mounts):
        for field in ("source", "target"):
            if re.search(r"[,:\x00-\x1f]", getattr(mount, field)):
                text = "Commas, colons and control characters cannot be in paths of mounts: use another path."
                yield FieldProblem(f"container.volume_mounts[{index}].{field}", text)
    if _CONTROL.search(spec.container.image):
        yield FieldProblem("container.image", "Control characters cannot be in the name of an image.")


def _custom(spec: JobSpec, settings: SlurmSettings) -> Iterator[FieldProblem]:
    now = datetime.now(UTC)
    for key, value in spec.attributes.custom_attributes.items():
        field = f'attributes.custom_attributes["{key}"]'
        name = key.removeprefix(PREFIX)
        option = OPTIONS.get(name)
        if not key.startswith(PREFIX):
            yield FieldProblem(field, f"Attributes here begin with {PREFIX}: remove it.")
        elif option is None or not option.custom:
            known = ", ".join(name for name, option in OPTIONS.items() if option.custom)
            yield FieldProblem(field, f"This resource does not know it; it knows {known}.")
        elif settings.rest is not None and option.old is None:
            yield FieldProblem(field, "It cannot be said by way of this cluster's REST service: remove it.")
        elif parse(option.kind, value, now) is None:
            yield FieldProblem(field, f"It must be {option.kind.value}.")
        elif settings.rest is not None and name == "signal" and ":" in value:
            yield FieldProblem(field, "Signals with B: cannot be said by way of this cluster's REST service.")
