"""Strict reading of what comes as JSON or in a query: nothing unknown, nothing twice, nothing of another type.

Envoy's transcoder drops unknown fields of a body and takes the text "true" for a boolean, so that a misspelt limit
would silently be the default one. These readers say what is wrong instead, with the field's path and the name that was
meant. They judge the form only; the rules in the protos are judged by the server, for gRPC and JSON alike.
"""

from __future__ import annotations

import base64
import binascii
import difflib
import json
import math
import re
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from google.protobuf.message_factory import GetMessageClass

from openfacility_server.errors import Violation

MAX_VIOLATIONS = 50
MAX_DEPTH = 100

MASK = "google.protobuf.FieldMask"
# JSON's masks are lowerCamelCase; with our names as they are in the protos, both must do, as they do for Envoy.
MASK_TEXT = re.compile(r"[A-Za-z0-9_.]*(,[A-Za-z0-9_.]+)*")
WELL_KNOWN = {
    "google.protobuf.Timestamp": 'must be a time such as "2026-01-31T12:00:00Z"',
    "google.protobuf.Duration": 'must be seconds as text with an s at the end, such as "3600s"',
    MASK: 'must be field paths in one text, such as "spec.name,spec.labels"',
}
_WRAPPERS = re.compile(r"google\.protobuf\.(\w+Value|Struct|Any|Empty)")
RANGES = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
}
FLOATS = {FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE}
INTEGER = re.compile(r"-?(0|[1-9]\d*)")


class Malformed(Exception):
    """The input is not right; ``violations`` says where and what to do."""

    def __init__(self, violations: Sequence[Violation]) -> None:
        super().__init__("; ".join(f"{v.field}: {v.description}" for v in violations))
        self.violations = tuple(violations)


class _Object(dict[str, Any]):
    """A JSON object that remembers which keys it had twice."""

    twice: tuple[str, ...] = ()


def _object(pairs: list[tuple[str, Any]]) -> _Object:
    made = _Object(pairs)
    if len(made) != len(pairs):
        seen: set[str] = set()
        made.twice = tuple(dict.fromkeys(key for key, _ in pairs if key in seen or seen.add(key)))  # type: ignore[func-returns-value]
    return made


def _constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def check_body(body: bytes, target: Descriptor, prefix: str = "") -> Any:
    """Checks JSON against a message and returns it parsed. Raises Malformed.

    Args:
        body: what the caller sent.
        target: the message that it must be.
        prefix: path of that message in the request, for the names of fields.
    """
    try:
        value = json.loads(body.decode("utf-8"), object_pairs_hook=_object, parse_constant=_constant)
    except UnicodeDecodeError as error:
        raise Malformed([Violation(prefix, "the body must be UTF-8", "NOT_JSON")]) from error
    except json.JSONDecodeError as error:
        text = f"the body is not JSON: {error.msg} at line {error.lineno}, column {error.colno}"
        raise Malformed([Violation(prefix, text, "NOT_JSON")]) from error
    except (ValueError, RecursionError) as error:
        text = f"the body is not JSON: {error}" if isinstance(error, ValueError) else "the body is nested too deeply"
        raise Malformed([Violation(prefix, text, "NOT_JSON")]) from error
    checker = _Checker()
    checker.message(value, target, prefix, 0)
    if checker.violations:
        raise Malformed(checker.violations)
    return value


class _TooManyError(Exception):
    pass


class _Checker:
    """Walks a JSON value along a message's descriptor and collects what does not fit."""

    def __init__(self) -> None:
        self.violations: list[Violation] = []

    def add(self, path: str, description: str, reason: str) -> None:
        if len(self.violations) < MAX_VIOLATIONS:
            self.violations.append(Violation(path, description, reason))

    def message(self, value: Any, target: Descriptor, path: str, depth: int) -> None:
        if target.full_name in WELL_KNOWN or _WRAPPERS.fullmatch(target.full_name):
            self._well_known(value, target, path)
            return
        if not isinstance(value, _Object):
            self.add(path, f"must be an object, not {_kind(value)}", "WRONG_TYPE")
            return
        if depth > MAX_DEPTH:
            self.add(path, "is nested too deeply", "WRONG_TYPE")
            return
        for key in value.twice:
            self.add(_join(path, key), "is there twice; keep one", "DUPLICATE_FIELD")
        fields: dict[str, str] = {}
        oneofs: dict[str, str] = {}
        for key, item in value.items():
            field = find_field(target, key)
            where = _join(path, key)
            if field is None:
                self.add(where, unknown(key, target), "UNKNOWN_FIELD")
                continue
            if (other := fields.setdefault(field.name, key)) != key:
                self.add(where, f"is there twice, also as {other}; keep one", "DUPLICATE_FIELD")
            if item is None:
                continue
            oneof = field.containing_oneof
            if oneof is not None and (other := oneofs.setdefault(oneof.name, key)) != key:
                self.add(where, f"excludes {other}; keep one", "DUPLICATE_FIELD")
            self._field(item, field, _join(path, field.name), depth)

    def _field(self, value: Any, field: FieldDescriptor, path: str, depth: int) -> None:
        if _is_map(field):
            if not isinstance(value, _Object):
                self.add(path, f"must be an object, not {_kind(value)}", "WRONG_TYPE")
                return
            entry_type = _message_type(field)
            item = entry_type.fields_by_name["value"]
            for key in value.twice:
                self.add(f"{path}[{_quote(key)}]", "is there twice; keep one", "DUPLICATE_FIELD")
            for key, entry in value.items():
                where = f"{path}[{_quote(key)}]"
                self._key(key, entry_type.fields_by_name["key"], where)
                self._single(entry, item, where, depth)
        elif field.is_repeated:
            if not isinstance(value, list):
                self.add(path, f"must be a list, not {_kind(value)}", "WRONG_TYPE")
                return
            for index, entry in enumerate(value):
                self._single(entry, field, f"{path}[{index}]", depth)
        else:
            self._single(value, field, path, depth)

    def _key(self, key: str, field: FieldDescriptor, path: str) -> None:
        if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
            if key not in {"true", "false"}:
                self.add(path, 'the key must be "true" or "false"', "WRONG_TYPE")
        elif problem := scalar_problem(key, field):
            self.add(path, f"the key {problem}", "WRONG_TYPE")

    def _single(self, value: Any, field: FieldDescriptor, path: str, depth: int) -> None:
        if field.message_type is not None:
            self.message(value, field.message_type, path, depth + 1)
        elif problem := scalar_problem(value, field):
            self.add(path, problem, "WRONG_TYPE")

    def _well_known(self, value: Any, target: Descriptor, path: str) -> None:
        if target.full_name == MASK and isinstance(value, str):
            if not MASK_TEXT.fullmatch(value):
                self.add(path, WELL_KNOWN[MASK], "WRONG_TYPE")
            return
        try:
            json_format.ParseDict(_plain(value), GetMessageClass(target)())
        except (json_format.ParseError, ValueError, TypeError, AttributeError, OverflowError, RecursionError):
            self.add(path, WELL_KNOWN.get(target.full_name, f"is not a {target.name}"), "WRONG_TYPE")


