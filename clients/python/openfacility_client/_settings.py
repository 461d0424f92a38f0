"""Where a client connects to and how: address, TLS, channel options. Decided once, before any connection."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cache
from importlib.resources import files
from pathlib import Path

import grpc

from openfacility_client._exceptions import ConfigurationError

DEFAULT_TIMEOUT = 30.0
"""Seconds that a call may take unless told otherwise. Watches and followed output have no limit of their own."""

_KEEPALIVE_MS = 20_000
"""The server allows a ping each 10 s, also on a connection without data; half that rate leaves room for both."""

_HOST_PORT = re.compile(r"(?P<host>\[[0-9A-Fa-f:.%]+\]|[^\s:/\[\]]+):(?P<port>\d{1,5})")

Pem = bytes | str | Path
"""A PEM file's path, or its content as bytes."""


@dataclass(frozen=True, slots=True)
class TLS:
    """How to make a connection safe. Without `ca`, the certificate authorities of the system are trusted."""

    ca: Pem | None = None
    """Authorities to trust instead of the system's."""
    cert: Pem | None = None
    """The client's own certificate chain, for mutual TLS; needs `key`."""
    key: Pem | None = field(default=None, repr=False)
    """The private key of `cert`."""
    server_name: str = ""
    """Name that the server's certificate must carry, when it is not the host in the address."""

    def credentials(self) -> grpc.ChannelCredentials:
        """Read the files.

        Raises:
            ConfigurationError: a file cannot be read, or one of `cert` and `key` is missing.
        """
        if (self.cert is None) != (self.key is None):
            raise ConfigurationError("mutual TLS needs both cert and key")
        return grpc.ssl_channel_credentials(_pem(self.ca), _pem(self.key), _pem(self.cert))


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that a connection needs to know."""

    target: str
    """What gRPC connects to."""
    local: bool
    """Whether that is this very machine."""
    tls: TLS | None = None
    timeout: float = DEFAULT_TIMEOUT
    """Seconds that a call may take."""
    tracing: bool = False

    @property
    def options(self) -> list[tuple[str, str | int]]:
        """Channel options."""
        options: list[tuple[str, str | int]] = [
            ("grpc.service_config", _service_config()),
            ("grpc.keepalive_time_ms", _KEEPALIVE_MS),
            ("grpc.keepalive_timeout_ms", 10_000),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.max_pings_without_data", 0),
            # Its own connection, so that `close` closes it and another client's back-off does not delay this one.
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.initial_reconnect_backoff_ms", 200),
            ("grpc.min_reconnect_backoff_ms", 2_000),
            ("grpc.max_reconnect_backoff_ms", 5_000),
            # A page of 1,000 jobs with long scripts is more than the 4 MiB that gRPC takes by default.
            ("grpc.max_receive_message_length", 64 * 1024 * 1024),
        ]
        if self.local:
            options.append(("grpc.enable_http_proxy", 0))
        if self.tls and self.tls.server_name:
            options.append(("grpc.ssl_target_name_override", self.tls.server_name))
        return options


def make_settings(
    address: str,
    *,
    has_token: bool,
    tls: bool | TLS,
    insecure: bool,
    timeout: timedelta | float | None,
    tracing: bool,
) -> Settings:
    """Check and put together what the caller of a client gave.

    Raises:
        ConfigurationError: the address is malformed, or a token would travel in plain text to another machine.
    """
    local = _is_local(address)
    secured = (tls if isinstance(tls, TLS) else TLS()) if tls else None
    if has_token and not (secured or local or insecure):
        raise ConfigurationError(
            f"refusing to send a token in plain text to {address}: use TLS, or allow it as insecure on a safe network"
        )
    limit = DEFAULT_TIMEOUT if timeout is None else to_seconds(timeout)
    if limit <= 0:
        raise ConfigurationError("timeout must be more than 0 s")
    return Settings(target=address, local=local, tls=secured, timeout=limit, tracing=tracing)


def to_seconds(value: timedelta | float) -> float:
    """Return a duration in seconds, given as one or in seconds."""
    return value.total_seconds() if isinstance(value, timedelta) else float(value)


def _is_local(address: str) -> bool:
    if address.startswith("unix:") and len(address) > len("unix:"):
        return True
    match = _HOST_PORT.fullmatch(address.removeprefix("dns:///"))
    if match is None or int(match["port"]) > 65535:
        raise ConfigurationError(f"address {address!r} is neither host:port nor unix:path")
    host = match["host"].strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@cache
def _service_config() -> str:
    return files("openfacility_client").joinpath("service_config.json").read_text(encoding="utf-8")


def _pem(source: Pem | None) -> bytes | None:
    if source is None or isinstance(source, bytes):
        return source
    try:
        return Path(source).read_bytes()
    except OSError as error:
        raise ConfigurationError(f"cannot read {source}: {error.strerror}") from error
