"""Jobs and their files: to JSON and back."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from openfacility_server.jobs.engines import EngineJob, Observation
from openfacility_server.jobs.engines.local.needs import Needs
from openfacility_server.jobs.model import (
    DependencyCondition,
    JobArray,
    JobDependency,
    JobReason,
    JobSpec,
    JobState,
    JobUsage,
    ResourceSpec,
)

Json = dict[str, Any]


def job_to_json(job: EngineJob, sequence: int, submitted: int) -> Json:
    """Returns what job.json holds. The text of a script is kept in a file of its own."""
    return {
        "version": 1,
        "id": job.id,
        "sequence": sequence,
        "submit_time": submitted,
        "owner": job.owner,
        "array_job_id": job.array_job_id,
        "array_index": job.array_index,
        "spec": _spec_to_json(job.spec),
    }


def _spec_to_json(spec: JobSpec) -> Json:
    value = asdict(spec)
    value["script"] = bool(spec.script)
    value["attributes"]["duration"] = seconds(spec.attributes.duration)
    return value


def seconds(duration: timedelta | None) -> float | None:
    """Returns a duration as a number."""
    return None if duration is None else duration.total_seconds()


def from_nanoseconds(value: int) -> datetime:
    """Returns a time of the records, which count nanoseconds since 1970."""
    return datetime.fromtimestamp(value // 1_000_000_000, UTC) + timedelta(microseconds=value // 1000 % 1_000_000)


@dataclass(frozen=True, slots=True)
class Submitted:
    """Of a job as submitted: what scheduling has to know."""

    id: str
    sequence: int
    submit_time: datetime
    name: str
    resources: ResourceSpec
    duration: float | None
    hold: bool
    array_id: str
    array: JobArray | None
    dependencies: tuple[JobDependency, ...]


def submitted_from_json(value: Json) -> Submitted:
    """Reads job.json."""
    spec = value["spec"]
    array = spec["array"]
    return Submitted(
        id=value["id"],
        sequence=value["sequence"],
        submit_time=from_nanoseconds(value["submit_time"]),
        name=spec["name"],
        resources=ResourceSpec(**spec["resources"]),
        duration=spec["attributes"]["duration"],
        hold=spec["hold"],
        array_id=value["array_job_id"],
        array=None if array is None else JobArray(**array),
        dependencies=tuple(
            JobDependency(item["job_id"], DependencyCondition(item["condition"])) for item in spec["dependencies"]
        ),
    )


def needs_from_json(launch: Json) -> Needs:
    """Reads what a launched job has been given."""
    return Needs(processes=launch["processes"], cores=launch["cores"], memory=launch["memory"] or 0)


def exit_to_observation(job_id: str, value: Json) -> Observation:
    """Reads exit.json."""
    start = value.get("start_time")
    end = from_nanoseconds(value["end_time"])
    usage = value.get("usage")
    return Observation(
        job_id=job_id,
        native_id=job_id,
        state=JobState[value["state"]],
        time=end,
        reason=JobReason[value["reason"]],
        message=value["message"],
        exit_code=value.get("exit_code"),
        signal=value.get("signal"),
        start_time=None if start is None else from_nanoseconds(start),
        end_time=end,
        usage=None
        if usage is None
        else JobUsage(
            elapsed=timedelta(seconds=usage["elapsed"]),
            cpu_time=timedelta(seconds=usage["cpu_time"]),
            peak_memory=usage["peak_memory"],
        ),
    )
