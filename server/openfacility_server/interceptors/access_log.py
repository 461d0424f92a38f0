"""The access log (one JSON line a call) and the metrics of calls.

Lines are gathered and written together a few times a second: a write per call would cost more than the call's work.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from datetime import UTC, datetime
from typing import TextIO

import grpc
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from openfacility_server.interceptors.call import Call
from openfacility_server.rpc import Method

_FLUSH_SECONDS = 0.1
_FLUSH_LINES = 1000


class AccessLog:
    """Writes a line and counts, when a call ends. Health checks are counted but not logged unless they fail."""

    def __init__(self, registry: CollectorRegistry, enabled: bool, stream: TextIO | None = None) -> None:
        self._enabled = enabled
        self._stream = stream or sys.stderr
        self._lines: list[str] = []
        self._timer: asyncio.TimerHandle | None = None
        self._calls = Counter("openfacility_grpc_calls", "Calls served", ["method", "code"], registry=registry)
        self._seconds = Histogram(
            "openfacility_grpc_call_seconds",
            "Time to serve a unary call",
            ["method"],
            registry=registry,
            buckets=(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
        )
        self._open = Gauge("openfacility_grpc_open_streams", "Streams open now", ["method"], registry=registry)
        self._children: dict[tuple[str, grpc.StatusCode], Counter] = {}
        self._histograms: dict[str, Histogram] = {}

    def open_stream(self, method: Method) -> None:
        """Counts a stream that opens."""
        self._open.labels(method.full_name).inc()

    def close_stream(self, method: Method) -> None:
        """Counts a stream that ends."""
        self._open.labels(method.full_name).dec()

    def record(self, call: Call, code: grpc.StatusCode, reason: str = "", sent: int | None = None) -> None:
        """Records a call's end; ``sent`` is the number of messages of a stream."""
        seconds = time.perf_counter() - call.started
        name = call.method.full_name
        counter = self._children.get((name, code))
        if counter is None:
            counter = self._children[name, code] = self._calls.labels(name, code.name)
        counter.inc()
        if not call.method.server_streaming:
            histogram = self._histograms.get(name)
            if histogram is None:
                histogram = self._histograms[name] = self._seconds.labels(name)
            histogram.observe(seconds)
        if self._enabled and not (call.method.infrastructure and code is grpc.StatusCode.OK):
            self._write(call, code, reason, sent, seconds)

    def _write(self, call: Call, code: grpc.StatusCode, reason: str, sent: int | None, seconds: float) -> None:
        line: dict[str, object] = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "level": "info",
            "event": "call",
            "method": call.method.full_name,
            "code": code.name,
            "ms": round(seconds * 1000, 3),
            "user": call.principal.username,
            "request_id": call.request_id,
            "peer": call.peer,
        }
        if reason:
            line["reason"] = reason
        if sent is not None:
            line["sent"] = sent
        if call.trace_id:
            line["trace_id"] = call.trace_id
        self._lines.append(json.dumps(line, ensure_ascii=True))
        if len(self._lines) >= _FLUSH_LINES:
            self.flush()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_FLUSH_SECONDS, self.flush)

    def flush(self) -> None:
        """Writes the lines gathered so far."""
        if self._timer:
            self._timer.cancel()
            self._timer = None
        lines, self._lines = self._lines, []
        if lines:
            print("\n".join(lines), file=self._stream, flush=True)
