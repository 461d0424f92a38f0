"""Optional tracing, by OpenTelemetry's own gRPC instrumentation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import grpc

from openfacility_client._exceptions import ConfigurationError


def _instrumentation() -> Any:
    try:
        from opentelemetry.instrumentation import grpc as instrumentation  # noqa: PLC0415 - optional
    except ImportError as error:
        raise ConfigurationError(
            "tracing=True needs the package opentelemetry-instrumentation-grpc, which is not installed"
        ) from error
    return instrumentation


def check() -> None:
    """Make sure that tracing can work.

    Raises:
        ConfigurationError: OpenTelemetry's gRPC instrumentation is not installed.
    """
    _instrumentation()


def aio_interceptors() -> Sequence[Any]:
    """Return the client interceptors for grpc.aio."""
    return list(_instrumentation().aio_client_interceptors())


def trace_channel(channel: grpc.Channel) -> grpc.Channel:
    """Return a channel whose calls are traced."""
    traced: grpc.Channel = _instrumentation().grpcext.intercept_channel(
        channel, _instrumentation().client_interceptor()
    )
    return traced
