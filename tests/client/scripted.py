"""A scripted server behind a real port, and both clients behind one face, so that each test is written once.

The server says and does what a test tells it to; what the real server does is tested elsewhere, with the same client.
"""

from __future__ import annotations

import asyncio
import inspect
from collections import defaultdict, deque
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc import error_details_pb2, status_pb2
from openfacility.jobs.v1 import job_pb2
from openfacility.jobs.v1 import jobs_service_pb2 as pb
from openfacility.status.v1 import status_service_pb2 as status_pb

SERVICES = {"JobsService": pb, "StatusService": status_pb}


@dataclass
class Call:
    """One call that the server got."""

    method: str
    request: Any
    metadata: dict[str, str]
    time_remaining: float | None


@dataclass
class Failure(Exception):
    """Raised by a handler to end its call with a status and details."""

    code: grpc.StatusCode
    text: str = "scripted"
    details: tuple[Any, ...] = ()

    async def abort(self, context: grpc.aio.ServicerContext) -> None:
        status = status_pb2.Status(code=self.code.value[0], message=self.text)
        for detail in self.details:
            packed = AnyMessage()
            packed.Pack(detail)
            status.details.append(packed)
        trailing = (("grpc-status-details-bin", status.SerializeToString()),) if self.details else ()
        await context.abort(self.code, self.text, trailing_metadata=trailing)


def reason(name: str, **metadata: str) -> error_details_pb2.ErrorInfo:
    """The ErrorInfo that every error of the service carries."""
    return error_details_pb2.ErrorInfo(reason=name, domain="openfacility", metadata=metadata)


class ScriptedServer:
    """Answers each method with what the test put there: the next entry of a deque, the last one again and again.

    An entry is a response, an exception, or a function of the request (and the context) that returns or raises one; of
    a stream, an async generator function of the request.
    """

    def __init__(self) -> None:
        self.script: dict[str, deque[Any]] = defaultdict(deque)
        self.calls: list[Call] = []
        self.port = 0
        self._server: grpc.aio.Server | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def on(self, method: str, *entries: Any) -> None:
        self.script[method].extend(entries)

    def requests(self, method: str) -> list[Any]:
        return [call.request for call in self.calls if call.method == method]

    async def start(self) -> None:
        self._server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        for name, module in SERVICES.items():
            service = module.DESCRIPTOR.services_by_name[name]
            handlers: dict[str, Any] = {}
            for method in service.methods:
                request = getattr(module, method.input_type.name)
                streams = method.server_streaming
                make = grpc.unary_stream_rpc_method_handler if streams else grpc.unary_unary_rpc_method_handler
                handlers[method.name] = make(
                    (self._stream if streams else self._unary)(method.name),
                    request_deserializer=request.FromString,
                    response_serializer=lambda message: message.SerializeToString(),
                )
            self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service.full_name, handlers),))
        self.port = self._server.add_insecure_port(f"127.0.0.1:{self.port}")
        await self._server.start()

    async def kill(self) -> None:
        """Stop without any courtesy: open calls are torn down."""
        assert self._server is not None
        await self._server.stop(None)
        self._server = None

    async def stop(self) -> None:
        if self._server is not None:
            await self.kill()

    def _entry(self, method: str, request: Any, context: grpc.aio.ServicerContext) -> Any:
        metadata = {key: str(value) for key, value in context.invocation_metadata() or ()}
        self.calls.append(Call(method, request, metadata, context.time_remaining()))
        entries = self.script[method]
        if not entries:
            raise Failure(grpc.StatusCode.UNIMPLEMENTED, f"nothing scripted for {method}")
        return entries.popleft() if len(entries) > 1 else entries[0]

    def _unary(self, method: str) -> Any:
        async def handle(request: Any, context: grpc.aio.ServicerContext) -> Any:
            try:
                entry = self._entry(method, request, context)
                if callable(entry) and not isinstance(entry, Exception):
                    entry = entry(request, context) if len(inspect.signature(entry).parameters) == 2 else entry(request)
                    entry = await entry if inspect.isawaitable(entry) else entry
                if isinstance(entry, Exception):
                    raise entry
            except Failure as failure:
                await failure.abort(context)
            return entry

        return handle

    def _stream(self, method: str) -> Any:
        async def handle(request: Any, context: grpc.aio.ServicerContext) -> AsyncIterator[Any]:
            try:
                entry = self._entry(method, request, context)
                if isinstance(entry, Exception):
                    raise entry
                async for response in entry(request):
                    yield response
            except Failure as failure:
                await failure.abort(context)

        return handle


class Threaded:
    """The client for threads behind the face of the one for asyncio: every call runs in a thread of its own."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._inner, name)
        if name in ("jobs", "status"):
            return Threaded(value)
        if not callable(value):
            return value
        if name in ("watch", "logs", "list", "pages", "sites", "resources", "incidents", "events"):
            return lambda *arguments, **options: ThreadedIterator(value(*arguments, **options))
        if isinstance(self, ThreadedIterator) and name == "close":
            return value
        return lambda *arguments, **options: asyncio.to_thread(value, *arguments, **options)

    async def __aenter__(self) -> Threaded:
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.to_thread(self._inner.close)


class ThreadedIterator(Threaded):
    """An iterator whose steps run in a thread."""

    def __aiter__(self) -> ThreadedIterator:
        return self

    async def __anext__(self) -> Any:
        nothing = object()
        item = await asyncio.to_thread(next, self._inner, nothing)
        if item is nothing:
            raise StopAsyncIteration
        return item

    async def __aexit__(self, *_: object) -> None:
        self._inner.close()


def job(id_: str = "j1", state: str = "NEW", *, revision: int = 0, **spec: Any) -> job_pb2.Job:
    """A job as the server has it."""
    return job_pb2.Job(
        id=id_,
        revision=revision,
        status=job_pb2.JobStatus(state=job_pb2.JobState.Value(f"JOB_STATE_{state}")),
        spec=job_pb2.JobSpec(**spec),
    )


def change(id_: str, state: str, revision: int, kind: str = "UPDATED", **spec: Any) -> pb.JobChange:
    """A change as the server tells it."""
    return pb.JobChange(
        type=pb.JobChange.Type.Value(f"TYPE_{kind}"), revision=revision, job=job(id_, state, revision=revision, **spec)
    )
