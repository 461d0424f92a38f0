"""What every command shares: the client, the way to print, the options that all of them have."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from openfacility_cli import _config

if TYPE_CHECKING:
    from openfacility_client import Client, RPCError

F = TypeVar("F", bound=Callable[..., Any])


class App:
    """One run of the command line."""

    def __init__(self, options: Mapping[str, Any], *, profile: str | None, as_json: bool) -> None:
        """Take the global options."""
        self.as_json = as_json
        self.profile = profile
        self._options = options
        self._client: Client | None = None
        self._interrupted = False

    @property
    def settings(self) -> dict[str, _config.Setting]:
        """Where to connect to and as whom."""
        return _config.resolve(self._options, self.profile)

    @property
    def client(self) -> Client:
        """The client, made when it is first wanted."""
        if self._client is None:
            self._client = make_client({key: setting.value for key, setting in self.settings.items()})
        return self._client

    def facilities(self, given: Mapping[str, str]) -> dict[str, dict[str, Any]]:
        """Return the settings of several facilities: those given by name and address, else all profiles.

        A token is only for the profile that it stands in, so that no facility gets another's.
        """
        if given:
            shared = {key: value for key in ("tls", "ca", "timeout") if (value := self._options.get(key)) is not None}
            return {name: {**shared, "address": address} for name, address in given.items()}
        profiles = _config.load().get("profiles", {})
        return {name: {"address": _config.DEFAULT_ADDRESS, **profile} for name, profile in profiles.items()}

    @property
    def live(self) -> bool:
        """Whether a person is looking."""
        return not self.as_json and sys.stdout.isatty()

    def close(self) -> None:
        """Close the connection."""
        if self._client is not None:
            self._client.close()

    def line(self, text: str) -> None:
        """Print a line at once."""
        click.echo(text)
        sys.stdout.flush()

    def json(self, value: Any) -> None:
        """Print a result as one line of JSON."""
        from openfacility_client import to_json  # noqa: PLC0415 - help does not need it

        content = value if isinstance(value, dict) else to_json(value)
        self.line(json.dumps(content, ensure_ascii=False, separators=(",", ":")))

    def note(self, text: str) -> None:
        """Tell the person something that is not a result."""
        click.echo(f"openfacility: {text}", err=True)

    def on_disconnect(self, error: RPCError | None, delay: float) -> None:
        """Say once that the connection is lost, the first time that it is more than a hiccup."""
        if delay > 1 and not self._interrupted:
            self._interrupted = True
            self.note(f"interrupted ({error.message if error else 'ended by the server'}); trying again")


def make_client(values: Mapping[str, Any]) -> Client:
    """Return a client with these settings."""
    from openfacility_client import TLS, Client  # noqa: PLC0415 - help does not need it

    files: dict[str, Any] = {key: Path(values[key]) for key in ("ca", "cert", "key") if key in values}
    return Client(
        values["address"],
        token=_token(values),
        tls=TLS(**files) if values.get("tls", bool(files)) else False,
        insecure=bool(values.get("insecure")),
        timeout=values.get("timeout"),
    )


pass_app = click.make_pass_decorator(App)


def json_option(command: F) -> F:
    """Take `--json` after the command too."""

    def switch(context: click.Context, _: click.Parameter, value: bool) -> None:
        if value:
            context.find_object(App).as_json = True  # type: ignore[union-attr]

    option = click.option(
        "--json", is_flag=True, expose_value=False, callback=switch, help="Print JSON, one object per line."
    )
    return option(command)


def _token(values: Mapping[str, Any]) -> Any:
    if values.get("token"):
        return values["token"]
    if values.get("token_file"):
        return Path(values["token_file"]).expanduser().read_text
    return None
