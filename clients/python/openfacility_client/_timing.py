"""Deadlines and back-off."""

from __future__ import annotations

import math
import random
import time
from datetime import timedelta

from openfacility_client._settings import to_seconds


class Deadline:
    """A moment by which something has to be done. None means never."""

    def __init__(self, timeout: timedelta | float | None) -> None:
        """Start to count now."""
        seconds = math.inf if timeout is None else to_seconds(timeout)
        self._end = time.monotonic() + seconds

    @property
    def remaining(self) -> float:
        """Seconds left, at least 0; infinite when there is no limit."""
        return max(0.0, self._end - time.monotonic())

    @property
    def grpc_timeout(self) -> float | None:
        """Seconds left in the way gRPC wants them."""
        remaining = self.remaining
        return None if math.isinf(remaining) else remaining

    @property
    def passed(self) -> bool:
        """Whether no time is left."""
        return self.remaining <= 0


class Backoff:
    """Grows from one failure to the next, with jitter, so that many clients do not come back all at once."""

    FIRST = 0.1
    """Seconds."""
    LONGEST = 10.0
    """Seconds."""

    def __init__(self) -> None:
        """Start small."""
        self.failures = 0

    def next(self) -> float:
        """Return how many seconds to wait after one more failure."""
        longest: float = min(self.LONGEST, self.FIRST * 2 ** min(self.failures, 16))
        self.failures += 1
        return random.uniform(0.5, 1.0) * longest

    def reset(self) -> None:
        """Start small again, after a success."""
        self.failures = 0
