"""The client against the real server: the ways to connect, and a watch that comes through a kill -9."""

from __future__ import annotations

from pathlib import Path

import pytest
from openfacility_client import TLS, Client, Unauthenticated, Unavailable

from tests.support.server import ALICE, Server
from tests.unit.auth_certificates import Authority


@pytest.fixture
def certificates(tmp_path: Path) -> dict[str, Path]:
    ours, clients = Authority("servers"), Authority("clients")
    (tmp_path / "ca.pem").write_bytes(ours.pem)
    (tmp_path / "clients.pem").write_bytes(clients.pem)
    server = ours.issue("server", dns=["localhost"]).save(tmp_path, "server")
    client = clients.issue("ci", dns=["ci.example.org"]).save(tmp_path, "client")
    return {
        "ca": tmp_path / "ca.pem",
        "client_ca": tmp_path / "clients.pem",
        "certificate": server[0],
        "key": server[1],
        "client_certificate": client[0],
        "client_key": client[1],
    }


def test_mutual_tls_signs_in_by_certificate(certificates: dict[str, Path]) -> None:
    tls = {name: str(certificates[name]) for name in ("certificate", "key", "client_ca")}
    user = {"name": "ci.example.org", "username": "ci", "role": "user"}
    server = Server({"grpc": {"tls": tls}, "auth": {"certificates": [user]}})
    try:
        server.start()
        mine = {"cert": certificates["client_certificate"], "key": certificates["client_key"]}
        with Client(server.address, tls=TLS(ca=certificates["ca"], **mine)) as client:
            job = client.jobs.submit("/bin/true")
            assert job.owner == "ci"
            assert client.jobs.wait(job.id, timeout=60).state.name == "COMPLETED"
        with Client(server.address, tls=TLS(ca=certificates["ca"]), token=ALICE) as client, pytest.raises(Unavailable):
            next(iter(client.jobs.list(timeout=10)), None)
        with Client(server.address, token=ALICE) as client, pytest.raises(Unavailable):
            next(iter(client.jobs.list(timeout=10)), None)
    finally:
        server.remove()


def test_a_unix_socket(tmp_path: Path) -> None:
    server = Server()
    server.config["grpc"]["unix_socket"] = str(server.directory / "grpc.sock")
    try:
        server.start()
        with Client(f"unix:{server.directory}/grpc.sock", token=ALICE) as client:
            assert client.jobs.submit("/bin/true").owner == "alice"
        with Client(f"unix:{server.directory}/grpc.sock") as client, pytest.raises(Unauthenticated):
            client.jobs.submit("/bin/true")
    finally:
        server.remove()


def test_a_watch_comes_through_a_kill_9() -> None:
    server = Server()
    try:
        server.start()
        with Client(server.address, token=ALICE) as client:
            first = client.jobs.submit("/bin/true")
            watch = client.jobs.watch(after_revision=0)
            told = [next(watch)]
            server.restart(kill=True)
            second = client.jobs.submit("/bin/true", after_ok=[first.id])
            while not (told[-1].job.id == second.id and told[-1].job.state.final):
                told.append(next(watch))
        revisions = [change.job.revision for change in told]
        assert revisions == sorted(set(revisions))
        states = [change.job.state.name for change in told if change.job.id == second.id]
        assert (states[0], states[-1]) == ("NEW", "COMPLETED")
    finally:
        server.remove()
