"""The token of one client: kept, and fetched anew when it is time."""

from __future__ import annotations

from typing import Any

from openfacility_client._aio import Lock, settle
from openfacility_client._tokens import AsyncTokenSource, Token, as_token


class AsyncTokens:
    """Hands out the current token. However many calls need a fresh one at a time, it is fetched once."""

    def __init__(self, source: AsyncTokenSource | None) -> None:
        """Take a token, something that gets one, or nothing."""
        self._source: Any = source
        self._token: Token | None = None
        self._lock = Lock()
        if source is not None and not callable(source):
            self._token = as_token(source)

    async def current(self) -> Token | None:
        """Return a token that has not expired as far as anyone knows; None when there is none to have."""
        token = self._token
        if not callable(self._source) or (token is not None and not token.expired):
            return token
        return await self._fetch(token)

    async def refresh(self, refused: Token | None) -> bool:
        """Get another token than the one that the server refused; return whether there is one."""
        if not callable(self._source):
            return False
        return await self._fetch(refused) != refused

    async def _fetch(self, known: Token | None) -> Token:
        async with self._lock:
            if self._token is None or self._token == known:
                self._token = as_token(await settle(self._source()))
            return self._token
