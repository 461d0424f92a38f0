"""What a job is for Slurm: a batch script and options, the same for sbatch and for REST."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from openfacility_server.jobs.engines import EngineDependency, EngineJob
from openfacility_server.jobs.engines.slurm.accounts import Account
from openfacility_server.jobs.engines.slurm.options import OPTIONS, Value, argument, parse
from openfacility_server.jobs.engines.slurm.script import batch_script, needs_of
from openfacility_server.jobs.engines.slurm.settings import SlurmSettings
from openfacility_server.jobs.model import DependencyCondition, JobArray, JobSpec, ResourceSpec

COMMENT = "openfacility:"
PREFIX = "slurm."
_NAME = re.compile(r"%%|%\d*x")
_CONDITIONS = {
    DependencyCondition.AFTER: "after",
    DependencyCondition.AFTER_OK: "afterok",
    DependencyCondition.AFTER_NOT_OK: "afternotok",
    DependencyCondition.AFTER_ANY: "afterany",
}


@dataclass(frozen=True, slots=True)
class Description:
    """A job for Slurm; ``options`` have sbatch's long names."""

    script: str
    options: Mapping[str, Value]

    def arguments(self) -> list[str]:
        """Returns the arguments of sbatch; it reads the script from its standard input."""
        return [word for name, value in self.options.items() for word in argument(name, value)]


def describe(job: EngineJob, account: Account, settings: SlurmSettings) -> Description:
    """Returns what to hand over for a job, or for an array as a whole, whose spec `checks` lets through."""
    spec = job.spec
    directory = spec.directory or account.home
    options: dict[str, Value] = {
        "job-name": job_name(spec),
        "comment": COMMENT + job.id,
        "chdir": directory,
        **_files(job, directory),
        **resource_options(spec.resources),
        **_attributes(spec),
    }
    if spec.hold:
        options["hold"] = True
    if spec.array is not None:
        options["array"] = _indices(spec.array)
    if job.dependencies:
        options["dependency"] = _dependency(spec, job.dependencies)
        options["kill-on-invalid-dep"] = "yes"
    return Description(batch_script(job.id, spec, account, directory, settings), options)


def job_name(spec: JobSpec) -> str:
    """Returns a job's name for Slurm, which has no jobs without one."""
    return spec.name or posixpath.basename(spec.executable or spec.script_path) or "job"


def _files(job: EngineJob, directory: str) -> dict[str, Value]:
    spec = job.spec
    stdout, stderr = output_patterns(job.id, spec, directory, in_array=spec.array is not None)
    files: dict[str, Value] = {
        "input": _escaped(posixpath.join(directory, spec.stdin_path)) if spec.stdin_path else "/dev/null",
        "output": stdout,
        "open-mode": "truncate",
    }
    if stderr != stdout:  # where there is none Slurm merges the two
        files["error"] = stderr
    return files


def output_patterns(job_id: str, spec: JobSpec, directory: str, *, in_array: bool) -> tuple[str, str]:
    """Returns where standard output and error go, with Slurm's replacement symbols; of an array for its id.

    The name is in its place already: by sbatch Slurm does not know it any more when it needs it, and a name may lead
    into another directory.
    """
    own = f"openfacility-{job_id}{'_%a' if in_array else ''}"
    name = _escaped(re.sub(r"[/\\]", "_", job_name(spec)))
    asked = [
        _NAME.sub(lambda found: found[0] if found[0] == "%%" else name, path)
        for path in (spec.stdout_path or f"{own}.out", spec.stderr_path or f"{own}.err")
    ]
    return _absolute(asked[0], directory), _absolute(asked[1], directory)


def _absolute(path: str, directory: str) -> str:
    return path if path.startswith("/") else posixpath.join(_escaped(directory), path)


def _escaped(path: str) -> str:
    return path.replace("%", "%%")


def resource_options(resources: ResourceSpec) -> dict[str, Value]:
    """Returns the options for processes, cores and memory."""
    needs = needs_of(resources)
    options: dict[str, Value] = {
        "nodes": str(needs.nodes),
        "ntasks": needs.processes,
        "cpus-per-task": needs.cores,
    }
    if needs.per_node:
        options["ntasks-per-node"] = needs.per_node
    if needs.gpus:
        options["gpus-per-task"] = str(needs.gpus)
    if resources.exclusive_node_use:
        options["exclusive"] = True
    if resources.memory:
        options["mem"] = mebibytes(resources.memory)
    return options


def mebibytes(size: int) -> int:
    """Returns a size in MiB, rounded up: Slurm counts no smaller."""
    return -(-size // (1024 * 1024))


def minutes(duration: timedelta) -> int:
    """Returns a time limit in minutes, rounded up: Slurm counts no shorter."""
    return -(-duration // timedelta(minutes=1))


def _attributes(spec: JobSpec) -> dict[str, Value]:
    attributes = spec.attributes
    options: dict[str, Value] = {}
    if attributes.duration is not None:
        options["time"] = minutes(attributes.duration)
    named = {
        "partition": attributes.queue_name,
        "account": attributes.account,
        "reservation": attributes.reservation_id,
    }
    options |= {name: value for name, value in named.items() if value}
    for key, text in attributes.custom_attributes.items():
        name = key.removeprefix(PREFIX)
        value = parse(OPTIONS[name].kind, text, datetime.now(UTC))
        assert value is not None  # checked before
        options[name] = value
    return options


def _indices(array: JobArray) -> str:
    indices = f"{array.first}-{array.last}" if array.last > array.first else str(array.first)
    step = f":{array.step}" if array.step > 1 and array.last > array.first else ""
    limit = f"%{array.max_active}" if array.max_active else ""
    return indices + step + limit


def _dependency(spec: JobSpec, dependencies: Sequence[EngineDependency]) -> str:
    pairs = zip(spec.dependencies, dependencies, strict=True)
    return ",".join(f"{_CONDITIONS[asked.condition]}:{known.native_id}" for asked, known in pairs)
