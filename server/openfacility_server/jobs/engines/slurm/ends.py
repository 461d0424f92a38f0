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

    async def of(self, refs: Sequence[JobRef], *, caught_up: bool) -> Mapping[str, Observation]:
        """Returns how jobs ended, all with native ids, by our ids; those of which that is not known are left out.

        ``caught_up``: accounting has been told everything, so that what it does not have has not run. Raises
        EngineUnavailable.
        """
        if not refs:
            return {}
        found = await self._accounting.runs({_number(ref) for ref in refs})
        arrays = await self._arrays_in_queue(refs)
        now = datetime.now(UTC)
        ends = {
            ref.id: self._naming.end_of(ref, found, now, array_in_queue=ref.id in arrays, caught_up=caught_up)
            for ref in refs
        }
        return {job_id: end for job_id, end in ends.items() if end is not None}

    async def _arrays_in_queue(self, refs: Sequence[JobRef]) -> set[str]:
        """Returns those of the elements, by our ids, of whose array the queue has something."""
        elements = [ref for ref in refs if "_" in ref.native_id]
        look = await self._queue.some(sorted({_number(ref) for ref in elements}))
        first = {row.array: row for row in look.rows}
        found: set[str] = set()
        for ref in elements:
            row = first.get(_number(ref))
            if row is not None and self._naming.is_array_of(ref, row):
                found.add(ref.id)
        return found


def _number(ref: JobRef) -> str:
    return ref.native_id.partition("_")[0]
