"""The console reporter as the core uses it: into a pipe, into a terminal, into nothing; at rest, and when it ends."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import structlog
import trio
import trio.testing

from testorch_core.delivery import ReporterFeed
from testorch_core.interfaces.plugin import PluginContext
from testorch_plugins.reporters.console import screens
from testorch_plugins.reporters.console.options import ConsoleOptions
from testorch_plugins.reporters.console.plugin import FRAME_SECONDS, ConsoleReporter
from testorch_plugins.reporters.console.screens import LiveScreen, PlainScreen, Screen, open_screen, open_stream

MakeContext = Callable[..., PluginContext]
ROOT = Path(__file__).parents[2]
HIDE, SHOW = "\x1b[?25l", "\x1b[?25h"


class Terminal(io.StringIO):
    """Remembers what was written also when it is closed, as a terminal does."""

    def __init__(self, *, is_terminal: bool = True) -> None:
        super().__init__()
        self.is_terminal = is_terminal
        self.is_released = False

    def isatty(self) -> bool:
        return self.is_terminal

    def close(self) -> None:
        self.is_released = True

    def take(self) -> str:
        """What was written since the last time, without colours."""
        text = self.getvalue()
        self.seek(0)
        self.truncate()
        return re.sub(r"\x1b\[[\d;]*m", "", text)


class Painter:
    """Counts how often a screen is painted."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.times: list[float] = []
        paint = LiveScreen.paint

        def counted(screen: LiveScreen, active: Any, now_ms: int) -> None:
            self.times.append(trio.current_time())
            paint(screen, active, now_ms)

        monkeypatch.setattr(LiveScreen, "paint", counted)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    for name, value in {"COLUMNS": "80", "LINES": "24", "TERM": "xterm-256color"}.items():
        monkeypatch.setenv(name, value)
    return Terminal()


@asynccontextmanager
async def at_work(make_context: MakeContext, file: Any, **options: Any) -> AsyncIterator[ConsoleReporter]:
    """A started reporter, in virtual time: its threads are none."""
    async with trio.open_nursery() as nursery:

        def spawn(job: Any, /, *, name: str) -> None:
            nursery.start_soon(job, name=name)

        context = make_context(spawn=spawn, inline=True)
        reporter = ConsoleReporter(
            "console",
            ConsoleOptions(**options),
            open_file=lambda stream: file,
            in_thread=context.in_thread,
            clock_ms=lambda: 1_766_000_000_000 + int(trio.current_time() * 1000),
        )
        await reporter.start(context)
        try:
            yield reporter
        finally:
            await reporter.aclose()
            nursery.cancel_scope.cancel()


async def two_tests(log: Any) -> None:
    await log.start()
    await log.tell("run/plan", {"total": 2})
    await log.tell("test/end", {"testId": "a", "status": "passed"})
    await log.tell("test/end", {"testId": "b", "status": "failed", "errors": [{"message": "no\nway"}]})


async def test_a_pipe_gets_one_line_for_each_thing_worth_it(
    make_log: Any, make_context: MakeContext, autojump_clock: object
) -> None:
    pipe, log = Terminal(is_terminal=False), make_log()
    async with at_work(make_context, pipe) as reporter, trio.open_nursery() as nursery:
        feed = ReporterFeed(reporter, log.store, log.tail, structlog.get_logger())
        await feed.open()
        nursery.start_soon(feed.run)
        await two_tests(log)
        await log.tell("test/start", {"testId": "cut\x1b[31m off"})
        await log.end("interrupted", complete=False, reason="lost")
        await feed.caught_up()
        nursery.cancel_scope.cancel()
    assert pipe.is_released
    assert pipe.getvalue().splitlines() == [
        'run started run=run-1 project=default name="Nightly"',
        'test failed run=run-1 test="b" attempt=1 duration=- error="no"',
        'test interrupted run=run-1 test="cut off" attempt=1 duration=-',
        'run finished run=run-1 project=default name="Nightly" status=interrupted complete=false total=3 passed=1 failed=1'
        " error=0 timedOut=0 interrupted=1 unknown=0 skipped=0 todo=0 expectedFailed=0 flaky=0 queued=0 duration=5.000s"
        " reason=lost",
    ]


