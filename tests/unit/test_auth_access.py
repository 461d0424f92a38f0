"""Who may call what: read from the contract, and decided from nothing else."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool
from openfacility.auth.v1 import access_pb2
from openfacility.jobs.v1 import jobs_service_pb2
from openfacility_server.auth.access import INFRASTRUCTURE, AccessError, AccessTable, Rule
from openfacility_server.auth.principal import ANONYMOUS, Principal, Role
from openfacility_server.errors import PermissionDenied, Unauthenticated

JOBS = jobs_service_pb2.DESCRIPTOR.services_by_name["JobsService"].full_name
HEALTH = "grpc.health.v1.Health"


def _pool(**rules: access_pb2.Access | None) -> descriptor_pool.DescriptorPool:
    """Returns a pool with service ``test.v1.Service`` that has a method for each rule."""
    pool = descriptor_pool.DescriptorPool()
    file = descriptor_pb2.FileDescriptorProto(name="test.proto", package="test.v1", syntax="proto3")
    file.message_type.add(name="Empty")
    service = file.service.add(name="Service")
    for name, rule in rules.items():
        method = service.method.add(name=name, input_type=".test.v1.Empty", output_type=".test.v1.Empty")
        method.options.deprecated = False
        if rule is not None:
            options: Any = method.options
            options.Extensions[access_pb2.access].CopyFrom(rule)
    pool.Add(file)
    return pool


def _access(role: int, scope: str = "") -> access_pb2.Access:
    return access_pb2.Access(role=role, scope=scope)  # type: ignore[arg-type]


def test_every_method_of_the_contract_has_a_rule() -> None:
    table = AccessTable.from_services([JOBS, HEALTH])
    for method in jobs_service_pb2.DESCRIPTOR.services_by_name["JobsService"].methods:
        rule = table.rule(f"/{JOBS}/{method.name}")
        assert rule is not None
        assert rule.role is Role.ANONYMOUS or rule.scope
    assert table.rule(f"/{JOBS}/GetJob") == Rule(Role.USER, "jobs.read")


def test_infrastructure_is_public_and_says_why() -> None:
    table = AccessTable.from_services([HEALTH, "grpc.reflection.v1alpha.ServerReflection"])
    table.check(f"/{HEALTH}/Check", ANONYMOUS)
    table.check("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", ANONYMOUS)
    assert all(INFRASTRUCTURE.values())


def test_a_contract_with_gaps_is_refused_naming_every_gap() -> None:
    pool = _pool(
        None_=None,
        Unspecified=_access(access_pb2.ROLE_UNSPECIFIED, "a"),
        Unheard=_access(9, "a"),
        NoScope=_access(access_pb2.ROLE_USER),
        PublicScope=_access(access_pb2.ROLE_ANONYMOUS, "a"),
        Good=_access(access_pb2.ROLE_USER, "a"),
        Public=_access(access_pb2.ROLE_ANONYMOUS),
    )
    with pytest.raises(AccessError) as caught:
        AccessTable.from_services(["test.v1.Service", "test.v1.Other"], pool)
    lines = str(caught.value).splitlines()
    assert [line.partition(":")[0].rpartition("/")[2] for line in lines] == [
        "None_", "Unspecified", "Unheard", "NoScope", "PublicScope", "test.v1.Other",
    ]  # fmt: skip


@pytest.mark.parametrize("role", list(Role))
def test_a_role_may_do_what_lower_ones_may(role: Role) -> None:
    rules = {role.name.title(): _access(int(role), "" if role is Role.ANONYMOUS else "s") for role in Role}
    table = AccessTable.from_services(["test.v1.Service"], _pool(**rules))
    principal = Principal("alice", role, method="oidc", scopes=frozenset({"s"}))
    for needed in Role:
        method = f"/test.v1.Service/{needed.name.title()}"
        if needed <= role:
            table.check(method, principal)
        else:
            with pytest.raises(PermissionDenied) as caught:
                table.check(method, principal)
            assert caught.value.reason == "ROLE_REQUIRED"
            assert caught.value.metadata == {"role": needed.name.lower(), "held_role": role.name.lower()}
            assert needed.name.lower() in caught.value.text


def test_callers_without_credentials_are_told_to_sign_in() -> None:
    table = AccessTable.from_services([JOBS])
    with pytest.raises(Unauthenticated) as caught:
        table.check(f"/{JOBS}/GetJob", ANONYMOUS)
    assert caught.value.reason == "SIGN_IN_REQUIRED"


@pytest.mark.parametrize("role", [Role.USER, Role.ADMIN])
def test_scopes_restrict_every_role(role: Role) -> None:
    table = AccessTable.from_services([JOBS])
    table.check(f"/{JOBS}/SubmitJob", Principal("alice", role))
    table.check(f"/{JOBS}/SubmitJob", Principal("alice", role, frozenset({"jobs.write"})))
    for scopes in (set[str](), {"jobs.read", "jobs.writer", "jobs"}):
        with pytest.raises(PermissionDenied) as caught:
            table.check(f"/{JOBS}/SubmitJob", Principal("alice", role, frozenset(scopes)))
        assert caught.value.reason == "SCOPE_REQUIRED"
        assert caught.value.metadata == {"scope": "jobs.write"}


@pytest.mark.parametrize("method", ["", "/", f"/{JOBS}/Unknown", f"{JOBS}/GetJob", f"/{JOBS}/getjob", "/other/GetJob"])
def test_unknown_methods_are_nobodys(method: str) -> None:
    table = AccessTable.from_services([JOBS])
    for principal in (ANONYMOUS, Principal("root", Role.ADMIN)):
        with pytest.raises(PermissionDenied) as caught:
            table.check(method, principal)
        assert caught.value.reason == "METHOD_UNKNOWN"
