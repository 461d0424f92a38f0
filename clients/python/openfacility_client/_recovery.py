"""What to do when a stream breaks or a call fails. No input or output here: both clients ask the same code.

A stream is resumed after

* UNAVAILABLE, whoever says it: the server is gone, stopping or restarting;
* CANCELLED, INTERNAL, UNKNOWN or DEADLINE_EXCEEDED *without* an `ErrorInfo`: these come from a transport or a proxy (a
  killed peer's RST_STREAM, "Stream removed"), because the service itself always gives a reason. Not for ever, though:
  after `MOST_UNEXPLAINED` of them in a row, without a response in between, the error is raised;
* RESOURCE_EXHAUSTED with `RetryInfo`, after the time that it asks for;
* UNAUTHENTICATED, once, if there is a fresh token to be had;
* an end without an error that is not the end of the matter (the cursor knows).

Everything else is raised, and so is all of the above once the caller's time has run out.

A call that comes to UNAVAILABLE is repeated by gRPC itself, as `service_config.json` says. A submission is repeated
here, at the same pace, but for as long as the caller's time lasts if it is the batch system that does not answer: that
may be away for longer, and the `request_id` makes it one job, however often it is asked for. RESOURCE_EXHAUSTED with
`RetryInfo` is repeated after the time that it asks for, `MOST_WAITS` times: nothing was done.
"""

from __future__ import annotations

import math
import random
import time
from datetime import timedelta
from enum import Enum

from openfacility_client._exceptions import (
    Canceled,
    DeadlineExceeded,
    Internal,
    OutOfRange,
    ResourceExhausted,
    RPCError,
    Unauthenticated,
    Unavailable,
    Unknown,
)
from openfacility_client._settings import to_seconds
from openfacility_client._timing import Backoff, Deadline

MOST_UNEXPLAINED = 8
MOST_WAITS = 3
PAUSES = (0.2, 0.6, 1.8)
"""Seconds before each further try of a submission that did not reach the service."""
LONGEST_PAUSE = 2.0
"""Seconds between two tries of a submission that the batch system does not answer."""


class Step(Enum):
    """What to do after a failure."""

    RESUME = "wait a little, then resume"
    REFRESH = "get a fresh token, then resume at once"
    LOST = "the position is gone: ask the cursor"
    RAISE = "tell the caller"


class Recovery:
    """Decides after each failure of one stream, and knows how long it has been without contact."""

    def __init__(self, *, timeout: timedelta | float | None, give_up_after: timedelta | float | None) -> None:
        """Start to count now."""
        self.deadline = Deadline(timeout)
        self._patience = math.inf if give_up_after is None else to_seconds(give_up_after)
        self._contact = time.monotonic()
        self._backoff = Backoff()
        self._unexplained = 0
        self._refreshed = False

    def succeeded(self) -> None:
        """Note that a response came."""
        self._contact = time.monotonic()
        self._backoff.reset()
        self._unexplained = 0
        self._refreshed = False

    def step(self, error: RPCError) -> Step:
        """Decide what to do after an error."""
        if self.deadline.passed:
            return Step.RAISE
        if isinstance(error, OutOfRange):
            return Step.LOST
        if isinstance(error, Unauthenticated):
            first, self._refreshed = not self._refreshed, True
            return Step.REFRESH if first else Step.RAISE
        return Step.RESUME if self._passes(error) and not self.exhausted else Step.RAISE

    def delay(self, error: RPCError | None = None) -> float:
        """Return how many seconds to wait before the stream is resumed."""
        asked = (error.retry_after if error else None) or 0.0
        return min(max(self._backoff.next(), asked), self.deadline.remaining)

    @property
    def exhausted(self) -> bool:
        """Whether it has been longer without contact than the caller is willing to bear."""
        return time.monotonic() - self._contact >= self._patience

    def _passes(self, error: RPCError) -> bool:
        """Whether an error is one that passes by itself."""
        if isinstance(error, Unavailable):
            return True
        if isinstance(error, ResourceExhausted):
            return error.retry_after is not None
        if isinstance(error, (Canceled, Internal, Unknown, DeadlineExceeded)) and not error.reason:
            self._unexplained += 1
            return self._unexplained <= MOST_UNEXPLAINED
        return False


class Retries:
    """Decides after each failure of one call whether it is made again."""

    def __init__(self, method: str, deadline: Deadline) -> None:
        """Begin with a call of this method."""
        self._deadline = deadline
        self._submits = method == "SubmitJob"
        self._backoff = Backoff()
        self._waits = 0
        self._pauses = list(PAUSES)
        self._pending: Unavailable | None = None

    def delay(self, error: RPCError) -> float | None:
        """Return how many seconds to wait before the call is made again; None if it is not."""
        if isinstance(error, ResourceExhausted) and error.retry_after is not None:
            self._waits += 1
            return self._in_time(error.retry_after) if self._waits <= MOST_WAITS else None
        if isinstance(error, Unavailable) and self._submits:
            if error.reason == "SUBMIT_PENDING":
                self._pending = error
            if error.reason in ("SUBMIT_PENDING", "ENGINE_UNAVAILABLE"):
                return self._in_time(max(min(self._backoff.next(), LONGEST_PAUSE), error.retry_after or 0.0))
            if self._pauses:
                return self._in_time(max(random.uniform(0.8, 1.2) * self._pauses.pop(0), error.retry_after or 0.0))
        return None

    def telling(self, error: RPCError) -> RPCError:
        """Return the error to raise: once a job is on record, the one that says so, whatever comes between."""
        return self._pending or error if isinstance(error, (DeadlineExceeded, Unavailable)) else error

    def _in_time(self, delay: float) -> float | None:
        return delay if delay < self._deadline.remaining else None
