"""Why credentials are refused: the stable reasons and the sentences that go with them."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from openfacility_server.errors import Unauthenticated

# No sentence ever holds a part of a token: they end up in logs, tickets and screenshots.
SENTENCES: Mapping[str, str] = MappingProxyType(
    {
        "TOKEN_SEVERAL": "several credentials were sent: send one authorization value",
        "TOKEN_EMPTY": "the authorization value has no token: send 'Bearer' and an access token, or nothing",
        "TOKEN_SCHEME": "only bearer tokens are accepted: send 'Bearer' and an access token",
        "TOKEN_CHARACTERS": "the token has characters that no token has: check how it was copied",
        "TOKEN_TOO_LARGE": "the authorization value is longer than {limit} bytes: ask for a token with less in it",
        "TOKEN_MALFORMED": "the token is not a signed JWT that can be read: send the access token as it was issued",
        "TOKEN_INVALID": "the token's header {header} is not accepted: ask for an ordinary access token",
        "TOKEN_ISSUER_UNKNOWN": "the token's issuer is not accepted here: sign in with the facility's provider",
        "TOKEN_ALGORITHM": "the token's signature algorithm is not accepted: have the provider use {accepted}",
        "TOKEN_KEY_UNKNOWN": "the token's key is not among its issuer's: sign in again",
        "TOKEN_SIGNATURE": "the token's signature does not match: send the access token as it was issued",
        "TOKEN_EXPIRED": "the token has expired: sign in again",
        "TOKEN_NOT_YET_VALID": "the token is not valid yet: check the clocks, then retry",
        "TOKEN_AUDIENCE": "the token is not meant for this service: ask for one with audience {audience}",
        "TOKEN_CLAIM": "the token's claim {claim} {problem}: ask whoever runs the sign-in provider",
    }
)


def refuse(reason: str, **metadata: str) -> Unauthenticated:
    """Makes the error for credentials that are refused; ``metadata`` fills the sentence of ``reason``."""
    return Unauthenticated(reason, SENTENCES[reason].format_map(metadata), metadata)
