"""What the console says, as plain text: `key=value` lines that a `grep` finds. Everything named by clients is hostile."""

from __future__ import annotations

import json
import re
from typing import Any, Final

from testorch_core import events as ev
from testorch_core.results import Result
from testorch_core.runs import EXPECTED_FAILED, RunStatus
from testorch_core.text import UNSEEN, without_ansi
from testorch_core.text import visible as seen

MAX_NAME_CHARACTERS: Final = 300
MAX_MESSAGE_CHARACTERS: Final = 500

COUNTS: Final = (
    "total", ev.PASSED, ev.FAILED, ev.ERROR, ev.TIMED_OUT, ev.INTERRUPTED, ev.UNKNOWN, ev.SKIPPED, ev.TODO,
    EXPECTED_FAILED, "flaky", "queued",
)  # fmt: skip
"""The counts of a summary line, in this order, zero or not: scripts rely on it."""

_BARE: Final = re.compile(r"[A-Za-z0-9_.:/@+-]{1,300}")


def visible(text: str, limit: int) -> str:
    """The text on one line, without ANSI escapes, with what can't be seen written out, and cut to a limit."""
    shown = seen(without_ansi(text[: 4 * limit]))
    return shown if len(shown) <= limit and len(text) <= 4 * limit else shown[: limit - 1] + "…"


def quoted(text: str, limit: int) -> str:
    """The text as a JSON string without anything that can't be seen."""
    shown = without_ansi(text[: 4 * limit])
    if len(shown) > limit or len(text) > 4 * limit:
        shown = shown[: limit - 1] + "…"
    # JSON escapes quotes, backslashes and line ends; the rest of what can't be seen is escaped in the same way.
    return UNSEEN.sub(lambda found: json.dumps(found[0])[1:-1], json.dumps(shown, ensure_ascii=False))


def bare(text: str) -> str:
    """An identifier as it is, or quoted where it isn't one plain word."""
    return text if _BARE.fullmatch(text) else quoted(text, MAX_NAME_CHARACTERS)


def title_of(result: Result) -> str:
    """The test's name with its file and suites, as far as they are known."""
    name = result.text("fullName") or result.name
    file = result.text("filePath")
    return f"{file}::{name}" if file and not name.startswith(file) else name


def word_of(result: Result) -> str:
    """What became of the attempt, in one word: its status, unless the verdict says otherwise."""
    if result.ok is None:
        return ev.INTERRUPTED
    if not result.ok:
        return ev.FAILED if result.status in (ev.PASSED, ev.SKIPPED, ev.TODO) else result.status
    if result.outcome == "flaky":
        return "flaky"
    return EXPECTED_FAILED if result.status in (ev.FAILED, ev.ERROR, ev.TIMED_OUT) else result.status


def reason_of(result: Result) -> str:
    """The first line of the first error, else the reason that was given; empty for a test that has neither."""
    said = [_first_line(one.get(key)) for one in result.errors[:1] for key in ("message", "type")]
    said.append(_first_line(result.details.get("reason")))
    found = next(filter(None, said), "")
    if not found and result.ok is False and result.status == ev.PASSED:
        return "passed, but was expected to fail"
    return found


def _first_line(value: Any) -> str:
    if not isinstance(value, str):
        return ""
    lines = (line.strip() for line in value[: 8 * MAX_MESSAGE_CHARACTERS].splitlines())
    return next(filter(None, lines), "")


def is_worth_a_line(result: Result, *, show: str) -> bool:
    """Whether a finished attempt is told. One that will be repeated isn't: its test may still pass, and is flaky then."""
    if show == "all":
        return True
    if result.ok is False:
        return result.details.get("willRetry") is not True
    return result.outcome == "flaky"


def run_name(status: RunStatus) -> str:
    return status.name or status.run_id


def duration(milliseconds: float | None) -> str:
    return "-" if milliseconds is None else f"{max(0.0, milliseconds) / 1000:.3f}s"


def started_line(status: RunStatus) -> str:
    return f"run started {_run(status)}"


def test_line(status: RunStatus, result: Result) -> str:
    error = reason_of(result)
    parts = [
        f"test {word_of(result)}",
        f"run={bare(status.run_id)}",
        f"test={quoted(title_of(result), MAX_NAME_CHARACTERS)}",
        f"attempt={result.attempt}",
        f"duration={duration(result.duration_ms)}",
    ]
    return " ".join(parts) + (f" error={quoted(error, MAX_MESSAGE_CHARACTERS)}" if error else "")


def more_line(status: RunStatus, count: int) -> str:
    return f"test interrupted run={bare(status.run_id)} more={count}"


def finished_line(status: RunStatus) -> str:
    parts = [
        f"run finished {_run(status)}",
        f"status={bare(status.status)}",
        f"complete={'true' if status.complete else 'false'}",
        *(f"{name}={status.counts.get(name, 0)}" for name in COUNTS),
        f"duration={duration(status.duration_ms)}",
    ]
    return " ".join(parts) + (f" reason={bare(status.end_reason)}" if status.end_reason else "")


def _run(status: RunStatus) -> str:
    return (
        f"run={bare(status.run_id)} project={bare(status.project)} name={quoted(run_name(status), MAX_NAME_CHARACTERS)}"
    )
