"""How far output was sent, for any bytes in any pieces; and what is made of captures that aren't as they are known."""

from __future__ import annotations

import io
import os
import tempfile
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from testorch_client.captured import MAX_BUFFER_BYTES, BufferTap, FileTap, open_capture
from testorch_client.live_output import LOOK_SECONDS, LiveOutput
from testorch_client.progress import BEGINNING, Chunk, Progress, end_of, newest, rest
from testorch_client.recorder import Recorder

# Whole characters of all lengths, halves of them, and what is in no character.
PIECES = st.sampled_from(["a", "\n", "ä", "€", "🦔", "\ufffd"]).map(str.encode) | st.binary(max_size=3)
CAPTURED = st.lists(st.lists(PIECES, max_size=30).map(b"".join), max_size=8)


def look(captured: bytes, progress: Progress, max_bytes: int = 10**6) -> Chunk:
    return newest(lambda start, end: captured[start:end], len(captured), progress, max_bytes=max_bytes)


@given(CAPTURED)
def test_however_output_comes_in_its_pieces_and_their_rest_are_the_whole(pieces: list[bytes]) -> None:
    captured, sent, progress = b"", "", BEGINNING
    for piece in pieces:
        captured += piece
        chunk = look(captured, progress)
        sent, progress = sent + chunk.text, chunk.progress
    text = captured.decode("utf-8", "replace")
    assert sent + rest(text, progress) == text


@given(st.lists(st.text(alphabet="aä€🦔", max_size=30), max_size=8), st.integers(1, 20))
def test_of_text_only_what_is_said_to_be_cut_is_missing(pieces: list[str], max_bytes: int) -> None:
    captured, progress = "", BEGINNING
    for piece in pieces:
        before, captured = captured, captured + piece
        chunk = look(captured.encode(), progress, max_bytes)
        assert captured.endswith(chunk.text)
        assert len(chunk.text.encode()) <= max_bytes
        assert chunk.is_cut or before.encode()[progress.offset :].decode() + piece == chunk.text
        assert rest(captured, chunk.progress) == ""
        progress = chunk.progress


@given(CAPTURED, st.integers(1, 20))
def test_no_bytes_and_no_limit_make_it_fail_or_send_more_than_may_be(pieces: list[bytes], max_bytes: int) -> None:
    captured, progress = b"", BEGINNING
    for piece in pieces:
        captured += piece
        chunk = look(captured, progress, max_bytes)
        assert len(chunk.text) <= max_bytes
        progress = chunk.progress
    assert captured.decode("utf-8", "replace").endswith(rest(captured.decode("utf-8", "replace"), progress))


def test_where_the_capture_was_emptied_it_begins_anew_even_if_it_is_longer_than_before() -> None:
    before = look(b"first", BEGINNING)
    assert look(b"2nd", before.progress).text == "2nd"
    assert look(b"second, and more", before.progress).text == "second, and more"


def test_of_a_text_that_was_sent_in_part_only_the_rest_is_left() -> None:
    progress = look("ä first".encode(), BEGINNING).progress
    assert rest("ä first and second", progress) == " and second"
    assert rest("another text, and a longer one", progress) == "another text, and a longer one"
    assert rest("short", progress) == "short"
    assert rest("none was sent", None) == "none was sent"
    for whole in ("", "whole", "surrogate \udc80"):
        assert rest(whole, end_of(whole)) == ""


# What pytest has captured


def capture_of(**changes: Any) -> SimpleNamespace:
    """Stands for pytest's configuration, with what is known of its capture and changes to that."""
    file = SimpleNamespace(encoding="UTF-8", buffer=io.BytesIO())
    stream = SimpleNamespace(tmpfile=file)
    known = {"out": stream, "err": stream, "is_started": lambda: True}
    manager = SimpleNamespace(_global_capturing=SimpleNamespace(**{**known, **changes}))
    return SimpleNamespace(pluginmanager=SimpleNamespace(get_plugin=lambda name: manager))


class Hostile:
    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(name)


def read_only_pipe() -> SimpleNamespace:
    return SimpleNamespace(encoding="utf-8", buffer=None, fileno=lambda: os.pipe()[0])


@pytest.mark.parametrize(
    "changes",
    [
        {"out": None, "err": None},  # what `-s` has
        {"err": None},
        {"out": Hostile()},
        {"is_started": None},
        {"is_started": Hostile().__getattr__},
        {"out": SimpleNamespace(tmpfile=SimpleNamespace(encoding="latin-1", buffer=io.BytesIO()))},
        {"out": SimpleNamespace(tmpfile=SimpleNamespace(encoding=None))},
        {"err": SimpleNamespace(tmpfile=read_only_pipe())},
    ],
    ids=["none", "no err", "hostile", "no state", "hostile state", "latin", "no encoding", "a pipe"],
)
def test_a_capture_that_is_not_as_it_is_known_is_none(changes: dict[str, Any]) -> None:
    assert open_capture(capture_of()) is not None
    assert open_capture(capture_of(**changes)) is None


def test_no_manager_is_no_capture() -> None:
    assert open_capture(SimpleNamespace(pluginmanager=SimpleNamespace(get_plugin=lambda name: None))) is None


