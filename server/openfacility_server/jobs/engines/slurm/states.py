"""How a job stands by Slurm's words for its state, its reason and its end."""

from __future__ import annotations

import signal as signals
from dataclasses import dataclass

from openfacility_server.jobs.engines.slurm import reasons
from openfacility_server.jobs.model import JobReason, JobState

COMPLETING = "COMPLETING"
CANCELED = "CANCELLED"
REQUEUED = "REQUEUED"
# A run that ended so may be followed by another one of the same job.
AGAIN = (REQUEUED, "NODE_FAIL", "PREEMPTED", "BOOT_FAIL")
NEVER_SATISFIED = "DependencyNeverSatisfied"

_HELD_STATES = ("REQUEUE_HOLD", "SPECIAL_EXIT", "RESV_DEL_HOLD")
_HELD_REASONS = (JobReason.HELD_BY_OWNER, JobReason.HELD_BY_OPERATOR)
_QUEUED = ("PENDING", "CONFIGURING", REQUEUED, "REQUEUE_FED", "REVOKED", "POWER_UP_NODE")
_ACTIVE = ("RUNNING", COMPLETING, "STAGE_OUT", "SIGNALING", "RESIZING", "UPDATE_DB")
_STOPPED = ("SUSPENDED", "STOPPED")
_SUSPENDED = "Stopped for the time being by an operator or the batch system; it keeps its nodes."

_FAILED: dict[str, tuple[JobReason, str]] = {
    "TIMEOUT": (JobReason.TIME_LIMIT, "Stopped at its time limit."),
    "NODE_FAIL": (JobReason.NODE_FAILED, "A node that it ran on failed."),
    "OUT_OF_MEMORY": (JobReason.OUT_OF_MEMORY, "It used more memory than it asked for and was stopped."),
    "DEADLINE": (JobReason.DEADLINE, "It could not end before its deadline."),
    "BOOT_FAIL": (JobReason.NODE_FAILED, "The nodes that it was to run on did not start."),
    "PREEMPTED": (JobReason.PREEMPTED, "It had to make room for another job."),
    "LAUNCH_FAILED": (JobReason.LAUNCH_FAILED, "The batch system could not start it."),
    "RECONFIG_FAIL": (JobReason.LAUNCH_FAILED, "The nodes that it was to run on could not be set up."),
}
FINAL = frozenset({"COMPLETED", CANCELED, "FAILED", *_FAILED})

# A job that could not be started ends with one of slurmd's error numbers in the place of wait(2)'s status.
_LAUNCH_ERRORS = range(4000, 4100)
_FIRST_LAUNCH_SIGNAL = 4000 & 0x7F
_LAUNCH_TEXTS = {
    4005: "its user is not known on the node",
    4006: "its group is not known on the node",
    4010: "the node could not make a file for it",
    4011: "the node could not make a file for it",
    4012: "the node could not store its script",
    4013: "the node could not store its script",
    4014: "its environment could not be set up",
    4016: "the node could not run it as its user",
    4020: "its program could not be executed",
    4021: "a file for its input or output could not be opened",
    4022: "the site's prolog failed",
    4031: "the node has no container runtime",
}


@dataclass(frozen=True, slots=True)
class Standing:
    """What an observation says of a job's state. ``engine_reason`` is Slurm's word, of a job that has ended too."""

    state: JobState
    reason: JobReason = JobReason.UNSPECIFIED
    message: str = ""
    exit_code: int | None = None
    signal: int | None = None
    engine_reason: str = ""


