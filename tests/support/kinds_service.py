"""A small service with an RPC of each kind, behind the server's real chain on a real grpc.aio server.

What a call does is said by the text of its (first) request, see `ACTIONS`; with "late " before it, a streaming
response sends one message first.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import itertools
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.descriptor import ServiceDescriptor
from google.rpc import error_details_pb2
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_status import rpc_status
from openfacility.auth.v1 import access_pb2
from openfacility_server.app import translate
from openfacility_server.auth.access import INFRASTRUCTURE, AccessTable
from openfacility_server.auth.authenticator import Authenticator
from openfacility_server.config import Auth, Limits
from openfacility_server.errors import DOMAIN, FailedPrecondition
from openfacility_server.interceptors import Chain, Stages
from openfacility_server.interceptors.access_log import AccessLog
from openfacility_server.interceptors.limits import Limiter
from openfacility_server.interceptors.tracing import Tracing
from openfacility_server.reflection import add_reflection, describe_v1
from openfacility_server.rpc import add_service, methods_of
from opentelemetry.sdk.trace import SpanProcessor
from prometheus_client import CollectorRegistry

_PACKAGE = "openfacility.test.v1"
_METHODS = {  # client streams, server streams, role, scope
    "Unary": (False, False, access_pb2.ROLE_ANONYMOUS, ""),
    "ServerStream": (False, True, access_pb2.ROLE_ANONYMOUS, ""),
    "ClientStream": (True, False, access_pb2.ROLE_ANONYMOUS, ""),
    "Bidi": (True, True, access_pb2.ROLE_ANONYMOUS, ""),
    "GuardedUnary": (False, False, access_pb2.ROLE_OPERATOR, "jobs.write"),
    "GuardedServerStream": (False, True, access_pb2.ROLE_OPERATOR, "jobs.write"),
    "GuardedClientStream": (True, False, access_pb2.ROLE_OPERATOR, "jobs.write"),
    "GuardedBidi": (True, True, access_pb2.ROLE_OPERATOR, "jobs.write"),
}
KINDS = ("Unary", "ServerStream", "ClientStream", "Bidi")
STREAMED = ("ServerStream", "Bidi")
SECRET = "/srv/secret/path: near SELECT token FROM setting"


def _describe() -> ServiceDescriptor:
    pool = descriptor_pool.Default()
    with contextlib.suppress(KeyError):
        return pool.FindServiceByName(f"{_PACKAGE}.KindsService")
    file = descriptor_pb2.FileDescriptorProto(
        name="openfacility/test/v1/kinds.proto",
        package=_PACKAGE,
        syntax="proto3",
        dependency=["openfacility/auth/v1/access.proto", "google/rpc/status.proto"],
    )
    note = file.message_type.add(name="Note")
    field = descriptor_pb2.FieldDescriptorProto
    note.field.add(name="text", number=1, type=field.TYPE_STRING, label=field.LABEL_OPTIONAL)
    note.field.add(
        name="error", number=15, type=field.TYPE_MESSAGE, type_name=".google.rpc.Status", label=field.LABEL_OPTIONAL
    )
    service = file.service.add(name="KindsService")
    for name, (client_streaming, server_streaming, role, scope) in _METHODS.items():
        method = service.method.add(
            name=name,
            input_type=f".{_PACKAGE}.Note",
            output_type=f".{_PACKAGE}.Note",
            client_streaming=client_streaming,
            server_streaming=server_streaming,
        )
        method.options.Extensions[access_pb2.access].role = role
        method.options.Extensions[access_pb2.access].scope = scope
    pool.AddSerializedFile(file.SerializeToString())
    return pool.FindServiceByName(f"{_PACKAGE}.KindsService")


SERVICE = _describe()
Note: Any = message_factory.GetMessageClass(SERVICE.methods_by_name["Unary"].input_type)


async def _inner_cancellation() -> str:
    task = asyncio.create_task(asyncio.Event().wait())
    task.cancel()
    await task
    return "never"


async def _uncaught() -> str:
    raise ValueError(SECRET)


async def _refused() -> str:
    raise FailedPrecondition("JOB_STATE", "job 1 has ended", "1", {"job_id": "1"})


async def _hang() -> str:
    await asyncio.Event().wait()
    return "never"


async def _ok() -> str:
    return "ok"


ACTIONS: dict[str, Callable[[], Awaitable[str]]] = {
    "ok": _ok,
    "refused": _refused,
    "uncaught": _uncaught,
    "inner cancellation": _inner_cancellation,
    "hang": _hang,
}


class KindsService:
    """The servicer; counts what begins, ends, and is cancelled."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.ended = asyncio.Event()
        self.open = 0
        self.cancelled = 0
        self.sent = 0

    @contextlib.asynccontextmanager
    async def _counted(self) -> AsyncIterator[None]:
        self.open += 1
        try:
            yield
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.open -= 1
            self.ended.set()

    async def Unary(self, request: Any, context: Any) -> Any:
        async with self._counted():
            self.begun.set()
            return Note(text=await ACTIONS[request.text]())

    async def ServerStream(self, request: Any, context: Any) -> AsyncIterator[Any]:
        async with self._counted():
            self.begun.set()
            if request.text == "flood":
                for number in itertools.count():
                    yield Note(text=f"{number} " + "x" * 65_536)
                    self.sent += 1
            late, text = request.text.startswith("late "), request.text.removeprefix("late ")
            if late:
                yield Note(text="first")
            yield Note(text=await ACTIONS[text]())

    async def ClientStream(self, requests: AsyncIterator[Any], context: Any) -> Any:
        async with self._counted():
            first = await anext(requests)
            self.begun.set()
            return Note(text=await ACTIONS[first.text]())

    async def Bidi(self, requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
        async with self._counted():
            first = await anext(requests)
            self.begun.set()
            if first.text.startswith("late "):
                yield Note(text="first")
            yield Note(text=await ACTIONS[first.text.removeprefix("late ")]())

    GuardedUnary, GuardedServerStream, GuardedClientStream, GuardedBidi = Unary, ServerStream, ClientStream, Bidi


class Rig:
    """The running server and a channel to it."""

    def __init__(self, limits: Limits, authenticator: Authenticator, tracing: Tracing, default_deadline: float) -> None:
        self.service = KindsService()
        self.health = health.aio.HealthServicer()
        self.registry = CollectorRegistry()
        self._log = io.StringIO()
        self._access_log = AccessLog(self.registry, True, self._log)
        self.chain = Chain(
            Stages(
                methods=methods_of([SERVICE]),
                authenticator=authenticator,
                access=_access_table(),
                limiter=Limiter(limits),
                tracing=tracing,
                access_log=self._access_log,
                default_deadline=default_deadline,
                translate=translate,
            )
        )
        self.server = grpc.aio.server(interceptors=(self.chain,), options=[("grpc.so_reuseport", 0)])
        add_service(self.server, SERVICE, self.service)
        health_pb2_grpc.add_HealthServicer_to_server(self.health, self.server)
        add_reflection(self.server, [SERVICE.full_name])
        self.address = f"127.0.0.1:{self.server.add_insecure_port('127.0.0.1:0')}"
        self.channel = grpc.aio.insecure_channel(self.address)

    def call(self, kind: str, text: str, **options: Any) -> Any:
        """Begins a call; ``options`` are those of grpc, such as ``timeout`` and ``metadata``."""
        method = SERVICE.methods_by_name[kind]
        stub = getattr(self.channel, f"{_side(method.client_streaming)}_{_side(method.server_streaming)}")(
            f"/{SERVICE.full_name}/{kind}",
            request_serializer=Note.SerializeToString,
            response_deserializer=Note.FromString,
        )
        return stub(iter([Note(text=text)]) if method.client_streaming else Note(text=text), **options)

    async def invoke(self, kind: str, text: str, **options: Any) -> list[Any]:
        """Makes a call and returns its responses. Raises AioRpcError."""
        call = self.call(kind, text, **{"timeout": 20, **options})
        if SERVICE.methods_by_name[kind].server_streaming:
            return [response async for response in call]
        return [await call]

    async def fails(self, kind: str, text: str, **options: Any) -> grpc.aio.AioRpcError:
        """Makes a call that must fail, and returns its error."""
        try:
            answer = await self.invoke(kind, text, **options)
        except grpc.aio.AioRpcError as error:
            return error
        raise AssertionError(f"{kind} {text} answered {answer}")

    async def healthy(self) -> bool:
        """Whether a health check is answered, and how."""
        stub = health_pb2_grpc.HealthStub(self.channel)
        answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=20)
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    def log_lines(self) -> list[dict[str, Any]]:
        """The access log so far."""
        self._access_log.flush()
        return [json.loads(line) for line in self._log.getvalue().splitlines()]

    async def logged(self, count: int = 1) -> list[dict[str, Any]]:
        """The access log, once it has that many lines: one is written after the caller has its answer."""
        await until(lambda: len(self.log_lines()) >= count)
        return self.log_lines()


