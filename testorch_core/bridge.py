"""From asyncio to the core: it runs in a thread of its own, and calls cross over and back."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable
from typing import Any, Protocol, TypeVar

import trio

from testorch_core.hosting import single_failure
from testorch_core.server import Server

Answer = TypeVar("Answer")


class Caller(Protocol):
    """Calls an async function of the core from where the host is."""

    async def call(self, work: Callable[[], Awaitable[Answer]]) -> Answer: ...


class CallDirectly:
    """The host is in the core's own trio loop."""

    async def call(self, work: Callable[[], Awaitable[Answer]]) -> Answer:
        return await work()


class Bridge:
    """Runs a server's core in a thread with a trio loop, for an asyncio host.

    A call that is cancelled in asyncio is cancelled in the core too, where cancellation may do that. The thread ends
    with `stop`, which must be awaited before the asyncio loop ends.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self._loop = asyncio.get_running_loop()
        self._token: trio.lowlevel.TrioToken | None = None
        self._nursery: trio.Nursery | None = None
        self._ready: asyncio.Future[None] = self._loop.create_future()
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._is_stopping = False
        self._thread = threading.Thread(target=self._run_thread, name="testorch", daemon=True)

    async def start(self) -> None:
        """Start the thread and return when the core is ready. Raises what the core raises while it opens."""
        self._thread.start()
        try:
            await self._ready
        except BaseException:
            if not self._ended.done():  # the thread must not outlive a start that failed or was given up
                await self.stop()
            raise

    async def stop(self) -> None:
        """Drain the core and end the thread. Idempotent. Raises what the core failed with, if it did."""
        self._is_stopping = True  # before the token is looked at: a core that is only starting looks at it afterwards
        token = self._token
        if token is not None and not self._ended.done():
            with contextlib.suppress(trio.RunFinishedError):  # then it has ended by itself
                token.run_sync_soon(self._server.stop)
        await asyncio.shield(self._ended)

    async def call(self, work: Callable[[], Awaitable[Answer]]) -> Answer:
        """Run an async function in the core and return its answer in asyncio."""
        if self._token is None or self._ended.done():
            raise RuntimeError("the orchestration has been shut down")
        answer: asyncio.Future[Answer] = self._loop.create_future()
        scope = trio.CancelScope()
        token = self._token
        token.run_sync_soon(self._spawn, work, scope, answer)
        try:
            return await answer
        except asyncio.CancelledError:
            with contextlib.suppress(trio.RunFinishedError):  # then there is nothing left to cancel
                token.run_sync_soon(scope.cancel)
            raise

    def _spawn(self, work: Callable[[], Awaitable[Any]], scope: trio.CancelScope, answer: asyncio.Future[Any]) -> None:
        if self._nursery is None:
            self._settle(answer, RuntimeError("the orchestration has been shut down"), None)
            return
        self._nursery.start_soon(self._carry, work, scope, answer)

    async def _carry(
        self, work: Callable[[], Awaitable[Any]], scope: trio.CancelScope, answer: asyncio.Future[Any]
    ) -> None:
        failure: BaseException | None = RuntimeError("the orchestration was shut down during the call")
        result: Any = None
        try:
            with scope:
                result = await work()
                failure = None
        except Exception as raised:  # it belongs to the caller on the other side, not to this nursery
            failure = raised
        finally:
            self._settle(answer, failure, result)

    def _settle(self, future: asyncio.Future[Any], failure: BaseException | None, result: Any) -> None:
        def settle() -> None:
            if future.done():
                return
            if failure is not None:
                future.set_exception(failure)
            else:
                future.set_result(result)

        with contextlib.suppress(RuntimeError):  # the asyncio loop has ended: nobody is left to be told
            self._loop.call_soon_threadsafe(settle)

    def _run_thread(self) -> None:
        failure: BaseException | None = None
        try:
            with single_failure():
                trio.run(self._run)
        except BaseException as raised:  # carried to whoever awaits `start` or `stop`, whatever it is
            failure = raised
        if not self._ready.done():
            self._settle(self._ready, failure or RuntimeError("the core ended before it was ready"), None)
            failure = None
        self._settle(self._ended, failure, None)

    async def _run(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        if self._is_stopping:
            self._server.stop()
        async with trio.open_nursery() as calls:
            self._nursery = calls
            async with trio.open_nursery() as core:
                await core.start(self._server.run)
                self._settle(self._ready, None, None)
            self._nursery = None
            calls.cancel_scope.cancel()
