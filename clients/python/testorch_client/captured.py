"""What pytest has captured of the phase that is running, read beside it: nothing is moved, changed or waited for.

The one place that knows how pytest keeps it, which is private. Where anything is not as it is known here, there is no
capture to look at.
"""

from __future__ import annotations

import io
import os
import stat
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Protocol

STREAMS = {"stdout": "out", "stderr": "err"}
"""The streams that pytest captures, by the names of its attributes for them."""
# To copy a buffer costs the suite's next write another copy: milliseconds for so much, and once a second.
MAX_BUFFER_BYTES = 16 * 2**20
# Bound here rather than looked up later: a suite may put something else in their place.
_fstat, _dup, _close = os.fstat, os.dup, os.close
_pread = getattr(os, "pread", None)  # Windows has none


class Tap(Protocol):
    """What the running phase has written to one stream, in UTF-8 as far as it is text. Emptied at the phase's end.

    Whatever its methods raise says that it can't be looked at any more.
    """

    def size_bytes(self) -> int | None:
        """None where to look at it would cost too much for now."""
        ...

    def read(self, start: int, end: int) -> bytes:
        """The bytes from `start` to before `end`; fewer if it was emptied meanwhile."""
        ...

    def close(self) -> None: ...


class FileTap:
    """A temporary file, of `--capture=fd`, through a descriptor of our own.

    The file's offset is shared with everything that writes there, so it is read with `pread`, which has its own. Were
    the descriptor closed by the suite and given to another file, that file isn't read, nor closed.
    """

    def __init__(self, descriptor: int, identity: tuple[int, int], pread: Callable[[int, int, int], bytes]) -> None:
        self._descriptor = descriptor
        self._identity = identity
        self._pread = pread

    @classmethod
    def on(cls, descriptor: int) -> FileTap:
        status = _fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or _pread is None:
            raise OSError("not a file that can be read beside its writers")
        return cls(_dup(descriptor), (status.st_dev, status.st_ino), _pread)

    def size_bytes(self) -> int:
        status = _fstat(self._descriptor)
        if (status.st_dev, status.st_ino) != self._identity:
            raise OSError("the descriptor is another file's by now")
        return status.st_size

    def read(self, start: int, end: int) -> bytes:
        return self._pread(self._descriptor, end - start, start)

    def close(self) -> None:
        with suppress(OSError):  # it isn't ours any more
            self.size_bytes()
            descriptor, self._descriptor = self._descriptor, -1
            _close(descriptor)


class BufferTap:
    """A buffer in memory, of `--capture=sys` and `tee-sys`. Its methods are whole under the interpreter's lock.

    `getbuffer` would spare the copy, and make a write fail that comes at the same time.
    """

    def __init__(self, buffer: io.BytesIO) -> None:
        if not getattr(sys, "_is_gil_enabled", lambda: True)():
            raise OSError("without the interpreter's lock, a buffer can't be read beside its writers")
        self._buffer = buffer

    def size_bytes(self) -> int | None:
        size = self._buffer.tell()  # all of it: pytest appends, and goes back to the beginning when it empties it
        return size if size <= MAX_BUFFER_BYTES else None

    def read(self, start: int, end: int) -> bytes:
        return self._buffer.getvalue()[start:end]

    def close(self) -> None:
        pass


class Capture:
    """pytest's capture of one session, with a tap for each of `STREAMS`. Made by `open_capture`."""

    def __init__(self, manager: Any, taps: Mapping[str, Tap]) -> None:
        self.taps = taps
        self._manager = manager
        self._capturing = manager._global_capturing

    @property
    def is_on(self) -> bool:
        """Not between two phases, nor while a debugger or `capsys.disabled()` has suspended it, nor stopped."""
        return self._manager._global_capturing is self._capturing and self._capturing.is_started() is True

    def sections(self, item: Any, phases: Sequence[str]) -> dict[str, tuple[str, str]]:
        """What these phases of a test, which are over, have written: (stream, text) by the heading of the report.

        In the order of the phases. For a heading that comes twice, the last is the present attempt's.
        """
        return {
            heading(stream, when): (stream, text)
            for when, stream, text in item._report_sections
            if when in phases and stream in STREAMS
        }

    def close(self) -> None:
        for tap in self.taps.values():
            tap.close()


def heading(stream: str, phase: str) -> str:
    """The heading under which pytest's reports have what a phase has written to a stream."""
    return f"Captured {stream} {phase}"


def open_capture(config: Any) -> Capture | None:
    """None where nothing is captured (`-s`), and where this pytest does it in a way that isn't known here."""
    taps: dict[str, Tap] = {}
    try:
        manager = config.pluginmanager.get_plugin("capturemanager")
        for stream, attribute in STREAMS.items():
            taps[stream] = _tap(getattr(manager._global_capturing, attribute).tmpfile)
        manager._global_capturing.is_started()  # raises here, or not at all
        return Capture(manager, taps)
    except Exception:  # Private attributes of another version, or another plugin's: they may be or raise anything.
        for tap in taps.values():
            tap.close()
        return None


def _tap(file: Any) -> Tap:
    if file.encoding.lower() not in ("utf-8", "utf8"):
        raise LookupError(f"captured in `{file.encoding}`; expected `utf-8`")
    return BufferTap(file.buffer) if type(file.buffer) is io.BytesIO else FileTap.on(file.fileno())
