"""The configuration: the documented file is the defaults, and what is wrong is named with its line."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, get_args

import pydantic
import pytest
import yaml
from openfacility_server import __main__ as command
from openfacility_server import config as configuration
from openfacility_server.config import Config, ConfigError

DEFAULT = Path(configuration.__file__).with_name("default.yaml")
PROGRAM = Path(__file__).parents[2] / ".venv/bin/openfacility-server"
# Settings that only an example shows, because there is none of them by default.
_EXAMPLES = {"dev_tokens", "issuers", "certificates", "resources", "tls", "peers"}


def _sections(annotation: Any) -> Iterator[type[pydantic.BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, pydantic.BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _sections(argument)


def _keys(model: type[pydantic.BaseModel], path: str = "") -> Iterator[tuple[str, bool]]:
    """Yields every key of the model, and whether it is below one that only an example shows."""
    for name, field in model.model_fields.items():
        where = f"{path}{name}"
        yield where, any(part in _EXAMPLES for part in path.split("."))
        for section in _sections(field.annotation):
            yield from _keys(section, f"{where}.")


def _value(tree: Any, path: str) -> Any:
    for part in path.split("."):
        assert part in tree, f"default.yaml does not show {path}"
        tree = tree[part]
    return tree


# The default file.


def test_default_file_is_the_defaults() -> None:
    found = configuration.load(DEFAULT)
    # Relative paths are relative to the file.
    defaults = configuration.parse("", DEFAULT.parent)
    assert found == defaults
    assert defaults.state.directory == DEFAULT.parent / "var"
    assert Config().model_copy(update={"state": defaults.state}) == defaults


def test_default_file_shows_every_key() -> None:
    text = DEFAULT.read_text()
    tree = yaml.safe_load(text)
    for path, example in _keys(Config):
        if not example:
            _value(tree, path)
        else:
            # In a comment that begins a line, or in an inline example.
            assert re.search(rf"[#{{ ,-]\s*{re.escape(path.rpartition('.')[2])}:", text), f"{path} is shown nowhere"


def test_default_file_has_no_key_twice() -> None:
    def check(node: yaml.Node) -> None:
        if isinstance(node, yaml.MappingNode):
            names = [key.value for key, _ in node.value]
            assert len(set(names)) == len(names), names
            for _, value in node.value:
                check(value)

    root = yaml.compose(DEFAULT.read_text(), Loader=yaml.SafeLoader)
    assert root is not None
    check(root)


def test_examples_of_the_default_file_are_valid() -> None:
    lines = []
    for line in DEFAULT.read_text().splitlines():
        opened = re.sub(r"^(\s+)# (?=- |  )", r"\1", line)
        key = re.match(r"(\s+)(issuers|resources): \[\]", line)
        lines.append(f"{key[1]}{key[2]}:" if key else opened)
    found = configuration.parse("\n".join(lines), Path("/srv"))
    (issuer,) = found.auth.issuers
    bare = type(issuer)(issuer=issuer.issuer, audience=issuer.audience)
    changed = {name for name in type(issuer).model_fields if getattr(issuer, name) != getattr(bare, name)}
    assert changed <= {"role_groups"}, "the example shows other values than the defaults"
    assert [resource.engine for resource in found.jobs.resources] == ["local", "slurm"]
    for resource in found.jobs.resources:
        assert resource == type(resource)(id=resource.id, engine=resource.engine)
    for section, name in (("auth", "dev_tokens"), ("auth", "certificates"), ("status", "peers")):
        (example,) = re.findall(rf"{name}: \[\].*example: (\[.*\])", DEFAULT.read_text())
        tree: dict[str, Any] = {section: {name: yaml.safe_load(example)}}
        tree["grpc"] = {"tls": {"certificate": "c", "key": "k", "client_ca": "a"}}
        assert getattr(getattr(configuration.parse(yaml.safe_dump(tree), Path("/srv")), section), name)


# What is wrong.

WRONG = [
    ("grpc:\n  lisen: []\n", 2, "grpc.lisen", "unknown key"),
    ("gprc: {}\n", 1, "gprc", "unknown key"),
    ("log:\n  level: info\nlimits:\n  streams: 0\n", 4, "limits.streams", "greater than or equal to 1"),
    ("limits:\n  streams: many\n", 2, "limits.streams", "valid integer"),
    ("grpc:\n  listen: [\n    '127.0.0.1:50051',\n    nowhere]\n", 4, "grpc.listen.1", "pattern"),
    ("grpc:\n  listen: 127.0.0.1:1\n", 2, "grpc.listen", "valid tuple"),
    ("grpc: 5\n", 1, "grpc", "valid dictionary"),
    ("log:\n  level: loud\n", 2, "log.level", "'debug'"),
    ("shutdown:\n  grace: 0\n", 2, "shutdown.grace", "must be more than 0"),
    ("shutdown:\n  grace: -1\n", 2, "shutdown.grace", "must be more than 0"),
    ("events:\n  keep: for ever\n", 2, "events.keep", "duration"),
    ("telemetry:\n  sample_ratio: 2\n", 2, "telemetry.sample_ratio", "less than or equal to 1"),
    ("state:\n  database: mysql://x\n", 2, "state.database", "pattern"),
    ("facility:\n  id: My Lab\n", 2, "facility.id", "pattern"),
    (
        "jobs:\n  resources:\n    - id: a\n      engine: local\n    - id: b\n      engine: slrum\n",
        5,
        "jobs.resources.1",
        "'local'",
    ),
    ("jobs:\n  resources:\n    - {id: a, engine: local}\n    - {id: a, engine: local}\n", 1, "jobs", "same id"),
    ("auth:\n  dev_tokens:\n    - token: short\n      username: a\n", 3, "auth.dev_tokens.0.token", "at least 16"),
    ("auth:\n  dev_tokens:\n    - token: long-enough-for-one\n", 3, "auth.dev_tokens.0.username", "required"),
    ("auth:\n  issuers:\n    - issuer: http://x.org\n      audience: y\n", 3, "auth.issuers.0", "must be https"),
    ("auth:\n  certificates: [{name: n, username: u}]\n", 1, "configuration", "needs grpc.tls.client_ca"),
]


@pytest.mark.parametrize(("text", "line", "key", "says"), WRONG, ids=[f"{wrong[2]}-{wrong[3]}" for wrong in WRONG])
def test_what_is_wrong_is_named_with_file_line_and_key(
    text: str, line: int, key: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "facility.yaml"
    file.write_text(text)
    assert command.main(["config", "check", str(file)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (message,) = captured.err.splitlines()
    where, _, rest = message.partition(": ")
    assert where == f"{file}:{line}"
    assert rest.startswith(key), message
    assert says in rest, message


def test_all_that_is_wrong_is_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        configuration.parse("grpc:\n  a: 1\n  b: 2\nlog:\n  level: loud\n", tmp_path, "f")
    assert [line.partition(" ")[0] for line in str(caught.value).splitlines()] == ["f:2:", "f:3:", "f:5:"]


@pytest.mark.parametrize(
    ("text", "line"), [("a: [1\nb: 2\n", 2), ("grpc:\n\tlisten: []\n", 2), ("x: !!python/object:os.system {}\n", 1)]
)
def test_what_is_no_yaml_is_named_with_its_line(text: str, line: int, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=rf"^f:{line}: "):
        configuration.parse(text, tmp_path, "f")


def test_a_key_given_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^f:3: log\.level: .*twice"):
        configuration.parse("log:\n  level: info\n  level: debug\n", tmp_path, "f")


@pytest.mark.parametrize("text", ["- 1\n", "word\n", "5\n"])
def test_what_is_no_mapping_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="must be a mapping"):
        configuration.parse(text, tmp_path, "f")


def test_a_secret_is_not_repeated_in_a_message(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        configuration.parse("auth:\n  dev_tokens:\n    - {token: not a bearer token, username: alice}\n", tmp_path, "f")
    assert "not a bearer" not in str(caught.value)
    assert "not-shown-to-anyone" not in repr(
        configuration.parse("auth: {dev_tokens: [{token: not-shown-to-anyone, username: alice}]}\n", tmp_path)
    )


def test_missing_and_unreadable_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["config", "check", str(tmp_path / "none.yaml")]) == 2
    assert "none.yaml: cannot be read: No such file" in capsys.readouterr().err
    assert command.main(["config", "check", str(tmp_path)]) == 2
    (tmp_path / "latin.yaml").write_bytes(b"facility: {name: \xe9\xe9}\n")
    assert command.main(["config", "check", str(tmp_path / "latin.yaml")]) == 2
    assert "latin.yaml: cannot be read" in capsys.readouterr().err


# What is right.


def test_values_are_taken_as_written(tmp_path: Path) -> None:
    text = """
    state: {directory: data}
    grpc: {listen: ["[::1]:0", "0.0.0.0:50051"], unix_socket: run/grpc.sock, max_connection_age: 0.5}
    http: {listen: null}
    jobs: {resources: [{id: big, engine: local, cores: 8, spool: /srv/spool, keep_ended: null}]}
    """
    found = configuration.parse(text, tmp_path)
    assert found.state.directory == tmp_path / "data"
    assert found.state.database_url == f"sqlite:///{tmp_path}/data/state.db"
    assert found.grpc.unix_socket == tmp_path / "run/grpc.sock"
    assert found.grpc.max_connection_age == timedelta(seconds=0.5)
    assert found.http.listen is None
    (resource,) = found.jobs.resources
    assert (resource.cores, resource.spool, resource.keep_ended) == (8, Path("/srv/spool"), None)


# The commands, as people run them.


def test_commands(tmp_path: Path) -> None:
    printed = _run("config", "default")
    assert (printed.returncode, printed.stderr) == (0, "")
    assert printed.stdout == DEFAULT.read_text()
    file = tmp_path / "facility.yaml"
    file.write_text(printed.stdout)
    checked = _run("config", "check", str(file))
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, f"{file}: valid\n", "")
    assert sorted(tmp_path.iterdir()) == [file], "checking makes nothing"
    file.write_text("grcp: {}\n")
    for arguments in (("config", "check"), ("serve",)):
        refused = _run(*arguments, str(file))
        assert (refused.returncode, refused.stdout) == (2, "")
        assert refused.stderr == f"{file}:1: grcp: unknown key\n"


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([PROGRAM, *arguments], capture_output=True, text=True, timeout=60, check=False)
