"""What nodes and queues say of a resource, and what Slurm's commands say of nodes and queues."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from openfacility_server.jobs.engines.cluster import ClusterView, Node, NodeOutage, NodeState, Queue, QueueState
from openfacility_server.jobs.engines.nodenames import compress, expand
from openfacility_server.jobs.engines.slurm.cluster import node_state, read_nodes, read_outages
from openfacility_server.jobs.engines.slurm.reservations import read_reservations
from openfacility_server.status import model
from openfacility_server.status.cluster import for_everyone, judge
from openfacility_server.status.model import NodeCounts, Status
from openfacility_server.status.outages import past
from openfacility_server.status.probes import JobsTarget, News, ProbeResult

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
WHOLE = JobsTarget("cluster")
IDLE, DRAINED, DOWN, MAINTENANCE = NodeState.IDLE, NodeState.DRAINED, NodeState.DOWN, NodeState.MAINTENANCE


def _ago(minutes: float) -> datetime:
    return NOW - timedelta(minutes=minutes)


# Lists of nodes.


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("", []),
        ("n1", ["n1"]),
        ("n[1-3,08],login", ["n1", "n2", "n3", "n08", "login"]),
        ("rack[1-2]n[09-10]", ["rack1n09", "rack1n10", "rack2n09", "rack2n10"]),
        ("gpu*,n[1-2]", ["gpu*", "n1", "n2"]),
    ],
)
def test_node_lists(text: str, names: list[str]) -> None:
    assert list(expand(text)) == names
    assert sorted(expand(compress(names).replace(", ", ","))) == sorted(names)


@pytest.mark.parametrize("text", ["n[1", "n]1", "n[[1]]", "n[a-c]", "n[1-1000000]", "n[1-999][1-999]", "n[]"])
def test_what_is_no_node_list(text: str) -> None:
    with pytest.raises(ValueError, match=r"brackets|range|more than"):
        expand(text)


def test_node_lists_are_short() -> None:
    assert compress(f"n{number}" for number in range(1, 129)) == "n[1-128]"
    assert compress(["n9", "n10", "n11", "b", "n9"]) == "b, n[9-11]"
    assert compress(["n01", "n02", "n10"]) == "n[01-02,10]"


# Nodes and queues.


def _view(
    *states: NodeState, queues: Sequence[Queue] = (Queue("all", QueueState.OPEN),), **more: object
) -> ClusterView:
    nodes = [Node(f"n{number}", state, tuple(queue.name for queue in queues)) for number, state in enumerate(states, 1)]
    return ClusterView(tuple(replace(node, **(more if node.state.out else {})) for node in nodes), tuple(queues), NOW)  # type: ignore[arg-type]


def test_a_cluster_that_works() -> None:
    found = judge(_view(IDLE, NodeState.MIXED, NodeState.ALLOCATED, NodeState.UNKNOWN), WHOLE)
    assert (found.status, found.reason) == (Status.UP, "")
    assert found.capacity is not None
    assert found.capacity.nodes == NodeCounts(total=4, idle=1, mixed=1, allocated=1, unknown=1)
    assert found.capacity.queues == (model.QueueCapacity("all", model.QueueState.OPEN, found.capacity.nodes),)


@pytest.mark.parametrize(
    ("states", "status", "reason"),
    [
        ([IDLE, DRAINED], Status.DEGRADED, "1 of 2 nodes are drained: n2 (fan swap)"),
        ([IDLE, DRAINED, DOWN, IDLE], Status.DEGRADED, "2 of 4 nodes are down or drained: n[2-3] (fan swap)"),
        ([DOWN, DOWN], Status.DOWN, "2 of 2 nodes are down: n[1-2] (fan swap)"),
        ([DOWN], Status.DOWN, "1 of 1 node is down: n1 (fan swap)"),
        ([MAINTENANCE, DOWN], Status.DOWN, "1 of 2 nodes are down: n2 (fan swap)"),
        ([MAINTENANCE, IDLE], Status.UP, ""),
        ([MAINTENANCE, MAINTENANCE], Status.UP, ""),
        ([], Status.UP, ""),
    ],
)
def test_nodes_that_are_out(states: list[NodeState], status: Status, reason: str) -> None:
    found = judge(_view(*states, reason="fan swap", since=_ago(5)), WHOLE)
    assert (found.status, found.reason) == (status, reason)
    assert found.since == (_ago(5) if any(state.out for state in states) else None)


def test_a_part_is_as_its_own_nodes_and_queue_are() -> None:
    queues = [Queue("gpu", QueueState.OPEN), Queue("long", QueueState.STOPPED), Queue("old", QueueState.CLOSED)]
    view = ClusterView(
        (
            Node("g1", DOWN, ("gpu",), reason="bad dimm"),
            Node("g2", IDLE, ("gpu", "old")),
            Node("n1", IDLE, ("long",)),
            Node("n2", IDLE, ("long",)),
        ),
        tuple(queues),
        NOW,
    )

    def told(**target: object) -> tuple[Status, str]:
        found = judge(view, JobsTarget("cluster", **target))  # type: ignore[arg-type]
        return found.status, found.reason

    assert told(queue="gpu") == (Status.DEGRADED, "1 of 2 nodes are down: g1 (bad dimm)")
    assert told(queue="long") == (Status.DOWN, "the queue long starts no jobs")
    assert told(queue="lost") == (Status.DOWN, "there is no queue lost, or it has no nodes")
    assert told(nodes=("g*",)) == (Status.DEGRADED, "1 of 2 nodes are down: g1 (bad dimm)")
    assert told(nodes=("n[1-2]",)) == (Status.UP, "")
    assert told(nodes=("g1",), queue="gpu") == (Status.DOWN, "1 of 1 node is down: g1 (bad dimm)")
    assert told(nodes=("x",)) == (Status.DOWN, "has no nodes")
    texts = "the queue long starts no jobs; the queue old is closed; 1 of 4 nodes are down: g1 (bad dimm)"
    assert told() == (Status.DEGRADED, texts)
    assert told(ignore_queues=("long", "old"), nodes_out_percent=25) == (Status.UP, "")
    assert told(ignore_queues=("gpu",), nodes_out_percent=25)[0] == Status.DOWN
    assert told(nodes_out_percent=24, nodes=("*",))[0] == Status.DEGRADED


def test_a_queue_that_takes_no_new_jobs_still_works_in_part() -> None:
    found = judge(_view(IDLE, queues=[Queue("all", QueueState.DRAINING)]), WHOLE)
    assert (found.status, found.reason) == (Status.DEGRADED, "the queue all takes no new jobs")


def test_many_causes_are_told_as_a_few() -> None:
    nodes = tuple(Node(f"n{number}", DOWN, ("q",), reason=f"{number} {'x' * 300}") for number in range(1, 60))
    found = judge(ClusterView((*nodes, Node("ok", IDLE, ("q",))), (Queue("q", QueueState.OPEN),), NOW), WHOLE)
    assert found.reason.startswith("59 of 60 nodes are down: ")
    assert found.reason.endswith(", and 56 more")
    assert len(found.reason) < 1000


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("fan swap; ticket 42", "fan swap; ticket 42"),
        ("NHC: /scratch is full", "NHC: … is full"),
        ("see https://x.example/1 or mail bob@x.example", "see … or mail …"),
        (r"set by user=bob, DOM\bob", "set … …"),
        ("a\x00b\tc  d", "a b c d"),
        ("x" * 300, "x" * 99 + "…"),
    ],
)
def test_reasons_are_for_everyone(said: str, told: str) -> None:
    assert for_everyone(said) == told


# Which answers are news.


def test_small_changes_are_told_late() -> None:
    news = News(period=5)

    def answer(seconds: float, idle: int, **more: object) -> ProbeResult:
        nodes = NodeCounts(total=100, idle=idle, mixed=100 - idle)
        time = NOW + timedelta(seconds=seconds)
        made = ProbeResult("r", Status.UP, "", time, capacity=model.Capacity(nodes, (), time))
        return replace(made, **more)  # type: ignore[arg-type]

    assert not news.worth(answer(0, 50)), "nothing has been told yet that it could be beside"
    news.told(answer(0, 50))
    assert not news.worth(answer(1000, 50))
    assert not news.worth(answer(299, 51))
    assert news.worth(answer(300, 51))
    assert not news.worth(answer(9, 90)), "not all the time"
    assert news.worth(answer(10, 90))
    assert news.worth(answer(10, 50, reason="other"))
    assert not news.worth(answer(1000, 90, status=Status.DOWN)), "that needs certainty"
    assert not news.worth(answer(1000, 90, capacity=None))


# Outages of the past.


def _outage(node: str, start: float, end: float | None, state: NodeState = DOWN, reason: str = "") -> NodeOutage:
    return NodeOutage(node, state, _ago(start), None if end is None else _ago(end), reason)


def test_outages_that_touch_are_one() -> None:
    view = _view(IDLE, IDLE, IDLE)
    outages = [
        _outage("n1", 100, 90, reason="disk"),
        _outage("n2", 95, 80, DRAINED, "fan"),
        _outage("n1", 80, 70, reason="disk"),
        _outage("n1", 60, 59),
        _outage("n2", 60, 58),
        _outage("n3", 60, 59),
        _outage("n3", 50, 49.99),
        _outage("n3", 40, None),
        _outage("gone", 30, 20),
    ]
    found = past(
        view, outages, [("r", WHOLE), ("few", JobsTarget("cluster", nodes_out_percent=70))], timedelta(seconds=5)
    )
    assert [(one.resource_id, one.status, one.start, one.end, one.reason) for one in found] == [
        ("r", Status.DEGRADED, _ago(100), _ago(70), "2 of 3 nodes were down or drained: n1 (disk), n2 (fan)"),
        ("r", Status.DOWN, _ago(60), _ago(58), "3 of 3 nodes were down: n[1-3]"),
        ("few", Status.DOWN, _ago(60), _ago(58), "3 of 3 nodes were down: n[1-3]"),
    ]


def test_a_storm_of_outages_is_bounded() -> None:
    outages = [_outage("n1", 10_000 - number, 10_000 - number - 0.5) for number in range(5000)]
    found = past(_view(IDLE, IDLE), outages, [("r", WHOLE)], timedelta())
    assert len(found) == 500
    assert found[-1].start == _ago(5001)


# Slurm's own words.


@pytest.mark.parametrize(
    ("complete", "state"),
    [
        ("idle", IDLE),
        ("IDLE+CLOUD+POWERED_DOWN", IDLE),
        ("allocated+cloud+powering_up+not_responding", NodeState.ALLOCATED),
        ("mixed+planned", NodeState.MIXED),
        ("allocated+completing", NodeState.ALLOCATED),
        ("idle+drain", DRAINED),
        ("mixed+drain+not_responding", DRAINED),
        ("down+drain", DOWN),
        ("idle+not_responding", NodeState.UNKNOWN),
        ("down+not_responding", DOWN),
        ("idle+fail", DRAINED),
        ("down+maintenance+reserved", MAINTENANCE),
        ("idle+reserved", IDLE),
        ("unknown+drain", DRAINED),
        ("unknown", NodeState.UNKNOWN),
        ("", NodeState.UNKNOWN),
    ],
)
def test_node_states(complete: str, state: NodeState) -> None:
    assert node_state(complete) == state


def _line(*values: str) -> str:
    return "".join(f"{value}\x1f" for value in values)


def test_nodes_as_sinfo_writes_them() -> None:
    text = "\n".join(
        [
            "CLUSTER: facility",
            _line("n1", "debug", "down", "mixed", "Unknown", "2", "none"),
            _line("n1", "regular", "up", "mixed", "Unknown", "2", "none"),
            _line("n2", "regular", "up", "idle+drain", "1795918655", "64", "fan swap; a | b, c"),
            _line("n3", "regular", "up", "down", "1795918655", "64", "Not responding"),
            _line("f1", "regular", "up", "future", "Unknown", "64", "none"),
            "garbage",
        ]
    )
    view = read_nodes(text, NOW)
    since = datetime.fromtimestamp(1795918655, UTC)
    assert view.nodes == (
        Node("n1", NodeState.MIXED, ("debug", "regular"), 2),
        Node("n2", DRAINED, ("regular",), 64, "fan swap; a | b, c", since),
        Node("n3", DOWN, ("regular",), 64, "does not answer", since),
    )
    assert view.queues == (Queue("debug", QueueState.STOPPED), Queue("regular", QueueState.OPEN))
    assert read_nodes("", NOW).nodes == ()


def test_outages_as_sacctmgr_writes_them() -> None:
    text = """\
