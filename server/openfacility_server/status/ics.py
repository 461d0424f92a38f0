"""An iCalendar document (RFC 5545) taken apart: components, their properties, the time zones that it describes.

icalendar finds lines, parameters and values. What they mean is decided here, because its own reading keeps the time
zones of one document for the next, follows rules without end, and says of an error neither where it is nor of what.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, tzinfo
from typing import Any, TypeVar

from icalendar.parser import Contentline, Contentlines, split_on_unescaped_comma
from icalendar.prop import vDuration, vUTCOffset
from icalendar.timezone.windows_to_olson import WINDOWS_TO_OLSON

from openfacility_server.errors import InvalidArgument, invalid
from openfacility_server.status.recurrence import BadRuleError, find_zone, parse, walls

FIELD = "calendar"
LARGEST = 1 << 20
MOST_COMPONENTS = 1000
STATUS, ENDLESS = "X-OPENFACILITY-STATUS", "X-OPENFACILITY-END"
CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")

_MOST_ZONES = 10
_NAME = re.compile(r"[A-Za-z0-9-]+")
_LOCAL_TIME = re.compile(r"\d{8}T\d{6}")
_READ = frozenset(
    (
        *("BEGIN", "END", "METHOD", "X-WR-TIMEZONE", "UID", "SEQUENCE", "STATUS", STATUS),
        *("SUMMARY", "DESCRIPTION", "RESOURCES", "LOCATION", "PRIORITY", "CATEGORIES"),
        *("DTSTART", "DTEND", "DURATION", ENDLESS, "RRULE", "EXRULE", "RDATE", "EXDATE", "RECURRENCE-ID"),
        *("TZID", "TZOFFSETFROM", "TZOFFSETTO"),
    )
)
_Value = TypeVar("_Value")


def split(value: str) -> list[str]:
    """Takes a list of texts apart."""
    return [str(part) for part in split_on_unescaped_comma(value)]


@dataclass(frozen=True, slots=True)
class Property:
    """A property; the value as it stands there."""

    parameters: dict[str, str]
    value: str

    @property
    def text(self) -> str:
        """The value as a text."""
        return ",".join(split(self.value))


@dataclass(slots=True)
class Component:
    """A component: its properties that are read, and the components in it. ``number`` counts from 1 in the document."""

    name: str
    number: int
    properties: dict[str, list[Property]] = field(default_factory=dict)
    parts: list[Component] = field(default_factory=list)

    def one(self, name: str) -> Property | None:
        """Returns the only property of a name."""
        found = self.properties.get(name, ())
        if len(found) > 1:
            raise self.wrong(name, "is there more than once")
        return found[0] if found else None

    def text(self, name: str) -> str:
        """Returns the text of the only property of a name, empty if there is none."""
        found = self.one(name)
        return found.text.strip() if found else ""

    def values(self, name: str) -> list[str]:
        """Returns the parts of all properties of a name."""
        parts = [part.strip() for each in self.properties.get(name, ()) for part in split(each.value)]
        return [part for part in parts if part]

    def wrong(self, name: str, why: str) -> InvalidArgument:
        """Makes the error that says what is wrong with a property."""
        uid = self.properties.get("UID")
        of = f", UID {uid[0].text[:80]}" if uid else ""
        return invalid(FIELD, f"component {self.number} ({self.name}{of}): {name}: {why}")


def components(text: str) -> list[Component]:
    """Takes a document apart into its VCALENDAR components. Properties that nobody reads are not looked at.

    Raises InvalidArgument, also for a document that is too large or holds too many components.
    """
    data = text.encode(errors="replace")
    if len(data) > LARGEST:
        raise invalid(FIELD, "is larger than 1 MiB")
    calendars: list[Component] = []
    stack: list[Component] = []
    count = 0
    # From bytes: a str without line breaks would be taken for the name of a file.
    lines: list[Contentline] = Contentlines.from_ical(data)  # type: ignore[no-untyped-call]
    for line in lines:
        name = found.group().upper() if (found := _NAME.match(line)) else ""
        if not stack and name != "BEGIN" and line.strip():
            raise invalid(FIELD, f"is not an iCalendar document: {line[:40]!r} is not in a component")
        if name not in _READ:
            continue
        read = _property(line, name)
        if name == "BEGIN":
            count += 1
            stack.append(_begun(read.value.strip().upper()[:40], count, stack))
        elif name == "END":
            ended = stack.pop()
            if read.value.strip().upper() != ended.name:
                raise ended.wrong("END", f"END:{read.value[:40]} where END:{ended.name} is due")
            (stack[-1].parts if stack else calendars).append(ended)
        else:
            stack[-1].properties.setdefault(name, []).append(read)
    if stack:
        raise stack[-1].wrong("END", "is missing")
    if not calendars:
        raise invalid(FIELD, "is not an iCalendar document: it has no VCALENDAR")
    return calendars


def _begun(name: str, number: int, stack: Sequence[Component]) -> Component:
    if (name == "VCALENDAR") == bool(stack):
        raise invalid(FIELD, f"component {number} ({name}) is in the wrong place")
    if number > MOST_COMPONENTS or len(stack) > 4:
        raise invalid(FIELD, f"has more than {MOST_COMPONENTS} components, or more than 5 in each other")
    return Component(name, number)


def _property(line: Contentline, name: str) -> Property:
    try:
        _, parameters, value = line.raw_parts()
    except ValueError:
        raise invalid(FIELD, f"{name}: the line {line[:60]!r} cannot be read") from None
    return Property({key.upper(): str(each) for key, each in parameters.items()}, str(value))


def parsed(component: Component, name: str, read: Callable[[], _Value]) -> _Value:
    """Returns what ``read`` makes of a property, or raises the error that names it."""
    try:
        return read()
    except (ValueError, OverflowError):
        found = component.properties[name][0].value
        raise component.wrong(name, f"{found[:40]!r} cannot be understood") from None


def duration(text: str) -> timedelta:
    """Reads a DURATION. Raises ValueError and OverflowError."""
    found: Any = vDuration.from_ical(text)  # type: ignore[no-untyped-call]
    assert isinstance(found, timedelta)
    return found


class Zones:
    """The time zones of one VCALENDAR, each looked for once."""

    def __init__(self, calendar: Component) -> None:
        self._calendar = calendar
        self._found: dict[str, tzinfo | None] = {}

    def find(self, name: str) -> tzinfo | None:
        """Returns a zone by its IANA name or its name in Windows, else as a VTIMEZONE describes it."""
        if name not in self._found:
            if len(self._found) >= 10 * _MOST_ZONES:
                raise invalid(FIELD, f"uses more than {10 * _MOST_ZONES} time zones")
            self._found[name] = self._find(name)
        return self._found[name]

    def _find(self, name: str) -> tzinfo | None:
        # `/vendor/Europe/London` is an IANA name behind a prefix.
        parts = name.split("/", 5)
        tails = ["/".join(parts[at:]) for at in range(len(parts))]
        for candidate in (WINDOWS_TO_OLSON.get(name, ""), *tails):
            if candidate and (zone := find_zone(candidate)):
                return zone
        described = [part for part in self._calendar.parts if part.name == "VTIMEZONE" and part.text("TZID") == name]
        if sum(isinstance(zone, _Described) for zone in self._found.values()) >= _MOST_ZONES:
            raise invalid(FIELD, f"describes more than {_MOST_ZONES} time zones")
        return _Described(described[0]) if described else None


class _Described(tzinfo):
    """A time zone as a VTIMEZONE describes it: the times at which the offset from UTC changes."""

    def __init__(self, component: Component) -> None:
        changes: list[tuple[datetime, timedelta, timedelta]] = []
        for part in component.parts:
            before, after = _offset(part, "TZOFFSETFROM"), _offset(part, "TZOFFSETTO")
            changes += [(wall - before, before, after) for wall in _onsets(part)]
        if not changes:
            raise component.wrong("TZID", "has neither STANDARD nor DAYLIGHT")
        changes.sort()
        self._first = changes[0][1]
        self._offsets = [after for _, _, after in changes]
        self._utc = [utc for utc, _, _ in changes]
        # A time that clocks leave out is taken by the offset before; of one that they show twice it is the first.
        self._walls = [utc + max(before, after) for utc, before, after in changes]

    def _offset_at(self, at: int) -> timedelta:
        return self._offsets[at - 1] if at else self._first

    def utcoffset(self, time: datetime | None, /) -> timedelta | None:
        """Returns the offset at a wall-clock time."""
        return None if time is None else self._offset_at(bisect_right(self._walls, time.replace(tzinfo=None)))

    def fromutc(self, time: datetime, /) -> datetime:
        """Returns the wall-clock time."""
        return time + self._offset_at(bisect_right(self._utc, time.replace(tzinfo=None)))

    def dst(self, _: datetime | None, /) -> None:
        """Says that this is not known."""
        return

    def tzname(self, _: datetime | None, /) -> None:
        """Says that there is none."""
        return


def _offset(part: Component, name: str) -> timedelta:
    text = part.text(name)
    if not text:
        raise part.wrong(name, "is needed")
    found: Any = parsed(part, name, lambda: vUTCOffset.from_ical(text))  # type: ignore[no-untyped-call]
    assert isinstance(found, timedelta)
    if abs(found) >= timedelta(days=1):
        raise part.wrong(name, "is a day or more")
    return found


def _onsets(part: Component) -> list[datetime]:
    """Returns the wall-clock times at which an offset of a zone begins, until 2050."""
    found = [_local(part, "DTSTART", part.text("DTSTART"))]
    found += [_local(part, "RDATE", at) for each in part.properties.get("RDATE", ()) for at in each.value.split(",")]
    if rule := part.one("RRULE"):
        ends = re.search(r"(?i)UNTIL|COUNT", rule.value)
        try:
            read = parse(rule.value.strip() + ("" if ends else ";UNTIL=20500101"))
        except BadRuleError as error:
            raise part.wrong("RRULE", str(error)) from None
        if read.frequency != "YEARLY":
            raise part.wrong("RRULE", "of a time zone is FREQ=YEARLY")
        # Such rules begin in 1601 or in 1970; nobody plans for those years.
        start = found[0].replace(year=max(found[0].year, 1990), day=min(found[0].day, 28))
        last = read.until.replace(tzinfo=None) if read.until else None
        found += [wall for wall in walls(read, start, timedelta(days=22_000)) if last is None or wall <= last]
    return found


def _local(part: Component, name: str, text: str) -> datetime:
    text = text.strip().upper()
    if not _LOCAL_TIME.fullmatch(text):
        raise part.wrong(name, "is a local time such as 19701025T030000")
    found = parsed(part, name, lambda: datetime.strptime(text, "%Y%m%dT%H%M%S"))  # noqa: DTZ007
    if not 1600 <= found.year <= 9000:
        raise part.wrong(name, "the year is out of range")
    return found
