"""One WebSocket connection, as the core sees it."""

from __future__ import annotations

import trio
from trio_websocket import ConnectionClosed, WebSocketConnection

from testorch_core.errors import ConnectionClosedError
from testorch_core.interfaces.transport import Connection, Handshake
from testorch_plugins.transports.websocket.heard import HeardStream
from testorch_plugins.transports.websocket.options import WebSocketOptions

_WITHOUT_FRAME = frozenset({1005, 1006, 1015})
"""Close codes that say how a connection ended but may not be sent."""


class WebSocketPeer(Connection):
    """Wraps a connection of trio-websocket, with time limits on everything that waits for the peer."""

    def __init__(
        self, socket: WebSocketConnection, stream: HeardStream, handshake: Handshake, options: WebSocketOptions
    ) -> None:
        self._socket = socket
        self._stream = stream
        self._handshake = handshake
        self._options = options

    @property
    def handshake(self) -> Handshake:
        return self._handshake

    @property
    def heard_at(self) -> float:
        return self._stream.heard_at

    async def receive(self) -> bytes | str:
        try:
            message = await self._socket.get_message()
        except ConnectionClosed as closed:
            reason = closed.reason
            raise ConnectionClosedError(reason.code if reason else None) from None
        return message

    async def send(self, message: bytes) -> None:
        with trio.move_on_after(self._options.send_seconds) as bound:
            try:
                await self._socket.send_message(message.decode())
            except ConnectionClosed as closed:
                raise ConnectionClosedError(closed.reason.code if closed.reason else None) from None
        if bound.cancelled_caught:  # half a frame may be out: nothing more can be said on this connection
            await trio.aclose_forcefully(self._stream)
            raise ConnectionClosedError(None, "the client reads too slowly")

    async def aclose(self, code: int = 1000, reason: str = "") -> None:
        try:
            with trio.move_on_after(self._options.close_seconds) as bound:
                bound.shield = True
                await self._socket.aclose(1000 if code in _WITHOUT_FRAME else code, reason)
        except (ConnectionClosed, trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # it is closed, which is all that was wanted
        finally:
            await trio.aclose_forcefully(self._stream)

    async def prove_alive(self, heard_at: float) -> None:
        """Ping a client of which nothing was heard since `heard_at`, and close the connection when it doesn't answer."""
        for _ in range(self._options.missed_pings):
            try:
                with trio.move_on_after(self._options.ping_seconds):
                    await self._socket.ping()
            except (ConnectionClosed, trio.BrokenResourceError, trio.ClosedResourceError):
                return
            if self.heard_at != heard_at:
                return
        await trio.aclose_forcefully(self._stream)
