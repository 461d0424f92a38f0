"""Files that tell of which jobs something has happened: they are written by others, and anything may be in them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from openfacility_server.jobs.engines.slurm.hints import Hints, Tail, of_event, of_log


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.jsonl"


@pytest.fixture
def tail(path: Path) -> Iterator[Callable[[], Tail]]:
    made: list[Tail] = []

    def make() -> Tail:
        made.append(Tail(path))
        return made[-1]

    yield make
    for one in made:
        one.close()


def append(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)


def test_what_was_there_is_passed_over(path: Path, tail: Callable[[], Tail]) -> None:
    append(path, b"old\n")
    tailed = tail()
    assert tailed.read() == ([], False)
    append(path, b"a\nb\n")
    assert tailed.read() == ([b"a", b"b"], False)
    assert tailed.read() == ([], False)


def test_a_line_is_read_when_it_is_complete(path: Path, tail: Callable[[], Tail]) -> None:
    append(path, b"")
    tailed = tail()
    append(path, b"a\nb")
    assert tailed.read()[0] == [b"a"]
    append(path, b"c\n")
    assert tailed.read()[0] == [b"bc"]


def test_a_file_that_comes_later_is_read_from_its_beginning(path: Path, tail: Callable[[], Tail]) -> None:
    tailed = tail()
    assert tailed.read() == ([], False)
    append(path, b"a\n")
    assert tailed.read()[0] == [b"a"]


def test_a_truncated_file_is_read_from_its_beginning(path: Path, tail: Callable[[], Tail]) -> None:
    append(path, b"x" * 100 + b"\n")
    tailed = tail()
    path.write_bytes(b"a\n")
    assert tailed.read()[0] == [b"a"]


def test_a_rotated_file_is_read_to_its_end_and_then_the_new_one(path: Path, tail: Callable[[], Tail]) -> None:
    append(path, b"old\n")
    tailed = tail()
    append(path, b"a\n")
    path.rename(path.with_suffix(".1"))
    append(path.with_suffix(".1"), b"b\n")
    append(path, b"c\n")
    assert tailed.read()[0] == [b"a", b"b", b"c"]
    append(path, b"d\n")
    assert tailed.read()[0] == [b"d"]


def test_a_removed_file_is_read_on_until_there_is_another(path: Path, tail: Callable[[], Tail]) -> None:
    append(path, b"old\n")
    tailed = tail()
    path.unlink()
    assert tailed.read() == ([], False)
    append(path, b"a\n")
    assert tailed.read()[0] == [b"a"]


def test_a_line_without_end_takes_no_memory(path: Path, tail: Callable[[], Tail]) -> None:
    append(path, b"")
    tailed = tail()
    append(path, b"x" * 100_000)
    assert tailed.read()[0] == []
    append(path, b"\na\n")
    assert tailed.read()[0] == [b"", b"a"]


def test_too_much_at_once_is_told_and_passed_over(path: Path, tail: Callable[[], Tail]) -> None:
    append(path, b"")
    tailed = tail()
    append(path, b"x" * 100 + b"\n")
    os.truncate(path, 3_000_000)
    assert tailed.read() == ([], True)
    append(path, b"a\n")
    assert tailed.read() == ([b"a"], False)


@pytest.mark.parametrize(
    ("event", "ids"),
    [
        ({"event": "end", "job_id": 7, "state": "FAILED"}, ["7"]),
        ({"event": "end", "job_id": 20, "array_job_id": 19, "array_task_id": 0}, ["19_0"]),
        ({"event": "end", "job_id": 19, "array_job_id": 19}, ["19"]),
        ({"event": "modify", "job_id": 3}, ["3"]),
        ({"event": "submit", "name": "x"}, []),
        ({"job_id": 0}, []),
        ({"job_id": "7; rm"}, []),
        ({"job_id": True}, []),
        ({"job_id": 1.5}, []),
        ({"job_id": 10**30}, []),
        ([7], []),
        (7, []),
    ],
)
def test_events(event: object, ids: list[str]) -> None:
    assert list(of_event(json.dumps(event).encode())) == ids


@pytest.mark.parametrize("line", [b"", b"{", b"\xff\xfe", b'{"job_id":7', b"[" * 100_000, b'{"a":' * 10_000, b"null"])
def test_garbage_is_no_event(line: bytes) -> None:
    assert list(of_event(line)) == []


@pytest.mark.parametrize(
    ("line", "ids"),
    [
        (b"[2026-11-29T02:14:18.276] _slurm_rpc_submit_batch_job: JobId=2 InitPrio=1010 usec=1773", ["2"]),
        (b"[2026-11-29T02:14:18.385] sched/backfill: _start_job: Started JobId=2_1(10) in debug on n1", ["2_1"]),
        (b"[2026-11-29T02:18:16.860] sched: Allocate JobId=21 NodeList=n1 #CPUs=1 Partition=debug", ["21"]),
        (b"_slurm_rpc_kill_job: REQUEST_KILL_JOB JobId=12_[3,7-9] uid 0", ["12_3", "12_7", "12_8", "12_9"]),
        (b"Recovered JobId=12_* Assoc=1", ["12"]),
        (b"_job_complete: JobId=5 done", ["5"]),
        (b"Requeuing JobId=21", ["21"]),
        (b"_slurm_rpc_submit_batch_job: More processors requested than permitted", []),
        (b"Recovered JobId= StepId=7.0", []),
        (b"JobId=999999999999", []),
    ],
)
def test_lines_of_the_log(line: bytes, ids: list[str]) -> None:
    assert sorted(of_log(line)) == ids


def test_hints_come_together_and_are_given_once(tmp_path: Path) -> None:
    events, log = tmp_path / "events", tmp_path / "log"
    events.touch()
    log.touch()
    hints = Hints(events, log, most=10)
    assert not hints.poll()
    append(events, b'{"job_id":7}\ngarbage\n')
    append(log, b"JobId=7 done\nJobId=8 done\n")
    assert hints.poll()
    assert hints.take() == ({"7", "8"}, False)
    assert hints.count == 3
    assert not hints.poll()
    hints.close()


def test_of_too_many_hints_nothing_is_kept_but_that(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.touch()
    hints = Hints(None, log, most=10)
    append(log, b"".join(b"JobId=%d done\n" % number for number in range(1, 100)))
    assert hints.poll()
    ids, too_many = hints.take()
    assert too_many
    assert len(ids) <= 10
    hints.close()
