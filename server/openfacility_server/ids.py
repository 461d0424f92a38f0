"""Ids: short, lower-case, and in the order of their making."""

from __future__ import annotations

import secrets
import time
from threading import Lock

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_RANDOM_BITS = 21
_LENGTH = 13


class IdMaker:
    """Makes ids of 13 characters: 44 bits of milliseconds, then 21 bits that start at random and count up within one.

    Two servers may, very rarely, make the same id: the database refuses the second, and its maker tries again.
    """

    def __init__(self) -> None:
        self._last = 0
        self._lock = Lock()

    def __call__(self) -> str:
        """Returns a new id, greater than all before it."""
        with self._lock:
            fresh = time.time_ns() // 1_000_000 << _RANDOM_BITS | secrets.randbits(_RANDOM_BITS - 1)
            self._last = max(fresh, self._last + 1)
            return _base32(self._last)


def _base32(number: int) -> str:
    digits = []
    for _ in range(_LENGTH):
        number, digit = divmod(number, 32)
        digits.append(_ALPHABET[digit])
    return "".join(reversed(digits))
