"""Output of tests that are still running: real pytest sessions against the fake server, each told when to go on.

The test under test writes, and waits at a named pipe until the outer test lets it go on; the outer test waits until the
server has what was written. Nobody waits for a time to pass.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest
from fake_server import FakeServer
from fake_streams import Message

pytestmark = pytest.mark.slow(reason="sessions of pytest in processes of their own, with tests that run for a while")

GATE = """
import contextlib, io, os, subprocess, sys, pytest

def gate(name):
    with open(name) as pipe:
        pipe.read()

def capturing(request):
    return request.config.pluginmanager.getplugin("capturemanager")
"""
EVERY_BEAT = """
import testorch_client.live_output
testorch_client.live_output.LOOK_SECONDS = 0.0
"""
"""Looks at a test from its beginning, and on each beat, so that a test needn't run for seconds."""


class Session:
    """A session of pytest under way. `outcome` waits for its end."""

    def __init__(self, folder: Path, server: FakeServer, *arguments: str) -> None:
        self._folder = folder
        self._server = server
        command = [sys.executable, "-B", "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:randomly", "--rootdir",
                   str(folder), "--testorch", server.url, "-rN", *arguments]  # fmt: skip
        with (folder / "pytest.txt").open("w") as said:
            self.process = subprocess.Popen(command, cwd=folder, stdin=subprocess.DEVNULL, stdout=said, stderr=said)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.wait()

    def open(self, name: str) -> None:
        """Let the test go on that waits at this pipe, or will wait there."""
        os.close(os.open(self._folder / name, os.O_WRONLY))

    def outcome(self) -> int:
        return self.process.wait(30)

    def said(self) -> str:
        return (self._folder / "pytest.txt").read_text()

    def wait_for(self, text: str, stream: str = "stdout") -> None:
        self._server.wait_until(lambda: text in written(self._server, stream), 15)


Start = Callable[..., Session]


@pytest.fixture
def start(pytester: pytest.Pytester, server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> Start:
    """Starts a session of a suite; `gates` are the pipes at which its tests wait."""
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)

    def start_session(suite: str, *arguments: str, gates: tuple[str, ...] = ("go",), conftest: str = "") -> Session:
        for name in gates:
            os.mkfifo(pytester.path / name)
        pytester.makeconftest(EVERY_BEAT + conftest)
        pytester.path.joinpath("test_it.py").write_text(GATE + suite)
        return Session(pytester.path, server, *arguments)

    return start_session


def outputs(server: FakeServer, stream: str = "stdout") -> list[Message]:
    return [payload for payload in server.of_type("test/output") if payload["stream"] == stream]


def written(server: FakeServer, stream: str = "stdout") -> str:
    return "".join(payload["text"] for payload in outputs(server, stream))


def statuses(server: FakeServer) -> list[str]:
    return [end["status"] for end in server.of_type("test/end")]


def test_what_a_killed_test_has_written_last_is_there(start: Start, server: FakeServer) -> None:
    suite = """
def test_before(): print("of a short test")
def test_hangs():
    print("first", flush=True)
    gate("go")
    print("second")
    print("its last word: ä€🦔", file=sys.stderr)
    os.write(1, b"past Python's streams")
    gate("never")
"""
    # At its real pace, as users have it.
    with start(suite, gates=("go", "never"), conftest="testorch_client.live_output.LOOK_SECONDS = 1.0") as session:
        session.wait_for("first")
        session.open("go")
        session.wait_for("past Python's streams")
        session.wait_for("last word", "stderr")
        session.process.kill()
    assert written(server) == "first\nsecond\npast Python's streams"
    assert written(server, "stderr") == "its last word: ä€🦔\n"
    assert [end["testName"] for end in server.of_type("test/end")] == ["test_before"]
    assert server.of_type("test/output")[0] == {
        "testId": "test_it.py::test_hangs",
        "attempt": 1,
        "stream": "stdout",
        "text": "first\n",
        "truncated": False,
    }


PHASES = """
@pytest.fixture
def phases():
    print("setup 1")
    gate("in_setup")
    print("setup 2")
    yield
    print("teardown 1")
    gate("in_teardown")
    print("teardown 2")

def test_it(phases):
    print("call 1")
    gate("in_call")
    print("call 2")
    assert {result}
"""
ALL_PHASES = "setup 1\nsetup 2\ncall 1\ncall 2\nteardown 1\nteardown 2\n"


@pytest.mark.parametrize(
    ("capture", "result", "status"),
    [("fd", "True", "passed"), ("fd", "False", "failed"), ("sys", "False", "failed"), ("tee-sys", "True", "passed")],
)
def test_each_piece_comes_once_and_in_order_over_all_phases(
    start: Start, server: FakeServer, capture: str, result: str, status: str
) -> None:
    gates = ("in_setup", "in_call", "in_teardown")
    with start(PHASES.format(result=result), f"--capture={capture}", gates=gates) as session:
        for gate in gates:
            session.wait_for(f"{gate.removeprefix('in_')} 1")
            session.open(gate)
        session.outcome()
    assert statuses(server) == [status]
    assert written(server) == ALL_PHASES
    assert len(outputs(server)) in (4, 5)  # one for each gate, the rest, and a look that came just in between
    assert not any(payload["truncated"] for payload in outputs(server))


