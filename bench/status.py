"""The status of a facility of 10,000 resources, with a small and with a large number of events in the database."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import yaml
from google.protobuf.message import Message
from openfacility.status.v1 import status_pb2, status_service_pb2

from bench.load import Unary
from bench.processes import OPERATOR, USER, Process, facility, workplace
from bench.results import Result, median, ratios, rounds

SERVICE = "/openfacility.status.v1.StatusService/"
RESOURCES = 10_000
_SITES = 10
_PER_RACK = 50
_CHUNK = 50_000
_FIRST = datetime.now(UTC) - timedelta(days=60)

# Name, method, request, and for how many milliseconds it may keep one caller waiting.
Read = tuple[str, str, Message, float]


def reads(quick: bool, large: int = 100_000) -> Sequence[Result]:
    """Gets and filtered lists with 10^3 events, and with ``large``: cost beside each other, and time for one caller."""
    sizes = (1_000, 10_000 if quick else large)
    results: list[Result] = []
    with workplace() as directory:
        description = describe(directory / "facility.yaml")
        overrides = {"status": {"description": str(description)}}
        for size in sizes:
            # The server makes its tables and resources itself.
            with facility(directory, f"first-{size}", directory / str(size), **overrides) as server:
                results.append(_started(server, size))
            fill(directory / str(size) / "state.db", size)
        with (
            facility(directory, "small", directory / str(sizes[0]), **overrides) as small,
            facility(directory, "large", directory / str(sizes[1]), **overrides) as big,
        ):
            servers = {f"10^{len(str(size)) - 1}": one for size, one in zip(sizes, (small, big), strict=True)}
            for read in _reads():
                results += _compared(read, directory, servers, quick)
            results.append(_memory(small, big))
            results.append(_wide_incident(big))
    return results


def million(quick: bool) -> Sequence[Result]:
    """As ``reads``, with 10^6 events."""
    return reads(quick, 1_000_000)


def _reads() -> Iterator[Read]:
    pb = status_service_pb2
    since, until = (_FIRST + timedelta(days=days) for days in (20, 40))
    filter_ = pb.ResourceFilter
    yield "get resource", "GetResource", pb.GetResourceRequest(resource_id=resource_id(4321)), 2
    yield "get event", "GetEvent", pb.GetEventRequest(event_id=event_id(500)), 2
    lists: Sequence[tuple[str, Any]] = (
        ("by site and status", filter_(site_ids=["site-3"], statuses=[1])),
        ("by type", filter_(resource_type="urn:doe-iri:resource:storage")),
        ("by capability", filter_(capability_ids=["gpu"])),
        ("by description", filter_(description="RACK 17 ")),
    )
    for name, wanted in lists:
        yield f"list resources {name}", "ListResources", pb.ListResourcesRequest(filter=wanted), 20
    spans: Sequence[tuple[str, Any]] = (
        ("newest", pb.ListEventsRequest()),
        ("of 100 resources", pb.ListEventsRequest(resource_ids=[resource_id(number) for number in range(100)])),
        ("by status", pb.ListEventsRequest(statuses=[1, 3])),
        ("by rare status", pb.ListEventsRequest(statuses=[4])),
        ("of a span", pb.ListEventsRequest(**{"from": since, "to": until})),
    )
    for name, events in spans:
        yield f"list events {name}", "ListEvents", events, 20
    incidents = pb.IncidentFilter(resource_ids=[resource_id(7)])
    yield "list incidents of a resource", "ListIncidents", pb.ListIncidentsRequest(filter=incidents), 20
    yield "availability", "CheckAvailability", pb.CheckAvailabilityRequest(resource_id=resource_id(7)), 20
    yield "outages", "FindOutages", pb.FindOutagesRequest(resource_id=resource_id(7)), 20
    yield "overview", "GetFacilityOverview", pb.GetFacilityOverviewRequest(), 20


def _compared(read: Read, directory: Path, servers: dict[str, Process], quick: bool) -> list[Result]:
    name, method, request, most = read
    data = request.SerializeToString()
    variants = {
        label: Unary(server, directory, SERVICE + method, data, OPERATOR, 1, exact=False)
        for label, server in servers.items()
    }
    samples = rounds(variants, 1 if quick else 5)
    less, more = variants
    cost = ratios(f"status: {name}", samples, more, less)[1]
    times = sorted(_times(servers[more], SERVICE + method, data, 50 if quick else 300))
    return [
        Result(cost.name, cost.measure, cost.value, "x", cost.low, cost.high, 1.2, False, cost.note),
        Result(cost.name, "one caller, median", median(times), "ms", times[0], times[-1], most, False),
    ]


def _times(process: Process, method: str, request: bytes, count: int) -> list[float]:
    """Milliseconds that one caller waits, one call after the other."""
    metadata = (("authorization", f"Bearer {USER}"),)
    found = []
    with grpc.insecure_channel(process.address) as channel:
        call = channel.unary_unary(method)
        for _ in range(count + 5):
            begun = time.perf_counter()
            call(request, metadata=metadata, timeout=30)
            found.append((time.perf_counter() - begun) * 1000)
    return found[5:]


def _started(server: Process, size: int) -> Result:
    return Result("status: start", f"spawn to serving, nothing there ({size})", time.monotonic() - server.started, "s")


def _memory(small: Process, big: Process) -> Result:
    less, more = small.uss(), big.uss()
    note = f"{more:.0f} MB : {less:.0f} MB"
    return Result("status: memory", "USS / few events", more / less, "x", target=1.1, more_is_better=False, note=note)


def _wide_incident(server: Process) -> Result:
    """How long it takes until all resources have followed an incident, as a watch sees it."""
    metadata = (("authorization", f"Bearer {OPERATOR}"),)
    with grpc.insecure_channel(server.address, [("grpc.max_receive_message_length", 64 << 20)]) as channel:
        from openfacility.status.v1 import status_service_pb2_grpc  # noqa: PLC0415 -- the only use

        stub = status_service_pb2_grpc.StatusServiceStub(channel)
        watch = stub.WatchStatus(status_service_pb2.WatchStatusRequest(skip_snapshot=True), metadata=metadata)
        while not next(watch).caught_up:
            pass
        names = [resource_id(number) for number in range(RESOURCES)]
        incident = status_pb2.Incident(type=2, name="power", status=3, resource_ids=names)
        begun = time.perf_counter()
        stub.CreateIncident(status_service_pb2.CreateIncidentRequest(incident=incident), metadata=metadata)
        answered = time.perf_counter() - begun
        left = RESOURCES
        while left > 0:
            left -= sum(change.WhichOneof("subject") == "event" for change in next(watch).changes)
        whole = time.perf_counter() - begun
        watch.cancel()
    note = f"answered after {answered:.2f} s"
    return Result("status: an incident on all", "declared to told", whole, "s", note=note)


# What is there.


def resource_id(number: int) -> str:
    """The id of a described resource."""
    return f"node-{number:05}"


def event_id(number: int) -> str:
    """The id of an event that was filled in."""
    return f"0{number:012d}"


def describe(path: Path) -> Path:
    """Writes a description: racks of nodes that depend on their rack's first one."""
    kinds = ("compute:system", "storage:filesystem", "network", "service")
    resources: list[dict[str, Any]] = []
    for number in range(RESOURCES):
        rack = number // _PER_RACK
        first = rack * _PER_RACK
        resources.append(
            {
                "id": resource_id(number),
                "name": f"Node {number}",
                "description": f"Node {number} of rack {rack} in the second machine room.",
                "type": f"urn:doe-iri:resource:{kinds[number % len(kinds)]}",
                "group": f"rack-{rack}",
                "site": f"site-{rack % _SITES}",
                "capabilities": ["gpu" if number % 5 == 0 else "cpu"],
                "depends_on": [] if number == first else [resource_id(first)],
            }
        )
    sites = [{"id": f"site-{number}"} for number in range(_SITES)]
    path.write_text(yaml.dump({"sites": sites, "resources": resources}, Dumper=yaml.CSafeDumper))
    return path


