"""Bearer tokens: what one is and where it comes from."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

EARLY = 10.0
"""Seconds before its end at which a token counts as expired, for the way to the server and clocks that differ."""


@dataclass(frozen=True, slots=True)
class Token:
    """A bearer token that may expire. Its value is never shown."""

    value: str = field(repr=False)
    expires_at: float | None = None
    """Seconds since 1970 (`time.time`) at which it expires; None when it does not, or when nobody knows."""

    @property
    def expired(self) -> bool:
        """Whether it is time for a new one."""
        return self.expires_at is not None and time.time() >= self.expires_at - EARLY


TokenSource = str | Token | Callable[[], str | Token]
"""A token, or a callable that returns one. The callable is asked for another one when the server refuses the last
(`Unauthenticated`), or when that has expired."""

AsyncTokenSource = TokenSource | Callable[[], Awaitable[str | Token]]
"""As `TokenSource`; the callable may be a coroutine function."""


def as_token(value: str | Token) -> Token:
    """Return a token, given as one or as its value.

    Raises:
        ValueError: it is empty, or has characters that no token has.
    """
    token = value if isinstance(value, Token) else Token(value.strip())
    if not token.value or not token.value.isascii() or not token.value.isprintable():
        raise ValueError("the token is empty or has characters that no token has")
    return token