def test_the_end_of_a_phase_comes_even_if_the_next_one_hangs_in_silence(start: Start, server: FakeServer) -> None:
    suite = """
@pytest.fixture
def hangs():
    yield
    gate("never")

def test_it(hangs):
    print("of the call")
"""
    with start(suite, gates=("never",)) as session:
        session.wait_for("of the call")
        session.process.kill()
    assert written(server) == "of the call\n"


def test_a_character_in_two_halves_is_sent_when_it_is_whole(start: Start, server: FakeServer) -> None:
    suite = """
def test_it():
    hedgehog = "🦔".encode()
    os.write(1, b"invalid \\xff\\xfe, and a half: " + hedgehog[:2])
    gate("go")
    os.write(1, hedgehog[2:] + b"\\nwhole")
    gate("end")
    os.write(1, "\\n€".encode()[:-1])
"""
    with start(suite, gates=("go", "end")) as session:
        session.wait_for("a half: ")
        session.open("go")
        session.wait_for("whole")
        session.open("end")
        assert session.outcome() == 0
    assert written(server) == "invalid \ufffd\ufffd, and a half: 🦔\nwhole\n\ufffd"


def test_without_capture_nothing_is_sent(start: Start, server: FakeServer) -> None:
    suite = """
def test_it():
    print("on the terminal", flush=True)
    gate("go")
"""
    server.limits["heartbeatMs"] = 400  # a heartbeat each beat
    with start(suite, "-s") as session:
        server.wait_until(lambda: server.of_type("test/start"), 15)
        beats = server.heartbeats
        server.wait_until(lambda: server.heartbeats >= beats + 4)
        session.open("go")
        assert session.outcome() == 0
        assert "on the terminal" in session.said()
    assert server.of_type("test/output") == []


def test_output_that_goes_elsewhere_is_left_alone(start: Start, server: FakeServer) -> None:
    suite = """
def test_it(monkeypatch):
    print("captured")
    mine = io.StringIO()
    monkeypatch.setattr(sys, "stdout", mine)
    print("kept")
    with contextlib.redirect_stderr(mine):
        print("redirected", file=sys.stderr)
    os.write(1, b"written beside it\\n")
    gate("go")
    assert mine.getvalue() == "kept\\nredirected\\n"
"""
    for capture, own in (("fd", "captured\nwritten beside it\n"), ("sys", "captured\n")):
        server.events.clear()
        gates = ("go",) if capture == "fd" else ()
        with start(suite, f"--capture={capture}", gates=gates) as session:
            session.wait_for(own)
            session.open("go")
            assert session.outcome() == 0
        assert (written(server), written(server, "stderr")) == (own, "")


def test_the_capture_fixtures_keep_what_is_theirs(start: Start, server: FakeServer) -> None:
    suite = """
@pytest.mark.parametrize("name", ["capsys", "capfd"])
def test_it(request, name):
    fixture = request.getfixturevalue(name)
    print("for the fixture")
    with fixture.disabled():
        gate(name + "_disabled")
    with capturing(request).global_and_fixture_disabled():
        pass
    gate(name)
    assert fixture.readouterr().out == "for the fixture\\n"
    print("left over")
    gate(name + "_again")
"""
    names = ("capsys_disabled", "capsys", "capsys_again", "capfd_disabled", "capfd", "capfd_again")
    server.limits["heartbeatMs"] = 400
    with start(suite, gates=names) as session:
        for name in names:
            beats = server.heartbeats
            server.wait_until(lambda beats=beats: server.heartbeats > beats, 15)  # type: ignore[misc]
            session.open(name)
        assert session.outcome() == 0
    assert written(server) == ""


def test_what_somebody_else_takes_out_of_the_capture_comes_once_and_nothing_is_lost(
    start: Start, server: FakeServer
) -> None:
    suite = """
def test_it(request):
    print("before it was emptied")
    gate("go")
    assert capturing(request).read_global_capture().out == "before it was emptied\\n"
    print("after it, and longer than before")
    gate("end")
    print("end")
"""
    with start(suite, gates=("go", "end")) as session:
        session.wait_for("before")
        session.open("go")
        session.wait_for("after")
        session.open("end")
        assert session.outcome() == 0
    assert written(server) == "before it was emptied\nafter it, and longer than before\nend\n"


