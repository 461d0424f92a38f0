"""Jobs as squeue and sacct tell of them, and what observations are made of them."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from openfacility_server.jobs.engines import JobRef, Observation
from openfacility_server.jobs.engines.slurm import fields, observing
from openfacility_server.jobs.engines.slurm.accounting import Accounting
from openfacility_server.jobs.engines.slurm.commands import Commands
from openfacility_server.jobs.engines.slurm.naming import Index, Naming
from openfacility_server.jobs.engines.slurm.rows import (
    COLUMNS,
    AccountRow,
    QueueRow,
    Record,
    expand,
    our_id,
    queue_rows,
    records,
)
from openfacility_server.jobs.engines.slurm.settings import SlurmSettings
from openfacility_server.jobs.model import JobArray, JobReason, JobState, JobUsage

SUBMITTED = 1_795_918_458
NOW = datetime.fromtimestamp(SUBMITTED + 100, UTC)
SEPARATOR = "\x1fabcd1234"


def at(seconds: float) -> datetime:
    return datetime.fromtimestamp(SUBMITTED + seconds, UTC)


PENDING = QueueRow(
    number="7",
    array="7",
    task="N/A",
    state="PENDING",
    status="0",
    reason="Priority",
    comment="openfacility:abc",
    user="alice",
    uid="1003",
    submitted=str(SUBMITTED),
    started="N/A",
    ended="N/A",
    restarts="0",
    nodes="",
    name="wrap",
    account="m1001",
    partition="debug",
    reservation="(null)",
    limit="5:00",
    resources="cpu=1,mem=500M,node=1,billing=1",
    node_count="1",
    task_count="1",
    cores_per_task="1",
    directory="/home/alice",
    command="(null)",
    stdout="/home/alice/slurm-7.out",
    stderr="/home/alice/slurm-7.out",
)
RUNNING = PENDING._replace(state="RUNNING", reason="None", started=str(SUBMITTED + 1), nodes="n1")
FAILED = RUNNING._replace(state="FAILED", status="1792", reason="NonZeroExitCode", ended=str(SUBMITTED + 5))
RUN = AccountRow(
    native_id="7",
    raw_id="7",
    state="FAILED",
    exit="7:0",
    submitted=str(SUBMITTED),
    started=str(SUBMITTED + 1),
    ended=str(SUBMITTED + 5),
    elapsed="4",
    cpu="00:01.500",
    memory="",
    comment="openfacility:abc",
    user="alice",
    uid="1003",
    nodes="n1",
    reason="None",
)
WAITING_RUN = {"state": "PENDING", "ended": "Unknown", "started": "Unknown", "nodes": "None assigned", "comment": ""}
REF = JobRef("abc", "alice", "7", at(-0.5))


class Owners:
    """Every account is its own owner's, but root's is nobody's."""

    def owner_of(self, user: str) -> str:
        return "" if user == "root" else user


def naming(*, external_jobs: bool = True) -> Naming:
    return Naming(Owners(), Accounting(Commands(SlurmSettings("cluster")), 1.0), external_jobs)


def rows_of(*rows: QueueRow) -> str:
    return "".join("".join(cell + SEPARATOR for cell in row) + "\n" for row in rows)


def observe(row: QueueRow, **known: Any) -> Observation:
    return observing.of_row(row, row.our_id, "alice", NOW, **known)


# Reading.


def test_rows_are_read_as_they_are_written() -> None:
    assert queue_rows(rows_of(PENDING, RUNNING), SEPARATOR) == [PENDING, RUNNING]
    assert queue_rows("", SEPARATOR) == []
    assert len(COLUMNS) == len(PENDING)


def test_a_line_that_names_the_cluster_is_no_row() -> None:
    assert queue_rows("CLUSTER: lab\n" + rows_of(PENDING), SEPARATOR) == [PENDING]


def test_an_answer_that_is_cut_off_loses_its_last_row_only() -> None:
    text = rows_of(PENDING, RUNNING)
    assert queue_rows(text[: len(text) - 40], SEPARATOR) == [PENDING]


def test_nobody_writes_rows_by_a_name() -> None:
    forged = "x\n" + "".join(cell + "\x1f" for cell in FAILED) + "\n"
    mine = PENDING._replace(name=forged, comment="\n\x1f")
    assert queue_rows(rows_of(mine, RUNNING), SEPARATOR) == [mine, RUNNING]
    assert fields.separator() != fields.separator()


@pytest.mark.parametrize(
    ("comment", "job_id"),
    [
        ("openfacility:abc", "abc"),
        ("openfacility:" + "a" * 32, "a" * 32),
        ("openfacility:" + "a" * 33, ""),
        ("openfacility:abc_1", ""),
        ("openfacility:ABC", ""),
        ("openfacility:abc\n", ""),
        ("xopenfacility:abc", ""),
        ("(null)", ""),
        ("", ""),
    ],
)
def test_our_comments(comment: str, job_id: str) -> None:
    assert our_id(comment) == job_id


