"""The server's configuration: one typed tree, read from one YAML file.

Every key is described in ``default.yaml`` beside this module, which is a complete, valid file. An unknown key or a bad
value is an error at start that names the key, the line and what would be right. Relative paths are relative to the
configuration file. Durations are numbers of seconds, sizes are bytes.
"""

from __future__ import annotations

import ipaddress
import re
import unicodedata
from collections.abc import Iterable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

Role = Literal["anonymous", "user", "operator", "admin"]
# Only signatures by a private key: an issuer's public keys must never serve as an HMAC secret.
Algorithm = Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "Ed25519"]


class ConfigError(Exception):
    """The configuration cannot be used; ``str()`` lists what to correct, a line each."""


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


class Jobs(Section):
    """Compute resources. The first one is the default."""

    resources: tuple[LocalJobs, ...] = ()

    @model_validator(mode="after")
    def _unique(self) -> Jobs:
        ids = [resource.id for resource in self.resources]
        if len(set(ids)) != len(ids):
            raise ValueError("two resources have the same id")
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
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
    return parse(text, path.parent, str(path))


def parse(text: str, directory: Path, name: str = "configuration") -> Config:
    """Reads a configuration from text; relative paths are taken from ``directory``. Raises ConfigError."""
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        tree = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise ConfigError(f"{name}{line}: {getattr(error, 'problem', None) or 'is not YAML'}") from error
    if root is not None and (problems := list(_duplicates(root))):
        # YAML would let the last one win.
        raise ConfigError("\n".join(f"{name}:{line}: {key}: is given twice" for line, key in problems))
    if tree is None:
        tree = {}
    if not isinstance(tree, dict):
        raise ConfigError(f"{name}: must be a mapping of sections")
    try:
        return Config.model_validate(tree, context={"directory": directory})
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(name, root, problem) for problem in error.errors())) from None


def _duplicates(node: yaml.Node, path: str = "") -> Iterator[tuple[int, str]]:
    """Yields line and path of every key that its mapping has before."""
    if isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield from _duplicates(value, f"{path}{index}.")
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if str(key.value) in seen:
                yield key.start_mark.line + 1, f"{path}{key.value}"
            seen.add(str(key.value))
            yield from _duplicates(value, f"{path}{key.value}.")


def _explain(name: str, root: yaml.Node | None, problem: Any) -> str:
    location = problem["loc"]
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "extra_forbidden":
        message = "unknown key"
    elif problem["type"].startswith("time_delta"):
        message = "must be a duration: a number of seconds"
    where = ".".join(str(part) for part in location) or "configuration"
    return f"{name}:{_line(root, location)}: {where}: {message}"


def _line(node: yaml.Node | None, location: tuple[Any, ...]) -> int:
    """Returns the line of the deepest node on the way to ``location`` that exists, from 1."""
    line = node.start_mark.line + 1 if node else 1
    for part in location:
        found: yaml.Node | None = None
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                if key.value == str(part):
                    found, line = value, key.start_mark.line + 1
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            found = node.value[part]
            line = found.start_mark.line + 1
        if found is None:
            break
        node = found
    return line
