"""The herd of the storm, before a server that behaves as a test wants it to; and both loads at their smallest."""

import json
import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from benchmarks import active, cli, herd, storm, vanish
from benchmarks.client import RECEIVE_BYTES
from benchmarks.failures import FailedRunError
from benchmarks.frames import masked
from benchmarks.herd import Herd
from benchmarks.report import OURS
from benchmarks.visits import Member

UPGRADED = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
BUSY = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"


class Heard:
    """What a server has heard: each connection's number and its `hello`."""

    def __init__(self) -> None:
        self.connections = 0
        self.hellos: list[dict] = []
        self.lock = threading.Lock()


@contextmanager
def serving(heard: Heard, turned_away: Callable[[int], bytes] = lambda number: b"", **welcome) -> Iterator[tuple]:
    """A server that upgrades and welcomes, but for the connections to which it has something else to say."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with heard.lock:
                heard.connections += 1
                words = turned_away(heard.connections)
            self.request.recv(RECEIVE_BYTES)
            self.request.sendall(words or UPGRADED)
            if words:
                return
            frame = self.request.recv(RECEIVE_BYTES)
            head = 2 if frame[1] & 0x7F < 126 else 4
            hello = json.loads(masked(frame[head + 4 :]))["payload"]
            with heard.lock:
                heard.hellos.append(hello)
            payload = {"streamId": hello["streamId"], "ackedSeq": 0, "runId": None, **welcome}
            answer = json.dumps({"type": "welcome", "payload": payload}).encode()
            self.request.sendall(bytes([0x81, 126]) + len(answer).to_bytes(2, "big") + answer)
            try:
                self.request.recv(RECEIVE_BYTES)  # until it is cut
            except ConnectionResetError:
                return

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True

    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server.server_address
        finally:
            server.shutdown()
            thread.join()


def members(count: int = 6) -> list[Member]:
    return [Member(number, None) for number in range(count)]


def test_a_herd_that_was_cut_comes_back_and_resumes_every_stream():
    heard = Heard()
    with serving(heard) as address:
        flock = Herd(address, members())
        flock.bring(at_once=2)
        flock.cut()
        flock.bring()
        flock.cut()
    assert [member.tries for member in flock.members] == [1] * 6
    first, again = heard.hellos[:6], heard.hellos[6:]
    assert {hello["streamId"] for hello in first} == {hello["streamId"] for hello in again}
    assert {hello.get("resume") for hello in first} == {None}
    assert {hello.get("resume") for hello in again} == {True}


def test_who_is_turned_away_tries_again_and_is_counted(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(herd, "RETRY_SECONDS", 0.01)
    with serving(Heard(), lambda number: BUSY if number in (7, 8, 9) else b"") as address:
        flock = Herd(address, members())
        flock.bring()
        flock.cut()
        flock.bring()
        flock.cut()
    assert sum(member.tries for member in flock.members) == 6 + 3


def test_a_herd_that_does_not_all_come_back_fails(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(herd, "RETRY_SECONDS", 0.01)
    monkeypatch.setattr(herd, "MOST_TRIES", 3)
    with serving(Heard(), lambda number: BUSY if number > 11 else b"") as address:
        flock = Herd(address, members())
        flock.bring()
        flock.cut()
        with pytest.raises(FailedRunError, match=r"turned away 3 times, the last time: no upgrade: .*503"):
            flock.bring()
        flock.cut()


def test_a_server_that_forgot_what_it_had_acknowledged_fails_the_herd():
    member = Member(0, "run-1")
    welcome = {"type": "welcome", "payload": {"streamId": member.stream_id, "ackedSeq": 0, "runId": None}}
    member.tries = 1
    member.check([welcome, {"type": "runStatus", "payload": {}}, {"type": "ack", "payload": {"seq": 1}}])
    with pytest.raises(
        FailedRunError, match=r"welcome of herd-0-\w+ at try 1: \{'ackedSeq': 0, .* expected \{'ackedSeq': 1,"
    ):
        member.check([welcome])


def test_a_connection_that_the_server_ends_while_it_is_held_fails_the_herd():
    with serving(Heard()) as address:
        flock = Herd(address, members(1))
        flock.bring()
        [visit] = flock.visits
        visit.shut()
        with pytest.raises(FailedRunError, match="lost the connection that it held"):
            flock.hold(lambda: False)


def run_smallest(name: str, folder: Path) -> list[dict]:
    path = folder / "benchmarks.json"
    chosen = ["--quick", "--no-node", "--only", name, "--clients", "10", "--folder", str(folder), "--json", str(path)]
    cli.main(chosen)
    return json.loads(path.read_text())["rows"]


@pytest.fixture
def briefly(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Nothing is measured here: as short as it can be."""
    for module in (storm, vanish):
        monkeypatch.setattr(module, "BEFORE_SECONDS", 0.3)
        monkeypatch.setattr(module, "SETTLE_SECONDS", 0.0)
        monkeypatch.setattr(module, "QUICK_SECONDS", 3.0)
    monkeypatch.setattr(active, "WARM_UP_SECONDS", 0.1)
    monkeypatch.setattr(active, "RATE", 100.0)
    monkeypatch.setattr(vanish, "PINGS", {"ping_seconds": 0.5, "missed_pings": 2})
    return monkeypatch


@pytest.mark.slow(reason="starts servers")
@pytest.mark.usefixtures("briefly")
def test_the_smallest_storm_brings_everybody_back(tmp_path: Path):
    plain, in_runs = run_smallest("storm", tmp_path)
    assert (plain["case"], plain["server"]) == ("10 streams without a run", OURS)
    assert in_runs["case"] == "10 streams of 1 runs, an event each"
    wanted = {"s until all are back", "tried again", "p99 before ms", "server's CPU µs each", "MB before", "MB after"}
    assert wanted <= set(plain["measures"]) & set(in_runs["measures"])


@pytest.mark.slow(reason="starts a server")
@pytest.mark.usefixtures("briefly")
def test_the_smallest_herd_that_vanishes_is_let_go(tmp_path: Path):
    [row] = run_smallest("vanish", tmp_path)
    assert row["case"] in {"10 connections, the link is down", "10 connections, stopped by SIGSTOP"}
    assert {"s until all are let go", "p99 before ms", "MB before", "MB after"} <= set(row["measures"])


@pytest.mark.slow(reason="starts a server")
def test_a_server_that_keeps_who_has_vanished_fails_the_suite(tmp_path: Path, briefly: pytest.MonkeyPatch):
    """The check bites, also where clients are stopped: a server that does not ping holds them for ever."""
    briefly.setattr(vanish, "PINGS", {"ping_seconds": 3600.0, "missed_pings": 2})
    briefly.setattr(vanish, "GONE_SECONDS", 1.0)
    briefly.setattr(vanish, "two_machines", no_machines)
    with pytest.raises(SystemExit, match=r"FAILED: vanish: testorch has \d+ sockets open; it should have \d+ by now"):
        run_smallest("vanish", tmp_path)


@contextmanager
def no_machines() -> Iterator[None]:
    """Where namespaces are not allowed."""
    yield None
