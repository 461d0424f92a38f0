"""Several facilities as one view: each is watched by itself, and what they tell is shown together.

A facility that does not answer is named, with the age of what is known of it; it is asked again until it answers.
"""

from __future__ import annotations

import queue
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Literal

import click
from openfacility_client import (
    Client,
    ClientClosed,
    OpenFacilityError,
    RPCError,
    StatusChange,
    StatusWatch,
)
from rich.console import Console
from rich.text import Text

from openfacility_cli import _status_text as text
from openfacility_cli._app import App, make_client
from openfacility_cli._errors import explain
from openfacility_cli._layout import age
from openfacility_cli._status_live import FacilitiesDisplay, Picture, facilities_picture

_AGAIN = 10.0
_LOOK = 0.25
_REMIND = 60.0
_PATIENCE = 5.0

Told = tuple["Watched", StatusChange | Literal["contact", "anew"]]
"""A change; or that something about the contact has changed; or that a new snapshot follows."""


class Watched:
    """One facility, watched by a thread of its own."""

    def __init__(self, name: str, settings: Mapping[str, Any], tell: Callable[[Told], None]) -> None:
        """Begin nothing yet."""
        self.name = name
        self.address = str(settings["address"])
        self.picture = Picture()
        self.complete = False
        """Whether all that it told at first is known."""
        self.error = ""
        """Why it does not answer, in a sentence; empty while it does, or while nobody knows yet."""
        self._settings = settings
        self._tell = tell
        self._heard: datetime | None = None
        self._lost: datetime | None = None
        self._client: Client | None = None
        self._watch: StatusWatch | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name=f"watch {name}")

    def start(self) -> None:
        """Begin to watch it."""
        self._thread.start()

    def close(self) -> None:
        """End the watch."""
        self._stop.set()
        if self._client is not None:
            self._client.close()

    def take(self, change: StatusChange | Literal["contact", "anew"]) -> None:
        """Take in what was told. Only who shows the picture does this, so that it does not change meanwhile."""
        if change == "anew":
            self.picture = Picture()
        elif not isinstance(change, str):
            self.picture.take(change)

    @property
    def heard(self) -> datetime | None:
        """When it was last heard of; None if it never was."""
        watch = self._watch
        return (watch.last_contact if watch else None) or self._heard

    @property
    def reachable(self) -> bool:
        """Whether it answers, as far as is known."""
        return self.heard is not None and (self._lost is None or self.heard > self._lost)

    @property
    def settled(self) -> bool:
        """Whether it has told all, or does not answer."""
        return self.complete or bool(self.error)

    def age(self) -> str:
        """Say how old what is known of it is."""
        return "never heard of" if self.heard is None else f"last heard {age(datetime.now(UTC) - self.heard)} ago"

    def contact(self) -> Text:
        """Say whether it answers, or since when it does not."""
        if self.reachable:
            return Text("answers", style="green")
        if not self.error:
            return Text("…")
        return Text(f"does not answer ({self.age()}): {self.error}", style="red")

    def as_json(self) -> dict[str, Any]:
        """Return whether it answers as an object."""
        heard = self.heard
        found: dict[str, Any] = {"facility": self.name, "address": self.address, "reachable": self.reachable}
        if heard is not None:
            found["heard_time"] = heard.isoformat().replace("+00:00", "Z")
            found["age_seconds"] = round((datetime.now(UTC) - heard).total_seconds(), 1)
        return found | ({"error": self.error} if self.error and not self.reachable else {})

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._follow()
            except ClientClosed:
                return
            except (OpenFacilityError, OSError, ValueError) as error:
                self._trouble(error)
            self._stop.wait(_AGAIN)

    def _follow(self) -> None:
        if self._client is None:
            self._client = make_client(self._settings)
        self._heard = self.heard
        self._tell((self, "anew"))
        watch = self._watch = self._client.status.watch(on_disconnect=self._interrupted)
        for change in watch:
            self._tell((self, change))
            if watch.caught_up and not self.complete:
                self.complete = True
                self._tell((self, "contact"))

    def _interrupted(self, error: RPCError | None, delay: float) -> None:
        """Note that the connection is lost. One that just ended, and is made again at once, is no trouble."""
        if error is not None:
            self._trouble(error)

    def _trouble(self, error: Exception) -> None:
        explanation = explain(error)
        lines = explanation.text.removeprefix("openfacility: ").splitlines() if explanation else [str(error)]
        self.error = lines[0]
        self._lost = datetime.now(UTC)
        self._tell((self, "contact"))


