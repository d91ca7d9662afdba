"""Attacks on the way in: before a connection is upgraded."""

from __future__ import annotations

import random
import ssl
from collections.abc import Iterator

from faults.attack_answers import is_answered
from faults.attack_kit import PATIENCE_SECONDS, PROMPT_SECONDS, Attack, Outcome, Probe, Scene, closing, outcomes
from faults.attack_wire import Peer, drive, request

HALF_A_REQUEST = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgra"

HOSTS = (
    b"b\xc3\xbccher.example", b"\xff\xfe", "☃.example".encode(), b"xn--\xff",  # not ASCII
    b"xn--a\xcc", b"xn--0000000000000000000000h", b"a" * 64 + b".example", b".example", b"a..b", b"xn--.example",
)  # fmt: skip
"""Hosts that make a decoder for internationalized names raise, or that it must not be given."""


def connect_and_fin(scene: Scene) -> Iterator[Outcome]:
    """Half of them say nothing before it."""
    count = scene.pick(40, 100)
    silent = [Peer(scene.port, label="nothing, FIN", ending="fin") for _ in range(count)]
    started = [Peer(scene.port, (HALF_A_REQUEST,), label="half a request, FIN", ending="fin") for _ in range(count)]
    with closing(silent + started) as peers:
        drive(peers, PROMPT_SECONDS)
        yield from outcomes(silent, "cut")
        yield from outcomes(started, "cut", "http 400")


def connect_and_rst(scene: Scene) -> Iterator[Outcome]:
    """With a request that is cut short, bad, refused or good, and without one."""
    said = (
        b"",
        HALF_A_REQUEST,
        b"nonsense\r\n\r\n",
        request(b"/nowhere"),
        request(more=[(b"Host", b"\xff")]),
        request(),
    )
    for number in range(scene.pick(90, 300)):
        chunks = (said[number % len(said)],) if said[number % len(said)] else ()
        with closing([Peer(scene.port, chunks, label="RST", ending="rst")]) as peers:
            drive(peers, PROMPT_SECONDS)
            yield from outcomes(peers, "cut", "http 101, cut", "http 400", "http 404")


def garbage_on_the_plain_port(scene: Scene) -> Iterator[Outcome]:
    """Of all kinds, and a TLS hello."""
    chance = random.Random(4)
    said = [b"\x80" + chance.randbytes(1000) for _ in range(scene.pick(10, 100))]
    said += [
        b"\r\n\r\n",
        b"hello\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"\0" * 1000,
        b"SSH-2.0-x\r\n\r\n",
    ]
    said += [b"GET / HTTP/1.1\r\nno colon\r\n\r\n", b"GET / HTTP/1.1\r\n: no name\r\n\r\n"]
    probes = [Probe(f"{one[:20]!r}", (one,), ("http 400",)) for one in said]
    probes += [Probe("a TLS hello", (client_hello(),), ("http 400",))] * scene.pick(2, 50)
    yield from tried(scene, probes)


def hosts(scene: Scene) -> Iterator[Outcome]:
    """A non-ASCII or bad-IDNA `Host`."""
    probes = [Probe(f"Host {host[:20]!r}", (request(more=[(b"Host", host)]),), ("http 400",)) for host in HOSTS]
    yield from tried(scene, probes * scene.pick(1, 10))


def header_bytes(scene: Scene) -> Iterator[Outcome]:
    """Bytes from 0x80 on in what an upgrade is decided by, and where they don't matter."""
    decisive = {
        b"Connection": b"Upgrade, \xff", b"Upgrade": b"websocket\x80", b"Sec-WebSocket-Key": b"\xff" * 24,
        b"Sec-WebSocket-Version": b"13\xe9", b"Sec-WebSocket-Protocol": b"testorch.v1.json, \xff\xfe",
        b"Sec-WebSocket-Extensions": b"permessage-deflate; \x80=\xff",
    }  # fmt: skip
    refused = ("http 400", "http 426")
    probes = [Probe(f"{name!r}", (request(more=[(name, value)]),), refused) for name, value in decisive.items()]
    probes.append(Probe("Origin", (request(more=[(b"Origin", b"http://\xff")]),), ("http 400", "http 403")))
    probes.append(Probe("a name", (request(more=[(b"X-\xff", b"1")]),), ("http 400",)))
    yield from tried(scene, probes * scene.pick(1, 10))


