"""Tokens by which Slurm takes a request as one of a user: JWT, HS256, signed here with the cluster's key."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import OctKey

from openfacility_server.jobs.engines import EngineUnavailable

_LIFE_SECONDS = 600
_USE_SECONDS = 300
_MOST = 10_000


class Tokens:
    """Signs tokens and keeps each for half of its life. The key is read again when its file changes."""

    def __init__(self, key: Path) -> None:
        """Nothing is read yet."""
        self._path = key
        self._key: OctKey | None = None
        self._stamp: tuple[int, int, int] | None = None
        self._known: dict[str, tuple[float, str]] = {}

    async def token(self, user: str) -> str:
        """Returns a token of an account. Raises EngineUnavailable when the key cannot be read."""
        key = await asyncio.to_thread(self._read)
        known = self._known.get(user)
        if known is not None and time.monotonic() - known[0] < _USE_SECONDS:
            return known[1]
        if len(self._known) >= _MOST:
            self._known.clear()
        now = int(time.time())
        claims = {"exp": now + _LIFE_SECONDS, "iat": now, "sun": user}
        token = jwt.encode({"alg": "HS256", "typ": "JWT"}, claims, key, algorithms=["HS256"])
        self._known[user] = (time.monotonic(), token)
        return token

    def _read(self) -> OctKey:
        try:
            found = self._path.stat()
            stamp = (found.st_ino, found.st_mtime_ns, found.st_size)
            if self._key is None or stamp != self._stamp:
                self._known.clear()
                self._key, self._stamp = OctKey.import_key(self._path.read_bytes()), stamp
        except (OSError, JoseError, ValueError) as error:
            raise EngineUnavailable("The server cannot read the key of the batch system's tokens.") from error
        return self._key
