"""When something recurring happens: rules as in RFC 5545, in the wall-clock time of a zone.

A rule is worked out a day at a time, over at most ``HORIZON``, so that also a rule that nothing ever matches costs some
milliseconds. That is why this is not left to dateutil: it looks on to the year 9999 before it says that there is no 30
February, which takes it seconds (the tests compare with it where it answers).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from itertools import pairwise, product
from zoneinfo import ZoneInfo

from openfacility_server.errors import invalid

MOST_OCCURRENCES = 366
HORIZON = timedelta(days=3660)
RULE, TIME_ZONE = "recurrence.rule", "recurrence.time_zone"

_DAYS = ("MO", "TU", "WE", "TH", "FR", "SA", "SU")
_FREQUENCIES = ("YEARLY", "MONTHLY", "WEEKLY", "DAILY")
_WEEKDAY = re.compile(r"([+-]?\d{1,2})?(MO|TU|WE|TH|FR|SA|SU)")
_NUMBER = re.compile(r"[+-]?\d{1,9}")
# Part: greatest value, whether it may count from the end (then 0 is no value).
_NUMBERS: dict[str, tuple[int, bool]] = {
    "BYMONTH": (12, False),
    "BYMONTHDAY": (31, True),
    "BYYEARDAY": (366, True),
    "BYWEEKNO": (53, True),
    "BYSETPOS": (366, True),
    "BYHOUR": (23, False),
    "BYMINUTE": (59, False),
    "BYSECOND": (59, False),
}
# What RFC 5545 does not allow together.
_NOT_WITH = {
    "BYWEEKNO": ("MONTHLY", "WEEKLY", "DAILY"),
    "BYYEARDAY": ("MONTHLY", "WEEKLY", "DAILY"),
    "BYMONTHDAY": ("WEEKLY",),
}


class BadRuleError(ValueError):
    """A rule that cannot be used; the text says why."""


@dataclass(frozen=True, slots=True)
class Rule:
    """A checked rule. It ends after ``count`` times or with ``until``, in UTC or the rule's own time; one is set."""

    frequency: str
    interval: int
    count: int | None
    until: datetime | None
    week_start: int
    weekdays: tuple[tuple[int, int], ...]  # which one of its kind (0: each), day of the week from Monday
    numbers: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


def occurrences(rule: str, time_zone: str, start: datetime, end: datetime) -> list[tuple[datetime, datetime]]:
    """Returns the spans, in UTC, in which something happens that happens from ``start`` to ``end`` for the first time.

    Each begins at the same wall-clock time of the zone and takes as long as the first. A wall-clock time that a change
    of the clocks leaves out is left out, and not counted, as RFC 5545 says. Raises InvalidArgument that names the rule
    or the time zone.
    """
    zone = zone_of(time_zone)
    try:
        first = start.astimezone(zone)
        starts = expand(parse(rule), first.replace(tzinfo=None), zone)
        spans = [(each, each + (end - start)) for each in starts]
        check_apart(spans)
    except (BadRuleError, OverflowError) as error:
        raise invalid(RULE, str(error)) from None
    if not starts or starts[0] != start:
        raise invalid(RULE, f"does not match the first start, {first:%A %Y-%m-%d %H:%M:%S %Z}")
    return spans


def zone_of(name: str) -> tzinfo:
    """Returns the time zone; empty means UTC. Raises InvalidArgument."""
    if not name:
        return UTC
    zone = find_zone(name)
    if zone is None:
        raise invalid(TIME_ZONE, f"{name!r} is not a time zone; take a name such as Europe/London")
    return zone


def find_zone(name: str) -> tzinfo | None:
    """Returns the time zone with this name in the IANA database, None if there is none."""
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        return None


def check_apart(spans: Sequence[tuple[datetime, datetime]]) -> None:
    """Raises BadRuleError if one span, of those in order, begins before the one before it has ended."""
    for (_, end), (following, _) in pairwise(spans):
        if following < end:
            raise BadRuleError(f"an occurrence has not ended ({end:%Y-%m-%d %H:%M} UTC) when the next begins")


