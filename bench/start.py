"""How soon a server serves, and what memory it takes."""

from __future__ import annotations

import time
from collections.abc import Sequence

from openfacility.jobs.v1 import jobs_service_pb2

from bench.load import Unary
from bench.processes import USER, facility, workplace
from bench.reads import SERVICE, submit
from bench.results import Result, median


def start(quick: bool) -> Sequence[Result]:
    """From spawn to serving, and memory then and after some thousand calls."""
    times, cpu, memory = [], [], []
    loaded = 0.0
    for number in range(1 if quick else 7):
        with workplace() as directory, facility(directory) as server:
            times.append(time.monotonic() - server.started)
            cpu.append(server.cpu())
            memory.append(server.uss())
            if number == 0:
                submit(server, 300)
                request = jobs_service_pb2.ListJobsRequest().SerializeToString()
                Unary(server, directory, f"{SERVICE}ListJobs", request, USER, 1 if quick else 3)()
                loaded = server.uss()
    return [
        Result("start", "spawn to serving", median(times), "s", min(times), max(times), 1.0, False),
        Result("start", "CPU until serving", median(cpu), "s", min(cpu), max(cpu)),
        Result("memory", "USS when serving", median(memory), "MB", min(memory), max(memory), 80, False),
        Result("memory", "USS after thousands of lists", loaded, "MB", target=80, more_is_better=False),
    ]
