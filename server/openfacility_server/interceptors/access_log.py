"""The access log (one JSON line a call) and the metrics of calls.

What a call costs here is an append and a few additions. Lines are made and written together a few times a second, when
the code that makes them is warm: one by one they would cost as much as the call's own work.
"""

from __future__ import annotations

import asyncio
import sys
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from itertools import accumulate
from json.encoder import encode_basestring_ascii as _quoted
from typing import NamedTuple, TextIO

import grpc
from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from openfacility_server.interceptors.call import Call
from openfacility_server.rpc import Method

_FLUSH_SECONDS = 0.1
_FLUSH_LINES = 1000
_BOUNDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_OK = grpc.StatusCode.OK


class _Entry(NamedTuple):
    time: float
    call: Call
    code: grpc.StatusCode
    reason: str
    sent: int | None
    seconds: float


class AccessLog:
    """Writes a line and counts, when a call ends. Health checks are counted but not logged unless they fail."""

    def __init__(self, registry: CollectorRegistry, enabled: bool, stream: TextIO | None = None) -> None:
        self._enabled = enabled
        self._stream = stream or sys.stderr
        self._entries: list[_Entry] = []
        self._timer: asyncio.TimerHandle | None = None
        self._metrics = _CallMetrics()
        registry.register(self._metrics)
        self._open = Gauge("openfacility_grpc_open_streams", "Streams open now", ["method"], registry=registry)

    def open_stream(self, method: Method) -> None:
        """Counts a stream that opens."""
        self._open.labels(method.full_name).inc()

    def close_stream(self, method: Method) -> None:
        """Counts a stream that ends."""
        self._open.labels(method.full_name).dec()

    def record(self, call: Call, code: grpc.StatusCode, reason: str = "", sent: int | None = None) -> None:
        """Records a call's end; ``sent`` is the number of messages of a stream."""
        seconds = time.perf_counter() - call.started
        self._metrics.count(call.method, code, seconds)
        if not self._enabled or (code is _OK and call.method.infrastructure):
            return
        self._entries.append(_Entry(time.time(), call, code, reason, sent, seconds))
        if len(self._entries) >= _FLUSH_LINES:
            self.flush()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_FLUSH_SECONDS, self.flush)

    def flush(self) -> None:
        """Writes the lines gathered so far."""
        if self._timer:
            self._timer.cancel()
            self._timer = None
        entries, self._entries = self._entries, []
        if entries:
            print("\n".join(map(_line, entries)), file=self._stream, flush=True)


def _line(entry: _Entry) -> str:
    """Returns a call's line; made by hand, which takes a third of the time of ``json.dumps``."""
    call = entry.call
    ended = datetime.fromtimestamp(entry.time, UTC).isoformat(timespec="milliseconds")
    line = (
        f'{{"time": "{ended}", "level": "info", "event": "call", "method": {_quoted(call.method.full_name)}, '
        f'"code": "{entry.code.name}", "ms": {entry.seconds * 1000:.3f}, "user": {_quoted(call.principal.username)}, '
        f'"request_id": {_quoted(call.request_id)}, "peer": {_quoted(call.peer)}'
    )
    if entry.reason:
        line += f', "reason": {_quoted(entry.reason)}'
    if entry.sent is not None:
        line += f', "sent": {entry.sent}'
    if call.trace_id:
        line += f', "trace_id": {_quoted(call.trace_id)}'
    return line + "}"


class _Figures:
    """What is counted of one method."""

    __slots__ = ("buckets", "codes", "ok", "seconds")

    def __init__(self) -> None:
        self.ok = 0
        self.codes: Counter[grpc.StatusCode] = Counter()  # of calls that were not OK
        self.buckets = [0] * (len(_BOUNDS) + 1)
        self.seconds = 0.0


class _CallMetrics(Collector):
    """Counts of calls and their times: plain numbers, since only the event loop's thread counts and reads them."""

    def __init__(self) -> None:
        self._unary: dict[str, _Figures] = {}
        self._streams: dict[str, _Figures] = {}

    def count(self, method: Method, code: grpc.StatusCode, seconds: float) -> None:
        kind = self._streams if method.server_streaming else self._unary
        figures = kind.get(method.full_name)
        if figures is None:
            figures = kind[method.full_name] = _Figures()
        if code is _OK:
            figures.ok += 1
        else:
            figures.codes[code] += 1
        figures.buckets[bisect_left(_BOUNDS, seconds)] += 1
        figures.seconds += seconds

    def describe(self) -> Iterable[Metric]:
        return (_calls(), _times())

    def collect(self) -> Iterator[Metric]:
        calls, times = _calls(), _times()
        for name, figures in [*self._unary.items(), *self._streams.items()]:
            for code, count in ((_OK, figures.ok), *figures.codes.items()):
                if count:
                    calls.add_metric([name, code.name], count)
        bounds = [*map(str, _BOUNDS), "+Inf"]
        for name, figures in self._unary.items():
            buckets = list(zip(bounds, accumulate(figures.buckets), strict=True))
            times.add_metric([name], buckets, sum_value=figures.seconds)
        yield calls
        yield times


def _calls() -> CounterMetricFamily:
    return CounterMetricFamily("openfacility_grpc_calls", "Calls served", labels=["method", "code"])


def _times() -> HistogramMetricFamily:
    return HistogramMetricFamily("openfacility_grpc_call_seconds", "Time to serve a unary call", labels=["method"])
