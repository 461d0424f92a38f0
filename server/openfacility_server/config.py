"""The server's configuration: one typed tree, read from one YAML file.

Every key is described in ``default.yaml`` beside this module, which is a complete, valid file. An unknown key or a bad
value is an error at start that names the key, the line and what would be right. Relative paths are relative to the
configuration file. Durations are numbers of seconds, sizes are bytes.
"""

from __future__ import annotations

import ipaddress
import re
import unicodedata
from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationInfo,
    field_validator,
    model_validator,
)

from openfacility_server import yamlfile
from openfacility_server.yamlfile import Document

Role = Literal["anonymous", "user", "operator", "admin"]
# Only signatures by a private key: an issuer's public keys must never serve as an HMAC secret.
Algorithm = Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "Ed25519"]


# What is raised for a configuration that cannot be used.
ConfigError = yamlfile.FileError


def _absolute(path: Path, info: ValidationInfo) -> Path:
    base = (info.context or {}).get("directory", Path.cwd())
    return (Path(base) / path.expanduser()).absolute()


def _positive(value: timedelta) -> timedelta:
    if value <= timedelta():
        raise ValueError("must be more than 0")
    return value


def name_error(value: str, longest: int = 255) -> str | None:
    """Returns why ``value`` cannot name a person, group or project; None when it can.

    Only NFC text passes, so that two names that look the same are the same.
    """
    if not 0 < len(value) <= longest:
        return f"must have 1 to {longest} characters"
    if not value.isprintable() or value != value.strip():
        return "must be printable and must not begin or end with a space"
    if not unicodedata.is_normalized("NFC", value):
        return "must be in Unicode normal form C"
    return None


def _name(value: str) -> str:
    if problem := name_error(value):
        raise ValueError(problem)
    return value


def provider_url_error(url: str, allow_http: bool) -> str | None:
    """Returns why keys must not be fetched from ``url``; None when they may."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError:
        return "is not a URL"
    if not host or parts.username is not None or parts.fragment:
        return "must have a host, and neither user nor fragment"
    if parts.scheme == "https" or (parts.scheme == "http" and allow_http and _is_loopback(host)):
        return None
    return "must be https; http needs allow_http and a host on loopback"


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _refuse_duplicates(what: str, values: Iterable[str]) -> None:
    seen = list(values)
    if len(set(seen)) != len(seen):
        raise ValueError(f"the same {what} is given twice")


ConfigPath = Annotated[Path, AfterValidator(_absolute)]
Seconds = Annotated[timedelta, AfterValidator(_positive)]
ProbePeriod = Annotated[timedelta, Field(ge=timedelta(milliseconds=100), le=timedelta(days=1))]
Username = Annotated[str, AfterValidator(_name)]
Port = Annotated[str, Field(pattern=r"^(\[[0-9a-fA-F:]+\]|[^:\s\[\]]+):\d{1,5}$")]
Identifier = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]


class Section(BaseModel):
    """A part of the tree: immutable, and refuses keys that it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Facility(Section):
    """Who operates this server."""

    id: Identifier = "demo"
    name: str = "Demo facility"


class State(Section):
    """Where the server keeps what must survive."""

    directory: ConfigPath = Field(default=Path("var"), validate_default=True)
    database: str | None = Field(default=None, pattern=r"^(sqlite:///.+|postgresql://.+)$")

    @property
    def database_url(self) -> str:
        """The database to use: the configured one, or SQLite in the state directory."""
        return self.database or f"sqlite:///{self.directory / 'state.db'}"


class Tls(Section):
    """Certificates of a listener: PEM files, read again when they change."""

    certificate: ConfigPath
    key: ConfigPath
    client_ca: ConfigPath | None = None


class Grpc(Section):
    """The gRPC listeners."""

    listen: tuple[Port, ...] = ("127.0.0.1:50051",)
    tls: Tls | None = None
    unix_socket: ConfigPath | None = None
    max_message_bytes: int = Field(default=16 * 1024 * 1024, ge=64 * 1024)
    keepalive_min_interval: Seconds = timedelta(seconds=5)
    max_connection_age: Seconds | None = None
    max_streams_per_connection: int = Field(default=2000, ge=1)
    reuse_port: bool = False


class Http(Section):
    """The small HTTP listener beside gRPC: probes, metrics, OpenAPI, server-sent events."""

    listen: Port | None = "127.0.0.1:8081"
    unix_socket: ConfigPath | None = None


