"""Certificates of the gRPC listener: the server's own, read again when they change, and the callers'."""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import Any

import grpc
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from openfacility_server.config import ConfigError, Tls

_log = logging.getLogger(__name__)


def server_credentials(tls: Tls) -> grpc.ServerCredentials:
    """Returns credentials for ``add_secure_port``; with a client CA, only clients that it vouches for connect.

    The files are looked at before every handshake and read again when they have changed, so that a renewed
    certificate or another CA needs no restart; connections that are open stay as they are. Files that do not fit
    together (half renewed) are passed over until they do. Raises ConfigError when they do not fit at first.
    """
    files = _Files(tls)
    return grpc.dynamic_ssl_server_credentials(
        files.load(), files.changed, require_client_authentication=tls.client_ca is not None
    )


def certificate_names(context: Any) -> tuple[str, ...]:
    """Returns the names that the caller's verified client certificate gives it, most specific first.

    They are its URIs (such as SPIFFE ids), then its DNS names; the common name counts only where there is neither,
    because authorities often check it less. Without a verified certificate there are none. ``context`` is a call's
    ``grpc.aio.ServicerContext``.
    """
    peer = context.auth_context()
    # gRPC asks for a certificate only where it also verifies it, and hands over none that it did not verify.
    if list(peer.get("transport_security_type", ())) != [b"ssl"] or "x509_pem_cert" not in peer:
        return ()
    names = [*peer.get("peer_uri", ()), *peer.get("peer_dns", ())]
    return tuple(name.decode("utf-8", "replace") for name in names or peer.get("x509_common_name", ()) if name)


class _Files:
    """The files of a listener; called from gRPC's own threads."""

    def __init__(self, tls: Tls) -> None:
        self._tls = tls
        self._paths = [path for path in (tls.certificate, tls.key, tls.client_ca) if path is not None]
        self._lock = threading.Lock()
        self._seen: list[tuple[int, ...] | None] = []

    def load(self) -> Any:
        """Reads the files. Raises ConfigError."""
        self._seen = [_stamp(path) for path in self._paths]
        certificate, key = _read(self._tls.certificate), _read(self._tls.key)
        _check_pair(self._tls, certificate, key)
        authorities = None
        if self._tls.client_ca is not None:
            authorities = _read(self._tls.client_ca)
            _certificates(self._tls.client_ca, authorities)
        return grpc.ssl_server_certificate_configuration([(key, certificate)], authorities)

    def changed(self) -> Any:
        """Reads the files if they have changed and fit together, else returns None: go on as before."""
        with self._lock:
            if [_stamp(path) for path in self._paths] == self._seen:
                return None
            try:
                configuration = self.load()
            except ConfigError as error:
                _log.error("certificates not reloaded: %s", error)
                return None
            _log.info("certificates reloaded")
            return configuration


def _stamp(path: Path) -> tuple[int, ...] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error


def _certificates(path: Path, pem: bytes) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError as error:
        raise ConfigError(f"{path}: is not a certificate in PEM form") from error


def _check_pair(tls: Tls, certificate: bytes, key: bytes) -> None:
    leaf = _certificates(tls.certificate, certificate)[0]
    try:
        private_key = load_pem_private_key(key, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ConfigError(f"{tls.key}: is not a private key in PEM form without a password") from error
    if private_key.public_key() != leaf.public_key():
        raise ConfigError(f"{tls.key}: is not the key of {tls.certificate}")
