"""Attacks with frames, after the upgrade."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from typing import Any

from faults.attack_answers import messages
from faults.attack_kit import Attack, Outcome, Scene, closing, numbered, outcomes, upgraded
from faults.attack_wire import BINARY, CLOSE, CONTINUATION, PING, TEXT, drive, frame

ASKED = json.dumps({"type": "getActiveRuns", "id": "asked"}).encode()

BROKEN = {
    "unmasked": (frame(TEXT, ASKED, masked=False), "close 1002"),
    "unmasked ping": (frame(PING, masked=False), "close 1002"),
    "reserved bit 1": (frame(TEXT, ASKED, reserved=4), "close 1002"),
    "reserved bit 2": (frame(TEXT, ASKED, reserved=2), "close 1002"),
    "reserved bit 3": (frame(PING, reserved=1), "close 1002"),
    "reserved opcode 3": (frame(3, ASKED), "close 1002"),
    "reserved opcode 11": (frame(11), "close 1002"),
    "continuation of nothing": (frame(CONTINUATION, ASKED), "close 1002"),
    "text within a text": (frame(TEXT, b"[", last=False) + frame(TEXT, b"]"), "close 1002"),
    "long ping": (frame(PING, b"x" * 126), "close 1002"),
    "fragmented ping": (frame(PING, last=False), "close 1002"),
    "long close": (frame(CLOSE, b"\x03\xe8" + b"x" * 124), "close 1002"),
    "close of one byte": (frame(CLOSE, b"\x03"), "close 1002"),
    "close with 1005": (frame(CLOSE, b"\x03\xed"), "close 1002"),
    "close with 999": (frame(CLOSE, b"\x03\xe7"), "close 1002"),
    "binary": (frame(BINARY, ASKED), "close 1003"),
    "not UTF-8": (frame(TEXT, b'["\xff"]'), "close 1007"),
    "a surrogate in UTF-8": (frame(TEXT, b'["\xed\xa0\x80"]'), "close 1007"),
    "half a character": (frame(TEXT, b'["\xe2\x82'), "close 1007"),
    "of 2^63 bytes": (b"\x81\xff" + b"\xff" * 8 + bytes(4), "close 1002, close 1009"),
    "of 2^40 bytes": (frame(TEXT, claimed=1 << 40), "close 1009"),
}
"""What is sent, and the close codes of which one must come."""


def broken_frames(scene: Scene) -> Iterator[Outcome]:
    """Unmasked, reserved, wrong: each is told so, and is gone soon, though it stays and goes on after the Close."""
    times = scene.pick(1, 20)
    peers = upgraded(scene, [label for label in BROKEN for _ in range(times)], every_seconds=0.1, stays=True)
    after_it = frame(PING, b"still there?") + frame(TEXT, claimed=1 << 30)
    with closing(peers):
        for peer in peers:
            peer.send([BROKEN[peer.label][0], *([after_it] * 1000)])
        drive(peers, scene.close_seconds)
        for peer in peers:
            yield from outcomes([peer], *BROKEN[peer.label][1].split(", "))


def bad_close_reason(scene: Scene) -> Iterator[Outcome]:
    """A Close whose reason is not UTF-8 is wrong in one of two ways."""
    with closing(upgraded(scene, ["reason"])) as peers:
        peers[0].send([frame(CLOSE, b"\x03\xe8\xff")])
        drive(peers, scene.close_seconds)
        yield from outcomes(peers, "close 1002", "close 1007")


def oversized_messages(scene: Scene) -> Iterator[Outcome]:
    """One byte too much, announced, sent, or in fragments; whoever reads hears why."""
    limit = scene.options["max_message_bytes"]
    much = b"x" * (1 << 20)
    too_much = itertools.repeat(frame(CONTINUATION, much, last=False), limit // len(much) + 1)
    said: dict[str, Any] = {
        "announced": [frame(TEXT, claimed=limit + 1)],
        "sent": [frame(TEXT, b"x" * (limit + 1))],
        "in fragments": [frame(TEXT, last=False), *too_much],
        "four times as much": [frame(TEXT, claimed=4 * limit), *([much] * (4 * limit // len(much)))],
    }
    peers = upgraded(scene, [label for label in said for _ in range(scene.pick(2, 10))])
    with closing(peers):
        for peer in peers:
            peer.send(said[peer.label])
        drive(peers, scene.close_seconds + scene.pick(0, 10))
        yield from outcomes(peers, "close 1009")


def empty_fragments(scene: Scene) -> Iterator[Outcome]:
    """Five million of them, of a message that never ends."""
    count = scene.pick(200_000, 5_000_000)
    block = frame(CONTINUATION, last=False) * 10_000
    with closing(upgraded(scene, numbered("empty fragments", 1))) as peers:
        peers[0].send([frame(TEXT, last=False), *([block] * (count // 10_000))])
        drive(peers, scene.close_seconds + scene.pick(0, 60))
        yield from outcomes(peers, "close 1009")


def one_byte_fragments(scene: Scene) -> Iterator[Outcome]:
    """A megabyte of them; and a sound message of as many as are allowed, between pings, is answered."""
    block = frame(CONTINUATION, b"x", last=False) * 1024
    sound = ASKED.ljust(scene.options["max_fragments"] - 1)
    frames = [frame(TEXT, last=False), *(frame(CONTINUATION, bytes([byte]), last=False) for byte in sound[:-1])]
    frames.insert(100, frame(PING, b"1"))
    with closing(upgraded(scene, ["a megabyte", "sound"])) as (endless, fine):
        endless.send([frame(TEXT, b"x", last=False), *([block] * 1024)])
        fine.send([b"".join(frames), frame(CONTINUATION, sound[-1:])])
        drive([endless, fine], scene.close_seconds, lambda peer: peer is fine and bool(messages(peer)))
        yield from outcomes([endless], "close 1009")
        yield from outcomes([fine], "reply activeRuns")


ATTACKS = (
    Attack(broken_frames),
    Attack(bad_close_reason),
    Attack(oversized_messages, peak_bytes=150_000_000),
    Attack(empty_fragments),
    Attack(one_byte_fragments),
)
