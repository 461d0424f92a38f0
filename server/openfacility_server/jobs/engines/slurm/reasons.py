"""Slurm's words for why a job waits, in ours and in a sentence for people."""

from __future__ import annotations

import re

from openfacility_server.jobs.model import JobReason

HELD_BY_OWNER = "JobHeldUser"
HELD_BY_OPERATOR = "JobHeldAdmin"

_NOT_AVAILABLE = "ReqNodeNotAvail"
_NEVER = "As it is, it will never start: "

# All words of Slurm 22.05 that are not made by a rule (see `_by_rule`), and those that newer versions have added.
_WORDS: dict[str, tuple[JobReason, str]] = {
    "None": (JobReason.UNSPECIFIED, ""),
    "Priority": (JobReason.PRIORITY, "Jobs before it in the queue go first."),
    "Resources": (JobReason.RESOURCES, "The nodes, cores or memory that it needs are in use."),
    "Dependency": (JobReason.DEPENDENCY, "A job that it depends on has not got there yet."),
    "DependencyNeverSatisfied": (
        JobReason.NEVER_STARTS,
        _NEVER + "a job that it depends on ended in a way that rules out its start.",
    ),
    "BeginTime": (JobReason.BEGIN_TIME, "It is not to start before a certain time."),
    "Licenses": (JobReason.LICENSES, "The software licences that it needs are in use."),
    "Reservation": (JobReason.RESERVATION, "The reservation that it asked for has not begun, or has no room."),
    "ReservationDeleted": (JobReason.NEVER_STARTS, _NEVER + "the reservation that it asked for is gone."),
    _NOT_AVAILABLE: (JobReason.NODES_UNAVAILABLE, "Nodes that it needs are down, drained or reserved for others."),
    "NodeDown": (JobReason.NODES_UNAVAILABLE, "A node that it needs is down."),
    "FrontEndDown": (JobReason.NODES_UNAVAILABLE, "A front end that it needs is down."),
    "PowerNotAvail": (JobReason.NODES_UNAVAILABLE, "There is not enough electric power for it at present."),
    "PowerReserved": (JobReason.NODES_UNAVAILABLE, "The electric power that it needs is reserved for others."),
    "BlockMaxError": (JobReason.NODES_UNAVAILABLE, "Nodes that it needs had too many errors."),
    "BlockFreeAction": (JobReason.RESOURCES, "Nodes that it needs are being made ready."),
    "PartitionDown": (JobReason.QUEUE_UNAVAILABLE, "Its queue does not start jobs at present."),
    "PartitionInactive": (JobReason.QUEUE_UNAVAILABLE, "Its queue is closed at present."),
    "PartitionNodeLimit": (
        JobReason.NEVER_STARTS,
        _NEVER + "it asks for more nodes, or fewer, than its queue allows or has in service.",
    ),
    "PartitionTimeLimit": (JobReason.NEVER_STARTS, _NEVER + "its time limit is longer than its queue allows."),
    "PartitionConfig": (JobReason.NEVER_STARTS, _NEVER + "its queue cannot give what it asks for."),
    "BadConstraints": (JobReason.NEVER_STARTS, _NEVER + "no node has all that it asks for."),
    "AccountNotAllowed": (JobReason.NEVER_STARTS, _NEVER + "its project may not use its queue."),
    "InvalidAccount": (JobReason.NEVER_STARTS, _NEVER + "its project does not exist, or its owner is not in it."),
    "InvalidQOS": (JobReason.NEVER_STARTS, _NEVER + "its QOS does not exist, or may not be used with its project."),
    "QOSNotAllowed": (JobReason.NEVER_STARTS, _NEVER + "its QOS may not be used in its queue."),
    "MaxMemPerLimit": (
        JobReason.NEVER_STARTS,
        _NEVER + "it asks for more memory for each core or node than is allowed.",
    ),
    "DeadLine": (JobReason.NEVER_STARTS, _NEVER + "it could not end before its deadline."),
    "JobHoldMaxRequeue": (
        JobReason.HELD_BY_OPERATOR,
        "It was put back into the queue too often, and is held for that.",
    ),
    HELD_BY_OWNER: (JobReason.HELD_BY_OWNER, "Held by its owner."),
    HELD_BY_OPERATOR: (JobReason.HELD_BY_OPERATOR, "Held by an operator; only an operator releases it."),
    "JobArrayTaskLimit": (JobReason.ARRAY_LIMIT, "As many elements of its array run as the array allows."),
    "AssociationJobLimit": (JobReason.LIMIT, "Its project or owner has as many jobs as it may."),
    "AssociationResourceLimit": (JobReason.LIMIT, "Its project or owner has as much in use as it may."),
    "AssociationTimeLimit": (
        JobReason.ALLOCATION_EXHAUSTED,
        "The project has too little of its allocation left for this job's time limit and size.",
    ),
    "QOSUsageThreshold": (JobReason.LIMIT, "Its project has used more than its share, which its QOS does not allow."),
    "QOSJobLimit": (JobReason.LIMIT, "Its QOS has as many jobs as it may."),
    "QOSResourceLimit": (JobReason.LIMIT, "Its QOS has as much in use as it may."),
    "QOSTimeLimit": (JobReason.ALLOCATION_EXHAUSTED, "Its QOS has too little time left for this job."),
    "AccountingPolicy": (JobReason.LIMIT, "A limit of its project, owner or QOS is reached."),
    "BurstBufferResources": (JobReason.RESOURCES, "The burst buffer space that it needs is in use."),
    "BurstBufferStageIn": (JobReason.RESOURCES, "Its data are being copied to the burst buffer."),
    "BurstBufferOperation": (JobReason.OTHER, "A burst buffer operation of it failed or goes on."),
    "SchedDefer": (JobReason.PRIORITY, "The scheduler has not looked at it yet."),
    "Cleaning": (JobReason.REQUEUED, "What it left on its nodes before is being cleared away."),
    "Prolog": (JobReason.RESOURCES, "Its nodes are being made ready."),
    "FedJobLock": (JobReason.OTHER, "Clusters are settling which of them runs it."),
    "SystemFailure": (JobReason.OTHER, "The batch system failed to start it."),
    "JobLaunchFailure": (JobReason.OTHER, "The batch system failed to start it."),
    "MaxPowerUsage": (JobReason.LIMIT, "The cluster draws as much electric power as it may."),
    # Sentences of the scheduler's own.
    "launch failed requeued held": (JobReason.REQUEUED, "It could not be started, was put back and is held."),
    "launch_failed_requeued_held": (JobReason.REQUEUED, "It could not be started, was put back and is held."),
    "job requeued in held state": (JobReason.REQUEUED, "Put back into the queue, and held."),
    "job_requeued_in_held_state": (JobReason.REQUEUED, "Put back into the queue, and held."),
}

