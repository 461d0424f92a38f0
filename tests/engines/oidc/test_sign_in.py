"""Sign-in with the tokens of a real OpenID Connect provider."""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from joserfc import jws
from joserfc.jwk import RSAKey
from openfacility_server.auth import jwks
from openfacility_server.auth.authenticator import Authenticator
from openfacility_server.auth.principal import Role
from openfacility_server.config import Auth

from tests.engines.oidc import OidcProvider
from tests.unit.auth_support import Clock, authenticating, bearer, refusal, until


def _settings(provider: OidcProvider, **changes: Any) -> Auth:
    entry = {"issuer": provider.issuer, "audience": provider.audience, "allow_http": True, "leeway": 0, **changes}
    return Auth.model_validate({"issuers": [entry]})


@pytest.fixture
async def authenticator(oidc_provider: OidcProvider) -> AsyncIterator[Authenticator]:
    settings = _settings(oidc_provider, role_groups={"ops": "operator", "adm": "admin"})
    async with authenticating(settings) as running:
        yield running


@pytest.mark.parametrize("algorithm", ["RS256", "PS256", "ES256", "EdDSA"])
async def test_an_access_token_signs_in(
    oidc_provider: OidcProvider, authenticator: Authenticator, algorithm: str
) -> None:
    token = oidc_provider.token(
        "alice", groups=["ops"], projects=["demo"], scope="jobs.read jobs.write", algorithm=algorithm
    )
    value = bearer(token)
    assert authenticator.cached(value) is None
    principal = await authenticator.authenticate(value)
    assert (principal.username, principal.role, principal.method) == ("alice", Role.OPERATOR, "oidc")
    assert (principal.projects, principal.groups) == (("demo",), ("ops",))
    assert principal.scopes == frozenset({"jobs.read", "jobs.write"})
    assert principal.issuer == oidc_provider.issuer
    assert authenticator.cached(value) is principal


async def test_a_token_for_another_service_is_refused(
    oidc_provider: OidcProvider, authenticator: Authenticator
) -> None:
    value = bearer(oidc_provider.token(audience="https://elsewhere.test"))
    error = await refusal(authenticator, value)
    assert (error.reason, error.metadata) == ("TOKEN_AUDIENCE", {"audience": oidc_provider.audience})


async def test_a_token_expires(oidc_provider: OidcProvider, authenticator: Authenticator) -> None:
    value = bearer(oidc_provider.token(expires_in=2))
    principal = await authenticator.authenticate(value)
    assert principal.expires is not None
    await until(lambda: authenticator.cached(value) is None)
    assert time.time() >= principal.expires.timestamp()
    assert (await refusal(authenticator, value)).reason == "TOKEN_EXPIRED"


async def test_tokens_of_both_keys_pass_during_a_rotation_and_only_the_new_after(oidc_provider: OidcProvider) -> None:
    monotonic = Clock(1000)
    async with authenticating(_settings(oidc_provider), monotonic=monotonic) as running:
        old = bearer(oidc_provider.token("old"))
        assert (await running.authenticate(old)).username == "old"
        oidc_provider.rotate(keep=True)
        monotonic.time += jwks.RENEW_INTERVAL
        new = bearer(oidc_provider.token("new"))
        assert (await running.authenticate(new)).username == "new"
        assert running.cached(old) is not None
        oidc_provider.forget()
        # Somebody with an unknown key makes the server look; the key that is gone is gone for all.
        monotonic.time += jwks.RENEW_INTERVAL
        token = oidc_provider.token()
        forged = bearer(_with_header(token, {"alg": "RS256", "kid": "bogus"}))
        assert (await refusal(running, forged)).reason == "TOKEN_KEY_UNKNOWN"
        assert running.cached(old) is None
        assert running.cached(new) is not None
        assert (await refusal(running, old)).reason == "TOKEN_KEY_UNKNOWN"


