"""The event log as watchers see it.

    hub = EventHub(storage)
    await hub.start()
    with hub.watch("jobs", after=revision, interest=frozenset({"owner:ada"})) as watcher:
        async for batch in watcher:
            ...  # batch.events, batch.frames, batch.revision, batch.caught_up

Events are written with `tx.append` in the transaction that makes the change (see `openfacility_server.storage`). The
hub reads them from the log, whoever wrote them, once per process, and shares them with all watchers.
"""

from openfacility_server.events.event import (
    Batch,
    Compacted,
    Event,
    FutureRevision,
    HubStopping,
    OutOfRange,
    WatchError,
)
from openfacility_server.events.hub import EventHub
from openfacility_server.events.watcher import Watcher

__all__ = [
    "Batch",
    "Compacted",
    "Event",
    "EventHub",
    "FutureRevision",
    "HubStopping",
    "OutOfRange",
    "WatchError",
    "Watcher",
]
