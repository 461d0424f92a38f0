"""The facility's description: a file that people write, or what follows from the configuration where there is none.

``facility.yaml`` beside this module is an example that shows every key.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from openfacility_server.config import (
    Config,
    ConfigError,
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
from openfacility_server.status.probes import JobsTarget
from openfacility_server.yamlfile import Document, Location

EXAMPLE = Path(__file__).with_name("facility.yaml")
JOBS_SERVICE = "openfacility.jobs.v1.JobsService"
TYPES: Mapping[str, str] = {
    "compute": "urn:doe-iri:resource:compute",
    "storage": "urn:doe-iri:resource:storage",
    "network": "urn:doe-iri:resource:network",
    "system": "urn:doe-iri:resource:system",
    "service": "urn:doe-iri:service:generic",
    "website": "urn:doe-iri:service:website",
    "unknown": "urn:doe-iri:resource:unknown",
}

_MOST_BYTES = 128 << 20
_URN_PART = r"(?:[A-Za-z0-9._~!$&'()*+,;=@/-]|%[0-9A-Fa-f]{2})+"
_URN = re.compile(rf"urn:doe-iri:[A-Za-z0-9][A-Za-z0-9-]{{0,31}}(?::{_URN_PART})+")
_EMAIL = re.compile(r"[^@\s<>\"(),:;\[\]\\]{1,64}@[A-Za-z0-9](?:[A-Za-z0-9-]*\.)*[A-Za-z0-9-]*[A-Za-z0-9]")
_DERIVED_MIN_FREE_BYTES = 256 << 20
_DERIVED_MIN_FREE_INODES = 1000


@dataclass(frozen=True, slots=True)
class Description:
    """The facility as it is described; resources and sites in the order of the file.

    ``digest`` changes when anything that callers can see does. ``changed_at`` is when the file was last written; of a
    derived description, when it was derived.
    """

    facility: model.Facility
    sites: tuple[model.Site, ...]
    resources: tuple[model.Resource, ...]
    probes: tuple[probes.Probe, ...]
    digest: str
    changed_at: datetime

    def resource_of_jobs(self, jobs_resource_id: str) -> str | None:
        """Returns the resource that stands for a compute resource of the Jobs service, None if none does."""
        whole = (resource_id for resource_id, target in self.tied(jobs_resource_id) if target.whole)
        same = (resource.id for resource in self.resources if resource.id == jobs_resource_id)
        return next(whole, None) or next(same, None)

    def tied(self, jobs_resource_id: str) -> list[tuple[str, JobsTarget]]:
        """Returns the resources that stand for a compute resource of the Jobs service, or for which part of it."""
        return [
            (probe.resource_id, probe.target)
            for probe in self.probes
            if isinstance(probe.target, JobsTarget) and probe.target.resource == jobs_resource_id
        ]


# The file.


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


def load(config: Config, now: datetime | None = None) -> Description:
    """Returns the description that a configuration names, or one derived from it. Raises ConfigError.

    A large file takes seconds: call it beside the event loop. ``now`` is when a derived description has changed.
    """
    path = config.status.description
    if path is None:
        return derive(config, now or datetime.now(UTC))
    with _no_collection():
        return _described(Document.read(path, _MOST_BYTES), path.parent, config, _written_at(path))


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """Keeps the garbage collector from looking through half of a large file again and again: a third of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def parse(text: str, directory: Path, config: Config, name: str = "description") -> Description:
    """Returns the description in a text; relative paths are taken from ``directory``. Raises ConfigError."""
    return _described(Document(text, name), directory, config, datetime.now(UTC))


def _written_at(path: Path) -> datetime:
    try:
        return datetime.fromtimestamp(path.stat().st_mtime, UTC)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error


def _described(document: Document, directory: Path, config: Config, changed_at: datetime) -> Description:
    file = document.validate(File, {"directory": directory})
    if problems := list(_problems(file, config)):
        raise document.error(problems)
    entry = file.facility
    facility = model.Facility(
        id=entry.id or config.facility.id,
        name=entry.name or config.facility.name,
        short_name=entry.short_name or "",
        description=entry.description,
        organization_name=entry.organization_name or "",
        support_uri=entry.support_uri or "",
        contacts=tuple(contact.described() for contact in entry.contacts),
    )
    found = tuple(
        probes.Probe(resource.id, resource.probe.target(), resource.probe.timing(config.status.probe))
        for resource in file.resources
        if resource.probe
    )
    sites = tuple(_site(site) for site in file.sites)
    resources = tuple(_resource(resource, file.sites[0].id) for resource in file.resources)
    return _description(facility, sites, resources, found, changed_at)


def _site(entry: SiteEntry) -> model.Site:
    return model.Site(
        id=entry.id,
        name=entry.name or entry.id,
        short_name=entry.short_name or "",
        description=entry.description,
        operating_organization=entry.operating_organization or "",
        country_name=entry.country_name or "",
        locality_name=entry.locality_name or "",
        state_or_province_name=entry.state_or_province_name or "",
        street_address=entry.street_address or "",
        unlocode=entry.unlocode or "",
        latitude=entry.latitude,
        longitude=entry.longitude,
        altitude=entry.altitude,
        contacts=tuple(contact.described() for contact in entry.contacts),
    )


