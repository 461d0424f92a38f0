"""From a gRPC error to one of this package's exceptions."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from openfacility_client._exceptions import (
    ERRORS_BY_CODE,
    FieldViolation,
    PreconditionViolation,
    QuotaViolation,
    ResourceReference,
    RPCError,
    Unknown,
)

_DETAILS_KEY = "grpc-status-details-bin"


def to_exception(error: grpc.RpcError, *, method: str = "", retry_request_id: str = "") -> RPCError:
    """Return the exception that says the same as a gRPC error, with all the details that it carries."""
    call: Any = error  # RpcError is an empty class; what is raised is always a call as well.
    code = call.code()
    arguments: dict[str, Any] = {"method": method, "retry_request_id": retry_request_id}
    for detail in _details(call.trailing_metadata() or ()):
        _read(detail, arguments)
    kind = ERRORS_BY_CODE.get(code.name, Unknown) if code is not None else Unknown
    return kind(_message(call.details(), kind), **arguments)


def _message(details: str | None, kind: type[RPCError]) -> str:
    return details.strip() if details and details.strip() else kind.code.replace("_", " ").capitalize()


def _details(metadata: Iterable[tuple[str, str | bytes]]) -> Iterable[Any]:
    for key, value in metadata:
        if key == _DETAILS_KEY and isinstance(value, bytes):
            try:
                return list(status_pb2.Status.FromString(value).details)
            except DecodeError:
                return ()
    return ()


def _read(detail: Any, arguments: dict[str, Any]) -> None:
    """Unpack one detail into the arguments of the exception; one of an unknown type is left alone."""
    name = detail.TypeName()
    kind = _KINDS.get(name.removeprefix("google.rpc."))
    if kind is None:
        return
    message = kind()
    try:
        detail.Unpack(message)
    except DecodeError:
        return
    _READERS[kind](message, arguments)


def _read_error_info(info: Any, arguments: dict[str, Any]) -> None:
    arguments["reason"] = info.reason
    arguments["metadata"] = dict(info.metadata)
    arguments["request_id"] = arguments.get("request_id") or info.metadata.get("request_id", "")


def _read_bad_request(bad: Any, arguments: dict[str, Any]) -> None:
    arguments["violations"] = (
        *arguments.get("violations", ()),
        *(FieldViolation(v.field, v.description, getattr(v, "reason", "")) for v in bad.field_violations),
    )


def _read_precondition(failure: Any, arguments: dict[str, Any]) -> None:
    arguments["violations"] = (
        *arguments.get("violations", ()),
        *(PreconditionViolation(v.type, v.subject, v.description) for v in failure.violations),
    )


def _read_quota(failure: Any, arguments: dict[str, Any]) -> None:
    arguments["violations"] = (
        *arguments.get("violations", ()),
        *(QuotaViolation(v.subject, v.description) for v in failure.violations),
    )


def _read_retry(retry: Any, arguments: dict[str, Any]) -> None:
    arguments["retry_after"] = retry.retry_delay.ToTimedelta().total_seconds()


def _read_resource(info: Any, arguments: dict[str, Any]) -> None:
    arguments["resource"] = ResourceReference(info.resource_type, info.resource_name, info.description)


def _read_request(info: Any, arguments: dict[str, Any]) -> None:
    arguments["request_id"] = info.request_id


_READERS: dict[Any, Any] = {
    error_details_pb2.ErrorInfo: _read_error_info,
    error_details_pb2.BadRequest: _read_bad_request,
    error_details_pb2.PreconditionFailure: _read_precondition,
    error_details_pb2.QuotaFailure: _read_quota,
    error_details_pb2.RetryInfo: _read_retry,
    error_details_pb2.ResourceInfo: _read_resource,
    error_details_pb2.RequestInfo: _read_request,
}
_KINDS = {kind.DESCRIPTOR.name: kind for kind in _READERS}
