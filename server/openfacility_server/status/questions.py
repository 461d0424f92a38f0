"""What callers want to know: can I use it then, and what broke my job. Pure functions, no I/O.

Spans include their start and exclude their end; an end of None means without end.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import IntEnum

from openfacility_server.errors import invalid
from openfacility_server.jobs.model import JobReason, JobState
from openfacility_server.status.model import CurrentStatus, Event, Incident, IncidentType, Resolution, Resource, Status

LONGEST_SPAN = timedelta(days=3653)
RUN_MARGIN = timedelta(minutes=5)
_FIRST_YEAR, _LAST_YEAR = 1970, 9000
_FOREVER = datetime.max.replace(tzinfo=UTC)


class Availability(IntEnum):
    """Whether a resource can be used; numbers as in the contract."""

    AVAILABLE = 1
    AT_RISK = 2
    UNAVAILABLE = 3


@dataclass(frozen=True, slots=True)
class Span:
    """A span of time."""

    start: datetime
    end: datetime

    @property
    def length(self) -> timedelta:
        """How long it is."""
        return self.end - self.start

    def overlap(self, start: datetime, end: datetime | None) -> Span | None:
        """Returns the part that another span has too, None if there is none."""
        from_, to = max(self.start, start), min(self.end, end or _FOREVER)
        return Span(from_, to) if from_ < to else None


@dataclass(frozen=True, slots=True)
class Answer:
    """Whether a resource can be used in a span, because of what not, and when it could be for as long."""

    availability: Availability
    reason: str
    span: Span
    incidents: tuple[Incident, ...] = ()
    next_free: Span | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """How a job ended, and what it ran on."""

    state: JobState
    reason: JobReason
    end: datetime
    start: datetime | None = None
    node_count: int = 1


@dataclass(frozen=True, slots=True)
class Outage:
    """A time in which a resource was not as it should be, and how strongly that explains what was asked about."""

    resource_id: str
    status: Status
    overlap: Span
    likelihood: float
    explanation: str
    incident_id: str = ""
    events: tuple[Event, ...] = ()


@dataclass(frozen=True, slots=True)
class Findings:
    """The outages in a span, likeliest first; how long the resource was down in it; and that in a sentence."""

    outages: tuple[Outage, ...]
    span: Span
    down: timedelta
    summary: str


# ----------------------------------------------------------------------------------------------------------- the span


def checked_span(start: datetime, end: datetime, longest: timedelta = LONGEST_SPAN) -> Span:
    """Returns a span that makes sense. Raises InvalidArgument that names ``start_time`` or ``end_time``."""
    for name, time in (("start_time", start), ("end_time", end)):
        if not _FIRST_YEAR <= time.year <= _LAST_YEAR:
            raise invalid(name, f"the year is not between {_FIRST_YEAR} and {_LAST_YEAR}")
    if end == start:
        raise invalid("end_time", "is the same as start_time; a span takes some time")
    if end < start:
        raise invalid("end_time", f"is before start_time, {_clock(start)}")
    if end - start > longest:
        raise invalid("end_time", f"is more than {_long(longest)} after start_time")
    return Span(start, end)


def availability_span(start: datetime | None, end: datetime | None, now: datetime) -> Span:
    """Returns the span of ``CheckAvailability``: from now on, for an hour, unless it is given."""
    start = start or now
    span = checked_span(start, end or _moved(start, timedelta(hours=1)))
    if span.end <= now:
        raise invalid("end_time", "is in the past; FindOutages says what was")
    return span


def outages_span(start: datetime | None, end: datetime | None, now: datetime) -> Span:
    """Returns the span of ``FindOutages`` for a resource: the day before now, unless it is given."""
    end = end or now
    return checked_span(start or _moved(end, timedelta(days=-1)), end)


def run_span(start: datetime | None, end: datetime | None, now: datetime, longest: timedelta = LONGEST_SPAN) -> Span:
    """Returns the run of a job with a margin: what broke it may have been seen late, and the job's end too."""
    end = (end or now) + RUN_MARGIN
    return Span(max((start or end - RUN_MARGIN) - RUN_MARGIN, end - longest), end)


def _moved(time: datetime, by: timedelta) -> datetime:
    try:
        return time + by
    except OverflowError:  # The year is refused anyhow.
        return time


# -------------------------------------------------------------------------------------------------------- availability


@dataclass(frozen=True, slots=True)
class _Obstacle:
    """What speaks against using a resource, and when."""

    start: datetime
    end: datetime | None
    availability: Availability
    reason: str
    incident: Incident | None = None


