"""Status in front of a real Slurm: nodes and queues that fail, a controller that dies, maintenance, and the past."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import duration_pb2
from openfacility.jobs.v1 import job_pb2
from openfacility.status.v1 import status_pb2 as pb

from tests.engines.slurm import SlurmCluster
from tests.faults.server_support import DEADLINE, calling, patiently, serving
from tests.faults.test_status_engine import connected, probed
from tests.support.calls import refused
from tests.support.slurm import slurm_config
from tests.support.status import (
    DEGRADED,
    DOWN,
    PLANNED,
    UNPLANNED,
    UP,
    StatusCaller,
    StatusWatch,
    described,
    now,
    when,
    write,
)

pytestmark = [pytest.mark.slurm, pytest.mark.slow]

Start = Callable[..., SlurmCluster]
COMPLETED, PENDING = pb.RESOLUTION_COMPLETED, pb.RESOLUTION_PENDING
SECOND = timedelta(seconds=1)  # Slurm's times are whole ones
# What the whole cluster is, a queue that is one node, and two nodes of the other queue.
PARTS: Sequence[Mapping[str, Any]] = (
    {"id": "cluster", "probe": {"kind": "jobs", "resource": "cluster"}},
    {"id": "debug", "probe": {"kind": "jobs", "resource": "cluster", "queue": "debug"}},
    {"id": "rack2", "probe": {"kind": "jobs", "resource": "cluster", "nodes": ["n[3-4]"]}},
    {"id": "portal", "depends_on": ["rack2"]},
)


def config(cluster: SlurmCluster, tmp_path: Path) -> dict[str, Any]:
    path = write(tmp_path / "facility.yaml", described(*PARTS))
    probe = {"period": 1, "deadline": 0.9}
    return {**slurm_config(cluster, "commands"), "status": {"probe": probe, "description": str(path)}}


async def slurm(cluster: SlurmCluster, *command: str) -> str:
    return (await asyncio.to_thread(cluster.run, *command)).stdout


async def node(cluster: SlurmCluster, name: str, state: str, reason: str = "") -> None:
    await slurm(
        cluster, "scontrol", "update", f"nodename={name}", f"state={state}", *([f"reason={reason}"] if reason else [])
    )


async def reserve(cluster: SlurmCluster, what: str, *values: str) -> None:
    await slurm(cluster, "scontrol", what, "reservation", *values)


async def counted(watch: StatusWatch, **counts: int) -> pb.Resource:
    """Returns the cluster when so many of its nodes are so."""

    def shown(resource: pb.Resource) -> bool:
        nodes = resource.current.capacity.nodes
        return resource.id == "cluster" and all(getattr(nodes, name) == count for name, count in counts.items())

    return (await watch.until(lambda change: shown(change.resource))).resource


async def test_nodes_and_queues_fail_and_come_back(slurm_cluster: Start, tmp_path: Path) -> None:
    cluster = slurm_cluster(rest=False)
    async with serving(config(cluster, tmp_path)) as server, connected(server) as olga:
        await probed(olga, "cluster", "debug", "rack2")
        working = (await olga.resource("cluster")).current
        assert (working.status, working.reason) == (UP, "")
        assert (working.capacity.nodes.total, working.capacity.nodes.idle) == (4, 4)
        assert [(one.name, one.state, one.nodes.total) for one in working.capacity.queues] == [
            ("debug", pb.QUEUE_STATE_OPEN, 1),
            ("regular", pb.QUEUE_STATE_OPEN, 4),
        ]
        assert (await olga.resource("debug")).current.capacity.nodes.total == 1
        async with olga.watch(after_revision=await olga.revision()) as watch:
            # One node: it is all of one queue, part of the cluster, and nothing to the rest.
            began = now()
            await node(cluster, "n1", "drain", "fan swap; see /root/notes or mail root@x.example")
            opened = await _opened(watch, "cluster", "debug")
            for one in opened.values():
                assert (one.type, one.resolution, one.declared_by) == (UNPLANNED, pb.RESOLUTION_UNRESOLVED, "probe")
                assert began - SECOND <= when(one.start_time) <= now()
            assert (opened["cluster"].status, opened["debug"].status) == (DEGRADED, DOWN)
            assert opened["cluster"].description == "1 of 4 nodes are drained: n1 (fan swap; see … or mail …)"
            current = (await olga.resource("cluster")).current
            assert (current.status, current.incident_id) == (DEGRADED, opened["cluster"].id)
            assert (current.capacity.nodes.drained, current.capacity.nodes.idle) == (1, 3)
            assert (await olga.resource("rack2")).current.status == UP
            # More nodes: the same incident of the cluster, with a note.
            await node(cluster, "n3", "down", "bad dimm")
            shown = await counted(watch, drained=1, down=1)
            assert "2 of 4 nodes are down or drained: " in shown.current.reason
            assert "n3 (bad dimm)" in shown.current.reason
            again = await olga.incident(opened["cluster"].id)
            assert [note.author for note in again.notes] == ["probe"]
            assert shown.current.reason in again.notes[-1].text
            assert (await olga.until("portal", DEGRADED)).current.because_of_resource_id == "rack2"
            await node(cluster, "n3", "resume")
            await node(cluster, "n1", "resume")
            for resource_id, one in opened.items():
                over = await olga.until_incident(one.id)
                assert over.resolution == COMPLETED
                assert (await olga.until(resource_id, UP)).current.reason == ""
            await olga.until("rack2", UP)
            assert len(await olga.incidents(types=[UNPLANNED])) == 3, "one for each resource"
            # A queue.
            for state, told, status in (("down", "starts no jobs", DOWN), ("drain", "takes no new jobs", DEGRADED)):
                await slurm(cluster, "scontrol", "update", "partitionname=debug", f"state={state}")
                found = await olga.until("debug", status)
                assert found.current.reason == f"the queue debug {told}"
                assert (await olga.until("cluster", DEGRADED)).current.reason == f"the queue debug {told}"
                await slurm(cluster, "scontrol", "update", "partitionname=debug", "state=up")
                await olga.until("debug", UP)
                await olga.until("cluster", UP)


async def _opened(watch: StatusWatch, *resource_ids: str) -> dict[str, pb.Incident]:
    """Returns the next incident of each of these resources."""
    found: dict[str, pb.Incident] = {}
    while len(found) < len(resource_ids):
        one = await watch.incident(lambda each: len(each.resource_ids) == 1 and each.resource_ids[0] in resource_ids)
        found.setdefault(one.resource_ids[0], one)
    return found


async def test_the_controller_dies_and_comes_back(slurm_cluster: Start, tmp_path: Path) -> None:
    cluster = slurm_cluster(nodes=1, rest=False)
    overrides = {**config(cluster, tmp_path), "status": {"probe": {"period": 1, "deadline": 0.9}}}
    async with serving(overrides) as server, connected(server) as olga, calling(server) as alice:
        spec = {"attributes": job_pb2.JobAttributes(duration=duration_pb2.Duration(seconds=60))}
        await probed(olga, "cluster")
        assert (await olga.resource("cluster")).current.capacity.nodes.total == 1
        async with olga.watch(after_revision=await olga.revision()) as watch:
            cluster.kill("slurmctld")
            killed = time.monotonic()
            down = await watch.resource("cluster", DOWN)
            assert time.monotonic() - killed < 8
            assert down.current.source == pb.STATUS_SOURCE_PROBE
            assert down.current.reason
            assert not down.current.capacity.HasField("nodes"), "nobody knows"
            with refused("UNAVAILABLE"):
                await alice.submit("/bin/true", **spec)
            await asyncio.to_thread(cluster.start_daemon, "slurmctld")
            up = await watch.resource("cluster", UP)
            assert up.current.capacity.nodes.total == 1
        over = await olga.incident(down.current.incident_id)
        assert (over.resolution, over.status, over.type) == (COMPLETED, DOWN, UNPLANNED)
        job = await patiently(lambda: alice.submit("/bin/true", **spec))
        assert (await alice.wait(job.id)).status.state == job_pb2.JOB_STATE_COMPLETED


async def test_maintenance_that_is_reserved(slurm_cluster: Start, tmp_path: Path) -> None:
    cluster = slurm_cluster(rest=False)
    overrides = config(cluster, tmp_path)
    async with serving(overrides) as server:
        async with connected(server) as olga, olga.watch(after_revision=await olga.revision()) as watch:
            await probed(olga, "cluster")
            # Part of the cluster, all of a rack and of what depends on it.
            await reserve(
                cluster,
                "create",
                *("reservationname=cooling", "starttime=now+1hour", "duration=60", "nodes=n[2-4]"),
                *("users=root", "flags=maint,ignore_jobs"),
            )
            await watch.incident(lambda one: one.type == PLANNED)
            found = {one.status: one for one in await olga.incidents(types=[PLANNED])}
            assert set(found) == {DEGRADED, DOWN}
            assert list(found[DEGRADED].resource_ids) == ["cluster"]
            assert list(found[DOWN].resource_ids) == ["rack2"]
            assert list(found[DOWN].impacted_resource_ids) == ["portal", "rack2"]
            for one in found.values():
                assert (one.name, one.declared_by, one.resolution) == ("Maintenance: cooling", "batch system", PENDING)
                assert when(one.end_time) - when(one.start_time) == timedelta(hours=1)
                assert one.description == "3 nodes in maintenance: n[2-4]"
            answer = await olga.call("CheckAvailability", resource_id="portal", end_time=found[DOWN].end_time)
            assert [one.id for one in answer.incidents] == [found[DOWN].id]
            await reserve(cluster, "update", "reservationname=cooling", "starttime=now+2hours", "duration=30")
            moved = await watch.incident(
                lambda one: one.id == found[DOWN].id and one.start_time != found[DOWN].start_time
            )
            assert when(moved.end_time) - when(moved.start_time) == timedelta(minutes=30)
            assert when(moved.start_time) - when(found[DOWN].start_time) > timedelta(minutes=50)
        # Neither another server nor the next one plans it again.
        await asyncio.to_thread(server.restart, kill=True)
        async with connected(server) as olga, olga.watch(after_revision=await olga.revision()) as watch:
            await probed(olga, "cluster")
            await reserve(cluster, "delete", "cooling")
            for one in found.values():
                assert (await olga.until_incident(one.id)).resolution == pb.RESOLUTION_CANCELLED
            # One that begins at once, and ends before its time.
            await reserve(
                cluster,
                "create",
                *("reservationname=now", "starttime=now", "duration=60", "nodes=n1", "users=root", "flags=maint"),
            )
            debug = await watch.resource("debug", DOWN)
            assert (debug.current.source, debug.current.reason) == (pb.STATUS_SOURCE_INCIDENT, "Maintenance: now")
            await counted(watch, maintenance=1, drained=0, down=0)
            await node(cluster, "n1", "drain", "new firmware")
            await node(cluster, "n1", "resume")
            await reserve(cluster, "delete", "now")
            over = await olga.until_incident(debug.current.incident_id)
            assert over.resolution == COMPLETED
            await olga.until("debug", UP)
            await olga.until("cluster", UP)
            assert await olga.incidents(types=[UNPLANNED]) == [], "what was planned is no failure"


async def test_what_happened_while_no_server_ran(slurm_cluster: Start, tmp_path: Path) -> None:
    cluster = slurm_cluster(rest=False)
    await node(cluster, "n3", "down", "bad dimm")
    await node(cluster, "n1", "drain", "fan swap")
    drained = now()
    # Two whole seconds pass in accounting, which knows no others.
    await _passed(cluster, 2)
    await node(cluster, "n3", "resume")
    overrides = config(cluster, tmp_path)
    async with serving(overrides) as server:
        async with connected(server) as olga:
            debug = await olga.until("debug", DOWN)
            await olga.until("cluster", DEGRADED)
            rack = await _past(olga, "rack2")
            assert (rack.resolution, rack.status, rack.type) == (COMPLETED, DEGRADED, UNPLANNED)
            assert rack.description == "1 of 2 nodes were down: n3 (bad dimm)"
            assert timedelta(seconds=1) <= when(rack.end_time) - when(rack.start_time)
            assert when(rack.end_time) < now()
            # What still went on when the server came began before it.
            assert abs(when(debug.current.since) - drained) <= 2 * SECOND
            known = await olga.incident_ids()
        await asyncio.to_thread(server.restart, kill=True)
        async with connected(server) as olga:
            await node(cluster, "n1", "resume")
            await olga.until("debug", UP)
            await olga.until("cluster", UP)
            assert sorted(await olga.incident_ids()) == sorted(known), "nothing is told twice"


async def _past(olga: StatusCaller, resource_id: str) -> pb.Incident:
    async with asyncio.timeout(DEADLINE), olga.watch(resource_ids=[resource_id]) as watch:
        while not (found := await olga.incidents(resource_ids=[resource_id], resolutions=[COMPLETED])):
            await watch.next()
    return found[0]


async def _passed(cluster: SlurmCluster, seconds: int) -> None:
    """Returns when the controller's clock shows so many seconds more."""
    begun = int(time.time())
    async with asyncio.timeout(DEADLINE):
        while int(time.time()) <= begun + seconds:  # noqa: ASYNC110 -- it is the time that is waited for
            await asyncio.sleep(0.05)