def _plain(value: Any) -> Any:
    """Well-known types are parsed by protobuf, which takes exactly the built-in types."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list) else value


def find_field(target: Descriptor, name: str) -> FieldDescriptor | None:
    """Finds a field by its name in the proto or by its lowerCamelCase name."""
    found: FieldDescriptor | None = target.fields_by_name.get(name)
    return found or target.fields_by_camelcase_name.get(name)


def unknown(name: str, target: Descriptor) -> str:
    """Says that there is no such field, and which one may have been meant."""
    names = [field.name for field in target.fields]
    if close := difflib.get_close_matches(snake(name)[:64], names, 1, 0.6):
        return f"there is no such field; did you mean {close[0]}?"
    known = ", ".join(sorted(names)[:30]) or "none"
    return f"there is no such field; remove it. Known here: {known}"


def scalar_problem(value: Any, field: FieldDescriptor) -> str:
    """Says what is wrong with the JSON value of a scalar or an enum; empty when nothing is."""
    kind = field.cpp_type
    if kind == FieldDescriptor.CPPTYPE_BOOL:
        return "" if isinstance(value, bool) else f"must be true or false without quotes, not {_kind(value)}"
    if kind == FieldDescriptor.CPPTYPE_ENUM:
        assert field.enum_type is not None
        return _enum_problem(value, field.enum_type)
    if kind == FieldDescriptor.CPPTYPE_STRING:
        if not isinstance(value, str):
            return f"must be text, not {_kind(value)}"
        return _bytes_problem(value) if field.type == FieldDescriptor.TYPE_BYTES else _text_problem(value)
    if kind in FLOATS:
        return _float_problem(value)
    low, high = RANGES[kind]
    text = isinstance(value, str) and INTEGER.fullmatch(value) and len(value) <= 20
    if text or (isinstance(value, float) and value.is_integer() and abs(value) < 2**53):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        return f"must be a whole number, not {_kind(value)}"
    return "" if low <= value <= high else f"must be from {low} to {high}"


def _enum_problem(value: Any, enum: EnumDescriptor) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        low, high = RANGES[FieldDescriptor.CPPTYPE_INT32]
        return "" if low <= value <= high else "must be one of the enum's values"
    names = list(enum.values_by_name)
    if not isinstance(value, str):
        return f"must be one of {', '.join(names)}, not {_kind(value)}"
    if value in enum.values_by_name:
        return ""
    close = difflib.get_close_matches(value.upper()[:64], names, 1, 0.5)
    return f"there is no such value; did you mean {close[0]}?" if close else f"must be one of {', '.join(names)}"


def _text_problem(value: str) -> str:
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return "holds half of a surrogate pair; send well-formed Unicode"
    return ""


def _bytes_problem(value: str) -> str:
    try:
        base64.b64decode(value.replace("-", "+").replace("_", "/") + "=" * (-len(value) % 4), validate=True)
    except (binascii.Error, ValueError):
        return "must be base64"
    return ""


def _float_problem(value: Any) -> str:
    if isinstance(value, str):
        try:
            float(value)
        except ValueError:
            return "must be a number"
        return "" if value in {"NaN", "Infinity", "-Infinity"} or math.isfinite(float(value)) else "must be a number"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return f"must be a number, not {_kind(value)}"
    return ""


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true or false"
    kinds: dict[type, str] = {str: "text", list: "a list", _Object: "an object"}
    return kinds.get(type(value), "a number")


def _message_type(field: FieldDescriptor) -> Descriptor:
    assert field.message_type is not None
    return field.message_type


def _is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def _join(path: str, name: str) -> str:
    name = name[:100]
    return f"{path}.{name}" if path else name


def _quote(key: str) -> str:
    return json.dumps(key[:100])


def snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])([A-Z])", lambda found: f"_{found[1].lower()}", name)


def values_at(value: Any, target: Descriptor, path: str) -> Iterator[Any]:
    """Yields what a checked JSON body has at a path of fields; nothing where it has none."""
    holder: Descriptor | None = target
    for step in path.split("."):
        if not isinstance(value, dict) or holder is None:
            return
        field = holder.fields_by_name[step]
        found = [value[name] for name in (field.name, field.camelcase_name) if value.get(name) is not None]
        if not found:
            return
        value = found[0]
        holder = field.message_type
    yield value
