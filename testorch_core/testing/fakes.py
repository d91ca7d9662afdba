"""Fakes that keep the interfaces' promises: a context for a plugin, a connection in memory, a reporter that remembers."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import orjson
import trio

from testorch_core.errors import ConnectionClosedError
from testorch_core.events import RecordedEvent
from testorch_core.interfaces.plugin import Job, PluginContext
from testorch_core.interfaces.reporter import Reporter, RunReader
from testorch_core.interfaces.transport import Connection, Handshake
from testorch_core.logs import library_log
from testorch_core.options import Options
from testorch_core.results import Result

Answer = TypeVar("Answer")

THREADS = 4


def plugin_context(
    nursery: trio.Nursery,
    *,
    folder: Path,
    read_only: bool = False,
    services: Any = None,
    authenticates: bool = False,
    log: Any = None,
) -> PluginContext:
    """What the core gives a plugin when it starts it. Background tasks go into `nursery`, which the caller cancels.

    The log is the standard `logging` logger `testorch` unless another is given, so pytest's `caplog` sees it.
    """
    limiter = trio.CapacityLimiter(THREADS)

    def spawn(job: Job, /, *, name: str) -> None:
        nursery.start_soon(job, name=name)

    def in_thread(work: Callable[[], Answer], /) -> Awaitable[Answer]:
        return trio.to_thread.run_sync(work, limiter=limiter)

    return PluginContext(
        spawn=spawn,
        in_thread=in_thread,
        folder=folder,
        log=log if log is not None else library_log(),
        read_only=read_only,
        services=services,
        authenticates=authenticates,
    )


class FakeConnection(Connection):
    """A client's connection in memory. The test is the client: it feeds messages, reads what was sent, and hangs up."""

    def __init__(self, handshake: Handshake | None = None) -> None:
        self._handshake = handshake or Handshake(address="127.0.0.1", transport="fake")
        self._to_server, self._incoming = trio.open_memory_channel[bytes | str](math.inf)
        self._outgoing, self._to_client = trio.open_memory_channel[Any](math.inf)
        self._peer_gone = False
        self.sent: list[Any] = []
        """Every message that the server has sent, decoded."""
        self.closed_with: tuple[int, str] | None = None
        """The code and the reason with which the server closed; None while it has not."""

    # The client's side.

    def feed(self, *messages: Mapping[str, Any] | bytes | str) -> None:
        """Let the client send messages: objects as JSON, anything else as it is."""
        for message in messages:
            self._to_server.send_nowait(message if isinstance(message, bytes | str) else orjson.dumps(message))

    def hang_up(self) -> None:
        """Let the client go. What it has sent is still received."""
        self._peer_gone = True
        self._to_server.close()

    async def answer(self) -> Any:
        """The next message of the server that has not been asked for yet. Raises `ConnectionClosedError` at the end."""
        try:
            return await self._to_client.receive()
        except trio.EndOfChannel:
            raise ConnectionClosedError(*(self.closed_with or ())) from None

    # The server's side.

    @property
    def handshake(self) -> Handshake:
        return self._handshake

    async def receive(self) -> bytes | str:
        try:
            return await self._incoming.receive()
        except (trio.EndOfChannel, trio.ClosedResourceError):
            raise ConnectionClosedError(*(self.closed_with or (1006,))) from None

    async def send(self, message: bytes) -> None:
        await trio.lowlevel.checkpoint()
        if self._peer_gone or self.closed_with is not None:
            raise ConnectionClosedError(*(self.closed_with or (1006,)))
        decoded = orjson.loads(message)
        self.sent.append(decoded)
        self._outgoing.send_nowait(decoded)

    async def aclose(self, code: int = 1000, reason: str = "") -> None:
        if self.closed_with is None:
            self.closed_with = (code, reason)
            self._incoming.close()
            self._outgoing.close()
        await trio.lowlevel.checkpoint()


class RecordingReporter(Reporter):
    """Remembers what it was told. `failures` are raised by the first calls, one each, which are then not remembered."""

    summary: ClassVar[str] = "remembers what it was told; for tests"

    def __init__(self, name: str = "recording", options: Any = None, *, failures: Iterable[Exception] = ()) -> None:
        super().__init__(name, options if options is not None else Options())
        self.calls: list[tuple[str, Any]] = []
        """(method, what it was about): the run's id, (run id, test id, attempt), or the events' offsets."""
        self.started = False
        self.closed = 0
        self._failures = list(failures)
        self._called = trio.Event()

    async def start(self, context: PluginContext) -> None:
        self.started = True

    async def aclose(self) -> None:
        self.closed += 1

    async def run_started(self, run: RunReader) -> None:
        await self._note("run_started", run.status.run_id)

    async def test_finished(self, run: RunReader, result: Result) -> None:
        await self._note("test_finished", (run.status.run_id, result.test_id, result.attempt))

    async def run_finished(self, run: RunReader) -> None:
        await self._note("run_finished", run.status.run_id)

    async def events(self, events: Sequence[RecordedEvent]) -> None:
        await self._note("events", [one.offset for one in events])

    async def called(self, times: int) -> None:
        """Wait until it has been told so many things."""
        while len(self.calls) < times:
            await self._called.wait()

    async def _note(self, method: str, about: Any) -> None:
        await trio.lowlevel.checkpoint()
        if self._failures:
            raise self._failures.pop(0)
        self.calls.append((method, about))
        self._called.set()
        self._called = trio.Event()
