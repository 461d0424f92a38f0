"""Numbers, the rounds that they come from, and how they are shown."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TextIO


@dataclass(frozen=True, slots=True)
class Sample:
    """One variant in one round."""

    rate: float  # a second
    cpu_us: float  # of the server, per request
    p50_ms: float = 0.0
    p99_ms: float = 0.0


@dataclass(frozen=True, slots=True)
class Result:
    """One line of the table. ``target`` is a bound from below with ``more_is_better``, else from above."""

    name: str
    measure: str
    value: float
    unit: str = ""
    low: float | None = None
    high: float | None = None
    target: float | None = None
    more_is_better: bool = True
    note: str = ""
    extra: Mapping[str, float] = field(default_factory=dict)

    @property
    def verdict(self) -> str:
        if self.target is None:
            return ""
        met = self.value >= self.target if self.more_is_better else self.value <= self.target
        return "PASS" if met else "MISS"


def rounds(variants: Mapping[str, Callable[[], Sample]], count: int) -> dict[str, list[Sample]]:
    """Takes a sample of each variant in every round, in an order that alternates.

    With more than one round, one that does not count comes first.
    """
    for take in variants.values() if count > 1 else ():
        take()
    samples: dict[str, list[Sample]] = {name: [] for name in variants}
    for number in range(count):
        for name in list(variants)[:: -1 if number % 2 else 1]:
            samples[name].append(variants[name]())
    return samples


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def ratios(
    name: str,
    samples: Mapping[str, Sequence[Sample]],
    ours: str,
    beside: str,
    target: float | None = None,
) -> list[Result]:
    """The ratio of rates and that of CPU per request, each the median over the rounds."""
    pairs = list(zip(samples[ours], samples[beside], strict=True))
    rate = [one.rate / other.rate for one, other in pairs]
    cpu = [one.cpu_us / other.cpu_us for one, other in pairs]
    medians = {
        f"{variant} {what}": median([getattr(sample, what) for sample in samples[variant]])
        for variant in (ours, beside)
        for what in ("rate", "cpu_us", "p50_ms", "p99_ms")
    }
    return [
        Result(
            name,
            f"rate / {beside}",
            median(rate),
            "x",
            min(rate),
            max(rate),
            target,
            note=f"{medians[f'{ours} rate']:.0f}/s : {medians[f'{beside} rate']:.0f}/s, "
            f"p50/p99 {medians[f'{ours} p50_ms']:.1f}/{medians[f'{ours} p99_ms']:.1f} ms",
            extra=medians,
        ),
        Result(
            name,
            f"CPU per request / {beside}",
            median(cpu),
            "x",
            min(cpu),
            max(cpu),
            note=f"{medians[f'{ours} cpu_us']:.0f} us : {medians[f'{beside} cpu_us']:.0f} us",
        ),
    ]


def print_table(results: Sequence[Result]) -> None:
    """Prints what came out."""
    rows = [("benchmark", "measure", "value", "min-max", "target", "", "note")]
    for r in results:
        spread = "" if r.low is None or r.high is None else f"{_number(r.low)}-{_number(r.high)}"
        bound = "" if r.target is None else f"{'>=' if r.more_is_better else '<='} {_number(r.target)}"
        rows.append((r.name, r.measure, f"{_number(r.value)} {r.unit}".strip(), spread, bound, r.verdict, r.note))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def write_json(results: Sequence[Result], facts: Mapping[str, object], stream: TextIO) -> None:
    """Writes a JSON line for each result."""
    for result in results:
        print(json.dumps({**asdict(result), "verdict": result.verdict, "facts": dict(facts)}), file=stream)


def _number(value: float) -> str:
    return f"{value:.2f}" if abs(value) < 100 else f"{value:.0f}"
