"""Whether a resource can be used, when it can be, and what broke a job."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openfacility_server.errors import InvalidArgument
from openfacility_server.jobs.model import JobReason, JobState
from openfacility_server.status.model import (
    CurrentStatus,
    Event,
    Incident,
    IncidentType,
    Resolution,
    Resource,
    Severity,
    Source,
    Status,
)
from openfacility_server.status.questions import (
    Availability,
    Failure,
    Span,
    availability,
    availability_span,
    checked_span,
    outages,
    outages_span,
    run_span,
)

NOW = datetime(2030, 1, 1, 12, tzinfo=UTC)
CPU = Resource("cpu", "Hawk CPU")
UP = CurrentStatus(Status.UP, NOW - timedelta(days=9))


def hour(number: float) -> datetime:
    """Some hours from now."""
    return NOW + timedelta(hours=number)


def span(start: float, end: float) -> Span:
    """A span in hours from now."""
    return Span(hour(start), hour(end))


def incident(start: float, end: float | None, status: Status = Status.DOWN, **changes: object) -> Incident:
    """An incident, in hours from now; it goes on if it has begun."""
    made = Incident(
        id=str(changes.pop("id", "i1")),
        type=IncidentType.PLANNED,
        name="Cooling",
        status=status,
        severity=Severity.MINOR,
        start_time=hour(start),
        end_time=None if end is None else hour(end),
        resolution=Resolution.PENDING if start > 0 else Resolution.UNRESOLVED,
        resource_ids=("cpu",),
        create_time=NOW,
        update_time=NOW,
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def ask(asked: Span, *incidents: Incident, current: CurrentStatus = UP) -> tuple[Availability, Span | None]:
    """The answer without its words."""
    answer = availability(CPU, current, incidents, asked, NOW)
    assert answer.span == asked
    assert answer.reason
    return answer.availability, answer.next_free


def test_nothing_speaks_against() -> None:
    answer = availability(CPU, UP, [incident(5, 6), incident(-9, -8, resolution=Resolution.COMPLETED)], span(0, 2), NOW)

    assert (answer.availability, answer.incidents, answer.next_free) == (Availability.AVAILABLE, (), span(0, 2))
    assert answer.reason == "nothing known speaks against Hawk CPU"


def test_planned_maintenance() -> None:
    answer = availability(CPU, UP, [incident(1, 3), incident(4, 5)], span(0, 2), NOW)

    assert answer.availability == Availability.UNAVAILABLE
    assert answer.reason == "Hawk CPU will be down from 2030-01-01 13:00 UTC to 2030-01-01 15:00 UTC: Cooling"
    assert [each.id for each in answer.incidents] == ["i1"]
    assert answer.next_free == span(5, 7)  # the hour between the two is too short


def test_spans_that_touch_do_not_overlap() -> None:
    assert ask(span(0, 1), incident(1, 2)) == (Availability.AVAILABLE, span(0, 1))
    assert ask(span(2, 3), incident(1, 2)) == (Availability.AVAILABLE, span(2, 3))
    assert ask(span(1, 2), incident(0, 1), incident(2, 3)) == (Availability.AVAILABLE, span(1, 2))


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (incident(1, 2, Status.DOWN), Availability.UNAVAILABLE),
        (incident(1, 2, Status.DEGRADED), Availability.AT_RISK),
        (incident(1, 2, Status.UNKNOWN), Availability.AT_RISK),
        (incident(1, 2, Status.UP), Availability.AVAILABLE),
        (incident(1, 2, Status.UP, type=IncidentType.RESERVATION), Availability.AT_RISK),
        (incident(1, 2, Status.DOWN, type=IncidentType.RESERVATION), Availability.AT_RISK),
        (incident(1, 2, resolution=Resolution.CANCELLED), Availability.AVAILABLE),
        (incident(-1, 2, resolution=Resolution.COMPLETED), Availability.AVAILABLE),
        (incident(-1, 2, resolution=Resolution.EXTENDED), Availability.UNAVAILABLE),
    ],
)
def test_what_an_incident_means(made: Incident, expected: Availability) -> None:
    assert ask(span(0, 3), made)[0] == expected


def test_the_worst_counts_and_all_are_named_soonest_first() -> None:
    incidents = [incident(2, 3, id="late"), incident(0.5, 1, Status.DEGRADED, id="early")]

    answer = availability(CPU, UP, incidents, span(0, 4), NOW)

    assert answer.availability == Availability.UNAVAILABLE
    assert [each.id for each in answer.incidents] == ["early", "late"]
    assert answer.reason.endswith("(and 1 more)")


def test_an_incident_without_end_stands_in_the_way_for_ever() -> None:
    assert ask(span(0, 1), incident(-1, None)) == (Availability.UNAVAILABLE, None)
    assert ask(span(5, 6), incident(-1, None)) == (Availability.UNAVAILABLE, None)
    assert ask(span(0, 1), incident(3, None)) == (Availability.AVAILABLE, span(0, 1))


def test_an_incident_that_should_have_ended_but_goes_on() -> None:
    assert ask(span(0, 1), incident(-3, -1)) == (Availability.UNAVAILABLE, None)


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (Status.DOWN, Availability.UNAVAILABLE),
        (Status.DEGRADED, Availability.AT_RISK),
        (Status.UNKNOWN, Availability.AT_RISK),
    ],
)
def test_how_it_is_now_counts_for_a_span_with_now(status: Status, expected: Availability) -> None:
    current = CurrentStatus(status, hour(-1), "no answer", Source.PROBE)

    assert ask(span(0, 1), current=current) == (expected, None)
    assert ask(span(-1, 1), current=current) == (expected, None)
    assert ask(span(1, 2), current=current) == (Availability.AVAILABLE, span(1, 2))
    assert "no answer" in availability(CPU, current, [], span(0, 1), NOW).reason


def test_an_incident_says_until_when_it_is_as_it_is_now() -> None:
    current = CurrentStatus(Status.DOWN, hour(-1), "Cooling", Source.DEPENDENCY, "i1", "power")

    assert ask(span(0, 1), incident(-1, 2), current=current) == (Availability.UNAVAILABLE, span(2, 3))
    assert ask(span(3, 4), incident(-1, 2), current=current) == (Availability.AVAILABLE, span(3, 4))


def test_no_free_span_before_the_end_of_time() -> None:
    far = replace(incident(1, 2), end_time=datetime.max.replace(tzinfo=UTC))

    assert ask(span(0, 5), far) == (Availability.UNAVAILABLE, None)


spans = st.tuples(st.integers(0, 40), st.integers(1, 10)).map(lambda each: (each[0], each[0] + each[1]))


@given(spans, st.lists(spans, max_size=12))
def test_the_next_free_span_is_the_first_one(asked: tuple[int, int], taken: list[tuple[int, int]]) -> None:
    made = [incident(start, end, id=f"i{at}") for at, (start, end) in enumerate(taken)]
    length = asked[1] - asked[0]
    free = next(at for at in range(asked[0], 100) if all(at + length <= start or end <= at for start, end in taken))

    answer = availability(CPU, UP, made, span(*asked), hour(-1))

    assert answer.next_free == span(free, free + length)
    assert (answer.availability == Availability.AVAILABLE) == (free == asked[0])


@pytest.mark.parametrize(
    ("call", "field", "says"),
    [
        (lambda: checked_span(hour(1), hour(0)), "end_time", "is before start_time, 2030-01-01 13:00 UTC"),
        (lambda: checked_span(hour(0), hour(0)), "end_time", "is the same as start_time"),
        (lambda: checked_span(hour(0), hour(24 * 3654)), "end_time", "is more than 3653 d after start_time"),
        (lambda: checked_span(datetime(1, 1, 1, tzinfo=UTC), hour(0)), "start_time", "the year is not between"),
        (lambda: checked_span(hour(0), datetime(9999, 1, 1, tzinfo=UTC)), "end_time", "the year is not between"),
        (lambda: availability_span(datetime.max.replace(tzinfo=UTC), None, NOW), "start_time", "the year"),
        (lambda: availability_span(hour(-3), hour(-1), NOW), "end_time", "is in the past"),
        (lambda: availability_span(hour(-3), None, NOW), "end_time", "is in the past"),
        (lambda: availability_span(None, hour(-1), NOW), "end_time", "is before start_time"),
        (lambda: outages_span(hour(1), None, NOW), "end_time", "is before start_time"),
        (lambda: outages_span(None, datetime.min.replace(tzinfo=UTC), NOW), "start_time", "the year"),
    ],
)
def test_a_span_that_makes_no_sense_is_refused(call: Callable[[], Span], field: str, says: str) -> None:
    with pytest.raises(InvalidArgument, match=says) as caught:
        call()

    assert [violation.field for violation in caught.value.violations] == [field]


def test_spans_that_are_not_given() -> None:
    assert availability_span(None, None, NOW) == span(0, 1)
    assert availability_span(hour(5), None, NOW) == span(5, 6)
    assert outages_span(None, None, NOW) == span(-24, 0)
    assert outages_span(None, hour(-5), NOW) == span(-29, -5)
    margin = timedelta(minutes=5)
    assert run_span(hour(-3), hour(-1), NOW) == Span(hour(-3) - margin, hour(-1) + margin)
    assert run_span(None, None, NOW) == Span(NOW - margin, NOW + margin)


# ------------------------------------------------------------------------------------------------------------- outages


def event(at: float, status: Status, before: Status, incident_id: str = "", reason: str = "no answer") -> Event:
    """A change of status, in hours from now."""
    return Event(f"e{at}", "cpu", status, before, hour(at), hour(at), incident_id, reason, Source.PROBE)


FAILED = Failure(JobState.FAILED, JobReason.LOST, hour(-2), hour(-5), 4)
DAY = span(-24, 0)


def test_no_outage() -> None:
    found = outages(DAY, [], [], CPU, NOW)

    assert (found.outages, found.down, found.span) == ((), timedelta(), DAY)
    assert found.summary == "no outage of Hawk CPU is known in this span"
    assert "around the run of the job" in outages(DAY, [], [], CPU, NOW, FAILED).summary


def test_an_incident_with_its_events_is_one_outage() -> None:
    made = incident(-3, -1, resolution=Resolution.COMPLETED)
    events = [event(-1, Status.UP, Status.DOWN, "i1"), event(-3, Status.DOWN, Status.UP, "i1")]

    found = outages(DAY, events, [made], CPU, NOW)

    [outage] = found.outages
    assert (outage.incident_id, outage.status, outage.overlap) == ("i1", Status.DOWN, span(-3, -1))
    assert [each.id for each in outage.events] == ["e-3", "e-1"]
    assert found.down == timedelta(hours=2)
    assert outage.explanation == "Hawk CPU was down from 2030-01-01 09:00 UTC for 2 h (Cooling)"
    assert found.summary == "Hawk CPU was down for 2 h in this span; 1 outage"


def test_down_time_is_counted_once() -> None:
    incidents = [
        incident(-6, -3, id="a", resolution=Resolution.COMPLETED),
        incident(-5, -2, id="b", resolution=Resolution.COMPLETED),
        incident(-4, -1, Status.DEGRADED, id="c", resolution=Resolution.COMPLETED),
        incident(-9, -1, id="never", resolution=Resolution.CANCELLED),
        incident(-9, -1, id="kept", type=IncidentType.RESERVATION),
    ]
    events = [event(-5.5, Status.DOWN, Status.UP), event(-1.5, Status.UP, Status.DOWN)]

    found = outages(DAY, events, incidents, CPU, NOW)

    assert found.down == timedelta(hours=4.5)
    assert sorted(each.incident_id for each in found.outages) == ["a", "b", "c"]


def test_events_without_incident() -> None:
    events = [
        event(-8, Status.DEGRADED, Status.UP),
        event(-7, Status.DOWN, Status.DEGRADED),
        event(-6, Status.UP, Status.DOWN),
        event(-1, Status.UNKNOWN, Status.UP, reason=""),
    ]

    found = outages(DAY, events, [], CPU, NOW)

    assert [(each.status, each.overlap) for each in found.outages] == [
        (Status.DOWN, span(-8, -6)),
        (Status.UNKNOWN, span(-1, 0)),
    ]
    assert found.down == timedelta(hours=1)
    assert "(no answer)" in found.outages[0].explanation
    assert "in an unknown state" in found.outages[1].explanation


def test_how_it_was_before_the_first_event_in_the_span() -> None:
    ended = outages(span(-4, 0), [event(-2, Status.UP, Status.DOWN)], [], CPU, NOW)
    through = outages(span(-4, -2), [event(-9, Status.DOWN, Status.UP)], [], CPU, NOW)

    assert [each.overlap for each in ended.outages] == [span(-4, -2)]
    assert [each.overlap for each in through.outages] == [span(-4, -2)]


def test_an_incident_that_was_declared_late_leaves_the_time_before_as_an_outage_of_its_own() -> None:
    events = [event(-3, Status.DOWN, Status.UP), event(-1, Status.UP, Status.DOWN)]

    found = outages(DAY, events, [incident(-2, -1, resolution=Resolution.COMPLETED)], CPU, NOW)
    sliver = outages(DAY, events, [incident(-3 + 1e-6, -1, resolution=Resolution.COMPLETED)], CPU, NOW)

    assert [(each.incident_id, each.overlap) for each in found.outages] == [("", span(-3, -2)), ("i1", span(-2, -1))]
    assert len(sliver.outages) == 1
    assert found.down == sliver.down == timedelta(hours=2)


def test_what_goes_on_is_counted_until_now_and_what_comes_is_only_shown() -> None:
    found = outages(span(-4, 4), [], [incident(-1, None, id="on"), incident(2, 3, id="soon")], CPU, NOW)

    assert found.down == timedelta(hours=1)
    assert {each.incident_id: each.overlap for each in found.outages} == {"on": span(-1, 4), "soon": span(2, 3)}
    assert "will be down" in next(each.explanation for each in found.outages if each.incident_id == "soon")


def test_an_incident_of_what_it_depends_on_is_named() -> None:
    made = incident(-3, -1, resource_ids=("power",), impacted_resource_ids=("cpu", "power"))

    assert "through power" in outages(DAY, [], [made], CPU, NOW).outages[0].explanation


def likelihood(failure: Failure, made: Incident) -> float:
    """How strongly an incident explains a failure."""
    [outage] = outages(DAY, [], [made], CPU, NOW, failure).outages
    return outage.likelihood


def done(start: float, end: float, status: Status = Status.DOWN) -> Incident:
    """An incident that is over."""
    return incident(start, end, status, resolution=Resolution.COMPLETED)


def test_how_strongly_an_outage_explains_a_failure() -> None:
    while_down = done(-3, -1)
    exited = replace(FAILED, reason=JobReason.NONZERO_EXIT)

    assert likelihood(FAILED, while_down) > 0.9
    assert likelihood(exited, while_down) > 0.7
    assert likelihood(exited, done(-5, -4)) < 0.01  # two hours before
    assert likelihood(FAILED, done(-3, -2.1)) > 0.6  # some minutes before
    assert likelihood(FAILED, done(-2 + 1 / 60, -1)) == likelihood(FAILED, while_down)  # seen a minute later
    assert likelihood(FAILED, done(-1, -0.5)) < 0.1
    assert likelihood(replace(FAILED, reason=JobReason.TIME_LIMIT), while_down) < 0.2
    assert likelihood(replace(FAILED, reason=JobReason.OUT_OF_MEMORY), while_down) < 0.2
    assert likelihood(replace(FAILED, state=JobState.CANCELED, reason=JobReason.CANCELED_BY_OWNER), while_down) == 0
    assert likelihood(replace(FAILED, state=JobState.COMPLETED, reason=JobReason.UNSPECIFIED), while_down) == 0
    assert likelihood(replace(FAILED, state=JobState.ACTIVE, reason=JobReason.UNSPECIFIED), while_down) == 0
    assert likelihood(FAILED, done(-3, -1, Status.DEGRADED)) < likelihood(FAILED, while_down)


def test_more_nodes_are_more_exposed() -> None:
    found = [likelihood(replace(FAILED, node_count=nodes), done(-3, -1)) for nodes in (0, 1, 4, 1000)]

    assert found[0] == found[1] < found[2] < found[3] <= 1


@given(st.sampled_from(list(JobReason)), st.sampled_from(list(JobState)), st.sampled_from(list(Status)), spans, spans)
def test_a_likelihood_is_between_0_and_1(
    reason: JobReason, state: JobState, status: Status, run: tuple[int, int], out: tuple[int, int]
) -> None:
    failure = Failure(state, reason, hour(run[1] - 60), hour(run[0] - 60), 2)

    found = outages(span(-100, 0), [], [done(out[0] - 60, out[1] - 60, status)], CPU, NOW, failure)

    assert all(0 <= each.likelihood <= 1 and each.explanation for each in found.outages)


def test_the_summary_names_the_likeliest() -> None:
    near, far = replace(done(-3, -1), id="near"), replace(done(-20, -19), id="far")

    found = outages(DAY, [], [far, near], CPU, NOW, FAILED)

    assert [each.incident_id for each in found.outages] == ["near", "far"]
    assert found.summary.startswith("an outage is the likely cause: Hawk CPU was down")
    assert found.outages[0].explanation.endswith("(Cooling), when the job was lost")
    assert found.outages[1].explanation.endswith("17 h before the job was lost")
    assert outages(DAY, [], [far], CPU, NOW, FAILED).summary.startswith("an outage is hardly the cause")
    degraded = done(-3, -1, Status.DEGRADED)
    assert outages(DAY, [], [degraded], CPU, NOW, FAILED).summary.startswith("an outage may be the cause")
