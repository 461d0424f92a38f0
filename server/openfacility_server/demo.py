"""``make run`` and its like: a small facility in one directory, with Envoy in front of it."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
import os
import secrets
import shutil
import signal
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import uvloop

from openfacility_server import config as configuration
from openfacility_server import edge, logs
from openfacility_server.app import App
from openfacility_server.config import Config
from openfacility_server.serving import serve
from openfacility_server.status import description

_log = logging.getLogger(__name__)
_LONGEST_SOCKET_DIRECTORY = 80  # of the 108 bytes that a socket's path may have

_CONFIG = """\
# Made by `{target}`{made}. Every key there is: openfacility-server config default
facility: {{id: demo, name: Demo facility}}
state: {{directory: {state}}}
grpc: {{listen: ["127.0.0.1:50051"], unix_socket: {sockets}/grpc.sock}}
http: {{listen: "127.0.0.1:8081", unix_socket: {sockets}/http.sock}}
auth:
  # Fixed tokens are for this machine alone; a facility uses `issuers`.
  dev_tokens:
{people}
{jobs}
status: {{description: facility.yaml}}
"""

_WELCOME = """
openfacility is up. {ends}

  gRPC             {grpc}
  JSON             http://{json}/v1/jobs
  probes, metrics  http://{http}/readyz  /metrics
  log              {directory}/server.log
  description      {directory}/facility.yaml
{tokens}

Try, in another terminal in this directory:

  export PATH="$PWD/.venv/bin:$PWD/.build/bin:$PATH" OPENFACILITY_TOKEN={token}

{steps}"""

_STEPS = """\
  openfacility jobs submit --watch -- /bin/sh -c 'for i in 1 2 3; do echo $i; sleep 1; done'
  openfacility watch
  curl -N -H "Authorization: Bearer $OPENFACILITY_TOKEN" http://{json}/v1/jobs:watch
  grpcurl -plaintext {grpc} list        # `make tools` builds it
"""


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody who gets a token."""

    name: str
    role: str = "user"
    projects: str = ""


@dataclass(frozen=True, slots=True)
class Facility:
    """What a demonstration shows.

    ``jobs`` is that section of the configuration and ``description`` the facility's file, both YAML. ``steps`` says
    what to try; {grpc}, {json} and {token}, that of the first of ``people``, are filled in. ``ends`` says what Ctrl-C
    does. What is ``fresh`` knows nothing of an earlier run; else files that are there are left as people wrote them.
    """

    target: str
    people: tuple[Person, ...]
    jobs: str
    description: str
    steps: str
    ends: str
    fresh: bool = False


def local() -> Facility:
    """Returns the facility of ``make run``: processes of this machine."""
    return Facility(
        target="make run",
        people=(Person("you", projects="demo"), Person("operator", "operator"), Person("admin", "admin")),
        jobs="jobs:\n  resources:\n    - {id: local, engine: local}",
        description=description.EXAMPLE.read_text(encoding="utf-8"),
        steps=_STEPS,
        ends="What it keeps is in {directory}/; Ctrl-C stops it, jobs run on and are found again.",
    )


def run(directory: Path, json_address: str, facility: Facility | None = None) -> int:
    """Makes a facility, if it is not there (None: ``local()``), and serves it until Ctrl-C. Returns the exit code."""
    facility = facility or local()
    file = _prepare(directory, facility)
    config = configuration.load(file)
    log = os.open(directory / "server.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    terminal = os.dup(2)
    os.dup2(log, 2)
    os.close(log)
    logs.configure(config.log.level)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        code = runner.run(_serve(config, facility, directory, json_address))
    os.dup2(terminal, 2)
    if code:
        print(f"openfacility could not start: {_last_error(directory / 'server.log')}", file=sys.stderr)
    else:
        print("openfacility has stopped")
    return code


async def _serve(config: Config, facility: Facility, directory: Path, json_address: str) -> int:
    envoy = edge.Envoy(edge.settings(config, listen=json_address), _sockets(directory))

    async def started(app: App) -> None:
        await envoy.start()
        print(_welcome(config, facility, app, directory, envoy.address), flush=True)

    try:
        return await serve(config, (signal.SIGTERM, signal.SIGINT), started, envoy.drain, envoy.stop)
    except edge.EnvoyError as error:
        _log.error("cannot start Envoy: %s", error)
        return 1


def _welcome(config: Config, facility: Facility, app: App, directory: Path, json_address: str) -> str:
    tokens = {dev.username: dev.token.get_secret_value() for dev in config.auth.dev_tokens}
    places = {
        "grpc": f"127.0.0.1:{app.grpc_ports[0]}",
        "json": json_address,
        "token": next(iter(tokens.values()), "…"),
        "directory": directory,
    }
    return _WELCOME.format(
        **places,
        http=f"127.0.0.1:{app.http_port}",
        ends=facility.ends.format(**places),
        tokens="\n".join(f"  token of {name:<8} {token}" for name, token in tokens.items()),
        steps=facility.steps.format(**places),
    )


def _last_error(log: Path) -> str:
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines() if line.startswith("{")]
    errors = [line["event"] for line in lines if line.get("level") == "error"]
    return errors[-1] if errors else f"see {log}"


def _prepare(directory: Path, facility: Facility | None = None) -> Path:
    """Makes the directory and its configuration, with tokens of its own; returns the configuration file."""
    facility = facility or local()
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    file = directory / "config.yaml"
    if facility.fresh:
        shutil.rmtree(directory / "state", ignore_errors=True)
        for old in (file, directory / "facility.yaml"):
            old.unlink(missing_ok=True)
    if not file.exists():
        _describe(directory, facility.description)
        made = file.with_suffix(".new")
        made.touch(mode=0o600)
        made.write_text(_config(directory, facility), encoding="utf-8")
        made.rename(file)
    return file


def _config(directory: Path, facility: Facility) -> str:
    people = (
        f"    - {{token: demo-{person.name}-{secrets.token_hex(16)}, username: {person.name}, role: {person.role},"
        f" projects: [{person.projects}]}}"
        for person in facility.people
    )
    return _CONFIG.format(
        target=facility.target,
        made=" at every start" if facility.fresh else "",
        state="state" if facility.fresh else ".",
        sockets=_sockets(directory),
        people="\n".join(people),
        jobs=facility.jobs,
    )


def _describe(directory: Path, text: str) -> None:
    """Writes the facility's description, with Envoy where it is here."""
    envoy = json.dumps(str(_sockets(directory) / "envoy-admin.sock"))
    with contextlib.suppress(FileExistsError), (directory / "facility.yaml").open("x", encoding="utf-8") as file:
        file.write(text.replace("unix_socket: run/envoy-admin.sock", f"unix_socket: {envoy}"))


def _sockets(directory: Path) -> Path:
    """Returns where the sockets go: below the directory, or in a place of this user's when its path is too long."""
    place = directory.absolute() / "run"
    if len(os.fsencode(place)) > _LONGEST_SOCKET_DIRECTORY:
        digest = hashlib.sha256(os.fsencode(place)).hexdigest()[:16]
        place = Path(tempfile.gettempdir()) / f"openfacility-{os.getuid()}-{digest}"
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    if place.stat().st_uid != os.getuid():
        raise configuration.ConfigError(f"{place} belongs to somebody else; remove it or use a shorter --directory")
    return place
