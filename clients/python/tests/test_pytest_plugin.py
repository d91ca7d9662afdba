"""The plugin in real pytest sessions, each in a process of its own, against the fake server."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import fake_faults as faults
import pytest
from fake_server import FakeServer
from fake_streams import Message

from testorch_client import __version__

pytestmark = pytest.mark.slow(reason="sessions of pytest in processes of their own")
SUITE = (Path(__file__).parent / "suite_of_everything.py.txt").read_text()


def run(pytester: pytest.Pytester, server: FakeServer | str, *arguments: str) -> pytest.RunResult:
    url = server if isinstance(server, str) else server.url
    return pytester.runpytest_subprocess("-p", "no:cacheprovider", "-p", "no:randomly", "--testorch", url, *arguments)


def verdict(end: Message) -> tuple[Any, ...]:
    return (end["status"], end["rawStatus"], end["expectedStatus"], end.get("ok"))


class Everything:
    """One session of the suite of everything: what pytest said, and what the server got."""

    def __init__(self, result: pytest.RunResult, server: FakeServer, junit: ElementTree.Element) -> None:
        self.result = result
        self.server = server
        self.junit = junit
        self.ends = server.ends()

    def end(self, name: str) -> Message:
        return self.ends[f"test_all.py::{name}"]


@pytest.fixture(scope="module")
def everything(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Everything:
    """The session is run once for the module: it takes most of a second."""
    import subprocess

    folder = tmp_path_factory.mktemp("everything")
    (folder / "test_all.py").write_text(SUITE)
    (folder / "test_broken.py").write_text("import nothing_of_that_name\n")
    (folder / "test_optional.py").write_text("import pytest\npytest.importorskip('nothing_of_that_name')\n")
    with FakeServer() as server:
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-p",
            "no:cacheprovider",
            "-p",
            "no:randomly",
            "--rootdir",
            str(folder),
        ]
        command += ["--junitxml", "junit.xml", "--continue-on-collection-errors", "--testorch", server.url]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        junit = ElementTree.fromstring((folder / "junit.xml").read_text())
        result = pytest.RunResult(done.returncode, done.stdout.splitlines(), done.stderr.splitlines(), 0)
        return Everything(result, server, junit)


OUTCOMES = {
    "test_passes": ("passed", "passed", "passed", None),
    "test_fails": ("failed", "failed", "passed", None),
    "test_raises": ("failed", "failed", "passed", None),
    "test_fails_without_traceback": ("failed", "failed", "passed", None),
    "test_setup_error": ("error", "error", "passed", None),
    "test_teardown_error": ("error", "error", "passed", None),
    "test_call_and_teardown": ("error", "error", "passed", None),
    "test_no_such_fixture": ("error", "error", "passed", None),
    "test_skip_mark": ("skipped", "skipped", "passed", None),
    "test_skipif": ("skipped", "skipped", "passed", None),
    "test_skip_in_call": ("skipped", "skipped", "passed", None),
    "test_skip_in_setup": ("skipped", "skipped", "passed", None),
    "test_xfail": ("failed", "xfailed", "failed", None),
    "test_xfail_without_reason": ("failed", "xfailed", "failed", None),
    "test_xfail_not_run": ("failed", "xfailed", "failed", None),
    "test_xfail_in_call": ("failed", "xfailed", "failed", None),
    "test_xpass": ("passed", "xpassed", "failed", True),
    "test_xpass_strict": ("failed", "failed", "failed", False),
    "test_xfail_other_error": ("failed", "failed", "passed", None),
    # pytest takes the teardown's error as expected, too.
    "test_xfail_with_teardown_error": ("failed", "xfailed", "failed", None),
    "test_xpass_with_teardown_error": ("failed", "xfailed", "failed", None),
    "TestOuter::TestInner::test_nested": ("passed", "passed", "passed", None),
    "TestOuter::TestInner::test_number[1]": ("passed", "passed", "passed", None),
    "TestOuter::TestInner::test_number[2]": ("failed", "failed", "passed", None),
    "Unit::test_unit_passes": ("passed", "passed", "passed", None),
    "Unit::test_unit_fails": ("failed", "failed", "passed", None),
    "Unit::test_unit_skipped": ("skipped", "skipped", "passed", None),
    "Unit::test_unit_expected": ("failed", "xfailed", "failed", None),
    "Unit::test_unit_unexpected": ("failed", "failed", "passed", None),
    "Unit::test_unit_subtests": ("failed", "failed", "passed", None),
    "test_subtests_fail": ("failed", "failed", "passed", None),
    "test_subtests_pass": ("passed", "passed", "passed", None),
    "test_subtests_and_call_fail": ("failed", "failed", "passed", None),
    "test_properties": ("passed", "passed", "passed", None),
}


@pytest.mark.parametrize("name", OUTCOMES)
def test_every_outcome_of_pytest_has_the_status_of_the_table(everything: Everything, name: str) -> None:
    assert verdict(everything.end(name)) == OUTCOMES[name]


def test_every_test_has_one_start_before_its_one_end(everything: Everything) -> None:
    starts = [payload["testId"] for payload in everything.server.of_type("test/start")]
    ends = [payload["testId"] for payload in everything.server.of_type("test/end")]
    collected = [test_id for test_id in ends if "::" not in test_id]
    assert len(set(starts)) == len(starts)
    assert sorted([*starts, *collected]) == sorted(ends)
    order = [
        (event["payload"]["testId"], event["type"])
        for event in everything.server.events.values()
        if event["type"] in ("test/start", "test/end")
    ]
    assert all(order.index((test_id, "test/start")) < order.index((test_id, "test/end")) for test_id in starts)


def test_the_counts_and_every_outcome_agree_with_junit_xml(everything: Everything) -> None:
    in_junit: Counter[tuple[str, str]] = Counter()
    for case in everything.junit.iter("testcase"):
        kinds = {child.tag for child in case}
        outcome = "error" if "error" in kinds else "failed" if "failure" in kinds else "skipped"
        in_junit[case.get("name", ""), outcome if kinds & {"error", "failure", "skipped"} else "passed"] += 1
    # junit writes two cases for a call and a teardown that both fail.
    assert in_junit["test_call_and_teardown", "failed"] == in_junit["test_call_and_teardown", "error"] == 1
    del in_junit["test_call_and_teardown", "failed"]
    ours: Counter[tuple[str, str]] = Counter()
    for test_id, end in everything.ends.items():
        is_expected_failure = end["status"] == end.get("expectedStatus") == "failed" and end.get("ok") is not False
        name = end["testName"] if "::" in test_id else test_id.removesuffix(".py")
        ours[_as_in_junit(name), "skipped" if is_expected_failure else end["status"]] += 1
    assert ours == Counter({(_as_in_junit(name), outcome): count for (name, outcome), count in in_junit.items()})


def _as_in_junit(name: str) -> str:
    return "test_odd[zzz]" if name.startswith("test_odd[zzz") else name


def test_durations_agree_with_junit_xml(everything: Everything) -> None:
    cases = {case.get("name"): float(case.get("time", "0")) for case in everything.junit.iter("testcase")}
    for name in ("test_passes", "test_fails", "test_setup_error", "test_skip_mark"):
        assert everything.end(name)["durationMs"] / 1000 == pytest.approx(cases[name], abs=0.0006)


def test_a_passing_test_says_who_and_where_it_is_and_little_else(everything: Everything) -> None:
    (start,) = [p for p in everything.server.of_type("test/start") if p["testName"] == "test_nested"]
    line = SUITE.splitlines().index("        def test_nested(self):") + 1
    identity = {
        "testId": "test_all.py::TestOuter::TestInner::test_nested",
        "testName": "test_nested",
        "fullName": "TestOuter::TestInner::test_nested",
        "suitePath": ["test_all.py", "TestOuter", "TestInner"],
        "filePath": "test_all.py",
        "line": line,
        "attempt": 1,
    }
    assert start == identity
    end = everything.end("TestOuter::TestInner::test_nested")
    measured = {name: end.pop(name) for name in ("durationMs", "startedAt", "endedAt")}
    assert end == {**identity, "status": "passed", "rawStatus": "passed", "expectedStatus": "passed"}
    end.update(measured)
    assert 0 <= measured["durationMs"] < 1000
    assert 1_700_000_000_000 < measured["startedAt"] <= measured["endedAt"]


def test_a_failure_is_described_with_its_type_message_stack_and_place(everything: Everything) -> None:
    (error,) = everything.end("test_fails")["errors"]
    assert error["type"] == "AssertionError"
    assert error["message"] == "assert 1 == 2"
    line = SUITE.splitlines().index("    assert 1 == 2") + 1
    assert error["stack"].endswith(f"test_all.py:{line}: AssertionError")
    assert (error["filePath"], error["line"], error["phase"]) == ("test_all.py", line, "call")
    (error,) = everything.end("test_raises")["errors"]
    assert (error["type"], error["message"]) == ("KeyError", "KeyError: 'missing'")
    (error,) = everything.end("test_fails_without_traceback")["errors"]
    assert (error["type"], error["message"], error["stack"]) == ("Failed", "Failed: plainly", "plainly")


def test_errors_say_in_which_phase_they_came(everything: Everything) -> None:
    def phases(name: str) -> list[tuple[str, str]]:
        return [(error["phase"], error["message"]) for error in everything.end(name)["errors"]]

    assert phases("test_setup_error") == [("setup", "RuntimeError: no setup")]
    assert phases("test_teardown_error") == [("teardown", "RuntimeError: no teardown")]
    assert phases("test_call_and_teardown") == [("call", "assert False"), ("teardown", "RuntimeError: no teardown")]
    assert phases("test_no_such_fixture")[0][1].startswith("fixture 'nowhere' not found")


def test_skips_and_expected_failures_give_their_reason(everything: Everything) -> None:
    reasons = {name: everything.end(name).get("reason") for name in OUTCOMES if everything.end(name).get("reason")}
    assert reasons == {
        "test_skip_mark": "by mark",
        "test_skipif": "by condition",
        "test_skip_in_call": "in the call",
        "test_skip_in_setup": "in setup",
        "test_xfail": "known bug",
        "test_xfail_not_run": "[NOTRUN] hangs",
        "test_xfail_in_call": "from within",
        "test_xpass": "fixed?",
        "test_xpass_strict": "fixed!",
        "test_xfail_with_teardown_error": "known bug",
        "test_xpass_with_teardown_error": "known bug",
        "Unit::test_unit_skipped": "by unittest",
    }


def test_a_failed_subtest_fails_its_test_and_is_named_in_its_error(everything: Everything) -> None:
    (error,) = everything.end("test_subtests_fail")["errors"]
    assert error["message"].startswith("[number] (n=1) assert 1 != 1")
    (error,) = everything.end("Unit::test_unit_subtests")["errors"]
    assert error["message"].startswith("(n=1) AssertionError: 1 == 1")
    messages = [error["message"] for error in everything.end("test_subtests_and_call_fail")["errors"]]
    assert [message.split("\n")[0] for message in messages] == [
        "AssertionError: assert 'in the call' == ''",
        "(<subtest>) AssertionError: assert 'in the subtest' == ''",
    ]


def test_output_is_sent_for_what_is_not_ok_before_its_end(everything: Everything) -> None:
    test_id = "test_all.py::test_fails"
    outputs = everything.server.of_type("test/output")
    assert {output["testId"] for output in outputs} <= {p for p, end in everything.ends.items() if "errors" in end}
    assert [output for output in outputs if output["testId"] == test_id] == [
        {"testId": test_id, "attempt": 1, "stream": "stdout", "text": "to stdout\n", "truncated": False},
        {"testId": test_id, "attempt": 1, "stream": "stderr", "text": "to stderr\n", "truncated": False},
    ]
    kinds = [event["type"] for event in everything.server.events.values() if event["payload"].get("testId") == test_id]
    assert kinds == ["test/start", "test/output", "test/output", "test/end"]


def test_user_properties_are_sent_as_strings(everything: Everything) -> None:
    assert everything.end("test_properties")["properties"] == [["key", "{'a': 1}"], ["empty", "None"]]


def test_odd_parameters_stay_within_the_name(everything: Everything) -> None:
    odd = [end for test_id, end in everything.ends.items() if "test_odd" in test_id]
    assert len(odd) == 10
    assert all(end["suitePath"] == ["test_all.py"] for end in odd)
    assert all(end["testName"].startswith("test_odd[") for end in odd)
    (long,) = [end for end in odd if "zzz" in end["testId"]]
    assert len(long["testId"]) == len(long["testName"]) == 1024


def test_a_module_that_can_not_be_collected_is_an_error_on_its_own_id(everything: Everything) -> None:
    end = everything.ends["test_broken.py"]
    (error,) = end["errors"]
    assert end == {
        "testId": "test_broken.py",
        "testName": "test_broken.py",
        "fullName": "test_broken.py",
        "suitePath": ["test_broken.py"],
        "filePath": "test_broken.py",
        "attempt": 1,
        "status": "error",
        "rawStatus": "failed",
        "tags": ["collection"],
        "errors": [error],
    }
    assert error["message"] == "ModuleNotFoundError: No module named 'nothing_of_that_name'"
    assert (error["type"], error["phase"]) == ("ModuleNotFoundError", "collection")
    assert everything.server.of_type("run/error") == [{"testId": "test_broken.py", "errors": [error]}]


def test_a_module_that_skips_itself_is_skipped_as_in_junit_xml(everything: Everything) -> None:
    end = everything.ends["test_optional.py"]
    assert (end["status"], end["tags"]) == ("skipped", ["collection"])
    assert end["reason"].startswith("could not import 'nothing_of_that_name'")


def test_the_plan_is_the_number_of_collected_tests(everything: Everything) -> None:
    assert everything.server.of_type("run/plan") == [{"total": len(everything.server.of_type("test/start"))}]


def test_the_summary_says_that_all_arrived(everything: Everything) -> None:
    tests = len(everything.ends)
    events = len(everything.server.events)
    line = f"testorch: run ????????… — {tests} tests, {events} events delivered, receipt matches"
    everything.result.stdout.fnmatch_lines([line])
    assert everything.result.ret == 1


# Sessions of their own


def test_the_run_is_described_without_environment_and_command_line(
    pytester: pytest.Pytester, server: FakeServer
) -> None:
    pytester.makepyfile("def test_it(): pass")
    run(pytester, server, "--testorch-run-id", "r-1", "--testorch-key", "k", "--testorch-project", "p",
        "--testorch-name", "n")  # fmt: skip
    (hello,) = server.payloads("hello")
    assert len(hello.pop("streamId")) == 12
    client = {"name": "testorch-client", "version": __version__}
    assert hello == {"runId": "r-1", "project": "p", "client": client}
    assert server.payloads("startTestRun")[0] == {
        "runId": "r-1",
        "key": "k",
        "name": "n",
        "metadata": {
            "framework": "pytest",
            "frameworkVersion": pytest.__version__,
            "pythonVersion": ".".join(map(str, sys.version_info[:3])),
            "platform": sys.platform,
        },
    }
    assert server.ended == ["r-1"]


def test_the_environment_turns_it_on_too(
    pytester: pytest.Pytester, server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TESTORCH_URL", server.url)
    monkeypatch.setenv("TESTORCH_RUN_ID", "from-env")
    monkeypatch.setenv("TESTORCH_TOKEN", "secret")
    monkeypatch.delenv("PYTEST_CURRENT_TEST")
    pytester.makepyfile("def test_it(): pass")
    pytester.runpytest_subprocess()
    assert server.ended == ["from-env"]
    assert server.headers[0]["Authorization"] == "Bearer secret"


def test_a_session_within_a_test_is_no_run_of_its_own(
    pytester: pytest.Pytester, server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TESTORCH_URL", server.url)  # and PYTEST_CURRENT_TEST is set, by the test that you read
    pytester.makepyfile("def test_it(): pass")
    assert pytester.runpytest_subprocess().ret == 0
    assert not server.messages


def test_unasked_it_imports_nothing_and_prints_nothing(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import sys

        def test_it():
            assert "testorch_client.pytest_plugin" in sys.modules
            assert not [name for name in sys.modules if name.startswith("websockets")]
            assert "testorch_client.client" not in sys.modules
        """
    )
    result = pytester.runpytest_subprocess()
    result.assert_outcomes(passed=1)
    result.stdout.no_fnmatch_line("*testorch:*")


