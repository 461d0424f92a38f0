"""Probes: certainty from answers, one that hangs holds up nobody, and the real things that are asked."""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import cast

import pytest
from openfacility_server import storage
from openfacility_server.jobs.engines import EngineHealth, EngineUnavailable, FieldProblem
from openfacility_server.jobs.engines.local import LocalEngine, LocalSettings
from openfacility_server.jobs.model import JobSpec
from openfacility_server.status.checks import Checks, look_at
from openfacility_server.status.model import Status
from openfacility_server.status.probes import (
    Check,
    DatabaseTarget,
    FileSystemTarget,
    Finding,
    HttpTarget,
    Hysteresis,
    JobsTarget,
    Probe,
    Prober,
    ProbeResult,
    Target,
    TcpTarget,
    Timing,
)

START = datetime(2026, 11, 22, tzinfo=UTC)
PATIENCE = 30.0
STATUSES = {"u": Status.UP, "g": Status.DEGRADED, "d": Status.DOWN}


# Certainty.


@pytest.mark.parametrize(
    ("fall", "rise", "answers", "certain"),
    [
        # Each certainty: the answer that made it, the status, the answer that it counts from.
        (2, 2, "uu", "1u0"),
        (2, 2, "dd", "1d0"),
        (1, 1, "udu", "0u0 1d1 2u2"),
        (2, 2, "uudduu", "1u0 3d2 5u4"),
        (2, 2, "uududududu", "1u0"),
        (3, 2, "uuddudduddd", "1u0 10d8"),
        (2, 3, "dduuduuu", "1d0 7u5"),
        # What all of them agree on: at least degraded, at most degraded.
        (2, 2, "uudg", "1u0 3g2"),
        (2, 2, "uugd", "1u0 3g2"),
        (2, 2, "ddgu", "1d0 3g2"),
        (2, 2, "uuggddgg", "1u0 3g2 5d4 7g6"),
        (2, 2, "gg", "1g0"),
        # Coming and going from the start: there must be an answer some time.
        (2, 2, "udududud", "3g0"),
        (3, 1, "du", "1u1"),
    ],
)
def test_certainty(fall: int, rise: int, answers: str, certain: str) -> None:
    hysteresis = Hysteresis(fall, rise)
    found = []
    for index, letter in enumerate(answers):
        time = START + timedelta(seconds=index)
        result = hysteresis.add(ProbeResult("r", STATUSES[letter], "", time))
        if result:
            word = next(word for word, status in STATUSES.items() if status == result.status)
            found.append(f"{index}{word}{(result.time - START).seconds}")
    assert " ".join(found) == certain


def test_flapping_is_told_once() -> None:
    hysteresis = Hysteresis(2, 2)
    answers = itertools.islice(itertools.cycle("ud"), 1000)
    told = [hysteresis.add(ProbeResult("r", STATUSES[letter], "no", START)) for letter in answers]
    assert [(result.status, result.reason) for result in told if result] == [
        (Status.DEGRADED, "does not always work: no")
    ]


# Running, with a clock of our own.


