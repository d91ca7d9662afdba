"""Who may come in: what is read from a request, and how it is judged."""

from pathlib import Path
from typing import Any

import h11
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from transports.wire import upgrade
from trio.testing import memory_stream_pair

from testorch_core.options import OptionsError
from testorch_plugins.transports.listening.options import ListeningOptions
from testorch_plugins.transports.listening.requests import (
    RejectedError,
    UpgradeRequest,
    client_address,
    judged,
    read_request,
    response,
)


def options(**given: Any) -> ListeningOptions:
    return ListeningOptions.load(given, folder=Path())


def judge(raw: bytes, **given: Any) -> UpgradeRequest:
    return judged(raw, options(**given), port=8765)


def status_of(raw: bytes, **given: Any) -> int:
    with pytest.raises(RejectedError) as rejected:
        judge(raw, **given)
    assert len(rejected.value.words) < 300
    return rejected.value.status


def test_a_sound_request_is_taken_and_written_anew():
    request = judge(
        upgrade(Authorization="Bearer abc", Sec_WebSocket_Protocol="other, testorch.v1.json", Cookie="\xe9")
    )
    assert request.headers["authorization"] == "Bearer abc"
    assert request.subprotocol == "testorch.v1.json"
    written = request.as_written()
    assert written.isascii()
    assert b"abc" not in written
    assert judge(written).subprotocol == "testorch.v1.json"


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (upgrade(Host="\xff\xfe"), 400),
        (upgrade(Host="xn--\xc3\xa9"), 400),
        (upgrade(Host="a..b"), 400),
        (upgrade(Host="x" * 64 + ".example"), 400),
        (upgrade(Host="a b"), 400),
        (upgrade(Host=None), 400),
        (upgrade(Connection="Upgr\xe9de"), 400),
        (upgrade(Sec_WebSocket_Protocol="\x80"), 400),
        (upgrade(Sec_WebSocket_Extensions="\x80"), 400),
        (upgrade(Upgrade=None), 426),
        (upgrade(Connection="keep-alive"), 426),
        (upgrade(Sec_WebSocket_Version="8"), 426),
        (upgrade(Sec_WebSocket_Key=None), 400),
        (upgrade(Sec_WebSocket_Key="short"), 400),
        (upgrade(Sec_WebSocket_Key="dGhlIHNhbXBsZSBub25jZQ==, x"), 400),
        (upgrade("/other"), 404),
        (upgrade("/?token=secret"), 400),
        (upgrade("/?a=b&Access_Token="), 400),
        (upgrade("/?a=%74oken&%74oken=1"), 400),
        (upgrade(Origin="https://evil.example"), 403),
        (upgrade(Origin="null"), 403),
        (upgrade(Origin=""), 403),
        (upgrade(Origin="http://localhost:8766"), 403),
        (upgrade(Origin="http://localhost:8765.evil.example"), 403),
        (upgrade(Origin="https://localhost:8765"), 403),
        (b"GET / HTTP/1.1\r\nno colon\r\n\r\n", 400),
        (b"GET  / HTTP/9.9\r\n\r\n", 400),
        (b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (upgrade(X="a\x00b"), 400),
    ],
)
def test_what_may_not_come_in(raw: bytes, status: int):
    assert status_of(raw) == status


@pytest.mark.parametrize("origin", ["http://localhost:8765", "http://127.0.0.1:8765", "http://[::1]:8765"])
def test_the_server_s_own_pages_on_this_machine_may_connect(origin: str):
    assert judge(upgrade(Origin=origin))


def test_origins_that_are_named_may_connect_and_no_others():
    named = {"allowed_origins": ["https://ci.example.com"]}
    assert judge(upgrade(Origin="https://ci.example.com"), **named)
    for near in (
        "https://ci.example.com:444",
        "http://ci.example.com",
        "https://CI.example.com",
        "https://a.ci.example.com",
    ):
        assert status_of(upgrade(Origin=near), **named) == 403


@pytest.mark.parametrize("origin", ["null", "*", "https://*.example.com", "example.com", "https://a/b"])
def test_an_origin_that_could_never_match_is_a_problem_of_the_configuration(origin: str):
    with pytest.raises(OptionsError):
        options(allowed_origins=[origin])


