"""Envoy's configuration, and Envoy as a child."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import logging
import os
import socket
import stat
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from google.api import annotations_pb2
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
    MethodDescriptorProto,
    MethodOptions,
    ServiceDescriptorProto,
)
from openfacility.jobs.v1 import jobs_service_pb2 as pb
from openfacility_server import config, edge
from openfacility_server.http import bindings, envoy_config

from tests.edge.conftest import settings
from tests.edge.scripted import Upstream
from tests.edge.test_routes import get, raw

ROOT = Path(__file__).resolve().parents[2]


def test_committed_file_is_fresh_and_valid(envoy_binary: str, tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("gen_envoy", ROOT / "gen" / "envoy.py")
    assert spec is not None
    assert spec.loader is not None
    generator = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generator)
    descriptors = FileDescriptorSet.FromString(bindings.descriptor_bytes())
    committed = (ROOT / generator.OUTPUT).read_text()
    assert committed == generator.render(descriptors), "run make gen"
    assert "@" not in committed.replace('"@type"', "")

    # Where the descriptor will be is the one thing that Envoy looks for at once.
    file = tmp_path / "envoy.yaml"
    default = envoy_config.Settings()
    file.write_text(committed.replace(default.descriptor, str(edge.descriptor_path())))
    subprocess.run([envoy_binary, "--mode", "validate", "-c", str(file)], check=True, capture_output=True, timeout=60)


def test_configuration_of_an_installation(tmp_path: Path) -> None:
    text = "grpc: {unix_socket: run/grpc.sock}\nhttp: {unix_socket: run/http.sock}\nevents: {bookmark_interval: 1800}\n"
    rendered = yaml.safe_load(edge.rendered(config.parse(text, tmp_path), "[::1]:8443"))
    values = rendered["node"]["metadata"]
    assert values["listen"]["socket_address"] == {"address": "::1", "port_value": 8443}
    assert values["grpc_socket"] == str(tmp_path / "run/grpc.sock")
    assert values["http_socket"] == str(tmp_path / "run/http.sock")
    assert values["admin_socket"] == str(tmp_path / "run/envoy-admin.sock")
    assert Path(values["descriptor"]).is_file()
    assert values["stream_idle"] == "7200s"
    assert values["unary_timeout"] == "60s"
    with pytest.raises(edge.EnvoyError, match=r"set grpc\.unix_socket and http\.unix_socket"):
        edge.rendered(config.parse("{}", tmp_path), "127.0.0.1:1")


def service(*rules: dict[str, Any]) -> FileDescriptorSet:
    """A contract with one service, whose methods have these bindings."""
    file = FileDescriptorProto(
        name="t.proto", package="t.v1", syntax="proto3", dependency=["google/api/annotations.proto"]
    )
    name = FieldDescriptorProto(name="name", number=1, type=FieldDescriptorProto.TYPE_STRING)
    file.message_type.append(DescriptorProto(name="M", field=[name]))
    made = ServiceDescriptorProto(name="S")
    for number, rule in enumerate(rules):
        options = MethodOptions()
        streaming = rule.pop("streaming", False)
        for key, value in rule.items():
            setattr(options.Extensions[annotations_pb2.http], key, value)
        method = MethodDescriptorProto(
            name=f"M{number}", input_type=".t.v1.M", output_type=".t.v1.M", options=options, server_streaming=streaming
        )
        made.method.append(method)
    file.service.append(made)
    return FileDescriptorSet(file=[file])


def test_specific_paths_come_first() -> None:
    found = bindings.read(
        service({"get": "/v1/{name=x/**}"}, {"get": "/v1/{name}"}, {"get": "/v1/fixed"}, {"post": "/v1/{name}:do"})
    )
    groups = bindings.group(found)
    order = [group[0].template for group in groups]
    assert order == ["/v1/fixed", "/v1/{name}:do", "/v1/{name}", "/v1/{name=x/**}"]
    router = bindings.Router(found)
    for method, path, name, value in (
        ("GET", "/v1/fixed", "M2", None),
        ("GET", "/v1/other", "M1", "other"),
        ("POST", "/v1/other:do", "M3", "other"),
        ("GET", "/v1/x/y/z", "M0", "x/y/z"),
    ):
        match = router.find(method, path)
        assert match is not None, path
        assert match[0].method == name
        assert list(match[1].values()) == ([value] if value else [])
    assert router.find("GET", "/v1/other:undo") is None
    assert router.find("GET", "/v1/other:do") is None


def routes(descriptors: FileDescriptorSet) -> list[dict[str, Any]]:
    tree = yaml.safe_load(envoy_config.render(descriptors))
    [chain] = tree["static_resources"]["listeners"][0]["filter_chains"]
    return list(chain["filters"][0]["typed_config"]["route_config"]["virtual_hosts"][0]["routes"])


def test_only_reads_are_repeated() -> None:
    found = routes(
        service({"get": "/a"}, {"post": "/b", "body": "*"}, {"get": "/c", "streaming": True}, {"delete": "/d"})
    )
    by_name = {route["name"]: route for route in found}
    assert "reset" in by_name["GET /a"]["route"]["retry_policy"]["retry_on"]
    assert "reset" not in by_name["GET /c"]["route"]["retry_policy"]["retry_on"]
    assert by_name["GET /c"]["route"]["timeout"] == "0s"
    for name in ("POST /b", "DELETE /d"):
        assert "retry_policy" not in by_name[name]["route"]
        assert by_name[name]["route"]["timeout"] != "0s"
    assert "check" in by_name["POST /b"]["typed_per_filter_config"]


async def test_administration_is_private(envoy: edge.Envoy, directory: Path) -> None:
    mode = (directory / "admin.sock").stat().st_mode
    assert stat.S_IMODE(mode) == 0o600
    assert (await envoy.admin("GET", "/ready")).status_code == 200


async def test_port_in_use(envoy: edge.Envoy, directory: Path, caplog: pytest.LogCaptureFixture) -> None:
    host, _, port = envoy.address.rpartition(":")
    place = directory / "in-use"
    with socket.socket() as taken:
        taken.bind((host, 0))
        taken.listen()
        port = taken.getsockname()[1]
        other = edge.Envoy(replace(settings(place), listen_port=int(port)), place)
        with pytest.raises(edge.EnvoyError, match="see its log"):
            await other.start()
    assert other.pid is None
    assert any(r.levelno >= logging.WARNING and "use" in r.getMessage() for r in caplog.records)


async def test_dies_with_its_parent(envoy_binary: str, directory: Path) -> None:
    del envoy_binary
    place = directory / "orphan"
    place.mkdir()
    program = (
        "import asyncio, sys; from pathlib import Path; from openfacility_server import edge;"
        "from tests.edge.conftest import settings; p = Path(sys.argv[1])\n"
        "async def main():\n"
        "    e = edge.Envoy(settings(p), p); await e.start(); print(e.pid, flush=True); await asyncio.sleep(600)\n"
        "asyncio.run(main())"
    )
    parent = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", program, str(place)), stdout=asyncio.subprocess.PIPE, cwd=ROOT
    )
    assert parent.stdout is not None
    async with asyncio.timeout(30):
        pid = int(await parent.stdout.readline())
        parent.kill()
        await parent.wait()
        # Nobody tells us of the death of a process that is not our child.
        while _runs(pid):  # noqa: ASYNC110
            await asyncio.sleep(0.02)


def _runs(pid: int) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, 0)
        return not Path("/proc").exists()
    return False


async def test_stop_waits_for_requests(envoy_binary: str, directory: Path) -> None:
    del envoy_binary
    place = directory / "drain"
    place.mkdir()
    upstream = Upstream(place)
    inside, go_on = asyncio.Event(), asyncio.Event()

    async def list_jobs(_: Any, __: Any) -> Any:
        inside.set()
        await go_on.wait()
        return pb.ListJobsResponse(revision=5)

    upstream.scripted.handlers["ListJobs"] = list_jobs
    await upstream.start()
    front = edge.Envoy(settings(place), place)
    await front.start()
    pid = front.pid
    try:
        async with asyncio.timeout(20), httpx.AsyncClient(base_url=f"http://{front.address}") as client:
            asking = asyncio.create_task(client.get("/v1/jobs"))
            await inside.wait()
            stopping = asyncio.create_task(front.stop(10))
            go_on.set()
            assert (await asking).json()["revision"] == "5"
            await stopping
        assert front.pid is None
        assert pid is not None
        assert not _runs(pid)
    finally:
        await front.stop(0)
        await upstream.stop()


class Impatient(edge.Envoy):
    """An Envoy whose bounds are short enough to be tested."""

    def _prepare(self, file: Path) -> None:
        super()._prepare(file)
        text = file.read_text()
        for long, short in (
            ("request_headers_timeout: 10s", "request_headers_timeout: 0.3s"),
            ('&request_bound "120s"', '&request_bound "0.5s"'),
        ):
            assert long in text
            text = text.replace(long, short)
        file.write_text(text)


async def test_slow_requests_are_bounded(envoy_binary: str, directory: Path) -> None:
    del envoy_binary
    place = directory / "slow"
    place.mkdir()
    upstream = Upstream(place)
    await upstream.start()
    front = Impatient(settings(place), place)
    await front.start()
    try:
        started = time.monotonic()
        status, _, body = await raw(front, b"GET /v1/jobs HTTP/1.1\r\nhost: x\r\nx-slow: ")
        assert status == 408, body

        host, _, port = front.address.rpartition(":")
        async with asyncio.timeout(10):
            reader, writer = await asyncio.open_connection(host, int(port))
            head = b"POST /v1/jobs HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 999\r\n\r\n"
            writer.write(head)
            answer = asyncio.create_task(reader.readuntil(b"\r\n\r\n"))
            while not answer.done():
                writer.write(b" ")  # trickles, so that the connection is never idle
                await asyncio.sleep(0.05)
            assert b"408" in await answer
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
        assert time.monotonic() - started < 5
        assert not upstream.scripted.calls
        # Others were served all the while.
        assert (await raw(front, get("/v1/jobs/a")))[0] == 200
    finally:
        await front.stop(0)
        await upstream.stop()
