"""Whether slurmctld answers, and how it is set up."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Mapping

from openfacility_server.jobs.engines import EngineHealth, EngineUnavailable
from openfacility_server.jobs.engines.slurm.commands import Commands

# A controller that hangs is known to within this; Slurm's own patience is 10 s.
_PING_SECONDS = 2.0
_KEEP_SECONDS = 1.0
_UP = re.compile(r"^Slurmctld\(.*\) at .* is UP", re.MULTILINE)
_SETTING = re.compile(r"^(\w+)\s*= (.*?)\s*$", re.MULTILINE)


class Controller:
    """Asks slurmctld about itself."""

    def __init__(self, commands: Commands) -> None:
        """Nothing is asked yet."""
        self._commands = commands
        self._asking: asyncio.Task[EngineHealth] | None = None
        self._asked = 0.0
        self._answer = EngineHealth(False, "The batch system has not been asked yet.")
        self._settings: Mapping[str, str] = {}

    async def ping(self, *, fresh: bool = False) -> EngineHealth:
        """Returns whether it answers, as of the last second at most, or, where ``fresh``, as of now."""
        if not fresh and time.monotonic() - self._asked < _KEEP_SECONDS:
            return self._answer
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ping())
        return await asyncio.shield(self._asking)

    async def settings(self) -> Mapping[str, str]:
        """Returns the lines of `scontrol show config`, as first asked. Raises EngineUnavailable."""
        if not self._settings:
            result = await self._commands.run(["scontrol", "show", "config"])
            if result.code != 0:
                raise EngineUnavailable("The batch system's controller does not tell its configuration.")
            self._settings = dict(_SETTING.findall(result.out))
        return self._settings

    async def close(self) -> None:
        """Ends what is being asked."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.gather(self._asking, return_exceptions=True)

    async def _ping(self) -> EngineHealth:
        try:
            result = await self._commands.run(["scontrol", "ping"], timeout=_PING_SECONDS)
            up = bool(_UP.search(result.out))
            text = "" if up else "The batch system's controller is down."
        except EngineUnavailable as error:
            up, text = False, str(error)
        self._answer, self._asked = EngineHealth(up, text), time.monotonic()
        return self._answer