def parse(text: str) -> Rule:
    """Reads a rule. Raises BadRuleError."""
    parts = _parts(text)
    frequency = parts.pop("FREQ", "")
    if frequency in ("HOURLY", "MINUTELY", "SECONDLY"):
        raise BadRuleError(f"FREQ={frequency} is too often; take FREQ=DAILY with BYHOUR")
    if frequency not in _FREQUENCIES:
        raise BadRuleError("needs FREQ=YEARLY, MONTHLY, WEEKLY or DAILY")
    interval = _whole("INTERVAL", parts.pop("INTERVAL", "1"), 1000)
    count = _whole("COUNT", parts.pop("COUNT"), MOST_OCCURRENCES) if "COUNT" in parts else None
    until = _until(parts.pop("UNTIL")) if "UNTIL" in parts else None
    if (count is None) == (until is None):
        raise BadRuleError("has to end: give either COUNT or UNTIL")
    week_start = parts.pop("WKST", "MO")
    if week_start not in _DAYS:
        raise BadRuleError(f"WKST={week_start[:20]} is not a day of the week")
    weekdays = tuple(_weekday(value) for value in parts.pop("BYDAY").split(",")) if "BYDAY" in parts else ()
    numbers = {name: _values(name, value) for name, value in parts.items()}
    rule = Rule(frequency, interval, count, until, _DAYS.index(week_start), weekdays, numbers)
    _check_together(rule)
    return rule


def _parts(text: str) -> dict[str, str]:
    parts: dict[str, str] = {}
    for part in text.upper().rstrip(";").split(";"):
        name, found, value = part.partition("=")
        if not found or not value:
            raise BadRuleError(f"{part[:40]!r} is not NAME=VALUE")
        if name in parts:
            raise BadRuleError(f"has {name[:20]} twice")
        if name not in (*_NUMBERS, "FREQ", "INTERVAL", "COUNT", "UNTIL", "WKST", "BYDAY"):
            raise BadRuleError(f"{name[:20]!r} is not a part of a rule")
        parts[name] = value
    return parts


def _whole(name: str, value: str, most: int) -> int:
    if not _NUMBER.fullmatch(value) or not 1 <= int(value) <= most:
        raise BadRuleError(f"{name} is a number from 1 to {most}")
    return int(value)


def _values(name: str, text: str) -> tuple[int, ...]:
    most, signed = _NUMBERS[name]
    texts = text.split(",")
    if not all(_NUMBER.fullmatch(value) for value in texts):
        raise BadRuleError(f"{name} is a list of numbers")
    values = tuple(sorted({int(value) for value in texts}))
    least = -most if signed else 1 if name == "BYMONTH" else 0
    if values[0] < least or values[-1] > most or (signed and 0 in values):
        raise BadRuleError(f"{name} goes from {least} to {most}" + (" without 0" if signed else ""))
    return values


def _weekday(text: str) -> tuple[int, int]:
    found = _WEEKDAY.fullmatch(text)
    if not found or (found[1] and not 1 <= abs(int(found[1])) <= 53):
        raise BadRuleError(f"{text[:20]!r} is not a day of the week such as MO or -1FR")
    return int(found[1] or 0), _DAYS.index(found[2])


def _until(text: str) -> datetime:
    """Reads the last time; with `Z` it is aware. A date means all of that day."""
    digits, _, at = text.removesuffix("Z").partition("T")
    try:
        until = datetime.strptime(digits + (at or "235959"), "%Y%m%d%H%M%S").replace(tzinfo=UTC)
    except ValueError:
        raise BadRuleError("UNTIL is a date or a time such as 20301231 or 20301231T235959Z") from None
    return until if text.endswith("Z") else until.replace(tzinfo=None)


