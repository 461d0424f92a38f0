"""The ``google.api.http`` bindings of all services: which method and path call which RPC.

This module reads descriptors only, so that the generator of Envoy's configuration can use it without the stubs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module, resources

from google.api import annotations_pb2
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import Descriptor
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

_SEGMENT = re.compile(r"\{([A-Za-z0-9_.]+)(?:=([^{}]*))?\}|([^/{}]+)")


@dataclass(frozen=True)
class Binding:
    """One way to call an RPC over HTTP."""

    service: str  # full name
    method: str
    input_type: str  # full name
    output_type: str
    streaming: bool
    http_method: str
    template: str
    body: str  # "", "*" or the name of a field

    @property
    def rpc(self) -> str:
        """The path of the RPC in gRPC: ``/package.Service/Method``."""
        return f"/{self.service}/{self.method}"

    @property
    def server_sent_events(self) -> bool:
        """Whether it can be had as server-sent events too: every watch can."""
        return self.streaming and self.http_method == "GET" and self.method.startswith("Watch")

    @cached_property
    def variables(self) -> tuple[str, ...]:
        """Paths of the fields that are taken from the path."""
        return tuple(found[1] for found in _SEGMENT.finditer(self._split[0]) if found[1])

    @cached_property
    def _split(self) -> tuple[str, str]:
        """The template without its verb, and the verb with its colon."""
        head, colon, verb = self.template.rpartition(":")
        return (head, f":{verb}") if colon and "/" not in verb and "}" not in verb else (self.template, "")

    @cached_property
    def regex(self) -> str:
        """RE2 and Python: matches a whole path, one group for each variable.

        A wildcard that ends the path does not match a colon: after it comes a verb, and an unknown verb is an unknown
        path rather than part of an id.
        """
        path, verb = self._split
        *init, last = _parts(path)
        pieces = [*(_segment_regex(part, last=False) for part in init), _segment_regex(last, last=True)]
        return "/" + "/".join(pieces) + re.escape(verb)

    @property
    def literal(self) -> bool:
        """Whether the template is one fixed path."""
        return "{" not in self.template and "*" not in self.template

    @property
    def specificity(self) -> tuple[object, ...]:
        """Sorts the path that says more before the one that says less."""
        path, verb = self._split
        kinds = tuple(2 if "**" in part else 1 if "{" in part or "*" in part else 0 for part in _parts(path))
        return (kinds, not verb, self.template)

    def input(self) -> Descriptor:
        """The request message; needs the stubs (see ``load``)."""
        return descriptor_pool.Default().FindMessageTypeByName(self.input_type)

    def request(self) -> Message:
        """A new, empty request message; needs the stubs."""
        return GetMessageClass(self.input())()


def _parts(path: str) -> list[str]:
    """Splits a path at the slashes that are not inside a variable."""
    parts, depth, start = [], 0, 1
    for index, char in enumerate(path[1:], 1):
        depth += (char == "{") - (char == "}")
        if char == "/" and not depth:
            parts.append(path[start:index])
            start = index + 1
    return [*parts, path[start:]]


def _segment_regex(part: str, *, last: bool) -> str:
    one = "[^/:]+" if last else "[^/]+"
    if found := re.fullmatch(r"\{[^=}]+(?:=([^}]*))?\}", part):
        pattern = found[1] or "*"
        inner = "/".join({"*": one, "**": ".+"}.get(piece) or re.escape(piece) for piece in pattern.split("/"))
        return f"({inner})"
    return {"*": one, "**": ".+"}.get(part) or re.escape(part)


def read(descriptors: FileDescriptorSet) -> list[Binding]:
    """Returns the bindings in a descriptor set, in the order of the files."""
    # Parsed anew: options that were parsed before annotations_pb2 was imported are unknown fields.
    return list(_bindings(FileDescriptorSet.FromString(descriptors.SerializeToString())))


def _bindings(descriptors: FileDescriptorSet) -> Iterator[Binding]:
    for file in descriptors.file:
        for service in file.service:
            for method in service.method:
                if not method.options.HasExtension(annotations_pb2.http):
                    continue
                rule = method.options.Extensions[annotations_pb2.http]
                for binding in (rule, *rule.additional_bindings):
                    kind = binding.WhichOneof("pattern")
                    custom = kind == "custom"
                    yield Binding(
                        service=f"{file.package}.{service.name}",
                        method=method.name,
                        input_type=method.input_type.lstrip("."),
                        output_type=method.output_type.lstrip("."),
                        streaming=method.server_streaming,
                        http_method=binding.custom.kind if custom else str(kind).upper(),
                        template=binding.custom.path if custom else getattr(binding, str(kind)),
                        body=binding.body,
                    )


def load() -> list[Binding]:
    """Returns the bindings of the shipped descriptor, and imports the stubs of their files."""
    descriptors = FileDescriptorSet.FromString(descriptor_bytes())
    for file in descriptors.file:
        if file.service:
            import_module(file.name.removesuffix(".proto").replace("/", ".") + "_pb2")
    return read(descriptors)


def descriptor_bytes() -> bytes:
    """Returns the shipped descriptor set: all services with all that they import and the error details."""
    return resources.files("openfacility").joinpath("descriptor.binpb").read_bytes()


def group(bindings: Iterable[Binding]) -> list[list[Binding]]:
    """Groups the bindings that match the same paths, the most specific path first."""
    groups: dict[str, list[Binding]] = {}
    for binding in sorted(bindings, key=lambda b: b.specificity):
        groups.setdefault(binding.regex, []).append(binding)
    return list(groups.values())


class Router:
    """Finds the binding of a method and a path, as Envoy's routes do."""

    def __init__(self, bindings: Iterable[Binding]) -> None:
        self._routes = [(re.compile(same[0].regex), {b.http_method: b for b in same}) for same in group(bindings)]

    def find(self, method: str, path: str) -> tuple[Binding, dict[str, str]] | None:
        """Returns the binding and the raw (still percent-encoded) values of its variables."""
        for regex, methods in self._routes:
            if found := regex.fullmatch(path):
                binding = methods.get(method)
                return (binding, dict(zip(binding.variables, found.groups(), strict=True))) if binding else None
        return None
