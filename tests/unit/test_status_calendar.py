"""Calendars: what they plan, what is wrong with them, and that an export can be imported."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import icalendar
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openfacility_server.errors import InvalidArgument
from openfacility_server.status.calendar import MOST_PLANNED, Planned, incident_id_of, read, uid_of, write
from openfacility_server.status.model import Facility, Incident, IncidentType, Resolution, Severity, Status

KNOWN = {"cpu", "gpu", "scratch"}
FACILITY = Facility("demo", "Demo facility")
HOUR = timedelta(hours=1)


def document(*events: str, head: str = "") -> str:
    """A calendar of events, each given by its properties."""
    parts = ["BEGIN:VCALENDAR", "VERSION:2.0", "PRODID:-//t//t//EN", *head.split()]
    for event in events:
        parts += ["BEGIN:VEVENT", *event.strip().splitlines(), "END:VEVENT"]
    return "\r\n".join([*(part.strip() for part in parts), "END:VCALENDAR", ""])


def event(*lines: str, uid: str = "a@x", start: str = "DTSTART:20300101T080000Z", end: str = "DURATION:PT2H") -> str:
    """The properties of an event that is right, and more."""
    return "\n".join([f"UID:{uid}", "DTSTAMP:20260101T000000Z", start, end, *lines])


def plan(*events: str, head: str = "", default: Sequence[str] = ("cpu",)) -> list[Planned]:
    """Reads a calendar of events."""
    return read(document(*events, head=head), default, KNOWN)


def at(*parts: int) -> datetime:
    """A time in UTC."""
    return datetime(*parts, tzinfo=UTC)  # type: ignore[misc,arg-type]


def test_an_event_is_an_incident() -> None:
    text = event("SUMMARY:Cooling\\, phase 2", "DESCRIPTION:One\\nTwo\\; three", "RESOURCES:cpu,gpu", "SEQUENCE:3")

    assert plan(text) == [
        Planned(
            "a@x",
            "Cooling, phase 2",
            "One\nTwo; three",
            at(2030, 1, 1, 8),
            at(2030, 1, 1, 10),
            ("cpu", "gpu"),
            sequence=3,
        )
    ]


@pytest.mark.parametrize(
    ("start", "end", "begins", "ends"),
    [
        ("DTSTART:20300701T080000Z", "DTEND:20300701T093000Z", (7, 1, 8), (7, 1, 9, 30)),
        ("DTSTART;TZID=Europe/London:20300701T080000", "DURATION:PT1H", (7, 1, 7), (7, 1, 8)),
        ("DTSTART;TZID=W. Europe Standard Time:20300701T080000", "DURATION:PT1H", (7, 1, 6), (7, 1, 7)),
        ("DTSTART;TZID=/example.org/v1/Europe/London:20300701T080000", "DURATION:PT1H", (7, 1, 7), (7, 1, 8)),
        ("DTSTART;VALUE=DATE:20300701", "DTEND;VALUE=DATE:20300703", (7, 1), (7, 3)),
        ("DTSTART;VALUE=DATE:20300701", "COMMENT:all day", (7, 1), (7, 2)),
        # Summer time begins on 31 March 2030: a day is an hour shorter, 24 hours are not.
        ("DTSTART;TZID=Europe/London:20300330T120000", "DURATION:P1D", (3, 30, 12), (3, 31, 11)),
        ("DTSTART;TZID=Europe/London:20300330T120000", "DURATION:PT24H", (3, 30, 12), (3, 31, 12)),
    ],
)
def test_times(start: str, end: str, begins: tuple[int, ...], ends: tuple[int, ...]) -> None:
    [planned] = plan(event(start=start, end=end))

    assert (planned.start, planned.end) == (at(2030, *begins), at(2030, *ends))


def test_all_day_is_in_the_zone_of_the_calendar() -> None:
    [planned] = plan(event(start="DTSTART;VALUE=DATE:20300331", end=""), head="X-WR-TIMEZONE:Europe/London")

    assert (planned.start, planned.end) == (at(2030, 3, 31), at(2030, 3, 31, 23))


VTIMEZONE = """
BEGIN:VTIMEZONE
TZID:{name}
BEGIN:STANDARD
DTSTART:16010101T030000
TZOFFSETFROM:+0200
TZOFFSETTO:+0100
RRULE:FREQ=YEARLY;BYDAY=-1SU;BYMONTH=10
END:STANDARD
BEGIN:DAYLIGHT
DTSTART:16010101T020000
TZOFFSETFROM:+0100
TZOFFSETTO:{summer}
RRULE:FREQ=YEARLY;BYDAY=-1SU;BYMONTH=3
END:DAYLIGHT
END:VTIMEZONE
"""


def zone(name: str = "Ours", summer: str = "+0200") -> str:
    """A time zone like Berlin's."""
    return VTIMEZONE.format(name=name, summer=summer)


