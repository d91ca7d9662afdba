"""Turns pytest's reports on one attempt of a test into its verdict. Pure: reports in, plain values out.

pytest is not imported: reports are read as they are, whichever version or plugin has made them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from testorch_client.encoding import text_of, visible
from testorch_client.progress import Progress, rest

MAX_OUTPUT_CHARACTERS = 64 * 1024
MAX_PROPERTIES = 1_000
MAX_REASON_CHARACTERS = 8 * 1024

CRASHED = "???"  # the phase of the report that xdist writes for the test on which a worker died
FAILED = ("failed", "rerun")  # pytest-rerunfailures renames the failure that it runs again
_NOTHING = object()


@dataclass(frozen=True, slots=True)
class Verdict:
    """The event model's *Four things* for one attempt. `ok` is None where it follows from the statuses."""

    status: str
    raw_status: str
    expected_status: str = "passed"
    reason: str | None = None
    will_retry: bool = False
    ok: bool | None = None

    @property
    def is_ok(self) -> bool:
        """Does this attempt leave the run unharmed?"""
        if self.ok is not None:
            return self.ok
        return self.status == self.expected_status or self.status == "skipped"


PASSED = Verdict("passed", "passed")


@dataclass(slots=True)
class Phases:
    """The reports on one attempt as they come in. `subtests` are reports of their own, all of the call.

    `is_plain_pass` says that nothing but passes has come: true of nearly all tests, whose verdict then costs nothing.
    """

    setup: Any = None
    call: Any = None
    teardown: Any = None
    crash: Any = None
    subtests: list[Any] = field(default_factory=list)
    is_plain_pass: bool = True
    duration_seconds: float = 0.0

    def add(self, report: Any) -> None:
        """Keep a report. A second one for a phase replaces the first, which no plugin that we know of sends."""
        when = report.when
        if report.outcome != "passed" or hasattr(report, "wasxfail"):
            self.is_plain_pass = False
        if is_subtest(report):
            self.subtests.append(report)  # its time is within the call's
            return
        self.duration_seconds += getattr(report, "duration", 0.0)
        if when == "setup":
            self.setup = report
        elif when == "call":
            self.call = report
        elif when == "teardown":
            self.teardown = report
        elif when == CRASHED:
            self.crash = report
            self.is_plain_pass = False

    @property
    def whole(self) -> list[Any]:
        """The reports that are there, in the order of their phases, without subtests."""
        return [report for report in (self.setup, self.call, self.teardown, self.crash) if report is not None]

    @property
    def is_settled(self) -> bool:
        """Is the verdict known? After the teardown, a crash, or a failure before it."""
        if self.teardown is not None or self.crash is not None:
            return True
        return any(report.outcome in FAILED for report in (*self.whole, *self.subtests))


def is_subtest(report: Any) -> bool:
    """pytest's own subtests (9.0) and the plugin's before it: a `context` with `msg` and `kwargs`."""
    context = getattr(report, "context", None)
    return context is not None and hasattr(context, "msg") and hasattr(context, "kwargs")


def judge(phases: Phases) -> Verdict:
    """The verdict on an attempt: a failed setup counts before a failed teardown, that before the call."""
    if phases.is_plain_pass:
        return PASSED
    reports = phases.whole
    will_retry = any(report.outcome == "rerun" for report in reports)
    if phases.crash is not None:
        return Verdict("error", "workerCrashed", will_retry=will_retry)
    expected = "failed" if any(_xfail_reason(report) is not None for report in reports) else "passed"
    if _has_failed(phases.setup) or _has_failed(phases.teardown):
        return Verdict("error", "error", expected, will_retry=will_retry)
    if _has_failed(phases.call):
        if _is_strict_xpass(phases.call):
            return Verdict("failed", "failed", "failed", _strict_reason(phases.call), will_retry, ok=False)
        return Verdict("failed", "failed", expected, will_retry=will_retry)
    if any(_has_failed(report) for report in phases.subtests):
        # pytest flips the call's report only as a side effect of a hook that another plugin may call: not relied on.
        return Verdict("failed", "failed", expected, will_retry=will_retry)
    return _judge_unfailed(reports)


