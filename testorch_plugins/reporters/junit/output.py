"""What is taken from a run's log for its document: the output of tests that are not ok, and errors outside any test."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any, Final

from testorch_core import events as ev
from testorch_core.events import RecordedEvent
from testorch_plugins.reporters.junit.text import legal, text_of

MAX_STREAM_BYTES: Final = 64 * 1024
MAX_OUTPUT_BYTES: Final = 32 * 1024 * 1024
MAX_RUN_ERRORS: Final = 20
"""As many as a run's status shows; the log has them all."""

COST_OF_A_TEST_BYTES: Final = 500
"""What a test with output is counted with beside its text, so that many tests with a little each are bounded too."""

_TAGS: Final = {"stdout": "system-out", "stderr": "system-err", "log": "system-err"}


class _Stream:
    """The end of what one test wrote to one stream. Kept as bytes: an escape may be cut in two between chunks."""

    __slots__ = ("is_cut", "kept")

    def __init__(self) -> None:
        self.kept = bytearray()
        self.is_cut = False

    def add(self, chunk: bytes) -> int:
        """Take a chunk; returns by how many bytes the stream has grown, which may be less than nothing."""
        before = len(self.kept)
        self.kept += chunk[-MAX_STREAM_BYTES:]
        excess = len(self.kept) - MAX_STREAM_BYTES
        if excess > 0 or len(chunk) > MAX_STREAM_BYTES:
            del self.kept[: max(0, excess)]
            self.is_cut = True
        return len(self.kept) - before

    def text(self) -> str:
        start = 0
        while start < len(self.kept) and self.kept[start] & 0xC0 == 0x80:  # the rest of a character that was cut
            start += 1
        text = legal(self.kept[start:].decode("utf-8", "surrogatepass"))
        shown = text[-MAX_STREAM_BYTES:]
        note = "[earlier output was cut]\n" if self.is_cut or len(shown) < len(text) else ""
        return note + shown


class CapturedOutput:
    """What one test has written."""

    __slots__ = ("_streams", "is_left_out")

    def __init__(self, *, is_left_out: bool = False) -> None:
        self._streams: dict[str, _Stream] = {}
        self.is_left_out = is_left_out

    def stream(self, tag: str) -> _Stream:
        return self._streams.setdefault(tag, _Stream())

    def texts(self) -> Iterator[tuple[str, str]]:
        """(tag, text) in the order of JUnit's schema, with a note wherever something is missing."""
        note = f"[output was left out: the document's {MAX_OUTPUT_BYTES // 2**20} MiB for output are used up]"
        left_out = [note] if self.is_left_out else []
        for tag in ("system-out", "system-err"):
            texts = [self._streams[tag].text()] if tag in self._streams else []
            texts += left_out
            left_out = []
            if any(texts):
                yield tag, "\n".join(texts)


class RunLog:
    """Collects from a run's events. `wanted` has the hashes of the ids of the tests that are not ok."""

    def __init__(self, wanted: Collection[int]) -> None:
        self.errors: list[Mapping[str, Any]] = []
        self._wanted = wanted
        self._outputs: dict[str, CapturedOutput] = {}
        self._bytes = 0
        self._is_full = False

    def add(self, event: RecordedEvent) -> None:
        """Take one event. Everything in its payload may be of any type."""
        if event.type == ev.TEST_OUTPUT:
            self._add_output(event.payload)
        elif event.type == ev.RUN_ERROR:
            self._add_error(event.payload)

    def of(self, test_id: str) -> CapturedOutput | None:
        """What a test that is not ok has written, or None."""
        found = self._outputs.get(test_id)
        # Once nothing more is kept, it isn't known either which tests have written something.
        return CapturedOutput(is_left_out=True) if found is None and self._is_full else found

    def _is_wanted(self, test_id: object) -> bool:
        return isinstance(test_id, str) and hash(test_id) in self._wanted

    def _add_output(self, payload: Mapping[str, Any]) -> None:
        test_id, text, stream = payload.get("testId"), payload.get("text"), payload.get("stream")
        if not isinstance(test_id, str) or not isinstance(text, str) or not text or not self._is_wanted(test_id):
            return
        chunk = text[-MAX_STREAM_BYTES:].encode("utf-8", "surrogatepass")
        if not self._has_room(test_id, len(chunk)):
            return
        if test_id not in self._outputs:
            self._outputs[test_id] = CapturedOutput()
            self._bytes += COST_OF_A_TEST_BYTES + len(test_id)
        tag = _TAGS.get(stream, "system-out") if isinstance(stream, str) else "system-out"
        kept = self._outputs[test_id].stream(tag)
        self._bytes += kept.add(chunk)
        kept.is_cut |= len(text) > MAX_STREAM_BYTES or payload.get("truncated") is True

    def _has_room(self, test_id: str, size: int) -> bool:
        if self._bytes + size <= MAX_OUTPUT_BYTES:
            return True
        self._is_full = True
        if test_id in self._outputs:
            self._outputs[test_id].is_left_out = True
        return False

    def _add_error(self, payload: Mapping[str, Any]) -> None:
        """An error that belongs to no test, or to one that the document doesn't show as broken."""
        if self._is_wanted(payload.get("testId")) or len(self.errors) >= MAX_RUN_ERRORS:
            return
        listed = payload.get("errors")
        found = [one for one in listed if isinstance(one, dict)] if isinstance(listed, list) else []
        self.errors.append(found[0] if found else {"message": text_of(payload.get("message"))})
