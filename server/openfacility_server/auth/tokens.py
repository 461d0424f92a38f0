"""Verifies the signed tokens (JWT) of one issuer and says who they stand for."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from joserfc import jwt
from joserfc.errors import (
    ClaimError,
    ExpiredTokenError,
    JoseError,
    MissingClaimError,
    UnsupportedAlgorithmError,
)
from joserfc.jws import CompactSignature, JWSRegistry, extract_compact, validate_compact

from openfacility_server.auth.jwks import KeySource, SigningKey
from openfacility_server.auth.principal import Principal, Role
from openfacility_server.auth.reasons import refuse
from openfacility_server.config import Issuer, name_error
from openfacility_server.errors import Unavailable

# What OAuth and OpenID Connect put there. Others (logout+jwt, dpop+jwt, ...) are signed by the same keys, but nobody
# signs in with them.
_TYPES = frozenset({"jwt", "application/jwt", "at+jwt", "application/at+jwt"})
# A token without a key id is tried against this many keys: each try costs a verification.
_MAX_TRIES = 4


class _Registry(JWSRegistry):
    """The rules for the signatures of one issuer's tokens."""

    # Some providers send their certificate chain along in the header.
    max_header_length = 8192

    def __init__(self, accepted: frozenset[str]) -> None:
        super().__init__(algorithms=accepted, strict_check_header=False)
        self._accepted = accepted

    def get_alg(self, name: str) -> Any:
        """Returns an algorithm of the allow-list, and no other.

        The base class also warns about the name EdDSA on every call; providers go on using it.
        """
        if name not in self._accepted or name not in self.algorithms:
            raise UnsupportedAlgorithmError
        return self.algorithms[name]


_EXTRACTION = _Registry(frozenset())


class UnverifiedToken(NamedTuple):
    """A token that was read; nothing in it may be believed yet."""

    signature: CompactSignature
    header: dict[str, Any]
    claims: dict[str, Any]


class Verified(NamedTuple):
    """Who a verified token stands for, until when (seconds since the epoch), and the key that signed it."""

    principal: Principal
    ends: float
    key: str


def read_token(token: str) -> UnverifiedToken:
    """Takes a token apart. Raises Unauthenticated."""
    try:
        signature = extract_compact(token.encode("ascii"), registry=_EXTRACTION)
        header: Any = signature.headers()
        claims: Any = json.loads(signature.payload)
    except (JoseError, ValueError, TypeError, RecursionError):
        raise refuse("TOKEN_MALFORMED") from None
    if not isinstance(header, dict) or not isinstance(claims, dict):
        raise refuse("TOKEN_MALFORMED")
    return UnverifiedToken(signature, header, claims)


