"""Slurm's words for states, reasons and ends, in ours."""

from __future__ import annotations

import pytest
from openfacility_server.jobs.engines.slurm import reasons, states
from openfacility_server.jobs.model import JobReason, JobState

# What job_reason_string of Slurm 22.05 returns.
TEXT = """
None Priority Dependency Resources PartitionNodeLimit PartitionTimeLimit PartitionDown PartitionInactive JobHeldAdmin
BeginTime Licenses AssociationJobLimit AssociationResourceLimit AssociationTimeLimit Reservation ReqNodeNotAvail
JobHeldUser FrontEndDown SchedDefer NodeDown BadConstraints SystemFailure JobLaunchFailure InvalidAccount InvalidQOS
QOSUsageThreshold QOSJobLimit QOSResourceLimit QOSTimeLimit BlockMaxError BlockFreeAction Cleaning Prolog QOSNotAllowed
AccountNotAllowed DependencyNeverSatisfied QOSGrpCpuLimit QOSGrpCPUMinutesLimit QOSGrpCPURunMinutesLimit
QOSGrpJobsLimit QOSGrpMemLimit QOSGrpNodeLimit QOSGrpSubmitJobsLimit QOSGrpWallLimit QOSMaxCpuPerJobLimit
QOSMaxCpuMinutesPerJobLimit QOSMaxNodePerJobLimit QOSMaxWallDurationPerJobLimit QOSMaxCpuPerUserLimit
QOSMaxJobsPerUserLimit QOSMaxNodePerUserLimit QOSMaxSubmitJobPerUserLimit QOSMinCpuNotSatisfied AssocGrpCpuLimit
AssocGrpCPUMinutesLimit AssocGrpCPURunMinutesLimit AssocGrpJobsLimit AssocGrpMemLimit AssocGrpNodeLimit
AssocGrpSubmitJobsLimit AssocGrpWallLimit AssocMaxJobsLimit AssocMaxCpuPerJobLimit AssocMaxCpuMinutesPerJobLimit
AssocMaxNodePerJobLimit AssocMaxWallDurationPerJobLimit AssocMaxSubmitJobLimit JobHoldMaxRequeue JobArrayTaskLimit
BurstBufferResources BurstBufferStageIn BurstBufferOperation PowerNotAvail PowerReserved AssocGrpUnknown
AssocGrpUnknownMinutes AssocGrpUnknownRunMinutes AssocMaxUnknownPerJob AssocMaxUnknownPerNode
AssocMaxUnknownMinutesPerJob AssocMaxCpuPerNode AssocGrpMemMinutes AssocGrpMemRunMinutes AssocMaxMemPerJob
AssocMaxMemPerNode AssocMaxMemMinutesPerJob AssocGrpNodeMinutes AssocGrpNodeRunMinutes AssocMaxNodeMinutesPerJob
AssocGrpEnergy AssocGrpEnergyMinutes AssocGrpEnergyRunMinutes AssocMaxEnergyPerJob AssocMaxEnergyPerNode
AssocMaxEnergyMinutesPerJob AssocGrpGRES AssocGrpGRESMinutes AssocGrpGRESRunMinutes AssocMaxGRESPerJob
AssocMaxGRESPerNode AssocMaxGRESMinutesPerJob AssocGrpLicense AssocGrpLicenseMinutes AssocGrpLicenseRunMinutes
AssocMaxLicensePerJob AssocMaxLicenseMinutesPerJob AssocGrpBB AssocGrpBBMinutes AssocGrpBBRunMinutes AssocMaxBBPerJob
AssocMaxBBPerNode AssocMaxBBMinutesPerJob QOSGrpUnknown QOSGrpUnknownMinutes QOSGrpUnknownRunMinutes
QOSMaxUnknownPerJob QOSMaxUnknownPerNode QOSMaxUnknownPerUser QOSMaxUnknownMinutesPerJob QOSMinUnknown QOSMaxCpuPerNode
QOSGrpMemoryMinutes QOSGrpMemoryRunMinutes QOSMaxMemoryMinutesPerJob QOSMaxMemoryPerJob QOSMaxMemoryPerNode
QOSMaxMemoryPerUser QOSMinMemory QOSGrpEnergy QOSGrpEnergyMinutes QOSGrpEnergyRunMinutes QOSMaxEnergyPerJob
QOSMaxEnergyPerNode QOSMaxEnergyPerUser QOSMaxEnergyMinutesPerJob QOSMinEnergy QOSGrpNodeMinutes QOSGrpNodeRunMinutes
QOSMaxNodeMinutesPerJob QOSMinNode QOSGrpGRES QOSGrpGRESMinutes QOSGrpGRESRunMinutes QOSMaxGRESPerJob QOSMaxGRESPerNode
QOSMaxGRESPerUser QOSMaxGRESMinutesPerJob QOSMinGRES QOSGrpLicense QOSGrpLicenseMinutes QOSGrpLicenseRunMinutes
QOSMaxLicensePerJob QOSMaxLicensePerUser QOSMaxLicenseMinutesPerJob QOSMinLicense QOSGrpBB QOSGrpBBMinutes
QOSGrpBBRunMinutes QOSMaxBBPerJob QOSMaxBBPerNode QOSMaxBBPerUser QOSMinBB DeadLine MaxBBPerAccount MaxCpuPerAccount
MaxEnergyPerAccount MaxGRESPerAccount MaxNodePerAccount MaxLicensePerAccount MaxMemoryPerAccount MaxUnknownPerAccount
MaxJobsPerAccount MaxSubmitJobsPerAccount PartitionConfig AccountingPolicy FedJobLock MaxMemPerLimit AssocGrpBilling
AssocGrpBillingMinutes AssocGrpBillingRunMinutes AssocMaxBillingPerJob AssocMaxBillingPerNode
AssocMaxBillingMinutesPerJob QOSGrpBilling QOSGrpBillingMinutes QOSGrpBillingRunMinutes QOSMaxBillingPerJob
QOSMaxBillingPerNode QOSMaxBillingPerUser QOSMaxBillingMinutesPerJob MaxBillingPerAccount QOSMinBilling
ReservationDeleted
"""
WORDS = TEXT.split()


