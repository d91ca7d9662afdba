"""A plugin's life in the hands of the core: what it does to plugins that fail, hang or misbehave."""

from pathlib import Path
from typing import Any

import pytest
import trio

from testorch_core.errors import OpeningError, PluginFailedError
from testorch_core.hosting import HostedPlugin, single_failure
from testorch_core.interfaces.plugin import Plugin, PluginContext
from testorch_core.interfaces.reporter import Reporter


class Example(Plugin):
    """Does in each step of its life what the test wants."""

    def __init__(self, name: str = "example", **steps: Any) -> None:
        super().__init__(name, None)
        self.steps = steps
        self.closed = 0

    async def start(self, context: PluginContext) -> None:
        if "start" in self.steps:
            await self.steps["start"](context)

    async def aclose(self) -> None:
        self.closed += 1
        if "close" in self.steps:
            await self.steps["close"]()


class ExampleReporter(Example, Reporter):
    pass


@pytest.fixture
def log() -> Any:
    return _Log([])


class _Log:
    def __init__(self, entries: list[Any], bound: dict[str, Any] | None = None) -> None:
        self.entries = entries
        self._bound = bound or {}

    def bind(self, **facts: Any) -> "_Log":
        return _Log(self.entries, {**self._bound, **facts})

    def error(self, event: str, **facts: Any) -> None:
        self.entries.append({"event": event, **self._bound, **facts})

    warning = info = error


async def host(plugin: Plugin, log: Any, during: Any = None) -> None:
    hosted = HostedPlugin(plugin, close_seconds=5, log=log)
    with single_failure():
        async with trio.open_nursery() as nursery:
            await nursery.start(lambda task_status: hosted.run(folder=Path(), task_status=task_status))
            if during is not None:
                await during()
            await hosted.close()


async def raising(*args: Any) -> None:
    raise ValueError("the reason")


async def test_a_plugin_is_closed_once_by_a_clean_end(log: Any, autojump_clock: trio.testing.MockClock):
    plugin = Example()
    await host(plugin, log)
    assert (plugin.closed, log.entries) == (1, [])


async def test_a_start_that_fails_is_an_opening_error_with_the_plugins_name_and_still_closes(log: Any):
    plugin = Example(start=raising)
    with pytest.raises(OpeningError, match="`example` could not be opened: ValueError: the reason"):
        await host(plugin, log)
    assert plugin.closed == 1


async def test_an_opening_error_stays_as_the_plugin_worded_it(log: Any):
    async def refuse(context: PluginContext) -> None:
        raise OpeningError("the port is in use")

    with pytest.raises(OpeningError, match=r"^the port is in use$"):
        await host(Example(start=refuse), log)


async def test_a_background_task_that_fails_is_attributed_to_its_plugin(
    log: Any, autojump_clock: trio.testing.MockClock
):
    async def start(context: PluginContext) -> None:
        context.spawn(raising, name="watching")

    plugin = Example(start=start)
    with pytest.raises(PluginFailedError, match="plugin `example` failed: ValueError: the reason") as raised:
        await host(plugin, log, trio.sleep_forever)
    assert raised.value.__cause__ is not None
    assert raised.value.__cause__.__notes__ == ["in the task `watching` of the plugin `example`"]
    assert plugin.closed == 1


async def test_a_reporters_failure_ends_only_the_reporter(log: Any, autojump_clock: trio.testing.MockClock):
    """P5: the rest of the server goes on."""

    async def start(context: PluginContext) -> None:
        context.spawn(raising, name="posting")

    went_on = False

    async def during() -> None:
        nonlocal went_on
        await trio.sleep(10)
        went_on = True

    await host(ExampleReporter(start=start), log, during)
    assert went_on
    (entry,) = log.entries
    assert (entry["event"], entry["error"], entry["plugin"]) == ("reporter_failed", "ValueError: the reason", "example")


async def test_a_close_that_hangs_is_left_behind_after_its_bound(log: Any, autojump_clock: trio.testing.MockClock):
    before = trio.current_time()
    await host(Example(close=trio.sleep_forever), log)
    assert trio.current_time() - before == 5
    assert [entry["event"] for entry in log.entries] == ["plugin_close_timed_out"]


async def test_a_close_that_raises_is_logged(log: Any):
    await host(Example(close=raising), log)
    assert [(entry["event"], entry["error"]) for entry in log.entries] == [
        ("plugin_close_failed", "ValueError: the reason")
    ]


async def test_background_tasks_end_with_the_plugin(log: Any, autojump_clock: trio.testing.MockClock):
    ended = trio.Event()

    async def work() -> None:
        try:
            await trio.sleep_forever()
        finally:
            ended.set()

    async def start(context: PluginContext) -> None:
        context.spawn(work, name="working")

    await host(Example(start=start), log)
    assert ended.is_set()


async def test_a_cancelled_server_still_closes_its_plugins(log: Any, autojump_clock: trio.testing.MockClock):
    async def close() -> None:
        await trio.sleep(1)

    plugin = Example(close=close)
    with trio.move_on_after(3):
        await host(plugin, log, trio.sleep_forever)
    assert plugin.closed == 1
    assert trio.current_time() >= 4, "closing had its time, shielded from the cancellation"
