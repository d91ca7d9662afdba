"""A stream that is watched over: every byte that a WebSocket library reads or writes passes through it."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Final

import trio

from testorch_plugins.transports.listening.frames import (
    CLOSE_FRAME,
    OVERLOADED,
    TOO_SLOW,
    TOO_SLOW_TO_READ,
    FrameMeter,
    Violation,
    close_frame,
)
from testorch_plugins.transports.listening.options import ListeningOptions

RECEIVE_BYTES: Final = 64 * 1024
"""What is read from the socket at once; a batch of a hundred events in one go, where 4 KiB would take five."""

PING_FRAME: Final = b"\x89\x00"
PING_SECONDS: Final = 0.1
"""How long a ping may take over TLS; half of one that doesn't get through ends the connection."""
PONG_START: Final = b"\x8a\x80"
PONG_BYTES: Final = 6

DISCARD_BYTES: Final = 64 * 1024 * 1024
"""What a connection that is being closed may still send before it is cut."""


class PartialBytes:
    """The bytes of unfinished messages, over all connections of a transport."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0


class GuardedStream(trio.abc.HalfCloseableStream):
    """What a WebSocket library gets in place of the socket.

    The library first reads `request`, which the guard has judged and written itself, and nothing after it before
    `open`. Then the client's frames are followed by a `FrameMeter`. What violates a limit ends the stream for the
    library; `violation` says why, and `finish` tells the client. A library's `aclose` only ends its own use.
    """

    __slots__ = (
        "_begun", "_ended", "_meter", "_opened", "_options", "_over", "_partial", "_pool", "_request", "_rest", "_since",
        "_stream", "_torn", "_turn", "close_sent", "heard_at", "violation",
    )  # fmt: skip

    def __init__(
        self, stream: trio.abc.Stream, *, request: bytes, rest: bytes, options: ListeningOptions, pool: PartialBytes
    ) -> None:
        self._stream = stream
        self._request = request
        self._rest = rest
        self._options = options
        self._pool = pool
        self._meter = FrameMeter(options.frame_limits)
        self._opened: trio.Event | None = trio.Event()
        self._ended = self._over = False
        self._torn = False
        self._partial = 0
        self._since = 0.0
        self._begun = 0
        # Over TLS a ping of the keeper's and a message of the library's could meet.
        self._turn = None if isinstance(stream, trio.SocketStream) else trio.Lock()
        self.heard_at = trio.current_time()
        """When anything last came from the client, on trio's clock: a part of a message or a pong will do."""
        self.close_sent = False
        self.violation: Violation | None = None

    @property
    def close_seen(self) -> bool:
        """Whether the client has said Close."""
        return self._meter.close_seen

    def open(self) -> None:
        """The upgrade has been answered: frames may pass."""
        if self._opened is not None:
            self._opened.set()
            self._opened = None

    def fail(self, code: int, reason: str) -> None:
        """Note why the connection must be closed; the first reason counts."""
        if self.violation is None:
            self.violation = Violation(code, reason)

    # What the library calls.

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        if self._over:
            raise trio.ClosedResourceError
        if self._request:
            request, self._request = self._request, b""
            await trio.lowlevel.checkpoint()
            return request
        if self._opened is not None:
            await self._opened.wait()
        if self.violation is not None or self._ended:
            await trio.lowlevel.checkpoint()
            return b""
        if self._rest:
            data: bytes | bytearray = self._rest
            self._rest = b""
            await trio.lowlevel.checkpoint()
        else:
            data = await self._receive_in_time()
            while self._is_pong(data):
                self.heard_at = trio.current_time()
                data = await self._receive_in_time()
        return self._watched(data) if data else data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        if self._over:
            raise trio.ClosedResourceError
        await self._send(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        """The library has said all it had to say, and hears no more. The guard may still have a word."""
        self._ended = True
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        """The library has no more use for the stream. It is closed by the guard, after the last word."""
        self._over = True
        await trio.lowlevel.checkpoint()

    # What the guard calls.

    async def finish(self, code: int, reason: str) -> None:
        """Say the last word if it has not been said, and let it arrive; the library must not use the stream any more.

        Waits for the client's Close or its end: closing a socket with unread bytes would send a reset, which can destroy
        the Close on its way. The caller bounds the time, and closes by force.
        """
        verdict = self.violation or Violation(code, reason)
        if self._torn:  # half a frame is out: nothing can be said any more
            return
        try:
            if not self.close_sent:
                await self._send(close_frame(verdict))
            if self._meter.close_seen and self.violation is None:
                return
            if self.violation is not None and isinstance(self._stream, trio.abc.HalfCloseableStream):
                await self._stream.send_eof()
            await self._discard()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # the client has gone

    async def ping(self) -> None:
        """Send an empty ping, between the library's frames. None is sent where something else is on its way still."""
        if self._torn or self.close_sent or self._over:
            return
        if not isinstance(self._stream, trio.SocketStream):
            with trio.move_on_after(PING_SECONDS), suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                await self._send(PING_FRAME)
            return
        # Past trio, in one step: no task has begun a frame, and none can before this is over.
        try:
            written = os.write(self._stream.socket.fileno(), PING_FRAME)
        except OSError:  # there is no room, or the client has gone: its silence will tell
            return
        if written < len(PING_FRAME):
            await self.cut()

    async def cut(self) -> None:
        """Close by force, and give back what an unfinished message weighs. Works twice, and while being cancelled."""
        self._pool.used -= self._partial
        self._partial = 0
        with trio.CancelScope(shield=True):
            await trio.aclose_forcefully(self._stream)

    # Inside.

    async def _receive_in_time(self) -> bytes | bytearray:
        if not self._partial:
            return await self._stream.receive_some(RECEIVE_BYTES)
        with trio.move_on_at(self._since + self._options.message_seconds):
            return await self._stream.receive_some(RECEIVE_BYTES)
        self.fail(TOO_SLOW, f"a message must be sent within {self._options.message_seconds:g} s")
        return b""

    def _is_pong(self, data: bytes | bytearray) -> bool:
        """Whether this answers a ping and is nothing else, as from an idle client. The library needn't see it."""
        return len(data) == PONG_BYTES and data[:2] == PONG_START and not self._partial

    def _watched(self, data: bytes | bytearray) -> bytes | bytearray:
        """What may be passed on of the received bytes."""
        now = self.heard_at = trio.current_time()
        sound = self._meter.feed(data, now)
        partial = self._meter.partial_bytes
        if partial or self._partial:
            if not self._partial or self._meter.begun != self._begun:
                self._since, self._begun = now, self._meter.begun
            self._pool.used += partial - self._partial
            self._partial = partial
            if self._pool.used > self._pool.limit:
                self.fail(OVERLOADED, "too many unfinished messages at once")
        if self._meter.violation is not None:
            self.fail(*self._meter.violation)
            return data[:sound]
        return data

    async def _send(self, data: bytes | bytearray | memoryview) -> None:
        if self._turn is None:
            await self._send_now(data)
            return
        async with self._turn:
            await self._send_now(data)

    async def _send_now(self, data: bytes | bytearray | memoryview) -> None:
        self._torn = True
        with trio.move_on_after(self._options.send_seconds):
            await self._stream.send_all(data)
            self._torn = False
        if self._torn:
            self.fail(TOO_SLOW_TO_READ, "the client reads too slowly")
            await trio.aclose_forcefully(self._stream)
            raise trio.BrokenResourceError("the client reads too slowly")
        if data[0] == CLOSE_FRAME:
            self.close_sent = True

    async def _discard(self) -> None:
        """Read until the client has said Close or has ended its side."""
        discarded = 0
        while discarded < DISCARD_BYTES:
            data = await self._stream.receive_some(RECEIVE_BYTES)
            if not data:
                return
            discarded += len(data)
            if self.violation is None:
                self._meter.feed(data, trio.current_time())
                if self._meter.close_seen or self._meter.violation is not None:
                    return
