"""Says who is calling, from the credentials of a call."""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Callable, Sequence

from openfacility_server.auth.bearer import bearer_token
from openfacility_server.auth.cache import PrincipalCache
from openfacility_server.auth.jwks import KeySource
from openfacility_server.auth.principal import ANONYMOUS, Principal, Role
from openfacility_server.auth.reasons import refuse
from openfacility_server.auth.tokens import TokenVerifier, read_token
from openfacility_server.config import Auth


class Authenticator:
    """Checks development tokens, the tokens of the configured issuers and client certificates.

    Use it on one event loop, between ``start`` and ``close``. ``now`` gives seconds since the epoch, against which
    tokens expire; ``monotonic`` the seconds that ages are counted in.
    """

    def __init__(
        self,
        settings: Auth,
        now: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._cache = PrincipalCache(
            settings.token_cache_entries, settings.token_cache_age.total_seconds(), now, monotonic
        )
        self._dev_tokens = [
            (
                _digest(dev.token.get_secret_value()),
                Principal(dev.username, Role[dev.role.upper()], projects=dev.projects, method="dev-token"),
            )
            for dev in settings.dev_tokens
        ]
        self._certificates = {
            user.name: Principal(user.username, Role[user.role.upper()], method="certificate")
            for user in settings.certificates
        }
        self._sources = [KeySource(issuer, self._cache.forget_keys, monotonic) for issuer in settings.issuers]
        self._verifiers = {
            issuer.issuer: TokenVerifier(issuer, source, now)
            for issuer, source in zip(settings.issuers, self._sources, strict=True)
        }

    async def start(self) -> None:
        """Begins to fetch the issuers' keys, without waiting for them: an issuer that is away delays nothing.

        Raises ConfigError when an issuer's ``ca`` cannot be read.
        """
        for source in self._sources:
            await source.start()

    async def close(self) -> None:
        """Ends all fetching."""
        for source in self._sources:
            await source.close()

    def cached(self, authorization: str | None) -> Principal | None:
        """Returns whom an authorization value stands for if that was verified a short time ago, else None.

        It costs microseconds and never waits. A change of keys, groups or roles bites after ``token_cache_age``.
        """
        return None if authorization is None else self._cache.get(authorization)

    async def authenticate(self, authorization: str | None, certificate_names: Sequence[str] = ()) -> Principal:
        """Returns who is calling; without credentials, ``ANONYMOUS``.

        A token goes before a certificate: who sends both acts as the token says. ``certificate_names`` are those of
        ``tls.certificate_names``; the first one that is configured counts. Raises Unauthenticated for a token that
        is not accepted (``reasons.SENTENCES`` has the reasons), Unavailable when it cannot be checked now.
        """
        if authorization is None:
            return self._by_certificate(certificate_names)
        if (principal := self._cache.get(authorization)) is not None:
            return principal
        token = bearer_token(authorization)
        if (principal := self._by_dev_token(token)) is not None:
            self._cache.put(authorization, principal)
            return principal
        unverified = read_token(token)
        issuer = unverified.claims.get("iss")
        verifier = self._verifiers.get(issuer) if isinstance(issuer, str) else None
        if verifier is None:
            raise refuse("TOKEN_ISSUER_UNKNOWN")
        verified = await verifier.verify(unverified)
        self._cache.put(authorization, verified.principal, verified.ends, verified.key)
        return verified.principal

    def _by_certificate(self, names: Sequence[str]) -> Principal:
        for name in names:
            if (principal := self._certificates.get(name)) is not None:
                return principal
        return ANONYMOUS

    def _by_dev_token(self, token: str) -> Principal | None:
        # Every one is compared, in constant time, so that the time taken says nothing about them.
        digest, found = _digest(token), None
        for expected, principal in self._dev_tokens:
            if hmac.compare_digest(digest, expected):
                found = principal
        return found


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
