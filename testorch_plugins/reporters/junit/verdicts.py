"""What a JUnit document says about a test: its attempts folded into failure, error, skipped or nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from testorch_core import events as ev
from testorch_core.results import Result

FAILURE: Final = "failure"
ERROR: Final = "error"
SKIPPED: Final = "skipped"

Details = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Finding:
    """One child of a testcase: its tag, its type where the status prescribes one, and what to say and to show.

    `errors` are the producer's; `words` stand in where there is no error to quote.
    """

    tag: str
    words: str
    type: str | None = None
    errors: tuple[Details, ...] = ()


class TestAttempts:
    """One test: all its attempts, the last of which decides."""

    __test__ = False  # pytest would take it for a test
    __slots__ = ("all",)

    def __init__(self, attempts: Sequence[Result]) -> None:
        self.all = tuple(sorted(attempts, key=lambda one: one.attempt))

    @property
    def last(self) -> Result:
        return self.all[-1]

    @property
    def is_ok(self) -> bool:
        return self.last.ok is True

    @property
    def is_flaky(self) -> bool:
        """An earlier failure makes a test flaky only if it passed in the end."""
        return self.is_ok and self.last.status == ev.PASSED and any(one.ok is False for one in self.all)

    def findings(self, *, is_run_over: bool) -> tuple[Finding, ...]:
        """The verdict, which is that of the last attempt."""
        return findings_of(self.last, is_run_over=is_run_over)

    def shown(self, *, is_run_over: bool) -> Result:
        """The attempt that the verdict is told with: the first that failed in the same way as the last."""
        if self.last.ok is not False:
            return self.last
        wanted = _shape(self.findings(is_run_over=is_run_over))
        alike = (one for one in self.all if one.ok is False)
        return next(one for one in alike if _shape(findings_of(one, is_run_over=is_run_over)) == wanted)


def _shape(findings: Sequence[Finding]) -> list[tuple[str, str | None]]:
    return [(one.tag, one.type) for one in findings]


def findings_of(result: Result, *, is_run_over: bool) -> tuple[Finding, ...]:
    """What one attempt comes to; empty if it passed, two if it failed and its teardown broke too."""
    if result.ok is None:
        return (_unfinished(is_run_over=is_run_over),)
    return _accepted(result) if result.ok else _refused(result)


def _unfinished(*, is_run_over: bool) -> Finding:
    if is_run_over:
        return Finding(ERROR, "the run ended before this test did", ev.INTERRUPTED)
    return Finding(SKIPPED, "still running", ev.RUNNING)


def _accepted(result: Result) -> tuple[Finding, ...]:
    reason = result.text("reason")
    if result.status == ev.PASSED:
        return ()
    if result.status == ev.SKIPPED:
        return (Finding(SKIPPED, reason or ""),)
    if result.status == ev.TODO:
        return (Finding(SKIPPED, f"todo: {reason}" if reason else "todo"),)
    if result.status in (ev.FAILED, ev.ERROR, ev.TIMED_OUT):
        return (Finding(SKIPPED, reason or "failed, as expected", "xfail"),)
    # `interrupted` or `unknown` that the producer accepts: it neither fails the run nor should look like a pass.
    return (Finding(SKIPPED, reason or _raw(result), result.status),)


def _refused(result: Result) -> tuple[Finding, ...]:
    status, errors, reason = result.status, result.errors, result.text("reason")
    if status == ev.FAILED:
        return (Finding(FAILURE, reason or "failed", errors=errors),)
    if status == ev.PASSED:
        return (Finding(FAILURE, reason or "passed, but was expected to fail", "unexpectedPass", errors),)
    if status in (ev.SKIPPED, ev.TODO):
        return (Finding(FAILURE, reason or f"{status}, which fails the run", status, errors),)
    if status == ev.ERROR:
        return _by_phase(errors, reason or "error")
    if status == ev.TIMED_OUT:
        return (Finding(ERROR, reason or "timed out", "timeout", errors),)
    return (Finding(ERROR, reason or _raw(result), status, errors),)


def _by_phase(errors: tuple[Details, ...], words: str) -> tuple[Finding, ...]:
    """A body that failed before its teardown broke is both a failure and an error, as in pytest's own counts."""
    body = tuple(one for one in errors if one.get("phase") == "call")
    rest = tuple(one for one in errors if one.get("phase") != "call")
    if not body or not rest:
        return (Finding(ERROR, words, errors=errors),)
    return (Finding(FAILURE, words, errors=body), Finding(ERROR, words, errors=rest))


def _raw(result: Result) -> str:
    raw = result.text("rawStatus")
    return f"{result.status} ({raw})" if raw and raw != result.status else result.status
