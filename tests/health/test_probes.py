"""Health as its users ask for it: Kubernetes' gRPC probe (grpc-go), grpcurl, HTTP probes, over plaintext and TLS."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import httpx
import pytest
from google.protobuf import descriptor_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from tests.faults.server_support import CHANNEL, metric, patiently, serving
from tests.support.server import Server
from tests.unit.auth_certificates import Authority

ROOT = Path(__file__).parents[2]
JOBS = "openfacility.jobs.v1.JobsService"
GRPCURL = ROOT / ".build/bin/grpcurl"


def _missing(reason: str) -> None:
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


@dataclass(frozen=True)
class Answer:
    """How a program ended."""

    code: int
    out: str
    err: str

    @classmethod
    async def of(cls, *command: str | Path) -> Answer:
        process = await asyncio.create_subprocess_exec(
            *map(str, command), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        async with asyncio.timeout(60):
            out, err = await process.communicate()
        return cls(process.returncode or 0, out.decode().strip(), err.decode().strip())


@pytest.fixture(scope="session")
def kube_probe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program that asks as the kubelet does."""
    go = shutil.which("go")
    if go is None:
        _missing("Go is not installed")
    assert go is not None
    program = tmp_path_factory.mktemp("go") / "probe"
    source = Path(__file__).parent / "go"
    # The versions are those of go.sum, or the build fails.
    done = subprocess.run(
        [go, "build", "-mod=readonly", "-o", program, "."],
        cwd=source, capture_output=True, text=True, timeout=110, check=False,
    )  # fmt: skip
    if done.returncode and "dial tcp" in done.stderr:
        _missing(f"Go's modules cannot be fetched: {done.stderr}")
    assert done.returncode == 0, done.stderr
    return program


@pytest.fixture(scope="session")
def grpcurl() -> Path:
    if not GRPCURL.exists():
        _missing("grpcurl is not built: make tools")
    return GRPCURL


@pytest.fixture(scope="module")
async def plain() -> AsyncIterator[Server]:
    async with serving() as server:
        yield server


@pytest.fixture(scope="module")
async def secure(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Server]:
    """A server with TLS; its authority's certificate is `ca.pem` in its directory."""
    authority = Authority("tests")
    directory = tmp_path_factory.mktemp("tls")
    certificate, key = authority.issue("server", dns=["localhost"]).save(directory, "server")
    async with serving({"grpc": {"tls": {"certificate": str(certificate), "key": str(key)}}}) as server:
        (server.directory / "ca.pem").write_bytes(authority.pem)
        yield server


# As the kubelet.


@pytest.mark.parametrize("service", ["", JOBS])
async def test_kubernetes_probe(kube_probe: Path, plain: Server, service: str) -> None:
    answer = await Answer.of(kube_probe, "-addr", plain.address, "-service", service)
    assert (answer.code, answer.out) == (0, "SERVING")


@pytest.mark.parametrize("service", ["", JOBS])
async def test_kubernetes_probe_over_tls(kube_probe: Path, secure: Server, service: str) -> None:
    ca = secure.directory / "ca.pem"
    answer = await Answer.of(kube_probe, "-addr", secure.address, "-service", service, "-ca", ca)
    assert (answer.code, answer.out) == (0, "SERVING")
    # Without TLS there is no answer at all.
    answer = await Answer.of(kube_probe, "-addr", secure.address, "-timeout", "2s")
    assert answer.code == 2


async def test_kubernetes_probe_of_a_service_that_is_not_there(kube_probe: Path, plain: Server) -> None:
    answer = await Answer.of(kube_probe, "-addr", plain.address, "-service", "no.such.Service")
    assert (answer.code, answer.out) == (1, "NotFound")


async def test_kubernetes_probe_through_a_servers_life(kube_probe: Path) -> None:
    async with serving({"shutdown": {"drain": 30}}, start=False) as server:
        server.start()
        assert (await Answer.of(kube_probe, "-addr", server.address)).code == 0
        spool = server.state / "jobs" / "local"
        spool.rename(spool.with_name("away"))
        # Liveness and readiness of the server as a whole stay; the service says that it cannot work.
        await _until_answer(kube_probe, server, JOBS, "NOT_SERVING")
        assert (await Answer.of(kube_probe, "-addr", server.address)).out == "SERVING"
        spool.with_name("away").rename(spool)
        await _until_answer(kube_probe, server, JOBS, "SERVING")
        server.signal(signal.SIGTERM)
        await _until_answer(kube_probe, server, "", "NOT_SERVING")
        assert (await Answer.of(kube_probe, "-addr", server.address, "-service", JOBS)).out == "NOT_SERVING"
        server.kill()
        answer = await Answer.of(kube_probe, "-addr", server.address, "-timeout", "1s")
        assert answer.code == 2


async def _until_answer(kube_probe: Path, server: Server, service: str, wanted: str) -> None:
    async with asyncio.timeout(60):
        while (await Answer.of(kube_probe, "-addr", server.address, "-service", service)).out != wanted:  # noqa: ASYNC110
            await asyncio.sleep(0.1)


async def test_probes_need_no_token_and_are_not_logged(kube_probe: Path, plain: Server) -> None:
    before = await metric(plain, "openfacility_grpc_calls_total", method="/grpc.health.v1.Health/Check", code="OK")
    assert (await Answer.of(kube_probe, "-addr", plain.address)).code == 0
    after = await metric(plain, "openfacility_grpc_calls_total", method="/grpc.health.v1.Health/Check", code="OK")
    assert after == before + 1
    assert not [line for line in plain.log_lines() if "Health" in line.get("method", "") and line["code"] == "OK"]


# Over HTTP.


