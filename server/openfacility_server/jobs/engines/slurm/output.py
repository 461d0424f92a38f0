"""Output files of jobs, found by Slurm's rules for their names and opened as their owners."""

from __future__ import annotations

import asyncio
import errno
import os
import posixpath
import re
import socket
import stat
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from openfacility_server import programs
from openfacility_server.jobs.engines import EngineError, EngineUnavailable, JobRef, OutputStream, Refusal
from openfacility_server.jobs.engines.nodenames import expand as node_names
from openfacility_server.jobs.engines.slurm import fields
from openfacility_server.jobs.engines.slurm.accounts import Account
from openfacility_server.jobs.engines.slurm.commands import PATH
from openfacility_server.jobs.engines.slurm.description import job_name, output_patterns
from openfacility_server.jobs.engines.slurm.identity import Identity
from openfacility_server.jobs.engines.slurm.rows import QueueRow, Record
from openfacility_server.jobs.engines.slurm.settings import SlurmSettings
from openfacility_server.jobs.model import JobSpec

Standing = Callable[[Sequence[JobRef]], Awaitable[Mapping[str, Sequence[QueueRow]]]]
LastRun = Callable[[JobRef], Awaitable[Record | None]]

_NO_TASK = 4294967294  # what Slurm writes for %a of a job that is no element of an array
_SYMBOL = re.compile(r"%(?:(%)|(\d*)([AaJjNnstux]))")
_LONGEST_PAD = 10
_AT_ONCE = 4
_SECONDS = 5.0
_STARTING = timedelta(minutes=1)
_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
# A process of its own, which becomes the user for good before it looks at anything, and hands over what it opened.
_OPENER = f"""
import os, socket, stat, sys
channel = socket.socket(fileno=0)
path, uid, gid, groups = sys.argv[1:]
try:
    if uid != "-":
        os.setgroups([int(group) for group in groups.split(",")])
        os.setresgid(int(gid), int(gid), int(gid))
        os.setresuid(int(uid), int(uid), int(uid))
    fd = os.open(path, {_FLAGS})
    if stat.S_ISREG(os.fstat(fd).st_mode):
        socket.send_fds(channel, [b"0"], [fd])
    else:
        channel.send(b"{errno.EISDIR}")
except OSError as error:
    channel.send(b"%d" % error.errno)
"""


@dataclass(frozen=True, slots=True)
class Names:
    """What the symbols in the name of an output file stand for. ``number`` is Slurm's own of this job or element."""

    number: str
    array: str
    index: str
    node: str
    user: str
    name: str


class Output:
    """Opens output files of one cluster's jobs. For one event loop."""

    def __init__(self, settings: SlurmSettings, identity: Identity, standing: Standing, last_run: LastRun) -> None:
        """``standing`` returns the rows that jobs have in the queue, by our ids; ``last_run`` what accounting has of
        one that is not there.
        """
        self._settings, self._identity = settings, identity
        self._standing, self._last_run = standing, last_run
        self._room = asyncio.Semaphore(_AT_ONCE)

    async def open(self, ref: JobRef, spec: JobSpec, stream: OutputStream) -> int | None:
        """Returns a descriptor; None while the job has not started, or when it never has.

        Raises FileNotFoundError, EngineError, EngineUnavailable.
        """
        account = await self._identity.account_of(ref.owner)
        rows = (await self._standing([ref])).get(ref.id, ())
        row = rows[0] if rows else None
        if row is not None and not _has_run(row):
            return None
        names = await self._recorded(ref, spec, account) if row is None else _of_row(row)
        if names is None:
            return None
        path = expand(self._pattern(ref, spec, stream, account, row), names)
        try:
            return await self._open(path, account)
        except FileNotFoundError:
            if row is not None and _is_starting(row):
                return None
            raise

    def _pattern(self, ref: JobRef, spec: JobSpec, stream: OutputStream, account: Account, row: QueueRow | None) -> str:
        if row is None and not ref.external:
            patterns = output_patterns(
                ref.id.partition("_")[0], spec, spec.directory or account.home, in_array="_" in ref.id
            )
        else:
            stdout = fields.text(row.stdout) if row else spec.stdout_path
            stdout = stdout or ("slurm-%A_%a.out" if "_" in ref.native_id else "slurm-%j.out")
            stderr = (fields.text(row.stderr) if row else spec.stderr_path) or stdout
            base = (fields.text(row.directory) if row else spec.directory) or account.home
            patterns = posixpath.join(base, stdout), posixpath.join(base, stderr)
        return patterns[0] if stream is OutputStream.STDOUT else patterns[1]

    async def _recorded(self, ref: JobRef, spec: JobSpec, account: Account) -> Names | None:
        """Returns the names of a job that the queue does not have; None when it has never started."""
        run = await self._last_run(ref)
        if run is None or not fields.number(run.row.started) or run.row.nodes.startswith("None assigned"):
            return None
        array, _, index = ref.native_id.partition("_")
        return Names(run.row.raw_id, array, index, _first(run.row.nodes), account.name, job_name(spec))

    async def _open(self, path: str, account: Account) -> int:
        own = os.geteuid()
        if account.uid == own:
            return await asyncio.to_thread(_open_regular, path)
        if own == 0:
            groups = ",".join(str(group) for group in account.groups)
            command = [sys.executable, "-I", "-S", "-c", _OPENER, path, str(account.uid), str(account.gid), groups]
        elif self._settings.sudo:
            as_user = ["sudo", "-n", "-u", account.name, "--"]
            command = [*as_user, "python3", "-I", "-S", "-c", _OPENER, path, "-", "-", "-"]
        else:
            raise _unreadable("This server may not read files as you on this cluster.")
        async with self._room:
            return await _opened_by(command)


