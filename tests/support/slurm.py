"""A server in front of a real Slurm: its configuration, and who its users are there."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from tests.engines.slurm import SlurmCluster
from tests.support.server import TOKENS

WAYS = ("rest", "commands")
ROLES = {"alice": "user", "bob": "user", "olga": "operator", "ada": "admin"}


def users_of(cluster: SlurmCluster) -> dict[str, str]:
    """Returns who the callers are on the cluster: as root each somebody else, otherwise alice is the own user."""
    names = ("alice", "bob", "olga") if os.geteuid() == 0 else ("alice",)
    return dict(zip(names, cluster.users, strict=False))


def slurm_resource(cluster: SlurmCluster, way: str, **values: Any) -> dict[str, Any]:
    """Returns the compute resource of a cluster, as in a configuration."""
    resource: dict[str, Any] = {
        "id": "cluster",
        "engine": "slurm",
        "conf": str(cluster.conf),
        "users": users_of(cluster),
        "events": str(cluster.events),
        "controller_log": str(cluster.ctld_log),
        "reconcile": 2,
        "preload": cluster.env.get("LD_PRELOAD"),
    }
    if os.geteuid() != 0:
        resource["min_uid"] = 0
    if way == "rest":
        resource["rest"] = {"unix_socket": str(cluster.rest_socket), "jwt_key": str(cluster.jwt_key)}
    return resource | values


def slurm_config(cluster: SlurmCluster, way: str, **values: Any) -> Mapping[str, Any]:
    """Returns what a server in front of a cluster has instead of the tests' ordinary configuration."""
    return {
        "auth": {
            "dev_tokens": [
                {"token": token, "username": name, "role": ROLES[name], "projects": ["physics"]}
                for name, token in TOKENS.items()
            ]
        },
        "jobs": {"resources": [slurm_resource(cluster, way, **values)]},
    }
