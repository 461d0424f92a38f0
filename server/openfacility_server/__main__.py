"""The command ``openfacility-server``."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from pathlib import Path

from openfacility_server import config as configuration
from openfacility_server import logs
from openfacility_server.config import Config, ConfigError
from openfacility_server.status import description


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="openfacility-server", description="The server of a research computing facility."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    serve = commands.add_parser("serve", help="serve until SIGTERM or SIGINT")
    serve.add_argument("config", type=Path, help="configuration file")
    serve.set_defaults(run=_serve)
    config = commands.add_parser("config", help="look at configurations")
    actions = config.add_subparsers(required=True, metavar="ACTION")
    check = actions.add_parser(
        "check", help="say whether a file, and the description it names, are valid, and the lines that are not"
    )
    check.add_argument("config", type=Path)
    check.set_defaults(run=_check)
    default = actions.add_parser("default", help="print the commented default file")
    default.set_defaults(run=_default)
    facility = actions.add_parser("facility", help="print a commented description of a facility")
    facility.set_defaults(run=_facility)
    envoy = commands.add_parser("envoy-config", help="print Envoy's configuration for a server")
    envoy.add_argument("config", type=Path)
    envoy.add_argument("--listen", default="127.0.0.1:8080", help="where Envoy listens (default: %(default)s)")
    envoy.set_defaults(run=_envoy_config)
    demo = commands.add_parser("demo", help="make a small facility in a directory, and serve it together with Envoy")
    demo.add_argument("--directory", type=Path, default=Path("var"), help="state (default: ./var)")
    demo.add_argument("--json", default="127.0.0.1:8080", help="where Envoy listens (default: %(default)s)")
    demo.set_defaults(run=_demo)
    return parser


def _serve(options: argparse.Namespace) -> int:
    config = configuration.load(options.config)
    return run(config)


def run(config: Config) -> int:
    """Serves until a signal says to stop; a second one stops at once."""
    import uvloop  # noqa: PLC0415 -- `config check` does without the server's weight

    from openfacility_server.serving import serve  # noqa: PLC0415

    logs.configure(config.log.level)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(serve(config, (signal.SIGTERM, signal.SIGINT)))


def _check(options: argparse.Namespace) -> int:
    config = configuration.load(options.config)
    description.load(config)
    print(f"{options.config}: valid")
    if config.status.description:
        print(f"{config.status.description}: valid")
    return 0


def _default(_: argparse.Namespace) -> int:
    print((Path(__file__).parent / "default.yaml").read_text(encoding="utf-8"), end="")
    return 0


def _facility(_: argparse.Namespace) -> int:
    print(description.EXAMPLE.read_text(encoding="utf-8"), end="")
    return 0


def _envoy_config(options: argparse.Namespace) -> int:
    from openfacility_server import edge  # noqa: PLC0415

    config = configuration.load(options.config)
    try:
        print(edge.render(edge.settings(config, listen=options.listen)), end="")
    except edge.EnvoyError as error:
        raise ConfigError(str(error)) from error
    return 0


def _demo(options: argparse.Namespace) -> int:
    from openfacility_server import demo  # noqa: PLC0415

    return demo.run(options.directory, options.json)


if __name__ == "__main__":
    sys.exit(main())
