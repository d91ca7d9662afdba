"""How runs look as text. Names and messages come from outside, so what could move a cursor is shown, not sent."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime

from testorch_core.results import Result
from testorch_core.runs import RunStatus
from testorch_core.text import visible

_SHOWN_COUNTS = (
    ("passed", "passed"), ("failed", "failed"), ("error", "error{s}"), ("timedOut", "timed out"),
    ("interrupted", "interrupted"), ("skipped", "skipped"), ("todo", "todo"), ("expectedFailed", "failed as expected"),
    ("unknown", "unknown"), ("running", "running"), ("queued", "queued"), ("flaky", "flaky"), ("late", "late"),
)  # fmt: skip


def counts_line(status: RunStatus) -> str:
    """The counts that are not zero, `total` first."""
    counts = status.counts
    found = ((counts.get(key, 0), word) for key, word in _SHOWN_COUNTS)
    parts = [f"{count} {word.format(s='' if count == 1 else 's')}" for count, word in found if count]
    total = counts.get("total", 0)
    return ", ".join([f"{total} {'test' if total == 1 else 'tests'}", *parts])


def duration(milliseconds: float | None) -> str:
    """A duration for people; empty for None."""
    if milliseconds is None:
        return ""
    seconds = milliseconds / 1000
    if seconds < 60:
        return f"{seconds:.2f}s"
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes}m{rest:02}s" if minutes < 60 else f"{minutes // 60}h{minutes % 60:02}m"


def run_row_line(status: RunStatus) -> str:
    """One run on one line."""
    started = _when(status.started_at)
    name = visible(status.name or "-")
    whole = "" if status.complete or not status.is_over else " (incomplete)"
    words = f"{status.status}{whole}"
    return (
        f"{visible(status.run_id):<32} {started}  {words:<24} {visible(status.project)}  {name}  {counts_line(status)}"
    )


def run_lines(status: RunStatus, results: Iterable[Result]) -> Iterator[str]:
    """A run and some of its results."""
    yield f"run       {visible(status.run_id)}"
    yield f"project   {visible(status.project)}"
    if status.name:
        yield f"name      {visible(status.name)}"
    whole = "complete" if status.complete else "incomplete" if status.is_over else "not over"
    reason = f", {visible(status.end_reason)}" if status.end_reason else ""
    yield f"status    {status.status} ({whole}{reason})"
    lasted = duration(status.duration_ms)
    yield f"started   {_when(status.started_at)}" + (f", took {lasted}" if lasted else "")
    yield f"tests     {counts_line(status)}"
    yield f"events    {status.events}"
    yield from _delivery_lines(status)
    for error in status.errors:
        yield f"run error {visible(str(error.get('message')))}"
    for result in results:
        yield from _result_lines(result)


def _delivery_lines(status: RunStatus) -> Iterator[str]:
    """What is proved of each stream, and what was refused."""
    for one in status.participants:
        if one.get("stream"):
            proof = {True: "receipt matches", False: "receipt does not match", None: "no receipt"}[one.get("complete")]
            refused = f", {one['refused']} refused" if one.get("refused") else ""
            yield f"stream    {visible(one['id'])}: {one['state']}, {one.get('accepted')} events{refused}, {proof}"
    if status.refused:
        codes = ", ".join(f"{times} × {visible(code)}" for code, times in sorted(status.refused.items()))
        yield f"refused   {codes}"
        for one in status.refusals:
            seq = f"seq {one['seq']} " if "seq" in one else ""
            yield f"  {_when(one['at'])}  {seq}`{visible(str(one.get('eventId')))}` {visible(str(one.get('message')))[:200]}"


def _result_lines(result: Result) -> Iterator[str]:
    attempt = f" [attempt {result.attempt}]" if result.attempt > 1 or not result.final else ""
    took = duration(result.duration_ms)
    expected = ", expected" if result.outcome == "expected" and result.status != "passed" else ""
    flaky = ", flaky" if result.outcome == "flaky" else ""
    yield f"  {result.status + expected + flaky:<18} {visible(result.test_id)}{attempt}" + (f"  {took}" if took else "")
    reason = result.text("reason")
    if reason:
        yield f"      {visible(reason)[:200]}"
    last_output = result.text("lastOutput") if result.status == "interrupted" else None
    for line in (last_output or "").rstrip().splitlines()[-5:]:
        yield f"      | {visible(line)[:200]}"
    for error in result.errors[:3]:
        message = error.get("message")
        if isinstance(message, str) and message.strip():
            yield f"      {visible(message.strip().splitlines()[0])[:200]}"


def _when(milliseconds: int | None) -> str:
    if milliseconds is None:
        return "-"
    return datetime.fromtimestamp(milliseconds / 1000, tz=UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")
