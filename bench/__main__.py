"""`python -m bench [--quick] [--json FILE] [NAME ...]`: runs benchmarks and prints their table."""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path

from bench import history, reads, slurm, start, status, submits, watch
from bench.processes import LOAD_CORE, SERVER_CORE
from bench.results import Result, print_table, write_json

BENCHMARKS: dict[str, Callable[[bool], Sequence[Result]]] = {
    "get": reads.get,
    "list": reads.list_100,
    "submit": submits.single,
    "batch": submits.batch,
    "watch": watch.fan_out,
    "history": history.reads,
    "start": start.start,
    "status": status.reads,
    "slurm": slurm.slurm,
    "million": history.million,
    "million-events": status.million,
}
# These take minutes to make what they read.
LONG = ("million", "million-events")


def facts() -> dict[str, object]:
    """The machine and what ran on it."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), "?")
    names = ("grpcio", "protobuf", "uvloop", "peewee", "protovalidate")
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in names},
        "load": os.getloadavg()[0],
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Benchmarks; see docs/performance.md.")
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHMARKS)} (default: all but {' and '.join(LONG)})"
    )
    parser.add_argument("--quick", action="store_true", help="under a minute: says that they run, not how fast it is")
    parser.add_argument("--json", type=Path, metavar="FILE", help="append the results to FILE as JSON lines")
    options = parser.parse_args()
    unknown = set(options.names) - set(BENCHMARKS)
    if unknown:
        parser.error(f"no such benchmark: {', '.join(sorted(unknown))}")
    about = facts()
    print("  ".join(f"{key} {value}" for key, value in about.items()))
    print(f"servers on core {SERVER_CORE}, load on core {LOAD_CORE}\n", flush=True)
    results: list[Result] = []
    for name in options.names or [name for name in BENCHMARKS if name not in LONG]:
        found = BENCHMARKS[name](options.quick)
        print_table(found)
        print(flush=True)
        results += found
    if len(options.names) != 1:
        print_table(results)
    if options.json:
        with options.json.open("a") as stream:
            write_json(results, about, stream)
    return 0


if __name__ == "__main__":
    sys.exit(main())
