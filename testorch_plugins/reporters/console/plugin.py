"""The console reporter: what runs do, live in a terminal or as lines in a pipe."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Any, ClassVar, Final, TextIO, TypeVar

import trio

from testorch_core.interfaces.plugin import PluginContext, ThreadRunner
from testorch_core.interfaces.reporter import Reporter, RunReader
from testorch_core.options import Options
from testorch_core.results import Result
from testorch_core.runs import RunStatus
from testorch_plugins.reporters.console.lines import is_worth_a_line
from testorch_plugins.reporters.console.options import ConsoleOptions
from testorch_plugins.reporters.console.screens import Screen, open_screen, open_stream

FRAME_SECONDS: Final = 1 / 8
"""The shortest time between two paintings of the live region."""

TICK_SECONDS: Final = 1.0
"""The longest, since it shows a clock."""

MAX_ACTIVE_RUNS: Final = 100
"""Active runs that are remembered; beyond that the longest unheard of is forgotten until it is heard of again."""

MAX_INTERRUPTED_SHOWN: Final = 20
"""Lines for tests that were cut off with their run. A crash of many workers leaves many."""

Answer = TypeVar("Answer")
Write = Callable[[Screen], None]


def wall_clock_ms() -> int:
    return time.time_ns() // 1_000_000


class ConsoleReporter(Reporter):
    """Keeps the status of every active run, which costs next to nothing a test; a task of its own paints them."""

    summary: ClassVar[str] = "active runs, failing tests and summaries on the console"
    options_type: ClassVar[type[Options]] = ConsoleOptions
    options: ConsoleOptions

    def __init__(
        self,
        name: str,
        options: Any,
        *,
        open_file: Callable[[str], TextIO] = open_stream,
        in_thread: ThreadRunner | None = None,
        clock_ms: Callable[[], int] = wall_clock_ms,
    ) -> None:
        super().__init__(name, options)
        self._open_file = open_file
        self._in_thread = in_thread
        self._clock_ms = clock_ms
        self._screen: Screen | None = None
        self._active: dict[tuple[str, str], RunStatus] = {}
        self._is_stale = False
        self._log: Any = None
        self._woken = trio.Event()

    async def start(self, context: PluginContext) -> None:
        self._log = context.log
        if self._in_thread is None:
            self._in_thread = _thread_of_its_own()
        # Opened in a thread: in a terminal this imports rich, which takes a tenth of a second.
        self._screen = await context.in_thread(
            lambda: open_screen(self._open_file(self.options.stream), live=self.options.live)
        )
        if self._screen.is_live:
            context.spawn(self._paint_for_ever, name="painting")

    async def aclose(self) -> None:
        screen, self._screen = self._screen, None
        if screen is not None:
            screen.close()

    async def run_started(self, run: RunReader) -> None:
        status = run.status
        self._note(status)
        await self._show(lambda screen: screen.run_started(status))

    async def test_finished(self, run: RunReader, result: Result) -> None:
        status = run.status
        self._note(status)
        if is_worth_a_line(result, show=self.options.show):
            await self._show_test(status, result)

    async def run_finished(self, run: RunReader) -> None:
        status = run.status
        self._active.pop((status.project, status.run_id), None)
        await self._show_interrupted(run)
        await self._show(lambda screen: screen.run_finished(status))
        await self._paint()

    def _note(self, status: RunStatus) -> None:
        """Take in a run's newest status. A reporter that lags behind is told of runs that are over already."""
        address = (status.project, status.run_id)
        self._active.pop(address, None)
        if not status.is_over:
            self._active[address] = status  # behind all others: the first is the one that was not heard of longest
            if len(self._active) > MAX_ACTIVE_RUNS:
                del self._active[next(iter(self._active))]
        self._is_stale = True
        self._woken.set()

    async def _show_interrupted(self, run: RunReader) -> None:
        """A line for each test that the run's end has cut off: no end of its own has told of it."""
        status, count = run.status, 0
        if status.counts.get("interrupted", 0) == 0:
            return
        async with aclosing(run.results(final_only=True)) as results:
            async for result in results:
                if result.ok is None:
                    count += 1
                    if count <= MAX_INTERRUPTED_SHOWN:
                        await self._show_test(status, result)
        if count > MAX_INTERRUPTED_SHOWN:
            await self._show(lambda screen: screen.more_interrupted(status, count - MAX_INTERRUPTED_SHOWN))

    async def _show_test(self, status: RunStatus, result: Result) -> None:
        await self._show(lambda screen: screen.test_finished(status, result))

    async def _paint_for_ever(self) -> None:
        painted = -TICK_SECONDS
        while self._screen is not None and self._screen.failure is None:
            if not self._active:
                self._woken = trio.Event()
                await self._woken.wait()
            if self._is_stale or trio.current_time() - painted >= TICK_SECONDS:
                painted = trio.current_time()
                await self._paint()
            await trio.sleep(FRAME_SECONDS)

    async def _paint(self) -> None:
        self._is_stale = False
        active, now_ms = list(self._active.values()), self._clock_ms()
        await self._show(lambda screen: screen.paint(active, now_ms))

    async def _show(self, write: Write) -> None:
        """Write, in a thread: a pipe that nobody reads blocks. Such a call waits; it delays this reporter only."""
        screen = self._screen
        if screen is None or screen.failure is not None:
            return
        assert self._in_thread is not None, "set at the start, as the screen is"
        failure = await self._in_thread(lambda: screen.show(write))
        if failure is not None:
            self._log.warning("console_gone", stream=self.options.stream, error=failure)


def _thread_of_its_own() -> ThreadRunner:
    """One thread at a time, so that words keep their order, and none of those that plugins share: one that is stuck in
    a terminal that somebody has stopped must neither block others' work nor the server's end."""
    limiter = trio.CapacityLimiter(1)

    def run(work: Callable[[], Answer]) -> Awaitable[Answer]:
        return trio.to_thread.run_sync(work, abandon_on_cancel=True, limiter=limiter)

    return run