def availability(
    resource: Resource, current: CurrentStatus, incidents: Iterable[Incident], span: Span, now: datetime
) -> Answer:
    """Says whether a resource can be used in a span, now or later.

    ``incidents`` are those that impact the resource, through dependencies too; those that are over do not count. How
    the resource is now counts when the span includes now, as long as nothing says until when.
    """
    incidents = tuple(incidents)
    obstacles = [*_obstacles(resource, incidents, now), *_now(resource, current, incidents, span, now)]
    hit = [each for each in obstacles if span.overlap(each.start, each.end)]
    hit.sort(key=lambda each: each.start)
    next_free = _free(span, [(each.start, each.end) for each in obstacles])
    if not hit:
        return Answer(Availability.AVAILABLE, f"nothing known speaks against {_name(resource)}", span, (), next_free)
    worst = max(hit, key=lambda each: each.availability)
    others = len(hit) - 1
    reason = worst.reason + (f" (and {others} more)" if others else "")
    found = tuple(each.incident for each in hit if each.incident)
    return Answer(worst.availability, reason, span, found, next_free)


def _obstacles(resource: Resource, incidents: Iterable[Incident], now: datetime) -> Iterator[_Obstacle]:
    for incident in incidents:
        reserved = incident.type == IncidentType.RESERVATION
        if incident.resolution.over or (incident.status == Status.UP and not reserved):
            continue
        # One that goes on is not over at the time at which it should have been.
        overdue = incident.resolution.active and incident.end_time is not None and incident.end_time <= now
        end = None if overdue else incident.end_time
        if end is not None and end <= incident.start_time:
            continue
        how = "reserved" if reserved else incident.status.name.lower()
        down = incident.status == Status.DOWN and not reserved
        reason = f"{_name(resource)} {_when(how, incident.start_time, end, now)}: {incident.name or incident.id}"
        kind = Availability.UNAVAILABLE if down else Availability.AT_RISK
        yield _Obstacle(incident.start_time, end, kind, reason, incident)


def _now(
    resource: Resource, current: CurrentStatus, incidents: Iterable[Incident], span: Span, now: datetime
) -> Iterator[_Obstacle]:
    """Gives how the resource is now, unless an incident says the same and until when."""
    explained = any(each.id == current.incident_id and not each.resolution.over for each in incidents)
    if current.status == Status.UP or explained or not span.start <= now < span.end:
        return
    kind = Availability.UNAVAILABLE if current.status == Status.DOWN else Availability.AT_RISK
    how = "in an unknown state" if current.status == Status.UNKNOWN else current.status.name.lower()
    reason = f"{_name(resource)} is {how} since {_clock(current.since)}" + (current.reason and f": {current.reason}")
    yield _Obstacle(now, None, kind, reason)


def _when(how: str, start: datetime, end: datetime | None, now: datetime) -> str:
    if start > now:
        return f"will be {how} from {_clock(start)} " + (f"to {_clock(end)}" if end else "on")
    return f"is {how} " + (f"until {_clock(end)}" if end else f"since {_clock(start)}, nobody knows until when")


def _free(span: Span, taken: Iterable[tuple[datetime, datetime | None]]) -> Span | None:
    """Returns the first span as long as the asked one, from its start on, that overlaps none that is taken."""
    at = span.start
    for start, end in sorted(taken, key=lambda each: each[0]):
        if start - at >= span.length:
            break
        if end is None:
            return None
        at = max(at, end)
    try:
        return Span(at, at + span.length)
    except OverflowError:
        return None


# ------------------------------------------------------------------------------------------------------------- outages

# How well an outage can explain that a job ended in this way, if it was there when the job ended. 0: not at all.
_EXPLAINS: Mapping[JobReason, float] = {
    JobReason.LOST: 1.0,
    JobReason.LAUNCH_FAILED: 0.95,
    JobReason.SIGNALED: 0.95,
    JobReason.NONZERO_EXIT: 0.8,
    JobReason.ARRAY_ELEMENTS: 0.8,
    JobReason.CANCELED_BY_OPERATOR: 0.8,
    JobReason.REFUSED: 0.4,
    JobReason.TIME_LIMIT: 0.15,
    JobReason.OUT_OF_MEMORY: 0.1,
    JobReason.DEPENDENCY_NEVER_SATISFIED: 0.1,
    JobReason.CANCELED_BY_OWNER: 0.0,
}
_EXPLAINS_OTHERS = 0.7
_WEIGHT: Mapping[Status, float] = {Status.DOWN: 1.0, Status.DEGRADED: 0.6, Status.UNKNOWN: 0.3, Status.UP: 0.0}
# What was seen of an outage may be this much later than the outage.
_SEEN_LATE = timedelta(minutes=2)
# After so long it explains half as much.
_HALF_LIFE = timedelta(minutes=10)


