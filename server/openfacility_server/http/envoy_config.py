"""Writes Envoy's configuration: the template beside this module with the routes of a descriptor set filled in.

Used by ``make gen`` for the committed file and by ``openfacility-server envoy-config`` for an installation, so it needs
neither the stubs nor the rest of the server.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from google.protobuf.descriptor_pb2 import FileDescriptorSet

from openfacility_server.http import bindings

JSON_HEADER = "x-openfacility-json"
"""Request metadata that Envoy, and nobody else, sets on calls that came as JSON."""
CHECK_PREFIX = "/internal/check"
REQUEST_ID_PATTERN = "[A-Za-z0-9._:-]{1,128}"
MAX_BODY = 4 * 1024 * 1024

_DOMAIN = "openfacility"


@dataclass(frozen=True, slots=True)
class Settings:
    """What an installation decides. The defaults are those of the committed file."""

    listen_address: str = "0.0.0.0"  # noqa: S104 (the front door is for everybody)
    listen_port: int = 8080
    grpc_socket: str = "/run/openfacility/grpc.sock"
    http_socket: str = "/run/openfacility/http.sock"
    admin_socket: str = "/run/openfacility/envoy-admin.sock"
    descriptor: str = "/etc/openfacility/descriptor.binpb"
    max_body: int = MAX_BODY
    stream_idle: str = "3600s"
    unary_timeout: str = "60s"
    request_bound: str = "120s"


@dataclass(frozen=True, slots=True)
class Reply:
    """What Envoy says by itself with one HTTP status."""

    status: int
    code: int  # google.rpc.Code
    reason: str
    message: str
    at_least: bool = False


_BODY = "%LOCAL_REPLY_BODY%"
_ALIAS = re.compile(r'"(\*[a-z_]+)"')  # YAML's references to what the template names; written without quotes
REPLIES = (
    Reply(400, 3, "INVALID_REQUEST", _BODY),
    Reply(404, 5, "ROUTE_NOT_FOUND", "there is nothing at this path; /openapi.json lists the paths"),
    Reply(405, 12, "METHOD_NOT_ALLOWED", _BODY),
    Reply(408, 4, "REQUEST_TIMEOUT", "the request did not arrive in time; send it again without pauses"),
    Reply(413, 3, "BODY_TOO_LARGE", "the body is larger than this server takes; send less at once"),
    Reply(429, 8, "TOO_MANY_REQUESTS", "too many requests; wait and send it again"),
    Reply(431, 3, "HEADERS_TOO_LARGE", "path and headers are larger than this server takes; shorten them"),
    Reply(501, 12, "NOT_IMPLEMENTED", "the server does not do this"),
    Reply(503, 14, "UNAVAILABLE", "the service cannot be reached just now; send the same request again"),
    Reply(504, 4, "DEADLINE_EXCEEDED", "the service did not answer in time; a change may or may not have been "
           "made: repeat it with the same request_id"),
    Reply(500, 13, "INTERNAL", "the server failed; tell its operators the request id", at_least=True),
    Reply(400, 3, "INVALID_REQUEST", "the request cannot be used", at_least=True),
)  # fmt: skip


def render(descriptors: FileDescriptorSet, settings: Settings | None = None) -> str:
    """Returns Envoy's configuration as YAML."""
    chosen = settings or Settings()
    found = bindings.read(descriptors)
    values = {name: _flow(getattr(chosen, name)) for name in Settings.__slots__}
    values["services"] = ", ".join(sorted({binding.service for binding in found}))
    values["mappers"] = _block(_mappers(), 20)
    values["routes"] = _block(_routes(found), 24)
    text = resources.files("openfacility_server.http").joinpath("envoy.yaml.in").read_text("utf-8")
    for name, value in values.items():
        text = text.replace(f"@{name}@", value)
    return text


def _flow(value: object) -> str:
    """YAML in one line: JSON is YAML."""
    return _ALIAS.sub(r"\1", json.dumps(value, ensure_ascii=False))


