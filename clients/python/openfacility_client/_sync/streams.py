# Made from _async/streams.py by clients/python/generate_sync.py; change that one.
"""Streams that survive reconnects."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

import grpc

from openfacility_client._cursors import Cursor, OutputCursor, WatchCursor
from openfacility_client._exceptions import ClientClosed, DeadlineExceeded, OutOfRange, RPCError
from openfacility_client._model import ChangeType, JobChange
from openfacility_client._recovery import Recovery, Step
from openfacility_client._sync.transport import Transport
from openfacility_client._threads import Alarm, cancel, is_stray_cancellation
from openfacility_client._tokens import Token

Item = TypeVar("Item")
OnDisconnect = Callable[[RPCError | None, float], None]
"""Told of each interruption: what happened (None: the server ended the stream) and in how many seconds it goes on."""

_log = logging.getLogger("openfacility_client")


class ResumingStream(Iterator[Item], Generic[Item]):
    """Items of a stream, which is opened when the first is wanted and again whenever it breaks.

    One task or thread reads it; `close` may be called from anywhere, and ends the reading. Also a context manager.
    """

    method = ""

    def __init__(
        self,
        transport: Transport,
        cursor: Cursor[Item],
        *,
        timeout: timedelta | float | None,
        give_up_after: timedelta | float | None,
        on_disconnect: OnDisconnect | None,
    ) -> None:
        """Begin nothing yet."""
        self._transport = transport
        self._cursor = cursor
        self._recovery = Recovery(timeout=timeout, give_up_after=give_up_after)
        self._on_disconnect = on_disconnect
        self._ready: deque[Item] = deque()
        self._call: Any = None
        self._responses: Any = None
        self._token: Token | None = None
        self._closed = False
        self._alarm = Alarm()
        self.last_contact: datetime | None = None
        """When the server last said something, if only that nothing happens; None before it has."""

    def __iter__(self) -> Self:
        """Return this very stream."""
        return self

    def __next__(self) -> Item:
        """Return the next item, however many reconnects it takes.

        Raises:
            RPCError: the stream cannot go on; see `openfacility_client._recovery` for what it does survive.
        """
        while not self._ready:
            if self._closed or self._cursor.finished:
                self._hang_up()
                raise StopIteration
            self._advance()
        return self._ready.popleft()

    def __enter__(self) -> Self:
        """Return this very stream."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End it."""
        self.close()

    def close(self) -> None:
        """End the stream. Reading it then ends too; what was already received can still be read."""
        self._closed = True
        self._alarm.set()
        self._hang_up()

    def _advance(self) -> None:
        """Receive one response, or deal with what came instead."""
        try:
            if self._call is None:
                self._dial()
            response = next(self._responses)
        except StopIteration:
            self._hang_up()
            self._cursor.ended()
            if not self._cursor.finished and not self._closed:
                self._pause(None)
        except grpc.RpcError as failure:
            self._hang_up()
            if not self._closed:
                self._recover(failure)
        except BaseException as interruption:
            # Canceled while waiting, or interrupted: the call is of no use any more, the position still is.
            self._hang_up()
            if not is_stray_cancellation(interruption):
                raise
            if not self._closed:
                raise ClientClosed("the client was closed while a stream was being read") from None
        else:
            self._recovery.succeeded()
            self.last_contact = datetime.now(UTC)
            self._ready.extend(self._cursor.accept(response))

    def _dial(self) -> None:
        self._token = self._transport.tokens.current()
        request = self._cursor.request()
        self._call = self._transport.stream(self.method, request, self._token, self._recovery.deadline)
        self._responses = iter(self._call)

    def _recover(self, failure: grpc.RpcError) -> None:
        error = self._transport.explain(failure, self.method, None)
        if self._recovery.deadline.passed and not isinstance(error, DeadlineExceeded):
            raise DeadlineExceeded(
                f"time ran out; the last error was: {error.message}", method=self.method
            ) from failure
        step = self._recovery.step(error)
        if step is Step.REFRESH and self._transport.tokens.refresh(self._token):
            return
        if step is Step.LOST and isinstance(error, OutOfRange) and self._cursor.lost(error):
            _log.info("%s: the server no longer keeps the position, starting over: %s", self.method, error.message)
            return
        if step is not Step.RESUME:
            raise error from failure
        self._pause(error)

    def _pause(self, error: RPCError | None) -> None:
        delay = self._recovery.delay(error)
        _log.info("%s: interrupted (%s), resuming in %.1f s", self.method, error or "ended by the server", delay)
        if self._on_disconnect is not None:
            self._on_disconnect(error, delay)
        self._alarm.pause(delay)

    def _hang_up(self) -> None:
        call, self._call, self._responses = self._call, None, None
        if call is not None:
            cancel(call)


class JobWatch(ResumingStream[JobChange]):
    """Changes of jobs, in order, each once, none left out, as long as one listens."""

    method = "WatchJobs"

    def __init__(
        self,
        transport: Transport,
        cursor: WatchCursor,
        *,
        timeout: timedelta | float | None,
        give_up_after: timedelta | float | None,
        on_disconnect: OnDisconnect | None,
        look_up: Callable[[list[str]], Any],
    ) -> None:
        """Begin nothing yet."""
        super().__init__(transport, cursor, timeout=timeout, give_up_after=give_up_after, on_disconnect=on_disconnect)
        self._watch_cursor = cursor
        self._look_up = look_up

    @property
    def revision(self) -> int | None:
        """Everything up to here was handed out: a later watch with `after_revision` continues without a gap.

        None while a snapshot is being handed out.
        """
        revision = self._watch_cursor.revision
        if revision is None or self._watch_cursor.unsure:
            return None
        if not self._ready:
            return revision
        following = self._ready[0]
        return None if following.type is ChangeType.SNAPSHOT else min(revision, following.revision - 1)

    @property
    def caught_up(self) -> bool:
        """Whether the snapshot, or the past changes, have been handed out, so that what follows is live."""
        return self._watch_cursor.caught_up and not self._ready

    @property
    def resets(self) -> int:
        """How often the position was lost and a new snapshot taken instead."""
        return self._watch_cursor.resets

    def _advance(self) -> None:
        if self._watch_cursor.unsure:
            jobs = self._look_up(self._watch_cursor.unsure)
            self._ready.extend(self._watch_cursor.found(jobs))
        else:
            super()._advance()


class JobOutput(ResumingStream[bytes]):
    """Pieces of a job's output, as bytes."""

    method = "ReadJobOutput"

    def __init__(
        self,
        transport: Transport,
        cursor: OutputCursor,
        *,
        timeout: timedelta | float | None,
        give_up_after: timedelta | float | None,
        on_disconnect: OnDisconnect | None,
    ) -> None:
        """Begin nothing yet."""
        super().__init__(transport, cursor, timeout=timeout, give_up_after=give_up_after, on_disconnect=on_disconnect)
        self._output_cursor = cursor

    @property
    def offset(self) -> int:
        """Byte to go on from: everything before it was handed out."""
        return self._output_cursor.offset - sum(len(piece) for piece in self._ready)
