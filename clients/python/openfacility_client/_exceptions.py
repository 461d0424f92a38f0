"""What can go wrong, as one tree of exceptions.

OpenFacilityError
├── ConfigurationError     the client itself was set up wrongly (also a ValueError)
├── ClientClosed           the client was used after it was closed
└── RPCError               the service, or the way to it, said no
    ├── InvalidArgument       a field breaks its rule: see `violations`
    ├── OutOfRange            a revision or an offset is no longer, or not yet, there
    ├── FailedPrecondition    not possible in the present state: see `violations`
    ├── Unauthenticated       no valid token: sign in (again)
    ├── PermissionDenied      signed in, but not allowed
    ├── NotFound              there is none that the caller may see
    ├── AlreadyExists         there is one already
    ├── Aborted               changed by somebody else meanwhile: read it again and decide anew (= Conflict)
    ├── ResourceExhausted     too much at once: wait for `retry_after`; or more than is granted: see `violations`
    ├── Unavailable           the service cannot be reached or is stopping: try again
    ├── DeadlineExceeded      time ran out; a mutation may or may not have happened (also a TimeoutError)
    ├── Canceled              the call was canceled from outside
    ├── Unimplemented         the server does not know this call
    ├── Internal              a defect of the server; quote `request_id` to its operators
    ├── DataLoss              data was lost beyond repair
    └── Unknown               anything else
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """One field that breaks a rule."""

    field: str
    """Path of the field in the request, such as `spec.resources.memory`."""
    description: str
    """What is wrong with it, for people."""
    reason: str = ""
    """Stable name of the rule, when the server gives one."""


@dataclass(frozen=True, slots=True)
class PreconditionViolation:
    """One condition that does not hold."""

    type: str
    """Stable name of the kind of condition."""
    subject: str
    """What it is about, such as a job id."""
    description: str
    """What would have to be so, for people."""


@dataclass(frozen=True, slots=True)
class QuotaViolation:
    """One limit that is reached."""

    subject: str
    """What it is about, such as a job id."""
    description: str
    """Which limit, for people."""


@dataclass(frozen=True, slots=True)
class ResourceReference:
    """The thing that an error is about."""

    type: str
    """Kind of thing, such as `job`."""
    name: str
    """Its id."""
    description: str = ""
    """More about it, for people."""


class OpenFacilityError(Exception):
    """Base of everything that this package raises on its own account."""


class ConfigurationError(OpenFacilityError, ValueError):
    """The client was set up in a way that cannot or must not work."""


class ClientClosed(OpenFacilityError):
    """The client was used after it was closed."""


class RPCError(OpenFacilityError):
    """A call failed. The subclass says how; `reason` says why, in a word that does not change."""

    code: ClassVar[str] = "UNKNOWN"
    """Name of the gRPC status code."""

    def __init__(
        self,
        message: str,
        *,
        method: str = "",
        reason: str = "",
        metadata: Mapping[str, str] | None = None,
        request_id: str = "",
        retry_request_id: str = "",
        retry_after: float | None = None,
        violations: tuple[FieldViolation | PreconditionViolation | QuotaViolation, ...] = (),
        resource: ResourceReference | None = None,
    ) -> None:
        """Hold what the server told about the failure."""
        super().__init__(message)
        self.message = message
        """A sentence for people."""
        self.method = method
        """Name of the RPC, such as `SubmitJob`."""
        self.reason = reason
        """Stable reason from `ErrorInfo`; empty when the error does not come from the service itself."""
        self.metadata: dict[str, str] = dict(metadata or {})
        """What `ErrorInfo` adds to the reason."""
        self.request_id = request_id
        """The server's id of this call, to quote to its operators; empty when it gave none."""
        self.retry_request_id = retry_request_id
        """Of a mutation: the `request_id` that it carried. Pass it again to repeat the call safely."""
        self.retry_after = retry_after
        """Seconds to wait before another try, when the server says so."""
        self.violations = violations
        """Fields that break a rule, conditions that do not hold, or limits that are reached."""
        self.resource = resource
        """What the error is about, when the server says so."""

    @property
    def engine_message(self) -> str:
        """The batch system's own words, when it was the one to refuse."""
        return self.metadata.get("engine_message", "")

    @property
    def job_id(self) -> str:
        """Id of the job that this is about; what a batch system refused to take is on record under it, as FAILED."""
        return self.metadata.get("job_id", "")

    @property
    def applied(self) -> tuple[str, ...]:
        """Of an update that the batch system refused: what it changed all the same, such as `spec.name`."""
        return tuple(path for path in self.metadata.get("applied", "").split(",") if path)

    def __str__(self) -> str:
        """Say everything that helps, on one line per violation."""
        head = f"{self.method}: {self.message}" if self.method else self.message
        notes = [note for note in (self.reason, self.request_id and f"request {self.request_id}") if note]
        lines = [f"{head} ({', '.join(notes)})" if notes else head]
        for violation in self.violations:
            subject = violation.field if isinstance(violation, FieldViolation) else violation.subject
            lines.append(f"  {subject}: {violation.description}")
        if self.engine_message and self.engine_message not in self.message:
            lines.append(f"  the batch system's words: {self.engine_message}")
        return "\n".join(lines)


