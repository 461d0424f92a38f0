"""YAML files that people write: whatever is wrong in them is named with its line.

Files are read event by event: of a large one only its values are held, and lines are looked up when something is wrong.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

M = TypeVar("M", bound=BaseModel)
Location = tuple[str | int, ...]

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_MOST_PROBLEMS = 100
_CACHED_SCALARS = 10_000


class FileError(Exception):
    """The file cannot be used; ``str()`` lists what to correct, a line each, with file and line."""


class Document:
    """One file: ``tree`` holds its values; all keys are text."""

    def __init__(self, text: str, name: str) -> None:
        """Reads text; ``name`` is what messages call it. Raises FileError."""
        self.name = name
        self._text = text
        self.tree: Any = _Reader(text, name).read()

    @classmethod
    def read(cls, path: Path, most_bytes: int = 1 << 30) -> Document:
        """Reads a file. Raises FileError."""
        try:
            if path.stat().st_size > most_bytes:
                raise FileError(f"{path}: is larger than {most_bytes} bytes")
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise FileError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
        return cls(text, str(path))

    def validate(self, model: type[M], context: Mapping[str, Any]) -> M:
        """Returns the file as a model. Raises FileError."""
        tree = {} if self.tree is None else self.tree
        if not isinstance(tree, dict):
            raise FileError(f"{self.name}: must be a mapping of sections")
        try:
            return model.model_validate(tree, context=dict(context))
        except ValidationError as error:
            problems = error.errors(include_url=False, include_input=False)
            raise self.error([(problem["loc"], _sentence(problem)) for problem in problems]) from None

    def error(self, problems: list[tuple[Location, str]]) -> FileError:
        """Returns an error that names the place of each problem."""
        lines = _lines(self._text)
        said = [_explain(self.name, lines, location, text) for location, text in problems[:_MOST_PROBLEMS]]
        if len(problems) > _MOST_PROBLEMS:
            said.append(f"{self.name}: and {len(problems) - _MOST_PROBLEMS} problems more")
        return FileError("\n".join(said))


def _sentence(problem: Any) -> str:
    match problem["type"]:
        case "extra_forbidden":
            return "unknown key"
        case "union_tag_not_found":
            return f"needs {problem['ctx']['discriminator'].strip(chr(39))}"
        case kind if kind.startswith("time_delta"):
            return "must be a duration: a number of seconds"
    return str(problem["msg"]).removeprefix("Value error, ")


class _Reader:
    """Turns events into values."""

    def __init__(self, text: str, name: str) -> None:
        self._name = name
        self._text = text
        self._events: Iterator[Any] = iter(())
        self._anchors: dict[str, Any] = {}
        self._path: list[str] = []
        self._twice: list[str] = []
        self._plain: dict[str, Any] = {}
        # Says what plain words are; reads nothing itself.
        self._words: Any = yaml.SafeLoader("")

    def read(self) -> Any:
        try:
            self._events = yaml.parse(self._text, Loader=_LOADER)
            tree = self._document()
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            line = f":{mark.line + 1}" if mark else ""
            raise FileError(f"{self._name}{line}: {getattr(error, 'problem', None) or 'is not YAML'}") from error
        except RecursionError:
            raise FileError(f"{self._name}: is nested too deeply") from None
        if self._twice:
            # YAML would let the last one win.
            raise FileError("\n".join(self._twice[:_MOST_PROBLEMS]))
        return tree

    def _document(self) -> Any:
        tree: Any = None
        documents = 0
        for event in self._events:
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    raise self._refuse(event, "only one document is allowed")
                tree = self._value(next(self._events))
        return tree

    def _value(self, event: Any) -> Any:
        kind: Any = type(event)
        if kind is yaml.ScalarEvent:
            value = self._scalar(event)
        elif kind is yaml.AliasEvent:
            if event.anchor not in self._anchors:
                raise self._refuse(event, f"there is no anchor {event.anchor} before this")
            return self._anchors[event.anchor]
        elif kind is yaml.MappingStartEvent:
            self._untagged(event, "tag:yaml.org,2002:map")
            value = self._mapping()
        else:
            self._untagged(event, "tag:yaml.org,2002:seq")
            value = self._sequence()
        if event.anchor is not None:
            self._anchors[event.anchor] = value
        return value

    def _mapping(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        path = self._path
        events = self._events
        while True:
            event = next(events)
            kind: Any = type(event)
            if kind is yaml.MappingEndEvent:
                return {**merged, **found} if merged else found
            if kind is not yaml.ScalarEvent:
                raise self._refuse(event, "a key must be text")
            key = sys.intern(event.value)
            path.append(key)
            value = self._value(next(events))
            if key == "<<" and event.implicit[0]:
                for other in reversed(value if isinstance(value, list) else [value]):
                    if not isinstance(other, dict):
                        raise self._refuse(event, "only mappings can be merged")
                    merged |= other
            elif key in found:
                self._twice.append(f"{self._name}:{event.start_mark.line + 1}: {'.'.join(path)}: is given twice")
            else:
                found[key] = value
            path.pop()

    def _sequence(self) -> list[Any]:
        found: list[Any] = []
        while type(event := next(self._events)) is not yaml.SequenceEndEvent:
            self._path.append(str(len(found)))
            found.append(self._value(event))
            self._path.pop()
        return found

    def _scalar(self, event: Any) -> Any:
        text = event.value
        plain, quoted = event.implicit
        if quoted:
            return text
        if not plain:
            return self._construct(event, event.tag)
        try:
            return self._plain[text]
        except KeyError:
            value = self._construct(event, self._words.resolve(yaml.ScalarNode, text, (True, False)))
            if len(self._plain) < _CACHED_SCALARS:
                self._plain[text] = value
            return value

    def _construct(self, event: Any, tag: str) -> Any:
        node = yaml.ScalarNode(tag, event.value, event.start_mark, event.end_mark)
        try:
            return self._words.construct_object(node)
        except (ValueError, TypeError) as error:
            raise self._refuse(event, str(error)) from error

    def _untagged(self, event: Any, usual: str) -> None:
        if event.tag not in (None, usual, "!"):
            raise self._refuse(event, f"the tag {event.tag} is not allowed")

    def _refuse(self, event: Any, text: str) -> FileError:
        return FileError(f"{self._name}:{event.start_mark.line + 1}: {text}")


# A line, and the places below it.
_Lines = tuple[int, "dict[str, _Lines] | list[_Lines] | None"]


def _lines(text: str) -> _Lines:
    """Returns where everything is in a text that has been read before."""
    events: Iterator[Any] = yaml.parse(text, Loader=_LOADER)
    anchors: dict[str | None, _Lines] = {}

    def below(event: Any, line: int) -> _Lines:
        found: _Lines = (line, None)
        if isinstance(event, yaml.AliasEvent):
            return (line, anchors[event.anchor][1])
        if isinstance(event, yaml.MappingStartEvent):
            mapping: dict[str, _Lines] = {}
            while not isinstance(key := next(events), yaml.MappingEndEvent):
                mapping[key.value] = below(next(events), key.start_mark.line + 1)
            found = (line, mapping)
        elif isinstance(event, yaml.SequenceStartEvent):
            sequence: list[_Lines] = []
            while not isinstance(item := next(events), yaml.SequenceEndEvent):
                sequence.append(below(item, item.start_mark.line + 1))
            found = (line, sequence)
        if event.anchor is not None:
            anchors[event.anchor] = found
        return found

    for event in events:
        if isinstance(event, yaml.DocumentStartEvent):
            first = next(events)
            return below(first, first.start_mark.line + 1)
    return (1, None)


def _explain(name: str, lines: _Lines, location: Location, message: str) -> str:
    """Returns the message with the line of the deepest place on the way to ``location`` that exists."""
    line, places = lines
    where = []
    for depth, part in enumerate(location, 1):
        found: _Lines | None = None
        if isinstance(places, dict):
            found = places.get(str(part))
        elif isinstance(places, list) and isinstance(part, int) and part < len(places):
            found = places[part]
        if found:
            line, places = found
        # What is missing is named; the kinds that pydantic puts into its paths are not.
        if found or depth == len(location):
            where.append(str(part))
    return f"{name}:{line}: {'.'.join(where) or 'configuration'}: {message}"