@pytest.mark.parametrize(
    ("written", "seconds"),
    [("5:00", 300), ("1:02:03", 3723), ("2-00:00:00", 172_800), ("00:01.500", 1.5), ("UNLIMITED", None), ("", None)],
)
def test_spans(written: str, seconds: float | None) -> None:
    assert fields.span(written) == (None if seconds is None else timedelta(seconds=seconds))


@pytest.mark.parametrize(("written", "size"), [("500M", 500 * 2**20), ("1.5G", 3 * 2**29), ("75513856", 75513856)])
def test_sizes(written: str, size: int) -> None:
    assert fields.size(written) == size


@pytest.mark.parametrize("written", ["N/A", "Unknown", "None", "", "0", "-1", "99999999999999", "²"])
def test_no_times(written: str) -> None:
    assert fields.time(written) is None


def test_indices() -> None:
    assert expand("0-4,6-9:3%2]") == {0, 1, 2, 3, 4, 6, 9}
    assert expand("0-1,5...%4]") == frozenset()
    assert len(expand("0-4000000000")) <= 100_000


def test_steps_belong_to_the_run_before_them() -> None:
    step = RUN._replace(native_id="7.batch", memory="1000")
    other = RUN._replace(native_id="8")
    text = "".join(
        "".join(cell + SEPARATOR for cell in row) + "\n"
        for row in (RUN, step, step._replace(native_id="7.0", memory="3000"), other)
    )
    assert records(text, SEPARATOR) == [Record(RUN, 3000), Record(other, 0)]


# Observations.


def test_a_job_that_waits() -> None:
    seen = observe(PENDING._replace(started=str(SUBMITTED + 500)))
    assert (seen.job_id, seen.native_id, seen.state) == ("abc", "7", JobState.QUEUED)
    assert (seen.reason, seen.engine_reason) == (JobReason.PRIORITY, "Priority")
    assert seen.expected_start == at(500)
    assert (seen.start_time, seen.end_time, seen.nodes) == (None, None, "")


def test_a_job_that_runs() -> None:
    seen = observe(RUNNING._replace(ended=str(SUBMITTED + 300)))
    assert (seen.state, seen.time, seen.start_time, seen.end_time) == (JobState.ACTIVE, at(1), at(1), None)
    assert (seen.nodes, seen.expected_start, seen.usage) == ("n1", None, None)


def test_a_job_that_ended() -> None:
    seen = observe(FAILED)
    assert (seen.state, seen.reason, seen.exit_code) == (JobState.FAILED, JobReason.NONZERO_EXIT, 7)
    assert (seen.start_time, seen.end_time, seen.time) == (at(1), at(5), at(5))
    assert seen.usage == JobUsage(timedelta(seconds=4))


def test_a_job_that_was_canceled_before_it_ran_never_started() -> None:
    ended = str(SUBMITTED + 3)
    seen = observe(PENDING._replace(state="CANCELLED", started=ended, ended=ended))
    assert (seen.state, seen.start_time, seen.end_time, seen.usage) == (JobState.CANCELED, None, at(3), None)


def test_an_element_of_an_array() -> None:
    seen = observe(RUNNING._replace(number="9", task="2"))
    assert (seen.job_id, seen.native_id) == ("abc_2", "7_2")


def test_a_job_whose_nodes_are_cleaned_up_has_ended_when_accounting_says_so() -> None:
    cleaning = FAILED._replace(state="COMPLETING", status="0", reason="None")
    assert observe(cleaning).state == JobState.ACTIVE
    seen = observe(cleaning, record=Record(RUN))
    assert (seen.state, seen.exit_code, seen.end_time) == (JobState.FAILED, 7, at(5))


def test_a_job_that_is_put_back_while_its_nodes_are_cleaned_up_waits() -> None:
    seen = observe(FAILED._replace(state="COMPLETING", ended=str(SUBMITTED + 3600), restarts="1"))
    assert (seen.state, seen.reason, seen.start_time) == (JobState.QUEUED, JobReason.REQUEUED, None)


@pytest.mark.parametrize(
    ("by", "reason"),
    [
        ("CANCELLED by 1003", JobReason.CANCELED_BY_OWNER),
        ("CANCELLED by 0", JobReason.CANCELED_BY_OPERATOR),
        ("CANCELLED", JobReason.CANCELED_BY_OWNER),
    ],
)
def test_who_canceled_a_job(by: str, reason: JobReason) -> None:
    # Accounting's own number of the user may not be there yet.
    record = Record(RUN._replace(state=by, uid="0"))
    assert observe(FAILED._replace(state="CANCELLED", reason="None"), record=record).reason == reason


