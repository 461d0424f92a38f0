"""What is known of the call being served, from its first metadata to its log line."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Iterable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field

from openfacility_server.auth.principal import ANONYMOUS, Principal
from openfacility_server.rpc import Method

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}\Z")
# W3C trace context: what does not match counts as not sent.
_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}\Z")


@dataclass(slots=True)
class Call:
    """One call. ``json`` is whether Envoy transcodes it; ``deadline`` is on the monotonic clock, None without one."""

    method: Method
    request_id: str
    peer: str = ""
    json: bool = False
    authorizations: Sequence[str] = ()
    certificate_names: Sequence[str] = ()
    traceparent: str = ""
    deadline: float | None = None
    principal: Principal = ANONYMOUS
    trace_id: str = ""
    started: float = field(default_factory=time.perf_counter)

    def remaining(self) -> float | None:
        """Returns the seconds left of the caller's time, or None when it is not bounded."""
        return None if self.deadline is None else max(0.0, self.deadline - time.monotonic())


# Request ids are to differ, not to be secret; this takes a fifth of the time of a UUID from the system's randomness.
_random = random.Random()
_current: ContextVar[Call] = ContextVar("openfacility_call")


def current_call() -> Call:
    """Returns the call that this task serves. Raises LookupError outside of one."""
    return _current.get()


def begin(method: Method, metadata: Iterable[tuple[str, str | bytes]], peer: str) -> Call:
    """Makes the record of a call from its metadata, and makes it current."""
    request_id = traceparent = ""
    json = False
    authorizations: list[str] = []
    for key, value in metadata:
        if key == "authorization":
            authorizations.append(str(value))
        elif key == "x-request-id":
            request_id = str(value)
        elif key == "traceparent":
            traceparent = str(value)
        elif key == "x-openfacility-json":
            json = True
    if not request_id or not _REQUEST_ID.match(request_id):
        request_id = f"{_random.getrandbits(128):032x}"
    if traceparent and not _TRACEPARENT.match(traceparent):
        traceparent = ""
    trace_id = traceparent[3:35]
    call = Call(method, request_id, peer, json, authorizations, traceparent=traceparent, trace_id=trace_id)
    _current.set(call)
    return call
