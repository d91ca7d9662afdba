"""Attacks on the decoder: messages on an open connection, which must stay open."""

from __future__ import annotations

import json
from collections.abc import Iterator

from faults.attack_answers import answer, messages, word
from faults.attack_kit import Attack, Outcome, Scene, closing, upgraded
from faults.attack_wire import TEXT, drive, frame


def _event(payload: str, *, more: str = "") -> str:
    """An event with an id of its own."""
    envelope = (
        f'{{"id": "{len(payload)}-{len(more)}", "type": "test/output", "timestamp": 1, "payload": {payload}{more}}}'
    )
    return f'{{"type": "event", "payload": {envelope}}}'


def _keys(count: int) -> str:
    return ", ".join(f'"unknown{number}": {number}' for number in range(count))


SOUND = ""
"""What is answered to an event with which nothing is wrong."""

MESSAGES = {
    "100,000 brackets": ("[" * 100_000 + "]" * 100_000, "error invalid_json"),
    "100,000 open brackets": ("[" * 100_000, "error invalid_json"),
    "100,000 objects": ('{"a":' * 100_000 + "1" + "}" * 100_000, "error invalid_json"),
    "100 brackets in an event": (_event(f'{{"testId": "t", "text": {"[" * 100}{"]" * 100}}}'), "error invalid_event"),
    "100,000 brackets in an event": (_event("[" * 100_000 + "]" * 100_000), "error invalid_json"),
    "NaN": (_event('{"testId": "t", "text": "x", "a": NaN}'), "error invalid_json"),
    "-Infinity": (_event('{"testId": "t", "text": "x", "a": -Infinity}'), "error invalid_json"),
    "4,301 digits": (_event(f'{{"testId": "t", "text": "x", "a": {"9" * 4301}}}'), "error invalid_json"),
    "1e999": (_event('{"testId": "t", "text": "x", "a": 1e999}'), "error invalid_json"),
    "2^53": (_event(f'{{"testId": "t", "text": "x", "a": {1 << 53}}}'), "error invalid_event"),
    "2^53 in a request": (f'{{"type": "getRuns", "payload": {{"limit": {1 << 53}}}}}', "error invalid_json"),
    "raw NUL": ("\0", "error invalid_json"),
    "raw NUL in a string": (_event('{"testId": "t", "text": "\0"}'), "error invalid_json"),
    "NUL in an event": (_event('{"testId": "t", "text": "\\u0000"}'), "error invalid_event"),
    "NUL in a key": (_event('{"testId": "t", "text": "x", "\\u0000": 1}'), "error invalid_event"),
    "NUL in a request": ('{"type": "getRunStatus", "payload": {"runId": "\\u0000"}}', "error invalid_json"),
    "NUL in a type": ('{"type": "\\u0000"}', "error unknown_type"),
    "lone surrogate": (_event('{"testId": "t", "text": "\\ud800"}'), "error invalid_json"),
    "surrogates in the wrong order": (_event('{"testId": "\\udc00\\ud800", "text": "x"}'), "error invalid_json"),
    "10,000 unknown keys in an event": (_event(f'{{"testId": "t", "text": "x", {_keys(10_000)}}}'), SOUND),
    "10,000 unknown keys in an envelope": (_event('{"testId": "t", "text": "x"}', more=f", {_keys(10_000)}"), SOUND),
    "10,000 unknown keys in a message": (f'{{"type": "getActiveRuns", {_keys(10_000)}}}', "reply activeRuns"),
    "10,000 equal keys": ('{"type": "getActiveRuns"' + ', "a": 1' * 10_000 + "}", "reply activeRuns"),
    "nothing": ("", "error invalid_json"),
    "no object": ("[]", "error invalid_message"),
    "no type": ("{}", "error invalid_message"),
    "a list for a type": ('{"type": []}', "error invalid_message"),
    "an unknown type": (f'{{"type": "{"x" * 100_000}"}}', "error unknown_type"),
    "a number for a payload": ('{"type": "getRuns", "payload": 7}', "error invalid_message"),
    "a list for an event": ('{"type": "event", "payload": []}', "error invalid_event"),
    "an event of nothing": (_event("null"), "error invalid_event"),
    "too large for the server": ('"' + "x" * (4 << 20) + '"', "error too_large"),
}
"""What is sent, and what is said to it."""


def hostile_messages(scene: Scene) -> Iterator[Outcome]:
    """Each is answered as documented, and a request after each shows that the connection is open."""
    chunks = [part for label, (text, _) in MESSAGES.items() for part in (frame(TEXT, text.encode()), _asking(label))]
    last = list(MESSAGES)[-1]
    with closing(upgraded(scene, ["connection"] * scene.pick(1, 10))) as peers:
        for peer in peers:
            peer.send(chunks)
        drive(peers, scene.pick(10.0, 60.0), lambda peer: any(one.get("inReplyTo") == last for one in messages(peer)))
        for peer in peers:
            yield Outcome("the connection", answer(peer).rpartition(", ")[2], ("reply activeRuns",))
            yield from _compared(messages(peer))


def _asking(label: str) -> bytes:
    return frame(TEXT, json.dumps({"type": "getActiveRuns", "id": label}).encode())


def _compared(heard: list) -> Iterator[Outcome]:
    said: list[str] = []
    for message in heard:
        label = message.get("inReplyTo")
        if label not in MESSAGES:
            said.append(word(message))
            continue
        yield Outcome(label, ", ".join(said), (MESSAGES[label][1],))
        said = []


ATTACKS = (Attack(hostile_messages),)
