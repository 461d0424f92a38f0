# Made from _async/transport.py by clients/python/generate_sync.py; change that one.
"""One connection to the service: adds the token and a deadline to each call, and turns errors into exceptions."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import grpc

from openfacility_client._exceptions import ClientClosed, RPCError, Unauthenticated
from openfacility_client._health import HEALTH_CHECK, health_request, health_status
from openfacility_client._model import HealthStatus
from openfacility_client._recovery import Retries
from openfacility_client._settings import Settings
from openfacility_client._status import to_exception
from openfacility_client._sync.tokens import Tokens
from openfacility_client._threads import Alarm, open_channel, open_methods
from openfacility_client._timing import Deadline
from openfacility_client._tokens import Token, TokenSource


class Transport:
    """Makes calls. Connects when it is first used."""

    def __init__(self, settings: Settings, token: TokenSource | None) -> None:
        """Connect to nothing yet."""
        self.settings = settings
        self.tokens = Tokens(token)
        self._channel: Any = None
        self._methods: Mapping[str, Any] = {}
        self._closed = False

    def close(self) -> None:
        """Close the connection. Calls that go on are canceled."""
        self._closed = True
        channel, self._channel = self._channel, None
        if channel is not None:
            channel.close()

    def call(self, method: str, request: Any, *, timeout: timedelta | float | None = None) -> Any:
        """Make one call and return its response.

        What fails is repeated as `_recovery` says; a refused token is replaced once.

        Raises:
            RPCError: as its subclass says.
        """
        deadline = Deadline(self.settings.timeout if timeout is None else timeout)
        retries, refreshed = Retries(method, deadline), False
        while True:
            token = self.tokens.current()
            try:
                return self._method(method)(request, timeout=deadline.grpc_timeout, metadata=self.metadata(token))
            except grpc.RpcError as failure:
                error = self.explain(failure, method, request)
                if isinstance(error, Unauthenticated) and not refreshed:
                    refreshed = True
                    if self.tokens.refresh(token):
                        continue
                elif (delay := retries.delay(error)) is not None:
                    Alarm().pause(delay)
                    continue
                raise retries.telling(error) from failure

    def stream(self, method: str, request: Any, token: Token | None, deadline: Deadline) -> Any:
        """Begin a call that streams its responses, and return it."""
        return self._method(method)(request, timeout=deadline.grpc_timeout, metadata=self.metadata(token))

    def health(self, service: str = "", *, timeout: timedelta | float | None = None) -> HealthStatus:
        """Ask the server's standard health service."""
        deadline = Deadline(self.settings.timeout if timeout is None else timeout)
        check = self._open().unary_unary(HEALTH_CHECK, health_request, health_status)
        try:
            status: HealthStatus = check(service, timeout=deadline.grpc_timeout)
        except grpc.RpcError as failure:
            raise to_exception(failure, method="Health.Check") from failure
        return status

    def explain(self, failure: grpc.RpcError, method: str, request: Any) -> RPCError:
        """Return the exception for a failed call."""
        return to_exception(failure, method=method, retry_request_id=getattr(request, "request_id", ""))

    def metadata(self, token: Token | None) -> tuple[tuple[str, str], ...]:
        """Return what every call carries."""
        return () if token is None else (("authorization", f"Bearer {token.value}"),)

    def _method(self, name: str) -> Any:
        self._open()
        return self._methods[name]

    def _open(self) -> Any:
        if self._closed:
            raise ClientClosed("the client is closed")
        if self._channel is None:
            self._channel = open_channel(self.settings)
            self._methods = open_methods(self._channel)
        return self._channel
