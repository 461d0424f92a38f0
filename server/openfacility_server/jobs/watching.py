"""Watching jobs: the matching jobs as they are, then every change of them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from openfacility_server.auth.principal import Principal
from openfacility_server.events import Batch, Event, EventHub
from openfacility_server.jobs.filters import JobFilter, change_matches, owner_seen_by
from openfacility_server.jobs.jobs import Jobs
from openfacility_server.jobs.store import TOPIC, Stored

_SNAPSHOT_PAGE = 200


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Some of the jobs as they were when the watch began."""

    jobs: tuple[Stored, ...]


async def watch_jobs(
    jobs: Jobs, hub: EventHub, principal: Principal, filter_: JobFilter, after: int | None, snapshot: bool
) -> AsyncGenerator[Snapshot | Batch, None]:
    """Yields the snapshot in parts, then batches of changes. Raises events.OutOfRange, events.HubStopping."""
    owner = owner_seen_by(principal)
    if owner is not None:
        # A user's watch is a watch of their own jobs, whatever owners they ask for.
        owners = filter_.owners & {owner} if filter_.owners else frozenset({owner})
        filter_ = replace(filter_, owners=owners or frozenset({""}))
    newer: Mapping[str, int] = {}
    current = await hub.refresh()
    if after is not None:
        # What was committed before the call is the past, which is told before the watcher has caught up.
        await hub.reached(current)
    else:
        after = current
        if snapshot:
            changed: dict[str, int] = {}
            async for part in _snapshot(jobs, principal, filter_, after, changed):
                yield part
            newer = changed
    watcher = hub.watch(
        TOPIC, after, interest=_interest(filter_), match=_matcher(filter_, newer), group=None if newer else filter_
    )
    try:
        async for batch in watcher:
            yield batch
    finally:
        watcher.close()


async def _snapshot(
    jobs: Jobs, principal: Principal, filter_: JobFilter, after: int, changed: dict[str, int]
) -> AsyncGenerator[Snapshot, None]:
    start = None
    while True:
        page = await jobs.list(principal, filter_, start, _SNAPSHOT_PAGE)
        # Read after the snapshot's revision: its change is in the log after it too and must not be sent again.
        changed.update((job.id, job.revision) for job in page.jobs if job.revision > after)
        if page.jobs:
            yield Snapshot(tuple(page.jobs))
        if page.next is None:
            return
        start = page.next


def _interest(filter_: JobFilter) -> frozenset[str] | None:
    """Returns the tags one of which every matching change has; None when there are no such."""
    if filter_.job_ids:
        return frozenset(f"job:{job_id}" for job_id in filter_.job_ids)
    if filter_.array_job_id:
        return frozenset({f"array:{filter_.array_job_id}"})
    if filter_.owners:
        return frozenset(f"owner:{owner}" for owner in filter_.owners)
    if filter_.resource_ids:
        return frozenset(f"resource:{resource_id}" for resource_id in filter_.resource_ids)
    return None


def _matcher(filter_: JobFilter, newer: Mapping[str, int]) -> Callable[[Event], bool]:
    def matches(event: Event) -> bool:
        attributes: Mapping[str, Any] = event.attributes
        return change_matches(filter_, attributes) and event.revision > newer.get(event.key, 0)

    return matches
