"""What the tests of the local engine share: an engine that is followed, and jobs made of small shell scripts."""

from __future__ import annotations

import asyncio
import itertools
import os
import shlex
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self, TypeVar

from openfacility_server.jobs.engines import EngineJob, JobRef, Observation, OutputStream
from openfacility_server.jobs.engines.local import LocalEngine, LocalSettings
from openfacility_server.jobs.model import JobReason, JobSpec, JobState

DEADLINE = 60.0

T = TypeVar("T")

_numbers = itertools.count(1)


def settings_in(directory: Path, **values: Any) -> LocalSettings:
    """Settings of a small resource with its spool under a directory."""
    defaults: dict[str, Any] = {
        "resource_id": "laptop",
        "spool": directory / "spool",
        "cores": 4,
        "kill_grace": timedelta(seconds=1),
    }
    return LocalSettings(**(defaults | values))


def new_id() -> str:
    """An id that no other job of this test run has."""
    return f"t{os.getpid()}x{next(_numbers)}"


def ref(job_id: str) -> JobRef:
    """A job as the engine is asked for it."""
    return JobRef(job_id, "me", job_id, datetime.now(UTC))


def a_job(job_id: str, spec: JobSpec, **values: Any) -> EngineJob:
    """A job to hand over."""
    return EngineJob(job_id, spec, "me", datetime.now(UTC), **values)


def elements(array_id: str, spec: JobSpec) -> list[EngineJob]:
    """An array as this engine takes it."""
    assert spec.array is not None
    return [a_job(f"{array_id}_{i}", spec, array_job_id=array_id, array_index=i) for i in spec.array.indices]


def shell(script: str, **values: Any) -> JobSpec:
    """A job that runs a line of shell."""
    return JobSpec(executable="/bin/sh", arguments=("-c", script), **values)


def waits_for(path: Path, then: str = "exit 0") -> str:
    """Shell that waits until a file is there."""
    return f"while [ ! -e {shlex.quote(str(path))} ]; do sleep 0.02; done; {then}"


def alive(pid: int) -> bool:
    """Whether a process runs (and is not merely unburied)."""
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b") ")[2][:1] not in b"ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def names_in(directory: Path) -> list[str]:
    """Names of the files in a directory."""
    return [path.name for path in directory.iterdir()]


async def until(condition: Callable[[], T | None], deadline: float = DEADLINE) -> T:
    """Waits until something holds, and returns it."""
    async with asyncio.timeout(deadline):
        while not (value := condition()):  # noqa: ASYNC110 -- what is waited for is done by other processes
            await asyncio.sleep(0.01)
    return value


async def numbers_in(path: Path, count: int = 1) -> list[int]:
    """Waits for a file of process numbers."""

    def found() -> list[int] | None:
        numbers = [int(word) for word in path.read_text().split()] if path.exists() else []
        return numbers if len(numbers) >= count else None

    return await until(found)


def content(descriptor: int) -> bytes:
    """All that an open file has."""
    with open(descriptor, "rb") as file:
        return file.read()


class Followed:
    """An engine, and all that its `follow` has told."""

    def __init__(self, settings: LocalSettings) -> None:
        self.settings = settings
        self.engine = LocalEngine(settings)
        self.seen: list[Observation] = []
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> Self:
        await self.engine.open()
        self._task = asyncio.create_task(self._follow())
        return self

    async def _follow(self) -> None:
        async for batch in self.engine.follow():
            self.seen.extend(batch)

    async def stop(self) -> None:
        """Stops following, as a server that is stopped; jobs run on."""
        assert self._task is not None
        await self.engine.close()
        await self._task

    async def clear_away(self) -> None:
        """Ends every job."""
        await self.engine.cancel([ref(job_id) for job_id in self.unfinished()], JobReason.CANCELED_BY_OPERATOR)
        await self._until(lambda: not self.unfinished())

    def unfinished(self) -> list[str]:
        """Jobs that have not ended, or whose ends have not been taken."""
        return sorted(names_in(self.settings.spool / "active"))

    async def submit(self, spec: JobSpec, job_id: str = "", **values: Any) -> str:
        job_id = job_id or new_id()
        assert list(await self.engine.submit([a_job(job_id, spec, **values)])) == [job_id]
        return job_id

    async def submit_array(self, spec: JobSpec, array_id: str = "") -> list[str]:
        jobs = elements(array_id or new_id(), spec)
        assert list(await self.engine.submit(jobs)) == [job.id for job in jobs]
        return [job.id for job in jobs]

    def of(self, job_id: str) -> list[Observation]:
        return [observation for observation in self.seen if observation.job_id == job_id]

    def ends(self) -> list[Observation]:
        return [observation for observation in self.seen if observation.state.final]

    async def saw(self, job_id: str, state: JobState, reason: JobReason | None = None) -> Observation:
        """Waits for an observation."""

        def found() -> Observation | None:
            for observation in self.of(job_id):
                if observation.state is state and reason in (None, observation.reason):
                    return observation
            return None

        await self._until(lambda: found() is not None)
        observation = found()
        assert observation is not None
        return observation

    async def _until(self, condition: Callable[[], bool], deadline: float = DEADLINE) -> None:
        """Waits until something holds, while the engine is followed."""

        def holds() -> bool:
            assert self._task is not None
            if self._task.done():
                self._task.result()
                raise AssertionError("no longer followed")
            return condition()

        await until(holds, deadline)

    async def end_of(self, job_id: str) -> Observation:
        """Waits for a job's end."""
        await self._until(lambda: any(o.state.final for o in self.of(job_id)))
        return next(o for o in self.of(job_id) if o.state.final)

    async def ends_of(self, job_ids: Sequence[Any], deadline: float = DEADLINE) -> list[Observation]:
        """Waits for the ends of jobs, in their order."""
        wanted = set(job_ids)
        await self._until(lambda: wanted <= {o.job_id for o in self.ends()}, deadline)
        by_id = {o.job_id: o for o in self.ends()}
        return [by_id[job_id] for job_id in job_ids]

    async def run(self, spec: JobSpec) -> Observation:
        """Submits a job and waits for its end."""
        return await self.end_of(await self.submit(spec))

    async def read(self, job_id: str, stream: OutputStream = OutputStream.STDOUT) -> bytes | None:
        """What the engine opens as the job's output; None when it opens nothing."""
        descriptor = await self.engine.open_output(ref(job_id), JobSpec(), stream)
        return None if descriptor is None else await asyncio.to_thread(content, descriptor)

    def output(self, job_id: str, name: str = "stdout") -> str:
        return (self.settings.spool / "jobs" / job_id / name).read_text()


@asynccontextmanager
async def followed(directory: Path, **values: Any) -> AsyncIterator[Followed]:
    """A followed engine that leaves no process behind."""
    facility = await Followed(settings_in(directory, **values)).start()
    try:
        yield facility
    finally:
        await facility.clear_away()
        await facility.stop()