def test_forecasts_that_hardly_move_are_no_news() -> None:
    waiting = observe(PENDING._replace(started=str(SUBMITTED + 3700)))
    soon, late = (replace(waiting, expected_start=at(seconds), time=at(101)) for seconds in (3900, 4500))
    assert not observing.differs(waiting, soon)
    assert observing.differs(waiting, late)
    assert observing.differs(waiting, replace(waiting, expected_start=None))
    assert observing.differs(waiting, replace(soon, reason=JobReason.RESOURCES))


# Jobs from outside.


async def test_a_job_from_outside() -> None:
    row = RUNNING._replace(
        comment="mine",
        name="my\njob",
        command="/home/alice/job.sh a b",
        resources="cpu=8,mem=4G,node=2,billing=8,gres/gpu=8",
        node_count="2",
        task_count="4",
        cores_per_task="2",
        reservation="res1",
        limit="1-00:00:00",
    )
    [seen] = await naming().seen([row], NOW)
    job = seen.external
    assert job is not None
    assert seen.job_id == observing.external_id("7", SUBMITTED) == "s7ttp8rju"
    assert (seen.owner, job.owner, job.submit_time) == ("alice", "alice", at(0))
    spec = job.spec
    assert (spec.name, spec.script_path, spec.arguments) == ("my?job", "/home/alice/job.sh", ("a", "b"))
    assert (spec.stdout_path, spec.stderr_path) == ("/home/alice/slurm-7.out",) * 2
    resources, attributes = spec.resources, spec.attributes
    assert (resources.node_count, resources.process_count, resources.cpu_cores_per_process) == (2, 4, 2)
    assert (resources.memory, resources.gpu_cores_per_process) == (2 * 2**30, 2)
    assert (attributes.duration, attributes.queue_name) == (timedelta(days=1), "debug")
    assert (attributes.account, attributes.reservation_id) == ("m1001", "res1")


async def test_an_array_from_outside_comes_before_its_elements() -> None:
    rows = [PENDING._replace(comment="", task=str(index)) for index in (2, 4, 8)]
    seen = await naming().seen([RUNNING._replace(number="9", task="6", comment=""), *rows], NOW)
    whole, *elements = seen
    assert (whole.job_id, whole.native_id, whole.state) == ("s7ttp8rju", "7", JobState.ACTIVE)
    assert whole.external
    assert whole.external.spec.array == JobArray(2, 8, 2)
    assert [one.job_id for one in elements] == [f"s7ttp8rju_{index}" for index in (6, 2, 4, 8)]
    assert {one.external.array_job_id for one in elements if one.external} == {"s7ttp8rju"}


async def test_the_default_output_of_an_array_is_not_what_squeue_makes_up() -> None:
    path = "/home/alice/slurm-9.out"
    [_, seen] = await naming().seen([RUNNING._replace(number="9", task="6", comment="", stdout=path, stderr=path)], NOW)
    assert seen.external
    assert seen.external.spec.stdout_path == "/home/alice/slurm-%A_%a.out"


async def test_jobs_of_nobodys_account_are_passed_over() -> None:
    outside = RUNNING._replace(comment="")
    assert await naming().seen([outside._replace(user="root")], NOW) == []
    assert await naming(external_jobs=False).seen([outside], NOW) == []


async def test_a_job_from_outside_that_was_put_back_keeps_its_id() -> None:
    named = naming()
    [before] = await named.seen([RUNNING._replace(comment="")], NOW)
    [after] = await named.seen([PENDING._replace(comment="", restarts="1", submitted=str(SUBMITTED + 50))], NOW)
    assert after.job_id == before.job_id


# Which is which.


def test_a_number_that_is_another_job_by_now_is_not_ours() -> None:
    named = naming()
    for other in (
        RUNNING._replace(comment="openfacility:other"),
        RUNNING._replace(comment=""),
        RUNNING._replace(user="mallory"),
        RUNNING._replace(submitted=str(SUBMITTED - 1000)),
    ):
        assert named.row_of(REF, Index.of([other])) is None
    assert named.row_of(REF, Index.of([RUNNING])) is RUNNING


def test_of_two_with_our_comment_the_known_one_is_ours_else_the_older() -> None:
    later = RUNNING._replace(number="8", array="8", submitted=str(SUBMITTED + 1))
    index = Index.of([later, RUNNING])
    named = naming()
    assert named.row_of(REF, index) is RUNNING
    assert named.row_of(replace(REF, native_id="8"), index) is later
    assert named.row_of(replace(REF, native_id=""), index) is RUNNING


