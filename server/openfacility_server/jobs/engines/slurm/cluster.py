"""How the nodes and queues of a Slurm cluster are, from sinfo, and how its nodes were, from accounting."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Protocol

from openfacility_server.jobs.engines import EngineUnavailable
from openfacility_server.jobs.engines.cluster import ClusterView, Node, NodeOutage, NodeState, Queue, QueueState
from openfacility_server.jobs.engines.slurm.commands import Result

_SEPARATOR = "\x1f"
_FIELDS = ("NodeList", "PartitionName", "Available", "StateComplete", "Timestamp", "CPUs", "Reason")
_FRESH_SECONDS = 1.0
# Accounting may be slow, and nobody waits for it.
_HISTORY_SECONDS = 20.0
_MOST_OUTAGES = 20_000

_BASES = {
    "idle": NodeState.IDLE,
    "mixed": NodeState.MIXED,
    "allocated": NodeState.ALLOCATED,
    "down": NodeState.DOWN,
    "error": NodeState.DOWN,
}
_FLAGS = {
    "maintenance": NodeState.MAINTENANCE,
    "maint": NodeState.MAINTENANCE,
    "invalid_reg": NodeState.DOWN,
    "reboot_issued": NodeState.DOWN,
    "drain": NodeState.DRAINED,
    "fail": NodeState.DRAINED,
}
_ORDER = tuple(NodeState)
_QUEUES = {
    "up": QueueState.OPEN,
    "down": QueueState.STOPPED,
    "drain": QueueState.DRAINING,
    "inact": QueueState.CLOSED,
    "inactive": QueueState.CLOSED,
}
# What Slurm writes where there is no reason, and words of its own for reasons.
_WORDS = {"none": "", "(null)": "", "Not responding": "does not answer", "Node unexpectedly rebooted": "restarted"}


class Runner(Protocol):
    """Runs Slurm's commands, as ``Commands`` does."""

    async def run(self, argv: Sequence[str], *, timeout: float | None = None) -> Result:  # noqa: ASYNC109
        """Runs one command to its end."""


class Cluster:
    """One cluster. For one event loop; those who ask at the same time share one answer."""

    def __init__(self, commands: Runner, cluster: str = "") -> None:
        """``cluster`` is its name where there are several."""
        self._commands = commands
        self._name = cluster
        self._view: ClusterView | None = None
        self._read_at = 0.0
        self._reading: asyncio.Task[ClusterView] | None = None

    async def view(self) -> ClusterView:
        """Returns how nodes and queues are, at most a second ago. Raises EngineUnavailable."""
        if self._reading is None:
            if self._view is not None and time.monotonic() - self._read_at < _FRESH_SECONDS:
                return self._view
            self._reading = asyncio.create_task(self._read())
            self._reading.add_done_callback(self._has_read)
        # Others may be waiting for the same answer.
        return await asyncio.shield(self._reading)

    async def close(self) -> None:
        """Ends a question that is open."""
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)

    async def _read(self) -> ClusterView:
        begun, now = time.monotonic(), datetime.now(UTC)
        form = ",".join(f"{name}:{_SEPARATOR}" for name in _FIELDS)
        result = await self._commands.run(["sinfo", "-N", "-h", "-a", "-O", form])
        if result.code != 0:
            raise EngineUnavailable("The batch system does not say how its nodes are.")
        self._view = await asyncio.to_thread(read_nodes, result.out, now)
        self._read_at = begun
        return self._view

    def _has_read(self, done: asyncio.Task[ClusterView]) -> None:
        self._reading = None
        if not done.cancelled():
            done.exception()  # Nobody may be waiting for it any more.

    async def outages(self, since: datetime) -> Sequence[NodeOutage]:
        """Returns the outages of nodes that went on after a time, oldest first; none where there is no accounting.

        Raises EngineUnavailable.
        """
        seconds = max(1, int((datetime.now(UTC) - since) / timedelta(seconds=1)))
        # The reason comes last: it may hold what separates the others.
        columns = "nodename,timestart,timeend,state,reason"
        named = [f"clusters={self._name}"] if self._name else []
        result = await self._commands.run(
            ["sacctmgr", "-n", "-P", "show", "event", f"start=now-{seconds}seconds", f"format={columns}", *named],
            timeout=_HISTORY_SECONDS,
        )
        return await asyncio.to_thread(read_outages, result.out) if result.code == 0 else ()


def read_nodes(text: str, now: datetime) -> ClusterView:
    """Returns what sinfo wrote: a line for each node in each partition."""
    nodes: dict[str, Node] = {}
    names: dict[str, list[str]] = {}
    queues: dict[str, QueueState] = {}
    for line in text.splitlines():
        values = line.split(_SEPARATOR)
        if len(values) <= len(_FIELDS):  # such as the cluster's name
            continue
        name, queue, available, state, since, cores, reason = (value.strip() for value in values[: len(_FIELDS)])
        if not name or state.startswith("future"):
            continue
        if queue:
            queues[queue] = _QUEUES.get(available, QueueState.CLOSED)
            names.setdefault(name, []).append(queue)
        if name not in nodes:
            known = node_state(state)
            words = _words(reason) if known.out else ""
            nodes[name] = Node(name, known, (), number(cores), words, point_in_time(since) if known.out else None)
    return ClusterView(
        tuple(
            Node(one.name, one.state, tuple(names.get(one.name, ())), one.core_count, one.reason, one.since)
            for one in nodes.values()
        ),
        tuple(Queue(name, state) for name, state in sorted(queues.items())),
        now,
    )


def node_state(complete: str) -> NodeState:
    """Returns the state for Slurm's complete one: a base state and flags, such as ``mixed+drain+not_responding``."""
    base, *flags = complete.lower().split("+")
    known = _BASES.get(base, NodeState.UNKNOWN)
    if "not_responding" in flags and not any(flag.startswith("power") for flag in flags) and not known.out:
        # Slurm itself waits before it calls a node down that does not answer, as one that was just resumed does not.
        known = NodeState.UNKNOWN
    found = [known, *(_FLAGS[flag] for flag in flags if flag in _FLAGS)]
    return max(found, key=_ORDER.index)


def read_outages(text: str) -> Sequence[NodeOutage]:
    """Returns what accounting knows of nodes, oldest first; not what happened in announced maintenance."""
    return sorted(_outages(text), key=lambda one: one.start)[-_MOST_OUTAGES:]


def _outages(text: str) -> Iterator[NodeOutage]:
    for line in text.splitlines():
        name, start, end, state, reason = [*line.split("|", 4), "", "", "", ""][:5]
        began = point_in_time(start)
        word = state.upper()
        if not name or began is None or "$" in word or "MAINT" in word:
            continue
        known = NodeState.DOWN if word.startswith(("DOWN", "ERROR")) else NodeState.DRAINED
        yield NodeOutage(name, known, began, point_in_time(end), _words(reason))


def _words(reason: str) -> str:
    return _WORDS.get(reason, reason)


def point_in_time(text: str) -> datetime | None:
    """Returns seconds since 1970 as a time; None for `Unknown` and the like, and for 0."""
    seconds = number(text)
    return datetime.fromtimestamp(seconds, UTC) if 0 < seconds < 1 << 35 else None


def number(text: str) -> int:
    """Returns a number that is not negative; 0 for anything else."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 19 else 0