def _check_together(rule: Rule) -> None:
    for name, frequencies in _NOT_WITH.items():
        if name in rule.numbers and rule.frequency in frequencies:
            raise BadRuleError(f"{name} does not go with FREQ={rule.frequency}")
    counted = any(which for which, _ in rule.weekdays)
    if counted and (rule.frequency not in ("MONTHLY", "YEARLY") or "BYWEEKNO" in rule.numbers):
        raise BadRuleError("a number before a day of the week goes with FREQ=MONTHLY or YEARLY, without BYWEEKNO, only")
    if "BYSETPOS" in rule.numbers and not rule.weekdays and len(rule.numbers) == 1:
        raise BadRuleError("BYSETPOS needs another part such as BYDAY")
    if len(list(product(*(rule.numbers.get(name, (0,)) for name in ("BYHOUR", "BYMINUTE"))))) > 24:
        raise BadRuleError("more than 24 times a day")
    if len(rule.numbers.get("BYSECOND", ())) > 1:
        raise BadRuleError("more than once a minute")


def expand(rule: Rule, first: datetime, zone: tzinfo, *, with_first: bool = False) -> list[datetime]:
    """Returns all starts in UTC, ascending, of a rule that begins with ``first``, a wall-clock time of the zone.

    ``with_first`` counts ``first`` also when the rule does not give it. Raises BadRuleError if there are too many, or
    the rule would go on after the ``HORIZON``.
    """
    starts: list[datetime] = []
    last = None if rule.until is None else _in_utc(rule.until, zone)
    limit = MOST_OCCURRENCES if rule.count is None else rule.count
    if with_first and (start := to_utc(first, zone)) is not None:
        starts.append(start)
    for wall in walls(rule, first):
        start = to_utc(wall, zone)
        if start is None or (starts and start <= starts[-1]):
            continue
        if last is not None and start > last:
            return starts
        if len(starts) == limit:
            if last is None:
                return starts
            raise BadRuleError(f"gives more than {MOST_OCCURRENCES} times")
        starts.append(start)
    if rule.count is not None and len(starts) < rule.count:
        raise BadRuleError("reaches further than ten years")
    if last is not None and last > _in_utc(first, zone) + HORIZON:
        raise BadRuleError("UNTIL is more than ten years after the start")
    return starts


def _in_utc(wall: datetime, zone: tzinfo) -> datetime:
    return (wall if wall.tzinfo else wall.replace(tzinfo=zone)).astimezone(UTC)


def to_utc(wall: datetime, zone: tzinfo) -> datetime | None:
    """Returns a wall-clock time in UTC: None if clocks leave it out, the first if they show it twice."""
    moment = wall.replace(tzinfo=zone).astimezone(UTC)
    return moment if moment.astimezone(zone).replace(tzinfo=None) == wall else None


def walls(rule: Rule, first: datetime, horizon: timedelta = HORIZON) -> Iterator[datetime]:
    """Gives the wall-clock times of a rule from ``first`` on, ascending, whatever its count and its end."""
    matches = _day_matcher(rule, first.date())
    times = _times(rule, first.time())
    positions = rule.numbers.get("BYSETPOS", ())
    for days in _periods(rule, first.date(), horizon):
        found = [datetime.combine(day, at) for day in days if matches(day) for at in times]
        if positions:
            count = len(found)
            chosen = {at - 1 if at > 0 else count + at for at in positions if abs(at) <= count}
            found = [found[at] for at in sorted(chosen)]
        yield from (wall for wall in found if wall >= first)


def _times(rule: Rule, first: time) -> list[time]:
    parts = (("BYHOUR", first.hour), ("BYMINUTE", first.minute), ("BYSECOND", first.second))
    choices = [rule.numbers.get(name, (of_first,)) for name, of_first in parts]
    return [time(hour, minute, second, first.microsecond) for hour, minute, second in product(*choices)]


