"""The real server behind a real Envoy, over JSON."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from openfacility_server import config, edge
from openfacility_server.edge import Envoy

from tests.edge.answers import error, violations
from tests.support.server import ALICE, BOB, OLGA, Server

ECHO = {"executable": "/bin/echo", "arguments": ["hello"], "attributes": {"duration": "60s"}}


class Front:
    """A server with its Envoy."""

    def __init__(self, server: Server) -> None:
        self.server = server
        server.config["grpc"]["unix_socket"] = str(server.directory / "grpc.sock")
        server.config["http"]["unix_socket"] = str(server.directory / "http.sock")
        self.envoy: Envoy | None = None

    async def start(self) -> None:
        await asyncio.to_thread(self.server.start)
        loaded = config.load(self.server.directory / "config.yaml")
        self.envoy = Envoy(edge.settings(loaded, listen="127.0.0.1:0"), self.server.directory)
        await self.envoy.start()

    def client(self, token: str | None = ALICE) -> httpx.AsyncClient:
        assert self.envoy is not None
        headers = {"authorization": f"Bearer {token}"} if token else {}
        return httpx.AsyncClient(base_url=f"http://{self.envoy.address}", headers=headers, timeout=20)

    async def stop(self) -> None:
        if self.envoy is not None:
            await self.envoy.stop(0)
        await asyncio.to_thread(self.server.remove)


@pytest.fixture(scope="module")
async def front(envoy_binary: str) -> AsyncIterator[Front]:
    del envoy_binary
    made = Front(Server())
    try:
        await made.start()
        yield made
    finally:
        await made.stop()


@pytest.fixture
async def alice(front: Front) -> AsyncIterator[httpx.AsyncClient]:
    async with front.client() as client:
        yield client


async def submit(client: httpx.AsyncClient, **spec: Any) -> dict[str, Any]:
    response = await client.post("/v1/jobs", json={"spec": {**ECHO, **spec}})
    assert response.status_code == 200, response.text
    job: dict[str, Any] = response.json()
    return job


async def until_final(client: httpx.AsyncClient, job_id: str) -> list[dict[str, Any]]:
    """Watches a job to its end and returns the lines."""
    async with asyncio.timeout(30):
        response = await client.get(f"/v1/jobs/{job_id}:watch")
    assert response.status_code == 200, response.text
    return [json.loads(line) for line in response.text.splitlines() if line]


async def test_life_of_a_job(alice: httpx.AsyncClient) -> None:
    job = await submit(alice, name="life")
    lines = await until_final(alice, job["id"])
    assert not any("error" in line for line in lines)
    last = [change for line in lines for change in line["changes"]][-1]
    assert last["job"]["status"]["state"] == "JOB_STATE_COMPLETED"

    got = (await alice.get(f"/v1/jobs/{job['id']}")).json()
    assert got["status"]["exit_code"] == 0
    assert got["spec"]["attributes"]["duration"] == "60s"
    listed = (await alice.get("/v1/jobs", params={"filter.name": "life"})).json()
    assert [found["id"] for found in listed["jobs"]] == [job["id"]]
    output = (await alice.get(f"/v1/jobs/{job['id']}/output")).text.splitlines()
    assert json.loads(output[0])["data"] == "aGVsbG8K"
    assert json.loads([line for line in output if line][-1])["end"] is True


async def test_script_comes_back(alice: httpx.AsyncClient) -> None:
    # Sent apart from the rest of the job, but as one field: the transcoder refuses a message that has it twice.
    script = "#!/bin/sh\necho hi\n"
    response = await alice.post("/v1/jobs", json={"spec": {"script": script}})
    assert response.status_code == 200, response.text
    assert response.json()["spec"]["script"] == script
    got = await alice.get(f"/v1/jobs/{response.json()['id']}")
    assert got.status_code == 200, got.text
    assert got.json()["spec"]["script"] == script


async def test_every_change(alice: httpx.AsyncClient) -> None:
    job = await submit(alice, hold=True)
    path = f"/v1/jobs/{job['id']}"
    renamed = await alice.patch(path, params={"update_mask": "spec.name"}, json={"spec": {"name": "new"}})
    assert (renamed.status_code, renamed.json()["spec"]["name"]) == (200, "new")
    assert (await alice.post(f"{path}:hold")).status_code == 200
    assert (await alice.post(f"{path}:cancel", json={})).json()["cancel_requested"] is True
    two = await alice.post("/v1/jobs:batchSubmit", json={"jobs": [{"spec": ECHO}, {"spec": {**ECHO, "hold": True}}]})
    assert two.status_code == 200, two.text
    ids = [made["id"] for made in two.json()["jobs"]]
    released = await alice.post(f"/v1/jobs/{ids[1]}:release")
    assert released.status_code == 200, released.text
    await until_final(alice, ids[1])
    canceled = await alice.post("/v1/jobs:cancel", json={"filter": {"job_ids": ids}})
    assert canceled.status_code == 200, canceled.text


async def test_a_misspelt_field_changes_nothing(alice: httpx.AsyncClient) -> None:
    before = await ids_of(alice)
    spec = {**ECHO, "attributes": {"duratoin": "1s"}}
    response = await alice.post("/v1/jobs", json={"spec": spec})
    found = violations(error(response, 400, 3, "UNKNOWN_FIELD"))
    assert found == {"spec.attributes.duratoin": "there is no such field; did you mean duration?"}
    assert await ids_of(alice) == before


async def ids_of(client: httpx.AsyncClient) -> list[str]:
    return [job["id"] for job in (await client.get("/v1/jobs")).json()["jobs"]]


async def test_errors(front: Front, alice: httpx.AsyncClient) -> None:
    async with front.client(None) as nobody:
        for headers in ({}, {"accept": "text/event-stream"}):
            error(await nobody.get("/v1/jobs:watch", headers=headers), 401, 16, "SIGN_IN_REQUIRED")
    job = await submit(alice)
    async with front.client(BOB) as bob:
        error(await bob.get(f"/v1/jobs/{job['id']}"), 404, 5, "NOT_FOUND")
    response = await alice.post("/v1/jobs", json={"spec": {"script": "no interpreter"}})
    assert set(violations(error(response, 400, 3, "INVALID_FIELD"))) == {"spec.script"}
    for accept in ("application/json", "text/event-stream"):
        response = await alice.get("/v1/jobs:watch?after_revision=999999", headers={"accept": accept})
        assert (response.status_code, response.json()["code"]) == (400, 11)


async def test_idempotent_over_json_and_again(alice: httpx.AsyncClient) -> None:
    body = {"spec": ECHO, "request_id": str(uuid.uuid4())}
    first, second = [await alice.post("/v1/jobs", json=body) for _ in range(2)]
    assert first.json()["id"] == second.json()["id"]


async def test_events(alice: httpx.AsyncClient) -> None:
    job = await submit(alice)
    async with asyncio.timeout(30):
        response = await alice.get(f"/v1/jobs/{job['id']}:watch", headers={"accept": "text/event-stream"})
    assert "event: caught_up" in response.text
    assert response.text.rstrip().endswith("event: end\ndata: {}")
    assert '"state":"JOB_STATE_COMPLETED"' in response.text


async def test_stop_is_said_in_the_last_line(envoy_binary: str) -> None:
    del envoy_binary
    own = Front(Server())
    try:
        await own.start()
        async with (
            own.client() as client,
            client.stream("GET", "/v1/jobs:watch") as lines,
            client.stream("GET", "/v1/jobs:watch", headers={"accept": "text/event-stream"}) as events,
            asyncio.timeout(20),
        ):
            each_line, each_event = lines.aiter_lines(), events.aiter_lines()
            while not json.loads(await anext(each_line)).get("caught_up"):
                pass
            while await anext(each_event) != "event: caught_up":
                pass
            stopping = asyncio.create_task(asyncio.to_thread(own.server.stop))
            *_, last = [line async for line in each_line if line]
            assert json.loads(last)["error"]["code"] == 14
            rest = [line async for line in each_event if line]
            assert "event: error" in rest
            assert await stopping == 0
    finally:
        await own.stop()


def test_config_command(front: Front) -> None:
    text = edge.rendered(config.load(Path(front.server.directory) / "config.yaml"), "0.0.0.0:8080")
    assert str(front.server.directory) in text


async def test_life_of_an_incident(front: Front) -> None:
    async with front.client(OLGA) as olga, front.client(None) as anyone:
        times = {"start_time": "2031-03-01T09:00:00+01:00", "end_time": "2031-03-01T11:00:00+01:00"}
        draft = {"type": "INCIDENT_TYPE_PLANNED", "name": "Ü pump", "status": "RESOURCE_STATUS_DOWN", **times}
        response = await olga.post("/v1/incidents", json={"incident": {**draft, "resource_ids": ["state"]}})
        assert response.status_code == 200, response.text
        [incident] = response.json()["incidents"]
        assert incident["start_time"] == "2031-03-01T08:00:00Z"
        assert incident["impacted_resource_ids"] == ["local", "state"]

        response = await anyone.get("/v1/incidents:exportCalendar", params={"resource_ids": "local"})
        assert response.headers["content-type"] == "text/calendar; charset=utf-8"
        assert response.text.startswith("BEGIN:VCALENDAR\r\n")
        assert "SUMMARY:Ü pump\r\n" in response.text
        taken = await olga.post("/v1/incidents:importCalendar", json={"calendar": response.text})
        assert [one["id"] for one in taken.json()["incidents"]] in ([], [incident["id"]])

        async with anyone.stream("GET", "/v1/status:watch", params={"resource_ids": "local"}) as lines:
            assert lines.headers["content-type"] == "application/x-ndjson"
            iterator = lines.aiter_lines()
            async with asyncio.timeout(20):
                while not (line := json.loads(await anext(iterator))).get("caught_up"):
                    pass
                path = f"/v1/incidents/{incident['id']}"
                now = (await anyone.get(path)).json()
                changed = await olga.patch(path, params={"etag": now["etag"]}, json={"name": "Ü two pumps"})
                assert changed.status_code == 200, changed.text
                while not (line := json.loads(await anext(iterator))).get("changes"):
                    pass
        assert [change["incident"]["name"] for change in line["changes"]] == ["Ü two pumps"]
        assert (await anyone.get(path)).json() == changed.json()
        error(await olga.patch(path, params={"etag": now["etag"]}, json={"name": "x"}), 409, 10, "ETAG_MISMATCH")
        error(await anyone.post(f"{path}:resolve", json={"etag": "x"}), 401, 16, "SIGN_IN_REQUIRED")
        over = await olga.post(f"{path}:resolve", json={"etag": changed.json()["etag"], "cancel": True})
        assert over.json()["resolution"] == "RESOLUTION_CANCELLED"
        overview = (await anyone.get("/v1/facility/overview")).json()
        assert overview["facility"]["id"] == "test"
        query = {"filter.resource_type": "storage", "filter.statuses": "RESOURCE_STATUS_UP"}
        assert [one["id"] for one in (await anyone.get("/v1/resources", params=query)).json()["resources"]] == ["state"]
        end = {"start_time": "2031-03-01T09:00:00Z", "end_time": "2031-03-01T08:00:00Z"}
        body = error(await anyone.get("/v1/resources/local:checkAvailability", params=end), 400, 3, "INVALID_FIELD")
        assert "end_time" in violations(body)