class DevToken(Section):
    """A fixed token for development. Never use one where others can reach the server."""

    token: SecretStr = Field(min_length=16, max_length=4096)
    username: Username
    role: Role = "user"
    projects: tuple[str, ...] = ()

    @field_validator("token")
    @classmethod
    def _bearer(cls, token: SecretStr) -> SecretStr:
        if not re.fullmatch(r"[A-Za-z0-9._~+/-]+=*", token.get_secret_value()):
            raise ValueError("may have only letters, digits and . _ ~ + / - and = at the end")
        return token


class Issuer(Section):
    """An OpenID Connect provider whose access tokens are accepted.

    The usernames of all issuers, certificates and development tokens are one namespace: the same name is
    the same owner of jobs. Where two issuers may give one name to different people, give each its own
    ``username_prefix``.
    """

    issuer: str
    audience: str = Field(min_length=1)
    jwks_uri: str | None = None
    algorithms: tuple[Algorithm, ...] = Field(default=("RS256", "ES256", "PS256", "EdDSA", "Ed25519"), min_length=1)
    username_claim: str = Field(default="preferred_username", min_length=1)
    username_prefix: str = Field(default="", max_length=100)
    groups_claim: str = Field(default="groups", min_length=1)
    projects_claim: str = Field(default="projects", min_length=1)
    require_scopes: bool = True
    scope_prefix: str = ""
    role_groups: dict[str, Role] = Field(default_factory=dict)
    default_role: Role = "user"
    leeway: timedelta = Field(default=timedelta(seconds=30), ge=timedelta(), le=timedelta(minutes=10))
    jwks_max_age: Seconds = timedelta(minutes=10)
    jwks_max_stale: timedelta = Field(default=timedelta(hours=1), ge=timedelta())
    ca: ConfigPath | None = None
    allow_http: bool = False

    @model_validator(mode="after")
    def _safe_urls(self) -> Issuer:
        for key, url in (("issuer", self.issuer), ("jwks_uri", self.jwks_uri)):
            if url is not None and (problem := provider_url_error(url, self.allow_http)):
                raise ValueError(f"{key} {problem}")
        return self


class CertificateUser(Section):
    """Whom a verified client certificate stands for; needs ``grpc.tls.client_ca``."""

    name: str = Field(min_length=1)
    username: Username
    role: Role = "user"


class Auth(Section):
    """Who may sign in, and how."""

    dev_tokens: tuple[DevToken, ...] = ()
    issuers: tuple[Issuer, ...] = ()
    certificates: tuple[CertificateUser, ...] = ()
    token_cache_age: Seconds = timedelta(minutes=1)
    token_cache_entries: int = Field(default=10_000, ge=1)

    @model_validator(mode="after")
    def _unambiguous(self) -> Auth:
        _refuse_duplicates("issuer", (issuer.issuer for issuer in self.issuers))
        _refuse_duplicates("development token", (dev.token.get_secret_value() for dev in self.dev_tokens))
        _refuse_duplicates("certificate name", (user.name for user in self.certificates))
        return self


class Limits(Section):
    """Bounds that keep one caller from taking the server away from the others."""

    unary_concurrency: int = Field(default=500, ge=1)
    streams: int = Field(default=10_000, ge=1)
    streams_per_caller: int = Field(default=2_000, ge=1)
    default_deadline: Seconds = timedelta(seconds=30)
    unfinished_jobs_per_owner: int = Field(default=50_000, ge=1)


class Events(Section):
    """The event log and the watches."""

    keep: Seconds = timedelta(days=7)
    keep_events: int = Field(default=1_000_000, ge=1000)
    ring_events: int = Field(default=20_000, ge=100)
    ring_bytes: int = Field(default=64 * 1024 * 1024, ge=1024 * 1024)
    bookmark_interval: Seconds = timedelta(seconds=30)


class LocalJobs(Section):
    """A compute resource that runs jobs as processes of this machine."""

    id: Identifier
    engine: Literal["local"]
    cores: int | None = Field(default=None, ge=1)
    memory: int | None = Field(default=None, ge=1024 * 1024)
    default_duration: Seconds | None = None
    max_duration: Seconds | None = None
    kill_grace: Seconds = timedelta(seconds=5)
    keep_ended: Seconds | None = timedelta(days=30)
    spool: ConfigPath | None = None


class SlurmRest(Section):
    """How slurmrestd is reached. The key signs a token for each user: who can read it has root's power over jobs."""

    unix_socket: ConfigPath | None = None
    url: str | None = Field(default=None, pattern=r"^https?://[^/?#]+$")
    jwt_key: ConfigPath

    @model_validator(mode="after")
    def _one_place(self) -> SlurmRest:
        if (self.unix_socket is None) == (self.url is None):
            raise ValueError("needs unix_socket or url, and not both")
        return self