class _Clock:
    """Time passes only when a test lets it."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._number = itertools.count()
        self._changed = asyncio.Condition()

    def now(self) -> datetime:
        return START + timedelta(seconds=self.seconds)

    async def sleep(self, seconds: float) -> None:
        awake: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self.seconds + seconds, next(self._number), awake))
        async with self._changed:
            self._changed.notify_all()
        await awake

    def _asleep(self) -> int:
        return sum(not sleeper[2].done() for sleeper in self._sleepers)

    async def settle(self, sleepers: int = 1) -> None:
        """Waits until so many are asleep."""
        async with asyncio.timeout(PATIENCE), self._changed:
            await self._changed.wait_for(lambda: self._asleep() >= sleepers)

    async def step(self, sleepers: int = 1) -> None:
        """Waits until so many are asleep, then lets the time of the first one come."""
        await self.settle(sleepers)
        while True:
            until, _, awake = heapq.heappop(self._sleepers)
            if not awake.done():
                self.seconds = max(self.seconds, until)
                awake.set_result(None)
                return


class _Said(Check):
    """Answers what it is told to; the last answer stays."""

    def __init__(self, answers: str = "u") -> None:
        self.answers = answers
        self.asked = 0
        self.closed = False

    async def ask(self) -> Finding:
        letter, self.answers = self.answers[0], self.answers[1:] or self.answers
        self.asked += 1
        if letter == "x":
            raise RuntimeError("/secret/path")
        return Finding(STATUSES[letter], "" if letter == "u" else f"is {letter}")

    async def close(self) -> None:
        self.closed = True


class _Hangs(Check):
    async def ask(self) -> Finding:
        await asyncio.Event().wait()
        raise AssertionError

    async def close(self) -> None:
        pass


def _middle(low: float, high: float) -> float:
    return (low + high) / 2


class _Reports:
    def __init__(self) -> None:
        self.queue: asyncio.Queue[ProbeResult] = asyncio.Queue()

    async def __call__(self, result: ProbeResult) -> None:
        await self.queue.put(result)

    async def next(self) -> ProbeResult:
        async with asyncio.timeout(PATIENCE):
            return await self.queue.get()


def _checks(**checks: Check) -> Callable[[Target], Check]:
    return lambda target: checks[cast(JobsTarget, target).resource]


def _probe(name: str, timing: Timing | None = None) -> Probe:
    return Probe(name, JobsTarget(name), timing or Timing())


@contextlib.asynccontextmanager
async def _running(prober: Prober) -> AsyncIterator[Prober]:
    await prober.start()
    try:
        yield prober
    finally:
        await prober.stop()


async def test_only_changes_are_reported_with_the_time_they_began() -> None:
    clock, reports, check = _Clock(), _Reports(), _Said("uuuudududdduu")
    async with _running(Prober([_probe("a")], _checks(a=check), reports, clock, _middle)) as prober:
        for _ in range(13):
            await clock.step()
        results = [await reports.next() for _ in range(3)]
        assert [(result.status, result.reason) for result in results] == [
            (Status.UP, ""),
            (Status.DOWN, "is d"),
            (Status.UP, ""),
        ]
        assert results == sorted(results, key=lambda result: result.time)
        assert results[0].time == START
        assert prober.results() == {"a": results[2]}
    assert check.closed


@pytest.mark.parametrize(("fall", "jitter"), list(itertools.product((1, 2, 5), (min, max))))
async def test_a_failure_is_known_within_the_period(fall: int, jitter: Callable[[float, float], float]) -> None:
    clock, reports, check = _Clock(), _Reports(), _Said()
    probe = _probe("a", Timing(period=10, fall=fall))
    async with _running(Prober([probe], _checks(a=check), reports, clock, jitter)) as prober:
        await clock.step()
        assert (await reports.next()).status == Status.UP
        await clock.step()
        await clock.settle()
        # It fails just after it has been asked.
        failed = clock.seconds
        check.answers = "d"
        while prober.results()["a"].status == Status.UP:
            await clock.step()
            await clock.settle()
        assert clock.seconds - failed < 10
        result = await reports.next()
        assert result.status == Status.DOWN
        assert timedelta() < result.time - START - timedelta(seconds=failed) < timedelta(seconds=10)


async def test_at_the_start_a_failure_has_more_time_than_a_success() -> None:
    for answer, low, high in (("u", 0, 1.5), ("d", 3, 5)):
        clock, reports = _Clock(), _Reports()
        async with _running(Prober([_probe("a")], _checks(a=_Said(answer)), reports, clock, _middle)):
            await clock.step()
            await reports.next()
        assert low < clock.seconds < high


async def test_one_that_hangs_counts_as_down_and_holds_up_no_other() -> None:
    reports = _Reports()
    quick = Timing(period=0.1, deadline=0.02)
    probes = [_probe("hangs", quick), _probe("works", quick)]
    async with _running(Prober(probes, _checks(hangs=_Hangs(), works=_Said()), reports)):
        found = {(result := await reports.next()).resource_id: result for _ in range(2)}
    assert (found["hangs"].status, found["hangs"].reason) == (Status.DOWN, "does not answer")
    assert found["works"].status == Status.UP


async def test_a_check_that_raises_is_down_without_telling_everyone_why() -> None:
    clock, reports = _Clock(), _Reports()
    async with _running(Prober([_probe("a")], _checks(a=_Said("x")), reports, clock)):
        await clock.step()
        result = await reports.next()
    assert (result.status, result.reason) == (Status.DOWN, "does not work")


async def test_what_cannot_be_reported_is_reported_later_in_order() -> None:
    clock, reports, check = _Clock(), _Reports(), _Said("uddddduuuu")
    away = True
    tried: list[ProbeResult] = []

    async def report(result: ProbeResult) -> None:
        tried.append(result)
        if away:
            raise OSError("the database is away")
        await reports(result)

    probe = _probe("a", Timing(fall=1, rise=1))
    async with _running(Prober([probe], _checks(a=check), report, clock, _middle)):
        # Two sleep from the first failed report on: the probe, and what tries again.
        while check.asked < 10:
            await clock.step(2)
        away = False
        while reports.queue.qsize() < 3:
            await clock.step()
        results = [await reports.next() for _ in range(3)]
    assert [result.status for result in results] == [Status.UP, Status.DOWN, Status.UP]
    assert results[0].time == START
    assert len(tried) < 15, "it is tried less and less often"


async def test_other_probes_take_over_while_those_that_stay_go_on() -> None:
    clock, reports = _Clock(), _Reports()
    checks = {"stays": _Said(), "goes": _Said(), "changes": _Said(), "comes": _Said()}
    made: list[str] = []

    def make(target: Target) -> Check:
        name = cast(JobsTarget, target).resource
        made.append(name)
        return checks[name]

    once = Timing(fall=1, rise=1)
    before = [_probe("stays", once), _probe("goes", once), _probe("changes", once)]
    prober = Prober(before, make, reports, clock)
    async with _running(prober):
        while reports.queue.qsize() < 3:
            await clock.step()
        await prober.replace([_probe("comes", once), _probe("changes", Timing(9, 2, 1, 1)), _probe("stays", once)])
        while reports.queue.qsize() < 5:
            await clock.step()
        assert made == ["stays", "goes", "changes", "comes", "changes"]
        assert checks["goes"].closed
        assert not checks["stays"].closed
        told = [(await reports.next()).resource_id for _ in range(5)]
        assert sorted(told[3:]) == ["changes", "comes"]
        assert set(prober.results()) == {"stays", "changes", "comes"}
        with pytest.raises(KeyError):
            await prober.probe_now("goes")
        with pytest.raises(ValueError, match="two probes"):
            await prober.replace([_probe("a"), _probe("a")])


async def test_probing_now() -> None:
    clock, reports, check = _Clock(), _Reports(), _Said()
    async with _running(Prober([_probe("a", Timing(fall=1, rise=1))], _checks(a=check), reports, clock)) as prober:
        assert (await reports.next()).status == Status.UP
        check.answers = "d"
        assert (await prober.probe_now("a")).status == Status.DOWN
        assert (await reports.next()).status == Status.DOWN
        assert clock.seconds == 0


async def test_stopping_and_starting_again() -> None:
    reports, check = _Reports(), _Said()
    prober = Prober([_probe("a", Timing(rise=1))], _checks(a=check), reports, _Clock())
    for _ in range(2):
        async with _running(prober):
            assert (await reports.next()).status == Status.UP
        assert prober.results() == {}
    assert check.asked == 2


async def test_many_probes_do_not_start_at_once() -> None:
    clock, reports = _Clock(), _Reports()
    checks = {f"r{index}": _Said() for index in range(1000)}
    probes = [_probe(name, Timing(rise=1)) for name in checks]
    async with _running(Prober(probes, _checks(**checks), reports, clock)):
        while sum(check.asked > 0 for check in checks.values()) < 1000:
            await clock.step(1000)
        assert 4 < clock.seconds < 6


# What is asked: directories.


def test_a_directory_is_written_to_and_left_as_it_was(tmp_path: Path) -> None:
    before = tmp_path.stat().st_mtime_ns
    assert look_at(FileSystemTarget(tmp_path)) == Finding(Status.UP)
    assert tmp_path.stat().st_mtime_ns > before
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("target", "status", "reason"),
    [
        (FileSystemTarget(Path("none")), Status.DOWN, "is missing"),
        (FileSystemTarget(Path("file")), Status.DOWN, "is missing"),
        (FileSystemTarget(Path(), mount=Path()), Status.DOWN, "is not mounted"),
        (FileSystemTarget(Path(), mount=Path("/")), Status.UP, ""),
        (FileSystemTarget(Path(), min_free_bytes=1 << 60), Status.DEGRADED, "has little space left"),
        (FileSystemTarget(Path(), min_free_percent=100), Status.DEGRADED, "has little space left"),
        (FileSystemTarget(Path(), min_free_bytes=1, min_free_percent=0.001), Status.UP, ""),
    ],
)
def test_directories(target: FileSystemTarget, status: Status, reason: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    mount = target.mount and tmp_path / target.mount
    found = look_at(
        FileSystemTarget(
            tmp_path / target.path, target.min_free_bytes, target.min_free_percent, target.min_free_inodes, mount
        )
    )
    assert (found.status, found.reason) == (status, reason)
    assert str(tmp_path) not in found.reason


def test_a_directory_of_somebody_else(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    if os.geteuid() != 0:
        assert look_at(FileSystemTarget(tmp_path)).reason == "cannot be written to by this server"
        return
    # Root may write everywhere: somebody else has to look.
    tmp_path.parent.chmod(0o711)
    program = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from openfacility_server.status.checks import look_at\n"
        "from openfacility_server.status.probes import FileSystemTarget\n"
        "os.setuid(65534)\n"
        "print(look_at(FileSystemTarget(Path(sys.argv[1]))).reason)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() in ("cannot be written to by this server", "cannot be reached by this server")


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of 128 KiB and 8 inodes."""
    options = ["mount", "-t", "tmpfs", "-o", "size=128k,nr_inodes=8", "probe-test", str(tmp_path)]
    made = subprocess.run(options, capture_output=True, text=True, check=False)
    if made.returncode:
        pytest.skip(f"no file system can be mounted here: {made.stderr.strip()}")
    yield tmp_path
    subprocess.run(["umount", str(tmp_path)], check=True)


