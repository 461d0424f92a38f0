"""Reading and compacting the log's table."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from openfacility_server.events.event import Event
from openfacility_server.storage.session import Row
from openfacility_server.storage.tx import SEQ_BITS, TAG_SEPARATOR, ReadTx, Tx

PAGE_EVENTS = 1_000
PAGE_BYTES = 1 << 20
SCAN_REVISIONS = 50_000
"""How many revisions one page of a filtered read looks through at most, so that no read is long."""
MAX_TAGS_IN_SQL = 4
"""With more tags of interest than this, the filtering is left to Python."""


@dataclass(slots=True)
class Page:
    """A piece of the log, made of whole revisions."""

    events: list[Event]
    revision: int
    """Everything that was asked for is complete up to here."""
    oldest: int
    """The least revision that can be read after."""
    current: int
    """The newest revision."""


def read_page(tx: ReadTx, after: int, topic: str | None = None, tags: Collection[str] | None = None) -> Page:
    """Reads events after a revision: about PAGE_EVENTS or PAGE_BYTES, but never a part of a revision.

    With `topic` or `tags`, only events of that topic that have one of the tags (or more: filter again when there are
    more than MAX_TAGS_IN_SQL). The events are empty when `after` is older than `oldest`.
    """
    current, oldest = tx.rows(_STATE)[0]
    if after >= current or after < oldest:
        return Page([], after, oldest, current)
    where = ""
    upto = current
    filters: list[object] = []
    if topic is not None:
        upto = min(current, after + SCAN_REVISIONS)
        where = " AND topic = ?"
        filters.append(topic)
        if tags is not None and len(tags) <= MAX_TAGS_IN_SQL:
            found = "instr" if tx.dialect == "sqlite" else "strpos"
            where += f" AND ({' OR '.join([f'{found}(tags, ?) > 0'] * len(tags)) or '1 = 0'})"
            filters.extend(f"{TAG_SEPARATOR}{tag}{TAG_SEPARATOR}" for tag in tags)
    low = (after + 1) << SEQ_BITS
    high = (upto + 1) << SEQ_BITS
    sizes = tx.rows(_SIZES.format(where), (low, high, *filters, PAGE_EVENTS + 1))
    upto = _whole(sizes, upto)
    if not sizes:
        return Page([], upto, oldest, current)
    rows = tx.rows(_EVENTS.format(where), (low, (upto + 1) << SEQ_BITS, *filters))
    return Page([_event(row) for row in rows], upto, oldest, current)


def _whole(sizes: list[Row], upto: int) -> int:
    """The revision to end a page with, given (id, bytes) of the events that come next."""
    total = 0
    previous = 0
    complete = 0
    for index, (event_id, size) in enumerate(sizes):
        revision = event_id >> SEQ_BITS
        # A page ends before the first revision that begins beyond the limits; the revision before it is whole.
        if revision != previous:
            if index and (total >= PAGE_BYTES or index >= PAGE_EVENTS):
                return previous
            complete = previous
            previous = revision
        total += size
    if len(sizes) > PAGE_EVENTS:
        # The rest of the last revision was not seen: leave it to the next page, unless it is the only one.
        return complete or previous
    return upto


def _event(row: Row) -> Event:
    event_id = row[0]
    return Event(event_id >> SEQ_BITS, event_id & ((1 << SEQ_BITS) - 1), row[1], row[2], row[3], row[4], row[5], row[6])


def newest(tx: ReadTx, events: int) -> int:
    """The revision after which about the newest `events` events are; not older than what is kept."""
    _, oldest = tx.rows(_STATE)[0]
    total = int(tx.value("SELECT events FROM log_counter WHERE id = 1"))
    return max(int(oldest), _last_before(tx, "ordinal", total - events + 1))


def compactable(tx: ReadTx, keep_events: int, old_us: int, young_us: int) -> int:
    """The revision up to which events may go.

    Those older than `old_us`, and the oldest beyond `keep_events`, but none younger than `young_us` (microseconds
    since the epoch).
    """
    total = int(tx.value("SELECT events FROM log_counter WHERE id = 1"))
    by_age = _last_before(tx, "time_us", old_us)
    by_count = _last_before(tx, "ordinal", total - keep_events + 1)
    return min(max(by_age, by_count), _last_before(tx, "time_us", young_us))


def compact_chunk(tx: Tx, upto: int, limit: int) -> bool:
    """Removes about `limit` of the oldest events, none above `upto`. Returns whether more remain to be removed.

    In the same transaction the log's beginning moves, so that nobody can read a log with a hole.
    """
    chunk = tx.rows(_OLDEST, ((upto + 1) << SEQ_BITS, limit))
    last = upto if len(chunk) < limit else chunk[-1][0] >> SEQ_BITS
    if chunk:
        tx.run("DELETE FROM log_event WHERE id < ?", ((last + 1) << SEQ_BITS,))
    tx.run("UPDATE log_counter SET compacted = ? WHERE id = 1 AND compacted < ?", (last, last))
    return last < upto


def _last_before(tx: ReadTx, column: str, value: int) -> int:
    """The newest revision all of whose events have `column` < `value`; 0 when there is none.

    Both columns only grow along the log, so a search by halves over the primary key finds it, in some 30 look-ups,
    without an index of their own.
    """
    low = 0
    high = int(tx.value("SELECT revision FROM log_counter WHERE id = 1"))
    sql = _LAST_UPTO.format(column)
    while low < high:
        middle = (low + high + 1) // 2
        row = tx.row(sql, ((middle + 1) << SEQ_BITS,))
        if row is None or row[1] < value:
            low = middle
        else:
            # The event that was found is too young, and so is all from its revision on.
            high = (row[0] >> SEQ_BITS) - 1
    return max(low, 0)


_STATE = "SELECT revision, compacted FROM log_counter WHERE id = 1"
_SIZES = "SELECT id, length(payload) FROM log_event WHERE id >= ? AND id < ?{} ORDER BY id LIMIT ?"
_EVENTS = (
    "SELECT id, topic, name, time_us, tags, attributes, payload FROM log_event WHERE id >= ? AND id < ?{} ORDER BY id"
)
_OLDEST = "SELECT id FROM log_event WHERE id < ? ORDER BY id LIMIT ?"
_LAST_UPTO = "SELECT id, {} FROM log_event WHERE id < ? ORDER BY id DESC LIMIT 1"
