"""The one chain that every call passes, in this order:

request id > tracing > access log and metrics > error mapping > authentication > authorization > limits > validation.

It is one interceptor rather than eight: grpc-interceptor wraps a handler once for each, and eight wrappers would cost
as much as the call itself. Each stage is a module of this package, and ``Chain`` is where their order stands.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import grpc
from google.protobuf.message import DecodeError, Message
from google.rpc.status_pb2 import Status
from grpc_interceptor.server import AsyncServerInterceptor
from grpc_status import rpc_status
from opentelemetry.trace import Span

from openfacility_server.auth.access import AccessTable
from openfacility_server.auth.authenticator import Authenticator
from openfacility_server.auth.reasons import refuse
from openfacility_server.auth.tls import certificate_names
from openfacility_server.errors import DeadlineExceeded, Error, Internal, Unauthenticated, invalid, to_status
from openfacility_server.interceptors.access_log import AccessLog
from openfacility_server.interceptors.call import Call, begin
from openfacility_server.interceptors.deadlines import DefaultDeadline
from openfacility_server.interceptors.limits import Limiter
from openfacility_server.interceptors.tracing import Tracing
from openfacility_server.interceptors.validation import validate
from openfacility_server.rpc import Method, encode, infrastructure_method

_log = logging.getLogger(__name__)

_OK = grpc.StatusCode.OK  # members of an enum are slow to come by
# What gRPC's core counts as "no deadline".
_FOREVER = 10 * 365 * 86400
# Seconds by which the core's clock, which ends calls at their deadline, may be ahead of ours.
_CLOCKS_DIFFER = 0.02


@dataclass(frozen=True, slots=True)
class Stages:
    """What the chain is made of."""

    methods: Mapping[str, Method]
    authenticator: Authenticator
    access: AccessTable
    limiter: Limiter
    tracing: Tracing
    access_log: AccessLog
    default_deadline: float
    client_certificates: bool = False
    translate: Callable[[Exception], Error | None] = lambda error: None


class Chain(AsyncServerInterceptor):
    """Serves each call through all stages. Never raises anything into gRPC but a proper status."""

    def __init__(self, stages: Stages) -> None:
        self._stages = stages
        self._default_deadline = DefaultDeadline(stages.default_deadline)
        self._methods = dict(stages.methods)
        self._handlers: dict[str, Any] = {}

    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        """Wraps each method's handler once, not once a call."""
        handler = self._handlers.get(handler_call_details.method)
        if handler is None:
            handler = await super().intercept_service(continuation, handler_call_details)  # type: ignore[no-untyped-call]
            if handler is not None:
                name = handler_call_details.method
                made = infrastructure_method(name, handler.request_streaming, handler.response_streaming)
                self._methods.setdefault(name, made)
                handler = handler._replace(request_deserializer=_tolerant(handler.request_deserializer))
                self._handlers[name] = handler
        return handler

    def intercept(self, method: Any, request_or_iterator: Any, context: Any, method_name: str) -> Any:
        """Returns the coroutine (unary response) or async generator (stream) that serves a call."""
        known = self._methods[method_name]
        call = begin(known, context.invocation_metadata() or (), context.peer())
        if self._stages.client_certificates:
            call.certificate_names = certificate_names(context)
        remaining = context.time_remaining()
        if remaining is not None and remaining < _FOREVER:
            call.deadline = time.monotonic() + remaining
        context.set_trailing_metadata((("x-request-id", call.request_id),))
        if known.server_streaming:
            return self._stream(method, request_or_iterator, context, call)
        return self._unary(method, request_or_iterator, context, call)

    async def admit(self, call: Call, request: Any) -> None:
        """Establishes who calls and whether they may. Raises Error."""
        stages = self._stages
        if len(call.authorizations) > 1:
            raise refuse("TOKEN_SEVERAL")
        authorization = call.authorizations[0] if call.authorizations else None
        principal = stages.authenticator.cached(authorization) if authorization else None
        if principal is None:
            principal = await stages.authenticator.authenticate(authorization, call.certificate_names)
        call.principal = principal
        stages.access.check(call.method.full_name, principal)

    async def _unary(self, method: Any, request: Any, context: Any, call: Call) -> Any:
        stages = self._stages
        span = stages.tracing.start(call)
        code, reason = _OK, ""
        try:
            await self.admit(call, request)
            stages.limiter.begin_unary(call)
            try:
                request = _checked(request, call.method)
                if call.deadline is None and not call.method.infrastructure:
                    return await self._within_default_deadline(method, request, context, call)
                return await method(request, context)
            finally:
                stages.limiter.end_unary()
        except grpc.aio.AbortError:
            code = _code(context)
            raise
        except BaseException as failure:
            error = self._error(failure, call)
            if error is None:
                code = _code_of_cancelled(call)
                raise
            code, reason = error.code, error.reason
            await _abort(context, to_status(error, call.request_id), call.request_id)
        finally:
            self._finish(call, code, reason, span, None)

    async def _within_default_deadline(self, method: Any, request: Any, context: Any, call: Call) -> Any:
        """Answers a call whose caller set no deadline. Raises TimeoutError when it takes too long."""
        call.deadline = time.monotonic() + self._stages.default_deadline
        task = self._default_deadline.begin()
        try:
            return await method(request, context)
        except asyncio.CancelledError:
            if self._default_deadline.expired(task):
                raise TimeoutError from None
            raise
        finally:
            self._default_deadline.end(task)

    async def _stream(self, method: Any, request: Any, context: Any, call: Call) -> AsyncGenerator[Any, None]:
        sent = False
        try:
            async with aclosing(self._observed_stream(method, request, context, call)) as responses:
                async for response in responses:
                    sent = True
                    yield response
        except Error as error:
            status = to_status(error, call.request_id)
            if sent and call.json and call.method.error_response:
                yield encode(call.method.error_response(status))
            await _abort(context, status, call.request_id)

    async def direct(
        self, method_name: str, handler: Any, request: Message, metadata: Sequence[tuple[str, str]], peer: str
    ) -> AsyncGenerator[bytes, None]:
        """Serves a streaming call that did not come over gRPC through the same stages. Raises Error."""
        call = begin(self._methods[method_name], metadata, peer)
        async with aclosing(self._observed_stream(handler, request, None, call)) as responses:
            async for response in responses:
                yield encode(response)

    async def _observed_stream(self, method: Any, request: Any, context: Any, call: Call) -> AsyncGenerator[Any, None]:
        """Yields a stream's responses, with its span, log line and metrics. Raises Error; cancellation as it came."""
        stages = self._stages
        span = stages.tracing.start(call)
        stages.access_log.open_stream(call.method)
        code, reason, sent = _OK, "", 0
        try:
            async with aclosing(self._admitted_stream(method, request, context, call)) as responses:
                async for response in responses:
                    sent += 1
                    yield response
        except grpc.aio.AbortError:
            code = _code(context)
            raise
        except BaseException as failure:
            error = self._error(failure, call)
            if error is None:
                code = _code_of_cancelled(call)
                raise
            code, reason = error.code, error.reason
            raise error from failure
        finally:
            stages.access_log.close_stream(call.method)
            self._finish(call, code, reason, span, sent)

    async def _admitted_stream(self, handler: Any, request: Any, context: Any, call: Call) -> AsyncGenerator[Any, None]:
        """Yields what a handler yields, once the call has been admitted. Raises Error; ends with the credentials."""
        await self.admit(call, request)
        with self._stages.limiter.stream(call):
            request = _checked(request, call.method)
            result = handler(request, context)
            if not hasattr(result, "__aiter__"):
                await result
                return
            expires = call.principal.expires
            async with aclosing(result if expires is None else _until(expires, result)) as responses:
                async for response in responses:
                    yield response

    def _error(self, failure: BaseException, call: Call) -> Error | None:
        """Returns what to tell the caller, or None when there is nobody left to tell."""
        if isinstance(failure, Error):
            return failure
        if isinstance(failure, TimeoutError):
            return DeadlineExceeded()
        if isinstance(failure, asyncio.CancelledError):
            # A cancellation of this very call ends it; one that leaked out of inner work would leave a caller hanging.
            task = asyncio.current_task()
            if task is None or task.cancelling():
                return None
            _log.error("inner cancellation leaked", extra={"request_id": call.request_id})
            return Internal()
        if not isinstance(failure, Exception):
            return None
        error = self._stages.translate(failure)
        if error is None:
            _log.error("unexpected error", exc_info=failure, extra={"request_id": call.request_id})
            return Internal()
        return error

    def _finish(self, call: Call, code: grpc.StatusCode, reason: str, span: Span | None, sent: int | None) -> None:
        self._stages.access_log.record(call, code, reason, sent)
        if span is not None:
            self._stages.tracing.end(span, code)


