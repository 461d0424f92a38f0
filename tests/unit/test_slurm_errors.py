"""Slurm's refusals, in reasons, fields and sentences of this service."""

from __future__ import annotations

import pytest
from openfacility_server.jobs.engines.slurm.errors import (
    NotReachedError,
    away,
    clean,
    complaints,
    refusal_of,
    refused_update,
)
from openfacility_server.jobs.refusals import KINDS

FAILED = "sbatch: error: Batch job submission failed: "


@pytest.mark.parametrize(
    ("text", "reason", "field"),
    [
        ("Invalid partition name specified", "BAD_QUEUE", "attributes.queue_name"),
        ("No partition specified or system default partition", "BAD_QUEUE", "attributes.queue_name"),
        ("Required partition not available (inactive or drain)", "QUEUE_CLOSED", "attributes.queue_name"),
        ("User's group not permitted to use this partition", "ACCESS_DENIED", "attributes.queue_name"),
        ("Invalid account or account/partition combination specified", "BAD_ACCOUNT", "attributes.account"),
        ("Invalid qos specification", "BAD_QOS", ""),
        (
            "Requested time limit is invalid (missing or exceeds some limit)",
            "BAD_TIME_LIMIT",
            "attributes.duration",
        ),
        ("Time limit specification required, but not provided", "BAD_TIME_LIMIT", "attributes.duration"),
        ("More processors requested than permitted", "RESOURCES_IMPOSSIBLE", "resources"),
        ("Requested node configuration is not available", "RESOURCES_IMPOSSIBLE", "resources"),
        ("Requested partition configuration not available now", "RESOURCES_IMPOSSIBLE", "resources"),
        ("Requested more tasks than available processors", "RESOURCES_IMPOSSIBLE", "resources"),
        ("Node count specification invalid", "RESOURCES_IMPOSSIBLE", "resources.node_count"),
        ("Memory required by task is not available", "RESOURCES_IMPOSSIBLE", "resources.memory"),
        (
            "error: Memory specification can not be satisfied\nRequested node configuration is not available",
            "RESOURCES_IMPOSSIBLE",
            "resources.memory",
        ),
        (
            "Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)",
            "OVER_LIMIT",
            "",
        ),
        (
            "QOSMaxWallDurationPerJobLimit\n" + FAILED + "Job violates accounting/QOS policy (job submit limit, …)",
            "OVER_LIMIT",
            "attributes.duration",
        ),
        ("QOSMaxSubmitJobPerUserLimit\nJob violates accounting/QOS policy", "OVER_LIMIT", ""),
        ("AssocMaxCpuPerJobLimit\nJob violates accounting/QOS policy", "OVER_LIMIT", ""),
        (
            "AssocGrpCPUMinutesLimit\nJob violates accounting/QOS policy (…)",
            "ALLOCATION_EXHAUSTED",
            "attributes.account",
        ),
        ("Access denied to requested reservation", "RESERVATION_DENIED", "attributes.reservation_id"),
        ("Requested reservation is invalid", "BAD_RESERVATION", "attributes.reservation_id"),
        ("Requested reservation not usable now", "BAD_RESERVATION", "attributes.reservation_id"),
        ("Invalid feature specification", "BAD_CONSTRAINT", ""),
        ("Invalid generic resource (gres) specification", "BAD_GRES", "resources.gpu_cores_per_process"),
        ("Invalid Trackable RESource (TRES) specification", "BAD_GRES", "resources.gpu_cores_per_process"),
        ("Invalid license specification", "BAD_LICENSES", ""),
        ("Invalid node name specified", "BAD_NODES", ""),
        ("Requested nodes not in this partition", "BAD_NODES", ""),
        ("Job dependency problem", "BAD_DEPENDENCY", "dependencies"),
        ("Invalid job array specification", "BAD_ARRAY", "array"),
        ("sbatch: error: Batch script is empty!", "BAD_SCRIPT", "script"),
        ("Pathname of a file, directory or other parameter too long", "BAD_DIRECTORY", "directory"),
        ("Invalid user id", "NO_POSIX_ACCOUNT", ""),
        ("User not found on host", "NO_POSIX_ACCOUNT", ""),
        ("Access/permission denied", "ACCESS_DENIED", ""),
        ("Job has already finished", "JOB_STATE", ""),
        ("Job is no longer pending execution", "JOB_STATE", ""),
        ("Requested operation is presently disabled", "JOB_STATE", ""),
        ("sbatch: error: Invalid --mail-type specification", "BAD_ATTRIBUTE", ""),
        ("Something that was never heard of", "REFUSED", ""),
        ("", "REFUSED", ""),
    ],
)
def test_refusals(text: str, reason: str, field: str) -> None:
    refusal = refusal_of(FAILED + text)
    assert (refusal.reason, refusal.field) == (reason, field)
    assert reason in KINDS
    assert refusal.message
    assert "error:" not in refusal.engine_message


