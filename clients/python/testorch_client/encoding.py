"""Turns whatever was emitted into JSON that the server takes: no NUL, no lone surrogate, no NaN, never an exception."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from testorch_client.outbox import Emitted
from testorch_client.window import Encoded

# Deeper than any payload of ours, shallower than the 64 levels that the server takes.
MAX_DEPTH = 32
# Integers beyond this lose their value in JavaScript; the server refuses them.
MAX_INTEGER = 2**53 - 1

# Types that are JSON as they stand; nearly all events have one of them.
_PLAIN_TYPES = frozenset({"test/start", "test/end", "test/output", "run/plan", "run/error"})
_NOT_SENDABLE = re.compile("[\x00\ud800-\udfff]")


def visible(text: str) -> str:
    """Write NUL and lone surrogates out (`\\x00`, `\\udc80`), since the server refuses them; the rest as it is."""
    if text.isascii() and "\x00" not in text:
        return text
    return _NOT_SENDABLE.sub(lambda match: ascii(match[0])[1:-1], text)


def text_of(value: object) -> str:
    """`str(value)`, or a word about it where its `__str__` raises."""
    try:
        return visible(str(value))
    except Exception:  # Foreign code: a `__str__` may raise whatever it likes.
        return f"<unprintable {type(value).__name__}>"


def _sendable(value: object, depth: int = 0) -> object:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return visible(str(value))
    if isinstance(value, int):
        return int(value) if abs(value) <= MAX_INTEGER else text_of(value)
    if isinstance(value, float):
        return value if value - value == 0 else str(value)  # infinity and NaN have no JSON
    if depth < MAX_DEPTH:
        if isinstance(value, Mapping):
            return {text_of(key): _sendable(item, depth + 1) for key, item in value.items()}
        if isinstance(value, Sequence | set | frozenset) and not isinstance(value, bytes | bytearray):
            return [_sendable(item, depth + 1) for item in value]
    return text_of(value)


_encode_strictly = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


def encode_payload(payload: object) -> str:
    """The payload as compact JSON that can be written in UTF-8.

    The first try costs little and suffices for nearly all payloads. `\\u0000` in the result is a NUL (or somebody's
    text about one, which the second try leaves as it is).
    """
    try:
        text = _encode_strictly(payload)
        if "\\u0000" not in text and (text.isascii() or _NOT_SENDABLE.search(text) is None):
            return text
    except (TypeError, ValueError, RecursionError):
        pass  # Something that JSON has no word for: the second try writes it out.
    return _encode_strictly(_sendable(payload))


def encode_event(event: Emitted, event_id: str, *, seq: int, run_id: str) -> Encoded:
    """The event in its envelope. Raises whatever a hostile payload raises.

    `run_id` is a JSON string already: it is the same for every event of a run, so it is encoded once.
    """
    payload = encode_payload(event.payload)
    kind = event.type if event.type in _PLAIN_TYPES else encode_payload(text_of(event.type))[1:-1]
    text = (
        f'{{"id":"{event_id}","seq":{seq},"type":"{kind}","timestamp":{event.timestamp},'
        f'"runId":{run_id},"payload":{payload}}}'
    )
    return Encoded(seq, event_id, text, len(text) if text.isascii() else len(text.encode()))


def unsound_event(event_id: str, seq: int) -> Encoded:
    """An event that is nothing but a place in its stream: any server refuses it, and so lets the next one follow."""
    text = f'{{"id":"{event_id}","seq":{seq}}}'
    return Encoded(seq, event_id, text, len(text))


def events_message(batch: Iterable[Encoded]) -> str:
    return '{"type":"events","payload":{"events":[' + ",".join(event.text for event in batch) + "]}}"


HEARTBEAT = '{"type":"heartbeat","payload":{}}'


def request_message(kind: str, payload: Mapping[str, Any], request_id: int) -> str:
    return f'{{"type":"{kind}","payload":{encode_payload(payload)},"id":{request_id}}}'


def decode_message(text: str) -> tuple[str, dict[str, Any], object]:
    """A message's type, payload and `inReplyTo`; what isn't such a message has the type `""`, and is ignored."""
    try:
        message = json.loads(text)
    except (ValueError, RecursionError):
        return "", {}, None
    if not isinstance(message, dict) or not isinstance(message.get("type"), str):
        return "", {}, None
    payload = message.get("payload")
    return message["type"], payload if isinstance(payload, dict) else {}, message.get("inReplyTo")
