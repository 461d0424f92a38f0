"""Values as Slurm's commands write them: times, spans, sizes, names of users' own making."""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

_NOTHING = frozenset({"", "N/A", "(null)", "None", "Unknown", "UNLIMITED", "INVALID", "Partition_Limit", "NOT_SET"})
_SPAN = re.compile(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)(?:\.(\d+))?")
_SIZE = re.compile(r"(\d+(?:\.\d+)?)([KMGTPE]?)[Bc]?")
_UNITS = {unit: 1024**power for power, unit in enumerate(("", "K", "M", "G", "T", "P", "E"))}
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_LATEST = 253402300799  # the end of the year 9999


def separator() -> str:
    """Returns what to put between columns: new for each question, since users choose names and comments, and one that
    knew it could write rows of his own into the answer."""
    return "\x1f" + secrets.token_hex(4)


def table(text: str, separator: str, width: int) -> Sequence[tuple[str, ...]]:
    """Splits text in which each of ``width`` columns ends with ``separator``, and rows end their line.

    What stands before the last line break in a row's first column is no part of it: a line that names the cluster.
    """
    cells = iter(text.split(separator))
    rows = zip(*[cells] * width, strict=False)
    return [(row[0].rpartition("\n")[2], *row[1:]) for row in rows]


def text(value: str) -> str:
    """Returns a column's text; empty for Slurm's words for nothing."""
    return "" if value in _NOTHING else value


def line(value: str, longest: int) -> str:
    """Returns text of a user's making as one line of at most so many characters."""
    return _CONTROL.sub("?", text(value))[:longest]


def time(value: str) -> datetime | None:
    """Reads seconds since 1970; None where there is no time."""
    seconds = number(value)
    return datetime.fromtimestamp(seconds, UTC) if 0 < seconds <= _LATEST else None


def number(value: str) -> int:
    """Reads a whole number; 0 where there is none."""
    return int(value) if value.isascii() and value.isdigit() else 0


def span(value: str) -> timedelta | None:
    """Reads ``[days-][[hours:]minutes:]seconds[.fraction]`` with at least minutes; None where there is none."""
    found = _SPAN.fullmatch(value)
    if found is None:
        return None
    days, hours, minutes, seconds, fraction = found.groups(default="0")
    return timedelta(
        days=int(days),
        hours=int(hours),
        minutes=int(minutes),
        seconds=int(seconds),
        microseconds=int(fraction[:6].ljust(6, "0")),
    )


def size(value: str) -> int:
    """Reads bytes, such as ``500M``; 0 where there is none."""
    found = _SIZE.fullmatch(value)
    return int(float(found[1]) * _UNITS[found[2]]) if found else 0


def resources(value: str) -> dict[str, str]:
    """Reads ``cpu=8,mem=600M,node=2,gres/gpu=4``."""
    return dict(part.split("=", 1) for part in value.split(",") if "=" in part)
