"""``make demo-slurm``: a facility with a private Slurm behind it, until Ctrl-C. Both are new with every start."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shlex
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from openfacility_server import demo
from openfacility_server.config import ConfigError

from tests.engines.slurm import SlurmCluster, SlurmFailed, missing_programs
from tests.engines.slurm.users import OPERATOR

_JOBS = """\
jobs:
  resources:
    - id: cluster
      engine: slurm
      conf: {conf}
      preload: {preload}            # makes Slurm's commands quicker; a facility needs none
      rest: {{unix_socket: {socket}, jwt_key: {key}}}
      users: {users}
      min_uid: {min_uid}
      operator: {operator}
      events: {events}
      controller_log: {log}
      reconcile: 10"""

_DESCRIPTION = """\
facility:
  name: Demo facility
  description: A small Slurm cluster on one machine.
sites:
  - {id: here, name: This machine}
resources:
  - id: cluster
    name: Cluster
    description: Four nodes of two cores, with the queues debug and regular.
    type: urn:doe-iri:resource:compute:system
    site: here
    depends_on: [database]
    services: [openfacility.jobs.v1.JobsService]
    probe: {kind: jobs, resource: cluster, period: 2}
  - id: cluster-debug
    name: Queue debug
    type: compute
    site: here
    depends_on: [database]
    probe: {kind: jobs, resource: cluster, queue: debug, period: 2}
  - id: cluster-regular
    name: Queue regular
    type: compute
    site: here
    depends_on: [database]
    probe: {kind: jobs, resource: cluster, queue: regular, period: 2}
  - id: database
    name: Database of the server
    type: service
    site: here
    probe: {kind: database}
  - id: json
    name: JSON interface
    type: website
    site: here
    probe: {kind: http, url: "http://envoy/ready", unix_socket: run/envoy-admin.sock, period: 10, fall: 3}
"""

_STEPS = """\
  openfacility jobs submit --watch -A physics -q debug --time 5m -- /bin/sh -c 'id -un; hostname; sleep 3'
  openfacility jobs submit -q regular --array 0-19%4 --time 2m -- /bin/sleep 5   # one array of Slurm's
  openfacility jobs submit -q regular -N 4 --exclusive --time 10m -- /bin/sleep 300
  openfacility jobs submit -q regular -N 4 --exclusive --time 10m -- /bin/sleep 60
  openfacility jobs list                  # the last one waits, and says for what and until when
  openfacility jobs submit -q regular -A tiny --time 2h -- /bin/true   # waits for more than its project has left
  openfacility jobs submit -A nonsense -- /bin/true                    # refused, in Slurm's own words too
  openfacility jobs estimate -q regular -N 2 --time 1h -- /bin/true    # when would it start?
  openfacility jobs signal ID USR1; openfacility jobs requeue ID; openfacility jobs cancel ID
  curl -s -H "Authorization: Bearer $OPENFACILITY_TOKEN" 'http://{{json}}/v1/jobs?filter.states=JOB_STATE_QUEUED'
  grpcurl -plaintext -H "authorization: Bearer $OPENFACILITY_TOKEN" {{grpc}} \\
      openfacility.jobs.v1.JobsService/ListReservations      # `make tools` builds grpcurl

Around it, with Slurm's own commands; the jobs are shown in `openfacility watch` all the same:

  export SLURM_CONF={conf}
  {submit}
  squeue; sinfo

Break it, with `openfacility status watch` running in a third terminal:

  scontrol update nodename=n2 state=drain reason="fan swap"     # then state=resume
  kill -9 $(cat {pid_file})       # the controller; it is started again {revived} s later
"""
_REVIVED_AFTER_S = 20


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.engines.slurm.demo", description=__doc__)
    parser.add_argument("--directory", type=Path, default=Path("var-slurm"), help="state (default: ./var-slurm)")
    parser.add_argument("--json", default="127.0.0.1:8080", help="where Envoy listens (default: %(default)s)")
    options = parser.parse_args()
    if missing := missing_programs():
        sys.stderr.write(f"Not installed: {', '.join(missing)}. make test-deps\n")
        return 1
    # Until the server takes them over they end the start, and what was started.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    sys.stdout.write("Starting Slurm …\n")
    sys.stdout.flush()
    try:
        with SlurmCluster() as cluster, _revived(cluster):
            code = demo.run(options.directory, options.json, _facility(cluster))
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN)  # removing it takes a moment, and is not to be left half-way
            return code
    except (ConfigError, SlurmFailed) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except KeyboardInterrupt:
        return 130


@contextlib.contextmanager
def _revived(cluster: SlurmCluster) -> Iterator[None]:
    """Starts daemons again that somebody killed, a while later."""
    ending = threading.Event()

    def revive() -> None:
        while not ending.wait(1):
            for name in cluster.killed():
                if not ending.wait(_REVIVED_AFTER_S):
                    with contextlib.suppress(SlurmFailed):  # tried again
                        cluster.start_daemon(name)

    thread = threading.Thread(target=revive, name="revive")
    thread.start()
    try:
        yield
    finally:
        ending.set()
        thread.join()


def _facility(cluster: SlurmCluster) -> demo.Facility:
    root = os.geteuid() == 0
    users = dict(zip(("alice", "bob"), cluster.users, strict=False))
    people = [demo.Person(name, projects="physics, chemistry, tiny") for name in users]
    return demo.Facility(
        target="make demo-slurm",
        people=(*people, demo.Person("operator", "operator"), demo.Person("admin", "admin")),
        jobs=_JOBS.format(
            conf=json.dumps(str(cluster.conf)),
            preload=json.dumps(cluster.env.get("LD_PRELOAD")),
            socket=json.dumps(str(cluster.rest_socket)),
            key=json.dumps(str(cluster.jwt_key)),
            users=json.dumps(users),
            min_uid=1000 if root else min(1000, os.geteuid()),
            operator=json.dumps(OPERATOR if root else None),
            events=json.dumps(str(cluster.events)),
            log=json.dumps(str(cluster.ctld_log)),
        ),
        description=_DESCRIPTION,
        steps=_steps(cluster, root),
        ends="Ctrl-C stops it together with Slurm, and all jobs; the next start is a new one.",
        fresh=True,
    )


def _steps(cluster: SlurmCluster, root: bool) -> str:
    as_user = f"runuser -u {cluster.users[0]} -- " if root else ""
    return _STEPS.format(
        conf=shlex.quote(str(cluster.conf)),
        submit=f"{as_user}sbatch -D /tmp --time=5 --wrap='sleep 60'",
        pid_file=cluster.base / "run" / "slurmctld.pid",
        revived=_REVIVED_AFTER_S,
    )


if __name__ == "__main__":
    sys.exit(main())
