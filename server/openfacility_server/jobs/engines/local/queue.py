"""The queue: who may start now, and why the others wait. Plain data, no files, no processes.

Strict first come, first served: nothing starts before the oldest job that could start but for cores or memory. Held
jobs, those that wait for others and those whose array runs as many elements as it may do not stand in the way. Each
change costs a few heap operations, however long the queue is.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum, auto

from openfacility_server.jobs.engines.local.needs import Needs
from openfacility_server.jobs.engines.local.spool import Fate
from openfacility_server.jobs.model import DependencyCondition, JobDependency, JobReason, JobState


class Place(Enum):
    """Where a job stands."""

    ASIDE = auto()  # held, or waits for other jobs, or is larger than the resource
    PARKED = auto()  # its array runs as many elements as it may
    READY = auto()
    TAKEN = auto()  # starts or runs: its cores are its own
    GONE = auto()


@dataclass(slots=True, eq=False)
class Entry:
    """One unfinished job."""

    id: str
    sequence: int
    needs: Needs
    since: datetime
    dependencies: tuple[JobDependency, ...] = ()
    array_id: str = ""
    max_active: int = 0
    held: JobReason | None = None
    place: Place = Place.ASIDE
    counted: bool = False  # among those of its array that are ready, start or run
    state: JobState = JobState.QUEUED
    reason: JobReason = JobReason.UNSPECIFIED
    message: str = ""
    fate: Fate = Fate.WAITING


class Verdict(Enum):
    """What a job's dependencies say."""

    GO = auto()
    WAIT = auto()
    NEVER = auto()


@dataclass(slots=True)
class Target:
    """What others depend on: one job, or the elements of an array counted by how far they have come."""

    fates: dict[str, Fate]
    counts: Counter[Fate]
    dependents: set[str] = field(default_factory=set)

    def move(self, job_id: str, fate: Fate) -> bool:
        """Notes how far a member has come; returns whether that is news."""
        before = self.fates.get(job_id)
        if before is None or before is fate:
            return False
        self.fates[job_id] = fate
        self.counts[before] -= 1
        self.counts[fate] += 1
        return True

    def verdict(self, condition: DependencyCondition) -> Verdict:
        """Decides one condition. An array counts as a whole."""
        total = len(self.fates)
        completed, unsuccessful = self.counts[Fate.COMPLETED], self.counts[Fate.UNSUCCESSFUL]
        ended = completed + unsuccessful
        if condition is DependencyCondition.AFTER:
            return Verdict.GO if ended + self.counts[Fate.STARTED] == total else Verdict.WAIT
        if condition is DependencyCondition.AFTER_OK:
            return Verdict.NEVER if unsuccessful else Verdict.GO if completed == total else Verdict.WAIT
        if ended < total:
            return Verdict.WAIT
        if condition is DependencyCondition.AFTER_NOT_OK and not unsuccessful:
            return Verdict.NEVER
        return Verdict.GO


