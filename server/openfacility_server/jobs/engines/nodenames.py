"""Lists of nodes in the notation that most batch systems share: ``n1,n[3-5,08],rack[1-2]n[01-16]``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

_PART = re.compile(r"[^,\[\]]+|\[[^\[\]]*\]")
_NUMBERED = re.compile(r"(.*?)(\d{1,15})", re.DOTALL)


def expand(text: str, most: int = 100_000) -> tuple[str, ...]:
    """Returns the names in a list, in its order. Raises ValueError: it is no such list, or names more than ``most``."""
    found: list[str] = []
    for item in _items(text):
        names = [""]
        for part in _PART.findall(item):
            choices = list(_numbers(part[1:-1], most)) if part.startswith("[") else [part]
            if len(names) * len(choices) + len(found) > most:
                raise ValueError(f"names more than {most} nodes")
            names = [name + choice for name in names for choice in choices]
        found += names
    return tuple(found)


def _items(text: str) -> Iterator[str]:
    """Gives what is between commas that are in no brackets."""
    depth = start = 0
    for place, char in enumerate(text):
        depth += (char == "[") - (char == "]")
        if not 0 <= depth <= 1:
            break
        if char == "," and depth == 0:
            yield text[start:place]
            start = place + 1
    if depth != 0:
        raise ValueError(f"brackets do not match: {text[:80]!r}")
    if start < len(text):
        yield text[start:]


def _numbers(ranges: str, most: int) -> Iterator[str]:
    for each in ranges.split(","):
        first, dash, last = each.partition("-")
        last = last if dash else first
        if not (first.isascii() and first.isdecimal() and last.isascii() and last.isdecimal()):
            raise ValueError(f"not a range of numbers: {each[:40]!r}")
        if int(last) - int(first) >= most:
            raise ValueError(f"names more than {most} nodes")
        yield from (str(number).zfill(len(first)) for number in range(int(first), int(last) + 1))


def compress(names: Iterable[str]) -> str:
    """Returns a list of names, each once, as short as it can be: ``n2, n[7-9]``."""
    parts: list[tuple[str, int, str]] = []
    numbered: dict[str, list[str]] = {}
    for name in set(names):
        if match := _NUMBERED.fullmatch(name):
            numbered.setdefault(match[1], []).append(match[2])
        else:
            parts.append((name, 0, name))
    for prefix, numbers in numbered.items():
        # With leading zeros only numbers of one width are one range; without, all are.
        padded = any(len(number) > 1 and number.startswith("0") for number in numbers)
        for width in sorted({len(number) for number in numbers}) if padded else [0]:
            chosen = sorted(int(number) for number in numbers if len(number) == width or not padded)
            parts.append((prefix, width, prefix + _ranges(chosen, width)))
    return ", ".join(part[2] for part in sorted(parts))


def _ranges(numbers: list[int], width: int) -> str:
    """Returns sorted numbers of a width as ranges."""
    spans: list[tuple[int, int]] = []
    for number in numbers:
        if spans and spans[-1][1] == number - 1:
            spans[-1] = (spans[-1][0], number)
        else:
            spans.append((number, number))
    texts = [f"{first:0{width}}" + (f"-{last:0{width}}" if last > first else "") for first, last in spans]
    return texts[0] if len(numbers) == 1 else f"[{','.join(texts)}]"
