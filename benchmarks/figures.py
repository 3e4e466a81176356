"""Figures: what is measured, what it should be, and how it came out. Pure.

A benchmark returns, for each of its runs, a number for each of its figures. Ratios are taken within a run, before the
median over runs is: what disturbs the machine for a while disturbs both sides of a ratio.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Final

#: What one run of a benchmark brings: a number for each figure, by name.
Measured = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Target:
    """What a figure should be: at least or at most so much."""

    value: float
    at_least: bool = True

    def met(self, value: float) -> bool:
        return value >= self.value if self.at_least else value <= self.value

    def __str__(self) -> str:
        return f"{'>=' if self.at_least else '<='} {shown(self.value)}"


def at_least(value: float) -> Target:
    return Target(value)


def at_most(value: float) -> Target:
    return Target(value, at_least=False)


@dataclass(frozen=True, slots=True)
class Figure:
    """One number that a benchmark measures."""

    name: str
    unit: str
    target: Target | None = None


@dataclass(frozen=True, slots=True)
class Scale:
    """How much to measure: `quick` shows that all works and measures nothing worth noting."""

    quick: bool = False

    def of(self, whole: int, smoke: int) -> int:
        return smoke if self.quick else whole


@dataclass(frozen=True, slots=True)
class Benchmark:
    """One thing to run: it brings all of `figures` at once."""

    name: str
    figures: tuple[Figure, ...]
    run: Callable[[Scale], Measured]
    #: Whether it runs a server and the meters in C, and so needs Linux, two cores and a compiler.
    meters: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """A figure, and what its runs have brought."""

    figure: Figure
    runs: tuple[float, ...]

    @property
    def value(self) -> float:
        """The median over the runs."""
        return median(self.runs)

    @property
    def spread(self) -> float:
        """How far apart the runs are: the highest less the lowest, as a part of the median; 0 where that is 0."""
        return (max(self.runs) - min(self.runs)) / abs(self.value) if self.value else 0.0

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None where there is none."""
        return None if self.figure.target is None else self.figure.target.met(self.value)

    def json(self) -> dict[str, Any]:
        target = self.figure.target
        return {
            "name": self.figure.name,
            "value": self.value,
            "unit": self.figure.unit,
            "target": None if target is None else str(target),
            "met": self.met,
            "spread": self.spread,
            "runs": list(self.runs),
        }


def rows(figures: Sequence[Figure], runs: Sequence[Measured]) -> list[Row]:
    """A row for each figure. Raises ValueError where a run has left one out, or brought one that is not declared."""
    names = {figure.name for figure in figures}
    for run in runs:
        if run.keys() != names:
            odd = ", ".join(sorted(run.keys() ^ names))
            raise ValueError(f"expected one number for each figure, was not so for {odd}")
    return [Row(figure, tuple(run[figure.name] for run in runs)) for figure in figures]


HEADINGS: Final = ("figure", "value", "unit", "target", "met", "spread")


def table(found: Sequence[Row]) -> str:
    """The rows as a table of fixed columns."""
    lines = [HEADINGS, *map(_cells, found)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADINGS))]
    lines.insert(1, tuple("-" * width for width in widths))
    return "\n".join(
        "  ".join(
            cell.rjust(width) if column in (1, 5) else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def markdown(found: Sequence[Row]) -> str:
    """The rows as a Markdown table, as it stands in docs/performance.md."""
    lines = [HEADINGS, ("---", "--:", "---", "---", "---", "--:"), *map(_cells, found)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cells(row: Row) -> tuple[str, ...]:
    target = row.figure.target
    met = "" if row.met is None else "yes" if row.met else "NO"
    spread = f"{row.spread:.0%}" if len(row.runs) > 1 else ""
    return row.figure.name, shown(row.value), row.figure.unit, str(target) if target else "", met, spread


def shown(value: float) -> str:
    """A number with three digits or so: 1,480,000; 31.2; 0.514."""
    if not value or not math.isfinite(value):
        return f"{value:g}"
    digits = 2 - math.floor(math.log10(abs(value)))
    rounded = round(value, digits)
    return f"{rounded:,.{max(0, digits)}f}" if abs(value) < 1000 else f"{rounded:,.0f}"
