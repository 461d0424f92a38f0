"""`openfacility config`."""

from __future__ import annotations

from typing import Any

import click

from openfacility_cli import _config
from openfacility_cli._app import App, json_option, pass_app

_SECRET = {"token"}
_TRUE, _FALSE = {"1", "true", "yes", "on"}, {"0", "false", "no", "off"}


@click.group()
def config() -> None:
    """Show and change the settings of this command, which are kept in profiles."""


@config.command()
@json_option
@pass_app
def show(app: App) -> None:
    """Show the settings in effect, and where each comes from."""
    settings = app.settings
    if app.as_json:
        app.json({key: "(hidden)" if key in _SECRET else _plain(item.value) for key, item in settings.items()})
        return
    click.echo(f"# {_config.path()}")
    for key, item in settings.items():
        click.echo(f"{key} = {'(hidden)' if key in _SECRET else item.value}  # {item.source}")


@config.command("set")
@click.argument("key", type=click.Choice([*_config.KEYS, "profile"]))
@click.argument("value")
@click.option("--profile", "name", metavar="NAME", help="Profile to change; else the one in use.")
@pass_app
def set_(app: App, /, key: str, value: str, name: str | None) -> None:
    """Set KEY of a profile to VALUE (an empty one removes it); `profile` sets which profile is used."""
    content = _config.load()
    if key == "profile":
        content["profile"] = value
    else:
        name = name or _config.profile_name(content, app.profile)
        profile = content.setdefault("profiles", {}).setdefault(name, {})
        if value:
            profile[key] = _read(key, value)
        else:
            profile.pop(key, None)
    _config.save(content)


def _read(key: str, value: str) -> Any:
    kind = _config.KEYS[key]
    if kind is bool:
        if value.lower() not in _TRUE | _FALSE:
            raise click.UsageError(f"{key} is true or false")
        return value.lower() in _TRUE
    try:
        return kind(value)
    except ValueError:
        raise click.UsageError(f"{key} must be a number") from None


def _plain(value: Any) -> Any:
    return value if isinstance(value, (bool, int, float)) else str(value)
