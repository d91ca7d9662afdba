"""The JUnit document: every status, attempts, names, output, and text that is out to break it."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from typing import Any
from xml.etree import ElementTree

import junitparser
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from testorch_core.events import RecordedEvent, Source
from testorch_core.interfaces.reporter import Retryable
from testorch_plugins.reporters.junit import document as documents
from testorch_plugins.reporters.junit import output as outputs
from testorch_plugins.reporters.junit.document import Document, Survey
from testorch_plugins.reporters.junit.options import JunitOptions
from testorch_plugins.reporters.junit.output import RunLog
from testorch_plugins.reporters.junit.plugin import JunitReporter
from testorch_plugins.reporters.junit.text import legal, seconds, text_of, timestamp
from testorch_plugins.reporters.junit.verdicts import TestAttempts

STACK = "def test_b():\n>   assert 1 == 2\nE   assert 1 == 2"


async def rendered(log: Any) -> str:
    reporter = JunitReporter("junit", JunitOptions())
    return b"".join([piece async for piece in reporter.render(log.reader())]).decode()


def document_of(results_of: Any, *ends: Any, errors: Any = ()) -> bytes:
    """What the pure part makes of ends of tests, without a store and without trio."""
    state, results = results_of(*ends)
    by_id: dict[str, list[Any]] = {}
    for result in results:
        by_id.setdefault(result.test_id, []).append(result)
    tests = [TestAttempts(attempts) for _, attempts in sorted(by_id.items())]
    survey = Survey(state.status())
    for test in tests:
        survey.add(test)
    log = RunLog(survey.not_ok)
    for number, payload in enumerate(errors, 1):
        wire = {"id": f"o{number}", "type": "test/output", "timestamp": 0, "payload": payload}
        log.add(RecordedEvent("default", number, 0, Source("c1"), "run-1", wire))
    document = Document(state.status(), survey, log)
    whole = b"".join([document.begin(), *(document.add(test) for test in tests), document.end()])
    assert document.is_consistent
    return whole


def cases_of(whole: bytes) -> list[ElementTree.Element]:
    return list(ElementTree.fromstring(whole).iter("testcase"))


def assert_counts_are_those_of_the_children(root: ElementTree.Element) -> None:
    for element in (root, *root.iter("testsuite")):
        cases = list(element.iter("testcase"))
        counted = {
            "tests": len(cases),
            "failures": sum(case.find("failure") is not None for case in cases),
            "errors": sum(case.find("error") is not None for case in cases),
            "skipped": sum(case.find("skipped") is not None for case in cases),
        }
        assert {name: int(element.get(name, "-1")) for name in counted} == counted


async def test_a_run_becomes_this_document(make_log: Any) -> None:
    log = make_log()
    await log.start()
    place = {"filePath": "tests/test_a.py", "suitePath": ["tests/test_a.py", "TestA"], "line": 7}
    broken = {"message": "assert 1 == 2", "type": "AssertionError", "stack": STACK, "phase": "call"}
    await log.tell(
        "test/end",
        {"testId": "tests/test_a.py::TestA::test_a", "testName": "test_a", "status": "passed", "durationMs": 12.3456,
         "startedAt": 1_766_000_000_500, "properties": [["owner", "ann"], ["runs", 3]], **place},
        "test/output",
        {"testId": "tests/test_a.py::TestA::test_b", "stream": "stdout", "text": "said\n"},
        "test/output",
        {"testId": "tests/test_a.py::TestA::test_a", "stream": "stdout", "text": "of no interest\n"},
        "test/output",
        {"testId": "tests/test_a.py::TestA::test_b", "stream": "stderr", "text": "\x1b[31mwarned\x1b[0m\n"},
        "test/end",
        {"testId": "tests/test_a.py::TestA::test_b", "testName": "test_b", "status": "failed", "durationMs": 2000,
         "startedAt": 1_766_000_001_000, "errors": [broken], **place},
        "test/end",
        {"testId": "tests/test_c.py::test_c", "testName": "test_c", "status": "skipped", "reason": "not here"},
    )  # fmt: skip
    await log.end("failed")
    assert await rendered(log) == (
        "<?xml version='1.0' encoding='utf-8'?>\n"
        '<testsuites name="Nightly" tests="3" failures="1" errors="0" skipped="1" time="7.000"'
        ' timestamp="2025-12-17T19:33:20">\n'
        '<testsuite name="tests/test_a.py" id="0" tests="2" failures="1" errors="0" skipped="0" time="2.012"'
        ' timestamp="2025-12-17T19:33:20">\n'
        '<testcase name="test_a" classname="tests.test_a.TestA" time="0.012" file="tests/test_a.py" line="7">'
        '<properties><property name="owner" value="ann" /><property name="runs" value="3" /></properties></testcase>\n'
        '<testcase name="test_b" classname="tests.test_a.TestA" time="2.000" file="tests/test_a.py" line="7">'
        '<failure message="assert 1 == 2" type="AssertionError">'
        "def test_b():\n&gt;   assert 1 == 2\nE   assert 1 == 2</failure>"
        "<system-out>said\n</system-out><system-err>warned\n</system-err></testcase>\n"
        "</testsuite>\n"
        '<testsuite name="tests/test_c.py" id="1" tests="1" failures="0" errors="0" skipped="1" time="0.000"'
        ' timestamp="2025-12-17T19:33:20">\n'
        '<testcase name="test_c" classname="tests.test_c" time="0.000"><skipped message="not here" /></testcase>\n'
        "</testsuite>\n"
        "</testsuites>\n"
    )


WORDS: dict[str, tuple[dict[str, Any], str]] = {
    "passed": ({"status": "passed"}, ""),
    "failed": ({"status": "failed"}, '<failure message="failed" type="failed">failed</failure>'),
    "error": ({"status": "error"}, '<error message="error" type="error">error</error>'),
    "timed out": ({"status": "timedOut"}, '<error message="timed out" type="timeout">timed out</error>'),
    "interrupted": (
        {"status": "interrupted"},
        '<error message="interrupted" type="interrupted">interrupted</error>',
    ),
    "skipped": ({"status": "skipped"}, "<skipped />"),
    "todo": ({"status": "todo", "reason": "later"}, '<skipped message="todo: later" />'),
    "expected failure": (
        {"status": "failed", "expectedStatus": "failed", "reason": "bug 7"},
        '<skipped message="bug 7" type="xfail" />',
    ),
    "unexpected pass": (
        {"status": "passed", "expectedStatus": "failed"},
        '<failure message="passed, but was expected to fail" type="unexpectedPass">'
        "passed, but was expected to fail</failure>",
    ),
    "accepted unexpected pass": ({"status": "passed", "expectedStatus": "failed", "ok": True}, ""),
    "todo that fails the run": (
        {"status": "todo", "ok": False},
        '<failure message="todo, which fails the run" type="todo">todo, which fails the run</failure>',
    ),
    "a word nobody knows": (
        {"status": "wobbly", "rawStatus": "wobbly"},
        '<error message="unknown (wobbly)" type="unknown">unknown (wobbly)</error>',
    ),
    "a word nobody knows, accepted": (
        {"status": "wobbly", "ok": True},
        '<skipped message="unknown" type="unknown" />',
    ),
    "setup error": (
        {"status": "error", "errors": [{"message": "no db", "type": "OSError", "phase": "setup"}]},
        '<error message="failed on setup with &quot;no db&quot;" type="OSError">no db</error>',
    ),
    "failure, then teardown error": (
        {"status": "error", "errors": [{"message": "1 != 2", "phase": "call"}, {"message": "gone", "phase": "teardown"}]},
        '<failure message="1 != 2" type="failed">1 != 2</failure>'
        '<error message="failed on teardown with &quot;gone&quot;" type="error">gone</error>',
    ),
    "two errors": (
        {"status": "failed", "errors": [{"message": "one", "stack": "at a"}, {"message": "two", "expected": 1,
         "actual": [2], "filePath": "a.js", "line": 3}]},
        '<failure message="one" type="failed">one\nat a\n\ntwo\nexpected: 1\nactual: [2]\na.js:3</failure>',
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WORDS)
def test_every_status_has_its_element(results_of: Any, case: str) -> None:
    end, inside = WORDS[case]
    whole = document_of(results_of, {"testId": "a::b", **end})
    start, stop = whole.index(b"<testcase"), whole.index(b"</testsuite>")
    empty = '<testcase name="a::b" classname="a" time="0.000"'
    assert whole[start:stop].decode() == (f"{empty}>{inside}</testcase>\n" if inside else f"{empty} />\n")


def attempts(*statuses: str) -> list[dict[str, Any]]:
    return [
        {"testId": "a::b", "testName": "b", "attempt": number, "status": status, "durationMs": 1000,
         "errors": [] if status == "passed" else [{"message": f"no {number}", "type": "E", "stack": f"at {number}"}]}
        for number, status in enumerate(statuses, 1)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("statuses", "inside"),
    [
        (
            ("failed", "error", "passed"),
            '<flakyFailure message="no 1" type="E"><stackTrace>no 1\nat 1</stackTrace></flakyFailure>'
            '<flakyFailure message="no 2" type="E"><stackTrace>no 2\nat 2</stackTrace></flakyFailure>',
        ),
        (
            ("failed", "failed", "failed"),
            '<failure message="no 1" type="E">no 1\nat 1</failure>'
            '<rerunFailure message="no 2" type="E"><stackTrace>no 2\nat 2</stackTrace></rerunFailure>'
            '<rerunFailure message="no 3" type="E"><stackTrace>no 3\nat 3</stackTrace></rerunFailure>',
        ),
        (
            # The verdict is the last attempt's: an error, told with the first attempt that was one.
            ("failed", "error", "error"),
            '<error message="no 2" type="E">no 2\nat 2</error>'
            '<rerunFailure message="no 1" type="E"><stackTrace>no 1\nat 1</stackTrace></rerunFailure>'
            '<rerunFailure message="no 3" type="E"><stackTrace>no 3\nat 3</stackTrace></rerunFailure>',
        ),
        (
            ("failed", "skipped"),
            '<skipped /><rerunFailure message="no 1" type="E"><stackTrace>no 1\nat 1</stackTrace></rerunFailure>',
        ),
    ],
)
def test_attempts_are_folded_into_one_testcase(results_of: Any, statuses: tuple[str, ...], inside: str) -> None:
    whole = document_of(results_of, *attempts(*statuses))
    start, stop = whole.index(b"<testcase"), whole.index(b"</testsuite>")
    time = f"{len(statuses)}.000"
    assert whole[start:stop].decode() == f'<testcase name="b" classname="a" time="{time}">{inside}</testcase>\n'
    assert_counts_are_those_of_the_children(ElementTree.fromstring(whole))


async def test_a_test_that_was_cut_off_is_interrupted_with_its_last_output(make_log: Any) -> None:
    log = make_log()
    await log.start()
    await log.tell("test/start", {"testId": "a::b"}, "test/output", {"testId": "a::b", "text": "about to crash"})
    running = ElementTree.fromstring(await rendered(log))
    assert [ElementTree.tostring(one) for one in running.iter("skipped")] == [
        b'<skipped message="still running" type="running" />'
    ]
    await log.end("interrupted", complete=False, reason="lost")
    assert [ElementTree.tostring(one) for one in cases_of((await rendered(log)).encode())] == [
        b'<testcase name="a::b" classname="a" time="0.000">'
        b'<error message="the run ended before this test did" type="interrupted">the run ended before this test did'
        b"</error><system-out>about to crash</system-out></testcase>\n"
    ]


async def test_errors_outside_any_test_are_shown_but_not_those_of_a_test_twice(make_log: Any) -> None:
    log = make_log()
    await log.start()
    await log.tell(
        "run/error", {"testId": "a.py", "errors": [{"message": "SyntaxError"}]},
        "test/end", {"testId": "a.py", "status": "error", "errors": [{"message": "SyntaxError"}]},
        "run/error", {"errors": [{"message": "INTERNALERROR", "type": "KeyError"}]},
        "run/error", {"message": "worker gw1 died"},
        "run/error", {"errors": "none of these is a list", "testId": []},
    )  # fmt: skip
    await log.end("failed")
    root = ElementTree.fromstring(await rendered(log))
    cases = root.iter("testcase")
    assert [(case.get("classname"), case.get("name"), case[0].tag, case[0].get("message")) for case in cases] == [
        ("Nightly", "a.py", "error", "SyntaxError"),
        ("testorch", "run", "error", "INTERNALERROR"),
        ("testorch", "run (another)", "error", "worker gw1 died"),
        ("testorch", "run (another, 2)", "error", "an error outside any test"),
    ]
    assert [suite.get("name") for suite in root] == ["Nightly", "Nightly (continued)"]
    assert_counts_are_those_of_the_children(root)


async def test_a_run_that_did_not_pass_never_looks_green(make_log: Any) -> None:
    log = make_log()
    await log.start()
    await log.tell("test/end", {"testId": "a::b", "status": "passed"})
    await log.end("interrupted", complete=False, reason="lost")
    root = ElementTree.fromstring(await rendered(log))
    assert root.attrib == {
        "name": "Nightly", "tests": "2", "failures": "0", "errors": "1", "skipped": "0", "time": "2.000",
        "timestamp": "2025-12-17T19:33:20",
    }  # fmt: skip
    assert [error.get("message") for error in root.iter("error")] == ["the run ended as interrupted: lost"]


async def test_an_empty_run_is_a_document_too(make_log: Any) -> None:
    log = make_log(name=None)
    await log.start()
    await log.end()
    assert await rendered(log) == (
        "<?xml version='1.0' encoding='utf-8'?>\n"
        '<testsuites name="run-1" tests="0" failures="0" errors="0" skipped="0" time="1.000"'
        ' timestamp="2025-12-17T19:33:20">\n</testsuites>\n'
    )


@pytest.mark.parametrize(
    ("details", "expected"),
    [
        ({"testId": "x", "filePath": "a/b.py", "suitePath": ["a/b.py", "C"]}, ("a/b.py", "a.b.C", "x")),
        ({"testId": "a/b.py::C::x", "testName": "x[1]", "parameters": {"n": 1}}, ("a/b.py", "a.b", "x[1]")),
        ({"testId": "7", "suitePath": ["a.spec.ts", "logs in"]}, ("a.spec.ts", "a.spec.ts.logs in", "7")),
        ({"testId": "7", "filePath": "e2e/a.ts", "suitePath": ["logs in"]}, ("e2e/a.ts", "e2e.a.ts.logs in", "7")),
        # pytest found it in a class of child.py, its code stands in base.py
        (
            {"testId": "child.py::T::x", "testName": "x", "filePath": "base.py", "suitePath": ["child.py", "T"]},
            ("base.py", "child.T", "x"),
        ),
        ({"testId": "7", "testName": "sum", "parameters": {"a": 1, "b": "x"}}, ("run-1", "run-1", "sum[a=1, b=x]")),
        (
            {"testId": "7", "filePath": 3, "suitePath": [None, {}], "parameters": [1], "line": "x"},
            ("run-1", "run-1", "7"),
        ),
    ],
)
def test_a_test_is_placed_by_its_file_and_suites(
    results_of: Any, details: dict[str, Any], expected: tuple[str, str, str]
) -> None:
    root = ElementTree.fromstring(document_of(results_of, {"status": "passed", **details}))
    assert (root[0].get("name"), root[0][0].get("classname"), root[0][0].get("name")) == expected


def test_tests_that_would_be_mistaken_for_each_other_get_names_of_their_own(results_of: Any) -> None:
    whole = document_of(
        results_of,
        {"testId": "chromium", "testName": "logs in", "filePath": "a/b.py", "suitePath": ["a/b.py", "c"]},
        {"testId": "firefox", "testName": "logs in", "filePath": "a/b.py", "suitePath": ["a/b.py", "c"]},
        {"testId": "other", "testName": "logs in", "filePath": "a/b/c.py"},
    )
    assert [(case.get("classname"), case.get("name")) for case in cases_of(whole)] == [
        ("a.b.c", "logs in"),
        ("a.b.c", "logs in (firefox)"),
        ("a.b.c (a/b/c.py)", "logs in"),
    ]


def test_files_that_take_turns_still_make_one_suite_each(results_of: Any) -> None:
    ends = [{"testId": f"{n:02}", "filePath": f"{'ab'[n % 2]}.py", "status": "passed"} for n in range(10)]
    root = ElementTree.fromstring(document_of(results_of, *ends))
    assert [(suite.get("name"), suite.get("tests")) for suite in root] == [("a.py", "5"), ("b.py", "5")]
    assert_counts_are_those_of_the_children(root)


def test_no_more_is_held_back_than_the_limit(results_of: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "MAX_HELD_BYTES", 200)
    ends = [
        {"testId": f"{n:02}", "testName": "t", "filePath": f"{'ab'[n % 2]}.py", "status": "passed"} for n in range(8)
    ]
    whole = document_of(results_of, *ends)
    root = ElementTree.fromstring(whole)
    assert [(suite.get("name"), suite.get("tests")) for suite in root] == [
        ("a.py", "2"), ("b.py", "3"), ("a.py (continued)", "2"), ("b.py (continued)", "1"),
    ]  # fmt: skip
    names = [(case.get("classname"), case.get("name")) for case in cases_of(whole)]
    assert len(set(names)) == 8
    assert_counts_are_those_of_the_children(root)


async def test_results_that_change_while_the_document_is_written_make_it_be_written_again(make_log: Any) -> None:
    log = make_log()
    await log.start()
    await log.tell("test/end", {"testId": "a::b", "status": "passed"})
    await log.end()
    pieces = JunitReporter("junit", JunitOptions()).render(log.reader())
    await anext(pieces)
    await log.tell("test/end", {"testId": "a::late", "status": "failed"})
    with pytest.raises(Retryable, match="changed while its report was written"):
        [piece async for piece in pieces]


def test_of_long_output_the_end_is_kept_and_the_cut_is_shown(results_of: Any) -> None:
    end = {"testId": "a::b", "status": "failed"}
    chunks = [{"testId": "a::b", "stream": "stdout", "text": "é" * 10_000 + str(n)} for n in range(10)]
    (out,) = cases_of(document_of(results_of, end, errors=chunks))[0].iter("system-out")
    assert out.text is not None
    assert out.text.startswith("[earlier output was cut]\né")
    assert out.text.endswith("é9")
    assert 64 * 1024 - 5 <= len(out.text.partition("\n")[2].encode()) <= 64 * 1024


def test_a_cut_made_by_the_producer_is_shown(results_of: Any) -> None:
    said = [{"testId": "a::b", "stream": "log", "text": "end", "truncated": True}]
    whole = document_of(results_of, {"testId": "a::b", "status": "failed"}, errors=said)
    assert [one.text for one in cases_of(whole)[0].iter("system-err")] == ["[earlier output was cut]\nend"]


def test_an_escape_that_is_torn_between_chunks_is_still_stripped(results_of: Any) -> None:
    said = [{"testId": "a::b", "text": "\x1b[3"}, {"testId": "a::b", "text": "1mred\x1b[0m\ud83d"}]
    whole = document_of(results_of, {"testId": "a::b", "status": "failed"}, errors=said)
    assert [one.text for one in cases_of(whole)[0].iter("system-out")] == ["red#xD83D"]


def test_when_the_room_for_output_is_used_up_every_test_says_so(
    results_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outputs, "MAX_OUTPUT_BYTES", 2**20)
    monkeypatch.setattr(outputs, "COST_OF_A_TEST_BYTES", 2**20 - 12)
    ends = [{"testId": f"a::{n}", "status": "failed"} for n in range(2)]
    said = [{"testId": f"a::{n}", "text": text} for n in range(2) for text in ("one", "two", "three")]
    whole = document_of(results_of, *ends, errors=said)
    note = "[output was left out: the document's 1 MiB for output are used up]"
    assert [one.text for one in ElementTree.fromstring(whole).iter("system-out")] == [f"onetwo\n{note}", note]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("a\x00b\x1bc\x7f\x85", "a#x00b#x7F#x85"),
        ("\x1b[1;31mred\x1b[0m \x1b]8;;http://x\x1b\\link\x1b]8;;\x07", "red link"),
        ("\ufffe\uffff\ud800\U0001f600", "#xFFFE#xFFFF#xD800\U0001f600"),
        ("\t\r\n ]]> & <", "\t\r\n ]]> & <"),
        ("\x1b[999", "999"),
        ("end\x1b", "end#x1B"),
    ],
)
def test_text_is_made_legal_and_what_was_illegal_is_seen(given: str, expected: str) -> None:
    assert legal(given) == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [(None, ""), (True, "true"), ({"a": ["\x00"]}, '{"a": ["\\u0000"]}'), ([10**5000], "(list)"), (1.5, "1.5")],
)
def test_any_json_value_has_a_text(given: Any, expected: str) -> None:
    assert text_of(given) == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [(0.01, "0.000"), (1e-5, "0.000"), (-5.0, "0.000"), (float("nan"), "0.000"), (float("inf"), "0.000"),
     (1234.5678, "1.235"), (1e300, "1000000000.000")],
)  # fmt: skip
def test_seconds_have_three_decimals_whatever_they_are_made_of(given: float, expected: str) -> None:
    assert seconds(given) == expected


@pytest.mark.parametrize("given", [None, True, "1", -1, 1e18, float("nan"), []])
def test_what_is_no_time_has_no_timestamp(given: Any) -> None:
    assert timestamp(given) is None


def test_the_last_moment_of_the_calendar_is_a_time() -> None:
    assert timestamp(253_402_300_799_999) == "9999-12-31T23:59:59"


def deep(levels: int) -> Any:
    value: Any = "bottom"
    for _ in range(levels):
        value = [value]
    return value


def test_values_nested_beyond_all_reason_do_no_harm(results_of: Any) -> None:
    state, results = results_of({"testId": "a::b", "status": "failed"})
    hostile = {"properties": [["k", deep(100_000)]], "errors": [{"message": deep(100_000), "stack": deep(50)}]}
    object.__setattr__(results[0], "details", hostile)
    survey = Survey(state.status())
    survey.add(TestAttempts(results))
    document = Document(state.status(), survey, RunLog(()))
    whole = document.begin() + document.add(TestAttempts(results)) + document.end()
    (failure,) = ElementTree.fromstring(whole).iter("failure")
    assert failure.get("message") == "(list)"


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
statuses = st.sampled_from(["passed", "failed", "error", "skipped", "todo", "timedOut", "interrupted", "?", None])
# One kind of value for each field that the document reads, and sometimes any JSON at all.
names = st.sampled_from(["x", "y"]) | st.text() | json_values
errors = st.lists(st.fixed_dictionaries({}, optional={
    "message": names, "type": names, "stack": names, "phase": st.sampled_from(["setup", "call", "teardown"]) | json_values,
    "expected": json_values, "filePath": names, "line": json_values,
}), max_size=3)  # fmt: skip
ends = st.fixed_dictionaries(
    {"testId": st.sampled_from(["a::b", "a::c", "d::e"]) | st.text(min_size=1), "status": statuses},
    optional={
        "testName": names, "suitePath": st.lists(names, max_size=3) | json_values, "filePath": names, "line": json_values,
        "attempt": st.integers(1, 3), "ok": st.booleans(), "expectedStatus": statuses, "reason": names,
        "durationMs": json_values, "startedAt": json_values, "errors": errors | json_values, "parameters": json_values,
        "properties": st.lists(st.lists(json_values, min_size=2, max_size=2), max_size=3) | json_values, "rawStatus": names,
    },
)  # fmt: skip


def as_received(value: Any) -> Any:
    """What the core's decoder lets through: no NUL and no lone surrogate (orjson refuses to store them)."""
    return json.loads(json.dumps(value).replace("\\u0000", "\\u0001"))