def _judge_unfailed(reports: Sequence[Any]) -> Verdict:
    marked = [report for report in reports if _xfail_reason(report) is not None]
    for report in marked:
        if report.outcome == "skipped":  # in any phase: an expected failure of the teardown comes after a pass
            return Verdict("failed", "xfailed", "failed", _xfail_reason(report) or None)
    if marked:
        return Verdict("passed", "xpassed", "failed", _xfail_reason(marked[0]) or None, ok=True)
    for report in reports:
        if report.outcome == "skipped":
            return Verdict("skipped", "skipped", reason=skip_reason(report))
        if report.outcome != "passed":  # some plugin's own word
            return Verdict("unknown", text_of(report.outcome))
    return PASSED


def _has_failed(report: Any) -> bool:
    return report is not None and report.outcome in FAILED


def _xfail_reason(report: Any) -> str | None:
    """None if the test isn't marked as xfail; the mark's reason may be empty."""
    reason = getattr(report, "wasxfail", _NOTHING)
    return None if reason is _NOTHING else text_of(reason).removeprefix("reason: ")[:MAX_REASON_CHARACTERS]


def _is_strict_xpass(report: Any) -> bool:
    return isinstance(report.longrepr, str) and report.longrepr.startswith("[XPASS(strict)]")


def _strict_reason(report: Any) -> str | None:
    reason = str(report.longrepr).removeprefix("[XPASS(strict)]").strip()
    return visible(reason)[:MAX_REASON_CHARACTERS] or None


def skip_reason(report: Any) -> str | None:
    """Why a test, or a module, was skipped: pytest keeps it as (path, line, reason)."""
    longrepr = report.longrepr
    text = longrepr[2] if isinstance(longrepr, tuple) and len(longrepr) == 3 else longrepr
    return None if text is None else text_of(text).removeprefix("Skipped: ")[:MAX_REASON_CHARACTERS] or None


def properties_of(report: Any) -> list[list[str]]:
    """`record_property` and its like, as strings. The last phase's report has those of the phases before it."""
    pairs = getattr(report, "user_properties", None)
    if not pairs:
        return []
    return [[text_of(key), text_of(value)[:MAX_REASON_CHARACTERS]] for key, value in list(pairs)[:MAX_PROPERTIES]]


@dataclass(frozen=True, slots=True)
class Output:
    """What a test has written to one stream, at most its last 64 Ki characters."""

    stream: str
    text: str
    is_truncated: bool


def outputs_of(phases: Phases, sent: Mapping[str, Progress]) -> list[Output]:
    """What the attempt has written and wasn't sent yet, by stream."""
    subtests: dict[tuple[int, str], str] = {}
    for index, report in enumerate(phases.subtests):
        subtests.update({(index, heading): text for heading, text in report.sections})
    whole = _sections_of(phases).items()
    return _by_stream(
        [
            *((_stream_of(heading), text) for (_, heading), text in subtests.items()),
            *((_stream_of(heading), rest(text, sent.get(heading))) for heading, text in whole),
        ]
    )


def begun_outputs_of(phases: Phases, sent: Mapping[str, Progress]) -> list[Output]:
    """The same, of the streams of which something was sent."""
    begun = {_stream_of(heading) for heading, progress in sent.items() if progress.position}
    whole = [(_stream_of(heading), heading, text) for heading, text in _sections_of(phases).items()]
    return _by_stream([(stream, rest(text, sent.get(heading))) for stream, heading, text in whole if stream in begun])


def _sections_of(phases: Phases) -> dict[str, str]:
    """The texts of an attempt by their headings. Sections of later reports repeat those of earlier ones."""
    return {heading: text for report in phases.whole for heading, text in report.sections}


def _stream_of(heading: str) -> str:
    return "stdout" if "stdout" in heading else "stderr" if "stderr" in heading else "log"


def _by_stream(texts: Iterable[tuple[str, str]]) -> list[Output]:
    by_stream: dict[str, list[str]] = {}
    for stream, text in texts:
        by_stream.setdefault(stream, []).append(text)
    return [_tail(stream, "".join(parts)) for stream, parts in by_stream.items() if any(parts)]


def _tail(stream: str, text: str) -> Output:
    # The end of what a failed test has written tells more than its beginning.
    return Output(stream, visible(text[-MAX_OUTPUT_CHARACTERS:]), len(text) > MAX_OUTPUT_CHARACTERS)