@pytest.mark.parametrize("word", WORDS)
def test_every_reason_of_slurm_has_a_sentence_of_its_own(word: str) -> None:
    reason, sentence = reasons.of(word)
    assert (reason == JobReason.UNSPECIFIED) == (word == "None")
    assert "The batch system says" not in sentence
    assert word == "None" or (sentence[0].isupper() and sentence.endswith("."))


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("AssocGrpCPUMinutesLimit", JobReason.ALLOCATION_EXHAUSTED),
        ("AssocGrpBillingMinutes", JobReason.ALLOCATION_EXHAUSTED),
        ("QOSGrpWallLimit", JobReason.ALLOCATION_EXHAUSTED),
        ("AssocGrpCPURunMinutesLimit", JobReason.LIMIT),
        ("QOSGrpNodeLimit", JobReason.LIMIT),
        ("QOSMaxJobsPerUserLimit", JobReason.LIMIT),
        ("AssocMaxJobsLimit", JobReason.LIMIT),
        ("MaxGRESPerAccount", JobReason.LIMIT),
        ("QOSMaxWallDurationPerJobLimit", JobReason.NEVER_STARTS),
        ("AssocMaxCpuMinutesPerJobLimit", JobReason.NEVER_STARTS),
        ("QOSMinGRES", JobReason.NEVER_STARTS),
        ("DependencyNeverSatisfied", JobReason.NEVER_STARTS),
        ("ReqNodeNotAvail, May be reserved for other job", JobReason.NODES_UNAVAILABLE),
        ("ReqNodeNotAvail, UnavailableNodes:n[1-2]", JobReason.NODES_UNAVAILABLE),
        (
            "Nodes required for job are DOWN, DRAINED or reserved for jobs in higher priority partitions",
            JobReason.NODES_UNAVAILABLE,
        ),
        ("Nodes_required_for_job_are_DOWN,_DRAINED_or_reserved", JobReason.NODES_UNAVAILABLE),
        ("SomethingNew", JobReason.OTHER),
    ],
)
def test_reasons(word: str, reason: JobReason) -> None:
    assert reasons.of(word)[0] == reason


def test_unavailable_nodes_are_named() -> None:
    assert reasons.of("ReqNodeNotAvail, UnavailableNodes:n[1-2]")[1].endswith(": n[1-2].")


def test_a_reason_that_is_not_known_is_told_in_slurms_words() -> None:
    assert "SomethingNew" in reasons.of("SomethingNew")[1]


