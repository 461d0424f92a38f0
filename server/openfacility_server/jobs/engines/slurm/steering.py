"""Steering jobs that Slurm has: as their owner, or as an operator."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

from openfacility_server.jobs.engines import EngineError, EngineUpdate, JobRef, Refusal
from openfacility_server.jobs.engines.slurm import fields
from openfacility_server.jobs.engines.slurm.accounts import Account
from openfacility_server.jobs.engines.slurm.acting import Acting
from openfacility_server.jobs.engines.slurm.commands import Result
from openfacility_server.jobs.engines.slurm.description import mebibytes, minutes
from openfacility_server.jobs.engines.slurm.errors import GONE, complaints, refused_update
from openfacility_server.jobs.engines.slurm.rows import QueueRow
from openfacility_server.jobs.engines.slurm.script import needs_of
from openfacility_server.jobs.engines.slurm.states import COMPLETING
from openfacility_server.jobs.model import ResourceSpec

Standing = Callable[[Sequence[JobRef]], Awaitable[Mapping[str, Sequence[QueueRow]]]]

_CHUNK = 400
_WAITING = frozenset({"PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "RESV_DEL_HOLD"})
# What was put back can be steered while its nodes are still cleaned up; of what has ended there Slurm says so.
_CLEANED_UP = frozenset({COMPLETING})
_RUNNING = frozenset({"RUNNING", "SUSPENDED", "CONFIGURING", "STOPPED", "SIGNALING", "STAGE_OUT", "RESIZING"})
_SIGNAL = re.compile(r"(SIG)?[A-Z0-9+]{1,12}")
# What is said of jobs that changed their state in the meantime, or of elements of an array that are in another one.
_MOVED_ON = re.compile(
    f"{GONE.pattern}|no longer pending|Job is pending|not running|Job is not pending nor running"
    "|can not be altered now|has already started|current suspended",
    re.IGNORECASE,
)


class Steering:
    """Changes jobs of one cluster. For one event loop.

    A job is looked up before it is touched: its number may be another's by now.
    """

    def __init__(self, acting: Acting, standing: Standing) -> None:
        """``standing`` returns the rows of jobs in the queue, of an array those of its elements, by our ids."""
        self._acting, self._standing = acting, standing

    async def cancel(self, refs: Sequence[JobRef], by_operator: bool) -> None:
        """Ends jobs, waiting or running; others are passed over. Raises EngineUnavailable, EngineError."""
        await self._each(refs, by_operator, _WAITING | _RUNNING | _CLEANED_UP, ["scancel"], " ")

    async def hold(self, refs: Sequence[JobRef], by_operator: bool) -> None:
        """Keeps waiting jobs from starting. Raises EngineUnavailable, EngineError."""
        await self._each(refs, by_operator, _WAITING | _CLEANED_UP, ["scontrol", "hold"], ",")

    async def release(self, refs: Sequence[JobRef], by_operator: bool) -> None:
        """Undoes `hold`. Raises EngineUnavailable, EngineError."""
        await self._each(refs, by_operator, _WAITING | _CLEANED_UP, ["scontrol", "release"], ",")

    async def signal(self, refs: Sequence[JobRef], signal: str, by_operator: bool) -> None:
        """Sends a signal to programs of running jobs, and to what those started, but for processes that made a session
        of their own. Raises EngineUnavailable, EngineError.
        """
        if not _SIGNAL.fullmatch(signal):
            raise EngineError(f"There is no signal {signal[:20]!r}.")
        # KILL for all of a job is Slurm's way to cancel it; without its program it ends as one that was killed.
        whom = "--batch" if signal.removeprefix("SIG") == "KILL" else "--full"
        await self._each(refs, by_operator, _RUNNING, ["scancel", f"--signal={signal}", whom], " ")

    async def requeue(self, refs: Sequence[JobRef], hold: bool, by_operator: bool) -> None:
        """Puts running jobs back into the queue. Raises EngineUnavailable, EngineError."""
        command = ["scontrol", "requeuehold" if hold else "requeue"]
        await self._each(refs, by_operator, _RUNNING, command, ",", whole=False)

    async def _each(
        self,
        refs: Sequence[JobRef],
        by_operator: bool,
        states: frozenset[str],
        command: Sequence[str],
        separator: str,
        *,
        whole: bool = True,
    ) -> None:
        """Runs a command on those jobs that are in one of some states.

        ``whole``: it takes an array's number for all its elements.
        """
        standing = await self._standing(refs)
        refusals: list[Refusal] = []
        for account, theirs in await self._acting.by_account(refs, by_operator):
            chosen = [target for ref in theirs for target in _targets(ref, standing.get(ref.id, ()), states, whole)]
            for start in range(0, len(chosen), _CHUNK):
                ids = chosen[start : start + _CHUNK]
                words = ids if separator == " " else [separator.join(ids)]
                result = await self._acting.run([*command, *words], account)
                if result.code != 0 and (said := complaints(result.err, _MOVED_ON)):
                    refusals.append(refused_update(said))
        if refusals:
            raise EngineError(refusals[0])

    async def update(self, ref: JobRef, update: EngineUpdate, by_operator: bool) -> None:
        """Changes a job. Raises EngineUnavailable, EngineError, which tells what was changed all the same."""
        native_id = _one(ref, await self._standing([ref]))
        [(account, _)] = await self._acting.by_account([ref], by_operator)
        # Together what has to fit together, as a time limit to a partition.
        changes, renamed = _changes(update), _renamed(update)
        before = await self._shown(native_id, account) if changes else {}
        for words in (changes, renamed):
            result = await self._change(native_id, words, account)
            if result is not None and result.code != 0:
                applied = await self._undone(native_id, update, before, account) if changes else ()
                given = [_OPTIONS[name] for name in words if name in _OPTIONS]
                raise EngineError(refused_update(result.err, given), applied)

    async def _change(self, native_id: str, words: Mapping[str, str], account: Account | None) -> Result | None:
        if not words:
            return None
        changes = [f"{name}={value}" for name, value in words.items()]
        return await self._acting.run(["scontrol", "update", f"JobId={native_id}", *changes], account)

    async def _undone(
        self, native_id: str, update: EngineUpdate, before: Mapping[str, str], account: Account | None
    ) -> list[str]:
        """Takes back what Slurm changed of an update that it refused; returns the parts for which it would not."""
        after = await self._shown(native_id, account)
        changed = {name: value for name, value in before.items() if value != after.get(name)}
        if changed:
            await self._change(native_id, dict(_settable(name, value) for name, value in changed.items()), account)
            after = await self._shown(native_id, account)
        return _applied(update, before, after)

    async def _shown(self, native_id: str, account: Account | None) -> Mapping[str, str]:
        result = await self._acting.run(["scontrol", "-o", "show", "job", native_id], account)
        return dict(_SHOWN.findall(result.out.partition("\n")[0]))


_SHOWN = re.compile(
    r" (TimeLimit|Partition|Account|NumNodes|NumCPUs|NumTasks|CPUs/Task|MinMemoryNode|MinMemoryCPU)=(\S*)"
)
# What sbatch calls what can be changed, by which a fault is told.
_OPTIONS = {
    "Account": "account",
    "Partition": "partition",
    "TimeLimit": "time",
    "MinMemoryNode": "mem",
    "NumNodes": "nodes",
}
# Where `scontrol show job` has the parts of an update.
_PARTS: Mapping[str, Sequence[str]] = {
    "spec.attributes.duration": ("TimeLimit",),
    "spec.attributes.queue_name": ("Partition",),
    "spec.attributes.account": ("Account",),
    "spec.resources": ("NumNodes", "NumCPUs", "NumTasks", "CPUs/Task", "MinMemoryNode", "MinMemoryCPU"),
}


def _targets(ref: JobRef, rows: Sequence[QueueRow], states: frozenset[str], whole: bool) -> Iterable[str]:
    """Returns how Slurm calls what of a job is in one of some states."""
    standing = [row for row in rows if row.state in states]
    if whole and standing and standing[0].is_element and not _is_element(ref):
        return [standing[0].array]
    return [row.native_id for row in standing]


def _is_element(ref: JobRef) -> bool:
    return "_" in ref.id


def _one(ref: JobRef, standing: Mapping[str, Sequence[QueueRow]]) -> str:
    rows = [row for row in standing.get(ref.id, ()) if row.state in _WAITING | _RUNNING]
    if not rows:
        text = "The job has ended: nothing of it can be changed any more."
        raise EngineError(Refusal(text, "JOB_STATE"))
    return rows[0].array if rows[0].is_element and not _is_element(ref) else rows[0].native_id


def _renamed(update: EngineUpdate) -> dict[str, str]:
    return {} if update.name is None else {"JobName": update.name or "job"}


def _changes(update: EngineUpdate) -> dict[str, str]:
    words: dict[str, str] = {}
    for field, value in (("account", update.account), ("queue_name", update.queue_name)):
        if value == "":
            text = "A job that was submitted does not go back to a default by itself: name what it is to be."
            raise EngineError(Refusal(text, "UPDATE_REFUSED", f"attributes.{field}"))
    if update.account is not None:
        words["Account"] = update.account
    if update.queue_name is not None:
        words["Partition"] = update.queue_name
    if update.duration is not None:
        words["TimeLimit"] = str(minutes(update.duration))
    if update.resources is not None:
        words |= _resources(update.resources)
    return words


def _resources(resources: ResourceSpec) -> dict[str, str]:
    needs = needs_of(resources)
    if needs.gpus:
        text = "GPUs of a job that waits cannot be changed: cancel it and submit another one."
        raise EngineError(Refusal(text, "UPDATE_REFUSED", "resources.gpu_cores_per_process"))
    words = {
        "NumNodes": f"{needs.nodes}-{needs.nodes}",  # a single number would leave the most of them as it is
        "NumTasks": str(needs.processes),
        "CPUsPerTask": str(needs.cores),
        "NumCPUs": str(needs.processes * needs.cores),
    }
    if resources.memory:
        words["MinMemoryNode"] = str(mebibytes(resources.memory))
    if resources.exclusive_node_use is not None:
        words["OverSubscribe"] = "no" if resources.exclusive_node_use else "yes"
    return words


def _settable(name: str, shown: str) -> tuple[str, str]:
    """Returns a value that `scontrol show` has as `scontrol update` takes it."""
    if name.startswith("MinMemory"):
        return name, str(mebibytes(fields.size(shown)))
    return name.replace("CPUs/Task", "CPUsPerTask"), shown


def _applied(update: EngineUpdate, before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    """Returns the parts of an update that took effect: of those asked for the ones that look otherwise than before."""
    asked = {
        "spec.attributes.duration": update.duration,
        "spec.attributes.queue_name": update.queue_name,
        "spec.attributes.account": update.account,
        "spec.resources": update.resources,
    }
    return [
        part
        for part, value in asked.items()
        if value is not None and any(before.get(name) != after.get(name) for name in _PARTS[part])
    ]
