"""What the console says, as plain lines and in the live region: whole lines, and names that are out to break them."""

from __future__ import annotations

import io
import json
import unicodedata
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from testorch_plugins.reporters.console.lines import (
    bare,
    finished_line,
    is_worth_a_line,
    quoted,
    reason_of,
    started_line,
    title_of,
    visible,
    word_of,
)
from testorch_plugins.reporters.console.lines import test_line as line_of_test
from testorch_plugins.reporters.console.view import clock, finished_text, live_region
from testorch_plugins.reporters.console.view import test_text as text_of_test

any_text = st.text(alphabet=st.characters(exclude_categories=()))


def one(results_of: Any, **end: Any) -> tuple[Any, Any]:
    state, results = results_of({"testId": "a.py::b", "status": "failed", **end})
    return state.status(), results[-1]


def shown(renderable: Any, *, width: int = 80) -> list[str]:
    file = io.StringIO()
    Console(file=file, width=width, color_system=None, markup=False, highlight=False).print(renderable)
    return file.getvalue().splitlines()


async def test_a_run_is_told_in_these_lines(make_log: Any) -> None:
    log = make_log(run_id="build 7", name='The "nightly"')
    await log.start()
    await log.tell("run/plan", {"total": 5}, "test/end", {"testId": "t", "status": "passed"})
    await log.tell("test/end", {"testId": "u", "status": "timedOut", "durationMs": 1500.25, "fullName": "A › u",
                                "filePath": "a.ts", "errors": [{"message": "\n  too slow\nat a.ts:3"}]})  # fmt: skip
    assert started_line(log.reader().status) == 'run started run="build 7" project=default name="The \\"nightly\\""'
    assert line_of_test(log.reader().status, await log.result("u")) == (
        'test timedOut run="build 7" test="a.ts::A › u" attempt=1 duration=1.500s error="too slow"'
    )
    await log.end("failed", complete=False, reason="lost")
    assert finished_line(log.reader().status) == (
        'run finished run="build 7" project=default name="The \\"nightly\\"" status=failed complete=false total=5 passed=1'
        " failed=0 error=0 timedOut=1 interrupted=0 unknown=0 skipped=0 todo=0 expectedFailed=0 flaky=0 queued=3"
        " duration=4.000s reason=lost"
    )


@pytest.mark.parametrize(
    ("end", "word", "reason"),
    [
        ({"status": "failed"}, "failed", ""),
        ({"status": "error", "errors": [{"type": "OSError"}]}, "error", "OSError"),
        ({"status": "error", "errors": [7, {"message": ["no"], "type": None}], "reason": "why"}, "error", "why"),
        ({"status": "passed", "expectedStatus": "failed"}, "failed", "passed, but was expected to fail"),
        ({"status": "todo", "ok": False}, "failed", ""),
        ({"status": "skipped", "reason": "no db"}, "skipped", "no db"),
        ({"status": "failed", "expectedStatus": "failed"}, "expectedFailed", ""),
        ({"status": "passed", "reason": {}}, "passed", ""),
        ({"status": "?"}, "unknown", ""),
    ],
)
def test_every_verdict_has_a_word(results_of: Any, end: dict[str, Any], word: str, reason: str) -> None:
    _, result = one(results_of, **end)
    assert (word_of(result), reason_of(result)) == (word, reason)


@pytest.mark.parametrize(
    ("end", "is_shown"),
    [
        ({"status": "passed"}, False),
        ({"status": "skipped"}, False),
        ({"status": "failed", "expectedStatus": "failed"}, False),
        ({"status": "failed"}, True),
        ({"status": "passed", "expectedStatus": "failed"}, True),
        ({"status": "failed", "willRetry": True}, False),
        ({"status": "failed", "willRetry": "yes"}, True),
    ],
)
def test_only_failures_get_a_line_unless_all_are_asked_for(
    results_of: Any, end: dict[str, Any], is_shown: bool
) -> None:
    _, result = one(results_of, **end)
    assert is_worth_a_line(result, show="failures") is is_shown
    assert is_worth_a_line(result, show="all")


def test_a_test_that_passes_at_last_is_told_as_flaky(results_of: Any) -> None:
    _, result = one(results_of, attempt=2, status="passed")
    assert not is_worth_a_line(result, show="failures")
    state, results = results_of({"testId": "t", "status": "failed"}, {"testId": "t", "attempt": 2, "status": "passed"})
    assert is_worth_a_line(results[1], show="failures")
    assert line_of_test(state.status(), results[1]) == 'test flaky run=run-1 test="t" attempt=2 duration=-'