@pytest.mark.parametrize(("local", "hour"), [("20300115T080000", 7), ("20300715T080000", 6), ("20300331T020000", 1)])
def test_a_zone_that_the_document_describes(local: str, hour: int) -> None:
    [planned] = plan(event(start=f"DTSTART;TZID=Ours:{local}"), head=zone())

    assert planned.start.hour == hour


def test_a_described_zone_is_not_kept_for_the_next_document() -> None:
    [first] = plan(event(start="DTSTART;TZID=Ours:20300715T080000"), head=zone(summer="+0200"))
    [second] = plan(event(start="DTSTART;TZID=Ours:20300715T080000"), head=zone(summer="+0300"))

    assert (first.start.hour, second.start.hour) == (6, 5)
    with pytest.raises(InvalidArgument, match="TZID 'Ours' is not a time zone"):
        plan(event(start="DTSTART;TZID=Ours:20300715T080000"))


def test_a_document_cannot_change_a_zone_that_everybody_knows() -> None:
    [planned] = plan(
        event(start="DTSTART;TZID=Europe/London:20300715T080000"), head=zone("Europe/London", summer="+1200")
    )

    assert planned.start.hour == 7


def test_a_described_zone_is_the_same_as_a_known_one_all_year() -> None:
    days = [at(2030, 1, 1) + timedelta(days=day) for day in range(0, 365, 5)]
    described, known = (
        plan(*(event(uid=f"{day:%j}", start=f"DTSTART;TZID={name}:{day:%Y%m%d}T023000") for day in days), head=zone())
        for name in ("Ours", "Europe/Berlin")
    )

    assert described == known


def test_recurring_events_with_one_left_out_one_moved_and_one_added() -> None:
    series = event(
        "RRULE:FREQ=WEEKLY;COUNT=4", "EXDATE:20300108T080000Z", "RDATE:20300110T120000Z", "SUMMARY:Weekly", uid="w"
    )
    moved = event("RECURRENCE-ID:20300115T080000Z", "SUMMARY:Later", uid="w", start="DTSTART:20300115T200000Z")

    found = plan(series, moved)

    assert [(each.start, each.cancelled, each.name) for each in found] == [
        (at(2030, 1, 1, 8), False, "Weekly"),
        (at(2030, 1, 8, 8), True, "Weekly"),
        (at(2030, 1, 10, 12), False, "Weekly"),
        (at(2030, 1, 15, 20), False, "Later"),
        (at(2030, 1, 22, 8), False, "Weekly"),
    ]
    assert {each.series_uid for each in found} == {"w"}
    assert found[3].uid == "w/20300115T080000Z"


def test_recurring_days_stay_whole_days_when_clocks_change() -> None:
    found = plan(
        event("RRULE:FREQ=WEEKLY;COUNT=3", start="DTSTART;VALUE=DATE:20300324", end=""),
        head="X-WR-TIMEZONE:Europe/London",
    )

    assert [each.end - each.start for each in found if each.end] == [24 * HOUR, 23 * HOUR, 24 * HOUR]


def test_called_off() -> None:
    one, other = plan(event("STATUS:CANCELLED", uid="1"), event(uid="2"))
    [all_] = plan(event("RESOURCES:gone\\,away"), head="METHOD:CANCEL", default=())

    assert (one.cancelled, other.cancelled, all_.cancelled) == (True, False, True)


@pytest.mark.parametrize(
    ("lines", "default", "resources"),
    [
        (["RESOURCES:cpu,gpu", "RESOURCES:scratch"], (), ("cpu", "gpu", "scratch")),
        (["RESOURCES:gpu", "LOCATION:cpu"], ("scratch",), ("gpu",)),
        (["LOCATION:cpu\\, gpu"], ("scratch",), ("cpu", "gpu")),
        (["LOCATION:Room 5"], ("scratch",), ("scratch",)),
        ([], ("scratch", "cpu"), ("scratch", "cpu")),
    ],
)
def test_which_resources(lines: list[str], default: tuple[str, ...], resources: tuple[str, ...]) -> None:
    assert plan(event(*lines), default=default)[0].resource_ids == resources


