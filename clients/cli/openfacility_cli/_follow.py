"""Following one job: its states and its output, to its end."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Iterable, Sequence

import click
from openfacility_client import Client, FailedPrecondition, Job, JobOutput, NotFound, OpenFacilityError

from openfacility_cli._app import App
from openfacility_cli._live import JobDisplay
from openfacility_cli._text import change_line, exit_code


def follow(app: App, job: Job) -> int:
    """Show a job until it has ended; return how to exit.

    On a terminal its output scrolls above its state. Otherwise its standard output goes to ours, byte by byte, and its
    standard error to ours, line by line, together with its states. With `--json` each change is a line, and there is no
    output.
    """
    if app.as_json:
        return _follow_json(app, job)
    if app.live:
        return _follow_live(app, job)
    return _follow_plain(app, job)


def _follow_json(app: App, job: Job) -> int:
    for change in app.client.jobs.watch(job, on_disconnect=app.on_disconnect):
        app.json(change)
        job = change.job
    return exit_code(job)


def _follow_plain(app: App, job: Job) -> int:
    def copy(pieces: JobOutput, error: bool) -> None:
        if error:
            for line in _lines(pieces):  # Whole lines, for the states go there too.
                click.echo(line, err=True)
            return
        for piece in pieces:
            sys.stdout.buffer.write(piece)
            sys.stdout.buffer.flush()

    with _Output(app.client, job, copy) as output:
        for change in app.client.jobs.watch(job, on_disconnect=app.on_disconnect):
            news = (change.job.state, change.job.status.reason) != (job.state, job.status.reason)
            if news or change.job.final:
                click.echo(change_line(change), err=True)
            job = change.job
        unread = output.finish()
    for note in unread:
        app.note(note)
    return exit_code(job)


def _follow_live(app: App, job: Job) -> int:
    with JobDisplay() as display:

        def copy(pieces: JobOutput, error: bool) -> None:
            for line in _lines(pieces):
                display.output(line, error=error)

        display.show(job)
        try:
            with _Output(app.client, job, copy) as output:
                for change in app.client.jobs.watch(job, on_disconnect=app.on_disconnect):
                    job = change.job
                    display.show(job)
                unread = output.finish()
        except KeyboardInterrupt:
            app.note(f"job {job.id} goes on; see `openfacility jobs get {job.id}`")
            raise
    for note in unread:
        app.note(note)
    return exit_code(job)


class _Output:
    """Copies both streams of a job in the background. What goes wrong with them is raised in the end."""

    def __init__(self, client: Client, job: Job, copy: object) -> None:
        self._copy = copy
        self._errors: list[BaseException] = []
        self._unread: set[str] = set()
        self._streams: list[JobOutput] = []
        self._threads: list[threading.Thread] = []
        if job.array_counts is None and job.spec.array is None:  # An array has no output of its own.
            for stream in ("stdout", "stderr"):
                pieces = client.jobs.logs(job, stream=stream, follow=True)
                self._streams.append(pieces)
                self._threads.append(threading.Thread(target=self._run, args=(pieces, stream == "stderr"), daemon=True))

    def _run(self, pieces: JobOutput, error: bool) -> None:
        try:
            self._copy(pieces, error)  # type: ignore[operator]
        except NotFound:
            pass  # The job ended before it had any output.
        except FailedPrecondition as problem:
            # The job's user or its place cannot give it; that is no failure of the job.
            self._unread.add(problem.message)
        except (OpenFacilityError, OSError, ValueError) as problem:
            self._errors.append(problem)

    def finish(self) -> Sequence[str]:
        """Wait until everything was copied; return why some of it cannot be read."""
        for thread in self._threads:
            thread.join()
        if self._errors:
            raise self._errors[0]
        return sorted(self._unread)

    def __enter__(self) -> _Output:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        for stream in self._streams:
            with contextlib.suppress(OpenFacilityError):
                stream.close()
        for thread in self._threads:
            thread.join(timeout=1)


def _lines(pieces: Iterable[bytes]) -> Iterable[bytes]:
    rest = b""
    for piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        yield from lines
    if rest:
        yield rest
