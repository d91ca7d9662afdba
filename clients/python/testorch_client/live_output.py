"""Sends what a test has written while it is still running, so that it is known even if the test never ends.

pytest's thread says which phase of which test is running, and no more. The looking is done by the sender's thread, on
a beat that it has anyway.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from testorch_client.captured import STREAMS, Capture, heading
from testorch_client.outcomes import MAX_OUTPUT_CHARACTERS
from testorch_client.progress import BEGINNING, Chunk, Progress, end_of, newest, rest
from testorch_client.recorder import LiveChunk, OpenAttempt, Recorder

# From when on a test counts as running for a while, and how often it is looked at then.
LOOK_SECONDS = 1.0
# A stream may say as much as at a test's end at once, and then so much a look: 14 MiB an hour.
MAX_CHARACTERS_A_LOOK = 4 * 1024
_BEFORE = {"setup": (), "call": ("setup",), "teardown": ("setup", "call")}

Phase = tuple[Any, str]


class LiveOutput:
    """A plugin for pytest whose hooks cost next to nothing, and `look` for the sender's thread.

    A look reads first, and commits then, under the recorder's lock and only if the same phase is still running: what
    was read while pytest ended the phase is forgotten, and comes with the next look or with the test's end. pytest
    never waits for a look to read.
    """

    def __init__(self, capture: Capture, recorder: Recorder, *, monotonic: Callable[[], float]) -> None:
        self._capture: Capture | None = capture
        self._recorder = recorder
        self._monotonic = monotonic
        # A tuple of its own for every phase: whether it is the same says whether the phase is.
        self._phase: Phase | None = None
        self._seen: OpenAttempt | None = None
        self._look_at_seconds = 0.0
        self._room: dict[str, int] = {}
        self._done: set[str] = set()  # headings of which nothing is left

    # pytest's thread; pytest captures already. First, since the others of these hooks run the phase.

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        self._phase = (item, "setup")

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_call(self, item: pytest.Item) -> None:
        self._phase = (item, "call")

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> None:
        self._phase = (item, "teardown")

    def close(self) -> None:
        """Look no more. Call it when nothing can be emitted any more: a look may be under way."""
        capture, self._capture = self._capture, None
        if capture is not None:
            capture.close()

    # The sender's thread

    def look(self) -> None:
        """Send what is new if it is time for it. Never raises, and waits for nothing but a file in the cache."""
        try:
            if self._is_time():
                self._look()
        except Exception:  # Something of pytest's, or of the suite's, isn't as expected: no more of this.
            self.close()

    def _is_time(self) -> bool:
        attempt = self._recorder.running
        now = self._monotonic()
        if attempt is not self._seen:
            self._seen = attempt
            self._look_at_seconds = now + LOOK_SECONDS
            self._room = dict.fromkeys(STREAMS, MAX_OUTPUT_CHARACTERS)
            self._done = set()
            return False
        if attempt is None or now < self._look_at_seconds:
            return False
        self._look_at_seconds = now + LOOK_SECONDS
        return True

    def _look(self) -> None:
        capture, attempt, phase = self._capture, self._seen, self._phase
        if capture is None or attempt is None or phase is None:
            return
        if phase[0].nodeid != attempt.nodeid or not capture.is_on:
            return
        for stream in STREAMS:
            chunk = self._chunk(capture, phase, stream, attempt.sent)
            if not chunk.text or self._recorder.send_live(
                attempt, chunk, is_valid=lambda: self._phase is phase and capture.is_on
            ):
                self._done.update(chunk.progress.keys() - {heading(stream, phase[1])})
                left = self._room[stream] - len(chunk.text)
                self._room[stream] = min(left + MAX_CHARACTERS_A_LOOK, MAX_OUTPUT_CHARACTERS)

    def _chunk(self, capture: Capture, phase: Phase, stream: str, sent: dict[str, Progress]) -> LiveChunk:
        """What is new of a stream: the rest of the phases before this one, and then what there is of this one."""
        item, name = phase
        room = self._room[stream]
        progress: dict[str, Progress] = {}
        texts = []
        for title, (of_stream, text) in capture.sections(item, _BEFORE[name]).items():
            if of_stream == stream and title not in self._done:
                texts.append(rest(text, sent.get(title)))
                progress[title] = end_of(text)
        title, tap = heading(stream, name), capture.taps[stream]
        size, before = tap.size_bytes(), sent.get(title, BEGINNING)
        # So many bytes are at most so many characters.
        chunk = Chunk(before) if size is None else newest(tap.read, size, before, max_bytes=room)
        progress[title] = chunk.progress
        text = chunk.text if chunk.is_cut else "".join([*texts, chunk.text])
        return LiveChunk(stream, text[max(0, len(text) - room) :], chunk.is_cut or len(text) > room, progress)