async def test_every_attempt_gets_a_line_when_all_are_asked_for(
    make_log: Any, make_context: MakeContext, autojump_clock: object
) -> None:
    pipe, log = Terminal(is_terminal=False), make_log()
    await two_tests(log)
    async with at_work(make_context, pipe, show="all") as reporter:
        for test_id in ("a", "b"):
            await reporter.test_finished(log.reader(), await log.result(test_id))
    assert pipe.getvalue().splitlines() == [
        'test passed run=run-1 test="a" attempt=1 duration=-',
        'test failed run=run-1 test="b" attempt=1 duration=- error="no"',
    ]


async def test_of_many_tests_that_were_cut_off_some_are_named_and_the_rest_counted(
    make_log: Any, make_context: MakeContext, autojump_clock: object
) -> None:
    pipe, log = Terminal(is_terminal=False), make_log()
    await log.start()
    for n in range(23):
        await log.tell("test/start", {"testId": f"{n:02}"})
    await log.end("interrupted")
    async with at_work(make_context, pipe) as reporter:
        await reporter.run_finished(log.reader())
    lines = pipe.getvalue().splitlines()
    assert lines[:20] == [f'test interrupted run=run-1 test="{n:02}" attempt=1 duration=-' for n in range(20)]
    assert lines[20] == "test interrupted run=run-1 more=3"
    assert [line.partition(" run=")[0] for line in lines[21:]] == ["run finished"]


async def test_a_terminal_shows_the_run_below_and_failures_above(
    make_log: Any, make_context: MakeContext, terminal: Terminal, autojump_clock: object
) -> None:
    log = make_log()
    async with at_work(make_context, terminal) as reporter:
        await log.start()
        await reporter.run_started(log.reader())
        await trio.testing.wait_all_tasks_blocked()
        assert terminal.take().strip("\x1b[?25l\n").splitlines()[0].startswith("Nightly  run-1  0:00")
        await log.tell("test/end", {"testId": "b", "status": "failed", "errors": [{"message": "no " * 50}]})
        await reporter.test_finished(log.reader(), await log.result("b"))
        written = terminal.take()
        assert f"FAILED      b  {'no ' * 21}n…\n"[:80] in written
        assert written.index("FAILED") < written.index("Nightly")
        await log.end("failed")
        await reporter.run_finished(log.reader())
        written = terminal.take()
        assert "FAILED      Nightly  run-1  0 passed, 1 failed, in 0:02\n" in written
        assert written.endswith(SHOW) or SHOW in written.rpartition("Nightly")[2]
    assert terminal.is_released


async def test_painting_is_bounded_however_many_tests_finish(
    make_log: Any,
    make_context: MakeContext,
    terminal: Terminal,
    monkeypatch: pytest.MonkeyPatch,
    autojump_clock: object,
) -> None:
    log, painter = make_log(), Painter(monkeypatch)
    await two_tests(log)
    passed = await log.result("a")
    async with at_work(make_context, terminal) as reporter:
        await reporter.run_started(log.reader())
        for _ in range(1000):
            await reporter.test_finished(log.reader(), passed)
            await trio.sleep(0.002)
        assert len(painter.times) in (16, 17)
        gaps = [later - earlier for earlier, later in zip(painter.times, painter.times[1:], strict=False)]
        assert min(gaps) == pytest.approx(FRAME_SECONDS)
        # Nothing new: only the clock ticks.
        painter.times.clear()
        await trio.sleep(10)
        assert len(painter.times) in (9, 10, 11)


class Steps(trio.abc.Instrument):
    def __init__(self) -> None:
        self.count = 0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.count += task.name == "painting"


async def test_nothing_wakes_up_while_no_run_is_active(
    make_log: Any, make_context: MakeContext, terminal: Terminal, autojump_clock: object
) -> None:
    log, steps = make_log(), Steps()
    async with at_work(make_context, terminal) as reporter:
        await log.start()
        await reporter.run_started(log.reader())
        await trio.sleep(5)
        await log.end()
        await reporter.run_finished(log.reader())
        await trio.sleep(1)
        terminal.take()
        trio.lowlevel.add_instrument(steps)
        await trio.sleep(3600)
        trio.lowlevel.remove_instrument(steps)
        assert (steps.count, terminal.take()) == (0, "")