@pytest.mark.parametrize("arguments", [("-p", "no:testorch"), ("--collect-only", "--testorch", "ws://127.0.0.1:9")])
def test_it_can_be_left_out_like_any_plugin_and_is_when_nothing_runs(
    pytester: pytest.Pytester, arguments: tuple[str, ...]
) -> None:
    pytester.makepyfile("def test_it(): pass")
    result = pytester.runpytest_subprocess(*arguments)
    assert result.ret == 0
    result.stdout.no_fnmatch_line("*testorch:*")


SESSIONS = {
    0: "def test_it(): pass",
    1: "def test_it(): assert False",
    2: "def test_it(): raise KeyboardInterrupt",
    3: "import pytest\ndef test_it(): pytest.exit('stop', returncode=3)",
    5: "def nothing(): pass",
}


@pytest.mark.parametrize("status", SESSIONS)
@pytest.mark.parametrize("is_there", [True, False], ids=["server", "no server"])
def test_the_exit_status_is_pytests_own(
    pytester: pytest.Pytester, server: FakeServer, status: int, is_there: bool
) -> None:
    pytester.makepyfile(SESSIONS[status])
    result = run(pytester, server if is_there else "ws://user:secret@127.0.0.1:9")
    assert result.ret == status
    if is_there:
        assert len(server.ended) == 1
    else:
        assert "secret" not in result.stdout.str() + result.stderr.str()
        result.stdout.fnmatch_lines(["testorch: nothing sent — ws://***@127.0.0.1:9: Connection refused"])