_THINGS = {
    "Cpu": "cores",
    "CPU": "cores",
    "Mem": "memory",
    "Memory": "memory",
    "Node": "nodes",
    "Energy": "energy",
    "GRES": "GPUs or other devices",
    "License": "licences",
    "BB": "burst buffer space",
    "Billing": "billing units",
    "Unknown": "resources",
    "Wall": "running time",
    "WallDuration": "running time",
    "Jobs": "running jobs",
    "Job": "jobs",
    "SubmitJobs": "jobs in the queue",
    "SubmitJob": "jobs in the queue",
}
_LIMIT = re.compile(
    r"(?P<of>Assoc|QOS|)(?P<kind>Grp|Max|Min)"
    r"(?P<thing>WallDuration|Wall|SubmitJobs?|Jobs?|Cpu|CPU|Memory|Mem|Node|Energy|GRES|License|BB|Billing|Unknown)"
    r"(?P<time>RunMinutes|Minutes|)(?P<per>PerJob|PerNode|PerUser|PerAccount|)(?:Limit|NotSatisfied|)"
)
_WHO = {"Assoc": "Its project", "QOS": "Its QOS", "": "Its project"}
_EXHAUSTED = "The project has too little of its allocation left for this job's time limit and size."
_QOS_EXHAUSTED = "Its QOS has too little of its allocation left for this job's time limit and size."
_MORE_WORDS = 300


def of(word: str) -> tuple[JobReason, str]:
    """Returns our reason for Slurm's, and a sentence; OTHER and Slurm's own words where it is not known."""
    plain, _, more = word.partition(",")
    if plain == _NOT_AVAILABLE:
        return _not_available(more.strip())
    if word.replace("_", " ").startswith("Nodes required for job are DOWN"):
        return _WORDS[_NOT_AVAILABLE]
    known = _WORDS.get(word) or _WORDS.get(plain) or _by_rule(word)
    return known or (JobReason.OTHER, f"The batch system says: {word[:_MORE_WORDS]}.")


def _not_available(more: str) -> tuple[JobReason, str]:
    reason, text = _WORDS[_NOT_AVAILABLE]
    if more.startswith("May be reserved"):
        return reason, "Nodes that it needs may be reserved for another job."
    if nodes := more.removeprefix("UnavailableNodes:").strip():
        return reason, f"{text[:-1]}: {nodes[:_MORE_WORDS]}."
    return reason, text


def _by_rule(word: str) -> tuple[JobReason, str] | None:
    """Reads the words that Slurm makes of whose limit it is, of what kind, and of what."""
    found = _LIMIT.fullmatch(word)
    if found is None:
        return None
    who, thing = _WHO[found["of"]], _THINGS[found["thing"]]
    in_time = f"{thing} over time" if found["time"] else thing
    if found["kind"] == "Min":
        return JobReason.NEVER_STARTS, f"{_NEVER}it asks for fewer {thing} than {_lower(who)} requires."
    if found["kind"] == "Max":
        return _most_of_one(found, who, in_time)
    if found["time"] == "Minutes" or found["thing"] == "Wall":
        return JobReason.ALLOCATION_EXHAUSTED, _EXHAUSTED if found["of"] == "Assoc" else _QOS_EXHAUSTED
    if found["time"] == "RunMinutes":
        return JobReason.LIMIT, f"The running jobs of {_lower(who)} have claimed as much {in_time} as they may."
    return JobReason.LIMIT, f"{who} has as much of {thing} as it may have at one time."


def _most_of_one(found: re.Match[str], who: str, thing: str) -> tuple[JobReason, str]:
    """A limit of one job or node, which no waiting helps against, or of one user or project, which it does."""
    one_job = found["per"] in ("PerJob", "PerNode") or found["time"] or found["thing"] == "WallDuration"
    if found["per"] == "PerUser":
        return JobReason.LIMIT, f"Its owner has as much of {thing} as {_lower(who)} allows one user at one time."
    if found["per"] == "PerAccount":
        return JobReason.LIMIT, f"Its project has as much of {thing} as its QOS allows one project at one time."
    if one_job:
        place = " on one node" if found["per"] == "PerNode" else ""
        return JobReason.NEVER_STARTS, f"{_NEVER}it asks for more {thing}{place} than {_lower(who)} allows one job."
    return JobReason.LIMIT, f"Its owner has as much of {thing} as {_lower(who)} allows one user."


def _lower(who: str) -> str:
    return who[0].lower() + who[1:]