def outages(
    span: Span,
    events: Iterable[Event],
    incidents: Iterable[Incident],
    resource: Resource,
    now: datetime,
    failure: Failure | None = None,
) -> Findings:
    """Finds the outages of a resource in a span.

    ``events`` are the resource's in the span, and the last one before it, for how it was at its start; ``incidents``
    those that impact it. Incidents that were called off and reservations are no outages. What has not happened yet is
    shown, but nothing was down by it.

    The likelihood that an outage explains ``failure`` is the product of: how well an outage explains that way of ending
    (``_EXPLAINS``); how bad it was (``_WEIGHT``); how near in time (1 while it lasted and two minutes before, half as
    much for each ten minutes between its end and the job's); and the exposure, ``1 - 0.1 / nodes``: the more nodes,
    the likelier one of them was hit. Without a failure it says how bad the outage was.
    """
    ordered = sorted((each for each in events if each.resource_id == resource.id), key=lambda each: each.occur_time)
    incidents = tuple(incidents)
    found = [_outage(*each, resource, now, failure) for each in _raw_outages(span, ordered, incidents, now)]
    found.sort(key=lambda each: (-each.likelihood, -each.overlap.length, each.overlap.start))
    down = _total(_down(span, ordered, incidents, now))
    return Findings(tuple(found), span, down, _summary(found, resource, down, failure))


@dataclass(frozen=True, slots=True)
class _Bad:
    """A part of a span in which a resource was in a bad status, by what its events say."""

    span: Span
    status: Status


def _raw_outages(
    span: Span, events: Sequence[Event], incidents: Iterable[Incident], now: datetime
) -> Iterator[tuple[Span, Status, Incident | None, tuple[Event, ...]]]:
    """Gives the incidents in a span, and then what is bad by the events and not by one of them."""
    taken: list[Span] = []
    for incident in sorted(incidents, key=lambda each: each.start_time):
        overlap = _of_incident(span, incident, now)
        if overlap is None:
            continue
        taken.append(overlap)
        own = tuple(each for each in events if each.incident_id == incident.id and _within(each, span))
        status = max((incident.status, *(each.status for each in own)), key=lambda each: each.badness)
        yield overlap, status, incident, own
    for run in _runs(_bad(span, events, now)):
        for part in _without(run, taken):
            inside = tuple(each for each in events if part.start <= each.occur_time <= part.end)
            worst = max((bad.status for bad in _bad(part, events, now)), key=lambda each: each.badness)
            yield part, worst, None, inside


def _of_incident(span: Span, incident: Incident, now: datetime) -> Span | None:
    if incident.type == IncidentType.RESERVATION or incident.status == Status.UP:
        return None
    if incident.resolution == Resolution.CANCELLED:
        return None
    end = incident.end_time
    if incident.resolution.active and (end is None or end < now):  # It goes on, also if it should have ended.
        end = None
    return span.overlap(incident.start_time, end)


def _within(event: Event, span: Span) -> bool:
    return span.start <= event.occur_time < span.end


def _bad(span: Span, events: Sequence[Event], now: datetime) -> list[_Bad]:
    """Returns when a resource was bad by its events, oldest first, until now at most."""
    if not events:
        return []
    ends = [each.occur_time for each in events[1:]] + [max(now, events[-1].occur_time)]
    before = [(datetime.min.replace(tzinfo=UTC), events[0].occur_time, events[0].previous_status)]
    lasted = before + [(each.occur_time, end, each.status) for each, end in zip(events, ends, strict=True)]
    parts = [(span.overlap(start, end), status) for start, end, status in lasted if status != Status.UP]
    return [_Bad(part, status) for part, status in parts if part]


def _runs(bad: Iterable[_Bad]) -> list[Span]:
    """Returns the spans without a good moment."""
    return _union(each.span for each in bad)


def _union(spans: Iterable[Span]) -> list[Span]:
    merged: list[Span] = []
    for each in sorted(spans, key=lambda each: each.start):
        if merged and each.start <= merged[-1].end:
            merged[-1] = Span(merged[-1].start, max(merged[-1].end, each.end))
        else:
            merged.append(each)
    return merged


def _without(span: Span, taken: Iterable[Span]) -> list[Span]:
    """Returns what is left of a span, without slivers: an incident opens a moment after the event that it is for."""
    left, at = [], span.start
    for each in _union(taken):
        if each.start > at:
            left.append(Span(at, min(each.start, span.end)))
        at = max(at, each.end)
        if at >= span.end:
            break
    if at < span.end:
        left.append(Span(at, span.end))
    return [each for each in left if each == span or each.length >= timedelta(seconds=1)]


