"""Watching the facility: what is, then every change."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from datetime import datetime

from openfacility_server.auth.principal import Principal, Role
from openfacility_server.events import Batch, Event, EventHub
from openfacility_server.paging import Position
from openfacility_server.status.reading import Page, Reading
from openfacility_server.status.store import TOPIC, Term

_PAGE = 500
# A snapshot shows what goes on and what comes, which is no history.
_EVERYONE = Principal(username="", role=Role.OPERATOR)

# Kind, message and revision of something as it was when the watch began.
Shown = tuple[str, bytes, int]


async def watch_status(
    reading: Reading, hub: EventHub, resource_ids: frozenset[str], after: int | None, snapshot: bool, now: datetime
) -> AsyncGenerator[Sequence[Shown] | Batch, None]:
    """Yields the snapshot in parts, then batches of changes. Raises events.OutOfRange, events.HubStopping."""
    newer: dict[str, int] = {}
    current = await hub.refresh()
    if after is not None:
        # What was committed before the call is the past, which is told before the watcher has caught up.
        await hub.reached(current)
    else:
        after = current
        if snapshot:
            async for part in _snapshot(reading, resource_ids, after, now, newer):
                yield part
    interest = None
    if resource_ids:
        interest = frozenset({f"resource:{resource_id}" for resource_id in resource_ids} | {"resource:*"})

    def matches(event: Event) -> bool:
        if event.revision <= newer.get(event.key, 0):
            return False
        return not resource_ids or not resource_ids.isdisjoint(event.attributes["resources"])

    watcher = hub.watch(
        TOPIC,
        after,
        interest=interest,
        match=matches if resource_ids or newer else None,
        group=None if newer else ("status", resource_ids),
    )
    try:
        async for batch in watcher:
            yield batch
    finally:
        watcher.close()


async def _snapshot(
    reading: Reading, resource_ids: frozenset[str], after: int, now: datetime, newer: dict[str, int]
) -> AsyncGenerator[Sequence[Shown], None]:
    terms: list[Term] = [("ids", tuple(sorted(resource_ids)))] if resource_ids else []
    start: Position | None = None
    while True:
        page = await reading.resources(terms, start, _PAGE)
        if page.rows:
            yield _shown("resource", page, after, newer)
        start = page.next
        if start is None:
            break
    terms = [("resources", tuple(sorted(resource_ids)))] if resource_ids else []
    while True:
        found: Page = await reading.incidents(_EVERYONE, [*terms, ("open", ())], start, _PAGE, now)
        if found.rows:
            yield _shown("incident", found, after, newer)
        start = found.next
        if start is None:
            return


def _shown(kind: str, page: Page, after: int, newer: dict[str, int]) -> list[Shown]:
    # Read after the snapshot's revision: the change is in the log after it too and must not be sent again.
    newer.update((f"{kind}:{row.id}", row.revision) for row in page.rows if row.revision > after)
    return [(kind, row.message, row.revision) for row in page.rows]
