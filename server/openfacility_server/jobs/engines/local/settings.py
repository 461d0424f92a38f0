"""Settings of a local engine."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

HIDDEN = (
    "OPENFACILITY_*",
    "*PASSWORD*",
    "*PASSWD*",
    "*SECRET*",
    "*TOKEN*",
    "*CREDENTIALS*",
    "*_KEY",
    "*_DSN",
    "DATABASE_URL",
    "PGPASS*",
    "NOTIFY_SOCKET",
    "WATCHDOG_*",
    "LISTEN_*",
    "INVOCATION_ID",
    "JOURNAL_STREAM",
)


@dataclass(frozen=True, slots=True)
class LocalSettings:
    """How one compute resource runs jobs on this machine."""

    resource_id: str
    """Id of the compute resource."""
    spool: Path
    """Directory of the engine's durable record, for this resource alone, on a local file system without noexec."""
    cores: int
    """Cores to hand out."""
    memory: int | None = None
    """Bytes of memory to hand out; None: memory is not counted."""
    default_duration: timedelta | None = None
    """Time limit of jobs that ask for none."""
    max_duration: timedelta | None = None
    """Longest time limit that a job may ask for; also the limit of jobs without any."""
    kill_grace: timedelta = timedelta(seconds=5)
    """Time between asking processes to end and killing them."""
    queues: tuple[str, ...] = ("", "default")
    """Queue names that jobs may give."""
    retention: timedelta | None = None
    """How long directories of ended jobs are kept, their own outputs with them; None: for ever."""
    hidden_environment: tuple[str, ...] = HIDDEN
    """Patterns of variables of the server's environment that no job inherits: secrets, the service manager's."""

    @property
    def limit(self) -> timedelta | None:
        """Time limit of a job that asks for none."""
        return self.default_duration if self.default_duration is not None else self.max_duration
