"""The WebSocket transports over real sockets: one bad connection is one line of the log, and nothing else."""

import json
import shutil
import socket
import ssl
import struct
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from support import MEMORY, hear, running, say, socket_client
from transports.wire import BINARY, CLOSE, PING, Wire, frame, message, upgrade
from trio_websocket import ConnectionClosed, open_websocket_url

from testorch_core.errors import OpeningError
from testorch_core.server import Server

TLS_HELLO = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"


@pytest.fixture(params=["websocket", "websockets"])
def transport(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def tables(transport: str, **options: Any) -> dict[str, Any]:
    return {**MEMORY, "transports": {"main": {"use": transport, "port": 0, "close_seconds": 0.5, **options}}}


async def connect(server: Server) -> Wire:
    host, port = server.addresses[0].split("://")[1].rsplit(":", 1)
    return Wire(await trio.open_tcp_stream(host, int(port)))


@asynccontextmanager
async def wire(server: Server) -> AsyncIterator[Wire]:
    client = await connect(server)
    try:
        with trio.fail_after(10):
            yield client
    finally:
        await trio.aclose_forcefully(client.stream)


async def canary(server: Server) -> None:
    """A client that must be answered whatever others have done."""
    with trio.fail_after(5):
        async with socket_client(server) as client:
            await say(client, "getActiveRuns")
            assert (await hear(client))["type"] == "activeRuns"


async def all_gone(server: Server) -> None:
    """Wait until the transport has given back every connection."""
    (transport,) = server._transports
    with trio.fail_after(10):
        while transport.places.open:  # noqa: ASYNC110 - places have no event of their own
            await trio.sleep(0.001)
    assert transport._partial_bytes.used == 0
    assert not transport.places._newcomers
    assert not transport.places._by_address


def reset(client: Wire) -> None:
    client.stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@pytest.mark.parametrize(
    "hostile",
    [
        b"",
        b"nonsense\r\n\r\n",
        TLS_HELLO,
        upgrade(Host="\xff\xfe"),
        upgrade(Host="xn--\xc3\xa9"),
        upgrade(Connection="Upgr\xe9de"),
        upgrade(Connection="keep-alive"),
        upgrade() + b"\x00" * 64,
        upgrade() + b"\xff" * 64,
        upgrade() + b"\x81\xfe\xff\xff",
    ],
    ids=["nothing", "garbage", "a TLS hello", "bytes in Host", "bad IDNA", "bytes in Connection", "no upgrade", "zeros",
         "reserved bits", "half a frame"],
)  # fmt: skip
@pytest.mark.parametrize("ending", ["closes", "resets"])
async def test_a_hostile_packet_harms_nobody_else(transport: str, hostile: bytes, ending: str):
    """P5: the next client is answered, and nothing is left of those before it."""
    async with running(tables(transport)) as server:
        for _ in range(3):
            client = await connect(server)
            if hostile:
                await client.send(hostile)
            if ending == "resets":
                reset(client)
            await trio.aclose_forcefully(client.stream)
        await canary(server)
        await all_gone(server)


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"nonsense", 400),
        (TLS_HELLO, 400),
        (upgrade(Host="\xff"), 400),
        (upgrade("/elsewhere"), 404),
        (upgrade(Upgrade=None), 426),
        (upgrade(Origin="https://evil.example"), 403),
        (b"GET / HTTP/1.1\r\nX: " + b"x" * 20_000, 431),
        (b"GET / HTTP/1.1\r\nHost: a\n\n", 408),
    ],
)
async def test_who_is_turned_away_is_told_why_and_let_go(transport: str, request_bytes: bytes, status: int):
    async with running(tables(transport, handshake_seconds=0.2)) as server:
        async with wire(server) as client:
            await client.send(request_bytes)
            found, head = await client.head()
            assert found == status
            assert "connection: close" in head.lower()
            assert await client.ended()
        await all_gone(server)


