"""Errors as HTTP: a status code and a ``google.rpc.Status`` in JSON, the same as Envoy makes of gRPC errors."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Mapping

import grpc
from google.protobuf import json_format
from google.protobuf.message import Message
from google.rpc import status_pb2
from starlette.requests import Request
from starlette.responses import Response

from openfacility_server import errors
from openfacility_server.http.envoy_config import REPLIES, REQUEST_ID_PATTERN

JSON_TYPE = "application/json"

HTTP_STATUS: Mapping[int, int] = {
    grpc.StatusCode.CANCELLED.value[0]: 499,
    grpc.StatusCode.UNKNOWN.value[0]: 500,
    grpc.StatusCode.INVALID_ARGUMENT.value[0]: 400,
    grpc.StatusCode.DEADLINE_EXCEEDED.value[0]: 504,
    grpc.StatusCode.NOT_FOUND.value[0]: 404,
    grpc.StatusCode.ALREADY_EXISTS.value[0]: 409,
    grpc.StatusCode.PERMISSION_DENIED.value[0]: 403,
    grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]: 429,
    grpc.StatusCode.FAILED_PRECONDITION.value[0]: 400,
    grpc.StatusCode.ABORTED.value[0]: 409,
    grpc.StatusCode.OUT_OF_RANGE.value[0]: 400,
    grpc.StatusCode.UNIMPLEMENTED.value[0]: 501,
    grpc.StatusCode.INTERNAL.value[0]: 500,
    grpc.StatusCode.UNAVAILABLE.value[0]: 503,
    grpc.StatusCode.DATA_LOSS.value[0]: 500,
    grpc.StatusCode.UNAUTHENTICATED.value[0]: 401,
}
"""HTTP status by gRPC code, as Envoy's transcoder maps them."""


class RefusedError(Exception):
    """A request is answered with this error, and with this HTTP status where the error's own code has another one."""

    def __init__(self, error: errors.Error, http_status: int | None = None) -> None:
        super().__init__(error.text)
        self.error = error
        self.http_status = http_status


class _Plain(errors.Error):
    """Wrong in the form of the HTTP request, and not in a field."""

    code = grpc.StatusCode.INVALID_ARGUMENT


class _NoRoute(errors.Error):
    code = grpc.StatusCode.NOT_FOUND


class _NotImplemented(errors.Error):
    code = grpc.StatusCode.UNIMPLEMENTED


def plain(http_status: int, reason: str = "", text: str = "") -> errors.Error:
    """Makes an error about the form of the request, with the same words as Envoy's where none are given."""
    known = next((reply for reply in REPLIES if reply.status == http_status), None)
    if known is not None and not text:
        reason, text = known.reason, known.message
    kind = {404: _NoRoute, 405: _NotImplemented}.get(http_status, _Plain)
    return kind(reason, text)


def request_id(request: Request) -> str:
    """Returns the id that Envoy gave the request, or a new one where there is no Envoy."""
    given = request.headers.get("x-request-id", "")
    return given if re.fullmatch(REQUEST_ID_PATTERN, given) else str(uuid.uuid4())


def to_json(message: Message) -> str:
    """Prints a message as the transcoder does: snake_case, with the fields that hold their default."""
    printed = json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    return json.dumps(printed, ensure_ascii=False, separators=(",", ":"))


def status_response(
    status: status_pb2.Status, request: str, http_status: int | None = None, headers: Mapping[str, str] | None = None
) -> Response:
    """Answers with a status."""
    code = http_status or HTTP_STATUS.get(status.code, 500)
    return Response(to_json(status), code, {"x-request-id": request, **(headers or {})}, JSON_TYPE)


def error_response(refused: RefusedError | errors.Error, request: str) -> Response:
    """Answers with an error."""
    if isinstance(refused, errors.Error):
        refused = RefusedError(refused)
    headers = {}
    if isinstance(refused.error, errors.ResourceExhausted | errors.Unavailable):
        headers["retry-after"] = str(max(1, round(refused.error.retry_after.total_seconds())))
    return status_response(errors.to_status(refused.error, request), request, refused.http_status, headers)