def test_a_dead_server_costs_less_than_two_seconds(pytester: pytest.Pytester, silent_socket: str) -> None:
    pytester.makepyfile("def test_it(): pass")
    without = pytester.runpytest_subprocess().duration
    result = run(pytester, silent_socket)
    assert result.ret == 0
    assert result.duration - without < 2.0


def test_an_interrupted_test_is_closed_as_interrupted(pytester: pytest.Pytester, server: FakeServer) -> None:
    pytester.makepyfile("def test_first(): pass\ndef test_second():\n  print('so far')\n  raise KeyboardInterrupt")
    run(pytester, server)
    ends = {end["testName"]: (end["status"], end.get("reason")) for end in server.ends().values()}
    assert ends == {
        "test_first": ("passed", None),
        "test_second": ("interrupted", "the session ended before this test did"),
    }


def test_refusals_are_summed_up_with_their_code(pytester: pytest.Pytester, server: FakeServer) -> None:
    server.judge = lambda event: {"code": "invalid_event"} if event["type"] == "test/end" else None
    pytester.makepyfile("def test_it(): pass")
    result = run(pytester, server, "--testorch-run-id", "nightly")
    assert result.ret == 0
    line = "testorch: run nightly — 1 test, 2 events delivered, 1 refused (invalid_event 1), receipt matches"
    result.stdout.fnmatch_lines([line])


