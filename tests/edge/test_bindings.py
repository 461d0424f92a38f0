"""Every RPC is there as JSON, with its path, query and body. Read from the descriptor, so a new RPC is tested too."""

from __future__ import annotations

import json
import re
from typing import Any

import httpx
import pytest
from google.api import httpbody_pb2
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from openfacility_server.http import bindings
from openfacility_server.http.bindings import Binding

from tests.edge.answers import JSON, error
from tests.edge.scripted import BINDINGS, Scripted

HTTP_BODY = "google.api.HttpBody"
EVERY = pytest.mark.parametrize("binding", BINDINGS, ids=lambda b: f"{b.http_method} {b.template}")


def path_of(binding: Binding) -> str:
    return re.sub(r"\{[^}]*\}", "abc123", binding.template)


def test_every_rpc_has_a_binding() -> None:
    descriptors = FileDescriptorSet.FromString(bindings.descriptor_bytes())
    methods = {
        f"/{file.package}.{service.name}/{method.name}"
        for file in descriptors.file
        if file.name.startswith("openfacility/")
        for service in file.service
        for method in service.method
    }
    assert methods == {binding.rpc for binding in BINDINGS}


@EVERY
async def test_reachable(binding: Binding, client: httpx.AsyncClient, server: Scripted) -> None:
    body: dict[str, Any] = {"content": b"{}", "headers": JSON} if binding.body else {}
    response = await client.request(binding.http_method, path_of(binding), **body)

    assert response.status_code == 200, response.text
    [call] = server.calls
    assert call.method == binding.method
    for variable in binding.variables:
        value: Any = call.request
        for step in variable.split("."):
            value = getattr(value, step)
        assert value == "abc123"
    assert call.metadata["x-openfacility-json"] == "1"
    assert call.metadata["x-request-id"] == response.headers["x-request-id"]
    if binding.streaming:
        assert response.headers["content-type"] == "application/x-ndjson"
        [line] = response.text.splitlines()
        assert isinstance(json.loads(line), dict)
    elif binding.output_type == HTTP_BODY:
        assert response.content == b""
    else:
        assert response.headers["content-type"] == "application/json"
        assert isinstance(response.json(), dict)


async def test_a_body_of_another_type(client: httpx.AsyncClient, server: Scripted) -> None:
    calendar = b"BEGIN:VCALENDAR\r\nSUMMARY:\xc3\xbc\r\nEND:VCALENDAR\r\n"

    async def answer(request: Any, context: Any) -> httpbody_pb2.HttpBody:
        del request, context
        return httpbody_pb2.HttpBody(content_type="text/calendar; charset=utf-8", data=calendar)

    server.handlers["ExportCalendar"] = answer
    params = [("resource_ids", "a"), ("resource_ids", "b"), ("from", "2026-01-01T00:00:00Z")]
    response = await client.get("/v1/incidents:exportCalendar", params=params)
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/calendar; charset=utf-8"
    assert response.content == calendar
    [call] = server.calls
    assert list(call.request.resource_ids) == ["a", "b"]
    assert getattr(call.request, "from").ToJsonString() == "2026-01-01T00:00:00Z"


@pytest.mark.parametrize("time", ["2026-01-01T00:00:00", "2026-01-01", "yesterday", "1767225600"])
async def test_a_time_without_a_zone(time: str, client: httpx.AsyncClient, server: Scripted) -> None:
    for path, field in (("/v1/events", "from"), ("/v1/resources/a:checkAvailability", "start_time")):
        body = error(await client.get(path, params={field: time}), 400, 3, "WRONG_TYPE")
        assert field in body["message"]
    response = await client.post("/v1/incidents", json={"incident": {"startTime": time}})
    assert "incident.start_time" in error(response, 400, 3, "WRONG_TYPE")["message"]
    assert not server.calls


METHODS = ("HEAD", "OPTIONS", "GET", "POST", "PUT", "PATCH", "DELETE", "TRACE")
PATHS = sorted({path_of(binding) for binding in BINDINGS})
OTHERS = [(m, path) for path in PATHS for m in METHODS if not bindings.Router(BINDINGS).find(m, path)]


@pytest.mark.parametrize(("method", "path"), OTHERS)
async def test_other_methods(method: str, path: str, client: httpx.AsyncClient, server: Scripted) -> None:
    response = await client.request(method, path)

    assert response.status_code == 405
    assert set(response.headers["allow"].split(", ")) == {
        b.http_method for b in BINDINGS if re.fullmatch(b.regex, path)
    }
    if method != "HEAD":
        error(response, 405, 12, "METHOD_NOT_ALLOWED")
    assert not server.calls


@EVERY
async def test_unknown_query_parameter(binding: Binding, client: httpx.AsyncClient, server: Scripted) -> None:
    body: dict[str, Any] = {"content": b"{}", "headers": JSON} if binding.body else {}
    response = await client.request(binding.http_method, path_of(binding), params={"no_such": "1"}, **body)
    assert "no_such" in error(response, 400, 3, "UNKNOWN_FIELD")["message"]
    assert not server.calls


@EVERY
async def test_unknown_field(binding: Binding, client: httpx.AsyncClient, server: Scripted) -> None:
    if not binding.body:
        response = await client.request(binding.http_method, path_of(binding), content=b"{}", headers=JSON)
        assert "no body" in error(response, 400, 3, "INVALID_REQUEST")["message"]
    else:
        response = await client.request(binding.http_method, path_of(binding), json={"no_such": 1})
        assert "no_such" in error(response, 400, 3, "UNKNOWN_FIELD")["message"]
    assert not server.calls
