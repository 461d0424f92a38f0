"""What can be asked of Slurm for a job: one table, said as arguments of sbatch or as fields of a REST request.

Options have sbatch's long names. REST has two dialects: ``v0.0.38`` of Slurm 22.05, where values are what sbatch's
options take, and that of ``v0.0.40`` and later, where they are typed. Both were checked against the descriptions that
slurmrestd gives of itself; only the first against a daemon.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum

Value = str | int | bool
Fields = Mapping[str, object]
Field = str | Callable[[Value], Fields] | None


class Dialect(Enum):
    """How a REST request says things."""

    OLD = "v0.0.38"
    NEW = "v0.0.40"


class Kind(Enum):
    """What a value is; the text is what people are told to give."""

    TEXT = "a text"
    COUNT = "a whole number of at least 0"
    NUMBER = "a whole number"
    FLAG = "true or false"
    MINUTES = "a number of minutes"
    MEBIBYTES = "a number of MiB, or a number with K, M, G or T"
    MOMENT = "a time as in 2026-11-22T08:00:00Z, or now+2hours"


@dataclass(frozen=True, slots=True)
class Option:
    """How one option is said. ``old`` and ``new`` are for the REST dialects; None: the dialect has no words for it.

    ``boxed``: a number is an object in the new dialect. ``custom``: callers may give it as ``slurm.<name>``.
    """

    kind: Kind
    old: Field = None
    new: Field = None
    boxed: bool = False
    custom: bool = True


def _csv(field: str) -> Callable[[Value], Fields]:
    return lambda value: {field: re.split(r",(?![^\[]*\])", str(value))}


def _tres(field: str, prefix: str = "gres/gpu:") -> Callable[[Value], Fields]:
    def said(value: Value) -> Fields:
        parts = str(value).split(",")
        return {field: ",".join(f"{prefix}{part}" for part in parts)}

    return said


def _flags(flag: str) -> Callable[[Value], Fields]:
    return lambda value: {"flags": [flag]} if value else {}


def _warning(value: Value) -> Fields:
    """Says ``[B:]SIGNAL[@SECONDS]``."""
    batch, _, rest = str(value).rpartition(":")
    signal, _, delay = rest.partition("@")
    fields: dict[str, object] = {"kill_warning_signal": signal}
    if delay.isdigit():
        fields["kill_warning_delay"] = boxed(int(delay))
    if "B" in batch:
        fields["kill_warning_flags"] = ["BATCH_JOB"]
    return fields


def boxed(number: int) -> Fields:
    """Returns a number as the new dialect wants those that may be unset or without limit."""
    return {"set": True, "infinite": False, "number": number}


_T, _C, _F = Kind.TEXT, Kind.COUNT, Kind.FLAG
OPTIONS: Mapping[str, Option] = {
    # What the fields of a specification become.
    "account": Option(_T, "account", "account", custom=False),
    "array": Option(_T, "array", "array", custom=False),
    "chdir": Option(_T, "current_working_directory", "current_working_directory", custom=False),
    "comment": Option(_T, "comment", "comment", custom=False),
    "cpus-per-task": Option(_C, "cpus_per_task", "cpus_per_task", custom=False),
    "dependency": Option(_T, "dependency", "dependency", custom=False),
    "error": Option(_T, "standard_error", "standard_error", custom=False),
    # Its 22.05 refuses the values that its own description lists.
    "exclusive": Option(_F, lambda _: {"exclusive": "exclusive"}, lambda _: {"shared": ["none"]}, custom=False),
    "gpus-per-task": Option(_T, "gpus_per_task", _tres("tres_per_task"), custom=False),
    "hold": Option(_F, "hold", "hold", custom=False),
    "input": Option(_T, "standard_input", "standard_input", custom=False),
    "job-name": Option(_T, "name", "name", custom=False),
    "kill-on-invalid-dep": Option(
        _T, lambda _: {"kill_on_invalid_dependency": True}, _flags("KILL_INVALID_DEPENDENCY"), custom=False
    ),
    "mem": Option(Kind.MEBIBYTES, "memory_per_node", "memory_per_node", boxed=True, custom=False),
    "nodes": Option(_T, "nodes", "nodes", custom=False),
    "ntasks": Option(_C, "tasks", "tasks", custom=False),
    "ntasks-per-node": Option(_C, "tasks_per_node", "tasks_per_node", custom=False),
    "open-mode": Option(_T, "open_mode", lambda value: {"open_mode": [str(value).upper()]}, custom=False),
    "output": Option(_T, "standard_output", "standard_output", custom=False),
    "partition": Option(_T, "partition", "partition", custom=False),
    "reservation": Option(_T, "reservation", "reservation", custom=False),
    "time": Option(Kind.MINUTES, "time_limit", "time_limit", boxed=True, custom=False),
    # What callers may add.
    "acctg-freq": Option(_T, "account_gather_frequency", "account_gather_frequency"),
    "batch": Option(_T, "batch_features", "batch_features"),
    "bb": Option(_T, "burst_buffer", "burst_buffer"),
    "begin": Option(Kind.MOMENT, "begin_time", "begin_time", boxed=True),
    "cluster-constraint": Option(_T, "cluster_constraint", "cluster_constraint"),
    "constraint": Option(_T, "constraints", "constraints"),
    "contiguous": Option(_F, None, "contiguous"),
    "core-spec": Option(_C, "core_specification", "core_specification"),
    "cpu-freq": Option(_T, "cpu_frequency", "cpu_frequency"),
    "cpus-per-gpu": Option(_C, "cpus_per_gpu", _tres("cpus_per_tres")),
    "deadline": Option(Kind.MOMENT, "deadline", "deadline"),
    "delay-boot": Option(Kind.MINUTES, "delay_boot", lambda value: {"delay_boot": 60 * int(value)}),  # seconds there
    "distribution": Option(_T, "distribution", "distribution"),
    "exclude": Option(_T, "exclude_nodes", _csv("excluded_nodes")),
    "gpus": Option(_T, "gpus", _tres("tres_per_job")),
    "gpus-per-node": Option(_T, "gpus_per_node", _tres("tres_per_node")),
    "gpus-per-socket": Option(_T, "gpus_per_socket", _tres("tres_per_socket")),
    "gres": Option(_T, "gres", _tres("tres_per_node", "gres/")),
    "hint": Option(_T, "cpu_binding_hint", None),
    "licenses": Option(_T, "licenses", "licenses"),
    "mail-type": Option(_T, "mail_type", lambda value: {"mail_type": str(value).upper().split(",")}),
    "mail-user": Option(_T, "mail_user", "mail_user"),
    "mcs-label": Option(_T, "mcs_label", "mcs_label"),
    "mem-per-cpu": Option(Kind.MEBIBYTES, "memory_per_cpu", "memory_per_cpu", boxed=True),
    "mem-per-gpu": Option(Kind.MEBIBYTES, "memory_per_gpu", _tres("memory_per_tres")),
    "mincpus": Option(_C, "minimum_cpus_per_node", "minimum_cpus_per_node"),
    "nice": Option(Kind.NUMBER, "nice", "nice"),
    "no-requeue": Option(
        _F,
        lambda value: {"no_requeue": True} if value else {},
        lambda value: {"requeue": False} if value else {},
    ),
    "nodelist": Option(_T, "nodelist", _csv("required_nodes")),
    "ntasks-per-core": Option(_C, "tasks_per_core", "tasks_per_core"),
    "ntasks-per-socket": Option(_C, "tasks_per_socket", "tasks_per_socket"),
    "overcommit": Option(_F, None, "overcommit"),
    "oversubscribe": Option(_F, "oversubscribe", lambda value: {"shared": ["oversubscribe"]} if value else {}),
    "prefer": Option(_T, "prefer", "prefer"),
    "qos": Option(_T, "qos", "qos"),
    "requeue": Option(_F, lambda value: {"requeue" if value else "no_requeue": True}, "requeue"),
    "signal": Option(_T, "signal", _warning),
    "sockets-per-node": Option(_C, "sockets_per_node", "sockets_per_node"),
    "spread-job": Option(_F, "spread_job", _flags("SPREAD_JOB")),
    "switches": Option(_T, None, None),
    "thread-spec": Option(_C, "thread_specification", "thread_specification"),
    "threads-per-core": Option(_C, "threads_per_core", "threads_per_core"),
    "time-min": Option(Kind.MINUTES, "time_minimum", "time_minimum", boxed=True),
    "tmp": Option(Kind.MEBIBYTES, "temporary_disk_per_node", "temporary_disk_per_node"),
    "use-min-nodes": Option(_F, "minimum_nodes", _flags("PREFER_MINIMUM_NODE_COUNT")),
    "wckey": Option(_T, "wckey", "wckey"),
}

_UNITS = {"": 1, "M": 1, "K": 1 / 1024, "G": 1024, "T": 1024 * 1024}
_SPANS = {"": 1, "second": 1, "minute": 60, "hour": 3600, "day": 86400, "week": 604800}


def parse(kind: Kind, text: str, now: datetime) -> Value | None:
    """Reads what a caller gave; None when it is not of that kind. Moments become seconds since 1970."""
    text = text.strip()
    match kind:
        case Kind.TEXT:
            return text or None
        case Kind.FLAG:
            return {"true": True, "yes": True, "1": True, "": True, "false": False, "no": False, "0": False}.get(
                text.lower()
            )
        case Kind.COUNT | Kind.MINUTES:
            return int(text) if re.fullmatch(r"\d{1,9}", text) else None
        case Kind.NUMBER:
            return int(text) if re.fullmatch(r"[+-]?\d{1,9}", text) else None
        case Kind.MEBIBYTES:
            found = re.fullmatch(r"(\d{1,9})([KMGT]?)B?", text.upper())
            return None if found is None else -int(-int(found[1]) * _UNITS[found[2]] // 1)
        case Kind.MOMENT:
            return _moment(text, now)


def _moment(text: str, now: datetime) -> int | None:
    if found := re.fullmatch(r"now(?:\s*\+\s*(\d{1,9})\s*(second|minute|hour|day|week|)s?)?", text.lower()):
        return int(now.timestamp()) + int(found[1] or 0) * _SPANS[found[2] or ""]
    try:
        # Without a zone it is the cluster's time, as with sbatch.
        return int(datetime.fromisoformat(text).astimezone(UTC).timestamp())
    except (ValueError, OverflowError):
        return None


def argument(name: str, value: Value) -> list[str]:
    """Returns an option as sbatch takes it."""
    option = OPTIONS[name]
    if option.kind is Kind.FLAG:
        if name == "requeue":
            return ["--requeue" if value else "--no-requeue"]
        return [f"--{name}"] if value else []
    if option.kind is Kind.MOMENT:
        return [f"--{name}=uts{value}"]
    return [f"--{name}={value}{'M' if option.kind is Kind.MEBIBYTES else ''}"]


def fields(name: str, value: Value, dialect: Dialect) -> Fields | None:
    """Returns an option as REST takes it; None when the dialect has no words for it."""
    option = OPTIONS[name]
    said = option.old if dialect is Dialect.OLD else option.new
    if said is None:
        return None
    if not isinstance(said, str):
        return said(value)
    if option.kind is Kind.FLAG and dialect is Dialect.OLD and not value:
        return {}  # its presence is what counts there
    if option.kind is Kind.MOMENT and dialect is Dialect.OLD:
        return {said: f"uts{value}"}
    if option.boxed and dialect is Dialect.NEW:
        return {said: boxed(int(value))}
    return {said: value}


def body(options: Mapping[str, Value], dialect: Dialect) -> dict[str, object] | str:
    """Returns the fields for all options, or the name of one for which the dialect has no words."""
    found: dict[str, object] = {}
    for name, value in options.items():
        said = fields(name, value, dialect)
        if said is None:
            return name
        for key, item in said.items():
            known = found.get(key)
            if isinstance(known, list) and isinstance(item, list):
                found[key] = [*known, *item]
            elif isinstance(known, str) and isinstance(item, str):
                found[key] = f"{known},{item}"  # lists of trackable resources
            else:
                found[key] = item
    return found