def show_all(app: App, settings: Mapping[str, Mapping[str, Any]], *, once: bool) -> int:
    """Show several facilities as one; return how to exit."""
    if not settings:
        raise click.UsageError("there are no facilities: give --facility NAME=ADDR, or make profiles with `config set`")
    told: queue.Queue[Told] = queue.Queue(maxsize=10_000)
    facilities = [Watched(name, values, told.put) for name, values in settings.items()]
    for each in facilities:
        each.start()
    try:
        if once:
            return _show_once(app, facilities, told)
        if app.live:
            _show_live(facilities, told)
        else:
            _show_lines(app, facilities, told)
    finally:
        for each in facilities:
            each.close()
    return 0


def _show_once(app: App, facilities: Sequence[Watched], told: queue.Queue[Told]) -> int:
    """Print how all are when each has told all, or has not in time."""
    until = time.monotonic() + _PATIENCE
    while time.monotonic() < until and not (all(each.settled for each in facilities) and told.empty()):
        for facility, change in _next(told):
            facility.take(change)
    for each in facilities:
        if not each.reachable and not each.error:
            each.error = f"no answer within {_PATIENCE:g} s"
    if app.as_json:
        for each in facilities:
            app.json(each.as_json())
            for resource in each.picture.resources.values():
                app.json(text.as_json("resource", resource, facility=each.name))
            for incident in each.picture.soonest_first:
                app.json(text.as_json("incident", incident, facility=each.name))
    else:
        console = Console(highlight=False, width=None if sys.stdout.isatty() else 250)
        console.print(facilities_picture(facilities, 10_000))
    return 0 if all(each.reachable for each in facilities) else 69


def _show_live(facilities: Sequence[Watched], told: queue.Queue[Told]) -> None:
    with FacilitiesDisplay(facilities) as display:
        while True:
            news = _next(told)
            with display.lock:
                for facility, change in news:
                    facility.take(change)


def _show_lines(app: App, facilities: Sequence[Watched], told: queue.Queue[Told]) -> None:
    width = max(len(each.name) for each in facilities)
    shown: dict[str, bool] = {}
    said = time.monotonic()
    while True:
        for facility, change in _next(told):
            if isinstance(change, str):
                continue
            if app.as_json:
                app.json(text.as_json("change", change, facility=facility.name))
            else:
                app.line(f"{facility.name:<{width}}  {text.change_line(change)}")
        remind = time.monotonic() - said > _REMIND
        said = time.monotonic() if remind else said
        for each in facilities:
            changed = (each.reachable or each.error) and shown.get(each.name) is not each.reachable
            if changed or (remind and not each.reachable):
                shown[each.name] = each.reachable
                _show_contact(app, each, width)


def _show_contact(app: App, facility: Watched, width: int) -> None:
    if app.as_json:
        app.json(facility.as_json())
    else:
        app.line(f"{facility.name:<{width}}  {datetime.now().astimezone():%H:%M:%S}  {facility.contact().plain}")


def _next(told: queue.Queue[Told]) -> list[Told]:
    """Return what was told, after a moment at the latest."""
    found: list[Told] = []
    try:
        found.append(told.get(timeout=_LOOK))
        while len(found) < 1000:
            found.append(told.get_nowait())
    except queue.Empty:
        pass
    return found