def test_how_bad() -> None:
    lines = ("PRIORITY:2", "CATEGORIES:Reservation,other", "X-OPENFACILITY-STATUS:DEGRADED")

    [planned] = plan(event(*lines))

    assert (planned.severity, planned.type) == (Severity.CRITICAL, IncidentType.RESERVATION)
    assert planned.status == Status.DEGRADED


def refused(text: str, default: Sequence[str] = ("cpu",)) -> str:
    """Reads a document that is wrong and returns what is said about it."""
    with pytest.raises(InvalidArgument) as caught:
        read(text, default, KNOWN)
    assert [violation.field for violation in caught.value.violations] == ["calendar"]
    return caught.value.text


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (event(start="DTSTART:20300101T080000"), "DTSTART: 20300101T080000 is in no time zone"),
        (event(start="DTSTART;TZID=Mars:20300101T080000"), "DTSTART: TZID 'Mars' is not a time zone"),
        (event(start="DTSTART;TZID=../../etc/passwd:20300101T080000"), "is not a time zone"),
        (event(start="DTSTART:tomorrow"), "DTSTART: 'TOMORROW' is not a date or a time"),
        (event(start="DTSTART:20300230T080000Z"), "DTSTART: '20300230T080000Z' cannot be understood"),
        (event(start="DTSTART:00010101T080000Z"), "DTSTART: the year is out of range"),
        (event(start=""), "DTSTART: is needed"),
        (event("DTSTART:20300101T090000Z"), "DTSTART: is there more than once"),
        (event(end="DTEND:20300101T070000Z"), "DTEND: the end is not after the start"),
        (event(end="DTEND:20300101T080000Z"), "DTEND: the end is not after the start"),
        (event(end="DTEND:20310201T080000Z"), "DTEND: the end is more than a year after the start"),
        (event(end="DTEND:20300101T090000"), "DTEND: 20300101T090000 is in no time zone"),
        (event(end=""), "DTEND: is needed"),
        (event("DTEND:20300101T090000Z"), "DURATION: is there beside DTEND"),
        (event(end="DURATION:-PT1H"), "DURATION: the end is not after the start"),
        (event(end="DURATION:soon"), "DURATION: 'soon' cannot be understood"),
        (event(end="DURATION:P99999999999D"), "DURATION"),
        (event("RESOURCES:cpu,mainframe"), "RESOURCES: there is no resource mainframe"),
        (event("RRULE:FREQ=WEEKLY"), "RRULE: has to end"),
        (event("RRULE:FREQ=SECONDLY;COUNT=5"), "RRULE: FREQ=SECONDLY is too often"),
        (event("RRULE:FREQ=DAILY;COUNT=2", end="DURATION:P3D"), "RRULE: an occurrence has not ended"),
        (event("RRULE:FREQ=DAILY;COUNT=2", "RRULE:FREQ=DAILY;COUNT=3"), "RRULE: is there more than once"),
        (event("RRULE:FREQ=DAILY;COUNT=2", "EXDATE:20300101T080000"), "EXDATE: 20300101T080000 is in no time zone"),
        (event("RDATE:whenever"), "RDATE: 'WHENEVER' is not a date or a time"),
        (event("EXRULE:FREQ=DAILY;COUNT=2"), "EXRULE: is no longer part"),
        (event("RECURRENCE-ID;RANGE=THISANDFUTURE:20300101T080000Z"), "RECURRENCE-ID: RANGE is not supported"),
        (event("SEQUENCE:first"), "SEQUENCE: 'first' is not a number"),
        (event("SUMMARY:" + "x" * 256), "SUMMARY: is longer than 255"),
        (event("DESCRIPTION:" + "x" * 10_001), "DESCRIPTION: is longer than 10000"),
        (event("X-OPENFACILITY-STATUS:MOODY"), "X-OPENFACILITY-STATUS: is none of"),
    ],
)
def test_an_error_names_the_component_and_the_property(wrong: str, says: str) -> None:
    text = refused(document(event(uid="fine"), wrong))

    assert says in text
    assert "component 3 (VEVENT, UID a@x)" in text


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (document(event(uid="")), "component 2 (VEVENT, UID ): UID: is needed"),
        (document(event(uid="x" * 231)), "UID: is needed, a line of at most 230"),
        (document(event(uid="1"), event(uid="1")), "UID 1 is there more than once"),
        (document(event(), event("RECURRENCE-ID:20300101T080000Z")), "an event that does not recur"),
        ("", "is not an iCalendar document"),
        ("/etc/passwd", "'/etc/passwd' is not in a component"),
        ("<html>\n</html>", "is not an iCalendar document"),
        ("BEGIN:VEVENT\nEND:VEVENT\n", "component 1 (VEVENT) is in the wrong place"),
        ("BEGIN:VCALENDAR\nBEGIN:VCALENDAR\n", "component 2 (VCALENDAR) is in the wrong place"),
        ("BEGIN:VCALENDAR\nBEGIN:VEVENT\nEND:VCALENDAR\n", "END:VCALENDAR where END:VEVENT is due"),
        ("BEGIN:VCALENDAR\nBEGIN:VEVENT\n", "component 2 (VEVENT): END: is missing"),
        ("BEGIN:VCALENDAR\nEND:VCALENDAR\nEND:VCALENDAR", "is not in a component"),
        ("BEGIN:VCALENDAR\nUID;X:\nEND:VCALENDAR", "UID: the line"),
    ],
)
def test_a_document_that_is_not_one_is_refused(text: str, says: str) -> None:
    assert says in refused(text)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("TZOFFSETTO:+0100", "TZOFFSETTO:soon", "TZOFFSETTO: 'soon' cannot be understood"),
        ("TZOFFSETTO:+0100", "TZOFFSETTO:+9900", "TZOFFSETTO"),
        ("TZOFFSETTO:+0100\r\n", "", "TZOFFSETTO: is needed"),
        ("FREQ=YEARLY", "FREQ=SECONDLY", "RRULE: FREQ=SECONDLY is too often"),
        ("FREQ=YEARLY;BYDAY=-1SU;BYMONTH=10", "FREQ=DAILY", "RRULE: of a time zone is FREQ=YEARLY"),
        ("DTSTART:16010101T030000", "DTSTART:00010101T030000", "DTSTART: the year is out of range"),
        ("DTSTART:16010101T030000", "DTSTART:1601", "DTSTART: is a local time"),
        ("DTSTART:16010101T030000\r\n", "", "DTSTART: is a local time"),
    ],
)
def test_a_zone_that_is_described_badly_is_refused(old: str, new: str, says: str) -> None:
    text = document(event(start="DTSTART;TZID=Ours:20300715T080000"), head=zone()).replace(old, new)
    assert says in refused(text)


