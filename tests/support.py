"""What several test modules need: a server in this process, and clients that speak the plain conversation."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio
from trio_websocket import WebSocketConnection, open_websocket_url

from testorch_core.config import Configuration, configuration_of
from testorch_core.errors import ConnectionClosedError
from testorch_core.interfaces.transport import Connection, Handshake
from testorch_core.logs import library_log
from testorch_core.server import Server

MEMORY: Mapping[str, Any] = {"storage": {"use": "memory"}, "security": {"events": {"use": "event_validation"}}}
SOCKET: Mapping[str, Any] = {"transports": {"main": {"use": "websocket", "port": 0}}}


def configured(tables: Mapping[str, Any], folder: Path | None = None) -> Configuration:
    return configuration_of(tables, source="test", folder=folder or Path.cwd())


@asynccontextmanager
async def running(tables: Mapping[str, Any], folder: Path | None = None) -> AsyncIterator[Server]:
    """A server that runs within the block and is drained after it. Entered and left in one task, as tests are."""
    server = Server(configured(tables, folder), log=library_log())
    async with trio.open_nursery() as nursery:
        await nursery.start(server.run)
        yield server
        server.stop()


class Client:
    """A plain client in memory: what a session sees of a connection, and what a test does with it."""

    def __init__(self, server: Server) -> None:
        self.connection = MemoryConnection()
        self._server = server
        self._count = 0

    async def serve(self) -> None:
        await self._server.serve_connection(self.connection)

    def send(self, kind: str, payload: Any = None, **top: Any) -> None:
        self.connection.feed(json.dumps({"type": kind, "payload": payload, **top}))

    def event(self, kind: str, *, id: str | None = None, runId: str | None = None, **payload: Any) -> str:
        self._count += 1
        event_id = id or f"e{self._count}"
        run = {"runId": runId} if runId else {}
        self.send("event", {"id": event_id, "type": kind, "timestamp": 5, "payload": payload, **run})
        return event_id

    async def receive(self) -> Any:
        with trio.fail_after(10):
            return json.loads(await self.connection.sent.receive())

    async def ask(self, kind: str, payload: Any = None) -> Any:
        """The payload of a request's answer; errors come back whole."""
        self.send(kind, payload)
        answer = await self.receive()
        return answer if answer["type"] == "error" else answer["payload"]

    def leave(self) -> None:
        self.connection.hang_up()


class MemoryConnection(Connection):
    """A connection whose other end is a test."""

    def __init__(self) -> None:
        self._feed, self._fed = trio.open_memory_channel[bytes | str](1000)
        self._sending, self.sent = trio.open_memory_channel[bytes](1000)
        self.closed: tuple[int, str] | None = None

    def feed(self, raw: bytes | str) -> None:
        self._feed.send_nowait(raw)

    def hang_up(self) -> None:
        self._feed.close()

    @property
    def handshake(self) -> Handshake:
        return Handshake(address="memory", transport="memory")

    async def receive(self) -> bytes | str:
        try:
            return await self._fed.receive()
        except trio.EndOfChannel:
            raise ConnectionClosedError(1000) from None

    async def send(self, message: bytes) -> None:
        await self._sending.send(message)

    async def aclose(self, code: int = 1000, reason: str = "") -> None:
        if self.closed is None:
            self.closed = (code, reason)
            self._sending.close()


@asynccontextmanager
async def clients(server: Server, count: int = 1) -> AsyncIterator[list[Client]]:
    """Some clients that are connected within the block and hang up after it."""
    made = [Client(server) for _ in range(count)]
    async with trio.open_nursery() as nursery:
        for client in made:
            nursery.start_soon(client.serve)
        yield made
        for client in made:
            client.leave()


@asynccontextmanager
async def socket_client(server: Server) -> AsyncIterator[WebSocketConnection]:
    async with open_websocket_url(server.addresses[0]) as connection:
        yield connection


async def say(connection: WebSocketConnection, kind: str, payload: Any = None, **top: Any) -> None:
    await connection.send_message(json.dumps({"type": kind, "payload": payload, **top}))


async def hear(connection: WebSocketConnection) -> Any:
    with trio.fail_after(10):
        return json.loads(await connection.get_message())