def test_a_receipt_that_does_not_match_is_said_and_changes_nothing_else(
    pytester: pytest.Pytester, server: FakeServer
) -> None:
    server.misbehave = faults.at("streamEnd", faults.answer_changed("receipt", digest="0" * 64))
    pytester.makepyfile("def test_it(): pass")
    result = run(pytester, server, "--testorch-run-id", "nightly")
    assert result.ret == 0
    result.stdout.fnmatch_lines(
        [
            f"testorch: run nightly — 1 test, 3 events delivered; {server.url}: "
            "the receipt's digest of 3 events is not that of what was sent"
        ]
    )


def test_an_error_of_its_own_turns_it_off_and_nothing_else(pytester: pytest.Pytester, server: FakeServer) -> None:
    pytester.makeconftest(
        """
        import testorch_client.recorder

        def broken(self, *arguments):
            raise RuntimeError("a bug")

        testorch_client.recorder.Recorder.finish = broken
        """
    )
    pytester.makepyfile("def test_a(): pass\ndef test_b(): assert False")
    result = run(pytester, server)
    result.assert_outcomes(passed=1, failed=1)
    assert result.ret == 1
    result.stdout.fnmatch_lines(["testorch: turned off by an error of its own, `RuntimeError`: a bug"])
    assert server.ended == []