def _periods(rule: Rule, first: date, horizon: timedelta) -> Iterator[list[date]]:
    """Gives the days of each period of the rule: of a year, a month, a week or one day."""
    end = min(first.toordinal() + horizon.days, date.max.toordinal() - 400)
    at, number = _period_start(rule, first), 0
    while at.toordinal() <= end:
        following = _step(rule.frequency, at, 1)
        yield [date.fromordinal(day) for day in range(at.toordinal(), following.toordinal())]
        number += rule.interval
        at = _step(rule.frequency, _period_start(rule, first), number)


def _period_start(rule: Rule, day: date) -> date:
    if rule.frequency == "YEARLY":
        return day.replace(month=1, day=1)
    if rule.frequency == "MONTHLY":
        return day.replace(day=1)
    return _week_of(day, rule.week_start) if rule.frequency == "WEEKLY" else day


def _step(frequency: str, day: date, number: int) -> date:
    """Returns the start of the period ``number`` periods after the one that begins on ``day``, at most the last day."""
    if frequency in ("DAILY", "WEEKLY"):
        days = number * (7 if frequency == "WEEKLY" else 1)
        return date.fromordinal(min(day.toordinal() + days, date.max.toordinal()))
    months = day.year * 12 + day.month - 1 + number * (12 if frequency == "YEARLY" else 1)
    return date(months // 12, months % 12 + 1, 1) if months < date.max.year * 12 else date.max


def _day_matcher(rule: Rule, first: date) -> Callable[[date], bool]:
    """Returns what says whether a day is one of the rule's; what the rule leaves open is as on the first day."""
    months = rule.numbers.get("BYMONTH", ())
    month_days = rule.numbers.get("BYMONTHDAY", ())
    year_days = rule.numbers.get("BYYEARDAY", ())
    weeks = rule.numbers.get("BYWEEKNO", ())
    weekdays = rule.weekdays
    if rule.frequency == "YEARLY" and not (month_days or year_days or weeks or weekdays):
        month_days, months = (first.day,), months or (first.month,)
    elif rule.frequency == "MONTHLY" and not (month_days or weekdays):
        month_days = (first.day,)
    elif (rule.frequency == "WEEKLY" or weeks) and not (weekdays or month_days or year_days):
        weekdays = ((0, first.weekday()),)
    in_month = rule.frequency == "MONTHLY" or bool(months)

    def matches(day: date) -> bool:
        return (
            (not months or day.month in months)
            and (not month_days or _is_one_of(month_days, day, *_month_of(day)))
            and (not year_days or _is_one_of(year_days, day, *_year_of(day)))
            and (not weekdays or _is_weekday(weekdays, day, *(_month_of(day) if in_month else _year_of(day))))
            and (not weeks or _is_week(weeks, day, rule.week_start))
        )

    return matches


def _month_of(day: date) -> tuple[date, date]:
    """Returns the first day of the month and of the next."""
    start = day.replace(day=1)
    return start, _step("MONTHLY", start, 1)


def _year_of(day: date) -> tuple[date, date]:
    start = day.replace(month=1, day=1)
    return start, _step("YEARLY", start, 1)


def _is_one_of(numbers: tuple[int, ...], day: date, start: date, end: date) -> bool:
    return (day - start).days + 1 in numbers or (day - end).days in numbers


def _is_weekday(weekdays: tuple[tuple[int, int], ...], day: date, start: date, end: date) -> bool:
    return any(
        weekday == day.weekday()
        and (which == 0 or which == (day - start).days // 7 + 1 or which == -(((end - day).days - 1) // 7) - 1)
        for which, weekday in weekdays
    )


def _week_of(day: date, week_start: int) -> date:
    return date.fromordinal(max(1, day.toordinal() - (day.weekday() - week_start) % 7))


def _is_week(numbers: tuple[int, ...], day: date, week_start: int) -> bool:
    """Whether the day is in one of the weeks, counted in the year that has at least four days of the week."""
    year = (_week_of(day, week_start) + timedelta(days=3)).year
    start, end = (_week_of(date(each, 1, 4), week_start) for each in (year, year + 1))
    return (day - start).days // 7 + 1 in numbers or (day - end).days // 7 in numbers
