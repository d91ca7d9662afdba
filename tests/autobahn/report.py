"""Reads the suite's report and judges it: what failed, and whether that is explained."""

from __future__ import annotations

import json
import tomllib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from autobahn.cases import Case

EXPLAINED: Final = Path(__file__).with_name("explained.toml")

_FINE: Final = frozenset({"OK", "NON-STRICT", "INFORMATIONAL"})
# `FAILED BY CLIENT` is the suite's word for a connection that the client had to close because the server did not; the
# standard only prefers that the server does, and the suite does not count it as a failure either.
_FINE_CLOSE: Final = frozenset({"OK", "INFORMATIONAL", "FAILED BY CLIENT"})
_VIOLATIONS: Final = frozenset({1002, 1007})
"""With these a server answers what violates the protocol, or is not UTF-8."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the suite says of one case.

    `wanted_codes` are the close codes that it takes; `close_code` is the one that came, None without a Close frame.
    The suite itself takes a missing Close for a right one, ours does not: see `faults`.
    """

    behavior: str
    behavior_close: str
    close_code: int | None
    wanted_codes: tuple[int, ...] = ()

    @property
    def faults(self) -> list[str]:
        """What is wrong, in words; empty if nothing is."""
        found = []
        if self.behavior not in _FINE:
            found.append(f"behavior {self.behavior}")
        if self.behavior_close not in _FINE_CLOSE:
            found.append(f"close {self.behavior_close}")
        if self.wanted_codes and _VIOLATIONS.issuperset(self.wanted_codes) and self.close_code not in self.wanted_codes:
            came = f"close code {self.close_code}" if self.close_code is not None else "no close code"
            found.append(f"{came}, wanted {' or '.join(map(str, self.wanted_codes))}")
        return found


@dataclass(frozen=True, slots=True)
class Judgement:
    """The report of one transport. `outcomes` are by the case's id; one that is missing there was not reported."""

    transport: str
    cases: Sequence[Case]
    outcomes: Mapping[str, Outcome]
    explained: Mapping[str, str] = field(default_factory=dict)

    @property
    def faults(self) -> dict[str, list[str]]:
        """What is wrong, by case, explained or not."""
        found = {
            one.id: self.outcomes[one.id].faults if one.id in self.outcomes else ["not in the suite's report"]
            for one in self.cases
        }
        return {case: words for case, words in found.items() if words}

    @property
    def unexplained(self) -> list[str]:
        """The cases that fail without an explanation."""
        return [case for case in self.faults if case not in self.explained]

    @property
    def outdated(self) -> list[str]:
        """The cases that are explained, were run, and are fine."""
        faults = self.faults
        return [one.id for one in self.cases if one.id in self.explained and one.id not in faults]

    def text(self) -> str:
        """A line for each group, then whatever is wrong."""
        lines = [f"{self.transport}: {len(self.cases)} cases, {len(self.faults)} with a fault"]
        for number in dict.fromkeys(one.number for one in self.cases):
            lines.append(self._group(number, [one for one in self.cases if one.number == number]))
        faults = self.faults
        for one in self.cases:
            if one.id in faults:
                lines += self._fault(one, faults[one.id])
        lines += [f"  {case} is explained, but is fine now: take it out of {EXPLAINED.name}" for case in self.outdated]
        return "\n".join(lines)

    def _group(self, number: int, cases: Sequence[Case]) -> str:
        outcomes = [self.outcomes[one.id] for one in cases if one.id in self.outcomes]
        behavior = _counts(one.behavior for one in outcomes)
        closing = _counts(one.behavior_close for one in outcomes)
        return f"  {number:>2} {cases[0].group:<19} {len(cases):>3} cases: {behavior}; close: {closing}"

    def _fault(self, case: Case, words: Sequence[str]) -> list[str]:
        verdict = "explained" if case.id in self.explained else "FAILED"
        reason = [f"      {self.explained[case.id]}"] if case.id in self.explained else []
        return [f"  {verdict} {case.id}: {', '.join(words)}", f"      {case.words}", *reason, f"      {case.link}"]


def judge(transport: str, cases: Sequence[Case], reports: Path, *, explained: Path = EXPLAINED) -> Judgement:
    """What a folder of reports says of a transport."""
    reasons = tomllib.loads(explained.read_text()).get(transport, {})
    return Judgement(transport, cases, read_outcomes(transport, reports), reasons)


def read_outcomes(transport: str, reports: Path) -> dict[str, Outcome]:
    """The outcomes by case, from the JSON index and the case reports beside it."""
    index = json.loads((reports / "index.json").read_bytes()).get(transport, {})
    return {
        case: Outcome(
            entry["behavior"],
            entry["behaviorClose"],
            entry["remoteCloseCode"],
            tuple(json.loads((reports / entry["reportfile"]).read_bytes())["expectedClose"].get("closeCode", ())),
        )
        for case, entry in index.items()
    }


def _counts(words: Iterable[str]) -> str:
    return ", ".join(f"{count} {word}" for word, count in Counter(words).most_common()) or "none"
