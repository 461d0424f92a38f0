"""Traces: the sampling decision comes first, so that a call that is not traced costs next to nothing.

The ready-made OpenTelemetry server interceptor does its work before it asks the sampler and mistakes several outcomes
for OK, so the server makes its spans itself, through OpenTelemetry's public interface. The clients use the ready-made
one.
"""

from __future__ import annotations

import random

import grpc
from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.trace import Span, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from openfacility_server.interceptors.call import Call

# Codes that mean that the server, not the caller, is at fault.
_SERVER_FAULTS = {
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DATA_LOSS,
}


class Tracing:
    """Starts and ends the span of a call, if it is sampled: as its caller decided, else by the configured ratio."""

    def __init__(self, ratio: float, processor: SpanProcessor | None) -> None:
        self._ratio = ratio if processor else 0.0
        self._propagator = TraceContextTextMapPropagator()
        self._provider: TracerProvider | None = None
        if processor:
            self._provider = TracerProvider(resource=Resource.create({"service.name": "openfacility-server"}))
            self._provider.add_span_processor(processor)
            self._tracer = self._provider.get_tracer("openfacility")

    def start(self, call: Call) -> Span | None:
        """Returns the call's span, or None when it is not sampled."""
        if self._provider is None or not self._sampled(call):
            return None
        context = self._propagator.extract({"traceparent": call.traceparent}) if call.traceparent else None
        span = self._tracer.start_span(call.method.full_name[1:], context, SpanKind.SERVER)
        call.trace_id = trace.format_trace_id(span.get_span_context().trace_id)
        span.set_attribute("rpc.system", "grpc")
        span.set_attribute("rpc.service", call.method.service)
        span.set_attribute("rpc.method", call.method.name)
        span.set_attribute("openfacility.request_id", call.request_id)
        return span

    def end(self, span: Span, code: grpc.StatusCode) -> None:
        """Ends a span with the status that the caller got."""
        span.set_attribute("rpc.grpc.status_code", code.value[0])
        if code in _SERVER_FAULTS:
            span.set_status(Status(StatusCode.ERROR, code.name))
        span.end()

    def close(self) -> None:
        """Sends what is left."""
        if self._provider:
            self._provider.shutdown()

    def _sampled(self, call: Call) -> bool:
        if call.method.infrastructure:
            return False
        if call.traceparent:
            return call.traceparent[-1] in "13579bdf"
        return random.random() < self._ratio
