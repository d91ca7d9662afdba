"""Where the console's words go: plain lines to anything, or a live region with lines above it to a terminal.

Everything here blocks and runs in threads, but for `close`, which may be called from elsewhere at any moment.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, ClassVar, Final, TextIO

from testorch_core.results import Result
from testorch_core.runs import RunStatus
from testorch_plugins.reporters.console import lines

if TYPE_CHECKING:
    from rich.live import Live
    from rich.text import Text

CLOSE_SECONDS: Final = 0.1
"""How long closing waits for a write that is under way. One to a stopped terminal may never end."""


class Screen(ABC):
    """A stream that goes away (a closed pipe) is no failure of ours: the screen falls silent and raises nothing."""

    is_live: ClassVar[bool] = False
    """Whether it wants to be painted again and again while runs are active."""

    def __init__(self, file: TextIO) -> None:
        self.failure: str | None = None
        """Why the screen has fallen silent."""
        self._file = file
        self._turn = threading.Lock()
        self._is_closing = False
        self._is_closed = False

    @abstractmethod
    def run_started(self, status: RunStatus) -> None: ...

    @abstractmethod
    def test_finished(self, status: RunStatus, result: Result) -> None: ...

    @abstractmethod
    def more_interrupted(self, status: RunStatus, count: int) -> None: ...

    @abstractmethod
    def run_finished(self, status: RunStatus) -> None: ...

    @abstractmethod
    def paint(self, active: Sequence[RunStatus], now_ms: int) -> None:
        """Show the runs that are active; none ends the live region."""

    def show(self, write: Callable[[Screen], None]) -> str | None:
        """Make one call of the above, unless the screen is silent or closed. Returns why it has fallen silent just now."""
        with self._turn:
            try:
                if self.failure is None and not self._is_closing:
                    write(self)
                return None
            except OSError as failure:
                self.failure = str(failure)
            except ValueError as failure:
                if not self._file.closed:
                    raise
                self.failure = str(failure)
            finally:
                if self._is_closing:  # `close` has come meanwhile, and didn't wait
                    self._release()
            return self.failure

    def close(self) -> None:
        """Restore the terminal; works twice. Where a write is stuck, that does it should it ever come back."""
        self._is_closing = True
        if self._turn.acquire(timeout=CLOSE_SECONDS):
            try:
                self._release()
            finally:
                self._turn.release()

    def _release(self) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        with contextlib.suppress(OSError, ValueError):  # what is gone needs no restoring
            self._restore()
        if self._file not in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):  # closing flushes
                self._file.close()

    @abstractmethod
    def _restore(self) -> None:
        """Give the terminal back as it was."""


class PlainScreen(Screen):
    """One `key=value` line for everything, each written at once."""

    def run_started(self, status: RunStatus) -> None:
        self._write(lines.started_line(status))

    def test_finished(self, status: RunStatus, result: Result) -> None:
        self._write(lines.test_line(status, result))

    def more_interrupted(self, status: RunStatus, count: int) -> None:
        self._write(lines.more_line(status, count))

    def run_finished(self, status: RunStatus) -> None:
        self._write(lines.finished_line(status))

    def paint(self, active: Sequence[RunStatus], now_ms: int) -> None:
        """Nothing is live here."""

    def _restore(self) -> None:
        """Nothing was changed."""

    def _write(self, line: str) -> None:
        self._file.write(line + "\n")
        self._file.flush()


class LiveScreen(Screen):
    """A live region at the terminal's bottom while runs are active, and lines that scroll away above it."""

    is_live: ClassVar[bool] = True

    def __init__(self, file: TextIO) -> None:
        super().__init__(file)
        from testorch_plugins.reporters.console import view

        self._view = view
        self._console = view.TerminalConsole(file=file, force_terminal=True, highlight=False, markup=False, emoji=False)
        self._live: Live | None = None

    def run_started(self, status: RunStatus) -> None:
        """The live region shows it."""

    def test_finished(self, status: RunStatus, result: Result) -> None:
        self._print_line(self._view.test_text(status, result))

    def more_interrupted(self, status: RunStatus, count: int) -> None:
        self._print_line(self._view.more_text(count))

    def run_finished(self, status: RunStatus) -> None:
        self._console.print(self._view.finished_text(status))

    def paint(self, active: Sequence[RunStatus], now_ms: int) -> None:
        if not active:
            self._restore()
            return
        if self._live is None:
            self._live = self._started()
        region = self._view.live_region(active, now_ms=now_ms, max_lines=max(1, self._console.height - 1))
        self._live.update(region, refresh=True)

    def _started(self) -> Live:
        from rich.live import Live

        # No thread of rich's own, and its hands off `sys.stdout`: this process isn't only ours.
        live = Live(
            console=self._console, auto_refresh=False, transient=True, redirect_stdout=False, redirect_stderr=False
        )
        live.start()
        return live

    def _print_line(self, text: Text) -> None:
        # Said again here, for `print` goes by its own arguments.
        self._console.print(text, no_wrap=True, overflow="ellipsis")

    def _restore(self) -> None:
        live, self._live = self._live, None
        if live is not None:
            live.stop()


def open_stream(name: str) -> TextIO:
    """A file of our own to write to standard output or error with, or the stream itself where it has no descriptor.

    What a broken pipe leaves in its buffer then isn't tried again at the interpreter's end, and characters that the
    encoding doesn't have are written as escapes.
    """
    stream: TextIO | None = getattr(sys, name)
    if stream is None:  # a process without a console
        return open(os.devnull, "w", encoding="utf-8")
    try:
        descriptor = os.dup(stream.fileno())
    except (OSError, ValueError, AttributeError):  # captured, replaced or closed
        return stream
    return open(descriptor, "w", encoding=getattr(stream, "encoding", None) or "utf-8", errors="backslashreplace")


def open_screen(file: TextIO, *, live: str) -> Screen:
    """The screen for a stream; `live` is the option."""
    return LiveScreen(file) if live == "always" or (live == "auto" and _is_terminal(file)) else PlainScreen(file)


def _is_terminal(file: TextIO) -> bool:
    try:
        return file.isatty() and os.environ.get("TERM", "") not in ("dumb", "unknown")
    except ValueError:  # closed
        return False