def test_a_file_system_that_fills_up(small: Path) -> None:
    target = FileSystemTarget(small, min_free_percent=50, mount=small)
    assert look_at(target) == Finding(Status.UP)
    (small / "some").write_bytes(bytes(80 * 1024))
    assert look_at(target).reason == "has little space left"
    with contextlib.suppress(OSError), (small / "more").open("wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass
    assert look_at(target) == Finding(Status.DOWN, "is full", "[Errno 28] No space left on device")
    (small / "more").unlink()
    (small / "some").unlink()
    assert look_at(target) == Finding(Status.UP)


def test_a_file_system_that_runs_out_of_inodes(small: Path) -> None:
    target = FileSystemTarget(small, min_free_inodes=5)
    assert look_at(target) == Finding(Status.UP)
    for name in "abc":
        (small / name).touch()
    assert look_at(target).reason == "has few inodes left"
    with contextlib.suppress(OSError):
        for index in range(8):
            (small / f"{index}").touch()
    assert look_at(target).status == Status.DOWN


def test_a_file_system_that_becomes_read_only(small: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small)], check=True)
    assert look_at(FileSystemTarget(small)).reason == "can only be read"


class _Stuck(os.PathLike[str]):
    """A path that blocks the thread that uses it, as a file system does whose server is away."""

    def __init__(self, path: Path) -> None:
        self.free = threading.Event()
        self.entered = threading.Semaphore(0)
        self.count = 0
        self._path = path

    def __fspath__(self) -> str:
        self.count += 1
        self.entered.release()
        self.free.wait(PATIENCE)
        return str(self._path)

    def __truediv__(self, name: str) -> Path:
        return self._path / name


