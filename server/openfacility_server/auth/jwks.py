"""The public keys of a sign-in provider: fetched, kept fresh, and used for a while when the provider is away."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import ssl
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import httpx
from cryptography.exceptions import UnsupportedAlgorithm
from joserfc import jwk
from joserfc.errors import JoseError

from openfacility_server.config import ConfigError, Issuer, provider_url_error
from openfacility_server.errors import Unavailable

_log = logging.getLogger(__name__)

FETCH_TIMEOUT = 5.0
MAX_DOCUMENT = 1024 * 1024
MAX_KEYS = 100
MAX_REDIRECTS = 3
# An unknown key is looked for at the provider at most this often, whatever callers send.
RENEW_INTERVAL = 10.0
# Without any key nobody can sign in, so the next attempt comes sooner.
RETRY_INTERVAL = 1.0
_KEY_TYPES = {"RS": "RSA", "PS": "RSA", "ES": "EC", "Ed": "OKP"}
# 2048 bits in base64url; shorter moduli can be factored.
_MIN_MODULUS = 342


class SigningKey(NamedTuple):
    """A public key of an issuer; ``thumbprint`` (RFC 7638) tells keys apart whatever they are called."""

    key: jwk.Key
    kid: str | None
    algorithm: str | None
    thumbprint: str

    def fits(self, kid: str | None, algorithm: str) -> bool:
        """Whether a token with this key id and algorithm may have been signed by this key."""
        return (
            (kid is None or kid == self.kid)
            and self.algorithm in (None, algorithm)
            and self.key.key_type == _KEY_TYPES[algorithm[:2]]
        )


class _FetchError(Exception):
    """The provider's answer cannot be used; ``str()`` says why, for the log."""