def test_of_a_lot_the_newest_is_sent_and_said_to_be_cut(start: Start, server: FakeServer) -> None:
    suite = """
def test_it():
    print("ä" * 100_000 + "END")
    gate("go")
    print("y" * 100_000 + "AGAIN")
    gate("end")
    print("last words")
    assert False
"""
    with start(suite, gates=("go", "end")) as session:
        session.wait_for("END")
        session.open("go")
        session.wait_for("AGAIN")
        session.open("end")
        assert session.outcome() == 1
    first, *others = outputs(server)
    assert first["truncated"] is True
    assert (first["text"][:2], len(first["text"].encode()) in (65535, 65536)) == ("ää", True)
    live = [payload for payload in others if "AGAIN" in payload["text"]]
    assert live[0]["truncated"] is True
    assert 4096 <= len(live[0]["text"]) <= 65536
    assert others[-1]["text"] == "last words\n"
    assert others[-1]["truncated"] is False


def test_each_attempt_has_its_own_output_once(start: Start, server: FakeServer) -> None:
    suite = """
runs = []

@pytest.fixture
def prepared():
    print("setup", len(runs) + 1)

def test_it(prepared):
    runs.append("a run")
    print("run", len(runs))
    gate(str(len(runs)))
    print("end of", len(runs))
    assert len(runs) == 2
"""
    with start(suite, "--reruns", "1", gates=("1", "2")) as session:
        for name in "12":
            session.wait_for(f"run {name}")
            session.open(name)
        assert session.outcome() == 0
    assert written(server) == "setup 1\nrun 1\nend of 1\nsetup 2\nrun 2\nend of 2\n"
    assert [end["attempt"] for end in server.of_type("test/end")] == [1, 2]
    attempts = [(payload["attempt"], payload["text"][-2:-1]) for payload in outputs(server)]
    assert all(str(attempt) == number for attempt, number in attempts)


def test_children_and_threads_that_write_to_the_same_place_are_heard(start: Start, server: FakeServer) -> None:
    suite = """
def test_it():
    subprocess.run([sys.executable, "-c", "print('a child')"], check=True)
    child = os.fork()
    if child == 0:
        print("a fork")
        gate("fork")
        os._exit(0)
    gate("go")
    os.waitpid(child, 0)
"""
    with start(suite, gates=("fork", "go")) as session:
        session.wait_for("a child\na fork")
        session.open("fork")
        session.open("go")
        assert session.outcome() == 0
    assert written(server) == "a child\na fork\n"


def test_output_of_xdists_workers_comes_with_the_end_of_the_test(start: Start, server: FakeServer) -> None:
    suite = """
def test_it():
    print("of a worker")
    gate("go")
    assert False
"""
    server.limits["heartbeatMs"] = 400
    with start(suite, "-n", "1") as session:
        server.wait_until(lambda: server.of_type("test/start"), 15)
        beats = server.heartbeats
        server.wait_until(lambda: server.heartbeats >= beats + 4)
        assert written(server) == ""
        session.open("go")
        assert session.outcome() == 1
    assert [payload["text"] for payload in outputs(server)] == ["of a worker\n"]


STRANGERS = {
    "no such attribute": "del manager._global_capturing",
    "no sections": "no_sections = True",
}
STRANGE = """
import pytest

@pytest.hookimpl(hookwrapper=True, tryfirst=True)
def pytest_sessionstart(session):
    manager = session.config.pluginmanager.getplugin("capturemanager")
    capturing = manager._global_capturing
    no_sections = False
    {change}
    yield
    manager._global_capturing = capturing
    if no_sections:
        import testorch_client.captured
        testorch_client.captured.Capture.sections = lambda self, item, phases: item.no_such_attribute
"""


@pytest.mark.parametrize("stranger", STRANGERS)
def test_where_pytest_is_not_as_it_is_known_output_comes_at_the_end_as_ever(
    start: Start, server: FakeServer, stranger: str
) -> None:
    suite = """
def test_it():
    print("some words")
    gate("go")
    assert False
"""
    server.limits["heartbeatMs"] = 400
    with start(suite, conftest=STRANGE.format(change=STRANGERS[stranger])) as session:
        server.wait_until(lambda: server.of_type("test/start"), 15)
        beats = server.heartbeats
        server.wait_until(lambda: server.heartbeats >= beats + 3)
        assert written(server) == ""
        session.open("go")
        assert session.outcome() == 1
        assert "receipt matches" in session.said()
    assert [payload["text"] for payload in outputs(server)] == ["some words\n"]


def test_no_file_is_opened_within_a_test(start: Start, server: FakeServer) -> None:
    """A suite may count them."""
    suite = """
def captures():
    links = ("/dev/fd/" + name for name in os.listdir("/dev/fd"))
    return sum("(deleted)" in os.readlink(link) for link in links if os.path.islink(link))

def test_it():
    before = captures()
    print(before)
    gate("go")
    assert captures() == before >= 4
"""
    if not Path("/proc/self/fd").exists():
        pytest.skip("needs /proc")
    with start(suite) as session:
        session.wait_for("\n")
        session.open("go")
        assert session.outcome() == 0, session.said()