async def test_a_refused_client_that_stays_is_let_go(transport: str):
    """P7: a place is not held by who has no business here."""
    async with running(tables(transport, close_seconds=0.05)) as server, wire(server) as client:
        await client.send(upgrade("/elsewhere"))
        await all_gone(server)


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        (frame(b"{}", masked=False), 1002),
        (frame(b"{}", reserved=4), 1002),
        (frame(b"{}", 0x3), 1002),
        (frame(b"{}", 0x0), 1002),
        (frame(b"a", fin=False) + frame(b"b"), 1002),
        (frame(b"x" * 126, PING), 1002),
        (frame(b"\x03", CLOSE), 1002),
        (frame(b"\x03\xed", CLOSE), 1002),
        (frame(b"{}", BINARY), 1003),
        (frame(b"\xff\xfe"), 1007),
        (frame(b"\xc3", fin=False) + frame(b"(", 0x0), 1007),
        (frame(b"\x03\xe8\xff", CLOSE), 1007),
        (frame(b"x" * 5000)[:100], 1009),
        (frame(b"", fin=False) + frame(b"", 0x0, fin=False) * 100, 1009),
        (frame(b"", PING) * 100, 4429),
    ],
    ids=["unmasked", "a reserved bit", "a reserved opcode", "a continuation of nothing", "interleaved", "a long ping",
         "half a close code", "a close code that may not be sent", "binary", "not UTF-8", "not UTF-8 in two",
         "a close reason that is not UTF-8", "too long", "too many fragments", "too many pings"],
)  # fmt: skip
async def test_a_violation_is_answered_with_its_close_code(transport: str, frames: bytes, code: int):
    """P5, P7: the client is told, the others are not disturbed, and nothing is left."""
    limits = {"max_message_bytes": 4096, "max_fragments": 50, "max_control_frames": 50}
    async with running(tables(transport, **limits)) as server:
        async with wire(server) as client:
            await client.upgraded()
            await client.send(frames)
            assert await client.close_code() == code
            await canary(server)
        await all_gone(server)


async def test_what_came_before_a_violation_is_taken(transport: str):
    async with running(tables(transport)) as server, wire(server) as client:
        await client.upgraded()
        await client.send(message("startTestRun", {"runId": "r"}) + message("getRunStatus", {"runId": "r"}))
        assert (await client.answer())["type"] == "testRunStarted"
        assert (await client.answer())["payload"]["runId"] == "r"
        event = {"id": "1", "type": "test/end", "timestamp": 1, "payload": {"testId": "t", "status": "passed"}}
        await client.send(message("event", event) + frame(b"x", 0x3))
        assert await client.close_code() == 1002
        status = await server.orchestrator.query_run("default", "r")
        assert status.counts["passed"] == 1


async def test_a_close_is_answered_with_its_own_code(transport: str):
    async with running(tables(transport)) as server:
        async with wire(server) as client:
            await client.upgraded()
            await client.send(frame(b"\x0f\xa1bye", CLOSE))
            assert await client.close_code() == 4001
            assert await client.ended()
        await all_gone(server)


async def test_a_ping_while_the_server_closes_is_no_harm(transport: str):
    """trio-websocket's reader falls over a ping after its own Close."""
    async with running(tables(transport)) as server, wire(server) as client:
        await client.upgraded()
        server.stop()
        assert await client.close_code() == 1012
        await client.send(frame(b"hello", PING) * 3 + frame(b"x" * 100_000) + frame(b"\x03\xe8", CLOSE))
        assert await client.ended()


async def test_the_subprotocol_is_chosen_when_it_is_offered_and_not_needed(transport: str):
    async with running(tables(transport)) as server:
        async with open_websocket_url(server.addresses[0], subprotocols=["other", "testorch.v1.json"]) as client:
            assert client.subprotocol == "testorch.v1.json"
        async with open_websocket_url(server.addresses[0], subprotocols=["other"]) as client:
            assert client.subprotocol is None
            await say(client, "getActiveRuns")
            assert (await hear(client))["payload"] == []


async def test_a_client_of_another_version_is_told_which_one_is_spoken(transport: str):
    async with running(tables(transport)) as server, wire(server) as client:
        await client.upgraded(Sec_WebSocket_Protocol="testorch.v9.json")
        assert await client.close_code() == 4406


async def test_a_large_message_is_refused_and_a_far_larger_one_closes_the_connection(transport: str):
    """P7: a message has a size, in bytes."""
    limits = {**tables(transport, max_message_bytes=4096), "server": {"max_message_bytes": 1024}}
    async with running(limits) as server, wire(server) as client:
        await client.upgraded()
        await client.send(frame(json.dumps("é" * 600, ensure_ascii=False).encode()))
        assert (await client.answer())["payload"]["code"] == "too_large"
        await client.send(message("getActiveRuns"))
        assert (await client.answer())["payload"] == []
        await client.send(frame("é".encode() * 2049)[:300])
        assert await client.close_code() == 1009


async def test_a_close_after_too_much_is_heard_by_a_client_that_goes_on_sending(transport: str):
    """A socket that is closed with unread bytes sends a reset, and the reset takes the Close with it."""
    async with running(tables(transport, max_message_bytes=4096)) as server, wire(server) as client:
        await client.upgraded()
        await client.send(frame(b"x" * 1_000_000))
        assert await client.close_code() == 1009