def test_the_elements_of_an_array_of_ours() -> None:
    forged = PENDING._replace(number="6", array="6", task="0", user="mallory")
    rows = [PENDING._replace(task="0"), PENDING._replace(task="1"), forged]
    named = naming()
    assert named.elements_of(REF, Index.of(rows)) == rows[:2]
    assert named.row_of(replace(REF, id="abc_1", native_id="7_1"), Index.of(rows)) is rows[1]


def end_of(ref: JobRef, *rows: AccountRow, array_in_queue: bool = False) -> Observation | None:
    return naming().end_of(ref, [Record(row, 4096) for row in rows], NOW, array_in_queue=array_in_queue)


def test_an_end_by_accounting() -> None:
    seen = end_of(REF, RUN)
    assert seen is not None
    assert (seen.state, seen.exit_code, seen.start_time, seen.end_time) == (JobState.FAILED, 7, at(1), at(5))
    assert seen.usage == JobUsage(timedelta(seconds=4), timedelta(seconds=1.5), 4096)


def test_other_jobs_of_the_same_number_are_passed_over() -> None:
    assert end_of(REF, RUN._replace(comment="openfacility:other")) is None
    assert end_of(REF, RUN._replace(user="mallory")) is None
    assert end_of(REF, RUN._replace(comment="", submitted=str(SUBMITTED - 10))) is None
    later = RUN._replace(comment="", submitted=str(SUBMITTED + 90), state="COMPLETED", exit="0:0")
    seen = end_of(REF, RUN._replace(comment=""), later)
    assert seen is not None
    assert seen.state == JobState.FAILED


def test_what_accounting_takes_to_be_unfinished_is_not_known() -> None:
    assert end_of(REF, RUN._replace(**WAITING_RUN)) is None
    assert end_of(REF, RUN._replace(state="RUNNING", ended="Unknown")) is None


def test_the_last_run_of_a_job_that_was_put_back_counts() -> None:
    again = RUN._replace(state="REQUEUED", exit="0:0")
    last = RUN._replace(submitted=str(SUBMITTED + 5), state="COMPLETED", exit="0:0", ended=str(SUBMITTED + 9))
    seen = end_of(REF, again, last)
    assert seen is not None
    assert (seen.state, seen.end_time) == (JobState.COMPLETED, at(9))
    assert end_of(REF, again) is None


ELEMENT = replace(REF, id="abc_2", native_id="7_2")


def test_elements_by_accounting() -> None:
    own = RUN._replace(native_id="7_2", raw_id="9")
    rest = RUN._replace(native_id="7_[1,3%2]", state="CANCELLED by 0", nodes="None assigned")
    seen = end_of(ELEMENT, own, rest)
    assert seen is not None
    assert (seen.native_id, seen.state) == ("7_2", JobState.FAILED)
    seen = end_of(replace(ELEMENT, id="abc_3", native_id="7_3"), own, rest)
    assert seen is not None
    assert (seen.state, seen.reason) == (JobState.CANCELED, JobReason.CANCELED_BY_OPERATOR)
    assert (seen.start_time, seen.usage) == (None, None)


def test_an_element_of_which_slurm_keeps_nothing_was_canceled() -> None:
    other = RUN._replace(native_id="7_1", raw_id="8")
    seen = end_of(ELEMENT, other)
    assert seen is not None
    assert seen.state == JobState.CANCELED
    assert end_of(ELEMENT) is None
    assert end_of(ELEMENT, other._replace(user="mallory")) is None


@pytest.mark.parametrize("rest", ["7_[0-3]", "7_[0-1...%4]", "7"])
def test_an_element_that_accounting_has_waiting_was_canceled_if_the_queue_has_the_others(rest: str) -> None:
    waiting = RUN._replace(native_id=rest, **WAITING_RUN)
    assert end_of(ELEMENT, waiting) is None
    seen = end_of(ELEMENT, waiting, array_in_queue=True)
    assert seen is not None
    assert seen.state == JobState.CANCELED


def test_an_array_has_ended_when_its_elements_have() -> None:
    elements = [RUN._replace(native_id=f"7_{index}", state="COMPLETED", exit="0:0") for index in range(3)]
    seen = end_of(REF, *elements)
    assert seen is not None
    assert (seen.job_id, seen.state) == ("abc", JobState.COMPLETED)
    assert end_of(REF, *elements, RUN._replace(native_id="7_[3-5]", **WAITING_RUN)) is None


def test_the_end_of_a_job_from_outside() -> None:
    ref = JobRef("s7ttp8rju", "alice", "7", at(0), external=True)
    mine = RUN._replace(comment="mine")
    seen = end_of(ref, RUN._replace(comment="", submitted=str(SUBMITTED - 500), state="COMPLETED"), mine)
    assert seen is not None
    assert seen.state == JobState.FAILED
    assert end_of(ref, RUN) is None
