"""The WebSocket transport on trio-websocket."""

from __future__ import annotations

from typing import ClassVar

import trio
from trio_websocket import ConnectionClosed, wrap_server_stream

from testorch_core.errors import ConnectionClosedError
from testorch_core.interfaces.transport import Handshake
from testorch_plugins.transports.listening.listener import ListeningTransport
from testorch_plugins.transports.listening.peer import Peer
from testorch_plugins.transports.listening.requests import UpgradeRequest
from testorch_plugins.transports.listening.stream import RECEIVE_BYTES, GuardedStream


class WebSocketTransport(ListeningTransport):
    """Serves WebSocket connections with trio-websocket, through its public `wrap_server_stream`.

    Under its own `serve_websocket` an exception that leaves the reader of one connection would end the whole server.
    """

    summary = "WebSocket on trio-websocket; the default"
    library: ClassVar[str] = "websocket"

    async def upgrade(
        self, stream: GuardedStream, request: UpgradeRequest, handshake: Handshake, nursery: trio.Nursery
    ) -> Peer:
        proposal = await wrap_server_stream(
            nursery,
            stream,
            # In characters, of which a message has no more than bytes: the guard counts the bytes.
            max_message_size=self.options.max_message_bytes,
            receive_buffer_size=RECEIVE_BYTES,
        )
        socket = await proposal.accept(subprotocol=request.subprotocol)
        return TrioWebSocketPeer(
            socket, stream, handshake, self.options, nursery.cancel_scope, takes_binary=self.takes_binary
        )


class TrioWebSocketPeer(Peer):
    """A connection of trio-websocket."""

    async def receive(self) -> bytes | str:
        try:
            message = await self._socket.get_message()
        except ConnectionClosed as closed:
            raise self._ended(closed) from None
        return self.checked(message)

    async def send(self, message: bytes) -> None:
        try:
            await self._socket.send_message(message.decode())
        except ConnectionClosed as closed:
            raise self._ended(closed) from None

    def _ended(self, closed: ConnectionClosed) -> ConnectionClosedError:
        reason = closed.reason
        return self.ended(None) if reason is None else self.ended(reason.code, reason.reason or "")
