"""``make run``: a small facility in one directory, with Envoy in front of it."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
import os
import secrets
import signal
import sys
import tempfile
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
# Made by `make run`. Every key there is: openfacility-server config default
facility: {{id: demo, name: Demo facility}}
state: {{directory: .}}
grpc: {{listen: ["127.0.0.1:50051"], unix_socket: {sockets}/grpc.sock}}
http: {{listen: "127.0.0.1:8081", unix_socket: {sockets}/http.sock}}
auth:
  # Fixed tokens are for this machine alone; a facility uses `issuers`.
  dev_tokens:
    - {{token: {user}, username: you, role: user, projects: [demo]}}
    - {{token: {operator}, username: operator, role: operator}}
    - {{token: {admin}, username: admin, role: admin}}
jobs:
  resources:
    - {{id: local, engine: local}}
status: {{description: facility.yaml}}
"""

_WELCOME = """
openfacility is up. What it keeps is in {directory}/; Ctrl-C stops it, jobs run on and are found again.

  gRPC             {grpc}
  JSON             http://{json}/v1/jobs
  probes, metrics  http://{http}/readyz  /metrics
  log              {directory}/server.log
  description      {directory}/facility.yaml
  token            {token}

Try, in another terminal in this directory:

  export PATH="$PWD/.venv/bin:$PWD/.build/bin:$PATH" OPENFACILITY_TOKEN={token}

  openfacility jobs submit --watch -- /bin/sh -c 'for i in 1 2 3; do echo $i; sleep 1; done'
  openfacility watch
  curl -N -H "Authorization: Bearer $OPENFACILITY_TOKEN" http://{json}/v1/jobs:watch
  grpcurl -plaintext {grpc} list        # `make tools` builds it
"""


def run(directory: Path, json_address: str) -> int:
    """Makes the facility if it is not there, and serves it until Ctrl-C. Returns the exit code."""
    file = _prepare(directory)
    config = configuration.load(file)
    log = os.open(directory / "server.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    terminal = os.dup(2)
    os.dup2(log, 2)
    os.close(log)
    logs.configure(config.log.level)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        code = runner.run(_serve(config, directory, json_address))
    os.dup2(terminal, 2)
    if code:
        print(f"openfacility could not start: {_last_error(directory / 'server.log')}", file=sys.stderr)
    else:
        print("openfacility has stopped")
    return code


async def _serve(config: Config, directory: Path, json_address: str) -> int:
    envoy = edge.Envoy(edge.settings(config, listen=json_address), _sockets(directory))

    async def started(app: App) -> None:
        await envoy.start()
        print(_welcome(config, app, directory, envoy.address), flush=True)

    try:
        return await serve(config, (signal.SIGTERM, signal.SIGINT), started, envoy.drain, envoy.stop)
    except edge.EnvoyError as error:
        _log.error("cannot start Envoy: %s", error)
        return 1


def _welcome(config: Config, app: App, directory: Path, json_address: str) -> str:
    return _WELCOME.format(
        directory=directory,
        grpc=f"127.0.0.1:{app.grpc_ports[0]}",
        json=json_address,
        http=f"127.0.0.1:{app.http_port}",
        token=config.auth.dev_tokens[0].token.get_secret_value() if config.auth.dev_tokens else "(none configured)",
    )


def _last_error(log: Path) -> str:
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines() if line.startswith("{")]
    errors = [line["event"] for line in lines if line.get("level") == "error"]
    return errors[-1] if errors else f"see {log}"


def _prepare(directory: Path) -> Path:
    """Makes the directory and its configuration, with tokens of its own; returns the configuration file."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    file = directory / "config.yaml"
    if not file.exists():
        names = ("user", "operator", "admin")
        tokens = {name: f"demo-{name}-{secrets.token_hex(16)}" for name in names}
        _describe(directory)
        made = file.with_suffix(".new")
        made.touch(mode=0o600)
        made.write_text(_CONFIG.format(sockets=_sockets(directory), **tokens), encoding="utf-8")
        made.rename(file)
    return file


def _describe(directory: Path) -> None:
    """Writes the facility's description, the example, with Envoy where it is here."""
    text = description.EXAMPLE.read_text(encoding="utf-8")
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
