"""Calls of the Status service through its generated stubs, as tests want them, and a watch that checks its promises."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import yaml
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from openfacility.status.v1 import status_pb2 as pb
from openfacility.status.v1 import status_service_pb2 as rpc
from openfacility.status.v1 import status_service_pb2_grpc

from tests.support.calls import DEADLINE

UP, DEGRADED, DOWN, UNKNOWN = (
    pb.RESOURCE_STATUS_UP,
    pb.RESOURCE_STATUS_DEGRADED,
    pb.RESOURCE_STATUS_DOWN,
    pb.RESOURCE_STATUS_UNKNOWN,
)
PLANNED, UNPLANNED, RESERVATION = (
    pb.INCIDENT_TYPE_PLANNED,
    pb.INCIDENT_TYPE_UNPLANNED,
    pb.INCIDENT_TYPE_RESERVATION,
)
OVER = frozenset({pb.RESOLUTION_COMPLETED, pb.RESOLUTION_CANCELLED})
OPEN = [pb.RESOLUTION_UNRESOLVED, pb.RESOLUTION_PENDING, pb.RESOLUTION_EXTENDED]
REQUESTS: Mapping[str, type[Message]] = {
    method.name: getattr(rpc, method.input_type.name)
    for method in rpc.DESCRIPTOR.services_by_name["StatusService"].methods
}


def now() -> datetime:
    return datetime.now(UTC)


def stamp(moment: datetime) -> Timestamp:
    """A time as a message, exact to the microsecond."""
    made = Timestamp()
    made.FromDatetime(moment)
    return made


def ahead(seconds: float = 0, **more: float) -> Timestamp:
    """The time that is so far ahead."""
    return stamp(now() + timedelta(seconds=seconds, **more))


def when(made: Timestamp) -> datetime:
    """A message as a time."""
    return made.ToDatetime(UTC)


class StatusCaller:
    """One caller. Incidents made and words given through `plan`, `declare` and `say` are ended by `end_all`."""

    def __init__(self, channel: grpc.aio.Channel, token: str | None, name: str = "") -> None:
        self.name = name
        self.label = f"test {uuid.uuid4().hex}"
        self.metadata: tuple[tuple[str, str], ...] = (("authorization", f"Bearer {token}"),) if token else ()
        self._stub = status_service_pb2_grpc.StatusServiceStub(channel)
        self._made: list[str] = []
        self._said: set[str] = set()

    def call(self, method: str, request: Message | None = None, timeout: float | None = DEADLINE, **fields: Any) -> Any:
        """Begins any RPC, with a request or with its fields."""
        request = request or REQUESTS[method](**fields)
        return getattr(self._stub, method)(request, timeout=timeout, metadata=self.metadata)

    # Reading.

    async def resource(self, resource_id: str) -> pb.Resource:
        return await self.call("GetResource", resource_id=resource_id)

    async def resources(self, **conditions: Any) -> list[pb.Resource]:
        """Returns all resources that match."""
        return await self._all("ListResources", "resources", filter=rpc.ResourceFilter(**conditions))

    async def resource_ids(self, **conditions: Any) -> list[str]:
        return [resource.id for resource in await self.resources(**conditions)]

    async def incident(self, incident_id: str) -> pb.Incident:
        return await self.call("GetIncident", incident_id=incident_id)

    async def incidents(self, **conditions: Any) -> list[pb.Incident]:
        """Returns all incidents that match."""
        return await self._all("ListIncidents", "incidents", filter=rpc.IncidentFilter(**conditions))

    async def incident_ids(self, **conditions: Any) -> list[str]:
        return [incident.id for incident in await self.incidents(**conditions)]

    async def events(self, **conditions: Any) -> list[pb.Event]:
        """Returns all events that match, newest first."""
        return await self._all("ListEvents", "events", **conditions)

    async def _all(self, method: str, field: str, **fields: Any) -> list[Any]:
        found: list[Any] = []
        token = ""
        while True:
            page = await self.call(method, page_token=token, page_size=1000, **fields)
            found += getattr(page, field)
            token = page.next_page_token
            if not token:
                return found

    async def revision(self) -> int:
        """The revision that a list is read at."""
        return (await self.call("ListResources", page_size=1)).revision

    async def world(self) -> tuple[Any, ...]:
        """All that can be read, to compare with later."""
        resources, incidents, events = await self.resources(), await self.incidents(), await self.events()
        return resources, incidents, events

    # Operating.

    def draft(self, *resource_ids: str, **fields: Any) -> pb.Incident:
        """An incident that goes on from now on, down, unless said otherwise."""
        values = {"type": UNPLANNED, "name": self.label, "status": DOWN} | fields
        return pb.Incident(resource_ids=resource_ids, **values)

    async def create(self, incident: pb.Incident, **fields: Any) -> list[pb.Incident]:
        """Declares or plans, and remembers to end it."""
        answer = await self.call("CreateIncident", incident=incident, **fields)
        self._made += [made.id for made in answer.incidents]
        return list(answer.incidents)

    async def declare(self, *resource_ids: str, **fields: Any) -> pb.Incident:
        """Declares an incident that goes on."""
        return (await self.create(self.draft(*resource_ids, **fields)))[0]

    async def plan(self, *resource_ids: str, start: float = 3600, length: float = 3600, **fields: Any) -> pb.Incident:
        """Plans maintenance so many seconds ahead."""
        begin = now() + timedelta(seconds=start)
        times = {"start_time": stamp(begin), "end_time": stamp(begin + timedelta(seconds=length))}
        return (await self.create(self.draft(*resource_ids, **{"type": PLANNED, **times, **fields})))[0]

    async def update(self, incident: pb.Incident, *paths: str, etag: str = "", **fields: Any) -> pb.Incident:
        """Changes fields of an incident."""
        request = rpc.UpdateIncidentRequest(incident=pb.Incident(id=incident.id, **fields), etag=etag or incident.etag)
        request.update_mask.paths.extend(paths)
        return await self.call("UpdateIncident", request)

    async def resolve(self, incident: pb.Incident, **fields: Any) -> pb.Incident:
        fields.setdefault("etag", incident.etag)
        return await self.call("ResolveIncident", incident_id=incident.id, **fields)

    async def note(self, incident: pb.Incident, text: str, **fields: Any) -> pb.Incident:
        return await self.call("AddIncidentNote", incident_id=incident.id, text=text, **fields)

    async def say(self, resource_id: str, status: int = 0, **fields: Any) -> pb.Resource:
        """Says how a resource is; without a status, takes it back."""
        self._said.add(resource_id)
        return await self.call("SetResourceStatus", resource_id=resource_id, status=status, **fields)

    async def end_all(self) -> None:
        """Ends what this caller began."""
        for resource_id in self._said:
            await self.say(resource_id)
        left = list(dict.fromkeys(self._made))
        for start in range(0, len(left), 500):
            for incident in await self.incidents(incident_ids=left[start : start + 500], resolutions=OPEN):
                with contextlib.suppress(grpc.aio.AioRpcError):  # it may end by itself just now
                    await self.resolve(incident, cancel=True)

    # Watching.

    @contextlib.asynccontextmanager
    async def watch(self, **fields: Any) -> AsyncIterator[StatusWatch]:
        """Watches."""
        watch = StatusWatch(self.call("WatchStatus", timeout=None, **fields))
        try:
            yield watch
        finally:
            watch.cancel()

    async def until(self, resource_id: str, *statuses: int) -> pb.Resource:
        """Returns a resource when it is in one of these statuses."""
        async with self.watch(resource_ids=[resource_id]) as watch:
            return await watch.resource(resource_id, *statuses)

    async def until_incident(self, incident_id: str, *resolutions: int) -> pb.Incident:
        """Returns an incident when it stands so (unset: when it is over)."""
        async with asyncio.timeout(DEADLINE), self.watch(after_revision=await self.revision()) as watch:
            found = await self.incident(incident_id)
            while found.resolution not in (frozenset(resolutions) or OVER):
                change = await watch.change()
                if change.incident.id == incident_id:
                    found = change.incident
            return found


Brief = tuple[int, str, str, int]
"""(revision, kind, id, status, resolution or type)"""


def brief(change: rpc.StatusChange) -> Brief:
    """What is to be compared of a change."""
    kind = change.WhichOneof("subject")
    assert kind is not None
    subject = getattr(change, kind)
    told = {"resource": lambda: subject.current.status, "incident": lambda: subject.resolution}
    return change.revision, kind, subject.id, told.get(kind, lambda: change.type)()


class StatusWatch:
    """A watch that checks, of everything it gets, that it is ordered, atomic and unique."""

    def __init__(self, call: Any) -> None:
        self._call = call
        self.responses: list[rpc.WatchStatusResponse] = []
        self.changes: list[rpc.StatusChange] = []
        self.revision = 0
        self._seen: set[tuple[int, str | None, str]] = set()
        self._pending: list[rpc.StatusChange] = []

    async def next(self, deadline: float = DEADLINE) -> rpc.WatchStatusResponse:
        """Returns the next response. Raises StopAsyncIteration at the stream's end."""
        async with asyncio.timeout(deadline):
            response = await self._call.read()
        if response is grpc.aio.EOF:
            raise StopAsyncIteration
        self._check(response)
        self.responses.append(response)
        self.changes += response.changes
        return response

    async def change(self) -> rpc.StatusChange:
        """Returns the next change."""
        while not self._pending:
            self._pending += (await self.next()).changes
        return self._pending.pop(0)

    async def until(self, wanted: Callable[[rpc.StatusChange], bool]) -> rpc.StatusChange:
        """Returns the next change that is as wanted."""
        async with asyncio.timeout(DEADLINE):
            while True:
                change = await self.change()
                if wanted(change):
                    return change

    async def resource(self, resource_id: str, *statuses: int) -> pb.Resource:
        """Returns a resource when it is next in one of these statuses."""
        change = await self.until(
            lambda one: one.resource.id == resource_id and one.resource.current.status in statuses
        )
        return change.resource

    async def event(self, resource_id: str, status: int) -> pb.Event:
        """Returns the next event of a resource that enters a status."""
        return (await self.until(lambda one: one.event.resource_id == resource_id and one.event.status == status)).event

    async def incident(self, wanted: Callable[[pb.Incident], bool]) -> pb.Incident:
        """Returns the next incident that is as wanted."""
        return (await self.until(lambda one: one.WhichOneof("subject") == "incident" and wanted(one.incident))).incident

    async def caught_up(self) -> list[rpc.StatusChange]:
        """Reads until the watch has caught up; returns all changes up to then."""
        while not (await self.next()).caught_up:
            pass
        self._pending.clear()
        return list(self.changes)

    async def reached(self, revision: int) -> list[rpc.StatusChange]:
        """Reads until the watch is complete up to a revision; returns all changes up to then."""
        async with asyncio.timeout(DEADLINE):
            while self.revision < revision:
                await self.next()
        return list(self.changes)

    def cancel(self) -> None:
        """Ends the watch."""
        self._call.cancel()

    def _check(self, response: rpc.WatchStatusResponse) -> None:
        assert not response.HasField("error"), "errors are no messages over gRPC"
        if response.revision:
            assert response.revision >= self.revision, "Ordered: the position went back"
        live = [change for change in response.changes if change.type != rpc.StatusChange.TYPE_SNAPSHOT]
        if live:
            revisions = [change.revision for change in live]
            assert revisions == sorted(revisions), "Ordered: changes within a response"
            assert revisions[0] > self.revision, "Atomic: a revision was split over two responses, or came again"
            assert response.revision >= revisions[-1]
        last: dict[tuple[int, str | None, str], int] = {}
        for change in response.changes:
            kind = change.WhichOneof("subject")
            subject = getattr(change, kind or "")
            if kind in ("resource", "incident", "event") and change.type != rpc.StatusChange.TYPE_DELETED:
                assert subject.revision == change.revision
            key = (change.revision, kind, subject.id)
            # In one revision a thing may change twice, such as an incident that is declared and begins at once.
            assert key not in self._seen, "Unique: a change came twice"
            last[key] = 1
        self._seen.update(last)
        self.revision = max(self.revision, response.revision)


# Descriptions.


def described(*resources: Mapping[str, Any], sites: Sequence[Any] = ("here",), **facility: Any) -> dict[str, Any]:
    """A description; sites by id or as mappings, resources as mappings."""
    return {
        "facility": facility,
        "sites": [{"id": site} if isinstance(site, str) else site for site in sites],
        "resources": [dict(resource) for resource in resources],
    }


def write(path: Path, description: Mapping[str, Any]) -> Path:
    """Writes a description in one step, as a careful operator does."""
    fresh = path.with_suffix(".new")
    fresh.write_text(yaml.safe_dump(dict(description), sort_keys=False), encoding="utf-8")
    return fresh.replace(path)


def events_in_order(events: Iterable[pb.Event]) -> list[tuple[str, int, int, datetime]]:
    """Resource, status before and after, and time of events, oldest first."""
    return [(e.resource_id, e.previous_status, e.status, when(e.occur_time)) for e in reversed(list(events))]
