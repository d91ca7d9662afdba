"""The suite's cases: which there are, which are chosen, where each is described."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from autobahn.failures import SuiteError

LEFT_OUT = ("12.*", "13.*")
"""permessage-deflate, which our transports don't offer: compression stays off."""

_LISTING = Path(__file__).with_name("list_cases.py")
_SOURCE = "https://github.com/crossbario/autobahn-testsuite/blob/v25.10.1/autobahntestsuite/autobahntestsuite/case"


@dataclass(frozen=True, slots=True)
class Case:
    """One case of the suite. `group` is the name of the group, `number` its number in the id."""

    id: str
    group: str
    description: str
    module: str

    @property
    def number(self) -> int:
        return int(self.id.partition(".")[0])

    @property
    def link(self) -> str:
        """The case's source, which describes it."""
        return f"{_SOURCE}/{self.module}.py"

    @property
    def words(self) -> str:
        """The description without its HTML."""
        return re.sub(r"(<br\s*/?>|\s)+", " ", re.sub(r"</?b>", "", self.description))


def all_cases(python2: Path) -> list[Case]:
    """Every case of the installed suite, in its order. Raises `SuiteError`."""
    # By standard input and in a folder that has no modules: Python 2 searches the script's folder, or else the current
    # one, before the suite's packages, and would find this package by the name of theirs.
    with _LISTING.open("rb") as listing:
        listed = subprocess.run(
            [python2, "-E", "-"], stdin=listing, cwd=python2.parent, capture_output=True, check=False, timeout=60
        )
    if listed.returncode:
        raise SuiteError(f"the suite can't list its cases:\n{listed.stderr.decode(errors='replace')}")
    return [Case(**one) for one in json.loads(listed.stdout)]


def chosen_cases(cases: Sequence[Case], patterns: Sequence[str]) -> list[Case]:
    """The cases that match a pattern (`5.*`; none given: all) and no pattern that begins with `!`.

    Raises `SuiteError` for a pattern that matches nothing: a slip of the pen must not look like success.
    """
    offered = [one for one in cases if not _matches(one, LEFT_OUT)]
    for pattern in patterns:
        if not any(_matches(one, [pattern.removeprefix("!")]) for one in offered):
            raise SuiteError(f"no case matches `{pattern}`; {', '.join(LEFT_OUT)} are never run, see the README")
    wanted = [pattern for pattern in patterns if not pattern.startswith("!")] or ["*"]
    unwanted = [pattern[1:] for pattern in patterns if pattern.startswith("!")]
    chosen = [one for one in offered if _matches(one, wanted) and not _matches(one, unwanted)]
    if not chosen:
        raise SuiteError(f"no case is left by {' '.join(patterns)}")
    return chosen


def _matches(case: Case, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(case.id, pattern) for pattern in patterns)
