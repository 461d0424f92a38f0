"""Watches as server-sent events, through Envoy."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from datetime import timedelta
from typing import Any

import httpx
import pytest
from openfacility.jobs.v1 import job_pb2
from openfacility.jobs.v1 import jobs_service_pb2 as pb
from openfacility_server import errors
from openfacility_server.http.sse import Renderer

from tests.edge import scripted
from tests.edge.answers import error, violations
from tests.edge.scripted import Upstream

ACCEPT = {"accept": "text/event-stream"}
Metadata = Sequence[tuple[str, str]]
Script = Callable[[Any], AsyncIterator[pb.WatchJobsResponse]]


class Source:
    """A watch that does as it is told."""

    def __init__(self) -> None:
        self.requests: list[Any] = []
        self.metadata: list[dict[str, str]] = []
        self.ended = asyncio.Event()
        self.script: Script | None = None

    async def __call__(self, rpc: str, request: Any, metadata: Metadata) -> AsyncIterator[bytes]:
        assert rpc == "/openfacility.jobs.v1.JobsService/WatchJobs"
        self.requests.append(request)
        self.metadata.append(dict(metadata))
        assert self.script is not None
        try:
            async for response in self.script(request):
                yield response.SerializeToString()
        finally:
            self.ended.set()


@pytest.fixture
def source(upstream: Upstream) -> Iterator[Source]:
    made = Source()
    upstream.events = made
    yield made
    upstream.events = None


def change(kind: pb.JobChange.Type, job_id: str, revision: int) -> pb.JobChange:
    return pb.JobChange(type=kind, revision=revision, job=job_pb2.Job(id=job_id))


def events(text: str) -> list[tuple[str, str | None, Any]]:
    """Reads events as a browser does: kind, id, data."""
    found = []
    for block in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if ": " in line and line[0] != ":")
        if "data" in fields:
            found.append((fields.get("event", "message"), fields.get("id"), json.loads(fields["data"])))
    return found


async def test_whole_watch(client: httpx.AsyncClient, source: Source) -> None:
    kinds = pb.JobChange

    async def script(_: Any) -> AsyncIterator[pb.WatchJobsResponse]:
        yield pb.WatchJobsResponse(changes=[change(kinds.TYPE_SNAPSHOT, "a", 3)])
        yield pb.WatchJobsResponse(revision=7, caught_up=True)
        same = [change(kinds.TYPE_CREATED, "b", 8), change(kinds.TYPE_CREATED, "c", 8)]
        yield pb.WatchJobsResponse(changes=[*same, change(kinds.TYPE_UPDATED, "a", 9)], revision=10)
        yield pb.WatchJobsResponse(revision=12)

    source.script = script
    response = await client.get("/v1/jobs:watch", headers=ACCEPT)
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["cache-control"] == "no-store"
    found = events(response.text)
    # One id for each revision, at its last change, so that nobody resumes in its middle.
    assert [(kind, identifier) for kind, identifier, _ in found] == [
        ("snapshot", None), ("caught_up", "7"), ("created", None), ("created", "8"), ("updated", "10"),
        ("bookmark", "12"), ("end", None),
    ]  # fmt: skip
    assert found[0][2]["job"]["id"] == "a"
    assert found[0][2]["job"]["resource_id"] == ""
    assert found[1][2] == {"revision": "7"}
    assert source.metadata[0]["x-request-id"] == response.headers["x-request-id"]


async def test_request(client: httpx.AsyncClient, source: Source) -> None:
    async def script(_: Any) -> AsyncIterator[pb.WatchJobsResponse]:
        yield pb.WatchJobsResponse(revision=1, caught_up=True)

    source.script = script
    headers = {**ACCEPT, "authorization": "Bearer t"}
    await client.get("/v1/jobs:watch?filter.states=JOB_STATE_ACTIVE&after_revision=4", headers=headers)
    await client.get("/v1/jobs/a%5F1:watch?after_revision=4", headers={**headers, "last-event-id": "9"})
    first, second = source.requests
    assert (list(first.filter.states), first.after_revision) == ([job_pb2.JOB_STATE_ACTIVE], 4)
    assert (second.job_id, second.after_revision) == ("a_1", 9)
    assert source.metadata[0]["authorization"] == "Bearer t"


@pytest.mark.parametrize(
    ("path", "headers", "field"),
    [
        ("/v1/jobs:watch?filter.stats=1", {}, "filter.stats"),
        ("/v1/jobs:watch?after_revision=x", {}, "after_revision"),
        ("/v1/jobs/a:watch?job_id=b", {}, "job_id"),
        ("/v1/jobs:watch", {"last-event-id": "-1"}, "Last-Event-ID"),
    ],
)
async def test_bad_request(
    path: str, headers: dict[str, str], field: str, client: httpx.AsyncClient, source: Source
) -> None:
    response = await client.get(path, headers={**ACCEPT, **headers})
    assert response.status_code == 400
    assert set(violations(response.json())) == {field}
    assert not source.requests


async def test_error_before_the_first_event(client: httpx.AsyncClient, source: Source) -> None:
    async def script(_: Any) -> AsyncIterator[pb.WatchJobsResponse]:
        raise errors.OutOfRange("REVISION_TOO_OLD", "list again", {"oldest_revision": "5"})
        yield

    source.script = script
    body = error(await client.get("/v1/jobs:watch", headers=ACCEPT), 400, 11, "REVISION_TOO_OLD")
    assert body["details"][0]["metadata"]["oldest_revision"] == "5"


@pytest.mark.parametrize("known", [True, False])
async def test_error_midway(known: bool, client: httpx.AsyncClient, source: Source) -> None:
    async def script(_: Any) -> AsyncIterator[pb.WatchJobsResponse]:
        yield scripted.snapshot("a")
        if known:
            raise errors.Unavailable("DATABASE", "resume", timedelta(seconds=1))
        raise ZeroDivisionError("secret")

    source.script = script
    text = (await client.get("/v1/jobs:watch", headers=ACCEPT)).text
    kind, _, data = events(text)[-1]
    assert (kind, data["code"]) == ("error", 14 if known else 13)
    assert data["details"][0]["metadata"]["request_id"]
    assert "secret" not in text


async def test_nothing_more_to_resume(client: httpx.AsyncClient, source: Source) -> None:
    async def script(_: Any) -> AsyncIterator[pb.WatchJobsResponse]:
        return
        yield

    source.script = script
    response = await client.get("/v1/jobs/a:watch", headers={**ACCEPT, "last-event-id": "9"})
    assert response.status_code == 204


async def test_heartbeat_and_disconnect(client: httpx.AsyncClient, source: Source) -> None:
    async def script(_: Any) -> AsyncIterator[pb.WatchJobsResponse]:
        yield pb.WatchJobsResponse(revision=1, caught_up=True)
        await asyncio.Event().wait()

    source.script = script
    async with asyncio.timeout(10):
        async with client.stream("GET", "/v1/jobs:watch", headers=ACCEPT) as response:
            comments = 0
            async for line in response.aiter_lines():
                comments += line == ":"
                if comments == 2:
                    break
        await source.ended.wait()


async def test_accept_chooses(client: httpx.AsyncClient, source: Source) -> None:
    async def script(_: Any) -> AsyncIterator[pb.WatchJobsResponse]:
        yield pb.WatchJobsResponse(revision=1, caught_up=True)

    source.script = script
    for accept, kind in (
        ("application/json", "application/x-ndjson"),
        ("text/html, text/event-stream;q=0.9", "text/event-stream; charset=utf-8"),
    ):
        response = await client.get("/v1/jobs:watch", headers={"accept": accept})
        assert response.headers["content-type"] == kind


def test_a_change_is_printed_once() -> None:
    render = Renderer(max_bytes=2000)
    one = change(pb.JobChange.TYPE_CREATED, "a", 1)
    assert render(one) == render(pb.JobChange.FromString(one.SerializeToString()))
    assert render.misses == 1
    for number in range(100):
        render(change(pb.JobChange.TYPE_CREATED, f"b{number}", number))
    assert render._bytes <= 2000
    render(one)
    assert render.misses == 102
