"""Jobs that were submitted around us and ended while nobody looked, from accounting.

Those of ours are on record here and are looked up one by one; these nobody would ask for.
"""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import NamedTuple

from openfacility_server.jobs.engines import ExternalJob, Observation
from openfacility_server.jobs.engines.slurm import fields, observing, states
from openfacility_server.jobs.engines.slurm.accounting import Accounting
from openfacility_server.jobs.engines.slurm.identity import Identity
from openfacility_server.jobs.engines.slurm.rows import Record
from openfacility_server.jobs.engines.slurm.settings import SlurmSettings
from openfacility_server.jobs.model import JobArray, JobAttributes, JobSpec, ResourceSpec

_log = logging.getLogger(__name__)

_ENDED = "RQ,CD,CA,F,TO,NF,OOM,DL,BF,PR"
_MOST = 20_000
_LONGEST_NAME = 255
_LONGEST_PATH = 4096
# What was seen last before nobody looked may have changed just then.
_BEFORE = timedelta(minutes=1)


class Details(NamedTuple):
    """What accounting tells of a job's specification, as text. The names of `_COLUMNS`."""

    name: str
    account: str
    partition: str
    limit: str
    directory: str
    node_count: str
    reservation: str


_COLUMNS = "JobName,Account,Partition,TimelimitRaw,WorkDir,NNodes,Reservation"


class History:
    """Looks into accounting for what was missed. For one event loop."""

    def __init__(self, settings: SlurmSettings, accounting: Accounting, identity: Identity) -> None:
        """Nothing is asked yet."""
        self._settings, self._accounting, self._identity = settings, accounting, identity

    async def since(self, time: datetime) -> list[Observation]:
        """Returns the ends of jobs from outside after a time, at most as long ago as is configured; of many the latest.
        An array comes before its elements.

        Raises EngineUnavailable.
        """
        if not self._settings.external_jobs:
            return []
        since = max(time - _BEFORE, datetime.now(UTC) - self._settings.history)
        found = await self._accounting.ended(since, _ENDED, _COLUMNS)
        if len(found) > _MOST:
            _log.warning("many jobs have ended meanwhile: %s of %s are taken", _MOST, len(found))
        return self._observed(found[-_MOST:])

    def _observed(self, found: Sequence[tuple[Record, Sequence[str]]]) -> list[Observation]:
        singles: list[Observation] = []
        arrays: dict[tuple[str, int], list[Observation]] = defaultdict(list)
        now = datetime.now(UTC)
        for (native_id, origin), (record, details) in _last_runs(found).items():
            owner = self._identity.owner_of(record.row.user)
            if not owner or record.our_id:
                continue
            number, _, index = native_id.partition("_")
            job = ExternalJob(owner, _spec(details), fields.time(str(origin)) or now)
            if index:
                job = replace(job, array_job_id=observing.external_id(number, origin), array_index=fields.number(index))
            job_id = observing.external_id(number, origin, index)
            end = observing.of_record(record, job_id, native_id, owner, now, job)
            if end is None:
                continue
            (arrays[number, origin] if index else singles).append(end)
        return singles + [one for elements in arrays.values() for one in (_whole(elements), *elements)]


def _last_runs(
    found: Sequence[tuple[Record, Sequence[str]]],
) -> dict[tuple[str, int], tuple[Record, Details]]:
    """Returns the last run of each job, by its native id and the second when it was submitted first.

    A run that is put back is followed by another one of the same job; any other run of its number is another job.
    """
    runs: dict[tuple[str, int], tuple[Record, Details]] = {}
    first: dict[str, tuple[int, bool]] = {}
    for record, details in found:
        if record.is_rest and not record.native_id.isdigit():
            continue  # elements that never started are not told one by one
        origin, goes_on = first.get(record.native_id, (0, False))
        origin = origin if goes_on else fields.number(record.row.submitted)
        first[record.native_id] = origin, record.state in states.AGAIN
        runs[record.native_id, origin] = record, Details._make(details)
    return runs


def _spec(details: Details) -> JobSpec:
    minutes, nodes = fields.number(details.limit), fields.number(details.node_count)
    return JobSpec(
        name=fields.line(details.name, _LONGEST_NAME),
        directory=fields.line(details.directory, _LONGEST_PATH),
        resources=ResourceSpec(node_count=nodes or None),
        attributes=JobAttributes(
            duration=timedelta(minutes=minutes) if minutes else None,
            queue_name=fields.line(details.partition.partition(",")[0], _LONGEST_NAME),
            account=fields.line(details.account, _LONGEST_NAME),
            reservation_id=fields.line(details.reservation, _LONGEST_NAME),
        ),
    )


def _whole(elements: Sequence[Observation]) -> Observation:
    """Returns an array as a whole, by those of its elements that have ended."""
    first = elements[0]
    job = first.external
    assert job is not None
    indices = sorted({one.external.array_index or 0 for one in elements if one.external})
    step = math.gcd(*(later - earlier for earlier, later in pairwise(indices))) or 1
    spec = replace(job.spec, array=JobArray(indices[0], indices[-1], step))
    whole = observing.of_elements(elements, job.array_job_id, first.native_id.partition("_")[0])
    return replace(whole, external=ExternalJob(job.owner, spec, job.submit_time))