def _block(entries: Iterable[Mapping[str, Any]], indent: int) -> str:
    """Writes a list of mappings, one line for each key."""
    lines = []
    for entry in entries:
        for position, (key, value) in enumerate(entry.items()):
            lines.append(f"{' ' * indent}{'- ' if position == 0 else '  '}{key}: {_flow(value)}")
    return "\n".join(lines)


# What Envoy says by itself


def _mappers() -> Iterator[dict[str, Any]]:
    grpc = [
        {"header_filter": {"header": _header("content-type", prefix="application/grpc")}},
        {"header_filter": {"header": {"name": JSON_HEADER, "present_match": False}}},
    ]
    # gRPC callers get the text as the status message; the last mapper but one would make it JSON in a string.
    unavailable = {"inline_string": "the service cannot be reached just now; make the same call again"}
    yield {
        "filter": {"and_filter": {"filters": [*grpc, _status(500, "GE")]}},
        "body_format_override": {"text_format_source": unavailable},
    }
    as_is = {"text_format_source": {"inline_string": _BODY}}
    yield {"filter": {"and_filter": {"filters": grpc}}, "body_format_override": as_is}
    # What the strict check of a body refused is a complete answer. Its own failure is a 503 and goes on.
    refused = {"response_flag_filter": {"flags": ["UAEX"]}}
    yield {
        "filter": {"and_filter": {"filters": [refused, _status(499, "LE")]}},
        "body_format_override": {**as_is, "content_type": "application/json"},
    }
    early = {"header_filter": {"header": {"name": "x-request-id", "present_match": False}}}
    malformed = Reply(400, 3, "INVALID_REQUEST", "the request is not well-formed HTTP")
    yield {
        "filter": {"and_filter": {"filters": [early, _status(400, "EQ")]}},
        "body_format_override": _format(malformed),
    }
    for reply in REPLIES:
        yield {
            "filter": _status(reply.status, "GE" if reply.at_least else "EQ"),
            **({"headers_to_add": [_set("retry-after", "1")]} if reply.status in {429, 503} else {}),
            "body_format_override": _format(reply),
        }


def _status(value: int, operator: str) -> dict[str, Any]:
    comparison = {"op": operator, "value": {"default_value": value, "runtime_key": "unused"}}
    return {"status_code_filter": {"comparison": comparison}}


def _format(reply: Reply) -> dict[str, Any]:
    # What is empty is left out: there is no request id where the request could not even be read.
    json_format = _status_json(reply)
    return {"json_format": json_format, "content_type": "application/json", "omit_empty_values": True}


def _status_json(reply: Reply) -> dict[str, Any]:
    details: list[dict[str, Any]] = [
        {
            "@type": "type.googleapis.com/google.rpc.ErrorInfo",
            "reason": reply.reason,
            "domain": _DOMAIN,
            "metadata": {"request_id": "%REQ(X-REQUEST-ID)%"},
        }
    ]
    if reply.status in {429, 503}:
        details.append({"@type": "type.googleapis.com/google.rpc.RetryInfo", "retry_delay": "1s"})
    return {"code": reply.code, "message": reply.message, "details": details}


# Routes


def _routes(found: Sequence[bindings.Binding]) -> Iterator[dict[str, Any]]:
    yield {
        "name": "bad request id",
        "match": {"prefix": "/", "headers": [_header("x-request-id", REQUEST_ID_PATTERN, invert_match=True)]},
        "direct_response": _direct(400, f"x-request-id must match {REQUEST_ID_PATTERN}, or be left out"),
    }
    yield {
        "name": "gRPC and gRPC-Web",
        "match": {"prefix": "/", "headers": [_method("POST"), _header("content-type", prefix="application/grpc")]},
        "route": {"cluster": "grpc", "timeout": "0s", "idle_timeout": "*stream_idle"},
    }
    for same in bindings.group(found):
        yield from _path(same)
    for path in ("/livez", "/readyz", "/openapi.json"):
        yield {
            "name": f"GET {path}",
            "match": {"path": path, "headers": [_method("GET")]},
            "route": {"cluster": "http", "timeout": "5s", "retry_policy": _retries("reset")},
        }
        yield _not_allowed(path, {"path": path}, ["GET"])
    yield {"name": "nothing here", "match": {"prefix": "/"}, "direct_response": _direct(404, "")}


