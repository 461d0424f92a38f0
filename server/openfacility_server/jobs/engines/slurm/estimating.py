"""What would become of a job: sbatch's test of a submission."""

from __future__ import annotations

import re
from datetime import timedelta

from openfacility_server.jobs.engines import EngineCannot, EngineJob, Estimate
from openfacility_server.jobs.engines.nodenames import expand
from openfacility_server.jobs.engines.slurm import fields
from openfacility_server.jobs.engines.slurm.commands import Commands
from openfacility_server.jobs.engines.slurm.description import describe, minutes
from openfacility_server.jobs.engines.slurm.errors import refusal_of
from openfacility_server.jobs.engines.slurm.identity import Identity
from openfacility_server.jobs.engines.slurm.settings import SlurmSettings

_MINUTE = timedelta(minutes=1)
_FORECAST = re.compile(r"Job \d+ to start at (\S+)(?: on cluster \S+)? using (\d+) processors on (?:nodes )?(\S+)")


class Estimating:
    """Asks for forecasts. For one event loop."""

    def __init__(self, settings: SlurmSettings, identity: Identity, commands: Commands) -> None:
        """Nothing is asked yet."""
        self._settings, self._identity, self._commands = settings, identity, commands

    async def estimate(self, job: EngineJob) -> Estimate:
        """Returns whether a job would be taken, and where and when it would start if nothing held it back.

        No start for one with dependencies: it is not known when they are met. Raises EngineUnavailable, EngineError;
        EngineCannot where the server cannot run commands as the user.
        """
        account = await self._identity.account_of(job.owner)
        if not self._commands.can_be(account):
            # REST has no test of a submission, and sbatch does not act for whom a token names.
            raise EngineCannot("This resource gives no estimates: the server may not run commands as you there.")
        description = describe(job, account, self._settings)
        held_back = ("dependency", "kill-on-invalid-dep", "hold")
        options = {name: value for name, value in description.options.items() if name not in held_back}
        command = ["sbatch", "--test-only", *type(description)(description.script, options).arguments()]
        result = await self._commands.run(command, user=account.name, stdin=description.script.encode())
        forecast = _FORECAST.search(result.err)
        duration = job.spec.attributes.duration
        if forecast is None:
            # Taken, but no time is known at which it could start.
            return Estimate() if result.code == 0 else Estimate(refusal=refusal_of(result.err, options))
        return Estimate(
            start_time=None if job.dependencies else fields.time(forecast[1]),
            node_count=_count(forecast[3]),
            core_count=int(forecast[2]),
            duration=None if duration is None else minutes(duration) * _MINUTE,
            account=job.spec.attributes.account,
        )


def _count(nodes: str) -> int:
    try:
        return len(expand(nodes))
    except ValueError:
        return 0
