"""The composition root: builds everything from the configuration, starts it, stops it. Nothing is global."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import logging
import os
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from datetime import timedelta
from importlib import resources
from typing import Any

import grpc
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message import Message
from openfacility.jobs.v1 import jobs_service_pb2
from openfacility.status.v1 import status_service_pb2
from opentelemetry.sdk.trace import SpanProcessor
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector

from openfacility_server import errors, events, health, reflection, storage
from openfacility_server.auth.access import INFRASTRUCTURE, AccessTable
from openfacility_server.auth.authenticator import Authenticator
from openfacility_server.auth.tls import server_credentials
from openfacility_server.config import Config
from openfacility_server.http import bindings
from openfacility_server.http.app import Deps, Health
from openfacility_server.http.server import HttpServer, answers
from openfacility_server.interceptors import Chain, Stages
from openfacility_server.interceptors.access_log import AccessLog
from openfacility_server.interceptors.limits import Limiter
from openfacility_server.interceptors.tracing import Tracing
from openfacility_server.jobs.convert import JobCodec
from openfacility_server.jobs.engines import EngineUnavailable, JobEngine, registry
from openfacility_server.jobs.freshness import Freshness
from openfacility_server.jobs.jobs import Jobs
from openfacility_server.jobs.migrations import MIGRATIONS as JOBS_MIGRATIONS
from openfacility_server.jobs.reconcile import Reconciler
from openfacility_server.jobs.service import JobsService
from openfacility_server.jobs.steering import Steering
from openfacility_server.jobs.store import JobStore
from openfacility_server.paging import Pager
from openfacility_server.rpc import add_service, methods_of
from openfacility_server.settings import MIGRATIONS as SETTINGS_MIGRATIONS
from openfacility_server.settings import shared_secret
from openfacility_server.status.migrations import MIGRATIONS as STATUS_MIGRATIONS
from openfacility_server.status.parts import StatusParts
from openfacility_server.storage.leases import Lease

_log = logging.getLogger(__name__)

_RETRY = timedelta(seconds=1)
_LEASE_TTL = timedelta(seconds=15)
_CANCEL_AGAIN = 0.2  # seconds

MIGRATIONS = {"settings": SETTINGS_MIGRATIONS, "jobs": JOBS_MIGRATIONS, "status": STATUS_MIGRATIONS}
JOBS: ServiceDescriptor = jobs_service_pb2.DESCRIPTOR.services_by_name["JobsService"]
STATUS: ServiceDescriptor = status_service_pb2.DESCRIPTOR.services_by_name["StatusService"]
SERVICES: Sequence[ServiceDescriptor] = (JOBS, STATUS)


class App:
    """One server process. ``start`` returns when it serves, ``stop`` when it has let go of everything but the jobs."""

    def __init__(self, config: Config, span_processor: SpanProcessor | None = None) -> None:
        self.config = config
        self.grpc_ports: list[int] = []
        self._span_processor = span_processor
        self._tasks: list[asyncio.Task[None]] = []
        self._exit = contextlib.AsyncExitStack()
        self._registry = _registry()

    @property
    def http_port(self) -> int | None:
        """The TCP port of the HTTP listener, once started."""
        return self._http.port

    async def start(self) -> None:
        """Opens everything in order. Raises what stands in the way; then everything is closed again."""
        async with contextlib.AsyncExitStack() as undo:
            await self._start(undo)
            self._exit = undo.pop_all()
        # What was made up to here lives as long as the server: spare the collector from looking at it again.
        gc.collect()
        gc.freeze()
        gc.set_threshold(100_000, 50, 50)
        _log.info("serving", extra={"grpc_ports": self.grpc_ports, "http_port": self.http_port})

    async def _start(self, undo: contextlib.AsyncExitStack) -> None:
        config = self.config
        config.state.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._storage = storage.Storage.open(config.state.database_url)
        undo.push_async_callback(self._storage.close)
        await self._storage.start(MIGRATIONS)
        self._hub = self._make_hub()
        await self._hub.start()
        undo.push_async_callback(self._hub.stop)
        self._authenticator = Authenticator(config.auth)
        await self._authenticator.start()
        undo.push_async_callback(self._authenticator.close)
        self._engines = registry.build(config)
        await self._open_engines(undo)
        self._store = JobStore(JobCodec())
        undo.push_async_callback(self._end_tasks)
        await self._start_servers(undo)
        for reconciler in self._reconcilers():
            self._run(reconciler.run())
        for task in self._status.tasks():
            self._run(task)

    def _make_hub(self) -> events.EventHub:
        settings = self.config.events
        return events.EventHub(
            self._storage,
            ring_events=settings.ring_events,
            ring_bytes=settings.ring_bytes,
            keep=settings.keep,
            keep_events=settings.keep_events,
            bookmark_interval=settings.bookmark_interval,
        )

    async def _open_engines(self, undo: contextlib.AsyncExitStack) -> None:
        for resource_id, engine in self._engines.items():
            undo.push_async_callback(engine.close)
            try:
                await engine.open()
            except EngineUnavailable as error:
                _log.error("engine is down: %s", error, extra={"resource_id": resource_id})
                self._run(self._open_later(resource_id, engine))

    async def _open_later(self, resource_id: str, engine: JobEngine) -> None:
        """Opens an engine that was down at the start, once it is there."""
        while True:
            await asyncio.sleep(_RETRY.total_seconds())
            try:
                await engine.open()
            except EngineUnavailable as error:
                _log.debug("engine is still down: %s", error, extra={"resource_id": resource_id})
            else:
                _log.info("engine is there", extra={"resource_id": resource_id})
                return

    async def _start_servers(self, undo: contextlib.AsyncExitStack) -> None:
        config = self.config
        self._health = health.HealthMonitor(self._checks(), self._services(), self._registry)
        await self._health.start()
        self._run(self._health.run())
        access_log = AccessLog(self._registry, config.log.access)
        undo.callback(access_log.flush)
        tracing = Tracing(config.telemetry.sample_ratio, self._span_processor)
        undo.callback(tracing.close)
        self._chain = self._make_chain(access_log, tracing)
        await self._make_services()
        self._grpc = self._make_grpc()
        self._http = HttpServer(self._http_deps(), listen=config.http.listen, unix_socket=config.http.unix_socket)
        await self._http.start()
        undo.push_async_callback(self._http.stop, config.shutdown.grace.total_seconds())
        await self._grpc.start()
        undo.push_async_callback(self._stop_grpc)

    async def stop(self) -> None:
        """Stops in the order that loses nothing: tell, drain, end watches and calls, let go of engines and database."""
        await self._health.stop()
        await asyncio.sleep(self.config.shutdown.drain.total_seconds())
        # Our own tasks end first: they follow the hub too, and its end is no news to them.
        await asyncio.gather(self._end_tasks(), self._hub.stop())
        await self._exit.aclose()
        gc.unfreeze()

    # Parts.

    def _make_chain(self, access_log: AccessLog, tracing: Tracing) -> Chain:
        config = self.config
        names = [service.full_name for service in SERVICES]
        return Chain(
            Stages(
                methods=methods_of(SERVICES),
                authenticator=self._authenticator,
                access=AccessTable.from_services([*names, *_infrastructure()]),
                limiter=Limiter(config.limits),
                tracing=tracing,
                access_log=access_log,
                default_deadline=config.limits.default_deadline.total_seconds(),
                client_certificates=bool(config.grpc.tls and config.grpc.tls.client_ca),
                translate=translate,
            )
        )

    async def _make_services(self) -> None:
        pager = Pager(await shared_secret(self._storage, "page_tokens", Pager.new_key))
        codec = JobCodec()
        limit = self.config.limits.unfinished_jobs_per_owner
        jobs = Jobs(self._storage, self._store, self._engines, codec, self._hub, limit)
        freshness = Freshness(self._storage, self._store, self._engines)
        steering = Steering(self._storage, self._store, self._engines)
        self._status = StatusParts(self.config, self._storage, self._hub, self._engines, pager, jobs)
        await self._status.describe()
        self._health.planned = self._status.planned_outages
        self._servicers = {
            JOBS.full_name: JobsService(jobs, steering, freshness, self._engines, self._hub, pager),
            STATUS.full_name: self._status.servicer,
        }

    async def reload(self) -> None:
        """Reads again what may change while the server runs: the facility's description."""
        await self._status.reload()

    def _make_grpc(self) -> grpc.aio.Server:
        settings = self.config.grpc
        server = grpc.aio.server(interceptors=(self._chain,), options=_options(self.config))
        for service in SERVICES:
            add_service(server, service, self._servicers[service.full_name])
        _add_health(server, self._health)
        reflection.add_reflection(server, [service.full_name for service in SERVICES] + ["grpc.health.v1.Health"])
        credentials = server_credentials(settings.tls) if settings.tls else None
        for address in settings.listen:
            port = server.add_secure_port(address, credentials) if credentials else server.add_insecure_port(address)
            self.grpc_ports.append(port)
        if settings.unix_socket:
            if answers(settings.unix_socket):
                # gRPC would take it away from the server that listens there.
                raise OSError(errno.EADDRINUSE, "another server listens here", str(settings.unix_socket))
            settings.unix_socket.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            # Only this user: what comes through here is believed to have passed Envoy.
            mask = os.umask(0o177)
            try:
                server.add_insecure_port(f"unix:{settings.unix_socket}")
            finally:
                os.umask(mask)
        return server

    def _http_deps(self) -> Deps:
        return Deps(
            health=self._http_health,
            registry=self._registry,
            bindings=bindings.load(),
            openapi=_openapi(),
            watch=self._watch,
        )

    def _http_health(self) -> Health:
        components = {name: component.word.value for name, component in self._health.components().items()}
        return Health(ready=self._health.serving, components=components)

    def _watch(self, rpc: str, request: Message, metadata: Sequence[tuple[str, str]]) -> AsyncIterator[bytes]:
        service, _, method = rpc.lstrip("/").partition("/")
        handler = getattr(self._servicers[service], method)
        return self._chain.direct(rpc, handler, request, metadata, "http")

    def _reconcilers(self) -> Sequence[Reconciler]:
        return [
            Reconciler(
                resource_id,
                engine,
                self._storage,
                self._store,
                self._hub,
                Lease(self._storage, f"jobs/{resource_id}", f"{os.getpid()}", _LEASE_TTL),
            )
            for resource_id, engine in self._engines.items()
        ]

    def _checks(self) -> Mapping[str, health.Check]:
        checks: dict[str, health.Check] = {health.DATABASE: self._storage.ping}
        for resource_id, engine in self._engines.items():
            checks[f"jobs/{resource_id}"] = _engine_check(engine)
        return checks

    def _services(self) -> Mapping[str, tuple[str, ...]]:
        return {
            JOBS.full_name: tuple(f"jobs/{resource_id}" for resource_id in self._engines),
            STATUS.full_name: (health.DATABASE,),
        }

    # Tasks.

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        self._tasks.append(asyncio.create_task(work))

    async def _end_tasks(self) -> None:
        left = set(self._tasks)
        while left:
            # More than once: a cancellation that meets another error can get lost on its way.
            for task in left:
                task.cancel()
            _, left = await asyncio.wait(left, timeout=_CANCEL_AGAIN)
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _stop_grpc(self) -> None:
        await self._grpc.stop(self.config.shutdown.grace.total_seconds())