@settings(max_examples=100, deadline=None)
@given(st.lists(ends, max_size=6), st.lists(st.text(), max_size=3))
def test_any_run_is_a_well_formed_document_with_one_testcase_a_test(
    results_of: Any, given_ends: list[dict[str, Any]], said: list[str]
) -> None:
    sent = [one for one in map(as_received, given_ends) if not has_surrogate(one)]
    spoken = [{"testId": one["testId"], "text": text} for one in sent for text in said]
    whole = document_of(results_of, *sent, errors=spoken)
    root = ElementTree.fromstring(whole)
    placed = [(case.get("classname"), case.get("name")) for case in root.iter("testcase")]
    assert len(placed) == len({one["testId"] for one in sent})
    assert len(set(placed)) == len(placed)
    assert_counts_are_those_of_the_children(root)
    parsed = junitparser.JUnitXml.fromfile(io.BytesIO(whole))
    assert sum(1 for suite in parsed for _ in suite) == len(placed)


@settings(max_examples=100, deadline=None)
@given(st.text(alphabet=st.characters(exclude_categories=())))
@example("\x1b0")  # nothing is left of it
def test_any_text_as_name_message_output_and_classname_survives_the_document(results_of: Any, text: str) -> None:
    """Lone surrogates and NUL included, which no store takes: put in behind the store's back."""
    state, results = results_of({"testId": "a::b", "status": "failed"})
    error = {"message": text, "stack": text, "type": text}
    names = {"testName": text, "suitePath": [text, text], "filePath": text}
    hostile = {**names, "errors": [error], "properties": [[text, text]]}
    object.__setattr__(results[0], "details", hostile)
    tests = TestAttempts(results)
    survey = Survey(state.status())
    survey.add(tests)
    log = RunLog(survey.not_ok)
    said = {"id": "o", "type": "test/output", "timestamp": 0, "payload": {"testId": "a::b", "text": text}}
    log.add(RecordedEvent("default", 1, 0, Source("c1"), "run-1", said))
    document = Document(state.status(), survey, log)
    root = ElementTree.fromstring(document.begin() + document.add(tests) + document.end())
    (case,) = root.iter("testcase")
    (failure,) = case.iter("failure")
    assert failure.get("message") == (legal(text) or "failed")
    assert case.get("name") == (legal(text) or "a::b")


def has_surrogate(value: Any) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return True
    return False


def test_the_survey_and_the_collector_agree_on_who_is_wanted(results_of: Callable[..., Any]) -> None:
    said = [{"testId": "a::ok", "text": "no"}, {"testId": "a::bad", "text": "yes"}, {"testId": ["a::bad"], "text": "no"},
            {"testId": "a::bad", "text": 7}, {"testId": "a::bad", "text": "!", "stream": {}}]  # fmt: skip
    ends = [{"testId": "a::ok", "status": "passed"}, {"testId": "a::bad", "status": "failed"}]
    assert [
        one.text for one in ElementTree.fromstring(document_of(results_of, *ends, errors=said)).iter("system-out")
    ] == ["yes!"]
