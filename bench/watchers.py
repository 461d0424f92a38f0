"""The process that watches: `python -m bench.watchers PORT TOKEN WATCHERS SECONDS`.

It opens the watches over 8 connections, says so, receives for that long, and prints as a JSON line what it got: every
change must reach every watcher, in order. Messages that several watchers receive alike are decoded once.
"""

from __future__ import annotations

import json
import os
import sys
import time
from array import array
from typing import Any

from openfacility.jobs.v1 import jobs_service_pb2

from bench.h2 import Connection, pump
from bench.processes import LOAD_CORE

CONNECTIONS = 8
_METHOD = "/openfacility.jobs.v1.JobsService/WatchJobs"


class Watchers:
    """All watchers of this process, and what they received."""

    def __init__(self, port: int, token: str, count: int) -> None:
        self.ready = 0
        self.messages = self.changes = self.disordered = 0
        # Delays in ms: since the server wrote the change, and since the caller asked for it.
        self.delays, self.from_call = array("d"), array("d")
        self._decoded: dict[bytes, tuple[int, int, list[tuple[float, float]]]] = {}
        self._last: dict[tuple[int, int], int] = {}
        self.connections = [Connection(port, self._receiver(number)) for number in range(CONNECTIONS)]
        request = jobs_service_pb2.WatchJobsRequest(skip_snapshot=True).SerializeToString()
        for number in range(count):
            self.connections[number % CONNECTIONS].open(_METHOD, request, token)

    @property
    def ended(self) -> int:
        return sum(connection.ended for connection in self.connections)

    def _receiver(self, connection: int) -> Any:
        def received(stream: int, message: bytes, now: float) -> None:
            found = self._decoded.get(message)
            if found is None:
                found = self._decoded[message] = self._decode(message)
                if len(self._decoded) > 20_000:
                    self._decoded.clear()
            first, last, times = found
            key = (connection, stream)
            if not times:
                self.ready += key not in self._last
                self._last.setdefault(key, 0)
                return
            self.messages += 1
            self.changes += len(times)
            self.disordered += first <= self._last[key]
            self._last[key] = last
            for written, asked in times:
                self.delays.append((now - written) * 1000)
                self.from_call.append((now - asked) * 1000)

        return received

    def _decode(self, message: bytes) -> tuple[int, int, list[tuple[float, float]]]:
        answer = jobs_service_pb2.WatchJobsResponse.FromString(message)
        revisions = [change.revision for change in answer.changes]
        self.disordered += revisions != sorted(set(revisions))
        jobs = [change.job for change in answer.changes]
        times = [(job.update_time.ToMicroseconds() / 1e6, int(job.spec.name) / 1e9) for job in jobs]
        return (revisions[0], revisions[-1], times) if revisions else (0, 0, [])


def main(port: int, token: str, count: int, seconds: float) -> None:
    os.sched_setaffinity(0, {LOAD_CORE})
    watchers = Watchers(port, token, count)
    deadline = time.monotonic() + 60
    pump(watchers.connections, lambda: watchers.ready == count or watchers.ended > 0 or time.monotonic() > deadline)
    print(json.dumps({"event": "ready", "watchers": watchers.ready}), flush=True)
    end = time.monotonic() + seconds
    cpu = time.process_time()
    pump(watchers.connections, lambda: time.monotonic() > end)
    cpu = time.process_time() - cpu
    report = {
        "event": "report",
        "messages": watchers.messages,
        "changes": watchers.changes,
        "disordered": watchers.disordered,
        "ended": watchers.ended,
        "cpu": cpu / seconds,
        **_percentiles("written", watchers.delays),
        **_percentiles("asked", watchers.from_call),
    }
    print(json.dumps(report), flush=True)


def _percentiles(name: str, values: array[float]) -> dict[str, float]:
    ordered = sorted(values) or [0.0]
    return {f"{name}_p{percent}": ordered[(len(ordered) - 1) * percent // 100] for percent in (50, 99)}


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), float(sys.argv[4]))