def test_a_file_is_read_without_moving_its_offset() -> None:
    with tempfile.TemporaryFile(buffering=0) as file:
        tap = FileTap.on(file.fileno())
        file.write(b"some words")
        assert (tap.size_bytes(), tap.read(5, 10)) == (10, b"words")
        assert file.tell() == 10
        tap.close()
        tap.close()
        with pytest.raises(OSError, match="descriptor"):
            tap.size_bytes()


def test_a_descriptor_that_has_become_another_files_is_neither_read_nor_closed() -> None:
    with tempfile.TemporaryFile() as file, tempfile.TemporaryFile() as other:
        tap = FileTap.on(file.fileno())
        os.dup2(other.fileno(), tap._descriptor)
        with pytest.raises(OSError, match="another file's"):
            tap.size_bytes()
        tap.close()
        os.close(tap._descriptor)  # raises if it was closed


def test_a_buffer_is_read_up_to_a_size() -> None:
    buffer = io.BytesIO()
    tap = BufferTap(buffer)
    buffer.write(b"some words")
    assert (tap.size_bytes(), tap.read(5, 10), buffer.tell()) == (10, b"words", 10)
    buffer.write(b"x" * MAX_BUFFER_BYTES)
    assert tap.size_bytes() is None


# When it is looked at


class Suite:
    """A suite of which nothing runs, with a buffer for its output and a clock; `told` are the events."""

    def __init__(self) -> None:
        self.now = 0.0
        self.told: list[tuple[str, dict[str, Any]]] = []
        self.config = capture_of()
        self.recorder = Recorder(lambda type, payload: self.told.append((type, payload)), root="/", clock=lambda: 1.0)
        capture = open_capture(self.config)
        assert capture is not None
        self.live = LiveOutput(capture, self.recorder, monotonic=lambda: self.now)
        capturing = self.config.pluginmanager.get_plugin("")._global_capturing
        self.buffer: io.BytesIO = capturing.out.tmpfile.buffer
        capturing.err = None  # the taps are there; nothing else may be asked of it

    def begin(self, nodeid: str, phase: str = "call") -> None:
        self.recorder.start(nodeid, ("test_it.py", 0, "test"), None)
        item: Any = SimpleNamespace(nodeid=nodeid, _report_sections=[])
        getattr(self.live, f"pytest_runtest_{phase}")(item)

    def look(self, after_seconds: float) -> list[str]:
        self.now += after_seconds
        self.told.clear()
        self.live.look()
        return [payload["text"] for type, payload in self.told if payload["stream"] == "stdout"]


def test_a_test_is_looked_at_after_a_second_and_once_a_second() -> None:
    suite = Suite()
    suite.begin("a")
    suite.buffer.write(b"one")
    assert suite.look(0) == []  # seen for the first time
    assert suite.look(LOOK_SECONDS * 0.9) == []
    assert suite.look(LOOK_SECONDS * 0.2) == ["one"]
    suite.buffer.write(b"two")
    assert suite.look(LOOK_SECONDS * 0.9) == []
    assert suite.look(LOOK_SECONDS * 0.2) == ["two"]
    assert suite.look(LOOK_SECONDS) == []


def test_short_tests_are_never_looked_at_however_many_there_are() -> None:
    suite = Suite()
    suite.buffer.write(b"words")
    for number in range(20):
        suite.begin(str(number))
        assert suite.look(LOOK_SECONDS * 0.9) == []
        suite.recorder.finish(str(number), None)


def test_a_test_that_ends_while_it_is_looked_at_sends_nothing_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    suite = Suite()
    suite.begin("a")
    suite.buffer.write(b"words")
    suite.look(0)

    def read(self: BufferTap, start: int, end: int) -> bytes:
        suite.recorder.finish("a", None)
        suite.told.clear()
        return b"words"

    monkeypatch.setattr(BufferTap, "read", read)
    assert suite.look(LOOK_SECONDS) == []


def test_what_was_read_of_a_phase_that_ended_meanwhile_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    suite = Suite()
    suite.begin("a", "setup")
    suite.buffer.write(b"words")
    suite.look(0)
    taken = BufferTap.read

    def read(self: BufferTap, start: int, end: int) -> bytes:
        suite.live.pytest_runtest_call(SimpleNamespace(nodeid="a", _report_sections=[("setup", "stdout", "words")]))  # type: ignore[arg-type]
        return taken(self, start, end)

    with monkeypatch.context() as patched:
        patched.setattr(BufferTap, "read", read)
        assert suite.look(LOOK_SECONDS) == []
    suite.buffer.seek(0)
    suite.buffer.truncate()
    assert suite.look(LOOK_SECONDS) == ["words"]


def test_an_error_of_the_capture_turns_looking_off_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    suite = Suite()
    suite.begin("a")
    suite.buffer.write(b"words")
    suite.look(0)
    monkeypatch.setattr(BufferTap, "read", Hostile().__getattr__)
    assert suite.look(LOOK_SECONDS) == []
    monkeypatch.undo()
    assert suite.look(LOOK_SECONDS) == []
