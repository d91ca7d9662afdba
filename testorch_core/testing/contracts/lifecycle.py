"""The contract of every plugin: its life, and its options. The numbers are the promises' names."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio
from marshmallow import ValidationError

from testorch_core.errors import OpeningError
from testorch_core.interfaces.plugin import Plugin, PluginContext
from testorch_core.options import OptionsError, OptionSpec, Secret
from testorch_core.testing.contracts.watching import impurities
from testorch_core.testing.fakes import plugin_context

CHEAP_SECONDS = 0.05
"""How long a constructor may take, the best of a few: `testorch check` constructs every plugin."""

CLOSE_SECONDS = 5.0
"""How long `aclose` may take; the core waits about as long."""

SECRET = "correct-horse-battery-staple"  # noqa: S105 - stands for one


class PluginContract:
    """Subclass it, and override `make_plugin`; see `testorch_core.testing`.

    What `make_plugin` needs of fixtures, an autouse fixture of the subclass can put on `self`. Relative paths in options
    are relative to a temporary folder, the same for all plugins of one test.
    """

    pytestmark = pytest.mark.trio

    def make_plugin(self) -> Plugin:
        """A plugin, constructed and not started. Called more than once in a test: then with equal options."""
        raise NotImplementedError("a contract needs `make_plugin`")

    # The fixtures. Those that are asynchronous have another `self` than the test, hence `new_plugin`.

    @pytest.fixture
    def new_plugin(self) -> Callable[[], Any]:
        return self.make_plugin

    @pytest.fixture
    def plugin(self, new_plugin: Callable[[], Any]) -> Any:
        return new_plugin()

    @pytest.fixture
    def context(self, nursery: trio.Nursery, tmp_path: Path) -> PluginContext:
        return plugin_context(nursery, folder=tmp_path)

    # 1. Construct.

    async def test_1a_constructing_does_no_io_and_starts_nothing(self, new_plugin: Callable[[], Any]) -> None:
        new_plugin()  # what is imported late is imported now
        assert await trio.to_thread.run_sync(_impurities_of, new_plugin) == []

    async def test_1b_constructing_is_cheap(self, new_plugin: Callable[[], Any]) -> None:
        assert min(_seconds(new_plugin) for _ in range(5)) < CHEAP_SECONDS

    async def test_1c_a_plugin_knows_its_name_and_its_options(self, plugin: Any) -> None:
        assert isinstance(plugin, Plugin)
        assert plugin.name
        assert isinstance(plugin.options, type(plugin).options_type)

    # 2. Start.

    async def test_2_a_started_plugin_can_be_closed(self, plugin: Any, context: PluginContext) -> None:
        await plugin.start(context)
        await _close(plugin)

    # 3. Close.

    async def test_3a_closing_works_unstarted(self, plugin: Any) -> None:
        await _close(plugin)

    async def test_3b_closing_works_twice(self, new_plugin: Callable[[], Any], context: PluginContext) -> None:
        unstarted, started = new_plugin(), new_plugin()
        await started.start(context)
        for plugin in (unstarted, started):
            await _close(plugin)
            await _close(plugin)

    async def test_3c_closing_works_after_a_start_that_failed(
        self, new_plugin: Callable[[], Any], nursery: trio.Nursery, tmp_path: Path
    ) -> None:
        (tmp_path / "file").touch()
        for folder in (tmp_path / "missing" / "folder", tmp_path / "file"):
            plugin = new_plugin()
            words = "it started"
            try:
                await plugin.start(plugin_context(nursery, folder=folder))
            except OpeningError as failure:  # what a user can mend is said in one line; nothing else may be raised
                words = str(failure)
            assert words.splitlines() == [words]
            await _close(plugin)
        await _works(new_plugin(), plugin_context(nursery, folder=tmp_path))

    async def test_3d_closing_works_after_a_start_that_was_cancelled(
        self, new_plugin: Callable[[], Any], context: PluginContext
    ) -> None:
        plugin = new_plugin()
        with trio.CancelScope() as scope:
            scope.cancel()
            await plugin.start(context)
        await _close(plugin)
        await _works(new_plugin(), context)

    async def test_3e_closing_releases_everything_even_while_being_cancelled(
        self, new_plugin: Callable[[], Any], context: PluginContext
    ) -> None:
        plugin = new_plugin()
        await plugin.start(context)
        with trio.fail_after(CLOSE_SECONDS), trio.CancelScope() as scope:
            scope.cancel()
            await plugin.aclose()
        await _works(new_plugin(), context)

    async def test_3f_what_a_plugin_held_can_be_taken_again(
        self, new_plugin: Callable[[], Any], context: PluginContext
    ) -> None:
        for _ in range(3):
            await _works(new_plugin(), context)

    async def test_3g_background_tasks_end_when_they_are_cancelled(
        self, new_plugin: Callable[[], Any], tmp_path: Path
    ) -> None:
        plugin = new_plugin()
        with trio.fail_after(CLOSE_SECONDS * 2):
            async with trio.open_nursery() as nursery:
                await plugin.start(plugin_context(nursery, folder=tmp_path))
                await plugin.aclose()
                nursery.cancel_scope.cancel()

    # 4. Options, and what is shown of them.

    async def test_4a_the_summary_is_one_line(self, plugin: Any) -> None:
        summary = type(plugin).summary
        assert summary.strip()
        assert "\n" not in summary

    async def test_4b_every_option_has_help(self, plugin: Any) -> None:
        options = type(plugin.options)
        described = {spec.name for spec in options.specs() if spec.help.strip()}
        assert described == {field.name for field in dataclasses.fields(options)}

    async def test_4c_every_default_is_a_value_that_could_be_given(self, plugin: Any) -> None:
        for spec in type(plugin.options).specs():
            if not spec.required and spec.default is not None and not spec.secret:
                loaded = _loaded(spec)
                same = tuple(loaded) == spec.default if isinstance(spec.default, tuple) else loaded == spec.default
                assert same, f"the default of `{spec.name}` is none that its field takes"

    async def test_4d_an_unknown_option_is_refused_with_a_near_miss(self, plugin: Any, tmp_path: Path) -> None:
        for spec in type(plugin.options).specs():
            misspelt = f"{spec.name}x"
            with pytest.raises(OptionsError) as refused:
                type(plugin.options).load({misspelt: "anything"}, folder=tmp_path)
            words = [one.problem for one in refused.value.problems if one.path == misspelt]
            assert words == [f"`{misspelt}` is not an option of this plugin; did you mean `{spec.name}`?"]
        with pytest.raises(OptionsError):
            type(plugin.options).load({"no_such_option_anywhere": 1}, folder=tmp_path)

    async def test_4e_secrets_are_masked(self, plugin: Any, tmp_path: Path) -> None:
        for spec in _secrets(plugin):
            told = dataclasses.replace(plugin.options, **{spec.name: Secret(SECRET)})
            assert SECRET not in f"{told!r} {told}"
            with pytest.raises(OptionsError) as refused:
                type(plugin.options).load({spec.name: [SECRET]}, folder=tmp_path)
            assert SECRET not in str(refused.value)
        for value in (getattr(plugin.options, spec.name) for spec in _secrets(plugin)):
            assert value is None or isinstance(value, Secret)
            assert value is None or value.reveal() not in repr(plugin)

    async def test_4f_options_are_frozen(self, plugin: Any) -> None:
        for field in dataclasses.fields(plugin.options):
            with pytest.raises(dataclasses.FrozenInstanceError):
                setattr(plugin.options, field.name, None)


def _impurities_of(make: Callable[[], Any]) -> list[str]:
    """What making a plugin does; called in a thread of its own, where no event loop could be asked to start a task."""
    with impurities() as seen:
        make()
    return seen


def _seconds(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


async def _close(plugin: Plugin) -> None:
    with trio.fail_after(CLOSE_SECONDS):
        await plugin.aclose()


async def _works(plugin: Plugin, context: PluginContext) -> None:
    await plugin.start(context)
    await _close(plugin)


def _loaded(spec: OptionSpec) -> Any:
    """An option's default as its field would load it; None if it refuses it."""
    try:
        return spec.field.deserialize(spec.default)
    except ValidationError:
        return None


def _secrets(plugin: Plugin) -> list[OptionSpec]:
    return [spec for spec in type(plugin.options).specs() if spec.secret]