class InvalidArgument(RPCError):
    """A field breaks its rule: correct the fields in `violations`."""

    code = "INVALID_ARGUMENT"


class OutOfRange(RPCError):
    """A revision or an offset is no longer, or not yet, there."""

    code = "OUT_OF_RANGE"

    @property
    def oldest_revision(self) -> int | None:
        """Oldest revision that a watch can still resume after; None when the error is about something else."""
        return self._revision("oldest_revision")

    @property
    def current_revision(self) -> int | None:
        """Newest revision there is; None when the error is about something else."""
        return self._revision("current_revision")

    def _revision(self, name: str) -> int | None:
        value = self.metadata.get(name, "")
        return int(value) if value.isdecimal() else None


class FailedPrecondition(RPCError):
    """Not possible in the present state: change that first."""

    code = "FAILED_PRECONDITION"


class Unauthenticated(RPCError):
    """The token is missing, wrong or expired, and a fresh one, if there was one to get, did not help."""

    code = "UNAUTHENTICATED"


class PermissionDenied(RPCError):
    """The caller is known, and may not do this."""

    code = "PERMISSION_DENIED"


class NotFound(RPCError):
    """There is none that the caller may see."""

    code = "NOT_FOUND"


class AlreadyExists(RPCError):
    """There is one already."""

    code = "ALREADY_EXISTS"


class Aborted(RPCError):
    """Somebody else changed it meanwhile: read it again and decide anew."""

    code = "ABORTED"


Conflict = Aborted
"""Another name of `Aborted`."""


class ResourceExhausted(RPCError):
    """Too much at once: wait for `retry_after` seconds, or ask for less.

    With `OVER_LIMIT` or `ALLOCATION_EXHAUSTED` as the reason: more than the batch system grants; waiting is no help.
    """

    code = "RESOURCE_EXHAUSTED"


class Unavailable(RPCError):
    """The service cannot be reached or is stopping, and the client's own retries did not help."""

    code = "UNAVAILABLE"


class DeadlineExceeded(RPCError, TimeoutError):
    """Time ran out. A mutation may or may not have happened: repeat it with `retry_request_id`."""

    code = "DEADLINE_EXCEEDED"


class Canceled(RPCError):
    """The call was canceled by something between here and the server."""

    code = "CANCELLED"


class Unimplemented(RPCError):
    """The server does not know this call: it is older than this client."""

    code = "UNIMPLEMENTED"


class Internal(RPCError):
    """A defect of the server: quote `request_id` to its operators."""

    code = "INTERNAL"


class DataLoss(RPCError):
    """Data was lost beyond repair."""

    code = "DATA_LOSS"


class Unknown(RPCError):
    """Anything else."""

    code = "UNKNOWN"


ERRORS_BY_CODE: Mapping[str, type[RPCError]] = MappingProxyType({kind.code: kind for kind in RPCError.__subclasses__()})
"""The exception of each status code, by the code's name."""
