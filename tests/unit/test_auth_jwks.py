"""The keys of an issuer: fetched, kept, rotated, and missing."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from joserfc.jwk import OctKey
from openfacility_server.auth import jwks
from openfacility_server.auth.authenticator import Authenticator
from openfacility_server.config import ConfigError
from openfacility_server.errors import Unavailable

from tests.unit.auth_certificates import Authority
from tests.unit.auth_support import (
    Clock,
    KeyServer,
    auth_settings,
    authenticating,
    bearer,
    claims_for,
    json_answer,
    refusal,
    rsa_key,
    sign,
    until,
)

ONE, TWO = rsa_key("one"), rsa_key("two")


@pytest.fixture
async def server() -> AsyncIterator[KeyServer]:
    keys = KeyServer()
    keys.keys = [ONE]
    async with keys.running():
        yield keys


async def _accepts(authenticator: Authenticator, value: str) -> bool:
    return (await authenticator.authenticate(value)).username == "alice"


async def test_building_does_nothing_and_starting_does_not_wait(server: KeyServer) -> None:
    server.gate.clear()
    authenticator = Authenticator(auth_settings(server.issuer))
    assert server.requests == []
    async with asyncio.timeout(2):
        await authenticator.start()
    calls = [
        asyncio.create_task(_accepts(authenticator, bearer(sign(ONE, claims_for(server.issuer, n=n)))))
        for n in range(50)
    ]
    await until(lambda: bool(server.requests))
    server.gate.set()
    assert all(await asyncio.gather(*calls))
    assert server.requests == ["/.well-known/openid-configuration", "/jwks"]
    await authenticator.close()


async def test_a_caller_who_leaves_does_not_end_the_fetch_of_the_others(server: KeyServer) -> None:
    server.gate.clear()
    async with authenticating(auth_settings(server.issuer)) as running:
        value = bearer(sign(ONE, claims_for(server.issuer)))
        first, second = (asyncio.create_task(_accepts(running, value)) for _ in range(2))
        await until(lambda: bool(server.requests))
        first.cancel()
        server.gate.set()
        assert await second
        assert first.cancelled()


async def test_jwks_uri_needs_no_discovery(server: KeyServer) -> None:
    async with authenticating(auth_settings(server.issuer, jwks_uri=f"{server.issuer}/jwks")) as running:
        assert await _accepts(running, bearer(sign(ONE, claims_for(server.issuer))))
    assert server.requests == ["/jwks"]


async def test_a_flood_of_unknown_keys_fetches_once_in_ten_seconds(server: KeyServer) -> None:
    monotonic = Clock(1000)
    async with authenticating(auth_settings(server.issuer), monotonic=monotonic) as running:
        assert await _accepts(running, bearer(sign(ONE, claims_for(server.issuer))))
        assert server.fetches == 1
        server.keys.append(TWO)
        flood = [bearer(sign(ONE, claims_for(server.issuer), kid=f"bogus-{n}")) for n in range(100)]
        new = bearer(sign(TWO, claims_for(server.issuer)))

        async def send_all() -> set[str]:
            return {error.reason for error in await asyncio.gather(*(refusal(running, value) for value in flood))}

        assert await send_all() == {"TOKEN_KEY_UNKNOWN"}
        assert (await refusal(running, new)).reason == "TOKEN_KEY_UNKNOWN"
        assert server.fetches == 1
        monotonic.time += jwks.RENEW_INTERVAL
        assert await send_all() == {"TOKEN_KEY_UNKNOWN"}
        assert server.fetches == 2
        assert await _accepts(running, new)
        assert server.fetches == 2


async def test_a_new_key_is_found_at_once(server: KeyServer) -> None:
    monotonic = Clock(1000)
    async with authenticating(auth_settings(server.issuer), monotonic=monotonic) as running:
        await _accepts(running, bearer(sign(ONE, claims_for(server.issuer))))
        monotonic.time += jwks.RENEW_INTERVAL
        server.keys = [ONE, TWO]
        assert await _accepts(running, bearer(sign(TWO, claims_for(server.issuer))))


@pytest.mark.parametrize("kid", ["one", None])
async def test_a_removed_key_stops_at_the_next_refresh_also_where_remembered(
    server: KeyServer, kid: str | None
) -> None:
    old, new = rsa_key(kid), rsa_key(kid)
    server.keys = [old]
    async with authenticating(auth_settings(server.issuer, jwks_max_age=0.2)) as running:
        value = bearer(sign(old, claims_for(server.issuer)))
        assert await _accepts(running, value)
        assert running.cached(value) is not None
        server.keys = [new]
        await until(lambda: running.cached(value) is None)
        assert (await refusal(running, value)).reason == "TOKEN_SIGNATURE"
        assert await _accepts(running, bearer(sign(new, claims_for(server.issuer))))


async def test_no_keys_at_all_is_the_providers_word(server: KeyServer) -> None:
    async with authenticating(auth_settings(server.issuer, jwks_max_age=0.2)) as running:
        value = bearer(sign(ONE, claims_for(server.issuer)))
        assert await _accepts(running, value)
        server.keys = []
        await until(lambda: running.cached(value) is None)
        assert (await refusal(running, value)).reason == "TOKEN_KEY_UNKNOWN"


async def test_keys_serve_on_while_the_provider_is_away_but_not_for_ever(server: KeyServer) -> None:
    monotonic = Clock(1000)
    settings = auth_settings(server.issuer, jwks_max_age=600, jwks_max_stale=3600)
    async with authenticating(settings, monotonic=monotonic) as running:
        assert await _accepts(running, bearer(sign(ONE, claims_for(server.issuer))))
        good = server.routes["/jwks"]
        server.routes["/jwks"] = lambda: (503, {}, b"")
        monotonic.time += 4199
        value = bearer(sign(ONE, claims_for(server.issuer, n=1)))
        assert await _accepts(running, value)
        unknown = await refusal(running, bearer(sign(TWO, claims_for(server.issuer))))
        assert unknown.reason == "SIGN_IN_UNAVAILABLE", "it may be a new key: nobody can know"
        forged = bearer(sign(rsa_key("one"), claims_for(server.issuer)))
        assert (await refusal(running, forged)).reason == "TOKEN_SIGNATURE"
        monotonic.time += 1
        error = await refusal(running, bearer(sign(ONE, claims_for(server.issuer, n=2))))
        assert isinstance(error, Unavailable)
        assert error.metadata == {"issuer": server.issuer}
        assert 0 < error.retry_after.total_seconds() <= jwks.RENEW_INTERVAL
        server.routes["/jwks"] = good
        monotonic.time += jwks.RETRY_INTERVAL
        assert await _accepts(running, bearer(sign(ONE, claims_for(server.issuer, n=3))))


async def test_a_provider_that_was_away_at_start_is_found_later() -> None:
    early = KeyServer()
    async with early.running():
        port = int(early.issuer.rpartition(":")[2])
    async with authenticating(auth_settings(early.issuer)) as running:
        value = bearer(sign(ONE, claims_for(early.issuer)))
        assert (await refusal(running, value)).reason == "SIGN_IN_UNAVAILABLE"
        late = KeyServer()
        late.keys = [ONE]
        async with late.running(port):
            async with asyncio.timeout(10):
                while True:
                    try:
                        assert await _accepts(running, value)
                        break
                    except Unavailable as error:
                        await asyncio.sleep(min(error.retry_after.total_seconds(), 0.1))


def _answer(status: int, body: bytes = b"{}", **headers: str) -> Any:
    return lambda: (status, headers, body)


@pytest.mark.parametrize(
    ("path", "answer"),
    [
        ("/jwks", _answer(404)),
        ("/jwks", _answer(200, b"not json")),
        ("/jwks", _answer(200, b"[]")),
        ("/jwks", _answer(200, b"[" * 100_000)),
        ("/jwks", _answer(200, b"{}")),
        ("/jwks", _answer(200, b'{"keys": {}}')),
        ("/jwks", _answer(200, b'{"keys": [' + b"{}," * 100 + b"{}]}")),
        ("/jwks", _answer(200, b'{"keys": []}' + b" " * jwks.MAX_DOCUMENT)),
        ("/jwks", _answer(302, location="/jwks")),
        ("/jwks", _answer(302, location="http://sso.example.org/jwks")),
        ("/jwks", _answer(302, location="file:///etc/passwd")),
        ("/jwks", _answer(302, location="http://[")),
        ("/.well-known/openid-configuration", _answer(200, b"{}")),
        ("/.well-known/openid-configuration", _answer(200, b'{"issuer": "https://elsewhere.example"}')),
        ("/.well-known/openid-configuration", _answer(500)),
    ],
)
async def test_answers_that_are_no_keys_make_sign_in_unavailable(
    server: KeyServer, path: str, answer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    server.routes[path] = answer
    async with authenticating(auth_settings(server.issuer)) as running:
        value = bearer(sign(ONE, claims_for(server.issuer)))
        assert (await refusal(running, value)).reason == "SIGN_IN_UNAVAILABLE"
    warned = [record for record in caplog.records if record.name == jwks.__name__]
    assert [record.levelno for record in warned] == [logging.WARNING]
    assert value.removeprefix("Bearer ") not in caplog.text


@pytest.mark.parametrize("change", [{"jwks_uri": "http://sso.example.org/jwks"}, {"jwks_uri": 1}, {"jwks_uri": None}])
async def test_discovery_cannot_point_to_unsafe_places(server: KeyServer, change: dict[str, Any]) -> None:
    server.routes["/.well-known/openid-configuration"] = lambda: json_answer({"issuer": server.issuer, **change})
    async with authenticating(auth_settings(server.issuer)) as running:
        value = bearer(sign(ONE, claims_for(server.issuer)))
        assert (await refusal(running, value)).reason == "SIGN_IN_UNAVAILABLE"


async def test_a_redirect_to_an_allowed_place_is_followed(server: KeyServer) -> None:
    server.routes["/moved"] = server.routes["/jwks"]
    server.routes["/jwks"] = _answer(307, location="/moved")
    async with authenticating(auth_settings(server.issuer)) as running:
        assert await _accepts(running, bearer(sign(ONE, claims_for(server.issuer))))


async def test_a_provider_that_hangs_costs_a_bounded_time(server: KeyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jwks, "FETCH_TIMEOUT", 0.2)
    server.gate.clear()
    async with authenticating(auth_settings(server.issuer)) as running:
        async with asyncio.timeout(5):
            error = await refusal(running, bearer(sign(ONE, claims_for(server.issuer))))
        assert error.reason == "SIGN_IN_UNAVAILABLE"
        server.gate.set()


async def test_keys_that_are_of_no_use_do_not_spoil_the_set(server: KeyServer) -> None:
    small = {"kty": "RSA", "kid": "small", "n": "x" * 171, "e": "AQAB"}
    good = TWO.as_dict(private=False)
    leaked = rsa_key("leaked")
    server.documents = [
        {}, [], "key", {"kty": "unheard-of"}, small, {"kty": "EC", "crv": "P-256"},  # type: ignore[list-item]
        {**good, "kid": 7}, {**good, "kid": "enc", "use": "enc"}, {**good, "kid": "ops", "key_ops": ["encrypt"]},
        {"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA", "kid": "off-curve"}, {**good, "e": "!", "kid": "odd"},
        leaked.as_dict(private=True), OctKey.generate_key(256, {"kid": "oct"}).as_dict(private=True),
    ]  # fmt: skip
    async with authenticating(auth_settings(server.issuer)) as running:
        assert await _accepts(running, bearer(sign(ONE, claims_for(server.issuer))))
        for key, kid in ((leaked, "leaked"), (TWO, "enc"), (TWO, "ops"), (TWO, "oct"), (TWO, "odd")):
            value = bearer(sign(key, claims_for(server.issuer), kid=kid))
            assert (await refusal(running, value)).reason == "TOKEN_KEY_UNKNOWN"


async def test_https_is_verified_against_the_configured_authorities(tmp_path: Path) -> None:
    authority, stranger = Authority("Test CA"), Authority("Stranger")
    server_files = authority.issue("sso", dns=("localhost",)).save(tmp_path, "sso")
    ca, other = tmp_path / "ca.pem", tmp_path / "other.pem"
    ca.write_bytes(authority.pem)
    other.write_bytes(stranger.pem)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*server_files)
    keys = KeyServer()
    keys.keys = [ONE]
    async with await asyncio.start_server(keys._serve, "127.0.0.1", 0, ssl=context) as listening:
        keys.issuer = f"https://localhost:{listening.sockets[0].getsockname()[1]}"
        value = bearer(sign(ONE, claims_for(keys.issuer)))
        async with authenticating(auth_settings(keys.issuer, ca=ca)) as running:
            assert await _accepts(running, value)
        for trusted in (other, None):
            async with authenticating(auth_settings(keys.issuer, ca=trusted)) as running:
                assert (await refusal(running, value)).reason == "SIGN_IN_UNAVAILABLE"


@pytest.mark.parametrize("content", [None, b"junk"])
async def test_authorities_that_cannot_be_read_are_said_at_start(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "ca.pem"
    if content:
        path.write_bytes(content)
    authenticator = Authenticator(auth_settings("https://sso.example.org", ca=path))
    with pytest.raises(ConfigError, match=r"ca\.pem"):
        await authenticator.start()
    await authenticator.close()