|1795918646|Unknown||Cluster Registered TRES
n4|1795918673|Unknown|DOWN*|Not responding
n2|1795918655|1795918736|DRAIN|fan | swap
n2|1795918736|Unknown|DRAIN$|fan swap
n2|Unknown|Unknown|DRAIN|x
short"""
    first, second = read_outages(text)
    assert (first.node, first.state, first.reason) == ("n2", DRAINED, "fan | swap")
    assert first.end is not None
    assert first.end - first.start == timedelta(seconds=81)
    assert (second.node, second.state, second.end, second.reason) == ("n4", DOWN, None, "does not answer")


def test_reservations_as_scontrol_writes_them() -> None:
    fields = (
        "ReservationName={} StartTime={} EndTime={} Duration=01:00:00 Nodes={} NodeCnt=2 CoreCnt=4 Features=(null) "
    )
    more = "PartitionName={} Flags={} TRES=cpu=4 Users={} Groups=(null) Accounts={} Licenses=(null) State={} Watts=n/a"
    lines = [
        (fields + more).format(
            "later", 1795922334, 1795925934, "n[1-2]", "(null)", "MAINT,IGNORE_JOBS", "root", "(null)", "INACTIVE"
        ),
        (fields + more).format(
            "now", 1795918734, 1795922334, "n1", "debug", "", "os-alice,-os-bob,ghost", "physics,-x", "ACTIVE"
        )
        + "   NodeName=n1 CoreIDs=0",
        (fields + more).format(
            "float", 1795999999, 1796999999, "n[", "", "MAINT,TIME_FLOAT", "root", "(null)", "INACTIVE"
        ),
        "No reservations in the system",
    ]
    text = "\n".join(lines)
    owners = {"os-alice": "alice", "os-bob": "bob", "root": "root"}
    first, second, third = read_reservations(text, lambda account: owners.get(account, ""))
    assert (first.id, first.active, first.nodes, first.queue_name) == ("now", True, "n1", "debug")
    assert (first.owners, first.accounts, first.flags, first.maintenance) == (("alice",), ("physics",), (), False)
    assert first.end_time - first.start_time == timedelta(hours=1)
    assert (second.id, second.active, second.node_names, second.core_count) == ("later", False, ("n1", "n2"), 4)
    assert second.maintenance
    assert (third.maintenance, third.node_names) == (False, ()), "it never comes"
