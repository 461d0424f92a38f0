"""Planned incidents from and to iCalendar (RFC 5545)."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta, tzinfo

from icalendar import Calendar, Event, vText

from openfacility_server.errors import invalid
from openfacility_server.status.ics import (
    CONTROLS,
    ENDLESS,
    FIELD,
    STATUS,
    Component,
    Property,
    Zones,
    components,
    duration,
    parsed,
)
from openfacility_server.status.model import Facility, Incident, IncidentType, Resolution, Severity, Status
from openfacility_server.status.recurrence import BadRuleError, check_apart, expand, parse

MOST_PLANNED = 2000
_MOST_RULES = 100
_LONGEST = timedelta(days=366)
_PRIORITIES = {Severity.CRITICAL: 1, Severity.MAJOR: 5, Severity.MINOR: 9}
_TIME = re.compile(r"\d{8}(T\d{6}Z?)?")


@dataclass(frozen=True, slots=True)
class Planned:
    """What a calendar plans; all that an incident needs.

    ``uid`` names it for ever: the event's UID; of an occurrence of a recurring event that, ``/`` and its first start,
    and ``series_uid`` is the event's UID then. Cancelled ones are there, so that those that are known are called off.
    """

    uid: str
    name: str
    description: str
    start: datetime
    end: datetime | None
    resource_ids: tuple[str, ...]
    cancelled: bool = False
    status: Status = Status.DOWN
    sequence: int = 0
    type: IncidentType = IncidentType.PLANNED
    severity: Severity = Severity.MINOR
    series_uid: str = ""


def uid_of(facility_id: str, incident: Incident) -> str:
    """Returns the UID of an incident, which is the same in every export."""
    return incident.calendar_uid or f"{incident.id}@{facility_id}"


def incident_id_of(facility_id: str, uid: str) -> str:
    """Returns the id of our own incident that has this UID in our exports, empty if it is none of ours."""
    return uid.removesuffix(f"@{facility_id}") if uid.endswith(f"@{facility_id}") else ""


def write(facility: Facility, incidents: Iterable[Incident]) -> str:
    """Returns incidents as a document that ``read`` understands, in the order given; times in whole seconds of UTC."""
    calendar = Calendar()
    calendar.add("PRODID", "-//openfacility//status//EN")
    calendar.add("VERSION", "2.0")
    calendar.add("X-WR-CALNAME", _clean(facility.name or facility.id))
    for incident in incidents:
        calendar.add_component(_event_of(facility.id, incident))
    document: bytes = calendar.to_ical()
    return document.decode()


class _Text(vText):
    """A text in which a backslash before an N stays one: the library takes it for a line break."""

    def to_ical(self) -> bytes:
        escaped = self.replace("\\", "\\\\").replace(";", "\\;").replace(",", "\\,").replace("\n", "\\n")
        return escaped.encode()


def _event_of(facility_id: str, incident: Incident) -> Event:
    event = Event()
    event.add("UID", uid_of(facility_id, incident))
    event.add("DTSTAMP", _whole(incident.update_time))
    event.add("CREATED", _whole(incident.create_time))
    event.add("LAST-MODIFIED", _whole(incident.update_time))
    event.add("SEQUENCE", min(incident.revision, 2**31 - 1))
    event.add("SUMMARY", _Text(_clean(incident.name)), encode=False)
    if incident.description:
        event.add("DESCRIPTION", _Text(_clean(incident.description)), encode=False)
    start = _whole(incident.start_time)
    event.add("DTSTART", start)
    if incident.end_time is None:
        event.add(ENDLESS, "UNKNOWN")
    else:
        event.add("DTEND", max(_whole(incident.end_time), start + timedelta(seconds=1)))
    event.add("STATUS", "CANCELLED" if incident.resolution == Resolution.CANCELLED else "CONFIRMED")
    event.add("PRIORITY", _PRIORITIES[incident.severity])
    event.add("CATEGORIES", ["RESERVATION" if incident.type == IncidentType.RESERVATION else "MAINTENANCE"])
    event.add(STATUS, incident.status.name)
    for resource_id in incident.resource_ids:
        event.add("RESOURCES", resource_id)
    return event


def _whole(time: datetime) -> datetime:
    return time.astimezone(UTC).replace(microsecond=0)


def _clean(text: str) -> str:
    """Removes what a text of RFC 5545 cannot hold."""
    return CONTROLS.sub("", text.replace("\r\n", "\n"))


def read(text: str, default_resources: Sequence[str], known_resources: Collection[str]) -> list[Planned]:
    """Returns what a document plans, each recurring event occurrence by occurrence.

    All-day events are in the zone of ``X-WR-TIMEZONE``, else in UTC. Raises InvalidArgument on ``calendar`` that names
    the component and the property.
    """
    planned: list[Planned] = []
    rules = 0
    for calendar in components(text):
        rules += sum("RRULE" in component.properties for component in calendar.parts)
        if rules > _MOST_RULES:
            raise invalid(FIELD, f"has more than {_MOST_RULES} recurring events")
        for each in _Reader(calendar, default_resources, known_resources).planned():
            planned.append(each)
            if len(planned) > MOST_PLANNED:
                raise invalid(FIELD, f"plans more than {MOST_PLANNED} incidents")
    _check_unique(planned)
    return planned


def _check_unique(planned: Iterable[Planned]) -> None:
    seen: set[str] = set()
    for each in planned:
        if each.uid in seen:
            raise invalid(FIELD, f"UID {each.uid[:80]} is there more than once")
        seen.add(each.uid)


@dataclass(frozen=True, slots=True)
class _Moment:
    """A time as it is written: on the clocks of a zone."""

    wall: datetime
    zone: tzinfo
    is_date: bool

    @property
    def utc(self) -> datetime:
        return self.wall.replace(tzinfo=self.zone).astimezone(UTC)

    def after(self, length: timedelta, *, on_clocks: bool) -> datetime:
        """Returns the time so much later in UTC: by the clocks (days), or exactly."""
        return replace(self, wall=self.wall + length).utc if on_clocks else self.utc + length


class _Reader:
    """Reads the events of one VCALENDAR."""

    def __init__(self, calendar: Component, default_resources: Sequence[str], known: Collection[str]) -> None:
        self._events = [component for component in calendar.parts if component.name == "VEVENT"]
        self._default_resources = tuple(default_resources)
        self._known = known
        self._called_off = calendar.text("METHOD").upper() == "CANCEL"
        self._zones = Zones(calendar)
        zone = calendar.text("X-WR-TIMEZONE")
        self._own_zone = (self._zones.find(zone) if zone else None) or UTC

    def planned(self) -> Iterator[Planned]:
        changed: dict[str, list[Component]] = {}
        for event in self._events:
            if "RECURRENCE-ID" in event.properties:
                changed.setdefault(event.text("UID"), []).append(event)
        for event in self._events:
            if "RECURRENCE-ID" not in event.properties:
                yield from self._all_of(event, changed.pop(event.text("UID"), []))
        for alone in changed.values():
            yield from self._changed(alone).values()

    def _all_of(self, event: Component, changed: Sequence[Component]) -> Iterator[Planned]:
        """Gives what one event plans: itself, or its occurrences, those changed as they were changed."""
        if "EXRULE" in event.properties:
            raise event.wrong("EXRULE", "is no longer part of iCalendar; use EXDATE")
        first = self._one(event)
        if not event.properties.keys() & {"RRULE", "RDATE"}:
            if changed:
                raise changed[0].wrong("RECURRENCE-ID", "belongs to an event that does not recur")
            yield first
            return
        changes = self._changed(changed)
        excluded = self._times(event, "EXDATE")
        for start, end in self._spans(event, first):
            uid = _occurrence_uid(first.uid, start)
            if uid in changes:
                yield changes.pop(uid)
                continue
            cancelled = first.cancelled or start in excluded
            yield replace(first, uid=uid, series_uid=first.uid, start=start, end=end, cancelled=cancelled)
        yield from changes.values()

    def _changed(self, events: Iterable[Component]) -> dict[str, Planned]:
        found: dict[str, Planned] = {}
        for event in events:
            at = self._moment(event, "RECURRENCE-ID")
            assert at is not None
            if event.properties["RECURRENCE-ID"][0].parameters.get("RANGE"):
                raise event.wrong("RECURRENCE-ID", "RANGE is not supported; change each occurrence")
            each = self._one(event)
            uid = _occurrence_uid(each.uid, at.utc)
            if uid in found:
                raise event.wrong("RECURRENCE-ID", "is there more than once")
            found[uid] = replace(each, uid=uid, series_uid=each.uid)
        return found

    def _one(self, event: Component) -> Planned:
        start, end = self._span(event)
        summary = " ".join(event.text("SUMMARY").split()) or "Maintenance"
        cancelled = self._called_off or event.text("STATUS").upper() == "CANCELLED"
        categories = {category.upper() for category in event.values("CATEGORIES")}
        return Planned(
            uid=_uid(event),
            name=_short(event, "SUMMARY", summary, 255),
            description=_short(event, "DESCRIPTION", event.text("DESCRIPTION"), 10_000),
            start=start.utc,
            end=end,
            resource_ids=() if cancelled else self._resources(event),
            cancelled=cancelled,
            status=_status(event),
            sequence=_number(event, "SEQUENCE"),
            type=IncidentType.RESERVATION if "RESERVATION" in categories else IncidentType.PLANNED,
            severity=_severity(_number(event, "PRIORITY")),
        )

    def _resources(self, event: Component) -> tuple[str, ...]:
        """Returns what `RESOURCES` names, else what `LOCATION` names if it names only resources, else the default."""
        named = event.values("RESOURCES")
        if unknown := [name for name in named if name not in self._known]:
            raise event.wrong("RESOURCES", f"there is no resource {unknown[0][:80]}")
        places = [place.strip() for place in event.text("LOCATION").split(",")]
        if not named and all(place in self._known for place in places):
            named = places
        if not (named or self._default_resources):
            raise event.wrong("RESOURCES", "names no resource, LOCATION neither, and resource_ids gives none instead")
        return tuple(dict.fromkeys(named)) or self._default_resources

    def _span(self, event: Component) -> tuple[_Moment, datetime | None]:
        start = self._moment(event, "DTSTART")
        if start is None:
            raise event.wrong("DTSTART", "is needed")
        name, end = self._end(event, start)
        if end is not None and not start.utc < end:
            raise event.wrong(name, "the end is not after the start")
        if end is not None and end - start.utc > _LONGEST:
            raise event.wrong(name, "the end is more than a year after the start")
        return start, end

    def _end(self, event: Component, start: _Moment) -> tuple[str, datetime | None]:
        """Returns the end, and the property that says so."""
        end, text = self._moment(event, "DTEND"), event.text("DURATION")
        if end is not None:
            if text:
                raise event.wrong("DURATION", "is there beside DTEND")
            return "DTEND", end.utc
        if text:
            length = parsed(event, "DURATION", lambda: duration(text))
            on_clocks = "T" not in text.upper()
            return "DURATION", parsed(event, "DURATION", lambda: start.after(length, on_clocks=on_clocks))
        if start.is_date:
            return "DTSTART", start.after(timedelta(days=1), on_clocks=True)
        if event.text(ENDLESS).upper() != "UNKNOWN":
            raise event.wrong("DTEND", "is needed, or DURATION")
        return ENDLESS, None

    def _spans(self, event: Component, first: Planned) -> list[tuple[datetime, datetime]]:
        """Returns when a recurring event happens, soonest first, also where it is excluded.

        Those that take hours take exactly as long each; those that take days take whole days, whatever clocks do.
        """
        start = self._moment(event, "DTSTART")
        if start is None or first.end is None:
            raise event.wrong("DTEND", "is needed in a recurring event")
        length, days = first.end - first.start, round((first.end - first.start) / timedelta(days=1))
        zone = start.zone

        def end_of(at: datetime) -> datetime:
            if not start.is_date:
                return at + length
            local = _Moment(at.astimezone(zone).replace(tzinfo=None), zone, is_date=True)
            return local.after(timedelta(days=days), on_clocks=True)

        starts = {first.start} | self._times(event, "RDATE")
        try:
            if rule := event.one("RRULE"):
                starts.update(expand(parse(rule.value.strip()), start.wall, zone, with_first=True))
            spans = [(at, end_of(at)) for at in sorted(starts)]
            check_apart(spans)
        except (BadRuleError, OverflowError) as error:
            raise event.wrong("RRULE", str(error)) from None
        return spans

    def _times(self, event: Component, name: str) -> set[datetime]:
        return {
            self._read_moment(event, name, Property(each.parameters, value)).utc
            for each in event.properties.get(name, ())
            for value in each.value.split(",")
        }

    def _moment(self, event: Component, name: str) -> _Moment | None:
        found = event.one(name)
        return self._read_moment(event, name, found) if found else None

    def _read_moment(self, event: Component, name: str, found: Property) -> _Moment:
        text = found.value.strip().upper()
        if not _TIME.fullmatch(text):
            raise event.wrong(name, f"{text[:40]!r} is not a date or a time such as 20300101T080000Z")
        form = "%Y%m%dT%H%M%S" if "T" in text else "%Y%m%d"
        wall = parsed(event, name, lambda: datetime.strptime(text.removesuffix("Z"), form))  # noqa: DTZ007
        if not 1970 <= wall.year <= 9000:
            raise event.wrong(name, "the year is out of range")
        if "T" not in text:
            return _Moment(wall, self._own_zone, is_date=True)
        return _Moment(wall, self._zone_of(event, name, found, text), is_date=False)

    def _zone_of(self, event: Component, name: str, found: Property, text: str) -> tzinfo:
        if text.endswith("Z"):
            return UTC
        zone_name = found.parameters.get("TZID", "")
        if not zone_name:
            raise event.wrong(name, f"{text} is in no time zone; add Z for UTC, or TZID")
        zone = self._zones.find(zone_name)
        if zone is None:
            raise event.wrong(name, f"TZID {zone_name[:80]!r} is not a time zone, and no VTIMEZONE describes it")
        return zone


def _occurrence_uid(uid: str, start: datetime) -> str:
    return f"{uid}/{start:%Y%m%dT%H%M%SZ}"


def _uid(event: Component) -> str:
    uid = event.text("UID")
    if not uid or len(uid) > 230 or CONTROLS.search(uid) or "\n" in uid:
        raise event.wrong("UID", "is needed, a line of at most 230 characters")
    return uid


def _status(event: Component) -> Status:
    name = event.text(STATUS).upper() or "DOWN"
    if name not in Status.__members__:
        raise event.wrong(STATUS, "is none of UP, DEGRADED, DOWN, UNKNOWN")
    return Status[name]


def _short(event: Component, name: str, text: str, longest: int) -> str:
    if len(text) > longest:
        raise event.wrong(name, f"is longer than {longest} characters")
    return CONTROLS.sub("", text)


def _number(event: Component, name: str) -> int:
    text = event.text(name) or "0"
    if not (text.isascii() and text.isdecimal() and len(text) <= 10):
        raise event.wrong(name, f"{text[:40]!r} is not a number")
    return int(text)


def _severity(priority: int) -> Severity:
    """1 to 4 is high, 5 medium, 6 to 9 low, 0 not said."""
    if priority == 5:
        return Severity.MAJOR
    return Severity.CRITICAL if 1 <= priority < 5 else Severity.MINOR