def expand(pattern: str, names: Names) -> str:
    """Returns the path that Slurm makes of a pattern for a batch script's output."""
    if "\\" in pattern:
        return pattern.replace("\\", "")  # Slurm's way to say that there are no symbols in it
    numbers = {
        "A": names.array,
        "a": names.index or str(_NO_TASK),
        "J": names.number,
        "j": names.number,
        "n": "0",
        "t": "0",
    }
    texts = {"N": names.node, "s": "batch", "u": names.user, "x": names.name}

    def said(found: re.Match[str]) -> str:
        if found[1]:
            return "%"
        if found[3] in texts:
            return texts[found[3]]
        return numbers[found[3]].zfill(min(int(found[2] or 0), _LONGEST_PAD))

    return _SYMBOL.sub(said, pattern)


def _has_run(row: QueueRow) -> bool:
    return row.ran or fields.number(row.restarts) > 0


def _is_starting(row: QueueRow) -> bool:
    """Whether its files may not be there yet: a node makes them some time after the job's start."""
    started = fields.time(row.started)
    going = row.state in ("PENDING", "CONFIGURING", "RUNNING")
    return going and started is not None and datetime.now(UTC) - started < _STARTING


def _of_row(row: QueueRow) -> Names:
    index = row.task if row.is_element else ""
    array = row.array if row.is_element else row.number
    return Names(row.number, array, index, _first(row.nodes), row.user, row.name)


def _first(nodes: str) -> str:
    try:
        return next(iter(node_names(fields.text(nodes))), "")
    except ValueError:
        return ""


def _open_regular(path: str) -> int:
    try:
        descriptor = os.open(path, _FLAGS)
    except OSError as error:
        raise _failure(error.errno or errno.EIO) from None
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    raise _failure(errno.EISDIR)


async def _opened_by(command: Sequence[str]) -> int:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        ours.setblocking(False)
        try:
            program = programs.start(command, {"PATH": PATH, "LC_ALL": "C.UTF-8"}, theirs.fileno())
        except OSError as error:
            raise EngineUnavailable("The server cannot start a process to read output.") from error
        theirs.close()
        try:
            async with asyncio.timeout(_SECONDS):
                await program.wait()
        except TimeoutError:
            raise EngineUnavailable("The file system of the output does not answer.") from None
        finally:
            program.end()
        try:
            said, descriptors, _, _ = socket.recv_fds(ours, 16, 1)
        except BlockingIOError:
            said, descriptors = b"", []
    if descriptors:
        os.set_inheritable(descriptors[0], False)
        return descriptors[0]
    if not said:
        raise _unreadable("This server could not become you to read the file.")
    raise _failure(int(said))


def _failure(number: int) -> Exception:
    match number:
        case errno.ENOENT | errno.ENOTDIR:
            return FileNotFoundError(number, "the output file is not there")
        case errno.EISDIR | errno.ENXIO:
            return _unreadable("The output does not go to a regular file.")
        case errno.EACCES | errno.EPERM | errno.ELOOP | errno.ENAMETOOLONG | errno.EINVAL:
            return _unreadable(f"The output file cannot be opened as its owner: {os.strerror(number)}.")
    return EngineUnavailable(f"The file system of the output does not answer: {os.strerror(number)}.")


def _unreadable(text: str) -> EngineError:
    return EngineError(Refusal(text, "OUTPUT_UNREADABLE"))
