"""Signed tokens of an issuer: what is accepted and why the rest is refused."""

from __future__ import annotations

import base64
import hmac
import json
import time
import warnings
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from joserfc import jwe
from joserfc.errors import SecurityWarning
from joserfc.jwk import ECKey, Key, OKPKey
from openfacility_server.auth.authenticator import Authenticator
from openfacility_server.auth.principal import Role
from openfacility_server.auth.reasons import SENTENCES

from tests.unit.auth_support import (
    AUDIENCE,
    Clock,
    KeyServer,
    auth_settings,
    authenticating,
    bearer,
    claims_for,
    refusal,
    rsa_key,
    sign,
)

KEY = rsa_key("one")
STRANGER = rsa_key("one")


@pytest.fixture
async def server() -> AsyncIterator[KeyServer]:
    keys = KeyServer()
    keys.keys = [KEY]
    async with keys.running():
        yield keys


@pytest.fixture
async def authenticator(server: KeyServer) -> AsyncIterator[Authenticator]:
    async with authenticating(auth_settings(server.issuer)) as running:
        yield running


def _segment(value: object) -> str:
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


async def test_a_good_token_says_who_calls(server: KeyServer, authenticator: Authenticator) -> None:
    claims = claims_for(server.issuer, groups=["staff", "beam"], projects="demo")
    principal = await authenticator.authenticate(bearer(sign(KEY, claims)))
    assert principal.username == "alice"
    assert principal.role is Role.USER
    assert principal.scopes == frozenset({"jobs.read", "jobs.write"})
    assert principal.groups == ("staff", "beam")
    assert principal.projects == ("demo",)
    assert principal.expires is not None
    assert principal.expires.timestamp() == claims["exp"]
    assert (principal.method, principal.issuer, principal.subject) == ("oidc", server.issuer, "s-1")


@pytest.mark.parametrize("typ", ["at+jwt", "AT+JWT", "application/at+jwt", "JWT", None])
async def test_types_of_access_and_id_tokens_pass(
    server: KeyServer, authenticator: Authenticator, typ: str | None
) -> None:
    token = sign(KEY, claims_for(server.issuer), typ=typ)
    assert (await authenticator.authenticate(bearer(token))).username == "alice"


@pytest.mark.parametrize("header", ["jku", "x5u"])
async def test_keys_that_a_token_points_to_are_ignored(
    server: KeyServer, authenticator: Authenticator, header: str
) -> None:
    elsewhere = KeyServer()
    elsewhere.keys = [STRANGER]
    async with elsewhere.running():
        pointer = {header: f"{elsewhere.issuer}/jwks"}
        good = sign(KEY, claims_for(server.issuer), **pointer)
        assert (await authenticator.authenticate(bearer(good))).username == "alice"
        forged = sign(STRANGER, claims_for(server.issuer), **pointer)
        assert (await refusal(authenticator, bearer(forged))).reason == "TOKEN_SIGNATURE"
        brought = sign(STRANGER, claims_for(server.issuer), jwk=STRANGER.as_dict(private=False))
        assert (await refusal(authenticator, bearer(brought))).reason == "TOKEN_SIGNATURE"
        assert elsewhere.requests == []


@pytest.mark.parametrize(
    ("key", "algorithm"),
    [
        (rsa_key("two"), "PS256"),
        (ECKey.generate_key("P-256", {"kid": "ec"}), "ES256"),
        (OKPKey.generate_key("Ed25519", {"kid": "ed"}), "EdDSA"),
    ],
)
async def test_each_algorithm_that_is_allowed_verifies(key: Key, algorithm: str) -> None:
    keys = KeyServer()
    keys.keys = [KEY, key]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SecurityWarning)  # of the signer: EdDSA has a newer name
        async with keys.running():
            token = sign(key, claims_for(keys.issuer), algorithm)
            async with authenticating(auth_settings(keys.issuer)) as running:
                assert (await running.authenticate(bearer(token))).username == "alice"
            async with authenticating(auth_settings(keys.issuer, algorithms=["RS256"])) as running:
                assert (await refusal(running, bearer(token))).reason == "TOKEN_ALGORITHM"


def _with(**changes: Any) -> Callable[[str], str]:
    return lambda issuer: sign(KEY, claims_for(issuer, **changes))


def _header(algorithm: str = "RS256", **header: Any) -> Callable[[str], str]:
    return lambda issuer: sign(KEY, claims_for(issuer), algorithm, **header)


def _unsigned(issuer: str) -> str:
    return f"{_segment({'alg': 'none', 'typ': 'JWT'})}.{_segment(claims_for(issuer))}."


def _public_key_as_secret(issuer: str) -> str:
    # By hand: joserfc will not even sign like this.
    signed = f"{_segment({'alg': 'HS256', 'kid': 'one'})}.{_segment(claims_for(issuer))}"
    return f"{signed}.{_segment(hmac.digest(KEY.as_pem(private=False), signed.encode(), 'sha256'))}"


