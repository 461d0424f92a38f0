"""Field rules: the protovalidate options of the contract, turned into BadRequest violations."""

from __future__ import annotations

from google.protobuf.message import Message
from protovalidate import Validator

from openfacility_server.errors import InvalidArgument, Violation

_validator = Validator()


def validate(request: Message) -> None:
    """Raises InvalidArgument with every field that breaks its rule."""
    violations = _validator.collect_violations(request)
    if violations:
        raise InvalidArgument([_violation(found.proto) for found in violations])


def _violation(proto: object) -> Violation:
    path = ""
    # A rule of the whole request has no field.
    for element in proto.field.elements if proto.field else ():  # type: ignore[attr-defined]
        path += ("." if path else "") + element.field_name
        subscript = element.subscript
        if subscript is not None:
            value = subscript.value
            path += f'["{value}"]' if subscript.field == "string_key" else f"[{value}]"
    message = proto.message or "is not valid"  # type: ignore[attr-defined]
    return Violation(path, message, proto.rule_id)  # type: ignore[attr-defined]
