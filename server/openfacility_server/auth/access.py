"""Who may call which method: the contract's own words, made into a table at start."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

# Registers the descriptors of the infrastructure services in the default pool.
import grpc_health.v1.health_pb2 as _health
import grpc_reflection.v1alpha.reflection_pb2 as _reflection
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from openfacility.auth.v1 import access_pb2

from openfacility_server.auth.principal import Principal, Role
from openfacility_server.errors import Error, PermissionDenied, Unauthenticated

# Services that are not ours and so carry no rule. Each is public for the reason given.
INFRASTRUCTURE: Mapping[str, str] = MappingProxyType(
    {
        _health.DESCRIPTOR.services_by_name["Health"].full_name: (
            "orchestrators and load balancers probe without credentials; it says no more than up or not"
        ),
        _reflection.DESCRIPTOR.services_by_name["ServerReflection"].full_name: (
            "tools ask it for the contract before they sign in; the contract is public"
        ),
        "grpc.reflection.v1.ServerReflection": "as v1alpha, whose newer name it is",
    }
)


class AccessError(Exception):
    """The contract does not say who may call a method; ``str()`` names every such method, a line each."""


class Rule(NamedTuple):
    """The least role that may call, and the scope that a restricted token must have; empty for none."""

    role: Role
    scope: str = ""


_PUBLIC = Rule(Role.ANONYMOUS)


class AccessTable:
    """The rules of all methods that are served, by full name (``/package.Service/Method``)."""

    def __init__(self, rules: Mapping[str, Rule]) -> None:
        self._rules = dict(rules)

    @classmethod
    def from_services(cls, services: Iterable[str], pool: descriptor_pool.DescriptorPool | None = None) -> AccessTable:
        """Reads the rules of services, given by full name, from ``pool`` (the default pool if None).

        Raises AccessError naming every method whose rule is missing or incomplete and every unknown service.
        """
        pool = pool or descriptor_pool.Default()
        rules: dict[str, Rule] = {}
        problems: list[str] = []
        for name in services:
            try:
                service: ServiceDescriptor = pool.FindServiceByName(name)
            except KeyError:
                problems.append(f"{name}: no such service in the contract")
                continue
            for method in service.methods:
                rule = _PUBLIC if name in INFRASTRUCTURE else _rule(method)
                if isinstance(rule, Rule):
                    rules[f"/{name}/{method.name}"] = rule
                else:
                    problems.append(f"{name}/{method.name}: {rule}")
        if problems:
            raise AccessError("\n".join(problems))
        return cls(rules)

    def rule(self, full_method: str) -> Rule | None:
        """Returns the rule of a method, None where there is no such method."""
        return self._rules.get(full_method)

    def check(self, full_method: str, principal: Principal) -> None:
        """Returns if ``principal`` may call the method.

        Raises Unauthenticated (SIGN_IN_REQUIRED) where signing in could help, else PermissionDenied: ROLE_REQUIRED,
        SCOPE_REQUIRED, or METHOD_UNKNOWN, because what has no rule is nobody's to call.
        """
        rule = self._rules.get(full_method)
        if rule is None:
            raise PermissionDenied("METHOD_UNKNOWN", "there is no such method")
        if principal.role < rule.role:
            raise _role_required(rule, principal)
        if rule.scope and principal.scopes is not None and rule.scope not in principal.scopes:
            raise PermissionDenied(
                "SCOPE_REQUIRED",
                f"the token lacks scope {rule.scope}: ask the sign-in provider for a token with it",
                {"scope": rule.scope},
            )


def _role_required(rule: Rule, principal: Principal) -> Error:
    if principal.method == "anonymous":
        return Unauthenticated("SIGN_IN_REQUIRED", "sign in: send an access token as 'authorization: Bearer …'")
    needed, held = rule.role.name.lower(), principal.role.name.lower()
    return PermissionDenied(
        "ROLE_REQUIRED",
        f"this takes role {needed} and you have {held}: ask the facility's staff",
        {"role": needed, "held_role": held},
    )


def _rule(method: MethodDescriptor) -> Rule | str:
    """Returns the rule that the contract has for a method, or what is wrong with it."""
    options: Any = method.GetOptions()
    if not options.HasExtension(access_pb2.access):
        return "has no option (openfacility.auth.v1.access)"
    access: access_pb2.Access = options.Extensions[access_pb2.access]
    try:
        role = Role(access.role)
    except ValueError:
        return "its access names no known role"
    if role is Role.ANONYMOUS and access.scope:
        return "its access names a scope, which callers without credentials cannot have"
    if role is not Role.ANONYMOUS and not access.scope:
        return "its access names no scope"
    return Rule(role, access.scope)