@contextlib.asynccontextmanager
async def running(
    limits: Limits | None = None,
    auth: Auth | None = None,
    ratio: float = 0.0,
    processor: SpanProcessor | None = None,
    default_deadline: float = 30.0,
) -> AsyncIterator[Rig]:
    """Runs the service while the block runs."""
    authenticator = Authenticator(auth or Auth())
    await authenticator.start()
    tracing = Tracing(ratio, processor)
    rig = Rig(limits or Limits(), authenticator, tracing, default_deadline)
    await rig.server.start()
    try:
        yield rig
    finally:
        await rig.channel.close()
        await rig.server.stop(0)
        tracing.close()
        await authenticator.close()


async def until(condition: Callable[[], bool], deadline: float = 20) -> None:
    """Waits until ``condition`` holds, for what can only be asked for."""
    async with asyncio.timeout(deadline):
        while not condition():  # noqa: ASYNC110 -- nothing tells of it
            await asyncio.sleep(0.005)


def error_info(error: grpc.RpcError) -> error_details_pb2.ErrorInfo:
    """Returns the one ErrorInfo of an error; checks that there is exactly one, and that it is in the trailers once."""
    trailers = [key for key, _ in error.trailing_metadata() or ()]
    assert trailers.count("grpc-status-details-bin") == 1, trailers
    assert trailers.count("x-request-id") == 1, trailers
    status = rpc_status.from_call(error)
    assert status is not None
    found = [detail for detail in status.details if detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR)]
    assert len(found) == 1, status
    assert len({detail.type_url for detail in status.details}) == len(status.details), status
    info = error_details_pb2.ErrorInfo()
    found[0].Unpack(info)
    assert info.domain == DOMAIN
    assert info.metadata["request_id"]
    return info


def assert_silent(error: grpc.RpcError) -> None:
    """Checks that an error tells nothing of the server's inside."""
    said = f"{error.details()} {rpc_status.from_call(error)}"
    for word in ("/srv", "/tmp", "SELECT", "Traceback", "Error(", "<class", "Exception", ".py", "sqlite", "psycopg"):
        assert word not in said, said


def _side(streaming: bool) -> str:
    return "stream" if streaming else "unary"


def _access_table() -> AccessTable:
    describe_v1()
    return AccessTable.from_services([SERVICE.full_name, *INFRASTRUCTURE])
