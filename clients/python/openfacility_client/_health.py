"""The standard health service (grpc.health.v1), whose two messages are too small to depend on a package for."""

from __future__ import annotations

from openfacility_client._model import HealthStatus

HEALTH_CHECK = "/grpc.health.v1.Health/Check"

_STATUSES = (HealthStatus.UNKNOWN, HealthStatus.SERVING, HealthStatus.NOT_SERVING, HealthStatus.SERVICE_UNKNOWN)


def health_request(service: str) -> bytes:
    """Write a HealthCheckRequest: field 1 is the service's name."""
    name = service.encode()
    if len(name) > 127:
        raise ValueError("the name of a service has at most 127 bytes")
    return bytes((0x0A, len(name))) + name if name else b""


def health_status(response: bytes) -> HealthStatus:
    """Read a HealthCheckResponse: field 1 is the status."""
    number = response[1] if len(response) == 2 and response[0] == 0x08 else 0
    return _STATUSES[number] if number < len(_STATUSES) else HealthStatus.UNKNOWN
