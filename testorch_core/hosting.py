"""A plugin's life: the core owns its nursery, starts it, closes it within a bound, and names it when it fails."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

import trio

from testorch_core.errors import OpeningError, PluginFailedError, TestorchError
from testorch_core.interfaces.plugin import Job, Plugin, PluginContext
from testorch_core.interfaces.reporter import Reporter

Answer = TypeVar("Answer")

PLUGIN_THREADS: Final = 16
"""Threads that one plugin may have at a time. Each has a limit of its own: one that hangs in threads stops no other."""


class HostedPlugin:
    """One plugin instance in the hands of the core.

    `run` is its task: it starts the plugin, keeps a nursery for the plugin's background tasks, and closes it when `close`
    is called, when a background task fails, or when `run` itself is cancelled. A reporter's failure ends only the
    reporter; any other plugin's failure leaves `run` as `PluginFailedError`.
    """

    def __init__(self, plugin: Plugin, *, close_seconds: float, log: Any) -> None:
        self.plugin = plugin
        self.failed = False
        self._close_seconds = close_seconds
        self._log = log.bind(plugin=plugin.name)
        self._closing = trio.Event()
        self._closed = trio.Event()

    async def run(
        self,
        *,
        folder: Path,
        read_only: bool = False,
        services: Any = None,
        authenticates: bool = False,
        limiter: trio.CapacityLimiter | None = None,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """The plugin's whole life. Reports `started` once the plugin's `start` has returned; until then failures are
        `OpeningError`s and the like, as the plugin raised them."""
        started = False
        try:
            async with trio.open_nursery() as nursery:
                context = PluginContext(
                    spawn=self._spawner(nursery),
                    in_thread=_thread_runner(limiter),
                    folder=folder,
                    log=self._log,
                    read_only=read_only,
                    services=services,
                    authenticates=authenticates,
                )
                try:
                    await self.plugin.start(context)
                    started = True
                    task_status.started()
                    await self._closing.wait()
                finally:
                    await self._close_plugin()
                nursery.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            self._fail(group, started=started)
        finally:
            self._closed.set()

    async def reload(self) -> None:
        """Let the plugin read its files again; whatever it raises is a line of the log."""
        try:
            await self.plugin.reload()
        except Exception as failure:
            self._log.error("plugin_reload_failed", error=f"{type(failure).__name__}: {failure}")

    async def close(self) -> None:
        """Close the plugin and wait until its tasks are gone; at most about `close_seconds`. Works twice, and unstarted."""
        self._closing.set()
        with trio.move_on_after(self._close_seconds * 2):
            await self._closed.wait()

    async def _close_plugin(self) -> None:
        # Shielded, because closing must also work while the server is being cancelled; bounded by the deadline.
        with trio.CancelScope(shield=True, deadline=trio.current_time() + self._close_seconds) as scope:
            try:
                await self.plugin.aclose()
            except Exception as failure:  # whatever a plugin raises while closing must not keep the others from closing
                self._log.error("plugin_close_failed", error=f"{type(failure).__name__}: {failure}")
        if scope.cancelled_caught:
            self._log.error("plugin_close_timed_out", seconds=self._close_seconds)

    def _spawner(self, nursery: trio.Nursery) -> Callable[..., None]:
        def spawn(job: Job, /, *, name: str) -> None:
            async def named() -> None:
                try:
                    await job()
                except SystemExit as failure:  # of a library that thinks that it is a command
                    raise PluginFailedError(
                        f"the task `{name}` raised {type(failure).__name__}: {failure}"
                    ) from failure
                except Exception as failure:
                    failure.add_note(f"in the task `{name}` of the plugin `{self.plugin.name}`")
                    raise

            nursery.start_soon(named, name=f"{self.plugin.name}: {name}")

        return spawn

    def _fail(self, group: BaseExceptionGroup[BaseException], *, started: bool) -> None:
        cancelled, failures = group.split(trio.Cancelled)
        if failures is None or not issubclass(type(failures), ExceptionGroup):
            raise group
        first = _first(failures)
        if not started and isinstance(first, TestorchError):
            raise first from None
        if not started:
            where = f"`{self.plugin.name}` could not be opened"
            raise OpeningError(f"{where}: {type(first).__name__}: {first}") from first
        self.failed = True
        words = f"{type(first).__name__}: {first}"
        if isinstance(self.plugin, Reporter):
            self._log.error("reporter_failed", error=words, notes=getattr(first, "__notes__", []))
            if cancelled is not None:
                raise cancelled
            return
        raise PluginFailedError(f"plugin `{self.plugin.name}` failed: {words}") from first


@contextmanager
def single_failure() -> Iterator[None]:
    """Nurseries wrap what leaves them in groups; a group that holds one failure only is raised as that failure."""
    try:
        yield
    except BaseExceptionGroup as group:
        one: BaseException = group
        while isinstance(one, BaseExceptionGroup) and len(one.exceptions) == 1:
            one = one.exceptions[0]
        raise one from one.__cause__


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    one: BaseException = group
    while isinstance(one, BaseExceptionGroup):
        one = one.exceptions[0]
    return one


def _thread_runner(limiter: trio.CapacityLimiter | None) -> Callable[[Callable[[], Answer]], Awaitable[Answer]]:
    def in_thread(work: Callable[[], Answer]) -> Awaitable[Answer]:
        # Abandoned when cancelled: a thread that never comes back would keep the server from stopping.
        return trio.to_thread.run_sync(work, limiter=limiter, abandon_on_cancel=True)

    return in_thread
