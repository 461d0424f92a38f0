"""Remembers who verified tokens stand for, so that a token is not verified again on every call."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

from openfacility_server.auth.bearer import MAX_AUTHORIZATION
from openfacility_server.auth.principal import Principal


class _Entry(NamedTuple):
    principal: Principal
    ends: float
    until: float
    key: str


class PrincipalCache:
    """Principals by the SHA-256 of the whole authorization value; the least recently used one goes first.

    ``max_age`` is in seconds and bounds how long a revoked key or token is still accepted. ``now`` gives the seconds
    since the epoch, against which tokens expire; ``monotonic`` gives seconds that no change of the clock moves.
    """

    def __init__(self, entries: int, max_age: float, now: Callable[[], float], monotonic: Callable[[], float]) -> None:
        self._limit = entries
        self._max_age = max_age
        self._now = now
        self._monotonic = monotonic
        self._entries: OrderedDict[bytes, _Entry] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, authorization: str) -> Principal | None:
        """Returns the principal of a value that was verified before and has not ended since."""
        if len(authorization) > MAX_AUTHORIZATION:
            return None
        digest = _digest(authorization)
        entry = self._entries.get(digest)
        if entry is None:
            return None
        if entry.ends <= self._now() or entry.until <= self._monotonic():
            del self._entries[digest]
            return None
        self._entries.move_to_end(digest)
        return entry.principal

    def put(self, authorization: str, principal: Principal, ends: float = float("inf"), key: str = "") -> None:
        """Remembers a verified value until ``ends`` (seconds since the epoch); ``key`` is what signed it."""
        digest = _digest(authorization)
        self._entries[digest] = _Entry(principal, ends, self._monotonic() + self._max_age, key)
        self._entries.move_to_end(digest)
        if len(self._entries) > self._limit:
            self._entries.popitem(last=False)

    def forget_keys(self, keys: frozenset[str]) -> None:
        """Forgets everybody whose token was signed by one of ``keys``."""
        for digest in [digest for digest, entry in self._entries.items() if entry.key in keys]:
            del self._entries[digest]


def _digest(authorization: str) -> bytes:
    return hashlib.sha256(authorization.encode("utf-8", "surrogatepass")).digest()
