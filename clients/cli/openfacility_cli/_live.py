"""Displays that move, for a person at a terminal."""

from __future__ import annotations

import threading
from collections import Counter
from types import TracebackType
from typing import Self

from openfacility_client import Job, JobChange, JobState
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from openfacility_cli import _text
from openfacility_cli._layout import span

_MOST_ENDED = 20


class JobDisplay:
    """One job: its output scrolls by, its state stays in the last line."""

    def __init__(self) -> None:
        """Show nothing yet."""
        self._console = Console(highlight=False)
        self._spinner = Spinner("dots")
        self._job: Job | None = None
        self._lock = threading.Lock()
        self._live = Live(get_renderable=self._render, console=self._console, refresh_per_second=8, transient=True)

    def __enter__(self) -> Self:
        """Begin to show it."""
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the last state on the screen."""
        self._live.stop()
        if self._job is not None:
            self._console.print(_state_line(self._job))

    def show(self, job: Job) -> None:
        """Show a new state."""
        self._job = job

    def output(self, line: bytes, *, error: bool = False) -> None:
        """Print a line of the job's output above the state."""
        text = Text.from_ansi(line.decode(errors="replace"))
        if error:
            text.stylize("red")
        with self._lock:
            self._console.print(text)

    def _render(self) -> RenderableType:
        if self._job is None:
            return Text("")
        self._spinner.update(text=_state_line(self._job))
        return self._spinner


class JobsDisplay:
    """Many jobs: those that have not ended, and the last that have."""

    def __init__(self) -> None:
        """Show nothing yet."""
        self._console = Console(highlight=False)
        self._jobs: dict[str, Job] = {}
        self._ended: dict[str, Job] = {}
        self._caught_up = False
        self._lock = threading.Lock()
        self._live = Live(get_renderable=self._render, console=self._console, refresh_per_second=4, screen=False)

    def __enter__(self) -> Self:
        """Begin to show them."""
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the last picture on the screen."""
        self._live.stop()

    def show(self, change: JobChange) -> None:
        """Take in a change."""
        job = change.job
        with self._lock:
            self._jobs.pop(job.id, None)
            self._ended.pop(job.id, None)
            if job.final:
                self._ended[job.id] = job
                if len(self._ended) > _MOST_ENDED:
                    del self._ended[next(iter(self._ended))]
            else:
                self._jobs[job.id] = job

    def _render(self) -> RenderableType:
        with self._lock:
            going = sorted(self._jobs.values(), key=lambda job: (job.state is not JobState.ACTIVE, job.id))
            ended = list(reversed(self._ended.values()))
        counts = Counter(job.state for job in going)
        title = Text("  ").join(
            Text(f"{counts[state]} {state}", style=_text.COLORS[state]) for state in JobState if counts[state]
        )
        table = Table(box=None, pad_edge=False, header_style="bold")
        for column in ("ID", "NAME", "STATE", "OWNER", "RESOURCE", "TIME", ""):
            table.add_column(column, no_wrap=True, overflow="ellipsis")
        room = max(4, self._console.height - 4)
        for job in [*going, *ended][:room]:
            table.add_row(
                job.id,
                job.name,
                Text(job.state, style=_text.COLORS.get(job.state, "")),
                job.owner,
                job.resource_id,
                span(_text.elapsed(job)),
                _text.why(job),
            )
        hidden = len(going) + len(ended) - room
        return Group(title or Text("no jobs yet"), table, Text(f"… and {hidden} more" if hidden > 0 else ""))


def _state_line(job: Job) -> Text:
    line = Text(f"{job.id}  ")
    line.append(job.state, style=_text.COLORS.get(job.state, ""))
    for part in (span(_text.elapsed(job)), _text.why(job)):
        if part:
            line.append(f"  {part}")
    return line