async def test_a_file_system_that_hangs_uses_one_thread_and_heals(tmp_path: Path) -> None:
    path, reports = _Stuck(tmp_path), _Reports()
    target = FileSystemTarget(cast(Path, path))
    probe = Probe("scratch", target, Timing(period=0.4, deadline=0.1))
    async with _running(Prober([probe], Checks({}, _nothing), reports)) as prober:
        down = await reports.next()
        assert (down.status, down.reason) == (Status.DOWN, "does not answer")
        for _ in range(5):
            assert (await prober.probe_now("scratch")).status == Status.DOWN
        assert path.count == 1
        assert [thread.daemon for thread in threading.enumerate() if thread.name == "probe"] == [True]
        path.free.set()
        up = await reports.next()
        assert up.status == Status.UP
        assert up.time > down.time


async def test_stopping_does_not_wait_for_a_file_system_that_hangs(tmp_path: Path) -> None:
    path = _Stuck(tmp_path)
    prober = Prober([Probe("a", FileSystemTarget(cast(Path, path)))], Checks({}, _nothing), _Reports())
    await prober.start()
    assert await asyncio.to_thread(path.entered.acquire, timeout=PATIENCE)
    async with asyncio.timeout(PATIENCE / 2):
        await prober.stop()
    path.free.set()


# What is asked: ports and pages.


