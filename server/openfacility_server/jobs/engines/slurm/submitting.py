"""Handing jobs over, each exactly once.

Slurm takes the same job twice if it is told twice, and what was sent to a controller that hangs may be worked off long
after nobody waits any more. So our id goes with every job as its comment; where it is not certain that a job was not
taken, it is looked for by that first, once what was sent before cannot arrive any more; and of two jobs that have the
same id in the end, the later is ended.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence

from openfacility_server.jobs.engines import EngineError, EngineJob, EngineUnavailable, Refusal
from openfacility_server.jobs.engines.slurm.accounts import Account
from openfacility_server.jobs.engines.slurm.commands import Commands
from openfacility_server.jobs.engines.slurm.description import Description, describe
from openfacility_server.jobs.engines.slurm.errors import NotReachedError, refusal_of
from openfacility_server.jobs.engines.slurm.identity import Identity
from openfacility_server.jobs.engines.slurm.rest import Rest
from openfacility_server.jobs.engines.slurm.settings import SlurmSettings

_logger = logging.getLogger(__name__)

Find = Callable[[Sequence[EngineJob]], Awaitable[Mapping[str, Sequence[str]]]]
Cancel = Callable[[str, Sequence[str]], Awaitable[None]]
Answers = Callable[[], Awaitable[bool]]

_AT_ONCE = 8
_REMEMBERED = 20_000
# How long after it was sent a job may still arrive. slurmrestd goes on trying after we have given up, for as long as
# Slurm's MessageTimeout; a command that was killed has sent what it has sent.
_SETTLE_BY_REST = 12.0
_SETTLE_BY_COMMAND = 2.0


class Submitting:
    """Hands jobs over to one cluster. For one event loop."""

    def __init__(
        self,
        settings: SlurmSettings,
        identity: Identity,
        commands: Commands,
        rest: Rest | None,
        find: Find,
        cancel: Cancel,
        answers: Answers,
    ) -> None:
        """``find`` returns the native ids by ours, oldest first; ``cancel`` ends native ids of an owner; ``answers`` is
        whether the controller does.
        """
        self._settings, self._identity, self._commands, self._rest = settings, identity, commands, rest
        self._find, self._cancel, self._controller_answers = find, cancel, answers
        self._away = False
        self._settle = _SETTLE_BY_COMMAND if rest is None else _SETTLE_BY_REST
        # When jobs were last sent of which it is not known what became of them. Not what Slurm answered about others of
        # the same call: a controller that crashed may have forgotten those that it took last.
        self._sent: OrderedDict[str, float] = OrderedDict()
        self._began = self._back = time.monotonic()
        self._menders: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """Ends what goes on in the background."""
        for task in self._menders:
            task.cancel()
        await asyncio.gather(*self._menders, return_exceptions=True)

    async def submit(self, jobs: Sequence[EngineJob]) -> Sequence[str | Refusal | None]:
        """Returns the native id of each job, or why it was refused; None while it may still arrive from before.

        Raises EngineUnavailable.
        """
        if self._away:
            await self._come_back()
        doubtful = [job for job in jobs if job.doubtful or job.id in self._sent]
        # They keep nobody waiting whose job is new.
        early = [job for job in doubtful if self._settled(job.id) > time.monotonic()]
        answers: dict[str, str | Refusal | None] = dict.fromkeys(job.id for job in early)
        doubtful = [job for job in doubtful if job.id not in answers]
        answers |= await self._found(doubtful)
        missing = [job for job in jobs if job.id not in answers]
        answers |= await self._hand_over(missing)
        unsure = {job.id for job in doubtful}
        again = [job for job in missing if job.id in unsure]
        if again:
            self._mend_later(again, {job.id: str(answers[job.id]) for job in again})
        return [answers[job.id] for job in jobs]

    async def _come_back(self) -> None:
        """Looks whether the controller is there again, which may only now work off what was sent to it before."""
        if not await self._controller_answers():
            # Nothing is sent that might arrive later.
            raise EngineUnavailable("The batch system's controller does not answer.")
        self._away, self._back = False, time.monotonic()

    async def _found(self, jobs: Sequence[EngineJob]) -> dict[str, str]:
        """Returns the native ids of those that were taken before."""
        if not jobs:
            return {}
        found = await self._find(jobs)
        await self._mend(jobs, found)
        for job in jobs:
            self._sent.pop(job.id, None)
        return {job_id: native_ids[0] for job_id, native_ids in found.items()}

    def _settled(self, job_id: str) -> float:
        """Returns from when on a job cannot arrive any more that was sent before."""
        back = self._back + _SETTLE_BY_COMMAND
        if job_id in self._sent:
            return max(back, self._sent[job_id] + self._settle)
        return max(back, self._began + _SETTLE_BY_COMMAND)  # by a process that was gone when this one began

    async def _hand_over(self, jobs: Sequence[EngineJob]) -> dict[str, str | Refusal]:
        """Submits jobs side by side; when Slurm goes away none is begun any more, and those begun are waited for."""
        queue = list(reversed(jobs))
        answers: dict[str, str | Refusal] = {}
        failures: list[EngineUnavailable] = []

        async def work() -> None:
            while queue and not failures:
                job = queue.pop()
                try:
                    answers[job.id] = await self._one(job)
                except EngineUnavailable as error:
                    failures.append(error)

        async with asyncio.TaskGroup() as group:
            for _ in range(min(_AT_ONCE, len(queue))):
                group.create_task(work())
        self._away = bool(failures)
        if failures:
            raise failures[0]
        return answers

    async def _one(self, job: EngineJob) -> str | Refusal:
        try:
            account = await self._identity.account_of(job.owner)
            description = describe(job, account, self._settings)
            self._remember(job.id)
            if self._rest is not None:
                answer = await self._rest.submit(account.name, description)
            else:
                answer = await self._sbatch(account, description)
        except EngineError as error:
            answer = error.refusal
        except NotReachedError:
            self._sent.pop(job.id, None)
            raise
        except EngineUnavailable:
            self._remember(job.id)  # until now it was being tried
            raise
        self._sent.pop(job.id, None)
        return answer

    def _remember(self, job_id: str) -> None:
        self._sent[job_id] = time.monotonic()
        self._sent.move_to_end(job_id)
        while len(self._sent) > _REMEMBERED:
            self._sent.popitem(last=False)

    async def _sbatch(self, account: Account, description: Description) -> str | Refusal:
        # An empty file instead of our environment: what the script does not set is not set.
        command = ["sbatch", "--parsable", "--export-file=/dev/null", *description.arguments()]
        result = await self._commands.run(command, user=account.name, stdin=description.script.encode())
        number = result.out.strip().partition(";")[0]
        if result.code == 0 and number.isdigit():
            return number
        if result.code == 0 or not result.err.strip():
            raise EngineUnavailable("The batch system does not say what became of the job.")
        return refusal_of(result.err, description.options)

    async def _mend(
        self, jobs: Sequence[EngineJob], found: Mapping[str, Sequence[str]], told: Mapping[str, str] | None = None
    ) -> None:
        """Ends what was taken twice, but for the one that was told of, or the first."""
        for job in jobs:
            native_ids = found.get(job.id, ())
            kept = (told or {}).get(job.id, "")
            extra = [other for other in native_ids if other != (kept if kept in native_ids else native_ids[0])]
            if extra:
                _logger.warning("job taken twice by the batch system", extra={"job_id": job.id, "native_ids": extra})
                await self._cancel(job.owner, extra)

    def _mend_later(self, jobs: Sequence[EngineJob], told: Mapping[str, str]) -> None:
        """Looks once more, in case the first attempt arrives in spite of all."""

        async def look() -> None:
            await asyncio.sleep(2 * _SETTLE_BY_REST)
            try:
                await self._mend(jobs, await self._find(jobs), told)
            except (EngineUnavailable, EngineError):
                _logger.warning("could not look for jobs that were taken twice", extra={"jobs": len(jobs)})

        task = asyncio.create_task(look())
        self._menders.add(task)
        task.add_done_callback(self._menders.discard)
