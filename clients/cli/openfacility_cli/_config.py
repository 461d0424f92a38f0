"""Where to connect to and as whom: from options, else the environment, else a profile, else this machine.

The configuration is `$XDG_CONFIG_HOME/openfacility/config.toml`:

    profile = "site"              # used unless --profile or OPENFACILITY_PROFILE says otherwise; else "default"

    [profiles.site]
    address = "jobs.example.org:443"
    token_file = "/home/me/.openfacility-token"
    tls = true
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

DEFAULT_ADDRESS = "127.0.0.1:50051"
KEYS: Mapping[str, type] = {
    "address": str,
    "token": str,
    "token_file": str,
    "tls": bool,
    "ca": str,
    "cert": str,
    "key": str,
    "insecure": bool,
    "timeout": float,
}
"""What a profile may have."""
_ENVIRONMENT = ("address", "token", "token_file")
_CREDENTIALS = ("token", "token_file", "cert", "key")


class ConfigError(click.ClickException):
    """The configuration file cannot be used."""

    exit_code = 2

    def show(self, file: Any = None) -> None:
        """Say so."""
        click.echo(f"openfacility: {self.format_message()}", err=True)


@dataclass(frozen=True, slots=True)
class Setting:
    """A value and where it comes from."""

    value: Any
    source: str


def path() -> Path:
    """Return where the configuration is, or would be."""
    base = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(base) / "openfacility" / "config.toml"


def load() -> dict[str, Any]:
    """Read the configuration; empty when there is none.

    Raises:
        ConfigError: it cannot be read, or has keys or values that mean nothing.
    """
    try:
        content = tomllib.loads(path().read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ConfigError(f"{path()}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path()}: {error}") from error
    unknown = content.keys() - {"profile", "profiles"}
    profiles = content.get("profiles", {})
    if unknown or not isinstance(profiles, dict):
        raise ConfigError(f"{path()}: only profile and [profiles.NAME] are known, not {', '.join(unknown) or profiles}")
    for name, profile in profiles.items():
        for key, value in profile.items() if isinstance(profile, dict) else [(name, profile)]:
            if key not in KEYS:
                raise ConfigError(f"{path()}: profile {name}: {key} is not known; there are {', '.join(KEYS)}")
            if not isinstance(value, (int, float) if KEYS[key] is float else KEYS[key]):
                raise ConfigError(f"{path()}: profile {name}: {key} must be a {KEYS[key].__name__}")
    return content


def save(content: Mapping[str, Any]) -> None:
    """Write the configuration, readable by its owner only, for it may hold a token."""
    lines = [f"profile = {_toml(content['profile'])}", ""] if "profile" in content else []
    for name, profile in content.get("profiles", {}).items():
        lines += [f"[profiles.{_toml(name)}]", *(f"{key} = {_toml(value)}" for key, value in profile.items()), ""]
    target = path()
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_suffix(".new")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
        file.write("\n".join(lines))
    draft.replace(target)


def profile_name(content: Mapping[str, Any], wanted: str | None) -> str:
    """Return the name of the profile to use."""
    return wanted or os.environ.get("OPENFACILITY_PROFILE") or content.get("profile") or "default"


def resolve(options: Mapping[str, Any], profile: str | None) -> dict[str, Setting]:
    """Put the settings together, each from the first place that has it.

    A profile's credentials are for its address: they are left alone when the address comes from elsewhere.

    Raises:
        ConfigError: the configuration is wrong, or the profile that was asked for is not there.
    """
    content = load()
    name = profile_name(content, profile)
    profiles = content.get("profiles", {})
    if name not in profiles and name != "default":
        raise ConfigError(f"there is no profile {name} in {path()}")
    settings = {"address": Setting(DEFAULT_ADDRESS, "default")}
    own = profiles.get(name, {})
    environment = {key: os.environ.get(f"OPENFACILITY_{key.upper()}") for key in _ENVIRONMENT}
    elsewhere = options.get("address") or environment["address"]
    for key, value in own.items():
        if not (elsewhere and elsewhere != own.get("address") and key in _CREDENTIALS):
            settings[key] = Setting(value, f"profile {name}")
    for source, values in (("environment", environment), ("option", options)):
        given = {key: value for key, value in values.items() if value not in (None, "")}
        if given.keys() & {"token", "token_file"}:
            settings.pop("token", None)
            settings.pop("token_file", None)
        settings.update({key: Setting(value, source) for key, value in given.items()})
    return settings


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        if not escaped.isprintable():
            raise ConfigError("a value must be printable")
        return f'"{escaped}"'
    return str(value)
