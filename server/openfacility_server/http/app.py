"""The ASGI application: probes, metrics, the OpenAPI document, server-sent events, and Envoy's strict check."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from openfacility_server import errors
from openfacility_server.http import replies
from openfacility_server.http.bindings import Binding
from openfacility_server.http.check import Check
from openfacility_server.http.envoy_config import CHECK_PREFIX, MAX_BODY
from openfacility_server.http.sse import ServerSentEvents, Watch


@dataclass(frozen=True, slots=True)
class Health:
    """How the server stands."""

    live: bool = True  # false: restart it
    ready: bool = True  # false: send no requests here now
    started: bool = True
    components: Mapping[str, str] = field(default_factory=dict)  # UP, DOWN, OUT_OF_SERVICE or UNKNOWN


@dataclass(frozen=True, slots=True)
class Deps:
    """What the application needs of the server."""

    health: Callable[[], Health]
    registry: CollectorRegistry
    bindings: Sequence[Binding]  # bindings.load()
    openapi: bytes | None = None  # the document; None: the path does not exist
    watch: Watch | None = None  # None: no server-sent events
    max_body: int = MAX_BODY
    heartbeat: float = 15.0  # seconds between comments of an idle event stream


def create_app(deps: Deps, stopping: asyncio.Event, *, internal: bool) -> Starlette:
    """Builds the application.

    Args:
        deps: what it needs of the server.
        stopping: set when the server stops; ends the event streams.
        internal: for the unix socket that only Envoy opens: with the strict check, and without metrics, so that no
            mistake in a route can make them public.
    """
    probes: dict[str, Callable[[Health], bool]] = {
        "/livez": lambda health: health.live,
        "/readyz": lambda health: health.live and health.started and health.ready,
        "/startupz": lambda health: health.started,
    }
    routes = [Route(path, _probe(deps, good)) for path, good in probes.items()]
    if deps.openapi is not None:
        routes.append(Route("/openapi.json", _document(deps.openapi)))
    if deps.watch is not None:
        events = ServerSentEvents(deps.bindings, deps.watch, stopping, deps.heartbeat)
        routes.append(Route("/v1/{path:path}", _plain(events)))
    if internal:
        check = Check(deps.bindings, deps.max_body)
        routes.append(
            Route(f"{CHECK_PREFIX}{{path:path}}", _plain(check), methods=["GET", "POST", "PUT", "PATCH", "DELETE"])
        )
    else:
        routes.append(Route("/metrics", _metrics(deps.registry)))
    return Starlette(routes=routes, exception_handlers={HTTPException: _http_exception, Exception: _failed})


Endpoint = Callable[[Request], Awaitable[Response]]


def _plain(endpoint: Endpoint) -> Endpoint:
    """Starlette takes an object for an ASGI application, and a function for an endpoint."""

    async def call(request: Request) -> Response:
        return await endpoint(request)

    return call


def _probe(deps: Deps, good: Callable[[Health], bool]) -> Endpoint:
    async def probe(_: Request) -> Response:
        health = deps.health()
        answer = {"status": "ok" if good(health) else "unavailable", "components": dict(health.components)}
        headers = {"cache-control": "no-store"}
        return Response(json.dumps(answer), 200 if good(health) else 503, headers, replies.JSON_TYPE)

    return probe


def _document(content: bytes) -> Endpoint:
    etag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    headers = {"etag": etag, "cache-control": "public, max-age=60"}

    async def document(request: Request) -> Response:
        known = {tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")}
        if known & {etag, "*"}:
            return Response(status_code=304, headers=headers)
        return Response(content, 200, headers, replies.JSON_TYPE)

    return document


def _metrics(registry: CollectorRegistry) -> Endpoint:
    async def metrics(_: Request) -> Response:
        return Response(generate_latest(registry), 200, {"cache-control": "no-store"}, CONTENT_TYPE_LATEST)

    return metrics


async def _http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    known = {404: ("", ""), 405: ("METHOD_NOT_ALLOWED", "this path takes other methods, see the header allow")}
    reason, text = known.get(error.status_code, ("INVALID_REQUEST", "the request cannot be used"))
    refused = replies.RefusedError(replies.plain(error.status_code, reason, text), error.status_code)
    answer = replies.error_response(refused, replies.request_id(request))
    answer.headers.update(error.headers or {})
    return answer


async def _failed(request: Request, _: Exception) -> Response:
    return replies.error_response(errors.Internal(), replies.request_id(request))