class SlurmJobs(Section):
    """A compute resource that is a Slurm cluster."""

    id: Identifier
    engine: Literal["slurm"]
    cluster: str = Field(default="", pattern=r"^[A-Za-z0-9_-]{0,40}$")
    conf: ConfigPath | None = None
    rest: SlurmRest | None = None
    sudo: bool = False
    users: dict[str, str] = Field(default_factory=dict)
    min_uid: int = Field(default=1000, ge=0)
    operator: str | None = None
    events: ConfigPath | None = None
    controller_log: ConfigPath | None = None
    reconcile: Seconds = timedelta(seconds=15)
    timeout: Seconds = timedelta(seconds=4)
    history: Seconds = timedelta(days=7)
    external_jobs: bool = True
    environment: dict[str, str] = Field(default_factory=dict)
    launchers: dict[str, str] = Field(default_factory=dict)
    container: str | None = None
    preload: ConfigPath | None = None

    @model_validator(mode="after")
    def _unambiguous(self) -> SlurmJobs:
        _refuse_duplicates("operating system user", self.users.values())
        return self


Resource = Annotated[LocalJobs | SlurmJobs, Field(discriminator="engine")]


class Jobs(Section):
    """Compute resources. The first one is the default."""

    resources: tuple[Resource, ...] = ()

    @model_validator(mode="after")
    def _unique(self) -> Jobs:
        ids = [resource.id for resource in self.resources]
        if len(set(ids)) != len(ids):
            raise ValueError("two resources have the same id")
        return self


class ProbeDefaults(Section):
    """How probes are run that say nothing else in the description."""

    period: ProbePeriod = timedelta(seconds=5)
    deadline: Seconds = timedelta(seconds=2)
    fall: int = Field(default=2, ge=1, le=100)
    rise: int = Field(default=2, ge=1, le=100)


class Peer(Section):
    """Another facility whose status is shown beside this one's."""

    name: str = Field(min_length=1, max_length=63, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    address: Port
    tls: bool = True
    ca: ConfigPath | None = None

    @model_validator(mode="after")
    def _ca_needs_tls(self) -> Peer:
        if self.ca and not self.tls:
            raise ValueError("ca needs tls")
        return self


class Status(Section):
    """What is up, and how that is found out."""

    description: ConfigPath | None = None
    probe: ProbeDefaults = ProbeDefaults()
    anonymous_history: Seconds = timedelta(days=90)
    peers: tuple[Peer, ...] = Field(default=(), max_length=100)

    @model_validator(mode="after")
    def _unique(self) -> Status:
        _refuse_duplicates("peer", (peer.name for peer in self.peers))
        return self


class Telemetry(Section):
    """Traces; metrics are always at ``/metrics`` of the HTTP listener."""

    otlp_endpoint: str | None = None
    sample_ratio: float = Field(default=0.01, ge=0, le=1)


class Log(Section):
    """What is written to standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    access: bool = True


class Shutdown(Section):
    """How the server stops."""

    drain: timedelta = Field(default=timedelta(), ge=timedelta())
    grace: Seconds = timedelta(seconds=1)


class Config(Section):
    """The whole configuration."""

    facility: Facility = Facility()
    state: State = Field(default_factory=dict, validate_default=True)
    grpc: Grpc = Grpc()
    http: Http = Http()
    auth: Auth = Auth()
    limits: Limits = Limits()
    events: Events = Events()
    jobs: Jobs = Jobs()
    status: Status = Status()
    telemetry: Telemetry = Telemetry()
    log: Log = Log()
    shutdown: Shutdown = Shutdown()

    @model_validator(mode="after")
    def _certificates_need_a_ca(self) -> Config:
        if self.auth.certificates and not (self.grpc.tls and self.grpc.tls.client_ca):
            raise ValueError("auth.certificates needs grpc.tls.client_ca")
        return self


def load(path: Path) -> Config:
    """Reads a configuration file. Raises ConfigError."""
    return _validated(Document.read(path), path.parent)


def parse(text: str, directory: Path, name: str = "configuration") -> Config:
    """Reads a configuration from text; relative paths are taken from ``directory``. Raises ConfigError."""
    return _validated(Document(text, name), directory)


def _validated(document: Document, directory: Path) -> Config:
    return document.validate(Config, {"directory": directory})