def test_a_title_says_the_file_once(results_of: Any) -> None:
    assert title_of(one(results_of, filePath="a.py")[1]) == "a.py::b"
    assert title_of(one(results_of, filePath="a.py", fullName="a.py > b")[1]) == "a.py > b"
    assert title_of(one(results_of, filePath=3, testName=None, fullName=[])[1]) == "a.py::b"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("a\nb\r\tc\x00", "a\\nb\\r\\tc\\x00"),
        ("\x1b[2J\x1b]0;title\x07red\x1b", "red\\x1b"),
        ("safe\u202egnp.exe", "safe\\u202egnp.exe"),
        ("\ud800\u2028\U000e0041", "\\ud800\\u2028\\U000e0041"),
        ("[bold]x[/bold] ä 😀", "[bold]x[/bold] ä 😀"),
        ("x" * 50, "x" * 29 + "…"),
    ],
)
def test_what_cannot_be_seen_is_made_visible(given: str, expected: str) -> None:
    assert visible(given, 30) == expected


@given(any_text)
def test_any_text_stays_on_its_line(text: str) -> None:
    for line in (visible(text, 100), quoted(text, 100), bare(text)):
        assert len(f"|{line}|".splitlines()) == 1
        assert not any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in line)
    assert isinstance(json.loads(quoted(text, 100)), str)
    assert " " not in bare(text) or bare(text).startswith('"')


@given(any_text, any_text)
def test_any_name_is_one_line_of_a_terminal(results_of: Any, name: str, message: str) -> None:
    status, result = one(results_of)
    object.__setattr__(result, "details", {"testName": name, "fullName": name, "errors": [{"message": message}]})
    object.__setattr__(status, "name", name)
    file = io.StringIO()
    console = Console(file=file, width=60, force_terminal=True, color_system=None, markup=False)
    console.print(text_of_test(status, result), no_wrap=True, overflow="ellipsis")
    assert file.getvalue().count("\n") == 1
    assert "\x1b" not in file.getvalue()
    assert len(shown(live_region([status], now_ms=0, max_lines=10), width=60)) == 2


async def test_the_live_region_shows_runs_with_what_they_are_at(make_log: Any) -> None:
    log = make_log(run_id="3f2a1b9cdeadbeef", name="Nightly [bold]")
    await log.start()
    started = log.reader().status.started_at
    await log.tell("run/plan", {"total": 16})
    for n in range(4):
        await log.tell("test/end", {"testId": f"t{n}", "status": "failed" if n == 3 else "passed"})
    for n in range(7):
        await log.tell("test/start", {"testId": f"r{n}", "testName": f"running {n}\n", "workerId": f"gw{n}"})
    region = live_region([log.reader().status], now_ms=started + 3_723_456, max_lines=20)
    assert shown(region) == [
        "Nightly [bold]  3f2a1b9c  1:02:03",
        "━━━━──────────── 4/16  3 passed, 1 failed, 0 errors, 0 skipped, 7 running",
        "  ▸ running 0\\n  gw0",
        "  ▸ running 1\\n  gw1",
        "  ▸ running 2\\n  gw2",
        "  ▸ running 3\\n  gw3",
        "  ▸ running 4\\n  gw4",
        "  and 2 more",
    ]
    assert shown(live_region([log.reader().status], now_ms=0, max_lines=1), width=20) == ["Nightly [bold]  3f2…"]


async def test_of_many_runs_the_oldest_are_shown(make_log: Any) -> None:
    statuses = []
    for n in range(7):
        log = make_log(run_id=f"run-{n}", name=None)
        await log.start()
        statuses.append(log.reader().status)
    lines = shown(live_region(statuses[::-1], now_ms=statuses[0].started_at, max_lines=50))
    assert lines[::2] == [f"run-{n}  run-{n}  0:00" for n in range(5)] + ["and 2 more active runs"]


async def test_a_finished_run_is_summed_up_without_losing_a_count(make_log: Any) -> None:
    log = make_log(run_id="3f2a1b9cdeadbeef")
    await log.start()
    for n, status in enumerate(("passed", "failed", "error", "skipped", "todo", "timedOut", "?")):
        await log.tell("test/end", {"testId": str(n), "status": status})
    await log.tell("test/start", {"testId": "cut off"})
    await log.end("interrupted", complete=False, reason="lost")
    assert shown(finished_text(log.reader().status)) == [
        "INTERRUPTED Nightly  3f2a1b9c  1 passed, 1 failed, 1 errors, 1 timed out, 1 ",
        "interrupted, 1 unknown, 1 skipped, 1 todo, not complete (lost), in 0:09",
    ]


@pytest.mark.parametrize(("given", "expected"), [(-5, "0:00"), (59_999, "0:59"), (3_600_000, "1:00:00")])
def test_durations_read_like_a_clock(given: int, expected: str) -> None:
    assert clock(given) == expected
