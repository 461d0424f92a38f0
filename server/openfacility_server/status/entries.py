"""What a description file holds, key by key, and what each value may be."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from openfacility_server.config import (
    ConfigPath,
    Identifier,
    Port,
    ProbeDefaults,
    ProbePeriod,
    Seconds,
    Section,
    name_error,
)
from openfacility_server.jobs.engines.nodenames import expand
from openfacility_server.status import model, probes

TYPES: Mapping[str, str] = {
    "compute": "urn:doe-iri:resource:compute",
    "storage": "urn:doe-iri:resource:storage",
    "network": "urn:doe-iri:resource:network",
    "system": "urn:doe-iri:resource:system",
    "service": "urn:doe-iri:service:generic",
    "website": "urn:doe-iri:service:website",
    "unknown": "urn:doe-iri:resource:unknown",
}

_URN_PART = r"(?:[A-Za-z0-9._~!$&'()*+,;=@/-]|%[0-9A-Fa-f]{2})+"
_URN = re.compile(rf"urn:doe-iri:[A-Za-z0-9][A-Za-z0-9-]{{0,31}}(?::{_URN_PART})+")
_EMAIL = re.compile(r"[^@\s<>\"(),:;\[\]\\]{1,64}@[A-Za-z0-9](?:[A-Za-z0-9-]*\.)*[A-Za-z0-9-]*[A-Za-z0-9]")


def _line(value: str) -> str:
    if problem := name_error(value):
        raise ValueError(problem)
    return value


def _urn(value: str) -> str:
    if value in TYPES:
        return TYPES[value]
    if not _URN.fullmatch(value):
        words = ", ".join(TYPES)
        raise ValueError(f"must be a URN such as urn:doe-iri:resource:compute:system, or one of: {words}")
    return value


def _unlocode(value: str) -> str:
    code = value.replace(" ", "")
    if not re.fullmatch(r"[A-Z]{2}[A-Z2-9]{3}", code):
        raise ValueError("must be a UN/LOCODE: the country's two letters and three of the place, such as GBEDI")
    return code


def _email(value: str) -> str:
    if len(value) > 254 or not _EMAIL.fullmatch(value):
        raise ValueError("must be a mail address")
    return value


def _uri(value: str) -> str:
    try:
        parts = urlsplit(value)
        has_place = bool(parts.hostname and (parts.port is None or parts.port))
    except ValueError:
        has_place, parts = False, urlsplit("")
    if not re.fullmatch(r"[!-~]{1,2000}", value) or not (
        (parts.scheme in {"http", "https"} and has_place) or (parts.scheme == "mailto" and _EMAIL.fullmatch(parts.path))
    ):
        raise ValueError("must be a web address (https://...) or mailto:")
    return value


def _web(value: str) -> str:
    if not value.startswith(("http://", "https://")):
        raise ValueError("must be http://... or https://...")
    return _uri(value)


def _phone(value: str) -> str:
    if not re.fullmatch(r"\+[0-9][0-9 ()./-]{4,39}", value):
        raise ValueError("must be a telephone number in international form, such as '+44 131 000 0000', in quotes")
    return value


def _real_port(value: str) -> str:
    if not 0 < int(value.rpartition(":")[2]) < 65536:
        raise ValueError("has no port from 1 to 65535")
    return value


def _different(values: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(values)) != len(values):
        raise ValueError("the same is given twice")
    return values


Id = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}\z")]
Line = Annotated[str, AfterValidator(_line)]
Text = Annotated[str, StringConstraints(max_length=10_000, pattern=r"^[^\x00-\x08\x0b\x0c\x0e-\x1f]*\z")]
Ids = Annotated[tuple[Id, ...], Field(max_length=1000), AfterValidator(_different)]
ServiceName = Annotated[str, StringConstraints(max_length=255, pattern=r"^[a-z][a-z0-9_]*(\.[a-z0-9_]+)*\.[A-Z]\w*\z")]
LabelKey = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,62}\z")]
LabelValue = Annotated[str, StringConstraints(max_length=255, pattern=r"^[^\x00-\x1f]*\z")]
Uri = Annotated[str, AfterValidator(_uri)]


class Contact(Section):
    """Somebody to turn to."""

    name: Line
    role: Line | None = None
    email: Annotated[str, AfterValidator(_email)] | None = None
    phone: Annotated[str, AfterValidator(_phone)] | None = None
    uri: Uri | None = None

    @model_validator(mode="after")
    def _reachable(self) -> Contact:
        if not (self.email or self.phone or self.uri):
            raise ValueError("needs email, phone or uri")
        return self

    def described(self) -> model.Contact:
        """Returns it as the domain knows it."""
        return model.Contact(self.name, self.role or "", self.email or "", self.phone or "", self.uri or "")


Contacts = Annotated[tuple[Contact, ...], Field(max_length=100)]


class FacilityEntry(Section):
    """Who operates the resources."""

    id: Identifier | None = None
    name: Line | None = None
    short_name: Line | None = None
    description: Text = ""
    organization_name: Line | None = None
    support_uri: Uri | None = None
    contacts: Contacts = ()


class SiteEntry(Section):
    """A place."""

    id: Id
    name: Line | None = None
    short_name: Line | None = None
    description: Text = ""
    operating_organization: Line | None = None
    country_name: Line | None = None
    locality_name: Line | None = None
    state_or_province_name: Line | None = None
    street_address: Line | None = None
    unlocode: Annotated[str, AfterValidator(_unlocode)] | None = None
    latitude: float | None = Field(default=None, ge=-90, le=90, allow_inf_nan=False)
    longitude: float | None = Field(default=None, ge=-180, le=180, allow_inf_nan=False)
    altitude: float | None = Field(default=None, ge=-12_000, le=100_000, allow_inf_nan=False)
    contacts: Contacts = ()

    @model_validator(mode="after")
    def _place(self) -> SiteEntry:
        if (self.latitude is None) != (self.longitude is None):
            raise ValueError("latitude and longitude go together")
        return self


class ProbeEntry(Section):
    """What all probes have; what is not given is as in ``status.probe`` of the configuration."""

    period: ProbePeriod | None = None
    deadline: Seconds | None = None
    fall: int | None = Field(default=None, ge=1, le=100)
    rise: int | None = Field(default=None, ge=1, le=100)

    def timing(self, defaults: ProbeDefaults) -> probes.Timing:
        """Returns when to ask."""
        return probes.Timing(
            (self.period or defaults.period).total_seconds(),
            (self.deadline or defaults.deadline).total_seconds(),
            self.fall or defaults.fall,
            self.rise or defaults.rise,
        )


def _node_list(value: str) -> str:
    if not expand(value):
        raise ValueError("names no node")
    return value


class JobsProbe(ProbeEntry):
    """Of a compute resource of the Jobs service, or of the part of it that a queue or nodes name."""

    kind: Literal["jobs"]
    resource: str
    queue: Annotated[str, Field(min_length=1, max_length=255)] | None = None
    nodes: Annotated[tuple[Annotated[Line, AfterValidator(_node_list)], ...], Field(max_length=1000)] = ()
    ignore_queues: Annotated[tuple[Line, ...], Field(max_length=1000)] = ()
    nodes_out_percent: float = Field(default=0, ge=0, le=100, allow_inf_nan=False)

    def target(self) -> probes.Target:
        """Returns what to ask."""
        return probes.JobsTarget(
            self.resource, self.queue or "", self.nodes, self.ignore_queues, self.nodes_out_percent
        )


class FileSystemProbe(ProbeEntry):
    """Of a directory; relative to the file's own."""

    kind: Literal["filesystem"]
    path: ConfigPath
    mount: ConfigPath | None = None
    min_free_bytes: int = Field(default=0, ge=0)
    min_free_percent: float = Field(default=0, ge=0, le=100, allow_inf_nan=False)
    min_free_inodes: int = Field(default=0, ge=0)

    def target(self) -> probes.Target:
        """Returns what to ask."""
        return probes.FileSystemTarget(
            self.path, self.min_free_bytes, self.min_free_percent, self.min_free_inodes, self.mount
        )


