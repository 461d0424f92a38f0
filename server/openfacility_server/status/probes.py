"""Asking again and again how resources are, and telling when that has changed for certain.

A status changes only when several answers in a row say so: ``fall`` answers that are worse, ``rise`` that are better.
A failure is known within the probe's period: a probe is asked a little more often than that, and again soon after an
answer that is worse than the status. At the start, when everything around may be starting too, a failure has more time.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from openfacility_server.status.model import Capacity, Status

_log = logging.getLogger(__name__)

# Parts of the period between two answers; a steady one and `fall` - 1 soon ones are less than a period together.
_STEADY = (0.6, 0.75)
_SOON = 0.2
_STARTS_PER_SECOND = 200.0
_REPORTS_AT_ONCE = 16
_KEPT_REPORTS = 100
_NEWS_PERIODS = 2
_SMALL_NEWS_PERIODS = 60
_FIRST_RETRY_SECONDS = 0.5
_LONGEST_RETRY_SECONDS = 15.0


@dataclass(frozen=True, slots=True)
class JobsTarget:
    """A compute resource of the Jobs service, or a part of it: its engine answers and takes jobs, its nodes work.

    ``queue`` and ``nodes`` (names, ranges such as ``n[1-4]``, or with ``*``) name the part. Queues of ``ignore_queues``
    may be closed, and ``nodes_out_percent`` of the nodes be down or drained, without that it counts.
    """

    resource: str
    queue: str = ""
    nodes: tuple[str, ...] = ()
    ignore_queues: tuple[str, ...] = ()
    nodes_out_percent: float = 0.0

    @property
    def whole(self) -> bool:
        """Whether it is all of the compute resource."""
        return not (self.queue or self.nodes)


@dataclass(frozen=True, slots=True)
class FileSystemTarget:
    """A directory that can be written to. Below a minimum it is degraded; 0 is no minimum.

    ``mount`` is a mount point that must be mounted: the directory below one that is not may be there all the same.
    """

    path: Path
    min_free_bytes: int = 0
    min_free_percent: float = 0.0
    min_free_inodes: int = 0
    mount: Path | None = None


@dataclass(frozen=True, slots=True)
class DatabaseTarget:
    """The database of this server."""


@dataclass(frozen=True, slots=True)
class TcpTarget:
    """A port that takes connections."""

    host: str
    port: int


@dataclass(frozen=True, slots=True)
class HttpTarget:
    """A page that is there: status 2xx or 3xx."""

    url: str
    unix_socket: Path | None = None


Target = JobsTarget | FileSystemTarget | DatabaseTarget | TcpTarget | HttpTarget


@dataclass(frozen=True, slots=True)
class Timing:
    """When to ask and what to believe; seconds, and answers in a row."""

    period: float = 5.0
    deadline: float = 2.0
    fall: int = 2
    rise: int = 2


@dataclass(frozen=True, slots=True)
class Probe:
    """How one resource is probed."""

    resource_id: str
    target: Target
    timing: Timing = Timing()


@dataclass(frozen=True, slots=True)
class Finding:
    """One answer. ``reason`` is a sentence for everyone, ``detail`` is for the log.

    Without ``capacity`` the reason has no figures that change: of answers with the same status only the first is told.
    ``since`` is when it became so, where what was asked knows.
    """

    status: Status
    reason: str = ""
    detail: str = ""
    since: datetime | None = None
    capacity: Capacity | None = None


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """How a resource is, and since when: the start of the first of the questions that were answered so.

    ``since`` is what the answer itself said of that.
    """

    resource_id: str
    status: Status
    reason: str
    time: datetime
    since: datetime | None = None
    capacity: Capacity | None = None


class Check(Protocol):
    """Asks one target. An exception counts as DOWN."""

    async def ask(self) -> Finding:
        """Returns how the target is. Is cancelled when it takes too long."""

    async def close(self) -> None:
        """Lets go of everything."""


class Clock(Protocol):
    """Tells the time and lets it pass."""

    def now(self) -> datetime:
        """Returns the time, in UTC."""

    async def sleep(self, seconds: float) -> None:
        """Returns after a time."""


class SystemClock:
    """The clock of the machine and of the event loop."""

    def now(self) -> datetime:
        """Returns the time, in UTC."""
        return datetime.now(UTC)

    async def sleep(self, seconds: float) -> None:
        """Returns after a time."""
        await asyncio.sleep(seconds)


class Hysteresis:
    """Makes certainties of answers. ``status`` is the last one, None before the first."""

    def __init__(self, fall: int, rise: int) -> None:
        self.status: Status | None = None
        self._fall = fall
        self._rise = rise
        self._first: ProbeResult | None = None
        self._asked = 0
        self._falling = False
        self._run: list[ProbeResult] = []

    @property
    def falling(self) -> bool:
        """Whether the latest answers were worse than the status, or bad while there is none."""
        return bool(self._run) and self._falling

    def add(self, answer: ProbeResult) -> ProbeResult | None:
        """Takes an answer; returns the new certainty if there is one."""
        self._asked += 1
        self._first = self._first or answer
        if answer.status == self.status:
            self._run.clear()
            return None
        falling = answer.status.badness > (self.status or Status.UP).badness
        if falling != self._falling:
            self._run.clear()
        self._falling = falling
        self._run.append(answer)
        if len(self._run) >= (self._fall if falling else self._rise):
            return self._decide(answer)
        if self.status is None and self._asked >= 2 * max(self._fall, self._rise):
            # It comes and goes, and there is no status that this could be measured against.
            reason = f"does not always work{': ' if answer.reason else ''}{answer.reason}"
            return self._become(ProbeResult(answer.resource_id, Status.DEGRADED, reason, self._first.time))
        return None

    def _decide(self, latest: ProbeResult) -> ProbeResult:
        """Believes what all answers of the run agree on: at least this bad, or at least this good."""
        choose = min if self._falling else max
        status = choose((answer.status for answer in self._run), key=lambda status: status.badness)
        chosen = next((answer for answer in reversed(self._run) if answer.status == status), latest)
        return self._become(replace(chosen, time=self._run[0].time))

    def _become(self, certain: ProbeResult) -> ProbeResult:
        self.status = certain.status
        self._run.clear()
        return certain


class News:
    """Decides which of the answers that agree on a status are worth telling: those that show another capacity.

    What is out of service is told after two periods at the earliest, a twentieth more that is free or busy too; any
    other difference after many: jobs start and end all the time.
    """

    def __init__(self, period: float) -> None:
        self._told: ProbeResult | None = None
        self._period = period

    def told(self, result: ProbeResult) -> None:
        """Takes what was told."""
        self._told = result

    def worth(self, answer: ProbeResult) -> bool:
        """Whether an answer is to be told."""
        told = self._told
        if told is None or told.status != answer.status or answer.capacity is None:
            return False
        if told.capacity is None:
            return True
        before, now = _counted(told), _counted(answer)
        if before == now and told.reason == answer.reason:
            return False
        periods = _NEWS_PERIODS if _coarse(told) != _coarse(answer) else _SMALL_NEWS_PERIODS
        return (answer.capacity.time - told.capacity.time).total_seconds() >= periods * self._period


def _counted(answer: ProbeResult) -> object:
    return answer.capacity and (answer.capacity.nodes, answer.capacity.queues)


def _coarse(answer: ProbeResult) -> object:
    """Returns what of an answer is news soon."""
    if answer.capacity is None:
        return None
    nodes = answer.capacity.nodes
    still = (nodes.total, nodes.drained, nodes.down, nodes.maintenance, nodes.unknown)
    step = max(1.0, nodes.total / 20)
    busy = tuple(round(count / step) for count in nodes.busy)
    return answer.reason, still, busy, [(queue.name, queue.state) for queue in answer.capacity.queues]


Report = Callable[[ProbeResult], Awaitable[None]]


class Prober:
    """Runs probes, each by itself; one that hangs holds up no other.

    ``checks`` makes what asks a target; it is called once for each probe. ``report`` gets the first certainty about a
    resource and then every change of it, in order; after an exception it is called again for the same.
    """

    def __init__(
        self,
        probes: Iterable[Probe],
        checks: Callable[[Target], Check],
        report: Report,
        clock: Clock | None = None,
        jitter: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._wanted = _by_resource(probes)
        self._checks = checks
        self._report = report
        self._clock = clock or SystemClock()
        self._jitter = jitter
        self._reporting = asyncio.Semaphore(_REPORTS_AT_ONCE)
        self._runners: dict[str, _Runner] = {}
        self._started = False

    async def start(self) -> None:
        """Begins to ask."""
        self._started = True
        self._begin(list(self._wanted.values()))

    async def stop(self) -> None:
        """Ends all questions; nothing is reported any more."""
        self._started = False
        runners, self._runners = list(self._runners.values()), {}
        await asyncio.gather(*(runner.stop() for runner in runners))

    async def replace(self, probes: Iterable[Probe]) -> None:
        """Takes other probes; those that are as before go on undisturbed. Raises ValueError."""
        wanted = _by_resource(probes)
        changed = [probe for probe in wanted.values() if self._wanted.get(probe.resource_id) != probe]
        gone = [resource_id for resource_id, probe in self._wanted.items() if wanted.get(resource_id) != probe]
        self._wanted = wanted
        runners = [self._runners.pop(resource_id) for resource_id in gone if resource_id in self._runners]
        await asyncio.gather(*(runner.stop() for runner in runners))
        if self._started:
            self._begin(changed)

    async def probe_now(self, resource_id: str) -> ProbeResult:
        """Asks at once and returns the answer, which counts like any other. Raises KeyError: it has no probe."""
        return await self._runners[resource_id].ask()

    def results(self) -> Mapping[str, ProbeResult]:
        """Returns what is certain, by resource."""
        return {resource_id: runner.certain for resource_id, runner in self._runners.items() if runner.certain}

    def _begin(self, probes: list[Probe]) -> None:
        for number, probe in enumerate(probes):
            runner = _Runner(probe, self._checks(probe.target), self._deliver, self._clock, self._jitter)
            self._runners[probe.resource_id] = runner
            runner.start(min(number / _STARTS_PER_SECOND, probe.timing.period))

    async def _deliver(self, result: ProbeResult) -> None:
        async with self._reporting:
            await self._report(result)


def _by_resource(probes: Iterable[Probe]) -> dict[str, Probe]:
    found: dict[str, Probe] = {}
    for probe in probes:
        if probe.resource_id in found:
            raise ValueError(f"resource {probe.resource_id} has two probes")
        found[probe.resource_id] = probe
    return found


@dataclass(slots=True)
class _Outbox:
    """What has not been reported yet, oldest first."""

    results: list[ProbeResult] = field(default_factory=list)
    task: asyncio.Task[None] | None = None


class _Runner:
    """Runs one probe."""

    def __init__(
        self, probe: Probe, check: Check, report: Report, clock: Clock, jitter: Callable[[float, float], float]
    ) -> None:
        self.certain: ProbeResult | None = None
        self._probe = probe
        self._check = check
        self._report = report
        self._clock = clock
        self._jitter = jitter
        self._hysteresis = Hysteresis(probe.timing.fall, probe.timing.rise)
        self._news = News(probe.timing.period)
        self._asking = asyncio.Lock()
        self._outbox = _Outbox()
        self._task: asyncio.Task[None] | None = None

    def start(self, delay: float) -> None:
        self._task = asyncio.create_task(self._run(delay), name=f"probe of {self._probe.resource_id}")

    async def stop(self) -> None:
        tasks = [task for task in (self._task, self._outbox.task) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._check.close()

    async def _run(self, delay: float) -> None:
        if delay > 0:
            await self._clock.sleep(delay)
        while True:
            answer = await self.ask()
            await self._clock.sleep(self._pause(answer))

    def _pause(self, answer: ProbeResult) -> float:
        """Returns the seconds to the next question."""
        timing = self._probe.timing
        if self._hysteresis.status is None:
            soon, answers = answer.status == Status.UP, timing.rise
        else:
            soon, answers = self._hysteresis.falling, timing.fall
        if soon:
            return timing.period * _SOON / max(answers - 1, 1)
        return timing.period * self._jitter(*_STEADY)

    async def ask(self) -> ProbeResult:
        async with self._asking:
            time = self._clock.now()
            finding = await self._find()
            answer = ProbeResult(
                self._probe.resource_id, finding.status, finding.reason, time, finding.since, finding.capacity
            )
            if certain := self._hysteresis.add(answer):
                self._change(certain, finding.detail)
            elif self._news.worth(answer):
                self._deliver(answer)
            return answer

    async def _find(self) -> Finding:
        try:
            async with asyncio.timeout(self._probe.timing.deadline):
                return await self._check.ask()
        except TimeoutError:
            return Finding(Status.DOWN, "does not answer")
        except Exception as error:  # noqa: BLE001 -- whatever a check raises, the resource cannot be used
            return Finding(Status.DOWN, "does not work", str(error) or type(error).__name__)

    def _change(self, certain: ProbeResult, detail: str) -> None:
        _log.log(
            logging.INFO if certain.status == Status.UP else logging.WARNING,
            "%s is %s%s",
            certain.resource_id,
            certain.status.name.lower(),
            f": {certain.reason}" if certain.reason else "",
            extra={"resource_id": certain.resource_id, "detail": detail},
        )
        self._deliver(certain)

    def _deliver(self, result: ProbeResult) -> None:
        self.certain = result
        self._news.told(result)
        waiting = self._outbox.results
        waiting.append(result)
        if len(waiting) > _KEPT_REPORTS:
            # There and back again: the oldest one may be on its way, the latest one must be told.
            del waiting[1:3]
        if self._outbox.task is None or self._outbox.task.done():
            self._outbox.task = asyncio.create_task(self._tell())

    async def _tell(self) -> None:
        retry = _FIRST_RETRY_SECONDS
        while self._outbox.results:
            try:
                await self._report(self._outbox.results[0])
            except Exception as error:  # noqa: BLE001 -- such as a database that is away; nothing may be lost
                _log.warning("the status of %s cannot be recorded yet: %s", self._probe.resource_id, error)
                await self._clock.sleep(retry)
                retry = min(2 * retry, _LONGEST_RETRY_SECONDS)
            else:
                self._outbox.results.pop(0)
                retry = _FIRST_RETRY_SECONDS
