"""The WebSocket transport over real sockets: one bad connection is one line of the log, and nothing else."""

import json
import socket
import struct
from typing import Any

import pytest
import trio
from support import MEMORY, hear, running, say, socket_client
from trio_websocket import ConnectionClosed, open_websocket_url

from testorch_core.server import Server

SERVER = {**MEMORY, "transports": {"main": {"use": "websocket", "port": 0}}}
UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: %s\r\nUpgrade: websocket\r\nConnection: %s\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


def with_options(**options: Any) -> dict[str, Any]:
    return {**SERVER, "transports": {"main": {"use": "websocket", "port": 0, **options}}}


async def raw(server: Server) -> trio.SocketStream:
    host, port = server.addresses[0].removeprefix("ws://").rsplit(":", 1)
    return await trio.open_tcp_stream(host, int(port))


async def _ends(stream: trio.SocketStream) -> bool:
    """Whether the server ends the connection, politely or not, without a word."""
    try:
        return await stream.receive_some() == b""
    except trio.BrokenResourceError:
        return True


async def canary(server: Server) -> None:
    """A client that must be answered whatever others have done."""
    with trio.fail_after(5):
        async with socket_client(server) as client:
            await say(client, "getActiveRuns")
            assert (await hear(client))["type"] == "activeRuns"


@pytest.mark.parametrize(
    "hostile",
    [
        b"",
        b"nonsense\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        UPGRADE % (b"\xff\xfe", b"Upgrade"),
        UPGRADE % (b"xn--\xc3\xa9", b"Upgrade"),
        UPGRADE % (b"localhost", b"Upgr\xe9de"),
        UPGRADE % (b"localhost", b"keep-alive"),
        (UPGRADE % (b"localhost", b"Upgrade")) + b"\x00" * 64,
        (UPGRADE % (b"localhost", b"Upgrade")) + b"\xff" * 64,
        (UPGRADE % (b"localhost", b"Upgrade")) + b"\x81\xfe\xff\xff",
    ],
    ids=["nothing", "garbage", "a TLS hello", "bytes in Host", "bad IDNA", "bytes in Connection", "no upgrade", "zeros",
         "reserved bits", "half a frame"],
)  # fmt: skip
@pytest.mark.parametrize("ending", ["closes", "resets"])
async def test_a_hostile_packet_harms_nobody_else(hostile: bytes, ending: str):
    """P5: the next client is answered."""
    async with running(SERVER) as server:
        for _ in range(3):
            stream = await raw(server)
            if hostile:
                await stream.send_all(hostile)
            if ending == "resets":
                stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            await trio.aclose_forcefully(stream)
        await canary(server)


async def test_the_subprotocol_is_chosen_when_it_is_offered_and_not_needed():
    async with running(SERVER) as server:
        async with open_websocket_url(server.addresses[0], subprotocols=["other", "testorch.v1.json"]) as client:
            assert client.subprotocol == "testorch.v1.json"
        async with open_websocket_url(server.addresses[0]) as client:
            assert client.subprotocol is None
            await say(client, "getActiveRuns")
            assert (await hear(client))["payload"] == []


async def test_a_large_message_is_refused_and_a_far_larger_one_closes_the_connection():
    """P7: a message has a size."""
    tables = {**with_options(max_message_characters=4096), "server": {"max_message_bytes": 1024}}
    async with running(tables) as server, socket_client(server) as client:
        await client.send_message(json.dumps("x" * 2000))
        assert (await hear(client))["payload"]["code"] == "too_large"
        await say(client, "getActiveRuns")
        assert (await hear(client))["payload"] == []
        await client.send_message(json.dumps("x" * 5000))
        with pytest.raises(ConnectionClosed) as closed:
            await hear(client)
        assert closed.value.reason.code == 1009
        await canary(server)


async def test_connections_over_the_limit_are_turned_away_and_room_is_made_again():
    """P7: connections have a number."""
    async with running(with_options(max_connections=1)) as server:
        async with socket_client(server) as first:
            stream = await raw(server)
            with trio.fail_after(5):
                assert await _ends(stream)
            await say(first, "getActiveRuns")
            assert (await hear(first))["type"] == "activeRuns"
        (transport,) = server._transports
        with trio.fail_after(5):
            while transport._open:  # the first client's place is given back when its session has ended
                await trio.lowlevel.checkpoint()
        await canary(server)


async def test_a_client_that_never_finishes_its_handshake_is_let_go():
    async with running(with_options(handshake_seconds=0.05)) as server:
        stream = await raw(server)
        await stream.send_all(b"GET / HTTP/1.1\r\n")
        with trio.fail_after(5):
            assert await stream.receive_some() == b""


async def test_a_silent_client_that_answers_no_pings_is_let_go():
    async with running(with_options(ping_seconds=0.05, missed_pings=2)) as server:
        stream = await raw(server)
        await stream.send_all(UPGRADE % (b"localhost", b"Upgrade"))
        with trio.fail_after(5):
            try:
                while await stream.receive_some():
                    pass  # the upgrade's answer and the pings
            except trio.BrokenResourceError:
                pass
        await canary(server)


async def test_a_stopping_server_tells_its_clients_that_it_restarts():
    async with running(SERVER) as server, socket_client(server) as client:
        await say(client, "startTestRun", {"runId": "r"})
        await hear(client)
        server.stop()
        with pytest.raises(ConnectionClosed) as closed:
            await hear(client)
        assert closed.value.reason.code == 1012