def fill(database: Path, count: int) -> None:
    """Puts events into a database: outages of one resource after the other, in incidents of a thousand."""
    with contextlib.closing(sqlite3.connect(database)) as connection:
        for start in range(0, count, _CHUNK):
            events = [_event(number, count) for number in range(start, min(start + _CHUNK, count))]
            connection.executemany("INSERT INTO status_event VALUES (?, ?, ?, ?, ?, ?)", events)
        incidents = [_incident(number, count) for number in range(count // 1000)]
        connection.executemany(f"INSERT INTO status_incident VALUES ({', '.join('?' * 12)})", incidents)
        impacts = [
            (resource_id((number * 7 + one) % RESOURCES), row[0])
            for number, row in enumerate(incidents)
            for one in range(20)
        ]
        connection.executemany("INSERT INTO status_impact VALUES (?, ?)", impacts)
        connection.commit()


def _event(number: int, count: int) -> tuple[Any, ...]:
    time_ = _FIRST + timedelta(days=59) * (number / count)
    status = (4 if number % (count // 200) == 0 else 3) if number % 2 == 0 else 1
    pb = status_pb2.Event(
        id=event_id(number),
        resource_id=resource_id(number // 2 % RESOURCES),
        incident_id=_incident_id(number // 1000),
        status=status,
        previous_status=1 if number % 2 == 0 else 3,
        occur_time=time_,
        create_time=time_,
        reason="does not answer",
        source=1,
        revision=1,
    )
    micros = int(time_.timestamp() * 1_000_000)
    return pb.id, pb.resource_id, pb.incident_id, status, micros, pb.SerializeToString()


def _incident_id(number: int) -> str:
    return f"1{number:012d}"


def _incident(number: int, count: int) -> tuple[Any, ...]:
    start = _FIRST + timedelta(days=59) * (number * 1000 / count)
    end = start + timedelta(hours=1)
    pb = status_pb2.Incident(
        id=_incident_id(number),
        type=2,
        name="a failure",
        status=3,
        severity=1,
        start_time=start,
        end_time=end,
        resolution=4,
        resource_ids=[resource_id((number * 7 + one) % RESOURCES) for one in range(20)],
        create_time=start,
        update_time=end,
        declared_by="probe",
        revision=1,
    )
    begin, finish = (int(moment.timestamp() * 1_000_000) for moment in (start, end))
    return (pb.id, 2, 3, 4, begin, finish, finish, "", "", "a failure\n", 1, pb.SerializeToString())