def test_another_path_can_be_served():
    assert judge(upgrade("/ws?x=1"), path="/ws").path == "/ws"
    assert status_of(upgrade("/"), path="/ws") == 404


PROXIES = {"trusted_proxies": ["10.0.0.0/8", "::1/128"]}


@pytest.mark.parametrize(
    ("peer", "header", "client"),
    [
        ("192.0.2.1", "203.0.113.9", "192.0.2.1"),
        ("10.0.0.1", "203.0.113.9", "203.0.113.9"),
        ("10.0.0.1", "198.51.100.7, 203.0.113.9", "203.0.113.9"),
        ("10.0.0.1", "203.0.113.9, 10.1.2.3", "203.0.113.9"),
        ("::ffff:10.0.0.1", "203.0.113.9", "203.0.113.9"),
        ("::1", "[2001:db8::5]:443", "2001:db8::5"),
        ("10.0.0.1", "203.0.113.9:5555", "203.0.113.9"),
        ("10.0.0.1", "unknown", "10.0.0.1"),
        ("10.0.0.1", "203.0.113.9, <script>", "10.0.0.1"),
        ("10.0.0.1", "", "10.0.0.1"),
        ("10.0.0.1", "10.9.9.9", "10.9.9.9"),
    ],
)
def test_the_client_s_own_address_comes_from_trusted_proxies_alone(peer: str, header: str, client: str):
    assert client_address(peer, {"x-forwarded-for": header}, options(**PROXIES)) == client


async def read(data: bytes, *pieces: bytes) -> tuple[bytes, bytes]:
    ours, theirs = memory_stream_pair()
    for piece in (data, *pieces):
        await theirs.send_all(piece)
    with trio.fail_after(1):
        return await read_request(ours)


async def test_a_request_ends_with_its_empty_line():
    assert await read(upgrade() + b"rest") == (upgrade(), b"rest")
    assert await read(*(bytes([one]) for one in upgrade())) == (upgrade(), b"")


@pytest.mark.parametrize(
    ("data", "status"),
    [(b"\x16\x03\x01", 400), (b"nonsense", 400), (b"get / HTTP/1.1\r\n", 400), (b"POST / HTTP/1.1\r\n", 405), (b"\x00", 400),
     (b"GET /" + b"x" * 17_000, 431), (b"GET /" + b"x" * 17_000 + b"\r\n\r\n", 431)],
)  # fmt: skip
async def test_what_can_not_become_a_request_is_not_waited_for(data: bytes, status: int):
    with pytest.raises(RejectedError) as rejected:
        await read(data)
    assert rejected.value.status == status


def test_a_tls_client_on_a_plain_port_is_told_so():
    with pytest.raises(RejectedError, match="TLS"):
        trio.run(read, b"\x16\x03\x01\x02\x00")


@pytest.mark.parametrize("status", [400, 403, 404, 405, 408, 426, 429, 431, 503])
def test_who_is_turned_away_gets_a_sound_response(status: int):
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method="GET", target="/", headers=[("Host", "a")]))
    client.send(h11.EndOfMessage())
    client.receive_data(response(status, "because of é"))
    head, body = client.next_event(), client.next_event()
    assert isinstance(head, h11.Response)
    assert head.status_code == status
    assert isinstance(body, h11.Data)
    assert bytes(body.data) == "because of é\n".encode()
    assert isinstance(client.next_event(), h11.EndOfMessage)


@given(st.binary(max_size=200), st.binary(max_size=60), st.binary(max_size=60))
def test_nothing_but_a_rejection_leaves_the_judgement(target: bytes, name: bytes, value: bytes):
    raw = b"GET /" + target + b" HTTP/1.1\r\nHost: a\r\n" + name + b": " + value + b"\r\n" + upgrade()[16:]
    try:
        assert judge(raw).as_written().isascii()
    except RejectedError as rejected:
        answer = response(rejected.status, rejected.words)
    else:
        answer = response(400, "")
    assert answer.startswith(b"HTTP/1.1 4")
