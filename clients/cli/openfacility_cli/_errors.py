"""Errors as a sentence for people and an exit code for scripts."""

from __future__ import annotations

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
    for violation in error.violations:
        subject = violation.field if isinstance(violation, of.FieldViolation) else violation.subject
        lines.append(f"  {subject}: {violation.description}")
    if isinstance(error, of.DeadlineExceeded) and error.retry_request_id:
        lines.append(f"  it may have happened nevertheless: repeat it with --request-id {error.retry_request_id}")
    if error.retry_after:
        lines.append(f"  try again in {error.retry_after:g} s")
    return "\n".join(lines)


def _exit_code(error: of.RPCError) -> int:
    if isinstance(error, (of.Unavailable, of.DeadlineExceeded)):
        return 69
    if isinstance(error, (of.Unauthenticated, of.PermissionDenied)):
        return 77
    return 1