class TokenVerifier:
    """Verifies the tokens of one issuer; ``now`` gives seconds since the epoch."""

    def __init__(self, issuer: Issuer, keys: KeySource, now: Callable[[], float]) -> None:
        self._issuer = issuer
        self._keys = keys
        self._algorithms = frozenset(issuer.algorithms)
        self._registry = _Registry(self._algorithms)
        self._leeway = issuer.leeway.total_seconds()
        self._claims = jwt.JWTClaimsRegistry(
            now=lambda: int(now()),
            leeway=int(self._leeway),
            iss={"essential": True, "value": issuer.issuer},
            aud={"essential": True, "value": issuer.audience},
            exp={"essential": True},
        )
        self._role_groups = {group: Role[role.upper()] for group, role in issuer.role_groups.items()}
        self._default_role = Role[issuer.default_role.upper()]

    async def verify(self, token: UnverifiedToken) -> Verified:
        """Returns whom a token stands for. Raises Unauthenticated, or Unavailable when there are no keys."""
        algorithm = self._checked_algorithm(token.header)
        key = await self._signer(token, algorithm)
        self._check_claims(token.claims)
        expires = self._expires(token.claims)
        return Verified(self._principal(token.claims, expires), expires.timestamp(), key.thumbprint)

    def _checked_algorithm(self, header: dict[str, Any]) -> str:
        # Nothing is critical that we would understand. b64 changes what is signed.
        for name in ("crit", "b64"):
            if name in header:
                raise refuse("TOKEN_INVALID", header=name)
        kind = header.get("typ", "JWT")
        if not isinstance(kind, str) or kind.lower() not in _TYPES:
            raise refuse("TOKEN_INVALID", header="typ")
        if not isinstance(header.get("kid", ""), str):
            raise refuse("TOKEN_INVALID", header="kid")
        algorithm = header.get("alg")
        if not isinstance(algorithm, str) or algorithm not in self._algorithms:
            raise refuse("TOKEN_ALGORITHM", accepted=", ".join(self._issuer.algorithms))
        return algorithm

    async def _signer(self, token: UnverifiedToken, algorithm: str) -> SigningKey:
        """Returns the issuer's key that signed the token. Keys that the token brings or points to are ignored."""
        kid = token.header.get("kid")
        candidates = await self._keys.matching(kid, algorithm)
        key = self._verifying(token.signature, candidates)
        if key is None and await self._renewed(bool(candidates)):
            candidates = await self._keys.matching(kid, algorithm)
            key = self._verifying(token.signature, candidates)
        if key is None:
            raise refuse("TOKEN_SIGNATURE" if candidates else "TOKEN_KEY_UNKNOWN")
        return key

    async def _renewed(self, have_candidates: bool) -> bool:
        try:
            return await self._keys.renew()
        except Unavailable:
            # Without the provider's word an unknown key may be a new one, but a bad signature is a bad signature.
            if have_candidates:
                return False
            raise

    def _verifying(self, signature: CompactSignature, keys: Sequence[SigningKey]) -> SigningKey | None:
        for key in keys[:_MAX_TRIES]:
            try:
                if validate_compact(signature, key.key, registry=self._registry):
                    return key
            except (JoseError, ValueError, TypeError):
                continue
        return None

    def _check_claims(self, claims: dict[str, Any]) -> None:
        try:
            self._claims.validate(claims)
        except ExpiredTokenError:
            raise refuse("TOKEN_EXPIRED") from None
        except MissingClaimError as error:
            if "aud" in error.claim.split(","):
                raise refuse("TOKEN_AUDIENCE", audience=self._issuer.audience) from None
            raise _claim(error.claim, "is missing") from None
        except ClaimError as error:
            if error.claim == "aud":
                raise refuse("TOKEN_AUDIENCE", audience=self._issuer.audience) from None
            if error.claim in ("nbf", "iat") and _is_number(claims[error.claim]):
                raise refuse("TOKEN_NOT_YET_VALID") from None
            raise _claim(error.claim, "has a wrong value") from None
        if "cnf" in claims:
            # Whoever stole it must not be able to use it, which only a proof of possession would show.
            raise _claim("cnf", "binds it to a key, which this service does not check")

    def _expires(self, claims: dict[str, Any]) -> datetime:
        try:
            return datetime.fromtimestamp(float(claims["exp"]) + self._leeway, UTC)
        except (ValueError, OverflowError, OSError):
            raise _claim("exp", "has a wrong value") from None

    def _principal(self, claims: dict[str, Any], expires: datetime) -> Principal:
        subject = claims.get("sub", "")
        if subject and name_error(subject):
            raise _claim("sub", "has a wrong value")
        groups = _names(claims, self._issuer.groups_claim)
        roles = [role for group in groups if (role := self._role_groups.get(group))]
        return Principal(
            username=self._username(claims),
            role=max(roles, default=self._default_role),
            scopes=self._scopes(claims) if self._issuer.require_scopes else None,
            projects=_names(claims, self._issuer.projects_claim),
            groups=groups,
            expires=expires,
            method="oidc",
            issuer=self._issuer.issuer,
            subject=subject,
        )

    def _username(self, claims: dict[str, Any]) -> str:
        claim = self._issuer.username_claim
        name = _find(claims, claim)
        if name is None:
            raise _claim(claim, "is missing")
        if not isinstance(name, str) or not name or name_error(self._issuer.username_prefix + name):
            raise _claim(claim, "cannot be a username")
        # With some providers anybody can enter any address; only a confirmed one says who they are.
        if claim == "email" and claims.get("email_verified") is False:
            raise _claim("email", "is not verified")
        return self._issuer.username_prefix + name

    def _scopes(self, claims: dict[str, Any]) -> frozenset[str]:
        prefix = self._issuer.scope_prefix
        found: set[str] = set()
        for claim in ("scope", "scp"):
            value = claims.get(claim, ())
            scopes = value.split(" ") if isinstance(value, str) else value
            if not isinstance(scopes, Sequence) or not all(isinstance(scope, str) for scope in scopes):
                raise _claim(claim, "has a wrong value")
            found.update(scope[len(prefix) :] for scope in scopes if scope.startswith(prefix))
        found.discard("")
        return frozenset(found)


def _claim(claim: str, problem: str) -> Exception:
    return refuse("TOKEN_CLAIM", claim=claim, problem=problem)


def _is_number(value: object) -> bool:
    # An int may be too large for math.isfinite.
    return type(value) is int or (type(value) is float and math.isfinite(value))


def _find(claims: dict[str, Any], path: str) -> Any:
    """Returns the claim named ``path``, or else, for ``a.b``, what is at b within a; None without one."""
    if path in claims:
        return claims[path]
    value: Any = claims
    for part in path.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _names(claims: dict[str, Any], path: str) -> tuple[str, ...]:
    value = _find(claims, path)
    names = () if value is None else [value] if isinstance(value, str) else value
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise _claim(path, "has a wrong value")
    # A provider's odd group must not lock its members out; nothing here could name it anyway.
    return tuple(name for name in names if name_error(name) is None)