def translate(error: Exception) -> errors.Error | None:
    """Returns what callers are told of an error of the lower layers, None for one that nobody expected."""
    match error:
        case storage.RequestIdReused():
            text = "was used before for another request; make a new one for each new request"
            return errors.invalid("request_id", text, "REQUEST_ID_REUSED")
        case storage.StorageUnavailable():
            return errors.Unavailable("DATABASE_UNAVAILABLE", "the database does not answer; retry", _RETRY)
        case EngineUnavailable():
            return errors.Unavailable("ENGINE_UNAVAILABLE", "the engine does not answer; retry", _RETRY)
        case events.HubStopping():
            text = "the server is stopping; resume the watch after its last revision"
            return errors.Unavailable("SERVER_STOPPING", text, _RETRY)
        case events.OutOfRange():
            kind = "newer than any" if isinstance(error, events.FutureRevision) else "older than what is kept"
            return errors.OutOfRange(
                "REVISION_OUT_OF_RANGE",
                f"revision {error.after} is {kind}; list again and watch from the list's revision",
                {
                    "oldest_revision": str(error.oldest_revision),
                    "current_revision": str(error.current_revision),
                    "after_revision": str(error.after),
                },
            )
    return None


def _infrastructure() -> Sequence[str]:
    reflection.describe_v1()
    return list(INFRASTRUCTURE)


