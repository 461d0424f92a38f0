"""What Slurm says when it refuses something, in reasons and sentences of this service.

sbatch, scontrol and scancel print the same texts that slurmrestd puts into ``errors``: they are Slurm's own.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from openfacility_server.jobs.engines import EngineUnavailable, Refusal

_MOST_WORDS = 1000
# What the commands print when no daemon answers them, as opposed to one that says no.
_DATABASE = re.compile(
    r"slurmdbd|persistent connection|PersistInit|talking to the database|accounting_storage|SlurmDBD", re.IGNORECASE
)
_AWAY = re.compile(
    r"Unable to contact slurm controller|slurm_persist_conn_open|Connection (refused|reset by peer|timed out)"
    r"|Socket timed out|Zero Bytes were transmitted|standby mode|Transport endpoint is not connected"
    r"|Protocol authentication error|Munge (en|de)code failed|talking to the database|Sending PersistInit"
    r"|temporarily unable to accept job|try again in a bit|Unable to create job record"
    r"|Unable to establish (control machine|controller) address|Unable to resolve (?!path)"
    r"|No route to host|Insane message length|fetch_config: DNS SRV lookup failed"
    r"|Could not establish a configuration source|Resource temporarily unavailable|Broken pipe"
    r"|Communication (connection|shutdown) failure|Message (send|receive) failure|missing socket|slurm_msg_sendto"
    r"|Received (zero length message|message length)|Failed to send entire message|Unexpected message received",
    re.IGNORECASE,
)
_NOT_REACHED = re.compile(r"\(connect failure\)|Connection refused|standby mode", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class _Case:
    """``about`` are the options that may be at fault, the likeliest first, or a field of the specification."""

    pattern: re.Pattern[str]
    reason: str
    about: str
    message: str


def _case(pattern: str, reason: str, about: str, message: str) -> _Case:
    return _Case(re.compile(pattern, re.IGNORECASE), reason, about, message)


# Where in a specification the options come from that callers do not give under Slurm's own names.
_FIELDS = {
    "account": "attributes.account",
    "array": "array",
    "chdir": "directory",
    "dependency": "dependencies",
    "gpus-per-task": "resources.gpu_cores_per_process",
    "mem": "resources.memory",
    "nodes": "resources.node_count",
    "partition": "attributes.queue_name",
    "reservation": "attributes.reservation_id",
    "resources": "resources",
    "script": "script",
    "time": "attributes.duration",
}
_GENERIC = "gpus-per-task gres gpus gpus-per-node gpus-per-socket cpus-per-gpu mem-per-gpu licenses"
# The first that matches: what is special comes before what is general.
_CASES = (
    # A limit by which a job is refused at once is named in a word of its own, before or after the general text.
    _case(
        r"\b(Assoc|QOS)\w*(Minutes|Billing)\w*|breached requested QOS usage threshold",
        "ALLOCATION_EXHAUSTED",
        "account",
        "The project has too little of its allocation left for this job.",
    ),
    _case(
        r"\b(Assoc|QOS)\w*WallDuration\w*",
        "OVER_LIMIT",
        "time deadline time-min",
        "The time limit is longer than project or QOS allow: ask for less.",
    ),
    _case(
        r"\b(Assoc|QOS)\w*Submit\w*Limit",
        "OVER_LIMIT",
        "",
        "As many jobs are in the queue as project, user or QOS may have: wait until some have ended.",
    ),
    _case(
        r"violates accounting/QOS policy|\b(Assoc|QOS)(Max|Grp|Min)\w+|resource limit exceeded|Step limit reached",
        "OVER_LIMIT",
        "",
        "The job is beyond a limit of its project, user or QOS: ask for less, or wait until other jobs have ended.",
    ),
    _case(
        r"Invalid account",
        "BAD_ACCOUNT",
        "account",
        "The project cannot be charged by you, or not in this queue: name another one.",
    ),
    _case(
        r"Invalid partition|No partition specified|Multiple partition job request",
        "BAD_QUEUE",
        "partition",
        "The cluster has no such queue: name one that it has, or leave the field empty.",
    ),
    _case(
        r"Required partition not available|Partition in DOWN state|submissions disabled",
        "QUEUE_CLOSED",
        "partition",
        "The queue takes no jobs at present: use another one, or try again later.",
    ),
    _case(
        r"not permitted to use this partition",
        "ACCESS_DENIED",
        "partition",
        "You, the project or the QOS may not use this queue: name another one.",
    ),
    _case(r"Invalid qos", "BAD_QOS", "qos", "The QOS does not exist, or the project may not use it."),
    _case(
        r"time limit is invalid|Time limit specification|Invalid TimeLimit|Invalid --time specification",
        "BAD_TIME_LIMIT",
        "time deadline time-min",
        "The time limit is missing or longer than the queue or the QOS allows: ask for less.",
    ),
    _case(
        r"Access denied to requested reservation",
        "RESERVATION_DENIED",
        "reservation",
        "The reservation is kept for others: name one that you or the project may use.",
    ),
    _case(
        r"Requested reservation|maintenance reservation",
        "BAD_RESERVATION",
        "reservation",
        "There is no such reservation, or it is not for this job: name another one, or leave the field empty.",
    ),
    _case(
        r"Memory required|memory specification",
        "RESOURCES_IMPOSSIBLE",
        "mem mem-per-cpu",
        "No node has that much memory: ask for less.",
    ),
    _case(
        r"Node count|Invalid node count",
        "RESOURCES_IMPOSSIBLE",
        "nodes",
        "The queue does not have that many nodes: ask for fewer.",
    ),
    _case(
        r"nodes not in this partition|Invalid node name|Required node not available|nodes are busy",
        "BAD_NODES",
        "nodelist exclude",
        "A node that is named does not exist, or is not in this queue, or cannot be used now.",
    ),
    _case(
        r"\bGRES\b|\(gres\)|\(TRES\)",
        "BAD_GRES",
        _GENERIC,
        "The cluster does not have the GPUs or other generic resources asked for.",
    ),
    _case(
        r"processors|node configuration|partition configuration|CPU count|Core count|Task count|Task distribution"
        r"|Job size|threads per core|core specification",
        "RESOURCES_IMPOSSIBLE",
        "resources",
        "No set of nodes of the queue can give these processes, cores and memory: ask for less.",
    ),
    _case(
        r"feature|constraint",
        "BAD_CONSTRAINT",
        "constraint prefer cluster-constraint batch",
        "The cluster has no nodes with these features.",
    ),
    _case(
        r"licen[sc]e",
        "BAD_LICENSES",
        "licenses",
        "The cluster does not have these licences, or not so many.",
    ),
    _case(
        r"dependency",
        "BAD_DEPENDENCY",
        "dependency",
        "The batch system cannot use one of the dependencies: its job may be unknown there by now.",
    ),
    _case(r"job array", "BAD_ARRAY", "array", "The array's indices are more or higher than the cluster allows."),
    _case(
        r"batch script|Job script not specified|DOS line breaks|writing script/environment",
        "BAD_SCRIPT",
        "script",
        "The batch system does not take this script.",
    ),
    _case(r"Pathname|work directory", "BAD_DIRECTORY", "chdir", "A path is too long, or cannot be used."),
    _case(
        r"Invalid user id|User not found|Group ID not found|Invalid group id|Invalid or unknown gid",
        "NO_POSIX_ACCOUNT",
        "",
        "The cluster does not know your account: ask its operators.",
    ),
    _case(r"deadline", "BAD_ATTRIBUTE", "deadline", "The deadline has passed, or is too early."),
    _case(
        r"\bInvalid --?[a-zA-Z-]+ |Invalid .*specification|Invalid time specified|parse time|Failure during parsing"
        r"|Invalid mcs_label|burst buffer|unrecognized |Invalid priority|Invalid distribution",
        "BAD_ATTRIBUTE",
        "",
        "The batch system does not understand one of the attributes.",
    ),
    _case(
        r"presently disabled",
        "JOB_STATE",
        "",
        "This is not done with the job: it was submitted as one that is not put back, or the cluster does it to none.",
    ),
    _case(
        r"already (started|finished|completing)|no longer pending|Job is |Invalid job id|can not be altered now"
        r"|Only batch jobs|operation disabled|not supported|Job has been cancelled|requeue",
        "JOB_STATE",
        "",
        "The job is in a state in which this cannot be done: look how it stands.",
    ),
    _case(
        r"permission denied|Operation not permitted|only permitted by",
        "ACCESS_DENIED",
        "",
        "The batch system does not allow this to you: it may be for operators alone.",
    ),
)
# Said of jobs that were asked to end, and have: nothing is wrong.
GONE = re.compile(r"Invalid job id|already (finished|completing)", re.IGNORECASE)
_OPTION = re.compile(r"--([a-z][a-z-]*)")
_NOISE = re.compile(
    r"^(sbatch|scontrol|scancel|srun|allocation failure|slurm_\w+ error)(: error)?: "
    r"|^error: |^Batch job submission failed: ",
    re.IGNORECASE,
)


def refusal_of(text: str, given: Collection[str] = (), *, default: str = "REFUSED") -> Refusal:
    """Returns the refusal for what Slurm said.

    ``given`` are the options that were given, by which a fault is told where several could be meant; ``default`` is
    the reason for a text that is not known.
    """
    words = clean(text)
    for case in _CASES:
        if case.pattern.search(words):
            named = _OPTION.findall(words)  # sbatch names what it cannot read
            return Refusal(case.message, case.reason, _field([*named, *case.about.split()], given), words)
    message = f"The batch system refused: {words}" if words else "The batch system refused, without a reason."
    return Refusal(message, default, "", words)


def field_of(option: str) -> str:
    """Returns where in a specification an option comes from."""
    return _FIELDS.get(option, f'attributes.custom_attributes["slurm.{option}"]')


def _field(about: Sequence[str], given: Collection[str]) -> str:
    for option in about:
        if option in given:
            return field_of(option)
    # Of what was not given only the fields that have a default can be meant.
    return next((_FIELDS[option] for option in about if option in _FIELDS), "")


def refused_update(text: str, given: Collection[str] = ()) -> Refusal:
    """Returns the refusal for an operation on a job that is there; ``given`` are the options that were to change."""
    refusal = refusal_of(text, given, default="UPDATE_REFUSED")
    if refusal.reason == "NO_POSIX_ACCOUNT":  # Slurm's word for "not your job"
        return Refusal("The batch system does not allow this to you.", "ACCESS_DENIED", "", refusal.engine_message)
    return refusal if given else replace(refusal, field="")


def clean(text: str) -> str:
    """Returns what Slurm said without the names of its programs, as one line that is not long."""
    lines = []
    for line in text.splitlines():
        stripped = line.strip()
        while (shorter := _NOISE.sub("", stripped)) != stripped:
            stripped = shorter
        if stripped and stripped not in lines:
            lines.append(stripped)
    return "; ".join(lines)[:_MOST_WORDS]


def complaints(text: str, passed_over: re.Pattern[str] = GONE) -> str:
    """Returns what an error output says of jobs but for the lines that may be passed over; empty: nothing."""
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("slurm_")]
    return "\n".join(line for line in lines if not passed_over.search(line))


class NotReachedError(EngineUnavailable):
    """The batch system does not answer, and what it was to be told has not reached it."""


def away(text: str, *, accounting: bool = False) -> EngineUnavailable | None:
    """Returns an error when what was said means that a daemon does not answer, as opposed to one that says no.

    ``accounting``: what was said was said by a program that asks the accounting alone.
    """
    if not _AWAY.search(text):
        return None
    if accounting or (_DATABASE.search(text) and "slurm controller" not in text):
        return EngineUnavailable("The batch system's accounting does not answer.")
    sentence = "The batch system's controller does not answer."
    return NotReachedError(sentence) if _NOT_REACHED.search(text) else EngineUnavailable(sentence)
