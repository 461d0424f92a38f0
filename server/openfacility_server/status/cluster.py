"""What the nodes and queues of a compute resource say of its status, in words for everyone: pure functions."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from functools import lru_cache

from openfacility_server.jobs.engines import cluster as engines
from openfacility_server.jobs.engines.cluster import ClusterView, Node, NodeState
from openfacility_server.jobs.engines.nodenames import compress, expand
from openfacility_server.status.model import Capacity, NodeCounts, QueueCapacity, QueueState, Status
from openfacility_server.status.probes import Finding, JobsTarget

_MOST_QUEUES = 100
_MOST_CAUSES = 3
_LONGEST_CAUSE = 100
_LONGEST_NAMES = 300
# Where files are, and who somebody is, is nothing for everyone.
_PRIVATE = re.compile(r"\S*[/@\\]\S*|\b(?:user|uid|gid|by)[= ]\S+", re.IGNORECASE)
_UNSEEN = re.compile(r"[\x00-\x1f\x7f]+")
_QUEUE_STATES = {
    engines.QueueState.OPEN: QueueState.OPEN,
    engines.QueueState.STOPPED: QueueState.STOPPED,
    engines.QueueState.DRAINING: QueueState.DRAINING,
    engines.QueueState.CLOSED: QueueState.CLOSED,
}
_QUEUE_TROUBLE = {
    QueueState.STOPPED: (Status.DOWN, "starts no jobs"),
    QueueState.DRAINING: (Status.DEGRADED, "takes no new jobs"),
    QueueState.CLOSED: (Status.DOWN, "is closed"),
}


def selected(view: ClusterView, target: JobsTarget) -> list[Node]:
    """Returns the nodes that a target is about."""
    names, patterns = _wanted(target.nodes)
    return [
        node
        for node in view.nodes
        if (not target.queue or target.queue in node.queues)
        and (not target.nodes or node.name in names or any(fnmatchcase(node.name, each) for each in patterns))
    ]


@lru_cache(maxsize=256)
def _wanted(nodes: tuple[str, ...]) -> tuple[frozenset[str], tuple[str, ...]]:
    each = [name for text in nodes for name in expand(text)]
    return frozenset(each), tuple(name for name in each if "*" in name)


def judge(view: ClusterView, target: JobsTarget) -> Finding:
    """Returns how a compute resource, or the part of it that a target names, is."""
    if target.whole and not view.nodes:
        # It may not show them to this server; that jobs wait for ever is nothing that is known.
        return Finding(Status.UP)
    nodes = selected(view, target)
    queues = _queues(view, target, nodes)
    capacity = Capacity(_counts(nodes), tuple(queues[:_MOST_QUEUES]), view.time)
    found = [_queue_trouble(queues, target), _node_trouble(nodes, target)]
    troubles = [trouble for trouble in found if trouble is not None]
    if not troubles:
        return Finding(Status.UP, capacity=capacity)
    status = max((status for status, _ in troubles), key=lambda status: status.badness)
    since = None
    if found[0] is None:
        since = min((node.since for node in nodes if node.state.out and node.since), default=None)
    return Finding(status, "; ".join(text for _, text in troubles), since=since, capacity=capacity)


def _queues(view: ClusterView, target: JobsTarget, nodes: Sequence[Node]) -> list[QueueCapacity]:
    members: dict[str, list[Node]] = {}
    for node in nodes:
        for name in node.queues:
            members.setdefault(name, []).append(node)
    return [
        QueueCapacity(queue.name, _QUEUE_STATES[queue.state], _counts(members[queue.name]))
        for queue in view.queues
        if queue.name in members and target.queue in ("", queue.name)
    ]


def _counts(nodes: Iterable[Node]) -> NodeCounts:
    counted = Counter(str(node.state) for node in nodes)
    return NodeCounts(total=counted.total(), **counted)


def _queue_trouble(queues: Sequence[QueueCapacity], target: JobsTarget) -> tuple[Status, str] | None:
    if target.queue and not queues:
        return Status.DOWN, f"there is no queue {target.queue}, or it has no nodes"
    if target.nodes and not target.queue:
        return None
    asked = [queue for queue in queues if queue.name not in target.ignore_queues]
    troubled = [queue for queue in asked if queue.state in _QUEUE_TROUBLE]
    if not troubled:
        return None
    # As long as one queue works as it should, something works.
    statuses = [_QUEUE_TROUBLE[queue.state][0] for queue in troubled]
    all_down = len(troubled) == len(asked) and all(status == Status.DOWN for status in statuses)
    texts = []
    for state, (_, words) in _QUEUE_TROUBLE.items():
        if names := [queue.name for queue in troubled if queue.state == state]:
            texts.append(f"the queue {_cut(', '.join(names), _LONGEST_NAMES)} {words}")
    return (Status.DOWN if all_down else Status.DEGRADED), "; ".join(texts)


def _node_trouble(nodes: Sequence[Node], target: JobsTarget) -> tuple[Status, str] | None:
    out = [node for node in nodes if node.state.out]
    if not nodes:
        return None if target.queue else (Status.DOWN, "has no nodes")
    if 100 * len(out) <= target.nodes_out_percent * len(nodes):
        return None
    maintained = sum(node.state == NodeState.MAINTENANCE for node in nodes)
    status = Status.DOWN if len(out) + maintained == len(nodes) else Status.DEGRADED
    causes = [(node.name, node.state, node.reason) for node in out]
    return status, outage(causes, len(nodes), "are" if len(nodes) > 1 else "is")


def outage(causes: Sequence[tuple[str, NodeState, str]], total: int, verb: str) -> str:
    """Returns which nodes, of so many, are out and why: each with its name, its state and an administrator's words."""
    states = [state for state in (NodeState.DOWN, NodeState.DRAINED) if any(state == one[1] for one in causes)]
    names: dict[str, list[str]] = {}
    for name, _, reason in causes:
        names.setdefault(for_everyone(reason), []).append(name)
    told = sorted(names.items(), key=lambda item: (-len(item[1]), item[0]))
    parts = [
        _cut(compress(members), _LONGEST_NAMES) + (f" ({reason})" if reason else "")
        for reason, members in told[:_MOST_CAUSES]
    ]
    if others := sum(len(members) for _, members in told[_MOST_CAUSES:]):
        parts.append(f"and {others} more")
    out = len({name for name, _, _ in causes})
    return f"{out} of {total} node{'s' if total > 1 else ''} {verb} {' or '.join(states)}: {', '.join(parts)}"


def for_everyone(reason: str) -> str:
    """Returns an administrator's words without what looks like a path, an address or a user."""
    text = _PRIVATE.sub("…", _UNSEEN.sub(" ", reason))
    return _cut(" ".join(text.split()), _LONGEST_CAUSE)


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[: longest - 1]}…"
