"""The server: plugins, orchestrator and sessions put together, started in order and stopped in reverse."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar, cast

import orjson
import trio

from testorch_core.config import Configuration, construct
from testorch_core.door import Door
from testorch_core.errors import UsageError
from testorch_core.events import AUDIT_ADMINISTRATION
from testorch_core.gate import Gate
from testorch_core.hosting import PLUGIN_THREADS, HostedPlugin, single_failure
from testorch_core.interfaces.plugin import Plugin, Services
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
        self.sessions_ended = 0
        self._last_session_gone = trio.Event()
        self._stopping = trio.Event()
        self._door: Door | None = None
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
        try:
            with single_failure():
                await self._run(task_status)
        finally:
            if self._door is not None:
                self._door.close()

    async def _run(self, task_status: trio.TaskStatus[None]) -> None:
        async with trio.open_nursery() as plugins:
            for plugin in (self.store, *self._policies, *self._reporters):
                await self._start(plugins, plugin)
            async with trio.open_nursery() as core:
                await core.start(self.orchestrator.run)
                for transport in self._transports:
                    transport.serve = self.serve_connection
                    await self._start(plugins, transport)
                await self._open_door(core)
                if self.orchestrator.gate.authenticates:
                    core.start_soon(self._recheck)
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
            services=None if plugin is self.store else Services(documents=self.store.documents(plugin.name)),
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
            self.sessions_ended += 1
            if not self._sessions:
                self._last_session_gone.set()

    async def administer(
        self, operation: str, arguments: Mapping[str, Any], *, instance: str | None = None
    ) -> Mapping[str, Any]:
        """Have a plugin do something for an administrator. Raises `UsageError` where none can."""
        able = [
            hosted.plugin
            for hosted in self._hosted
            if operation in hosted.plugin.operations and instance in (None, hosted.plugin.name)
        ]
        if len(able) != 1:
            found = "several can: name one with `--instance`" if able else "no configured plugin can"
            names = ", ".join(f"`{one.name}`" for one in able)
            raise UsageError(f"`{operation}`: {found}" + (f" ({names})" if names else ""))
        answer = await able[0].administer(operation, arguments)
        about = answer.get("id") or answer.get("name")
        self.orchestrator.audit.note(AUDIT_ADMINISTRATION, operation=operation, plugin=able[0].name, about=about)
        return answer

    async def _open_door(self, nursery: trio.Nursery) -> None:
        """Let commands beside this server be heard, if there is anything to say and the store can leave them word."""
        if not any(hosted.plugin.operations for hosted in self._hosted):
            return

        async def administer(operation: str, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
            instance = arguments.get("instance")
            return await self.administer(operation, arguments, instance=instance)

        self._door = Door(administer, self._log)
        await nursery.start(self._door.serve)
        await self.store.leave_word(orjson.dumps(self._door.word).decode())

    async def _recheck(self) -> None:
        """Look at the credentials of those who are connected, since who is silent is not asked otherwise."""
        while True:
            await trio.sleep(self._options.recheck_seconds)
            for session in list(self._sessions):
                session.recheck()

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
