"""Reads the bearer token out of the ``authorization`` value of a call."""

from __future__ import annotations

import re
from collections.abc import Iterable

from openfacility_server.auth.reasons import refuse

MAX_AUTHORIZATION = 16 * 1024
# token68 of RFC 9110, which RFC 6750 demands of bearer tokens.
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")


def authorization_of(metadata: Iterable[tuple[str, str | bytes]] | None) -> str | None:
    """Returns the ``authorization`` value of gRPC metadata or ASGI headers with lower-case names, None without one.

    Several values become one with commas, as HTTP allows on the way, so that they are refused in either form.
    """
    found: str | None = None
    for name, value in metadata or ():
        if name == "authorization":
            text = value if isinstance(value, str) else value.decode("latin-1")
            found = text if found is None else f"{found},{text}"
    return found


def bearer_token(authorization: str) -> str:
    """Returns the token of ``Bearer <token>``. Raises Unauthenticated."""
    if len(authorization) > MAX_AUTHORIZATION:
        raise refuse("TOKEN_TOO_LARGE", limit=str(MAX_AUTHORIZATION))
    if not authorization.isascii() or not authorization.isprintable():
        raise refuse("TOKEN_CHARACTERS")
    scheme, _, token = authorization.strip(" ").partition(" ")
    token = token.lstrip(" ")
    if not scheme:
        raise refuse("TOKEN_EMPTY")
    if "," in authorization:
        raise refuse("TOKEN_SEVERAL")
    if scheme.lower() != "bearer":
        raise refuse("TOKEN_SCHEME")
    if not token:
        raise refuse("TOKEN_EMPTY")
    if not _TOKEN.fullmatch(token):
        raise refuse("TOKEN_CHARACTERS")
    return token