@pytest.mark.parametrize(
    ("word", "slurm", "state", "reason"),
    [
        ("PENDING", "None", JobState.QUEUED, JobReason.UNSPECIFIED),
        ("PENDING", "Resources", JobState.QUEUED, JobReason.RESOURCES),
        ("PENDING", "JobHeldUser", JobState.HELD, JobReason.HELD_BY_OWNER),
        ("PENDING", "JobHeldAdmin", JobState.HELD, JobReason.HELD_BY_OPERATOR),
        ("PENDING", "job requeued in held state", JobState.HELD, JobReason.REQUEUED),
        ("PENDING", "launch failed requeued held", JobState.HELD, JobReason.REQUEUED),
        ("REQUEUE_HOLD", "None", JobState.HELD, JobReason.REQUEUED),
        ("SPECIAL_EXIT", "JobHeldUser", JobState.HELD, JobReason.HELD_BY_OWNER),
        ("REQUEUED", "None", JobState.QUEUED, JobReason.REQUEUED),
        ("CONFIGURING", "None", JobState.QUEUED, JobReason.UNSPECIFIED),
        ("RUNNING", "None", JobState.ACTIVE, JobReason.UNSPECIFIED),
        ("COMPLETING", "NonZeroExitCode", JobState.ACTIVE, JobReason.UNSPECIFIED),
        ("SUSPENDED", "None", JobState.ACTIVE, JobReason.SUSPENDED),
        ("STOPPED", "None", JobState.ACTIVE, JobReason.SUSPENDED),
        ("COMPLETED", "None", JobState.COMPLETED, JobReason.UNSPECIFIED),
        ("CANCELLED", "JobHeldUser", JobState.CANCELED, JobReason.CANCELED_BY_OWNER),
        ("CANCELLED by 1003", "None", JobState.CANCELED, JobReason.CANCELED_BY_OWNER),
        ("CANCELLED", "DependencyNeverSatisfied", JobState.CANCELED, JobReason.DEPENDENCY_NEVER_SATISFIED),
        ("TIMEOUT", "TimeLimit", JobState.FAILED, JobReason.TIME_LIMIT),
        ("NODE_FAIL", "None", JobState.FAILED, JobReason.NODE_FAILED),
        ("OUT_OF_MEMORY", "OutOfMemory", JobState.FAILED, JobReason.OUT_OF_MEMORY),
        ("DEADLINE", "DeadLine", JobState.FAILED, JobReason.DEADLINE),
        ("PREEMPTED", "None", JobState.FAILED, JobReason.PREEMPTED),
        ("BOOT_FAIL", "None", JobState.FAILED, JobReason.NODE_FAILED),
        ("A_STATE_TO_COME", "None", JobState.QUEUED, JobReason.OTHER),
    ],
)
def test_states(word: str, slurm: str, state: JobState, reason: JobReason) -> None:
    stands = states.standing(word, slurm)
    assert (stands.state, stands.reason) == (state, reason)


def test_a_job_that_was_put_back_says_so_until_there_is_something_better_to_say() -> None:
    assert states.standing("PENDING", "BeginTime", restarts=1).reason == JobReason.REQUEUED
    assert states.standing("PENDING", "BeginTime").reason == JobReason.BEGIN_TIME
    assert states.standing("PENDING", "Resources", restarts=1).reason == JobReason.RESOURCES


def test_the_word_of_slurm_is_kept() -> None:
    assert states.standing("PENDING", "AssocGrpCpuLimit").engine_reason == "AssocGrpCpuLimit"
    assert states.standing("PENDING", "None").engine_reason == ""


@pytest.mark.parametrize(
    ("status", "slurm", "reason", "code", "signal"),
    [
        (7 << 8, "NonZeroExitCode", JobReason.NONZERO_EXIT, 7, None),
        (255 << 8, "NonZeroExitCode", JobReason.NONZERO_EXIT, 255, None),
        (9, "JobLaunchFailure", JobReason.SIGNALED, None, 9),
        (11 | 128, "None", JobReason.SIGNALED, None, 11),
        (4021, "JobLaunchFailure", JobReason.LAUNCH_FAILED, None, None),
        (4099, "JobLaunchFailure", JobReason.LAUNCH_FAILED, None, None),
        (0, "JobLaunchFailure", JobReason.LAUNCH_FAILED, None, None),
        (0, "None", JobReason.LAUNCH_FAILED, None, None),
    ],
)
def test_how_a_job_failed(status: int, slurm: str, reason: JobReason, code: int | None, signal: int | None) -> None:
    stands = states.standing("FAILED", slurm, status)
    assert (stands.state, stands.reason, stands.exit_code, stands.signal) == (JobState.FAILED, reason, code, signal)


def test_who_canceled() -> None:
    assert states.standing("CANCELLED", "", owner_canceled=False).reason == JobReason.CANCELED_BY_OPERATOR


@pytest.mark.parametrize(("code", "signal", "status"), [(7, 0, 1792), (0, 9, 9), (0, 53, 4021), (3, 11, 3 << 8 | 11)])
def test_the_status_by_accounting(code: int, signal: int, status: int) -> None:
    assert states.status_of(code, signal) == status