def _stripped(issuer: str) -> str:
    return sign(KEY, claims_for(issuer)).rpartition(".")[0] + "."


def _changed_claims(issuer: str) -> str:
    header, _, signature = sign(KEY, claims_for(issuer)).split(".")
    return f"{header}.{_segment(claims_for(issuer, preferred_username='root'))}.{signature}"


def _changed_algorithm(issuer: str) -> str:
    return f"{_segment({'alg': 'PS256', 'kid': 'one'})}.{sign(KEY, claims_for(issuer)).partition('.')[2]}"


def _encrypted(issuer: str) -> str:
    header = {"alg": "RSA-OAEP", "enc": "A256GCM"}
    return jwe.encrypt_compact(header, json.dumps(claims_for(issuer)), KEY, algorithms=["RSA-OAEP", "A256GCM"])


def _nested(issuer: str) -> str:
    """A token in a token: the payload is not claims."""
    inner = sign(KEY, claims_for(issuer))
    return f"{_segment({'alg': 'RS256', 'cty': 'JWT', 'kid': 'one'})}.{_segment(inner.encode())}.{_segment(b'x' * 256)}"


def _payload(data: bytes) -> Callable[[str], str]:
    return lambda issuer: f"{_segment({'alg': 'RS256', 'kid': 'one'})}.{_segment(data)}.{_segment(b'x' * 256)}"


def _raw_header(data: bytes) -> Callable[[str], str]:
    return lambda issuer: f"{_segment(data)}.{_segment(claims_for(issuer))}.{_segment(b'x' * 256)}"


def _at(claim: str, offset: int) -> Callable[[str], str]:
    """Sets a time claim to ``offset`` seconds from when the token is made."""

    def make(issuer: str) -> str:
        return _with(**{claim: int(time.time()) + offset})(issuer)

    return make


