"""Jobs as squeue and sacct tell of them: one row each."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from openfacility_server.jobs.engines.slurm import fields, states

_OURS = re.compile(r"openfacility:([a-z0-9]{1,32})")
_RANGES = re.compile(r"\d+(-\d+(:\d+)?)?(,\d+(-\d+(:\d+)?)?)*")
_MOST_INDICES = 100_000


def our_id(comment: str) -> str:
    """Returns the id that a comment of ours names; empty when it is not of our making."""
    found = _OURS.fullmatch(comment)
    return found[1] if found else ""


class QueueRow(NamedTuple):
    """One job or one element of an array in the controller's memory, as text. The names of `COLUMNS`."""

    number: str
    array: str
    task: str
    state: str
    status: str
    reason: str
    comment: str
    user: str
    uid: str
    submitted: str
    started: str
    ended: str
    restarts: str
    nodes: str
    name: str
    account: str
    partition: str
    reservation: str
    limit: str
    resources: str
    node_count: str
    task_count: str
    cores_per_task: str
    directory: str
    command: str
    stdout: str
    stderr: str

    @property
    def native_id(self) -> str:
        """How Slurm's commands call it: ``7``, or ``7_3``."""
        return self.number if self.task == "N/A" else f"{self.array}_{self.task}"

    @property
    def is_element(self) -> bool:
        """Whether it is an element of an array."""
        return self.task != "N/A"

    @property
    def our_id(self) -> str:
        """Our id by its comment; empty when it has none of ours."""
        base = our_id(self.comment)
        return f"{base}_{self.task}" if base and self.is_element else base

    @property
    def ran(self) -> bool:
        """Whether it has had nodes; one that was canceled before has a start as well."""
        return bool(self.nodes) and self.state not in ("PENDING", "CONFIGURING")


COLUMNS: dict[str, str] = {
    "number": "JobID",
    "array": "ArrayJobID",
    "task": "ArrayTaskID",
    "state": "State",
    "status": "exit_code",
    "reason": "Reason",
    "comment": "Comment",
    "user": "UserName",
    "uid": "UserID",
    "submitted": "SubmitTime",
    "started": "StartTime",
    "ended": "EndTime",
    "restarts": "RestartCnt",
    "nodes": "NodeList",
    "name": "Name",
    "account": "Account",
    "partition": "Partition",
    "reservation": "Reservation",
    "limit": "TimeLimit",
    "resources": "tres-alloc",
    "node_count": "NumNodes",
    "task_count": "NumTasks",
    "cores_per_task": "cpus-per-task",
    "directory": "WorkDir",
    "command": "Command",
    "stdout": "STDOUT",
    "stderr": "STDERR",
}
assert tuple(COLUMNS) == QueueRow._fields


def queue_rows(text: str, separator: str) -> list[QueueRow]:
    """Reads squeue's answer. Rows that are cut off are left out."""
    return [QueueRow._make(row) for row in fields.table(text, separator, len(QueueRow._fields))]


class AccountRow(NamedTuple):
    """One record of a job, a step or the waiting rest of an array in accounting, as text."""

    native_id: str
    raw_id: str
    state: str
    exit: str
    submitted: str
    started: str
    ended: str
    elapsed: str
    cpu: str
    memory: str
    comment: str
    user: str
    uid: str
    nodes: str
    reason: str


ACCOUNT_COLUMNS = (
    "JobID,JobIDRaw,State,ExitCode,Submit,Start,End,ElapsedRaw,TotalCPU,MaxRSS,Comment,User,UID,NodeList,Reason"
)


@dataclass(frozen=True, slots=True)
class Record:
    """One run of a job in accounting, with the most memory that any of its steps had resident on a node."""

    row: AccountRow
    peak_memory: int = 0

    @property
    def native_id(self) -> str:
        """``7``, ``7_3``, or ``7_[1-5%2]`` for the elements of an array that have not started."""
        return self.row.native_id

    @property
    def state(self) -> str:
        """Slurm's word alone."""
        return self.row.state.split(" ", 1)[0]

    @property
    def final(self) -> bool:
        """Whether this is how the job ended."""
        return self.state in states.FINAL and fields.time(self.row.ended) is not None

    @property
    def is_settled(self) -> bool:
        """Whether accounting has been told everything: of a job that was canceled, by whom comes later."""
        return self.final and self.row.state != states.CANCELED

    def canceled_by_another(self, uid: str) -> bool:
        """Whether somebody else than the job's user, by number, canceled it; False where that is not told."""
        who = self.row.state.removeprefix(f"{states.CANCELED} by ")
        # Accounting learns of the user's number late.
        return who.isdigit() and who != uid and (uid != "0" or self.row.user == "root")

    @property
    def submitted(self) -> datetime | None:
        """When it came into the queue, this time."""
        return fields.time(self.row.submitted)

    @property
    def status(self) -> int:
        """As `QueueRow.status`: wait(2)'s status, or slurmd's error number."""
        code, _, signal = self.row.exit.partition(":")
        return states.status_of(fields.number(code), fields.number(signal))

    @property
    def array(self) -> str:
        """The number of the array that it belongs to; of a single job its own."""
        return self.native_id.partition("_")[0]

    @property
    def is_rest(self) -> bool:
        """Whether it stands for a whole array, or for its elements that have not been started. (Or is a single job.)"""
        return not self.native_id.partition("_")[2].isdigit()

    @property
    def our_id(self) -> str:
        """Our id by its comment, of an array's rest that of the array; empty when it has none of ours."""
        base = our_id(self.row.comment)
        return base if not base or self.is_rest else f"{base}_{self.native_id.partition('_')[2]}"

    def may_cover(self, index: int) -> bool:
        """Whether an array's rest may have this element."""
        indices = self.native_id.partition("_[")[2]
        return not indices or "..." in indices or index in expand(indices)


def records(text: str, separator: str) -> list[Record]:
    """Reads sacct's answer, steps taken together with their jobs."""
    found: list[AccountRow] = []
    peaks: list[int] = []
    for row in map(AccountRow._make, fields.table(text, separator, len(AccountRow._fields))):
        if "." not in row.native_id:
            found.append(row)
            peaks.append(0)
        elif found:  # sacct writes the steps of a run after it
            peaks[-1] = max(peaks[-1], fields.size(row.memory))
    return [Record(row, peak) for row, peak in zip(found, peaks, strict=True)]


def expand(indices: str) -> frozenset[int]:
    """Reads an array's indices, such as ``0-4,6-9:3%2]``; those beyond what we take are left out."""
    plain = indices.partition("]")[0].partition("%")[0]
    if not _RANGES.fullmatch(plain):
        return frozenset()
    found: set[int] = set()
    for part in _ranges(plain):
        found.update(part[: _MOST_INDICES - len(found)])
    return frozenset(found)


def _ranges(plain: str) -> Iterator[range]:
    for part in plain.split(","):
        bounds, _, step = part.partition(":")
        first, _, last = bounds.partition("-")
        yield range(int(first), int(last or first) + 1, int(step or 1) or 1)
