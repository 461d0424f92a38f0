"""Recurrence rules: right as dateutil is, in wall-clock time, and bounded."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import islice
from zoneinfo import ZoneInfo

import pytest
from dateutil.rrule import rrulestr
from hypothesis import given, settings
from hypothesis import strategies as st
from openfacility_server.errors import InvalidArgument
from openfacility_server.status.recurrence import BadRuleError, expand, occurrences, parse

HOUR = timedelta(hours=1)
DAYS = ("MO", "TU", "WE", "TH", "FR", "SA", "SU")


def test_keeps_the_wall_clock_time_when_clocks_change() -> None:
    start = datetime(2026, 3, 24, 9, tzinfo=UTC)  # 9:00 in London; summer time begins on 29 March

    spans = occurrences("FREQ=WEEKLY;BYDAY=TU;COUNT=3", "Europe/London", start, start + 2 * HOUR)

    london = ZoneInfo("Europe/London")
    assert [span[0].astimezone(london).hour for span in spans] == [9, 9, 9]
    assert [span[0].hour for span in spans] == [9, 8, 8]
    assert all(end - begin == 2 * HOUR and begin.tzinfo == UTC for begin, end in spans)


def test_times_that_clocks_leave_out_are_neither_given_nor_counted() -> None:
    start = datetime(2026, 3, 28, 1, 30, tzinfo=UTC)

    spans = occurrences("FREQ=DAILY;COUNT=3", "Europe/London", start, start + HOUR)

    assert [begin.astimezone(ZoneInfo("Europe/London")).day for begin, _ in spans] == [28, 30, 31]


def test_the_first_of_two_equal_times_is_taken() -> None:
    start = datetime(2026, 10, 24, 0, 30, tzinfo=UTC)

    spans = occurrences("FREQ=DAILY;COUNT=2", "Europe/London", start, start + HOUR)

    assert spans[1][0] == datetime(2026, 10, 25, 0, 30, tzinfo=UTC)


@pytest.mark.parametrize("until", ["20260303", "20260303T100000Z", "20260303T100000"])
def test_until_is_inclusive(until: str) -> None:
    start = datetime(2026, 3, 1, 10, tzinfo=UTC)

    spans = occurrences(f"FREQ=DAILY;UNTIL={until}", "", start, start + HOUR)

    assert [begin.day for begin, _ in spans] == [1, 2, 3]


@pytest.mark.parametrize(
    ("rule", "says"),
    [
        ("", "NAME=VALUE"),
        ("FREQ=DAILY", "has to end"),
        ("FREQ=DAILY;COUNT=2;UNTIL=20270101", "either COUNT or UNTIL"),
        ("FREQ=SECONDLY;COUNT=2", "too often"),
        ("FREQ=HOURLY;UNTIL=20270101", "too often"),
        ("FREQ=SOMETIMES;COUNT=2", "needs FREQ"),
        ("COUNT=2", "needs FREQ"),
        ("FREQ=DAILY;COUNT=0", "COUNT is a number from 1 to 366"),
        ("FREQ=DAILY;COUNT=367", "COUNT is a number from 1 to 366"),
        ("FREQ=DAILY;COUNT=" + "9" * 400, "COUNT is a number"),
        ("FREQ=DAILY;INTERVAL=0;COUNT=2", "INTERVAL"),
        ("FREQ=DAILY;COUNT=2;COUNT=3", "twice"),
        ("FREQ=DAILY;COUNT=2;BYEASTER=0", "not a part of a rule"),
        ("FREQ=DAILY;COUNT=2;BYHOUR=24", "BYHOUR goes from 0 to 23"),
        ("FREQ=MONTHLY;COUNT=2;BYMONTHDAY=0", "without 0"),
        ("FREQ=MONTHLY;COUNT=2;BYDAY=XX", "not a day of the week"),
        ("FREQ=MONTHLY;COUNT=2;BYDAY=54MO", "not a day of the week"),
        ("FREQ=WEEKLY;COUNT=2;BYDAY=1MO", "MONTHLY or YEARLY"),
        ("FREQ=WEEKLY;COUNT=2;BYMONTHDAY=1", "does not go with"),
        ("FREQ=DAILY;COUNT=2;BYSETPOS=1", "BYSETPOS needs"),
        ("FREQ=DAILY;COUNT=2;WKST=XX", "WKST"),
        ("FREQ=DAILY;UNTIL=tomorrow", "UNTIL is a date or a time"),
        ("FREQ=DAILY;UNTIL=20260230", "UNTIL is a date or a time"),
        ("FREQ=DAILY;UNTIL=20280101", "more than 366 times"),
        ("FREQ=MONTHLY;UNTIL=29990101", "ten years"),
        ("FREQ=YEARLY;COUNT=20", "ten years"),
        ("FREQ=DAILY;COUNT=30;BYHOUR=0,1,2,3;BYMINUTE=0,10,20,30,40,50,55", "24 times a day"),
        ("FREQ=DAILY;COUNT=3;BYHOUR=9;BYMINUTE=0,30", "has not ended"),
        ("FREQ=WEEKLY;BYDAY=WE;COUNT=3", "does not match the first start, Monday"),
        ("FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=30;COUNT=2", "ten years"),
        ("FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=30;UNTIL=20300101", "does not match"),
    ],
)
def test_a_rule_that_cannot_be_used_is_refused_with_the_reason(rule: str, says: str) -> None:
    start = datetime(2026, 3, 2, 9, tzinfo=UTC)

    with pytest.raises(InvalidArgument, match=says) as caught:
        occurrences(rule, "", start, start + HOUR)

    assert [violation.field for violation in caught.value.violations] == ["recurrence.rule"]


@pytest.mark.parametrize("zone", ["Mars/Olympus", "/etc/passwd", "../../etc/passwd", "Europe", "x" * 64, "a\0b"])
def test_an_unknown_time_zone_is_refused(zone: str) -> None:
    start = datetime(2026, 3, 2, 9, tzinfo=UTC)

    with pytest.raises(InvalidArgument) as caught:
        occurrences("FREQ=DAILY;COUNT=2", zone, start, start + HOUR)

    assert [violation.field for violation in caught.value.violations] == ["recurrence.time_zone"]


def test_occurrences_that_touch_do_not_overlap() -> None:
    start = datetime(2026, 3, 2, tzinfo=UTC)

    assert len(occurrences("FREQ=DAILY;COUNT=366", "", start, start + timedelta(days=1))) == 366
    with pytest.raises(InvalidArgument, match="has not ended"):
        occurrences("FREQ=DAILY;COUNT=2", "", start, start + timedelta(days=1, microseconds=1))


def test_the_first_start_may_be_no_match_where_calendars_allow_it() -> None:
    first = datetime(2026, 3, 2, 9)  # noqa: DTZ001

    starts = expand(parse("FREQ=WEEKLY;BYDAY=WE;COUNT=3"), first, UTC, with_first=True)

    assert [start.day for start in starts] == [2, 4, 11]


@st.composite
def rules(draw: st.DrawFn) -> str:
    """Rules on whose meaning everybody agrees."""

    def numbers(low: int, high: int, most: int) -> str:
        values = st.integers(low, high).filter(lambda value: value != 0 or low == 0)
        return ",".join(map(str, draw(st.lists(values, min_size=1, max_size=most, unique=True))))

    frequency = draw(st.sampled_from(["YEARLY", "MONTHLY", "WEEKLY", "DAILY"]))
    parts = [f"FREQ={frequency}", f"INTERVAL={draw(st.integers(1, 3))}", f"COUNT={draw(st.integers(1, 30))}"]
    parts.append(f"WKST={draw(st.sampled_from(DAYS))}")
    fixed = len(parts)
    counted = False
    if days := draw(st.lists(st.sampled_from(DAYS), max_size=3, unique=True)):
        counted = frequency in ("YEARLY", "MONTHLY") and draw(st.booleans())
        parts.append(
            "BYDAY=" + ",".join(f"{draw(st.sampled_from([1, 2, -1, -2])) if counted else ''}{d}" for d in days)
        )
    if draw(st.booleans()):
        parts.append("BYMONTH=" + numbers(1, 12, 4))
    if frequency != "WEEKLY" and draw(st.booleans()):
        parts.append("BYMONTHDAY=" + numbers(-31, 31, 6))
    if frequency == "YEARLY" and draw(st.booleans()):
        parts.append("BYYEARDAY=" + numbers(-366, 366, 40))
    if frequency == "YEARLY" and days and not counted and draw(st.booleans()):
        parts.append("BYWEEKNO=" + numbers(1, 53, 5))
    if draw(st.booleans()):
        parts.append("BYHOUR=" + numbers(0, 23, 2))
    if len(parts) > fixed and frequency != "WEEKLY" and draw(st.booleans()):
        parts.append("BYSETPOS=" + numbers(-3, 3, 2))
    return ";".join(parts)


@given(rules(), st.datetimes(datetime(2024, 1, 1), datetime(2028, 1, 1)))  # noqa: DTZ001
@settings(deadline=None, max_examples=150)
def test_gives_what_dateutil_gives(rule: str, first: datetime) -> None:
    first = first.replace(microsecond=0)
    try:
        starts = expand(parse(rule), first, UTC)
    except BadRuleError:
        return

    assert [start.replace(tzinfo=None) for start in starts] == list(islice(rrulestr(rule, dtstart=first), len(starts)))


@given(st.text(st.sampled_from("FREQ=YEARLYMONTHWKDIBDSPU;,0123456789-+T "), max_size=500))
@settings(deadline=None, max_examples=300)
def test_any_text_is_a_rule_or_refused(text: str) -> None:
    start = datetime(2026, 3, 2, 9, tzinfo=UTC)
    try:
        assert len(occurrences(text, "", start, start + HOUR)) <= 366
    except InvalidArgument as error:
        assert error.violations[0].field == "recurrence.rule"  # noqa: PT017


@pytest.mark.timeout(60)  # 0.1 s; dateutil looks on to the year 9999 and needs 20 s for each
def test_a_rule_that_nothing_matches_ends() -> None:
    start = datetime(2026, 3, 2, 9)  # noqa: DTZ001

    for rule in ["FREQ=DAILY;BYMONTH=2;BYMONTHDAY=30;COUNT=9", "FREQ=YEARLY;BYDAY=53MO,-53SU;BYMONTH=1;COUNT=9"] * 5:
        with pytest.raises(BadRuleError, match="ten years"):
            expand(parse(rule), start, UTC)