async def test_a_run_that_is_over_when_it_is_told_of_never_becomes_active(
    make_log: Any, make_context: MakeContext, terminal: Terminal, autojump_clock: object
) -> None:
    log = make_log()
    await two_tests(log)
    await log.end("failed")
    async with at_work(make_context, terminal) as reporter:
        await reporter.run_started(log.reader())
        await reporter.test_finished(log.reader(), await log.result("a"))
        await trio.sleep(1)
        assert terminal.take() == ""
        assert not reporter._active


async def test_the_cursor_comes_back_when_the_reporter_is_closed_in_mid_run(
    make_log: Any, make_context: MakeContext, terminal: Terminal, autojump_clock: object
) -> None:
    log = make_log()
    async with at_work(make_context, terminal) as reporter:
        await log.start()
        await reporter.run_started(log.reader())
        await trio.sleep(1)
        assert (terminal.getvalue().count(HIDE), terminal.getvalue().count(SHOW)) == (1, 0)
        await reporter.aclose()
        assert (terminal.getvalue().count(HIDE), terminal.getvalue().count(SHOW)) == (1, 1)
        await reporter.aclose()
        # What the core still tells is heard by nobody, and breaks nothing.
        await reporter.run_finished(log.reader())
    assert terminal.getvalue().count(SHOW) == 1


async def test_closing_works_without_a_start_and_while_being_cancelled(
    make_log: Any, make_context: MakeContext, terminal: Terminal, autojump_clock: object
) -> None:
    await ConsoleReporter("console", ConsoleOptions()).aclose()
    log = make_log()
    async with at_work(make_context, terminal) as reporter:
        await log.start()
        await reporter.run_started(log.reader())
        await trio.sleep(1)
        with trio.CancelScope() as scope:
            scope.cancel()
            await reporter.aclose()
        assert not scope.cancelled_caught
        assert terminal.getvalue().count(SHOW) == 1


