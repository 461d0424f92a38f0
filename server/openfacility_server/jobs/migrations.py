"""The steps that make the tables of the Jobs domain. A released step is never changed; add another one."""

from __future__ import annotations

from openfacility_server.jobs.store import JobComparison, JobFollowing, JobLabel, JobRow, JobScript
from openfacility_server.storage import Migration, Tx

_INDEXES = (
    # Lists of one owner, and of everyone: newest first, array elements apart.
    "CREATE INDEX job_by_owner ON job (owner, array_job_id, id)",
    "CREATE INDEX job_by_array ON job (array_job_id, array_index, id)",
    "CREATE INDEX job_by_project ON job (project, array_job_id, id)",
    "CREATE INDEX job_label_of ON job_label (job_id)",
    # What is unfinished or to be done is little beside what has ended: partial indexes stay small.
    "CREATE INDEX job_todo ON job (resource_id, create_time, array_index) WHERE todo > 0",
    "CREATE INDEX job_unfinished ON job (resource_id, id) WHERE state < 5",
    "CREATE INDEX job_unfinished_of ON job (owner) WHERE state < 5",
)


def _create(tx: Tx) -> None:
    tx.create_tables(JobRow, JobLabel, JobScript)
    for statement in _INDEXES:
        tx.run(statement)


def _compare(tx: Tx) -> None:
    tx.create_tables(JobComparison)


def _look_back(tx: Tx) -> None:
    tx.create_tables(JobFollowing)
    tx.run("INSERT INTO job_following (resource_id, time) SELECT resource_id, time FROM job_comparison")


MIGRATIONS = (Migration(1, _create), Migration(2, _compare), Migration(3, _look_back))
