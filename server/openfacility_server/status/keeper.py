"""What keeps the board true while nobody calls: the clock, the probes, and the facility's description."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from typing import Protocol

from openfacility_server.events import EventHub
from openfacility_server.ids import IdMaker
from openfacility_server.status.board import Board
from openfacility_server.status.description import Description
from openfacility_server.status.graph import PROBE, Graph
from openfacility_server.status.model import (
    CurrentStatus,
    Facility,
    Incident,
    IncidentType,
    Note,
    Resolution,
    Resource,
    Severity,
    Site,
    Source,
    Status,
    Word,
)
from openfacility_server.status.probes import ProbeResult
from openfacility_server.status.store import TOPIC, StatusStore, known_time
from openfacility_server.storage import LeaseLost, Storage, StorageUnavailable, Tx
from openfacility_server.storage.leases import Lease

_log = logging.getLogger(__name__)

_RETRY_SECONDS = 1.0
# The clock looks again at least this often: another server may have planned something.
_LONGEST_NAP = timedelta(seconds=30)
_CHUNK = 2000
_LONGEST_UNSEEN = timedelta(days=366)


class Describer(Protocol):
    """Serializes descriptions; the domain does not know how."""

    def facility(self, facility: Facility, site_ids: list[str], update_time: datetime) -> bytes: ...
    def site(self, site: Site, resource_ids: list[str], update_time: datetime) -> bytes: ...


class Keeper:
    """Takes descriptions and probe results over, and passes the moments at which incidents begin and end."""

    def __init__(
        self, storage: Storage, store: StatusStore, board: Board, hub: EventHub, describer: Describer, new_id: IdMaker
    ) -> None:
        self._storage = storage
        self._store = store
        self._board = board
        self._hub = hub
        self._describer = describer
        self._new_id = new_id

    # The description.

    async def describe(self, description: Description) -> None:
        """Makes stored resources and sites those of a description. What did not change is not touched."""
        self._board.describe(Graph(description.resources))
        await self._storage.write(partial(self._describe_places, description=description))
        resources = list(description.resources)
        for start in range(0, max(1, len(resources)), _CHUNK):
            await self._storage.write(partial(self._describe_resources, resources=resources[start : start + _CHUNK]))
        await self._storage.write(self._forget_others)
        await self._storage.write(partial(self._forget_probes, probed={one.resource_id for one in description.probes}))
        await self._storage.write(self._follow_dependencies)
        await self._settle()

    def _describe_places(self, tx: Tx, description: Description) -> None:
        now = self._board.now()
        by_site: dict[str, list[str]] = {site.id: [] for site in description.sites}
        for resource in description.resources:
            by_site.setdefault(resource.site_id, []).append(resource.id)
        facility = description.facility
        wanted = {
            ("facility", facility.id): (
                (facility.name, facility.short_name),
                partial(self._describer.facility, facility, [site.id for site in description.sites]),
            )
        }
        for site in description.sites:
            make = partial(self._describer.site, site, by_site[site.id])
            wanted["site", site.id] = ((site.name, site.short_name), make)
        known = {
            (kind, row[0]): (row[3], row[4])
            for kind in ("facility", "site")
            for row in self._store.descriptions(tx, kind)
        }
        for key, (names, make) in wanted.items():
            # Made again as of its last change it is the same, unless it changed.
            then = known.get(key)
            if then is None or make(known_time(then[0])) != then[1]:
                self._store.put_description(tx, *key, names, make(now), now, tx.revision())
        for key, (_, message) in known.items():
            if key not in wanted:
                self._store.remove_description(tx, *key, message, tx.revision())

    def _describe_resources(self, tx: Tx, resources: list[Resource]) -> None:
        now = self._board.now()
        known = self._store.described(tx, [resource.id for resource in resources])
        for resource in resources:
            before = known.get(resource.id)
            if before is None:
                current = CurrentStatus(Status.UP, now)
                self._store.put_resource(tx, resource, current, now, new=True, described=True)
            elif not self._store.same_description(resource, before):
                current = before.current
                self._store.put_resource(tx, resource, current, now, new=False, described=True)

    def _forget_others(self, tx: Tx) -> None:
        for resource_id in self._store.resource_ids(tx):
            if resource_id not in self._board.graph.resources:
                self._end_probing(tx, resource_id)
                self._store.remove_resource(tx, resource_id)

    def _forget_probes(self, tx: Tx, probed: set[str]) -> None:
        """Takes back what probes said that are no more: nothing would ever correct it."""
        for resource_id in self._store.words(tx, Source.PROBE):
            if resource_id not in probed:
                self._end_probing(tx, resource_id)

    def _end_probing(self, tx: Tx, resource_id: str) -> None:
        word = self._store.words(tx, Source.PROBE, [resource_id]).get(resource_id)
        if word is None:
            return
        incident = self._store.load_incident(tx, word.incident_id) if word.incident_id else None
        if incident and not incident.resolution.over:
            self._end_incident(tx, incident, self._board.now(), "is not probed any more")
        self._store.put_word(tx, resource_id, Source.PROBE, None)
        if resource_id in self._board.graph.resources:
            self._board.show(tx, {resource_id: None})

    def _follow_dependencies(self, tx: Tx) -> None:
        """Brings what open incidents impact in line with what depends on what now."""
        for incident in self._store.find_incidents(tx, [("open", ())]):
            if incident.type == IncidentType.RESERVATION:
                continue
            # What is no longer described stays impacted by what was declared for it.
            gone = [one for one in incident.impacted_resource_ids if one not in self._board.graph.resources]
            impacted = tuple(sorted({*self._board.graph.with_dependents(incident.resource_ids), *gone}))
            if impacted != incident.impacted_resource_ids:
                changed = replace(
                    incident,
                    impacted_resource_ids=impacted,
                    update_time=self._board.now(),
                    revision=tx.revision(),
                )
                self._store.put_incident(tx, changed, incident)

    # The probes.

    async def report(self, seen: ProbeResult) -> None:
        """Takes a probe's result over: the resource's status, and an incident that begins or ends with it."""
        while True:
            try:
                await self._storage.write(partial(self._take, seen=seen))
                return await self._settle()
            except StorageUnavailable as error:
                _log.warning("database: %s; trying again", error)
                await asyncio.sleep(_RETRY_SECONDS)

    def _take(self, tx: Tx, seen: ProbeResult) -> None:
        if seen.resource_id not in self._board.graph.resources:
            return
        before = self._store.words(tx, Source.PROBE, [seen.resource_id]).get(seen.resource_id)
        seen = _dated(seen, before)
        # What began or ended before it was seen comes before it.
        self._board.settle(tx, seen.time)
        capacities = {seen.resource_id: seen.capacity}
        if before and (before.status, before.reason) == (seen.status, seen.reason):
            self._board.show(tx, capacities)
            return
        incident_id = self._follow_incident(tx, seen, before.incident_id if before else "")
        since = before.since if before and before.status == seen.status else seen.time
        self._store.put_word(
            tx, seen.resource_id, Source.PROBE, Word(seen.status, since, seen.reason, None, incident_id)
        )
        self._board.record(tx, seen.time, capacities)

    def _follow_incident(self, tx: Tx, seen: ProbeResult, open_id: str) -> str:
        """Opens, changes or closes the incident of a probe; returns the id of the one that is open then."""
        now = self._board.now()
        incident = self._store.load_incident(tx, open_id) if open_id else None
        if incident and incident.resolution.over:
            incident = None
        if seen.status == Status.UP:
            if incident:
                self._end_incident(tx, incident, seen.time, "works again")
            return ""
        severity = Severity.MAJOR if seen.status == Status.DOWN else Severity.MINOR
        if incident:
            note = Note(now, PROBE, f"{seen.status.name.lower()}: {seen.reason}")
            worse = Status.DOWN if Status.DOWN in (incident.status, seen.status) else seen.status
            changed = replace(
                incident,
                status=worse,
                severity=max(severity, incident.severity),
                notes=(*incident.notes, note)[-_MOST_NOTES:],
                update_time=now,
                revision=tx.revision(),
            )
            self._store.put_incident(tx, changed, incident)
            return incident.id
        resource = self._board.graph.resources[seen.resource_id]
        opened = Incident(
            id=self._new_id(),
            type=IncidentType.UNPLANNED,
            name=f"{resource.name or resource.id} is {seen.status.name.lower()}",
            description=seen.reason,
            status=seen.status,
            severity=severity,
            start_time=seen.time,
            end_time=None,
            resolution=Resolution.UNRESOLVED,
            resource_ids=(resource.id,),
            impacted_resource_ids=self._board.graph.with_dependents([resource.id]),
            declared_by=PROBE,
            create_time=now,
            update_time=now,
            revision=tx.revision(),
        )
        self._store.put_incident(tx, opened, None)
        return opened.id

    def _end_incident(self, tx: Tx, incident: Incident, time: datetime, why: str) -> None:
        now = self._board.now()
        ended = replace(
            incident,
            resolution=Resolution.COMPLETED,
            end_time=max(time, incident.start_time),
            notes=(*incident.notes, Note(now, PROBE, why)),
            update_time=now,
            revision=tx.revision(),
        )
        self._store.put_incident(tx, ended, incident)

    # The clock.

    async def run(self) -> None:
        """Passes each moment at which something begins or ends, until cancelled. Any number of servers may do so."""
        watcher = self._hub.watch(TOPIC, after=None)
        try:
            while True:
                try:
                    due = await self._storage.read(self._store.next_due)
                    if due is not None and due <= self._board.now():
                        await self._settle()
                        continue
                except StorageUnavailable as error:
                    _log.warning("database: %s; trying again", error)
                    await asyncio.sleep(_RETRY_SECONDS)
                    continue
                nap = _LONGEST_NAP if due is None else min(_LONGEST_NAP, max(due - self._board.now(), timedelta()))
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(nap.total_seconds() + 0.001):
                        await anext(watcher)
        finally:
            watcher.close()

    async def _settle(self) -> None:
        while await self._storage.write(self._board.settle):
            pass


def _dated(seen: ProbeResult, before: Word | None) -> ProbeResult:
    """Returns a result as of when it became so, where that is known: perhaps nobody looked then."""
    if seen.since is None or seen.status == Status.UP or (before and before.status != Status.UP):
        return seen
    earliest = before.since if before else seen.time - _LONGEST_UNSEEN
    return replace(seen, time=min(seen.time, max(seen.since, earliest)))


class ProbeLeader:
    """Lets one server of several run the probes."""

    def __init__(self, lease: Lease, start: Callable[[], Awaitable[None]], stop: Callable[[], Awaitable[None]]) -> None:
        self._lease = lease
        self._start = start
        self._stop = stop

    async def run(self) -> None:
        """Runs the probes whenever this server may, until cancelled."""
        while True:
            try:
                if await self._lease.acquire():
                    await self._lead()
            except (StorageUnavailable, LeaseLost) as error:
                _log.warning("not probing: %s", error)
            await asyncio.sleep(_RETRY_SECONDS)

    async def _lead(self) -> None:
        await self._start()
        try:
            while True:
                await asyncio.sleep(self._lease.remaining.total_seconds() / 3)
                await self._lease.renew()
        finally:
            await self._stop()
            with contextlib.suppress(StorageUnavailable, LeaseLost):
                await self._lease.release()


_MOST_NOTES = 200
