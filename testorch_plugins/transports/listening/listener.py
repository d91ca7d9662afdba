"""A transport that listens: it accepts, counts, judges, and lets a WebSocket library speak behind a guard."""

from __future__ import annotations

import errno
import os
from abc import abstractmethod
from contextlib import nullcontext, suppress
from functools import partial
from typing import Any, ClassVar, Final

import trio

from testorch_core.errors import OpeningError, PluginFailedError
from testorch_core.interfaces.plugin import PluginContext
from testorch_core.interfaces.transport import Handshake, Transport
from testorch_core.options import Options
from testorch_core.protocol import CLOSE_SUBPROTOCOL, SUBPROTOCOL
from testorch_plugins.transports.listening.exposure import require_protection
from testorch_plugins.transports.listening.keepalive import Keeper
from testorch_plugins.transports.listening.options import ListeningOptions, is_trusted
from testorch_plugins.transports.listening.peer import Peer
from testorch_plugins.transports.listening.places import Newcomer, Places
from testorch_plugins.transports.listening.requests import (
    EndedError,
    RejectedError,
    UpgradeRequest,
    client_address,
    handshake_of,
    judged,
    read_request,
    response,
)
from testorch_plugins.transports.listening.stream import GuardedStream, PartialBytes
from testorch_plugins.transports.listening.tls import tls_context

BACKLOG: Final = 4096
"""Connections that the system holds until they are accepted; what comes beyond is tried again after a second or three."""

ENTERING_AT_ONCE: Final = 32
"""Connections that are judged and upgraded at the same time. Each takes half a millisecond, and when thousands come at
once those that are in already must have their turns between."""

ACCEPT_PAUSE_SECONDS: Final = 0.1
DISCARD_BYTES: Final = 64 * 1024
_OUT_OF_RESOURCES: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_CAME_AND_WENT: Final = frozenset({errno.ECONNABORTED, errno.EPROTO, errno.ECONNRESET, errno.ENETDOWN, errno.EPERM})


