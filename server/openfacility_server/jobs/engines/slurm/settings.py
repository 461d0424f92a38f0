"""Settings of a Slurm engine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path


@dataclass(frozen=True, slots=True)
class RestSettings:
    """Where slurmrestd listens, and the key that tokens are signed with (HS256)."""

    jwt_key: Path
    unix_socket: Path | None = None
    url: str | None = None


@dataclass(frozen=True, slots=True)
class SlurmSettings:
    """How one compute resource is driven; the meaning of each is in ``default.yaml``, ``jobs.resources``."""

    resource_id: str
    cluster: str = ""
    conf: Path | None = None
    rest: RestSettings | None = None
    sudo: bool = False
    users: Mapping[str, str] = field(default_factory=dict)
    min_uid: int = 1000
    operator: str | None = None
    events: Path | None = None
    controller_log: Path | None = None
    reconcile: timedelta = timedelta(seconds=15)
    timeout: timedelta = timedelta(seconds=4)
    history: timedelta = timedelta(days=7)
    external_jobs: bool = True
    environment: Mapping[str, str] = field(default_factory=dict)
    launchers: Mapping[str, str] = field(default_factory=dict)
    container: str | None = None
    preload: Path | None = None
