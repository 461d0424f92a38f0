"""docs/slurm.md says what there is."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

from openfacility_server.config import SlurmJobs
from openfacility_server.jobs.engines.slurm.options import OPTIONS
from openfacility_server.jobs.engines.slurm.settings import SlurmSettings

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs/slurm.md").read_text()


def test_lists_every_custom_attribute_once() -> None:
    table = TEXT.partition("### Custom attributes")[2].partition("\n#")[0]
    rows = [line for line in table.splitlines() if line.startswith(("| a", "| true"))]
    listed = [name for row in rows for name in re.findall(r"`([a-z-]+)`", row)]
    assert sorted(listed) == sorted(name for name, option in OPTIONS.items() if option.custom)
    unsaid = {name for name, option in OPTIONS.items() if option.custom and option.old is None}
    assert unsaid <= set(re.findall(r"`([a-z-]+)`", table.partition("By REST")[2]))


def test_every_key_is_shown_in_the_default_file_and_used() -> None:
    default = (ROOT / "server/openfacility_server/default.yaml").read_text()
    example = default.partition("engine: slurm")[2].partition("\nstatus:")[0]
    for key in set(SlurmJobs.model_fields) - {"id", "engine"}:
        assert re.search(rf"(?m)^  #   {key}:", example), key
    assert set(SlurmJobs.model_fields) - {"id", "engine"} == {field.name for field in fields(SlurmSettings)} - {
        "resource_id"
    }
