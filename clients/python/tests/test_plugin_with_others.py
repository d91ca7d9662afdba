"""The plugin beside pytest-xdist and pytest-rerunfailures, in real sessions."""

from __future__ import annotations

from collections import Counter
from xml.etree import ElementTree

import pytest
from fake_server import FakeServer
from fake_streams import Message

pytestmark = pytest.mark.slow(reason="sessions of pytest with workers in processes of their own")

MIXED = """
    import pytest

    @pytest.mark.parametrize("n", range(8))
    def test_number(n):
        assert n != 3

    @pytest.fixture
    def broken():
        raise RuntimeError("no setup")

    def test_error(broken): pass

    def test_skipped(): pytest.skip("why not")

    def test_subtests(subtests):
        with subtests.test():
            assert False
"""
FLAKY = """
    import pytest

    runs = {}

    def run(name):
        runs[name] = runs.get(name, 0) + 1
        return runs[name]

    def test_passes_at_once(): pass

    def test_passes_at_the_third_time():
        print("run", run("third"))
        assert runs["third"] == 3

    def test_never_passes():
        assert False

    @pytest.fixture
    def weak():
        assert run("weak") == 2

    def test_setup_passes_at_the_second_time(weak): pass

    @pytest.fixture
    def late():
        yield
        assert run("late") == 2

    def test_teardown_passes_at_the_second_time(late): pass

    def test_subtests_pass_at_the_second_time(subtests):
        number = run("subtests")
        with subtests.test():
            assert number == 2
"""
CRASHING = """
    import os, pytest

    def test_before(): pass

    def test_crashes():
        os._exit(1)

    @pytest.mark.parametrize("n", range(4))
    def test_after(n): pass
"""


def run(pytester: pytest.Pytester, server: FakeServer, *arguments: str) -> pytest.RunResult:
    return pytester.runpytest_subprocess("--testorch", server.url, *arguments)


def attempts(server: FakeServer, name: str) -> list[tuple[int, str, bool]]:
    ends = [end for end in server.of_type("test/end") if end["testName"] == name]
    return [(end["attempt"], end["status"], end.get("willRetry", False)) for end in ends]


def test_with_workers_every_test_is_reported_once_and_agrees_with_junit_xml(
    pytester: pytest.Pytester, server: FakeServer
) -> None:
    pytester.makepyfile(MIXED)
    result = run(pytester, server, "-n", "2", "--junitxml", "junit.xml")
    assert result.ret == 1
    ends = server.of_type("test/end")
    assert Counter(end["status"] for end in ends) == {"passed": 7, "failed": 2, "error": 1, "skipped": 1}
    assert len(server.of_type("test/start")) == len(ends) == 11
    assert server.of_type("run/plan") == [{"total": 11}]
    assert {end["workerId"] for end in ends} == {"gw0", "gw1"}
    assert all(start["workerId"] in ("gw0", "gw1") for start in server.of_type("test/start"))
    in_junit: Counter[str] = Counter()
    for case in ElementTree.parse(pytester.path / "junit.xml").iter("testcase"):
        # By test: the sums that junit itself gives count a subtest's failure and its test's as two.
        (kind,) = {child.tag for child in case} or {"passed"}
        in_junit["failed" if kind == "failure" else kind] += 1
    assert in_junit == Counter(end["status"] for end in ends)
    assert len(server.ended) == 1


def test_the_test_on_which_a_worker_dies_is_an_error(pytester: pytest.Pytester, server: FakeServer) -> None:
    pytester.makepyfile(CRASHING)
    result = run(pytester, server, "-n", "2")
    assert result.ret == 1
    ends = {end["testName"]: end for end in server.of_type("test/end")}
    assert Counter(end["status"] for end in ends.values()) == {"passed": 5, "error": 1}
    crashed = ends["test_crashes"]
    assert (crashed["rawStatus"], crashed["attempt"]) == ("workerCrashed", 1)
    (error,) = crashed["errors"]
    assert error["message"].startswith(f"worker '{crashed['workerId']}' crashed while running")
    assert len(server.of_type("test/start")) == 6
    result.stdout.fnmatch_lines(["testorch: run * — 6 tests, * events delivered, receipt matches"])


def test_where_each_worker_runs_every_test_the_copies_have_ids_of_their_own(
    pytester: pytest.Pytester, server: FakeServer
) -> None:
    pytester.makepyfile(test_it="def test_it(): pass")
    run(pytester, server, "--dist=each", "--tx=2*popen")
    ends = sorted((end["testId"], end["attempt"]) for end in server.of_type("test/end"))
    assert ends == [("test_it.py::test_it@gw0", 1), ("test_it.py::test_it@gw1", 1)]
    starts = sorted(start["testId"] for start in server.of_type("test/start"))
    assert starts == ["test_it.py::test_it@gw0", "test_it.py::test_it@gw1"]