def _path(same: Sequence[bindings.Binding]) -> Iterator[dict[str, Any]]:
    """All routes of one path: one for each method that it takes, and one for all others."""
    path = _path_match(same[0])
    for binding in same:
        headers = [_method(binding.http_method)]
        name = f"{binding.http_method} {binding.template}"
        # A body, a query and percent-encoding are checked strictly, at the price of one more question to the server.
        if binding.server_sent_events:
            yield {
                "name": f"{name} as server-sent events",
                "match": {**path, "headers": [*headers, _header("accept", contains="text/event-stream")]},
                "route": {"cluster": "http", "timeout": "0s", "idle_timeout": "*stream_idle"},
            }
        kind = "stream" if binding.streaming else "unary"
        if not binding.body:
            yield {
                "name": f"{name} to be checked",
                "match": {**path, "headers": [*headers, _header(":path", ".*[?%].*")]},
                "route": _action(binding),
                "typed_per_filter_config": f"*{kind}_checked",
            }
        yield {
            "name": name,
            "match": {**path, "headers": headers},
            "route": _action(binding),
            "typed_per_filter_config": f"*{kind}_checked" if binding.body else f"*{kind}_bare",
        }
    yield _not_allowed(same[0].template, path, sorted({binding.http_method for binding in same}))


def _action(binding: bindings.Binding) -> dict[str, Any]:
    """How a request goes to the server. Only a GET may be sent twice."""
    if binding.streaming:
        retries = {"retry_policy": _retries()} if binding.http_method == "GET" else {}
        return {"cluster": "grpc", "timeout": "0s", "idle_timeout": "*stream_idle", **retries}
    retries = {"retry_policy": _retries("reset")} if binding.http_method == "GET" else {}
    # The server has its own, shorter deadline; the last bound also ends a body that only trickles in.
    bound = {"max_stream_duration": {"max_stream_duration": "*request_bound"}}
    return {"cluster": "grpc", "timeout": "*unary_timeout", **bound, **retries}


def _retries(*more: str) -> dict[str, Any]:
    return {
        "retry_on": ",".join(("connect-failure", "refused-stream", *more)),
        "num_retries": 3,
        "retry_back_off": {"base_interval": "0.05s", "max_interval": "0.5s"},
    }


def _path_match(binding: bindings.Binding) -> dict[str, Any]:
    if binding.literal:
        return {"path": binding.template}
    return {"safe_regex": {"regex": binding.regex}}


def _not_allowed(name: str, path: Mapping[str, Any], allowed: Sequence[str]) -> dict[str, Any]:
    takes = " and ".join(allowed)
    return {
        "name": f"other methods {name}",
        "match": path,
        "direct_response": _direct(405, f"this path takes {takes} only"),
        "response_headers_to_add": [_set("allow", ", ".join(allowed))],
    }


def _direct(status: int, text: str) -> dict[str, Any]:
    return {"status": status, **({"body": {"inline_string": text}} if text else {})}


def _method(method: str) -> dict[str, Any]:
    return {"name": ":method", "string_match": {"exact": method}}


def _header(name: str, regex: str = "", *, invert_match: bool = False, **match: str) -> dict[str, Any]:
    return {
        "name": name,
        "string_match": match or {"safe_regex": {"regex": regex}},
        **({"invert_match": True} if invert_match else {}),
    }


def _set(name: str, value: str) -> dict[str, Any]:
    return {"header": {"key": name, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