class ListeningTransport(Transport):
    """Serves WebSocket connections on one address. A subclass names the library that speaks on them."""

    options_type: ClassVar[type[Options]] = ListeningOptions
    options: ListeningOptions
    library: ClassVar[str] = ""
    """What the core is told as the `transport` of a connection."""
    takes_binary: ClassVar[bool] = False
    """Whether binary messages are handed on; the protocol has none, but a test of the library has."""

    def __init__(self, name: str, options: ListeningOptions) -> None:
        super().__init__(name, options)
        self._listeners: list[trio.SocketListener] = []
        self._addresses: tuple[str, ...] = ()
        self.places = Places(
            total=options.max_connections,
            per_address=options.max_connections_per_address,
            newcomers=options.max_handshakes,
            seconds=options.handshake_seconds,
            hurried_seconds=options.hurried_handshake_seconds,
        )
        self._partial_bytes = PartialBytes(options.max_partial_bytes)
        self._entering = trio.CapacityLimiter(ENTERING_AT_ONCE)
        self._context: Any = None
        self._keeper: Any = None
        self._tls: Any = None

    @abstractmethod
    async def upgrade(
        self, stream: GuardedStream, request: UpgradeRequest, handshake: Handshake, nursery: trio.Nursery
    ) -> Peer:
        """Let the library answer the upgrade, its tasks in `nursery`; returns when the answer is sent."""

    @property
    def addresses(self) -> tuple[str, ...]:
        return self._addresses

    async def prepare(self, context: PluginContext) -> None:
        """Everything but listening: now streams of any kind can be served. Raises `OpeningError`."""
        self._context = context
        self._tls = await context.in_thread(partial(tls_context, self.options, context.folder))
        self._keeper = Keeper(self.options.ping_seconds, self.options.missed_pings)
        context.spawn(self._keeper.run, name="keep alive")

    async def start(self, context: PluginContext) -> None:
        await self.prepare(context)
        try:
            self._listeners = await trio.open_tcp_listeners(self.options.port, host=self.options.host, backlog=BACKLOG)
        except (OSError, UnicodeError) as failure:
            raise OpeningError(_cannot_listen(self.options, failure)) from failure
        names = [listener.socket.getsockname() for listener in self._listeners]
        require_protection(self.name, self.options, [name[0] for name in names], context)
        self._addresses = tuple(_url(self.options, name) for name in names)
        for listener in self._listeners:
            context.spawn(partial(self._accept, listener), name="accept")

    async def reload(self) -> None:
        """Take a renewed certificate. Connections that are open keep the old one, and so does everybody if it is bad."""
        if self._tls is None:
            return
        try:
            self._tls = await self._context.in_thread(partial(tls_context, self.options, self._context.folder))
            self._context.log.info("certificate_read", path=self.options.tls_certificate)
        except OpeningError as failure:
            self._context.log.error("certificate_not_read", error=str(failure))

    async def stop_accepting(self) -> None:
        for listener in self._listeners:
            await listener.aclose()
        self._listeners = []

    async def aclose(self) -> None:
        with trio.CancelScope(shield=True):  # closing a listener only hands a descriptor back
            await self.stop_accepting()

    async def _accept(self, listener: trio.SocketListener) -> None:
        port = listener.socket.getsockname()[1]
        while True:
            await self.places.room()
            try:
                stream = await listener.accept()
            except trio.ClosedResourceError:
                return
            except OSError as failure:
                if failure.errno in _OUT_OF_RESOURCES:
                    self._context.log.warning("accept_failed", error=failure.strerror)
                    await trio.sleep(ACCEPT_PAUSE_SECONDS)
                elif failure.errno not in _CAME_AND_WENT:
                    raise
                continue
            address = _address(stream)
            try:
                newcomer = self.places.take()
            except RejectedError as rejected:
                await self._turn_away(None if self._tls else stream, rejected, address, linger_seconds=0)
                await trio.aclose_forcefully(stream)
                continue
            self._context.spawn(partial(self.serve_stream, stream, address, newcomer, port), name="connection")

    async def serve_stream(self, stream: trio.abc.Stream, address: str, newcomer: Newcomer, port: int) -> None:
        """Serve one accepted connection to its end; whatever goes wrong in it is one line of the log."""
        by_proxy = is_trusted(address, self.options.proxies)
        said = stream if self._tls is None else None
        try:
            with nullcontext() if by_proxy else self.places.of(address):
                with newcomer.scope:
                    said = talk = stream if self._tls is None else await self._encrypted(stream)
                    raw, rest = await read_request(talk)
                    async with self._entering:
                        request = judged(raw, self.options, port=port)
                if newcomer.scope.cancelled_caught:
                    raise RejectedError(408, f"a request must be complete within {self.options.handshake_seconds:g} s")
                client = client_address(address, request.headers, self.options)
                with self.places.of(client) if by_proxy else nullcontext():
                    handshake = handshake_of(request, client, self.library, newcomer.scope.deadline)
                    await self._converse(talk, rest, request, handshake, newcomer)
        except RejectedError as rejected:
            self.places.let_in(newcomer)
            await self._turn_away(said, rejected, address, linger_seconds=self.options.close_seconds)
        except EndedError:
            self._context.log.debug("connection_ended", address=address)
        finally:
            self.places.give_back(newcomer)
            with trio.CancelScope(shield=True):
                await trio.aclose_forcefully(stream)

    async def _encrypted(self, stream: trio.abc.Stream) -> trio.SSLStream[Any]:
        secure = trio.SSLStream(stream, self._tls, server_side=True, https_compatible=True)
        try:
            await secure.do_handshake()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise EndedError from None
        return secure

    async def _converse(
        self, stream: trio.abc.Stream, rest: bytes, request: UpgradeRequest, handshake: Handshake, newcomer: Newcomer
    ) -> None:
        guarded = GuardedStream(
            stream, request=request.as_written(), rest=rest, options=self.options, pool=self._partial_bytes
        )
        try:
            async with trio.open_nursery() as nursery:
                async with self._entering:
                    peer = await self.upgrade(guarded, request, handshake, nursery)
                peer.on_admitted = partial(self.places.let_in, newcomer)
                guarded.open()
                await self._serve(peer, request)
                nursery.cancel_scope.cancel()
        except* PluginFailedError as fatal:
            raise fatal.exceptions[0] from None
        except* Exception as failures:  # a library's tasks raise whatever a hostile packet makes them trip over
            first = failures.exceptions[0]
            guarded.fail(1011, f"{type(first).__name__}: {first}"[:100])
        finally:
            await guarded.cut()
        if guarded.violation is not None:
            code, reason = guarded.violation
            self._context.log.info("connection_failed", address=handshake.address, close_code=code, reason=reason)

    async def _serve(self, peer: Peer, request: UpgradeRequest) -> None:
        if request.offers_only_unknown:
            await peer.aclose(CLOSE_SUBPROTOCOL, f"this server speaks {SUBPROTOCOL}")
            return
        self._keeper.watch(peer)
        try:
            await self.serve(peer)
        finally:
            peer.let_go()

    async def _turn_away(
        self, stream: trio.abc.Stream | None, rejected: RejectedError, address: str, *, linger_seconds: float
    ) -> None:
        """Say why, where that can be said, and let it arrive: a socket closed with unread bytes would send a reset."""
        self._context.log.info("connection_refused", address=address, status=rejected.status, reason=rejected.words)
        if stream is None:
            return
        with trio.move_on_after(self.options.close_seconds), suppress(trio.BrokenResourceError):
            await stream.send_all(response(rejected.status, rejected.words))
            if linger_seconds and isinstance(stream, trio.abc.HalfCloseableStream):
                await stream.send_eof()
            while linger_seconds and await stream.receive_some(DISCARD_BYTES):
                pass


def _address(stream: trio.SocketStream) -> str:
    try:
        return str(stream.socket.getpeername()[0])
    except OSError:  # the client has reset the connection already
        return "?"


def _url(options: ListeningOptions, name: Any) -> str:
    host = f"[{name[0]}]" if ":" in name[0] else name[0]
    return f"{options.scheme}://{host}:{name[1]}{options.path if options.path != '/' else ''}"


def _cannot_listen(options: ListeningOptions, failure: OSError | UnicodeError) -> str:
    place = f"`{options.host}` port {options.port}"
    code = failure.errno if isinstance(failure, OSError) else None
    if code == errno.EADDRINUSE:
        return f"can't listen on {place}: the port is in use; stop what uses it, or choose another with `--port`"
    if code == errno.EACCES:
        return f"can't listen on {place}: not permitted; ports below 1024 need privileges, choose a higher one"
    reason = os.strerror(code) if code is not None and code > 0 else str(failure)
    return f"can't listen on {place}: {reason}"
