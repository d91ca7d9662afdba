"""A stream that notes when anything came from the peer: a part of a message, a ping or a pong is a sign of life, too."""

from __future__ import annotations

import trio


class HeardStream(trio.abc.HalfCloseableStream):
    """Passes everything on to another stream. `heard_at` is on trio's clock."""

    def __init__(self, stream: trio.abc.HalfCloseableStream) -> None:
        self._stream = stream
        self.heard_at = trio.current_time()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        received = await self._stream.receive_some(max_bytes)
        self.heard_at = trio.current_time()
        return received

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        await self._stream.send_eof()

    async def aclose(self) -> None:
        await self._stream.aclose()
