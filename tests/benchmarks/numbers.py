"""Percentiles, and a measure that was taken several times."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any


def percentile(ordered: Sequence[float], percent: float) -> float:
    """The least value that at least `percent` of all values don't exceed (nearest rank). The values must be sorted.

    Raises ValueError for no values.
    """
    if not ordered:
        raise ValueError("no values")
    rank = math.ceil(percent / 100 * len(ordered))
    return ordered[max(rank, 1) - 1]


def latencies_ms(seconds: Iterable[float]) -> dict[str, float]:
    """p50, p95, p99 and the greatest of some latencies, in milliseconds."""
    ordered = sorted(seconds)
    named = {f"p{percent} ms": percentile(ordered, percent) * 1000 for percent in (50, 95, 99)}
    return {**named, "max ms": ordered[-1] * 1000}


@dataclass(frozen=True)
class Measure:
    """One number, as often as it was measured."""

    runs: tuple[float, ...]

    @property
    def median(self) -> float:
        ordered = sorted(self.runs)
        middle = len(ordered) // 2
        return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2

    def document(self) -> dict[str, Any]:
        """The measure as JSON has it."""
        return {"median": self.median, "least": min(self.runs), "most": max(self.runs), "runs": list(self.runs)}

    def __str__(self) -> str:
        if len(self.runs) == 1:
            return shown(self.median)
        return f"{shown(self.median)} ({shown(min(self.runs))}–{shown(max(self.runs))})"


def shown(number: float) -> str:
    """Three digits or so, with separators: what a reader takes in."""
    if abs(number) >= 100:
        return f"{number:,.0f}"
    return f"{number:.1f}" if abs(number) >= 10 else f"{number:.2f}"
