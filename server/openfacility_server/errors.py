"""What can go wrong, and how each case is told to callers.

Domain code raises these; nothing else decides a status code. Each class has one gRPC status code; each error a stable
``reason`` (``UPPER_SNAKE_CASE``, listed in ``docs/errors.md``) that programs may test. ``to_status`` makes the
``google.rpc.Status``. Messages are for people: they never hold paths of the server, SQL, class names or secrets, and
every changing word of a message is in ``metadata`` too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import ClassVar

import grpc
from google.protobuf import any_pb2, duration_pb2, message
from google.rpc import error_details_pb2, status_pb2

DOMAIN = "openfacility"
_MAX_MESSAGE = 2000
_MAX_VIOLATIONS = 50


@dataclass(frozen=True, slots=True)
class Violation:
    """One field of a request that breaks its rule; ``reason`` is the rule's id."""

    field: str
    description: str
    reason: str = ""


class Error(Exception):
    """Base of all errors that callers see."""

    code: ClassVar[grpc.StatusCode] = grpc.StatusCode.INTERNAL

    def __init__(self, reason: str, text: str, metadata: Mapping[str, str] | None = None) -> None:
        super().__init__(text)
        self.reason = reason
        self.text = text[:_MAX_MESSAGE]
        self.metadata = dict(metadata or {})

    def details(self) -> Sequence[message.Message]:
        """Returns what goes beside ErrorInfo."""
        return ()


class InvalidArgument(Error):
    """The request is wrong whatever the state; the caller corrects the named fields."""

    code = grpc.StatusCode.INVALID_ARGUMENT

    def __init__(
        self,
        violations: Sequence[Violation],
        reason: str = "INVALID_FIELD",
        text: str = "",
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        shown = violations[:_MAX_VIOLATIONS]
        text = text or "; ".join(f"{v.field}: {v.description}" if v.field else v.description for v in shown)
        super().__init__(reason, text, metadata)
        self.violations = shown

    def details(self) -> Sequence[message.Message]:
        return (
            error_details_pb2.BadRequest(
                field_violations=[
                    error_details_pb2.BadRequest.FieldViolation(
                        field=v.field, description=v.description, reason=v.reason
                    )
                    for v in self.violations
                ]
            ),
        )


def invalid(field: str, description: str, reason: str = "INVALID_FIELD") -> InvalidArgument:
    """Makes the error for one wrong field."""
    return InvalidArgument([Violation(field, description)], reason=reason)


class Unauthenticated(Error):
    """No valid credentials: sign in (again)."""

    code = grpc.StatusCode.UNAUTHENTICATED


class PermissionDenied(Error):
    """Signed in, but not allowed."""

    code = grpc.StatusCode.PERMISSION_DENIED


class NotFound(Error):
    """No such thing that the caller may see."""

    code = grpc.StatusCode.NOT_FOUND

    def __init__(self, kind: str, name: str) -> None:
        super().__init__("NOT_FOUND", f"there is no {kind} {name} that you may see", {"kind": kind, "name": name})
        self.kind, self.name = kind, name

    def details(self) -> Sequence[message.Message]:
        return (
            error_details_pb2.ResourceInfo(resource_type=self.kind, resource_name=self.name, description=self.text),
        )


class FailedPrecondition(Error):
    """The state does not allow it; the caller changes the state first."""

    code = grpc.StatusCode.FAILED_PRECONDITION

    def __init__(self, reason: str, text: str, subject: str = "", metadata: Mapping[str, str] | None = None) -> None:
        super().__init__(reason, text, metadata)
        self.subject = subject

    def details(self) -> Sequence[message.Message]:
        violation = error_details_pb2.PreconditionFailure.Violation(
            type=self.reason, subject=self.subject, description=self.text
        )
        return (error_details_pb2.PreconditionFailure(violations=[violation]),)


class Aborted(Error):
    """Lost a race: read again and decide anew."""

    code = grpc.StatusCode.ABORTED


class OutOfRange(Error):
    """The position is gone or does not exist yet."""

    code = grpc.StatusCode.OUT_OF_RANGE


class _Retryable(Error):
    def __init__(
        self, reason: str, text: str, retry_after: timedelta, metadata: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(reason, text, metadata)
        self.retry_after = retry_after

    def details(self) -> Sequence[message.Message]:
        delay = duration_pb2.Duration()
        delay.FromTimedelta(self.retry_after)
        return (error_details_pb2.RetryInfo(retry_delay=delay),)


class ResourceExhausted(_Retryable):
    """Too much at once: slow down."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED


class QuotaExceeded(Error):
    """More than is granted: repeating the call helps only when something else has changed."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED

    def __init__(self, reason: str, text: str, subject: str = "", metadata: Mapping[str, str] | None = None) -> None:
        super().__init__(reason, text, metadata)
        self.subject = subject

    def details(self) -> Sequence[message.Message]:
        violation = error_details_pb2.QuotaFailure.Violation(subject=self.subject, description=self.text)
        return (error_details_pb2.QuotaFailure(violations=[violation]),)


class Unavailable(_Retryable):
    """Not now: retry the same call."""

    code = grpc.StatusCode.UNAVAILABLE


class DeadlineExceeded(Error):
    """The caller's time ran out."""

    code = grpc.StatusCode.DEADLINE_EXCEEDED

    def __init__(self) -> None:
        super().__init__(
            "DEADLINE_EXCEEDED",
            "the time given for the call ran out; a change may or may not have been made: "
            "repeat it with the same request_id",
        )


class Internal(Error):
    """Our fault; what happened is in the server's log under the request id."""

    def __init__(self) -> None:
        super().__init__("INTERNAL", "the server failed; tell its operators the request id")


def to_status(error: Error, request_id: str) -> status_pb2.Status:
    """Returns the ``google.rpc.Status`` of an error: code, message, ErrorInfo with the request id, then its details."""
    info = error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=error.metadata)
    info.metadata["request_id"] = request_id
    status = status_pb2.Status(code=error.code.value[0], message=error.text)
    for detail in (info, *error.details()):
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    return status
