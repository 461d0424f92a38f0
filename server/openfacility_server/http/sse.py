"""Watches as server-sent events, which every browser can read by itself.

Each change is one event: ``event`` is its kind (``snapshot``, ``created``, ``updated``), ``data`` the change as JSON
and ``id`` the revision to resume after. ``caught_up`` says that what follows is live, ``bookmark`` that nothing
happened up to its id, ``error`` why the stream ends, ``end`` that there is no more to come. Any watch whose responses
have ``changes``, ``revision`` and ``caught_up`` can be read so.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from datetime import timedelta
from typing import Any

from google.protobuf import descriptor_pool
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from openfacility_server import errors
from openfacility_server.http import query, replies, strict
from openfacility_server.http.bindings import Binding, Router

Metadata = Sequence[tuple[str, str]]
Watch = Callable[[str, Message, Metadata], AsyncIterator[bytes]]
"""Starts a watch: RPC path, request, metadata -> serialized responses. Raises ``errors.Error``, at first or midway."""

_log = logging.getLogger(__name__)
_FIRST_WAIT = 5.0  # an error that comes later than this comes as an event and no longer as a status
_YIELD_EVERY = 16  # renderings between two turns of the loop
# What is between two machines and not part of the call.
_HOP = {"connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade", "content-length", "host"}


class Renderer:
    """Prints changes as JSON, each once for all watchers: the last ones are kept, up to a number of bytes."""

    def __init__(self, max_bytes: int = 16 * 1024 * 1024) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._kept: OrderedDict[bytes, str] = OrderedDict()
        self.misses = 0

    def __call__(self, change: Message) -> str:
        """Returns the JSON of a change."""
        key = change.SerializeToString()
        printed = self._kept.get(key)
        if printed is not None:
            self._kept.move_to_end(key)
            return printed
        self.misses += 1
        printed = replies.to_json(change)
        self._kept[key] = printed
        self._bytes += len(key) + len(printed)
        while self._bytes > self._max_bytes:
            old_key, old = self._kept.popitem(last=False)
            self._bytes -= len(old_key) + len(old)
        return printed


class ServerSentEvents:
    """The endpoint of all watches."""

    def __init__(
        self, bindings: Sequence[Binding], watch: Watch, stopping: asyncio.Event, heartbeat: float = 15.0
    ) -> None:
        self._router = Router(binding for binding in bindings if binding.server_sent_events)
        self._watch = watch
        self._stopping = stopping
        self._heartbeat = heartbeat
        self._renderer = Renderer()

    async def __call__(self, request: Request) -> Any:
        """Answers a watch: the first event decides between a stream and an error."""
        request_id = replies.request_id(request)
        try:
            binding, message, resumed = self._request(request)
        except replies.RefusedError as refused:
            return replies.error_response(refused, request_id)
        except strict.Malformed as malformed:
            error = errors.InvalidArgument(malformed.violations, reason=malformed.violations[0].reason)
            return replies.error_response(error, request_id)
        source = self._watch(binding.rpc, message, _metadata(request, request_id))
        first = asyncio.ensure_future(anext(source, None))
        try:
            done, _ = await asyncio.wait({first}, timeout=_FIRST_WAIT)
        except asyncio.CancelledError:
            await _close(first, source)
            raise
        if done:
            if (failed := _error(first, request_id)) is not None:
                await _close(first, source)
                return replies.error_response(failed, request_id)
            if first.result() is None and resumed:
                # Nothing more will ever come. This status, and no other, keeps a browser from asking again.
                await _close(first, source)
                return Response(status_code=204, headers={"x-request-id": request_id})
        output = GetMessageClass(descriptor_pool.Default().FindMessageTypeByName(binding.output_type))
        return _Stream(self, source, first, output, request_id)

    def _request(self, request: Request) -> tuple[Binding, Message, bool]:
        found = self._router.find(request.method, request.scope["raw_path"].decode("latin-1"))
        if found is None:
            raise replies.RefusedError(replies.plain(404))
        if "text/event-stream" not in request.headers.get("accept", ""):
            text = "here are server-sent events only; send the header accept: text/event-stream"
            raise replies.RefusedError(replies.plain(406, "NOT_ACCEPTABLE", text), 406)
        binding, variables = found
        message: Any = binding.request()
        query.read([(path, query.unquote_path(path, raw)) for path, raw in variables.items()], message)
        query.read(query.pairs(request.url.query), message, binding.variables)
        last = request.headers.get("last-event-id", "")
        if last:
            # A browser that comes back has the old query, and the id of the last event that it saw.
            if not (last.isascii() and last.isdigit() and len(last) < 19):
                raise strict.Malformed([errors.Violation("Last-Event-ID", "must be the id of an event", "WRONG_TYPE")])
            message.after_revision = int(last)
        return binding, message, bool(last)

    async def frames(
        self, source: AsyncIterator[bytes], first: asyncio.Future[bytes | None], output: type[Message], request_id: str
    ) -> AsyncGenerator[str]:
        """Yields the text of the stream to its end."""
        pending: asyncio.Future[Any] = first
        stopping: asyncio.Future[Any] = asyncio.ensure_future(self._stopping.wait())
        try:
            yield "retry: 2000\n\n"
            while True:
                done, _ = await asyncio.wait(
                    {pending, stopping}, timeout=self._heartbeat, return_when=asyncio.FIRST_COMPLETED
                )
                if pending not in done:
                    if stopping in done:
                        text = "the server is stopping; connect again"
                        yield _failure(errors.Unavailable("SERVER_STOPPING", text, timedelta(seconds=1)), request_id)
                        return
                    yield ":\n\n"
                    continue
                if (error := _error(pending, request_id)) is not None:
                    yield _failure(error, request_id)
                    return
                serialized = pending.result()
                if serialized is None:
                    yield _frame("end", "{}")
                    return
                pending = asyncio.ensure_future(anext(source, None))
                rendered = self._renderer.misses
                for frame in self._events(output.FromString(serialized)):
                    yield frame
                    if self._renderer.misses - rendered >= _YIELD_EVERY:
                        rendered = self._renderer.misses
                        await asyncio.sleep(0)
        finally:
            stopping.cancel()
            await _close(pending, source)

    def _events(self, response: Any) -> Iterator[str]:
        """Turns one response into events.

        Only the last change of a revision carries an id: who loses the connection before it gets the whole revision
        again. Changes of a snapshot have none, since there is no resuming in the middle of one.
        """
        changes = response.changes
        for position, change in enumerate(changes):
            kind = change.DESCRIPTOR.fields_by_name["type"].enum_type.values_by_number[change.type].name
            event = kind.removeprefix("TYPE_").lower()
            position_id = ""
            if event != "snapshot" and response.revision:
                following = changes[position + 1].revision if position + 1 < len(changes) else None
                if following is None:
                    position_id = str(response.revision)
                elif following != change.revision:
                    position_id = str(change.revision)
            yield _frame(event, self._renderer(change), position_id)
        if response.caught_up or (response.revision and not changes):
            event = "caught_up" if response.caught_up else "bookmark"
            yield _frame(event, f'{{"revision":"{response.revision}"}}', str(response.revision))


class _Stream:
    """The answer, as ASGI: ends when the stream ends or when the client goes away, whichever comes first."""

    def __init__(
        self, owner: ServerSentEvents, source: AsyncIterator[bytes], first: asyncio.Future[bytes | None],
        output: type[Message], request_id: str,
    ) -> None:  # fmt: skip
        self._frames = owner.frames(source, first, output, request_id)
        self._request_id = request_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        gone = asyncio.ensure_future(_disconnected(receive))
        sending = asyncio.ensure_future(self._send(send))
        try:
            await asyncio.wait({gone, sending}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (gone, sending):
                task.cancel()
            await asyncio.gather(gone, sending, return_exceptions=True)
            await self._frames.aclose()

    async def _send(self, send: Send) -> None:
        headers = {
            "content-type": "text/event-stream; charset=utf-8",
            "cache-control": "no-store",
            "x-accel-buffering": "no",
            "x-request-id": self._request_id,
        }
        raw = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": 200, "headers": raw})
        async for frame in self._frames:
            await send({"type": "http.response.body", "body": frame.encode(), "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _error(done: asyncio.Future[bytes | None], request_id: str) -> errors.Error | None:
    """Returns what a watch failed with, fit for the caller."""
    error = done.exception()
    if error is None or isinstance(error, errors.Error):
        return error
    _log.error("a watch failed", exc_info=error, extra={"request_id": request_id})
    return errors.Internal()


async def _close(pending: asyncio.Future[bytes | None], source: AsyncIterator[bytes]) -> None:
    """Ends a watch, and waits until it has ended."""
    pending.cancel()
    with contextlib.suppress(Exception, asyncio.CancelledError):
        await asyncio.wait({pending})
        if not pending.cancelled():
            pending.exception()
    if isinstance(source, AsyncGenerator):
        with contextlib.suppress(Exception):
            await source.aclose()


def _metadata(request: Request, request_id: str) -> Metadata:
    """What the call brings: all headers, as gRPC would get them, and the request id."""
    kept = [(name, value) for name, value in request.headers.items() if name not in _HOP and name != "x-request-id"]
    return [*kept, ("x-request-id", request_id)]


def _failure(error: errors.Error, request_id: str) -> str:
    return _frame("error", replies.to_json(errors.to_status(error, request_id)))


def _frame(event: str, data: str, identifier: str = "") -> str:
    return f"event: {event}\n" + (f"id: {identifier}\n" if identifier else "") + f"data: {data}\n\n"
