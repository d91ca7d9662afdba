"""Where the log goes: one event, one line, whatever it holds. Never contents, never tokens."""

from __future__ import annotations

import atexit
import logging
import queue
import sys
import threading
from typing import Any, Final, TextIO

import structlog

MAX_WAITING_LINES: Final = 10_000
FLUSH_SECONDS: Final = 1.0


class PatientLog:
    """A file to log to that never makes its writer wait: lines go through a thread of its own.

    Standard error may be a pipe that nobody reads; a server must not stand still for that. What finds the queue full is
    counted, and said in a line of its own as soon as there is room.
    """

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._lines: queue.Queue[str | None] = queue.Queue(MAX_WAITING_LINES)
        self._dropped = 0
        self._thread: threading.Thread | None = None

    def write(self, text: str) -> None:
        if self._thread is None:  # not before there is something to say: commands that read say nothing
            self._thread = threading.Thread(target=self._write_all, name="log", daemon=True)
            self._thread.start()
            atexit.register(self._finish)
        try:
            if self._dropped:
                self._lines.put_nowait(f"level=warning event=log_lines_dropped lines={self._dropped}\n")
                self._dropped = 0
            self._lines.put_nowait(text)
        except queue.Full:
            self._dropped += 1

    def flush(self) -> None:
        """Nothing to do: the thread flushes each line."""

    def _write_all(self) -> None:
        while (line := self._lines.get()) is not None:
            try:
                self._file.write(line)
                self._file.flush()
            except (OSError, ValueError):
                return  # the reader has gone, or the file was closed: there is nobody to tell

    def _finish(self) -> None:
        """Give what is waiting a moment at the end of the process."""
        if self._thread is not None:
            try:
                self._lines.put(None, timeout=FLUSH_SECONDS)
            except queue.Full:
                return
            self._thread.join(FLUSH_SECONDS)


def library_log() -> Any:
    """The log of an embedded core: the standard `logging` logger `testorch`, which its host configures."""
    return structlog.wrap_logger(
        logging.getLogger("testorch"),
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.processors.format_exc_info,
            structlog.processors.LogfmtRenderer(key_order=["event"], bool_as_flag=False),
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
    )


def server_log(level: str) -> Any:
    """The log of a server process: lines of `key=value` on standard error, from `level` (`debug`, `info` …) on."""
    return structlog.wrap_logger(
        structlog.WriteLogger(PatientLog(sys.stderr)),  # type: ignore[arg-type] # it writes and flushes, which is all that is used
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.LogfmtRenderer(key_order=["timestamp", "level", "event"], bool_as_flag=False),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
    )
