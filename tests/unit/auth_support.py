"""What the sign-in tests share: a provider of keys under full control, a clock, and tokens of every kind."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pytest
from joserfc import jws, jwt
from joserfc.jwk import Key, RSAKey
from joserfc.registry import HeaderParameter
from openfacility_server.auth.authenticator import Authenticator
from openfacility_server.config import Auth
from openfacility_server.errors import Error

AUDIENCE = "openfacility"
ALL = ("RS256", "PS256", "ES256", "EdDSA", "HS256", "none")
Answer = tuple[int, dict[str, str], bytes]


class Clock:
    """A clock that a test moves, in seconds."""

    def __init__(self, start: float) -> None:
        self.time = start

    def __call__(self) -> float:
        return self.time


class KeyServer:
    """An HTTP server on loopback that publishes keys; ``routes`` can make it misbehave."""

    def __init__(self) -> None:
        self.keys: list[Key] = []
        self.documents: list[dict[str, Any]] = []
        self.routes: dict[str, Callable[[], Answer]] = {
            "/.well-known/openid-configuration": lambda: json_answer(
                {"issuer": self.issuer, "jwks_uri": f"{self.issuer}/jwks"}
            ),
            "/jwks": lambda: json_answer({"keys": [key.as_dict(private=False) for key in self.keys] + self.documents}),
        }
        self.requests: list[str] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.issuer = ""

    @contextlib.asynccontextmanager
    async def running(self, port: int = 0) -> AsyncIterator[KeyServer]:
        """Serves while the block runs."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", port)
        self.issuer = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with server:
            yield self

    @property
    def fetches(self) -> int:
        """How often the key set was fetched."""
        return self.requests.count("/jwks")

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            path = head.split(b" ")[1].decode()
            self.requests.append(path)
            await self.gate.wait()
            status, headers, body = self.routes.get(path, lambda: (404, {}, b""))()
            lines = [f"HTTP/1.1 {status} x", "connection: close", *(f"{k}: {v}" for k, v in headers.items())]
            writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
            await writer.drain()
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


def json_answer(document: object) -> Answer:
    body = json.dumps(document).encode()
    return 200, {"content-type": "application/json", "content-length": str(len(body))}, body


def rsa_key(kid: str | None = "one") -> RSAKey:
    """Returns a new RSA key that is called ``kid``."""
    return RSAKey.generate_key(2048, {"kid": kid} if kid else None)


def claims_for(issuer: str, **changes: Any) -> dict[str, Any]:
    """Returns the claims of a good token with changes; a change to None takes the claim away."""
    now = int(time.time())
    claims = {
        "iss": issuer, "aud": AUDIENCE, "sub": "s-1", "iat": now, "exp": now + 300,
        "preferred_username": "alice", "scope": "jobs.read jobs.write", **changes,
    }  # fmt: skip
    return {name: value for name, value in claims.items() if value is not None}


def sign(key: Key, claims: dict[str, Any], algorithm: str = "RS256", **header: Any) -> str:
    """Returns a token signed with a private key; ``header`` adds to what is usual."""
    anything = {name: HeaderParameter("", lambda _: None) for name in header}
    registry = jws.JWSRegistry(anything, algorithms=ALL, strict_check_header=False)
    registry.max_header_length = 100_000
    names = {"alg": algorithm, **({"kid": key.kid} if key.kid else {}), **header}
    return jwt.encode({k: v for k, v in names.items() if v is not None}, claims, key, registry=registry)


def bearer(token: str) -> str:
    """Returns the authorization value of a token."""
    return f"Bearer {token}"


def auth_settings(issuer: str, *, auth: dict[str, Any] | None = None, **changes: Any) -> Auth:
    """Returns settings with one issuer on loopback, leeway 0."""
    entry = {"issuer": issuer, "audience": AUDIENCE, "allow_http": True, "leeway": 0, **changes}
    return Auth.model_validate({"issuers": [entry], **(auth or {})})


@contextlib.asynccontextmanager
async def authenticating(settings: Auth, **clocks: Clock) -> AsyncIterator[Authenticator]:
    """Runs an authenticator while the block runs."""
    authenticator = Authenticator(settings, **clocks)
    await authenticator.start()
    try:
        yield authenticator
    finally:
        await authenticator.close()


async def refusal(authenticator: Authenticator, authorization: str) -> Error:
    """Returns the error that a value gets, after checking that it keeps the token to itself."""
    with pytest.raises(Error) as caught:
        await authenticator.authenticate(authorization)
    error = caught.value
    assert error.code in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.UNAVAILABLE)
    said = error.text + "".join(error.metadata.values())
    for part in authorization.rsplit(" ", maxsplit=1)[-1].split("."):
        assert len(part) < 20 or part not in said
    assert error.__cause__ is None
    assert authenticator.cached(authorization) is None
    return error


async def until(condition: Callable[[], bool], deadline: float = 10) -> None:
    """Waits until ``condition`` holds, at most ``deadline`` seconds."""
    async with asyncio.timeout(deadline):
        while not condition():  # noqa: ASYNC110 - what is waited for tells nobody
            await asyncio.sleep(0.005)