def test_a_test_keeps_its_id_when_groups_are_on(pytester: pytest.Pytester, server: FakeServer) -> None:
    pytester.makepyfile(
        test_it="""
        import pytest

        @pytest.mark.xdist_group("g")
        @pytest.mark.parametrize("who", ["me@home"])
        def test_grouped(who): pass

        @pytest.mark.parametrize("who", ["me@home"])
        def test_free(who): pass
        """
    )
    run(pytester, server, "-n", "2", "--dist=loadgroup")
    ends = sorted(end["testId"] for end in server.of_type("test/end"))
    assert ends == ["test_it.py::test_free[me@home]", "test_it.py::test_grouped[me@home]"]


def test_a_collection_error_is_reported_once_however_many_workers_find_it(
    pytester: pytest.Pytester, server: FakeServer
) -> None:
    pytester.makepyfile(test_good="def test_it(): pass", test_broken="import nothing_of_that_name")
    result = run(pytester, server, "-n", "2")
    assert result.ret == 1
    ends = [(end["testId"], end["status"]) for end in server.of_type("test/end") if "tags" in end]
    assert ends == [("test_broken.py", "error")]
    assert len(server.of_type("run/error")) == 1


def test_stopping_at_the_first_failure_closes_what_was_open(pytester: pytest.Pytester, server: FakeServer) -> None:
    pytester.makepyfile(
        """
        import pytest, time

        @pytest.mark.parametrize("n", range(20))
        def test_number(n): assert n != 3
        """
    )
    result = run(pytester, server, "-n", "2", "-x")
    assert result.ret in (1, 2)
    starts = [start["testId"] for start in server.of_type("test/start")]
    assert sorted(starts) == sorted(end["testId"] for end in server.of_type("test/end"))
    assert "failed" in {end["status"] for end in server.of_type("test/end")}


def test_reruns_are_attempts_and_only_the_last_is_final(pytester: pytest.Pytester, server: FakeServer) -> None:
    pytester.makepyfile(FLAKY)
    result = run(pytester, server, "--reruns", "2")
    assert result.ret == 1
    once = [(1, "passed", False)]
    assert attempts(server, "test_passes_at_once") == once
    assert attempts(server, "test_passes_at_the_third_time") == [
        (1, "failed", True),
        (2, "failed", True),
        (3, "passed", False),
    ]
    assert attempts(server, "test_never_passes") == [(1, "failed", True), (2, "failed", True), (3, "failed", False)]
    assert attempts(server, "test_setup_passes_at_the_second_time") == [(1, "error", True), (2, "passed", False)]
    assert attempts(server, "test_teardown_passes_at_the_second_time") == [(1, "error", True), (2, "passed", False)]
    assert attempts(server, "test_subtests_pass_at_the_second_time") == [(1, "failed", True), (2, "passed", False)]
    result.stdout.fnmatch_lines(["testorch: run * — 6 tests, * events delivered, receipt matches"])


def test_every_attempt_has_its_own_start_output_and_errors(pytester: pytest.Pytester, server: FakeServer) -> None:
    pytester.makepyfile(FLAKY)
    run(pytester, server, "--reruns", "2", "-k", "third")
    told: list[tuple[str, int]] = [
        (event["type"], event["payload"]["attempt"])
        for event in server.events.values()
        if event["type"].startswith("test/")
    ]
    assert told == [
        ("test/start", 1), ("test/output", 1), ("test/end", 1),
        ("test/start", 2), ("test/output", 2), ("test/end", 2),
        ("test/start", 3), ("test/end", 3),
    ]  # fmt: skip
    texts = [output["text"] for output in server.of_type("test/output")]
    assert texts == ["run 1\n", "run 2\n"]


def test_a_test_that_crashes_its_worker_is_run_again_as_a_second_attempt(
    pytester: pytest.Pytester, server: FakeServer
) -> None:
    pytester.makepyfile(
        """
        import os, pathlib

        def test_crashes_once():
            mark = pathlib.Path("was_here")
            if not mark.exists():
                mark.touch()
                os._exit(1)
        """
    )
    result = run(pytester, server, "-n", "2", "--reruns", "1")
    assert result.ret == 0
    assert attempts(server, "test_crashes_once") == [(1, "error", True), (2, "passed", False)]
    raw: list[Message] = server.of_type("test/end")
    assert [end["rawStatus"] for end in raw] == ["workerCrashed", "passed"]
