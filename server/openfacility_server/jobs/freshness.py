"""How old that is what this service says of jobs, and how to make it newer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Any

from openfacility_server.jobs import lifecycle, observations
from openfacility_server.jobs.engines import JobEngine
from openfacility_server.jobs.model import Job
from openfacility_server.jobs.store import JobStore
from openfacility_server.storage import Storage

_CHUNK = 200
# The comparisons are made by whichever server leads; how long their times are believed without another look.
_REMEMBERED_SECONDS = 1.0


class Freshness:
    """Compares jobs with their engines when callers ask for it, and says when that was last done."""

    def __init__(self, storage: Storage, store: JobStore, engines: Mapping[str, JobEngine]) -> None:
        self._storage = storage
        self._store = store
        self._engines = engines
        self._compared: dict[str, tuple[float, datetime | None]] = {}
        self._running: dict[str, asyncio.Task[None]] = {}
        self._next: dict[str, asyncio.Task[None]] = {}

    @property
    def resources(self) -> list[str]:
        """The compute resources."""
        return list(self._engines)

    async def compared(self, resource_id: str) -> datetime | None:
        """Returns when the jobs of a resource were last compared with what its engine says; None: never yet."""
        read_at, compared = self._compared.get(resource_id, (0.0, None))
        if time.monotonic() - read_at > _REMEMBERED_SECONDS:
            compared = await self._storage.point(lambda tx: self._store.compared(tx, resource_id))
            self._compared[resource_id] = time.monotonic(), compared
        return compared

    async def refresh_job(self, job: Job) -> datetime | None:
        """Compares one job; returns when. Raises EngineUnavailable."""
        engine = self._engines.get(job.resource_id)
        if engine is None:
            return None
        began = datetime.now(UTC)
        seen = await engine.observe([lifecycle.ref_of(job)])
        await self._storage.write(
            lambda tx: observations.apply(self._store, tx, seen=seen, resource_id=job.resource_id)
        )
        return began

    async def refresh(self, resource_id: str) -> None:
        """Compares all jobs of a resource. Who asks meanwhile shares the next comparison. Raises EngineUnavailable."""
        if resource_id not in self._running:
            await asyncio.shield(self._begin(resource_id))
            return
        waiting = self._next.get(resource_id)
        if waiting is None:
            waiting = self._next[resource_id] = asyncio.create_task(self._after_running(resource_id))
        await asyncio.shield(waiting)

    def _begin(self, resource_id: str) -> asyncio.Task[None]:
        task = self._running[resource_id] = asyncio.create_task(self._compare(resource_id))
        task.add_done_callback(lambda _: self._running.pop(resource_id, None))
        # Whoever asked may be gone by the time that it fails.
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        return task

    async def _after_running(self, resource_id: str) -> None:
        await asyncio.wait([self._running[resource_id]])
        del self._next[resource_id]
        await self._begin(resource_id)

    async def _compare(self, resource_id: str) -> None:
        began = datetime.now(UTC)
        seen = await self._engines[resource_id].observe_all()
        for start in range(0, len(seen), _CHUNK):
            part: dict[str, Any] = {"seen": seen[start : start + _CHUNK], "resource_id": resource_id}
            if await self._storage.read(partial(observations.new, self._store, **part)):
                await self._storage.write(partial(observations.apply, self._store, **part))
        await self._storage.write(lambda tx: self._store.set_compared(tx, resource_id, began))
        self._compared.pop(resource_id, None)
