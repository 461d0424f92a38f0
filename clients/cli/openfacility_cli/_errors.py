"""Errors as a sentence for people and an exit code for scripts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import openfacility_client as of


@dataclass(frozen=True, slots=True)
class Explanation:
    """What to print and how to exit."""

    text: str
    exit_code: int


def explain(error: Exception) -> Explanation | None:
    """Explain an error; None if it is a defect of this program, which deserves its traceback."""
    if isinstance(error, of.RPCError):
        return Explanation(f"openfacility: {sentence(error)}", _exit_code(error))
    if isinstance(error, (of.OpenFacilityError, ValueError)):
        return Explanation(f"openfacility: {error}", 2)
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return Explanation(f"openfacility: {where}{error.strerror or error}", 1)
    return None


def sentence(error: of.RPCError) -> str:
    """Say what went wrong, with all that helps to mend it."""
    message = error.message
    if isinstance(error, of.Unavailable) and not error.reason:
        message = f"the service cannot be reached: {message}"
    lines = [f"{message} (request {error.request_id})" if error.request_id else message]
    lines += [f"  {line}" for line in (*_violations(error), *_outcome(error))]
    if error.retry_after:
        lines.append(f"  try again in {error.retry_after:g} s")
    return "\n".join(lines)


def _violations(error: of.RPCError) -> Iterator[str]:
    """Say what the message does not."""
    for violation in error.violations:
        subject = violation.field if isinstance(violation, of.FieldViolation) else violation.subject
        if violation.description not in error.message:
            yield f"{subject}: {violation.description}"
        elif isinstance(violation, of.FieldViolation) and subject not in error.message:
            yield f"in {subject}"
    if error.engine_message and error.engine_message not in error.message:
        yield f"the batch system's words: {error.engine_message}"


def _outcome(error: of.RPCError) -> Iterator[str]:
    """Say what has come of the call, or may have."""
    submission = error.method == "SubmitJob"
    if error.applied:
        yield f"changed all the same: {', '.join(error.applied)}"
    if submission and error.reason == "SUBMIT_PENDING":
        yield f"it may run nevertheless: learn what became of it with --request-id {error.retry_request_id}"
    elif submission and error.job_id:
        yield f"on record as job {error.job_id}"
    if isinstance(error, of.DeadlineExceeded) and error.retry_request_id:
        how = f": repeat it with --request-id {error.retry_request_id}" if submission else ""
        yield f"it may have happened nevertheless{how}"


def _exit_code(error: of.RPCError) -> int:
    if isinstance(error, (of.Unavailable, of.DeadlineExceeded)):
        return 69
    if isinstance(error, (of.Unauthenticated, of.PermissionDenied)):
        return 77
    return 1
