"""The authorization value, development tokens, certificates, and what is remembered."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from openfacility_server.auth.authenticator import Authenticator
from openfacility_server.auth.bearer import MAX_AUTHORIZATION, authorization_of
from openfacility_server.auth.cache import PrincipalCache
from openfacility_server.auth.principal import ANONYMOUS, Principal, Role
from openfacility_server.config import Auth, ConfigError, parse
from openfacility_server.errors import Unauthenticated

from tests.unit.auth_support import Clock, authenticating, refusal

TOKEN = "alices-development-token"
SETTINGS = Auth.model_validate(
    {
        "dev_tokens": [
            {"token": TOKEN, "username": "alice", "projects": ["demo"]},
            {"token": "rootsroots-development-token", "username": "root", "role": "admin"},
        ],
        "certificates": [
            {"name": "spiffe://example.org/ci", "username": "ci", "role": "operator"},
            {"name": "b.example.org", "username": "b"},
        ],
        "token_cache_age": 60,
    }
)


@pytest.fixture
async def authenticator() -> AsyncIterator[Authenticator]:
    async with authenticating(SETTINGS) as running:
        yield running


@pytest.mark.parametrize("value", [f"Bearer {TOKEN}", f"bearer {TOKEN}", f"BEARER   {TOKEN} "])
async def test_a_development_token_signs_in(authenticator: Authenticator, value: str) -> None:
    assert authenticator.cached(value) is None
    principal = await authenticator.authenticate(value)
    assert principal == Principal("alice", Role.USER, projects=("demo",), method="dev-token")
    assert authenticator.cached(value) is principal
    assert await authenticator.authenticate(value) is principal


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("", "TOKEN_EMPTY"),
        ("   ", "TOKEN_EMPTY"),
        ("Bearer", "TOKEN_EMPTY"),
        ("Bearer  ", "TOKEN_EMPTY"),
        (f"Bearer {TOKEN},Bearer {TOKEN}", "TOKEN_SEVERAL"),
        (f"Bearer {TOKEN}, Basic YTpi", "TOKEN_SEVERAL"),
        (f"{TOKEN}", "TOKEN_SCHEME"),
        (f"Basic {TOKEN}", "TOKEN_SCHEME"),
        (f"DPoP {TOKEN}", "TOKEN_SCHEME"),
        (f"Bearer {TOKEN}\n", "TOKEN_CHARACTERS"),
        (f"Bearer\t{TOKEN}", "TOKEN_CHARACTERS"),
        (f"Bearer {TOKEN}\x00", "TOKEN_CHARACTERS"),
        (f"Bearer {TOKEN} {TOKEN}", "TOKEN_CHARACTERS"),
        (f"Bearer {TOKEN}é", "TOKEN_CHARACTERS"),
        ("Bearer \ud800", "TOKEN_CHARACTERS"),
        ("Bearer " + "a" * MAX_AUTHORIZATION, "TOKEN_TOO_LARGE"),
        (f"Bearer {TOKEN[:-1]}", "TOKEN_MALFORMED"),
        (f"Bearer {TOKEN}=", "TOKEN_MALFORMED"),
        (f"Bearer {TOKEN.upper()}", "TOKEN_MALFORMED"),
    ],
)
async def test_other_values_are_refused(authenticator: Authenticator, value: str, reason: str) -> None:
    error = await refusal(authenticator, value)
    assert error.reason == reason
    if reason == "TOKEN_TOO_LARGE":
        assert error.metadata == {"limit": str(MAX_AUTHORIZATION)}


async def test_without_credentials_one_is_anonymous(authenticator: Authenticator) -> None:
    assert authenticator.cached(None) is None
    assert await authenticator.authenticate(None) is ANONYMOUS
    assert await authenticator.authenticate(None, ("unknown.example.org",)) is ANONYMOUS


async def test_a_certificate_signs_in_and_a_token_goes_before_it(authenticator: Authenticator) -> None:
    names = ("spiffe://example.org/ci", "b.example.org")
    principal = await authenticator.authenticate(None, names)
    assert principal == Principal("ci", Role.OPERATOR, method="certificate")
    assert (await authenticator.authenticate(None, ("a.example.org", "b.example.org"))).username == "b"
    assert (await authenticator.authenticate(f"Bearer {TOKEN}", names)).username == "alice"
    with pytest.raises(Exception, match="bearer"):
        await authenticator.authenticate("Basic YTpi", names)


@pytest.mark.parametrize(
    ("metadata", "value"),
    [
        (None, None),
        ((("x", "y"),), None),
        ((("authorization", "Bearer a"), ("x", "y")), "Bearer a"),
        ((("authorization", b"Bearer a"),), "Bearer a"),
        ((("authorization", "Bearer a"), ("authorization", "Bearer a")), "Bearer a,Bearer a"),
        ((("authorization", ""), ("authorization", "Bearer a")), ",Bearer a"),
    ],
)
def test_authorization_of_metadata(metadata: tuple[tuple[str, str], ...] | None, value: str | None) -> None:
    assert authorization_of(metadata) == value


async def test_repeated_metadata_is_refused(authenticator: Authenticator) -> None:
    for first in (f"Bearer {TOKEN}", ""):
        value = authorization_of((("authorization", first), ("authorization", f"Bearer {TOKEN}")))
        assert value is not None
        assert (await refusal(authenticator, value)).reason == "TOKEN_SEVERAL"


def test_memory_is_bounded_and_short() -> None:
    now, monotonic = Clock(1000), Clock(0)
    cache = PrincipalCache(2, 60, now, monotonic)
    one, two, three = (Principal(name, Role.USER) for name in ("one", "two", "three"))
    cache.put("one", one)
    cache.put("two", two, ends=1010, key="k")
    assert cache.get("one") is one
    cache.put("three", three, key="k")
    assert cache.get("two") is None, "the least recently used one goes"
    assert (cache.get("one"), cache.get("three"), len(cache)) == (one, three, 2)
    cache.forget_keys(frozenset({"k"}))
    assert (cache.get("one"), cache.get("three")) == (one, None)
    cache.put("two", two, ends=1010)
    now.time = 1009.9
    assert cache.get("two") is two
    now.time = 1010
    assert cache.get("two") is None
    monotonic.time = 60
    assert cache.get("one") is None
    assert len(cache) == 0
    assert cache.get("x" * (MAX_AUTHORIZATION + 1)) is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("issuers: [{issuer: 'http://sso.example.org', audience: a}]", "https"),
        ("issuers: [{issuer: 'http://sso.example.org', audience: a, allow_http: true}]", "loopback"),
        ("issuers: [{issuer: 'http://localhost', audience: a}]", "allow_http"),
        ("issuers: [{issuer: 'ftp://sso.example.org', audience: a}]", "https"),
        ("issuers: [{issuer: 'https://u:p@sso.example.org', audience: a}]", "user"),
        ("issuers: [{issuer: 'https://a.example', audience: a, jwks_uri: 'http://a.example/k'}]", "jwks_uri must"),
        ("issuers: [{issuer: 'https://a.example', audience: a, algorithms: [none]}]", "algorithms"),
        ("issuers: [{issuer: 'https://a.example', audience: a, algorithms: [HS256]}]", "algorithms"),
        ("issuers: [{issuer: 'https://a.example', audience: a, algorithms: []}]", "algorithms"),
        ("issuers: [{issuer: 'https://a.example', audience: ''}]", "audience"),
        ("issuers: [{issuer: 'https://a.example', audience: a, leeway: -1}]", "leeway"),
        ("issuers: [{issuer: 'https://a.example', audience: a, leeway: 3600}]", "leeway"),
        (
            "issuers: [{issuer: 'https://a.example', audience: a}, {issuer: 'https://a.example', audience: b}]",
            "the same issuer",
        ),
        ("dev_tokens: [{token: short, username: a}]", "16"),
        ("dev_tokens: [{token: 'with a space in the middle', username: a}]", "letters, digits"),
        ("dev_tokens: [{token: aaaaaaaaaaaaaaaaaa, username: 'a '}]", "printable"),
        (
            "dev_tokens: [{token: aaaaaaaaaaaaaaaaaa, username: a}, {token: aaaaaaaaaaaaaaaaaa, username: b}]",
            "the same development token",
        ),
        ("certificates: [{name: a.example.org, username: a}]", "client_ca"),
    ],
)
def test_unsafe_settings_are_refused_at_start(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        parse(f"auth:\n  {text}\n", Path("/"))
    assert "aaaaaaaaaaaaaaaaaa" not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["http://localhost:1/a", "http://127.0.0.2", "http://[::1]:1", "https://sso.example.org"]
)
def test_http_is_for_loopback(url: str) -> None:
    Auth.model_validate({"issuers": [{"issuer": url, "audience": "a", "allow_http": True}]})


async def test_repeated_metadata_is_refused_on_a_real_server(authenticator: Authenticator) -> None:
    async def who(request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        try:
            principal = await authenticator.authenticate(authorization_of(context.invocation_metadata()))
        except Unauthenticated as error:
            return error.reason.encode()
        return principal.username.encode()

    server = grpc.aio.server()
    handler = grpc.method_handlers_generic_handler("test.Test", {"Who": grpc.unary_unary_rpc_method_handler(who)})
    server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    value = ("authorization", f"Bearer {TOKEN}")
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        call: Any = channel.unary_unary("/test.Test/Who")
        assert await call(b"", metadata=(value,)) == b"alice"
        assert await call(b"", metadata=()) == b""
        assert await call(b"", metadata=(value, value)) == b"TOKEN_SEVERAL"
        assert await call(b"", metadata=(("authorization", ""), value)) == b"TOKEN_SEVERAL"
    await server.stop(None)
