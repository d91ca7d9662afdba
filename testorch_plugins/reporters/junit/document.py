"""A run as a JUnit document, in pieces: first a survey for the counts, then the suites as they become complete.

Results come in the order of their ids, in which the tests of one file mostly, but not always, stand together. A suite
is held back as finished XML until the survey says that its last test has come. What is held is bounded: beyond 8 MiB
the largest suite goes out as it is, and the rest of it follows as `NAME (continued)`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final
from xml.etree.ElementTree import Element, tostring

from testorch_core import events as ev
from testorch_core.runs import RunStatus
from testorch_plugins.reporters.junit.cases import (
    case_of,
    classname_of,
    duration_ms,
    finding_case,
    name_of,
    run_name,
    suite_of,
)  # fmt: skip
from testorch_plugins.reporters.junit.output import RunLog
from testorch_plugins.reporters.junit.text import seconds, text_of, timestamp
from testorch_plugins.reporters.junit.verdicts import ERROR, FAILURE, SKIPPED, Finding, TestAttempts

MAX_HELD_BYTES: Final = 8 * 1024 * 1024
DECLARATION: Final = b"<?xml version='1.0' encoding='utf-8'?>\n"


@dataclass(slots=True)
class Tally:
    """The counts of a suite or a document. A testcase counts once for each kind of child that it has."""

    tests: int = 0
    failures: int = 0
    errors: int = 0
    skipped: int = 0
    milliseconds: float = 0.0

    def count(self, tags: Sequence[str], milliseconds: float = 0.0) -> None:
        self.tests += 1
        self.failures += FAILURE in tags
        self.errors += ERROR in tags
        self.skipped += SKIPPED in tags
        self.milliseconds += milliseconds

    def add(self, other: Tally) -> None:
        self.tests += other.tests
        self.failures += other.failures
        self.errors += other.errors
        self.skipped += other.skipped
        self.milliseconds += other.milliseconds

    def attributes(self) -> dict[str, str]:
        names = ("tests", "failures", "errors", "skipped")
        return {name: str(getattr(self, name)) for name in names} | {"time": seconds(self.milliseconds)}

    def agrees_with(self, other: Tally) -> bool:
        """Whether the counts are the same; times are sums in whatever order."""
        return replace(self, milliseconds=0.0) == replace(other, milliseconds=0.0)


class Survey:
    """What must be known before the first byte of a document: counts, suites, and who may use which classname.

    Needs memory for every suite and class, and for every test that is not ok a number.
    """

    def __init__(self, status: RunStatus) -> None:
        self.tally = Tally()
        self.tests_in: dict[str, int] = {}
        self.not_ok: set[int] = set()
        self._status = status
        self._classnames: dict[tuple[str, str], str] = {}
        self._taken: set[str] = set()

    def add(self, test: TestAttempts) -> None:
        tags = [one.tag for one in test.findings(is_run_over=self._status.is_over)]
        self.tally.count(tags, duration_ms(test))
        suite = suite_of(test.last, self._status)
        self.tests_in[suite] = self.tests_in.get(suite, 0) + 1
        self.classname(suite, classname_of(test.last, suite))
        if not test.is_ok:
            self.not_ok.add(hash(test.last.test_id))

    @property
    def needs_log(self) -> bool:
        """Whether the run's events have anything that the document shows."""
        return bool(self.not_ok or self._status.errors)

    def classname(self, suite: str, wanted: str) -> str:
        """The classname as no other suite has it: `a/b.py` with a class `c` and `a/b/c.py` both ask for `a.b.c`."""
        key = (suite, wanted)
        if key not in self._classnames:
            self._classnames[key] = unique(wanted, self._taken, hint=suite)
            self._taken.add(self._classnames[key])
        return self._classnames[key]


def unique(wanted: str, taken: set[str], *, hint: str) -> str:
    """`wanted`, made different from all that are taken: by the hint in brackets, and a number where needed."""
    name, number = wanted, 1
    while name in taken:
        name = f"{wanted} ({hint})" if number == 1 else f"{wanted} ({hint}, {number})"
        number += 1
    return name


@dataclass(slots=True)
class _Suite:
    """A suite in the making. `names` are those in use by (classname, name), also in the parts that have gone out."""

    expected: int
    tally: Tally = field(default_factory=Tally)
    cases: bytearray = field(default_factory=bytearray)
    names: dict[str, set[str]] = field(default_factory=dict)
    started_ms: float | None = None
    seen: int = 0

    def add(self, case: Element, milliseconds: float, started_ms: object) -> None:
        self.tally.count([child.tag for child in case], milliseconds)
        self.cases += tostring(case, encoding="utf-8") + b"\n"
        self.seen += 1
        if isinstance(started_ms, int | float) and timestamp(started_ms) is not None:
            self.started_ms = started_ms if self.started_ms is None else min(self.started_ms, started_ms)

    def take(self) -> tuple[Tally, bytes]:
        """What has been gathered; the suite starts anew, but remembers its names."""
        taken = self.tally, bytes(self.cases)
        self.tally, self.cases = Tally(), bytearray()
        return taken


