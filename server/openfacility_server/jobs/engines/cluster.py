"""What an engine of a cluster can tell beside its jobs: how its nodes and queues are, and how its nodes were.

Optional: an engine that has these methods beside those of ``JobEngine`` is a ``ClusterEngine``, and Status shows it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Protocol, runtime_checkable

from openfacility_server.jobs.engines import Reservation


class NodeState(StrEnum):
    """How a node is, whatever else it is: of several that hold, the last one here counts."""

    UNKNOWN = "unknown"
    IDLE = "idle"
    MIXED = "mixed"
    ALLOCATED = "allocated"
    DRAINED = "drained"
    DOWN = "down"
    MAINTENANCE = "maintenance"

    @property
    def out(self) -> bool:
        """Whether it takes no jobs and nobody planned that; a drained one may still run what it has."""
        return self in (NodeState.DRAINED, NodeState.DOWN)


class QueueState(StrEnum):
    """What a queue does with jobs."""

    OPEN = "open"
    STOPPED = "stopped"
    """Takes jobs and starts none."""
    DRAINING = "draining"
    """Takes no jobs, and starts those that it has."""
    CLOSED = "closed"
    """Takes no jobs and starts none."""


@dataclass(frozen=True, slots=True)
class Node:
    """One node. ``reason`` is why it is out, in words that an administrator wrote for others; ``since`` since when."""

    name: str
    state: NodeState
    queues: tuple[str, ...] = ()
    core_count: int = 0
    reason: str = ""
    since: datetime | None = None


@dataclass(frozen=True, slots=True)
class Queue:
    """One queue."""

    name: str
    state: QueueState


@dataclass(frozen=True, slots=True)
class ClusterView:
    """All nodes that are in a queue, and all queues that have nodes, at one moment."""

    nodes: tuple[Node, ...]
    queues: tuple[Queue, ...]
    time: datetime


@dataclass(frozen=True, slots=True)
class NodeOutage:
    """A span in which a node was drained or down; ``end`` is None while it goes on."""

    node: str
    state: NodeState
    start: datetime
    end: datetime | None
    reason: str = ""


@runtime_checkable
class ClusterEngine(Protocol):
    """An engine that has nodes and queues."""

    async def cluster(self) -> ClusterView:
        """Returns how nodes and queues are; may be a second old. Raises EngineUnavailable."""

    async def node_outages(self, since: datetime) -> Sequence[NodeOutage]:
        """Returns the outages of nodes that went on after a time, oldest first, as far as there is a record of them.

        Raises EngineUnavailable.
        """

    async def reservations(self) -> Sequence[Reservation]:
        """As in ``JobEngine``."""
