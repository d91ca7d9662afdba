"""What was measured, as a table and as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.numbers import Measure, shown

OURS = "testorch"
RATIO_OF = "events/s"


@dataclass
class Row:
    """One case of a benchmark on one server. The names of the measures carry their units."""

    benchmark: str
    case: str
    server: str
    measures: dict[str, list[float]] = field(default_factory=dict)

    def add(self, found: Mapping[str, float]) -> None:
        """Take the numbers of one more repetition in."""
        for name, number in found.items():
            self.measures.setdefault(name, []).append(number)

    def measure(self, name: str) -> Measure:
        return Measure(tuple(self.measures[name]))


@dataclass
class Report:
    """All rows of a run of the suite, the machine, and what was left out and why."""

    machine: dict[str, Any]
    settings: Mapping[str, Any]
    rows: list[Row] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    def row(self, benchmark: str, case: str, server: str) -> Row:
        """The row of a case on a server; a new one if there is none yet."""
        for row in self.rows:
            if (row.benchmark, row.case, row.server) == (benchmark, case, server):
                return row
        self.rows.append(Row(benchmark, case, server))
        return self.rows[-1]

    def ratios(self) -> list[dict[str, Any]]:
        """Our events/s by those of each other server, case by case, each of one and the same repetition."""
        found = []
        for ours in (row for row in self.rows if row.server == OURS and RATIO_OF in row.measures):
            for other in self._others(ours):
                pairs = zip(ours.measures[RATIO_OF], other.measures[RATIO_OF], strict=False)
                measure = Measure(tuple(mine / theirs for mine, theirs in pairs))
                found.append({"benchmark": ours.benchmark, "case": ours.case, "to": other.server, **measure.document()})
        return found

    def _others(self, ours: Row) -> Iterable[Row]:
        for row in self.rows:
            same = (row.benchmark, row.case) == (ours.benchmark, ours.case)
            if same and row.server != OURS and RATIO_OF in row.measures:
                yield row

    def document(self) -> dict[str, Any]:
        """The report as JSON has it."""
        rows = [
            {
                "benchmark": row.benchmark,
                "case": row.case,
                "server": row.server,
                "measures": {name: row.measure(name).document() for name in row.measures},
            }
            for row in self.rows
        ]
        return {
            "machine": dict(self.machine),
            "settings": dict(self.settings),
            "rows": rows,
            "ratios": self.ratios(),
            "leftOut": self.left_out,
        }

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(self.document(), indent=2) + "\n")

    def text(self) -> str:
        """The report as a person reads it."""
        parts = [heading(self.machine)]
        for benchmark in dict.fromkeys(row.benchmark for row in self.rows):
            parts.append(section(benchmark, [row for row in self.rows if row.benchmark == benchmark]))
        ratios = [
            [one["case"], one["to"], *map(shown, (one["median"], one["least"], one["most"]))] for one in self.ratios()
        ]
        if ratios:
            parts.append(
                "testorch's events/s by another server's\n" + table(["case", "to", "median", "least", "most"], ratios)
            )
        parts += [f"left out: {reason}" for reason in self.left_out]
        return "\n\n".join(parts) + "\n"


def heading(machine: Mapping[str, Any]) -> str:
    """The machine, a line a fact."""
    width = max(map(len, machine), default=0)
    return "\n".join(f"{name:{width}}  {fact}" for name, fact in machine.items())


def section(benchmark: str, rows: list[Row]) -> str:
    """The table of one benchmark: a column for each measure that any of its rows has."""
    names = list(dict.fromkeys(name for row in rows for name in row.measures))
    cells = [
        [row.case, row.server, *(str(row.measure(name)) if name in row.measures else "" for name in names)]
        for row in rows
    ]
    return f"{benchmark}\n" + table(["case", "server", *names], cells)


def table(names: list[str], cells: list[list[str]]) -> str:
    """Columns under their names: the first two to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(names, *cells, strict=True)]
    lines = [_line(row, widths) for row in (names, ["-" * width for width in widths], *cells)]
    return "\n".join(lines)


def _line(row: list[str], widths: list[int]) -> str:
    padded = (
        cell.ljust(width) if index < 2 else cell.rjust(width)
        for index, (cell, width) in enumerate(zip(row, widths, strict=True))
    )
    return "  ".join(padded).rstrip()
