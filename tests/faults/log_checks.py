"""What the log promises to a watcher, as code; each failure names the guarantee that was broken."""

from __future__ import annotations

from collections.abc import Callable

from openfacility_server.events import Batch, Event
from openfacility_server.storage import ReadTx, Storage

Entry = tuple[int, int, str]
"""(revision, seq, key)"""


class Checked:
    """Follows one watcher, batch by batch, and keeps what it was told."""

    def __init__(self, after: int, wanted: Callable[[Event], bool] = lambda _: True) -> None:
        self.after = after
        self.revision = after
        self.entries: list[Entry] = []
        self.caught_up = 0
        self.bookmarks = 0
        self.batches = 0
        self._wanted = wanted

    def take(self, batch: Batch) -> None:
        """Checks what can be checked at once."""
        self.batches += 1
        assert batch.revision >= self.revision, (
            f"Bookmarkable: revision {batch.revision} came after {self.revision}; a position never goes back"
        )
        seen = set()
        for event in batch.events:
            entry = (event.revision, event.seq, event.key)
            if self.entries:
                assert entry[:2] != self.entries[-1][:2], f"Unique: {entry} was delivered twice"
                assert entry[:2] > self.entries[-1][:2], f"Ordered: {entry} came after {self.entries[-1]}"
            assert event.revision > self.revision, (
                f"Bookmarkable: {entry} came after the watcher was told that it was complete up to {self.revision}"
            )
            assert event.revision <= batch.revision, f"Bookmarkable: {entry} is beyond its batch's revision"
            assert self._wanted(event), f"Filtered: {entry} does not match"
            seen.add(event.revision)
            self.entries.append(entry)
        self.bookmarks += not batch.events
        self.caught_up += batch.caught_up
        assert self.caught_up <= 1, "Bookmarkable: caught up was said twice"
        assert batch.frames == b"".join(event.frame for event in batch.events), "Frames: not those of the events"
        self.revision = batch.revision

    def resumed(self) -> Checked:
        """The same watcher's next connection: it goes on where this one was, with all it was told."""
        other = Checked(self.after, self._wanted)
        other.revision = self.revision
        other.entries = self.entries
        return other

    def against(self, truth: list[Entry]) -> None:
        """Compares what was delivered with what is in the log: `truth` has every entry that should match."""
        expected = [entry for entry in truth if self.after < entry[0] <= self.revision]
        got = set(self.entries)
        missing = [entry for entry in expected if entry not in got]
        assert not missing, f"Reliable: {len(missing)} were left out, first {missing[0]}, complete to {self.revision}"
        halves = {entry[0] for entry in missing} & {entry[0] for entry in self.entries}
        assert not halves, f"Atomic: of revisions {sorted(halves)[:5]} a part was delivered"
        wrong = got - set(expected)
        assert not wrong, f"Reliable: {sorted(wrong)[:5]} were delivered and are not in the log"
        assert self.entries == expected, "Ordered: not the log's order"


async def log_entries(storage: Storage, wanted: Callable[[str], bool] = lambda _: True) -> list[Entry]:
    """Every entry of the log, read without the code under test."""

    def read(tx: ReadTx) -> list[Entry]:
        rows = tx.rows("SELECT id, name, tags FROM log_event ORDER BY id")
        return [(row[0] >> 20, row[0] & 0xFFFFF, row[1]) for row in rows if wanted(row[2])]

    return await storage.read(read)