async def test_http_probes(plain: Server) -> None:
    async with httpx.AsyncClient(base_url=plain.http_url, timeout=20) as client:
        for path in ("/livez", "/readyz", "/startupz"):
            answer = await client.get(path)
            assert answer.status_code == 200
            assert answer.headers["cache-control"] == "no-store"
            assert answer.json() == {"status": "ok", "components": {"database": "UP", "jobs/local": "UP"}}
            assert (await client.post(path)).status_code == 405


async def test_http_probes_of_a_server_that_stops() -> None:
    async with serving({"shutdown": {"drain": 30}}) as server:
        async with httpx.AsyncClient(base_url=server.http_url, timeout=20) as client:
            server.signal(signal.SIGTERM)
            async with asyncio.timeout(30):
                while (await client.get("/readyz")).status_code != 503:  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
            assert (await client.get("/livez")).status_code == 200
        server.kill()


# By the standard client.


async def test_health_watch_sees_every_change() -> None:
    async with serving({"shutdown": {"drain": 0.5}}) as server:
        async with grpc.aio.insecure_channel(server.address, CHANNEL) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            unknown = stub.Watch(health_pb2.HealthCheckRequest(service="no.such.Service"))
            assert (await unknown.read()).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
            unknown.cancel()
            watch = stub.Watch(health_pb2.HealthCheckRequest(service=JOBS))
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
            server.signal(signal.SIGTERM)
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
            with pytest.raises(grpc.aio.AioRpcError):
                await watch.read()
        assert await asyncio.to_thread(server.wait_stopped) == 0


# By grpcurl, which asks for reflection v1 first, as every Go client does.


async def test_grpcurl_health(grpcurl: Path, plain: Server, secure: Server) -> None:
    for arguments in (("-plaintext", plain.address), ("-cacert", secure.directory / "ca.pem", secure.address)):
        answer = await Answer.of(grpcurl, *arguments, "grpc.health.v1.Health/Check")
        assert (answer.code, json.loads(answer.out)) == (0, {"status": "SERVING"}), answer.err


async def test_grpcurl_list_and_describe(grpcurl: Path, plain: Server) -> None:
    answer = await Answer.of(grpcurl, "-plaintext", plain.address, "list")
    assert answer.out.splitlines() == [
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
        JOBS,
        "openfacility.status.v1.StatusService",
    ], answer.err
    answer = await Answer.of(grpcurl, "-plaintext", plain.address, "list", JOBS)
    assert f"{JOBS}.SubmitJob" in answer.out.splitlines()
    for symbol, part in (
        (JOBS, "rpc WatchJobs ( .openfacility.jobs.v1.WatchJobsRequest ) returns ( stream"),
        ("openfacility.jobs.v1.JobSpec", "map<string, string> labels"),
        ("openfacility.jobs.v1.JobState", "JOB_STATE_HELD"),
        ("grpc.reflection.v1.ServerReflection", "stream .grpc.reflection.v1.ServerReflectionRequest"),
        ("grpc.reflection.v1alpha.ServerReflection", "stream .grpc.reflection.v1alpha.ServerReflectionRequest"),
        ("grpc.health.v1.Health", "rpc Check"),
    ):
        answer = await Answer.of(grpcurl, "-plaintext", plain.address, "describe", symbol)
        assert answer.code == 0, answer.err
        assert part in answer.out
    # It was v1 that answered; nobody fell back.
    method = "/grpc.reflection.v{}.ServerReflection/ServerReflectionInfo"
    assert await metric(plain, "openfacility_grpc_calls_total", method=method.format("1"), code="OK") > 0
    assert await metric(plain, "openfacility_grpc_calls_total", method=method.format("1alpha")) == 0


async def test_grpcurl_calls(grpcurl: Path, plain: Server) -> None:
    signed_in = ("-plaintext", "-H", f"authorization: Bearer {plain.tokens['alice']}")
    spec = {"spec": {"executable": "/bin/echo", "arguments": ["hello"]}}
    answer = await Answer.of(
        grpcurl, *signed_in, "-d", json.dumps(spec), plain.address, f"{JOBS}/SubmitJob"
    )  # fmt: skip
    assert answer.code == 0, answer.err
    job = json.loads(answer.out)
    assert job["status"]["state"] == "JOB_STATE_NEW"
    wanted = json.dumps({"jobId": job["id"]})
    answer = await Answer.of(grpcurl, *signed_in, "-d", wanted, plain.address, f"{JOBS}/WatchJobs")
    assert answer.code == 0, answer.err
    assert "JOB_STATE_COMPLETED" in answer.out
    answer = await Answer.of(grpcurl, "-plaintext", "-d", wanted, plain.address, f"{JOBS}/GetJob")
    assert answer.code == 64 + grpc.StatusCode.UNAUTHENTICATED.value[0]
    assert "SIGN_IN_REQUIRED" in answer.err


async def test_reflection_v1alpha(plain: Server) -> None:
    requests = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol=JOBS),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol="no.such.Symbol"),
    ]
    async with grpc.aio.insecure_channel(plain.address, CHANNEL) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        answers = await patiently(lambda: _all(stub.ServerReflectionInfo(iter(requests), timeout=20)))
    services = [service.name for service in answers[0].list_services_response.service]
    assert JOBS in services
    files = [
        descriptor_pb2.FileDescriptorProto.FromString(data)
        for data in answers[1].file_descriptor_response.file_descriptor_proto
    ]
    assert any(service.name == "JobsService" for file in files for service in file.service)
    assert answers[2].error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]


async def _all(call: grpc.aio.StreamStreamCall) -> list[reflection_pb2.ServerReflectionResponse]:
    return [answer async for answer in call]
