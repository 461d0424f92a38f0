"""Strict reading of query parameters and of the variables in a path; see ``strict``."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import unquote_to_bytes

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from openfacility_server.errors import Violation
from openfacility_server.http.strict import (
    FLOATS,
    INTEGER,
    MASK,
    MASK_TEXT,
    MAX_VIOLATIONS,
    RANGES,
    WELL_KNOWN,
    Malformed,
    find_field,
    scalar_problem,
    snake,
    unknown,
)


def pairs(text: str) -> list[tuple[str, str]]:
    """Splits a query into names and values. Raises Malformed when it is not percent-encoded UTF-8."""
    found = []
    for part in text.split("&"):
        if not part:
            continue
        name, _, value = part.partition("=")
        try:
            found.append((_unquote(name), _unquote(value)))
        except UnicodeDecodeError as error:
            raise Malformed([Violation(name[:100], "must be UTF-8, percent-encoded", "WRONG_TYPE")]) from error
    return found


def unquote_path(name: str, raw: str) -> str:
    """Decodes a part of a path. Raises Malformed when it is not percent-encoded UTF-8."""
    try:
        if not re.search("%(?![0-9a-fA-F]{2})", raw):
            return unquote_to_bytes(raw).decode("utf-8")
    except UnicodeDecodeError:
        pass
    raise Malformed([Violation(name, "must be UTF-8, percent-encoded", "WRONG_TYPE")])


def _unquote(text: str) -> str:
    return unquote_to_bytes(text.replace("+", " ")).decode("utf-8")


def read(given: Sequence[tuple[str, str]], request: Message, taken: Sequence[str] = ()) -> None:
    """Puts query parameters into a request. Raises Malformed.

    Args:
        given: names (paths of fields) and values.
        request: the message to fill.
        taken: fields that come from the path or the body, and not from the query.
    """
    violations: list[Violation] = []
    seen: set[str] = set()
    for name, value in given:
        problem = _put(name, value, request, taken, seen)
        if problem:
            violations.append(Violation(name[:200], problem[1], problem[0]))
    if violations:
        raise Malformed(violations[:MAX_VIOLATIONS])


def _put(name: str, value: str, request: Message, taken: Sequence[str], seen: set[str]) -> tuple[str, str] | None:
    *way, last = name.split(".")
    holder: Any = request
    names = []
    for step in way:
        field = find_field(holder.DESCRIPTOR, step)
        if field is None:
            return "UNKNOWN_FIELD", unknown(step, holder.DESCRIPTOR)
        if field.message_type is None or field.is_repeated or field.message_type.full_name in WELL_KNOWN:
            return "WRONG_TYPE", f"{step} has no fields of its own"
        names.append(field.name)
        holder = getattr(holder, field.name)
    field = find_field(holder.DESCRIPTOR, last)
    if field is None:
        return "UNKNOWN_FIELD", unknown(last, holder.DESCRIPTOR)
    full = ".".join((*names, field.name))
    if any(full == path or full.startswith(f"{path}.") for path in taken):
        return "DUPLICATE_FIELD", "comes from the path or the body; remove it from the query"
    if full in seen and not field.is_repeated:
        return "DUPLICATE_FIELD", "is there twice; keep one"
    seen.add(full)
    try:
        _assign(holder, field, value)
    except (ValueError, OverflowError) as error:
        return "WRONG_TYPE", str(error)
    return None


def _assign(holder: Any, field: FieldDescriptor, text: str) -> None:
    """Sets one field, or adds to a list, from its text. Raises ValueError with what is wrong."""
    if field.message_type is not None:
        description = WELL_KNOWN.get(field.message_type.full_name)
        if description is None:
            raise ValueError("cannot be given in a query; name its fields, such as filter.name")
        made = getattr(holder, field.name).add() if field.is_repeated else getattr(holder, field.name)
        if field.message_type.full_name == MASK:
            if not MASK_TEXT.fullmatch(text):
                raise ValueError(description)
            made.paths.extend(snake(path) for path in text.split(",") if path)
        else:
            try:
                made.FromJsonString(text)
            except (ValueError, OverflowError, AttributeError):
                raise ValueError(description) from None
        made.SetInParent()
        return
    value = _CONVERT.get(field.cpp_type, str)(text)
    if problem := scalar_problem(value, field):
        raise ValueError(re.sub(" without quotes|, not text", "", problem))
    if field.enum_type is not None and isinstance(value, str):
        value = field.enum_type.values_by_name[value].number
    elif field.cpp_type in RANGES:
        value = int(value)
    elif field.cpp_type in FLOATS:
        value = float(value)
    elif field.type == FieldDescriptor.TYPE_BYTES:
        value = base64.urlsafe_b64decode(value.replace("+", "-").replace("/", "_") + "=" * (-len(value) % 4))
    if field.is_repeated:
        getattr(holder, field.name).append(value)
    else:
        setattr(holder, field.name, value)


def _number_or_name(text: str) -> Any:
    return int(text) if INTEGER.fullmatch(text) and len(text) < 12 else text


def _bool(text: str) -> Any:
    return {"true": True, "false": False}.get(text, text)


_CONVERT: dict[int, Callable[[str], Any]] = {
    FieldDescriptor.CPPTYPE_BOOL: _bool,
    FieldDescriptor.CPPTYPE_ENUM: _number_or_name,
}