def test_without_any_resource() -> None:
    assert "names no resource" in refused(document(event("LOCATION:Room 5")), default=())


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("text", "says"),
    [
        (document("X-LONG:" + "é" * 600_000), "is larger than 1 MiB"),
        (document(*[""] * 1000), "more than 1000 components"),
        ("BEGIN:VCALENDAR\n" + "BEGIN:VALARM\n" * 900, "5 in each other"),
        (document(*[event("RRULE:FREQ=DAILY;COUNT=1", uid=str(at)) for at in range(101)]), "100 recurring events"),
        (
            document(*[event("RRULE:FREQ=DAILY;COUNT=366", uid=str(at)) for at in range(6)]),
            f"plans more than {MOST_PLANNED} incidents",
        ),
        (
            document(*[event("RRULE:FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=30;COUNT=9", uid=str(at)) for at in range(100)]),
            "ten years",
        ),
        ("BEGIN:VCALENDAR\nUID" + ";A=B" * 200_000 + ":x\nEND:VCALENDAR", "is not"),
        ("BEGIN:VCALENDAR\nUID;" + '"' * 999_999 + ":x\nEND:VCALENDAR", "cannot be read"),
        ("\r\n" * 500_000, "is not an iCalendar document"),
        ("BEGIN:VCALENDAR\n" + " \n" * 400_000, "END: is missing"),
        ("BEGIN:VCALENDAR\n" + "A:\n" * 300_000, "END: is missing"),
        (document(event(*["EXDATE:20300101T080000Z"] * 30_000, "RRULE:FREQ=DAILY;COUNT=999")), "COUNT is a number"),
        (
            document(
                *[event(uid=str(at), start=f"DTSTART;TZID=z{at}:20300101T080000") for at in range(11)],
                head="".join(zone(f"z{at}") for at in range(11)),
            ),
            "describes more than 10 time zones",
        ),
    ],
)
def test_documents_that_mean_harm_end_soon(text: str, says: str) -> None:
    try:
        read(text, ("cpu",), KNOWN)
    except InvalidArgument as error:
        assert says in error.text or says == "is not"  # noqa: PT017
        assert len(error.text) <= 2000  # noqa: PT017


