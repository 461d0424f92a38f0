"""Times, sizes and tables as people read them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta

import click

_LONGEST = 60


def columns(header: Sequence[str], rows: Sequence[Sequence[str]], *, indent: str = "") -> Iterable[str]:
    """Lay rows out in columns. A cell may be colored: what does not show has no width."""
    table = [[click.style(cell, bold=True) for cell in header], *rows]
    widths = [max(len(click.unstyle(row[number])) for row in table) for number in range(len(header))]
    for row in table:
        cells = [cell + " " * (width - len(click.unstyle(cell))) for cell, width in zip(row, widths, strict=True)]
        yield (indent + "  ".join(cells)).rstrip()


def age(length: timedelta) -> str:
    """Write how long something is, in its largest unit or two."""
    seconds = max(0, int(length.total_seconds()))
    if seconds < 60:
        return f"{seconds}s"
    if seconds < 3600:
        return f"{seconds // 60}m{seconds % 60:02}s" if seconds < 600 else f"{seconds // 60}m"
    if seconds < 86400:
        return f"{seconds // 3600}h{seconds % 3600 // 60:02}m"
    return f"{seconds // 86400}d{seconds % 86400 // 3600:02}h" if seconds < 864000 else f"{seconds // 86400}d"


def until(time: datetime) -> str:
    """Say how far away a time is."""
    away = time - datetime.now(UTC)
    if abs(away) < timedelta(seconds=1):
        return "now"
    return f"in {age(away)}" if away > timedelta() else f"{age(-away)} ago"


def clock(time: datetime) -> str:
    """Write a time in the local zone, to the minute, with its date unless that is today's."""
    local = time.astimezone()
    return local.strftime("%H:%M" if local.date() == datetime.now(UTC).astimezone().date() else "%Y-%m-%d %H:%M")


def span(time: timedelta | None) -> str:
    """Write a duration as people do."""
    if time is None:
        return ""
    seconds = max(0, round(time.total_seconds()))
    if seconds < 60:
        return f"{max(0.0, time.total_seconds()):.1f} s"
    hours, rest = divmod(seconds, 3600)
    return f"{hours}:{rest // 60:02}:{rest % 60:02}"


def moment(time: datetime | None) -> str:
    """Write a time in the local zone."""
    return "" if time is None else time.astimezone().strftime("%Y-%m-%d %H:%M:%S")


def size(count: int) -> str:
    """Write a number of bytes as people do."""
    if count <= 0:
        return ""
    amount = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} TiB"


def short(text: str, longest: int = _LONGEST) -> str:
    """Make a line of a text, and cut it where it is too long."""
    line = " ".join(text.split())
    return line if len(line) <= longest else f"{line[: longest - 1]}…"
