"""What the client for asyncio needs from asyncio and grpc.aio. `_threads` is the same for threads."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Mapping
from typing import Any

import grpc
import grpc.aio
from openfacility.jobs.v1 import jobs_service_pb2_grpc
from openfacility.status.v1 import status_service_pb2_grpc

from openfacility_client._settings import Settings
from openfacility_client._tracing import aio_interceptors

Lock = asyncio.Lock


def open_channel(settings: Settings) -> grpc.aio.Channel:
    """Return a new channel; it connects when it is first used. To be called on the event loop that will use it."""
    interceptors = aio_interceptors() if settings.tracing else None
    if settings.tls is None:
        return grpc.aio.insecure_channel(settings.target, options=settings.options, interceptors=interceptors)
    return grpc.aio.secure_channel(
        settings.target, settings.tls.credentials(), options=settings.options, interceptors=interceptors
    )


def open_methods(channel: grpc.aio.Channel) -> Mapping[str, Any]:
    """Return what calls each method of the services, by its name; no two services have one of the same name."""
    stubs = (jobs_service_pb2_grpc.JobsServiceStub(channel), status_service_pb2_grpc.StatusServiceStub(channel))
    return {name: method for stub in stubs for name, method in vars(stub).items()}


def cancel(call: Any) -> None:
    """Cancel a stream, if it still goes on."""
    call.cancel()


def is_stray_cancellation(error: BaseException) -> bool:
    """Whether an error says that the call was canceled, and not the task that waits for it."""
    task = asyncio.current_task()
    return isinstance(error, asyncio.CancelledError) and task is not None and not task.cancelling()


async def settle(value: Any) -> Any:
    """Return a value, or what an awaitable comes to."""
    return await value if inspect.isawaitable(value) else value


class Alarm:
    """A pause that can be cut short."""

    def __init__(self) -> None:
        """Not set."""
        self._event = asyncio.Event()

    def set(self) -> None:
        """Cut short the present pause and all that follow."""
        self._event.set()

    async def pause(self, seconds: float) -> None:
        """Wait for a time, or until the alarm is set."""
        try:
            async with asyncio.timeout(seconds):
                await self._event.wait()
        except TimeoutError:
            pass
