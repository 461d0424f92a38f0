"""Builds the Status domain, and runs it: the description, the probes, the clock and the peers."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Collection, Coroutine, Mapping, Sequence
from datetime import timedelta
from typing import Any

from openfacility_server.auth.principal import Principal
from openfacility_server.config import Config, ConfigError
from openfacility_server.errors import FailedPrecondition
from openfacility_server.events import EventHub
from openfacility_server.ids import IdMaker
from openfacility_server.jobs.engines import JobEngine
from openfacility_server.jobs.jobs import Jobs
from openfacility_server.paging import Pager
from openfacility_server.status import description
from openfacility_server.status.board import Board
from openfacility_server.status.checks import Checks
from openfacility_server.status.convert import Describer, StatusCodec
from openfacility_server.status.federation import Federation
from openfacility_server.status.keeper import Keeper, ProbeLeader
from openfacility_server.status.maintenance import Maintenance
from openfacility_server.status.mirror import Mirror
from openfacility_server.status.operating import Operating
from openfacility_server.status.outages import History
from openfacility_server.status.probes import Prober
from openfacility_server.status.questions import Failure
from openfacility_server.status.reading import Reading
from openfacility_server.status.service import JobRun, StatusService
from openfacility_server.status.store import StatusStore
from openfacility_server.storage import Storage, StorageUnavailable
from openfacility_server.storage.leases import Lease

_log = logging.getLogger(__name__)

_RETRY_SECONDS = 1.0
_LEASE_TTL = timedelta(seconds=15)


class StatusParts:
    """The Status domain of one server."""

    def __init__(
        self,
        config: Config,
        storage: Storage,
        hub: EventHub,
        engines: Mapping[str, JobEngine],
        pager: Pager,
        jobs: Jobs,
    ) -> None:
        self._config = config
        self._engines = engines
        self._jobs = jobs
        self._reloading = asyncio.Lock()
        self._description = description.load(config)
        new_id = IdMaker()
        store = StatusStore(StatusCodec())
        board = Board(store, new_id)
        self._keeper = Keeper(storage, store, board, hub, Describer(), new_id)
        self._federation = Federation(config.status.peers)
        checks = Checks(engines, storage.ping)
        self._prober = Prober(self._description.probes, checks, self._keeper.report)
        self._mirror = Mirror(
            engines,
            storage,
            Maintenance(store, board, new_id),
            History(store, board, new_id),
            config.status.probe.period.total_seconds(),
        )
        self._mirror.describe(self._description)
        self._leader = ProbeLeader(
            Lease(storage, "status/probes", f"{os.getpid()}", _LEASE_TTL), self._begin_looking, self._end_looking
        )
        self._reading = Reading(storage, store, config.status.anonymous_history)
        self.servicer = StatusService(
            self._reading,
            Operating(self._description.facility.id, storage, store, board, new_id),
            board,
            hub,
            pager,
            self._run_of,
            self._federation.facilities,
        )

    async def describe(self) -> None:
        """Makes what is stored that which the description says."""
        await self._keeper.describe(self._description)

    def tasks(self) -> Sequence[Coroutine[Any, Any, None]]:
        """Returns what has to run while the server does."""
        return [self._keeper.run(), self._leader.run(), self._federation.run()]

    async def _begin_looking(self) -> None:
        await self._prober.start()
        await self._mirror.start()

    async def _end_looking(self) -> None:
        await self._mirror.stop()
        await self._prober.stop()

    async def reload(self) -> None:
        """Reads the description again; a wrong one changes nothing and is logged."""
        async with self._reloading:
            try:
                fresh = await asyncio.to_thread(description.load, self._config)
            except ConfigError as error:
                _log.error("the description is not taken: %s", error)
                return
            self._description = fresh
            await self._describe(fresh)
            self._mirror.describe(fresh)
            await self._prober.replace(fresh.probes)
            _log.info("the description was read again", extra={"digest": fresh.digest})

    async def _describe(self, fresh: description.Description) -> None:
        while True:
            try:
                return await self._keeper.describe(fresh)
            except StorageUnavailable as error:
                _log.warning("database: %s; trying again", error)
                await asyncio.sleep(_RETRY_SECONDS)

    async def planned_outages(self) -> Collection[str]:
        """Returns the components of the server's health that are in a planned outage: engines of compute resources."""
        tied = {
            resource_id: f"jobs/{name}"
            for name in self._engines
            if (resource_id := self._description.resource_of_jobs(name)) is not None
        }
        try:
            return {tied[resource_id] for resource_id in await self._reading.planned_down(list(tied))}
        except StorageUnavailable:
            return ()

    async def _run_of(self, principal: Principal, job_id: str) -> JobRun:
        job = await self._jobs.job(principal, job_id)
        resource_id = self._description.resource_of_jobs(job.resource_id)
        if resource_id is None:
            text = f"no resource of the facility stands for {job.resource_id}, where job {job_id} ran"
            raise FailedPrecondition("NO_RESOURCE", text, job_id, {"job_id": job_id, "resource_id": job.resource_id})
        failure = None
        if job.status.state.final and job.end_time:
            nodes = job.spec.resources.node_count or 1
            failure = Failure(job.status.state, job.status.reason, job.end_time, job.start_time, nodes)
        return JobRun(resource_id, job.start_time or job.create_time, job.end_time, failure)
