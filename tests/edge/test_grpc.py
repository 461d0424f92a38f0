"""gRPC and gRPC-Web through the same port as JSON."""

from __future__ import annotations

import base64
import re
import struct
from collections.abc import AsyncIterator
from typing import Any

import grpc
import httpx
import pytest
from google.rpc import status_pb2
from openfacility.jobs.v1 import job_pb2, jobs_service_pb2_grpc
from openfacility.jobs.v1 import jobs_service_pb2 as pb
from openfacility_server import edge

from tests.edge import scripted
from tests.edge.scripted import Scripted


@pytest.fixture
async def stub(envoy: edge.Envoy) -> AsyncIterator[Any]:
    async with grpc.aio.insecure_channel(envoy.address) as channel:
        yield jobs_service_pb2_grpc.JobsServiceStub(channel)


async def get_job(request: Any, context: Any) -> job_pb2.Job:
    if request.job_id == "missing":
        await scripted.fail(context, grpc.StatusCode.NOT_FOUND, "there is no such job")
    await context.send_initial_metadata((("x-from-server", "1"),))
    return job_pb2.Job(id=request.job_id)


async def test_unary(stub: Any, server: Scripted) -> None:
    server.handlers["GetJob"] = get_job
    metadata = (("x-openfacility-json", "1"), ("authorization", "Bearer t"), ("x-request-id", "mine"))
    call = stub.GetJob(pb.GetJobRequest(job_id="a"), metadata=metadata, timeout=10)
    assert (await call).id == "a"
    assert dict(await call.initial_metadata())["x-from-server"] == "1"
    seen = server.calls[0].metadata
    assert "x-openfacility-json" not in seen
    assert (seen["authorization"], seen["x-request-id"]) == ("Bearer t", "mine")


async def test_error_with_details(stub: Any, server: Scripted) -> None:
    server.handlers["GetJob"] = get_job
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await stub.GetJob(pb.GetJobRequest(job_id="missing"), timeout=10)
    assert failure.value.code() == grpc.StatusCode.NOT_FOUND
    trailers = dict(failure.value.trailing_metadata())
    assert status_pb2.Status.FromString(trailers["grpc-status-details-bin"]).details


async def test_stream(stub: Any, server: Scripted) -> None:
    async def watch(_: Any, context: Any) -> AsyncIterator[pb.WatchJobsResponse]:
        yield scripted.snapshot("a")
        await scripted.fail(context, grpc.StatusCode.UNAVAILABLE, "resume")

    server.handlers["WatchJobs"] = watch
    call = stub.WatchJobs(pb.WatchJobsRequest(), timeout=10)
    assert (await call.read()).changes[0].job.id == "a"
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await call.read()
    assert (failure.value.code(), failure.value.details()) == (grpc.StatusCode.UNAVAILABLE, "resume")


async def test_unknown_method(envoy: edge.Envoy, server: Scripted) -> None:
    async with grpc.aio.insecure_channel(envoy.address) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await channel.unary_unary("/openfacility.jobs.v1.JobsService/Frobnicate")(b"", timeout=10)
    assert failure.value.code() == grpc.StatusCode.UNIMPLEMENTED
    assert not server.calls


def frames(body: bytes) -> list[tuple[int, bytes]]:
    """Splits a gRPC-Web body into flags and payloads."""
    found = []
    while body:
        flag, size = struct.unpack(">BI", body[:5])
        found.append((flag, body[5 : 5 + size]))
        body = body[5 + size :]
    return found


@pytest.mark.parametrize("text", [False, True], ids=["binary", "text"])
@pytest.mark.parametrize("job_id", ["a", "missing"])
async def test_grpc_web(text: bool, job_id: str, client: httpx.AsyncClient, server: Scripted) -> None:
    server.handlers["GetJob"] = get_job
    message = pb.GetJobRequest(job_id=job_id).SerializeToString()
    content = struct.pack(">BI", 0, len(message)) + message
    kind = "application/grpc-web-text" if text else "application/grpc-web+proto"
    response = await client.post(
        "/openfacility.jobs.v1.JobsService/GetJob",
        content=base64.b64encode(content) if text else content,
        headers={"content-type": kind, "x-grpc-web": "1", "accept": kind},
    )
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("application/grpc-web")
    assert "x-openfacility-json" not in server.calls[0].metadata
    if job_id == "missing":
        assert response.headers["grpc-status"] == "5"
        return
    # As text, each flush is padded by itself.
    pieces = re.findall(rb"[^=]+=*", response.content)
    body = b"".join(base64.b64decode(piece) for piece in pieces) if text else response.content
    (_, answer), (flag, trailers) = frames(body)
    assert job_pb2.Job.FromString(answer).id == "a"
    assert flag == 0x80
    assert b"grpc-status:0" in trailers.replace(b" ", b"")
