"""The facility's status as a picture that moves, for a person at a terminal."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from types import TracebackType
from typing import Protocol, Self

from openfacility_client import Event, Incident, Resource, ResourceStatus, StatusChange, StatusChangeType
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from openfacility_cli import _status_text as text
from openfacility_cli._layout import moment

_MOST_EVENTS = 8
_ORDER = (ResourceStatus.DOWN, ResourceStatus.DEGRADED, ResourceStatus.UNKNOWN, ResourceStatus.UP)


class Picture:
    """What is known of one facility: its resources, its incidents that are not over, the last events."""

    def __init__(self) -> None:
        """Know nothing yet."""
        self.resources: dict[str, Resource] = {}
        self.incidents: dict[str, Incident] = {}
        self.events: list[Event] = []

    def take(self, change: StatusChange) -> None:
        """Take in a change."""
        subject, gone = change.subject, change.type is StatusChangeType.DELETED
        if isinstance(subject, Resource):
            self.resources.pop(subject.id, None)
            if not gone:
                self.resources[subject.id] = subject
        elif isinstance(subject, Incident):
            self.incidents.pop(subject.id, None)
            if not (gone or subject.over):
                self.incidents[subject.id] = subject
        elif isinstance(subject, Event):
            self.events = [*self.events[-_MOST_EVENTS + 1 :], subject]

    @property
    def worst_first(self) -> list[Resource]:
        """The resources, worst first."""
        rank = {status: number for number, status in enumerate(_ORDER)}
        return sorted(self.resources.values(), key=lambda each: (rank.get(each.status, 9), each.id))

    @property
    def soonest_first(self) -> list[Incident]:
        """The incidents, soonest first."""
        never = datetime.max.replace(tzinfo=UTC)
        return sorted(self.incidents.values(), key=lambda each: (each.start_time or never, each.id))

    def counts(self) -> Text:
        """Say how many resources are how."""
        numbers = dict.fromkeys(_ORDER, 0)
        for resource in self.resources.values():
            numbers[resource.status] = numbers.get(resource.status, 0) + 1
        parts = [Text(f"{number} {how.lower()}", style=text.COLORS[how]) for how, number in numbers.items() if number]
        return Text(", ").join(parts) if parts else Text("no resources")


class FacilityState(Protocol):
    """One of several facilities."""

    name: str
    picture: Picture

    def contact(self) -> Text:
        """Say whether it answers, or since when it does not."""


class _Display(ABC):
    """Shows what `_render` gives, which is asked for from here on."""

    def __init__(self) -> None:
        self._console = Console(highlight=False)
        self.lock = threading.Lock()
        self._live = Live(get_renderable=self._render, console=self._console, refresh_per_second=4, screen=False)

    def __enter__(self) -> Self:
        """Begin to show it."""
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the last picture on the screen."""
        self._live.stop()

    @abstractmethod
    def _render(self) -> RenderableType:
        """Make the picture."""


class FacilityDisplay(_Display):
    """One facility."""

    def __init__(self) -> None:
        """Show nothing yet."""
        self._picture = Picture()
        super().__init__()

    def show(self, change: StatusChange) -> None:
        """Take in a change."""
        with self.lock:
            self._picture.take(change)

    def _render(self) -> RenderableType:
        with self.lock:
            picture = self._picture
            resources, incidents, events = picture.worst_first, picture.soonest_first, list(picture.events)
            parts: list[RenderableType] = [picture.counts()]
        room = max(4, self._console.height - 6 - min(len(incidents), 8) - len(events))
        parts.append(resource_table((("", each) for each in resources[:room]), several=False))
        if len(resources) > room:
            parts.append(Text(f"… and {len(resources) - room} more"))
        if incidents:
            parts += [Text(), incident_table((("", each) for each in incidents[:8]), several=False)]
        if events:
            parts += [Text(), *(Text.from_ansi(text.change_line(_told(each))) for each in events)]
        return Group(*parts)


class FacilitiesDisplay(_Display):
    """Several facilities: a line for each, then what is not up, and the incidents."""

    def __init__(self, facilities: Sequence[FacilityState]) -> None:
        """Show them, as they change."""
        self._facilities = facilities
        super().__init__()

    def _render(self) -> RenderableType:
        with self.lock:
            return facilities_picture(self._facilities, max(4, self._console.height // 3))


def facilities_picture(facilities: Sequence[FacilityState], room: int) -> RenderableType:
    """Show several facilities as one."""
    table = _table("FACILITY", "RESOURCES", "CONTACT")
    for each in facilities:
        table.add_row(each.name, each.picture.counts(), each.contact())
    parts: list[RenderableType] = [table]
    bad = [(each.name, one) for each in facilities for one in each.picture.worst_first if one.status != "UP"]
    if bad:
        parts += [Text(), resource_table(bad[:room], several=True)]
    incidents = [(each.name, one) for each in facilities for one in each.picture.soonest_first]
    if incidents:
        parts += [Text(), incident_table(incidents[:room], several=True)]
    hidden = max(0, len(bad) - room) + max(0, len(incidents) - room)
    if hidden:
        parts.append(Text(f"… and {hidden} more"))
    return Group(*parts)


def resource_table(resources: Iterable[tuple[str, Resource]], *, several: bool) -> Table:
    """Lay out resources, each with the name of its facility."""
    table = _table(*(["FACILITY"] if several else []), "RESOURCE", "STATUS", "SINCE", "REASON")
    for name, each in resources:
        state = Text(each.status.lower(), style=text.COLORS.get(each.status, ""))
        table.add_row(*([name] if several else []), each.id, state, text.since(each), text.why(each))
    return table


def incident_table(incidents: Iterable[tuple[str, Incident]], *, several: bool) -> Table:
    """Lay out incidents, each with the name of its facility."""
    table = _table(*(["FACILITY"] if several else []), "INCIDENT", "STANDS", "STATUS", "FROM", "TO", "NAME")
    for name, each in incidents:
        state = Text(each.status.lower(), style=text.COLORS.get(each.status, ""))
        times = (moment(each.start_time)[:16], moment(each.end_time)[:16] or "?")
        table.add_row(*([name] if several else []), each.id, each.resolution.lower(), state, *times, each.name)
    return table


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, no_wrap=True, overflow="ellipsis")
    return table


def _told(event: Event) -> StatusChange:
    return StatusChange(StatusChangeType.CREATED, event.revision, event=event)
