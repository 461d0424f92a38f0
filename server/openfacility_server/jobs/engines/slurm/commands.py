"""Slurm's commands, run as this server or as a user, within bounds of time and size."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from openfacility_server import programs
from openfacility_server.jobs.engines import EngineError, EngineUnavailable, Refusal
from openfacility_server.jobs.engines.slurm.accounts import Account, Accounts
from openfacility_server.jobs.engines.slurm.errors import NotReachedError, away
from openfacility_server.jobs.engines.slurm.settings import SlurmSettings

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_AT_ONCE = 8
_MOST_OUTPUT = 64 * 1024 * 1024
# Commands that do not take the cluster's name from SLURM_CLUSTERS.
_NAME_THE_CLUSTER = ("sacct",)
_OF_ACCOUNTING = ("sacct", "sacctmgr", "sreport", "sshare")


@dataclass(frozen=True, slots=True)
class Result:
    """The exit code of a command, and what it wrote."""

    code: int
    out: str
    err: str


class Commands:
    """Runs commands of one cluster. For one event loop."""

    def __init__(self, settings: SlurmSettings, accounts: Accounts | None = None) -> None:
        """Nothing is run yet."""
        self._settings = settings
        self._accounts = accounts or Accounts()
        self._room = asyncio.Semaphore(_AT_ONCE)
        self._environment = _environment(settings)

    async def run(
        self,
        argv: Sequence[str],
        *,
        user: str | None = None,
        stdin: bytes = b"",
        timeout: float | None = None,  # noqa: ASYNC109 -- the process is ended with it, and the error is ours
        env: Mapping[str, str] | None = None,
    ) -> Result:
        """Runs one command to its end, as an account of this machine or as the server's own.

        ``timeout`` in seconds; None: as configured. Times in the output are seconds since 1970. Where the cluster is
        named in the configuration, the output of some commands begins with a line ``CLUSTER: name``.

        Raises EngineUnavailable when Slurm does not answer, EngineError when the server cannot act as the user. That
        Slurm says no is no exception: see ``code``.
        """
        limit = self._settings.timeout.total_seconds() if timeout is None else timeout
        command, environment = await self.prepared(argv, user, env or {})
        await self._enter(limit)
        try:
            result = await _run(command, environment, stdin, limit)
        finally:
            self._room.release()
        if result.code != 0:
            if result.err.startswith("setpriv:"):
                raise NotReachedError(f"The server cannot run {argv[0]}.")
            if error := away(result.err, accounting=argv[0] in _OF_ACCOUNTING):
                raise error
            if result.err.startswith("sudo:"):
                raise cannot_act_as_user()
        return result

    async def _enter(self, limit: float) -> None:
        """Waits for one of the places; not for long when all are taken by commands that nobody answers."""
        try:
            async with asyncio.timeout(limit):
                await self._room.acquire()
        except TimeoutError:
            raise NotReachedError("The server has too many questions to the batch system open.") from None

    def can_be(self, account: Account) -> bool:
        """Whether commands can be run as an account."""
        return os.geteuid() in (0, account.uid) or self._settings.sudo

    async def prepared(
        self, argv: Sequence[str], user: str | None, env: Mapping[str, str]
    ) -> tuple[list[str], dict[str, str]]:
        """Returns what to execute, and with which variables, so that a command runs as a user.

        Raises EngineError when that cannot be.
        """
        environment = {**self._environment, **env}
        command = list(argv)
        if self._settings.cluster and argv[0] in _NAME_THE_CLUSTER:
            command[1:1] = ["-M", self._settings.cluster]
        if user is None:
            return command, environment
        account = await self._accounts.find(user)
        if account is None:
            raise EngineError(Refusal("You have no account on this cluster.", "NO_POSIX_ACCOUNT"))
        environment |= {"HOME": account.home, "USER": account.name, "LOGNAME": account.name}
        own = os.geteuid()
        if account.uid == own:
            return command, environment
        if own == 0:
            return [*_setpriv(account), *command], environment
        if self._settings.sudo:
            kept = ",".join(sorted(environment))
            return ["sudo", "-n", "-u", account.name, f"--preserve-env={kept}", "--", *command], environment
        raise cannot_act_as_user()


def cannot_act_as_user() -> EngineError:
    """Returns what callers are told when the server has no way to be them."""
    text = "This server may not act as you on this cluster; its operators have to allow it."
    return EngineError(Refusal(text, "CANNOT_ACT_AS_USER"))


def _setpriv(account: Account) -> list[str]:
    # To become somebody else before it starts a program, a large server has to be forked, which is slow.
    groups = ",".join(str(group) for group in account.groups)
    return ["setpriv", f"--reuid={account.uid}", f"--regid={account.gid}", f"--groups={groups}", "--"]


def _environment(settings: SlurmSettings) -> dict[str, str]:
    """Returns a minimal environment: what is in the server's own (SBATCH_…, SQUEUE_…) would change what commands do."""
    variables = {"PATH": PATH, "LC_ALL": "C.UTF-8", "SLURM_TIME_FORMAT": "%s"}
    if settings.conf is not None:
        variables["SLURM_CONF"] = str(settings.conf)
    if settings.cluster:
        variables["SLURM_CLUSTERS"] = settings.cluster
    if settings.preload is not None:
        variables["LD_PRELOAD"] = str(settings.preload)
    return variables


async def _run(command: Sequence[str], environment: Mapping[str, str], stdin: bytes, limit: float) -> Result:
    try:
        program = programs.start(command, environment, stdin)
    except OSError as error:
        text = f"The server cannot run {command[0]}: {error.strerror or 'failure'}."
        raise NotReachedError(text) from error
    try:
        async with asyncio.timeout(limit):
            out, err = await program.output(_MOST_OUTPUT)
            code = await program.wait()
    except programs.OutputTooLong:
        raise EngineUnavailable("The batch system's answer is too long.") from None
    except TimeoutError:
        raise EngineUnavailable(f"The batch system did not answer within {limit:g} s.") from None
    finally:
        program.end()
    if code < 0:
        raise EngineUnavailable(f"The server's {command[0]} was ended from outside.")
    return Result(code, out.decode(errors="replace"), err.decode(errors="replace"))
