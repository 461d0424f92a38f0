"""Bounds on what is at work at once: budgets for unary calls, for streams, and for each caller's streams."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from openfacility_server.config import Limits
from openfacility_server.errors import ResourceExhausted
from openfacility_server.interceptors.call import Call

_RETRY = timedelta(seconds=1)


class Limiter:
    """Counts calls and streams at work. Health checks are never refused."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._unary = 0
        self._streams = 0
        self._per_caller: Counter[str] = Counter()

    def begin_unary(self, call: Call) -> None:
        """Takes a place for one unary call; give it back with ``end_unary``. Raises ResourceExhausted."""
        if self._unary >= self._limits.unary_concurrency and not call.method.infrastructure:
            raise ResourceExhausted("TOO_MANY_CALLS", "the server is at its limit of calls at once; retry", _RETRY)
        self._unary += 1

    def end_unary(self) -> None:
        """Gives a place back."""
        self._unary -= 1

    @contextmanager
    def stream(self, call: Call) -> Iterator[None]:
        """Holds a place for one stream. Raises ResourceExhausted. Streams of health and reflection take no place."""
        if call.method.infrastructure:
            yield
            return
        caller = call.principal.username or call.peer
        if self._streams >= self._limits.streams:
            raise ResourceExhausted("TOO_MANY_STREAMS", "the server is at its limit of open streams; retry", _RETRY)
        if self._per_caller[caller] >= self._limits.streams_per_caller:
            raise ResourceExhausted(
                "TOO_MANY_STREAMS_OF_CALLER",
                f"you have {self._limits.streams_per_caller} streams open, the most you may have; close some",
                _RETRY,
                {"limit": str(self._limits.streams_per_caller)},
            )
        self._streams += 1
        self._per_caller[caller] += 1
        try:
            yield
        finally:
            self._streams -= 1
            self._per_caller[caller] -= 1
            if not self._per_caller[caller]:
                del self._per_caller[caller]
