"""TLS and client certificates on a real gRPC server."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from openfacility_server.auth.tls import certificate_names, server_credentials
from openfacility_server.config import ConfigError, Tls

from tests.unit.auth_certificates import Authority, Identity

AUTHORITY = Authority("Test CA")
STRANGER = Authority("Stranger CA")
LOCALHOST = AUTHORITY.issue("server", dns=("localhost",))


async def _names(request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
    return "\n".join(certificate_names(context)).encode()


HANDLERS = grpc.method_handlers_generic_handler("test.Test", {"Names": grpc.unary_unary_rpc_method_handler(_names)})


@contextlib.asynccontextmanager
async def _serving(tls: Tls | None) -> AsyncIterator[int]:
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((HANDLERS,))
    if tls is None:
        port = server.add_insecure_port("127.0.0.1:0")
    else:
        port = server.add_secure_port("127.0.0.1:0", server_credentials(tls))
    await server.start()
    try:
        yield port
    finally:
        await server.stop(None)


async def _call(port: int, client: Identity | None = None, authority: Authority | None = AUTHORITY) -> list[str]:
    """Calls over a new connection and returns the names that the server saw. Raises AioRpcError."""
    options = (("grpc.use_local_subchannel_pool", 1),)
    if authority is None:
        channel = grpc.aio.insecure_channel(f"localhost:{port}", options)
    else:
        credentials = grpc.ssl_channel_credentials(
            authority.pem, client.key if client else None, client.certificate if client else None
        )
        channel = grpc.aio.secure_channel(f"localhost:{port}", credentials, options)
    async with channel:
        method: Any = channel.unary_unary("/test.Test/Names")
        answer: bytes = await method(b"", timeout=20)
    return answer.decode().split("\n") if answer else []


async def _refused(port: int, client: Identity | None = None, authority: Authority | None = AUTHORITY) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await _call(port, client, authority)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def _tls(directory: Path, identity: Identity = LOCALHOST, client_ca: bytes | None = AUTHORITY.pem) -> Tls:
    certificate, key = identity.save(directory, "server")
    if client_ca is not None:
        (directory / "ca.pem").write_bytes(client_ca)
    return Tls(certificate=certificate, key=key, client_ca=directory / "ca.pem" if client_ca else None)


async def test_a_verified_certificate_names_its_holder(tmp_path: Path) -> None:
    async with _serving(_tls(tmp_path)) as port:
        both = AUTHORITY.issue("root", uri=("spiffe://example.org/ci",), dns=("ci.example.org", "b.example.org"))
        assert await _call(port, both) == ["spiffe://example.org/ci", "ci.example.org", "b.example.org"]
        assert await _call(port, AUTHORITY.issue("alice")) == ["alice"]
        assert await _call(port, AUTHORITY.issue("alice", email=("a@example.org",))) == ["alice"]


async def test_others_do_not_connect(tmp_path: Path) -> None:
    async with _serving(_tls(tmp_path)) as port:
        await _refused(port)
        await _refused(port, STRANGER.issue("ci", dns=("ci.example.org",)))
        await _refused(port, AUTHORITY.issue("late", lifetime=-timedelta(hours=1)))
        await _refused(port, AUTHORITY.issue("ci"), authority=STRANGER)
        await _refused(port, authority=None)
        assert await _call(port, AUTHORITY.issue("alice")) == ["alice"]


async def test_without_a_client_ca_certificates_name_nobody(tmp_path: Path) -> None:
    async with _serving(_tls(tmp_path, client_ca=None)) as port:
        assert await _call(port) == []
        assert await _call(port, AUTHORITY.issue("alice")) == []
    async with _serving(None) as port:
        assert await _call(port, authority=None) == []


async def test_a_renewed_certificate_serves_new_connections(tmp_path: Path) -> None:
    tls = _tls(tmp_path, client_ca=None)
    async with _serving(tls) as port:
        assert await _call(port) == []
        STRANGER.issue("server", dns=("localhost",)).save(tmp_path, "server")
        await _refused(port)
        assert await _call(port, authority=STRANGER) == []


async def test_a_renewed_client_ca_counts_for_new_connections(tmp_path: Path) -> None:
    tls = _tls(tmp_path)
    async with _serving(tls) as port:
        old, new = AUTHORITY.issue("old"), STRANGER.issue("new")
        assert await _call(port, old) == ["old"]
        (tmp_path / "ca.pem").write_bytes(STRANGER.pem)
        assert await _call(port, new) == ["new"]
        await _refused(port, old)


async def test_half_renewed_files_are_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    tls = _tls(tmp_path, client_ca=None)
    renewed = STRANGER.issue("server", dns=("localhost",))
    async with _serving(tls) as port:
        tls.key.write_bytes(renewed.key)
        assert await _call(port) == []
        assert await _call(port) == []
        assert "is not the key of" in caplog.text
        assert caplog.text.count("not reloaded") == 1, "said once, not at every handshake"
        tls.key.unlink()
        assert await _call(port) == []
        renewed.save(tmp_path, "server")
        assert await _call(port, authority=STRANGER) == []
        assert "certificates reloaded" in caplog.text
    assert "PRIVATE KEY" not in caplog.text


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("server.pem", None, "cannot be read"),
        ("server.pem", b"junk", "not a certificate"),
        ("server.key", None, "cannot be read"),
        ("server.key", b"junk", "not a private key"),
        ("server.key", AUTHORITY.issue("other").key, "not the key of"),
        ("ca.pem", None, "cannot be read"),
        ("ca.pem", b"junk", "not a certificate"),
    ],
)
def test_files_that_do_not_fit_are_said_at_start(
    tmp_path: Path, file: str, content: bytes | None, message: str
) -> None:
    tls = _tls(tmp_path)
    if content is None:
        (tmp_path / file).unlink()
    else:
        (tmp_path / file).write_bytes(content)
    with pytest.raises(ConfigError, match=message) as caught:
        server_credentials(tls)
    assert str(tmp_path / file) in str(caught.value)
