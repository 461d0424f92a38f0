"""How jobs ended that the queue does not have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from openfacility_server.jobs.engines import JobRef, Observation
from openfacility_server.jobs.engines.slurm.accounting import Accounting
from openfacility_server.jobs.engines.slurm.naming import Naming
from openfacility_server.jobs.engines.slurm.queue import Queue


class Ends:
    """Looks them up in accounting."""

    def __init__(self, queue: Queue, accounting: Accounting, naming: Naming) -> None:
        """Nothing is looked up yet."""
        self._queue = queue
        self._accounting = accounting
        self._naming = naming

    async def of(self, refs: Sequence[JobRef]) -> Mapping[str, Observation]:
        """Returns how jobs ended, all with native ids, by our ids; those of which that is not known are left out.

        Raises EngineUnavailable.
        """
        if not refs:
            return {}
        found = await self._accounting.runs({_number(ref) for ref in refs})
        in_queue = await self._arrays_in_queue(refs)
        now = datetime.now(UTC)
        ends = {ref.id: self._naming.end_of(ref, found, now, _number(ref) in in_queue) for ref in refs}
        return {job_id: end for job_id, end in ends.items() if end is not None}

    async def _arrays_in_queue(self, refs: Sequence[JobRef]) -> set[str]:
        arrays = {_number(ref) for ref in refs if "_" in ref.native_id}
        look = await self._queue.some(sorted(arrays))
        return {row.array for row in look.rows}


def _number(ref: JobRef) -> str:
    return ref.native_id.partition("_")[0]
