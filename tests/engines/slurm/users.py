"""The people of the test cluster: accounts of the operating system, which jobs run as."""

from __future__ import annotations

import fcntl
import os
import pwd
import shutil
import subprocess
import tempfile
from pathlib import Path

SBIN = f"{os.environ.get('PATH', '/usr/bin:/bin')}:/usr/sbin:/sbin"
NAMES = ("of-alice", "of-bob", "of-olga")
OPERATOR = "of-olga"
LAB = "of-lab"  # a group that of-alice is in beside her own


def own_name() -> str:
    """Who runs the tests."""
    return pwd.getpwuid(os.geteuid()).pw_name


def ensure_users() -> tuple[str, ...]:
    """Makes the accounts that are missing and returns all; without root there is only who runs the tests.

    They stay afterwards: other runs on this machine may be using them.
    """
    if os.geteuid() != 0:
        return (own_name(),)
    # Workers of pytest-xdist come here at the same time, and useradd does not wait for its lock.
    with (Path(tempfile.gettempdir()) / "of-slurm-users.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if subprocess.run(["getent", "group", LAB], capture_output=True, check=False).returncode:
            _administer("groupadd", LAB)
        for name in NAMES:
            try:
                pwd.getpwnam(name)
            except KeyError:
                groups = ["--groups", LAB] if name == NAMES[0] else []
                _administer("useradd", "--create-home", "--user-group", "--shell", "/bin/sh", *groups, name)
    return NAMES


def environment(name: str) -> dict[str, str]:
    """What a login of that user would start with."""
    user = pwd.getpwnam(name)
    path = "/usr/local/bin:/usr/bin:/bin"
    return {"HOME": user.pw_dir, "USER": name, "LOGNAME": name, "SHELL": user.pw_shell, "PATH": path, "LANG": "C.UTF-8"}


def _administer(program: str, *arguments: str) -> None:
    found = shutil.which(program, path=SBIN)
    if found is None:
        raise RuntimeError(f"{program} is not installed, so there are no users to run jobs as")
    done = subprocess.run([found, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{program} failed: {done.stderr}")
