"""Times on the command line of Status: exact ones, which say their zone, and those relative to now."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import click

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_HOW = "say 2026-01-31T12:00Z, 2026-01-31T12:00+01:00, now, +2h or -30m"


class When(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.2 only
    """`2026-01-31T12:00Z`, `2026-01-31T12:00+01:00`, `now`, `+2h` (from now) or `-30m` (before now)."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """Read it. A time without a zone is refused: who reads it may be elsewhere than who writes it."""
        if isinstance(value, datetime):
            return value
        text = str(value).strip()
        if text.lower() == "now":
            return datetime.now(UTC)
        try:
            if found := re.fullmatch(r"([+-])((?:\d+[smhdw])+)", text):
                parts = re.findall(r"(\d+)([smhdw])", found[2])
                length = timedelta(seconds=sum(int(number) * _UNITS[unit] for number, unit in parts))
                return datetime.now(UTC) + (length if found[1] == "+" else -length)
            time = datetime.fromisoformat(text)
            if time.tzinfo is None:
                return self.fail(f"{text!r} has no time zone: {_HOW}", param, ctx)
            return time.astimezone(UTC)
        except (ValueError, OverflowError):
            return self.fail(f"{text!r} is no time: {_HOW}", param, ctx)


WHEN = When()
