"""Brings a Slurm up to try things by hand, until Ctrl-C: python -m tests.engines.slurm"""

from __future__ import annotations

import signal
import sys
import threading
import time

from tests.engines.slurm import SlurmCluster, missing_programs


def main() -> int:
    if missing := missing_programs():
        sys.stderr.write(f"Not installed: {', '.join(missing)}. make test-deps\n")
        return 1
    # Handled rather than raised, so that nothing interrupts the start or the removal half-way.
    ending = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: ending.set())
    began = time.monotonic()
    with SlurmCluster() as cluster:
        for name, value in cluster.env.items():
            sys.stdout.write(f"export {name}={value}\n")
        sys.stdout.write(f"# up after {time.monotonic() - began:.1f} s, users: {', '.join(cluster.users)}\n")
        sys.stdout.write(f"# REST: {cluster.rest_socket} and {cluster.rest_url}, key: {cluster.jwt_key}\n")
        sys.stdout.write(f"# events: {cluster.events}, logs: {cluster.base / 'log'}\n# Ctrl-C removes it\n")
        sys.stdout.flush()
        ending.wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())