async def test_connections_over_the_limit_are_turned_away_and_room_is_made_again(transport: str):
    """P7: connections have a number."""
    async with running(tables(transport, max_connections=1)) as server:
        async with wire(server) as first:
            await first.upgraded()
            async with wire(server) as second:
                assert (await second.head())[0] == 503
                assert await second.ended()
            await first.send(message("getActiveRuns"))
            assert (await first.answer())["type"] == "activeRuns"
        await all_gone(server)
        await canary(server)


async def test_connections_of_one_address_have_a_number(transport: str):
    async with running(tables(transport, max_connections_per_address=1)) as server:
        async with wire(server) as first, wire(server) as second:
            await first.upgraded()
            await second.send(upgrade())
            assert (await second.head())[0] == 429
        await all_gone(server)


async def test_behind_a_proxy_the_client_s_own_address_counts(transport: str):
    proxied = tables(transport, max_connections_per_address=1, trusted_proxies=["127.0.0.1"])
    async with running(proxied) as server:
        async with wire(server) as first, wire(server) as other, wire(server) as second:
            await first.upgraded(X_Forwarded_For="203.0.113.1")
            await other.upgraded(X_Forwarded_For="203.0.113.2")
            await second.send(upgrade(X_Forwarded_For="203.0.113.1"))
            assert (await second.head())[0] == 429
        await all_gone(server)


async def test_the_slowest_newcomer_makes_room_for_the_next(transport: str):
    """P5: who is slow on purpose keeps nobody out for long."""
    few = tables(transport, max_handshakes=3, handshake_seconds=60, hurried_handshake_seconds=0.05)
    async with running(few) as server:
        slow = [await connect(server) for _ in range(6)]
        for client in slow:
            await client.send(b"GET / HT")
        await canary(server)
        assert (await slow[0].head())[0] == 408
        for client in slow:
            await trio.aclose_forcefully(client.stream)
        await all_gone(server)


async def test_a_silent_client_that_answers_no_pings_is_let_go(transport: str):
    async with running(tables(transport, ping_seconds=0.05, missed_pings=2)) as server, wire(server) as client:
        await client.upgraded()
        assert (await client.frame()).opcode == PING
        assert await client.ended()
        await all_gone(server)


async def test_a_client_that_never_reads_is_cut(transport: str):
    """P5, P7: what it doesn't read is not kept for it."""
    async with running(tables(transport, send_seconds=0.1)) as server, wire(server) as client:
        await client.upgraded()
        await client.send(message("startTestRun", {"runId": "r", "metadata": {"x": "y" * 100_000}}))
        questions = message("getRunStatus", {"runId": "r"}) * 100_000
        with pytest.raises(trio.BrokenResourceError):
            await client.send(questions)
        await all_gone(server)


async def test_a_message_that_is_never_finished_ends_the_connection(transport: str):
    async with running(tables(transport, message_seconds=0.1)) as server, wire(server) as client:
        await client.upgraded()
        await client.send(frame(b"x" * 1000)[:-1])
        assert await client.close_code() == 4408


async def test_unfinished_messages_have_a_size_over_all_connections(transport: str):
    async with running(tables(transport, max_partial_bytes=50_000)) as server:
        async with wire(server) as first, wire(server) as second:
            await first.upgraded()
            await second.upgraded()
            await first.send(frame(b"x" * 40_000)[:-1])
            (served,) = server._transports
            while served._partial_bytes.used < 40_000 - 1:  # noqa: ASYNC110 - nor has this
                await trio.sleep(0.001)
            await second.send(frame(b"x" * 40_000)[:-1])
            assert await second.close_code() == 1013
        await all_gone(server)


async def test_a_stopping_server_tells_its_clients_that_it_restarts(transport: str):
    async with running(tables(transport)) as server, socket_client(server) as client:
        await say(client, "startTestRun", {"runId": "r"})
        await hear(client)
        server.stop()
        with pytest.raises(ConnectionClosed) as closed:
            await hear(client)
        assert closed.value.reason.code == 1012


# TLS.


def certificate(folder: Path, name: str, *, common_name: str = "localhost") -> None:
    """A self-signed certificate and its key, `NAME.pem` and `NAME.key`."""
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-days",
        "2",
    ]
    command += ["-keyout", f"{name}.key", "-out", f"{name}.pem", "-subj", f"/CN={common_name}"]
    command += ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)


needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="certificates are made with openssl")


def encrypted(transport: str, **options: Any) -> dict[str, Any]:
    return tables(transport, tls_certificate="a.pem", tls_key="a.key", **options)


async def secure(server: Server, folder: Path, **context_facts: Any) -> Wire:
    context = ssl.create_default_context(cafile=str(folder / "a.pem"))
    for name, value in context_facts.items():
        setattr(context, name, value)
    plain = await connect(server)
    stream = trio.SSLStream(plain.stream, context, server_hostname="localhost", https_compatible=True)
    try:
        await stream.do_handshake()
    except trio.BrokenResourceError:
        await trio.aclose_forcefully(stream)
        raise
    return Wire(stream)


@needs_openssl
async def test_tls_is_spoken_with_a_certificate(transport: str, tmp_path: Path):
    certificate(tmp_path, "a")
    async with running(encrypted(transport), tmp_path) as server:
        assert server.addresses[0].startswith("wss://")
        client = await secure(server, tmp_path)
        await client.upgraded(Origin="https://localhost:" + server.addresses[0].rsplit(":", 1)[1])
        await client.send(message("getActiveRuns"))
        assert (await client.answer())["type"] == "activeRuns"
        await client.send(frame(b"x", 0x3))
        assert await client.close_code() == 1002
        await trio.aclose_forcefully(client.stream)
        await all_gone(server)


@needs_openssl
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # what is old is named on purpose
async def test_old_tls_is_not_spoken(transport: str, tmp_path: Path):
    certificate(tmp_path, "a")
    async with running(encrypted(transport), tmp_path) as server:
        with pytest.raises(trio.BrokenResourceError):
            await secure(
                server, tmp_path, minimum_version=ssl.TLSVersion.TLSv1_1, maximum_version=ssl.TLSVersion.TLSv1_1
            )
        await all_gone(server)


@needs_openssl
@pytest.mark.parametrize("hello", [b"", TLS_HELLO, upgrade(), b"\xff" * 100])
async def test_who_never_finishes_tls_is_let_go(transport: str, tmp_path: Path, hello: bytes):
    certificate(tmp_path, "a")
    async with running(encrypted(transport, handshake_seconds=0.2), tmp_path) as server, wire(server) as client:
        await client.send(hello)
        await all_gone(server)
        assert await client.ended()


@needs_openssl
async def test_a_renewed_certificate_is_taken_and_a_bad_one_is_not(transport: str, tmp_path: Path):
    certificate(tmp_path, "a", common_name="old")
    async with running(encrypted(transport), tmp_path) as server:

        async def presented() -> str:
            client = await secure(server, tmp_path, check_hostname=False)
            names = dict(part[0] for part in client.stream.getpeercert()["subject"])
            await trio.aclose_forcefully(client.stream)
            return str(names["commonName"])

        assert await presented() == "old"
        certificate(tmp_path, "a", common_name="new")
        await server.reload()
        assert await presented() == "new"
        good = (tmp_path / "a.key").read_text()
        (tmp_path / "a.key").write_text("nonsense")
        await server.reload()
        assert await presented() == "new"
        (tmp_path / "a.key").write_text(good)


@needs_openssl
@pytest.mark.parametrize(
    ("broken", "words"),
    [("missing", "there is no file"), ("nonsense", "PEM"), ("another key", "don't belong together")],
)
async def test_a_certificate_that_is_no_use_is_one_sentence(transport: str, tmp_path: Path, broken: str, words: str):
    certificate(tmp_path, "a")
    if broken == "missing":
        (tmp_path / "a.pem").unlink()
    elif broken == "nonsense":
        (tmp_path / "a.pem").write_text("nonsense")
    else:
        certificate(tmp_path, "b")
        (tmp_path / "b.key").rename(tmp_path / "a.key")
    with pytest.RaisesGroup(pytest.RaisesExc(OpeningError, match=words)):
        async with running(encrypted(transport), tmp_path):
            pytest.fail("it must not start")


# Beyond this machine.


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
async def test_listening_beyond_this_machine_needs_a_word(transport: str, host: str):
    """Nobody opens a server to a network by accident."""
    with pytest.RaisesGroup(pytest.RaisesExc(OpeningError, match="allow_anonymous = true")):
        async with running(tables(transport, host=host)):
            pytest.fail("it must not start")
    async with running(tables(transport, host=host, allow_anonymous=True)) as server:
        assert server.addresses
    async with running(tables(transport, host=host, trusted_proxies=["127.0.0.1"])) as server:
        assert server.addresses
