"""A server of the tests' own, in a process that can be killed: follows a local engine and writes down what it sees.

``python -m tests.engines.local_leader <spool> <cores> <log>``; each line of the log is one observation.
"""

from __future__ import annotations

import asyncio
import sys
from datetime import timedelta
from pathlib import Path

from openfacility_server.jobs.engines.local import LocalEngine, LocalSettings


async def main(spool: Path, cores: int, log: Path) -> None:
    """Follows until it is killed."""
    engine = LocalEngine(LocalSettings(resource_id="laptop", spool=spool, cores=cores, kill_grace=timedelta(seconds=1)))
    await engine.open()
    with log.open("a") as file:
        async for batch in engine.follow():
            for seen in batch:
                file.write(f"{seen.job_id} {seen.state.name} {seen.reason.name} {seen.exit_code}\n")
            file.flush()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])))