class Broken(Terminal):
    def __init__(self, failure: Exception, **settings: Any) -> None:
        super().__init__(**settings)
        self.failure = failure
        self.tries = 0

    @property
    def closed(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self.tries += 1
        raise self.failure


@pytest.mark.parametrize("failure", [BrokenPipeError(32, "Broken pipe"), ValueError("I/O operation on closed file")])
@pytest.mark.parametrize("is_terminal", [True, False])
@pytest.mark.usefixtures("terminal")
async def test_a_stream_that_is_gone_silences_the_reporter_and_nothing_else(
    make_log: Any, make_context: MakeContext, failure: Exception, is_terminal: bool, autojump_clock: object
) -> None:
    log, broken = make_log(), Broken(failure, is_terminal=is_terminal)
    await two_tests(log)
    with structlog.testing.capture_logs() as logged:
        async with at_work(make_context, broken) as reporter:
            await reporter.run_started(log.reader())
            await reporter.test_finished(log.reader(), await log.result("b"))
            tries = broken.tries
            await trio.sleep(5)
            await log.end("failed")
            await reporter.run_finished(log.reader())
            assert broken.tries == tries
    assert [(one["event"], one["error"]) for one in logged] == [("console_gone", str(failure))]


def test_a_defect_is_not_taken_for_a_stream_that_is_gone() -> None:
    class Defective(PlainScreen):
        def paint(self, active: Any, now_ms: int) -> None:
            raise ValueError("a defect")

    with pytest.raises(ValueError, match="a defect"):
        Defective(Terminal()).show(lambda screen: screen.paint((), 0))


def test_closing_does_not_wait_for_a_write_that_is_stuck(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(screens, "CLOSE_SECONDS", 0)
    is_stuck, may_go_on = threading.Event(), threading.Event()
    file = Terminal(is_terminal=False)
    screen = PlainScreen(file)

    def stuck(screen: Screen) -> None:
        is_stuck.set()
        may_go_on.wait(10)

    writer = threading.Thread(target=screen.show, args=(stuck,))
    writer.start()
    is_stuck.wait(10)
    screen.close()
    assert not file.is_released
    may_go_on.set()
    writer.join(10)
    assert file.is_released


async def test_a_terminal_that_somebody_has_stopped_does_not_keep_the_server_from_ending(
    make_log: Any, make_context: MakeContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(screens, "CLOSE_SECONDS", 0)
    is_stuck, may_go_on, is_over = threading.Event(), threading.Event(), threading.Event()

    class Stopped(Terminal):
        def write(self, text: str) -> int:
            is_stuck.set()
            may_go_on.wait(10)
            is_over.set()
            return len(text)

    log = make_log()
    await log.start()
    reporter = ConsoleReporter("console", ConsoleOptions(), open_file=lambda name: Stopped(is_terminal=False))
    await reporter.start(make_context())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(reporter.run_started, log.reader())
        await trio.to_thread.run_sync(is_stuck.wait)
        nursery.cancel_scope.cancel()
    await reporter.aclose()
    assert not is_over.is_set()
    may_go_on.set()


@pytest.mark.parametrize(
    ("is_terminal", "live", "term", "kind"),
    [
        (True, "auto", "xterm", LiveScreen),
        (True, "auto", "dumb", PlainScreen),
        (False, "auto", "xterm", PlainScreen),
        (False, "always", "xterm", LiveScreen),
        (True, "never", "xterm", PlainScreen),
    ],
)
def test_a_terminal_is_live_unless_told_otherwise(
    is_terminal: bool, live: str, term: str, kind: type[Screen], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", term)
    assert type(open_screen(Terminal(is_terminal=is_terminal), live=live)) is kind


def test_a_process_without_a_console_has_somewhere_to_write(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    with open_stream("stdout") as file:
        file.write("into nothing")


def test_a_stream_without_a_descriptor_is_used_and_left_open(monkeypatch: pytest.MonkeyPatch) -> None:
    replaced = io.StringIO()
    monkeypatch.setattr(sys, "stdout", replaced)
    screen = PlainScreen(open_stream("stdout"))
    screen.close()
    assert not replaced.closed


REAL = """
import sys, trio, structlog
from pathlib import Path
from testorch_core.interfaces.plugin import PluginContext
from testorch_core.runs import RunState
from testorch_plugins.reporters.console.options import ConsoleOptions
from testorch_plugins.reporters.console.plugin import ConsoleReporter

class Run:
    status = RunState("default", "run-1").status()

async def main():
    reporter = ConsoleReporter("console", ConsoleOptions())
    log = structlog.wrap_logger(structlog.PrintLogger(sys.stderr), processors=[structlog.processors.LogfmtRenderer()])
    await reporter.start(PluginContext(
        spawn=None, in_thread=trio.to_thread.run_sync, folder=Path(), log=log, read_only=False, services=None))
    for _ in range(3):
        await reporter.run_started(Run)
    await reporter.aclose()

trio.run(main)
# structlog imports rich's console by itself; what only a live region needs is our business.
print("rich.live" in sys.modules, file=sys.stderr)
"""


def run_really(**settings: Any) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "ascii"}
    return subprocess.run(
        [sys.executable, "-c", REAL], env=environment, stderr=subprocess.PIPE, text=True, check=False, **settings
    )


@pytest.mark.slow  # a process of its own
def test_a_pipe_costs_no_import_of_what_a_live_region_needs() -> None:
    done = run_really(stdout=subprocess.PIPE)
    line = 'run started run=run-1 project=default name="run-1"\n'
    assert (done.returncode, done.stdout, done.stderr) == (0, line * 3, "False\n")


@pytest.mark.slow  # a process of its own
def test_a_pipe_that_is_closed_leaves_one_line_in_the_log_and_a_clean_exit() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = run_really(stdout=writing)
    finally:
        os.close(writing)
    assert done.returncode == 0
    assert done.stderr.splitlines() == ['stream=stdout error="[Errno 32] Broken pipe" event=console_gone', "False"]