def _engine_check(engine: JobEngine) -> Callable[[], Coroutine[Any, Any, None]]:
    async def check() -> None:
        answer = await engine.health()
        if not answer.serving:
            raise EngineUnavailable(answer.message or "not serving")

    return check


def _add_health(server: grpc.aio.Server, monitor: health.HealthMonitor) -> None:
    from grpc_health.v1 import health_pb2_grpc  # noqa: PLC0415 -- the only use

    health_pb2_grpc.add_HealthServicer_to_server(monitor.servicer, server)


def _options(config: Config) -> list[tuple[str, int]]:
    settings = config.grpc
    options = [
        ("grpc.so_reuseport", int(settings.reuse_port)),
        ("grpc.max_receive_message_length", settings.max_message_bytes),
        ("grpc.max_concurrent_streams", settings.max_streams_per_connection),
        ("grpc.max_metadata_size", 32 * 1024),
        # Watches are idle for long: clients may ping to keep them through NATs, and dead clients are noticed.
        ("grpc.http2.min_ping_interval_without_data_ms", int(settings.keepalive_min_interval.total_seconds() * 1000)),
        ("grpc.http2.max_ping_strikes", 2),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 20_000),
    ]
    if settings.max_connection_age:
        options += [
            ("grpc.max_connection_age_ms", int(settings.max_connection_age.total_seconds() * 1000)),
            ("grpc.max_connection_age_grace_ms", 5_000),
        ]
    return options


def _registry() -> CollectorRegistry:
    registry_ = CollectorRegistry()
    ProcessCollector(registry=registry_)
    PlatformCollector(registry=registry_)
    GCCollector(registry=registry_)
    return registry_


def _openapi() -> bytes | None:
    path = resources.files("openfacility") / "openapi.json"
    return path.read_bytes() if path.is_file() else None
