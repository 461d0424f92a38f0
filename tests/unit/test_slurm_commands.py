"""Running commands as accounts, within bounds; who an owner is there."""

from __future__ import annotations

import asyncio
import os
import pwd
import time
from datetime import timedelta
from pathlib import Path

import pytest
from openfacility_server.jobs.engines import EngineError, EngineUnavailable
from openfacility_server.jobs.engines.slurm.accounts import Accounts
from openfacility_server.jobs.engines.slurm.commands import Commands
from openfacility_server.jobs.engines.slurm.errors import NotReachedError
from openfacility_server.jobs.engines.slurm.identity import Identity
from openfacility_server.jobs.engines.slurm.settings import SlurmSettings

from tests.engines.local_harness import until

SETTINGS = SlurmSettings("machine", timeout=timedelta(seconds=20))
ROOT = os.geteuid() == 0
OWN = pwd.getpwuid(os.geteuid()).pw_name


async def test_result_and_input() -> None:
    commands = Commands(SETTINGS)
    data = b"x" * 3_000_000
    assert len((await commands.run(["cat"], stdin=data)).out) == len(data)
    assert (await commands.run(["true"], stdin=data)).code == 0  # which reads none of it
    done = await commands.run(["sh", "-c", "echo out; echo err >&2; exit 3"])
    assert (done.code, done.out, done.err) == (3, "out\n", "err\n")
    assert (await commands.run(["printf", r"a\377b"])).out == "a\N{REPLACEMENT CHARACTER}b"


