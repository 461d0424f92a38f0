"""What is wrong in a body, a query or a path is refused by name, and nothing happens."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from openfacility.jobs.v1 import job_pb2

from tests.edge.answers import JSON, error, violations
from tests.edge.scripted import Scripted

# Body, field, reason, words.
BODIES: list[tuple[Any, str, str, str]] = [
    ({"spec": {"attributes": {"duratoin": "60s"}}}, "spec.attributes.duratoin", "UNKNOWN_FIELD", "mean duration?"),
    ({"spec": {"attributes": {"Duration": "60s"}}}, "spec.attributes.Duration", "UNKNOWN_FIELD", "mean duration?"),
    ({"sepc": {}}, "sepc", "UNKNOWN_FIELD", "mean spec?"),
    ({"spec": {"xyz": 1}}, "spec.xyz", "UNKNOWN_FIELD", "Known here: "),
    ({"spec": {"dependencies": [{}, {"job": "a"}]}}, "spec.dependencies[1].job", "UNKNOWN_FIELD", "mean job_id?"),
    ('{"spec":{"name":"a","name":"b"}}', "spec.name", "DUPLICATE_FIELD", "twice"),
    ('{"resource_id":"a","resourceId":"b"}', "resourceId", "DUPLICATE_FIELD", "twice"),
    ('{"spec":{"labels":{"a":"1","a":"2"}}}', 'spec.labels["a"]', "DUPLICATE_FIELD", "twice"),
    ({"spec": {"hold": "true"}}, "spec.hold", "WRONG_TYPE", "without quotes"),
    ({"spec": {"hold": 1}}, "spec.hold", "WRONG_TYPE", "true or false"),
    ({"spec": {"name": 1}}, "spec.name", "WRONG_TYPE", "text"),
    ({"spec": {"arguments": "a"}}, "spec.arguments", "WRONG_TYPE", "list"),
    ({"spec": {"arguments": [None]}}, "spec.arguments[0]", "WRONG_TYPE", "null"),
    ({"spec": {"environment": ["A"]}}, "spec.environment", "WRONG_TYPE", "object"),
    ({"spec": {"environment": {"A": 1}}}, 'spec.environment["A"]', "WRONG_TYPE", "text"),
    ({"spec": []}, "spec", "WRONG_TYPE", "object"),
    ({"spec": {"attributes": {"duration": 60}}}, "spec.attributes.duration", "WRONG_TYPE", "3600s"),
    ({"spec": {"attributes": {"duration": "1h"}}}, "spec.attributes.duration", "WRONG_TYPE", "3600s"),
    ({"spec": {"resources": {"node_count": 1.5}}}, "spec.resources.node_count", "WRONG_TYPE", "whole number"),
    ({"spec": {"resources": {"node_count": 2**31}}}, "spec.resources.node_count", "WRONG_TYPE", "2147483647"),
    ({"spec": {"resources": {"memory": "4 GB"}}}, "spec.resources.memory", "WRONG_TYPE", "whole number"),
    ({"spec": {"resources": {"memory": 2**63}}}, "spec.resources.memory", "WRONG_TYPE", "from"),
    (
        {"spec": {"dependencies": [{"condition": "AFTER_OK"}]}},
        "spec.dependencies[0].condition",
        "WRONG_TYPE",
        "CONDITION_AFTER_OK",
    ),
    ('{"spec":{"name":"\\ud800"}}', "spec.name", "WRONG_TYPE", "surrogate"),
    ("[]", "", "WRONG_TYPE", "object"),
    ("null", "", "WRONG_TYPE", "object"),
    ("{", "", "NOT_JSON", "line 1, column 2"),
    ('{"a": NaN}', "", "NOT_JSON", "NaN"),
    ("{} {}", "", "NOT_JSON", "column"),
    (b'{"spec":{"name":"\xff"}}', "", "NOT_JSON", "UTF-8"),
    ("[" * 100_000, "", "NOT_JSON", "deep"),
]


@pytest.mark.parametrize(("body", "field", "reason", "words"), BODIES, ids=lambda v: str(v)[:40])
async def test_body(
    body: Any, field: str, reason: str, words: str, client: httpx.AsyncClient, server: Scripted
) -> None:
    content = body if isinstance(body, str | bytes) else json.dumps(body)
    response = await client.post("/v1/jobs", content=content, headers=JSON)

    found = violations(error(response, 400, 3, reason))
    assert set(found) == {field}
    assert words in found[field]
    assert not server.calls


async def test_all_that_is_wrong_at_once(client: httpx.AsyncClient, server: Scripted) -> None:
    response = await client.post("/v1/jobs", json={"spec": {"nmae": "a", "hold": 1}, "requestid": "x"})
    assert set(violations(error(response, 400, 3, "UNKNOWN_FIELD"))) == {"spec.nmae", "spec.hold", "requestid"}
    assert not server.calls


async def test_what_is_right_arrives(client: httpx.AsyncClient, server: Scripted) -> None:
    body = {
        "resourceId": "local",
        "spec": {
            "executable": "/bin/true",
            "arguments": ["-x", ""],
            "environment": {"A": "ü"},
            "inheritEnvironment": False,
            "resources": {"node_count": "2", "memory": "17179869184", "cpu_cores_per_process": 4.0},
            "attributes": {"duration": "90s", "queue_name": None},
            "dependencies": [{"job_id": "a1", "condition": "CONDITION_AFTER_OK"}, {"job_id": "a2", "condition": 4}],
        },
    }
    response = await client.post("/v1/jobs", json=body)
    assert response.status_code == 200, response.text

    [call] = server.calls
    spec = call.request.spec
    assert call.request.resource_id == "local"
    assert list(spec.arguments) == ["-x", ""]
    assert dict(spec.environment) == {"A": "ü"}
    assert spec.inherit_environment is False
    assert spec.HasField("inherit_environment")
    assert (spec.resources.node_count, spec.resources.memory) == (2, 17179869184)
    assert spec.resources.cpu_cores_per_process == 4
    assert spec.attributes.duration.seconds == 90
    assert spec.dependencies[1].condition == job_pb2.JobDependency.CONDITION_AFTER_ANY


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"content-type": "application/x-www-form-urlencoded"},
        {"content-type": "text/plain"},
        {"content-type": "application/json; charset=latin-1"},
        {"content-type": "application/json", "content-encoding": "gzip"},
    ],
)
async def test_media_type(headers: dict[str, str], client: httpx.AsyncClient, server: Scripted) -> None:
    response = await client.post("/v1/jobs", content=b"{}", headers=headers)
    error(response, 415, 3, "UNSUPPORTED_MEDIA_TYPE")
    assert not server.calls


async def test_charset_is_fine(client: httpx.AsyncClient, server: Scripted) -> None:
    headers = {"content-type": "application/json; charset=UTF-8"}
    assert (await client.post("/v1/jobs", content=b"{}", headers=headers)).status_code == 200
    assert server.calls


async def test_no_body_where_none_is_needed(client: httpx.AsyncClient, server: Scripted) -> None:
    assert (await client.post("/v1/jobs/a1:cancel")).status_code == 200
    assert server.calls[0].request.job_id == "a1"


async def test_query_beside_a_whole_body(client: httpx.AsyncClient, server: Scripted) -> None:
    response = await client.post("/v1/jobs?request_id=x", json={})
    assert "JSON body" in violations(error(response, 400, 3, "UNKNOWN_FIELD"))["request_id"]
    assert not server.calls


async def test_body_against_path(client: httpx.AsyncClient, server: Scripted) -> None:
    response = await client.patch("/v1/jobs/a1", json={"id": "a2"})
    assert set(violations(error(response, 400, 3, "CONTRADICTION"))) == {"job.id"}
    response = await client.post("/v1/jobs/a1:hold", json={"jobId": "a2"})
    assert set(violations(error(response, 400, 3, "CONTRADICTION"))) == {"job_id"}
    assert not server.calls
    assert (await client.patch("/v1/jobs/a1", json={"id": "a1"})).status_code == 200


@pytest.mark.parametrize("mask", ["spec.name,spec.attributes.queue_name", "spec.name,spec.attributes.queueName"])
async def test_update_mask(mask: str, client: httpx.AsyncClient, server: Scripted) -> None:
    response = await client.patch("/v1/jobs/a1", params={"update_mask": mask, "etag": "e"}, json={"spec": {}})
    assert response.status_code == 200, response.text
    assert list(server.calls[0].request.update_mask.paths) == ["spec.name", "spec.attributes.queue_name"]


QUERIES = [
    ("page_sise=3", "page_sise", "UNKNOWN_FIELD", "page_size"),
    ("filter.stats=1", "filter.stats", "UNKNOWN_FIELD", "states"),
    ("page_size=ten", "page_size", "WRONG_TYPE", "whole number"),
    ("page_size=", "page_size", "WRONG_TYPE", "whole number"),
    ("page_size=99999999999", "page_size", "WRONG_TYPE", "from"),
    ("page_size=1&page_size=2", "page_size", "DUPLICATE_FIELD", "twice"),
    ("page_size=1&pageSize=2", "pageSize", "DUPLICATE_FIELD", "twice"),
    ("filter=x", "filter", "WRONG_TYPE", "name its fields"),
    ("filter.states=ACTIVE", "filter.states", "WRONG_TYPE", "JOB_STATE_ACTIVE"),
    ("filter.created_from=yesterday", "filter.created_from", "WRONG_TYPE", "2026-"),
    ("page_size.x=1", "page_size.x", "WRONG_TYPE", "no fields"),
    ("page_token=%ff", "page_token", "WRONG_TYPE", "UTF-8"),
]


@pytest.mark.parametrize(("query", "field", "reason", "words"), QUERIES)
async def test_query(
    query: str, field: str, reason: str, words: str, client: httpx.AsyncClient, server: Scripted
) -> None:
    found = violations(error(await client.get(f"/v1/jobs?{query}"), 400, 3, reason))
    assert set(found) == {field}
    assert words in found[field]
    assert not server.calls


async def test_query_arrives(client: httpx.AsyncClient, server: Scripted) -> None:
    query = (
        "filter.states=JOB_STATE_ACTIVE&filter.states=JOB_STATE_HELD&filter.name=a+b%26c&pageSize=7"
        "&filter.created_from=2026-01-31T12:00:00%2B01:00"
    )
    assert (await client.get(f"/v1/jobs?{query}")).status_code == 200
    request = server.calls[0].request
    assert list(request.filter.states) == [job_pb2.JOB_STATE_ACTIVE, job_pb2.JOB_STATE_HELD]
    assert request.filter.name == "a b&c"
    assert request.page_size == 7
    assert request.filter.created_from.ToJsonString() == "2026-01-31T11:00:00Z"


async def test_path_variable_that_is_not_text(client: httpx.AsyncClient, server: Scripted) -> None:
    for path in ("/v1/jobs/%ff", "/v1/jobs/%zz", "/v1/jobs/a%"):
        response = await client.get(httpx.URL(str(client.base_url), raw_path=path.encode()))
        assert set(violations(error(response, 400, 3, "WRONG_TYPE"))) == {"job_id"}
    assert not server.calls
