"""An engine that is driven as the server drives it, whatever its kind."""

from __future__ import annotations

import asyncio
import itertools
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self

from openfacility_server.jobs.engines import (
    EngineDependency,
    EngineJob,
    EngineUpdate,
    JobEngine,
    JobRef,
    Observation,
    OutputStream,
    Refusal,
)
from openfacility_server.jobs.model import JobAttributes, JobReason, JobSpec, JobState

from tests.engines.local_harness import content, new_id, shell, until, waits_for

DEADLINE = 60.0


@dataclass(frozen=True)
class Kind:
    """How to come by an engine, and what of it tests have to know.

    ``owner`` is a user of the service, ``account`` theirs on this machine. A job may have ``cores``; ``everywhere`` is
    a queue that has them more than once. Time limits are multiples of ``least_limit``. ``many_singles`` and
    ``many_elements`` are how many jobs it is given at once. ``puts_back`` says whether running jobs can be;
    """

    name: str
    make: Callable[[], JobEngine]
    base: Path
    owner: str
    account: str
    cores: int
    everywhere: str = ""
    least_limit: timedelta = timedelta(seconds=2)
    many_singles: int = 0
    many_elements: int = 0
    puts_back: bool = True

    @property
    def slurm(self) -> bool:
        """Whether it is a Slurm, with several users and whole minutes."""
        return self.name != "local"


