"""The WebSocket transport on trio-websocket: listens, upgrades, and hands each connection to the core.

trio-websocket is used through its public `wrap_server_stream`, each connection in a nursery of its own behind a guard:
under a bare `serve_websocket` an exception that leaves the reader of one connection ends the whole server.
"""

from __future__ import annotations

import errno
import os
from collections import deque
from functools import partial
from typing import Any, ClassVar

import trio
from trio_websocket import WebSocketConnection, WebSocketRequest, wrap_server_stream

from testorch_core.errors import OpeningError, PluginFailedError
from testorch_core.interfaces.plugin import PluginContext
from testorch_core.interfaces.transport import Handshake, Transport
from testorch_core.options import Options
from testorch_core.protocol import SUBPROTOCOL
from testorch_plugins.transports.websocket.connection import WebSocketPeer
from testorch_plugins.transports.websocket.heard import HeardStream
from testorch_plugins.transports.websocket.options import WebSocketOptions

BACKLOG = 1024
RECEIVE_BYTES = 64 * 1024
"""What is read from the socket at once; a batch of a hundred events in one go, where the library's 4 KiB take five."""

_OUT_OF_RESOURCES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
ACCEPT_PAUSE_SECONDS = 0.1


class WebSocketTransport(Transport):
    """Serves WebSocket connections on one address."""

    summary = "WebSocket on trio-websocket; the default"
    options_type: ClassVar[type[Options]] = WebSocketOptions
    options: WebSocketOptions

    def __init__(self, name: str, options: WebSocketOptions) -> None:
        super().__init__(name, options)
        self._listeners: list[trio.SocketListener] = []
        self._addresses: tuple[str, ...] = ()
        self._open = 0
        self._peers: set[WebSocketPeer] = set()
        self._watched: deque[tuple[float, WebSocketPeer, float]] = deque()
        self._watching = trio.Event()
        self._log: Any = None

    @property
    def addresses(self) -> tuple[str, ...]:
        return self._addresses

    async def start(self, context: PluginContext) -> None:
        self._log = context.log
        try:
            self._listeners = await trio.open_tcp_listeners(self.options.port, host=self.options.host, backlog=BACKLOG)
        except (OSError, UnicodeError) as failure:
            raise OpeningError(_cannot_listen(self.options, failure)) from failure
        self._addresses = tuple(_url(listener.socket.getsockname()) for listener in self._listeners)
        for listener in self._listeners:
            context.spawn(partial(self._accept, listener, context), name="accept")
        context.spawn(partial(self._keep_alive, context), name="keep alive")

    async def stop_accepting(self) -> None:
        for listener in self._listeners:
            await listener.aclose()
        self._listeners = []

    async def aclose(self) -> None:
        with trio.CancelScope(shield=True):  # closing a listener only hands a descriptor back
            await self.stop_accepting()

    async def _accept(self, listener: trio.SocketListener, context: PluginContext) -> None:
        while True:
            try:
                stream = await listener.accept()
            except trio.ClosedResourceError:
                return
            except OSError as failure:
                if failure.errno not in _OUT_OF_RESOURCES:
                    raise
                self._log.warning("accept_failed", error=failure.strerror)
                await trio.sleep(ACCEPT_PAUSE_SECONDS)
                continue
            if self._open >= self.options.max_connections:
                self._log.warning("connection_refused", reason="max_connections", open=self._open)
                await trio.aclose_forcefully(stream)
                continue
            self._open += 1
            context.spawn(partial(self._guarded, stream), name="connection")

    async def _guarded(self, stream: trio.SocketStream) -> None:
        """Serve one connection; whatever goes wrong in it is one line of the log."""
        try:
            address = _address(stream)
            async with trio.open_nursery() as nursery:
                await self._converse(stream, address, nursery)
                nursery.cancel_scope.cancel()
        except* PluginFailedError as fatal:
            raise fatal.exceptions[0] from None
        except* Exception as failures:  # the library's reader raises whatever a hostile packet makes it trip over
            first = failures.exceptions[0]
            self._log.warning("connection_failed", error=f"{type(first).__name__}: {first}"[:200])
        finally:
            self._open -= 1
            await trio.aclose_forcefully(stream)

    async def _converse(self, stream: trio.SocketStream, address: str, nursery: trio.Nursery) -> None:
        socket: WebSocketConnection | None = None
        handshake: Handshake | None = None
        heard = HeardStream(stream)
        with trio.move_on_after(self.options.handshake_seconds):
            request = await wrap_server_stream(
                nursery,
                heard,
                max_message_size=self.options.max_message_characters,
                receive_buffer_size=RECEIVE_BYTES,
            )
            handshake = _handshake(request, address)
            offered = SUBPROTOCOL in request.proposed_subprotocols
            socket = await request.accept(subprotocol=SUBPROTOCOL if offered else None)
        if socket is None or handshake is None:
            self._log.info("connection_refused", reason="handshake took too long")
            return
        peer = WebSocketPeer(socket, heard, handshake, self.options)
        self._watch(peer)
        self._peers.add(peer)
        try:
            await self.serve(peer)
        finally:
            self._peers.discard(peer)

    def _watch(self, peer: WebSocketPeer) -> None:
        self._watched.append((trio.current_time() + self.options.ping_seconds, peer, peer.heard_at))
        self._watching.set()

    async def _keep_alive(self, context: PluginContext) -> None:
        """One task for all connections: ping those of which nothing was heard for `ping_seconds`.

        All wait equally long, so the queue is in the order of its times.
        """
        while True:
            if not self._watched:
                self._watching = trio.Event()
                await self._watching.wait()
            due, peer, heard_at = self._watched.popleft()
            await trio.sleep_until(due)
            if peer in self._peers and peer.heard_at == heard_at:
                context.spawn(partial(self._prove_alive, peer, heard_at), name="ping")
            elif peer in self._peers:
                self._watch(peer)

    async def _prove_alive(self, peer: WebSocketPeer, heard_at: float) -> None:
        await peer.prove_alive(heard_at)
        if peer in self._peers:
            self._watch(peer)


def _handshake(request: WebSocketRequest, address: str) -> Handshake:
    headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in request.headers}
    bearer = headers.get("authorization", "").split(" ", 1)
    token = bearer[1].strip() if len(bearer) == 2 and bearer[0].lower() == "bearer" else None
    return Handshake(address=address, transport="websocket", headers=headers, path=request.path, token=token)


def _address(stream: trio.SocketStream) -> str:
    try:
        return str(stream.socket.getpeername()[0])
    except OSError:  # the client has reset the connection already
        return "?"


def _url(name: Any) -> str:
    host = f"[{name[0]}]" if ":" in name[0] else name[0]
    return f"ws://{host}:{name[1]}"


def _cannot_listen(options: WebSocketOptions, failure: OSError | UnicodeError) -> str:
    place = f"`{options.host}` port {options.port}"
    code = failure.errno if isinstance(failure, OSError) else None
    if code == errno.EADDRINUSE:
        return f"can't listen on {place}: the port is in use; stop what uses it, or choose another with `--port`"
    if code == errno.EACCES:
        return f"can't listen on {place}: not permitted; ports below 1024 need privileges, choose a higher one"
    reason = os.strerror(code) if code is not None and code > 0 else str(failure)
    return f"can't listen on {place}: {reason}"
