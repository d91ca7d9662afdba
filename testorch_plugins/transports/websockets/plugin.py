"""The WebSocket transport on the `websockets` library."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import ClassVar, Final

import trio
from websockets.exceptions import ConnectionClosed
from websockets.server import ServerProtocol
from websockets.trio.server import Server, ServerConnection
from websockets.typing import Subprotocol

from testorch_core.errors import ConnectionClosedError
from testorch_core.interfaces.transport import Handshake
from testorch_core.protocol import SUBPROTOCOL
from testorch_plugins.transports.listening.listener import ListeningTransport
from testorch_plugins.transports.listening.peer import Peer
from testorch_plugins.transports.listening.requests import UpgradeRequest
from testorch_plugins.transports.listening.stream import GuardedStream

QUEUED_FRAMES: Final = 16
"""Frames that the library may hold before it stops reading."""


class WebSocketsTransport(ListeningTransport):
    """Serves WebSocket connections with the trio server of the `websockets` library."""

    summary = "WebSocket on the `websockets` library; twice the messages a second"
    library: ClassVar[str] = "websockets"

    def __init__(self, name: str, options: object) -> None:
        super().__init__(name, options)  # type: ignore[arg-type]
        self._server = Server([], _never)

    async def upgrade(
        self, stream: GuardedStream, request: UpgradeRequest, handshake: Handshake, nursery: trio.Nursery
    ) -> Peer:
        protocol = ServerProtocol(
            select_subprotocol=_select,
            max_size=self.options.max_message_bytes,
            logger=_SILENT,
        )
        socket = ServerConnection(
            nursery,
            stream,
            protocol,
            self._server,
            ping_interval=None,
            close_timeout=self.options.close_seconds,
            max_queue=QUEUED_FRAMES,
        )
        await socket.handshake(server_header=None)
        return WebSocketsPeer(
            socket, stream, handshake, self.options, nursery.cancel_scope, takes_binary=self.takes_binary
        )


class WebSocketsPeer(Peer):
    """A connection of `websockets`."""

    async def receive(self) -> bytes | str:
        try:
            message: bytes | str = await self._socket.recv()
        except ConnectionClosed as closed:
            raise self._ended(closed) from None
        return self.checked(message)

    async def send(self, message: bytes) -> None:
        try:
            await self._socket.send(message, text=True)
        except ConnectionClosed as closed:
            raise self._ended(closed) from None

    def _ended(self, closed: ConnectionClosed) -> ConnectionClosedError:
        if closed.rcvd is not None:
            return self.ended(closed.rcvd.code, closed.rcvd.reason)
        if closed.sent is not None:
            return self.ended(closed.sent.code, closed.sent.reason)
        return self.ended(None)


def _select(protocol: ServerProtocol, offered: Sequence[Subprotocol]) -> Subprotocol | None:
    ours = Subprotocol(SUBPROTOCOL)
    return ours if ours in offered else None


async def _never(stream: trio.abc.Stream) -> None:
    raise AssertionError("the library's server is not asked to accept")


_SILENT: Final = logging.getLogger("testorch.websockets")
_SILENT.disabled = True  # whatever goes wrong on a connection is one line of the transport's own log
