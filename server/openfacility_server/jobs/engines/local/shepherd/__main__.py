"""The nursery: brings up one shepherd for each job directory that the leader names on standard input.

A process that has loaded everything forks in a millisecond and shares its memory with its offspring; a new interpreter
for each job would take twenty, of each core. Requests are JSON strings, answers the shepherds' process numbers, one to
a line. The nursery ends when the leader does; shepherds are neither its children nor the leader's.
"""

# A shepherd starts in milliseconds: no pathlib, no contextlib, nothing from outside of its package.
# ruff: noqa: PTH100, PTH120

import gc
import json
import os
import signal
import sys
from collections.abc import Callable

HERE = os.path.dirname(os.path.abspath(__file__))


def main() -> None:
    """Serves requests until the leader closes the pipe or dies."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # terminals and service managers stop the server, not its jobs
    os.chdir("/")
    # `shepherd` is imported as a package: its byte code is cached. At the end of the path it hides nothing.
    sys.path = [entry for entry in sys.path if entry != HERE] + [os.path.dirname(HERE)]
    see_through = __import__("shepherd.main", fromlist=["main"]).main
    gc.collect()
    gc.freeze()  # the collector would touch, and so copy, the pages that shepherds share
    while request := sys.stdin.readline():
        directory = json.loads(request)
        try:
            child = os.fork()
        except OSError as error:
            answer(f"error {error.errno}")
            continue
        if child == 0:
            bring_up(directory, see_through)
        os.waitpid(child, 0)


def answer(line: str) -> None:
    """Answers the request."""
    os.write(1, line.encode() + b"\n")


def bring_up(directory: str, see_through: Callable[[str], None]) -> None:
    """Forks the shepherd, which is nobody's child but init's and leads no session, and answers for it."""
    try:
        os.setsid()
        shepherd = os.fork()
        if shepherd:
            answer(str(shepherd))
        else:
            null = os.open(os.devnull, os.O_RDWR)
            for fd in (0, 1, 2):
                os.dup2(null, fd)
            os.close(null)
            see_through(directory)
    except OSError as error:
        answer(f"error {error.errno}")
    finally:
        os._exit(0)


main()
