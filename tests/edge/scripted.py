"""A server behind Envoy that does as it is told: every RPC of the contract, over unix sockets, without the chain."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from google.protobuf import any_pb2, descriptor_pool
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status
from openfacility.jobs.v1 import job_pb2
from openfacility.jobs.v1 import jobs_service_pb2 as pb
from openfacility_server.http import bindings
from openfacility_server.http.app import Deps, Health
from openfacility_server.http.server import HttpServer
from prometheus_client import CollectorRegistry, Counter

BINDINGS = bindings.load()
OPENAPI = b'{"openapi":"3.0.3"}'
Handler = Callable[[Any, Any], Any]


def message_class(name: str) -> type[Message]:
    return GetMessageClass(descriptor_pool.Default().FindMessageTypeByName(name))


def status(code: grpc.StatusCode, text: str, reason: str = "TEST") -> status_pb2.Status:
    """A status with details, as the server sends it."""
    detail = any_pb2.Any()
    detail.Pack(error_details_pb2.ErrorInfo(reason=reason, domain="openfacility", metadata={"request_id": "r-1"}))
    return status_pb2.Status(code=code.value[0], message=text, details=[detail])


async def fail(context: Any, code: grpc.StatusCode, text: str) -> None:
    await context.abort_with_status(rpc_status.to_status(status(code, text)))


def snapshot(job_id: str, revision: int = 1) -> pb.WatchJobsResponse:
    change = pb.JobChange(type=pb.JobChange.TYPE_SNAPSHOT, revision=revision, job=job_pb2.Job(id=job_id))
    return pb.WatchJobsResponse(changes=[change])


@dataclass
class Call:
    """One call that came in."""

    method: str
    request: Any
    metadata: dict[str, str]


@dataclass
class Scripted(grpc.GenericRpcHandler):
    """Serves every method: with the handler given for it, else with an empty answer."""

    calls: list[Call] = field(default_factory=list)
    handlers: dict[str, Handler] = field(default_factory=dict)

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        found = next((b for b in BINDINGS if b.rpc == handler_call_details.method), None)
        if found is None:
            return None
        binding = found
        output = message_class(binding.output_type)

        def note(request: Message, context: Any) -> Handler | None:
            metadata = {key: str(value) for key, value in context.invocation_metadata()}
            self.calls.append(Call(binding.method, request, metadata))
            return self.handlers.get(binding.method)

        async def unary(request: Message, context: Any) -> Any:
            handler = note(request, context)
            return await handler(request, context) if handler else output()

        async def stream(request: Message, context: Any) -> AsyncIterator[Any]:
            handler = note(request, context)
            if handler is None:
                yield output()
                return
            async for response in handler(request, context):
                yield response

        codec = {
            "request_deserializer": message_class(binding.input_type).FromString,
            "response_serializer": output.SerializeToString,
        }
        if binding.streaming:
            return grpc.unary_stream_rpc_method_handler(stream, **codec)
        return grpc.unary_unary_rpc_method_handler(unary, **codec)


class Upstream:
    """The scripted gRPC server and the real HTTP application, on unix sockets in a directory."""

    def __init__(self, directory: Path) -> None:
        self.grpc_socket = directory / "grpc.sock"
        self.http_socket = directory / "http.sock"
        self.scripted = Scripted()
        self.health = Health(components={"database": "ok"})
        self.events: Callable[[str, Any, Sequence[tuple[str, str]]], AsyncIterator[bytes]] | None = None
        self._grpc: grpc.aio.Server | None = None
        self.http: HttpServer | None = None

    async def start(self) -> None:
        registry = CollectorRegistry()
        Counter("edge_test", "For the test of metrics", registry=registry)
        # As the real one: as much as Envoy lets through, which repeats the path in a header.
        sizes = [("grpc.max_metadata_size", 1 << 16), ("grpc.absolute_max_metadata_size", 1 << 16)]
        self._grpc = grpc.aio.server(options=[("grpc.max_receive_message_length", 8 << 20), *sizes])
        self._grpc.add_generic_rpc_handlers((self.scripted,))
        self._grpc.add_insecure_port(f"unix:{self.grpc_socket}")
        await self._grpc.start()
        self.http = HttpServer(
            Deps(
                health=lambda: self.health,
                registry=registry,
                bindings=BINDINGS,
                openapi=OPENAPI,
                watch=self._watch,
                heartbeat=0.2,
            ),
            listen="127.0.0.1:0",
            unix_socket=self.http_socket,
        )
        await self.http.start()

    def _watch(self, rpc: str, request: Any, metadata: Sequence[tuple[str, str]]) -> AsyncIterator[bytes]:
        assert self.events is not None
        return self.events(rpc, request, metadata)

    async def stop(self) -> None:
        if self.http is not None:
            await self.http.stop()
        if self._grpc is not None:
            await self._grpc.stop(None)
        self.http = self._grpc = None


async def _endless(request: Any, _: Any) -> AsyncIterator[Any]:
    yield snapshot(request.job_id or "j1")
    await asyncio.Event().wait()


async def _main(directory: Path) -> None:
    """As a program of its own, to be killed."""
    upstream = Upstream(directory)
    upstream.scripted.handlers["WatchJobs"] = _endless
    await upstream.start()
    sys.stdout.write("up\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_main(Path(sys.argv[1])))
