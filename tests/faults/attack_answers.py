"""What a server has said on one connection, from its raw bytes, in a word or a few that can be compared.

`http 400`; after an upgrade `close 1002`, `error invalid_json`, `reply activeRuns`, or `http 101` if nothing followed; at
the end `cut` if it hung up without a last word, and `open` if it is still there.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from typing import Any, Protocol

from faults.attack_wire import CLOSE, TEXT

TLS_ALERT = 0x15
_LAST_WORDS = ("http 4", "http 5", "close", "tls", "noise")


class Heard(Protocol):
    """What is known of a connection at its end; a `Peer` has it."""

    @property
    def received(self) -> bytes | bytearray: ...
    @property
    def is_cut(self) -> bool: ...
    @property
    def is_content(self) -> bool: ...


def answer(peer: Heard) -> str:
    """All that came. Who was content when it left did not wait for the end, so that isn't told of."""
    parts = list(_parts(bytes(peer.received)))
    if peer.is_cut:
        parts += [] if parts and parts[-1].startswith(_LAST_WORDS) else ["cut"]
    elif not peer.is_content:
        parts.append("open")
    return ", ".join(parts)


def is_answered(peer: Heard) -> bool:
    """Whether it has a whole HTTP response, or a Close after an upgrade."""
    received = bytes(peer.received)
    if status_of(received) == 101:
        return any(opcode == CLOSE for opcode, _ in frames(_body(received)))
    return status_of(received) is not None and not _is_truncated(received)


def is_upgraded(peer: Heard) -> bool:
    return status_of(bytes(peer.received)) is not None


def status_of(received: bytes) -> int | None:
    """The response's status, once its head is whole."""
    if not received.startswith(b"HTTP/1.1 ") or b"\r\n\r\n" not in received:
        return None
    return int(received[9:12])


def frames(rest: bytes) -> Iterator[tuple[int, bytes]]:
    """The whole frames at the beginning of what a server sent, as opcode and payload; it never masks."""
    at = 0
    while at + 2 <= len(rest):
        opcode, size = rest[at] & 0x0F, rest[at + 1]
        head, form = {126: (4, "!H"), 127: (10, "!Q")}.get(size, (2, ""))
        if at + head > len(rest):
            return
        if form:
            (size,) = struct.unpack_from(form, rest, at + 2)
        if at + head + size > len(rest):
            return
        yield opcode, rest[at + head : at + head + size]
        at += head + size


def messages(peer: Heard) -> list[Any]:
    """The messages that came after the upgrade."""
    return [json.loads(payload) for opcode, payload in frames(_body(bytes(peer.received))) if opcode == TEXT]


def word(message: Any) -> str:
    """`error CODE` or `reply TYPE`."""
    return f"error {message['payload']['code']}" if message["type"] == "error" else f"reply {message['type']}"


def _body(received: bytes) -> bytes:
    return received.partition(b"\r\n\r\n")[2]


def _parts(received: bytes) -> Iterator[str]:
    status = status_of(received)
    if status is None:
        if received:
            yield "tls alert" if received[0] == TLS_ALERT else "noise"
    elif status != 101:
        yield f"http {status}" + (" truncated" if _is_truncated(received) else "")
    else:
        yield from list(_conversation(_body(received))) or ["http 101"]


def _conversation(rest: bytes) -> Iterator[str]:
    for opcode, payload in frames(rest):
        if opcode == TEXT:
            yield word(json.loads(payload))
        elif opcode == CLOSE:
            yield f"close {struct.unpack('!H', payload[:2])[0] if payload else 1005}"
            return


def _is_truncated(received: bytes) -> bool:
    head, _, body = received.partition(b"\r\n\r\n")
    sizes = [line.partition(b":")[2] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    return len(body) != int(sizes[0]) if sizes else not body