def test_a_forked_child_that_runs_to_its_end_reports_nothing(pytester: pytest.Pytester, server: FakeServer) -> None:
    pytester.makepyfile(
        """
        import os

        import pytest

        def test_forks(request):
            child = os.fork()
            if child == 0:
                hook = request.config.hook
                hook.pytest_runtest_logstart(nodeid="child", location=("child", 0, "child"))
                hook.pytest_runtest_logfinish(nodeid="child", location=("child", 0, "child"))
                hook.pytest_sessionfinish(session=request.session, exitstatus=0)
                os._exit(0)
            assert os.waitpid(child, 0)[1] == 0
        """
    )
    assert run(pytester, server).ret == 0
    assert [end["testName"] for end in server.ends().values()] == ["test_forks"]
    assert len(server.ended) == 1


def test_it_raises_no_warning_in_a_suite_that_forbids_them(pytester: pytest.Pytester, server: FakeServer) -> None:
    pytester.makepyfile("def test_it(caplog):\n    assert not caplog.records")
    assert run(pytester, server, "-W", "error", "--log-level", "DEBUG").ret == 0


def test_a_frozen_clock_and_a_seeded_random_are_left_alone(pytester: pytest.Pytester, server: FakeServer) -> None:
    pytester.makepyfile(
        """
        import random, time

        def test_it(monkeypatch):
            monkeypatch.setattr(time, "time", lambda: 0.0)
            random.seed(1)
            first = [random.random() for _ in range(3)]
            random.seed(1)
            assert [random.random() for _ in range(3)] == first
        """
    )
    assert run(pytester, server).ret == 0
    assert all(event["timestamp"] > 1_700_000_000_000 for event in server.events.values())


def test_without_the_terminal_plugin_failed_subtests_count_all_the_same(
    pytester: pytest.Pytester, server: FakeServer
) -> None:
    pytester.makepyfile("def test_it(subtests):\n    with subtests.test():\n        assert False")
    run(pytester, server, "-p", "no:terminal")
    assert [end["status"] for end in server.ends().values()] == ["failed"]


def test_an_internal_error_of_pytest_is_an_error_of_the_run(pytester: pytest.Pytester, server: FakeServer) -> None:
    pytester.makeconftest("def pytest_runtest_logfinish(): raise RuntimeError('somebody else')")
    pytester.makepyfile("def test_it(): pass")
    assert run(pytester, server).ret == 3
    ((error,),) = [payload["errors"] for payload in server.of_type("run/error")]
    assert error["message"] == "RuntimeError: somebody else"


def test_long_output_is_sent_from_its_end(pytester: pytest.Pytester, server: FakeServer) -> None:
    pytester.makepyfile("def test_it():\n    print('x' * 70000 + 'END')\n    assert False")
    run(pytester, server)
    (output,) = server.of_type("test/output")
    assert (len(output["text"]), output["truncated"]) == (65536, True)
    assert output["text"].endswith("END\n")
