"""The harness of the attacks bites: a server without a guard in front of its WebSocket library does not stand them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from faults.attack_agent import ATTACKS, Agent
from faults.attack_siege import Siege
from faults.broken_variants import install_plugins

pytestmark = [
    pytest.mark.slow(reason="starts a server for each attack, which takes a second"),
    pytest.mark.skipif(sys.platform != "linux", reason="reads descriptors and memory of a process from /proc"),
]

BARE = '''
"""trio-websocket's own server, as its documentation shows it, behind our interface."""
from dataclasses import dataclass
import trio
from marshmallow import fields
from trio_websocket import ConnectionClosed, WebSocketServer
from testorch_core.errors import ConnectionClosedError
from testorch_core.interfaces.transport import Connection, Handshake, Transport
from testorch_core.options import Options, option

@dataclass(frozen=True, kw_only=True)
class BareOptions(Options):
    host: str = option(fields.String(), default="127.0.0.1", help="the address to listen on")
    port: int = option(fields.Integer(), default=0, help="the port to listen on")

class BareConnection(Connection):
    def __init__(self, socket):
        self.socket = socket

    @property
    def handshake(self):
        return Handshake(address="?", transport="bare")

    async def receive(self):
        try:
            return await self.socket.get_message()
        except ConnectionClosed:
            raise ConnectionClosedError(None) from None

    async def send(self, message):
        try:
            await self.socket.send_message(message.decode())
        except ConnectionClosed:
            raise ConnectionClosedError(None) from None

    async def aclose(self, code=1000, reason=""):
        await self.socket.aclose(code, reason)

class BareTransport(Transport):
    summary = "without any guard"
    options_type = BareOptions
    addresses = ()

    async def start(self, context):
        listeners = await trio.open_tcp_listeners(self.options.port, host=self.options.host)
        self.addresses = (f"ws://127.0.0.1:{listeners[0].socket.getsockname()[1]}",)
        context.spawn(WebSocketServer(self.serve_request, listeners, max_message_size=1 << 40).run, name="serve")

    async def serve_request(self, request):
        await self.serve(BareConnection(await request.accept()))

    async def stop_accepting(self):
        pass

    async def aclose(self):
        pass
'''


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Siege]:
    """A server on trio-websocket alone."""
    install_plugins(tmp_path, monkeypatch, BARE, {"transport": {"bare": "BareTransport"}})
    agent = Agent()
    siege = Siege(tmp_path, "bare", agent, has_options=False, recovery_seconds=2.0)
    yield siege
    siege.close()
    agent.stop()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("hosts", "the server ended by itself"),
        ("connect_and_fin", "descriptors have not come back"),
        ("oversized_messages", "the server took"),
        ("empty_fragments", "not `close 1009`"),
        ("clients_that_never_read", "open`, not `http 101, cut`"),
    ],
)
def test_a_server_without_a_guard_is_caught(bare: Siege, name: str, words: str):
    violations = bare.attack(ATTACKS[name])
    assert any(words in one for one in violations), violations