async def _ask(target: Target, checks: Checks | None = None) -> Finding:
    check = (checks or Checks({}, _nothing))(target)
    try:
        async with asyncio.timeout(PATIENCE):
            return await check.ask()
    finally:
        await check.close()


async def _nothing() -> None:
    pass


Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def _answering(head: str) -> Handler:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(f"HTTP/1.1 {head}\r\ncontent-length: 4\r\nconnection: close\r\n\r\nyes\n".encode())
            await writer.drain()
        writer.close()

    return handle


async def test_ports() -> None:
    server = await asyncio.start_server(_answering("200 OK"), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    assert await _ask(TcpTarget("127.0.0.1", port)) == Finding(Status.UP)
    server.close()
    await server.wait_closed()
    found = await _ask(TcpTarget("127.0.0.1", port))
    assert (found.status, found.reason) == (Status.DOWN, "takes no connections")


@pytest.mark.parametrize(
    ("head", "status", "reason"),
    [
        ("200 OK", Status.UP, ""),
        ("302 Found\r\nlocation: /login", Status.UP, ""),
        ("503 Service Unavailable", Status.DOWN, "answers with HTTP status 503"),
        ("404 Not Found", Status.DOWN, "answers with HTTP status 404"),
    ],
)
@pytest.mark.parametrize("unix", [False, True])
async def test_pages(head: str, status: Status, reason: str, unix: bool, tmp_path: Path) -> None:
    if unix:
        socket: Path | None = tmp_path / "s"
        server = await asyncio.start_unix_server(_answering(head), socket)
        url = "http://envoy/ready"
    else:
        socket = None
        server = await asyncio.start_server(_answering(head), "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/ready"
    async with server:
        found = await _ask(HttpTarget(url, socket))
    assert (found.status, found.reason) == (status, reason)


async def test_a_page_whose_server_is_away(tmp_path: Path) -> None:
    found = await _ask(HttpTarget("http://envoy/ready", tmp_path / "none"))
    assert (found.status, found.reason) == (Status.DOWN, "does not answer")


# What is asked: the database and batch systems.


async def test_the_database(tmp_path: Path) -> None:
    database = storage.Storage.open(f"sqlite:///{tmp_path}/state.db")
    await database.start({})
    assert await _ask(DatabaseTarget(), Checks({}, database.ping)) == Finding(Status.UP)
    await database.close()

    async def away() -> None:
        raise storage.StorageUnavailable("host db.internal refuses user x")

    found = await _ask(DatabaseTarget(), Checks({}, away))
    assert (found.status, found.reason) == (Status.DOWN, "the database does not answer")


class _Engine:
    def __init__(self, health: EngineHealth | None, problems: Sequence[FieldProblem] = ()) -> None:
        self._health = health
        self._problems = problems

    def check(self, spec: JobSpec) -> Sequence[FieldProblem]:
        assert spec.executable
        return self._problems

    async def health(self) -> EngineHealth:
        if self._health is None:
            raise EngineUnavailable("/var/spool is away")
        return self._health


@pytest.mark.parametrize(
    ("engine", "status", "reason"),
    [
        (_Engine(EngineHealth(True)), Status.UP, ""),
        (_Engine(EngineHealth(False, "no controller")), Status.DOWN, "no controller"),
        (_Engine(EngineHealth(False)), Status.DOWN, "the batch system takes no jobs"),
        (_Engine(None), Status.DOWN, "the batch system does not answer"),
        (
            _Engine(EngineHealth(True), [FieldProblem("executable", "No.")]),
            Status.DOWN,
            "the batch system takes not even the simplest job",
        ),
    ],
)
async def test_batch_systems(engine: _Engine, status: Status, reason: str) -> None:
    found = await _ask(JobsTarget("big"), Checks({"big": engine}, _nothing))
    assert (found.status, found.reason) == (status, reason)


async def test_the_local_engine_goes_and_comes_back(tmp_path: Path) -> None:
    spool = tmp_path / "spool"
    engine = LocalEngine(LocalSettings(resource_id="local", spool=spool, cores=1))
    await engine.open()
    reports = _Reports()
    probe = _probe("local", Timing(period=0.2, deadline=PATIENCE))
    try:
        async with _running(Prober([probe], Checks({"local": engine}, _nothing), reports)):
            assert (await reports.next()).status == Status.UP
            spool.rename(tmp_path / "away")
            assert (await reports.next()).status == Status.DOWN
            (tmp_path / "away").rename(spool)
            assert (await reports.next()).status == Status.UP
    finally:
        await engine.close()