class KeySource:
    """The signing keys of one issuer.

    They are fetched at start and again, in the background, when they reach four fifths of ``jwks_max_age``. While
    that fails the last ones serve for ``jwks_max_stale`` more. ``on_removed`` gets the thumbprints of keys that the
    provider no longer publishes.
    """

    def __init__(
        self,
        issuer: Issuer,
        on_removed: Callable[[frozenset[str]], None],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._issuer = issuer
        self._on_removed = on_removed
        self._monotonic = monotonic
        self._max_age = issuer.jwks_max_age.total_seconds()
        self._usable_for = self._max_age + issuer.jwks_max_stale.total_seconds()
        self._keys: tuple[SigningKey, ...] = ()
        self._fetched = float("-inf")
        self._attempted = float("-inf")
        self._failing = False
        self._client: httpx.AsyncClient | None = None
        self._fetching: asyncio.Task[None] | None = None
        self._refreshing: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Starts to fetch; does not wait for the provider. Raises ConfigError for an unusable ``ca``."""
        verify: ssl.SSLContext | bool = True
        if self._issuer.ca is not None:
            try:
                verify = ssl.create_default_context(cafile=self._issuer.ca)
            except OSError as error:
                raise ConfigError(f"auth.issuers: ca {self._issuer.ca}: {error.strerror or error}") from error
        self._client = httpx.AsyncClient(
            verify=verify,
            timeout=FETCH_TIMEOUT,
            limits=httpx.Limits(max_connections=2, max_keepalive_connections=0),
            # Identity: a small compressed answer could become a large one.
            headers={"accept": "application/json", "accept-encoding": "identity"},
            # Proxies are for the outside world; only a provider on loopback may speak http.
            trust_env=urlsplit(self._issuer.jwks_uri or self._issuer.issuer).scheme == "https",
        )
        self._refreshing = asyncio.create_task(self._refresh(), name="jwks-refresh")

    async def close(self) -> None:
        """Stops fetching; keys that are there stay usable until they are too old."""
        for task in (self._refreshing, self._fetching):
            if task is not None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
        self._refreshing = self._fetching = None
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    async def matching(self, kid: str | None, algorithm: str) -> Sequence[SigningKey]:
        """Returns the keys that may have signed a token. Raises Unavailable when there are none to look in."""
        if not self._usable:
            await self.renew()
            if not self._usable:
                raise self._unavailable()
        return [key for key in self._keys if key.fits(kid, algorithm)]

    async def renew(self) -> bool:
        """Fetches the keys unless that was tried a moment ago; many callers share one fetch.

        Returns whether the provider has just answered. Raises Unavailable when it cannot be asked, so that the
        owner of a brand-new key is told to retry, not to sign in again.
        """
        if self._fetching is None:
            interval = RENEW_INTERVAL if self._usable else RETRY_INTERVAL
            if self._client is None or self._monotonic() - self._attempted < interval:
                if self._failing:
                    raise self._unavailable()
                return False
        # The fetch belongs to all who wait for it: one caller who leaves must not end it.
        await asyncio.shield(self._fetch())
        if self._failing:
            raise self._unavailable()
        return True

    @property
    def _usable(self) -> bool:
        return self._monotonic() - self._fetched < self._usable_for

    def _unavailable(self) -> Unavailable:
        interval = RENEW_INTERVAL if self._usable else RETRY_INTERVAL
        wait = min(max(self._attempted + interval - self._monotonic(), RETRY_INTERVAL), RENEW_INTERVAL)
        return Unavailable(
            "SIGN_IN_UNAVAILABLE",
            f"the sign-in provider {self._issuer.issuer} cannot be reached, so the token cannot be checked: retry",
            timedelta(seconds=wait),
            {"issuer": self._issuer.issuer},
        )

    async def _refresh(self) -> None:
        failures = 0
        while True:
            await asyncio.shield(self._fetch())
            failures = failures + 1 if self._failing else 0
            wait = self._max_age * 0.8
            if failures:
                wait = min(wait, RETRY_INTERVAL * 2 ** min(failures, 5))
            await asyncio.sleep(wait)

    def _fetch(self) -> asyncio.Task[None]:
        if self._fetching is None:
            self._attempted = self._monotonic()
            self._fetching = asyncio.create_task(self._fetch_once(), name="jwks-fetch")
        return self._fetching

    async def _fetch_once(self) -> None:
        try:
            async with asyncio.timeout(FETCH_TIMEOUT):
                keys = await self._load()
        except (_FetchError, httpx.HTTPError, httpx.InvalidURL, OSError, TimeoutError) as error:
            level = logging.DEBUG if self._failing else logging.WARNING
            _log.log(level, "keys of issuer %s: %s: %s", self._issuer.issuer, type(error).__name__, error)
            self._failing = True
        except Exception:  # noqa: BLE001 - whatever it is, the next attempt must come
            _log.exception("keys of issuer %s: cannot be fetched", self._issuer.issuer)
            self._failing = True
        else:
            if self._failing:
                _log.info("keys of issuer %s: fetched again", self._issuer.issuer)
            self._failing = False
            self._accept(keys)
        finally:
            self._fetching = None

    def _accept(self, keys: tuple[SigningKey, ...]) -> None:
        removed = {key.thumbprint for key in self._keys} - {key.thumbprint for key in keys}
        self._keys = keys
        self._fetched = self._monotonic()
        if removed:
            _log.info("keys of issuer %s: %d removed", self._issuer.issuer, len(removed))
            self._on_removed(frozenset(removed))

    async def _load(self) -> tuple[SigningKey, ...]:
        uri = self._issuer.jwks_uri or await self._discover()
        document = await self._get(uri)
        entries = document.get("keys")
        if not isinstance(entries, list) or len(entries) > MAX_KEYS:
            raise _FetchError(f"the key set has no list 'keys' of at most {MAX_KEYS}")
        keys = tuple(key for entry in entries if (key := _import(entry, self._issuer.issuer)))
        if not keys:
            # It is the provider's word all the same: from here on nobody's token is accepted.
            _log.error("keys of issuer %s: the provider publishes no usable signing key", self._issuer.issuer)
        return keys

    async def _discover(self) -> str:
        document = await self._get(self._issuer.issuer.rstrip("/") + "/.well-known/openid-configuration")
        if document.get("issuer") != self._issuer.issuer:
            raise _FetchError("the discovery document is another issuer's")
        uri = document.get("jwks_uri")
        if not isinstance(uri, str):
            raise _FetchError("the discovery document has no jwks_uri")
        return uri

    async def _get(self, url: str) -> dict[str, Any]:
        assert self._client is not None
        for _ in range(MAX_REDIRECTS + 1):
            if problem := provider_url_error(url, self._issuer.allow_http):
                raise _FetchError(f"an address to fetch from {problem}")
            async with self._client.stream("GET", url) as response:
                if response.has_redirect_location:
                    url = str(response.url.join(response.headers["location"]))
                    continue
                if response.status_code != httpx.codes.OK:
                    raise _FetchError(f"the provider answered {response.status_code}")
                body = bytearray()
                async for chunk in response.aiter_raw():
                    body += chunk
                    if len(body) > MAX_DOCUMENT:
                        raise _FetchError(f"the provider answered more than {MAX_DOCUMENT} bytes")
            return _object(bytes(body))
        raise _FetchError(f"the provider redirected more than {MAX_REDIRECTS} times")


def _object(body: bytes) -> dict[str, Any]:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise _FetchError("the provider's answer is not JSON") from error
    if not isinstance(document, dict):
        raise _FetchError("the provider's answer is not a JSON object")
    return document


def _import(entry: object, issuer: str) -> SigningKey | None:
    """Returns a key to verify signatures with; None for others, which must not spoil the whole set."""
    if not isinstance(entry, dict) or entry.get("kty") not in ("RSA", "EC", "OKP"):
        return None
    operations = entry.get("key_ops")
    if entry.get("use", "sig") != "sig" or (isinstance(operations, list) and "verify" not in operations):
        return None
    if entry["kty"] == "RSA" and len(str(entry.get("n"))) < _MIN_MODULUS:
        _log.warning("keys of issuer %s: ignored an RSA key of less than 2048 bits", issuer)
        return None
    if "d" in entry:
        _log.error("keys of issuer %s: ignored a private key that is published for all to see", issuer)
        return None
    try:
        key = jwk.import_key(entry)
        thumbprint = key.thumbprint()
    except (JoseError, UnsupportedAlgorithm, ValueError, TypeError, KeyError, ArithmeticError) as error:
        _log.warning("keys of issuer %s: ignored a key: %s", issuer, type(error).__name__)
        return None
    return SigningKey(key, key.kid, key.alg, thumbprint)
