# ruff: noqa: ASYNC109 - the timeout is gRPC's, which also tells it to the server
"""The client itself."""

from __future__ import annotations

from datetime import timedelta
from types import TracebackType
from typing import Self

from openfacility_client import _tracing
from openfacility_client._async.jobs import AsyncJobs
from openfacility_client._async.status import AsyncStatus
from openfacility_client._async.transport import AsyncTransport
from openfacility_client._model import HealthStatus
from openfacility_client._settings import TLS, make_settings
from openfacility_client._tokens import AsyncTokenSource


class AsyncClient:
    """A connection to a facility.

        async with AsyncClient("127.0.0.1:50051", token=…) as client:
            job = await client.jobs.submit("/bin/echo", "hi")
            async for change in client.jobs.watch(job):
                print(change.job.state)

    It connects when it is first used, and again whenever the connection is lost. One client serves any number of calls
    at a time.
    """

    jobs: AsyncJobs
    """Jobs: submit, find, steer and follow them."""
    status: AsyncStatus
    """The facility's status: what is up, what will be, and what broke a job."""

    def __init__(
        self,
        address: str,
        *,
        token: AsyncTokenSource | None = None,
        tls: bool | TLS = False,
        insecure: bool = False,
        timeout: timedelta | float | None = None,
        tracing: bool = False,
    ) -> None:
        """Set up, without connecting yet.

        Args:
            address: `host:port` or `unix:path`.
            token: a bearer token, or a callable that returns one and is asked again when it has expired.
            tls: True to trust the system's authorities, or a `TLS` that says more; False for plain text.
            insecure: send the token in plain text to another machine nevertheless.
            timeout: seconds that a call may take unless it says otherwise; None for 30.
            tracing: record a span for each call, with OpenTelemetry's gRPC instrumentation.

        Raises:
            ConfigurationError: this cannot work, or would give the token away.
        """
        settings = make_settings(
            address, has_token=token is not None, tls=tls, insecure=insecure, timeout=timeout, tracing=tracing
        )
        if settings.tls is not None:
            settings.tls.credentials()
        if tracing:
            _tracing.check()
        self.address = address
        """What it connects to."""
        self._transport = AsyncTransport(settings, token)
        self.jobs = AsyncJobs(self._transport)
        self.status = AsyncStatus(self._transport)

    async def health(self, service: str = "", *, timeout: timedelta | float | None = None) -> HealthStatus:
        """Ask whether the server, or one service of it, takes calls. Needs no token.

        Raises:
            Unavailable: nobody answers at the address.
        """
        return await self._transport.health(service, timeout=timeout)

    async def close(self) -> None:
        """Close the connection; calls and streams that go on are canceled."""
        await self._transport.close()

    async def __aenter__(self) -> Self:
        """Return this very client."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        await self.close()

    def __repr__(self) -> str:
        """Show the address, never the token."""
        return f"{type(self).__name__}({self.address!r})"