class Document:
    """The document of one run. Call `begin`, then `add` for every test, then `end`; write what they return."""

    def __init__(self, status: RunStatus, survey: Survey, log: RunLog) -> None:
        self._status = status
        self._survey = survey
        self._log = log
        self._own = _own_findings(status, survey, log)
        self._open: dict[str, _Suite] = {}
        self._suite_names: set[str] = set()
        self._held = 0
        self._written = Tally()

    def begin(self) -> bytes:
        total = Tally()
        for finding in self._own:
            total.count([finding.tag])
        total.add(self._survey.tally)
        if self._status.duration_ms is not None:
            total.milliseconds = self._status.duration_ms
        root = Element("testsuites", {"name": run_name(self._status)} | total.attributes())
        started = timestamp(self._status.started_at)
        if started is not None:
            root.set("timestamp", started)
        return DECLARATION + _opening(root) + b"\n"

    def add(self, test: TestAttempts) -> bytes:
        """Take one test; returns what can be written now, mostly nothing."""
        name = suite_of(test.last, self._status)
        suite = self._open.get(name)
        if suite is None:
            suite = self._open[name] = _Suite(self._survey.tests_in.get(name, 1))
        before = len(suite.cases)
        suite.add(self._case(name, suite, test), duration_ms(test), test.all[0].details.get("startedAt"))
        self._held += len(suite.cases) - before
        if suite.seen >= suite.expected:
            return self._close(name)
        if self._held > MAX_HELD_BYTES:
            largest = max(self._open, key=lambda one: len(self._open[one].cases))
            return self._part(largest, self._open[largest])
        return b""

    def end(self) -> bytes:
        """The suites that are still held, what there is to say of the run itself, and the closing tag."""
        pieces = [self._close(name) for name in list(self._open)]
        return b"".join((*pieces, self._own_suite(), b"</testsuites>\n"))

    @property
    def is_consistent(self) -> bool:
        """Whether what has been written is what the counts at the document's beginning say."""
        return self._written.agrees_with(self._survey.tally)

    def _case(self, suite_name: str, suite: _Suite, test: TestAttempts) -> Element:
        last = test.last
        classname = self._survey.classname(suite_name, classname_of(last, suite_name))
        taken = suite.names.setdefault(classname, set())
        name = unique(name_of(last), taken, hint=text_of(last.test_id))
        taken.add(name)
        output = None if test.is_ok else self._log.of(last.test_id)
        return case_of(test, name=name, classname=classname, output=output, is_run_over=self._status.is_over)

    def _close(self, name: str) -> bytes:
        suite = self._open.pop(name)
        return self._part(name, suite) if suite.cases else b""

    def _part(self, name: str, suite: _Suite) -> bytes:
        tally, cases = suite.take()
        self._held -= len(cases)
        self._written.add(tally)
        return self._suite_element(name, tally, cases, suite.started_ms)

    def _suite_element(self, wanted: str, tally: Tally, cases: bytes, started_ms: float | None) -> bytes:
        name = unique(wanted, self._suite_names, hint="continued")
        element = Element("testsuite", {"name": name, "id": str(len(self._suite_names))} | tally.attributes())
        self._suite_names.add(name)
        started = timestamp(started_ms if started_ms is not None else self._status.started_at)
        if started is not None:
            element.set("timestamp", started)
        return _opening(element) + b"\n" + cases + b"</testsuite>\n"

    def _own_suite(self) -> bytes:
        if not self._own:
            return b""
        tally, cases, taken = Tally(), bytearray(), set[str]()
        classname = self._survey.classname("", "testorch")
        for finding in self._own:
            name = unique("run", taken, hint="another")
            taken.add(name)
            tally.count([finding.tag])
            cases += tostring(finding_case(finding, name=name, classname=classname), encoding="utf-8") + b"\n"
        return self._suite_element(run_name(self._status), tally, bytes(cases), None)


def _opening(element: Element) -> bytes:
    whole: bytes = tostring(element, encoding="utf-8", short_empty_elements=False)
    return whole[: -len(f"</{element.tag}>")]


def _own_findings(status: RunStatus, survey: Survey, log: RunLog) -> list[Finding]:
    """What is said of the run itself: its errors outside any test, and that it didn't pass if no test shows it."""
    found = [Finding(ERROR, "an error outside any test", errors=(error,)) for error in log.errors]
    is_shown = found or survey.tally.failures or survey.tally.errors
    if not is_shown and status.status in (ev.FAILED, ev.INTERRUPTED):
        words = f"the run ended as {status.status}" + (f": {status.end_reason}" if status.end_reason else "")
        found.append(Finding(ERROR, words, status.status))
    return found
