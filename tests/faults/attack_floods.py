"""Attacks with too much, or with too little for too long, after the upgrade."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from typing import Any

from faults.attack_answers import answer, is_answered
from faults.attack_kit import Attack, Outcome, Scene, closing, numbered, outcomes, upgraded
from faults.attack_wire import CONTINUATION, PING, PONG, TEXT, drive, frame


def ping_floods(scene: Scene) -> Iterator[Outcome]:
    """Of pings, of pongs, of pings in the middle of a message, and of pings by one that never reads the pongs."""
    count = scene.pick(20_000, 500_000)
    said = {
        "pings": [frame(PING, b"x" * 125) * 100] * (count // 100),
        "pongs": [frame(PONG) * 1000] * (count // 1000),
        "within a message": [frame(TEXT, b"[", last=False), *([frame(PING) * 1000] * (count // 1000))],
    }
    with closing(upgraded(scene, said)) as peers, closing(upgraded(scene, ["deaf"], buffer_bytes=4096)) as deaf:
        for peer in peers:
            peer.send(said[peer.label])
        deaf[0].reads = False
        deaf[0].send(itertools.repeat(frame(PING, b"x" * 125) * 100))
        drive([*peers, *deaf], scene.close_seconds + scene.pick(0, 30))
        yield from outcomes(peers, "close 4429")
        yield from outcomes(deaf, "http 101, cut")


def slow_messages(scene: Scene) -> Iterator[Outcome]:
    """Messages that are begun and never ended: in fragments, or in the middle of a frame."""
    limit = float(scene.options["message_seconds"])
    said = {
        "fragments": [frame(TEXT, b"[", last=False), *([frame(CONTINUATION, b" ", last=False)] * 1000)],
        "a frame": [frame(TEXT, claimed=1000), *([b"x"] * 900)],
    }
    peers = upgraded(scene, [label for label in said for _ in range(scene.pick(3, 50))], every_seconds=limit / 10)
    with closing(peers):
        for peer in peers:
            peer.send(said[peer.label])
        drive(peers, limit + scene.close_seconds)
        yield from outcomes(peers, "close 4408")


def many_unfinished_messages(scene: Scene) -> Iterator[Outcome]:
    """Together more than may be unfinished: the last ones are told to come again, and the server keeps no more than that."""
    part = scene.options["max_message_bytes"] // 16
    count = scene.options["max_partial_bytes"] // (7 * part) + 3
    chunks = [frame(TEXT, claimed=8 * part), *([b"x" * part] * 7)]
    with closing(upgraded(scene, numbered("unfinished", count))) as peers:
        for peer in peers:
            peer.send(chunks)
        drive(peers, scene.pick(1.5, 20.0), is_answered)
        told = [answer(peer) for peer in peers]
        yield from (
            Outcome("unfinished", one, ("http 101", "http 101, open", "close 1013", "close 4408")) for one in told
        )
        refused = sum(one == "close 1013" for one in told)
        yield Outcome("some are refused", str(refused > 0), ("True",))


def too_many_of_one_address(scene: Scene) -> Iterator[Outcome]:
    """Each of those over the cap is refused, and the others stay."""
    cap, more = scene.options["max_connections_per_address"], 10
    with closing(upgraded(scene, numbered("one address", cap + more), source="127.0.0.3")) as peers:
        told = [answer(peer) for peer in peers]
        yield from outcomes(peers, "http 101", "http 429")
        yield Outcome("let in", str(told.count("http 101")), (str(cap),))


def clients_that_never_read(scene: Scene) -> Iterator[Outcome]:
    """They ask for much, over and over, and are cut when nothing more goes out to them."""
    asking = frame(TEXT, json.dumps({"type": "getRunStatus", "payload": {"runId": "large"}}).encode()) * 10
    count = scene.pick(3, 20)
    with closing(upgraded(scene, numbered("never reads", count), buffer_bytes=4096)) as peers:
        for peer in peers:
            peer.reads = False
            peer.send([frame(TEXT, json.dumps(_large_run()).encode()), *([asking] * 2000)])
        drive(peers, float(scene.options["send_seconds"]) + scene.close_seconds)
        yield from outcomes(peers, "http 101, cut")


def clients_that_answer_no_ping(scene: Scene) -> Iterator[Outcome]:
    """They say nothing at all once they are in."""
    limit = float(scene.options["ping_seconds"]) * (scene.options["missed_pings"] + 1)
    with closing(upgraded(scene, numbered("mute", scene.pick(5, 50)))) as peers:
        drive(peers, limit + scene.close_seconds)
        yield from outcomes(peers, "http 101, cut")


def _large_run() -> Any:
    """One message that opens a run whose status is long."""
    events = [
        {"id": f"e{number}", "type": "test/start", "timestamp": 1, "runId": "large",
         "payload": {"testId": f"{number}".ljust(400, "x")}}
        for number in range(100)
    ]  # fmt: skip
    return {"type": "events", "payload": {"events": events}}


ATTACKS = (
    Attack(ping_floods),
    Attack(slow_messages),
    Attack(many_unfinished_messages, peak_bytes=400_000_000),
    # Some 30 KB a connection, which Python's allocator gives back in part only and uses again for the next ones.
    Attack(too_many_of_one_address, newcomer_seconds=5.0, kept_bytes=80_000_000),
    Attack(clients_that_never_read),
    Attack(clients_that_answer_no_ping),
)
