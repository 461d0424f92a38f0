"""A private Slurm on one machine: its own munge, database, accounting, controller, nodes and REST, on loopback.

As root the jobs run as their users (see users.py). As anybody else all of it, jobs too, runs as that one user.
Nothing of the system's own Slurm, munge or MariaDB is read or touched, and clusters can run side by side.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import hashlib
import hmac
import json
import os
import pwd
import random
import re
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, TypeVar

from tests.engines.slurm.users import NAMES, OPERATOR, SBIN, ensure_users, environment, own_name

HERE = Path(__file__).resolve().parent
HINT_FILES = HERE.parents[2] / "deploy" / "slurm"
PROGRAMS = (
    "munged",
    "mariadbd",
    "mariadb-install-db",
    "my_print_defaults",  # mariadb-install-db asks it
    "slurmdbd",
    "sacctmgr",
    "slurmctld",
    "slurmd",
    "slurmrestd",
    "sbatch",
)
DEADLINE_S = 60.0
_STOP_S = 10.0
_POLL_S = 0.02
_T = TypeVar("_T")


class SlurmFailed(Exception):
    """A daemon or a command of the test cluster did not do what it is for."""


def until(condition: Callable[[], _T], what: str, deadline_s: float = DEADLINE_S) -> _T:
    """Returns what ``condition`` returns as soon as that is true; fails when it is not by the deadline."""
    end = time.monotonic() + deadline_s
    while not (value := condition()):
        if time.monotonic() > end:
            raise SlurmFailed(f"waited {deadline_s:g} s for {what}")
        time.sleep(_POLL_S)
    return value


def missing_programs() -> list[str]:
    """What of Slurm, munge and MariaDB is not installed."""
    missing = [program for program in PROGRAMS if shutil.which(program, path=SBIN) is None]
    # Debian packs the plugin for tokens by itself; elsewhere it comes with Slurm, wherever that is.
    debian = list(Path("/usr/lib").glob("*/slurm-wlm"))
    if debian and not any((directory / "auth_jwt.so").exists() for directory in debian):
        missing.append("auth_jwt.so")
    return missing


@dataclass
class _Daemon:
    """How one daemon is run, and its process when it is."""

    name: str
    command: Sequence[str]
    answers: Callable[[], bool]
    environment: Mapping[str, str] = field(default_factory=dict)
    as_user: Sequence[str] = ()
    process: subprocess.Popen[bytes] | None = None

    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None


class SlurmCluster:
    """One cluster. ``start`` it, and ``remove`` it in the end; or use it in a ``with``, which does both.

    ``nodes`` nodes n1, n2, … of ``cpus`` cores each. A job that ended is forgotten by the controller after
    ``min_job_age`` seconds. ``extra`` are further lines of slurm.conf, which win over
    those of the template. With ``hints`` the files of deploy/slurm are
    installed; with ``rest`` slurmrestd runs.

    The names of its daemons: munged, mariadbd, slurmdbd, slurmctld, n1, n2, …, slurmrestd.
    """

    def __init__(
        self,
        *,
        nodes: int = 4,
        cpus: int = 2,
        min_job_age: int = 300,
        extra: Iterable[str] = (),
        hints: bool = True,
        rest: bool = True,
    ) -> None:
        self.nodes = tuple(f"n{number}" for number in range(1, nodes + 1))
        self.users = ensure_users()
        self._cpus = cpus
        self._min_job_age = min_job_age
        self._extra = tuple(extra)
        self._hints = hints
        self._owner = own_name()
        self._root = os.geteuid() == 0
        # Not pytest's directory: paths of sockets must be short, and the users must reach them.
        self.base = Path(tempfile.mkdtemp(prefix="of-slurm-")).resolve()
        self.base.chmod(0o755)
        self._preload: Path | None = None
        self._prepared = False
        self._ports = dict(
            zip(("slurmctld", "slurmdbd", "slurmrestd", *self.nodes), _free_ports(nodes + 3), strict=True)
        )
        # The kernel ends a daemon together with the thread that started it, so that none outlives a test run that
        # dies; and one may be restarted from a thread that is short-lived.
        self._spawner = ThreadPoolExecutor(1, thread_name_prefix="slurm-spawner")
        self._daemons = {daemon.name: daemon for daemon in self._describe(rest)}

    # Where things are.

    @property
    def conf(self) -> Path:
        """slurm.conf; slurmdbd.conf and the Lua files are beside it."""
        return self.base / "etc" / "slurm.conf"

    @property
    def events(self) -> Path:
        """The file that the Lua files write to; made by the first event."""
        return self.base / "events" / "slurm-events.jsonl"

    @property
    def ctld_log(self) -> Path:
        return self.base / "log" / "slurmctld.log"

    @property
    def jobs(self) -> Path:
        """A directory that every user can write to."""
        return self.base / "jobs"

    @property
    def rest_socket(self) -> Path:
        return self.base / "rest" / "socket"

    @property
    def rest_url(self) -> str:
        """The same REST service as on the socket, by TCP."""
        return f"http://127.0.0.1:{self._ports['slurmrestd']}"

    @property
    def jwt_key(self) -> Path:
        """The HS256 key: who has it can be any user."""
        return self.base / "etc" / "jwt.key"

    @property
    def env(self) -> dict[str, str]:
        """What a client of this cluster needs in its environment."""
        preload = {"LD_PRELOAD": str(self._preload)} if self._preload else {}
        return {"SLURM_CONF": str(self.conf), **preload}

    # Running it.

    def start(self) -> None:
        """Starts what is not running and returns when jobs can be run. The first time it makes the accounts too."""
        first = not self._prepared
        with ThreadPoolExecutor(4) as pool:
            if first:
                self._prepare()
                # Clients and slurmdbd want the compiled file, so it is made while the database is.
                compiled = pool.submit(self._build_preload)
                database = pool.submit(self._install_database)
                munge = pool.submit(self.start_daemon, "munged")
                for step in (database, munge, compiled):
                    step.result()
            self._start_together(pool, ["munged", "mariadbd"])
            try:
                self.start_daemon("slurmdbd")
            except SlurmFailed:
                # On a busy machine a database that has just begun gives it an empty answer, at which it ends.
                self.kill("slurmdbd")
                self.start_daemon("slurmdbd")
            if first:
                self._make_accounts()
                self._prepared = True
            # A slurmd that does not find its controller tries again a second later.
            self.start_daemon("slurmctld")
            self._start_together(pool, list(self._daemons))

    def stop(self) -> None:
        """Stops all daemons in order; ``start`` continues with the same jobs and accounts. Running jobs run on."""
        last = ("slurmctld", "slurmdbd", "mariadbd", "munged")
        self._end([name for name in self._daemons if name not in last])
        for name in last:
            self._end([name])

    def remove(self) -> None:
        """Ends all processes, jobs too, and removes all files."""
        for daemon in self._daemons.values():
            if daemon.process:
                daemon.process.kill()
        for daemon in self._daemons.values():
            if daemon.process:
                daemon.process.wait(DEADLINE_S)
                daemon.process = None
        self._end_jobs()
        self._spawner.shutdown()
        shutil.rmtree(self.base, ignore_errors=True)

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.remove()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    # Breaking it.

    def start_daemon(self, name: str) -> None:
        """Starts a daemon unless it runs, and waits until it answers.

        A controller that comes back answers before it has found its nodes, which takes it a few seconds more.
        """
        daemon = self._daemons[name]
        if not daemon.running():
            daemon.process = self._spawner.submit(self._spawn, daemon).result()
        process = daemon.process
        assert process is not None

        def answers() -> bool:
            if process.poll() is not None:
                raise SlurmFailed(f"{name} ended with {process.returncode}:\n{self._log_of(name)}")
            return daemon.answers()

        try:
            until(answers, f"{name} to answer")
        except SlurmFailed as failed:
            failed.add_note(self._log_of(name))
            raise

    def kill(self, name: str) -> None:
        """Ends a daemon as a crash does."""
        daemon = self._daemons[name]
        if daemon.process:
            daemon.process.kill()
            daemon.process.wait(DEADLINE_S)
            daemon.process = None

    def killed(self) -> list[str]:
        """The daemons that somebody else has ended."""
        return [name for name, daemon in self._daemons.items() if daemon.process and not daemon.running()]

    def stop_daemon(self, name: str) -> None:
        """Ends a daemon as an administrator does."""
        self._end([name])

    def restart(self, name: str) -> None:
        """Stops a daemon, starts it again and waits until it answers."""
        self.stop_daemon(name)
        self.start_daemon(name)

    def pause(self, name: str) -> None:
        """Makes a daemon hang: it keeps its connections and says nothing."""
        self._signal(name, signal.SIGSTOP)

    def resume(self, name: str) -> None:
        """Ends a pause."""
        self._signal(name, signal.SIGCONT)

    # Using it.

    def run(
        self,
        *command: str,
        user: str | None = None,
        check: bool = True,
        env: Mapping[str, str] | None = None,
        stdin: str | None = None,
        cwd: Path | None = None,
        timeout_s: float = DEADLINE_S,
    ) -> subprocess.CompletedProcess[str]:
        """Runs a client such as sbatch, as another user if wanted, in ``jobs`` or ``cwd``.

        Another user gets what a login starts with; root only, unless it is the own name. ``env`` is added.
        """
        identity: dict[str, Any] = {}
        if user is not None and user != self._owner:
            account = pwd.getpwnam(user)
            identity = {
                "user": account.pw_uid,
                "group": account.pw_gid,
                "extra_groups": os.getgrouplist(user, account.pw_gid),
            }
        base = dict(os.environ) if user is None else environment(user)
        done = subprocess.run(
            command,
            env={**base, **self.env, **(env or {})},
            cwd=cwd or self.jobs,
            input=stdin if stdin is not None else "",
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout_s,
            **identity,
        )
        if check and done.returncode:
            raise SlurmFailed(f"{' '.join(command)} ended with {done.returncode}: {done.stdout}{done.stderr}")
        return done

    def token(self, user: str, lifetime_s: int = 600) -> str:
        """A token for REST, signed here as a service that has the key would."""
        now = int(time.time())
        claims = {"exp": now + lifetime_s, "iat": now, "sun": user}
        signed = b".".join(_base64(json.dumps(part).encode()) for part in ({"alg": "HS256", "typ": "JWT"}, claims))
        signature = hmac.new(self.jwt_key.read_bytes(), signed, hashlib.sha256).digest()
        return (signed + b"." + _base64(signature)).decode()

    def headers(self, user: str, signer: str | None = None) -> dict[str, str]:
        """The headers of a REST request as a user, with a token of ``signer`` where that is somebody else."""
        return {"X-SLURM-USER-NAME": user, "X-SLURM-USER-TOKEN": self.token(signer or user)}

    # How it is made.

    def _describe(self, rest: bool) -> Iterable[_Daemon]:
        base = self.base
        munge, sql = base / "munge" / "socket", base / "sql" / "socket"
        yield _Daemon(
            "munged",
            [
                *("munged", "--foreground", "--force", "--num-threads=4", f"--socket={munge}"),
                *(f"--key-file={base}/etc/munge.key", f"--pid-file={base}/run/munged.pid"),
                f"--seed-file={base}/munge/seed",
            ],
            lambda: _listens(munge),
        )
        yield _Daemon(
            "mariadbd",
            [
                *("mariadbd", *self._sql_options(), f"--socket={sql}", f"--pid-file={base}/run/mariadbd.pid"),
                # The database has no passwords: it is reached by a socket in a directory of its owner alone.
                *("--skip-networking", "--skip-log-bin", "--performance-schema=OFF", "--max-allowed-packet=64M"),
                *("--innodb-flush-log-at-trx-commit=0", "--innodb-lock-wait-timeout=900"),
            ],
            lambda: _listens(sql),
        )
        yield _Daemon(
            "slurmdbd",
            ["slurmdbd", "-D"],
            self._accounting_answers,
            environment={"MYSQL_UNIX_PORT": str(sql)},
        )
        yield _Daemon("slurmctld", ["slurmctld", "-D"], self._controller_answers)
        for node in self.nodes:
            yield _Daemon(node, ["slurmd", "-D", "-N", node], functools.partial(self._node_answers, node))
        if rest:
            # It refuses to be root or SlurmUser. Which versions of its interface there are is not for us to say.
            nobody = pwd.getpwnam("nobody")
            as_nobody = [f"--reuid={nobody.pw_uid}", f"--regid={nobody.pw_gid}", "--clear-groups"]
            unchecked = {} if self._root else {"SLURMRESTD_SECURITY": "disable_user_check"}
            port = self._ports["slurmrestd"]
            yield _Daemon(
                "slurmrestd",
                ["slurmrestd", "-a", "rest_auth/jwt", f"unix:{self.rest_socket}", f"127.0.0.1:{port}"],
                lambda: _listens(self.rest_socket) and _listens(port),
                environment={"SLURM_JWT": "daemon", **unchecked},
                as_user=as_nobody if self._root else (),
            )

    def _sql_options(self) -> list[str]:
        options = ["--no-defaults", f"--datadir={self.base}/sql/data", "--skip-name-resolve"]
        options += ["--innodb-buffer-pool-size=128M", "--innodb-log-file-size=16M"]
        return [*options, "--user=root"] if self._root else options

    def _prepare(self) -> None:
        everybody, owner = 0o755, 0o700
        folders = {"etc": everybody, "munge": everybody, "events": everybody, "log": everybody, "rest": everybody}
        folders |= {"run": owner, "sql": owner, "state": owner, "spool": everybody, "jobs": 0o1777}
        folders |= {f"spool/{node}": everybody for node in self.nodes}
        for name, mode in folders.items():
            (self.base / name).mkdir()
            (self.base / name).chmod(mode)
        if self._root:
            shutil.chown(self.base / "rest", "nobody")
        _write(self.base / "etc" / "munge.key", secrets.token_bytes(128), 0o600)
        _write(self.jwt_key, secrets.token_bytes(32), 0o600)
        _write(self.conf, self._fill("slurm.conf.in"), 0o644)
        # slurmdbd refuses one that others can read.
        _write(self.base / "etc" / "slurmdbd.conf", self._fill("slurmdbd.conf.in"), 0o600)
        if self._hints:
            for name in ("jobcomp.lua", "job_submit.lua"):
                shipped = (HINT_FILES / name).read_text()
                ours, found = re.subn(r'^local EVENTS = ".*"$', f'local EVENTS = "{self.events}"', shipped, flags=re.M)
                assert found == 1, f"{name} has no line with EVENTS, or several"
                _write(self.base / "etc" / name, ours.encode(), 0o644)

    def _fill(self, template: str) -> bytes:
        cpus = self._cpus
        values = {
            "BASE": self.base,
            "HOST": socket.gethostname().split(".")[0],
            "USER": self._owner,
            "USERS": ",".join(dict.fromkeys([self._owner, *self.users])),
            "CTLD_PORT": self._ports["slurmctld"],
            "DBD_PORT": self._ports["slurmdbd"],
            "MIN_JOB_AGE": self._min_job_age,
            "HINTS": "JobCompType=jobcomp/lua\nJobSubmitPlugins=lua" if self._hints else "JobCompType=jobcomp/none",
            "EXTRA": "\n".join(self._extra),
            "NODES": "\n".join(
                f"NodeName={node} NodeHostname={socket.gethostname().split('.')[0]} NodeAddr=127.0.0.1"
                f" Port={self._ports[node]} CPUs={cpus} Boards=1 SocketsPerBoard=1 CoresPerSocket={cpus}"
                f" ThreadsPerCore=1 RealMemory={cpus * 4000} State=UNKNOWN"
                for node in self.nodes
            ),
        }
        text = (HERE / template).read_text()
        return re.sub(r"@([A-Z_]+)@", lambda found: str(values[found[1]]), text).encode()

    def _build_preload(self) -> None:
        compiler = shutil.which("gcc") or shutil.which("cc")
        if compiler is None:
            return  # without it accounting takes longer, and slurmdbd listens on all addresses
        built = self.base / "etc" / "nodelay.so"
        command = [compiler, "-shared", "-fPIC", "-O2", "-o", str(built), str(HERE / "nodelay.c"), "-ldl"]
        if subprocess.run(command, capture_output=True, check=False).returncode == 0:
            built.chmod(0o755)
            self._preload = built

    def _install_database(self) -> None:
        command = ["mariadb-install-db", *self._sql_options(), "--skip-test-db"]
        # No passwords: see how mariadbd is run.
        command.append("--auth-root-authentication-method=normal")
        done = subprocess.run(command, env=self._environment({}), capture_output=True, text=True, check=False)
        if done.returncode:
            raise SlurmFailed(f"mariadb-install-db failed: {done.stdout}{done.stderr}")

    def _make_accounts(self) -> None:
        # All in one: a sacctmgr takes longer to begin than to add an account.
        commands = self._fill("accounts.in").decode()
        everybody = ",".join(dict.fromkeys([self._owner, *self.users]))
        if self._root:
            commands += f"add user {NAMES[1]} Account=secret\n"
            commands += f"modify user {OPERATOR} set AdminLevel=Operator\n"
        commands += f"modify user {everybody} set QosLevel=normal,debug,regular,premium DefaultQOS=regular\n"
        done = self.run("sacctmgr", "-i", stdin=commands, check=False)
        _write(self.base / "log" / "accounts.log", (done.stdout + done.stderr).encode(), 0o644)

    def _environment(self, more: Mapping[str, str]) -> dict[str, str]:
        # Nothing of the environment that the tests run in: that may be meant for another Slurm.
        return {"PATH": SBIN, "LANG": "C.UTF-8", "HOME": "/", **self.env, **more}

    def _spawn(self, daemon: _Daemon) -> subprocess.Popen[bytes]:
        prefix = ["setpriv", "--pdeathsig", "KILL", *daemon.as_user] if shutil.which("setpriv") else []
        assert prefix or not daemon.as_user, "setpriv (util-linux) is not installed"
        with (self.base / "log" / f"{daemon.name}.err").open("ab") as log:
            return subprocess.Popen(
                [*prefix, *daemon.command],
                env=self._environment(daemon.environment),
                cwd=self.base,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                umask=0o022,
                # Ctrl-C in a terminal is for the tests; they stop what they started.
                start_new_session=True,
            )

    def _start_together(self, pool: ThreadPoolExecutor, names: Iterable[str]) -> None:
        for started in [pool.submit(self.start_daemon, name) for name in names]:
            started.result()

    def _end(self, names: Iterable[str]) -> None:
        running = [self._daemons[name] for name in names if self._daemons[name].process]
        for daemon in running:
            self._signal(daemon.name, signal.SIGTERM)
            self._signal(daemon.name, signal.SIGCONT)  # one that is paused would not hear
        for daemon in running:
            assert daemon.process is not None
            try:
                daemon.process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                daemon.process.kill()
                daemon.process.wait(DEADLINE_S)
            daemon.process = None

    def _signal(self, name: str, number: signal.Signals) -> None:
        process = self._daemons[name].process
        if process:
            process.send_signal(number)

    def _end_jobs(self) -> None:
        """Ends jobs and their slurmstepd, which outlive slurmd on purpose."""
        mark = f"SLURM_CONF={self.conf}".encode()
        found = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):  # gone meanwhile, or of another user
                    parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                    variables = (entry / "environ").read_bytes().split(b"\0")
                    step = (entry / "comm").read_text().strip() == "slurmstepd"
                    in_job = any(variable.startswith(b"SLURM_JOB_ID=") for variable in variables)
                    found[int(entry.name)] = (parent, mark in variables and (step or in_job))
        doomed = {pid for pid, (_, ours) in found.items() if ours}
        while more := {pid for pid, (parent, _) in found.items() if parent in doomed} - doomed:
            doomed |= more
        for pid in doomed:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _log_of(self, name: str) -> str:
        logs = [self.base / "log" / f"{name}.{kind}" for kind in ("err", "log")]
        return "\n".join(log.read_text(errors="replace")[-2000:] for log in logs if log.exists())

    def _accounting_answers(self) -> bool:
        if not _listens(self._ports["slurmdbd"]):
            return False
        # It listens before it has its database, and slurmctld ends where it does not find that.
        return self.run("sacctmgr", "-n", "show", "cluster", check=False).returncode == 0

    def _controller_answers(self) -> bool:
        if not _listens(self._ports["slurmctld"]):
            return False
        return "is UP" in self.run("scontrol", "ping", check=False).stdout

    def _node_answers(self, node: str) -> bool:
        if not _listens(self._ports[node]):
            return False
        if not self._daemons["slurmctld"].running():
            return True
        state, _, reason = self.run("sinfo", "-h", "-n", node, "-o", "%T|%E", check=False).stdout.strip().partition("|")
        # One that an operator took down answers, too.
        lost = state == "down" and reason.startswith("Not responding")
        return bool(state) and not state.startswith("unk") and not state.endswith("*") and not lost


def _listens(where: Path | int) -> bool:
    """Whether a port of loopback, or a socket, takes connections."""
    family, address = (socket.AF_INET, ("127.0.0.1", where)) if isinstance(where, int) else (socket.AF_UNIX, str(where))
    with socket.socket(family) as client:
        client.settimeout(1)
        return client.connect_ex(address) == 0


def _free_ports(count: int) -> list[int]:
    """Ports that nothing listens on.

    Not of those that the kernel gives to connections: one of them might be taken while a daemon is being restarted.
    """
    found: dict[int, socket.socket] = {}
    try:
        while len(found) < count:
            port, probe = random.randrange(12000, 32000), socket.socket()
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                probe.close()
            else:
                found[port] = probe
    finally:
        for probe in found.values():
            probe.close()
    return list(found)


def _write(path: Path, content: bytes, mode: int) -> None:
    path.touch(mode)
    path.chmod(mode)
    path.write_bytes(content)


def _base64(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")