REFUSED: dict[str, tuple[Callable[[str], str], str]] = {
    "unsigned": (_unsigned, "TOKEN_ALGORITHM"),
    "alg NONE": (_raw_header(b'{"alg":"NONE"}'), "TOKEN_ALGORITHM"),
    "public key as HMAC secret": (_public_key_as_secret, "TOKEN_ALGORITHM"),
    "alg of no kind": (_raw_header(b'{"alg":["RS256"]}'), "TOKEN_ALGORITHM"),
    "other issuer": (_with(iss="https://elsewhere.example"), "TOKEN_ISSUER_UNKNOWN"),
    "issuer with a slash more": (lambda issuer: _with(iss=issuer + "/")(issuer), "TOKEN_ISSUER_UNKNOWN"),
    "issuers": (lambda issuer: _with(iss=[issuer])(issuer), "TOKEN_ISSUER_UNKNOWN"),
    "no issuer": (_with(iss=None), "TOKEN_ISSUER_UNKNOWN"),
    "other audience": (_with(aud="other"), "TOKEN_AUDIENCE"),
    "other audiences": (_with(aud=["a", AUDIENCE + "x"]), "TOKEN_AUDIENCE"),
    "no audience": (_with(aud=None), "TOKEN_AUDIENCE"),
    "audience of no kind": (_with(aud={AUDIENCE: 1}), "TOKEN_AUDIENCE"),
    "expired": (_at("exp", 0), "TOKEN_EXPIRED"),
    "long expired": (_with(exp=1), "TOKEN_EXPIRED"),
    "not before": (_at("nbf", 60), "TOKEN_NOT_YET_VALID"),
    "not before, far": (_with(nbf=10**400), "TOKEN_NOT_YET_VALID"),
    "issued in the future": (_at("iat", 60), "TOKEN_NOT_YET_VALID"),
    "no expiry": (_with(exp=None), "TOKEN_CLAIM"),
    "expiry true": (_with(exp=True), "TOKEN_CLAIM"),
    "expiry text": (_with(exp="2099"), "TOKEN_CLAIM"),
    "expiry NaN": (_with(exp=float("nan")), "TOKEN_CLAIM"),
    "expiry infinite": (_with(exp=float("inf")), "TOKEN_CLAIM"),
    "expiry beyond time": (_with(exp=10**300), "TOKEN_CLAIM"),
    "expiry beyond numbers": (_with(exp=10**400), "TOKEN_CLAIM"),
    "not before text": (_with(nbf="now"), "TOKEN_CLAIM"),
    "subject of no kind": (_with(sub=7), "TOKEN_CLAIM"),
    "subject unprintable": (_with(sub="a\nb"), "TOKEN_CLAIM"),
    "no username": (_with(preferred_username=None), "TOKEN_CLAIM"),
    "username empty": (_with(preferred_username=""), "TOKEN_CLAIM"),
    "username unprintable": (_with(preferred_username="a\x00b"), "TOKEN_CLAIM"),
    "username invisible": (_with(preferred_username="alice\u200b"), "TOKEN_CLAIM"),
    "username with a space at the end": (_with(preferred_username="alice "), "TOKEN_CLAIM"),
    "username not normal": (_with(preferred_username="e\u0301va"), "TOKEN_CLAIM"),
    "username long": (_with(preferred_username="a" * 256), "TOKEN_CLAIM"),
    "username of no kind": (_with(preferred_username=["alice"]), "TOKEN_CLAIM"),
    "groups of no kind": (_with(groups={"admin": True}), "TOKEN_CLAIM"),
    "group of no kind": (_with(groups=["a", 1]), "TOKEN_CLAIM"),
    "projects of no kind": (_with(projects=1), "TOKEN_CLAIM"),
    "scope of no kind": (_with(scope=1), "TOKEN_CLAIM"),
    "scp of no kind": (_with(scp=[1]), "TOKEN_CLAIM"),
    "bound to a key": (_with(cnf={"jkt": "x"}), "TOKEN_CLAIM"),
    "critical header": (_header(crit=["exp"], exp=1), "TOKEN_INVALID"),
    "critical, empty": (_header(crit=[]), "TOKEN_INVALID"),
    "b64": (_header(b64=True), "TOKEN_INVALID"),
    "unencoded payload": (_raw_header(b'{"alg":"RS256","b64":false,"crit":["b64"]}'), "TOKEN_MALFORMED"),
    "logout token": (_header(typ="logout+jwt"), "TOKEN_INVALID"),
    "type of no kind": (_raw_header(b'{"alg":"RS256","typ":1}'), "TOKEN_INVALID"),
    "key id of no kind": (_raw_header(b'{"alg":"RS256","kid":{}}'), "TOKEN_INVALID"),
    "stripped signature": (_stripped, "TOKEN_SIGNATURE"),
    "changed claims": (_changed_claims, "TOKEN_SIGNATURE"),
    "stranger's signature": (lambda issuer: sign(STRANGER, claims_for(issuer)), "TOKEN_SIGNATURE"),
    "stranger's, no key id": (lambda issuer: sign(STRANGER, claims_for(issuer), kid=None), "TOKEN_SIGNATURE"),
    "other algorithm, same key": (_changed_algorithm, "TOKEN_SIGNATURE"),
    "unknown key": (_header(kid="two"), "TOKEN_KEY_UNKNOWN"),
    "key of another type": (_raw_header(b'{"alg":"ES256","kid":"one"}'), "TOKEN_KEY_UNKNOWN"),
    "key id like a path": (_header(kid="../../dev/null"), "TOKEN_KEY_UNKNOWN"),
    "encrypted": (_encrypted, "TOKEN_MALFORMED"),
    "nested": (_nested, "TOKEN_MALFORMED"),
    "junk": (lambda _: "junk", "TOKEN_MALFORMED"),
    "dots": (lambda _: "..", "TOKEN_MALFORMED"),
    "two parts": (lambda _: "YQ.YQ", "TOKEN_MALFORMED"),
    "no algorithm": (_raw_header(b"{}"), "TOKEN_MALFORMED"),
    "header a list": (_raw_header(b'["alg"]'), "TOKEN_MALFORMED"),
    "header a number": (_raw_header(b"1"), "TOKEN_MALFORMED"),
    "header a string": (_raw_header(b'"alg"'), "TOKEN_MALFORMED"),
    "header not UTF-8": (_raw_header(b'{"alg":"\xff"}'), "TOKEN_MALFORMED"),
    "header deep": (_raw_header(b"[" * 5000), "TOKEN_MALFORMED"),
    "header long": (_raw_header(b'{"alg":"RS256","x":"' + b"x" * 9000 + b'"}'), "TOKEN_MALFORMED"),
    "claims deep": (_payload(b"[" * 9000), "TOKEN_MALFORMED"),
    "claims deep in a claim": (_payload(b'{"iss":' + b'{"a":' * 1500 + b"1" + b"}" * 1501), "TOKEN_MALFORMED"),
    "claims a list": (_payload(b"[]"), "TOKEN_MALFORMED"),
    "claims not UTF-8": (_payload(b'{"iss":"\xff"}'), "TOKEN_MALFORMED"),
    "claims with a number too long": (_payload(b'{"iss":' + b"1" * 5000 + b"}"), "TOKEN_MALFORMED"),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_refused(server: KeyServer, authenticator: Authenticator, case: str) -> None:
    make, reason = REFUSED[case]
    error = await refusal(authenticator, bearer(make(server.issuer)))
    assert error.reason == reason
    if reason == "TOKEN_CLAIM":
        assert error.metadata["claim"] in error.text


def test_every_reason_is_tested() -> None:
    elsewhere = {"TOKEN_SEVERAL", "TOKEN_EMPTY", "TOKEN_SCHEME", "TOKEN_CHARACTERS", "TOKEN_TOO_LARGE"}
    assert {reason for _, reason in REFUSED.values()} | elsewhere == set(SENTENCES)


async def test_a_token_ends_when_it_says_also_when_remembered(server: KeyServer) -> None:
    now = Clock(time.time())
    async with authenticating(auth_settings(server.issuer), now=now) as running:
        value = bearer(sign(KEY, claims_for(server.issuer, iat=int(now.time), exp=int(now.time) + 10)))
        principal = await running.authenticate(value)
        assert running.cached(value) is principal
        now.time += 9
        assert running.cached(value) is principal
        now.time += 1
        assert running.cached(value) is None
        assert (await refusal(running, value)).reason == "TOKEN_EXPIRED"


async def test_leeway_allows_for_clocks_that_differ(server: KeyServer) -> None:
    now = Clock(float(int(time.time())))
    async with authenticating(auth_settings(server.issuer, leeway=30), now=now) as running:
        late = bearer(sign(KEY, claims_for(server.issuer, exp=int(now.time) - 29)))
        assert (await running.authenticate(late)).expires is not None
        early = bearer(sign(KEY, claims_for(server.issuer, nbf=int(now.time) + 30, iat=int(now.time) + 30)))
        await running.authenticate(early)
        now.time += 1
        assert running.cached(late) is None
        assert (await refusal(running, late)).reason == "TOKEN_EXPIRED"


async def test_claims_decide_name_role_scopes(server: KeyServer) -> None:
    settings = auth_settings(
        server.issuer,
        username_claim="acr.name",
        username_prefix="sso:",
        groups_claim="realm_access.roles",
        projects_claim="https://example.org/projects",
        scope_prefix="facility.",
        role_groups={"ops": "operator", "adm": "admin", "guests": "anonymous"},
    )
    claims = {"acr": {"name": "bob"}, "https://example.org/projects": ["p1", "bad\nname", "p2"]}
    async with authenticating(settings) as running:

        async def role(*groups: str) -> Role:
            token = sign(KEY, claims_for(server.issuer, realm_access={"roles": list(groups)}, **claims))
            return (await running.authenticate(bearer(token))).role

        assert await role("adm", "ops", "x") is Role.ADMIN
        assert await role("ops") is Role.OPERATOR
        assert await role("guests") is Role.ANONYMOUS
        assert await role("other") is Role.USER
        scopes = {"scope": "openid facility.jobs.read facility.", "scp": ["facility.jobs.write"]}
        principal = await running.authenticate(bearer(sign(KEY, claims_for(server.issuer, **claims, **scopes))))
        assert principal.username == "sso:bob"
        assert principal.projects == ("p1", "p2")
        assert principal.scopes == frozenset({"jobs.read", "jobs.write"})
        long = sign(KEY, claims_for(server.issuer, acr={"name": "b" * 252}))
        assert (await refusal(running, bearer(long))).metadata["claim"] == "acr.name"


async def test_without_scopes_a_token_has_none(server: KeyServer) -> None:
    token = bearer(sign(KEY, claims_for(server.issuer, scope=None)))
    async with authenticating(auth_settings(server.issuer)) as running:
        assert (await running.authenticate(token)).scopes == frozenset()
    async with authenticating(auth_settings(server.issuer, require_scopes=False)) as running:
        assert (await running.authenticate(token)).scopes is None


async def test_an_unconfirmed_address_is_nobody(server: KeyServer) -> None:
    async with authenticating(auth_settings(server.issuer, username_claim="email")) as running:
        good = sign(KEY, claims_for(server.issuer, email="a@example.org", email_verified=True))
        assert (await running.authenticate(bearer(good))).username == "a@example.org"
        bad = sign(KEY, claims_for(server.issuer, email="a@example.org", email_verified=False))
        assert (await refusal(running, bearer(bad))).reason == "TOKEN_CLAIM"


async def test_issuers_do_not_vouch_for_each_other(server: KeyServer) -> None:
    other = KeyServer()
    other.keys = [STRANGER]
    async with other.running():
        one, two = auth_settings(server.issuer), auth_settings(other.issuer, username_prefix="two:")
        both = one.model_copy(update={"issuers": one.issuers + two.issuers})
        async with authenticating(both) as running:
            assert (await running.authenticate(bearer(sign(KEY, claims_for(server.issuer))))).username == "alice"
            assert (
                await running.authenticate(bearer(sign(STRANGER, claims_for(other.issuer))))
            ).username == "two:alice"
            forged = bearer(sign(STRANGER, claims_for(server.issuer)))
            assert (await refusal(running, forged)).reason == "TOKEN_SIGNATURE"
