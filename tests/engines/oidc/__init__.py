"""A real OpenID Connect provider for tests: the certified npm package oidc-provider, on loopback.

``oidc_provider`` is a session fixture; make it known to a test directory with
``pytest_plugins = ["tests.engines.oidc"]``. It is installed once, from the lock beside this module, into
``.build/oidc-provider``. Without Node 20 or npm the tests that want it are skipped, and fail where CI is set.
"""

from __future__ import annotations

import base64
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest

HERE = Path(__file__).resolve().parent
BUILD = HERE.parents[2] / ".build" / "oidc-provider"
FILES = ("package.json", "package-lock.json", "provider.mjs")
INSTALL_TIMEOUT = 300
ANSWER_TIMEOUT = 20


class ProviderError(Exception):
    """The provider does not answer."""


class OidcProvider:
    """A running provider. ``issuer`` and ``audience`` are what a server must be configured with."""

    audience = "https://openfacility.test"

    def __init__(self, directory: Path) -> None:
        # Two starts in a thousand said nothing for 20 s, on a machine busy with other work; why was not found.
        for last in (False, False, True):
            self._process = subprocess.Popen(
                ["node", "provider.mjs"],
                cwd=directory,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env={**os.environ, "NODE_ENV": "test"},
            )
            try:
                # It listens on a port of its choice; the first line says which.
                self.issuer: str = self._answer()["issuer"]
                break
            except ProviderError:
                self._end()
                if last:
                    raise
        self._http = httpx.Client(base_url=self.issuer, trust_env=False, timeout=ANSWER_TIMEOUT)

    def token(
        self,
        username: str | None = "alice",
        *,
        groups: Sequence[str] | str | None = None,
        projects: Sequence[str] | str | None = None,
        scope: str = "",
        expires_in: int = 300,
        audience: str | None = None,
        algorithm: str = "RS256",
        **claims: Any,
    ) -> str:
        """Returns an access token (JWT) from the token endpoint.

        ``expires_in`` is in seconds, from 1. ``claims`` are put into the token as they are. ``algorithm`` is RS256,
        PS256, ES256 or EdDSA.
        """
        named = {"preferred_username": username, "sub": username, "groups": groups, "projects": projects}
        claims = {**{name: value for name, value in named.items() if value is not None}, **claims}
        wishes = {
            "claims": claims,
            "expires-in": expires_in,
            "audience": audience or self.audience,
            "algorithm": algorithm,
        }
        answer = self._http.post(
            "/token",
            data={
                "grant_type": "client_credentials",
                "client_id": "test",
                "client_secret": "test-client-secret",
                "resource": self.audience,
                **({"scope": scope} if scope else {}),
            },
            headers={f"x-test-{name}": _encode(value) for name, value in wishes.items()},
        )
        assert answer.status_code == 200, answer.text
        token: str = answer.json()["access_token"]
        return token

    def rotate(self, *, keep: bool = False) -> None:
        """Signs with new keys from now on; with ``keep`` the old ones stay published."""
        self._command("rotate", keep=keep)

    def forget(self) -> None:
        """Stops publishing all but the newest keys."""
        self._command("forget")

    def down(self) -> None:
        """Closes the port: connections are refused until ``up``."""
        self._command("down")

    def up(self) -> None:
        """Opens the same port again."""
        self._command("up")

    def requests(self) -> dict[str, int]:
        """Returns how often the key set (``jwks``) and the discovery document (``discovery``) were fetched."""
        return self._command("count")

    def close(self) -> None:
        """Ends the process."""
        self._http.close()
        self._end()

    def _end(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(timeout=ANSWER_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def _command(self, command: str, **options: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"command": command, **options}) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        # A provider that hangs is killed, so that reading ends.
        watchdog = threading.Timer(ANSWER_TIMEOUT, self._process.kill)
        watchdog.start()
        try:
            line = self._process.stdout.readline()
        finally:
            watchdog.cancel()
        if not line:
            raise ProviderError("the OpenID Connect provider ended or hung; see its standard error")
        answer: dict[str, Any] = json.loads(line)
        return answer


def _encode(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


def _missing() -> str | None:
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            return f"{program} is not installed, so there is no OpenID Connect provider to test with"
    version = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True).stdout.strip()
    if int(version.removeprefix("v").split(".")[0]) < 20:
        return f"node is {version}; the OpenID Connect provider needs 20 or newer"
    return None


def install() -> Path:
    """Returns a directory with the provider and what it needs, made on first use of this lock."""
    digest = hashlib.sha256(b"\0".join((HERE / name).read_bytes() for name in FILES)).hexdigest()[:16]
    directory = BUILD / digest
    done = directory / ".done"
    BUILD.mkdir(parents=True, exist_ok=True)
    # Workers of pytest-xdist come here at the same time.
    with (BUILD / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            directory.mkdir(exist_ok=True)
            for name in FILES:
                shutil.copy(HERE / name, directory)
            result = subprocess.run(
                ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"],
                cwd=directory,
                capture_output=True,
                text=True,
                timeout=INSTALL_TIMEOUT,
                check=False,
            )
            assert result.returncode == 0, f"npm ci failed:\n{result.stdout}\n{result.stderr}"
            done.touch()
    return directory


@pytest.fixture(scope="session")
def oidc_provider() -> Iterator[OidcProvider]:
    """A running OpenID Connect provider, shared by the whole session; leave it up and with keys."""
    if problem := _missing():
        if os.environ.get("CI"):
            pytest.fail(problem)
        pytest.skip(problem)
    provider = OidcProvider(install())
    yield provider
    provider.close()
