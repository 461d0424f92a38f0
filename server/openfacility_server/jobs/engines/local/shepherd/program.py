"""What a job runs: its environment, its files, and the start of one process of it."""

# A shepherd starts in milliseconds: no pathlib, no contextlib, nothing from outside of its package.
# ruff: noqa: PTH103, PTH118, PTH119, PTH120, PTH123, TID252

from __future__ import annotations

import errno
import os
import signal
import stat
from collections.abc import Sequence
from typing import Any

from . import proc, record


class LaunchError(Exception):
    """A job could not be started; ``str()`` is a sentence for its owner."""


_STAGES = {
    "directory": "The directory could not be entered",
    "stdin": "Standard input could not be opened",
    "stdout": "Standard output could not be opened",
    "stderr": "Standard error could not be opened",
    "program": "The program could not be started",
    "script": "The script could not be started",
    "pre_launch": "The pre_launch script could not be started",
    "post_launch": "The post_launch script could not be started",
}
_HINTS = {
    ("script", errno.ENOENT): " It or the interpreter in its first line does not exist.",
    ("program", errno.ENOEXEC): " A script must begin with #! and the path of its interpreter.",
    ("script", errno.ENOEXEC): " A script must begin with #! and the path of its interpreter.",
    ("program", errno.E2BIG): " Its arguments and environment are too long for this system.",
}


def launch_error(stage: str, number: int) -> LaunchError:
    """Says what went wrong, without paths: the owner knows those they gave, and ours are nobody's business."""
    return LaunchError(f"{_STAGES[stage]}: {os.strerror(number)}.{_HINTS.get((stage, number), '')}")


class Job:
    """A submitted job as its shepherd sees it: what was asked for, and what the leader decided at its launch."""

    def __init__(self, directory: str) -> None:
        """Reads the job's files."""
        self.path = directory
        self.id = os.path.basename(directory)
        self.spool = os.path.dirname(os.path.dirname(directory))
        submitted = record.read_json(self.file(record.JOB))
        launch = record.read_json(self.file(record.LAUNCH))
        if submitted is None or launch is None:
            raise FileNotFoundError(errno.ENOENT, "the job was not launched")
        self.spec: dict[str, Any] = submitted["spec"]
        self.array_id: str = submitted["array_job_id"]
        self.array_index: int | None = submitted["array_index"]
        self.launch = launch

    def file(self, name: str) -> str:
        """Returns the path of one of the job's own files."""
        return os.path.join(self.path, name)

    @property
    def name(self) -> str:
        """Display name at the time of the launch."""
        return str(self.launch["name"])

    def directory(self) -> str:
        """Returns the directory to run in, made if it is the job's own."""
        asked = str(self.spec["directory"])
        if asked:
            return asked
        own = self.file(record.WORK)
        os.makedirs(own, mode=0o700, exist_ok=True)
        return own

    def environment(self) -> dict[str, str]:
        """Returns the variables of its processes. The shepherd's own hold none of the server's secrets any more."""
        variables = dict(os.environ) if self.spec["inherit_environment"] else {}
        variables.update(self.spec["environment"])
        variables["OPENFACILITY_JOB_ID"] = self.id
        variables["OPENFACILITY_RESOURCE_ID"] = str(self.launch["resource_id"])
        variables["OPENFACILITY_CORES"] = str(self.launch["cores"])
        if self.array_index is not None:
            variables["OPENFACILITY_ARRAY_JOB_ID"] = self.array_id
            variables["OPENFACILITY_ARRAY_INDEX"] = str(self.array_index)
        return variables

    def command(self) -> tuple[str, list[str]]:
        """Returns the name of the stage and the argument vector of the program."""
        arguments = [str(argument) for argument in self.spec["arguments"]]
        if self.spec["executable"]:
            return "program", [self.spec["executable"], *arguments]
        path = self.spec["script_path"] or self.file(record.SCRIPT)
        return "script", [path, *arguments]

    def copies(self) -> int:
        """Returns how many processes to start."""
        return int(self.launch["processes"]) if self.spec["launcher"] == "multiple" else 1

    def expand(self, pattern: str) -> str:
        """Replaces %j, %A, %a, %x and %% in the path of an output file; other percent signs stay."""
        values = {
            "j": self.id,
            "A": self.array_id or self.id,
            "a": "" if self.array_index is None else str(self.array_index),
            "x": self.name.replace("/", "_"),  # a name never leads into another directory
            "%": "%",
        }
        parts: list[str] = []
        rest = pattern
        while rest:
            before, percent, rest = rest.partition("%")
            parts.append(before)
            if percent:
                parts.append(values.get(rest[:1], "%" + rest[:1]))
                rest = rest[1:]
        return "".join(parts)


