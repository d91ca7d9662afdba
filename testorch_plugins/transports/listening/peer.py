"""One connection, as the core sees it, whatever library speaks WebSocket on it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import trio

from testorch_core.errors import ConnectionClosedError
from testorch_core.interfaces.transport import Connection, Handshake
from testorch_plugins.transports.listening.frames import NOT_TEXT, NOT_UTF8, PROTOCOL_ERROR, TOO_BIG, Violation
from testorch_plugins.transports.listening.options import ListeningOptions
from testorch_plugins.transports.listening.stream import GuardedStream

_WITHOUT_FRAME = frozenset({1005, 1006, 1015})
"""Close codes that say how a connection ended but may not be sent."""

_FOUND_BY_LIBRARIES = frozenset({PROTOCOL_ERROR, NOT_UTF8, TOO_BIG})


class Peer(Connection):
    """What a WebSocket library's connection (`socket`) becomes. `tasks` is the scope of the library's own tasks.

    After `aclose` nothing else runs in that scope: whoever serves the connection is at its end.
    """

    def __init__(
        self,
        socket: Any,
        stream: GuardedStream,
        handshake: Handshake,
        options: ListeningOptions,
        tasks: trio.CancelScope,
        *,
        takes_binary: bool,
    ) -> None:
        self.stream = stream
        self.on_admitted: Callable[[], None] = _nothing
        self._socket = socket
        self._takes_binary = takes_binary
        self._handshake = handshake
        self._options = options
        self._tasks = tasks
        self._is_closed = False

    @property
    def handshake(self) -> Handshake:
        return self._handshake

    @property
    def heard_at(self) -> float:
        return self.stream.heard_at

    def admitted(self) -> None:
        self.on_admitted()

    @property
    def is_closed(self) -> bool:
        return self._is_closed

    async def aclose(self, code: int = 1000, reason: str = "") -> None:
        if self._is_closed:
            await trio.lowlevel.checkpoint()
            return
        self._is_closed = True
        with trio.CancelScope(shield=True, deadline=trio.current_time() + self._options.close_seconds):
            self._tasks.cancel()  # the stream is ours again
            await trio.lowlevel.checkpoint()
            await self.stream.finish(1000 if code in _WITHOUT_FRAME else code, reason)
        await self.stream.cut()

    def let_go(self) -> None:
        """The connection has ended: keep nothing of the library's alive, which may hold half a message."""
        self._is_closed = True
        self._socket = None
        self.on_admitted = _nothing

    # For the two libraries.

    def checked(self, message: bytes | str) -> bytes | str:
        """A message as it is received. Raises `ConnectionClosedError` for a binary one."""
        if isinstance(message, str) or self._takes_binary:
            return message
        self.stream.fail(NOT_TEXT, "messages are text")
        raise self.ended(NOT_TEXT)

    def ended(self, code: int | None, reason: str = "") -> ConnectionClosedError:
        """What to raise when the library says that the connection is closed, or has found it at fault."""
        by_client = self.stream.close_seen and self.stream.close_sent  # a library answers a sound Close itself
        if code in _FOUND_BY_LIBRARIES and not by_client:
            self.stream.fail(code, "text must be UTF-8" if code == NOT_UTF8 else reason or "not the WebSocket protocol")
        verdict = self.stream.violation or Violation(code or 1006, reason)
        return ConnectionClosedError(*verdict)


def _nothing() -> None:
    pass
