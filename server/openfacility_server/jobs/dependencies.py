"""Which of a job's dependencies its engine still has to look after when it is handed over.

An engine only ever hears of dependencies on jobs that it has and that have not ended: what has ended is known here,
also of jobs that no engine ever got, because they were canceled or refused before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from openfacility_server.jobs.model import DependencyCondition, JobDependency, JobState


@dataclass(frozen=True, slots=True)
class Target:
    """A job depended on: its state, whether its engine has it (of an array: all of it), and the engine's id of it."""

    state: JobState
    handed_over: bool
    native_id: str = ""


class Verdict(Enum):
    """What is to be done with a job that depends on others."""

    HAND_OVER = "hand over"
    WAIT = "wait"
    NEVER = "never"


def judge(
    dependencies: Sequence[JobDependency], targets: Mapping[str, Target]
) -> tuple[Verdict, tuple[JobDependency, ...]]:
    """Returns what to do with a job, and the dependencies that its engine must look after."""
    left: list[JobDependency] = []
    waits = False
    for dependency in dependencies:
        target = targets.get(dependency.job_id)
        if target is None or not _possible(dependency.condition, target.state):
            return Verdict.NEVER, ()
        if not target.state.final:
            waits = waits or not target.handed_over
            left.append(dependency)
    return (Verdict.WAIT if waits else Verdict.HAND_OVER), tuple(left)


def _possible(condition: DependencyCondition, state: JobState) -> bool:
    if not state.final:
        return True
    if condition == DependencyCondition.AFTER_OK:
        return state == JobState.COMPLETED
    if condition == DependencyCondition.AFTER_NOT_OK:
        return state in (JobState.FAILED, JobState.CANCELED)
    return True
