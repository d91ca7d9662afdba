"""The server: plugins, orchestrator and sessions put together, started in order and stopped in reverse."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, cast

import trio

from testorch_core.config import Configuration, construct
from testorch_core.gate import Gate
from testorch_core.hosting import PLUGIN_THREADS, HostedPlugin, single_failure
from testorch_core.interfaces.plugin import Plugin
from testorch_core.interfaces.reporter import Reporter
from testorch_core.interfaces.security import SecurityPolicy
from testorch_core.interfaces.storage import EventStore
from testorch_core.interfaces.transport import Connection, Transport
from testorch_core.orchestrator import Orchestrator
from testorch_core.session import Session

Answer = TypeVar("Answer")


class Server:
    """One process's server. Constructing it imports the plugins and checks every option, and opens nothing.

    Raises `ConfigurationError`. `run` serves until `stop`, then drains: no new connections; what has arrived is
    committed and answered; reporters catch up; plugins close in the reverse of the order in which they were started.
    """

    def __init__(self, configuration: Configuration, *, log: Any) -> None:
        self._configuration = configuration
        self._options = configuration.server
        self._log = log
        plugins = construct(configuration)
        self.store = cast(EventStore, plugins.storage)
        self._policies = cast("tuple[SecurityPolicy, ...]", plugins.security)
        self._reporters = cast("tuple[Reporter, ...]", plugins.reporters)
        self._transports = cast("tuple[Transport, ...]", plugins.transports)
        self._hosted: list[HostedPlugin] = []
        self._sessions: set[Session] = set()
        self._last_session_gone = trio.Event()
        self._stopping = trio.Event()
        self.orchestrator = Orchestrator(
            self.store, gate=Gate(self._policies, log=log), reporters=self._reporters, options=self._options, log=log
        )

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where clients connect, as URLs, once `run` has reported that it started."""
        return tuple(address for transport in self._transports for address in transport.addresses)

    def stop(self) -> None:
        """Begin to drain. Works twice, and before `run`."""
        self._stopping.set()

    async def reload(self) -> None:
        """Let every plugin read again what comes from files, such as certificates. The configuration stays as it is."""
        for hosted in self._hosted:
            await hosted.reload()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until `stop`. Raises `OpeningError` for what can't be opened, `PluginFailedError` for what can't go on.

        When cancelled, plugins are closed within their bounds, and what was not yet committed is lost unanswered.
        """
        with single_failure():
            await self._run(task_status)

    async def _run(self, task_status: trio.TaskStatus[None]) -> None:
        async with trio.open_nursery() as plugins:
            for plugin in (self.store, *self._policies, *self._reporters):
                await self._start(plugins, plugin)
            async with trio.open_nursery() as core:
                await core.start(self.orchestrator.run)
                for transport in self._transports:
                    transport.serve = self.serve_connection
                    await self._start(plugins, transport)
                task_status.started()
                await self._stopping.wait()
                await self._drain()
                core.cancel_scope.cancel()
            for hosted in reversed(self._hosted):
                await hosted.close()
            plugins.cancel_scope.cancel()

    async def _start(self, nursery: trio.Nursery, plugin: Plugin) -> None:
        hosted = HostedPlugin(plugin, close_seconds=self._options.close_seconds, log=self._log)
        self._hosted.append(hosted)
        await nursery.start(lambda task_status: hosted.run(
            folder=self._configuration.folder,
            authenticates=any(policy.authenticates for policy in self._policies),
            limiter=trio.CapacityLimiter(PLUGIN_THREADS),
            task_status=task_status,
        ))  # fmt: skip

    async def serve_connection(self, connection: Connection) -> None:
        """Serve one connection to its end; what transports call, and whoever brings a connection of its own."""
        session = Session(self.orchestrator, connection)
        self._sessions.add(session)
        if self._stopping.is_set():
            session.drain()
        try:
            await session.serve()
        finally:
            self._sessions.discard(session)
            if not self._sessions:
                self._last_session_gone.set()

    async def _drain(self) -> None:
        for transport in self._transports:
            await transport.stop_accepting()
        with trio.move_on_after(self._options.drain_seconds) as bound:
            for session in list(self._sessions):
                session.drain()
            while self._sessions:
                self._last_session_gone = trio.Event()
                await self._last_session_gone.wait()
        if bound.cancelled_caught:
            self._log.warning("drain_timed_out", sessions=len(self._sessions))
        await self.orchestrator.drain(self._options.drain_seconds)


async def with_store(
    configuration: Configuration, work: Callable[[EventStore], Awaitable[Answer]], *, log: Any
) -> Answer:
    """Open the configured store for reading, beside a running server if there is one, do the work, close it.

    Raises `ConfigurationError`, `OpeningError`, and what the work raises.
    """
    store = cast(EventStore, construct(configuration.only_storage()).storage)
    hosted = HostedPlugin(store, close_seconds=configuration.server.close_seconds, log=log)
    with single_failure():
        async with trio.open_nursery() as nursery:
            await nursery.start(lambda task_status: hosted.run(
                folder=configuration.folder, read_only=True, task_status=task_status
            ))  # fmt: skip
            try:
                return await work(store)
            finally:
                await hosted.close()
