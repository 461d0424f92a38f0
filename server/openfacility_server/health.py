"""Health: what works, asked again and again, told as ``grpc.health.v1`` and to HTTP probes.

Overall (``""``) is NOT_SERVING when the database is away or the server is stopping: send this server no calls. A
service is NOT_SERVING when nothing of it can work: for Jobs, when none of its engines answers. ``liveness`` is SERVING
for as long as the process answers at all: restarting it would not bring a database back.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from grpc_health.v1 import health, health_pb2
from prometheus_client import CollectorRegistry, Gauge

_log = logging.getLogger(__name__)

_INTERVAL_SECONDS = 2.0
_CHECK_SECONDS = 5.0
# A health watcher that does not read can hold the servicer's lock.
_SET_SECONDS = 1.0

DATABASE = "database"
LIVENESS = "liveness"
Check = Callable[[], Awaitable[None]]


class Word(StrEnum):
    """How a component is: what works, what does not, what is in a planned outage, and what was not asked yet."""

    UP = "UP"
    DOWN = "DOWN"
    OUT_OF_SERVICE = "OUT_OF_SERVICE"
    UNKNOWN = "UNKNOWN"


@dataclass(frozen=True, slots=True)
class Component:
    """How one part stood when it was last asked."""

    word: Word
    since: datetime
    message: str = ""

    @property
    def up(self) -> bool:
        """Whether it may be used."""
        return self.word == Word.UP


class HealthMonitor:
    """Asks components and tells how services stand.

    ``checks`` raise when a component is down; ``services`` names, per service, the components of which one must be up.
    ``planned`` is set to what tells which components are in a planned outage, whatever their checks say.
    """

    planned: Callable[[], Awaitable[Collection[str]]] | None = None

    def __init__(
        self, checks: Mapping[str, Check], services: Mapping[str, tuple[str, ...]], registry: CollectorRegistry
    ) -> None:
        self.servicer = health.aio.HealthServicer()
        self._checks = dict(checks)
        self._services = dict(services)
        self._components = {name: Component(Word.UNKNOWN, datetime.now(UTC)) for name in checks}
        self._stopping = False
        self._again = asyncio.Event()
        self._gauge = Gauge("openfacility_component_up", "Whether a component works", ["component"], registry=registry)

    async def start(self) -> None:
        """Asks everything once, so that the first answer is a true one."""
        await self._tell(LIVENESS, True)
        await self._ask_all()

    async def run(self) -> None:
        """Goes on asking until cancelled."""
        while True:
            try:
                async with asyncio.timeout(_INTERVAL_SECONDS):
                    await self._again.wait()
            except TimeoutError:
                pass
            self._again.clear()
            await self._ask_all()

    def ask_soon(self) -> None:
        """Makes the next question come at once."""
        self._again.set()

    async def stop(self) -> None:
        """Tells everyone that the server is stopping."""
        self._stopping = True
        try:
            async with asyncio.timeout(_SET_SECONDS):
                await self.servicer.enter_graceful_shutdown()
        except TimeoutError:
            _log.warning("a health watcher does not read; not waiting for it")

    @property
    def serving(self) -> bool:
        """Whether calls should be sent here."""
        database = self._components.get(DATABASE)
        return not self._stopping and database is not None and database.up

    def components(self) -> Mapping[str, Component]:
        """Returns how each component stands."""
        return dict(self._components)

    async def _ask_all(self) -> None:
        results = await asyncio.gather(*(self._ask(check) for check in self._checks.values()))
        planned = await self.planned() if self.planned else ()
        for name, message in zip(self._checks, results, strict=True):
            word = Word.OUT_OF_SERVICE if name in planned else Word.UP if message is None else Word.DOWN
            if self._components[name].word != word:
                level = logging.ERROR if word == Word.DOWN else logging.INFO
                _log.log(level, "%s is %s%s", name, word.lower(), f": {message}" if message else "")
                self._components[name] = Component(word, datetime.now(UTC), message or "")
            self._gauge.labels(name).set(word == Word.UP)
        if not self._stopping:
            await self._tell("", self.serving)
            for service, needed in self._services.items():
                some = not needed or any(self._components[name].up for name in needed)
                await self._tell(service, self.serving and some)

    async def _ask(self, check: Check) -> str | None:
        try:
            async with asyncio.timeout(_CHECK_SECONDS):
                await check()
        except TimeoutError:
            return "does not answer"
        except Exception as error:  # noqa: BLE001 -- whatever a check raises, the component is down
            return str(error) or type(error).__name__
        return None

    async def _tell(self, service: str, serving: bool) -> None:
        status = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        try:
            async with asyncio.timeout(_SET_SECONDS):
                await self.servicer.set(service, status)
        except TimeoutError:
            _log.warning("a health watcher does not read; its status is late")