def _down(span: Span, events: Sequence[Event], incidents: Iterable[Incident], now: datetime) -> Iterator[Span]:
    yield from (each.span for each in _bad(span, events, now) if each.status == Status.DOWN)
    for incident in incidents:
        overlap = _of_incident(span, incident, now)
        if overlap and incident.status == Status.DOWN and overlap.start < now:
            yield Span(overlap.start, min(overlap.end, now))


def _total(spans: Iterable[Span]) -> timedelta:
    return sum((each.length for each in _union(spans)), timedelta())


def _outage(
    overlap: Span,
    status: Status,
    incident: Incident | None,
    events: tuple[Event, ...],
    resource: Resource,
    now: datetime,
    failure: Failure | None,
) -> Outage:
    likelihood = _likelihood(overlap, status, failure) if failure else _WEIGHT[status]
    reasons = [each.reason for each in events if each.reason and each.status != Status.UP]
    why = incident.name if incident else next(iter(reasons), "")
    how = "in an unknown state" if status == Status.UNKNOWN else status.name.lower()
    was = "was" if overlap.start < now else "will be"
    text = f"{_name(resource)} {was} {how} from {_clock(overlap.start)} for {_long(overlap.length)}"
    if incident and incident.resource_ids and resource.id not in incident.resource_ids:
        text += f", through {', '.join(incident.resource_ids[:3])}"
    text += (why and f" ({why})") + (f", {_relation(overlap, failure)}" if failure else "")
    return Outage(resource.id, status, overlap, likelihood, text, incident.id if incident else "", events)


def _likelihood(overlap: Span, status: Status, failure: Failure) -> float:
    if failure.state == JobState.COMPLETED or not failure.state.final:
        return 0.0
    apart = max(timedelta(), failure.end - overlap.end, overlap.start - failure.end - _SEEN_LATE)
    near = math.pow(0.5, apart / _HALF_LIFE)
    if failure.start and overlap.end <= failure.start:  # It was over before the job began.
        near /= 2
    exposure = 1 - 0.1 / max(1, failure.node_count)
    explains = _EXPLAINS.get(failure.reason, _EXPLAINS_OTHERS)
    return round(explains * _WEIGHT[status] * near * exposure, 2)


def _relation(overlap: Span, failure: Failure) -> str:
    """Says how an outage and the end of a job lie to each other."""
    ended = _ENDINGS.get(failure.reason, "ended")
    if failure.state == JobState.COMPLETED:
        return "but the job ended well"
    if not failure.state.final:
        return "and the job has not ended"
    if overlap.end < failure.end:
        return f"{_long(failure.end - overlap.end)} before the job {ended}"
    if overlap.start > failure.end:
        return f"seen {_long(overlap.start - failure.end)} after the job {ended}"
    return f"when the job {ended}"


_ENDINGS = {
    JobReason.NONZERO_EXIT: "exited with an error",
    JobReason.SIGNALED: "was killed by a signal",
    JobReason.TIME_LIMIT: "reached its time limit",
    JobReason.OUT_OF_MEMORY: "ran out of memory",
    JobReason.LAUNCH_FAILED: "could not be started",
    JobReason.LOST: "was lost",
    JobReason.CANCELED_BY_OWNER: "was canceled by its owner",
    JobReason.CANCELED_BY_OPERATOR: "was canceled by an operator",
}


def _summary(found: Sequence[Outage], resource: Resource, down: timedelta, failure: Failure | None) -> str:
    name = _name(resource)
    if not found:
        return f"no outage of {name} is known " + ("around the run of the job" if failure else "in this span")
    many = "1 outage" if len(found) == 1 else f"{len(found)} outages"
    if failure is None:
        return f"{name} was down for {_long(down)} in this span; {many}"
    best = found[0]
    if best.likelihood >= 0.6:
        return f"an outage is the likely cause: {best.explanation}"
    if best.likelihood >= 0.25:
        return f"an outage may be the cause: {best.explanation}"
    return f"an outage is hardly the cause: {many}, the likeliest: {best.explanation}"


# --------------------------------------------------------------------------------------------------------------- words


def _name(resource: Resource) -> str:
    return resource.name or resource.id


def _clock(time: datetime) -> str:
    return f"{time.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def _long(length: timedelta) -> str:
    """Says how long something is, in its two largest units."""
    seconds = round(length.total_seconds())
    units = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))
    parts = []
    for unit, size in units:
        count, seconds = divmod(seconds, size)
        if count:
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2]) or "0 s"