def standing(word: str, reason: str, status: int = 0, restarts: int = 0, owner_canceled: bool = True) -> Standing:
    """Returns how a job stands.

    ``word`` is squeue's or sacct's for the state, ``reason`` Slurm's word for why, "None" and "" for none; ``status``
    as wait(2) gives it; ``restarts`` how often it was put back into the queue; ``owner_canceled`` False when somebody
    else did.
    """
    word = word.split(" ", 1)[0]
    reason = "" if reason == "None" else reason
    if word in FINAL:
        return _ended(word, reason, status, owner_canceled)
    if word in _ACTIVE:
        return Standing(JobState.ACTIVE)
    if word in _STOPPED:
        return Standing(JobState.ACTIVE, JobReason.SUSPENDED, _SUSPENDED, engine_reason=reason)
    waiting = _waiting(word, reason, restarts)
    if word in _QUEUED or word in _HELD_STATES:
        return waiting
    # A state of a version to come: it is not over, and Slurm's word says more than a guess.
    return Standing(JobState.QUEUED, JobReason.OTHER, f"The batch system says: {word[:100]}.", engine_reason=word[:100])


def status_of(code: int, signal: int) -> int:
    """Returns wait(2)'s status, or slurmd's error number, for what sacct writes as ``code:signal``."""
    if code == 0 and _FIRST_LAUNCH_SIGNAL <= signal < _FIRST_LAUNCH_SIGNAL + len(_LAUNCH_ERRORS):
        return _LAUNCH_ERRORS.start + signal - _FIRST_LAUNCH_SIGNAL
    return code << 8 | signal


def _waiting(word: str, slurm: str, restarts: int) -> Standing:
    reason, message = reasons.of(slurm or "None")
    held = word in _HELD_STATES or reason in _HELD_REASONS or "held" in slurm
    if held:
        if reason not in (*_HELD_REASONS, JobReason.REQUEUED):
            reason, message = JobReason.REQUEUED, "Put back into the queue, and held."
        return Standing(JobState.HELD, reason, message, engine_reason=slurm)
    if word == REQUEUED or (restarts and reason in (JobReason.UNSPECIFIED, JobReason.BEGIN_TIME)):
        return Standing(JobState.QUEUED, JobReason.REQUEUED, "It ran before, and starts anew.", engine_reason=slurm)
    return Standing(JobState.QUEUED, reason, message, engine_reason=slurm)


def _ended(word: str, slurm: str, status: int, owner_canceled: bool) -> Standing:
    if word == "COMPLETED":
        return Standing(JobState.COMPLETED, exit_code=0)
    if word == CANCELED:
        return _canceled(slurm, owner_canceled)
    launch_error = status in _LAUNCH_ERRORS
    code, signal = (None, None) if launch_error else (status >> 8 & 0xFF or None, status & 0x7F or None)
    if word in _FAILED:
        reason, message = _FAILED[word]
        return Standing(JobState.FAILED, reason, message, None, signal, slurm or word)
    if launch_error:
        message = f"It could not be started: {_LAUNCH_TEXTS.get(status, 'the node has its reasons in its log')}."
        return Standing(JobState.FAILED, JobReason.LAUNCH_FAILED, message, engine_reason=slurm)
    if signal is not None:
        return Standing(JobState.FAILED, JobReason.SIGNALED, f"Ended by {_name(signal)}.", None, signal, slurm)
    if code is not None:
        return Standing(JobState.FAILED, JobReason.NONZERO_EXIT, f"Ended with exit code {code}.", code, None, slurm)
    message = reasons.of(slurm)[1] if slurm else "The batch system could not start it."
    return Standing(JobState.FAILED, JobReason.LAUNCH_FAILED, message, engine_reason=slurm)


def _canceled(slurm: str, by_owner: bool) -> Standing:
    if slurm == NEVER_SATISFIED:
        text = "A job that it depends on ended in a way that rules out its start."
        return Standing(JobState.CANCELED, JobReason.DEPENDENCY_NEVER_SATISFIED, text, engine_reason=slurm)
    # What it waited for when it was canceled is not why it ended.
    return Standing(JobState.CANCELED, JobReason.CANCELED_BY_OWNER if by_owner else JobReason.CANCELED_BY_OPERATOR)


def _name(signal: int) -> str:
    try:
        return f"signal {signal} ({signals.Signals(signal).name})"
    except ValueError:
        return f"signal {signal}"
