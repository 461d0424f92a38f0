"""The facility's description: what is wrong is named with its line, what is right is taken as written."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

import pydantic
import pytest
import yaml
from openfacility_server import __main__ as command
from openfacility_server import config as configuration
from openfacility_server import demo, yamlfile
from openfacility_server.config import Config, ConfigError
from openfacility_server.status import description, entries
from openfacility_server.status.graph import Graph
from openfacility_server.status.probes import (
    DatabaseTarget,
    FileSystemTarget,
    HttpTarget,
    JobsTarget,
    Probe,
    TcpTarget,
    Timing,
)

NOW = datetime(2026, 11, 22, tzinfo=UTC)
CONFIG = "facility: {id: demo}\njobs: {resources: [{id: local, engine: local}]}\n"


def _config(text: str = CONFIG) -> Config:
    return configuration.parse(text, Path("/srv"))


def _parse(text: str, config: Config | None = None) -> description.Description:
    return description.parse(text, Path("/srv"), config or _config(), "f")


def _resources(*lines: str) -> str:
    return "\n".join(["sites: [{id: a}]", "resources:", *lines, ""])


# The example.


def test_example_is_valid_and_the_demo_has_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = demo._prepare(tmp_path / "var")
    assert command.main(["config", "check", str(file)]) == 0
    shown = tmp_path / "var/facility.yaml"
    assert capsys.readouterr().out == f"{file}: valid\n{shown}: valid\n"
    assert command.main(["config", "facility"]) == 0
    assert capsys.readouterr().out == description.EXAMPLE.read_text()
    found = description.load(configuration.load(file))
    assert len(found.sites) >= 2
    assert all(site.latitude is not None and site.unlocode for site in found.sites)
    targets = {probe.resource_id: probe.target for probe in found.probes}
    assert targets["local"] == JobsTarget("local")
    assert isinstance(targets["database"], DatabaseTarget)
    state = targets["state"]
    assert isinstance(state, FileSystemTarget)
    assert state.path == tmp_path / "var"
    assert isinstance(targets["json"], HttpTarget)
    assert found.resource_of_jobs("local") == "local"
    assert set(Graph(found.resources).with_dependents(["state"])) >= {"state", "local", "database"}


def test_demo_keeps_what_people_wrote(tmp_path: Path) -> None:
    (tmp_path / "facility.yaml").write_text("sites: [{id: mine}]\n")
    file = demo._prepare(tmp_path)
    assert [site.id for site in description.load(configuration.load(file)).sites] == ["mine"]
    demo._prepare(tmp_path)
    assert (tmp_path / "facility.yaml").read_text() == "sites: [{id: mine}]\n"


def test_example_shows_every_key() -> None:
    text = description.EXAMPLE.read_text()

    def keys(annotation: Any) -> set[str]:
        found = set()
        if isinstance(annotation, type) and issubclass(annotation, pydantic.BaseModel):
            for name, field in annotation.model_fields.items():
                found |= {name} | keys(field.annotation)
        return found.union(*map(keys, get_args(annotation)))

    for key in keys(entries.File):
        assert re.search(rf"(?m)(?:^|[{{ ,-]){key}:", text), f"{key} is shown nowhere"


# What is right.


def test_values_are_taken_as_written() -> None:
    found = _parse(
        """
facility: {name: Lab, contacts: [{name: Desk, email: a.b+c@lab.example}]}
sites:
  - {id: s, unlocode: GB EDI, latitude: -90, longitude: 180, country_name: "NO"}
resources:
  - {id: A.b_c-1, type: compute, labels: {no: x}, capabilities: [cpu], group: g}
  - {id: b, type: "urn:doe-iri:service:website", depends_on: [A.b_c-1]}
  - {id: c, probe: {kind: jobs, resource: local, period: 1.5, fall: 3}}
  - {id: d, probe: {kind: filesystem, path: scratch, min_free_percent: 2.5, mount: /}}
  - {id: e, probe: {kind: tcp, address: "[::1]:22"}}
  - {id: f, probe: {kind: http, url: "https://x.example/", unix_socket: s.sock}}
