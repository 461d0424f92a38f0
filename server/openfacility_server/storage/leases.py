"""Leases: at most one process at a time does a certain thing, and another one goes on when it dies."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta

from openfacility_server.storage.errors import LeaseLost
from openfacility_server.storage.processes import is_dead, this_process
from openfacility_server.storage.store import Storage
from openfacility_server.storage.tx import ReadTx, Tx

_Row = tuple[str, str, int, int, int]


def _boottime() -> float:
    """Seconds that also pass while the machine sleeps, and never jump."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Lease:
    """One candidate for a named lease.

    No wall clock is involved, so none has to be right. The holder counts its time from before it asked for a renewal;
    another candidate takes over when it has itself seen the lease unrenewed for the whole of its time, which begins
    later. So two candidates never both believe to hold it, unless one was stopped between looking at `held` and
    acting; against that, `check` inside the write transaction is certain (fencing).

    A holder that is known to be dead, as it ran on this host, is replaced at once.

    Args:
      storage: where the lease is kept.
      name: what the lease is about, such as "jobs/reconciler".
      holder: who the candidate is, for people to read.
      ttl: how long a lease lasts without renewal; renew it every third of that.
    """

    def __init__(
        self, storage: Storage, name: str, holder: str, ttl: timedelta, *, clock: Callable[[], float] = _boottime
    ) -> None:
        self._storage = storage
        self._name = name
        self._holder = holder
        self._ttl_s = ttl.total_seconds()
        self._clock = clock
        self._process = this_process()
        self._fence = 0
        self._last_fence = 0
        self._until = 0.0
        self._seen: tuple[int, int] = (0, 0)
        self._seen_at = 0.0

    @property
    def held(self) -> bool:
        """Whether this candidate may act as the holder now."""
        return self._fence > 0 and self._clock() < self._until

    @property
    def remaining(self) -> timedelta:
        """For how long it may still act without a renewal; zero when it may not."""
        return timedelta(seconds=max(0.0, self._until - self._clock()) if self._fence else 0.0)

    @property
    def fence(self) -> int:
        """Grows each time the lease changes hands; 0 while this candidate does not hold it."""
        return self._fence

    async def acquire(self) -> bool:
        """Takes the lease when it is free, run out, or its holder is dead; renews it when it is ours.

        Returns whether it is held now. Call it again every third of the ttl or so: a lease that ran out is only seen
        to have done so by a candidate that looked before. Raises StorageUnavailable.
        """
        if self.held:
            try:
                await self.renew()
            except LeaseLost:
                return False
            return True
        self._fence = 0
        if not await self._storage.point(self._may_take):
            return False
        begun = self._clock()
        fence = await self._storage.write(self._take)
        if not fence:
            return False
        self._fence = self._last_fence = fence
        self._until = begun + self._ttl_s
        return self.held

    async def renew(self) -> None:
        """Makes the lease last for another ttl from now. Raises LeaseLost, StorageUnavailable.

        While the database is unavailable the lease stays held for the rest of its time, and not longer.
        """
        begun = self._clock()
        if not self.held:
            self._fence = 0
            raise LeaseLost(f"the lease {self._name} ran out")
        fence = self._fence
        if not await self._storage.write(lambda tx: tx.run(_RENEW, (self._name, fence, self._process))):
            self._fence = 0
            raise LeaseLost(f"the lease {self._name} was taken over")
        self._until = begun + self._ttl_s

    async def release(self) -> None:
        """Gives the lease back, so that another candidate need not wait. Does nothing when it is not held."""
        fence, self._fence = self._fence, 0
        if fence:
            await self._storage.write(lambda tx: tx.run(_RELEASE, (self._name, fence, self._process)))

    def check(self, tx: Tx) -> None:
        """Makes the transaction fail with LeaseLost unless this candidate holds the lease when it commits."""
        row = self._row(tx)
        if not self._fence or row is None or row[2] != self._fence or row[1] != self._process:
            raise LeaseLost(f"the lease {self._name} is held by another")

    def _row(self, tx: ReadTx) -> _Row | None:
        row = tx.row(_SELECT, (self._name,))
        return None if row is None else (row[0], row[1], row[2], row[3], row[4])

    def _may_take(self, tx: ReadTx) -> bool:
        row = self._row(tx)
        if row is None:
            return True
        _, process, fence, beat, ttl_ms = row
        now = self._clock()
        if (fence, beat) != self._seen:
            self._seen, self._seen_at = (fence, beat), now
        # Ours, and run out: nobody has had it since.
        free = process == "" or (process == self._process and fence == self._last_fence)
        return free or now - self._seen_at >= ttl_ms / 1000 or is_dead(process)

    def _take(self, tx: Tx) -> int:
        """Takes the lease unless it changed since it was looked at; returns the fence, or 0."""
        mine = (self._holder, self._process, int(self._ttl_s * 1000))
        row = self._row(tx)
        if row is None:
            # A fence never starts again from 1: rows are not removed.
            tx.run(_INSERT, (self._name, *mine))
            return 1
        if not self._may_take(tx):
            return 0
        tx.run(_TAKE, (*mine, self._name))
        return row[2] + 1


_SELECT = "SELECT holder, process, fence, beat, ttl_ms FROM lease WHERE name = ?"
_INSERT = "INSERT INTO lease (name, holder, process, ttl_ms, fence, beat) VALUES (?, ?, ?, ?, 1, 0)"
_TAKE = "UPDATE lease SET holder = ?, process = ?, ttl_ms = ?, fence = fence + 1, beat = 0 WHERE name = ?"
_RENEW = "UPDATE lease SET beat = beat + 1 WHERE name = ? AND fence = ? AND process = ?"
_RELEASE = "UPDATE lease SET process = '' WHERE name = ? AND fence = ? AND process = ?"