def _resource(entry: ResourceEntry, only_site: str) -> model.Resource:
    return model.Resource(
        id=entry.id,
        name=entry.name or entry.id,
        description=entry.description,
        resource_type=entry.type,
        group=entry.group or "",
        site_id=entry.site or only_site,
        capability_ids=entry.capabilities,
        depends_on=entry.depends_on,
        services=entry.services,
        labels=entry.labels,
    )


# What is wrong beyond single values.


def _problems(file: File, config: Config) -> Iterator[tuple[Location, str]]:
    given = file.facility.id
    if given and given != config.facility.id and "id" in config.facility.model_fields_set:
        yield ("facility", "id"), f"is {config.facility.id} in the configuration"
    sites = [site.id for site in file.sites]
    if not sites:
        yield ("sites",), "needs at least one"
    yield from _repeated("sites", sites)
    resources = [resource.id for resource in file.resources]
    yield from _repeated("resources", resources)
    known_sites, known_resources = set(sites), set(resources)
    engines = {resource.id for resource in config.jobs.resources}
    dangling = False
    for index, resource in enumerate(file.resources):
        where = ("resources", index)
        if resource.site is None and len(sites) > 1:
            yield (*where, "site"), "is needed where there are several sites"
        if resource.site is not None and resource.site not in known_sites:
            yield (*where, "site"), f"there is no site {resource.site!r}"
        for place, needed in enumerate(resource.depends_on):
            if needed not in known_resources:
                dangling = True
                yield (*where, "depends_on", place), f"there is no resource {needed!r}"
        if isinstance(resource.probe, JobsProbe) and resource.probe.resource not in engines:
            yield (
                (*where, "probe", "resource"),
                f"there is no {resource.probe.resource!r} in jobs.resources of the configuration",
            )
    if not dangling:
        yield from _circles(file.resources)


def _repeated(section: str, ids: Iterable[str]) -> Iterator[tuple[Location, str]]:
    seen: set[str] = set()
    for index, name in enumerate(ids):
        if name in seen:
            yield (section, index, "id"), f"{name!r} is given twice"
        seen.add(name)


def _circles(resources: tuple[ResourceEntry, ...]) -> Iterator[tuple[Location, str]]:
    try:
        TopologicalSorter({resource.id: resource.depends_on for resource in resources}).prepare()
    except CycleError as error:
        # Each is needed by the next one.
        circle = list(reversed(error.args[1]))
        members = set(circle)
        place = next(index for index, resource in enumerate(resources) if resource.id in members)
        first = circle.index(resources[place].id)
        names = [*circle[first:-1], *circle[: first + 1]]
        shown = names if len(names) <= 20 else [*names[:10], "...", *names[-9:]]
        yield ("resources", place, "depends_on"), f"goes in a circle: {' > '.join(shown)}"


# Without a file.


def derive(config: Config, now: datetime) -> Description:
    """Returns what the configuration says of the facility: one site, the compute resources, the state's file system."""
    timing = ProbeEntry().timing(config.status.probe)
    engines = [resource.id for resource in config.jobs.resources]
    state = next(name for name in ("state", "server-state", "openfacility-state") if name not in engines)
    site = model.Site(id=config.facility.id, name=config.facility.name)
    found = [
        probes.Probe(
            state,
            probes.FileSystemTarget(
                config.state.directory,
                min_free_bytes=_DERIVED_MIN_FREE_BYTES,
                min_free_inodes=_DERIVED_MIN_FREE_INODES,
            ),
            timing,
        )
    ]
    resources = [
        model.Resource(
            id=state,
            name="State of the server",
            description="File system that this server keeps its state in.",
            resource_type="urn:doe-iri:resource:storage:filesystem",
            site_id=site.id,
        )
    ]
    for name in engines:
        found.append(probes.Probe(name, probes.JobsTarget(name), timing))
        resources.append(
            model.Resource(
                id=name,
                name=name,
                resource_type="urn:doe-iri:resource:compute:system",
                site_id=site.id,
                depends_on=(state,),
                services=(JOBS_SERVICE,),
            )
        )
    facility = model.Facility(id=config.facility.id, name=config.facility.name)
    return _description(facility, (site,), tuple(resources), tuple(found), now)


def _description(
    facility: model.Facility,
    sites: tuple[model.Site, ...],
    resources: tuple[model.Resource, ...],
    found: tuple[probes.Probe, ...],
    changed_at: datetime,
) -> Description:
    digest = hashlib.sha256(repr(facility).encode())
    for thing in (*sites, *resources):
        digest.update(repr(thing).encode())
    return Description(facility, sites, resources, found, digest.hexdigest(), changed_at)
