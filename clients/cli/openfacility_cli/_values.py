"""Values on the command line that are more than a word: times, sizes, labels, arrays, signals."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import click

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
SIGNALS = ("HUP", "INT", "QUIT", "ABRT", "KILL", "ALRM", "TERM", "USR1", "USR2", "URG", "CONT", "STOP", "TSTP")
"""Those that the service sends."""
_SIZES = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40, "P": 2**50}


class Duration(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.2 only
    """`90`, `90s`, `5m`, `1h30m`, `2d` or `1:30:00`."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        """Read it."""
        text = str(value).strip().lower()
        if re.fullmatch(r"\d+(\.\d+)?", text):
            return timedelta(seconds=float(text))
        if match := re.fullmatch(r"(?:(\d+)-)?(\d+):(\d\d)(?::(\d\d))?", text):
            days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
            return timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)
        if re.fullmatch(r"(\d+(\.\d+)?[smhdw])+", text):
            parts = re.findall(r"([\d.]+)([smhdw])", text)
            return timedelta(seconds=sum(float(number) * _UNITS[unit] for number, unit in parts))
        return self.fail(f"{value!r} is no duration: say 90, 90s, 5m, 1h30m, 2d or H:MM[:SS]", param, ctx)


class Size(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.2 only
    """`512M`, `2G` or `2GiB`: powers of 1,024."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Read it, in bytes."""
        match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGTP]?)(?:I?B)?", str(value).strip().upper())
        if match is None:
            return self.fail(f"{value!r} is no size: say 512M, 2G or a number of bytes", param, ctx)
        return int(float(match[1]) * _SIZES[match[2]])


class Pair(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.2 only
    """`KEY=VALUE`."""

    name = "key=value"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        """Read it."""
        if isinstance(value, tuple):
            return value
        key, equals, content = str(value).partition("=")
        return (key, content) if key and equals else self.fail(f"{value!r} is not KEY=VALUE", param, ctx)


class Array(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.2 only
    """`0-9`, `0-9:2` (each second) or `0-9%4` (four at a time)."""

    name = "first-last[:step][%most]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[range, int | None]:
        """Read it: the indices, and how many may run at the same time."""
        match = re.fullmatch(r"(\d+)-(\d+)(?::(\d+))?(?:%(\d+))?", str(value))
        indices = range(int(match[1]), int(match[2]) + 1, int(match[3] or 1) or 1) if match else range(0)
        if match is None or not indices:
            return self.fail(f"{value!r} is no array: say 0-9, 0-9:2 or 0-9%4", param, ctx)
        return indices, int(match[4]) if match[4] else None


class Moment(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.2 only
    """A time such as `2026-01-31T12:00`, or `2h` for two hours ago."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """Read it; without a zone it is local time."""
        if isinstance(value, datetime):
            return value
        try:
            return datetime.fromisoformat(str(value)).astimezone(UTC)
        except ValueError:
            return datetime.now(UTC) - Duration().convert(value, param, ctx)


class Signal(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.2 only
    """`USR1`, with or without `SIG`."""

    name = "signal"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Read it, as the contract has it."""
        name = str(value).upper().removeprefix("SIG")
        return name if name in SIGNALS else self.fail(f"{value!r} is none of {', '.join(SIGNALS)}", param, ctx)


DURATION, SIZE, PAIR, ARRAY, MOMENT, SIGNAL = Duration(), Size(), Pair(), Array(), Moment(), Signal()