async def test_a_refresh_in_the_background_forgets_removed_keys(oidc_provider: OidcProvider) -> None:
    async with authenticating(_settings(oidc_provider, jwks_max_age=0.2)) as running:
        value = bearer(oidc_provider.token())
        await running.authenticate(value)
        oidc_provider.rotate()
        await until(lambda: running.cached(value) is None)
        assert (await refusal(running, value)).reason == "TOKEN_KEY_UNKNOWN"
        assert (await running.authenticate(bearer(oidc_provider.token()))).username == "alice"


async def test_a_flood_of_unknown_keys_does_not_reach_the_provider(
    oidc_provider: OidcProvider, authenticator: Authenticator
) -> None:
    token = oidc_provider.token()
    await authenticator.authenticate(bearer(token))
    before = oidc_provider.requests()
    flood = [bearer(_with_header(token, {"alg": "RS256", "kid": f"bogus-{n}"})) for n in range(500)]
    errors = await asyncio.gather(*(refusal(authenticator, value) for value in flood))
    assert {error.reason for error in errors} == {"TOKEN_KEY_UNKNOWN"}
    after = oidc_provider.requests()
    assert after["jwks"] - before["jwks"] <= 1
    assert after["discovery"] - before["discovery"] <= 1


async def test_sign_in_goes_on_while_the_provider_is_down(oidc_provider: OidcProvider) -> None:
    monotonic = Clock(1000)
    settings = _settings(oidc_provider, jwks_max_age=600, jwks_max_stale=3600)
    async with authenticating(settings, monotonic=monotonic) as running:
        first, second, third = (bearer(oidc_provider.token(name)) for name in ("a", "b", "c"))
        await running.authenticate(first)
        oidc_provider.down()
        try:
            monotonic.time += 4199
            assert (await running.authenticate(second)).username == "b"
            monotonic.time += 1
            error = await refusal(running, third)
            assert (error.reason, error.metadata) == ("SIGN_IN_UNAVAILABLE", {"issuer": oidc_provider.issuer})
        finally:
            oidc_provider.up()
        monotonic.time += jwks.RETRY_INTERVAL
        assert (await running.authenticate(third)).username == "c"


async def test_the_providers_public_key_is_no_secret(oidc_provider: OidcProvider, authenticator: Authenticator) -> None:
    token = oidc_provider.token()
    kid = jws.extract_compact(token.encode()).headers()["kid"]
    async with httpx.AsyncClient(trust_env=False) as client:
        keys = (await client.get(f"{oidc_provider.issuer}/jwks")).json()["keys"]
    public = RSAKey.import_key(next(key for key in keys if key["kid"] == kid))
    signed = _with_header(token, {"alg": "HS256", "kid": kid}).rpartition(".")[0]
    for secret in (public.as_pem(private=False), public.as_der(private=False), public["n"].encode()):  # type: ignore[union-attr]
        forged = f"{signed}.{_segment(hmac.digest(secret, signed.encode(), 'sha256'))}"
        assert (await refusal(authenticator, bearer(forged))).reason == "TOKEN_ALGORITHM"


async def test_what_was_signed_cannot_be_changed(oidc_provider: OidcProvider, authenticator: Authenticator) -> None:
    token = oidc_provider.token("alice", groups=["users"])
    header, _, signature = token.split(".")
    claims = json.loads(jws.extract_compact(token.encode()).payload)
    changed = _segment(json.dumps({**claims, "groups": ["adm"]}).encode())
    assert (await refusal(authenticator, bearer(f"{header}.{changed}.{signature}"))).reason == "TOKEN_SIGNATURE"
    assert (await refusal(authenticator, bearer(f"{header}.{changed}."))).reason == "TOKEN_SIGNATURE"
    none = _with_header(token, {"alg": "none"}).rpartition(".")[0] + "."
    assert (await refusal(authenticator, bearer(none))).reason == "TOKEN_ALGORITHM"


def _segment(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _with_header(token: str, header: dict[str, str]) -> str:
    """Returns a token with another header, its signature left as it was."""
    return f"{_segment(json.dumps(header).encode())}.{token.partition('.')[2]}"
