"""The engine itself: the interface of all job engines over Slurm."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from openfacility_server.jobs.engines import (
    EngineDependency,
    EngineHealth,
    EngineJob,
    EngineUpdate,
    Estimate,
    FieldProblem,
    JobRef,
    Observation,
    OutputStream,
    Refusal,
    Reservation,
)
from openfacility_server.jobs.engines.cluster import ClusterView, NodeOutage
from openfacility_server.jobs.engines.slurm.accounts import Accounts
from openfacility_server.jobs.engines.slurm.acting import Acting
from openfacility_server.jobs.engines.slurm.checks import problems_of
from openfacility_server.jobs.engines.slurm.cluster import Cluster
from openfacility_server.jobs.engines.slurm.commands import Commands
from openfacility_server.jobs.engines.slurm.estimating import Estimating
from openfacility_server.jobs.engines.slurm.identity import Identity
from openfacility_server.jobs.engines.slurm.output import Output
from openfacility_server.jobs.engines.slurm.reservations import Reservations
from openfacility_server.jobs.engines.slurm.rest import Rest
from openfacility_server.jobs.engines.slurm.seeing import Seeing
from openfacility_server.jobs.engines.slurm.settings import SlurmSettings
from openfacility_server.jobs.engines.slurm.steering import Steering
from openfacility_server.jobs.engines.slurm.submitting import Submitting
from openfacility_server.jobs.engines.slurm.tokens import Tokens
from openfacility_server.jobs.model import JobReason, JobSpec

_BY_OPERATOR = frozenset({JobReason.HELD_BY_OPERATOR, JobReason.CANCELED_BY_OPERATOR})
# A verdict is an answer of Slurm and what this server does around it.
_AROUND = timedelta(seconds=2)


class SlurmEngine:
    """Drives one Slurm cluster. See the package for how."""

    def __init__(self, settings: SlurmSettings) -> None:
        """Nothing is asked of Slurm yet."""
        self._settings = settings
        accounts = Accounts()
        commands = Commands(settings, accounts)
        identity = Identity(settings, accounts)
        tokens = None if settings.rest is None else Tokens(settings.rest.jwt_key)
        self._rest = None if settings.rest is None or tokens is None else Rest(settings, settings.rest, tokens)
        self._seeing = Seeing(settings, commands, identity)
        self._cluster = Cluster(commands, settings.cluster)
        self._reservations = Reservations(commands, identity.owner_of)
        acting = Acting(identity, commands, tokens)
        self._submitting = Submitting(
            settings, identity, commands, self._rest, self._seeing.find, acting.cancel, self._controller_answers
        )
        self._steering = Steering(acting, self._seeing.standing)
        self._estimating = Estimating(settings, identity, commands)
        self._output = Output(settings, identity, self._seeing.standing, self._seeing.last_run)

    @property
    def verdict_wait(self) -> timedelta:
        """How long a submit call waits for Slurm to take or refuse the job."""
        return self._settings.timeout + _AROUND

    @property
    def takes_arrays(self) -> bool:
        """Arrays are handed over as a whole."""
        return True

    def check(self, spec: JobSpec) -> Sequence[FieldProblem]:
        """Returns what of a spec this engine can never honour."""
        return problems_of(spec, self._settings)

    async def open(self) -> None:
        """Does nothing: every call asks Slurm anew, which may be away now and there the next time."""

    async def close(self) -> None:
        """Ends what is being asked."""
        await self._submitting.close()
        await self._cluster.close()
        await self._seeing.close()
        if self._rest is not None:
            await self._rest.close()

    async def health(self) -> EngineHealth:
        """Tells whether Slurm answers."""
        health = await self._seeing.health()
        if self._rest is None:
            return health
        return replace(health, details={**health.details, "rest_version": self._rest.version})

    async def _controller_answers(self) -> bool:
        return (await self._seeing.health()).serving

    async def submit(self, jobs: Sequence[EngineJob]) -> Sequence[str | Refusal | None]:
        """Hands jobs over, each exactly once; returns the native id or a refusal for each, None while it may still
        arrive from before. Raises EngineUnavailable."""
        return await self._submitting.submit(jobs)

    async def cancel(self, jobs: Sequence[JobRef], reason: JobReason) -> None:
        """Ends jobs, waiting or running. Raises EngineUnavailable, EngineError."""
        await self._steering.cancel(jobs, reason in _BY_OPERATOR)

    async def hold(self, jobs: Sequence[JobRef], reason: JobReason) -> None:
        """Keeps waiting jobs from starting. Raises EngineUnavailable, EngineError."""
        await self._steering.hold(jobs, reason in _BY_OPERATOR)

    async def release(self, jobs: Sequence[JobRef], by_operator: bool) -> None:
        """Undoes `hold`. Raises EngineUnavailable, EngineError."""
        await self._steering.release(jobs, by_operator)

    async def update(self, job: JobRef, update: EngineUpdate, by_operator: bool) -> None:
        """Changes a job. Raises EngineUnavailable, EngineError."""
        await self._steering.update(job, update, by_operator)

    async def signal(self, jobs: Sequence[JobRef], signal: str, by_operator: bool) -> None:
        """Sends a signal to all processes of running jobs. Raises EngineUnavailable, EngineError."""
        await self._steering.signal(jobs, signal, by_operator)

    async def requeue(self, jobs: Sequence[JobRef], hold: bool, by_operator: bool) -> None:
        """Puts running jobs back into the queue. Raises EngineUnavailable, EngineError."""
        await self._steering.requeue(jobs, hold, by_operator)

    async def estimate(self, spec: JobSpec, owner: str, dependencies: Sequence[EngineDependency]) -> Estimate:
        """Says what would become of a job. Raises EngineUnavailable, EngineError, EngineCannot."""
        return await self._estimating.estimate(
            EngineJob("estimate", spec, owner, datetime.now(UTC), dependencies=tuple(dependencies))
        )

    async def reservations(self) -> Sequence[Reservation]:
        """Returns the reservations that go on or are to come. Raises EngineUnavailable."""
        return await self._reservations.list()

    async def cluster(self) -> ClusterView:
        """Returns how nodes and queues are. Raises EngineUnavailable."""
        return await self._cluster.view()

    async def node_outages(self, since: datetime) -> Sequence[NodeOutage]:
        """Returns the outages of nodes after a time. Raises EngineUnavailable."""
        return await self._cluster.outages(since)

    async def observe(self, jobs: Sequence[JobRef]) -> Sequence[Observation]:
        """Returns how these jobs stand now. Raises EngineUnavailable."""
        return await self._seeing.observe(jobs)

    async def observe_all(self) -> Sequence[Observation]:
        """Returns how all jobs stand that are in Slurm's queue. Raises EngineUnavailable."""
        return await self._seeing.observe_all()

    async def missed(self, since: datetime) -> Sequence[Observation]:
        """Returns how jobs ended that came and went around this service after a time. Raises EngineUnavailable."""
        return await self._seeing.missed(since)

    def follow(self) -> AsyncIterator[Sequence[Observation]]:
        """Yields what changes, as it changes."""
        return self._seeing.follow()

    async def open_output(self, job: JobRef, spec: JobSpec, stream: OutputStream) -> int | None:
        """Opens what a job writes, as its owner. Raises FileNotFoundError, EngineError, EngineUnavailable."""
        return await self._output.open(job, spec, stream)
