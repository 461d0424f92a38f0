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


class Kind(Enum):
    """How a refusal is told."""

    INVALID = "INVALID_ARGUMENT"
    DENIED = "PERMISSION_DENIED"
    QUOTA = "RESOURCE_EXHAUSTED"
    STATE = "FAILED_PRECONDITION"


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


def error_of(refusal: Refusal, job_id: str, where: str = "spec", metadata: Mapping[str, str] | None = None) -> Error:
    """Returns the error for a refusal; ``where`` is the path of the job's specification in the request."""
    told = {"job_id": job_id, **(metadata or {})}
    if refusal.engine_message:
        told["engine_message"] = refusal.engine_message[:1000]
    field = f"{where}.{refusal.field}" if refusal.field else where
    match KINDS.get(refusal.reason, Kind.STATE):
        case Kind.INVALID:
            violation = Violation(field, refusal.message, refusal.reason)
            return InvalidArgument([violation], refusal.reason, refusal.message, told)
        case Kind.DENIED:
            return PermissionDenied(refusal.reason, refusal.message, told)
        case Kind.QUOTA:
            return QuotaExceeded(refusal.reason, refusal.message, job_id, told)
        case Kind.STATE:
            return FailedPrecondition(refusal.reason, refusal.message, job_id, told)
