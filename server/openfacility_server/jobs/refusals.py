"""What callers are told when a batch system refuses something: one status code for each reason."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

from openfacility_server.errors import (
    Error,
    FailedPrecondition,
    InvalidArgument,
    PermissionDenied,
    QuotaExceeded,
    Violation,
)
from openfacility_server.jobs.engines import Refusal
from openfacility_server.jobs.model import JobReason, JobState, JobStatus

_MAX_ENGINE_MESSAGE = 1000


class Kind(Enum):
    """How a refusal is told."""

    INVALID = "something in the request is wrong"
    DENIED = "the user may not"
    QUOTA = "more than is granted"
    STATE = "not as things are"


KINDS: Mapping[str, Kind] = {
    "BAD_ACCOUNT": Kind.INVALID,
    "BAD_ARRAY": Kind.INVALID,
    "BAD_ATTRIBUTE": Kind.INVALID,
    "BAD_CONSTRAINT": Kind.INVALID,
    "BAD_DEPENDENCY": Kind.INVALID,
    "BAD_DIRECTORY": Kind.INVALID,
    "BAD_GRES": Kind.INVALID,
    "BAD_LICENSES": Kind.INVALID,
    "BAD_NODES": Kind.INVALID,
    "BAD_QOS": Kind.INVALID,
    "BAD_QUEUE": Kind.INVALID,
    "BAD_RESERVATION": Kind.INVALID,
    "BAD_SCRIPT": Kind.INVALID,
    "BAD_TIME_LIMIT": Kind.INVALID,
    "RESOURCES_IMPOSSIBLE": Kind.INVALID,
    "ACCESS_DENIED": Kind.DENIED,
    "NO_POSIX_ACCOUNT": Kind.DENIED,
    "RESERVATION_DENIED": Kind.DENIED,
    "ALLOCATION_EXHAUSTED": Kind.QUOTA,
    "OVER_LIMIT": Kind.QUOTA,
    "CANNOT_ACT_AS_USER": Kind.STATE,
    "JOB_STATE": Kind.STATE,
    "QUEUE_CLOSED": Kind.STATE,
    "REFUSED": Kind.STATE,
    "UPDATE_REFUSED": Kind.STATE,
    "OUTPUT_UNREADABLE": Kind.STATE,
}

# The part of a specification that a reason is about, for refusals that name none.
_FIELDS: Mapping[str, str] = {
    "BAD_ACCOUNT": "attributes.account",
    "BAD_ARRAY": "array",
    "BAD_ATTRIBUTE": "attributes.custom_attributes",
    "BAD_CONSTRAINT": 'attributes.custom_attributes["slurm.constraint"]',
    "BAD_DEPENDENCY": "dependencies",
    "BAD_DIRECTORY": "directory",
    "BAD_GRES": 'attributes.custom_attributes["slurm.gres"]',
    "BAD_LICENSES": 'attributes.custom_attributes["slurm.licenses"]',
    "BAD_NODES": 'attributes.custom_attributes["slurm.nodelist"]',
    "BAD_QOS": 'attributes.custom_attributes["slurm.qos"]',
    "BAD_QUEUE": "attributes.queue_name",
    "BAD_RESERVATION": "attributes.reservation_id",
    "BAD_SCRIPT": "script",
    "BAD_TIME_LIMIT": "attributes.duration",
    "RESOURCES_IMPOSSIBLE": "resources",
    "RESERVATION_DENIED": "attributes.reservation_id",
    "QUEUE_CLOSED": "attributes.queue_name",
}


def path_of(refusal: Refusal, where: str) -> str:
    """Returns the path of what is at fault in the request; ``where`` is that of the specification."""
    field = refusal.field or _FIELDS.get(refusal.reason, "")
    return f"{where}.{field}" if field else where


def refused(status: JobStatus) -> Refusal | None:
    """Returns the refusal that a job's status keeps on record, if it is one."""
    if status.state != JobState.FAILED or status.reason != JobReason.REFUSED:
        return None
    return Refusal(status.message, status.engine_reason or "REFUSED", "", status.engine_message)


def on_record(refusal: Refusal) -> JobStatus:
    """Returns the status of a job that was refused."""
    text = refusal.engine_message[:_MAX_ENGINE_MESSAGE]
    return JobStatus(
        JobState.FAILED, JobReason.REFUSED, refusal.message, engine_reason=refusal.reason, engine_message=text
    )


def error_of(refusal: Refusal, job_id: str, where: str = "spec", metadata: Mapping[str, str] | None = None) -> Error:
    """Returns the error for a refusal; ``where`` is the path of the job's specification in the request."""
    told = {"job_id": job_id, **(metadata or {})}
    if refusal.engine_message:
        told["engine_message"] = refusal.engine_message[:_MAX_ENGINE_MESSAGE]
    match KINDS.get(refusal.reason, Kind.STATE):
        case Kind.INVALID:
            violation = Violation(path_of(refusal, where), refusal.message, refusal.reason)
            return InvalidArgument([violation], refusal.reason, refusal.message, told)
        case Kind.DENIED:
            return PermissionDenied(refusal.reason, refusal.message, told)
        case Kind.QUOTA:
            return QuotaExceeded(refusal.reason, refusal.message, job_id, told)
        case Kind.STATE:
            return FailedPrecondition(refusal.reason, refusal.message, job_id, told)
