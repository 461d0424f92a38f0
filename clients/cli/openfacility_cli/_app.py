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
    from openfacility_client import Client, Job, JobChange, RPCError

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
            from openfacility_client import TLS, Client  # noqa: PLC0415 - help does not need it

            values = {key: setting.value for key, setting in self.settings.items()}
            files: dict[str, Any] = {key: Path(values[key]) for key in ("ca", "cert", "key") if key in values}
            self._client = Client(
                values["address"],
                token=_token(values),
                tls=TLS(**files) if values.get("tls", bool(files)) else False,
                insecure=bool(values.get("insecure")),
                timeout=values.get("timeout"),
            )
        return self._client

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

    def json(self, value: Job | JobChange | dict[str, Any]) -> None:
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
