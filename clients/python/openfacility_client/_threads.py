"""What the client for threads needs from threading and grpc. `_aio` is the same for asyncio."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import grpc
from openfacility.jobs.v1 import jobs_service_pb2_grpc
from openfacility.status.v1 import status_service_pb2_grpc

from openfacility_client._settings import Settings
from openfacility_client._tracing import trace_channel

Lock = threading.Lock


def open_channel(settings: Settings) -> grpc.Channel:
    """Return a new channel; it connects when it is first used."""
    if settings.tls is None:
        channel = grpc.insecure_channel(settings.target, options=settings.options)
    else:
        channel = grpc.secure_channel(settings.target, settings.tls.credentials(), options=settings.options)
    return trace_channel(channel) if settings.tracing else channel


def open_methods(channel: grpc.Channel) -> Mapping[str, Any]:
    """Return what calls each method of the services, by its name; no two services have one of the same name."""
    stubs = (jobs_service_pb2_grpc.JobsServiceStub(channel), status_service_pb2_grpc.StatusServiceStub(channel))
    return {name: method for stub in stubs for name, method in vars(stub).items()}


def cancel(call: Any) -> None:
    """Cancel a stream, if it still goes on. (Traced, it is a generator, which can only be closed.)"""
    if hasattr(call, "cancel"):
        call.cancel()
    else:
        call.close()


def is_stray_cancellation(error: BaseException) -> bool:
    """Whether an error says that the call was canceled: never, that is an RpcError here."""
    return False


def settle(value: Any) -> Any:
    """Return a value."""
    return value


class Alarm:
    """A pause that can be cut short."""

    def __init__(self) -> None:
        """Not set."""
        self._event = threading.Event()

    def set(self) -> None:
        """Cut short the present pause and all that follow."""
        self._event.set()

    def pause(self, seconds: float) -> None:
        """Wait for a time, or until the alarm is set."""
        self._event.wait(seconds)
