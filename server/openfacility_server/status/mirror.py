"""Takes over what batch systems plan and remember: reserved maintenance, and outages that nobody saw."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial

from openfacility_server.jobs.engines import EngineUnavailable, JobEngine
from openfacility_server.jobs.engines.cluster import ClusterEngine
from openfacility_server.status.description import Description
from openfacility_server.status.maintenance import Maintenance, Wanted, wanted
from openfacility_server.status.outages import History, past
from openfacility_server.status.probes import JobsTarget
from openfacility_server.storage import Storage, StorageUnavailable

_log = logging.getLogger(__name__)

_LOOK_BACK = timedelta(days=7)
# Incidents are looked at again this often, though no reservation has changed.
_LOOK_AGAIN = timedelta(minutes=1)
_RETRY_SECONDS = 15.0
_CHUNK = 100


class Mirror:
    """Follows the batch systems of a description, while it is started. ``period`` is how often it asks, seconds."""

    def __init__(
        self,
        engines: Mapping[str, JobEngine],
        storage: Storage,
        maintenance: Maintenance,
        history: History,
        period: float,
    ) -> None:
        self._engines = {name: engine for name, engine in engines.items() if isinstance(engine, ClusterEngine)}
        self._storage = storage
        self._maintenance = maintenance
        self._history = history
        self._period = period
        self._tied: Mapping[str, Sequence[tuple[str, JobsTarget]]] = {}
        self._tasks: list[asyncio.Task[None]] = []

    def describe(self, description: Description) -> None:
        """Takes which resources stand for what from now on."""
        self._tied = {name: description.tied(name) for name in self._engines}

    async def start(self) -> None:
        """Begins to follow."""
        for name, engine in self._engines.items():
            self._tasks.append(asyncio.create_task(self._follow(name, engine)))
            self._tasks.append(asyncio.create_task(self._remember(name, engine)))

    async def stop(self) -> None:
        """Ends that."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _follow(self, name: str, engine: ClusterEngine) -> None:
        done: tuple[Sequence[Wanted], datetime] | None = None
        while True:
            try:
                found = wanted(
                    name, await engine.cluster(), await engine.reservations(), self._tied[name], datetime.now(UTC)
                )
                now = datetime.now(UTC)
                if done is None or done[0] != found or now - done[1] >= _LOOK_AGAIN:
                    await self._storage.write(partial(self._maintenance.follow, jobs_resource_id=name, wanted=found))
                    done = (found, now)
            except (EngineUnavailable, StorageUnavailable) as error:
                # The probes tell everyone; what was planned stays.
                _log.debug("reservations of %s: %s", name, error)
            except Exception:  # noqa: BLE001 -- the next time may be better
                _log.exception("the reservations of %s are not followed", name)
            await asyncio.sleep(self._period)

    async def _remember(self, name: str, engine: ClusterEngine) -> None:
        while True:
            try:
                outages = await engine.node_outages(datetime.now(UTC) - _LOOK_BACK)
                view = await engine.cluster()
                found = await asyncio.to_thread(past, view, outages, self._tied[name], timedelta(seconds=self._period))
                for start in range(0, len(found), _CHUNK):
                    await self._storage.write(partial(self._history.take, spans=found[start : start + _CHUNK]))
                return
            except (EngineUnavailable, StorageUnavailable) as error:
                _log.info("the record of the nodes of %s is not read yet: %s", name, error)
            except Exception:  # noqa: BLE001 -- nothing depends on the past
                _log.exception("the record of the nodes of %s cannot be read", name)
                return
            await asyncio.sleep(_RETRY_SECONDS)
