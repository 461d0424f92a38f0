"""The facility's description: a file that people write, or what follows from the configuration where there is none.

``facility.yaml`` beside this module is an example that shows every key.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

from openfacility_server.config import Config, ConfigError
from openfacility_server.status import model, probes
from openfacility_server.status.entries import File, JobsProbe, ProbeEntry, ResourceEntry, SiteEntry
from openfacility_server.status.probes import JobsTarget
from openfacility_server.yamlfile import Document, Location

EXAMPLE = Path(__file__).with_name("facility.yaml")
JOBS_SERVICE = "openfacility.jobs.v1.JobsService"

_MOST_BYTES = 128 << 20
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
