"""How far a test's output was sent while it was running, and what is left of it for its end. Pure."""

from __future__ import annotations

from codecs import utf_8_decode
from collections.abc import Callable
from dataclasses import dataclass

_CONTINUATION_BYTES = bytes(range(0x80, 0xC0))
_MARK_BYTES = 64


@dataclass(frozen=True, slots=True)
class Progress:
    """A place in what a phase has written to a stream: what is before it was sent, or left out for good.

    `offset` is the place in the bytes that were captured, `position` that in the UTF-8 of the text that pytest makes
    of them: the latter counts three bytes for what can't be decoded. `mark` are the last bytes before it, by which it
    is noticed if somebody has emptied the capture meanwhile.
    """

    offset: int = 0
    position: int = 0
    mark: bytes = b""


BEGINNING = Progress()


def end_of(text: str) -> Progress:
    """The place behind a whole text."""
    encoded = _encoded(text)
    return Progress(len(encoded), len(encoded), encoded[-_MARK_BYTES:])


@dataclass(frozen=True, slots=True)
class Chunk:
    """What comes after a place, and the place behind it. `is_cut` if only the newest of it was taken."""

    progress: Progress
    text: str = ""
    is_cut: bool = False


def newest(read: Callable[[int, int], bytes], size: int, progress: Progress, *, max_bytes: int) -> Chunk:
    """What was captured since `progress`, without the beginning of a character that isn't whole yet.

    `read` gives the bytes from one offset to before another, of `size` in all.
    """
    if size == progress.offset:
        return Chunk(progress)
    if size < progress.offset or read(progress.offset - len(progress.mark), progress.offset) != progress.mark:
        progress = BEGINNING
    start = max(progress.offset, size - max_bytes)
    captured = read(start, size)
    is_cut = start > progress.offset
    # Behind a cut there may be the rest of a character.
    whole = captured.lstrip(_CONTINUATION_BYTES) if is_cut else captured
    skipped = start - progress.offset + len(captured) - len(whole)
    text, used = utf_8_decode(whole, "replace", False)
    mark = whole[:used] if is_cut else progress.mark + whole[:used]
    behind = Progress(
        offset=progress.offset + skipped + used,
        position=progress.position + skipped + len(text.encode()),  # what was skipped is taken to be text
        mark=mark[-_MARK_BYTES:],
    )
    return Chunk(behind, text, is_cut)


def rest(text: str, progress: Progress | None) -> str:
    """What of a phase's whole text comes after `progress`; all of it if that isn't a place in it.

    For rather is something sent twice than not at all.
    """
    if progress is None or not progress.position:
        return text
    encoded = _encoded(text)
    mark = progress.mark.lstrip(_CONTINUATION_BYTES).decode("utf-8", "replace").encode()
    start = progress.position - len(mark)
    if start < 0 or progress.position > len(encoded) or not encoded.startswith(mark, start):
        return text
    left = encoded[progress.position :]
    # A place within a character comes from a cut over bytes that are no text.
    return text if left[:1].strip(_CONTINUATION_BYTES) != left[:1] else left.decode()


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "replace")  # lone surrogates, which nothing that pytest captures has
