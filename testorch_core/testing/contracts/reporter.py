"""The contract of every reporter, and of every renderer: told twice, cancelled, and told of hostile names."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
import trio

from testorch_core import events as ev
from testorch_core.interfaces.plugin import PluginContext
from testorch_core.interfaces.reporter import Renderer, Reporter
from testorch_core.testing import hostile
from testorch_core.testing.contracts.lifecycle import PluginContract
from testorch_core.testing.contracts.watching import impurities
from testorch_core.testing.runs import RecordedRun, Told, recorded_run

CALL_SECONDS = 5.0
STEPS = 8
"""After how many checkpoints, at the most, a call is cancelled."""

RUNS: dict[str, Callable[[], RecordedRun]] = {
    "of every kind": recorded_run,
    "that is empty": lambda: recorded_run([]),
    "that goes on": lambda: recorded_run(ended=False),
    "without a name": lambda: recorded_run([], name=None),
    "with a hostile name": lambda: recorded_run(
        [], run_id=hostile.PATH, project=hostile.QUOTES, name=hostile.MARKUP + hostile.RIGHT_TO_LEFT + hostile.LINES
    ),
    "with odd fields": lambda: recorded_run(odd_fields()),
}
"""Runs that a reporter has to stand, each with its name."""


class ReporterContract(PluginContract):
    """Subclass it and override `make_plugin`; where the reporter has effects that can be seen, `effects` too.

    `make_plugin` gives a reporter whose outside world works (a fake server, say), so that no call has to fail.
    """

    def make_plugin(self) -> Reporter:
        raise NotImplementedError("a contract needs `make_plugin`")

    def effects(self, folder: Path) -> Any:
        """What the reporter has done to the outside, in a form that compares equal when a repetition did no harm.

        `folder` is what its relative paths are relative to. None, the default, compares nothing.
        """
        return None

    @pytest.fixture
    async def reporter(self, plugin: Any, context: PluginContext) -> AsyncIterator[Any]:
        await plugin.start(context)
        yield plugin
        await plugin.aclose()

    @pytest.mark.parametrize("kind", RUNS)
    async def test_5a_a_run_can_be_told_twice_and_the_effect_is_the_same(
        self, reporter: Any, kind: str, tmp_path: Path
    ) -> None:
        run = RUNS[kind]()
        await tell(reporter, run)
        once = self.effects(tmp_path)
        await tell(reporter, run)
        assert self.effects(tmp_path) == once

    async def test_5b_the_last_call_can_come_again_alone(self, reporter: Any, tmp_path: Path) -> None:
        run = recorded_run()
        await tell(reporter, run)
        once = self.effects(tmp_path)
        await _bounded(partial(reporter.run_finished, run))
        assert self.effects(tmp_path) == once

    async def test_5c_a_reporter_may_join_in_the_middle_of_a_run(self, reporter: Any) -> None:
        run = recorded_run()
        for result in run.all_results[-3:]:
            await _bounded(partial(reporter.test_finished, run, result))
        await _bounded(partial(reporter.run_finished, run))

    async def test_5d_two_runs_told_in_turns_do_not_mix(self, reporter: Any) -> None:
        runs = [recorded_run(run_id="run-1"), recorded_run(run_id="run-2")]
        for run in runs:
            await _bounded(partial(reporter.run_started, run))
        for pair in zip(*(run.all_results for run in runs), strict=True):
            for run, result in zip(runs, pair, strict=True):
                await _bounded(partial(reporter.test_finished, run, result))
        for run in runs:
            await _bounded(partial(reporter.run_finished, run))

    @pytest.mark.parametrize("steps", range(STEPS))
    async def test_5e_a_call_that_was_cancelled_can_be_made_again(
        self, reporter: Any, steps: int, tmp_path: Path
    ) -> None:
        run = recorded_run()
        for call in calls(reporter, run):
            await _cancelled(call, steps)
        await tell(reporter, run)
        after_all = self.effects(tmp_path)
        await tell(reporter, run)
        assert self.effects(tmp_path) == after_all

    async def test_5f_closing_while_a_call_is_cancelled_is_bounded(self, reporter: Any) -> None:
        run = recorded_run()
        with trio.fail_after(CALL_SECONDS):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(reporter.run_finished, run)
                await trio.lowlevel.checkpoint()
                nursery.cancel_scope.cancel()
                await reporter.aclose()


class RendererContract(ReporterContract):
    """For a reporter that is a `Renderer` too."""

    def make_plugin(self) -> Renderer:
        raise NotImplementedError("a contract needs `make_plugin`")

    async def test_6a_the_media_type_is_one(self, plugin: Any) -> None:
        kind, _, form = plugin.media_type.partition("/")
        assert kind
        assert form

    @pytest.mark.parametrize("kind", RUNS)
    async def test_6b_a_document_is_the_same_twice_and_needs_no_start(
        self, plugin: Any, new_plugin: Callable[[], Any], kind: str
    ) -> None:
        run = RUNS[kind]()
        first, second, of_another = [await rendered(one, run) for one in (plugin, plugin, new_plugin())]
        assert first
        assert first == second == of_another

    async def test_6c_rendering_opens_and_creates_nothing(self, plugin: Any) -> None:
        run = recorded_run()
        await rendered(plugin, run)  # what is imported late is imported now
        with impurities() as seen:
            await rendered(plugin, run)
        assert seen == []

    async def test_6d_a_document_can_be_left_half_read(self, plugin: Any) -> None:
        run = recorded_run()
        async with aclosing(cast(Any, plugin.render(run))) as pieces:
            async for piece in pieces:
                assert isinstance(piece, bytes)
                break
        assert await rendered(plugin, run)


async def tell(reporter: Reporter, run: RecordedRun) -> None:
    """Tell a reporter of a whole run, as the core does."""
    for call in calls(reporter, run):
        await _bounded(call)


def calls(reporter: Reporter, run: RecordedRun) -> list[Callable[[], Awaitable[None]]]:
    """The calls that tell of a run, in their order."""
    ended = [one for one in run.all_results if one.status != ev.RUNNING]
    return [
        partial(reporter.events, run.all_events),
        partial(reporter.run_started, run),
        *(partial(reporter.test_finished, run, result) for result in ended),
        *([partial(reporter.run_finished, run)] if run.status.is_over else []),
    ]


async def rendered(renderer: Renderer, run: RecordedRun) -> bytes:
    """A whole document."""
    return b"".join([piece async for piece in renderer.render(run)])


def odd_fields() -> list[Told]:
    """Tests of which every detail is of a type that nobody expects."""
    told: list[Told] = []
    for number, value in enumerate(hostile.VALUES):
        names = ("testName", "filePath", "suitePath", "errors", "tags", "line", "durationMs", "reason", "properties")
        told.append((ev.TEST_END, {"testId": f"t{number}", "status": ev.FAILED, **dict.fromkeys(names, value)}))
        told.append((ev.TEST_OUTPUT, {"testId": f"t{number}", "text": value, "stream": value}))
        error = dict.fromkeys(("message", "type", "stack", "expected", "actual", "phase"), value)
        told.append((ev.TEST_END, {"testId": f"u{number}", "status": ev.ERROR, "errors": [value, error]}))
    return told


async def _bounded(call: Callable[[], Awaitable[None]]) -> None:
    with trio.fail_after(CALL_SECONDS):
        await call()


async def _cancelled(call: Callable[[], Awaitable[None]], steps: int) -> None:
    with trio.fail_after(CALL_SECONDS):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(call)
            for _ in range(steps):
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