def _code(context: Any) -> grpc.StatusCode:
    code = context.code()
    if isinstance(code, grpc.StatusCode):
        return code
    return next((known for known in grpc.StatusCode if known.value[0] == code), grpc.StatusCode.UNKNOWN)


async def _until(expires: datetime, responses: AsyncGenerator[Any, None]) -> AsyncGenerator[Any, None]:
    """Yields responses until the credentials end, then raises Unauthenticated.

    The clock is not around the whole stream: it would go off while a response is being written to a reader who stalls,
    where a cancellation counts as the caller's and no status is sent.
    """
    clock = asyncio.get_running_loop().time
    end = clock() + (expires - datetime.now(UTC)).total_seconds()
    async with aclosing(responses):
        while clock() < end:
            lifetime = asyncio.timeout_at(end)
            try:
                async with lifetime:
                    response = await anext(responses)
            except StopAsyncIteration:
                return
            except TimeoutError:
                if not lifetime.expired():
                    raise
                break
            yield response
    raise Unauthenticated("TOKEN_EXPIRED", "the token expired while the stream was open; resume with a new one")


def _code_of_cancelled(call: Call) -> grpc.StatusCode:
    """Tells the caller's deadline, which ends a call as a cancellation, from a true one."""
    remaining = call.remaining()
    late = remaining is not None and remaining < _CLOCKS_DIFFER
    return grpc.StatusCode.DEADLINE_EXCEEDED if late else grpc.StatusCode.CANCELLED


class _Malformed:
    """Stands for a request that is not a message of its type, until the call's turn comes to be refused."""


_MALFORMED = _Malformed()


def _tolerant(decode: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    """Returns a deserializer that does not raise: gRPC would tell the caller the class of the error."""

    def tolerant(data: bytes) -> Any:
        try:
            return decode(data)
        except DecodeError:
            return _MALFORMED

    return tolerant


def _checked(request: Any, method: Method) -> Any:
    """Returns a request that keeps its fields' rules, or requests checked as they come. Raises InvalidArgument."""
    if method.client_streaming:
        return _each_checked(request)
    _check(request)
    return request


def _check(request: Any) -> None:
    if request is _MALFORMED:
        raise invalid("", "the request is not a message of the type that this method takes", "MALFORMED_REQUEST")
    validate(request)


async def _each_checked(requests: AsyncIterator[Any]) -> AsyncGenerator[Any, None]:
    async for request in requests:
        _check(request)
        yield request


async def _abort(context: Any, status: Status, request_id: str) -> None:
    """Ends a call with an error. Trailing metadata set before would be dropped, so the request id is given again."""
    rich = rpc_status.to_status(status)
    await context.abort(rich.code, rich.details, (*rich.trailing_metadata, ("x-request-id", request_id)))