def refused_clients_that_stay(scene: Scene) -> Iterator[Outcome]:
    """Each way of being refused, by clients that never hang up; half of them go on talking at once, half after a while."""
    wanted = {
        "http 404": request(b"/nowhere"),
        "http 403": request(more=[(b"Origin", b"https://evil.example")]),
        "http 426": request(without=[b"Upgrade", b"Connection"]),
        "http 431": request(more=[(b"X-Long", b"x" * 17_000)]),
        "http 400": request(b"/?token=secret"),
    }
    silent_seconds = float(scene.options["close_seconds"]) + 1
    peers = [
        Peer(scene.port, [said, *([b"x"] * 100)], label=f"for {status}", every_seconds=pause, stays=True)
        for status, said in wanted.items()
        for pause in [0.1, silent_seconds] * scene.pick(2, 20)
    ]
    with closing(peers):
        drive(peers, 2 * silent_seconds + PATIENCE_SECONDS)
        for peer in peers:
            yield from outcomes([peer], peer.label.removeprefix("for "))


def header_dribbled(scene: Scene) -> Iterator[Outcome]:
    """A byte a second, or ten in the quick version, by clients that all do nothing else."""
    said = [bytes([byte]) for byte in request(more=[(b"X-Long", b"x" * 1000)])]
    peers = [
        Peer(scene.port, said, label="dribbled", every_seconds=scene.pick(0.1, 1.0), stays=True)
        for _ in range(scene.pick(80, 500))
    ]
    with closing(peers):
        drive(peers, scene.handshake_seconds)
        yield from outcomes(peers, "http 408")


def all_places_taken(scene: Scene) -> Iterator[Outcome]:
    """More clients than may be on their way in, who say nothing, or too little."""
    count = scene.options["max_handshakes"] * 11 // 10
    peers = [Peer(scene.port, [b"G"] * (number % 2), label="silent") for number in range(count)]
    with closing(peers):
        drive(peers, 2 * scene.handshake_seconds)
        yield from outcomes(peers, "http 408")


def half_a_client_hello(scene: Scene) -> Iterator[Outcome]:
    """And silence; and nothing at all; on a port that speaks TLS."""
    said = [client_hello()[:100], b""] * scene.pick(3, 50)
    peers = [Peer(scene.port, [one] if one else [], label=f"{len(one)} bytes") for one in said]
    with closing(peers):
        drive(peers, scene.handshake_seconds)
        yield from outcomes(peers, "cut")


def garbage_on_the_tls_port(scene: Scene) -> Iterator[Outcome]:
    """Plain HTTP, too; and FIN and RST in the middle of the handshake."""
    chance = random.Random(5)
    said = [chance.randbytes(1000), request(), b"\x16\x03\x01\xff\xff" + chance.randbytes(1000), client_hello()]
    peers = [
        Peer(scene.port, (one,), label=f"{one[:10]!r} {ending}", ending=ending)
        for one in said * scene.pick(1, 20)
        for ending in ("fin", "rst")
    ]
    with closing(peers):
        drive(peers, scene.handshake_seconds)
        yield from outcomes(peers, "cut", "tls alert", "noise")  # noise is a ServerHello


def client_hello() -> bytes:
    """The first thing that a TLS client says."""
    outgoing = ssl.MemoryBIO()
    speaker = ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost")
    try:
        speaker.do_handshake()
    except ssl.SSLWantReadError:
        return outgoing.read()
    raise AssertionError("a handshake with nobody has succeeded")


def tried(scene: Scene, probes: list[Probe]) -> Iterator[Outcome]:
    """Each probe on a connection of its own, all at once, until each is answered."""
    peers = [Peer(scene.port, probe.chunks, label=probe.label) for probe in probes]
    with closing(peers):
        drive(peers, scene.close_seconds, is_answered)
        for peer, probe in zip(peers, probes, strict=True):
            yield from outcomes([peer], *probe.allowed)


ATTACKS = (
    Attack(connect_and_fin),
    Attack(connect_and_rst),
    Attack(garbage_on_the_plain_port),
    Attack(hosts),
    Attack(header_bytes),
    Attack(refused_clients_that_stay),
    Attack(header_dribbled),
    Attack(all_places_taken, newcomer_seconds=5.0),
    Attack(half_a_client_hello, tls=True),
    Attack(garbage_on_the_tls_port, tls=True),
)
