"""What is not there, who may not in, and what Envoy says by itself."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import grpc
import httpx
import pytest
from openfacility.jobs.v1 import job_pb2
from openfacility_server import edge
from openfacility_server.http.app import Health

from tests.edge import scripted
from tests.edge.answers import JSON, error
from tests.edge.scripted import Scripted, Upstream


async def raw(envoy: edge.Envoy, request: bytes) -> tuple[int, dict[str, str], bytes]:
    """Sends bytes as they are, and reads one answer to the end of the connection."""
    host, _, port = envoy.address.rpartition(":")
    async with asyncio.timeout(10):
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(request)
        await writer.drain()
        head = await reader.readuntil(b"\r\n\r\n")
        first, *lines = head.decode().strip().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines)
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        writer.close()
        await writer.wait_closed()
    return int(first.split()[1]), headers, body


def get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode("latin-1")


@pytest.mark.parametrize(
    "path",
    ["/", "/v1", "/v1/", "/v1/jobs/", "/v1/jobs/a/", "/v1/jobs/a:frob", "/v1/jobs/a/b/c", "/v2/jobs", "/V1/jobs",
     "/internal/check/v1/jobs", "/internal/check", "/metrics", "/startupz", "/openfacility.jobs.v1.JobsService/GetJob",
     "/grpc.health.v1.Health/Check", "/healthz/", "/stats", "/v1/jobs;a=b"],
)  # fmt: skip
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_unknown_path(method: str, path: str, client: httpx.AsyncClient, server: Scripted) -> None:
    error(await client.request(method, path), 404, 5, "ROUTE_NOT_FOUND")
    assert not server.calls


@pytest.mark.parametrize(
    ("path", "status"),
    [("//v1/jobs", 404), ("/v1//jobs", 404), ("/v1/jobs/a%2Fb", 200), ("/v1/jobs/a%00b", 400), ("/v1/jobs/a\x00b", 400),
     ("/v1/jobs/..%2f..%2finternal/check/v1/jobs", 404), ("/v1/../internal/check/v1/jobs", 404),
     ("/v1/./jobs", 200), ("/internal%2fcheck/v1/jobs", 404), ("/%69nternal/check/v1/jobs", 404), ("v1/jobs", 400),
     ("/v1/jobs/" + "a" * 20_000, 200), ("/v1/jobs/" + "a" * 40_000, 431), ("/v1/jobs#x", 400), ("*", 400)],
    ids=lambda value: str(value)[:40],
)  # fmt: skip
async def test_odd_path(path: str, status: int, envoy: edge.Envoy, server: Scripted) -> None:
    del server
    found, headers, body = await raw(envoy, get(path))
    assert found == status, body
    if status != 200:
        assert headers["content-type"] == "application/json"
        assert json.loads(body)["message"]


@pytest.mark.parametrize("request_", [b"FROB /v1/jobs HTTP/1.1\r\nhost: x\r\n\r\n", b"GET /v1/jobs HTTP/1.1\r\n\r\n",
    b"GET /v1/jobs HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n",
    b"POST /v1/jobs HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n"])  # fmt: skip
async def test_not_http(request_: bytes, envoy: edge.Envoy, server: Scripted) -> None:
    status, headers, body = await raw(envoy, request_)
    assert (status, headers.get("content-type")) == (400, "application/json"), (headers, body)
    assert json.loads(body)["code"] == 3
    assert not server.calls


async def test_body_on_get(envoy: edge.Envoy, server: Scripted) -> None:
    start = b"GET /v1/jobs HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    for rest in (b"content-length: 2\r\n\r\n{}", b"transfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"):
        status, _, body = await raw(envoy, start + rest)
        assert status == 400
        assert "no body" in json.loads(body)["message"]
    assert not server.calls
    status, _, _ = await raw(envoy, start + b"content-length: 0\r\n\r\n")
    assert status == 200


async def test_internal_route_with_tricks(client: httpx.AsyncClient, server: Scripted) -> None:
    del server
    for headers in (
        {"x-envoy-original-path": "/internal/check/v1/jobs"},
        {"x-original-url": "/internal/check/v1/jobs"},
        {"x-rewrite-url": "/metrics", "accept": "text/event-stream"},
    ):
        response = await client.post("/internal/check/v1/jobs", json={}, headers=headers)
        error(response, 404, 5, "ROUTE_NOT_FOUND")


async def test_health(client: httpx.AsyncClient, upstream: Upstream) -> None:
    assert (await client.get("/healthz")).status_code == 200
    ready = await client.get("/readyz")
    assert (ready.status_code, ready.json()) == (200, {"status": "ok", "components": {"database": "ok"}})
    upstream.health = Health(ready=False, components={"database": "down"})
    try:
        ready = await client.get("/readyz")
        assert (ready.status_code, ready.json()["components"]) == (503, {"database": "down"})
        assert (await client.get("/livez")).status_code == 200
        assert (await client.get("/healthz")).status_code == 200
    finally:
        upstream.health = Health(components={"database": "ok"})


async def test_openapi(client: httpx.AsyncClient) -> None:
    first = await client.get("/openapi.json")
    assert (first.status_code, first.content) == (200, scripted.OPENAPI)
    again = await client.get("/openapi.json", headers={"if-none-match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert (await client.post("/openapi.json")).status_code == 405


async def test_request_id(client: httpx.AsyncClient, server: Scripted) -> None:
    response = await client.get("/v1/jobs/a", headers={"x-request-id": "mine-1"})
    assert response.headers.get_list("x-request-id") == ["mine-1"]
    assert server.calls[0].metadata["x-request-id"] == "mine-1"
    made = await client.get("/v1/jobs/a")
    assert made.headers["x-request-id"] == server.calls[1].metadata["x-request-id"]
    body = error(await client.get("/nope", headers={"x-request-id": "mine-2"}), 404, 5, "ROUTE_NOT_FOUND")
    assert body["details"][0]["metadata"]["request_id"] == "mine-2"
    for bad in ("a b", "ä", "x" * 129, "a\tb", '"'):
        response = await client.get("/v1/jobs/a", headers={"x-request-id": bad.encode()})
        assert response.status_code == 400
        assert "x-request-id" in response.json()["message"]


async def test_nothing_from_outside_steers(client: httpx.AsyncClient, server: Scripted) -> None:
    headers = {
        "x-openfacility-json": "no",
        "x-envoy-upstream-rq-timeout-ms": "1",
        "x-envoy-original-path": "/x",
        "x-forwarded-client-cert": "Subject=CN=root",
        "grpc-status": "5",
        "grpc-timeout": "soon",
        "anything-bin": "not base64!",
    }
    assert (await client.get("/v1/jobs/a", headers=headers)).status_code == 200
    metadata = server.calls[0].metadata
    assert metadata["x-openfacility-json"] == "1"
    assert metadata["x-envoy-original-path"] == "/v1/jobs/a"
    stripped = {"x-envoy-upstream-rq-timeout-ms", "x-forwarded-client-cert", "grpc-timeout", "anything-bin"}
    assert not stripped & set(metadata)


async def test_what_clients_see(client: httpx.AsyncClient, server: Scripted) -> None:
    async def get_job(request: Any, context: Any) -> job_pb2.Job:
        if request.job_id == "missing":
            context.set_trailing_metadata((("retry-after", "2"),))
            await scripted.fail(context, grpc.StatusCode.NOT_FOUND, "there is no such job")
        await context.send_initial_metadata((("x-request-id", "r"),))
        return job_pb2.Job(id=request.job_id, revision=2**60)

    server.handlers["GetJob"] = get_job
    good = await client.get("/v1/jobs/a")
    assert good.json()["revision"] == str(2**60)
    assert good.json()["transitions"] == []
    bad = await client.get("/v1/jobs/missing")
    assert bad.status_code == 404
    assert bad.json()["details"][0]["reason"] == "TEST"
    for response in (good, bad, await client.get("/nope"), await client.get("/healthz")):
        assert not [name for name in response.headers if name.startswith(("grpc-", "x-envoy-", "trailer"))]


@pytest.mark.parametrize(
    ("code", "http"),
    [("CANCELLED", 499), ("UNKNOWN", 500), ("INVALID_ARGUMENT", 400), ("DEADLINE_EXCEEDED", 504), ("NOT_FOUND", 404),
     ("ALREADY_EXISTS", 409), ("PERMISSION_DENIED", 403), ("RESOURCE_EXHAUSTED", 429), ("FAILED_PRECONDITION", 400),
     ("ABORTED", 409), ("OUT_OF_RANGE", 400), ("UNIMPLEMENTED", 501), ("INTERNAL", 500), ("UNAVAILABLE", 503),
     ("DATA_LOSS", 500), ("UNAUTHENTICATED", 401)],
)  # fmt: skip
@pytest.mark.parametrize("path", ["/v1/jobs/a", "/v1/jobs:watch"])
async def test_status_codes(code: str, http: int, path: str, client: httpx.AsyncClient, server: Scripted) -> None:
    value = grpc.StatusCode[code]

    async def unary(_: Any, context: Any) -> None:
        await scripted.fail(context, value, "as told")

    async def stream(_: Any, context: Any) -> Any:
        await scripted.fail(context, value, "as told")
        yield

    server.handlers.update(GetJob=unary, WatchJobs=stream)
    response = await client.get(path)
    assert response.status_code == http
    assert response.headers["content-type"] == "application/json"
    assert (response.json()["code"], response.json()["message"]) == (value.value[0], "as told")
    assert response.json()["details"][0]["metadata"] == {"request_id": "r-1"}


async def test_big_bodies(client: httpx.AsyncClient, server: Scripted) -> None:
    spaces = b" " * (4 * 1024 * 1024 - 200)
    assert (await client.post("/v1/jobs", content=b"{}" + spaces, headers=JSON)).status_code == 200
    assert len(server.calls) == 1
    response = await client.post("/v1/jobs", content=b"{}" + spaces + b" " * 300, headers=JSON)
    error(response, 413, 3, "BODY_TOO_LARGE")

    async def chunks() -> Any:
        for _ in range(200):
            yield b" " * 100_000

    try:
        response = await client.post("/v1/jobs", content=chunks(), headers=JSON)
    except httpx.NetworkError:  # the answer came, and the connection ended, while the rest was still being sent
        pass
    else:
        error(response, 413, 3, "BODY_TOO_LARGE")
    assert len(server.calls) == 1


async def test_big_answer(client: httpx.AsyncClient, server: Scripted) -> None:
    async def get_job(_: Any, __: Any) -> job_pb2.Job:
        return job_pb2.Job(spec=job_pb2.JobSpec(script="x" * (8 << 20)))

    server.handlers["GetJob"] = get_job
    assert len((await client.get("/v1/jobs/a")).json()["spec"]["script"]) == 8 << 20