class Files:
    """The three standard files of a job, open for as long as its processes start."""

    def __init__(self, job: Job, directory: str) -> None:
        """Opens them. Raises LaunchError."""
        self.stdout_path = self._path(job, directory, record.STDOUT)
        self.stderr_path = self._path(job, directory, record.STDERR)
        stdin = os.path.join(directory, job.spec["stdin_path"]) if job.spec["stdin_path"] else os.devnull
        self.stdin = _open("stdin", stdin, os.O_RDONLY)
        self.stdout = self._output(job, record.STDOUT, self.stdout_path)
        if self.stderr_path == self.stdout_path:
            self.stderr = self.stdout
        else:
            self.stderr = self._output(job, record.STDERR, self.stderr_path)

    @staticmethod
    def _path(job: Job, directory: str, name: str) -> str:
        asked = job.expand(str(job.spec[f"{name}_path"]))
        return os.path.normpath(os.path.join(directory, asked)) if asked else job.file(name)

    @staticmethod
    def _output(job: Job, name: str, path: str) -> int:
        # Appending, so that processes which opened the same file each for itself do not write over one another.
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND
        return _open(name, path, flags, 0o600 if path == job.file(name) else 0o666)


def _open(stage: str, path: str, flags: int, mode: int = 0) -> int:
    """Opens a file without ever waiting for it (a FIFO without a peer would stop the shepherd)."""
    try:
        fd = os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY, mode)
        if stage == "stdin" and stat.S_ISDIR(os.fstat(fd).st_mode):
            raise IsADirectoryError(errno.EISDIR, "")
    except OSError as error:
        raise launch_error(stage, error.errno or errno.EIO) from None
    os.set_blocking(fd, True)
    return fd


def start(stage: str, command: Sequence[str], directory: str, variables: dict[str, str], files: Files) -> int:
    """Starts one process and returns its number once the program runs in it. Raises LaunchError."""
    told, tell = os.pipe()
    parent = os.getpid()
    try:
        pid = os.fork()
    except OSError as error:
        os.close(told)
        os.close(tell)
        raise launch_error(stage, error.errno or errno.EAGAIN) from None
    if pid == 0:
        _become(tell, parent, stage, command, directory, variables, files)
    os.close(tell)
    with open(told, "rb") as pipe:
        failure = pipe.read()  # closed by the kernel when the program has been loaded
    if failure:
        os.waitpid(pid, 0)
        where, _, number = failure.decode().partition(" ")
        raise launch_error(where, int(number))
    return pid


def _become(
    tell: int,
    parent: int,
    stage: str,
    command: Sequence[str],
    directory: str,
    variables: dict[str, str],
    files: Files,
) -> None:
    """Turns the forked child into the program; never returns."""
    where = stage
    try:
        os.setsid()
        proc.die_with_parent()
        if os.getppid() != parent:
            os._exit(1)  # the shepherd died before the kernel knew that this process should go with it
        _reset_signals()
        where = "directory"
        os.chdir(directory)
        where = stage
        for source, target in ((files.stdin, 0), (files.stdout, 1), (files.stderr, 2)):
            os.dup2(source, target)
        os.execvpe(command[0], list(command), variables)  # noqa: S606 -- never a shell
    except OSError as error:
        os.write(tell, f"{where} {error.errno or errno.EIO}".encode())
    finally:
        os._exit(127)


def _reset_signals() -> None:
    for number in signal.valid_signals():
        try:
            signal.signal(number, signal.SIG_DFL)
        except (OSError, ValueError):
            continue  # SIGKILL, SIGSTOP and those that the C library keeps for itself
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
