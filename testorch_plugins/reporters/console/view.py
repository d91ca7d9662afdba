"""The live region and the lines above it, as rich renderables. Imported only where there is a terminal: rich is slow to
import. Text is built of `Text`, never of markup, so no name can switch a style on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from rich.console import Console, Group
from rich.text import Text

from testorch_core import events as ev
from testorch_core.results import Result
from testorch_core.runs import RunStatus
from testorch_plugins.reporters.console.lines import (
    MAX_MESSAGE_CHARACTERS,
    MAX_NAME_CHARACTERS,
    reason_of,
    run_name,
    title_of,
    visible,
    word_of,
)

MAX_RUNS_SHOWN: Final = 5
MAX_TESTS_SHOWN: Final = 5
BAR_CELLS: Final = 16
SHORT_ID_CHARACTERS: Final = 8

_STYLES: Final[Mapping[str, str]] = {
    ev.PASSED: "green", ev.FAILED: "bold red", ev.ERROR: "bold red", ev.TIMED_OUT: "bold red", ev.INTERRUPTED: "bold red",
    ev.UNKNOWN: "red", "flaky": "yellow", ev.SKIPPED: "dim", ev.TODO: "dim",
}  # fmt: skip

_COUNTED: Final = (
    (ev.PASSED, "passed", "green"), (ev.FAILED, "failed", "bold red"), (ev.ERROR, "errors", "bold red"),
    (ev.TIMED_OUT, "timed out", "bold red"), (ev.INTERRUPTED, "interrupted", "bold red"),
    (ev.UNKNOWN, "unknown", "red"), ("flaky", "flaky", "yellow"), (ev.SKIPPED, "skipped", "dim"), (ev.TODO, "todo", "dim"),
    ("expectedFailed", "failed as expected", "dim"), (ev.RUNNING, "running", "cyan"),
)  # fmt: skip
_ALWAYS_COUNTED: Final = frozenset({ev.PASSED, ev.FAILED, ev.ERROR, ev.SKIPPED, ev.RUNNING})


class TerminalConsole(Console):
    """rich's console, but for its way with a broken pipe: it would end the process and redirect its `stdout`."""

    def on_broken_pipe(self) -> None:
        raise  # rich calls this while it handles the `BrokenPipeError`, which our screen waits for


def live_region(active: Sequence[RunStatus], *, now_ms: int, max_lines: int) -> Group:
    """The active runs, the oldest first, each on two lines and one for each test that runs; none is wrapped."""
    lines: list[Text] = []
    oldest_first = sorted(active, key=lambda status: (status.started_at or 0, status.run_id))
    for status in oldest_first[:MAX_RUNS_SHOWN]:
        lines += _run_lines(status, now_ms)
    hidden = len(active) - MAX_RUNS_SHOWN
    if hidden > 0:
        lines.append(_line((f"and {hidden} more active runs", "dim")))
    return Group(*lines[:max_lines])


def _run_lines(status: RunStatus, now_ms: int) -> list[Text]:
    running = [_running_line(test) for test in status.running[:MAX_TESTS_SHOWN]]
    hidden = status.counts.get(ev.RUNNING, 0) - len(running)
    if running and hidden > 0:
        running.append(_line((f"  and {hidden} more", "dim")))
    elapsed = clock(now_ms - (status.started_at if status.started_at is not None else now_ms))
    heading = _line(
        (visible(run_name(status), 60), "bold"), ("  ", ""), (_short(status), "cyan"), (f"  {elapsed}", "dim")
    )
    return [heading, _progress_line(status), *running]


def _progress_line(status: RunStatus) -> Text:
    counts = status.counts
    total = counts.get("total", 0)
    done = total - counts.get("queued", 0) - counts.get(ev.RUNNING, 0)
    filled = BAR_CELLS * done // total if total > 0 else 0
    bad = any(counts.get(name, 0) for name in (ev.FAILED, ev.ERROR, ev.TIMED_OUT, ev.INTERRUPTED, ev.UNKNOWN))
    bar = (("━" * filled, "red" if bad else "green"), ("─" * (BAR_CELLS - filled), "bright_black"))
    return _line(*bar, (f" {done}/{total}  ", "bold"), *_counts(counts, always=_ALWAYS_COUNTED))


def _running_line(test: Mapping[str, Any]) -> Text:
    name, worker = test.get("testName"), test.get("workerId")
    shown = visible(name if isinstance(name, str) else str(test.get("testId")), MAX_NAME_CHARACTERS)
    who = f"  {visible(worker, 20)}" if isinstance(worker, str) and worker else ""
    return _line(("  ▸ ", "cyan"), (shown, ""), (who, "dim"))


def test_text(status: RunStatus, result: Result) -> Text:
    """One line for a finished attempt; cut at the terminal's edge."""
    word, reason = word_of(result), reason_of(result)
    return _line(
        (f"{visible(word, 20).upper():<11} ", _STYLES.get(word, "")),
        (visible(title_of(result), MAX_NAME_CHARACTERS), ""),
        *([("  ", ""), (visible(reason, MAX_MESSAGE_CHARACTERS), "dim")] if reason else []),
    )


def more_text(count: int) -> Text:
    return _line((f"{'INTERRUPTED':<11} ", _STYLES[ev.INTERRUPTED]), (f"and {count} more", "dim"))


def finished_text(status: RunStatus) -> Text:
    """The summary of a run. It wraps rather than lose a count."""
    word = visible(status.status, 20)
    reason = f" ({visible(status.end_reason, 40)})" if status.end_reason else ""
    whole = f"{'' if status.complete else ', not complete'}{reason}"
    took = clock(status.duration_ms) if status.duration_ms is not None else "-"
    parts = [
        (f"{word.upper():<11} ", _STYLES.get(status.status, "bold")),
        (visible(run_name(status), 60), "bold"),
        (f"  {_short(status)}  ", "cyan"),
        *_counts(status.counts, always=frozenset({ev.PASSED, ev.FAILED})),
        (whole, "yellow"),
        (f", in {took}", "dim"),
    ]
    return Text.assemble(*parts, overflow="fold")


def _counts(counts: Mapping[str, int], *, always: frozenset[str]) -> list[tuple[str, str]]:
    shown = [(counts.get(key, 0), key, words, style) for key, words, style in _COUNTED]
    parts = [
        (f"{count} {words}", style if count else "dim") for count, key, words, style in shown if count or key in always
    ]
    return [piece for index, part in enumerate(parts) for piece in ([(", ", "dim")] if index else []) + [part]]


def clock(milliseconds: float) -> str:
    """A duration as `m:ss`, or `h:mm:ss` from an hour on."""
    minutes, seconds = divmod(max(0, int(milliseconds)) // 1000, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def _short(status: RunStatus) -> str:
    return visible(status.run_id[:SHORT_ID_CHARACTERS], 4 * SHORT_ID_CHARACTERS)


def _line(*parts: tuple[str, str]) -> Text:
    return Text.assemble(*parts, no_wrap=True, overflow="ellipsis")
