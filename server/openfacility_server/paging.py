"""Page tokens: sealed, so that nobody reads or makes one, and tied to their query and caller.

A token holds where the next page starts, never what the caller may see: that is decided anew for every page.
"""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass
from typing import Any

from cryptography.fernet import Fernet, InvalidToken

from openfacility_server.errors import InvalidArgument, Violation

_LIFETIME_SECONDS = 24 * 3600
DEFAULT_PAGE = 100
MAX_PAGE = 1000


@dataclass(frozen=True, slots=True)
class Position:
    """Where the next page starts: after the row with this key. ``revision`` is that of the first page."""

    key: str
    revision: int


class Pager:
    """Seals and opens page tokens with the key that all servers of one database share."""

    def __init__(self, key: bytes) -> None:
        self._fernet = Fernet(key)

    @staticmethod
    def new_key() -> bytes:
        """Makes a key."""
        return Fernet.generate_key()

    def seal(self, position: Position, query: bytes, username: str) -> str:
        """Returns the token of a position in the list that ``query`` (its serialized request) asks for."""
        content = {"k": position.key, "r": position.revision, "q": _digest(query, username)}
        return self._fernet.encrypt(json.dumps(content).encode()).decode()

    def open(self, token: str, query: bytes, username: str) -> Position:
        """Returns a token's position. Raises InvalidArgument when it is not of this query and caller, or too old."""
        content: dict[str, Any] = {}
        try:
            content = json.loads(self._fernet.decrypt(token.encode(), ttl=_LIFETIME_SECONDS))
            # Decoding passes over what is no base64, so a token with something added would be as good.
            genuine = base64.urlsafe_b64encode(base64.urlsafe_b64decode(token)).decode() == token
        except (InvalidToken, ValueError):
            genuine = False
        if not genuine:
            raise _refused("is not a token of this service or has expired; list from the start")
        if content["q"] != _digest(query, username):
            raise _refused("belongs to another query; keep all other fields as they were or list from the start")
        return Position(content["k"], content["r"])


def page_size(asked: int) -> int:
    """Returns how many rows to read for a ``page_size`` of the caller."""
    return min(asked or DEFAULT_PAGE, MAX_PAGE)


def _digest(query: bytes, username: str) -> str:
    return hashlib.sha256(username.encode() + b"\0" + query).hexdigest()


def _refused(text: str) -> InvalidArgument:
    return InvalidArgument([Violation("page_token", text, "PAGE_TOKEN_INVALID")], reason="PAGE_TOKEN_INVALID")
