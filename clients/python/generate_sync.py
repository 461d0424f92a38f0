# ruff: noqa: INP001 - a build script, not a package
"""Makes `openfacility_client/_sync` from `openfacility_client/_async`: the same code without `async` and `await`.

    python clients/python/generate_sync.py            write it
    python clients/python/generate_sync.py --check    fail if it is not what it would be

Needs ruff, which gives the result the same layout as all other code.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = Path(__file__).resolve().parent / "openfacility_client"
SOURCE, TARGET = PACKAGE / "_async", PACKAGE / "_sync"
HEADER = "# Made from _async/{name} by clients/python/generate_sync.py; change that one.\n"

RULES = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"^# ruff: noqa: ASYNC.*\n", ""),
        (r"\basync (def|for|with)\b", r"\1"),
        (r"\bawait ", ""),
        (r"\b__a(iter|next|enter|exit)__\b", r"__\1__"),
        (r"\b(anext|aiter)\(", lambda match: f"{match[1][1:]}("),
        (r"\bStopAsyncIteration\b", "StopIteration"),
        (r"\bAsync([A-Z]\w+)", r"\1"),
        (r"\b_async\b", "_sync"),
        (r"\b_aio\b", "_threads"),
        (r'^"""The client for asyncio, from which .*"""$', '"""The client for threads."""'),
    )
]


def synchronous(name: str, source: str) -> str:
    """Return the synchronous twin of a module."""
    lines = []
    for line in source.splitlines(keepends=True):
        for pattern, replacement in RULES:
            line = pattern.sub(replacement, line)  # noqa: PLW2901 - each rule works on what the last one left
        lines.append(line)
    code = HEADER.format(name=name) + "".join(lines)
    where = ("--stdin-filename", str(TARGET / name), "-")
    for command in (("check", "--fix-only", "--quiet", "--select", "I"), ("format", "--quiet")):
        code = subprocess.run(
            [sys.executable, "-m", "ruff", *command, *where],
            input=code,
            capture_output=True,
            text=True,
            check=True,
            cwd=ROOT,
        ).stdout
    return code


def main() -> int:
    """Write or check; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing, fail if something would change")
    check = parser.parse_args().check
    wanted = {path.name: synchronous(path.name, path.read_text()) for path in sorted(SOURCE.glob("*.py"))}
    present = {path.name: path.read_text() for path in sorted(TARGET.glob("*.py"))}
    if check:
        stale = sorted(name for name in wanted.keys() | present.keys() if wanted.get(name) != present.get(name))
        if stale:
            sys.stderr.write(f"_sync is not made from the present _async: {', '.join(stale)}. Run {__file__}\n")
        return 1 if stale else 0
    TARGET.mkdir(exist_ok=True)
    for name in present.keys() - wanted.keys():
        (TARGET / name).unlink()
    for name, code in wanted.items():
        if present.get(name) != code:
            (TARGET / name).write_text(code)
    return 0


if __name__ == "__main__":
    sys.exit(main())