@pytest.mark.parametrize(
    ("text", "given", "name"),
    [
        ("Invalid node name specified", ["exclude"], "exclude"),
        ("Invalid generic resource (gres) specification", ["gres", "nodes"], "gres"),
        ("Requested time limit is invalid (missing or exceeds some limit)", ["deadline"], "deadline"),
        ("sbatch: error: Invalid --mail-type specification", ["mail-type"], "mail-type"),
        ('sbatch: error: unrecognized --hint argument "junk", see --hint=help', ["hint"], "hint"),
        ("Invalid qos specification", ["qos"], "qos"),
    ],
)
def test_the_field_is_the_one_that_was_given(text: str, given: list[str], name: str) -> None:
    assert refusal_of(text, given).field == f'attributes.custom_attributes["slurm.{name}"]'


def test_updates() -> None:
    refused = refused_update("Invalid partition name specified for job 7", ["partition"])
    assert (refused.reason, refused.field) == ("BAD_QUEUE", "attributes.queue_name")
    assert refused_update("Invalid user id for job 7\n").reason == "ACCESS_DENIED"
    assert refused_update("what?").reason == "UPDATE_REFUSED"
    assert refused_update("Invalid partition name specified").field == ""


def test_words_are_kept_short_and_clean() -> None:
    assert clean("sbatch: error: one\nsbatch: error: Batch job submission failed: two\n\ntwo\n") == "one; two"
    assert len(clean("x" * 5000)) == 1000


def test_what_may_be_passed_over() -> None:
    text = (
        "Invalid job id specified for job 9\nJob has already finished for job 1\nslurm_suspend error: Invalid user id\n"
    )
    assert complaints(text) == ""
    assert complaints(text + "Access/permission denied for job 2\n") == "Access/permission denied for job 2"


@pytest.mark.parametrize(
    ("text", "reached"),
    [
        ("sbatch: error: Batch job submission failed: Unable to contact slurm controller (connect failure)", False),
        ("slurm_load_jobs error: Unable to contact slurm controller (connect failure)", False),
        ("scontrol: error: … Connection refused", False),
        ("Unable to contact slurm controller (receive failure)", True),
        ("sbatch: error: Socket timed out on send/recv operation", True),
        ("Zero Bytes were transmitted or received", True),
        ("slurm_msg_sendto: address:port=127.0.0.1:30840 msg_type=4003: Unexpected missing socket error", True),
        ("sbatch: error: Slurm temporarily unable to accept job, sleeping and retrying.", True),
        ("Protocol authentication error", True),
    ],
)
def test_away(text: str, reached: bool) -> None:
    error = away(text)
    assert error is not None
    assert isinstance(error, NotReachedError) != reached
    assert "controller" in str(error)


def test_accounting_that_is_away() -> None:
    text = (
        "sacct: error: slurm_persist_conn_open_without_init: failed to open persistent connection: Connection refused"
    )
    assert "accounting" in str(away(text))
    assert "accounting" in str(away("Connection refused", accounting=True))


@pytest.mark.parametrize("text", ["", "Invalid partition name specified", "Access/permission denied", "Invalid job id"])
def test_saying_no_is_not_being_away(text: str) -> None:
    assert away(text) is None