async def test_environment_is_minimal(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SBATCH_ACCOUNT", "SQUEUE_FORMAT", "SLURM_CONF", "DATABASE_URL"):
        monkeypatch.setenv(name, "of the server")
    settings = SlurmSettings("machine", conf=Path("/etc/our.conf"), cluster="c1", preload=Path("/none.so"))
    commands = Commands(settings)
    _, environment = await commands.prepared(["env"], None, {"A": "1"})
    assert environment == {
        "PATH": environment["PATH"],
        "LC_ALL": "C.UTF-8",
        "SLURM_TIME_FORMAT": "%s",
        "SLURM_CONF": "/etc/our.conf",
        "SLURM_CLUSTERS": "c1",
        "LD_PRELOAD": "/none.so",
        "A": "1",
    }
    words, _ = await commands.prepared(["sacct", "-n"], None, {})
    assert words == ["sacct", "-M", "c1", "-n"]


async def test_time_is_bounded(tmp_path: Path) -> None:
    """All that was started is ended, when the time is over and when nobody waits any more."""
    commands = Commands(SETTINGS)
    pids = tmp_path / "pids"
    command = ["sh", "-c", f"sleep 1000 & echo $! >> {pids}; echo $$ >> {pids}; wait"]
    began = time.monotonic()
    with pytest.raises(EngineUnavailable, match=r"within 0\.3 s"):
        await commands.run(command, timeout=0.3)
    assert time.monotonic() - began < 10
    await until(lambda: not any(alive(pids)))
    task = asyncio.create_task(commands.run(command))
    await until(lambda: len(alive(pids)) == 4 and all(alive(pids)[2:]))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until(lambda: not any(alive(pids)))


def alive(pids: Path) -> list[bool]:
    """Which of the processes live whose numbers are in a file."""
    return [_lives(pid) for pid in (pids.read_text().split() if pids.exists() else [])]


def _lives(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


async def test_output_is_bounded() -> None:
    with pytest.raises(EngineUnavailable, match="too long"):
        await Commands(SETTINGS).run(["yes", "x" * 100_000])


async def test_what_is_not_installed_was_not_told_anything() -> None:
    with pytest.raises(NotReachedError, match="cannot run no-such-command"):
        await Commands(SETTINGS).run(["no-such-command"])


async def test_ended_from_outside() -> None:
    """It is not known what became of what it was to do."""
    with pytest.raises(EngineUnavailable, match="ended from outside") as ended:
        await Commands(SETTINGS).run(["sh", "-c", "kill -9 $$"])
    assert not isinstance(ended.value, NotReachedError)


async def test_a_place_is_not_waited_for_long() -> None:
    commands = Commands(SETTINGS)
    silent = [asyncio.create_task(commands.run(["sleep", "1000"])) for _ in range(8)]
    await asyncio.sleep(0)
    with pytest.raises(NotReachedError, match="too many"):
        await commands.run(["true"], timeout=0.1)
    for task in silent:
        task.cancel()
    await asyncio.gather(*silent, return_exceptions=True)
    assert (await commands.run(["true"])).code == 0


async def test_a_daemon_that_is_away() -> None:
    words = "squeue: error: Unable to contact slurm controller (connect failure)"
    with pytest.raises(NotReachedError, match="controller"):
        await Commands(SETTINGS).run(["sh", "-c", f"echo '{words}' >&2; exit 1"])
    assert (await Commands(SETTINGS).run(["sh", "-c", f"echo '{words}' >&2"])).code == 0


@pytest.mark.skipif(not ROOT, reason="only root can become another user")
async def test_as_another_account() -> None:
    nobody = pwd.getpwnam("nobody")
    done = await Commands(SETTINGS).run(["sh", "-c", 'id -u; id -g; id -G; echo "$HOME $USER $LOGNAME"'], user="nobody")
    home = f"{nobody.pw_dir} nobody nobody"
    assert done.out.splitlines() == [str(nobody.pw_uid), str(nobody.pw_gid), str(nobody.pw_gid), home]


async def test_as_oneself() -> None:
    assert (await Commands(SETTINGS).run(["id", "-un"], user=OWN)).out == f"{OWN}\n"


async def test_as_nobody_who_is_there() -> None:
    with pytest.raises(EngineError) as refused:
        await Commands(SETTINGS).run(["id"], user="no-such-user")
    assert refused.value.refusal.reason == "NO_POSIX_ACCOUNT"


async def test_without_the_right_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 65534)
    with pytest.raises(EngineError) as refused:
        await Commands(SETTINGS).run(["id"], user="root")
    assert refused.value.refusal.reason == "CANNOT_ACT_AS_USER"


def identity(**values: object) -> Identity:
    return Identity(SlurmSettings("machine", **values), Accounts())  # type: ignore[arg-type]


async def test_owners_and_accounts() -> None:
    who = identity(users={"ada@uni": "nobody", "bin": "daemon"}, min_uid=0)
    assert (await who.account_of("ada@uni")).name == "nobody"
    assert who.owner_of("nobody") == "ada@uni"
    assert (await who.account_of("bin")).name == "daemon"
    assert who.owner_of("daemon") == "bin"
    assert who.owner_of("bin") == ""  # another's by name, and nobody's here
    assert who.owner_of("mail") == "mail"
    with pytest.raises(EngineError):
        await who.account_of("nobody")  # ada's


@pytest.mark.parametrize("owner", ["no-such-user", "", "a\0b", "-x", "../etc", "x" * 300, "ada:x"])
async def test_who_has_no_account(owner: str) -> None:
    with pytest.raises(EngineError) as refused:
        await identity().account_of(owner)
    assert refused.value.refusal.reason == "NO_POSIX_ACCOUNT"


async def test_accounts_of_the_system_act_for_nobody() -> None:
    with pytest.raises(EngineError):
        await identity().account_of("daemon")
    if ROOT:
        with pytest.raises(EngineError):
            await identity().account_of("root")
    else:
        assert (await identity(min_uid=1 << 31).account_of(OWN)).uid == os.geteuid()


async def test_operator() -> None:
    assert await identity().operator() is None
    account = await identity(operator="daemon").operator()
    assert account is not None
    assert account.name == "daemon"
    with pytest.raises(EngineError):
        await identity(operator="no-such-user").operator()
