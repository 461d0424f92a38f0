"""Spans of both clients, by OpenTelemetry's own instrumentation."""

from __future__ import annotations

import asyncio

import grpc
import openfacility_client as of
import pytest
from openfacility_client import _tracing

from tests.client.scripted import Failure, job

pytest.importorskip("opentelemetry.instrumentation.grpc")
pytestmark = pytest.mark.timeout(30)


async def test_traced_calls_and_watches_work_and_carry_their_trace(connect, server, facility, monkeypatch):
    from opentelemetry import trace  # noqa: PLC0415 - optional
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415 - optional

    provider = TracerProvider()
    monkeypatch.setattr(trace, "get_tracer", lambda *arguments, **_: provider.get_tracer("test"))
    server.on("GetJob", job())
    client = connect(server.address, tracing=True)
    await client.jobs.get("j1")
    assert "traceparent" in server.calls[0].metadata
    facility.change(a="NEW")
    broken = [Failure(grpc.StatusCode.UNAVAILABLE)]
    facility.breaks = lambda point: broken.pop() if broken and point == "live" else None
    watch = client.jobs.watch()
    seen = [await asyncio.wait_for(anext(watch), 20)]
    facility.change(a="ACTIVE")
    seen.append(await asyncio.wait_for(anext(watch), 20))
    assert [change.revision for change in seen] == [1, 2]
    watch.close()


async def test_tracing_that_cannot_be_had_is_a_clear_error(connect, monkeypatch):
    def missing() -> None:
        raise of.ConfigurationError("tracing=True needs the package opentelemetry-instrumentation-grpc")

    monkeypatch.setattr(_tracing, "_instrumentation", missing)
    with pytest.raises(of.ConfigurationError, match="opentelemetry"):
        connect("127.0.0.1:1", tracing=True)