@dataclass
class Driven:
    """A followed engine, what it was given, and all that it has told."""

    kind: Kind
    engine: JobEngine = field(init=False)
    given: dict[str, EngineJob] = field(default_factory=dict)
    natives: dict[str, str] = field(default_factory=dict)
    seen: defaultdict[str, list[Observation]] = field(default_factory=lambda: defaultdict(list))
    faults: list[str] = field(default_factory=list)
    passed_over: list[Observation] = field(default_factory=list)
    prolonged_may_end: Path = Path()
    limited: dict[str, str] = field(default_factory=dict)
    _task: asyncio.Task[None] | None = None

    async def start(self) -> Self:
        """Opens a new engine, follows it, and asks for what happened before, as a server that starts."""
        self.engine = self.kind.make()
        await self.engine.open()
        self._task = asyncio.create_task(self._follow())
        self._note(await self.engine.observe([self.ref(job_id) for job_id in self.unfinished()]))
        return self

    async def begin_the_longest(self) -> None:
        """Submits what takes a minute on some engines, so that it is over when all else is: see test_within_limits."""
        go = self.prolonged_may_end = self.directory() / "go"
        short, long = (JobAttributes(duration=limit) for limit in (self.kind.least_limit, timedelta(minutes=20)))
        specs = {
            "limited": shell("sleep 1000", attributes=short),
            "shortened": shell("trap '' TERM; while :; do sleep 1; done", attributes=long),
            "prolonged": shell(waits_for(go, "exit 5"), attributes=short, directory=str(go.parent)),
        }
        self.limited = {name: await self.submit(spec) for name, spec in specs.items()}
        for name, limit in (("prolonged", timedelta(minutes=20)), ("shortened", self.kind.least_limit)):
            await self.saw(self.limited[name], JobState.ACTIVE)
            update = EngineUpdate(duration=limit)
            await self.engine.update(self.ref(self.limited[name]), update, by_operator=name == "prolonged")

    async def stop(self) -> None:
        """Stops, as a server that is stopped; jobs run on."""
        await self.engine.close()
        assert self._task is not None
        await self._task

    async def clear_away(self) -> None:
        """Ends every job that has not ended."""
        left = self.unfinished()
        await self.engine.cancel([self.ref(job_id) for job_id in left], JobReason.CANCELED_BY_OWNER)
        await self._until(lambda: not self.unfinished(), "all ends", *left)

    async def _follow(self) -> None:
        async for batch in self.engine.follow():
            self._note(batch)

    def _note(self, batch: Iterable[Observation]) -> None:
        for new in batch:
            if self._is_anothers(new):
                self.passed_over.append(new)
                continue
            told = self.seen[new.job_id]
            last = told[-1] if told else None
            if last is not None and last.state.final and _verdict(new) != _verdict(last):
                self.faults.append(f"{new.job_id} was {_verdict(last)}, and then {_verdict(new)}")
            told.append(new)

    def _is_anothers(self, seen: Observation) -> bool:
        """Whether it is another engine's job, or only bears the name of one of ours, as the server takes it."""
        job = self.given.get(seen.job_id) or self.given.get(seen.job_id.partition("_")[0])
        if job is None:
            return seen.external is None
        return seen.owner not in ("", job.owner) or seen.native_id != self.natives.get(seen.job_id, seen.native_id)

    # Jobs

    def directory(self) -> Path:
        """Makes a directory that everybody may use."""
        made = Path(tempfile.mkdtemp(dir=self.kind.base))
        made.chmod(0o777)
        return made

    def job(self, spec: JobSpec, job_id: str = "", **values: Any) -> EngineJob:
        """A job to hand over; it runs in a directory of its own unless it names one."""
        if not spec.directory:
            spec = replace(spec, directory=str(self.directory()))
        job = EngineJob(
            job_id or new_id(),
            spec,
            values.pop("owner", self.kind.owner),
            datetime.now(UTC),
            dependencies=tuple(self.dependency(one.job_id) for one in spec.dependencies),
            **values,
        )
        self.given[job.id] = job
        return job

    def dependency(self, job_id: str) -> EngineDependency:
        """A job that another one waits for."""
        return EngineDependency(job_id, self.natives.get(job_id, job_id))

    def elements(self, spec: JobSpec, array_id: str = "") -> list[EngineJob]:
        """An array, as the engine takes it: whole, or one by one."""
        assert spec.array is not None
        if self.engine.takes_arrays:
            return [self.job(spec, array_id)]
        indices, array_id = spec.array.indices, array_id or new_id()
        spec = replace(spec, directory=spec.directory or str(self.directory()))
        return [self.job(spec, f"{array_id}_{i}", array_job_id=array_id, array_index=i) for i in indices]

    async def answers(self, jobs: Sequence[EngineJob]) -> list[str | Refusal]:
        """Submits jobs, again and again those of which the engine is not certain yet; returns what became of them."""
        answers = list(await self.engine.submit(jobs))
        assert len(answers) == len(jobs)
        while None in answers:  # not known yet: asked again, as the server does
            await asyncio.sleep(0.1)
            left = [index for index, answer in enumerate(answers) if answer is None]
            again = await self.engine.submit([replace(jobs[index], doubtful=True) for index in left])
            for index, answer in zip(left, again, strict=True):
                answers[index] = answer
        return [answer for answer in answers if answer is not None]

    async def hand_over(self, jobs: Sequence[EngineJob]) -> None:
        """Submits jobs, which have to be taken."""
        for job, answer in zip(jobs, await self.answers(jobs), strict=True):
            assert isinstance(answer, str), f"{job.spec}: {answer}"
            assert answer
            self.natives[job.id] = answer
            if job.spec.array is not None and not job.array_job_id:
                for index in job.spec.array.indices:
                    self.natives[f"{job.id}_{index}"] = f"{answer}_{index}"

    async def submit(self, spec: JobSpec, **values: Any) -> str:
        """Submits a job; returns its id."""
        job = self.job(spec, **values)
        await self.hand_over([job])
        return job.id

    async def submit_array(self, spec: JobSpec, array_id: str = "") -> list[str]:
        """Submits an array; returns the ids of its elements."""
        jobs = self.elements(spec, array_id)
        await self.hand_over(jobs)
        if len(jobs) > 1 or jobs[0].array_job_id:
            return [job.id for job in jobs]
        assert spec.array is not None
        return [f"{jobs[0].id}_{index}" for index in spec.array.indices]

    async def refusal(self, spec: JobSpec, **values: Any) -> Refusal:
        """Submits a job that has to be refused; returns why."""
        job = self.job(spec, **values)
        del self.given[job.id]
        [answer] = await self.engine.submit([job])
        assert isinstance(answer, Refusal), answer
        return answer

    def ref(self, job_id: str) -> JobRef:
        """A job, as the engine is asked for it."""
        job = self.given.get(job_id) or self.given.get(job_id.partition("_")[0])
        owner, created = (self.kind.owner, datetime.now(UTC)) if job is None else (job.owner, job.create_time)
        return JobRef(job_id, owner, self.natives.get(job_id, ""), created)

    def refs(self, job_ids: Iterable[str]) -> list[JobRef]:
        """Several jobs."""
        return [self.ref(job_id) for job_id in job_ids]

    # What became of them

    def of(self, job_id: str) -> list[Observation]:
        """All that was told of a job."""
        return self.seen.get(job_id, [])

    def states(self, job_id: str) -> list[JobState]:
        """The states that a job was seen in, repetitions left out."""
        return [state for state, _ in itertools.groupby(one.state for one in self.of(job_id))]

    def unfinished(self) -> list[str]:
        """The jobs that are not known to have ended."""
        singles = [job for job in self.given.values() if job.spec.array is None or job.array_job_id]
        arrays = [job for job in self.given.values() if job.spec.array is not None and not job.array_job_id]
        ids = [job.id for job in singles]
        ids += [f"{job.id}_{index}" for job in arrays for index in (job.spec.array.indices if job.spec.array else ())]
        return [job_id for job_id in ids if job_id in self.natives and self._end(job_id) is None]

    def _end(self, job_id: str) -> Observation | None:
        return next((one for one in reversed(self.of(job_id)) if one.state.final), None)

    async def saw(self, job_id: str, state: JobState, reason: JobReason | None = None) -> Observation:
        """Waits until a job is seen in a state."""

        def found() -> Observation | None:
            wanted = (one for one in self.of(job_id) if one.state is state and reason in (None, one.reason))
            return next(wanted, None)

        await self._until(lambda: found() is not None, f"{job_id} to be {state.name} {reason}", job_id)
        observation = found()
        assert observation is not None
        return observation

    async def end_of(self, job_id: str) -> Observation:
        """Waits for a job's end."""
        [end] = await self.ends_of([job_id])
        return end

    async def ends_of(self, job_ids: Sequence[str], deadline: float = DEADLINE) -> list[Observation]:
        """Waits for the ends of jobs, in their order."""
        missing = set(job_ids)

        def all_ended() -> bool:
            missing.difference_update([job_id for job_id in missing if self._end(job_id) is not None])
            return not missing

        await self._until(all_ended, "the ends", *job_ids[:5], deadline=deadline)
        return [end for job_id in job_ids if (end := self._end(job_id)) is not None]

    async def run(self, spec: JobSpec, **values: Any) -> Observation:
        """Submits a job and waits for its end."""
        return await self.end_of(await self.submit(spec, **values))

    async def _until(
        self, condition: Callable[[], bool], what: str = "", *job_ids: str, deadline: float = DEADLINE
    ) -> None:
        def holds() -> bool:
            assert self._task is not None
            if self._task.done():
                self._task.result()
                raise AssertionError("no longer followed")
            return condition()

        try:
            await until(holds, deadline)
        except TimeoutError as error:
            for job_id in job_ids:
                error.add_note(f"{job_id}: {[(one.state.name, one.reason.name) for one in self.of(job_id)]}")
            error.add_note(f"waited for {what}")
            raise

    async def output(self, job_id: str, stream: OutputStream = OutputStream.STDOUT) -> str | None:
        """What a job has written, as the engine shows it; None when there is nothing to show."""
        job = self.given.get(job_id) or self.given[job_id.partition("_")[0]]
        descriptor = await self.engine.open_output(self.ref(job_id), job.spec, stream)
        return None if descriptor is None else (await asyncio.to_thread(content, descriptor)).decode()


def words_in(path: Path) -> list[str]:
    """What a job has written to a file, which may not be there yet."""
    return path.read_text().split() if path.exists() else []


def _verdict(observation: Observation) -> tuple[object, ...]:
    """What never changes any more once it is final; what it used may still be told later."""
    return observation.state, observation.exit_code, observation.signal