class Queue:
    """All unfinished jobs of one resource.

    ``changed`` collects the entries whose state or reason is new; ``doomed`` those that can never start. Who calls
    empties them.
    """

    def __init__(
        self, cores: int, memory: int | None, members: Callable[[str], list[str]], fate: Callable[[str], Fate]
    ) -> None:
        """``members`` tells the jobs that an id stands for, ``fate`` how far one has come that is not in the queue."""
        self.cores, self.memory = cores, memory
        self.used_cores = self.used_memory = 0
        self.entries: dict[str, Entry] = {}
        self.changed: dict[str, Entry] = {}
        self.doomed: dict[str, Entry] = {}
        self._members, self._fate = members, fate
        self._targets: dict[str, Target] = {}
        self._ready: list[tuple[int, str]] = []
        self._parked: defaultdict[str, list[tuple[int, str]]] = defaultdict(list)
        self._in_array: Counter[str] = Counter()
        self._fresh: list[Entry] = []
        self._head: Entry | None = None

    # Coming, changing, going

    def add(self, entry: Entry) -> None:
        """Takes in a job; `place` gives it its place."""
        self.entries[entry.id] = entry
        for name in (entry.id, entry.array_id):
            if name in self._targets:
                self._refill(name)
        for dependency in entry.dependencies:
            self._target(dependency.job_id).dependents.add(entry.id)

    def place(self, entry: Entry) -> None:
        """Gives a waiting job the place that is due to it."""
        if entry.place in (Place.TAKEN, Place.GONE):
            return
        verdict = self._verdict(entry)
        if verdict is Verdict.NEVER:
            self._leave(entry)
            self.doomed[entry.id] = entry
        elif entry.held is not None:
            self._leave(entry)
            self._say(entry, JobState.HELD, entry.held)
        elif verdict is Verdict.WAIT:
            self._leave(entry)
            self._say(entry, JobState.QUEUED, JobReason.DEPENDENCY)
        elif entry.needs.cores > self.cores or (self.memory is not None and entry.needs.memory > self.memory):
            self._leave(entry)
            message = "It needs more than this resource has been set up to give by now."
            self._say(entry, JobState.QUEUED, JobReason.RESOURCES, message)
        elif entry.place is not Place.READY:
            self._line_up(entry)

    def set_aside(self, entry: Entry) -> None:
        """Keeps a waiting job from starting: its end is being recorded."""
        self._leave(entry)

    def take(self, entry: Entry) -> None:
        """Gives a job its cores and memory, also beyond what there is (it was started before)."""
        if entry.place is not Place.TAKEN:
            self._count(entry)
            entry.place = Place.TAKEN
            self.used_cores += entry.needs.cores
            self.used_memory += entry.needs.memory

    def give_back(self, entry: Entry) -> None:
        """Takes back what a job was given, after a start that did not come about."""
        if entry.place is Place.TAKEN:
            self.used_cores -= entry.needs.cores
            self.used_memory -= entry.needs.memory
            entry.place = Place.ASIDE
            self._uncount(entry)

    def set_needs(self, entry: Entry, needs: Needs) -> None:
        """Changes what a waiting job needs; `place` has to follow."""
        if entry.place is not Place.TAKEN:
            self._leave(entry)
            entry.needs = needs

    def active(self, entry: Entry) -> None:
        """Notes that a job runs."""
        self._say(entry, JobState.ACTIVE, JobReason.UNSPECIFIED)
        self.tell_fate(entry, Fate.STARTED)

    def tell_fate(self, entry: Entry, fate: Fate) -> None:
        """Tells those that depend on a job how far it has come."""
        entry.fate = fate
        for name in (entry.id, entry.array_id):
            target = self._targets.get(name)
            if target is not None and target.move(entry.id, fate):
                for dependent in list(target.dependents):
                    self.place(self.entries[dependent])

    def remove(self, entry: Entry, fate: Fate) -> None:
        """Lets a job go that has ended."""
        self.give_back(entry)
        self._leave(entry)
        entry.place = Place.GONE
        self.tell_fate(entry, fate)
        self.changed.pop(entry.id, None)
        self.doomed.pop(entry.id, None)
        del self.entries[entry.id]
        for dependency in entry.dependencies:
            target = self._targets[dependency.job_id]
            target.dependents.discard(entry.id)
        for dependency in entry.dependencies:
            if dependency.job_id in self._targets and not self._targets[dependency.job_id].dependents:
                del self._targets[dependency.job_id]

    def depended_on(self) -> set[str]:
        """Returns the jobs whose ends somebody still waits for."""
        return {member for target in self._targets.values() for member in target.fates}

    # Scheduling

    def step(self, *, may_start: bool = True) -> list[Entry]:
        """Takes everything that can start now, oldest first, and tells the others why they wait."""
        taken: list[Entry] = []
        while may_start and (head := self._peek()) is not None and self._fits(head.needs):
            heapq.heappop(self._ready)
            self.take(head)
            taken.append(head)
        self._explain(self._peek())
        return taken

    def has_room(self, needs: Needs) -> bool:
        """Whether a job that came now would start at once."""
        return self._peek() is None and self._fits(needs)

    def _fits(self, needs: Needs) -> bool:
        if needs.cores > self.cores - self.used_cores:
            return False
        return self.memory is None or needs.memory <= self.memory - self.used_memory

    def _peek(self) -> Entry | None:
        return self._first(self._ready, Place.READY)

    def _first(self, heap: list[tuple[int, str]], place: Place) -> Entry | None:
        """Returns the oldest of a heap; what has left it is thrown away here."""
        while heap:
            entry = self.entries.get(heap[0][1])
            if entry is not None and entry.place is place:
                return entry
            heapq.heappop(heap)
        return None

    def _explain(self, head: Entry | None) -> None:
        news, self._fresh = self._fresh, []
        if self._head is not None and self._head is not head:
            news.append(self._head)
        for entry in news:
            if entry.place is Place.READY and entry is not head:
                self._say(entry, JobState.QUEUED, JobReason.PRIORITY)
        if head is not None:
            self._say(head, JobState.QUEUED, JobReason.RESOURCES)
        self._head = head

    def _say(self, entry: Entry, state: JobState, reason: JobReason, message: str = "") -> None:
        if (entry.state, entry.reason, entry.message) != (state, reason, message):
            entry.state, entry.reason, entry.message = state, reason, message
            self.changed[entry.id] = entry

    # Arrays

    def _line_up(self, entry: Entry) -> None:
        if entry.max_active and not entry.counted and self._in_array[entry.array_id] >= entry.max_active:
            if entry.place is not Place.PARKED:
                entry.place = Place.PARKED
                heapq.heappush(self._parked[entry.array_id], (entry.sequence, entry.id))
            self._say(entry, JobState.QUEUED, JobReason.ARRAY_LIMIT)
            return
        self._count(entry)
        entry.place = Place.READY
        heapq.heappush(self._ready, (entry.sequence, entry.id))
        self._fresh.append(entry)

    def _leave(self, entry: Entry) -> None:
        if entry.place in (Place.READY, Place.PARKED):
            entry.place = Place.ASIDE
            self._uncount(entry)

    def _count(self, entry: Entry) -> None:
        if entry.array_id and not entry.counted:
            entry.counted = True
            self._in_array[entry.array_id] += 1

    def _uncount(self, entry: Entry) -> None:
        if not entry.counted:
            return
        entry.counted = False
        self._in_array[entry.array_id] -= 1
        if not self._in_array[entry.array_id]:
            del self._in_array[entry.array_id]
        heap = self._parked.get(entry.array_id)
        if heap is None:
            return
        following = self._first(heap, Place.PARKED)
        if following is None:
            del self._parked[entry.array_id]
        else:
            self._line_up(following)

    # Dependencies

    def _verdict(self, entry: Entry) -> Verdict:
        verdicts = [self._judge(entry, dependency) for dependency in entry.dependencies]
        if Verdict.NEVER in verdicts:
            return Verdict.NEVER
        return Verdict.WAIT if Verdict.WAIT in verdicts else Verdict.GO

    def _judge(self, entry: Entry, dependency: JobDependency) -> Verdict:
        if dependency.job_id in (entry.id, entry.array_id):
            return Verdict.NEVER  # it would wait for itself
        return self._target(dependency.job_id).verdict(dependency.condition)

    def _target(self, job_id: str) -> Target:
        target = self._targets.get(job_id)
        if target is None:
            fates = self._fates(job_id)
            target = self._targets[job_id] = Target(fates, Counter(fates.values()))
        return target

    def _refill(self, job_id: str) -> None:
        """Counts anew: a job has come that others have been waiting for."""
        target = self._targets[job_id]
        fates = self._fates(job_id) if len(target.fates) == 1 else target.fates
        target.fates, target.counts = fates, Counter(fates.values())

    def _fates(self, job_id: str) -> dict[str, Fate]:
        members = self._members(job_id)
        return {name: self.entries[name].fate if name in self.entries else self._fate(name) for name in members}