"""
    )
    assert (found.facility.id, found.facility.name) == ("demo", "Lab")
    assert found.facility.contacts[0].email == "a.b+c@lab.example"
    (site,) = found.sites
    assert (site.unlocode, site.country_name, site.name) == ("GBEDI", "NO", "s")
    first, second = found.resources[:2]
    assert (first.resource_type, first.type_word, first.site_id) == ("urn:doe-iri:resource:compute", "compute", "s")
    assert first.labels == {"no": "x"}
    assert second.type_word == "website"
    assert found.probes == (
        Probe("c", JobsTarget("local"), Timing(1.5, 2, 3, 2)),
        Probe("d", FileSystemTarget(Path("/srv/scratch"), min_free_percent=2.5, mount=Path("/")), Timing()),
        Probe("e", TcpTarget("::1", 22), Timing()),
        Probe("f", HttpTarget("https://x.example/", Path("/srv/s.sock")), Timing()),
    )
    assert found.resource_of_jobs("local") == "c"
    assert found.resource_of_jobs("other") is None


def test_parts_of_a_cluster() -> None:
    found = _parse(
        _resources(
            "  - {id: a, probe: {kind: jobs, resource: local, queue: gpu}}",
            "  - {id: b, probe: {kind: jobs, resource: local, ignore_queues: [old], nodes_out_percent: 2.5}}",
            '  - {id: c, probe: {kind: jobs, resource: local, nodes: ["n[1-4]", "login*"]}}',
        )
    )
    targets = [
        JobsTarget("local", "gpu"),
        JobsTarget("local", ignore_queues=("old",), nodes_out_percent=2.5),
        JobsTarget("local", nodes=("n[1-4]", "login*")),
    ]
    assert [probe.target for probe in found.probes] == targets
    assert found.tied("local") == list(zip("abc", targets, strict=True))
    # A part does not stand for the whole.
    assert found.resource_of_jobs("local") == "b"


def test_type_words_are_their_own_urns() -> None:
    for word, urn in entries.TYPES.items():
        (resource,) = _parse(_resources(f"  - {{id: x, type: {word}}}")).resources
        assert (resource.resource_type, resource.type_word) == (urn, word)


def test_digest_is_of_what_callers_see() -> None:
    digest = _parse(_resources("  - {id: x, labels: {a: b}}")).digest
    assert _parse("# new\n" + _resources("  - {id: x, labels: {a: b}, probe: {kind: database}}")).digest == digest
    assert _parse(_resources("  - {id: x, labels: {a: c}}")).digest != digest


def test_file_says_when_it_changed(tmp_path: Path) -> None:
    file = tmp_path / "facility.yaml"
    file.write_text("sites: [{id: a}]\n")
    config = configuration.parse("status: {description: facility.yaml}", tmp_path)
    assert description.load(config).changed_at == datetime.fromtimestamp(file.stat().st_mtime, UTC)


def test_without_a_file_it_follows_from_the_configuration() -> None:
    config = _config(
        "facility: {id: lab, name: Lab}\nstate: {directory: d}\nstatus: {probe: {period: 9}}\n"
        "jobs: {resources: [{id: big, engine: local}, {id: state, engine: local}]}\n"
    )
    found = description.load(config, NOW)
    assert (found.facility.id, found.facility.name, found.changed_at) == ("lab", "Lab", NOW)
    assert [site.id for site in found.sites] == ["lab"]
    assert [resource.id for resource in found.resources] == ["server-state", "big", "state"]
    assert {resource.site_id for resource in found.resources} == {"lab"}
    assert found.resource_of_jobs("state") == "state"
    assert [type(probe.target) for probe in found.probes] == [FileSystemTarget, JobsTarget, JobsTarget]
    assert {probe.timing.period for probe in found.probes} == {9}
    Graph(found.resources)


def test_many_resources() -> None:
    lines = [f"  - {{id: n{index}, depends_on: [n{index - 1}]}}" for index in range(1, 2000)]
    found = _parse(_resources("  - id: n0", *lines))
    assert len(found.resources) == 2000


# What is wrong.

WRONG = [
    ("sites: []\n", 1, "sites", "at least one"),
    ("facility: {}\n", 1, "sites", "required"),
    ("sites:\n  - id: a\n    lattitude: 1\n", 3, "sites.0.lattitude", "unknown key"),
    ("sites:\n  - id: a\n    latitude: 91\n    longitude: 0\n", 3, "sites.0.latitude", "less than or equal to 90"),
    ("sites:\n  - id: a\n    latitude: 0\n    longitude: -181\n", 4, "sites.0.longitude", "greater than or equal"),
    ("sites:\n  - id: a\n    latitude: .nan\n    longitude: 0\n", 3, "sites.0.latitude", "finite"),
    ("sites:\n  - id: a\n    latitude: 1\n", 2, "sites.0", "go together"),
    ("sites:\n  - id: a\n    unlocode: EDI\n", 3, "sites.0.unlocode", "UN/LOCODE"),
    ("sites:\n  - id: a\n    country_name: NO\n", 3, "sites.0.country_name", "valid string"),
    ("sites:\n  - id: a\n  - id: a\n", 3, "sites.1.id", "given twice"),
    ("sites:\n  - id: -a\n", 2, "sites.0.id", "pattern"),
    ("sites:\n  - {id: a, contacts: [{name: x, email: nobody}]}\n", 2, "sites.0.contacts.0.email", "mail address"),
    ("sites:\n  - {id: a, contacts: [{name: x}]}\n", 2, "sites.0.contacts.0", "needs email"),
    ("sites:\n  - {id: a, contacts: [{name: x, phone: '12'}]}\n", 2, "sites.0.contacts.0.phone", "international"),
    ("facility:\n  support_uri: javascript:alert(1)\nsites: [{id: a}]\n", 2, "facility.support_uri", "web address"),
    ("facility:\n  support_uri: https:///x\nsites: [{id: a}]\n", 2, "facility.support_uri", "web address"),
    ("facility:\n  id: other\nsites: [{id: a}]\n", 2, "facility.id", "is demo in the configuration"),
    (_resources("  - id: x", "    type: computer"), 4, "resources.0.type", "must be a URN"),
    (_resources("  - id: x", "    type: urn:doe-iri:compute"), 4, "resources.0.type", "must be a URN"),
    (_resources("  - id: x", "    site: b"), 4, "resources.0.site", "no site 'b'"),
    (_resources("  - id: x", "    depends_on:", "      - y"), 5, "resources.0.depends_on.0", "no resource 'y'"),
    (_resources("  - id: x", "  - id: x"), 4, "resources.1.id", "given twice"),
    (_resources("  - id: x", "    depends_on: [x]"), 4, "resources.0.depends_on", "circle: x > x"),
    (_resources("  - id: x", "    services: [jobs]"), 4, "resources.0.services.0", "pattern"),
    (_resources("  - id: x", "    labels:", "      k: 1"), 5, "resources.0.labels.k", "valid string"),
    (_resources("  - id: x", "    probe: {resource: local}"), 4, "resources.0.probe", "needs kind"),
    (_resources("  - id: x", "    probe: {kind: ping}"), 4, "resources.0.probe", "'jobs'"),
    (
        _resources("  - id: x", "    probe:", "      kind: jobs", "      resource: local", "      nodes: ['n[1']"),
        7,
        "resources.0.probe.nodes.0",
        "brackets",
    ),
    (
        _resources("  - id: x", "    probe:", "      kind: jobs", "      resource: big"),
        6,
        "resources.0.probe.resource",
        "no 'big' in jobs.resources",
    ),
    (
        _resources("  - id: x", "    probe:", "      kind: tcp", "      address: h:99999"),
        6,
        "resources.0.probe.address",
        "1 to 65535",
    ),
    (
        _resources("  - id: x", "    probe:", "      kind: filesystem", "      path: .", "      min: 1"),
        7,
        "resources.0.probe.min",
        "unknown key",
    ),
    (_resources("  - id: x", "    probe:", "      kind: http"), 4, "resources.0.probe.url", "required"),
    (_resources("  - id: x", "    probe: {kind: database, period: 0.01}"), 4, "resources.0.probe.period", "greater"),
    ("sites: [{id: a}, {id: b}]\nresources:\n  - id: x\n", 3, "resources.0.site", "several sites"),
    ("sites: [{id: a}]\nresources:\n  - id: x\n    id: y\n", 4, "resources.0.id", "is given twice"),
]


@pytest.mark.parametrize(("text", "line", "key", "says"), WRONG, ids=[f"{wrong[2]}-{wrong[3]}" for wrong in WRONG])
def test_what_is_wrong_is_named_with_file_line_and_key(
    text: str, line: int, key: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(CONFIG + "status: {description: facility.yaml}\n")
    file = tmp_path / "facility.yaml"
    file.write_text(text)
    assert command.main(["config", "check", str(config)]) == 2
    (message,) = capsys.readouterr().err.splitlines()
    where, _, rest = message.partition(": ")
    assert where == f"{file}:{line}", message
    assert rest.startswith(f"{key}: "), message
    assert says in rest, message


def test_a_circle_is_shown_without_what_only_leads_to_it() -> None:
    with pytest.raises(ConfigError) as caught:
        _parse(
            _resources(
                "  - {id: far, depends_on: [b]}",
                "  - {id: a, depends_on: [b]}",
                "  - {id: b, depends_on: [c]}",
                "  - {id: c, depends_on: [a]}",
            )
        )
    assert str(caught.value) == "f:4: resources.1.depends_on: goes in a circle: a > b > c > a"


def test_all_that_is_wrong_is_named_at_once_but_not_without_end() -> None:
    with pytest.raises(ConfigError) as caught:
        _parse(_resources(*(f"  - {{id: x{index}, site: none}}" for index in range(200))))
    lines = str(caught.value).splitlines()
    assert lines[1].startswith("f:4: resources.1.site: ")
    assert lines[100:] == ["f: and 100 problems more"]


def test_missing_file_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("status: {description: none.yaml}\n")
    assert command.main(["config", "check", str(config)]) == 2
    assert "none.yaml: cannot be read: No such file" in capsys.readouterr().err


# The reader below both files: as PyYAML reads it.


@pytest.mark.parametrize(
    "text",
    [
        "a: [1, 2.5, yes, null, ~, text, '1', \"2\", 0x1f, 1e3, .5, !!str 5, !!int '7']\n",
        "base: &b {x: 1, y: 2}\nother: {<<: *b, y: 3}\nthird: {<<: [*b, {x: 9, z: 1}]}\n",
        "a: &x [1]\nb: *x\n",
        "t: |\n  two\n  lines\nu: >\n  folded\n  line\n",
        "",
        "# nothing\n",
        "---\na: 1\n...\n",
    ],
)
def test_files_are_read_as_yaml(text: str) -> None:
    assert yamlfile.Document(text, "f").tree == yaml.safe_load(text)


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("a: 1\n---\nb: 2\n", 2, "one document"),
        ("a: 1\nb: *none\n", 2, "none"),
        ("a: &x\n  - *x\n", 2, "x"),
        ("[1, 2]: 3\n", 1, "key must be text"),
        ("a: 1\nb: !!python/name:os.system x\n", 2, "python"),
        ("a: 1\nb: !!set {x}\n", 2, "not allowed"),
        ("a: 2026-13-45\n", 1, "month"),
        ("a: 1\n<<: 5\n", 2, "merged"),
    ],
)
def test_what_files_may_not_have(text: str, line: int, says: str) -> None:
    with pytest.raises(ConfigError, match=rf"^f:{line}: .*{says}"):
        yamlfile.Document(text, "f")


def test_deep_nesting_is_refused() -> None:
    with pytest.raises(ConfigError, match="nested too deeply"):
        yamlfile.Document("[" * 50_000, "f")