class DatabaseProbe(ProbeEntry):
    """Of this server's database."""

    kind: Literal["database"]

    def target(self) -> probes.Target:
        """Returns what to ask."""
        return probes.DatabaseTarget()


class TcpProbe(ProbeEntry):
    """Of a port."""

    kind: Literal["tcp"]
    address: Annotated[Port, AfterValidator(_real_port)]

    def target(self) -> probes.Target:
        """Returns what to ask."""
        host, _, port = self.address.rpartition(":")
        return probes.TcpTarget(host.strip("[]"), int(port))


class HttpProbe(ProbeEntry):
    """Of a page; ``unix_socket`` is where it is asked for instead of at the address's host."""

    kind: Literal["http"]
    url: Annotated[str, AfterValidator(_web)]
    unix_socket: ConfigPath | None = None

    def target(self) -> probes.Target:
        """Returns what to ask."""
        return probes.HttpTarget(self.url, self.unix_socket)


AnyProbe = Annotated[JobsProbe | FileSystemProbe | DatabaseProbe | TcpProbe | HttpProbe, Field(discriminator="kind")]


class ResourceEntry(Section):
    """Something that can be up or down."""

    id: Id
    name: Line | None = None
    description: Text = ""
    type: Annotated[str, Field(max_length=255), AfterValidator(_urn)] = TYPES["unknown"]
    group: Line | None = None
    site: str | None = None
    capabilities: Ids = ()
    depends_on: Annotated[tuple[str, ...], Field(max_length=1000), AfterValidator(_different)] = ()
    services: Annotated[tuple[ServiceName, ...], Field(max_length=100), AfterValidator(_different)] = ()
    labels: dict[LabelKey, LabelValue] = Field(default_factory=dict, max_length=64)
    probe: AnyProbe | None = None


class File(Section):
    """The whole file."""

    facility: FacilityEntry = FacilityEntry()
    sites: tuple[SiteEntry, ...] = Field(max_length=10_000)
    resources: tuple[ResourceEntry, ...] = Field(default=(), max_length=100_000)
