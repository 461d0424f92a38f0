"""What the tests expect of answers."""

from __future__ import annotations

import json
from typing import Any

import httpx
from google.protobuf import json_format
from google.rpc import error_details_pb2, status_pb2

JSON = {"content-type": "application/json"}
_TYPES = error_details_pb2.DESCRIPTOR  # details can only be read where their types are known


def error(response: httpx.Response, http_status: int, code: int, reason: str) -> dict[str, Any]:
    """Checks that an answer is a whole, honest error, and returns its JSON."""
    assert response.status_code == http_status, response.text
    assert response.headers["content-type"] == "application/json", response.headers
    body: dict[str, Any] = json.loads(response.text)
    assert json_format.Parse(response.text, status_pb2.Status()).code == code, body
    assert body["message"]
    info = body["details"][0]
    assert info["@type"] == "type.googleapis.com/google.rpc.ErrorInfo"
    assert (info["reason"], info["domain"]) == (reason, "openfacility"), body
    assert info["metadata"]["request_id"] == response.headers["x-request-id"]
    for secret in (".sock", "openfacility_server", "Traceback", "upstream", "delayed_connect"):
        assert secret not in response.text
    return body


def violations(body: dict[str, Any]) -> dict[str, str]:
    """Returns the descriptions of the violated fields."""
    bad = next(d for d in body["details"] if d["@type"].endswith("google.rpc.BadRequest"))
    return {violation["field"]: violation["description"] for violation in bad["field_violations"]}