@given(st.text(st.sampled_from('BEGIN:VCALENDAR\r\nDTSTART;="Z0123456789,-TÄ\\ \x00\t')))
@settings(deadline=None, max_examples=200)
def test_any_text_is_a_calendar_or_refused(text: str) -> None:
    for each in (text, document(event(text)), document(text), document(event(), head=text)):
        try:
            read(each, ("cpu",), KNOWN)
        except InvalidArgument as error:
            assert error.violations[0].field == "calendar"  # noqa: PT017


TIMES = st.datetimes(datetime(1990, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001
TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), max_size=80)


@st.composite
def incidents(draw: st.DrawFn) -> Incident:
    """Planned incidents as they may be stored."""
    start = draw(TIMES)
    number = draw(st.integers(1, 2**40))
    return Incident(
        id=f"i{number}",
        type=draw(st.sampled_from([IncidentType.PLANNED, IncidentType.RESERVATION])),
        name=draw(TEXTS.map(lambda text: " ".join(text.split()) or "x")),
        status=draw(st.sampled_from(Status)),
        severity=draw(st.sampled_from(Severity)),
        start_time=start,
        end_time=draw(st.none() | st.timedeltas(timedelta(microseconds=1), timedelta(days=300)).map(start.__add__)),
        resolution=draw(st.sampled_from(Resolution)),
        resource_ids=tuple(draw(st.lists(st.sampled_from(sorted(KNOWN)), min_size=1, max_size=3, unique=True))),
        create_time=start,
        update_time=start,
        description=draw(st.lists(TEXTS, max_size=3).map("\n".join)).strip(),
        calendar_uid=draw(st.sampled_from(["", f"u{number}@elsewhere", f"u{number}/20300101T080000Z"])),
        revision=number,
    )


@given(st.lists(incidents(), max_size=5, unique_by=lambda each: each.id))
@settings(deadline=None, max_examples=60)
def test_what_is_exported_can_be_imported(exported: list[Incident]) -> None:
    found = read(write(FACILITY, exported), (), KNOWN)

    assert len(found) == len(exported)
    for planned, incident in zip(found, exported, strict=True):
        start = incident.start_time.replace(microsecond=0)
        end = incident.end_time and max(incident.end_time.replace(microsecond=0), start + timedelta(seconds=1))
        cancelled = incident.resolution == Resolution.CANCELLED
        assert planned == Planned(
            uid=uid_of("demo", incident),
            name=incident.name,
            description=incident.description,
            start=start,
            end=end,
            resource_ids=() if cancelled else incident.resource_ids,
            cancelled=cancelled,
            status=incident.status,
            sequence=min(incident.revision, 2**31 - 1),
            type=incident.type,
            severity=incident.severity,
        )


def test_an_export_is_what_the_rfc_asks_for() -> None:
    start = at(2030, 1, 1, 8)
    incident = Incident(
        "i1",
        IncidentType.PLANNED,
        "Cooling, " + "long " * 40,
        Status.DOWN,
        Severity.MAJOR,
        start,
        start + HOUR,
        Resolution.PENDING,
        ("cpu", "gpu"),
        create_time=start,
        update_time=start + HOUR,
        description="One\r\nTwo\x07",
        revision=7,
    )

    text = write(FACILITY, [incident])

    assert all(len(line.encode()) <= 75 for line in text.split("\r\n"))
    assert "\n" not in text.replace("\r\n", "")
    [found] = icalendar.Calendar.from_ical(text.encode()).walk("VEVENT")
    assert found["UID"] == "i1@demo"
    assert found["DTSTAMP"].dt == found["LAST-MODIFIED"].dt == start + HOUR
    assert (found["DTSTART"].dt, found["DTEND"].dt) == (start, start + HOUR)
    assert (found["STATUS"], found["SEQUENCE"], found["PRIORITY"]) == ("CONFIRMED", 7, 5)
    assert found["DESCRIPTION"] == "One\nTwo"
    assert found["RESOURCES"] == ["cpu", "gpu"]


def test_uids_say_what_is_ours() -> None:
    assert incident_id_of("demo", "abc@demo") == "abc"
    assert incident_id_of("demo", "abc@elsewhere") == ""
